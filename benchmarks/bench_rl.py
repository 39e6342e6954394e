"""What RL adds on held-out sums: python benchmarks/bench_rl.py [--seeds 0 1 2]

Needs a finished SFT model of the laptop preset under NANOCHAT_COURSE_DIR (make speedrun leaves one). Runs chat_rl with the
preset's settings once for each seed in a copy of that folder and writes benchmarks/results/rl_sums.json.
"""
import argparse, os, shutil, subprocess, tempfile, time
from pathlib import Path

from nanochat_course.common import base_dir, load_result, machine, read_log, write_json
from nanochat_course.speedrun import PRESETS, command_line

HERE = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
parser.add_argument("--eval-items", type=int, default=250)
args = parser.parse_args()

source, flags, runs = base_dir(), PRESETS["laptop"]["chat_rl"], []
folder = Path(tempfile.mkdtemp())
shutil.copytree(source / "tokenizer", folder / "tokenizer")
shutil.copytree(source / "chatsft_checkpoints", folder / "chatsft_checkpoints")
os.environ["NANOCHAT_COURSE_DIR"] = str(folder)
for seed in args.seeds:
    shutil.rmtree(folder / "chatrl_checkpoints", ignore_errors=True)
    start = time.time()
    subprocess.run(command_line("chat_rl", dict(flags, seed=seed, eval_items=args.eval_items)), check=True)
    result = load_result("chat_rl")
    m = result["metrics"]
    runs.append(dict(seed=seed, before=m["sums pass@1 before"], after=m["sums pass@1"], before8=m["sums pass@8 before"], after8=m["sums pass@8"],
                     seconds=round(time.time() - start, 1), rewards=[round(r["reward"], 4) for r in read_log(result["log"]) if "reward" in r]))
    print({k: v for k, v in runs[-1].items() if k != "rewards"}, flush=True)
shutil.rmtree(folder)
gain = sum(r["after"] - r["before"] for r in runs) / len(runs)
print(f"pass@1 {gain:+.3f}, mean of {len(runs)} seeds")
write_json(HERE / "results" / "rl_sums.json", dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_rl.py", machine=machine(),
           settings=result["config"], mean_gain=gain, runs=runs))
