"The course's sentence: each chapter's last numbers are the next one's first."
import json, re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"


def printed(name):
    "What the cells of a chapter printed about the sentence: [(source, text)]."
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return [("".join(c["source"]), "".join("".join(o.get("text", "")) for o in c["outputs"])) for c in cells if c["cell_type"] == "code"]


def said(name, start):
    "The lines of stored output that begin with `start`."
    return [line for _, text in printed(name) for line in text.splitlines() if line.startswith(start)]


IDS = "[263, 264, 267, 266, 268, 265, 46]"


def test_the_ids_are_handed_on():
    last, first = said("10_tokenizer", IDS), said("11_attention", IDS)
    assert len(last) == len(first) == 1 and last == first
    assert eval(last[0].removeprefix(IDS)) == ["The", " cat", " sat", " on", " the", " mat", "."]


def test_the_ids_are_those_of_the_tokenizer():
    from nanochat_course.tokenizer import train_bpe
    assert str(train_bpe(["The cat sat on the mat."], 300).encode("The cat sat on the mat.")) == IDS


def test_the_row_of_mat_is_handed_on():
    last, first = said("11_attention", "mat after"), said("12_gpt", "mat after")
    assert len(last) == len(first) == 1 and last == first
    assert len(re.findall(r"-?\d\.\d+", last[0])) == 8


def test_training_raises_the_true_token_at_each_place():
    cells = json.loads((NOTEBOOKS / "12_gpt.ipynb").read_text())["cells"]
    table = next("".join(o["data"]["text/markdown"]) for c in cells if "reader = GPT" in "".join(c["source"]) for o in c["outputs"])
    rows = [[float(v) for v in re.findall(r"0\.\d+", line)] for line in table.splitlines()[2:]]
    assert [len(r) for r in rows] == [6] * 4
    assert rows[0] == pytest.approx([1 / 278] * 6, abs=2e-3) and min(rows[-1]) > 0.9
