"The website: every page, link and image is there."
import html.parser, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.figures = set(), [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a: self.ids.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag == "img": self.images.append((a.get("src", ""), a.get("alt", "")))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    if shutil.which("quarto"): pytest.skip("Quarto is installed: it checks its own links")
    copy = tmp_path_factory.mktemp("site") / "repo"
    for part in ("nbs", "tools", "nanochat_course"): shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for f in ("_quarto.yml", "settings.ini"): shutil.copy(ROOT / f, copy / f)
    done = subprocess.run([sys.executable, "tools/site/build.py"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {p.name: Page(p.read_text()) for p in (copy / "_docs").glob("*.html")}, copy / "_docs", done.stdout


def test_a_page_for_every_notebook(pages):
    assert {p.stem for p in (ROOT / "nbs").glob("*.ipynb")} == {Path(n).stem for n in pages[0]}


def test_no_link_inside_the_site_is_broken(pages):
    broken = []
    for name, page in pages[0].items():
        for link in page.links:
            if link.startswith(("http:", "https:", "mailto:")): continue
            target, _, fragment = unquote(link).partition("#")
            if target and target not in pages[0] and not (pages[1] / target).exists(): broken.append(f"{name}: {link}")
            elif fragment and (target or name) in pages[0] and fragment not in pages[0][target or name].ids: broken.append(f"{name}: {link}")
    assert not broken


def test_every_image_is_local_and_described(pages):
    for name, page in pages[0].items():
        for src, alt in page.images: assert (pages[1] / src).is_file() and alt, f"{name}: {src}"
    assert sum(len(p.images) for p in pages[0].values()) >= 30


def test_the_renderer_had_nothing_to_complain_about(pages):
    assert "WARNING" not in pages[2].upper()
