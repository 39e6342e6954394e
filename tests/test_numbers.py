"Numbers in prose agree with what was measured."
import json, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import numbers_in_prose as numbers


def test_no_number_on_a_page_is_contradicted():
    found = [b for path in sorted((ROOT / "nbs").glob("*.ipynb")) for b in numbers.check(path)]
    assert len(found) >= 10
    assert not [b for b in found if b.trouble]


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    "A function that writes a chapter of one Markdown cell, one output and one figure, and checks it."
    (tmp_path / "run.json").write_text(json.dumps(dict(loss=1.5160, share=0.384, parts=[1, 2], parameters=5_242_880)))
    monkeypatch.setattr(numbers, "RESULTS", tmp_path)
    def check(prose="", options=""):
        output = dict(output_type="stream", text=["a step took 12,345 ns\n"])
        cells = [dict(cell_type="markdown", source=[prose]), dict(cell_type="code", source=["1"], outputs=[output])]
        cells.append(dict(cell_type="code", source=[f"#| fig-cap: \"Falls to 38% in 230 steps.\"\n{options}\n1"], outputs=[]))
        (tmp_path / "10_a.ipynb").write_text(json.dumps(dict(cells=cells)))
        return list(numbers.check(tmp_path / "10_a.ipynb"))
    return check


@pytest.mark.parametrize("prose", ["ends at 1.52<!-- = run[\"loss\"] --> bits", "1.5160 bits<!-- = run['loss'] -->", "38%<!-- = run['share'] -->",
                                   "5.2 million weights<!-- = run['parameters'] -->", "3<!-- = sum(run['parts']) -->",
                                   "12,345 ns<!-- = found(r'took ([\\d,]+) ns') -->", "−1.5<!-- = -run['loss'] -->", "5,242,880<!-- = run['parameters'] -->"])
def test_a_number_that_agrees(chapter, prose):
    (bound,) = chapter(prose)
    assert bound.trouble == "" and bound.number


@pytest.mark.parametrize("prose,trouble", [
    ("ends at 1.51<!-- = run['loss'] -->", "the value is 1.516"), ("37%<!-- = run['share'] -->", "0.384"), ("2<!-- = run['share'] -->", "0.384"),
    ("nothing here<!-- = run['loss'] -->", "without a number"), ("1.5<!-- = run['missing'] -->", "KeyError"),
    ("5<!-- = found(r'never (\\d)') -->", "no output"), ("5<!-- = __import__('os').getpid() -->", "NameError")])
def test_a_number_that_does_not(chapter, prose, trouble):
    (bound,) = chapter(prose)
    assert trouble in bound.trouble


def test_numbers_of_a_caption(chapter):
    good = chapter(options="#| numbers: 38 = run['share']; 230 = 230")
    assert [b.trouble for b in good] == ["", ""]
    wrong = chapter(options="#| numbers: 38 = run['loss']; 99 = 99")
    assert "1.516" in wrong[0].trouble and "neither in the caption" in wrong[1].trouble
