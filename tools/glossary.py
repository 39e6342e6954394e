"""The glossary and the table of symbols, gathered from the chapters.

    python tools/glossary.py           # print what is found
    python tools/glossary.py --write   # put it into nbs/95_glossary.ipynb

A term is what stands in bold for the first time in the course, in lower case or as an abbreviation: **residual stream**, **KL divergence**.
Its entry is the sentence around it, and a link to the section. A symbol is a row of a table whose first column is headed `symbol`.
Folded answers, headings in bold and the entries of NO_TERMS are left out.
"""
import argparse, json, re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "nbs"
PAGE = NOTEBOOKS / "95_glossary.ipynb"
BOLD = re.compile(r"(?<![\w*])\*\*([^*\n]+)\*\*")
HEADING = re.compile(r"(#{1,4}) +(.+)")
SEE = {   # what else a reader may look up -> where it stands
    "BPE": "byte pair encoding", "pre-tokenization": "pre-tokenisation", "RoPE": "rotary embedding", "GQA": "grouped-query attention",
    "MQA": "multi-query attention", "DDP": "data parallel training", "gradient checkpointing": "activation checkpointing",
    "nucleus sampling": "top-p", "SVD": "singular value decomposition", "MFU": "model FLOPs utilisation", "KV": "KV cache",
    "sliding window": "window", "KL": "KL divergence", "residual connection, skip connection": "residual stream",
    "logits": "logit", "RMSNorm": "norm", "attention map": "attention",
}
NO_TERMS = {   # bold for other reasons
    "not", "names", "arithmetic", "text", "check", "warning", "failed", "mask 0", "base answers nothing", "mid does most of the work", "SFT", "RL",
    "too much", "session", "lock", "heartbeat", "gradient accumulation steps", "exercises", "running", "batch", "processor time", "cgroup", "nonce",
    "CORS", "hybrid", "AdamW by role", "plain", "lit", "rung", "recipe", "pairs", "clips", "control", "reward hack",
}


def place(chapter, anchor):
    "The address of a section; what stands before the first of them, under the title, is at the top of the page."
    return f"{chapter}.ipynb#{anchor}" if anchor else f"{chapter}.ipynb"


@dataclass
class Entry:
    "A term, where it stands first, and what is said there."
    term: str
    said: str
    chapter: str      # name of the notebook
    anchor: str       # of the section

    @property
    def link(self): return place(self.chapter, self.anchor)


def anchor_of(heading, taken=()):
    "The identifier that pandoc gives a heading."
    words = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*$]", lambda m: m[1] or "", heading).lower()
    words = re.sub(r"[^\w\s.-]", "", words)
    words = re.sub(r"\s+", "-", words.strip())
    words = re.sub(r"^[^a-z]+", "", words) or "section"
    count = sum(re.sub(r"-\d+$", "", t) == words or t == words for t in taken)
    return f"{words}-{count}" if count else words


def is_term(words):
    "Whether something in bold is a term of the field, and not a heading or a stress."
    if words in NO_TERMS or len(words) < 2 or words[-1] in ".?!:" or len(words.split()) > 4 or "$" in words or "`" in words: return False
    first = words.split()[0]
    return first[0].islower() or sum(c.isupper() for c in first) >= 2


def sentence(text, at):
    "The sentence around a place; with the one before it where it begins with a pronoun."
    start = text.rfind("\n\n", 0, at) + 1
    paragraph = text[start:].split("\n\n")[0] if text[start:start + 1] != "\n" else text[start + 1:].split("\n\n")[0]
    at -= start + (text[start:start + 1] == "\n")
    if paragraph.lstrip().startswith(("- ", "|")): return one_line(paragraph, at)
    ends = [0, *(m.end() for m in re.finditer(r"[.!?](?:\)|\*\*)? +(?=[A-Z*`\[“(])", paragraph)), len(paragraph)]
    i = max(k for k in range(len(ends) - 1) if ends[k] <= at)
    first = paragraph[ends[i]:ends[i + 1]]
    if i and re.match(r"(It|They|This|That|These|Those|Such|The direction|And|In|At|We)\b", first): i -= 1
    end = next(e for e in ends if e > at)
    return " ".join(paragraph[ends[i]:end].split()).rstrip(":")


def one_line(paragraph, at):
    "The item of a list, or the row of a table, that holds a place."
    before, line = 0, ""
    for line in paragraph.splitlines():
        if before + len(line) >= at: break
        before += len(line) + 1
    return line.strip("-| ").replace(" | ", ": ")


def markdown_cells(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            yield re.sub(r"<details.*?</details>|```.*?```|\*Difficulty \d of 5[^\n]*\n", "", "".join(cell["source"]), flags=re.DOTALL)


def chapters():
    return [p for p in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if p != PAGE]


def sections(path):
    "(anchor, text of the section up to the next heading) of a chapter, in order."
    anchor, lines, taken = "", [], []
    for source in markdown_cells(path):
        for line in [*source.splitlines(), ""]:
            if found := HEADING.match(line):
                if lines: yield anchor, "\n".join(lines)
                anchor, lines = anchor_of(found[2], taken), []
                taken.append(anchor)
                if len(found[1]) == 1: anchor = ""
            else: lines.append(line)
        lines.append("")
    yield anchor, "\n".join(lines)


def uses():
    "Every use of a term in bold, as an entry, in reading order; those in a chapter's opening lines come last."
    later = []
    for path in chapters():
        for anchor, text in sections(path):
            for match in BOLD.finditer(text):
                term = match[1].strip().rstrip(",")
                if not is_term(term): continue
                entry = Entry(term, sentence(text, match.start()), path.stem, anchor)
                if text[text.rfind("\n\n", 0, match.start()) + 1:].lstrip().startswith("**You will build**"): later.append(entry)
                else: yield entry
    yield from later


def entries():
    "Every term of the course with its first use."
    first = {}
    for entry in uses(): first.setdefault(entry.term.lower().rstrip("s"), entry)
    return list(first.values())


def symbols():
    "(symbol, meaning, chapter, anchor) of every row of a table headed `symbol`."
    for path in chapters():
        for anchor, text in sections(path):
            for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
                rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
                if rows[0][0] == "symbol": yield from ((row[0], row[1], path.stem, anchor) for row in rows[2:])


def page():
    "The cells of the glossary page, all Markdown."
    found = entries()
    by_term = {e.term.lower(): e for e in found}
    lines = {e.term.lower(): f"- **{e.term}** ([{e.chapter[:2]}]({e.link})): {BOLD.sub(lambda m: f'*{m[1]}*', e.said)}" for e in found}
    lines |= {word.lower(): f"- **{word}**: see *{term}*." for word, term in SEE.items() if term.lower() in by_term and word.lower() not in by_term}
    letters = {}
    for term in sorted(lines): letters.setdefault(term[0].upper(), []).append(lines[term])
    yield ("# Words and symbols\n\n> Every term of the course, with the sentence in which you met it\n\n"
           "**You will build** nothing here: this is the page to look things up. **You need** a word that you have forgotten. "
           "**Reading** 5 minutes\n\nIt is written by `tools/glossary.py` from the chapters: a term's entry is the sentence in which it "
           "stands in bold for the first time, and the number leads there.")
    yield "## Words\n\n" + "\n\n".join(f"### {letter}\n\n" + "\n".join(rows) for letter, rows in letters.items())
    rows = [f"| {symbol} | {meaning} | [{chapter[:2]}]({place(chapter, anchor)}) |" for symbol, meaning, chapter, anchor in symbols()]
    yield "## Symbols\n\n| symbol | meaning | chapter |\n|---|---|---|\n" + "\n".join(rows)
    yield "**Next**: [the home page](index.ipynb)."


def notebook():
    "The page as a notebook; the minutes of reading, which tools/chapters.py counts, stay as they are."
    cells = [dict(cell_type="markdown", id=f"words-{i}", metadata={}, source=s.splitlines(keepends=True)) for i, s in enumerate(page())]
    if PAGE.exists():
        old = re.search(r"\*\*Reading\*\* \d+ minutes", "".join(json.loads(PAGE.read_text())["cells"][0]["source"]))
        cells[0]["source"] = [re.sub(r"\*\*Reading\*\* \d+ minutes", old[0], line) for line in cells[0]["source"]] if old else cells[0]["source"]
    kernel = dict(display_name="python3", language="python", name="python3")
    whole = dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    if parser.parse_args().write: PAGE.write_text(notebook())
    else: print(*(f"{e.term:32}{e.link:60}{e.said}" for e in entries()), sep="\n")


if __name__ == "__main__": main()
