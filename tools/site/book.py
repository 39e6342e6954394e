"""The whole course as one file: an EPUB by pandoc, and a PDF that Chromium prints.

    python tools/site/build.py --epub       # _docs/nanochat_course.epub
    python tools/site/build.py --pdf        # _docs/nanochat_course.pdf; where Chromium is installed

Chapters and pages are the Markdown that the site is made from; links between them become links inside the book.
"""
import re, shutil, subprocess, tempfile, zipfile
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
NOT_IN_A_BOOK = re.compile(r'\n*```\{=html\}\n<link rel="stylesheet" href="play/.*?```|::: \{\.run[^\n]*\n.*?\n:::\n|<p id="progress" hidden></p>\n', re.DOTALL)
LINK = re.compile(r"\]\((\w+)\.(?:ipynb|md)(#[^)]*)?\)")
VOID = re.compile(r"<(area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b((?:[^<>\"']|\"[^\"]*\"|'[^']*')*?)\s*/?>")
PICTURE = '\n\n*In the book this picture stands still; on [the page]({page}) it can be moved.*\n\n</div>'


def chapter(stem, meta, text, known, site_url):
    "One page of the site as a file of the book."
    text = NOT_IN_A_BOOK.sub("\n", text)
    text = re.sub(r'(<div class="play".*?)\n</div>', lambda m: m[1].split("\n\n")[0] + PICTURE.format(page=f"{site_url}/{stem}.html"), text, flags=re.DOTALL)
    text = VOID.sub(r"<\1\2 />", text)                      # an EPUB's pages are XML
    def inside(m): return f"]({m[1]}.md{m[2] or '#top'})" if m[1] in known else f"]({site_url}/{m[1]}.html{m[2] or ''})"
    number = f"{stem[:2]} " if stem[:2].isdigit() else ""
    return f"# {number}{meta['title']} {{#top}}\n\n*{meta.get('description', '')}*\n\n{LINK.sub(inside, text)}\n".replace("](references.bib)", f"]({site_url}/references.bib)")


def write_files(texts, folder, site_url):
    "The book's files, in their order."
    paths = []
    for stem, (meta, text) in texts.items():
        paths.append(folder / f"{stem}.md")
        paths[-1].write_text(chapter(stem, meta, text, texts, site_url), encoding="utf-8")
    return paths


def pandoc_book(pandoc, reader, texts, docs, site, out, *options):
    "One file from all pages."
    with tempfile.TemporaryDirectory() as folder:
        paths = [p.name for p in write_files(texts, Path(folder), site["site-url"])]
        args = [pandoc, "-f", reader, "--file-scope", "--mathml", "--toc", "--toc-depth=2", "--wrap=none", "--syntax-highlighting=pygments", "--resource-path", str(docs),
                "-M", f"title={site['title']}", "-M", f"subtitle={site['description']}", "-M", "lang=en", "--css", str(HERE / "book.css"), *options, "-o", str(out), *paths]
        done = subprocess.run(args, cwd=folder, capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"pandoc failed on the book: {done.stderr}")
    return [line for line in done.stderr.splitlines() if line.strip()]


def malformed(path):
    "Pages of an EPUB that are no XML: [(name, what is wrong)]."
    found = []
    with zipfile.ZipFile(path) as book:
        for name in book.namelist():
            if not name.endswith((".xhtml", ".opf", ".ncx")): continue
            try: ElementTree.fromstring(book.read(name))
            except ElementTree.ParseError as e: found.append((name, str(e)))
    return found


def write_epub(pandoc, reader, texts, docs, site):
    "The book for readers of e-books; says what was written."
    out = docs / f"{site['title']}.epub"
    warnings = pandoc_book(pandoc, reader, texts, docs, site, out, "-t", "epub3", "--split-level=1", "--epub-cover-image", str(HERE / "card.png"))
    for line in [*warnings, *(f"{name}: {what}" for name, what in malformed(out))]: print(line)
    return f"{out.name}: {len(texts)} chapters and pages, {out.stat().st_size / 1e6:.1f} MB"


def find_chromium():
    return next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


def write_pdf(pandoc, reader, texts, docs, site):
    "The book on paper, printed by Chromium from one long page; says what was written."
    chromium = find_chromium()
    if chromium is None: return "no PDF: Chromium prints it, and is not installed (apt-get install chromium)"
    out, page = docs / f"{site['title']}.pdf", docs / "book.html"
    for line in pandoc_book(pandoc, reader, texts, docs, site, page, "-t", "html5", "--standalone"): print(line)
    shutil.copy(HERE / "book.css", docs / "book.css")
    text = page.read_text(encoding="utf-8").replace(str(HERE / "book.css"), "book.css")
    page.write_text(text.replace(' loading="lazy"', ""), encoding="utf-8")            # or what is never scrolled to is not printed
    done = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={out}", page.as_uri()], capture_output=True, text=True)
    page.unlink()
    (docs / "book.css").unlink()
    return f"{out.name}: {out.stat().st_size / 1e6:.1f} MB" if out.exists() else f"no PDF: Chromium failed: {done.stderr.strip()[-300:]}"
