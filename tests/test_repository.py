"The repository as a whole: layout, import order, sidebar, metadata."
import ast, json, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import chapters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


def imports(path):
    "The modules of the package that a module imports, anywhere in it."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("nanochat_course")): found.add(node.module or "")
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
    names = {name.removeprefix("nanochat_course").strip(".").split(".")[0] for name in found if name.startswith("nanochat_course") or "." not in name}
    return {name for name in names if name in MODULES and name != path.stem}


MODULES = {p.stem: p for p in (ROOT / "nanochat_course").glob("[a-z]*.py")}


def test_modules_import_without_circles():
    "Chapters stand in reading order, modules in an order of their own; but some order there is."
    left = {name: imports(path) for name, path in MODULES.items()}
    assert left["base_train"] >= {"gpt", "optim", "train"}, "the imports were found"
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready: del left[name]
    assert not left, f"these import each other: {left}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_chapter_needs_what_was_read_before(path):
    "What the first lines ask for has a lower number, or stands in the appendix."
    opening = "".join(json.loads(path.read_text())["cells"][0]["source"])
    needs = opening.partition("**You need**")[2].partition("**Reading**")[0]
    for number in re.findall(r"\]\((\d\d)_\w+\.ipynb", needs):
        assert number < path.stem[:2] or number >= "90", f"{path.stem} needs chapter {number}"


def test_sidebar_lists_every_notebook_in_order():
    contents = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [p for item in contents for p in ([item] if isinstance(item, str) else item["contents"])]
    there = ["index.ipynb", *(p.name for p in NOTEBOOKS)]
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
    if path.stem[3:] not in ("exercises", "glossary"):
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
    tools = {name(r) for r in config["DEFAULT"]["dev_requirements"].split()} - {"execnb", "ghapi", "pytest-timeout", "pytest-xdist"}      # parts of nbdev and of pytest
    assert not (stated | tools) - table, "without a reason in CONTRIBUTING.md"


def test_the_minutes_of_reading_are_counted():
    stated = [(c.name, c.stated) for c in chapters.chapters()]
    counted = [(c.name, (c.reading, c.exercise_minutes)) for c in chapters.chapters()]
    assert stated == counted, "run python tools/chapters.py --write"
    home = "".join("".join(c["source"]) for c in json.loads((ROOT / "nbs" / "index.ipynb").read_text())["cells"])
    for line in chapters.course_map(chapters.chapters()): assert line in home, "run python tools/chapters.py --write"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_name_no_machine(path):
    "A stored output shows no folder of the person who ran it."
    for cell in json.loads(path.read_text())["cells"]:
        shown = json.dumps([o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell.get("outputs", [])])
        assert not re.search(r"/(root|home|Users|work)/", shown), shown[:500]
