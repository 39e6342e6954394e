"""What is each rung of the other speedrun's ladder worth at small size?

    python benchmarks/bench_nanogpt.py [--minutes 30]                  # depth 4, width 128, 120 steps; ten minutes on a quiet core
    python benchmarks/bench_nanogpt.py --size larger [--minutes 60]    # depth 6, width 256, 200 steps, two cores
    python benchmarks/bench_nanogpt.py --size smoke                    # a rehearsal of this script, in seconds
    python benchmarks/bench_nanogpt.py --times [--size larger]         # only how long a step takes: all rungs in turns, a minute or two

Trains every rung of nanogpt.LADDER on the documentation of the standard library, tokenised into shards: first with three factors on
all its learning rates, so that no contender loses by a rate that was tuned for another size; then, with its best factor, two more
seeds for the rungs that matter; then a control, AdamW on a later rung's model, and two runs with four times the steps. The rungs take
turns. Every finished run is stored at once in benchmarks/results/nanogpt_cpu.json (nanogpt_cpu_larger.json); started again, the
script goes on with the runs that are missing.
"""
import argparse, contextlib, io, json, os, tempfile, time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from nanochat_course.common import Runtime, machine, write_json
from nanochat_course.corpus import deduplicate, file_documents, python_sources
from nanochat_course.fineweb import read_shard, list_bins, write_shards
from nanochat_course.nanogpt import LADDER, NanoGPTConfig, recipe, resized, train_recipe
from nanochat_course.tokenizer import train_bpe

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = dict(small=dict(depth=4, n_embd=128, sequence_len=128, steps=120),
             larger=dict(depth=6, n_embd=256, sequence_len=128, steps=200),
             smoke=dict(depth=1, n_embd=64, sequence_len=32, steps=4))
THREADS = dict(small=1, larger=2, smoke=1)         # with one, the losses do not depend on how many cores are free
TEXT = dict(small=2.5, larger=4., smoke=0.1)       # million characters
BATCH, VOCAB = 512, 1000                           # tokens of a step; not a multiple of 64, so that one rung can pad it
FACTORS = {False: (3., 1., 10.), True: (1., 3., 0.3)}   # by `Recipe.muon`: AdamW's published rates are made for wider models
MATTER = ("rotary", "muon-tuned", "modern", "untied", "shortcuts", "unet")
LONG = ("rotary", "muon-tuned")                                       # once more, with four times the steps
CONTROL = "modern with AdamW"                                         # the same model and start, only the optimizer differs
ALIKE = ("sharded", "newer-torch", "bfloat16")                        # in one process and float32 they are the rung before
RUNGS = [rung.name for rung in LADDER if rung.name not in ALIKE]


def text(megabytes):
    "Documents of the standard library, the same on every machine with this Python; every other one from the end, so that kinds mix."
    found = list(deduplicate(d for source in python_sources() if "packages" not in source[0] for d in file_documents(source)))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    chars, kept = 0, []
    for i in order:
        kept.append(found[i])
        chars += len(found[i])
        if chars > megabytes * 1e6: break
    return kept


def shards(folder, megabytes):
    "Token files of that text, made once in the folder."
    if not (folder / "shards.json").exists():
        documents = text(megabytes)
        write_shards(documents, train_bpe(documents, VOCAB, num_processes=1), folder, 10**6, min(65536, int(6e4 * megabytes)))
    return folder


def contender(name):
    "The recipe of a rung, or of the control."
    if name != CONTROL: return recipe(name)
    adamw = {k: getattr(recipe("rotary"), k) for k in ("muon", "lr", "weight_decay", "grad_clip")}
    return replace(recipe("modern"), **adamw)


def run(rung, factor, seed, steps, size, folder, rt):
    "One contender, one seed: its losses, seconds per step, and validation loss."
    config = NanoGPTConfig(data=str(folder), seed=seed, total_batch_size=BATCH, val_tokens=32768, eval_every=0, save_every=0)
    r = resized(contender(rung), lr_factor=factor, **size | dict(steps=steps))
    with contextlib.redirect_stdout(io.StringIO()): done = train_recipe(r, config, rt)
    lines = [h for h in done["history"] if "loss" in h]
    losses = [h["loss"] for h in lines]
    seconds = sorted(BATCH / h["tokens_per_second"] for h in lines[1:])
    return dict(rung=rung, factor=factor, seed=seed, steps=steps, val_loss=round(done["metrics"]["val_loss"], 4), loss=round(sum(losses[-10:]) / 10, 4),
                seconds_per_step=round(seconds[len(seconds) // 2], 5), losses=[round(l, 4) for l in losses])


def best_factor(runs, rung, steps):
    "The factor whose run with seed 0 has the lowest validation loss."
    return min((r for r in runs if r["rung"] == rung and r["seed"] == 0 and r["steps"] == steps), key=lambda r: r["val_loss"])["factor"]


def missing(runs, short):
    "The next run to do, or None: all factors with seed 0, then the best one with other seeds, rungs in turn; then two long runs."
    done = {(r["rung"], r["factor"], r["seed"], r["steps"]) for r in runs}
    for i in range(3):
        for rung in RUNGS:
            factor = FACTORS[recipe(rung).muon][i]
            if (rung, factor, 0, short) not in done: return rung, factor, 0, short
    for seed in (1, 2):
        for rung in MATTER:
            factor = best_factor(runs, rung, short)
            if (rung, factor, seed, short) not in done: return rung, factor, seed, short
    for factor in (3., 1., 0.3):
        if (CONTROL, factor, 0, short) not in done: return CONTROL, factor, 0, short
    for rung in LONG:
        if (rung, factor := best_factor(runs, rung, short), 0, 4 * short) not in done: return rung, factor, 0, 4 * short
    return None


def step_times(size, folder, rt, rounds=3, steps=6):
    "Seconds of a step of each rung: the rungs take turns, the best round of each counts, so that other work disturbs all of them alike."
    best = {}
    for _ in range(rounds):
        for rung in RUNGS: best[rung] = min(best.get(rung, 1e9), run(rung, 1., 0, steps, size, folder, rt)["seconds_per_step"])
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--times", action="store_true", help="measure the time of a step, and nothing else")
    parser.add_argument("--minutes", type=float, default=30., help="start no further run after this time")
    parser.add_argument("--out", type=Path, help="where the results go, and are looked for")
    parser.add_argument("--data", type=Path, help="where the token files go")
    args = parser.parse_args()
    name = "nanogpt_cpu" if args.size == "small" else f"nanogpt_cpu_{args.size}"
    out, size = args.out or RESULTS / f"{name}.json", SIZES[args.size]
    folder = args.data or Path(tempfile.gettempdir()) / f"nanochat_course_bench_{name}"
    torch.set_num_threads(THREADS[args.size])
    os.environ.setdefault("NANOCHAT_COURSE_DIR", tempfile.mkdtemp())
    began, rt = time.time(), Runtime(torch.device("cpu"), torch.float32)
    stored = json.loads(out.read_text()) if out.exists() else dict(runs=[], seconds=0.)
    if args.times:
        shards(folder, TEXT[args.size])
        stored["times"] = dict(step_times(size, folder, rt), date=time.strftime("%Y-%m-%d"), load_average=os.getloadavg())
        write_json(out, stored)
        return print("\n".join(f"{rung:12}{1e3 * stored['times'][rung]:8.1f} ms a step" for rung in RUNGS))
    while (todo := missing(stored["runs"], size["steps"])) and time.time() - began < 60 * args.minutes:
        shards(folder, TEXT[args.size])
        start = time.time()
        stored["runs"].append(run(*todo, size, folder, rt))
        stored["seconds"] += time.time() - start
        last = stored["runs"][-1]
        tokens = sum(len(read_shard(p)) for p in list_bins(folder, "train"))
        command = "python benchmarks/bench_nanogpt.py" + (f" --size {args.size}" if args.size != "small" else "")
        stored.update(date=time.strftime("%Y-%m-%d"), command=command, machine=machine(), size=size, batch=BATCH, vocab_size=VOCAB,
                      text_tokens=tokens, recipes={g.name: asdict(resized(recipe(g.name), **size)) for g in LADDER})
        write_json(out, stored)
        print(f"{last['rung']} x {last['factor']:.2g}, seed {last['seed']}: {last['val_loss']:.4f}, "
              f"{1e3 * last['seconds_per_step']:.0f} ms a step", flush=True)
    print("all runs are stored" if todo is None else f"next: {todo}")


if __name__ == "__main__": main()
