"What the site has beside the chapters: pages of its own, a reference, redirects, search, and what machines read."
import ast, json, re, shutil, subprocess, sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
NEEDS = {"race": ["newton_schulz"], "zero": ["scaling"]}   # scripts that a picture's own script needs
PLAY = re.compile(r'<div class="play" data-play="(\w+)">')


def play_scripts(text):
    "The scripts of the interactive pictures of a page, as raw HTML; empty where it has none."
    names = list(dict.fromkeys(need for name in PLAY.findall(text) for need in [*NEEDS.get(name, []), name]))
    if not names: return ""
    tags = ['<link rel="stylesheet" href="play/play.css">', *(f'<script src="play/{name}.js" defer></script>' for name in ["play", *names])]
    return "\n\n```{=html}\n" + "\n".join(tags) + "\n```\n"


def own_pages():
    "{name: (front matter, Markdown)} of the pages that are no chapters."
    pages = {}
    for path in sorted((HERE / "pages").glob("*.md")):
        _, front, text = path.read_text(encoding="utf-8").split("---\n", 2)
        pages[path.stem] = (yaml.safe_load(front), text)
    return pages


def signature(source, node):
    "The lines of a definition up to its body, as they stand in the notebook."
    body = node.body[0]
    first = min([d.lineno for d in node.decorator_list], default=node.lineno)
    last = body.lineno - 1 if body.lineno > node.lineno else node.lineno
    lines = source.splitlines()[first - 1:last]
    if body.lineno == node.lineno: lines = [lines[-1][:body.col_offset].rstrip()]
    return "\n".join(line for line in lines if not line.lstrip().startswith("@"))


def definitions(source):
    "(name, signature, docstring) of the public functions, classes and methods that a cell defines."
    for node in ast.parse(re.sub(r"(?m)^(\s*)[%!]", r"\1#", source)).body:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, functions) and not node.name.startswith("_"):
            patched = any(isinstance(d, ast.Name) and d.id == "patch" for d in node.decorator_list)
            owner = getattr(node.args.args[0].annotation, "id", "") if patched else ""
            yield f"{owner}.{node.name}" if owner else node.name, signature(source, node), ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            lines = source.splitlines()
            shown = [lines[node.lineno - 1]] + [lines[n.lineno - 1] for n in fields]
            shown += [signature(source, n) for n in node.body if isinstance(n, functions) and n.name == "__init__"]
            yield node.name, "\n".join(shown), ast.get_docstring(node) or ""
            for n in node.body:
                if isinstance(n, functions) and not n.name.startswith("_"):
                    dedented = "\n".join(line.removeprefix("    ") for line in signature(source, n).splitlines())
                    yield f"{node.name}.{n.name}", dedented, ast.get_docstring(n) or ""


def page_of(module): return f"api_{module.replace('.', '_')}"


def reference_pages(cells_of):
    "{notebook: [(module, its page of the reference)]}, of the modules that define something public; a module belongs to its first cell's notebook."
    found = {}
    for module, cells in sorted(cells_of.items()):
        if any(True for _, source in cells for _ in definitions(source)): found.setdefault(cells[0][0], []).append((module, page_of(module)))
    return found


def reference(cells_of, titles):
    """{name: (front matter, Markdown)}: a page for each module and one that lists them.

    `cells_of`: {module: [(notebook, source of an exported cell)]}; `titles`: {notebook: (title, description)}.
    """
    pages, rows = {}, []
    for module in sorted(cells_of):
        stem, parts, names = cells_of[module][0][0], [], []
        for notebook, source in cells_of[module]:
            for name, shown, doc in definitions(source):
                names.append(name)
                level, place = "###" if "." in name else "##", f"{notebook}.ipynb#nanochat_course.{module}.{name}"
                parts.append(f"{level} {name} {{#{name}}}\n\n{doc}\n\n```python\n{shown}\n```\n\n[Where it is defined and explained]({place})\n")
        if not parts: continue
        page, (title, description) = page_of(module), titles[stem]
        top = f"From the chapter [{stem[:2]} {title}]({stem}.ipynb). Signatures and their comments stand here as in the notebook."
        pages[page] = (dict(title=f"nanochat_course.{module}", description=description), "\n\n".join([top, *parts]))
        shown = ", ".join(f"[`{n}`]({page}.md#{n})" for n in names if "." not in n)
        rows.append(f"**[nanochat_course.{module}]({page}.md)**: {description}\n\n{shown}\n")
    index = "Every public name, by module. Each leads to its signature, and from there to the cell that defines it.\n\n" + "\n\n".join(rows)
    return {"api": (dict(title="Reference", description="Every module and every public name of the package"), index), **pages}


REDIRECT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><link rel="canonical" href="{url}"><meta name="robots" content="noindex">
<script>location.replace("{page}" + location.hash);</script><meta http-equiv="refresh" content="1; url={page}"></head>
<body><p>This page has moved to <a href="{page}">{title}</a>.</p></body></html>
"""


def write_redirects(docs, titles, site):
    "tokenizer.html leads to 10_tokenizer.html: chapters may be cited without their numbers, which can change."
    for stem, title in titles.items():
        if stem[:2].isdigit() and not (docs / f"{stem[3:]}.html").exists():
            text = REDIRECT.format(title=title, page=f"{stem}.html", url=f"{site['site-url']}/{stem}.html")
            (docs / f"{stem[3:]}.html").write_text(text, encoding="utf-8")


def write_for_machines(docs, chapters, others, site):
    "sitemap.xml, robots.txt and llms.txt; `chapters` and `others`: {page: (title, description)}."
    url = lambda stem: f"{site['site-url']}/{stem}.html"
    known = "".join(f"<url><loc>{url(stem)}</loc></url>\n" for stem in [*chapters, *others] if stem != "404")
    (docs / "sitemap.xml").write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{known}</urlset>\n')
    (docs / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {site['site-url']}/sitemap.xml\n")
    listed = lambda pages: "\n".join(f"- [{title}]({url(stem)}): {about}" for stem, (title, about) in pages.items() if stem not in ("index", "404"))
    text = f"# {site['title']}\n\n> {site['description']}\n\nThe notebooks are the source of the package; they lie in nbs/ of {site['repo-url']}.\n\n" \
           f"## Chapters\n\n{listed(chapters)}\n\n## Beside the chapters\n\n{listed({k: v for k, v in others.items() if not k.startswith('api_')})}\n"
    (docs / "llms.txt").write_text(text, encoding="utf-8")


def write_names(docs, index):
    "names.json: where each public name is defined, for the search; names that several chapters define are left to the text."
    places = {name: [f"{stem}.html#{anchor}" for stem, anchor in found.items()] for name, found in index.items() if not name.startswith("nanochat_course.")}
    (docs / "names.json").write_text(json.dumps({name: found[0] for name, found in sorted(places.items()) if len(found) == 1}, indent=0))


def write_search(docs):
    "The index that search.js asks, by pagefind; says what was done."
    try: import pagefind  # noqa: F401
    except ImportError: return "no search: pip install pagefind pagefind_bin"
    done = subprocess.run([sys.executable, "-m", "pagefind", "--site", str(docs), "--quiet"], capture_output=True, text=True)
    if done.returncode: return f"no search: pagefind failed: {(done.stderr or done.stdout).strip()}"
    for extra in (docs / "pagefind").glob("pagefind-*"):                    # its own interface, which this site does not use
        if extra.suffix in (".js", ".css") and "worker" not in extra.name: extra.unlink()
    return f"search over {json.loads((docs / 'pagefind' / 'pagefind-entry.json').read_text())['languages']['en']['page_count']} pages"


def write_files(docs):
    "Scripts, styles and pictures that pages name."
    shutil.copytree(HERE / "play", docs / "play", dirs_exist_ok=True)
    for name in ("card.png", "reader.js"): shutil.copy(HERE / name, docs / name)
