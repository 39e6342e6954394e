"""The long race of the optimizer lab: python benchmarks/bench_optimizer_lab.py [--steps 200] [--tries 5] [--seeds 3]

All optimizers on the surfaces, on the ill-conditioned matrix and on a small GPT that reads the documentation of the standard library:
for each a range test, `tries` learning rates with one seed, and `seeds` fresh runs at the best of them; then each one's share of a step
for growing batches. About eight minutes on two idle cores. Writes benchmarks/results/optimizer_lab.json, which the chapter reads.
"""
import argparse, tempfile
from pathlib import Path

from nanochat_course.common import CourseError, write_json
from nanochat_course.labs.optimizer_lab import OptimizerLabConfig, optimizer_lab, plain

HERE = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=200, help="of each run of the GPT")
parser.add_argument("--tries", type=int, default=5, help="learning rates for each optimizer")
parser.add_argument("--seeds", type=int, default=3, help="fresh runs at the best rate")
parser.add_argument("--out", default=str(HERE / "results" / "optimizer_lab.json"))
args = parser.parse_args()

flags = [f"--{k} {getattr(args, k)}" for k in ("steps", "tries", "seeds") if getattr(args, k) != parser.get_default(k)]
with tempfile.TemporaryDirectory() as folder:
    try:
        result = optimizer_lab(OptimizerLabConfig(problem="surface", out=folder)) | optimizer_lab(OptimizerLabConfig(problem="matrix", out=folder))
        result |= optimizer_lab(OptimizerLabConfig(problem="gpt", steps=args.steps, tries=args.tries, seeds=args.seeds, out=folder))
    except CourseError as e: raise SystemExit(f"error: {e}") from None
result["command"] = " ".join(["python benchmarks/bench_optimizer_lab.py", *flags])
write_json(args.out, plain(result))
