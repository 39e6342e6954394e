"""What a browser finds on every page of the rendered site: python tests/site_audit.py [FOLDER] prints a table and stores it in benchmarks/results/site_audit.json."""
import functools, http.server, json, sys, threading, time
from pathlib import Path

import chromium

ROOT = Path(__file__).resolve().parent.parent
# Code loses its colours before axe looks, which makes it five times as fast: they have a test of their own (tests/test_site.py).
RULES = dict(runOnly=dict(type="tag", values=["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]), resultTypes=["violations"])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
    def log_error(self, *args): pass


class Site:
    "A folder served on the loopback address."
    def __init__(self, folder):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
    def __enter__(self):
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"
    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Watching(chromium.Browser):
    "A browser that notes what a page asks for and how much came."
    def note(self, message):
        super().note(message)
        kind, p = message.get("method"), message.get("params", {})
        if kind == "Network.requestWillBeSent" and not p["request"]["url"].startswith(("data:", "blob:")): self.asked[p["requestId"]] = p["request"]["url"]
        if kind == "Network.dataReceived" and p["requestId"] in self.asked: self.came[p["requestId"]] = self.came.get(p["requestId"], 0) + p["dataLength"]

    def begin(self): self.asked, self.came, self.console = {}, {}, []


def axe():
    "The source of axe-core, from the package of that name; None where it is not installed."
    try: import axe_core_python
    except ImportError: return None
    return (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()


def look(browser, address, name, script, dark):
    "One page on a screen of 360 pixels, then on a wide one."
    browser.begin()
    browser.size(360, 740, dark)
    browser.open(f"{address}/{name}")
    browser.wait(f"location.pathname === '/{name}' && document.readyState === 'complete'")
    boxes = browser.js("document.querySelectorAll('.play').length")
    if boxes: browser.wait(f"document.querySelectorAll('.play.ready').length === {boxes}")
    found = browser.js("""({
      sideways: document.documentElement.scrollWidth - innerWidth,
      wide: [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, table, .table, math, .stage > div, dialog')).slice(0, 3).map(e => e.outerHTML.slice(0, 80)),
      noAlt: [...document.images].filter(i => !i.alt).length,
      broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
      open: document.querySelectorAll('main details:not(#toc)[open]').length,
      figures: document.querySelectorAll('main .figure img').length,
      headings: document.querySelectorAll('h1').length,
    })""")
    violations = []
    if script:
        browser.js(script + "; document.querySelectorAll('pre code').forEach(c => { c.textContent = c.textContent; }); undefined")
        result = browser.js(f"axe.run(document, {json.dumps(RULES)}).then(r => r.violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 120)]))")
        violations = [v for v in result if v[0] in ("serious", "critical")]
    kilobytes = sum(size for i, size in browser.came.items() if not browser.asked[i].endswith((".png", ".svg", ".bin"))) / 1e3
    foreign = [url for url in browser.asked.values() if not url.startswith(address)]
    return dict(page=name, kilobytes=round(kilobytes), foreign=foreign, console=list(browser.console), axe=violations, **found)


def audit(folder, names=None, with_axe=lambda name: True, dark=lambda name: False):
    "One row for each page."
    script, rows = axe(), []
    with Site(folder) as address:
        browser = Watching()
        try:
            for name in names or sorted(p.name for p in Path(folder).glob("*.html")):
                rows.append(look(browser, address, name, script if with_axe(name) else None, dark(name)))
        finally: browser.close()
    return rows


def faults(row, most=1000):
    "What is wrong with a page, in words; `most`: kB without figures."
    out = []
    if row["sideways"] > 0 or row["wide"]: out.append(f"scrolls sideways by {row['sideways']} at 360 pixels: {row['wide']}")
    if row["noAlt"] or row["broken"]: out.append(f"{row['noAlt']} pictures without alt text, {row['broken']} missing")
    if row["open"]: out.append(f"{row['open']} answers stand open")
    if row["kilobytes"] > most: out.append(f"{row['kilobytes']} kB without figures")
    if row["headings"] != 1: out.append(f"{row['headings']} first headings")
    return out + [f"{what}: {x}" for what in ("foreign", "console", "axe") for x in row[what]]


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs")
    names = sorted(p.name for p in folder.glob("*.html") if "http-equiv=\"refresh\"" not in p.read_text())
    start, rows = time.time(), audit(folder, names, dark=lambda name: len(name) % 2)
    print(f"{'page':34}{'kB':>6}{'figures':>9}{'sideways':>10}{'axe':>5}{'console':>9}{'foreign':>9}")
    for r in rows:
        print(f"{r['page']:34}{r['kilobytes']:6}{r['figures']:9}{r['sideways']:10}{len(r['axe']):5}{len(r['console']):9}{len(r['foreign']):9}")
        for fault in faults(r): print("    ", fault)
    print(f"{len(rows)} pages in {time.time() - start:.0f} s")
    table = [{k: (len(v) if isinstance(v, list) else v) for k, v in r.items()} for r in rows]
    stored = dict(date=time.strftime("%Y-%m-%d"), command="python tests/site_audit.py", width=360, axe="axe-core 4.4.3, serious and critical findings", pages=table)
    (ROOT / "benchmarks" / "results" / "site_audit.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__": main()
