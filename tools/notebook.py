"""Edit, build and check the notebooks.

    python tools/notebook.py text  NAME ...   write nbs/NAME.ipynb as percent script to .pairs/NAME.py (not in git)
    python tools/notebook.py build NAME ...   .pairs/NAME.py -> nbs/NAME.ipynb, export the module, run, clean
    python tools/notebook.py draft NAME ...   the same without running; cells that did not change keep their outputs
    python tools/notebook.py run   NAME ...   run nbs/NAME.ipynb in place, so that its stored outputs are new
    python tools/notebook.py test [NAME ...]  run notebooks (all of them, two at a time) without storing anything, and after each the
                                              solved exercises and known wrong answers of tests/exercises/NAME.py
    python tools/notebook.py export           export all notebooks and write the module index
    python tools/notebook.py check            fail when a notebook is not clean or a module is not what its notebook exports
"""
import fcntl, hashlib, json, os, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, PAIRS, LIB = ROOT / "nbs", ROOT / ".pairs", ROOT / "nanochat_course"
EXERCISES = ROOT / "tests" / "exercises"
SLOW = ["00_first_light", "62_optimizer_lab", "43_mid_train", "61_zero3", "44_chat_sft", "23_dataloader", "55_doctor", "60_zero2", "27_train", "33_base_eval",
        "45_chat_rl", "22_corpus", "48_preferences", "25_precision"]           # more than half a minute: they begin, so that two workers end together
WIDGET, WIDGETS = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
os.chdir(ROOT)


def stable_ids(nb):
    "Give each cell an id made from its source, so that building twice writes the same file."
    seen = {}
    for cell in nb.cells:
        digest = hashlib.sha1(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, -1) + 1
        cell["id"] = digest + (f"-{seen[digest]}" if seen[digest] else "")
    nb.nbformat, nb.nbformat_minor = 4, 5


def fold_hidden(nb):
    "What the website leaves out is folded in JupyterLab and VS Code as well: setup cells, and cells that compute a folded answer."
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        hidden = any(line.replace(" ", "") in ("#|hide", "#|echo:false", "#|hide_input", "#|code-fold:true") for line in cell.source.splitlines()[:6])
        cell.metadata = {"jupyter": {"source_hidden": True}} if hidden else {}


def write_modules(path, lib):
    "Export a notebook's modules. One that is named in `#| export labs.x` is written anew; nbdev alone would append to it each time."
    from nbdev.export import nb_export
    from nbdev.maker import ModuleMaker
    def without_options(cell): cell.source = re.sub(r"\A(#\|.*\n)+", "", cell.source)     # of the page, as `code-fold`
    nb_export(path, lib, procs=[without_options], mod_maker=lambda *args, **settings: ModuleMaker(*args, **settings | dict(is_new=True)))


def export(path):
    "Export one notebook's modules; one process at a time."
    with open(Path(tempfile.gettempdir()) / "nanochat_course_export.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_modules(path, LIB)


def export_all():
    "What nbdev_export does, with `write_modules`."
    from nbdev.config import add_init
    from nbdev.doclinks import _build_modidx
    for path in sorted(NBS.glob("*.ipynb")): export(path)
    add_init(LIB)
    _build_modidx()


def clean(path):
    from nbdev.clean import process_write, clean_nb
    from functools import partial
    process_write(warn_msg=f"cannot clean {path}", proc_nb=partial(clean_nb, clear_all=False, allowed_cell_metadata_keys=["jupyter"]), f_in=path)


def widgets_shown(nb):
    "The ids of the widgets that cells show."
    views = [output.get("data", {}).get(WIDGET) for cell in nb.cells for output in cell.get("outputs", [])]
    return [view["model_id"] for view in views if view]


def keep_widgets(nb):
    "Of the widgets' saved state keep what cells show, under ids that are the same in each run; a progress bar that has ended is not shown."
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        bar = lambda data: WIDGET in data and re.search(r"\d+%\|", data.get("text/plain", ""))
        cell.outputs = [output for output in cell.outputs if not bar(output.get("data", {}))]
    saved = nb.metadata.pop("widgets", {}).get(WIDGETS, {}).get("state", {})
    queue, ids = widgets_shown(nb), {}
    for model in queue:                                     # it grows: a box has children, a slider a layout
        if model in ids or model not in saved: continue
        ids[model] = f"{len(ids):032x}"
        queue += re.findall(r"IPY_MODEL_(\w+)", json.dumps(saved[model]))
    if not ids: return
    renamed = lambda text: re.sub("|".join(ids), lambda m: ids[m[0]], text)
    nb.metadata["widgets"] = {WIDGETS: dict(state=json.loads(renamed(json.dumps({m: saved[m] for m in ids}))), version_major=2, version_minor=0)}
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}): output.data[WIDGET]["model_id"] = renamed(output.data[WIDGET]["model_id"])


def write(nb, path):
    import nbformat
    stable_ids(nb)
    fold_hidden(nb)
    tmp = path.with_suffix(".tmp")
    nbformat.write(nb, tmp)
    os.replace(tmp, path)


def text(name):
    import jupytext
    PAIRS.mkdir(exist_ok=True)
    jupytext.write(jupytext.read(NBS / f"{name}.ipynb"), PAIRS / f"{name}.py", fmt="py:percent")


def draft(name):
    import jupytext
    nb = jupytext.read(PAIRS / f"{name}.py", fmt="py:percent")
    nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    for cell in nb.cells: cell.metadata = {}
    path = NBS / f"{name}.ipynb"
    if path.exists():
        import nbformat
        before = nbformat.read(path, as_version=4)
        outputs = {c.source: c.outputs for c in before.cells if c.cell_type == "code"}
        for c in nb.cells:
            if c.cell_type == "code": c.outputs = outputs.get(c.source, [])
        if "widgets" in before.metadata: nb.metadata["widgets"] = before.metadata["widgets"]
        keep_widgets(nb)
    write(nb, path)
    export(path)
    clean(path)


def skipped(cell):
    return any(line.replace(" ", "") in ("#|eval:false", "#|cuda") for line in cell.source.splitlines()[:6])


def execute(name, nb, more=()):
    "Run all code cells of a notebook, and then `more` cells in the same kernel. Ends the program at a cell that fails."
    from nbclient import NotebookClient
    client = NotebookClient(nb, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(NBS)}}, store_widget_state=True, skip_cells_with_tag="")
    cells, start = len(nb.cells), time.time()
    nb.cells.extend(more)
    try:
        with client.setup_kernel():
            for i, cell in enumerate(nb.cells):
                if cell.cell_type != "code": continue
                cell.outputs = []
                if skipped(cell): continue
                t = time.time()
                try: client.execute_cell(cell, i)
                except Exception as e:
                    where = f"cell {i}" if i < cells else f"tests/exercises/{name}.py, part {i - cells + 1}"
                    raise SystemExit(f"{name}, {where}, failed:\n{cell.source}\n\n{e}") from None
                if time.time() - t > 5: print(f"   cell {i}: {time.time() - t:.1f} s: {cell.source.splitlines()[-1][:80]}")
        client.set_widgets_metadata()
    finally: del nb.cells[cells:]
    print(f"{name}: {sum(c.cell_type == 'code' for c in nb.cells)} code cells in {time.time() - start:.1f} s")


def run(name):
    import nbformat
    path = NBS / f"{name}.ipynb"
    nb = nbformat.read(path, as_version=4)
    os.environ.pop("MPLBACKEND", None)                      # figures are to be stored
    try: execute(name, nb)
    finally:
        keep_widgets(nb)
        write(nb, path)
    clean(path)


def shown(cell):
    "What a cell has written or returned, as text."
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return "".join(o.get("text", d.get("text/markdown", d.get("text/plain", ""))) for o, d in zip(cell.get("outputs", []), data))


def test_one(name):
    import nbformat
    path = EXERCISES / f"{name}.py"
    parts = path.read_text().split("\n# %%\n")[1:] if path.exists() else []
    nb = nbformat.read(NBS / f"{name}.ipynb", as_version=4)
    stored = [shown(cell) for cell in nb.cells]
    execute(name, nb, [nbformat.v4.new_code_cell(p) for p in parts])
    for before, cell in zip(stored, nb.cells):
        if "#| same: true" in cell.source and shown(cell) != before:
            raise SystemExit(f"{name}: a cell no longer says what is stored; run python tools/notebook.py run {name}:\n"
                             f"{cell.source}\n\nstored:\n{before}\n\nnow:\n{shown(cell)}")


def test(names):
    "Each notebook in a process and a data folder of its own, two at a time, the slowest and then the largest first."
    def one(name):
        with tempfile.TemporaryDirectory() as folder:
            env = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "MPLBACKEND": "agg", **os.environ, "NANOCHAT_COURSE_DIR": folder}
            done = subprocess.run([sys.executable, __file__, "test_one", name], env=env, capture_output=True, text=True)
        print(done.stdout.strip() if done.returncode == 0 else f"{done.stdout}{done.stderr}", flush=True)
        return done.returncode
    rank = {name: i for i, name in enumerate(SLOW)}
    names = names or [p.stem for p in sorted(NBS.glob("*.ipynb"), key=lambda p: (rank.get(p.stem, len(SLOW)), -p.stat().st_size))]
    with ThreadPoolExecutor(2) as pool: return sum(map(bool, pool.map(one, names)))


def build(name):
    draft(name)
    run(name)


def body(path):
    "A module without the lines that say which notebook and cell it came from."
    return [line for line in path.read_text().splitlines() if not line.startswith(("# %% ", "# AUTOGENERATED"))]


def check():
    "Notebooks clean, modules in step: clean and export into a scratch copy and compare."
    import shutil
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        lib = Path(scratch) / LIB.name
        lib.mkdir()
        for path in sorted(NBS.glob("*.ipynb")):
            copy = Path(scratch) / path.name
            shutil.copy(path, copy)
            clean(copy)
            if copy.read_bytes() != path.read_bytes(): bad.append(f"{path.name} is not clean: run make clean-nbs")
            write_modules(path, lib)
        for module in sorted(lib.rglob("*.py")):
            name = module.relative_to(lib)
            mine = LIB / name
            if not mine.exists() or body(mine) != body(module):
                bad.append(f"nanochat_course/{name} is not what its notebook exports: run make export, or nbdev_update after editing it")
        for mine in sorted(LIB.rglob("*.py")):
            name = mine.relative_to(LIB)
            if not (lib / name).exists() and not mine.name.startswith("_"): bad.append(f"nanochat_course/{name} belongs to no notebook")
    print("\n".join(bad) if bad else "notebooks are clean and in step with the package")
    return len(bad)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("text", "build", "draft", "run", "test", "test_one", "export", "check"): raise SystemExit(__doc__)
    names = [name.removesuffix(".py").removesuffix(".ipynb").split("/")[-1] for name in sys.argv[2:]]
    if sys.argv[1] == "export": raise SystemExit(export_all())
    if sys.argv[1] == "check": raise SystemExit(check())
    if sys.argv[1] == "test": raise SystemExit(test(names))
    for name in names: globals()[sys.argv[1]](name)
