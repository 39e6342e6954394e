"Figures: what their colours are on a light page and, turned round by the browser, on a dark one; a still picture where widgets stand."
import base64, io, json, re, sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from PIL import Image

import chromium
from nanochat_course.labs.pictures import contrast, turned

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools" / "site")]
import notebook, widgets

STYLE = matplotlib.rc_params_from_file(ROOT / "nanochat_course" / "course.mplstyle", use_default_template=False)
CYCLE = [f"#{c.lstrip('#')}" for c in STYLE["axes.prop_cycle"].by_key()["color"]]
LETTERS = {key: STYLE[key] for key in ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")}
CSS = (ROOT / "tools" / "site" / "style.css").read_text()
DARK = re.search(r"data-theme=dark\] \{ --ground: (#\w{6})", CSS)[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
CELLS = [(path.stem, "".join(cell["source"])) for path in NOTEBOOKS for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def screened(color, ground):
    "CSS's mix-blend-mode: screen, of a figure's colour and the page's ground."
    return tuple(1 - (1 - a) * (1 - b) for a, b in zip(matplotlib.colors.to_rgb(color), matplotlib.colors.to_rgb(ground)))


def test_figures_have_a_ground_of_their_own():
    for key in ("figure.facecolor", "axes.facecolor", "savefig.facecolor"): assert matplotlib.colors.to_hex(STYLE[key]) == "#ffffff", key


@pytest.mark.parametrize("color", [*LETTERS.values(), *CYCLE])
def test_ink_and_lines_can_be_read_on_both_pages(color):
    "4.5 : 1 for letters in any colour of the style; what the dark page shows is the colour turned round, screened with the page's ground."
    assert contrast(color, "white") >= 4.5
    assert contrast(screened(turned(color), DARK), screened(turned("white"), DARK)) >= 4.5
    assert screened(turned("white"), DARK) == pytest.approx(matplotlib.colors.to_rgb(DARK)), "the ground of a figure is that of the page"


def test_what_the_style_once_was_fails_here():
    assert contrast("#7f7f7f", "white") < 4.5 and contrast("#e07b39", "white") < 3


COLOUR = re.compile(r"""\b(?:color|colors|ec|edgecolor|labelcolor|ecolor)\s*[=:]\s*["'](#[0-9a-fA-F]{6}|0?\.\d+|gr[ae]y|lightgr[ae]y|silver|black|k|red|blue|green|orange|tab:\w+)["']""")


def test_colours_that_notebooks_name_can_be_read():
    "Colours come from the style; the few that cells name reach 4.5 : 1 on white and turned round; pale areas (alpha) are no letters."
    seen = 0
    for name, source in CELLS:
        if "plt." not in source and "ax" not in source: continue
        for line in source.splitlines():
            for color in COLOUR.findall(line):
                seen += 1
                assert contrast(color, "white") >= 4.5 and contrast(turned(color), DARK) >= 4.5 or "alpha=" in line, f"{name}: {line.strip()}"
    assert seen > 5


def test_no_dark_letters_on_strong_colours():
    "Letters on a full colour of the cycle are white: dark ones would have 4 : 1 at best."
    wrong = [f"{name}: {line.strip()}" for name, source in CELLS for line in source.splitlines()
             if re.search(r"""color=["'](#1c1c1c|#111111|#202020)["']""", line)]
    assert not wrong


def test_the_browser_turns_figures_as_the_chapter_says(tmp_path):
    "The site's own style sheet in Chromium: pixels of a figure on a light page, on a dark one, and on paper."
    if not chromium.find(): pytest.skip("needs chromium")
    (tmp_path / "x_files").mkdir()
    colors = ["#ffffff", *CYCLE, STYLE["text.color"]]
    picture = Image.new("RGB", (20 * len(colors), 20))
    for i, color in enumerate(colors): picture.paste(tuple(round(255 * c) for c in matplotlib.colors.to_rgb(color)), (20 * i, 0, 20 * i + 20, 20))
    picture.save(tmp_path / "x_files" / "figure-1.png")
    (tmp_path / "x.html").write_text(f"<!doctype html><style>{CSS}</style><main><img id=f src='x_files/figure-1.png'></main>")
    browser = chromium.Browser(900, 400)
    def pixels():
        left, top = browser.js("(() => { const r = document.getElementById('f').getBoundingClientRect(); return [r.x, r.y]; })()")
        browser.screenshot(tmp_path / "shot.png")
        with Image.open(tmp_path / "shot.png") as shot: return [shot.convert("RGB").getpixel((int(left) + 20 * i + 10, int(top) + 10)) for i in range(len(colors))]
    def near(found, expected): return all(abs(a - 255 * b) <= 2 for a, b in zip(found, expected))
    try:
        for dark in (False, True):
            browser.size(900, 400, dark)
            browser.open((tmp_path / "x.html").as_uri())
            browser.wait("document.getElementById('f').naturalWidth > 0")
            for color, found in zip(colors, pixels()):
                assert near(found, screened(turned(color), DARK) if dark else matplotlib.colors.to_rgb(color)), (dark, color, found)
        browser.js("document.documentElement.dataset.theme = 'light'; 0")
        assert near(pixels()[0], (1, 1, 1)), "the reader's choice counts for more than the system's"
    finally: browser.close()


BOX = "import ipywidgets\nslider, box = ipywidgets.FloatSlider(0.8, description='heat', max=2), ipywidgets.HTML('<pre>The cat sat</pre>')\n" \
      "unseen = ipywidgets.IntSlider(3)\nimage = ipywidgets.Image(value=bytes.fromhex('{png}'), format='png')\n" \
      "choice = ipywidgets.ToggleButtons(options=[256, 4096], value=4096, description='size')\nipywidgets.VBox([slider, choice, box, image])"


def test_widgets_are_saved_and_stand_on_the_page(tmp_path, monkeypatch):
    "A notebook with sliders, run as `notebook.py run` does: the state is saved, twice the same, and the page shows what it says."
    image = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(image, "png")
    bar = "from tqdm.notebook import tqdm\nfor _ in tqdm(range(2)): pass"
    cells = [nbformat.v4.new_code_cell(source) for source in (bar, BOX.format(png=image.getvalue().hex()))]
    monkeypatch.setattr(notebook, "NBS", tmp_path)
    texts = []
    for _ in range(2):
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name="python3", language="python", display_name="python3"))), tmp_path / "w.ipynb")
        notebook.run("w")
        texts.append((tmp_path / "w.ipynb").read_text())
    assert texts[0] == texts[1]
    nb = nbformat.reads(texts[0], as_version=4)
    nbformat.validate(nb)
    assert not [o for o in nb.cells[0].outputs if notebook.WIDGET in o.get("data", {})], "a progress bar that has ended"
    saved = widgets.saved(nb)
    assert not [w for w in saved.values() if w["model_name"] == "IntSliderModel"], "what no cell shows"
    model = notebook.widgets_shown(nb)[0]
    page = widgets.on_a_page(model, saved, moves_above=False)
    assert 'heat <b>0.8</b>' in page and "size <b>4096</b>" in page and "<pre>The cat sat</pre>" in page
    assert base64.b64decode(re.search(r"base64,([^\"]+)", page)[1]) == image.getvalue()
    assert "move" in page and "moves on this page" in widgets.on_a_page(model, saved, True)
    assert "run the notebook" in widgets.on_a_page("gone", saved, True).lower()


def test_every_widget_of_the_course_has_saved_state():
    "What a reader moves in JupyterLab is on the page as a still picture; progress bars are not kept."
    shown = 0
    for path in NOTEBOOKS:
        nb = nbformat.read(path, as_version=4)
        saved = widgets.saved(nb)
        for model in notebook.widgets_shown(nb):
            shown += 1
            assert model in saved, f"{path.name}: run python tools/notebook.py run {path.stem}"
            assert "<b>" in widgets.still(model, saved) and "None" not in widgets.still(model, saved)
    assert shown >= 4
