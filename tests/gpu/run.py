"""Everything that needs a GPU, in one command of at most ten minutes: make test-gpu [NANOCHAT=path of a checkout].

Each check runs in a process of its own, so that one that crashes or hangs leaves the others alone. What was measured goes to
benchmarks/results/gpu-NAME.json, NAME being the card. NEVER RUN ON A GPU SO FAR: on CPUs test_smoke.py runs the same functions.
"""
import argparse, json, os, re, subprocess, sys, time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]
import torch
from checks import CHECKS, ROOT
from nanochat_course.common import machine, write_json
from nanochat_course.speedrun import why_so_few


def one(name, device):
    "Run a check here; its result is the last line that is printed."
    try: result = dict(ok=True, measured=CHECKS[name](device))
    except AssertionError as e: result = dict(ok=False, error=str(e)[:2000])
    except Exception as e: result = dict(ok=False, error=f"{type(e).__name__}: {str(e)[:2000]}")
    print(json.dumps(result))


def apart(name, device, seconds):
    "Run a check in a process of its own."
    command, began = [sys.executable, __file__, "--one", name, "--device", device], time.time()
    try: done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, seconds))
    except subprocess.TimeoutExpired: return dict(ok=False, error=f"not finished in {seconds:.0f} s", seconds=seconds)
    try: result = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError): result = dict(ok=False, error=f"status {done.returncode}: {done.stderr.strip()[-500:]}")
    return result | dict(seconds=round(time.time() - began, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(CHECKS), help="names, separated by commas")
    parser.add_argument("--minutes", type=float, default=10., help="for all of them")
    parser.add_argument("--name", default="", help="of the result file; the card's by default")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one: return one(a.one, a.device)
    if a.device == "cuda" and not torch.cuda.is_available():
        return print(f"skipped, nothing was tested: torch can use no GPU here ({why_so_few(0)})")
    name = a.name or re.sub(r"\W+", "-", torch.cuda.get_device_name() if a.device == "cuda" else a.device).strip("-").lower()
    end, results = time.time() + 60 * a.minutes, {}
    for check in a.only.split(","):
        left = end - time.time()
        results[check] = apart(check, a.device, left) if left > 20 else dict(ok=False, error="not run: the time was over", seconds=0.)
        r = results[check]
        print(f"{'ok' if r['ok'] else 'FAILED':7s} {check:15s} {r['seconds']:6.1f} s  {r.get('error', '')[:300]}", flush=True)
    path = ROOT / "benchmarks" / "results" / f"gpu-{name}.json"
    command = "python tests/gpu/run.py " + " ".join(sys.argv[1:])
    write_json(path, dict(date=time.strftime("%Y-%m-%d"), command=command.strip(), machine=machine(), nanochat=bool(os.environ.get("NANOCHAT")), checks=results))
    print(f"written: {path.relative_to(ROOT)}")
    return not all(r["ok"] for r in results.values())


if __name__ == "__main__": sys.exit(main())
