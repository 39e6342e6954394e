"""Render the notebooks as a website: python tools/site/build.py [--serve] [--port 8000] [--pandoc] [--epub] [--pdf]

nbdev's processors drop hidden cells; names in backticks become links to the cell that defines them. The result goes to _proc/.
Quarto renders that where it is installed. Elsewhere this file hands each page to pandoc as Markdown: glue, no renderer of its own.
Both read _quarto.yml and write _docs/. Stored outputs are shown; nothing is trained. What stands beside the chapters: extras.py,
cite.py (the works that are named), elsewhere.py (Colab and Binder), book.py (EPUB and PDF).
"""
import argparse, ast, base64, functools, html, http.server, importlib.util, json, os, re, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book, card, cite, elsewhere, extras, widgets

ROOT = Path(__file__).resolve().parents[2]
HERE, NBS, PROC, DOCS = ROOT / "tools" / "site", ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
ALT = "Figure made by the cell above"         # of a figure that says nothing of itself
READER = "markdown+tex_math_dollars+pipe_tables+fenced_divs+raw_html+auto_identifiers-implicit_figures-yaml_metadata_block+lists_without_preceding_blankline"


def defined(source):
    "Names that a code cell defines: functions, classes, their public methods, methods added by @patch, constants."
    names = []
    for node in ast.parse(re.sub(r"(?m)^(\s*)[%!]", r"\1#", source)).body:
        if isinstance(node, ast.ClassDef):
            methods = [part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and not part.name.startswith("_")]
            names += [node.name, *(f"{node.name}.{method}" for method in methods)]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            patched = any(isinstance(d, ast.Name) and d.id == "patch" for d in node.decorator_list)
            owner = getattr(node.args.args[0].annotation, "id", "") if patched else ""
            names.append(f"{owner}.{node.name}" if owner else node.name)
        elif isinstance(node, ast.Assign):
            names += [t.id for t in node.targets if isinstance(t, ast.Name) and t.id.isupper()]
    return names


def exported(cell):
    "The module that a cell is exported to: named in `#| export labs.x`, empty for the notebook's own; None where it is not exported."
    found = cell["cell_type"] == "code" and re.match(r"(?:#\|.*\n)*#\| *export\b *([\w.]*)", "".join(cell["source"]))
    return found[1] if found else None


def exported_cells(paths):
    "{module: [(notebook, source)]} of all cells that are exported."
    found = {}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        own = re.search(r"#\| *default_exp +([\w.]+)", text)
        for cell in json.loads(text)["cells"]:
            if (named := exported(cell)) is not None: found.setdefault(named or own[1], []).append((path.stem, "".join(cell["source"])))
    return found


def find_names(paths):
    "{name: {notebook: anchor}} of everything that the notebooks export."
    index = {}
    for module, cells in exported_cells(paths).items():
        for notebook, source in cells:
            for name in defined(source):
                anchor = f"nanochat_course.{module}.{name}"
                for called in (name, f"{module}.{name}", anchor): index.setdefault(called, {})[notebook] = anchor
    return index


CODE = re.compile(r"``.*?``|!?\[(?:`[^`]*`|[^\]`])*\]\([^)]*\)|</?[A-Za-z][^>]*>|`(?P<name>[A-Za-z_][\w.]*)(?P<call>\(\))?`")


def link_names(text, here, index):
    "Names in backticks become links to the cell that defines them: in this chapter, or in the only one that has the name."
    def link(m):
        name = m["name"]
        places = index.get(name, {}) if name and (m["call"] or re.search(r"[_.A-Z]", name)) else {}
        where = here if here in places else next(iter(places)) if len(places) == 1 else None
        if where is None: return m[0]
        return f"[{m[0]}]({'' if where == here else where + '.ipynb'}#{places[where]})"
    lines, fenced = text.split("\n"), False
    for i, line in enumerate(lines):
        if line.lstrip().startswith("```"): fenced = not fenced
        elif not fenced and not line.startswith(("#", "    ", "<summary", "@")): lines[i] = CODE.sub(link, line)
    return "\n".join(lines)


def link_all(text, here, index, works=None):
    "Links at names in backticks, and at the works that are named."
    text = link_names(text, here, index)
    return works.link(text) if works else text


def process(path, index, works=None, top=""):
    "One notebook through nbdev's processors; exported cells stay, marked with their module, and are reached by the names they define; `top`: Markdown under the title."
    from execnb.nbio import dict2nb, mk_cell
    from nbdev.process import NBProcessor
    from nbdev.processors import hide_, hide_line, populate_language, rm_header_dash, strip_ansi
    raw = json.loads(path.read_text(encoding="utf-8"))
    saved = widgets.saved(raw)
    raw["metadata"].pop("widgets", None)                    # or Quarto would ask another host for scripts
    first = "".join(raw["cells"][0]["source"]) + "\n"
    head = re.match(r"# (.*)\n+(?:> (.*)\n*)?", first)
    front = yaml.safe_dump(dict(title=head[1], description=head[2] or ""), allow_unicode=True)
    raw["cells"][:1] = [dict(cell_type="raw", metadata={}, source=f"---\n{front}---"), dict(cell_type="markdown", metadata={}, source=f"{top}\n\n{first[head.end():]}")]
    nb = NBProcessor(nb=dict2nb(raw), procs=[populate_language, strip_ansi, hide_line, rm_header_dash, hide_])
    module = next((c.directives_["default_exp"][0] for c in nb.nb.cells if "default_exp" in c.directives_), "")
    exports = {id(c): defined(c.source) for c in nb.nb.cells if "export" in c.directives_}
    modules = {id(c): (c.directives_["export"] or [module])[0] for c in nb.nb.cells if "export" in c.directives_}
    nb.process()
    cells = []
    for c in nb.nb.cells:
        if not (c.get("source") or "").strip(): continue
        c.source = c.source.strip("\n")
        if c.cell_type == "markdown":
            c.source = re.sub(r"<summary>(\d+)\. ", r"<summary>\1\. ", link_all(c.source, path.stem, index, works))     # a number, no list
        if id(c) in exports:
            c.source = f'#| classes: export\n#| module: nanochat_course.{modules[id(c)]}\n{c.source}'
            anchors = [f'<div id="nanochat_course.{modules[id(c)]}.{name}"></div>' for name in exports[id(c)]]
            if anchors: cells.append(mk_cell("\n".join(anchors), "markdown"))
        for o in c.get("outputs", []): show_elsewhere(o, path.stem, index, saved, any('class="play"' in before.source for before in cells))
        if not re.search(r"#\| *fig-(alt|cap):", c.source) and any("image/png" in o.get("data", {}) for o in c.get("outputs", [])):
            c.source = f'#| fig-alt: "{ALT}"\n{c.source}'
        cells.append(c)
    scripts = extras.play_scripts("\n".join(c.source for c in cells if c.cell_type == "markdown"))
    nb.nb.cells = cells + ([mk_cell(scripts.strip(), "markdown")] if scripts else [])
    return nb.nb


def show_elsewhere(output, here, index, saved, moves_above):
    "A stored output for readers without a kernel: a still picture instead of a widget, names linked in Markdown; HTML as raw Markdown, since Quarto fetches jQuery from another host for it."
    data = output.get("data", {})
    shown = data.pop("text/html", None)
    if shown: shown = f'<div class="table">{"".join(shown)}</div>' if "image/png" not in data else None
    if widgets.VIEW in data: shown = widgets.on_a_page(data[widgets.VIEW]["model_id"], saved, moves_above)
    if shown: output["data"] = {"text/markdown": f"```{{=html}}\n{shown}\n```"}
    elif "text/markdown" in data: data["text/markdown"] = link_names("".join(data["text/markdown"]), here, index)


def options(source):
    "Split Quarto's `#| key: value` lines off a code cell."
    opts, lines = {}, source.splitlines()
    while lines and lines[0].startswith("#|"):
        key, _, value = lines.pop(0)[2:].partition(":")
        try: opts[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError: opts[key.strip()] = value.strip().strip('"')
    return opts, "\n".join(lines).strip("\n")


def fence(text, attributes):
    ticks = "`" * max(3, 1 + max((len(m) for m in re.findall("`+", text)), default=0))
    return f"\n\n{ticks} {{{attributes}}}\n{text}\n{ticks}\n\n"


def output_markdown(o, opts, stem, images):
    "One stored output as Markdown; images are written beside the page."
    if o.output_type == "stream": return fence("".join(o.text).rstrip("\n"), ".output" if o.name == "stdout" else ".output .error") if "".join(o.text).strip() else ""
    if o.output_type == "error": return fence(f"{o.ename}: {o.evalue}", ".output .error")
    data = {k: v if isinstance(v, str) else "".join(v) if isinstance(v, list) else v for k, v in o.data.items()}
    for kind, suffix in (("image/svg+xml", "svg"), ("image/png", "png")):
        if kind in data:
            name = f"{stem}_files/figure-{len(images) + 1}.{suffix}"
            images.append(name)
            (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
            raw = data[kind].encode() if suffix == "svg" else base64.b64decode(data[kind])
            (DOCS / name).write_bytes(raw)
            width = f' width="{int.from_bytes(raw[16:20], "big") * 10 // 11}"' if suffix == "png" else ""
            alt = html.escape(str(opts.get("fig-alt") or opts.get("fig-cap") or ALT), quote=True)
            return f'\n\n<img src="{name}" alt="{alt}"{width} loading="lazy">\n\n'
    if "text/markdown" in data: return "\n\n" + data["text/markdown"] + "\n\n"
    return fence(data.get("text/plain", "").rstrip("\n"), ".output") if data.get("text/plain", "").strip() else ""


CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")     # what untrained models write, and no page may contain


def page_markdown(nb, stem):
    "A processed notebook as pandoc Markdown, with its title and description."
    meta, parts, images, figures = {}, [], [], {}
    for c in nb.cells:
        if c.cell_type == "raw" and c.source.startswith("---"): meta = yaml.safe_load(c.source.strip().strip("-")) or {}
        elif c.cell_type == "markdown": parts.append(c.source)
        elif c.cell_type == "code":
            opts, source = options(c.source)
            outputs = "".join(output_markdown(o, opts, stem, images) for o in c.get("outputs", [])) if opts.get("output", True) else ""
            export = opts.get("classes") == "export"
            code = fence(source, '.python' + (f' .export data-module="{opts["module"]}"' if export else "")) if opts.get("echo", True) and source else ""
            if code and opts.get("code-fold"): code = f"\n\n<details class=\"code\"><summary>{opts.get('code-summary', 'Code')}</summary>{code}</details>\n\n"
            label = opts.get("label", "")
            if opts.get("fig-cap") and outputs:
                figures[label] = len(figures) + 1
                cap = f"Figure {figures[label]}: {opts['fig-cap']}"
                outputs = f"\n\n::: {{.figure #{label or 'fig-' + str(figures[label])}}}\n{outputs}\n::: {{.caption}}\n{cap}\n:::\n:::\n\n"
            parts.append(code + outputs)
    text = "\n\n".join(parts)
    refs = lambda m: f"[Figure {figures[m[1]]}](#{m[1]})" if m[1] in figures else m[0]
    return meta, CONTROL.sub("\ufffd", re.sub(r"(?<![\w#{])@(fig-[\w-]+)", refs, text))


def to_html_links(text):
    "Links to notebooks and to the site's own Markdown become links to pages."
    return re.sub(r"\]\((\d\d_\w+|\w+)\.(?:ipynb|md)(#[^)]*)?\)", lambda m: f"]({m[1]}.html{m[2] or ''})", text)


def sidebar_pages(config):
    "(section, notebook) pairs in reading order, of the notebooks that exist."
    for item in config["website"]["sidebar"]["contents"]:
        for page in [item] if isinstance(item, str) else item["contents"]:
            if (NBS / page).exists(): yield ("" if isinstance(item, str) else item["section"], page)


def footer_pages(config):
    "(page, text) of the pages beside the chapters, as _quarto.yml lists them for the foot of each page."
    return [(Path(item["href"]).stem, item["text"]) for item in config["website"].get("page-footer", {}).get("center", []) if item["href"].endswith(".md")]


def nav_html(pages, titles, here, beside):
    out, last = [], None
    for section, page in pages:
        if section != last and section: out.append(f"<h2>{html.escape(section)}</h2>")
        last, stem = section, Path(page).stem
        current = ' aria-current="page"' if stem == here else ""
        number = f"<span>{stem[:2]}</span> " if stem[:2].isdigit() else ""
        out.append(f'<a href="{stem}.html"{current}>{number}{html.escape(titles[stem])}</a>')
    out.append("<h2>Beside the chapters</h2>")
    for stem, text in beside:
        current = ' aria-current="page"' if stem == here or stem == "api" and here.startswith("api_") else ""
        out.append(f'<a href="{stem}.html"{current}>{html.escape(text)}</a>')
    return "\n".join(out)


def without_empty_headers(page):
    "The corner of a table is no header: a screen reader would announce an empty one."
    return re.sub(r"<th((?: [^>]*)?)>\s*</th>", r"<td\1></td>", page)


def with_indentation(page):
    "Each line of code says how far in it begins, so that what goes on below can go on further in."
    def indent(m):
        spaces = len(m[2]) - len(m[2].lstrip(" "))
        return f'<span id="{m[1]}" style="--i:{spaces}">{m[0][m[0].index(">") + 1:]}' if spaces else m[0]
    return re.sub(r'<span id="(cb\d+-\d+)"><a href="#cb\d+-\d+" aria-hidden="true" tabindex="-1"></a>(?:<span[^>]*>)?( *)', indent, page)


def finish(page):
    "What both renderers leave out."
    return without_empty_headers(with_indentation(page))


def with_heading_links(page):
    "A link at each heading; Quarto makes its own."
    return re.sub(r'<h([23])([^>]*) id="([^"]+)"([^>]*)>(.*?)</h\1>',
                  r'<h\1\2 id="\3"\4>\5 <a class="anchor" href="#\3" data-pagefind-ignore aria-label="Link to this section">#</a></h\1>', page, flags=re.DOTALL)


def from_anywhere(page, site):
    "A host answers a wrong address in any folder with the page for lost ones: its links begin at the host, as Quarto makes them."
    return re.sub(r'(href|src)="(?!\w+:|#|/)', rf'\1="{urlsplit(site["site-url"]).path}/', page)


def find_pandoc():
    import pypandoc
    return shutil.which("pandoc") or pypandoc.get_pandoc_path()


def with_pandoc(config, pages, notebooks, others):
    pandoc = find_pandoc()
    shutil.rmtree(DOCS, ignore_errors=True)
    DOCS.mkdir()
    for name in ("style.css", "page.js", "search.js", "favicon.svg"): shutil.copy(HERE / name, DOCS / name)
    texts = {Path(p).stem: page_markdown(notebooks[p], Path(p).stem) for _, p in pages}
    order, site, beside = list(texts), config["website"], footer_pages(config)
    texts = {stem: (meta, to_html_links(text)) for stem, (meta, text) in (texts | others).items()}
    titles = {stem: str(meta.get("title", stem)) for stem, (meta, _) in texts.items()}
    search = importlib.util.find_spec("pagefind") is not None

    def near(i, side):
        return f'<a class="{side}" href="{order[i]}.html">{html.escape(titles[order[i]])}</a>' if 0 <= i < len(order) else ""

    def render(stem):
        meta, text = texts[stem]
        i, out = order.index(stem) if stem in order else -2, DOCS / f"{stem}.html"
        variables = dict(sitetitle=site["title"], nav=nav_html(pages, titles, stem, beside), prev=near(i - 1, "prev"), next=near(i + 1, "next"),
                         repo=site["repo-url"], url=f"{site['site-url']}/{stem}.html", card=card.address(site, stem))
        if search: variables["search"] = "yes"
        if stem.startswith("api"): variables["reference"] = "yes"
        metadata = dict(title=titles[stem], pagetitle=f"{titles[stem]} | {site['title']}", description=meta.get("description", ""))
        args = [pandoc, "-f", READER, "-t", "html5", "--mathml", "--toc", "--toc-depth=3", "--template", str(HERE / "page.html"),
                "--wrap=none", "--syntax-highlighting=pygments", "-o", str(out)]
        for k, v in variables.items(): args += ["-V", f"{k}={v}"]
        for k, v in metadata.items(): args += ["-M", f"{k}={v}"]
        done = subprocess.run(args, input=text, text=True, capture_output=True)
        if done.returncode: raise SystemExit(f"pandoc failed on {stem}: {done.stderr}")
        page = with_heading_links(finish(out.read_text(encoding="utf-8")))
        out.write_text(from_anywhere(page, site) if stem == "404" else page, encoding="utf-8")
        return [f"{stem}: {line}" for line in done.stderr.splitlines() if line.strip()]

    with ThreadPoolExecutor(os.cpu_count()) as pool: warnings = [w for ws in pool.map(render, texts) for w in ws]
    if warnings: print("\n".join(warnings[:20]))
    print(f"{len(texts)} pages in {DOCS}")


def with_quarto(config, pages, notebooks, others):
    "The processed notebooks and the configuration go to _proc/; what Quarto makes of them there is moved to _docs/."
    from execnb.nbio import write_nb
    shutil.rmtree(PROC, ignore_errors=True)
    shutil.copytree(HERE, PROC / "tools" / "site", ignore=shutil.ignore_patterns("*.py", "__pycache__", "page.*"))
    number = lambda page: {"text": f"{page[:2]} {title(notebooks[page])}", "href": page} if page[:2].isdigit() else page
    numbered = lambda pages: [number(page) for page in pages if page in notebooks]
    site = config["website"]
    beside = [{"text": text, "href": f"{stem}.md"} for stem, text in footer_pages(config)]
    site["sidebar"]["contents"] = [part for item in site["sidebar"]["contents"] for part in
                                   (numbered([item]) if isinstance(item, str) else [item | {"contents": numbered(item["contents"])}])]
    site["sidebar"]["contents"].append({"section": "Beside the chapters", "contents": beside})
    site.pop("page-footer")                                # its links stand in the sidebar, as in pandoc's pages
    config["project"].pop("pre-render")
    (PROC / "_quarto.yml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
    for page, nb in notebooks.items():
        meta = front(nb) | {"image": card.address(site, Path(page).stem)}
        nb.cells[0].source = f"---\n{yaml.safe_dump(meta, allow_unicode=True)}---"
        write_nb(nb, PROC / page)
    for stem, (meta, text) in others.items():
        (PROC / f"{stem}.md").write_text(f"---\n{yaml.safe_dump(meta, allow_unicode=True)}---\n{text}", encoding="utf-8")
    if subprocess.run(["quarto", "render", str(PROC)]).returncode:
        raise SystemExit("Quarto failed, and said why above; `python tools/site/build.py --pandoc` renders without it. _docs/ is as it was.")
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC / config["project"]["output-dir"], DOCS)
    for path in DOCS.glob("*.html"): path.write_text(finish(path.read_text(encoding="utf-8")), encoding="utf-8")


def front(nb):
    "Title and description of a processed notebook."
    return yaml.safe_load(nb.cells[0].source.strip().strip("-"))


def title(nb): return front(nb)["title"]


def cited(notebooks):
    "{key of a work: [links to the chapters that name it]}; the glossary only repeats the chapters."
    found = {}
    for page, nb in notebooks.items():
        if page == "95_glossary.ipynb" or not page[:2].isdigit(): continue
        keys = cite.named("\n".join(c.source for c in nb.cells if c.cell_type == "markdown"))
        for key in dict.fromkeys(keys): found.setdefault(key, []).append(f"[{page[:2]} {title(nb)}]({page})")
    return found


def beside_the_chapters(paths, notebooks, index, works):
    "{name: (front matter, Markdown)} of the site's own pages, of the reference and of the works that are named."
    titles = {Path(page).stem: (front(nb)["title"], front(nb)["description"]) for page, nb in notebooks.items()}
    pages = {stem: (meta, link_all(text, stem, index, works) + extras.play_scripts(text)) for stem, (meta, text) in extras.own_pages().items()}
    return pages | extras.reference(exported_cells(paths), titles) | {"references": cite.page(works, cited(notebooks))}


def write_beside(config, notebooks, others, index):
    "What both renderers leave to this file: scripts, redirects, files for machines, search, the model."
    about = lambda meta: (meta["title"], meta.get("description", ""))
    chapters = {Path(page).stem: about(front(nb)) for page, nb in notebooks.items()}
    extras.write_files(DOCS)
    shutil.copy(cite.BIB, DOCS / cite.BIB.name)
    card.write_cards(chapters, DOCS / "cards")
    extras.write_names(DOCS, index)
    extras.write_redirects(DOCS, {stem: name for stem, (name, _) in chapters.items()}, config["website"])
    extras.write_for_machines(DOCS, chapters, {stem: about(meta) for stem, (meta, _) in others.items()}, config["website"])


def write_books(config, pages, notebooks, others, args):
    "The course as one file; pictures are taken from the rendered site."
    texts = {Path(page).stem: page_markdown(notebooks[page], Path(page).stem) for _, page in pages if page[:2].isdigit()}
    texts |= {stem: others[stem] for stem in ("lineage", "faq", "references")}
    for wanted, write in ((args.epub, book.write_epub), (args.pdf, book.write_pdf)):
        if wanted: print(write(find_pandoc(), READER, texts, DOCS, config["website"]))


def readme():
    "README.md from nbs/index.ipynb."
    nb = process(NBS / "index.ipynb", {})
    meta, parts = {}, []
    for c in nb.cells:
        if c.cell_type == "raw": meta = yaml.safe_load(c.source.strip().strip("-")) or {}
        elif c.cell_type == "markdown": parts.append(c.source)
        else:
            opts, source = options(c.source)
            if opts.get("echo", True): parts.append(f"```python\n{source}\n```")
            for o in c.get("outputs", []):
                if o.output_type != "stream" and "text/markdown" in o.data: parts.append("".join(o.data["text/markdown"]))
                elif o.output_type == "stream": parts.append("```\n" + "".join(o.text).rstrip() + "\n```")
                elif "image/png" not in o.data and "text/plain" in o.data: parts.append("```\n" + "".join(o.data["text/plain"]) + "\n```")
    text = f"# {meta.get('title')}\n\n<!-- made from nbs/index.ipynb by `make readme`; edit that -->\n\n> {meta.get('description', '')}\n\n" + "\n\n".join(parts) + "\n"
    text = re.sub(r"\]\((\d\d_\w+\.ipynb)", r"](nbs/\1", text)
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["site-url"]
    text = re.sub(r"\]\((\w+)\.md\)", rf"]({site}/\1.html)", text).replace('<p id="progress" hidden></p>\n\n', "")
    (ROOT / "README.md").write_text(text)


def model_line():
    "Put the weights of the laptop's model beside the pages, where a run has left one."
    sys.path.insert(0, str(ROOT))
    import play_data
    return play_data.model_for_the_page(DOCS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="serve _docs on the loopback address afterwards")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--readme", action="store_true", help="only write README.md")
    parser.add_argument("--no-model", action="store_true", help="do not put a trained model beside the pages")
    parser.add_argument("--epub", action="store_true", help="also the whole course as an EPUB")
    parser.add_argument("--pdf", action="store_true", help="also the whole course as a PDF, where Chromium is installed")
    parser.add_argument("--pandoc", action="store_true", help="render with pandoc even where Quarto is installed")
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.readme: return readme()
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    pages = list(sidebar_pages(config))
    numbered = [NBS / page for _, page in pages if page[:2].isdigit()]
    index, works = find_names(numbered), cite.Works(cite.read(find_pandoc()))
    ref, site, api = elsewhere.commit(), config["website"], extras.reference_pages(exported_cells(numbered))
    tops = {path.name: elsewhere.links(path.stem, site, ref, api.get(path.stem, [])) for path in numbered}
    notebooks = {page: process(NBS / page, index, works, tops.get(page, "")) for _, page in pages}
    others = beside_the_chapters(numbered, notebooks, index, works)
    quarto = shutil.which("quarto") and not args.pandoc
    (with_quarto if quarto else with_pandoc)(config, pages, notebooks, others)
    write_beside(config, notebooks, others, index)
    elsewhere.write_notebooks(numbered, DOCS, site, ref)
    if not quarto: print(extras.write_search(DOCS))          # Quarto has a search of its own
    if not args.no_model: print(model_line())
    if args.epub or args.pdf: write_books(config, pages, notebooks, others, args)
    if args.serve:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(DOCS))
        print(f"http://127.0.0.1:{args.port}/index.html (stop with Ctrl-C)", flush=True)
        with http.server.ThreadingHTTPServer(("127.0.0.1", args.port), handler) as server:
            try: server.serve_forever()
            except KeyboardInterrupt: pass


if __name__ == "__main__": main()
