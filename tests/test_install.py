"""The package as somebody has it who typed `pip install`: a wheel, its stated requirements and nothing else, outside the checkout.

The requirements are taken from the running environment: a fresh one gets links to exactly the distributions that the wheel's metadata
names, and those that they name. With NANOCHAT_COURSE_TEST_INSTALL=1 pip installs everything anew (minutes, and 1.3 GB).
"""
import importlib.metadata as metadata
import os, shutil, subprocess, sys, sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
REAL = os.environ.get("NANOCHAT_COURSE_TEST_INSTALL") == "1"


def sh(*args, **kwargs):
    kwargs.setdefault("env", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"})      # which may name the checkout
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def closure(requirements):
    "Distributions that these requirements name, directly or through others; the versions that are here have to satisfy the bounds."
    found, todo = {}, [(Requirement(r), "") for r in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}): continue
        try: dist = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError: raise AssertionError(f"{requirement} is stated and not installed") from None
        assert requirement.specifier.contains(dist.version, prereleases=True), f"{requirement}, but here is {dist.version}"
        extras = frozenset(requirement.extras)
        if (dist.name, extras) in found: continue
        found[dist.name, extras] = dist
        todo += [(Requirement(r), e) for r in dist.requires or [] for e in (extras or {""})]
    return {dist.name: dist for dist in found.values()}.values()


def link(dist, site):
    "Everything of one distribution that lies in site-packages."
    for top in {file.parts[0] for file in dist.files if ".." not in file.parts and file.parts[0] != "__pycache__"}:
        source = Path(dist.locate_file(top))
        if source.exists() and not (site / top).exists(): (site / top).symlink_to(source)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    "The interpreter of an environment with the wheel in it."
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    source.mkdir()
    for f in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE", "nanochat_course"):
        (shutil.copytree if (ROOT / f).is_dir() else shutil.copy)(ROOT / f, source / f)
    sh(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *([] if REAL else ["--no-build-isolation"]), "-w", folder, source)
    wheel, = folder.glob("*.whl")
    sh(sys.executable, "-m", "venv", *([] if REAL else ["--without-pip"]), folder / "env")
    python = folder / "env" / "bin" / "python"
    if REAL: sh(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    else:
        sh(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
        site = folder / "env" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        stated, = metadata.distributions(name="nanochat_course", path=[str(site)])
        for dist in closure(stated.requires): link(dist, site)
    return python


def clean(tmp_path):
    "Nothing of the checkout, and nothing of this test session."
    return dict(cwd=tmp_path, env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"NANOCHAT_COURSE_DIR": str(tmp_path / "files")})


EVERYTHING = """
import contextlib, importlib, inspect, io, pkgutil, runpy, sys, warnings
import nanochat_course
assert "site-packages" in nanochat_course.__file__, nanochat_course.__file__
warnings.simplefilter("ignore")
stages = []
for module in pkgutil.iter_modules(nanochat_course.__path__):
    if module.name.startswith("_"): continue
    if "main" in vars(importlib.import_module(f"nanochat_course.{module.name}")): stages.append(module.name)
for stage in stages:
    out, sys.argv = io.StringIO(), [stage, "--help"]
    with contextlib.redirect_stdout(out):
        try: runpy.run_module(f"nanochat_course.{stage}", run_name="__main__", alter_sys=True)
        except SystemExit as end: assert not end.code, (stage, end.code)
    assert "usage" in out.getvalue().lower(), stage
import matplotlib.pyplot as plt
plt.style.use("nanochat_course.course")
from nanochat_course.tokenizer import train_bpe
assert "Parameters:" in inspect.getdoc(train_bpe)
for foreign in ("nbdev", "pytest", "IPython", "ipywidgets"):
    try: importlib.import_module(foreign)
    except ImportError: continue
    raise SystemExit(f"{foreign} is here, although nobody asked for it")
print(len(stages), "programs")
"""


@pytest.mark.timeout(1200)
def test_every_module_and_every_help(python, tmp_path):
    assert int(sh(python, "-c", EVERYTHING, **clean(tmp_path)).split()[-2]) >= 11


@pytest.mark.timeout(1200)
def test_commands_and_the_whole_pipeline(python, tmp_path):
    for command in ("nanochat-speedrun", "nanochat-chat"):
        assert "usage" in sh(python.parent / command, "--help", **clean(tmp_path)).lower()
    assert "report" in sh(python.parent / "nanochat-speedrun", "--preset", "tiny", **clean(tmp_path))
    assert list((tmp_path / "files").glob("chatrl_checkpoints/*")) and list((tmp_path / "files").glob("report/*"))
