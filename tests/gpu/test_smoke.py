"The GPU's checks on a CPU at small sizes: the comparisons hold, and see what is wrong. `make test-gpu` runs them on a GPU."
import json, subprocess, sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import checks


@pytest.mark.parametrize("name", [n for n in checks.CHECKS if n != "compile"])
def test_on_a_cpu(name): assert checks.CHECKS[name]("cpu")


def test_compiled_without_breaks():
    "Traced as on a GPU; the code generator is left out, which takes a minute here."
    assert checks.compiled_model("cpu", backend="aot_eager")["graphs"] == 1


@pytest.mark.parametrize("name, place, wrong", [
    ("head_loss", "head_loss", lambda f: lambda *a, **k: f(*a, **k) * 1.001),
    ("attention", "attention_error", lambda f: lambda b, w, *a: f(b, w, *a) if w < 0 else (0.5, 0.5)),
    ("newton_schulz", "polar_express", lambda f: lambda G, dtype: f(G, dtype=dtype) * (1.01 if dtype == torch.float32 and wobble() else 1)),
    ("adamw", "adamw_update_", lambda f: lambda *a, **k: f(*a, **k | dict(weight_decay=0.11))),
    ("muon", "muon_update_", lambda f: lambda W, *a, **k: f(W, *a, **k | dict(lr=0.02 if wobble() else 0.021))),
    ("fp8", "fp8_error", lambda f: lambda device: 0.2),
    ("window_memory", "attention", lambda f: lambda q, k, v, w, b: f(q, k, v, w - 1, b))])
def test_errors_are_seen(monkeypatch, name, place, wrong):
    monkeypatch.setattr(checks, place, wrong(getattr(checks, place)))
    with pytest.raises(AssertionError): checks.CHECKS[name]("cpu")

def test_flags_of_the_rehearsal_fit_the_preset():
    "The stages know them, and the plan can be made: on a GPU the rehearsal gets past its start."
    from nanochat_course.doctor import DoctorConfig, make_job
    from nanochat_course.speedrun import PRESETS, override, stage_config
    for stage, flags in override(PRESETS["8xh100"], tuple(checks.SHORT_FLAGS)).items(): stage_config(stage, flags)
    job = make_job(DoctorConfig(preset="8xh100", gpus=1, set=tuple(checks.SHORT_FLAGS)))
    assert (job.plan.num_iterations, job.plan.depth, job.ranks) == (50, 24, 1)


def test_no_name_of_a_package_is_taken():
    "run.py puts this folder first: a file kernels.py here hid the package that brings FlashAttention 3."
    import importlib.util
    for path in Path(checks.__file__).parent.glob("*.py"):
        found = importlib.util.find_spec(path.stem)
        assert path.stem != "kernels" and (found is None or Path(found.origin) == path), path


calls = [0]
def wobble():
    "Every second call is another one."
    calls[0] += 1
    return calls[0] % 2


def run(*words): return subprocess.run([sys.executable, str(Path(checks.__file__).parent / "run.py"), *words], capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so():
    done = run()
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1 and done.stdout.startswith("skipped, nothing was tested")


def test_result_file():
    path = checks.ROOT / "benchmarks" / "results" / "gpu-smoke-test.json"
    try:
        done = run("--device", "cpu", "--only", "adamw,nonsense", "--name", "smoke-test")
        assert done.returncode == 1 and "ok      adamw" in done.stdout and "FAILED  nonsense" in done.stdout
        told = json.loads(path.read_text())
        assert told["checks"]["adamw"]["measured"]["error"] < 1e-5 and "KeyError" in told["checks"]["nonsense"]["error"] and told["machine"]["torch"]
    finally: path.unlink(missing_ok=True)
