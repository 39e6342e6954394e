"""What the interactive pictures read: weights of the laptop's model for the browser, and numbers that it really gave.

    python tools/site/play_data.py          # tools/site/play/data/*.js, from the newest run in NANOCHAT_COURSE_DIR

The weights (5 MB for the laptop's model) are no part of the repository: tools/site/build.py writes them beside the pages where a run exists.
"""
import argparse, json
from pathlib import Path

import torch

from nanochat_course.checkpoint import checkpoint_dir, latest_step, load_model
from nanochat_course.common import CourseError, runtime
from nanochat_course.engine import Decoder
from nanochat_course.tokenizer import SPLIT_PATTERN

DATA = Path(__file__).resolve().parent / "play" / "data"
STAGES = ("chatrl", "chatsft", "mid")                      # the best model that can chat comes first
PROMPTS = ("Return the", "If the file does not", "The cat sat on the")
SENTENCE = "The cat sat on the mat because the cat was tired."
HEADS = ((2, 0), (1, 2), (0, 2), (2, 2))                   # (layer, head): one looks one token back, one a few, one at itself, one at the start


def quantise(
    weight:torch.Tensor,   # (n, m)
)->tuple:                  # int8 (n, m), and a float32 scale for each row (n,)
    "Each row by its own largest number: weight is about scale x whole number."
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def dequantised(model):
    "Put in place of each matrix what the browser computes with."
    for p in model.parameters():
        if p.ndim == 2:
            whole, scale = quantise(p.detach())
            p.data = whole.float() * scale[:, None]
    return model


def export_model(
    model,           # of the plain architecture
    tokenizer,       # its own
    folder,          # gets weights.bin and model.json
    note:str="",     # where the weights come from, shown on the page
):
    "Write a model as the page reads it: for each matrix the scales of its rows, then its rows as whole numbers."
    if not Decoder.fits(model): raise CourseError("the page computes the plain architecture only, and this model has more parts")
    if tokenizer.pattern != SPLIT_PATTERN: raise CourseError("the page knows the course's own split pattern only, and this tokenizer has another")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, at = [], 0
    with open(folder / "weights.bin", "wb") as f:
        for name, weight in model.state_dict().items():
            whole, scale = quantise(weight.detach().float().cpu())
            data = scale.numpy().astype("<f4").tobytes() + whole.numpy().tobytes()
            data += b"\0" * (-len(data) % 4)
            tensors.append(dict(name=name, shape=list(weight.shape), at=at))
            at += f.write(data)
    c = model.config
    config = {k: getattr(c, k) for k in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "rotary_base", "softcap")}
    description = dict(config=config | dict(windows=list(c.windows)), tensors=tensors, bytes=at, note=note,
                       merges=[list(map(int, pair)) for pair in tokenizer.merges], byte_order=list(tokenizer.byte_order), specials=tokenizer.special_ids)
    (folder / "model.json").write_text(json.dumps(description))


def find_model(rt, tag="laptop"):
    "The chat model of the newest stage that a run has left, its tokenizer and a note; None where there is no run."
    for stage in STAGES:
        folder = checkpoint_dir(stage, tag)
        if latest_step(folder) is not None:
            model, tokenizer, _ = load_model(folder, rt)
            return model, tokenizer, f"{tag}, after {stage}"


def model_for_the_page(
    folder,          # of the site
)->str:              # what was done, in one line
    "Write the weights beside the pages, where a run has left a model."
    try:
        with runtime("cpu", "float32") as rt:
            found = find_model(rt)
            if found is None: return "talk.html: no trained model here (make speedrun PRESET=laptop makes one, in about a quarter of an hour)"
            export_model(*found[:2], Path(folder) / "model", found[2])
    except CourseError as e: return f"talk.html: no model: {e}"
    return f"talk.html: with the model {found[2]}, {(Path(folder) / 'model' / 'weights.bin').stat().st_size / 1e6:.1f} MB"


def save(name, value):
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / f"{name}.js").write_text(f"play.data.{name} = {json.dumps(value, ensure_ascii=False, separators=(',', ':'))};\n")


@torch.no_grad()
def sampling_data(model, tokenizer, shown=60):
    "Logits after three beginnings, and the text of their likeliest tokens."
    prompts, names = [], {}
    for text in PROMPTS:
        ids = torch.tensor([tokenizer.encode(text, prepend="<|bos|>")])
        logits = model(ids)[0, -1].double()
        for i in logits.topk(shown).indices.tolist(): names[i] = tokenizer.decode([i])
        prompts.append(dict(text=text, logits=[round(v, 3) for v in logits.tolist()]))
    return dict(prompts=prompts, tokens=names)


@torch.no_grad()
def attention_data(model, tokenizer):
    "Queries and keys of some heads for one sentence, before positions and norm."
    ids = tokenizer.encode(SENTENCE, prepend="<|bos|>")
    taken, D = {}, model.config.head_dim
    def remember(layer):
        def hook(module, args):
            x = args[0][0]
            taken[layer] = [c(x).view(len(ids), -1, D) for c in (module.c_q, module.c_k)]
        return hook
    hooks = [block.attn.register_forward_pre_hook(remember(i)) for i, block in enumerate(model.transformer.h)]
    model(torch.tensor([ids]))
    for hook in hooks: hook.remove()
    rows = lambda x: [[round(v, 3) for v in row] for row in x.tolist()]
    heads = [dict(layer=l, head=h, q=rows(taken[l][0][:, h]), k=rows(taken[l][1][:, h])) for l, h in HEADS]
    return dict(tokens=[tokenizer.decode([i]) for i in ids], heads=heads)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-tag", default="laptop")
    tag = parser.parse_args().model_tag
    with runtime("cpu", "float32") as rt:
        model, tokenizer, _ = load_model(checkpoint_dir("base", tag), rt)
        save("sampling", sampling_data(model, tokenizer))
        save("attention", attention_data(model, tokenizer))


if __name__ == "__main__": main()
