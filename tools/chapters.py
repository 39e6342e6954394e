"""What each chapter asks of its reader, counted.

    python tools/chapters.py           # a table of all chapters
    python tools/chapters.py --write   # put the counted minutes into the first lines of the chapters, and the map on the home page

Minutes of reading: 200 words or 20 lines of code a minute, in steps of five. Minutes of exercises: what the exercises say.
Folded cells, imports and empty lines are not read. Exported cells are measured without their signatures, whose lines are comments.
"""
import argparse, ast, json, re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "nbs"
WORDS, LINES = 200, 20                                     # read in a minute
CELL, WIDTH = 40, 120                                      # the most lines of an exported cell, the most characters of a line
OPENER = re.compile(r"\*\*Reading\*\* (?:about )?(\d+) minutes(?: · \*\*exercises\*\* (\d+) minutes)?")
NOT_WORDS = re.compile(r"```.*?```|\$\$.*?\$\$|<[^>]+>|\]\([^)]*\)", re.DOTALL)


ROUTES = {   # what a reader does with one evening, a weekend, and all the time that it takes
    "One evening": "first_light tokenizer attention gpt train",
    "A weekend": "first_light tokenizer attention gpt newton_schulz optim dataloader train base_train decoder engine tasks mid_train chat_sft chat_rl chat_eval",
    "All of it": "",
}


@dataclass
class Chapter:
    "One notebook, counted."
    name: str
    title: str = ""
    words: int = 0
    lines: int = 0
    long_cells: int = 0                                    # exported, of more than CELL lines
    wide_lines: int = 0                                    # of code, of more than WIDTH characters
    figures: int = 0
    terms: list = field(default_factory=list)              # in bold, for the first time in the course
    exercises: list = field(default_factory=list)          # (stars, minutes)
    stated: tuple = None                                   # minutes of reading and of exercises, as the first lines say

    @property
    def reading(self): return max(5, 5 * round((self.words / WORDS + self.lines / LINES) / 5))
    @property
    def exercise_minutes(self): return sum(minutes for _, minutes in self.exercises)
    @property
    def opener(self):
        exercises = f" · **exercises** {self.exercise_minutes} minutes" if self.exercises else ""
        return f"**Reading** {self.reading} minutes{exercises}"


def code_lines(source):
    "Lines of code that a reader reads."
    return [x for x in source.splitlines() if x.strip() and not x.startswith(("#|", "import ", "from "))]


def exported_lines(source):
    "Lines of an exported cell, signatures not counted."
    lines = len(code_lines(source))
    try: tree = ast.parse(source)
    except SyntaxError: return lines                       # a cell with magic
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): lines -= max(0, node.body[0].lineno - node.lineno - 1)
    return lines


def count(path, seen):
    "Count one notebook; `seen` are the terms of earlier ones."
    chapter = Chapter(path.stem)
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if found := re.match("# (.+)", source): chapter.title = chapter.title or found[1]
        if cell["cell_type"] == "markdown": count_prose(chapter, source, seen)
        else: count_code(chapter, cell, source)
    return chapter


def count_prose(chapter, source, seen):
    chapter.words += len(NOT_WORDS.sub("", source).split())
    chapter.exercises += [(int(s), int(m)) for s, m in re.findall(r"Difficulty (\d) of 5 · (\d+) minutes", source)]
    if found := OPENER.search(source): chapter.stated = chapter.stated or (int(found[1]), int(found[2] or 0))
    for term in re.findall(r"(?<![\w*])\*\*([a-z][\w ,’'-]+)\*\*", source):
        if term.lower() not in seen: chapter.terms.append(term)
        seen.add(term.lower())


def count_code(chapter, cell, source):
    if not cell["metadata"].get("jupyter", {}).get("source_hidden"): chapter.lines += len(code_lines(source))
    chapter.wide_lines += sum(len(x) > WIDTH and not x.startswith("#|") for x in source.splitlines())
    chapter.long_cells += source.startswith("#| export") and exported_lines(source) > CELL
    chapter.figures += sum("image/png" in o.get("data", {}) for o in cell.get("outputs", []))


def chapters(folder=NOTEBOOKS):
    "All numbered chapters, in reading order."
    seen = set()
    return [count(path, seen) for path in sorted(Path(folder).glob("[0-9]*.ipynb"))]


def write(chapter, folder=NOTEBOOKS):
    "Put the counted minutes into a chapter's first lines; says whether they were others."
    path = Path(folder) / f"{chapter.name}.ipynb"
    notebook = path.read_text()
    found = OPENER.search(notebook)
    if not found or found[0] == chapter.opener: return False
    path.write_text(notebook[:found.start()] + chapter.opener + notebook[found.end():])
    return True


def duration(minutes):
    "In words, as a person would say it."
    if minutes < 50: return f"{minutes} minutes"
    hours = round(minutes / 30) / 2
    return f"{hours:g} hour{'s' if hours > 1 else ''}"


def course_map(rows):
    "The chapters by part and the three routes, in Markdown."
    chapter = {c.name: c for c in rows}
    sidebar = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    parts = [("Begin", [item[:-6] for item in sidebar if isinstance(item, str) and item != "index.ipynb"])]
    parts += [(item["section"], [page[:-6] for page in item["contents"]]) for item in sidebar if not isinstance(item, str)]
    yield from ("| part | chapters | reading | exercises |", "|---|---|---|---|")
    for part, names in parts:
        links = " · ".join(f"[{name[:2]} {chapter[name].title}]({name}.ipynb)" for name in names)
        yield f"| {part} | {links} | {duration(sum(chapter[n].reading for n in names))} | {duration(sum(chapter[n].exercise_minutes for n in names))} |"
    yield ""
    for route, stems in ROUTES.items():
        chosen = [c for c in rows if not stems or c.name[3:] in stems.split()]
        links = ", ".join(f"[{c.name[:2]}]({c.name}.ipynb)" for c in chosen) if stems else "every chapter"
        yield f"- **{route}** ({duration(sum(c.reading for c in chosen))} of reading, {duration(sum(c.exercise_minutes for c in chosen))} of exercises): {links}."


MAP = re.compile(r"(?<=<!-- map: written by tools/chapters.py -->\n).*(?=\n<!-- end of map -->)", re.DOTALL)


def write_map(rows, path=NOTEBOOKS / "index.ipynb"):
    "Put the map on the home page; says whether it was another."
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        new = MAP.sub(lambda _: "\n" + "\n".join(course_map(rows)) + "\n", source)
        if new != source:
            cell["source"] = new.splitlines(keepends=True)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
            return True
    return False


def table(rows):
    "Rows of text, one for each chapter and one for all."
    yield f"{'chapter':20}{'words':>7}{'code':>6}{'reading':>9}{'exercises':>11}  {'stars':12}{'figures':>7}{'terms':>7}{'long cells':>12}{'wide lines':>12}"
    for c in rows:
        stars = " ".join(str(s) for s, _ in c.exercises)
        yield (f"{c.name:20}{c.words:7,}{c.lines:6,}{c.reading:5} min{c.exercise_minutes:7} min  {stars:12}{c.figures:7}{len(c.terms):7}"
               f"{c.long_cells:12}{c.wide_lines:12}")
    total = lambda f: sum(map(f, rows))
    yield (f"{'all':20}{total(lambda c: c.words):7,}{total(lambda c: c.lines):6,}{total(lambda c: c.reading) / 60:7.1f} h{total(lambda c: c.exercise_minutes) / 60:9.1f} h"
           f"  {total(lambda c: len(c.exercises)):<12}{total(lambda c: c.figures):7}{total(lambda c: len(c.terms)):7}{total(lambda c: c.long_cells):12}{total(lambda c: c.wide_lines):12}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the counted minutes into the chapters")
    args = parser.parse_args()
    rows = chapters()
    if args.write:
        for chapter in rows:
            if write(chapter): print(f"{chapter.name}: {chapter.opener}")
        if write_map(rows): print("index: the map")
    else: print(*table(rows), sep="\n")


if __name__ == "__main__": main()
