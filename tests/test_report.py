"The report: from summaries to one page."
import html.parser, re
from dataclasses import dataclass

import pytest
import torch

from nanochat_course import report as R
from nanochat_course.common import CourseError, RunLog, Runtime, base_dir, save_result

RT = Runtime(torch.device("cpu"), torch.float32)
EVIL = "a | b <script>alert(1)</script> `x` *y* [l](http://z)\nline"


@dataclass(frozen=True)
class Config:
    x: int = 1
    name: str = ""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    for stage, metrics in (("base_train", {"val_bpb": 2.5}), ("chat_eval_base", {"sums": 0.0, "sums 95%": (0.0, 0.1)}), ("chat_eval_rl", {"sums": 0.5, "sums 95%": (0.4, 0.6)})):
        log = RunLog(base_dir() / "report" / f"{stage}.jsonl")
        for s in range(60): log.log(s, loss=5.0 - s / 20)
        save_result(stage, Config(), RT, 61.0, metrics=metrics, samples=[dict(prompt="Who?", text=EVIL)], log=str(log.path), tokens=1000, flops=1e12)
    return tmp_path


def test_page_needs_no_other_file_and_no_network(run):
    text = R.write_report().read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "url(" not in text and text.count("data:image/png;base64,") == 3
    markdown = (run / "report" / "report.md").read_text()
    for figure in re.findall(r"\]\((figures/[^)]+)\)", markdown): assert (run / "report" / figure).stat().st_size > 1000


def test_what_a_model_wrote_stays_text(run):
    "Markup in a sample appears as text, in the page and in the Markdown."
    text = R.write_report().read_text()
    class Tags(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.data, self.links = set(), "", []
        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)
            self.links += [v for k, v in attrs if k == "href"]
        def handle_data(self, data): self.data += data
    page = Tags()
    page.feed(text)
    assert "script" not in page.tags and not page.links and "<script>alert(1)</script>" in page.data
    rows = [line for line in (run / "report" / "report.md").read_text().splitlines() if line.startswith("| Who?")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", r)) == rows[0].count("|") for r in rows)


def test_metric_table_has_dashes_and_intervals(run):
    results = {s: R.load_result(s) for s in R.STAGES if R.load_result(s)}
    table = R.metric_table(results)
    assert table[0] == ["metric", "base", "RL"]
    assert ["val_bpb", "2.5", "–"] in table and ["sums", "0 (0 to 0.1)", "0.5 (0.4 to 0.6)"] in table


def test_without_a_run_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    with pytest.raises(CourseError, match="no finished stage"): R.write_report()


@pytest.mark.parametrize("window", [1, 2, 7])
def test_running_mean_equals_the_slow_way(window):
    values = torch.rand(30).tolist()
    slow = [sum(values[max(0, i - window + 1):i + 1]) / len(values[max(0, i - window + 1):i + 1]) for i in range(30)]
    assert torch.allclose(torch.tensor(R.running_mean(values, window)), torch.tensor(slow))


@pytest.mark.parametrize("seconds,text", [(3.21, "3.2 s"), (45, "45 s"), (100, "1 min 40 s"), (3 * 3600 + 240, "3 h 4 min")])
def test_minutes(seconds, text): assert R.minutes(seconds) == text


def test_curve_of_nothing_and_of_one_point():
    for records in ([], [dict(step=0, loss=1.0)], [dict(step=0, loss="x")]): assert R.curve_png(records)[:4] == b"\x89PNG"
