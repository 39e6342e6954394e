"The ground floor: files, logs, runtime, commands, exercises."
import json, os, signal, socket, subprocess, sys, textwrap, time
from pathlib import Path

import forked
import pytest
import torch
import torch.multiprocessing as mp

from nanochat_course import common
from nanochat_course.common import CourseError, RunLog, Runtime, atomic_path, read_json, read_log, runtime, write_json
from nanochat_course.exercises import exercise, is_stub


def test_atomic_path_replaces_only_on_success(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError):
        with atomic_path(path) as tmp:
            tmp.write_text("half")
            raise RuntimeError
    assert read_json(path) == {"x": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_atomic_path_replaces_a_folder(tmp_path):
    for n in (1, 2):
        with atomic_path(tmp_path / "step") as tmp:
            tmp.mkdir()
            (tmp / "f").write_text(str(n))
    assert (tmp_path / "step" / "f").read_text() == "2" and len(list(tmp_path.iterdir())) == 1


def test_killed_writer_leaves_the_old_file_whole(tmp_path):
    "kill -9 while a process writes the same file again and again."
    path = tmp_path / "big.json"
    write_json(path, list(range(1000)))
    code = f"from nanochat_course.common import write_json\nprint('go', flush=True)\nwhile True: write_json({str(path)!r}, list(range(200000)))"
    for wait in (0.05, 0.21, 0.4):
        p = forked.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "go\n"
        time.sleep(wait)
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert len(read_json(path, list)) in (1000, 200000)


def test_full_disk_is_an_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, [1])
    code = textwrap.dedent(f"""
        import resource, signal
        from nanochat_course.common import write_json
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try: write_json({str(path)!r}, list(range(100000)))
        except OSError as e: print("OSError")
    """)
    assert forked.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "OSError\n"
    assert read_json(path, list) == [1] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", ["", "{", "\x00\x01", '{"a": 1', "[1]", "null", "3", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"], ids=lambda c: repr(c[:8]))
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CourseError, match="x.json") as e: read_json(tmp_path / "x.json")
    assert "\n" not in str(e.value)


def test_a_folder_in_the_place_of_a_json_file(tmp_path):
    with pytest.raises(CourseError, match="is a folder"): read_json(tmp_path)


def gone(): # the number of a process that has just ended
    p = subprocess.Popen(["true"])
    p.wait()
    return p.pid


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    dead, host = gone(), socket.gethostname()
    for name in (f".a.json.{dead}.tmp", f".b.{dead}@{host}.tmp"): (tmp_path / name).mkdir()
    kept = [f".c.{os.getppid()}@{host}.tmp", f".d.{dead}@elsewhere.tmp", ".mine.tmp", "e.tmp"]
    for name in kept: (tmp_path / name).write_text("x")
    write_json(tmp_path / "new.json", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "new.json"])


WATCH = "import os, sys\nprint('go', flush=True)\nmissing = 0\nwhile not os.path.exists(sys.argv[2]): missing += not os.path.exists(sys.argv[1])\nprint(missing)"


def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path):
    path, end = tmp_path / "model", tmp_path / "end"
    def write(n):
        with atomic_path(path) as tmp:
            tmp.mkdir()
            for i in range(20): (tmp / str(i)).write_text(str(n))
    write(0)
    if not common.exchange(path, path): pytest.skip("this system cannot exchange two names in one step")
    watcher = subprocess.Popen([sys.executable, "-c", WATCH, str(path), str(end)], stdout=subprocess.PIPE, text=True)
    assert watcher.stdout.readline() == "go\n"
    for n in range(1, 200): write(n)
    end.touch()
    assert watcher.communicate()[0] == "0\n" and (path / "7").read_text() == "199" and sorted(p.name for p in tmp_path.iterdir()) == ["end", "model"]


def test_without_exchange_a_kill_between_the_renames_loses_nothing(tmp_path):
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from nanochat_course import common
        common.exchange = lambda a, b: False
        def write(text):
            with common.atomic_path(Path(sys.argv[1])) as tmp:
                tmp.mkdir()
                (tmp / "f").write_text(text)
        write("old")
        rename, calls = os.replace, []
        def dies(a, b):
            if calls: os.kill(os.getpid(), 9)
            calls.append(rename(a, b))
        os.replace = dies
        write("new")
    """)
    assert forked.run([sys.executable, "-c", code, str(tmp_path / "model")]).returncode == -9
    assert not (tmp_path / "model").exists()
    write_json(tmp_path / "other.json", {})
    assert (tmp_path / "model" / "f").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


HOLD = "import sys, time\nfrom nanochat_course.common import alone\nwith alone(sys.argv[1], 'a test'): print('held', flush=True); time.sleep(60)"


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    lock = tmp_path / ".lock"
    p = forked.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "held\n"
    with pytest.raises(CourseError, match=rf"in use by process {p.pid} \(a test\)"):
        with common.alone(lock, "another"): pass
    p.kill()
    p.wait()
    with common.alone(lock, "another"): assert lock.read_text().startswith(f"{os.getpid()} ")


def test_a_child_holds_the_lock_of_its_dead_parent(tmp_path):
    lock = tmp_path / ".lock"
    code = textwrap.dedent("""
        import os, subprocess, sys
        from nanochat_course.common import alone, sign
        with alone(sys.argv[1], "parent") as f:
            child = subprocess.Popen(["sleep", "300"], pass_fds=[f.fileno()], stdout=subprocess.DEVNULL)
            sign(f, "the child", child.pid, fresh=False)
            print(child.pid, flush=True)
            os.kill(os.getpid(), 9)
    """)
    child = int(forked.run([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True).stdout)
    try:
        with pytest.raises(CourseError, match=rf"process {child} \(the child\)"):
            with common.alone(lock, "another"): pass
    finally: os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys):
    import errno, fcntl
    def refuse(*_): raise OSError(errno.ENOTSUP, "Operation not supported")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with common.alone(tmp_path / ".lock", "a test"): pass
    assert capsys.readouterr().err == f"warning: {tmp_path} has no locks (Operation not supported): let no other run write to it\n"


def test_run_log_resumes_and_forgives_a_cut_line(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    for s in range(5): log.log(s, loss=1.0 / (s + 1))
    with open(log.path, "a") as f: f.write('{"step": 5, "lo')
    RunLog(log.path, resume_step=3).log(3, loss=9.0)
    records = read_log(log.path)
    assert [r["step"] for r in records] == [0, 1, 2, 3] and records[-1]["loss"] == 9.0


def test_run_log_outlives_garbage(tmp_path):
    "A damaged log must not keep a run from going on."
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0, "loss": 1}\n\xff\xfe\x00\nnull\n[1]\n{"loss": 2}\n{"step": "1"}\n{"step": true}\n' + b"[" * 100_000 + b'\n{"step": 1, "loss": 3}\n')
    assert read_log(path) == [{"step": 0, "loss": 1}, {"step": 1, "loss": 3}]
    RunLog(path, resume_step=1).log(1, loss=4)
    assert read_log(path) == [{"step": 0, "loss": 1}, {"step": 1, "loss": 4}]


def test_summaries_find_their_log_wherever_the_folder_goes(tmp_path, monkeypatch):
    from dataclasses import dataclass
    @dataclass(frozen=True)
    class Config: x: int = 1
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "here"))
    log = RunLog(common.base_dir() / "report" / "base_train.jsonl")
    common.save_result("base_train", Config(), Runtime(torch.device("cpu"), torch.float32), 1., log=str(log.path))
    assert common.load_result("base_train")["log"] == str(log.path) and str(tmp_path) not in json.dumps(read_json(log.path.with_suffix(".json"))["log"])
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "there"))
    assert Path(common.load_result("base_train")["log"]).is_file()


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for resume in (None, 3, None):
        log = RunLog(tmp_path / "base_train.jsonl", resume_step=resume, tracker="wandb", run="test")
        log.log(1, loss=2.)
        ids.append((tmp_path / "base_train.wandb").read_text())
        import wandb
        wandb.finish()
    assert ids[0] == ids[1] != ids[2]


SAID = ["The cat <sat> on", dict(prompt="Why?", text="a\n    b")]     # what a stage's `sample` returns: strings, or dicts


def test_samples_reach_wandb(tmp_path, monkeypatch):
    "A stand-in with wandb's three names writes down what it is given; the real one is asked above, where it is installed."
    import types
    class Run:
        id = "7"
        def log(self, metrics, step): (tmp_path / f"{step}.json").write_text(json.dumps(metrics))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **kw: Run(), Html=lambda text: dict(html=text)))
    RunLog(tmp_path / "base_train.jsonl", tracker="wandb").log(3, loss=2., samples=SAID, note="fine", parts=dict(a=1), none=[])
    assert read_json(tmp_path / "3.json") == {"loss": 2., "note": {"html": "<pre>fine</pre>"},
        "samples": {"html": "<pre>The cat &lt;sat&gt; on\n\nprompt: Why?\ntext: a\n    b</pre>"}}


def test_samples_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    RunLog(tmp_path / "base_train.jsonl", tracker="tensorboard", run="test").log(3, loss=2., samples=SAID)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "test")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 2.)]
    shown, = events.Tensors("samples/text_summary")
    assert shown.step == 3 and [x.decode() for x in shown.tensor_proto.string_val] == [
        "    The cat <sat> on\n    \n    prompt: Why?\n    text: a\n        b"]


def test_unknown_tracker_and_dtype_are_refused(tmp_path):
    with pytest.raises(CourseError, match="tracker"): RunLog(tmp_path / "l", tracker="excel")
    with pytest.raises(CourseError, match="dtype"):
        with runtime(dtype="int3"): pass


def test_sha256_agrees_with_coreutils(tmp_path):
    (tmp_path / "f").write_bytes(os.urandom(100_000))
    out = subprocess.run(["sha256sum", str(tmp_path / "f")], capture_output=True, text=True).stdout
    assert out.split()[0] == common.sha256(tmp_path / "f")


def test_seed_everything_repeats():
    import random
    draw = lambda: (common.seed_everything(3), torch.rand(2).tolist(), random.random())[1:]
    assert draw() == draw()


def _reduce(rank, world, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=Path(folder, "port").read_text())
    with runtime(device="cpu", dtype="float32") as rt:
        x = torch.tensor([float(rank + 1)])
        rt.barrier()
        write_json(Path(folder) / f"{rank}.json", [rt.all_reduce(x, op).item() for op in ("sum", "mean", "max", "min")] + [x.item(), rt.is_main])


@pytest.mark.parametrize("world", [2, 4])
def test_runtime_in_real_processes(tmp_path, world):
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(s.getsockname()[1]))
    forked.start_server()
    mp.start_processes(_reduce, (world, str(tmp_path)), nprocs=world, start_method="forkserver")
    total = sum(range(1, world + 1))
    for r in range(world): assert read_json(tmp_path / f"{r}.json", list) == [total, total / world, world, 1, r + 1, r == 0]


COMMAND = """
import os, sys, torch
from dataclasses import dataclass
from nanochat_course.common import CourseError, base_dir, run_main
@dataclass(frozen=True)
class Config:
    "c"
    depth:int=4   # number of layers
def stage(config):
    "Say hello."
    if config.depth == 13: raise CourseError("depth 13 is bad luck: choose 12")
    if config.depth == 14: raise KeyboardInterrupt
    if config.depth == 15: open("/dev/full", "w").write("x" * 100_000)
    if config.depth == 16: raise MemoryError
    if config.depth == 17: torch.empty(2**50)
    if config.depth == 18: base_dir()
    if config.depth == 19: open("/nowhere/at/all")
    if config.depth == 20: raise RuntimeError("a fault of ours")
    print(config.depth)
run_main(stage, Config)
"""


@pytest.mark.parametrize("flag,status,text", [("4", 0, "4"), ("13", 2, "error: depth 13 is bad luck: choose 12"), ("14", 130, "interrupted"), ("x", 2, "depth"),
    ("15", 2, "error: No space left on device"), ("16", 2, "error: out of memory"), ("17", 2, "error: out of memory"), ("18", 2, "is not a folder"), ("19", 2, "/nowhere/at/all")])
def test_run_main_statuses(flag, status, text, tmp_path):
    (tmp_path / "file").write_text("")
    done = forked.run([sys.executable, "-c", COMMAND, "--depth", flag], env=dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path / "file")), capture_output=True, text=True)
    assert done.returncode == status and text in done.stdout + done.stderr and "Traceback" not in done.stderr
    if status == 2 and flag != "x": assert done.stderr.strip().count("\n") == 0 and done.stderr.startswith("error: ")


def test_a_fault_of_the_program_keeps_its_traceback():
    done = forked.run([sys.executable, "-c", COMMAND, "--depth", "20"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "a fault of ours" in done.stderr


def test_output_that_knows_only_ascii():
    code = COMMAND.replace("print(config.depth)", "print('4 · 5')")
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, PYTHONIOENCODING="ascii"), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "4 ? 5\n"


def test_the_name_that_was_typed_is_the_name_in_the_help(tmp_path):
    program = tmp_path / "nanochat-something"
    program.write_text(COMMAND)
    assert "usage: nanochat-something" in forked.run([sys.executable, str(program), "--help"], capture_output=True, text=True).stdout


RANKS = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
from nanochat_course.common import CourseError, run_main
@dataclass(frozen=True)
class Config:
    how:str=""
def stage(config):
    "One of several."
    with open(sys.argv[0] + ".calls", "a") as f: f.write(os.environ["RANK"])
    if config.how == "mistake": raise CourseError("no corpus here: make one")
    if config.how == "crash" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0": os.kill(os.getpid(), 9)
run_main(stage, Config)
"""


@pytest.mark.parametrize("how,status,calls", [("mistake", 1, 2), ("crash", 0, 4)])
def test_ranks_say_a_mistake_once_and_are_not_started_again_for_it(tmp_path, how, status, calls):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    done = forked.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=2", str(script), "--how", how],
                          env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=280)
    assert done.returncode == status and done.stderr.count("error: no corpus here: make one\n") == (how == "mistake"), done.stderr[-2000:]
    assert calls - 1 <= len((tmp_path / "ranks.py.calls").read_text()) <= calls      # the second rank may be ended before it begins


TRAINS = COMMAND.replace("    depth:int=4", "    save_every:int=4 # steps\n    depth:int=4").replace("print(config.depth)", "print('at work', flush=True); __import__('time').sleep(60)")


def test_two_commands_that_train_do_not_share_a_folder(tmp_path):
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path))
    first = forked.Popen([sys.executable, "-c", TRAINS], env=env, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "at work\n"
    second = forked.run([sys.executable, "-c", TRAINS], env=env, capture_output=True, text=True, timeout=280)
    assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr and second.stderr.count("\n") == 1
    first.kill()
    first.wait()
    third = forked.run([sys.executable, "-c", TRAINS, "--depth", "13"], env=env, capture_output=True, text=True, timeout=280)
    assert "depth 13 is bad luck" in third.stderr


def test_help_comes_from_field_comments(tmp_path):
    (tmp_path / "m.py").write_text(COMMAND)
    done = forked.run([sys.executable, str(tmp_path / "m.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "number of layers" in done.stdout and "Say hello." in done.stdout


def test_exercise_verdicts(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    @exercise("t")
    def check(f): assert f(2) == 4, "two squared is four"
    def stub(x): ...
    def stub_doc(x): pass
    for f in (stub, stub_doc, lambda x: x, lambda x: x * x, lambda x: 1 / 0): check(f)
    assert capsys.readouterr().out.splitlines() == ["t: not solved yet"] * 2 + ["t: not yet: two squared is four", "t: solved",
        "t: not yet: it raised ZeroDivisionError: division by zero"]
    assert [json.loads(line)["exercise"] for line in (tmp_path / "progress.jsonl").read_text().splitlines()] == ["t"]
    assert is_stub(stub) and is_stub(stub_doc) and not is_stub(lambda x: x) and not is_stub(lambda x: 1)
    with pytest.raises(AssertionError, match="a wrong answer passes"): check.verify(lambda x: x * x, wrong=[lambda x: x + x])
    with pytest.raises(AssertionError, match="the solution is rejected"): check.verify(lambda x: x, wrong=[])


def test_progress_by_chapter(tmp_path, monkeypatch):
    "What was solved, from a file that somebody's editor has damaged; inside the repository with what is still open."
    here = Path(__file__).resolve().parent.parent
    (tmp_path / "progress.jsonl").write_bytes(b'{"exercise": "10.1 a", "time": 1}\n\xff\nnull\n{"exercise": 3}\n{"exercise": "90.1 global mean"}\n{"exercise": "10.1 a"}\n{"exerc')
    def listed(folder):
        env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path), PYTHONPATH=str(here), PYTHONIOENCODING="utf-8")
        return forked.run([sys.executable, "-m", "nanochat_course.exercises"], env=env, cwd=folder, capture_output=True, text=True).stdout.splitlines()
    outside, inside = listed(tmp_path), listed(here)
    assert [line.split(maxsplit=4) for line in outside] == [["10", "1", "of", "1", "✓ 10.1 a"], ["90", "1", "of", "1", "✓ 90.1 global mean"], ["in", "all", "2", "of", "2"]]
    assert any(line.startswith("90_common ") and "1 of 2" in line and "✓ 90.1 global mean · – 90.2" in line for line in inside)
    assert int(inside[-2].split()[-1]) > 60 and inside[-1].startswith("next: ")


def test_an_answer_counts_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "progress.jsonl").mkdir()
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    @exercise("t")
    def check(f): assert f(2) == 4
    check(lambda x: x * x)
    assert capsys.readouterr().out.splitlines() == ["t: solved", "(not remembered: Is a directory)"]


def test_peak_memory_is_in_bytes():
    before = common.peak_memory(torch.device("cpu"))
    x = torch.ones(50_000_000)                                             # 200 MB
    assert x.sum() > 0 and common.peak_memory(torch.device("cpu")) - before > 100e6 or before > 1e9


def test_runtime_alone_needs_no_world():
    rt = Runtime(torch.device("cpu"), torch.float32)
    rt.barrier()
    assert rt.is_main and not rt.distributed and rt.all_reduce(torch.tensor(3.0), "mean") == 3


def test_a_gpu_can_be_named(monkeypatch):
    "The only process takes the GPU that it was told; of several, each takes its own."
    import torch.distributed
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name, index in (("cuda:1", 1), ("cuda", 0)):
        with runtime(name, "float32") as rt: assert rt.device == torch.device("cuda", index) == chosen[-1]
    for method in ("init_process_group", "destroy_process_group"): monkeypatch.setattr(torch.distributed, method, lambda *args, **kw: None)
    for key, value in dict(RANK="3", LOCAL_RANK="3", WORLD_SIZE="4").items(): monkeypatch.setenv(key, value)
    with runtime("cuda", "float32") as rt: assert rt.device.index == 3
