"The launchers in runs/: what they ask of a blank machine, what they install, and several machines, as two torchrun agents on loopback."
import json, os, re, shutil, socket, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import forked, pytest
from nanochat_course.common import read_log
from nanochat_course.corpus import write_shard
from nanochat_course.tokenizer import train_bpe
from test_install import closure

ROOT = Path(__file__).resolve().parent.parent
TOOLS = "bash sh dirname cat cksum head cut env grep true rm mkdir"


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def blank(tmp_path):
    "The PATH of a machine with Python, a compiler and some tools."
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS.split():
        if where := shutil.which(tool): (folder / tool).symlink_to(where)
    script(folder / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("gcc", "g++"): script(folder / name, "#!/bin/sh\n")
    return folder


def run(name, path, *words, cwd=ROOT, **env):
    done = subprocess.run(["bash", str(ROOT / "runs" / name), *words], cwd=cwd, capture_output=True, text=True,
                          env=dict(PATH=str(path), HOME=os.environ.get("HOME", "/"), **env))
    return done.returncode, done.stdout, done.stderr


def setup(path, **env): return run("setup.sh", path, **env)


def stand_in(folder, missing=""):
    "A python3 that lacks a module or the headers, and notes down what it would have installed."
    script(folder / "python3", f"""#!/bin/sh
case "$*" in *{missing or 'nothing-at-all'}*) exit 1;; esac
case "$1 $2" in "-m venv") mkdir -p "$3/bin"; printf '#!/bin/sh\\necho "$@"\\n' > "$3/bin/pip"; {shutil.which('chmod')} +x "$3/bin/pip"; exit 0;; esac
exec {sys.executable} "$@"
""")


def test_missing_compiler_is_named(blank, tmp_path):
    (blank / "gcc").unlink()
    status, out, err = setup(blank, VENV=str(tmp_path / "venv"))
    assert status == 1 and "build-essential" in err and err.count("\n") == 1 and not (tmp_path / "venv").exists()


@pytest.mark.parametrize("lacks, package", [("ensurepip", "python3-venv"), ("Python.h", "python3-dev")])
def test_missing_part_of_python_is_named(blank, tmp_path, lacks, package):
    stand_in(blank, lacks)
    status, out, err = setup(blank, VENV=str(tmp_path / "venv"))
    assert status == 1 and package in err and not (tmp_path / "venv").exists()


def test_all_that_is_missing_is_named_at_once(blank, tmp_path):
    stand_in(blank, "ensurepip")
    (blank / "g++").unlink()
    assert "python3-venv build-essential" in setup(blank, VENV=str(tmp_path / "venv"))[2]


def test_missing_python_is_named(blank, tmp_path):
    (blank / "python3").unlink()
    status, out, err = setup(blank, VENV=str(tmp_path / "venv"))
    assert status == 1 and "install one" in err and err.count("\n") == 1


@pytest.mark.parametrize("driver, env, wanted", [
    ("", {}, "-c constraints.txt -e ."), ("580.65.06", {}, "-c constraints.txt -e ."),
    ("535.104.05", {}, "-c constraints-cu128.txt --extra-index-url https://download.pytorch.org/whl/cu128 -e ."),
    ("580.65.06", dict(CUDA="12.8"), "-c constraints-cu128.txt --extra-index-url https://download.pytorch.org/whl/cu128 -e ."),
    ("535.104.05", dict(CUDA="13"), "-c constraints.txt -e .")])
def test_torch_fits_the_driver(blank, tmp_path, driver, env, wanted):
    stand_in(blank)
    if driver: script(blank / "nvidia-smi", f"#!/bin/sh\necho {driver}\necho {driver}\n")
    status, out, err = setup(blank, VENV=str(tmp_path / "venv"), **env)
    assert status == 0 and f"install -q --disable-pip-version-check {wanted}\n" in out, err
    assert "install" not in setup(blank, VENV=str(tmp_path / "venv"), **env)[1], "what is made is not made again"


def test_unknown_cuda(blank, tmp_path):
    stand_in(blank)
    status, out, err = setup(blank, VENV=str(tmp_path / "venv"), CUDA="11")
    assert status == 1 and "use 12.8 or 13" in err


def test_constraints_satisfy_the_requirements():
    from packaging.requirements import Requirement
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini")
    asked = {Requirement(r).name: Requirement(r).specifier for r in config["DEFAULT"]["requirements"].split()}
    for name in ("constraints.txt", "constraints-cu128.txt"):
        pins = [Requirement(line) for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert "torch" in {p.name for p in pins}
        for p in pins: assert asked[p.name].contains(str(p.specifier)[2:].split("+")[0]), p


def test_training_needs_no_notebooks():
    "What a training node installs: torch and some small packages."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini")
    names = {dist.name.lower() for dist in closure(config["DEFAULT"]["requirements"].split())}
    assert "torch" in names and not names & {"jupyterlab", "notebook", "ipykernel", "ipython", "nbdev", "pypandoc-binary", "pytest", "transformers"}


# ---- the doctor comes first ----

@pytest.fixture
def ready(blank, tmp_path):
    "A machine whose environment is made; its python notes down the module that it is to run."
    venv = tmp_path / "venv"
    stand_in(blank)
    assert setup(blank, VENV=str(venv))[0] == 0
    script(venv / "bin" / "python", '#!/bin/sh\necho "$@" >> "$0.log"\ncase "$2" in *doctor) exit ${DOCTOR_SAYS:-0};; esac\n')
    return venv


@pytest.mark.parametrize("env, modules", [({}, ["doctor", "speedrun"]), (dict(DOCTOR_SAYS="1"), ["doctor"]), (dict(DOCTOR="off"), ["speedrun"])])
def test_nothing_is_started_on_a_machine_that_is_not_ready(ready, blank, env, modules):
    status, _, err = run("speedrun_8xh100.sh", blank, "--gpus", "4", "--set", "base_train.depth=20", VENV=str(ready), **env)
    log = (ready / "bin" / "python.log").read_text().splitlines()
    assert log == [f"-m nanochat_course.{m} --preset 8xh100 --gpus 4 --set base_train.depth=20" for m in modules], err
    assert status == int(env.get("DOCTOR_SAYS", 0))


def test_flags_of_the_launcher_are_flags_of_both():
    from dataclasses import fields
    from nanochat_course.doctor import DoctorConfig
    from nanochat_course.speedrun import SpeedrunConfig
    assert {f.name for f in fields(SpeedrunConfig)} < {f.name for f in fields(DoctorConfig)}


# ---- several machines ----

def free_port():
    "A port that is free, and the next one too."
    for _ in range(100):
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            try: b.bind(("127.0.0.1", a.getsockname()[1] + 1))
            except (OSError, OverflowError): continue
            return a.getsockname()[1]


@pytest.fixture
def machine(tmp_path):
    "An environment that is this one, text, and a tokenizer."
    venv, base = tmp_path / "venv", tmp_path / "base"
    (venv / "bin").mkdir(parents=True)
    script(venv / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    mark = subprocess.run("cat settings.ini setup.py constraints*.txt | cksum", shell=True, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    (venv / ".made").write_text(f"{mark} CUDA 13\n")
    texts = [f"{i} times {j} is {i * j}, and {i} plus {j} is {i + j}. " * 8 for i in range(20) for j in range(20)]
    for shard, part in enumerate((texts[:300], texts[300:])): write_shard(base / "data" / "text" / f"shard_0000{shard}.parquet", part, 8)
    train_bpe(texts[:50], 300).save(base / "tokenizer")
    return dict(VENV=str(venv), NANOCHAT_COURSE_DIR=str(base), CUDA="13", PYTHON=sys.executable, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


def start(command, **env):
    popen = forked.Popen if command[0] == sys.executable else subprocess.Popen
    return popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(agents):
    "Outputs of all agents; none may outlive the test."
    try: return [(a.communicate(timeout=240)[0], a.returncode) for a in agents]
    finally: [a.kill() for a in agents if a.poll() is None]


TINY = "--device cpu --dtype float32 --corpus data/text --depth 1 --max-seq-len 64 --num-iterations 4 --device-batch-size 1 --total-batch-size 256 --eval-tokens 256 --eval-every 0"


def train_on(machine, nodes, tag):
    port, base = free_port(), Path(machine["NANOCHAT_COURSE_DIR"])
    words = TINY.replace("data/text", str(base / "data" / "text")).split()
    agents = [start(["bash", "runs/multinode.sh", *words, "--model-tag", tag], **machine, NNODES=str(nodes), NODE_RANK=str(i), GPUS=str(2 // nodes),
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DOCTOR="off") for i in range(nodes)]
    for out, status in end(agents): assert status == 0, out[-3000:]
    report = json.loads((base / "report" / "base_train.json").read_text())
    return report, [line["loss"] for line in read_log(base / "report" / "base_train.jsonl") if "loss" in line]


def test_two_machines_make_the_steps_of_one(machine):
    one, losses = train_on(machine, 1, "one")
    two, same = train_on(machine, 2, "two")
    assert one["world_size"] == two["world_size"] == 2 and len(losses) >= 1
    assert same == pytest.approx(losses, rel=1e-6) and two["metrics"]["val_bpb"] == pytest.approx(one["metrics"]["val_bpb"], rel=1e-6)


def test_doctor_sees_machines_that_share_no_folder(tmp_path):
    "The machine of rank 0 finds its own word, the other does not."
    port = free_port()
    words = "--preset tiny --only shared --nodes 2 --json --set base_train.total_batch_size=2048".split()
    agents = [start([sys.executable, "-m", "nanochat_course.doctor", *words, "--node-rank", str(i), "--master", f"127.0.0.1:{port}"],
                    NANOCHAT_COURSE_DIR=str(tmp_path / str(i)), PYTHONPATH=str(ROOT)) for i in range(2)]
    told = [(json.loads(out.splitlines()[-1])["checks"]["shared"], code) for out, code in end(agents)]
    assert sorted((finding["status"], code) for finding, code in told) == [("failed", 1), ("ok", 0)], told


def test_slurm_example_starts_a_launcher_on_each_machine(blank, ready, tmp_path):
    "With stand-ins for Slurm's own commands: srun starts its command once for each machine."
    script(blank / "scontrol", "#!/bin/sh\necho first\necho second\n")
    script(blank / "srun", '#!/bin/sh\nfor i in 0 1; do SLURM_NODEID=$i "$@" || exit 1; done\n')
    status, out, err = run("slurm.sh", blank, "--depth", "32", VENV=str(ready), SLURM_SUBMIT_DIR=str(ROOT), SLURM_JOB_NODELIST="x[1-2]", SLURM_JOB_NUM_NODES="2",
                           SLURM_JOB_ID="77", SLURM_GPUS_ON_NODE="8", NANOCHAT_COURSE_DIR=str(tmp_path))
    assert status == 0, err
    started = [line for line in (ready / "bin" / "python.log").read_text().splitlines() if "base_train" in line]
    assert [re.search(r"--node_rank=(\d)", line)[1] for line in started] == ["0", "1"]
    assert all("--nnodes=2" in s and "--rdzv_endpoint=first:29500" in s and "--rdzv_id=77" in s and s.endswith("nanochat_course.base_train --depth 32") for s in started)
