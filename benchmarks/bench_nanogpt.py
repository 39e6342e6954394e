"""What is each rung of the other speedrun's ladder worth at small size? python benchmarks/bench_nanogpt.py [--minutes 10]

Trains every rung of nanogpt.LADDER at depth 4 and width 128 on the documentation of the standard library, tokenised into shards:
first with three factors on all its learning rates, so that no contender loses by a rate that was tuned for another size; then, with
its best factor, two more seeds for the rungs that matter, and two runs with four times the steps. The rungs take turns. Every
finished run is stored at once in benchmarks/results/nanogpt_cpu.json; started again, the script goes on with the runs that are
missing. One thread: the losses do not depend on how many cores are free. About eight minutes on a quiet core.
"""
import argparse, contextlib, io, json, os, tempfile, time
from dataclasses import asdict
from pathlib import Path

import torch

from nanochat_course.common import Runtime, machine, write_json
from nanochat_course.corpus import deduplicate, file_documents, python_sources
from nanochat_course.fineweb import read_shard, list_bins, write_shards
from nanochat_course.nanogpt import LADDER, NanoGPTConfig, recipe, resized, train_recipe
from nanochat_course.tokenizer import train_bpe

RESULT = Path(__file__).resolve().parent / "results" / "nanogpt_cpu.json"
SIZE = dict(depth=4, n_embd=128, sequence_len=128, steps=120)
BATCH, VOCAB = 512, 1000                           # tokens of a step; not a multiple of 64, so that one rung can pad it
FACTORS = {False: (3., 1., 10.), True: (1., 3., 0.3)}   # by `Recipe.muon`: AdamW's published rates are made for wider models
MATTER = ("rotary", "muon-tuned", "modern", "untied", "shortcuts", "unet")
LONG = ("rotary", "muon-tuned")                                       # once more, with four times the steps
RUNGS = [rung.name for rung in LADDER if rung.name != "sharded"]    # in one process it is the rung before, bit for bit


def text(megabytes=2.5):
    "Documents of the standard library, the same on every machine with this Python; every other one from the end, so that kinds mix."
    found = list(deduplicate(d for source in python_sources() if "packages" not in source[0] for d in file_documents(source)))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    chars, kept = 0, []
    for i in order:
        kept.append(found[i])
        chars += len(found[i])
        if chars > megabytes * 1e6: break
    return kept


def shards(folder):
    "Token files of that text, made once in the folder."
    if not (folder / "shards.json").exists():
        documents = text()
        write_shards(documents, train_bpe(documents, VOCAB, num_processes=1), folder, 10**6, 65536)
    return folder


def run(rung, factor, seed, steps, folder, rt):
    "One contender, one seed: its losses, seconds per step, and validation loss."
    config = NanoGPTConfig(rung=rung, data=str(folder), seed=seed, total_batch_size=BATCH, val_tokens=32768, eval_every=0, save_every=0)
    r = resized(recipe(rung), lr_factor=factor, **SIZE | dict(steps=steps))
    with contextlib.redirect_stdout(io.StringIO()): done = train_recipe(r, config, rt)
    lines = [h for h in done["history"] if "loss" in h]
    losses = [h["loss"] for h in lines]
    seconds = sorted(BATCH / h["tokens_per_second"] for h in lines[1:])
    return dict(rung=rung, factor=factor, seed=seed, steps=steps, val_loss=round(done["metrics"]["val_loss"], 4), loss=round(sum(losses[-10:]) / 10, 4),
                seconds_per_step=round(seconds[len(seconds) // 2], 5), losses=[round(l, 4) for l in losses])


def best_factor(runs, rung):
    "The factor whose run with seed 0 has the lowest validation loss."
    return min((r for r in runs if r["rung"] == rung and r["seed"] == 0 and r["steps"] == SIZE["steps"]), key=lambda r: r["val_loss"])["factor"]


def missing(runs):
    "The next run to do, or None: all factors with seed 0, then the best one with other seeds, rungs in turn; then two long runs."
    done, short = {(r["rung"], r["factor"], r["seed"], r["steps"]) for r in runs}, SIZE["steps"]
    for i in range(3):
        for rung in RUNGS:
            factor = FACTORS[recipe(rung).muon][i]
            if (rung, factor, 0, short) not in done: return rung, factor, 0, short
    for seed in (1, 2):
        for rung in MATTER:
            factor = best_factor(runs, rung)
            if (rung, factor, seed, short) not in done: return rung, factor, seed, short
    for rung in LONG:
        if (rung, factor := best_factor(runs, rung), 0, 4 * short) not in done: return rung, factor, 0, 4 * short
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30., help="start no further run after this time")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the results go, and are looked for")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "nanochat_course_bench_nanogpt", help="where the token files go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, rt, folder = time.time(), Runtime(torch.device("cpu"), torch.float32), None
    stored = json.loads(args.out.read_text()) if args.out.exists() else dict(runs=[], seconds=0.)
    os.environ.setdefault("NANOCHAT_COURSE_DIR", tempfile.mkdtemp())
    while (todo := missing(stored["runs"])) and time.time() - began < 60 * args.minutes:
        folder, start = folder or shards(args.data), time.time()
        stored["runs"].append(run(*todo, folder, rt))
        stored["seconds"] += time.time() - start
        last = stored["runs"][-1]
        tokens = sum(len(read_shard(p)) for p in list_bins(folder, "train"))
        stored.update(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_nanogpt.py", machine=machine(), size=SIZE, batch=BATCH,
                      vocab_size=VOCAB, text_tokens=tokens, recipes={g.name: asdict(resized(recipe(g.name), **SIZE)) for g in LADDER})
        write_json(args.out, stored)
        print(f"{last['rung']} x {last['factor']:.2g}, seed {last['seed']}: {last['val_loss']:.4f}, {1e3 * last['seconds_per_step']:.0f} ms a step", flush=True)
    print("all runs are stored" if todo is None else f"next: {todo}")


if __name__ == "__main__": main()
