"The repository as a whole: layout, import order, sidebar, metadata."
import ast, json, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
NUMBER = {p.stem[3:]: int(p.stem[:2]) for p in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_module_imports_only_from_lower_floors(path):
    "A notebook's number is its place in the import order."
    module = ROOT / "nanochat_course" / f"{path.stem[3:]}.py"
    if not module.exists(): return            # a chapter that exports nothing
    for node in ast.walk(ast.parse(module.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom): names = [node.module or ""] if (node.level or (node.module or "").startswith("nanochat_course")) else []
        if isinstance(node, ast.Import): names = [a.name for a in node.names if a.name.startswith("nanochat_course")]
        for name in names:
            name = name.removeprefix("nanochat_course").strip(".")
            if name: assert NUMBER[name] < NUMBER[path.stem[3:]] or name == path.stem[3:], f"{path.stem} imports {name}, which comes later"


def test_what_runs_never_imports_the_labs():
    "Not even inside a function. The labs are for demonstrations, races and tests; they may import everything."
    labs = ROOT / "nanochat_course" / "labs"
    assert {p.stem for p in labs.glob("*.py")} > {"__init__"}
    for path in (ROOT / "nanochat_course").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom): names += [node.module or ""]
            assert not [n for n in names if re.search(r"(^|\.)labs(\.|$)", n)], f"{path.name}, line {node.lineno}, imports from the labs"


def test_sidebar_lists_every_notebook_in_order():
    contents = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [p for item in contents for p in ([item] if isinstance(item, str) else item["contents"])]
    first = ["index.ipynb", "05_first_light.ipynb"]                  # exports nothing, and is where a reader begins
    there = first + [p.name for p in NOTEBOOKS if p.name not in first]
    assert [p for p in listed if p in there] == there and set(listed) == set(there)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_a_finished_chapter(path):
    cells = json.loads(path.read_text())["cells"]
    source = ["".join(c["source"]) for c in cells]
    text = "\n".join(s for c, s in zip(cells, source) if c["cell_type"] == "markdown")
    code = "\n".join(s for c, s in zip(cells, source) if c["cell_type"] == "code")
    assert re.match(r"# .+\n\n> .+\n\n\*\*You will build\*\*", source[0]), "opens with title, one line, and what you will build"
    assert not [s for c, s in zip(cells, source) if c["cell_type"] == "code" and c["outputs"] and any(o["output_type"] == "error" for o in c["outputs"])]
    assert "#| eval: false" not in code
    if path.stem[3:] != "exercises":
        checked = (ROOT / "tests" / "exercises" / f"{path.stem}.py").read_text()
        assert checked.count(".verify(") >= 2, "at least two exercises, whose checks are themselves checked"
        assert ".verify(" not in code, "solutions are tried in tests/exercises, not on the page"
    assert ":::" not in text, "folded parts are <details>, which every reader of notebooks renders"
    assert text.count("<details") == text.count("</details>")
    assert "**Next**" in text, "ends with what comes next"
    for caption in re.findall(r"#\| fig-cap: (.*)", code): assert caption.strip()
    assert code.count("#| fig-cap:") == code.count("#| fig-alt:"), "every figure has a caption and alt text"
    for cell, s in zip(cells, source):
        if "#| fig-cap:" in s: assert any("image/png" in o.get("data", {}) for o in cell["outputs"]), f"a figure was not stored: {s[:200]}"
    for target in re.findall(r"\]\(((?:\d\d_\w+|index)\.ipynb)", text): assert (ROOT / "nbs" / target).exists(), f"links to {target}, which does not exist"


def test_metadata_is_in_one_place():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    version = config["DEFAULT"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "nanochat_course" / "__init__.py").read_text().replace("'", '"')
    done = subprocess.run([sys.executable, "setup.py", "--version", "--name"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[-2:] == ["nanochat_course", version] or set(done.stdout.split()[-2:]) == {"nanochat_course", version}


def test_nothing_is_pickled():
    for path in (ROOT / "nanochat_course").rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text and "torch.save(" not in text, f"{path.name} pickles"
        for call in re.findall(r"torch\.load\([^)]*\)", text): assert "weights_only=True" in call


def test_readme_is_made_from_the_home_page():
    readme = (ROOT / "README.md").read_text()
    first = "".join(json.loads((ROOT / "nbs" / "index.ipynb").read_text())["cells"][0]["source"]).splitlines()[0]
    assert readme.startswith(first)


def test_requirements_are_stated_and_explained():
    "What the package imports stands in settings.ini, and every requirement stands in CONTRIBUTING's table with its reason."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini")
    name = lambda requirement: re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")
    stated = {name(r) for r in config["DEFAULT"]["requirements"].split()}
    called = {"yaml": "pyyaml", "markdown_it": "markdown-it-py", "prompt_toolkit": "prompt-toolkit"}
    for path in (ROOT / "nanochat_course").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {n.partition(".")[0] for n in names} - sys.stdlib_module_names - {"nanochat_course"}:
                assert called.get(module, module) in stated, f"{path.name} imports {module}, which is not among the requirements"
    table = {name(cell) for row in re.findall(r"^\| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE) for cell in row.split(", ")}
    tools = {name(r) for r in config["DEFAULT"]["dev_requirements"].split()} - {"execnb", "ghapi", "pytest-timeout"}      # parts of nbdev and of pytest
    assert not (stated | tools) - table, "without a reason in CONTRIBUTING.md"
