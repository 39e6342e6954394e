"The glossary: in step with the chapters, complete, and every link leads somewhere."
import json, re, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import glossary

SEARCHED = """vocabulary, language model, surprise, cross-entropy, perplexity, gradient, backpropagation, embedding, byte pair encoding,
pre-tokenisation, causal mask, autoregressive, multi-head attention, rotary embedding, QK norm, grouped-query attention, multi-query attention,
KV cache, induction head, residual stream, master weights, stochastic rounding, logit, momentum, weight decay, learning rate, polar factor,
temperature, top-p, prefill, decode, REINFORCE, RLOO, GRPO, PPO, KL divergence, hallucination, data parallel training, all-reduce, reduce-scatter,
all-gather, ZeRO, FSDP, activation checkpointing, tensor parallelism, pipeline parallelism, model FLOPs utilisation, reward hacking""".replace("\n", " ").split(", ")


def markdown(path): return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"]


def test_the_page_is_what_the_chapters_say():
    assert glossary.PAGE.read_text() == glossary.notebook(), "run python tools/glossary.py --write"


def test_terms_that_readers_search_for_are_there():
    page = "\n".join(markdown(glossary.PAGE))
    missing = [term for term in SEARCHED if f"- **{term}**" not in page]
    assert not missing
    for word, term in glossary.SEE.items(): assert f"- **{term}" in page or term not in SEARCHED, f"{word} leads to {term}, which is not there"


def test_every_link_leads_to_a_heading():
    "The identifiers are asked of pandoc, which makes those of the site."
    pypandoc = pytest.importorskip("pypandoc")
    links = re.findall(r"\]\((\d\d_\w+)\.ipynb#([^)]*)\)", "\n".join(markdown(glossary.PAGE)))
    assert len(links) > 60
    for chapter in {name for name, _ in links}:
        headings = "\n\n".join(re.findall(r"^#{2,4} .+$", "\n".join(markdown(ROOT / "nbs" / f"{chapter}.ipynb")), re.MULTILINE))
        ids = set(re.findall(r'<h\d\s+id="([^"]*)"', pypandoc.convert_text(headings, "html", format="markdown+auto_identifiers")))
        lost = {anchor for name, anchor in links if name == chapter} - ids
        assert not lost, f"{chapter} has no {lost}: it has {sorted(ids)}"


def test_an_entry_is_the_sentence_of_its_first_use(tmp_path, monkeypatch):
    text = ("# A chapter\n\n**You will build** a **third word**, a **fourth word**.\n\n## First, *this*\n\nA word before. A **new word** (or two, cf. 3.5) is explained here: so. And after.\n\n"
            "**Next.** is a heading. It is called a **second word**.\n\n| symbol | meaning |\n|---|---|\n| $q$ | a query |\n\n"
            "<details>\nA **hidden word**.\n</details>\n\n## First, *this*\n\nThe **new words** again. Some **DPO** too. A **third word** at last.")
    cells = [dict(cell_type="markdown", source=[text], metadata={})]
    (tmp_path / "10_a.ipynb").write_text(json.dumps(dict(cells=cells)))
    monkeypatch.setattr(glossary, "NOTEBOOKS", tmp_path)
    found = [(e.term, e.said, e.link) for e in glossary.entries()]
    assert found == [("new word", "A **new word** (or two, cf. 3.5) is explained here: so.", "10_a.ipynb#first-this"),
                     ("second word", "**Next.** is a heading. It is called a **second word**.", "10_a.ipynb#first-this"),
                     ("DPO", "Some **DPO** too.", "10_a.ipynb#first-this-1"),
                     ("third word", "A **third word** at last.", "10_a.ipynb#first-this-1"),
                     ("fourth word", "**You will build** a **third word**, a **fourth word**.", "10_a.ipynb")]
    assert list(glossary.symbols()) == [("$q$", "a query", "10_a", "first-this")]
