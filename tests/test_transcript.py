"The transcript: the same answers as the terminal chat gives, stored for the stages that there are, and safe to show."
import json

import pytest, torch

from nanochat_course.chat_cli import Chat
from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
from nanochat_course.common import CourseError, Runtime, load_result
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tokenizer import train_bpe
from nanochat_course.transcript import CONVERSATIONS, TranscriptConfig, hold, to_markdown, to_text, transcript

TOKENIZER = train_bpe(["Hello! Spell cat. c a t And dog? What is my name? My name is Anna."] * 20, vocab_size=300)


def model(seed, context=64):
    torch.manual_seed(seed)
    m = GPT(GPTConfig(sequence_len=context, vocab_size=TOKENIZER.vocab_size, n_layer=2, n_head=1, n_kv_head=1, n_embd=32), torch.float32)
    m.init_weights()
    with torch.no_grad():
        for p in m.parameters(): p.copy_(torch.randn_like(p) * .3)       # so that answers differ
    return m


@pytest.mark.parametrize("context,tokens", [(128, 6), (512, 12)])
def test_the_terminal_chat_says_the_same(context, tokens):
    m = model(1, context)
    held = hold(Engine(m, TOKENIZER), CONVERSATIONS, tokens)
    assert [len(h) for h in held] == [2 * len(c) for c in CONVERSATIONS]
    assert len({json.dumps(h[1]) for h in held}) > len(held) / 2, "answers depend on the questions"
    for said, messages in zip(CONVERSATIONS, held):
        chat = Chat(Engine(m, TOKENIZER), TOKENIZER, context, 0., 0, min(tokens, context // 4), "", 0)
        answer = "".join(piece for kind, piece in chat.answer(said[0]) if kind == "text").strip()
        assert messages[0] == dict(role="user", content=said[0]) and messages[1] == dict(role="assistant", content=answer)


def test_a_short_context_loses_the_beginning():
    held = hold(Engine(model(1, 24), TOKENIZER), CONVERSATIONS, 30)
    assert [len(h) for h in held] == [2 * len(c) for c in CONVERSATIONS]


def test_later_turns_see_the_earlier_ones():
    engine = Engine(model(2), TOKENIZER)
    (with_past,) = hold(engine, [("Spell cat.", "And dog?")], 6)
    (alone,) = hold(engine, [("And dog?",)], 6)
    prompt = TOKENIZER.render_for_completion(dict(messages=with_past[:3]))
    (want,) = engine.generate_batch([prompt], 1, 6, temperature=0.)
    assert with_past[3]["content"] == want.text.strip() != alone[1]["content"]


def test_the_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    with pytest.raises(CourseError, match="base_train"): transcript(TranscriptConfig(device="cpu"))
    with pytest.raises(CourseError, match="no model 'other'"): transcript(TranscriptConfig(model_tag="other", device="cpu"))
    TOKENIZER.save(tmp_path / "tokenizer")
    for source, seed in (("base", 1), ("chatsft", 2)):
        save_checkpoint(checkpoint_dir(source, "tiny"), 1, model(seed), meta={}, rt=Runtime(torch.device("cpu"), torch.float32))
    talks = transcript(TranscriptConfig(model_tag="tiny", max_tokens=4, device="cpu", dtype="float32"))
    stored = load_result("transcript")
    assert stored["sources"] == ["base", "sft"] and stored["talks"] == talks and [t["user"] for t in talks] == [list(c) for c in CONVERSATIONS]
    assert talks[0]["base"] == hold(Engine(model(1), TOKENIZER), CONVERSATIONS[:1], 4)[0] != talks[0]["sft"]


def test_whatever_a_model_writes_stays_text():
    evil = "a | b\n<script>alert(1)</script> **c** ![x](y) `z`"
    talks = [dict(user=["<b>?|"], base=[dict(role="user", content="<b>?|"), dict(role="assistant", content=evil)])]
    shown = to_markdown(talks, ["base"])
    assert len(shown.splitlines()) == 3 and shown.splitlines()[2].count("|") == 3
    assert "<script" not in shown and "<b>" not in shown and "**c" not in shown and "[x" not in shown and "`" not in shown
    assert to_text(talks, ["base"]).splitlines() == [" you> <b>?|", "  it> a | b <script>alert(1)</script> **c** ![x](y) `z`"]
    assert "(nothing)" in to_markdown([dict(user=["?"], base=[dict(role="assistant", content="")])], ["base"])
