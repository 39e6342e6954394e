"""The works that chapters name: read from references.bib, linked where they are named, and listed on a page of their own.

A work is linked by its arXiv number; one that has none by its title in italics; both, inside a sentence, by author and year.
Where two works would fit, nothing is linked.
"""
import json, re, subprocess
from pathlib import Path

BIB = Path(__file__).resolve().parent / "references.bib"
PROTECTED = re.compile(r"``.*?``|`[^`]*`|!?\[(?:`[^`]*`|[^\]`])*\]\([^)]*\)|</?[A-Za-z][^>]*>|\$[^$]+\$")
ARXIV = re.compile(r"\barXiv:? ?(\d{4}\.\d{4,5})")
ITALIC = re.compile(r"(?<![*\w])\*([^*\n]+)\*(?![*\w])")
NAME = r"[A-Z][\w'-]+"
OTHERS = rf"(?:,? (?:et al\.?|and others|and colleagues)|(?:, {NAME})*,? and (?P<second>{NAME}))?"
SENTENCE = re.compile(rf"\b(?P<first>{NAME}){OTHERS}(?:,? (?P<year>(?:19|20)\d\d)\b| \((?P<inside>(?:19|20)\d\d)\))(?![^.;·)]{{0,160}}arXiv)")


def read(pandoc, bib=BIB):
    "The works, as pandoc reads them: a list in CSL's JSON."
    done = subprocess.run([pandoc, "-f", "biblatex", "-t", "csljson", str(bib)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def arxiv(work):
    "The number of a work that is on arXiv; empty for others."
    return work.get("URL", "").partition("arxiv.org/abs/")[2]


def families(work):
    "The authors' last names."
    return [(a.get("dropping-particle", "") + " " + a["family"]).strip() if "family" in a else a["literal"] for a in work.get("author", [])]


def year(work): return work["issued"]["date-parts"][0][0]


def plain(title): return re.sub(r"\W+", " ", title).strip().lower()


class Works:
    "Finds the work that some words name."
    def __init__(self, works):
        self.all = works
        self.by_number = {arxiv(w): w["id"] for w in works if arxiv(w)}
        self.by_title = {}
        for w in works:
            if arxiv(w): continue
            for title in {plain(w["title"]), plain(w["title"].partition(":")[0])}: self.by_title.setdefault(title, set()).add(w["id"])

    def by_author(self, first, second, named):
        "The one work of these authors and this year, or of the year before or after; None where there are several or none."
        found = [w for w in self.all if families(w)[:1] and families(w)[0].split()[-1] == first and abs(year(w) - named) <= 1]
        if second: found = [w for w in found if second in families(w)]
        exact = [w for w in found if year(w) == named]
        best = exact or found
        return best[0]["id"] if len(best) == 1 else None

    def link(self, text):
        "Links to the page of references, in one piece of Markdown."
        fenced, lines = False, text.split("\n")
        for i, line in enumerate(lines):
            if line.lstrip().startswith("```"): fenced = not fenced
            elif not fenced and not line.startswith(("#", "    ", "<summary")): lines[i] = self.link_line(line)
        return "\n".join(lines)

    def link_line(self, line):
        to = lambda words, key: f"[{words}](references.md#{key})" if key else words
        dated = re.search(r"\b(?:19|20)\d\d\b", line)
        def titled(m):
            keys = self.by_title.get(plain(m[1]), ()) if dated else ()
            return to(m[0], *keys) if len(keys) == 1 else m[0]
        def outside(rule, replace, text):
            parts, at = [], 0
            for m in PROTECTED.finditer(text):
                parts += [rule.sub(replace, text[at:m.start()]), m[0]]
                at = m.end()
            return "".join([*parts, rule.sub(replace, text[at:])])
        line = outside(SENTENCE, lambda m: to(m[0], self.by_author(m["first"], m["second"], int(m["year"] or m["inside"]))), line)
        line = outside(ARXIV, lambda m: to(m[0], self.by_number.get(m[1])), line)
        return outside(ITALIC, titled, line)


def named(text):
    "The works to which some Markdown links."
    return re.findall(r"\]\(references\.md#([\w-]+)\)", text)


def authors(work):
    names = families(work)
    more = bool(names) and names[-1] == "others"
    names = [n for n in names if n != "others"]
    return ", ".join(names) + (" and others" if more else "")


def entry(work, chapters):
    "One work as Markdown, with the chapters that name it."
    number, doi = arxiv(work), work.get("DOI")
    where = f"[arXiv {number}]({work['URL']})" if number else f"[doi {doi}](https://doi.org/{doi})" if doi else ""
    if not where and work.get("URL"): where = f"[{re.sub('^https?://', '', work['URL']).partition('/')[0]}]({work['URL']})"
    place = work.get("container-title") or work.get("publisher") or ""
    title = work["title"].replace("$", r"\$")
    words = ". ".join(part for part in (authors(work), f"*{title}*", place) if part)
    named_in = f" Named in {', '.join(chapters)}." if chapters else ""
    return f'<div id="{work["id"]}" class="work">\n\n{words}, {year(work)}.{" " + where + "." if where else ""}{named_in}\n\n</div>'


def page(works, cited):
    """(front matter, Markdown) of the page of references.

    `cited`: {key: [link to a chapter]}.
    """
    order = sorted(works.all, key=lambda w: (plain(authors(w) or w["title"]), year(w)))
    top = (f"The {len(order)} works that chapters name, by their first author, each with the chapters that name it. "
           "Chapters link to them wherever they say whose idea something is. "
           "As a file for reference managers: [references.bib](references.bib).")
    parts = [entry(w, cited.get(w["id"], [])) for w in order]
    return dict(title="References", description="The papers, books and programs that the course stands on"), "\n\n".join([top, *parts]) + "\n"
