"""Time and memory of the whole run on this machine, stage by stage: python benchmarks/bench_speedrun.py [--preset laptop]

Runs the speedrun in an empty folder and writes benchmarks/results/speedrun_<preset>.json and, what the model said, transcript_<preset>.json.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--preset", default="laptop")
parser.add_argument("--keep", default="", help="folder to run in and keep, or to go on in; empty: a temporary one")
args = parser.parse_args()
folder = args.keep or tempfile.mkdtemp()
os.environ["NANOCHAT_COURSE_DIR"] = folder

subprocess.run([sys.executable, "-m", "nanochat_course.speedrun", "--preset", args.preset], check=True)

from nanochat_course.common import load_result, machine, read_json, write_json

ledger, stages = read_json(Path(folder) / "report" / "speedrun.json"), []
for stage, entry in ledger.items():
    results = [r for r in (load_result(stage), *(load_result(f"{stage}_{s}") for s in ("base", "mid", "sft", "rl"))) if r]
    stages.append(dict(stage=stage, seconds=round(entry["seconds"], 1), peak_memory=max((r["peak_memory"] for r in results), default=0)))
metrics = {s: load_result(s).get("metrics", {}) for s in ("tok_train", "base_train", "base_eval", "mid_train", "chat_sft", "chat_rl",
                                                           "chat_eval_base", "chat_eval_mid", "chat_eval_sft", "chat_eval_rl")}
write_json(HERE / "results" / f"speedrun_{args.preset}.json", dict(date=time.strftime("%Y-%m-%d"), command=f"python benchmarks/bench_speedrun.py --preset {args.preset}",
           machine=machine(), seconds=round(sum(s["seconds"] for s in stages), 1), stages=stages, metrics=metrics,
           growth=load_result("base_train").get("tables", {}).get("what it said", {})))
said = load_result("transcript")
if said:
    write_json(HERE / "results" / f"transcript_{args.preset}.json", dict(date=time.strftime("%Y-%m-%d"), model=said["config"]["model_tag"], sources=said["sources"], talks=said["talks"]))
print(json.dumps(stages, indent=1))
if not args.keep: shutil.rmtree(folder)
