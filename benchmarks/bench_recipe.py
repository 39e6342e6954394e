"""What is each part of the record's recipe worth at small size? python benchmarks/bench_recipe.py [--steps 200] [--seeds 3]

Trains one small model again and again with one part changed: loss by step and by second, and validation at the end, to
benchmarks/results/recipe_cpu.json, which the chapter on the recipe draws. The text is the documentation of the standard library,
the contenders take turns within each seed. About eight minutes on two cores; --minutes ends it after a whole seed.
"""
import argparse, time
from itertools import islice
from pathlib import Path

import torch

from nanochat_course.base_train import BaseTrainConfig, base_plan, optimizer_settings
from nanochat_course.common import machine, write_json
from nanochat_course.corpus import deduplicate, file_documents, python_sources
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import MuonAdamW, param_groups
from nanochat_course.recipe import GROUPS, RECORD
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import freed_memory_kept, set_schedule

RESULT = Path(__file__).resolve().parent / "results" / "recipe_cpu.json"
LENGTH, VOCAB, BATCH = 256, 1024, 1024
SIZE = dict(depth=4, aspect_ratio=32, max_seq_len=LENGTH, total_batch_size=BATCH, device_batch_size=BATCH // LENGTH, lr_scale=1.)


def text(megabytes=3.):
    "Documents of the standard library, the same on every machine with this Python."
    found = (d for source in python_sources() if "packages" not in source[0] for d in file_documents(source))
    chars, kept = 0, []
    for document in deduplicate(found):
        kept.append(document)
        chars += len(document)
        if chars > megabytes * 1e6: break
    return kept


def token_rows(documents):
    "Training and validation tokens as rows of LENGTH + 1; bytes per validation token."
    tokenizer = train_bpe(documents, VOCAB, num_processes=1)
    held_out = documents[::20]
    train = [d for i, d in enumerate(documents) if i % 20]
    rows = []
    for part in (train, held_out):
        ids = torch.tensor([t for d in part for t in tokenizer.encode(d, prepend=tokenizer.bos)])
        rows.append(ids[:len(ids) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1))
    return *rows, sum(len(d.encode()) for d in held_out) / sum(len(tokenizer.encode(d)) for d in held_out)


def batch(rows, i, seed):
    "The rows of step i: the same for all contenders."
    g = torch.Generator().manual_seed(1000 * seed + i)
    return rows[torch.randint(len(rows), (BATCH // LENGTH,), generator=g)]


@torch.no_grad()
def validate(model, rows):
    "Mean loss in nats per token."
    losses = [model(x[:, :-1], x[:, 1:]).item() for x in islice(rows.split(8), 16)]
    return sum(losses) / len(losses)


def run(change, rows, held_out, steps, seed):
    "One contender, one seed: losses and seconds after each step."
    flags = dict(SIZE, num_iterations=steps, seed=seed, momentum_warmup=steps // 6, **change)
    config = BaseTrainConfig(**flags)
    p = base_plan(config, VOCAB)
    model = GPT(GPTConfig(**p.model_config()), torch.float32)
    torch.manual_seed(seed)                                                         # the same weights, whatever parts there are
    model.init_weights()
    optimizer, schedule = MuonAdamW(param_groups(model, **p.learning_rates(), **optimizer_settings(config))), p.schedule()
    losses, seconds = [], 0.
    for i in range(steps):
        x, start = batch(rows, i, seed), time.perf_counter()
        loss = model(x[:, :-1], x[:, 1:])
        loss.backward()
        if config.grad_clip: torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        set_schedule(optimizer, schedule(i))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if i: seconds += time.perf_counter() - start                                # the first step warms up
        losses.append(loss.item())
    return dict(losses=losses, seconds_per_step=seconds / max(1, steps - 1), val_loss=validate(model, held_out), parameters=p.params["total"])


def contenders():
    "The base recipe, each group of settings alone, and all of them."
    every = {flag: value for flag, value in RECORD.items() if flag not in ("momentum_warmup", "warmup_steps")}   # made for longer runs
    return {"base": {}, **{name: {flag: every[flag] for flag in flags if flag in every} for name, flags in GROUPS.items()}, "everything": every}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--minutes", type=float, default=7.5, help="no new seed after this time if it would not fit")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result goes")
    args = parser.parse_args()
    began, results = time.time(), {}
    rows, held_out, bytes_per_token = token_rows(text())
    with freed_memory_kept(torch.device("cpu")):
        for seed in range(args.seeds):
            start = time.time()
            for name, change in contenders().items():
                results.setdefault(name, []).append(run(change, rows, held_out, args.steps, seed))
                print(f"seed {seed} {name}: {results[name][-1]['val_loss']:.4f}, {1e3 * results[name][-1]['seconds_per_step']:.0f} ms a step", flush=True)
            if time.time() - began + (time.time() - start) > 60 * args.minutes: break
    shown = lambda losses: [round(sum(losses[max(0, i - 9):i + 1]) / len(losses[max(0, i - 9):i + 1]), 4) for i in range(9, len(losses), 10)]
    found = [dict(name=name, change=contenders()[name], parameters=runs[0]["parameters"], val_loss=[round(r["val_loss"], 4) for r in runs],
                  seconds_per_step=[round(r["seconds_per_step"], 5) for r in runs], losses=[shown(r["losses"]) for r in runs])
             for name, runs in results.items()]
    write_json(args.out, dict(date=time.strftime("%Y-%m-%d"), command=f"python benchmarks/bench_recipe.py --steps {args.steps} --seeds {args.seeds}",
                              machine=machine(), size=SIZE, vocab_size=VOCAB, steps=args.steps, seeds=len(results["base"]), every=10,
                              bytes_per_token=round(bytes_per_token, 4), minutes=round((time.time() - began) / 60, 2), rows=found))


if __name__ == "__main__": main()
