"""Ten training bugs that everybody writes once: a small model trained with each, its curves stored for the site's bug museum.

    python benchmarks/bug_museum.py      # benchmarks/results/bug_museum.json and tools/site/play/data/bugs.js; two minutes on two cores
"""
import argparse, contextlib, json, math, time
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from nanochat_course import gpt
from nanochat_course.optim import AdamW
from nanochat_course.tokenizer import train_bpe

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "benchmarks" / "results" / "bug_museum.json"
VOCAB, LENGTH, ROWS, STEPS, RATE = 512, 64, 16, 240, 3e-3

BUGS = {   # name: what the reader is told afterwards
    "learning rate too high": "The rate is two hundred times what it was: the loss first jumps far above where it began, then stays on a plateau that is worse than knowing nothing but the frequencies of tokens.",
    "targets not shifted": "The targets are the inputs themselves. Copying is easy, so the loss goes to nothing, and the model has learned to repeat the last token.",
    "gradients never cleared": "`zero_grad` is missing: each step moves by the sum of all gradients so far, in directions that are long out of date.",
    "no causal mask": "Each token sees the tokens after it, its own target among them. Both losses are far too good, and generating shows it: there the future is not there.",
    "one batch for ever": "The loader hands out the same batch. The training loss goes to nothing, the validation loss goes up from early on.",
    "targets of another row": "Inputs were shuffled and targets were not. Nothing in a row predicts another row, so the loss stops at what the frequencies of tokens give.",
    "schedule too short": "The learning rate reaches zero after a quarter of the run: from there on both curves are flat, although the loss was still falling.",
    "another tokenizer": "The validation text was encoded by another tokenizer: most ids mean other words there. Training is healthy; what is measured is not the same language.",
    "padding counted": "Three quarters of each row are padding, and it counts as a target. Predicting it is learned in a few steps: the training loss looks wonderful, text is no better.",
    "everything starts at zero": "With all weights zero no gradient passes through any product, so nothing ever moves: the loss is ln 512 = 6.24 in every step.",
}


def make_data():
    "Python's own help texts as tokens: most for training, the rest for validation."
    from pydoc_data.topics import topics
    text = "\n".join(topics[name] for name in sorted(topics))[:400_000]
    tokenizer, other = train_bpe([text], VOCAB), train_bpe([text[:3000]], VOCAB)
    ids, strange = (torch.tensor(t.encode(text)) for t in (tokenizer, other))
    return tokenizer, ids[:-20_000], ids[-20_000:], strange[-20_000:]


def batch(ids, generator, rows=ROWS):
    at = torch.randint(len(ids) - LENGTH - 1, (rows,), generator=generator)
    x = torch.stack([ids[i:i + LENGTH + 1] for i in at.tolist()])
    return x[:, :-1], x[:, 1:]


def sees_the_future(q, k, v, window=-1, backend="auto"): return F.scaled_dot_product_attention(q, k, v)


def train(bug, train_ids, val_ids, strange, steps=STEPS, most=STEPS):
    "Train with one bug, or with none, and stop after `most` steps; the losses of each step and some of the validation set."
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    model = gpt.GPT(gpt.GPTConfig(sequence_len=LENGTH, vocab_size=VOCAB, n_layer=2, n_head=2, n_kv_head=2, n_embd=64))
    model.init_weights()
    if bug == "everything starts at zero":
        for p in model.parameters(): torch.nn.init.zeros_(p)
    rate = RATE * 200 if bug == "learning rate too high" else RATE
    optimizer = AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.)
    held_out = batch(strange if bug == "another tokenizer" else val_ids, torch.Generator().manual_seed(2), 32)
    end = steps / 4 if bug == "schedule too short" else steps
    losses, validation, same = [], [], batch(train_ids, generator)
    blind = mock.patch.object(gpt, "attention", sees_the_future) if bug == "no causal mask" else contextlib.nullcontext()
    with blind:
        for step in range(min(steps, most)):
            x, y = same if bug == "one batch for ever" else batch(train_ids, generator)
            if bug == "targets not shifted": y = x
            if bug == "targets of another row": y = y.roll(1, 0)
            if bug == "padding counted": x, y = (torch.cat([z[:, :LENGTH // 4], torch.zeros_like(z[:, LENGTH // 4:])], 1) for z in (x, y))
            loss = model(x, y)
            if bug != "gradients never cleared": optimizer.zero_grad(set_to_none=True)
            loss.backward()
            done = max(0., 1 - step / end)
            for group in optimizer.param_groups: group["lr"] = rate * min(1, 2 * done, (step + 1) / 10)
            optimizer.step()
            losses.append(round(loss.item(), 3))
            if step % 10 == 0 or step == steps - 1:
                with torch.no_grad(): validation.append((step, round(model(*held_out).item(), 3)))
    return model, losses, validation


@torch.no_grad()
def say(model, tokenizer, text="The ", length=24):
    "What it writes, always the likeliest token."
    ids = tokenizer.encode(text, prepend="<|bos|>")
    for _ in range(length): ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return tokenizer.decode(ids[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="some bugs, with commas between; the other curves stay as they are stored")
    only = parser.parse_args().only.split(",")
    tokenizer, *ids = make_data()
    old = {r["bug"]: r for r in json.loads(STORED.read_text())["runs"]} if only != [""] else {}
    rows = []
    for bug in ["", *BUGS]:
        if old and bug not in only:
            rows.append(dict(old[bug], cause=BUGS.get(bug, "")))
            continue
        model, losses, validation = train(bug, *ids)
        rows.append(dict(bug=bug, cause=BUGS.get(bug, ""), train=losses, validation=validation, says=say(model, tokenizer)))
        print(f"{bug or 'healthy':28} train {losses[-1]:7.3f}  validation {validation[-1][1]:7.3f}  {rows[-1]['says']!r}", flush=True)
    stored = dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bug_museum.py", vocabulary=VOCAB,
                  steps=STEPS, uniform=round(math.log(VOCAB), 3), runs=rows)
    STORED.write_text(json.dumps(stored, ensure_ascii=False) + "\n")
    data = json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
    (ROOT / "tools" / "site" / "play" / "data" / "bugs.js").write_text(f"play.data.bugs = {data};\n")


if __name__ == "__main__": main()
