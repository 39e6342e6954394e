"The ground floor: files, logs, runtime, commands, exercises."
import json, os, signal, subprocess, sys, textwrap, time
from pathlib import Path

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
        p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "go\n"
        time.sleep(wait)
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert len(read_json(path)) in (1000, 200000)


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
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "OSError\n"
    assert read_json(path) == [1] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", ["", "{", "\x00\x01", '{"a": 1'])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CourseError, match="x.json"): read_json(tmp_path / "x.json")


def test_run_log_resumes_and_forgives_a_cut_line(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    for s in range(5): log.log(s, loss=1.0 / (s + 1))
    with open(log.path, "a") as f: f.write('{"step": 5, "lo')
    RunLog(log.path, resume_step=3).log(3, loss=9.0)
    records = read_log(log.path)
    assert [r["step"] for r in records] == [0, 1, 2, 3] and records[-1]["loss"] == 9.0


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
    mp.spawn(_reduce, (world, str(tmp_path)), nprocs=world)
    total = sum(range(1, world + 1))
    for r in range(world): assert read_json(tmp_path / f"{r}.json") == [total, total / world, world, 1, r + 1, r == 0]


COMMAND = """
from dataclasses import dataclass
from nanochat_course.common import CourseError, run_main
@dataclass(frozen=True)
class Config:
    "c"
    depth:int=4   # number of layers
def stage(config):
    "Say hello."
    if config.depth == 13: raise CourseError("depth 13 is bad luck: choose 12")
    if config.depth == 14: raise KeyboardInterrupt
    print(config.depth)
run_main(stage, Config)
"""


@pytest.mark.parametrize("flag,status,text", [("4", 0, "4"), ("13", 2, "error: depth 13 is bad luck: choose 12"), ("14", 130, "interrupted"), ("x", 2, "depth")])
def test_run_main_statuses(flag, status, text):
    done = subprocess.run([sys.executable, "-c", COMMAND, "--depth", flag], capture_output=True, text=True)
    assert done.returncode == status and text in done.stdout + done.stderr and "Traceback" not in done.stderr
    if status == 2 and flag == "13": assert done.stderr.strip().count("\n") == 0


def test_help_comes_from_field_comments(tmp_path):
    (tmp_path / "m.py").write_text(COMMAND)
    done = subprocess.run([sys.executable, str(tmp_path / "m.py"), "--help"], capture_output=True, text=True)
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


def test_peak_memory_is_in_bytes():
    before = common.peak_memory(torch.device("cpu"))
    x = torch.ones(50_000_000)                                             # 200 MB
    assert x.sum() > 0 and common.peak_memory(torch.device("cpu")) - before > 100e6 or before > 1e9


def test_runtime_alone_needs_no_world():
    rt = Runtime(torch.device("cpu"), torch.float32)
    rt.barrier()
    assert rt.is_main and not rt.distributed and rt.all_reduce(torch.tensor(3.0), "mean") == 3
