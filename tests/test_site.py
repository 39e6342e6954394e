"The website: every page, link and image is there, for the mouse, the keyboard and a narrow screen."
import html.parser, importlib.util, json, os, re, shutil, subprocess, sys, sysconfig, zipfile
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

import chromium
import site_audit
import test_install

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini")
FOLDER = CONFIG["DEFAULT"]["doc_baseurl"]
SITE = CONFIG["DEFAULT"]["doc_host"] + FOLDER      # a link to this address is a link inside

spec = importlib.util.spec_from_file_location("build", ROOT / "tools" / "site" / "build.py")
pytestmark = pytest.mark.timeout(1200)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.text, self.ids, self.links, self.images = text, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a: self.ids.append(a["id"])
        if tag == "a" and a.get("href"): self.links.append(re.sub(rf"^\./|^{FOLDER}/", "", a["href"]))
        if tag == "img": self.images.append((a.get("src", ""), a.get("alt", "")))


def checkout(folder):
    "A copy of what the site is made from."
    for part in ("nbs", "tools", "nanochat_course"):
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for f in ("_quarto.yml", "settings.ini"): shutil.copy(ROOT / f, folder / f)
    return folder


RENDERERS = ["pandoc"] + ["quarto"] * bool(shutil.which("quarto"))                       # where Quarto is installed, its pages have to pass as well


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request): return request.param


@pytest.fixture(scope="module")
def pages(renderer, tmp_path_factory):
    copy = checkout(tmp_path_factory.mktemp("site") / "repo")
    done = subprocess.run([sys.executable, "tools/site/build.py", "--no-model", *["--pandoc"] * (renderer == "pandoc")], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = {p.name: p.read_text() for p in (copy / "_docs").glob("*.html")}
    return {n: Page(t) for n, t in texts.items() if MOVED not in t}, copy / "_docs", done.stdout + done.stderr


MOVED = 'http-equiv="refresh"'
MADE = {"api", "references"}
STYLES = {"quarto-bootstrap", "quarto-text-highlighting-styles"}      # Quarto's own: the light and the dark sheet have one id
OWN = {p.stem for p in (ROOT / "tools" / "site" / "pages").glob("*.md")}


def test_a_page_for_every_notebook(pages):
    found = {Path(n).stem for n in pages[0]}
    assert {p.stem for p in (ROOT / "nbs").glob("*.ipynb")} | OWN | MADE == {n for n in found if not n.startswith("api_")}
    for page in pages[0].values():                         # each is reached from everywhere, the page for lost ones excepted
        assert {f"{stem}.html" for stem in OWN - {"404"} | MADE} <= set(page.links)


def test_the_page_for_lost_ones_works_in_every_folder(pages):
    links = re.findall(r'<(?:a|link|script|img)\b[^>]* (?:href|src)="([^"]+)"', pages[0]["404.html"].text)
    assert len(links) > 50 and all(link.startswith((FOLDER + "/", "https:", "#", "data:")) for link in links)


def test_chapters_are_found_without_their_numbers(pages):
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        text = (pages[1] / f"{path.stem[3:]}.html").read_text()
        assert MOVED in text and f'location.replace("{path.stem}.html" + location.hash)' in text and f"{SITE}/{path.stem}.html" in text


def test_the_reference_has_every_public_name(pages):
    import importlib
    for path in (ROOT / "nanochat_course").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        short = module.removeprefix("nanochat_course.")
        name = f"api_{short.replace('.', '_')}.html"
        page = pages[0].get(name)
        names = getattr(importlib.import_module(module), "__all__", []) if page else []
        if path.name.startswith("_"): continue
        functions = [n for n in names if callable(getattr(sys.modules[module], n)) and getattr(getattr(sys.modules[module], n), "__module__", "") == module
                     and getattr(getattr(sys.modules[module], n), "__name__", "") == n]
        assert page or not functions, module
        if page: assert any(name in p.links for chapter, p in pages[0].items() if re.match(r"\d\d_", chapter)), f"no chapter leads to the reference of {module}"
        for function in functions:
            assert function in page.ids and f"nanochat_course.{short}.{function}" in "".join(page.links), f"{module}.{function}"
    signature = re.sub(r"<[^>]+>", "", pages[0]["api_tokenizer.html"].text)
    assert "vocab_size:int,                         # tokens in all: 256 bytes, merges, specials" in signature and "if isinstance(texts" not in signature


def test_files_for_machines(pages):
    folder = pages[1]
    listed = re.findall("<loc>(.*?)</loc>", (folder / "sitemap.xml").read_text())
    assert {url.removeprefix(SITE + "/") for url in listed} == set(pages[0]) - {"404.html"}
    assert f"Sitemap: {SITE}/sitemap.xml" in (folder / "robots.txt").read_text()
    llms = (folder / "llms.txt").read_text()
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"): assert f"({SITE}/{path.stem}.html): " in llms
    cards = {name: re.search(r'property="og:image" content="(.*?)"', page.text)[1].removeprefix(SITE + "/") for name, page in pages[0].items()}
    for name, card in cards.items():
        assert card == (f"cards/{name[:-5]}.png" if re.match(r"\d\d_", name) else "card.png")
        with Image.open(folder / card) as picture: assert picture.size == (1200, 630)
    assert len({(folder / card).read_bytes() for card in cards.values()}) == len(set(cards.values()))      # no two alike
    assert "{{the nanochat" in (folder / "cite.html").read_text() and yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == CONFIG["DEFAULT"]["version"]


def inside(link):
    "A link's page and fragment if it stays in the site, by a relative or by the site's own address; else None."
    if link == SITE or link.startswith(SITE + "/"): link = link[len(SITE):].lstrip("/") or "index.html"
    elif re.match(r"[a-z]+:", link): return None
    return unquote(link).partition("#")[::2]


def test_no_link_inside_the_site_is_broken(pages):
    broken, to_names = [], 0
    for name, page in pages[0].items():
        for link in page.links:
            if inside(link) is None: continue
            target, fragment = inside(link)
            if target and target not in pages[0] and not (pages[1] / target).exists(): broken.append(f"{name}: {link}")
            elif fragment and (target or name) in pages[0] and fragment not in pages[0][target or name].ids: broken.append(f"{name}: {link}")
            to_names += fragment.startswith("nanochat_course.")
        broken += [f"{name}: id {i} twice" for i in set(page.ids) - STYLES if page.ids.count(i) > 1]
    assert not broken
    assert to_names >= 30, "names in backticks are links to the cells that define them"


def test_every_public_name_has_a_place_of_its_own(pages):
    import importlib
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        for place in (path.stem[3:], f"labs.{path.stem[3:]}"):
            if not (ROOT / "nanochat_course" / f"{place.replace('.', '/')}.py").exists(): continue      # exports nothing there
            module = importlib.import_module(f"nanochat_course.{place}")
            for name in module.__all__:
                thing = getattr(module, name)
                if callable(thing) and getattr(thing, "__module__", "") == module.__name__ and getattr(thing, "__name__", "") == name:
                    assert f"{module.__name__}.{name}" in pages[0][f"{path.stem}.html"].ids


def test_markup_that_readers_should_not_see(pages):
    for name, page in pages[0].items():
        prose = re.sub(r"<(pre|code)\b.*?</\1>", "", page.text, flags=re.DOTALL)
        assert not build.CONTROL.search(page.text), f"{name}: a control character"
        for leak in (":::", "](http", "[`", "#|", "?@fig"): assert leak not in prose, f"{name}: {leak}"


def test_folded_answers_are_rendered_and_closed(pages):
    text = "".join(p.text for p in pages[0].values())
    assert text.count("<details") == text.count("</details>") and not re.search(r'<details class="?(tip|note)"?[^>]* open', text)
    folded = re.findall(r'<details class="?(?:tip|note)"?>(.*?)</details>', text, flags=re.DOTALL)
    assert len(folded) > 150 and not re.search(r"<summary>\s*<[ou]l", text)
    assert not [f for f in folded if not re.match(r"\s*<summary>", f) or "\n```" in f or "**" in re.sub(r"<(pre|code|math)\b.*?</\1>", "", f, flags=re.DOTALL)]
    for name, page in pages[0].items():
        for cell in re.findall(r'<pre class="sourceCode python">.*?</pre>', page.text, flags=re.DOTALL):
            assert "&lt;details class=" not in cell, f"{name}: a cell shows the answer that it folds"


def test_a_work_is_linked_where_it_is_named():
    "By number, by title in italics, by author and year; not where two works fit, in code, or where it is linked already."
    works = build.cite.Works(build.cite.read(build.find_pandoc()))
    for words, linked in {
            "arXiv 1706.03762, on": "[arXiv 1706.03762](references.md#vaswani2017), on",
            "as (Shazeer 2019) and Chang and Bergen, 2022": "as ([Shazeer 2019](references.md#shazeer2019)) and [Chang and Bergen, 2022](references.md#chang2022)",
            "Amsel and colleagues (2025) ask": "[Amsel and colleagues (2025)](references.md#amsel2025) ask",
            "E. Young, 1974": "E. [Young, 1974](references.md#young1974)",
            "Holtzman et al. 2019": "[Holtzman et al. 2019](references.md#holtzman2020)",                        # a year apart: the preprint
            "Vaswani et al. 2017, *Attention*, arXiv 1706.03762": "Vaswani et al. 2017, *Attention*, [arXiv 1706.03762](references.md#vaswani2017)",
            "K. Jordan 2024, *modded-nanogpt* (records)": "K. Jordan 2024, [*modded-nanogpt*](references.md#jordan2024) (records)",
    }.items(): assert works.link(words) == linked
    for same in ("Liu et al. 2025", "Chang and Miller, 2022", "arXiv 9999.99999", "`Shazeer 2019`", "[Shazeer 2019](x.md)", "# Shazeer 2019", "it moves *muon* on", "*modded-nanogpt*",
                 "```\nShazeer 2019\n```", "in May 2021"):
        assert works.link(same) == same


def test_references(pages):
    "Every work that a chapter names by its number is in the list, once, with its place elsewhere and a way back to the chapter."
    page, bib = pages[0]["references.html"], build.cite.BIB.read_text()
    keys = re.findall(r"^@\w+\{(\S+),", bib, flags=re.MULTILINE)
    assert len(keys) == len(set(keys)) and set(keys) <= set(page.ids) and (pages[1] / "references.bib").read_text() == bib
    known = set(re.findall(r"eprint += \{(.*?)\}", bib))
    for path in (ROOT / "nbs").glob("*.ipynb"):
        text = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown")
        unknown = set(re.findall(r"arXiv:? ?(\d{4}\.\d{4,5})", text)) - known
        assert not unknown, f"{path.name} names works that tools/site/references.bib lacks: {unknown}"
    linked = [(name, link) for name, p in pages[0].items() for link in p.links if link.startswith("references.html#")]
    assert len(linked) > 200 and {link.partition("#")[2] for _, link in linked} <= set(keys)
    back = dict(re.findall(r'<div id="([\w-]+)" class="work">(.*?)</div>', page.text, flags=re.DOTALL))
    for name, link in linked:
        if name[:2].isdigit() and name != "95_glossary.html": assert f'href="{name}"' in back[link.partition("#")[2]], (name, link)
    places = [link for link in page.links if link.startswith(("https://arxiv.org/abs/", "https://doi.org/"))]
    assert len(places) > 0.8 * len(keys) and all(re.search(r'href="http', text) for key, text in back.items() if key != "gage1994")


def test_a_chapter_says_where_it_can_be_run(pages, tmp_path):
    "Colab gets a copy that fetches this commit; Binder an environment and the chapter; both name files that exist."
    config, ref = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"], build.elsewhere.commit(ROOT)
    name = config["repo-url"].removeprefix("https://github.com/")
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        links = pages[0][f"{path.stem}.html"].links
        assert f"https://colab.research.google.com/github/{name}/blob/notebooks/{path.name}" in links
        assert any(link.startswith(f"https://mybinder.org/v2/gh/{name}/") and link.endswith(f"?labpath=nbs%2F{path.name}") for link in links)
        copy, own = (json.loads(p.read_text()) for p in (pages[1] / "notebooks" / path.name, path))
        added = [c for c in copy["cells"] if c not in own["cells"]]
        assert len(added) == 1 and config["repo-url"] in "".join(added[0]["source"])
        assert [c["id"] for c in copy["cells"] if c["cell_type"] == "code"][0] == added[0]["id"]
    assert re.fullmatch(r"[0-9a-f]{40}|main", ref)
    assert "publish_notebooks.sh" in (ROOT / ".github" / "workflows" / "site.yml").read_text()
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "remote"], check=True)
    for _ in range(2):                                     # the second time it replaces what is there
        subprocess.run(["bash", pages[1].parent / "tools" / "site" / "publish_notebooks.sh", tmp_path / "remote", "abc"], check=True)
    published = subprocess.run(["git", "-C", tmp_path / "remote", "log", "--format=%s", "--name-only", "notebooks"], capture_output=True, text=True, check=True).stdout.split()
    assert published[:3] == ["Notebooks", "of", "abc"] and published[3:] == sorted(p.name for p in (ROOT / "nbs").glob("[0-9]*.ipynb"))
    assert not (pages[1] / "notebooks" / ".git").exists()
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert "." in lines and "-c ../constraints.txt" in lines and (ROOT / "binder" / ".." / "constraints.txt").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository")
def test_the_first_cell_on_colab(tmp_path):
    "A fresh environment without the course, whose first cell fetches a commit and installs it; git and pip are real, the network is this checkout."
    python, site = tmp_path / "env" / "bin" / "python", tmp_path / "env" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    for dist in test_install.closure([*CONFIG["DEFAULT"]["requirements"].split(), "pip", "setuptools", "wheel"]): test_install.link(dist, site)
    ref = build.elsewhere.commit(ROOT)
    nb = build.elsewhere.with_setup(json.loads((ROOT / "nbs" / "10_tokenizer.ipynb").read_text()), SITE, ref)
    cells = ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    after = "import nanochat_course.tokenizer as t; print(t.__file__, os.getcwd(), os.path.exists('10_tokenizer.ipynb'))"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(
        GIT_CONFIG_COUNT="2", GIT_CONFIG_KEY_0=f"url.{ROOT}.insteadOf", GIT_CONFIG_VALUE_0=SITE, GIT_CONFIG_KEY_1="safe.directory", GIT_CONFIG_VALUE_1="*",
        PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0")                  # pip reads the last as: without isolation
    done = subprocess.run([python, "-c", "\n".join([cells[0], after])], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    where, folder, there = done.stdout.splitlines()[-1].split()
    assert Path(where).is_relative_to(tmp_path / "env") and Path(folder) == (tmp_path / "course" / "nbs").resolve() and there == "True"
    assert subprocess.run(["git", "-C", tmp_path / "course", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() == ref
    again = subprocess.run([python, "-c", cells[0]], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert again.returncode == 0 and not again.stdout, "where the course is installed, the cell does nothing"


def test_the_book(tmp_path):
    "Three chapters as an EPUB: every page is XML, every link inside leads somewhere, pictures and formulas are in it, scripts are not."
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]
    works = build.cite.Works(build.cite.read(build.find_pandoc()))
    paths = [ROOT / "nbs" / f"{stem}.ipynb" for stem in ("11_attention", "12_gpt", "92_sandbox")]
    index = build.find_names(paths)
    docs, build.DOCS = build.DOCS, tmp_path
    try: texts = {p.stem: build.page_markdown(build.process(p, index, works, build.elsewhere.links(p.stem, config, "main")), p.stem) for p in paths}
    finally: build.DOCS = docs
    texts["references"] = build.cite.page(works, {})
    told = build.book.write_epub(build.find_pandoc(), build.READER, texts, tmp_path, config)
    path = tmp_path / "nanochat_course.epub"
    assert told.startswith("nanochat_course.epub: 4 chapters") and not build.book.malformed(path)
    with zipfile.ZipFile(path) as book: files = {name: book.read(name) for name in book.namelist()}
    chapters = {name.removeprefix("EPUB/text/"): text.decode() for name, text in files.items() if re.fullmatch(r"EPUB/text/ch\d+\.xhtml", name)}
    assert len(chapters) == 4
    ids = {name: set(re.findall(r' id="([^"]+)"', text)) for name, text in chapters.items()}
    for name, text in chapters.items():
        assert "<script" not in text and "mybinder" not in text
        for link in re.findall(r'<a href="([^"]+)"', text):
            target, _, fragment = link.partition("#")
            if not link.startswith("http"): assert fragment in ids[target or name], (name, link)
        for image in re.findall(r'<img[^>]* src="([^"]+)"', text): assert f"EPUB/{image.removeprefix('../')}" in files
    if chromium.find():
        assert "nanochat_course.pdf: " in build.book.write_pdf(build.find_pandoc(), build.READER, {"references": texts["references"]}, tmp_path, config)
        assert (tmp_path / "nanochat_course.pdf").read_bytes().startswith(b"%PDF") and not list(tmp_path.glob("book.*"))
    whole = "".join(chapters.values())
    assert "<math" in whole and whole.count("<img") > 10 and "on <a" in whole and '<a href="https://nanochat-course.github.io/nanochat_course/10_tokenizer.html' in whole


def test_wrapped_lines_know_their_indentation(pages):
    lines = [m for p in pages[0].values() for m in re.findall(r'<span id="cb\d+-\d+"([^>]*)><a [^>]*></a>(.*)', p.text)]
    lines += [(m[0], m[1]) for p in pages[0].values() for m in re.findall(r'<span id="cb\d+-\d+"( style="--i:\d+")>(.*)', p.text)]
    for style, code in lines:
        spaces = re.match(r"(?:<[^>]*>)*( *)", code)[1]
        assert style == (f' style="--i:{len(spaces)}"' if spaces else ""), code
    assert sum(bool(style) for style, _ in lines) > 1000


def test_page_for_everybody(pages, renderer):
    for name, page in pages[0].items():
        assert not re.search(r"<th\b[^>]*>\s*</th>", page.text), f"{name}: an empty table header"
        if renderer == "quarto": continue                  # the rest is Quarto's own
        assert '<button id="menu" type="button" aria-label="Chapters" aria-expanded="false" aria-controls="chapters">' in page.text
        assert f'<link rel="canonical" href="{SITE}/{name}">' in page.text
        for level, attributes, title in re.findall(r"<h([23])([^>]*)>(.*?)</h", page.text[page.text.index("<main"):], flags=re.DOTALL):
            fragment = re.search(r'id="([^"]+)"', attributes)[1]
            assert f'<a class="anchor" href="#{fragment}"' in title, f"{name}: no link at the heading {title}"


def contrast(a, b):
    def light(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055)**2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_text_can_be_read_in_both_themes():
    "WCAG asks for 4.5 : 1."
    css = (ROOT / "tools" / "site" / "style.css").read_text()
    for theme in re.findall(r"\{ (--ground:.*?)(?:color-scheme|--sans|\})", css, flags=re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", theme))
        for text in ("ink", "soft", "accent", "code", "keyword", "string", "comment", "number", "function"):
            for ground in ("ground", "panel"): assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    assert contrast("#6a7480", "#f6f7f9") < 4.5           # what comments once had


def test_every_image_is_local_and_described(pages):
    for name, page in pages[0].items():
        for src, alt in page.images:                                              # a widget's still picture lies in the page itself
            assert alt and (src.startswith("data:image/png;base64,") or (pages[1] / src).is_file()), f"{name}: {src[:80]}"
    assert sum(len(p.images) for p in pages[0].values()) >= 30


def test_the_renderer_had_nothing_to_complain_about(pages):
    assert "WARN" not in pages[2].upper()


def test_names_become_links_where_a_reader_expects_them():
    index = {"unit_norm": {"20_newton_schulz": "A"}, "train": {"27_train": "B"}, "main": {"27_train": "C", "31_tok_train": "D"}, "Muon": {"21_optim": "E"}}
    link = lambda text, here="10_tokenizer": build.link_names(text, here, index)
    assert link("see `unit_norm`.") == "see [`unit_norm`](20_newton_schulz.ipynb#A)."
    assert link("`Muon`", "21_optim") == "[`Muon`](#E)"
    assert link("`train` and `train()`") == "`train` and [`train()`](27_train.ipynb#B)"          # a word is not a name
    assert link("`main()`") == "`main()`" and link("`main()`", "27_train") == "[`main()`](#C)"   # two chapters have it
    for same in ("[`Muon`](21_optim.ipynb)", "```\n`Muon`\n```", "# `Muon`", '<img alt="`Muon`">', "`` `Muon` ``"): assert link(same) == same


QUARTO = """#!{python}
import pathlib, sys, yaml
project = pathlib.Path(sys.argv[2])
config = yaml.safe_load((project / "_quarto.yml").read_text())
out = project / config["project"]["output-dir"]
out.mkdir()
LINE = '<table><tr><th></th></tr></table><span id="cb1-1"><a href="#cb1-1" aria-hidden="true" tabindex="-1"></a>    x = 1</span>'
for path in [*project.glob("*.ipynb"), *project.glob("*.md")]: (out / (path.stem + ".html")).write_text(LINE)
"""


def test_what_quarto_is_given(tmp_path):
    "Quarto is not needed for this: a stand-in writes one page for each notebook, and the project that it was given is read."
    copy = checkout(tmp_path / "repo")
    for path in sorted((copy / "nbs").glob("[2-7]*.ipynb")): path.unlink()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "quarto").write_text(QUARTO.format(python=sys.executable))
    (tmp_path / "bin" / "quarto").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    (copy / "_docs").mkdir()
    (copy / "_docs" / "stale.html").write_text("an old page")
    for _ in range(2):
        done = subprocess.run([sys.executable, "tools/site/build.py", "--no-model"], cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    given = {p.stem for p in (copy / "nbs").glob("*.ipynb")} | OWN
    made = {p.stem for p in (copy / "_docs").glob("*.html") if MOVED not in p.read_text()}
    assert given | MADE == {n for n in made if not n.startswith("api_")} and "api_tokenizer" in made
    assert {"play", "card.png", "llms.txt", "sitemap.xml", "tokenizer.html", "names.json"} <= {p.name for p in (copy / "_docs").iterdir()}
    assert '<td></td></tr></table><span id="cb1-1" style="--i:4"><a' in (copy / "_docs" / "index.html").read_text()
    config = yaml.safe_load((copy / "_proc" / "_quarto.yml").read_text())
    chapters = [c for part in config["website"]["sidebar"]["contents"] if isinstance(part, dict) for c in part.get("contents", [])]
    assert {"text": "10 The tokenizer", "href": "10_tokenizer.ipynb"} in chapters
    assert {"text": "00 First light", "href": "00_first_light.ipynb"} in config["website"]["sidebar"]["contents"]
    assert {Path(c["href"]).stem for c in chapters} >= OWN - {"404"} | MADE and "page-footer" not in config["website"]     # too many links for a narrow screen
    script = re.search('src="(.*?)"', config["format"]["html"]["include-after-body"]["text"])[1]
    assert (copy / "_docs" / script).read_bytes() == (copy / "tools" / "site" / script).read_bytes()
    for theme in config["format"]["html"]["theme"].values(): assert (copy / "_proc" / theme[1]).is_file()
    assert (copy / "_proc" / config["website"]["favicon"]).is_file() and "pre-render" not in config["project"]
    for path in (copy / "_proc").glob("*.ipynb"):
        text = path.read_text()
        assert "widget-view" not in text and f"({SITE}" not in text
        ids = set(re.findall(r'<div id=\\"([^"]+)\\"></div>', text))
        for fragment in re.findall(r"\]\(#(nanochat_course[^)]*)\)", text): assert fragment in ids
        cells = json.loads(text)["cells"]
        assert len(cells) > 3 and f"image: {SITE}/{f'cards/{path.stem}' if path.stem[:2].isdigit() else 'card'}.png" in "".join(cells[0]["source"])
        for cell in cells:
            outputs = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
            assert "text/html" not in outputs, "Quarto fetches jQuery from another host for this"
            assert "image/png" not in outputs or re.search(r"#\| *fig-(alt|cap):", "".join(cell["source"])), "a picture without words"
        if path.stem[:2].isdigit(): assert f'[notebook](notebooks/{path.name}){{data-noresolveinput=\\"\\"}}' in text     # the file is written after Quarto


def test_where_quarto_fails_the_last_pages_stay(tmp_path):
    copy = checkout(tmp_path / "repo")
    for path in (copy / "nbs").glob("[1-9]*.ipynb"): path.unlink()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "quarto").write_text("#!/bin/sh\necho 'ERROR: a reason' >&2\nexit 3\n")
    (tmp_path / "bin" / "quarto").chmod(0o755)
    (copy / "_docs").mkdir()
    (copy / "_docs" / "index.html").write_text("the last page")
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "tools/site/build.py", "--no-model"], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and [line[:14] for line in done.stderr.splitlines()] == ["ERROR: a reaso", "Quarto failed,"]
    assert (copy / "_docs" / "index.html").read_text() == "the last page"


def test_quarto_by_habit_is_told_what_to_type():
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())["project"]
    assert not Path(config["output-dir"]).is_absolute() and ".." not in config["output-dir"]
    for folder in (ROOT, ROOT / "nbs"):                    # one notebook rendered by its name is a project of its folder
        script = yaml.safe_load((folder / "_quarto.yml").read_text())["project"]["pre-render"]
        done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 1 and "make docs" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {"/.quarto/", "**/*.quarto_ipynb", "/nbs/.gitignore"} <= set((ROOT / ".gitignore").read_text().splitlines())      # Quarto would write these lines into the file
    setup = re.search(r"^\$\(READY\):.*?\n\n", (ROOT / "Makefile").read_text(), flags=re.DOTALL | re.MULTILINE)[0]        # and so say nbdev's commands
    assert all(f"nbdev_{name}" in setup for name in ("docs", "preview", "readme")) and f"cp {config['pre-render']}" in setup


def host(pages):
    "The folder of a host that has the site under its address there."
    folder = pages[1].parent / "host"
    folder.mkdir(exist_ok=True)
    if not (folder / FOLDER[1:]).exists(): (folder / FOLDER[1:]).symlink_to(pages[1])
    return folder


@pytest.fixture(scope="module")
def served(pages):
    "The site under a folder, as a host of project pages serves it, and a browser."
    if not chromium.find(): pytest.skip("needs chromium")
    with site_audit.Site(host(pages)) as address:
        browser = site_audit.Watching()
        browser.begin()
        try: yield f"{address}{FOLDER}", browser
        finally: browser.close()


def test_every_page_in_a_browser(pages, renderer):
    "360 pixels, nothing from other hosts, no message on the console, no serious finding of axe, answers folded, at most 1 MB without figures."
    if not chromium.find(): pytest.skip("needs chromium")
    assert site_audit.axe(), "axe-core-python is missing"
    rows = site_audit.audit(host(pages), [f"{FOLDER[1:]}/{name}" for name in sorted(pages[0])], with_axe=lambda name: "/api_" not in name or name.endswith("/api_gpt.html"),
                            dark=lambda name: len(name) % 2)
    assert len(rows) == len(pages[0])
    most = 1000 if renderer == "pandoc" else 2500          # kB: Quarto's own style sheets, scripts and icons have 1,600
    assert not {r["page"]: f for r in rows if (f := site_audit.faults(r, most))}


def test_the_audit_sees_what_is_wrong(tmp_path):
    "A page with one fault of each kind."
    if not chromium.find(): pytest.skip("needs chromium")
    (tmp_path / "bad.html").write_text("""<!doctype html><html><title>x</title><link rel="icon" href="data:,"><main><h1>a</h1><h1>b</h1><div style="width:700px">w</div>
      <img src="missing.png"><details open><summary>Answer</summary>42</details><p style="color:#aaa">pale</p>
      <script>fetch('http://192.0.2.1/').catch(() => 0); console.error('oops')</script><script src="big.js"></script></main></html>""")
    (tmp_path / "big.js").write_text("// " + "x" * 1_100_000)
    found = " ".join(site_audit.faults(site_audit.audit(tmp_path)[0]))
    for fault in ("scrolls sideways", "without alt", "stand open", "kB without figures", "2 first headings", "foreign: http://192.0.2.1/", "console: oops", "color-contrast", "image-alt"):
        assert fault in found, fault


def test_search_by_keyboard(served, pages, renderer):
    if "no search" in pages[2]: pytest.skip("pagefind is not installed")
    if renderer == "quarto": return search_in_quarto(*served)
    address, browser = served
    browser.size(1200, 800)
    browser.open(f"{address}/index.html")
    browser.wait("location.pathname.endsWith('/index.html') && document.readyState === 'complete'")
    browser.js("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}))")
    browser.wait("document.getElementById('search').open && document.activeElement.id === 'query'")
    browser.type("rotary")
    browser.wait("document.querySelectorAll('#found li.page').length > 2")
    assert "Attention" in browser.js("[...document.querySelectorAll('#found li.page:not(.name)')].slice(0, 3).map(li => li.querySelector('a').textContent)")
    browser.key("ArrowDown")
    browser.key("ArrowDown")
    target = browser.js("document.activeElement.href")
    assert FOLDER in target and browser.js("document.activeElement.closest('#found') !== null")
    browser.js("document.activeElement.click()")
    browser.wait(f"location.href === {json.dumps(target)} && document.readyState === 'complete'")
    browser.js("document.getElementById('search-open').click()")
    browser.type("train_bpe")
    browser.wait("document.querySelector('#found li.name a')?.textContent === 'train_bpe'")
    assert browser.js("document.querySelector('#found li.name a').href").endswith("10_tokenizer.html#nanochat_course.tokenizer.train_bpe")
    (pages[1] / "no" / "such").mkdir(parents=True, exist_ok=True)       # what a host answers in any folder
    shutil.copy(pages[1] / "404.html", pages[1] / "no" / "such" / "page.html")
    browser.open(f"{address}/no/such/page.html")
    browser.wait("location.pathname.endsWith('/no/such/page.html') && document.readyState === 'complete'")
    browser.js("document.getElementById('search-open').click()")
    browser.type("train_bpe")
    browser.wait("document.querySelector('#found li.name a')?.textContent === 'train_bpe' && document.querySelectorAll('#found li.page').length > 2")
    assert browser.js("[...document.querySelectorAll('#found a')].every(a => a.href.startsWith(%s))" % json.dumps(address + "/")) and "/no/" not in browser.js("document.querySelector('#found').innerHTML")
    browser.js("query.value = '☃☃'; query.dispatchEvent(new Event('input'))")
    browser.wait("told.textContent.startsWith('Nothing found')")
    browser.key("Escape")
    browser.wait("!document.getElementById('search').open")
    assert not browser.console


def search_in_quarto(address, browser):
    browser.size(1200, 800)
    browser.open(f"{address}/index.html")
    browser.wait("document.querySelector('#quarto-search input') !== null && document.readyState === 'complete'")
    browser.js("document.querySelector('#quarto-search input').focus()")
    for words, page in (("rotary", "11_attention.html"), ("train_bpe", "10_tokenizer.html")):
        browser.js("(() => { const i = document.querySelector('#quarto-search input'); i.value = ''; i.dispatchEvent(new Event('input', {bubbles: true})); i.focus(); })()")
        browser.type(words)
        browser.wait(f"[...document.querySelectorAll('.aa-Panel a')].some(a => a.href.includes('{page}'))")
    assert not browser.console


def test_ticks_are_kept(served, renderer):
    address, browser = served
    chapters = "nav.chapters" if renderer == "pandoc" else "#quarto-sidebar"
    go = lambda page: (browser.open(f"{address}/{page}"), browser.wait(f"location.pathname.endsWith('/{page}') && document.readyState === 'complete'"))
    go("index.html")
    assert browser.js("document.getElementById('progress').hidden")
    for page in ("00_first_light.html", "11_attention.html"):
        go(page)
        browser.js("document.getElementById('read').click()")
        assert browser.js("document.getElementById('read').getAttribute('aria-pressed')") == "true"
    go("index.html")
    assert browser.js("document.getElementById('progress').textContent").startswith("You have read 2 of ")
    assert browser.js("document.querySelector('#progress a').getAttribute('href').replace('./', '')") == "10_tokenizer.html"
    assert browser.js(f"[...document.querySelectorAll('{chapters} a:has(.tick)')].map(a => a.getAttribute('href').replace('./', ''))") == ["00_first_light.html", "11_attention.html"]
    go("11_attention.html")
    browser.js("document.getElementById('read').click()")
    go("index.html")
    assert browser.js("document.querySelectorAll('.tick').length") == 1


def test_ticks_on_a_page_of_quartos_shape(tmp_path):
    "Quarto is not needed for this: a page with its sidebar."
    if not chromium.find(): pytest.skip("needs chromium")
    links = "".join(f'<div class="sidebar-item"><a href="./{stem}.html"><span>{stem[:2]} x</span></a></div>' for stem in ("10_tokenizer", "11_attention"))
    page = f'<!doctype html><html lang="en"><title>x</title><link rel="icon" href="data:,"><nav id="quarto-sidebar"><div class="sidebar-item"><a href="./index.html">x</a></div>{links}</nav>' \
           '<main><p id="progress" hidden></p><pre style="width:99px; overflow:auto">' + "wide " * 99 + '</pre></main><script src="reader.js"></script></html>'
    for stem in ("10_tokenizer", "index"): (tmp_path / f"{stem}.html").write_text(page)
    shutil.copy(ROOT / "tools" / "site" / "reader.js", tmp_path)
    with site_audit.Site(tmp_path) as address:
        browser = site_audit.Watching()
        browser.begin()
        try:
            browser.open(f"{address}/10_tokenizer.html")
            browser.wait("document.getElementById('read') && document.readyState === 'complete'")
            assert browser.js("document.querySelector('pre').tabIndex") == 0
            browser.js("document.getElementById('read').click()")
            assert browser.js("[...document.querySelectorAll('a:has(.tick)')].map(a => a.getAttribute('href'))") == ["./10_tokenizer.html"]
            browser.open(f"{address}/index.html")
            browser.wait("!document.getElementById('read') && document.readyState === 'complete'")
            assert browser.js("document.getElementById('progress').textContent") == "You have read 1 of 2 chapters. Next: 11 x"
            assert not browser.console
        finally: browser.close()


def test_a_moved_address_keeps_its_fragment(served):
    address, browser = served
    browser.open(f"{address}/tokenizer.html#nanochat_course.tokenizer.train_bpe")
    browser.wait("location.href.endsWith('/10_tokenizer.html#nanochat_course.tokenizer.train_bpe')")
