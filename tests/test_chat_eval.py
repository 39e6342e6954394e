"Chat evaluation: intervals that hold what they promise, graders asked evenly, the report of each stage."
import json, math
from dataclasses import dataclass, replace
from types import SimpleNamespace
import pytest, torch
from nanochat_course.chat_eval import SOURCES, ChatEvalConfig, chat_eval, evaluate_chat, wilson
from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
from nanochat_course.common import CourseError, Runtime, load_result
from nanochat_course.corpus import make_corpus
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tasks import IdentityTask, SpellingTask, SumsTask
from nanochat_course.tokenizer import train_bpe

CPU = Runtime(torch.device("cpu"), torch.float32)
QUICK = dict(device="cpu", dtype="float32", tasks="sums,identity", max_items=5, max_new_tokens=4, eval_tokens=0)


# the interval

@pytest.mark.parametrize("right, n, low, high", [(81, 263, .2553, .3662), (15, 148, .0624, .1605), (0, 20, .0000, .1611), (1, 29, .0061, .1718)])
def test_published_intervals(right, n, low, high):             # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)


def test_the_ends_solve_wilsons_equation():
    for n in (1, 7, 100):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1 and low < high
            for end in (low, high): assert (right / n - end)**2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-12)
            mirrored = wilson(n - right, n)
            assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    assert wilson(0, 0) == (0., 1.)


@pytest.mark.parametrize("n", [5, 20, 100])
def test_coverage(n):
    binomial = lambda k, p: math.comb(n, k) * p**k * (1 - p)**(n - k)
    intervals = [wilson(k, n) for k in range(n + 1)]
    grid = [(i + .5) / 500 for i in range(500)]
    covered = [sum(binomial(k, p) for k, (low, high) in enumerate(intervals) if low <= p <= high) for p in grid]
    assert sum(covered) / len(covered) > 0.945 and min(covered) > 0.82


# asking a task

class Scripted:
    "An engine that answers by a table, and remembers what it was asked."
    def __init__(self, tok, task, reply, sequence_len=256):
        self.tokenizer, self.source, self.asked, self.calls = tok, SimpleNamespace(config=SimpleNamespace(sequence_len=sequence_len)), [], []
        self.table = {tuple(tok.render_for_completion(task[i])): (i, reply(task[i])) for i in range(len(task))}

    def generate_batch(self, prompts, num_samples, max_tokens, temperature, seed):
        self.calls.append((num_samples, max_tokens, temperature, seed))
        found = [self.table[tuple(p)] for p in prompts]
        self.asked += [i for i, _ in found]
        return [SimpleNamespace(parts=parts) for _, parts in found]


def right(c):
    content = c["messages"][-1]["content"]
    return content if isinstance(content, list) else [dict(type="text", text=content)]


@dataclass(frozen=True)
class OneOf(Runtime):
    "One process of several, whose sums are its own."
    def all_reduce(self, x, op="sum"): return x


@pytest.fixture(scope="module")
def tok(): return train_bpe(["What is 12 + 7? 19. How do you spell cat? c, a, t."] * 3, 270, num_processes=1)


@pytest.mark.parametrize("make", [SumsTask, SpellingTask, IdentityTask])
def test_an_oracle_gets_all_and_a_mute_gets_nothing(tok, make):
    task = make("test", size=min(40, len(make("test"))))
    r = evaluate_chat(Scripted(tok, task, right), task, CPU, max_items=20)
    n = min(20, len(task))
    assert r == dict(accuracy=1., interval=wilson(n, n), items=n)
    assert evaluate_chat(Scripted(tok, task, lambda c: []), task, CPU, max_items=20) == dict(accuracy=0., interval=wilson(0, n), items=n)


def test_questions_are_spread_evenly_and_divided_among_the_ranks(tok):
    task = SumsTask("test")
    engine = Scripted(tok, task, right)
    evaluate_chat(engine, task, CPU, max_items=10, max_tokens=7, temperature=.5, seed=3)
    gaps = {b - a for a, b in zip(engine.asked, engine.asked[1:])}
    assert engine.asked[0] == 0 and len(engine.asked) == 10 and max(gaps) - min(gaps) <= 1 and engine.asked[-1] >= len(task) * 0.9 - 1
    assert engine.calls == [(1, 7, .5, 3)]
    parts = [Scripted(tok, task, right) for _ in range(3)]
    shares = [evaluate_chat(e, task, OneOf(CPU.device, CPU.dtype, rank=r, world_size=3), max_items=10)["accuracy"] for r, e in enumerate(parts)]
    assert sorted(i for e in parts for i in e.asked) == engine.asked and sum(shares) == pytest.approx(1)
    few = Scripted(tok, task, right)
    assert evaluate_chat(few, task, CPU, max_items=10**6)["items"] == len(task) == len(few.asked)


def test_a_question_that_does_not_fit_counts_as_wrong(tok):
    task = SumsTask("test", size=20)
    lengths = sorted(len(tok.render_for_completion(task[i])) for i in range(20))
    limit = lengths[10]
    assert lengths[0] < limit
    r = evaluate_chat(Scripted(tok, task, right, sequence_len=limit), task, CPU, max_items=20)
    assert r["items"] == 20 and r["accuracy"] == sum(n < limit for n in lengths) / 20 < 1


# the stage

@pytest.fixture
def world(tmp_path, monkeypatch):
    "A tokenizer and two untrained models, one after SFT and one after RL."
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "base"))
    texts = [f"Return the value number {i} of the list. The cat sat on the mat, {i * 7} times." for i in range(200)]
    train_bpe(texts, 300, num_processes=1).save(tmp_path / "base" / "tokenizer")
    model = GPT(GPTConfig(sequence_len=128, vocab_size=300, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)).init_weights()
    for stage in ("chatsft", "chatrl"): save_checkpoint(checkpoint_dir(stage, "tiny"), 1, model, meta={}, rt=CPU)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(dict(text=t)) + "\n" for t in texts))
    make_corpus(tmp_path / "t.jsonl", tmp_path / "base" / "data" / "words", num_shards=2)
    return tmp_path / "base"


def test_the_stage_asks_every_model_there_is(world):
    results = chat_eval(ChatEvalConfig(**QUICK | dict(corpus="words", eval_tokens=2048)))
    assert list(results) == ["sft", "rl"]
    assert not (world / "report" / "chat_eval_base.json").exists() and not (world / "report" / "chat_eval_mid.json").exists()
    for source, metrics in results.items():
        saved = load_result(f"chat_eval_{source}")
        assert saved["metrics"]["sums"] == metrics["sums"] and tuple(saved["metrics"]["sums 95%"]) == pytest.approx(wilson(5 * metrics["sums"], 5))
        assert metrics["chat mean"] == pytest.approx((metrics["sums"] + metrics["identity"]) / 2) and 0 < metrics["text val_bpb"] < 20
        assert len(saved["samples"]) >= 6 and all(set(s) == {"prompt", "text"} for s in saved["samples"])
    assert results["sft"] == results["rl"]                                       # the same weights, the same questions: the same marks


def test_one_source_only(world):
    assert list(chat_eval(ChatEvalConfig(source="sft", **QUICK))) == ["sft"] and "text val_bpb" not in load_result("chat_eval_sft")["metrics"]


def test_bad_input(world, tmp_path, monkeypatch):
    good = ChatEvalConfig(**QUICK)
    assert list(SOURCES) == ["base", "mid", "sft", "rl"]
    for kwargs, text in ((dict(source="sft,essay"), "unknown source essay: use base, mid, sft, rl"), (dict(tasks="dancing"), "dancing"),
                         (dict(model_tag="d99"), "no model 'd99'"), (dict(source="base"), "base_train"), (dict(eval_tokens=100, corpus="nowhere"), "no corpus")):
        with pytest.raises(CourseError, match=text): chat_eval(replace(good, **kwargs))
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "empty"))
    with pytest.raises(CourseError, match="base_train"): chat_eval(good)
