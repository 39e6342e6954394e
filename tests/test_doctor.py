"The doctor: each check is made to fail by the real thing wherever this machine has it, and is seen to pass otherwise."
import json, os, signal, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import forked
import psutil
import pytest
import torch
from nanochat_course import doctor
from nanochat_course.common import CourseError, base_dir
from nanochat_course.doctor import DoctorConfig, Finding, examine, in_group, make_job
from nanochat_course.scaling import plan

HERE = str(Path(__file__).parent)
ROOT = Path(HERE).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch, tmp_path):
    "Processes that a check starts find this module; each test has a data folder of its own."
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), HERE]))
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture
def tiny(): return make_job(DoctorConfig(preset="tiny"))


@pytest.fixture
def real(): return make_job(DoctorConfig(preset="8xh100"))


# ---- what a run asks for ----

def test_job_is_what_the_speedrun_would_do(tiny, real):
    assert (tiny.gpus, tiny.ranks, tiny.device) == (0, 1, "cpu") and (real.gpus, real.ranks, real.device) == (8, 8, "cuda")
    asked = make_job(DoctorConfig(preset="8xh100", gpus=2, set=("base_train.depth=20", "base_train.device_batch_size=8")))
    assert (asked.ranks, asked.plan.depth, asked.plan.device_batch_size, asked.plan.world_size) == (2, 20, 8, 2)
    assert make_job(DoctorConfig(preset="8xh100", gpus=8, nodes=2, master="localhost:1")).plan.world_size == 16


def test_no_gpu_is_asked_for_by_stages_that_need_none():
    job = make_job(DoctorConfig(preset="8xh100", until="tok_train"))
    assert job.gpus == 0 and doctor.applicable(job) == ["disk", "memory", "files", "hub"]


def test_checks_that_apply(tiny, real):
    assert doctor.applicable(tiny) == ["disk", "memory", "files", "compiler", "attention", "gloo", "step"]
    assert doctor.applicable(real) == [n for n in doctor.CHECKS if n != "shared"]
    several = make_job(DoctorConfig(preset="8xh100", nodes=2, node_rank=1, master="localhost:1"))
    assert doctor.applicable(several) == list(doctor.CHECKS)
    bf16 = make_job(DoctorConfig(preset="8xh100", set=("base_train.fp8=false",)))
    assert "fp8" not in doctor.applicable(bf16)


@pytest.mark.parametrize("flags, words", [
    (dict(preset="9xh100"), "unknown preset"), (dict(preset="tiny", only="disk,disc"), "unknown check 'disc'"),
    (dict(preset="tiny", nodes=2), "--master"), (dict(preset="tiny", nodes=2, master="a:1", node_rank=2), "--node-rank below 2"),
    (dict(preset="tiny", set=("base_train.dept=3",)), "perhaps you meant depth")])
def test_wrong_flags(flags, words):
    with pytest.raises(CourseError, match=words): doctor.doctor(DoctorConfig(**flags))


# ---- the machine ----

def test_disk(tiny, real, tmp_path):
    assert doctor.check_disk(tiny).status == "ok"
    full = doctor.check_disk(tiny, need=1e18)
    assert full.status == "failed" and "NANOCHAT_COURSE_DIR" in full.advice
    assert not list(base_dir().iterdir()), "the trial file is removed"
    # text of 124 shards, and nine checkpoints of weights and states in float32, which the plan counts by group
    n = real.plan.params
    states = 2 * (n["total"] - n["matrix"]) + n["matrix"]
    assert doctor.disk_need(real) == 124 * 100e6 + 9 * 4 * (n["total"] + states)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_disk_that_takes_no_more(tiny, monkeypatch):
    "Enough room on paper, and the first byte is refused: by the kernel, as a quota would."
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", lambda dir: open("/dev/full", "wb", buffering=0))
    finding = doctor.check_disk(tiny)
    assert finding.status == "failed" and "No space left" in finding.found


def test_folder_that_cannot_be_written(monkeypatch):
    "As an ordinary user: root may write anywhere."
    script = ("import os; from nanochat_course.doctor import *; job = make_job(DoctorConfig(preset='tiny'))\n"
              "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
              "f = check_disk(job); print(f.status, f.found)")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o555)
        monkeypatch.setenv("NANOCHAT_COURSE_DIR", folder)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        os.chmod(folder, 0o755)
    assert done.stdout.startswith("failed") and "Permission denied" in done.stdout, done.stdout + done.stderr[-2000:]


def test_what_is_there_need_not_be_written_again(tiny):
    (base_dir() / "data" / "docstrings").mkdir(parents=True)
    (base_dir() / "data" / "docstrings" / "shard_00000.parquet").write_bytes(bytes(1000))
    (base_dir() / "base_checkpoints" / "tiny" / "step_1").mkdir(parents=True)
    (base_dir() / "base_checkpoints" / "tiny" / "step_1" / "model").write_bytes(bytes(234))
    (base_dir() / "base_checkpoints" / "other").mkdir()
    (base_dir() / "base_checkpoints" / "other" / "model").write_bytes(bytes(50))
    assert doctor.present(tiny) == 1234


def test_memory(tiny, real):
    assert doctor.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2) or Path("/sys/fs/cgroup/memory.max").exists()
    assert doctor.check_memory(tiny).status == "ok"
    assert doctor.check_memory(tiny, need=1e15).status == "failed"
    assert float(doctor.check_memory(real).wanted.split()[0]) == pytest.approx(32 + 8 * 1.384, rel=0.5)


@pytest.mark.parametrize("files, room", [
    ({"memory.max": "max", "memory.current": "5"}, 1024 * 4000), ({"memory.max": "3000000", "memory.current": "1000000"}, 2e6),
    ({"memory/memory.limit_in_bytes": "3000000", "memory/memory.usage_in_bytes": "500000"}, 2.5e6),
    ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 1024 * 4000), ({}, 1024 * 4000)])
def test_memory_of_a_container(tmp_path, files, room):
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemAvailable:  4000 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert doctor.available_memory(tmp_path / "meminfo", tmp_path) == room


def test_memory_that_nobody_tells(tmp_path): assert doctor.available_memory(tmp_path / "no", tmp_path) is None


def test_shared_memory(tiny, real, tmp_path):
    assert doctor.check_shm(real, folder=tmp_path, need=1).status == "ok"
    short = doctor.check_shm(real, folder=tmp_path, need=1e18)
    assert short.status == "failed" and "--ipc=host" in short.advice
    assert doctor.check_shm(tiny, folder=tmp_path, need=1e18).status == "warning", "one process does without"
    assert doctor.check_shm(real, folder=tmp_path / "no").status == "failed"


def test_open_files(tiny):
    "With a limit that the kernel really sets."
    script = ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 800))\n"
              "from nanochat_course.doctor import *; f = check_files(make_job(DoctorConfig(preset='tiny'))); print(f.status, f.found, f.advice)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "failed 512 open files type: ulimit -n 800", done.stderr
    assert doctor.check_files(tiny, need=3).status == "ok"


# ---- the hub ----

class Hub(BaseHTTPRequestHandler):
    status, size, hang, seen = 200, 2**20, 0, []

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.hang: time.sleep(self.server.hang)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.size))
        self.end_headers()
        try: self.wfile.write(bytes(self.server.size))
        except OSError: pass

    def log_message(self, *args): pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.status, server.size, server.hang, server.seen = 200, 2**22, 0, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_hub_that_answers(real, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    finding = doctor.check_hub(real)
    assert finding.status == "ok" and "MB/s" in finding.found
    assert hub.seen == [("/datasets/karpathy/climbmix-400b-shuffle/resolve/main/shard_06542.parquet", "Bearer secret")]
    assert doctor.check_hub(real, slow=0.).status == "warning", "a slow line makes a run late, it does not end it"


@pytest.mark.parametrize("status, cure", [(404, "HF_ENDPOINT"), (401, "HF_TOKEN"), (429, "HF_TOKEN"), (503, "later")])
def test_hub_that_refuses(real, hub, status, cure):
    hub.status = status
    finding = doctor.check_hub(real)
    assert finding.status == "failed" and str(status) in finding.found and cure in finding.advice


def test_hub_that_nobody_runs(real, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finding = doctor.check_hub(real)
    assert finding.status == "failed" and "refused" in finding.found and "HTTPS_PROXY" in finding.advice


def test_hub_that_hangs(real, hub):
    hub.hang = 60
    began = time.time()
    finding = examine(doctor.check_hub, real, limit=2)
    assert finding.status == "failed" and "no answer" in finding.found and time.time() - began < 40


def test_hub_is_not_asked_for_what_is_here(hub):
    job = make_job(DoctorConfig(preset="8xh100", set=("corpus.num_shards=2",)))
    folder = base_dir() / "data" / "climbmix"
    folder.mkdir(parents=True)
    for name in ("shard_00000", "shard_00001"): (folder / f"{name}.parquet").touch()
    assert doctor.missing_shards(job) == ["shard_06542.parquet"]
    (folder / "shard_06542.parquet").touch()
    assert doctor.check_hub(job).status == "ok" and not hub.seen


# ---- GPUs ----

@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there(real):
    gpus = doctor.check_gpus(real)
    assert gpus.status == "failed" and gpus.found == "torch can use 0" and gpus.wanted.startswith("8 ") and gpus.advice
    for check in (doctor.check_capability, doctor.check_fp8, doctor.check_driver): assert check(real).status == "failed", check


@pytest.mark.parametrize("driver, cuda, status", [
    ("535.104.05", "13.0", "failed"), ("570.86.10", "13.0", "failed"), ("580.65.06", "13.0", "ok"), ("590.1", "13.2", "ok"),
    ("535.104.05", "12.8", "ok"), ("470.57.02", "12.8", "failed"), ("", "13.0", "failed"), ("535", None, "failed")])
def test_driver_and_torch(driver, cuda, status):
    finding = doctor.driver_finding(driver, cuda)
    assert finding.status == status
    if driver and cuda and status == "failed": assert "constraints-cu128.txt" in finding.advice and driver in finding.found


def test_driver_version_is_read_from_the_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.driver_version() == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 535.104.05\necho 535.104.05\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert doctor.driver_version() == "535.104.05"


def test_attention_of_the_plan(tiny):
    assert doctor.check_attention(tiny).status == "ok"
    for window in (-1, 37):
        assert max(doctor.attention_error("auto", window, "cpu", torch.float32, T=100)) < 1e-5
        assert 1e-4 < max(doctor.attention_error("auto", window, "cpu", torch.bfloat16, T=100)) < 0.02, "rounding is seen"


def test_wrong_attention_is_seen(tiny, monkeypatch):
    "A window that is one token too wide."
    true = doctor.attention
    windowed = make_job(DoctorConfig(preset="tiny", set=("base_train.window_pattern=S",)))
    assert doctor.check_attention(windowed).status == "ok"
    monkeypatch.setattr(doctor, "attention", lambda q, k, v, w, b: true(q, k, v, w if w < 0 else w + 1, b))
    assert doctor.check_attention(windowed).status == "failed"


def test_speeds():
    assert doctor.slow_ranks([10., 10., 10., 8.4, 10., 10., 10., 5.]) == [3, 7]
    assert doctor.slow_ranks([10.]) == [] == doctor.slow_ranks([10., 9., 11.])
    assert 0 < doctor.gpu_speed("cpu", n=64, repeat=2) < 1e15


def test_rank_that_is_slower(tiny, monkeypatch):
    answers = [dict(flops=700e12, bus=3e11)] * 7 + [dict(flops=400e12, bus=3e11)]
    monkeypatch.setattr(doctor, "in_group", lambda *args: answers)
    finding = doctor.check_nccl(tiny)
    assert finding.status == "warning" and finding.advice.startswith("GPU 7 ")


# ---- the compiler ----

def test_compiler_that_is_missing(tiny, tmp_path, monkeypatch):
    for name in ("CC", "CXX"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    compiled = make_job(DoctorConfig(preset="tiny", set=("base_train.compile=on",)))
    finding = examine(doctor.check_compiler, compiled, 200)
    assert finding.status == "failed" and "build-essential" in finding.advice


def test_importing_touches_no_gpu():
    "The checks' processes are forked from one that has imported this: had it asked CUDA anything, they could not use it."
    script = ("import torch\ndef asked(*args): raise SystemExit('CUDA was asked')\n"
              "torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = torch._C._cuda_getDeviceCount = asked\n"
              "import nanochat_course.doctor; print('fine')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


# ---- groups ----

def hangs(job):
    (base_dir() / f"pid_{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(1e6)

def dies(job):
    if os.environ["RANK"] == "1": os.kill(os.getpid(), signal.SIGKILL)
    return doctor.rank_sum(job)

def fails(job):
    if os.environ["RANK"] == "1": raise ValueError("rank one has had enough\nsecond line")
    return {}

def check_hangs(job): return in_group(job, hangs, 2)
def check_crashes(job): os.abort()
def check_raises(job): raise KeyError("no such thing")


def test_rank_that_dies(tiny):
    with pytest.raises(CourseError, match="rank 1 of 2 died without a word|rank 0, 1 of 2 died"): in_group(tiny, dies, 2)


def test_rank_that_fails(tiny):
    with pytest.raises(CourseError, match="rank 1: rank one has had enough$"): in_group(tiny, fails, 2)


def test_group_that_hangs_leaves_no_process(tiny):
    finding = examine(check_hangs, tiny, limit=20)
    assert finding.status == "failed" and "no answer in 20 s" in finding.found
    pids = [int(f.read_text()) for f in base_dir().glob("pid_*")]
    assert pids, "the ranks had begun"
    for _ in range(100):
        alive = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
        if not alive: return
        time.sleep(0.1)
    raise AssertionError(f"{alive} still run")


def test_a_crash_takes_only_itself(tiny):
    assert "died" in examine(check_crashes, tiny, 60).found
    assert examine(check_raises, tiny, 60) == Finding("KeyError: 'no such thing'", "no error", "failed", "see to the message")
    assert examine(doctor.check_files, tiny, 60).status == "ok"


def test_speed_of_a_group(tiny):
    "The very function of the NCCL check, on gloo: the links of one machine are as slow as they are, the sum is right."
    assert doctor.check_nccl(tiny, ranks=2).status in ("ok", "warning")


def test_folder_that_only_one_machine_has(tiny):
    assert [a["seen"] for a in in_group(tiny, elsewhere, 2)] == [True, False]

def elsewhere(job):
    "A machine that has a folder of its own under the same name."
    os.environ["NANOCHAT_COURSE_DIR"] += os.environ["RANK"]
    return doctor.read_nonce(job)


# ---- the step; the chapter itself makes the tiny one ----

def test_the_step_is_the_one_of_the_run():
    "Settings of the optimizer reach it: the first loss is the same, the next ones are not."
    plain, set_so = (doctor.train_steps(make_job(DoctorConfig(preset="tiny", set=flags)))["losses"]
                     for flags in ((), ("base_train.muon_beta2=0.9", "base_train.equilibrate=true")))
    assert set_so[0] == plain[0] and set_so[1:] != plain[1:] and max(plain[2], set_so[2]) < plain[0]


def answer(losses=(7., 6., 5.), peak=50, memory=100): return dict(losses=list(losses), seconds=[9., 1.], peak=peak, memory=memory)

@pytest.mark.parametrize("answers, status", [
    ([answer()] * 2, "ok"), ([answer(), answer(peak=97)], "warning"), ([answer(), answer((7., float("nan"), 5.))], "failed"),
    ([answer(), answer((5., 6., 7.))], "failed"), ([answer(memory=None)], "ok")])
def test_what_a_step_tells(tiny, answers, status):
    assert doctor.step_finding(tiny, answers, "", "").status == status


@pytest.mark.parametrize("told, advice", [("rank 3: CUDA out of memory. Tried to allocate 2.00 GiB", "device_batch_size (now 4)"),
                                          ("rank 0: FP8 was asked for, but device cpu has no 8-bit matrix product", "compile=off")])
def test_step_that_does_not_work(tiny, monkeypatch, told, advice):
    "What `in_group` says of a rank that failed (see above) becomes advice."
    def group(job, fn): raise CourseError(told)
    monkeypatch.setattr(doctor, "in_group", group)
    finding = doctor.check_step(tiny)
    assert (finding.status, finding.found) == ("failed", told) and advice in finding.advice


# ---- the command ----

def command(*words, **env):
    return forked.run([sys.executable, "-m", "nanochat_course.doctor", *words], capture_output=True, text=True, env={**os.environ, **env})


def test_command():
    done = command("--preset", "tiny", "--only", "files,disk", "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] and list(result["checks"]) == ["disk", "files"]
    assert set(result["checks"]["disk"]) == {"found", "wanted", "status", "advice", "seconds"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_failure_does_not_hide_the_next():
    done = command("--preset", "8xh100", "--only", "driver,hub,gpus,files", "--until", "", HF_ENDPOINT="http://127.0.0.1:9")
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[-1] == "not ready: hub, driver, gpus"
    assert [x.split()[:2] for x in lines[:-1] if not x.startswith(" ")] == [["ok", "files"], ["failed", "hub"], ["failed", "driver"], ["failed", "gpus"]]
    assert sum(x.startswith(" " * 20 + " -> ") for x in lines) == 3, "each with advice"


def test_wrong_flag_is_one_line():
    done = command("--preset", "tony")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "unknown preset" in done.stderr


def test_plan_has_what_the_doctor_reads():
    assert {"total", "embedding", "unembedding", "matrix"} <= set(plan(4).params)
