"What every chapter of the labs owes its readers: parameters that are explained, and a module that is written whole."
import importlib, inspect, subprocess, sys
from pathlib import Path

import pytest
from fastcore.docments import docments

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ["zero2", "zero3", "precision", "sandbox", *(f"labs.{p.stem}" for p in (ROOT / "nanochat_course" / "labs").glob("[a-z]*.py"))]


def public_functions(module):
    "Functions that a module offers, and the public methods (and constructors) of its classes."
    for name in module.__all__:
        thing = getattr(module, name)
        if getattr(thing, "__module__", "") != module.__name__: continue
        if inspect.isfunction(thing): yield name, thing
        if not inspect.isclass(thing): continue
        for method, f in vars(thing).items():
            f = getattr(f, "__func__", f)
            own = inspect.isfunction(f) and f.__module__ == module.__name__ and f.__qualname__.startswith(name)
            if own and (method == "__init__" or not method.startswith("_")): yield f"{name}.{method}", f


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_parameter_is_explained(name):
    "By a comment of its own: meaning, shape, unit."
    missing = []
    for label, f in public_functions(importlib.import_module(f"nanochat_course.{name}")):
        try: said = docments(f)
        except (OSError, TypeError): continue                      # a dataclass makes its own constructor; its fields are explained
        gathered = [p.name for p in inspect.signature(f).parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        hidden = {"self", "cls", "return", *gathered}                # fastcore does not see the comment behind **settings
        missing += [f"{label}({p})" for p, text in said.items() if p not in hidden and not text]
    assert not missing


def test_exporting_twice_writes_the_same(tmp_path):
    "nbdev by itself appends to a module that is named in `#| export labs.x`."
    code = ("import sys; from pathlib import Path; sys.path.insert(0, 'tools'); import notebook\n"
            "path, lib = Path('nbs/60_zero2.ipynb').resolve(), Path(sys.argv[1])\n"
            "read = lambda: [(lib / f).read_text() for f in ('zero2.py', 'labs/zero2.py')]\n"
            "notebook.write_modules(path, lib); first = read()\n"
            "notebook.write_modules(path, lib); assert read() == first and 'def run_ranks' in first[1] and 'def run_ranks' not in first[0]\n"
            "assert 'code-fold' not in first[1]")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "nanochat_course"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
