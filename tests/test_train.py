"The one loop: exact resume, faults, accumulation, schedules, logs."
import math, os, random, resource, signal, subprocess, sys, threading, time
import forked, pytest, torch
from nanochat_course import checkpoint as C, train as T
from nanochat_course.common import CourseError, RunLog, Runtime, read_json, read_log, seed_everything
from nanochat_course.corpus import write_corpus
from nanochat_course.labs.zero2 import run_ranks
from nanochat_course.optim import AdamW, MuonAdamW
from nanochat_course.scaling import Schedule
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import LoopConfig, train

RT = Runtime(torch.device("cpu"), torch.float32)
TIMES = ("seconds", "tokens_per_second", "train_seconds")
FLAT = lambda step: dict(lr=1., momentum=None, weight_decay=1.)


class Table(torch.nn.Module):
    "Scores of the next token, with dropout so that the random generators matter."
    def __init__(self):
        super().__init__()
        self.W = torch.nn.Parameter(torch.zeros(32, 32))
    def forward(self, x, y):
        return torch.nn.functional.cross_entropy(torch.nn.functional.dropout(self.W[x], 0.1, self.training).flatten(0, 1), y.flatten())


def numbers(state):
    "An endless loader whose state is a counter."
    n = state["n"] if state else 0
    while True:
        n += 1
        x = (torch.randint(0, 32, (4, 1), generator=torch.Generator().manual_seed(n)) + torch.arange(9)) % 32
        yield x[:, :-1], x[:, 1:], dict(n=n, where=[1, 2])


def table_run(directory=None, n=12, loader=numbers, seed=1, **kw):
    seed_everything(seed)
    model = Table()
    optimizer = AdamW([model.W], lr=0.05, weight_decay=0.1)
    loop = kw.pop("loop", {})
    kw.setdefault("schedule", FLAT)
    return model, optimizer, train(model, optimizer, loader, LoopConfig(n, **loop), RT, checkpoint_dir=directory, **kw)


def untimed(history): return [{k: v for k, v in r.items() if k not in TIMES} for r in history]


# --- resume -------------------------------------------------------------------------------------------------------------------

SCRIPT = '''
import random, sys, torch
from nanochat_course.common import Runtime, run_main, seed_everything
from nanochat_course.dataloader import DataLoader
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import MuonAdamW, param_groups
from nanochat_course.scaling import Schedule
from nanochat_course.tokenizer import Tokenizer
from nanochat_course.train import LoopConfig, open_log, train
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    base:str=""
    run:str=""
    n:int=40
    stop_at:int=0
    save_every:int=0
    slow:float=0.

def stage(config):
    "A real run, small."
    import time
    torch.set_num_threads(1)
    rt = Runtime(torch.device("cpu"), torch.bfloat16)
    seed_everything(3)
    tok = Tokenizer.load(config.base + "/tokenizer")
    model = GPT(GPTConfig(sequence_len=32, vocab_size=tok.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32), rt.dtype).init_weights()
    optimizer = MuonAdamW(param_groups(model, weight_decay=0.1))
    batches = lambda state: iter(DataLoader(tok, config.base + "/corpus", "train", 2, 32, rt, state=state))
    noise = lambda step: dict(noise=torch.rand(1).item() + random.random())          # an evaluation that draws
    sample = lambda step: time.sleep(config.slow)
    log = open_log(config.run + "/log.jsonl", config.run, rt)
    print("ready", flush=True)
    loop = LoopConfig(config.n, grad_accum_steps=2, eval_every=5, sample_every=1, save_every=config.save_every, stop_at=config.stop_at)
    train(model, optimizer, batches, loop, rt, schedule=Schedule(config.n, 4, momentum_warmup=20), evaluate=noise, sample=sample, log=log,
          checkpoint_dir=config.run, meta=dict(name="test"))

if __name__ == "__main__": run_main(stage, Config)
'''


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "Text, tokenizer and a script that trains on them."
    folder = tmp_path_factory.mktemp("train")
    r = random.Random(0)
    words = "the cat sat on a mat and then it ran to see who was at my door with one more hat".split()
    texts = [" ".join(r.choice(words) for _ in range(r.randint(5, 120))).capitalize() + "." for _ in range(400)]
    write_corpus(folder / "corpus", texts, num_shards=3)
    train_bpe(texts, 300).save(folder / "tokenizer")
    (folder / "stage.py").write_text(SCRIPT)
    return folder


def command(base, run, **flags):
    flags = dict(base=base, run=run) | flags
    return [sys.executable, str(base / "stage.py"), *[x for k, v in flags.items() for x in (f"--{k.replace('_', '-')}", str(v))]]


ENV = dict(os.environ, OMP_NUM_THREADS="1")


def go(*args, **flags): return forked.run(command(*args, **flags), env=ENV, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def oracle(base):
    "40 steps without a stop."
    assert go(base, base / "oracle").returncode == 0
    return base / "oracle"


def assert_same_run(a, b):
    "Weights, optimizer, generators, loader, averages, log and result: all equal to the last bit."
    x, y = C.load_checkpoint(a), C.load_checkpoint(b)
    assert x.step == y.step
    for p, q in ((x.model_state, y.model_state), (x.optimizer_state, y.optimizer_state), (x.rng, y.rng)):
        assert p.keys() == q.keys() and p
        for k in p: assert torch.equal(torch.nan_to_num(p[k].double()), torch.nan_to_num(q[k].double())), k
    clean = lambda meta: dict(meta, loop={k: v for k, v in meta["loop"].items() if k not in TIMES})
    assert clean(x.meta) == clean(y.meta)
    assert untimed(read_log(a / "log.jsonl")) == untimed(read_log(b / "log.jsonl"))
    result = lambda d: {k: v for k, v in read_json(d / "result.json")["result"].items() if k not in TIMES}
    assert result(a) == result(b)


def test_stop_and_go_in_separate_processes(base, oracle):
    for stop in (20, 33): assert go(base, base / "stopped", stop_at=stop).returncode == 0
    assert C.latest_step(base / "stopped") == 33 and not (base / "stopped" / "result.json").exists()
    r = go(base, base / "stopped")
    assert r.returncode == 0 and "going on from step 33" in r.stdout
    assert_same_run(oracle, base / "stopped")
    steps = [r["step"] for r in read_log(oracle / "log.jsonl") if "loss" in r]
    assert steps == list(range(40)), "each step stands in the log once"
    assert [r["step"] for r in read_log(oracle / "log.jsonl") if "noise" in r] == list(range(0, 41, 5))


def test_killed_at_random_moments(base, oracle):
    "Four times killed, somewhere between one checkpoint and the one after the next: the end is the same."
    r, run = random.Random(), base / "killed"
    for _ in range(4):
        start, goal = C.latest_step(run) or 0, (C.latest_step(run) or 0) + r.randint(2, 8)
        p = forked.Popen(command(base, run, save_every=1), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while p.poll() is None and (C.latest_step(run) or 0) < goal: time.sleep(0.002)
        time.sleep(0.1 * r.random())
        p.kill()
        assert p.wait() == -signal.SIGKILL, p.stderr.read()
        assert start < C.latest_step(run) < 40
    assert go(base, run, save_every=1).returncode == 0
    assert_same_run(oracle, run)


def test_ctrl_c_saves_and_says_how_to_go_on(base, oracle):
    run = base / "interrupted"
    for sig in (signal.SIGINT, signal.SIGTERM):
        p = forked.Popen(command(base, run, slow=1.0), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "first step" not in p.stdout.readline(): pass
        time.sleep(0.3)
        p.send_signal(sig)
        out, err = p.communicate(timeout=60)
        assert p.returncode == 130 and "goes on from the last checkpoint" in err and "Traceback" not in err and "saved in" in out
    assert 0 < C.latest_step(run) < 40
    assert go(base, run).returncode == 0
    assert_same_run(oracle, run)


def test_seconds_are_added_up_and_a_finished_run_returns_at_once(tmp_path):
    slow = lambda step: time.sleep(0.05)
    table_run(tmp_path, loop=dict(stop_at=6, sample_every=1), sample=slow)
    model, _, first = table_run(tmp_path, loop=dict(sample_every=1), sample=slow)
    assert first["seconds"] > 12 * 0.05
    def forbidden(*a): raise AssertionError("a finished run computes nothing")
    again, _, second = table_run(tmp_path, loader=forbidden, evaluate=forbidden, sample=forbidden, seed=9)
    assert {k: v for k, v in second.items() if k != "history"} == {k: v for k, v in first.items() if k != "history"}
    assert torch.equal(model.W, again.W), "the model is the trained one"
    _, _, fresh = table_run(tmp_path, resume=False)
    assert fresh["step"] == 12 and fresh["seconds"] != first["seconds"], "resume=False trains again"


def test_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    whole = table_run(tmp_path / "a")[0]
    table_run(tmp_path / "b", loop=dict(save_every=4, stop_at=9))
    p = tmp_path / "b" / "step_000009" / "optimizer.safetensors"
    p.write_bytes(p.read_bytes()[:-3])
    model = table_run(tmp_path / "b")[0]
    assert torch.equal(whole.W, model.W)
    out = capsys.readouterr().out
    assert "step_000009/optimizer.safetensors is damaged" in out and "going on from step 8" in out


def test_other_settings_are_named(tmp_path, capsys):
    table_run(tmp_path, n=6, meta=dict(depth=4))
    table_run(tmp_path, n=9, meta=dict(depth=5))
    out = capsys.readouterr().out
    assert "depth 4 there, 5 here" in out and "going on from step 6" in out
    with pytest.raises(CourseError, match="beyond num_iterations 3"): table_run(tmp_path, n=3)


# --- the step -----------------------------------------------------------------------------------------------------------------

def test_accumulated_gradient_is_that_of_the_whole_batch():
    x = torch.randint(0, 32, (12, 9))
    parts = lambda k: lambda state: ((p[:, :-1], p[:, 1:], i) for i, p in enumerate(x.chunk(k)))
    grads = {}
    for k in (1, 2, 3, 4):
        model = Table().eval()
        losses, tokens, states = T.forward_backward(model, T.Batches(parts(k)), T.next_token_loss, LoopConfig(1, grad_accum_steps=k), last=True)
        grads[k] = model.W.grad
        assert tokens == 96 and len(losses) == len(states) == k
        torch.testing.assert_close(grads[k], grads[1])


def test_steps_are_those_of_a_plain_loop():
    "The loop does exactly: schedule, two backward passes, clip, step."
    model, _, _ = table_run(loop=dict(grad_accum_steps=2, grad_clip=0.01), schedule=Schedule(12, 3))
    seed_everything(1)
    plain, it, schedule = Table(), numbers(None), Schedule(12, 3)
    optimizer = AdamW([plain.W], lr=0.05, weight_decay=0.1)
    for step in range(12):
        for g in optimizer.param_groups: g["lr"] = 0.05 * schedule(step)["lr"]       # AdamW's decay stays
        for _ in range(2):
            x, y, _ = next(it)
            (plain(x, y) / 2).backward()
        torch.nn.utils.clip_grad_norm_([plain.W], 0.01)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(plain.W, model.W)


def test_schedule_sets_every_group():
    "As upstream: the decay of the matrices falls, the small ones of AdamW's groups stay."
    a, b = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
    o = MuonAdamW([dict(kind="muon", params=[a], lr=0.02, momentum=0.9, weight_decay=0.2), dict(kind="adamw", params=[b], lr=0.3, weight_decay=0.01)])
    for lr, m, wd in ((0.5, 0.85, 0.1), (0.1, None, 1.), (0.25, 0.95, 0.)): T.set_schedule(o, dict(lr=lr, momentum=m, weight_decay=wd))
    g, h = o.param_groups
    assert (g["lr"], g["momentum"], g["weight_decay"]) == (0.005, 0.95, 0.) and h["lr"] == 0.075 and "momentum" not in h
    assert h["weight_decay"] == 0.01
    plain = torch.optim.SGD([b], lr=0.1, weight_decay=0.5)
    T.set_schedule(plain, dict(lr=1., weight_decay=0.1))
    assert plain.param_groups[0]["weight_decay"] == pytest.approx(0.05), "torch's optimizers have one decay"


def test_prefetch_does_not_move_the_saved_state(tmp_path):
    fetched = []
    def watched(state):
        for b in numbers(state): fetched.append(b[2]["n"]); yield b
    for prefetch in (True, False):
        fetched.clear()
        table_run(tmp_path / str(prefetch), n=8, loader=watched, loop=dict(prefetch=prefetch, stop_at=3))
        assert C.load_checkpoint(tmp_path / str(prefetch)).meta["loader"] == [dict(n=3, where=[1, 2])]
        assert max(fetched) == (4 if prefetch else 3)
    table_run(tmp_path / "True", n=8, loader=watched)
    assert max(fetched) == 8, "nothing is fetched beyond the last step"


def test_batches_that_end_early():
    with pytest.raises(CourseError, match="came to an end"): table_run(loader=lambda s: (b for b, _ in zip(numbers(s), range(5))))


def test_loader_is_closed():
    closed = []
    def loader(state):
        try: yield from numbers(state)
        finally: closed.append(1)
    table_run(loader=loader)
    assert closed == [1]


# --- faults -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_stops_and_names_step_batch_and_checkpoint(tmp_path, bad):
    count = [0]
    def loss_fn(model, x, y):
        count[0] += 1
        loss = model(x, y)
        if count[0] != 14: return loss                       # the second batch of step 6
        return loss * bad
    with pytest.raises(CourseError) as e: table_run(tmp_path, loss_fn=loss_fn, loop=dict(grad_accum_steps=2, save_every=4))
    m = str(e.value)
    assert m.startswith("step 6: the loss of batch 2 of 2 is not finite") and '"n": 14' in m and "checkpoint is step 4" in m and "\n" not in m
    model, _, result = table_run(tmp_path, loop=dict(grad_accum_steps=2, save_every=4))
    assert result["step"] == 12 and model.W.isfinite().all()


def test_gradient_norm_not_finite():
    class Root(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.zeros(1))
        def forward(self, x, y): return self.w.sqrt().sum()          # finite loss, infinite slope
    m = Root()
    with pytest.raises(CourseError, match="gradient norm"): train(m, AdamW([m.w], lr=1e-3), numbers, LoopConfig(3), RT, schedule=FLAT)


def test_bad_settings():
    for loop in (dict(grad_accum_steps=0), dict(log_every=0)):
        with pytest.raises(CourseError, match="at least 1"): table_run(loop=loop)
    with pytest.raises(CourseError, match="at least 1"): table_run(n=0)
    m = Table()
    two = Runtime(torch.device("cpu"), torch.float32, world_size=2)
    with pytest.raises(CourseError, match="DistMuonAdamW"): train(m, AdamW([m.W], lr=.1), numbers, LoopConfig(2), two, schedule=FLAT)


def test_evaluation_that_fails_costs_no_training(tmp_path):
    def evaluate(step):
        if step == 8: raise RuntimeError("out of memory")
        return dict(v=1.)
    with pytest.raises(RuntimeError): table_run(tmp_path, evaluate=evaluate, loop=dict(eval_every=4, save_every=4))
    assert C.latest_step(tmp_path) == 8


# --- book-keeping -------------------------------------------------------------------------------------------------------------

def test_when_things_happen(tmp_path):
    events = []
    def evaluate(step):
        end = time.monotonic() + 30                                       # a thread writes the checkpoint meanwhile
        while step and C.latest_step(tmp_path) != step and time.monotonic() < end: time.sleep(0.01)
        events.append(("e", step, C.latest_step(tmp_path)))
        return dict(v=step)
    core = lambda s: events.append(("c", s)) or dict(core=s / 100)
    _, _, r = table_run(tmp_path, n=10, evaluate=evaluate, core=core, sample=lambda s: events.append(("s", s)) or [f"said at {s}"],
                        log=RunLog(tmp_path / "log.jsonl"), loop=dict(eval_every=4, core_every=4, sample_every=3, save_every=4))
    assert [e[:2] for e in events] == [("e", 0), ("s", 3), ("e", 4), ("c", 4), ("s", 6), ("e", 8), ("c", 8), ("s", 9), ("e", 10), ("c", 10), ("s", 10)]
    assert [e[2] for e in events if e[0] == "e"] == [None, 4, 8, 10], "the checkpoint is begun before the evaluation"
    assert r["metrics"] == dict(v=10, core=0.1)
    assert [(l["step"], l["samples"]) for l in read_log(tmp_path / "log.jsonl") if "samples" in l] == [(i, [f"said at {i}"]) for i in (3, 6, 9, 10)]
    assert [(l["step"], l["core"]) for l in read_log(tmp_path / "log.jsonl") if "core" in l] == [(4, .04), (8, .08), (10, .1)]
    events.clear()
    table_run(n=5, core=lambda s: events.append(s), loop=dict(core_every=0))
    assert events == [], "0 means never, at the end neither"
    events.clear()
    table_run(n=3, evaluate=lambda s: events.append(s) or {}, loop=dict(eval_every=-1, save_every=-1, sample_every=-1))
    assert events == [3], "a negative interval means: at the last step only"


def test_a_disk_that_is_full_ends_the_run_at_the_next_step(tmp_path):
    "The thread cannot write; the run must not go on for a thousand steps believing that it was saved."
    done = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    def schedule(step):
        done.append(step)
        if step == 4:
            while C.all_steps(tmp_path) != [3]: time.sleep(0.01)                     # the thread has written the first one
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        if step > 4: time.sleep(0.2)
        return dict(lr=1.)
    try:
        with pytest.raises(CourseError, match="could not write .*step_000006"): table_run(tmp_path, n=100, schedule=schedule, loop=dict(save_every=3))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 6 <= done[-1] < 20 and C.all_steps(tmp_path) == [3] and not list(tmp_path.glob(".step*"))
    assert not [t for t in threading.enumerate() if t.name == "checkpoint"]


def test_log_and_result(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    _, _, r = table_run(n=30, log=log, evaluate=lambda s: dict(v=2.), loop=dict(log_every=7, grad_accum_steps=2))
    lines = read_log(tmp_path / "log.jsonl")
    assert [l["step"] for l in lines if "loss" in l] == [0, 7, 14, 21, 28, 29] and lines == r["history"]
    assert lines[0]["smooth_loss"] == pytest.approx(lines[0]["loss"]), "the average is right from the first step"
    assert r["tokens"] == 30 * 2 * 32 and r["metrics"] == dict(v=2.) and r["step"] == 30 and r["loss"] < 3.5
    for key in ("loss", "smooth_loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds"): assert key in lines[0]


def test_smoothed_loss_is_the_weighted_mean(tmp_path):
    _, _, r = table_run(n=9, loop=dict(smoothing=0.8))
    losses = [h["loss"] for h in r["history"]]
    weights = [0.8**(8 - i) for i in range(9)]
    assert r["loss"] == pytest.approx(sum(l * w for l, w in zip(losses, weights)) / sum(weights))


def test_collector_and_signals_are_put_back():
    import gc
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert gc.isenabled()
    inside = []
    table_run(n=2, evaluate=lambda s: inside.append(gc.isenabled()) or {})
    assert inside == [False] and gc.isenabled() and gc.get_freeze_count() == 0
    with pytest.raises(CourseError): table_run(loader=lambda s: iter(()))
    assert gc.isenabled() and (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_lost_terminal_saves(tmp_path):
    "SIGHUP stops like Ctrl-C; a run that was started with nohup does not hear of it."
    def hang_up(step):
        if step == 4: os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)                 # under nohup it is ignored
    with pytest.raises(KeyboardInterrupt): table_run(tmp_path / "a", sample=hang_up, loop=dict(sample_every=2))
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL and C.latest_step(tmp_path / "a") == 5
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try: assert table_run(tmp_path / "b", sample=hang_up, loop=dict(sample_every=2))[2]["step"] == 12
    finally: signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "gnu_get_libc_version"), reason="another C library")
def test_freed_memory_is_kept_while_training():
    "The same arrays again cost no page faults inside, many outside; at the end the memory goes back."
    import resource, textwrap
    code = textwrap.dedent("""
        import ctypes, resource, torch
        from nanochat_course.train import freed_memory_kept
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            arrays = [torch.ones(2**22) for _ in range(8)]; del arrays                  # 128 MiB
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        ctypes.CDLL(None).mallopt(-3, 2**20)     # arrays of a megabyte are the system's, as at the start of every process
        faults(); outside, rest = faults(), resident()
        with freed_memory_kept(torch.device("cpu")):
            faults()
            inside, held = min(faults() for _ in range(5)), resident()             # now and then one of the eight comes to lie elsewhere
        print(outside, inside, held - rest, resident() - rest)
    """)
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside, inside, held, left = map(float, r.stdout.split())
    pages = 2**27 / resource.getpagesize()
    assert outside > .9 * pages and inside < .05 * pages and held > 100 and left < 20, r.stdout


def test_utilisation_where_the_peak_is_known(monkeypatch, capsys):
    "On a GPU of the table the line shows the share; the arithmetic is FLOPs per token times tokens a second by the peak."
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d=None: "NVIDIA H100 80GB HBM3")
    class Model(Table):
        def flops_per_token(self): return 1e9
    loop = object.__new__(T.Loop)
    loop.model, loop.rt = Model(), Runtime(torch.device("cuda", 0), torch.bfloat16, world_size=2)
    assert loop.utilisation(989e3) == pytest.approx(0.5)
    loop.rt = RT
    assert loop.utilisation(989e3) is None
    progress = T.Progress(10, 0, "x")
    progress.update(10, 1., 5., 0., 0.425)
    progress.update(10, 1., 5., 0.)
    first, second = capsys.readouterr().out.splitlines()
    assert "42% MFU" in first and "MFU" not in second


def test_quiet_without_a_terminal(capsys):
    start = time.perf_counter()
    table_run(n=40)
    out, err = capsys.readouterr()
    most = 2 + (time.perf_counter() - start) // 10                        # first step, last step, and a line every ten seconds
    assert "\r" not in out + err and 2 <= len(out.splitlines()) <= most and "step 40 of 40" in out


def test_bar_in_a_terminal(base):
    "A pseudo-terminal shows a bar with loss, speed and time left."
    import pty
    master, slave = pty.openpty()
    p = forked.Popen(command(base, base / "terminal", n=6), env=dict(ENV, COLUMNS="120"), stdout=slave, stderr=slave, text=True)
    os.close(slave)
    out = b""
    while True:
        try: chunk = os.read(master, 65536)
        except OSError: break
        if not chunk: break
        out += chunk
    assert p.wait() == 0
    out = out.decode()
    assert "\r" in out and "6/6" in out and "tokens/s" in out and "left" in out


def test_range_test_leaves_no_trace():
    seed_everything(0)
    model = Table()
    optimizer = AdamW([model.W], lr=0.01)
    train(model, optimizer, numbers, LoopConfig(3), RT, schedule=FLAT)
    before, state, rng = model.W.detach().clone(), {k: v.clone() for k, v in optimizer.state_tensors().items()}, torch.get_rng_state()
    r = T.lr_range_test(model, optimizer, numbers, RT, low=1e-2, high=1e5, steps=40)
    assert torch.equal(model.W, before) and torch.equal(torch.get_rng_state(), rng) and optimizer.param_groups[0]["lr"] == 0.01
    assert all(torch.equal(v, state[k]) for k, v in optimizer.state_tensors().items()) and model.W.grad is None
    assert len(r["multipliers"]) == len(r["losses"]) == len(r["smooth"]) and r["multipliers"][0] == pytest.approx(1e-2)
    assert r["multipliers"][0] < r["suggestion"] < r["lowest"]


def what_each_saw(rt): return T.told_by_rank_0(rt, dict(result=rt.rank) if rt.rank == 0 else {})


def test_rank_0_tells_the_others_what_has_finished():
    "A file of a shared folder may not have reached them yet."
    assert run_ranks(what_each_saw, 2) == [dict(result=0)] * 2 and T.told_by_rank_0(RT, 5) == 5
