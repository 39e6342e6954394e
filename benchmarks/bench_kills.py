"""Kill the whole run ten times, anywhere, and compare with a run that nobody disturbed.

    python benchmarks/bench_kills.py --folder /tmp/kills --seconds 170     # again and again, until it says that it is done

The launcher of the real run with its own flags, sizes changed only: preset 8xh100 on four gloo ranks, text and the tasks of CORE
from a server on this machine. A kill is SIGKILL, at a random moment of a stage: to everything at once (a power cut) or to one of
the ranks. Each call works for so many seconds and goes on where the last one stopped, by a power cut, too, that is not counted.
Writes benchmarks/results/kills.json when both runs are at their ends.
"""
import argparse, functools, http.server, json, os, random, re, signal, subprocess, sys, threading, time, zipfile
from pathlib import Path
import psutil, torch
from nanochat_course.checkpoint import load_checkpoint
from nanochat_course.common import machine, read_json, read_log, write_json
from nanochat_course.corpus import write_shard
from nanochat_course.evaluation import builtin_bundle

HERE = Path(__file__).resolve().parent
RANKS, KILLS = 4, 10
STAGES = ["corpus", "tok_train", "base_train", "base_train", "base_eval", "mid_train", "chat_sft", "chat_rl", "chat_eval", "transcript"]   # one kill each
CPU = dict(device="cpu", dtype="float32")
CHAT = dict(CPU, mixture="identity:0.15,sums:0.02", documents=4, save_every=2, eval_items=8, total_batch_size=1024)
SIZES = dict(
    corpus=dict(first_shards=2, num_shards=3), tok_train=dict(vocab_size=512, max_chars=200_000),
    base_train=dict(CPU, depth=2, max_seq_len=128, device_batch_size=1, total_batch_size=1024, num_iterations=24, eval_every=12, eval_tokens=2048,
                    save_every=3, core_metric_every=8, core_metric_max_per_task=4, sample_every=8, warmup_steps=2, fp8=False),
    base_eval=dict(CPU, split_tokens=2048, max_per_task=4, max_tokens=4), mid_train=CHAT, chat_sft=CHAT,
    chat_rl=dict(CPU, task="sums", num_iterations=4, num_samples=2, examples_per_step=8, max_new_tokens=4, eval_items=8, save_every=1, device_batch_size=4),
    chat_eval=dict(CPU, tasks="identity,sums", max_items=5, max_new_tokens=4, eval_tokens=1024), transcript=dict(CPU, max_tokens=4))
DRIVER = f"""import sys
from nanochat_course import speedrun as S
S.count_gpus = lambda *args: {RANKS}                     # ranks on a CPU; nothing else is changed
S.run_main(S.speedrun, S.SpeedrunConfig, sys.argv[1:])"""


def make_hub(folder):
    "What the hub serves: shards of text, and the tasks of CORE as a zip archive."
    from pydoc_data.topics import topics
    texts = [t[i:i + 600] for t in topics.values() for i in range(0, len(t), 600)]
    shards = folder / "datasets" / "karpathy" / "climbmix-400b-shuffle" / "resolve" / "main"
    if (folder / "eval_bundle.zip").exists(): return
    for number, part in zip((0, 1, 2, 6542), (texts[:250], texts[250:500], texts[500:750], texts[750:])):
        write_shard(shards / f"shard_{number:05d}.parquet", part, 8)
    bundle = builtin_bundle(folder / "eval_bundle", 6)
    with zipfile.ZipFile(folder / "eval_bundle.zip", "w") as z:
        for path in sorted(bundle.rglob("*")):
            if path.is_file(): z.write(path, f"eval_bundle/{path.relative_to(bundle)}")


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


def serve(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class Launch:
    "The launcher at work in one folder."
    def __init__(self, folder, hub):
        self.folder, self.log = folder, folder / "output.log"
        folder.mkdir(parents=True, exist_ok=True)
        words = [w for stage, flags in SIZES.items() for k, v in flags.items() for w in ("--set", f"{stage}.{k}={str(v).lower() if isinstance(v, bool) else v}")]
        env = dict(os.environ, NANOCHAT_COURSE_DIR=str(folder / "files"), HF_ENDPOINT=hub, NANOCHAT_COURSE_CORE_URL=f"{hub}/eval_bundle.zip", OMP_NUM_THREADS="1")
        self.begin = self.log.stat().st_size if self.log.exists() else 0
        self.process = subprocess.Popen([sys.executable, "-c", DRIVER, "--preset", "8xh100", *words], env=env, stdout=open(self.log, "a"),
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def stages(self): # those that this launch has begun
        with open(self.log, errors="replace") as f:
            f.seek(self.begin)
            return re.findall(r"^\[\d+/9\] (\w+): -m|^\[\d+/9\] (\w+): (?!finished)", f.read(), re.M)

    def stage(self):
        found = self.stages()
        return "".join(found[-1]) if found else ""

    def children(self):
        try: return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess: return []

    def ranks(self): # processes of the stage that torchrun has started
        def is_rank(p):
            try: return "RANK" in p.environ() and any(f"nanochat_course.{self.stage()}" in w for w in p.cmdline())
            except psutil.Error: return False
        return [p for p in self.children() if is_rank(p)]

    def cut(self): # the power
        family = self.children()
        self.process.send_signal(signal.SIGKILL)
        for p in family:
            try: p.kill()
            except psutil.NoSuchProcess: pass
        self.process.wait()
        psutil.wait_procs(family, 20)

    def kill_a_rank(self, rng):
        ranks = self.ranks()
        if not ranks: return False
        rng.choice(ranks).kill()
        return True


def ended(folder): return (folder / "files" / "report" / "report.md").exists() and bool(list(folder.glob("done")))


def watch(launch, deadline, tick=lambda: None):
    "Until the launch is over or the time is; True if it came to its end."
    while launch.process.poll() is None:
        if time.time() > deadline:
            launch.cut()
            return False
        tick()
        time.sleep(0.02)
    if launch.process.returncode: raise SystemExit(f"the launcher failed: {launch.log.read_text(errors='replace')[-3000:]}")
    (launch.folder / "done").touch()
    return True


def disturb(launch, state, durations, rng):
    "What `watch` calls: kills when the moment has come."
    plan = dict(stage=None, at=0.)
    def tick():
        left = state["left"]
        stage = launch.stage()
        wanted = stage if stage in left else left[0] if left and stage == "transcript" else None     # the last stage makes up for those
        if wanted is None: return                                                                    # that were over too soon
        if plan["stage"] != stage:
            plan.update(stage=stage, at=time.time() + rng.uniform(0.05, 0.95) * durations.get(stage, 5.))
        if time.time() < plan["at"]: return
        how = rng.choice(["all", "rank"]) if stage not in ("corpus", "tok_train", "transcript") else "all"
        if how == "rank" and not launch.kill_a_rank(rng): return
        saved = sorted(p.name for p in (launch.folder / "files").glob("*_checkpoints/*/step_*"))
        state["kills"].append(dict(stage=stage, what="everything" if how == "all" else "one rank", newest=saved[-1:] and saved[-1]))
        left.remove(wanted)
        plan["stage"] = None
        write_json(launch.folder / "kills.json", state)
        if how == "all": launch.cut()
    return tick


def results(folder):
    "Everything that must not depend on the kills."
    files, out = folder / "files", {}
    for path in sorted((files / "report").glob("*.json")):
        report = read_json(path)
        metrics = {k: v for k, v in report.get("metrics", {}).items() if not re.search("second|tokens_per|minutes|time", k)}
        out[path.stem] = json.dumps([metrics, report.get("samples"), report.get("talks")], sort_keys=True)
    for path in sorted((files / "report").glob("*_train.jsonl")) + [files / "report" / f"{s}.jsonl" for s in ("chat_sft", "chat_rl")]:
        out[path.stem + " losses"] = json.dumps([(r["step"], r["loss"]) for r in read_log(path) if "loss" in r])
    weights = {p.parent.parent.name: load_checkpoint(p.parent).model_state for p in files.glob("*_checkpoints/*/result.json")}
    return out, weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="/tmp/kills")
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    root, deadline, seed = Path(args.folder), time.time() + args.seconds, args.seed or time.time_ns() % 10**6
    make_hub(root / "hub")
    hub, calm, rough = serve(root / "hub"), root / "calm", root / "rough"
    if not ended(calm) and not watch(Launch(calm, hub), deadline): return print("the undisturbed run goes on with the next call")
    ledger = read_json(calm / "files" / "report" / "speedrun.json")
    durations = {stage: entry["seconds"] for stage, entry in ledger.items()}
    path = rough / "kills.json"
    state = read_json(path) if path.exists() else dict(left=list(STAGES), kills=[], starts=0, seeds=[])
    state["seeds"].append(seed)
    rng = random.Random(seed)
    while not ended(rough):
        state["starts"] += 1
        launch, before = Launch(rough, hub), len(state["kills"])
        tick = disturb(launch, state, durations, rng)
        try:
            if not watch(launch, deadline, tick) and time.time() > deadline: return print(f"{len(state['kills'])} kills so far; the next call goes on")
        except SystemExit:                  # a power cut; or a rank of a stage that has nothing to go on from, which the same command repeats
            if launch.process.returncode != -signal.SIGKILL and len(state["kills"]) == before: raise
    write_json(path, state)
    (a, wa), (b, wb) = results(calm), results(rough)
    differ = [k for k in a | b if a.get(k) != b.get(k)]
    differ += [f"weights of {k}" for k in wa | wb if not (k in wa and k in wb and all(torch.equal(t, wb[k][n]) for n, t in wa[k].items()))]
    record = dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_kills.py", machine=machine(), ranks=RANKS, kills=state["kills"],
                  starts=state["starts"], seeds=state["seeds"], compared=sorted(a) + [f"weights of {k}" for k in sorted(wa)], differ=differ)
    write_json(HERE / "results" / "kills.json", record)
    print(f"{len(state['kills'])} kills, {len(record['compared'])} results compared, {len(differ)} differ: {differ}")


if __name__ == "__main__": main()
