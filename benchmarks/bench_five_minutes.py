"""Bits per byte after five minutes of training on two cores: ours, ours with the recipe of the record, and nanochat's own script.

    python benchmarks/bench_five_minutes.py --nanochat FOLDER [--minutes 5] [--rounds 1] [--data FOLDER] [--out FILE]

The same shards, tokenizer, depth, width, context and batch for all (those of the laptop preset); each with its own optimizer, schedule and
loader, in processes of its own. First 25 steps tell how fast a contender is here, hence how many steps fit into the time: its schedule is
stretched over so many. Starting and compiling are not counted (they stand in `wall_seconds`). Then every model is judged on the same batches
of the validation shard, which none has trained on. Needs the corpus and the tokenizer of the laptop preset
(nanochat-speedrun --preset laptop --until tok_train). Each finished run is stored at once in benchmarks/results/five_minutes.json; started
again with the same time, the script goes on with what is missing. About 18 minutes for one round of five.
"""
import argparse, json, os, pickle, re, shutil, statistics, sys, tempfile, time
from pathlib import Path
import torch
from nanochat_course.common import Runtime, base_dir, machine, write_json
from nanochat_course.dataloader import DataLoader
from nanochat_course.recipe import RECORD
from nanochat_course.speedrun import PRESETS, command_line
from nanochat_course.tokenizer import Tokenizer
sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench_model import NANOCHAT, run_program

ROOT = Path(__file__).resolve().parent.parent
LAPTOP = PRESETS["laptop"]["base_train"]
OURS = {"ours": {}, "ours, recipe of the record": RECORD}


def validation_batches(data, rows=8, count=16):
    "(x, y) batches of the validation shard: the judge's text, the same for all."
    cpu = Runtime(torch.device("cpu"), torch.float32)
    loader = iter(DataLoader(Tokenizer.load(data / "tokenizer"), data / "data/docstrings", "val", rows, LAPTOP["max_seq_len"], cpu, epochs=1))
    return [tuple(t.clone() for t in next(loader)[:2]) for _ in range(count)]


OUR_JUDGE = """
import sys, torch
from nanochat_course.checkpoint import checkpoint_dir, load_model
from nanochat_course.common import runtime
from nanochat_course.evaluation import evaluate_bpb
batches, token_bytes = torch.load(sys.argv[1])
with runtime("cpu", "bfloat16") as rt:
    model, tokenizer, meta = load_model(checkpoint_dir("base", "bench"), rt)
    print(evaluate_bpb(model, batches, len(batches), token_bytes, rt))
"""

NANOCHAT_JUDGE = """
import sys, torch
from nanochat.checkpoint_manager import load_model
from nanochat.loss_eval import evaluate_bpb
batches, token_bytes = torch.load(sys.argv[1])
model, _, _ = load_model("base", torch.device("cpu"), "eval", model_tag="bench")
with torch.no_grad(): print(evaluate_bpb(model, batches, len(batches), token_bytes))
"""


class Ours:
    "base_train of the laptop preset, with more flags or without."
    def __init__(self, flags): self.flags = flags

    def prepare(self, base, data):
        os.symlink(data / "data", base / "data")
        shutil.copytree(data / "tokenizer", base / "tokenizer")
        self.env = dict(PYTHONPATH=str(ROOT), NANOCHAT_COURSE_DIR=str(base))

    def train(self, base, steps):
        shutil.rmtree(base / "base_checkpoints", ignore_errors=True)
        (base / "report/base_train.jsonl").unlink(missing_ok=True)
        flags = LAPTOP | self.flags | dict(num_iterations=steps, model_tag="bench", eval_every=0, sample_every=0, save_every=0, eval_tokens=4096)
        run_program(command_line("base_train", flags)[1:], ROOT, self.env)
        lines = [json.loads(line) for line in (base / "report/base_train.jsonl").read_text().splitlines()]
        return [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]

    def judge(self, batches): return run_program(["-c", OUR_JUDGE, str(batches)], ROOT, self.env)[0]


class Nanochat:
    "nanochat's own script; its tokenizer is ours, stored as it wants it."
    def __init__(self, folder): self.folder = folder

    def prepare(self, base, data):
        tokenizer = Tokenizer.load(data / "tokenizer")
        os.symlink(data / "data/docstrings", base / "base_data_climbmix")
        (base / "tokenizer").mkdir()
        (base / "tokenizer/tokenizer.pkl").write_bytes(pickle.dumps(tokenizer.core))
        torch.save(tokenizer.token_bytes(), base / "tokenizer/token_bytes.pt")
        cache = Path(tempfile.gettempdir()) / "bench_model_inductor"                       # kept: compiling takes long
        self.env = dict(NANOCHAT_BASE_DIR=str(base), NANOCHAT_DTYPE="bfloat16", PYTHONPATH=str(self.folder), TORCHINDUCTOR_CACHE_DIR=str(cache))

    def train(self, base, steps):
        shutil.rmtree(base / "base_checkpoints", ignore_errors=True)
        flags = {"depth": LAPTOP["depth"], "head-dim": 64, "window-pattern": "L", "max-seq-len": LAPTOP["max_seq_len"],
                 "device-batch-size": LAPTOP["total_batch_size"] // LAPTOP["max_seq_len"], "total-batch-size": LAPTOP["total_batch_size"],
                 "num-iterations": steps, "model-tag": "bench", "eval-every": -1, "core-metric-every": -1, "sample-every": -1}
        out, _ = run_program(["-c", NANOCHAT, "base_train", *(f"--{k}={v}" for k, v in flags.items())], self.folder, self.env)
        return [int(n.replace(",", "")) for n in re.findall(r"tok/sec: ([0-9,]+)", out)]

    def judge(self, batches): return run_program(["-c", NANOCHAT_JUDGE, str(batches)], self.folder, self.env)[0]


def race(contender, data, minutes, trial, batches):
    "One contender: its speed, so many steps as fit, and what it knows then."
    batch = LAPTOP["total_batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        base, began = Path(folder), time.time()
        contender.prepare(base, data)
        speed = statistics.median(contender.train(base, trial)[min(5, trial // 2):])
        steps = max(10, round(60 * minutes * speed / batch))
        speeds = contender.train(base, steps)
        bits = float(contender.judge(batches).strip().splitlines()[-1])
        after = speeds[min(5, len(speeds) // 2):]                                          # without starting and compiling
        return dict(bits_per_byte=bits, steps=steps, tokens=steps * batch, trial_tokens_per_second=speed, tokens_per_second=statistics.median(after),
                    training_seconds=steps * batch * statistics.mean(1 / s for s in after), wall_seconds=time.time() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanochat", type=Path, help="folder of a nanochat checkout; without it only ours run")
    parser.add_argument("--minutes", type=float, default=5., help="of training")
    parser.add_argument("--trial", type=int, default=25, help="steps to measure the speed with; the first five are not counted")
    parser.add_argument("--rounds", type=int, default=1, help="how often each contender runs, in turns")
    parser.add_argument("--data", type=Path, help="folder with tokenizer/ and data/docstrings/; default: NANOCHAT_COURSE_DIR")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/five_minutes.json")
    args = parser.parse_args()
    data = (args.data or base_dir()).resolve()
    if not (data / "tokenizer").exists():
        raise SystemExit(f"no tokenizer in {data}: run nanochat-speedrun --preset laptop --until tok_train first, or name another --data")
    contenders = {name: Ours(flags) for name, flags in OURS.items()}
    if args.nanochat: contenders["nanochat"] = Nanochat(args.nanochat.resolve())
    stored = json.loads(args.out.read_text()) if args.out.exists() else {}
    if stored.get("minutes") != args.minutes: stored = dict(minutes=args.minutes, runs=[])
    with tempfile.TemporaryDirectory() as folder:
        batches = Path(folder) / "batches.pt"
        torch.save((validation_batches(data), Tokenizer.load(data / "tokenizer").token_bytes()), batches)
        for number in range(args.rounds):
            for name, contender in contenders.items():
                if any((r["name"], r["round"]) == (name, number) for r in stored["runs"]): continue
                result = race(contender, data, args.minutes, args.trial, batches)
                stored["runs"].append(dict(name=name, round=number, **result))
                stored.update(date=time.strftime("%Y-%m-%d"), command=f"python benchmarks/bench_five_minutes.py --nanochat FOLDER --minutes {args.minutes:g}",
                              machine=machine(), load_average=os.getloadavg())
                write_json(args.out, stored)
                print(f"{name:28}{result['bits_per_byte']:8.4f} bits per byte after {result['tokens']:,} tokens, {result['tokens_per_second']:,.0f} a second, "
                      f"{result['training_seconds']:.0f} s of training, {result['wall_seconds']:.0f} s in all", flush=True)


if __name__ == "__main__": main()
