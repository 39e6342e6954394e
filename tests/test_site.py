"The website: every page, link and image is there, for the mouse, the keyboard and a narrow screen."
import html.parser, importlib.util, json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import chromium
import site_audit

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini")
SITE = CONFIG["DEFAULT"]["doc_host"] + CONFIG["DEFAULT"]["doc_baseurl"]      # a link to this address is a link inside

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
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag == "img": self.images.append((a.get("src", ""), a.get("alt", "")))


def checkout(folder):
    "A copy of what the site is made from."
    for part in ("nbs", "tools", "nanochat_course"):
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for f in ("_quarto.yml", "settings.ini"): shutil.copy(ROOT / f, folder / f)
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    copy = checkout(tmp_path_factory.mktemp("site") / "repo")
    done = subprocess.run([sys.executable, "tools/site/build.py", "--pandoc", "--no-model"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = {p.name: p.read_text() for p in (copy / "_docs").glob("*.html")}
    return {n: Page(t) for n, t in texts.items() if MOVED not in t}, copy / "_docs", done.stdout + done.stderr


MOVED = 'http-equiv="refresh"'
MADE = {"api", "references"}
OWN = {p.stem for p in (ROOT / "tools" / "site" / "pages").glob("*.md")}


def test_a_page_for_every_notebook(pages):
    found = {Path(n).stem for n in pages[0]}
    assert {p.stem for p in (ROOT / "nbs").glob("*.ipynb")} | OWN | MADE == {n for n in found if not n.startswith("api_")}
    for page in pages[0].values():                         # each is reached from everywhere, the page for lost ones excepted
        assert {f"{stem}.html" for stem in OWN - {"404"} | MADE} <= set(page.links)


def test_chapters_are_found_without_their_numbers(pages):
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        text = (pages[1] / f"{path.stem[3:]}.html").read_text()
        assert MOVED in text and f'location.replace("{path.stem}.html" + location.hash)' in text and f"{SITE}/{path.stem}.html" in text


def test_the_reference_has_every_public_name(pages):
    import importlib
    for path in (ROOT / "nanochat_course").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        short, page = module.removeprefix("nanochat_course."), pages[0].get("api_" + module.removeprefix("nanochat_course.").replace(".", "_") + ".html")
        names = getattr(importlib.import_module(module), "__all__", []) if page else []
        if path.name.startswith("_"): continue
        functions = [n for n in names if callable(getattr(sys.modules[module], n)) and getattr(getattr(sys.modules[module], n), "__module__", "") == module
                     and getattr(getattr(sys.modules[module], n), "__name__", "") == n]
        assert page or not functions, module
        for name in functions:
            assert name in page.ids and f"nanochat_course.{short}.{name}" in "".join(page.links), f"{module}.{name}"
    signature = re.sub(r"<[^>]+>", "", pages[0]["api_tokenizer.html"].text)
    assert "vocab_size:int,                         # tokens in all: 256 bytes, merges, specials" in signature and "if isinstance(texts" not in signature


def test_files_for_machines(pages):
    folder = pages[1]
    listed = re.findall("<loc>(.*?)</loc>", (folder / "sitemap.xml").read_text())
    assert {url.removeprefix(SITE + "/") for url in listed} == set(pages[0]) - {"404.html"}
    assert f"Sitemap: {SITE}/sitemap.xml" in (folder / "robots.txt").read_text()
    llms = (folder / "llms.txt").read_text()
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"): assert f"({SITE}/{path.stem}.html): " in llms
    for page in pages[0].values(): assert f'property="og:image" content="{SITE}/card.png"' in page.text
    assert (folder / "card.png").stat().st_size > 10_000
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
        broken += [f"{name}: id {i} twice" for i in set(page.ids) if page.ids.count(i) > 1]
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
        for leak in (":::", "](http", "[`", "#|", "?@fig"): assert leak not in prose, f"{name}: {leak}"


def test_folded_answers_are_rendered_and_closed(pages):
    text = "".join(p.text for p in pages[0].values())
    assert text.count("<details") == text.count("</details>") and not re.search(r'<details class="?(tip|note)"?[^>]* open', text)
    folded = re.findall(r'<details class="?(?:tip|note)"?>(.*?)</details>', text, flags=re.DOTALL)
    assert len(folded) > 150
    assert not [f for f in folded if not re.match(r"\s*<summary>", f) or "\n```" in f or "**" in re.sub(r"<(pre|code|math)\b.*?</\1>", "", f, flags=re.DOTALL)]
    for name, page in pages[0].items():
        for cell in re.findall(r'<pre class="sourceCode python">.*?</pre>', page.text, flags=re.DOTALL):
            assert "&lt;details class=" not in cell, f"{name}: a cell shows the answer that it folds"


def test_wrapped_lines_know_their_indentation(pages):
    lines = [m for p in pages[0].values() for m in re.findall(r'<span id="cb\d+-\d+"([^>]*)><a [^>]*></a>(.*)', p.text)]
    lines += [(m[0], m[1]) for p in pages[0].values() for m in re.findall(r'<span id="cb\d+-\d+"( style="--i:\d+")>(.*)', p.text)]
    for style, code in lines:
        spaces = re.match(r"(?:<[^>]*>)*( *)", code)[1]
        assert style == (f' style="--i:{len(spaces)}"' if spaces else ""), code
    assert sum(bool(style) for style, _ in lines) > 1000


def test_page_for_everybody(pages):
    for name, page in pages[0].items():
        assert not re.search(r"<th\b[^>]*>\s*</th>", page.text), f"{name}: an empty table header"
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
        for src, alt in page.images: assert (pages[1] / src).is_file() and alt, f"{name}: {src}"
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
for path in [*project.glob("*.ipynb"), *project.glob("*.md")]: (out / (path.stem + ".html")).write_text("<table><tr><th></th></tr></table>")
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
    assert "<td></td>" in (copy / "_docs" / "index.html").read_text()
    config = yaml.safe_load((copy / "_proc" / "_quarto.yml").read_text())
    chapters = [c for part in config["website"]["sidebar"]["contents"] if isinstance(part, dict) for c in part.get("contents", [])]
    assert {"text": "10 The tokenizer", "href": "10_tokenizer.ipynb"} in chapters
    for theme in config["format"]["html"]["theme"].values(): assert (copy / "_proc" / theme[1]).is_file()
    assert (copy / "_proc" / config["website"]["favicon"]).is_file() and "pre-render" not in config["project"]
    for path in (copy / "_proc").glob("*.ipynb"):
        text = path.read_text()
        assert "widget-view" not in text and SITE not in text
        ids = set(re.findall(r'<div id=\\"([^"]+)\\"></div>', text))
        for fragment in re.findall(r"\]\(#(nanochat_course[^)]*)\)", text): assert fragment in ids
        assert len(json.loads(text)["cells"]) > 3


def test_quarto_by_habit_is_told_what_to_type():
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())["project"]
    assert not Path(config["output-dir"]).is_absolute() and ".." not in config["output-dir"]
    done = subprocess.run([sys.executable, config["pre-render"]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "make docs" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def served(pages):
    "The site under a folder, as a host of project pages serves it, and a browser."
    if not chromium.find(): pytest.skip("needs chromium")
    (pages[1].parent / "host").mkdir()
    (pages[1].parent / "host" / "course").symlink_to(pages[1])
    with site_audit.Site(pages[1].parent / "host") as address:
        browser = site_audit.Watching()
        browser.begin()
        try: yield f"{address}/course", browser
        finally: browser.close()


def test_every_page_in_a_browser(pages):
    "360 pixels, nothing from other hosts, no message on the console, no serious finding of axe, answers folded, at most 1 MB without figures."
    if not chromium.find(): pytest.skip("needs chromium")
    assert site_audit.axe(), "axe-core-python is missing"
    rows = site_audit.audit(pages[1], sorted(pages[0]), with_axe=lambda name: not name.startswith("api_") or name == "api_gpt.html",
                            dark=lambda name: len(name) % 2)
    assert len(rows) == len(pages[0])
    assert not {r["page"]: f for r in rows if (f := site_audit.faults(r))}


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


def test_search_by_keyboard(served, pages):
    if "no search" in pages[2]: pytest.skip("pagefind is not installed")
    address, browser = served
    browser.size(1200, 800)
    browser.open(f"{address}/index.html")
    browser.wait("location.pathname.endsWith('/course/index.html') && document.readyState === 'complete'")
    browser.js("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}))")
    browser.wait("document.getElementById('search').open && document.activeElement.id === 'query'")
    browser.type("rotary")
    browser.wait("document.querySelectorAll('#found li.page').length > 2")
    assert "Attention" in browser.js("[...document.querySelectorAll('#found li.page:not(.name)')].slice(0, 3).map(li => li.querySelector('a').textContent)")
    browser.key("ArrowDown")
    browser.key("ArrowDown")
    target = browser.js("document.activeElement.href")
    assert "/course/" in target and browser.js("document.activeElement.closest('#found') !== null")
    browser.js("document.activeElement.click()")
    browser.wait(f"location.href === {json.dumps(target)} && document.readyState === 'complete'")
    browser.js("document.getElementById('search-open').click()")
    browser.type("train_bpe")
    browser.wait("document.querySelector('#found li.name a')?.textContent === 'train_bpe'")
    assert browser.js("document.querySelector('#found li.name a').href").endswith("10_tokenizer.html#nanochat_course.tokenizer.train_bpe")
    browser.js("query.value = '☃☃'; query.dispatchEvent(new Event('input'))")
    browser.wait("told.textContent.startsWith('Nothing found')")
    browser.key("Escape")
    browser.wait("!document.getElementById('search').open")
    assert not browser.console


def test_ticks_are_kept(served):
    address, browser = served
    go = lambda page: (browser.open(f"{address}/{page}"), browser.wait(f"location.pathname.endsWith('/{page}') && document.readyState === 'complete'"))
    go("index.html")
    assert browser.js("document.getElementById('progress').hidden")
    for page in ("00_first_light.html", "11_attention.html"):
        go(page)
        browser.js("document.getElementById('read').click()")
        assert browser.js("document.getElementById('read').getAttribute('aria-pressed')") == "true"
    go("index.html")
    assert browser.js("document.getElementById('progress').textContent").startswith("You have read 2 of ")
    assert browser.js("document.querySelector('#progress a').getAttribute('href')") == "10_tokenizer.html"
    assert browser.js("[...document.querySelectorAll('nav.chapters a:has(.tick)')].map(a => a.getAttribute('href'))") == ["00_first_light.html", "11_attention.html"]
    go("11_attention.html")
    browser.js("document.getElementById('read').click()")
    go("index.html")
    assert browser.js("document.querySelectorAll('.tick').length") == 1


def test_a_moved_address_keeps_its_fragment(served):
    address, browser = served
    browser.open(f"{address}/tokenizer.html#nanochat_course.tokenizer.train_bpe")
    browser.wait("location.href.endsWith('/10_tokenizer.html#nanochat_course.tokenizer.train_bpe')")
