"""Numbers in prose that are bound to what was measured.

    python tools/numbers_in_prose.py        # every bound number, and what it is bound to; fails where one is contradicted

In Markdown the binding follows its number, in a comment that no page shows:

    It ends at 1.52<!-- = speedrun_laptop["metrics"]["base_train"]["val_bpb"] --> bits per byte.
    Two layers come to 0.04<!-- = found(r"two layers': ([\\d.]+)") --> nats.

In a code cell, for its caption and its alt text, on a line of options:

    #| numbers: 230 = found(r"stalls at step (\\d+)"); 18 = found(r"error ([\\d.]+)")

The right side is a Python expression. Each file of benchmarks/results is a name; `found` takes a regular expression with one group, and
looks through the stored outputs of the chapter. The number must be the value, rounded as it is written: 1.52 allows 1.515 to 1.525, 38% allows
0.375 to 0.385, `2.2 million` allows 2.15 to 2.25 million. A cell whose whole output has to be what it would give today says `#| same: true`
(`tools/notebook.py test` compares).
"""
import json, re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS, RESULTS = ROOT / "nbs", ROOT / "benchmarks" / "results"
NUMBER = r"[−-]?\d[\d,]*(?:\.\d+)?"
UNITS = {"%": 100, "million": 1e-6, "thousand": 1e-3, "MB": 1e-6, "GB": 1e-9}     # the number is so many times the value
PROSE = re.compile(rf"(?P<number>{NUMBER})(?: ?(?P<unit>%|million|thousand|MB|GB))?[^\d<]{{0,20}}<!-- = (?P<source>.+?) -->")
COMMENT = re.compile(r"<!-- = (.+?) -->")
OPTION = re.compile(r"^#\| numbers: (.+)$", re.MULTILINE)


@dataclass
class Bound:
    "A number on a page, and the expression that it has to agree with."
    place: str        # notebook and cell
    number: str       # as it is written
    unit: str         # %, million … or nothing
    source: str       # expression
    value: float = None
    trouble: str = "" # why it does not hold


def texts(cells):
    "Everything that the cells of a chapter have printed or returned, as one text."
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            yield "".join(output.get("text", data.get("text/markdown", data.get("text/plain", ""))))


def names(cells):
    "What an expression may use: the files of results, `found`, and a little arithmetic."
    said = "\n".join(texts(cells))
    def found(pattern):
        hit = re.search(pattern, said)
        if not hit: raise LookupError(f"no output of this chapter fits {pattern}")
        return float(hit[1].replace(",", ""))
    files = {p.stem: json.loads(p.read_text()) for p in RESULTS.glob("*.json")}
    return files | dict(found=found, min=min, max=max, sum=sum, len=len, round=round, __builtins__={})


def agrees(bound):
    "Whether the value, rounded as the number is written, is the number."
    number = float(bound.number.replace(",", "").replace("−", "-"))
    decimals = len(bound.number.partition(".")[2])
    return abs(bound.value * UNITS.get(bound.unit, 1) - number) <= 0.5 * 10 ** -decimals + 1e-9


def bound_in(cell):
    "The (number, unit, expression) of one cell, and what looks like a binding but is none."
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        good = [(m["number"], m["unit"] or "", m["source"]) for m in PROSE.finditer(source)]
        return good, len(COMMENT.findall(source)) - len(good)
    good, shown = [], "\n".join(re.findall(r"^#\| fig-(?:cap|alt): (.*)$", source, re.MULTILINE))
    for line in OPTION.findall(source):
        for part in line.split("; "):
            number, _, expression = part.partition(" = ")
            unit = re.search(rf"(?<![\d.,]){re.escape(number)} ?(%|million|thousand|MB|GB)?", shown)
            good.append((number if unit else "", unit[1] or "" if unit else "", expression))
    return good, 0


def check(path):
    "Every bound number of a notebook, with its value and its trouble."
    cells = json.loads(path.read_text())["cells"]
    known = names(cells)
    for i, cell in enumerate(cells):
        good, lost = bound_in(cell)
        if lost: yield Bound(f"{path.stem}, cell {i}", "", "", "", trouble="a binding without a number before it")
        for number, unit, source in good:
            bound = Bound(f"{path.stem}, cell {i}", number, unit, source)
            if not number: bound.trouble = "this number is neither in the caption nor in the alt text"
            else:
                try: bound.value = float(eval(source, known))
                except Exception as e: bound.trouble = f"{type(e).__name__}: {e}"
                else: bound.trouble = "" if agrees(bound) else f"the value is {bound.value:.6g}"
            yield bound


def main():
    bad = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for b in check(path):
            bad += bool(b.trouble)
            print(f"{'  ' if not b.trouble else '!!'} {b.place:28}{b.number + b.unit:>12}  {b.source[:90]}  {b.trouble}")
    raise SystemExit(bad > 0)


if __name__ == "__main__": main()
