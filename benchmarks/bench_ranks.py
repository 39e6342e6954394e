"""What each of eight ranks does in each stage of the real run: python benchmarks/bench_ranks.py [--folder /tmp/ranks]

The launcher with eight gloo ranks on this machine's processor: preset tiny, sizes changed so that eight can share the work. In
every process a thread looks twenty times a second at what the main thread is doing, and notes one letter for it. Goes on where it
was stopped. Writes benchmarks/results/ranks.json: for each stage its seconds, and for each rank a line of letters; the time in
which all ranks import torch is counted and left out.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
RANKS, BINS = 8, 300
CPU = dict(device="cpu", dtype="float32")
CHAT = dict(CPU, total_batch_size=2048, eval_items=8)
SIZES = dict(
    base_train=dict(CPU, max_seq_len=128, device_batch_size=1, total_batch_size=2048, num_iterations=40, eval_every=20),
    base_eval=CPU, mid_train=dict(CHAT, num_iterations=16, save_every=8), chat_sft=dict(CHAT, num_iterations=16, save_every=8),
    chat_rl=dict(CPU, num_iterations=4, examples_per_step=8, num_samples=2, max_new_tokens=8, eval_items=8, device_batch_size=4),
    chat_eval=dict(CPU, max_items=8, max_new_tokens=8), transcript=dict(CPU, max_tokens=8))
DRIVER = f"""import sys
from nanochat_course import speedrun as S
S.count_gpus = lambda *args: {RANKS}                     # ranks on a CPU; nothing else is changed
S.run_main(S.speedrun, S.SpeedrunConfig, sys.argv[1:])"""

# what a letter means; of the calls under way, innermost first, the first that is known decides
LETTERS = dict(i="importing modules", w="waiting for another rank", m="model, forward and backward", o="optimizer", g="generating answers",
               e="judging", d="reading and tokenising text", s="saving and loading", x="anything else")
WATCHER = '''import os, sys
if "-m" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("-m") + 1].startswith("nanochat_course."):
    import atexit, threading, time
    STAGE, RANK = sys.orig_argv[sys.orig_argv.index("-m") + 1].partition(".")[2], os.environ.get("RANK", "0")
    WAITS = "all_reduce", "barrier", "all_gather_object", "wait", "print_all", "name_the_dead"
    FILES = {"optim": "o", "newton_schulz": "o", "zero2": "o", "checkpoint": "s", "dataloader": "d", "corpus": "d", "tokenizer": "d",
             "tasks": "d", "real_tasks": "d", "gpt": "m", "attention": "m", "precision": "m"}

    def letter(frame):
        calls = []
        while frame:
            calls.append((frame.f_code.co_filename, frame.f_code.co_name))
            frame = frame.f_back
        if any("<frozen importlib" in file for file, _ in calls[:40]): return "i"
        ours = [(os.path.basename(file)[:-3], name) for file, name in calls if "nanochat_course" in file]
        if any("distributed_c10d" in file for file, _ in calls[:3]): return "w"
        if ours and ours[0][0] in ("common", "zero2") and ours[0][1] in WAITS: return "w"
        if any(name == "_engine_run_backward" for _, name in calls[:2]): return "m"
        for module, name in ours:
            if module in ("optim", "newton_schulz", "zero2", "checkpoint"): return FILES[module]
        if any(module == "engine" for module, _ in ours): return "g"
        if any(module in ("evaluation", "base_eval") or "evaluate" in name for module, name in ours): return "e"
        for module, name in ours:
            if module in FILES: return FILES[module]
        return "x"

    def watch(main, log):
        while not over.wait(0.05):
            frame = sys._current_frames().get(main)
            if frame is None: return
            log.write(f"{time.time():.3f} {letter(frame)}\\n")

    log = open(os.path.join(os.environ["RANKS_LOGS"], f"{STAGE}.{RANK}.log"), "a", buffering=1)
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(threading.get_ident(), log), daemon=True)
    watcher.start()
    atexit.register(lambda: (over.set(), watcher.join()))                       # a thread that Python finds at its end is torn out
'''


def launch(folder):
    "The whole run, with a watcher in each process."
    (folder / "watcher").mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "watcher" / "sitecustomize.py").write_text(WATCHER)
    ledger = folder / "files" / "report" / "speedrun.json"
    done = {stage for stage, entry in json.loads(ledger.read_text()).items() if "seconds" in entry} if ledger.exists() else set()
    for log in (folder / "logs").glob("*.log"):                                   # of an attempt that was stopped
        if log.name.partition(".")[0] not in done: log.unlink()
    settings = [w for stage, flags in SIZES.items() for k, v in flags.items() for w in ("--set", f"{stage}.{k}={v}")]
    path = os.pathsep.join([str(folder / "watcher"), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(folder / "files"), OMP_NUM_THREADS="1", PYTHONPATH=path, RANKS_LOGS=str(folder / "logs"))
    subprocess.run([sys.executable, "-c", DRIVER, "--preset", "tiny", *settings], env=env, check=True)


def lines(path):
    "(seconds since 1970, letter) of one process."
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(float(row[0]), row[1]) for row in rows if len(row) == 2]


def stage_rows(logs, stage):
    "Seconds of starting, seconds from the end of the first rank's imports to the last one's end; a line of letters for each rank."
    seen = {int(p.stem.rpartition(".")[2]): lines(p) for p in logs.glob(f"{stage}.*.log")}
    start, end = min(rows[0][0] for rows in seen.values()), max(rows[-1][0] for rows in seen.values())
    begin = min(started(rows) for rows in seen.values())
    width = (end - begin) / BINS
    return dict(stage=stage, starting=round(begin - start, 1), seconds=round(end - begin, 1),
                ranks=[letters_of(seen[rank], begin, width) for rank in sorted(seen)])


def started(rows):
    "When a rank ended the last half second, or more, of importing."
    begin, run = rows[0][0], 0
    for t, what in rows[:-20]:
        run = run + 1 if what == "i" else 0
        if run >= 10: begin = t
    return begin


def letters_of(rows, begin, width):
    "One rank's line: the most frequent letter of each stretch of time; where nobody looked, as before; a blank after its end."
    bins, line, before = [Counter() for _ in range(BINS)], "", "i"
    for t, what in rows:
        if t >= begin: bins[min(BINS - 1, int((t - begin) / width))][what] += 1
    last = max(i for i, counted in enumerate(bins) if counted)
    for i, counted in enumerate(bins):
        before = counted.most_common(1)[0][0] if counted else before
        line += before if i <= last else " "
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="", help="folder to run in and keep, or to go on in; empty: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary).resolve()
        launch(folder)
        sys.path.insert(0, str(HERE.parent))
        from nanochat_course.common import machine, write_json
        from nanochat_course.speedrun import ORDER
        stages = [stage_rows(folder / "logs", stage) for stage in ORDER if list((folder / "logs").glob(f"{stage}.*.log"))]
    result = dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_ranks.py", machine=machine(), letters=LETTERS, stages=stages)
    write_json(HERE / "results" / "ranks.json", result)
    for s in stages: print(f"{s['stage']}, {s['starting']} + {s['seconds']} s", *s["ranks"], sep="\n")


if __name__ == "__main__": main()
