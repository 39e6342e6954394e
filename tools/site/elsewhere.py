"""Chapters on machines of others: the links at the top of each page, and the notebooks that they open.

Colab opens notebooks from a repository and has no course installed. So the site brings copies of the chapters (_docs/notebooks), each with
a first cell that fetches the commit from which the page was made; the publishing workflow puts them on the branch `notebooks`.
Binder makes its environment from binder/ and opens the chapters as they are.
"""
import json, shutil, subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = '''\
# On Colab: fetch the course as it was when this page was made, with what it needs (a few minutes). Where it is installed, this does nothing.
import importlib.util, os, subprocess, sys
if importlib.util.find_spec("nanochat_course") is None:
    for command in ("git clone -q {repo} course", "git -C course checkout -q {ref}", f"{{sys.executable}} -m pip install -q ./course"):
        print(command)
        subprocess.run(command.split(), check=True)
    os.chdir("course/nbs")
'''


def commit(root=ROOT):
    "The commit from which the site is made; the branch's name where there is no repository."
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "main"


def links(stem, site, ref, reference=()):
    "One line of Markdown: where a chapter can be run, and the reference of the modules that it exports."
    name = site["repo-url"].removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{name}/blob/notebooks/{stem}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{name}/{ref}?labpath=nbs%2F{stem}.ipynb"
    names = "".join(f" · API: [{module}]({page}.md)" for module, page in reference)
    return f"::: {{.run data-pagefind-ignore=\"\"}}\nRun it: [Colab]({colab}) · [Binder]({binder}) · [notebook](notebooks/{stem}.ipynb){{data-noresolveinput=\"\"}}, or `make lab` on your own machine{names}\n:::"


def with_setup(nb, repo, ref):
    "A notebook with the cell that fetches the course before its first code."
    source = SETUP.format(repo=repo, ref=ref).strip("\n")
    cell = dict(cell_type="code", execution_count=None, id="setup", metadata={}, outputs=[], source=source.splitlines(True))
    first = next((i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "code"), 0)
    return nb | dict(cells=[*nb["cells"][:first], cell, *nb["cells"][first:]])


def write_notebooks(paths, docs, site, ref):
    "The copies that Colab opens, beside the pages."
    folder = docs / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in paths:
        nb = with_setup(json.loads(path.read_text(encoding="utf-8")), site["repo-url"], ref)
        (folder / path.name).write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
