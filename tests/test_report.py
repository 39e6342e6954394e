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
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "url(" not in text and text.count("data:image/png;base64,") == 4
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
    assert ["held-out text, bits per byte", "2.5", "–"] in table and ["sums · right", "0 (0 to 0.1)", "0.5 (0.4 to 0.6)"] in table


def test_one_line_a_metric_with_what_was_before():
    mid = dict(metrics={"assistant_loss": 3., "sums": 4., "before": {"assistant_loss": 6., "sums": 7.}, "tokens": 5})
    rl = dict(metrics={"sums pass@1": .5, "sums pass@1 before": .25})
    table = R.metric_table(dict(mid_train=mid, chat_rl=rl))
    assert table == [["metric", "mid", "RL"], ["held-out answers, nats a token", "3 (before: 6)", "–"], ["sums pass@1", "–", "0.5 (before: 0.25)"]]      # a loss on sums is no share of right sums


@pytest.mark.parametrize("question,right,wrong", [("Who are you?", "I am Nano, a model.", "I am a cat."), ("What is 12 + 7?", "2+7=9,1+0=1:19", "12"), ("How do you spell computer?", "c o m p u t e r", "c o m p u t"),
    ("How many e are in between?", "be 1 tw 1 een 3 = 3", "be 1 wn = 1"), ("What does len do?", "Return the number of items in a container.", "Return."), ("Explain str.upper.", "Return a copy of the string converted to uppercase", "x"),
    ("Ada has 12 apples. Ada buys 30 more. How many apples does Ada have?", "[12+30]→42 42", "43")])
def test_marks(question, right, wrong):
    from nanochat_course.mid_train import PROMPTS
    assert question in PROMPTS and R.is_right(question, right) is True and R.is_right(question, wrong) is False
    assert R.is_right("The cat", "sat") is None and R.marked("The cat", "sat") == "sat" and R.marked(question, wrong) == "✗ " + wrong


def test_every_question_that_stages_are_asked_gets_a_mark():
    from nanochat_course.mid_train import PROMPTS
    assert all(R.is_right(p, "") is False for p in PROMPTS)


def test_pictures_come_before_numbers_and_a_price_only_with_a_dollar(run):
    "The curve of pretraining, the bars of the stages, then the first table."
    R.write_report()
    page = (run / "report" / "report.md").read_text()
    assert page.index("figures/base_train_loss.png") < page.index("figures/stages.png") < page.index("| metric |") and "H100" not in page
    rich = dict(base_train=dict(R.load_result("base_train"), flops=4e19))
    assert "H100" in R.to_markdown(R.cost_blocks(rich)) and R.cost_blocks(dict(base_train=dict(R.load_result("base_train"), flops=4e15))) == []


@pytest.mark.parametrize("text", ["null", "[1]", '{"metrics": {}}'])
def test_a_summary_that_is_none_is_named(run, text):
    (run / "report" / "base_train.json").write_text(text)
    with pytest.raises(CourseError, match="base_train.json"): R.write_report()


def test_a_moved_folder_keeps_its_curves(run, monkeypatch):
    (run / "report").rename(run / "moved")
    (run / "elsewhere").mkdir()
    (run / "moved").rename(run / "elsewhere" / "report")
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(run / "elsewhere"))
    assert R.write_report().read_text().count("data:image/png;base64,") == 4


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


def test_conversations_are_in_the_report(run):
    assert "What it says" not in R.write_report().read_text()
    message = lambda role, content: dict(role=role, content=content)
    talk = dict(user=["a|b?", "and?"], **{s: [message("user", "a|b?"), message("assistant", said), message("user", "and?"), message("assistant", "")]
                                          for s, said in dict(base="<i>\n x", rl="y").items()})
    save_result("transcript", Config(), RT, 1., sources=["base", "rl"], talks=[talk])
    page = R.write_report().read_text()
    assert "What it says" in page and "&lt;i&gt; x" in page and "<i>" not in page and page.count("(nothing)") == 2 and "a|b?" in page


def test_a_word_without_end_can_be_broken():
    assert R.cell("ho" * 40) == "ho" * 16 + "<wbr>" + "ho" * 16 + "<wbr>" + "ho" * 8
    assert R.cell("a" * 32) == "a" * 32 and R.cell("<" * 33) == "&lt;" * 32 + "<wbr>&lt;"
