"""Losses of small runs, for the fit of L(N, D) in nbs/29_training_capstones. python benchmarks/bench_scaling_law.py [--minutes 3]

Pretrains models of one to three layers for three lengths each, with the laptop preset's corpus, tokenizer, context and batch, and
writes bits per byte on the whole validation share of the preset to benchmarks/results/scaling_law.json. Runs that are in the file
already are not repeated. Needs the corpus and the tokenizer of the laptop preset (make speedrun makes them).
"""
import argparse, itertools, os, shutil, subprocess, tempfile, time
from pathlib import Path

from nanochat_course.base_train import base_plan
from nanochat_course.common import base_dir, load_result, machine, read_json, write_json
from nanochat_course.speedrun import PRESETS, command_line, stage_config

OUT = Path(__file__).resolve().parent / "results" / "scaling_law.json"
DEPTHS, STEPS = (1, 2, 3), (30, 75, 190)
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--minutes", type=float, default=60., help="start no further run after these")
args = parser.parse_args()

preset = PRESETS["laptop"]["base_train"]
vocab = PRESETS["laptop"]["tok_train"]["vocab_size"]
laptop = base_plan(stage_config("base_train", preset), vocab)
shared = dict(max_seq_len=laptop.sequence_len, total_batch_size=laptop.total_batch_size, device_batch_size=laptop.device_batch_size,
              save_every=0, eval_every=0, eval_tokens=65536)
rows = read_json(OUT)["rows"] if OUT.exists() else []
source, folder, start = base_dir(), Path(tempfile.mkdtemp()), time.time()
shutil.copytree(source / "tokenizer", folder / "tokenizer")
os.symlink(source / "data", folder / "data")
os.environ["NANOCHAT_COURSE_DIR"] = str(folder)
for depth, steps in sorted(itertools.product(DEPTHS, STEPS), key=lambda ds: ds[0]**2 * ds[1]):                # the cheapest first
    if any((r["depth"], r["steps"]) == (depth, steps) for r in rows) or time.time() - start > 60 * args.minutes: continue
    shutil.rmtree(folder / "base_checkpoints", ignore_errors=True)
    flags = dict(shared, depth=depth, model_tag="small", num_iterations=steps)
    subprocess.run(command_line("base_train", flags), check=True, stdout=subprocess.DEVNULL)
    result = load_result("base_train")
    p = base_plan(stage_config("base_train", flags), vocab)
    rows.append(dict(depth=depth, steps=steps, parameters=p.params, tokens=steps * laptop.total_batch_size,
                     val_bpb=result["metrics"]["val_bpb"], seconds=round(result["seconds"], 1)))
    print(rows[-1], flush=True)
    write_json(OUT, dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_scaling_law.py", machine=machine(),
                         rows=rows, laptop=dict(depth=laptop.depth, parameters=laptop.params, tokens=laptop.tokens)))
shutil.rmtree(folder)
