"""Should a thread that waits for work spin or sleep? Training speed for both, alone on the machine and beside a busy program.

    python benchmarks/bench_waiting.py [--rounds 3] [--repeats 2] [--out benchmarks/results/waiting.json]

Tokens a second of `bench_model.py` (bfloat16, depth 4), the best of the repeats, in processes of their own; the conditions take turns.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tokens_per_second(policy, rounds):
    "One run of the model's benchmark under a wait policy."
    env = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")} | (dict(OMP_WAIT_POLICY=policy) if policy else {})
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/model.json"
        subprocess.run([sys.executable, ROOT / "benchmarks/bench_model.py", "--rounds", str(rounds), "--out", out], env=env, check=True, capture_output=True)
        return json.loads(Path(out).read_text())["rows"][0]["tokens_per_second"]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--repeats", type=int, default=2)
    a.add_argument("--out", default=str(ROOT / "benchmarks/results/waiting.json"))
    args = a.parse_args()
    best = {}
    for _ in range(args.repeats):
        for neighbour in ("alone", "beside one busy program"):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if neighbour != "alone" else None
            try:
                for policy in ("", "PASSIVE"):
                    key = neighbour, policy or "default"
                    best[key] = max(best.get(key, 0), tokens_per_second(policy, args.rounds))
                    print(*key, f"{best[key]:,.0f} tokens a second", flush=True)
            finally:
                if busy: busy.kill()
    from nanochat_course.common import machine, write_json
    write_json(args.out, dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_waiting.py", machine=machine(),
                              rows=[dict(neighbour=n, policy=p, tokens_per_second=v) for (n, p), v in best.items()]))


if __name__ == "__main__": main()
