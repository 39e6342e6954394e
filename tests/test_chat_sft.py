"Supervised fine-tuning: the assistant's tokens only, whole conversations, one epoch, the optimizer kept warm."
import random, shutil, time
from dataclasses import fields, replace
import pytest
from test_mid_train import SMALL, base, kill_at, make_base, same, weights  # noqa: F401 (fixtures)
from nanochat_course import mid_train as mid_module
from nanochat_course.chat_sft import ChatSFTConfig, chat_sft
from nanochat_course.checkpoint import checkpoint_dir, load_checkpoint
from nanochat_course.common import CourseError, load_result, base_dir, read_log
from nanochat_course.mid_train import MidTrainConfig, mid_train
from nanochat_course.tasks import ConversationLoader

SFT = ChatSFTConfig(**{f.name: getattr(SMALL, f.name) for f in fields(ChatSFTConfig) if f.name not in ("init_lr_frac", "warmdown_ratio", "seed")}, seed=43)


@pytest.fixture
def mid(base):
    mid_train(SMALL)
    return base


def test_it_goes_on_from_midtraining(mid):
    r = chat_sft(SFT)
    m, before = r["metrics"], load_result("mid_train")["metrics"]
    assert m["before"]["assistant_loss"] == pytest.approx(before["assistant_loss"], rel=1e-5)      # the model it starts from
    assert m["assistant_loss"] < before["assistant_loss"]
    assert load_checkpoint(checkpoint_dir("chatsft", "tiny")).meta["origin"]["stage"] == "mid"
    assert [s["prompt"] for s in r["samples"]] == [s["prompt"] for s in load_result("mid_train")["samples"]]


def test_only_the_assistant_is_supervised(mid, monkeypatch):
    seen = []
    class Spy(ConversationLoader):
        def __init__(self, *args, **kwargs): super().__init__(*args, **kwargs); seen.append(self)
    monkeypatch.setattr(mid_module, "ConversationLoader", Spy)
    chat_sft(SFT)
    loader = seen[0]
    start, end = (loader.tokenizer.special(f"<|assistant_{x}|>") for x in ("start", "end"))
    assert min(loader.targets) > 0
    for x, y, _ in loader():
        for row, targets in zip(x.tolist(), y.tolist()):
            speaking = False
            for token, target in zip(row, targets):
                speaking = token == start or speaking and token != end
                assert (target >= 0) == speaking


def test_the_rate_is_constant_then_falls(mid):
    chat_sft(replace(SFT, warmdown_ratio=0.5))
    lr = [l["lr"] for l in read_log(base_dir() / "report" / "chat_sft.jsonl") if "lr" in l]
    half = len(lr) - round(0.5 * len(lr))
    assert set(lr[:half]) == {1.} and all(a > b for a, b in zip(lr[half:], lr[half + 1:])) and 0 < lr[-1] < 0.3


def test_the_optimizer_starts_warm(mid, monkeypatch):
    loaded = []
    original = mid_module.load_optimizer_tensors
    monkeypatch.setattr(mid_module, "load_optimizer_tensors", lambda o, m, t: (loaded.append(t), original(o, m, t)))
    chat_sft(SFT)
    before = load_checkpoint(checkpoint_dir("mid", "tiny")).optimizer_state
    assert loaded and same(loaded[0], before) and any(t.abs().sum() > 0 for t in before.values())


def test_killed_and_started_again_it_ends_the_same(mid, monkeypatch):
    step = random.Random(time.time_ns()).randrange(1, 13)
    straight = chat_sft(SFT)
    want = weights("chatsft")
    shutil.rmtree(checkpoint_dir("chatsft", "tiny"))
    with monkeypatch.context() as m:
        kill_at(step, m)
        with pytest.raises(RuntimeError, match="killed"): chat_sft(SFT)
    again = chat_sft(SFT)
    assert same(weights("chatsft"), want), f"killed at step {step}: other weights"
    assert again["metrics"]["assistant_loss"] == straight["metrics"]["assistant_loss"] and again["samples"] == straight["samples"]


def test_midtraining_missing(base):
    with pytest.raises(CourseError, match="run python -m nanochat_course.mid_train first"): chat_sft(SFT)


def test_flags_are_those_of_midtraining():
    assert [f.name for f in fields(ChatSFTConfig)] == [f.name for f in fields(MidTrainConfig)]
