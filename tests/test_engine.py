# ruff: noqa: E501
"The engine against the naive forward pass, sampling, streams of text, the tool, the calculator."
import json, math, re
from fractions import Fraction

import pytest, torch
from hypothesis import given, settings, strategies as st

from nanochat_course import engine as E
from nanochat_course.common import CourseError
from nanochat_course.engine import (Decoder, Engine, ModelDecoder, TextStream, ToolUse, linear_of, sample, sample_seed, to_parts,
                                    uniforms, use_calculator)
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tokenizer import train_bpe

tok = train_bpe(["The cat sat on the mat. " * 20 + "übergrößte € 日本 🙂 12+34"], 320, num_processes=1)
PROMPTS = [tok.encode("The cat sat on", prepend=tok.bos), [tok.bos], tok.encode("mat. The cat sat on the mat", prepend=tok.bos)]


RECORD = dict(value_embeds=True, residual_scalars=True, smear=True, backout=True, qk_scale=1.2, rotary_base=1e5, short_window=.25, window_pattern="SL")


def make(seed=0, dtype=torch.float32, std=.2, **kw):
    torch.manual_seed(seed)
    kw = {**dict(sequence_len=64, vocab_size=tok.vocab_size, n_layer=3, n_head=4, n_kv_head=4, n_embd=64), **kw}
    model = GPT(GPTConfig(**kw), dtype).init_weights()
    for p in model.parameters(): torch.nn.init.normal_(p, std=std)
    return model.eval()


@torch.inference_mode()
def naive(model, prompt, n):
    "Greedy tokens and their log-probabilities, by reading everything again for each token."
    ids, logprobs = list(prompt), []
    for _ in range(n):
        logits = model(torch.tensor([ids]))[0, -1]
        ids.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[ids[-1]]))
    return ids[len(prompt):], logprobs


def scripted(texts, **kw):
    "An engine whose model says `texts[i]` in row i, whatever it reads; returns the generations."
    engine, real, end = Engine(make(), tok), E.Row.take, tok.special("<|assistant_end|>")
    def say(row, token, *args):
        text, t = texts[row.index], len(row.tokens)
        return real(row, text[t] if t < len(text) else end, *args)
    E.Row.take = say
    try: return engine.generate_batch([[tok.bos]] * len(texts), **kw)
    finally: E.Row.take = real


@pytest.mark.parametrize("shape", [dict(), dict(n_kv_head=2), dict(n_kv_head=1, window_pattern="SL"), dict(window_pattern="SSSL", n_layer=4),
                                   dict(sequence_len=37, n_head=2, n_kv_head=2), dict(smear=True), dict(RECORD, n_kv_head=2, n_layer=4)], ids=str)
def test_greedy_is_naive(shape):
    model = make(**shape)
    room = model.config.sequence_len
    out = Engine(model, tok).generate_batch(PROMPTS, temperature=0, stop=())
    for prompt, o in zip(PROMPTS, out):
        tokens, logprobs = naive(model, prompt, room - len(prompt))
        assert o.tokens == tokens and o.stop == "context"
        assert max(abs(a - b) for a, b in zip(o.logprobs, logprobs)) < 1e-4
    alone = Engine(model, tok).generate_batch(PROMPTS[0], temperature=0, stop=())
    assert alone[0].tokens == out[0].tokens


def test_every_logit_is_naive():
    model = make(n_kv_head=2, window_pattern="SL")
    ids = torch.randint(0, tok.vocab_size, (3, 60))
    want = model(ids)
    for decoder in (Decoder(model, torch.float32), ModelDecoder(model, torch.float32)):
        cache = decoder.new_cache(3, 60)
        got = [decoder.cap(decoder.read(ids[:, :20], cache))] + [decoder.cap(decoder.read(ids[:, t:t+1], cache)) for t in range(20, 60)]
        assert torch.allclose(torch.stack(got, 1), want[:, 19:], atol=2e-4)


def test_bfloat16_is_close():
    model = make(dtype=torch.bfloat16, std=.1)
    ids = torch.randint(0, tok.vocab_size, (2, 40))
    exact = make(std=.1)(ids)[:, -1]
    decoder = Decoder(model, torch.bfloat16)
    got = decoder.cap(decoder.read(ids, decoder.new_cache(2, 40)))
    theirs = (model(ids)[:, -1] - exact).abs().mean()
    assert (got - exact).abs().mean() <= 1.2 * theirs          # no worse than the model's own bfloat16 pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 33])
def test_linear_of(rows, dtype):
    w, x = torch.randn(48, 64).to(dtype), torch.randn(rows, 64).to(dtype)
    assert torch.allclose(linear_of(w)(x).float(), x.float() @ w.float().T, atol=1e-4 if dtype == torch.float32 else .2)


def test_every_logit_of_the_record_is_naive():
    "Value embeddings, scalars, smear and backout, with a prompt in two pieces and then token by token."
    model, ids = make(**RECORD), torch.randint(0, tok.vocab_size, (3, 60))
    decoder = ModelDecoder(model, torch.float32)
    assert not Decoder.fits(model) and Decoder.fits(make(short_window=.25, window_pattern="SL", c_fc_init=.4, wte_init=.8))
    cache, got = decoder.new_cache(3, 60), []
    for piece in ids.split([12, 8] + [1] * 40, 1): got.append(decoder.cap(decoder.read(piece, cache)))
    with torch.no_grad(): want = model(ids)[:, [11, *range(19, 60)]]
    assert (torch.stack(got, 1) - want).abs().max() < 1e-4


def test_smear_knows_who_came_before_when_rows_leave():
    "Rows that end early leave the cache; the others' last tokens move with them."
    model = make(**RECORD)
    prompts = [*PROMPTS, PROMPTS[0] + PROMPTS[2]]
    alone = [naive(model, p, 40)[0] for p in prompts]
    stop = (alone[0][3], alone[1][2])                                      # two tokens that end rows soon
    cut = lambda tokens: tokens[:next((i for i, t in enumerate(tokens) if t in stop), len(tokens) - 1) + 1]
    out = Engine(model, tok).generate_batch(prompts, temperature=0, max_tokens=40, stop=stop)
    assert [o.tokens for o in out] == [cut(a) for a in alone] and len({len(o.tokens) for o in out}) > 1


def test_other_architectures_go_through_the_model():
    class Later(GPT): pass
    model = make()
    model.__class__ = Later
    assert not Decoder.fits(model)
    out = Engine(model, tok).generate_batch(PROMPTS, temperature=0, max_tokens=9, stop=())
    assert [o.tokens for o in out] == [naive(model, p, 9)[0] for p in PROMPTS]


def test_a_sample_does_not_depend_on_its_company():
    engine = Engine(make(), tok)
    kw = dict(max_tokens=30, temperature=.9, top_k=20)
    together = engine.generate_batch(PROMPTS, num_samples=3, seed=list(range(9)), **kw)
    for i, prompt in enumerate(PROMPTS):
        alone = engine.generate_batch(prompt, num_samples=1, seed=[3*i + 1], **kw)[0]
        assert alone.tokens == together[3*i + 1].tokens
    assert [g.tokens for g in engine.generate_batch(PROMPTS, num_samples=3, seed=list(range(9)), batch_size=3, **kw)] == [g.tokens for g in together]
    assert len({tuple(g.tokens) for g in together[:3]}) > 1
    longer = engine.generate_batch(PROMPTS[0], seed=[0], **{**kw, "max_tokens": 40})[0]
    assert longer.tokens[:len(together[0].tokens)] == together[0].tokens
    assert len({sample_seed(s, i) for s in range(50) for i in range(50)}) == 2500


def test_rows_leave_the_batch():
    "Rows end at different times; those that stay are not disturbed."
    model = make(std=.15)
    engine = Engine(model, tok)
    stop = list(range(0, tok.vocab_size, 12))
    out = engine.generate_batch([[tok.bos]], num_samples=24, temperature=1., stop=stop, seed=7)
    assert len({len(o.tokens) for o in out}) > 5
    for i, o in enumerate(out):
        assert not set(o.tokens[:-1]) & set(stop) and (o.tokens[-1] in stop or o.stop == "context")
        assert engine.generate_batch([tok.bos], temperature=1., stop=stop, seed=[sample_seed(7, i)])[0].tokens == o.tokens


def test_streaming_and_batch_agree():
    engine = Engine(make(), tok)
    rows = [[] for _ in range(4)]
    for column, masks in engine.generate(PROMPTS[0], num_samples=4, max_tokens=25, seed=5):
        for row, t, m in zip(rows, column, masks):
            if t is not None: row.append((t, m))
    batch = engine.generate_batch(PROMPTS[0], num_samples=4, max_tokens=25, seed=5)
    assert [list(zip(g.tokens, g.mask)) for g in batch] == rows


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2., 1., 0., -1., 5.]])
    n = 40_000
    u = uniforms(list(range(200)), n // 200).view(-1, 1)
    for T, k in ((1., None), (.5, None), (2., 3), (1., 1)):
        got = torch.bincount(sample(logits.expand(n, -1), u, T, k), minlength=5) / n
        p = (logits[0] / T).clone()
        if k: p[p < p.topk(k)[0][-1]] = -math.inf
        p = p.softmax(-1)
        assert ((got - p).abs() <= 4 * (p * (1 - p) / n).sqrt() + 1e-9).all(), (T, k, got, p)
    assert sample(logits, torch.tensor([[.3]]), 0.).tolist() == [4]


def test_sampling_at_the_edges():
    logits = torch.full((2, 6), -math.inf)
    logits[:, 2] = 0.
    for u in (0., .5, float(uniforms([0], 4).max()), 1 - 2**-20):
        assert sample(logits, torch.full((2, 1), u), 1.).tolist() == [2, 2]
    assert sample(torch.tensor([[1., 3., 2.]]), torch.tensor([[.999]]), 1e-12).tolist() == [1]
    u = uniforms([1, 2], 1000)
    assert (u >= 0).all() and (u < 1).all() and torch.equal(u[1:], uniforms([2], 1000))


def test_log_probabilities_are_at_temperature_one():
    model = make(std=.1)
    for g in Engine(model, tok).generate_batch(PROMPTS, num_samples=2, temperature=.5, top_k=5, max_tokens=12, stop=()):
        logp = model(torch.tensor([g.prompt + g.tokens])).log_softmax(-1)[0]
        want = [float(logp[len(g.prompt) + i - 1, t]) for i, t in enumerate(g.tokens)]
        assert max(abs(a - b) for a, b in zip(want, g.logprobs)) < 1e-4


def test_weights_are_read_again_after_a_training_step():
    model = make()
    engine = Engine(model, tok)
    engine.generate_batch(PROMPTS[0], temperature=0, max_tokens=3)
    first = engine.decoder()
    assert engine.decoder() is first
    opt = torch.optim.SGD(model.parameters(), lr=.5)
    model(torch.tensor([PROMPTS[2]]), torch.tensor([PROMPTS[2]])).backward()
    opt.step()
    out = engine.generate_batch(PROMPTS[0], temperature=0, max_tokens=20, stop=())[0]
    assert engine.decoder() is not first and out.tokens == naive(model, PROMPTS[0], 20)[0]


def test_the_calculator_answers_in_mid_generation():
    sp = tok.special
    call = [*tok.encode("It is "), sp("<|python_start|>"), *tok.encode("12*(3+4)"), sp("<|python_end|>")]
    answer = [sp("<|output_start|>"), *tok.encode("84"), sp("<|output_end|>")]
    after = tok.encode(" cats")
    g = scripted([call + [0] * len(answer) + after])[0]               # what the model samples under the forced tokens is ignored
    assert g.tokens == call + answer + after + [sp("<|assistant_end|>")]
    assert g.mask == [1] * len(call) + [0] * len(answer) + [1] * (len(after) + 1)
    assert all(p == 0 for p, m in zip(g.logprobs, g.mask) if not m) and all(p < 0 for p, m in zip(g.logprobs, g.mask) if m)
    assert g.parts == [dict(type="text", text="It is "), dict(type="python", text="12*(3+4)"), dict(type="python_output", text="84"),
                       dict(type="text", text=" cats")]
    assert g.text == "It is  cats" and g.stop == "assistant_end"
    talk = dict(messages=[dict(role="user", content="x"), dict(role="assistant", content=g.parts)])
    ids, mask = tok.render_conversation(talk)
    assert ids[-len(g.tokens):] == g.tokens and mask[-len(g.tokens):] == g.mask       # training sees what generation makes


def test_two_rows_and_a_refused_call():
    sp = tok.special
    one = [sp("<|python_start|>"), *tok.encode("9**9**9"), sp("<|python_end|>"), *tok.encode("no")]
    two = (tok.encode("yes") * 20)[:len(one)]
    a, b = scripted([one, two])
    assert a.tokens == one + [sp("<|assistant_end|>")] and set(a.mask) == {1}
    assert b.text.startswith("yes") and b.mask == [1] * len(b.tokens)


@pytest.mark.parametrize("name", ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|output_start|>", "<|output_end|>"])
def test_the_model_cannot_speak_for_others(name):
    g = scripted([[*tok.encode("hm"), tok.special(name), *tok.encode("1")]])[0]
    assert g.tokens[-1] == tok.special(name) and g.stop == name.strip("<|>") and g.text == "hm"


def test_stops():
    assert scripted([tok.encode("The cat sat on the mat.")], max_tokens=2)[0].stop == "max_tokens"
    assert Engine(make(), tok).generate_batch([tok.bos] * 63, temperature=0, stop=())[0].stop == "context"


@pytest.mark.parametrize("kw, prompt", [
    (dict(), []), (dict(), [10**6]), (dict(), [-1]), (dict(), [tok.bos] * 64), (dict(temperature=-1), [tok.bos]), (dict(temperature=math.nan), [tok.bos]),
    (dict(top_k=-1), [tok.bos]), (dict(max_tokens=0), [tok.bos]), (dict(seed=[1, 2]), [tok.bos]), (dict(temperature=1e-50), [tok.bos]),
    (dict(temperature=math.inf), [tok.bos]), (dict(num_samples=0), [tok.bos]), (dict(num_samples=-1), [tok.bos]), (dict(), "a text"), (dict(), [1.5]), (dict(), ["a"])], ids=str)
def test_mistakes_are_named(kw, prompt):
    engine = Engine(make(), tok)
    for generate in (engine.generate, engine.generate_batch) if prompt else (engine.generate,):      # no prompts at all are no mistake
        with pytest.raises(CourseError) as e: list(generate(prompt, **kw))
        assert "\n" not in str(e.value)


def test_text_instead_of_tokens_is_told_how_to_encode_it():
    engine = Engine(make(), tok)
    for prompts in ("The cat", ["The cat", "a mat"]):
        with pytest.raises(CourseError, match="tokenizer.encode"): engine.generate_batch(prompts)


def test_the_lowest_temperature_is_greedy_and_any_sequence_is_a_prompt():
    engine, ids = Engine(make(), tok), PROMPTS[0]
    want = engine.generate_batch(ids, temperature=0, max_tokens=12)[0].tokens
    for prompt in (ids, tuple(ids), torch.tensor(ids), [torch.tensor(ids)], [tuple(ids)]):
        assert engine.generate_batch(prompt, temperature=1e-4, max_tokens=12)[0].tokens == want
    assert engine.generate_batch([]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_norm_is_pytorchs(dtype):
    "Large, small, zero."
    x = torch.randn(5, 3, 48, generator=torch.Generator().manual_seed(0)) * torch.tensor([1., 1e4, 1e-3, 1e-9, 0.])[:, None, None]
    x = x.to(dtype)
    torch.testing.assert_close(E.norm(x), torch.nn.functional.rms_norm(x, (48,), eps=1e-6), atol=1e-12, rtol=2e-6 if dtype == torch.float32 else 0)


# Text at token borders

@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, tok.vocab_size - 1), max_size=40))
def test_text_stream_is_the_text(ids):
    specials = set(tok.special_ids.values())
    stream = TextStream(tok)
    got = "".join([stream.push(t) for t in ids] + [stream.close()])
    runs, run = [], []
    for t in [*ids, tok.bos]:
        if t in specials: runs.append(tok.decode(run)); run = []
        else: run.append(t)
    assert got == "".join(runs)


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_text_stream_never_shows_half_a_character(text):
    stream, shown = TextStream(tok), ""
    data = text.encode("utf-8", "replace")
    for b in data:
        shown += stream.push(b)
        assert data.decode().startswith(shown)
    assert shown + stream.close() == data.decode()


# The calculator

@pytest.mark.parametrize("expr, want", [
    ("12*(3+4)", "84"), ("6/2", "3"), ("7/2", "3.5"), ("0.1+0.2", "0.3"), ("1/3", "0.333333333333"), ("-2**2", "-4"), ("(-2)**2", "4"), ("2**-1", "0.5"),
    ("2**3**2", "512"), ("7//2", "3"), ("-7//2", "-4"), ("-7%3", "2"), ("1,000+1", "1001"), ("1,234,567.5*2", "2469135"), (" 1 + 1 ", "2"), ("--3", "3"),
    ("5.", "5"), (".5*8", "4"), ("007", "7"), ("0**0", "1"), ("-0.5", "-0.5"), ("0*-1", "0"), ("'strawberry'.count('r')", "3"), ('"aaa".count("aa")', "1"),
    ("'it, (is)'.count(',')", "1"), ("'abc'.count('')", "4"), ("'日本'.count('本')", "1")])
def test_calculator(expr, want): assert use_calculator(expr) == want


@pytest.mark.parametrize("expr", [
    "", " ", "1+", "*1", "1 2", "1..2", "1,00", "1,0000", "(1", "1)", "()", "1/0", "1//0", "1%0", "0**-1", "2**0.5", "9**9**9", "9**99", "2**65",
    "1" * 25, "1+" * 200 + "1", "(" * 20 + "1" + ")" * 20, "-" * 60 + "1", "10**20*10**20*10**20*10**20", "1/10**20", "1e5", "0x10", "1_000", "٣+1", "１+1", "½",
    "inf", "nan", "NaN+1", "a", "__import__('os')", "'a'*10**9", "'a'.ljust(4000000000).count('b')", "'a'.count('b'*9)", "'a'.count('b').real", "''.join('a')",
    "'\\x61'.count('a')", "'a'.count(\"b')", "'a' .count('b')", "'a\n'.count('a')", "lambda: 1", "1;2", "1\n+1", "1\x00", "\ud800", "3 if 1 else 2", "[1]", "f'{1}'",
    None, 7, b"1+1", ["1"]])
def test_calculator_refuses(expr): assert use_calculator(expr) is None


@settings(max_examples=300, deadline=None)
@given(st.recursive(st.integers(0, 999).map(str), lambda x: st.tuples(x, st.sampled_from(["+", "-", "*", "/", "//", "%"]), x).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
                    max_leaves=6))
def test_calculator_is_exact(expr):
    fractions = re.sub(r"\d+", r"Fraction(\g<0>)", expr)
    try: want = Fraction(eval(fractions))
    except ZeroDivisionError: want = None
    got = use_calculator(expr)
    if want is None: assert got is None
    elif got is not None: assert abs(Fraction(got) - want) <= Fraction(1, 2 * 10**12)
    else: assert abs(want) < Fraction(1, 10**12) or "(" * 8 in expr or len(expr) > 200


def test_calculator_agrees_with_gsm8k(test_data):
    "Annotations like <<48/2=24>> of the training part."
    pairs = []
    for line in (test_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines():
        pairs += [a.rpartition("=")[::2] for a in re.findall(r"<<([^>]*)>>", json.loads(line)["answer"])]
    results = [(e, want, use_calculator(e)) for e, want in pairs]
    same = sum(got == want or got is not None and re.fullmatch(r"-?[0-9.]+", want) and Fraction(want.rstrip(".")) == Fraction(got) for _, want, got in results)
    print(f"{same / len(pairs):.4f} of {len(pairs)} annotations, {sum(g is None for *_, g in results)} refused")
    assert same / len(pairs) > .97


def test_tool_use_and_parts():
    tool = ToolUse(tok)
    for t in [tok.special("<|python_end|>"), tok.special("<|python_start|>"), *tok.encode("1+1"), tok.special("<|python_start|>"), *tok.encode("2+2")]: tool.push(t)
    assert not tool.forced
    tool.push(tok.special("<|python_end|>"))
    assert list(tool.forced) == [tok.special("<|output_start|>"), *tok.encode("4"), tok.special("<|output_end|>")]
    assert to_parts(tok, []) == []


# What windows let the cache forget

NARROW = dict(window_pattern="SSL", short_window=1/8, n_kv_head=2)                        # windows of 8 tokens
EDGES = [list(range(40)), [3], list(range(9)), list(range(8))]


def batch_of(model, prompts, share=False, longest=64, own=None, slots=None):
    "A batch that has read these prompts; row i is called i."
    decoder = Engine(model, tok).decoder()
    batch = E.Batch(decoder, model.device, slots or len(prompts), longest, own, share)
    with torch.inference_mode(): batch.join(list(range(len(prompts))), prompts)
    return batch


def follow(model, batch, texts, steps, tolerance=2e-4):
    "Read the same new tokens with the batch and with the whole model, step by step; `texts` grow: row's name -> tokens."
    g = torch.Generator().manual_seed(len(texts))
    for _ in range(steps):
        new = torch.randint(0, tok.vocab_size, (len(batch.rows),), generator=g).tolist()
        for name, token in zip(batch.rows, new): texts[name] = texts[name] + [token]
        with torch.inference_mode():
            batch.feed(new)
            got = batch.decoder.cap(batch.logits)
            for name, logits in zip(batch.rows, got):
                assert (logits - model(torch.tensor([texts[name]]))[0, -1]).abs().max() < tolerance, (name, len(texts[name]))


@pytest.mark.parametrize("prompts", [PROMPTS, [PROMPTS[0]] * 3, [[tok.bos]] * 2, EDGES], ids=["ragged", "even", "one", "edges"])
@pytest.mark.parametrize("shape", [NARROW, dict(NARROW, smear=True, value_embeds=True)], ids=["plain", "record"])
def test_a_ring_keeps_what_its_window_sees(prompts, shape):
    "Logits of the full forward pass at every step, in memory bounded by the windows; also when rows leave."
    model = make(std=.1, **shape)
    batch, texts = batch_of(model, prompts), dict(enumerate(prompts))
    assert [k.shape[2] for k in batch.cache.k] == [9, 9, 64]
    plain = batch.decoder.new_cache(len(prompts), 64)
    assert batch.cache.nbytes == plain.nbytes * (9 + 9 + 64) / (3 * 64)
    follow(model, batch, texts, 6)
    if len(prompts) > 2:
        assert batch.drop(lambda row: row == 1) == ([0, 2] if len(prompts) == 3 else [0, 3, 2]) == batch.rows
    follow(model, batch, texts, 57 - max(map(len, prompts)))


def test_the_engine_uses_rings_where_they_save():
    "Greedy answers of windowed models are the naive ones, far beyond the window; without need every layer has room for all."
    model = make(std=.15, sequence_len=96, **dict(NARROW, short_window=1/12))
    out = Engine(model, tok).generate_batch(PROMPTS, num_samples=2, temperature=0, max_tokens=60, stop=())
    for i, o in enumerate(out): assert o.tokens == naive(model, PROMPTS[i // 2], 60)[0]
    assert [k.shape[2] for k in batch_of(model, [[tok.bos]], longest=9).cache.k] == [9, 9, 9]


def test_a_row_cache_says_what_it_cannot_do():
    model = make(**NARROW)
    batch = batch_of(model, [list(range(60))])
    with pytest.raises(CourseError, match="one token per step"): batch.decoder.read(torch.zeros(1, 2, dtype=torch.int64), batch.cache)
    for _ in range(4): batch.feed([0])
    with pytest.raises(CourseError, match="larger longest"): batch.feed([0])
    batch = batch_of(model, [list(range(30))], share=True, own=3)
    for _ in range(3): batch.feed([0])
    with pytest.raises(CourseError, match="larger longest"): batch.feed([0])


# Rows that join and leave, and prompts that they share

@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("shape", [dict(n_kv_head=2), NARROW, dict(NARROW, smear=True, value_embeds=True)], ids=["full", "windows", "record"])
def test_rows_join_and_leave_a_running_batch(shape, share):
    "Six rows, three places, three prompts of different length: at every step the logits of the whole model."
    model = make(std=.1, **shape)
    a, b, c = PROMPTS[0] + PROMPTS[2], PROMPTS[2], PROMPTS[1]
    texts = dict(a0=a, a1=a, b0=b, c0=c, a2=a, b1=b)
    batch, waiting = batch_of(model, [a, a, b], share, own=24 if share else None), ["c0", "a2", "b1"]
    batch.rows = ["a0", "a1", "b0"]
    for leaver in ("a0", "b0", "a1", "c0", "b1", "a2"):
        follow(model, batch, texts, 3)
        batch.drop(lambda row: row == leaver)
        if waiting:
            with torch.inference_mode(): batch.join([waiting[0]], [texts[waiting[0]]])
            del waiting[0]
    assert not batch.rows and len(batch.known) == 0 and batch.free == 3
    assert all(len(t) - len(p) >= 3 for t, p in zip(texts.values(), (a, a, b, c, a, b)))


def test_samples_of_one_prompt_share_its_memory():
    "Bytes: the prompt once and each row's own room; equal answers; nothing is left of a prompt that nobody reads."
    model, prompt = make(n_kv_head=2, sequence_len=256), (PROMPTS[2] * 40)[:200]
    copies, shared = batch_of(model, [prompt] * 16, longest=240), batch_of(model, [prompt] * 16, True, 240, own=40)
    per_token = 2 * 3 * 2 * 16 * 4                                                       # k and v, layers, heads, channels, bytes
    assert copies.cache.nbytes == 16 * 240 * per_token and shared.cache.nbytes == (200 + 16 * 40) * per_token
    follow(model, shared, dict(enumerate([prompt] * 16)), 4)
    shared.drop(lambda row: row > 0)
    assert shared.cache.nbytes == (200 + 16 * 40) * per_token and len(shared.known) == 1
    shared.drop(lambda row: True)
    assert shared.cache.nbytes == 16 * 40 * per_token and len(shared.known) == 0
    engine = Engine(model, tok)
    batch = engine.batch(engine.rows([prompt], 16, 30, [0] * 16), 16, True)
    assert batch.share and batch.cache.k[0].shape == (16, 2, 30, 16)
    assert not engine.batch(engine.rows([PROMPTS[0]], 16, 30, [0] * 16), 16, True).share    # too short to be worth it


def test_sixteen_samples_of_a_long_prompt_are_what_each_is_alone():
    "Also with fewer places than samples, where a sample joins when others have left."
    model = make(std=.15, sequence_len=160, n_kv_head=2, window_pattern="SL", short_window=1/10)
    engine, prompts = Engine(model, tok), [(PROMPTS[0] * 30)[:90], (PROMPTS[2] * 20)[:70]]
    assert [len(p) for p in prompts] == [90, 70]
    kw = dict(max_tokens=30, temperature=.9, top_k=30, stop=list(range(0, tok.vocab_size, 20)))
    seeds = list(range(100, 132))
    together = engine.generate_batch(prompts, 16, seed=seeds, **kw)
    assert len({len(g.tokens) for g in together}) > 5
    for slots in (5, 32):
        assert [g.tokens for g in engine.generate_batch(prompts, 16, seed=seeds, batch_size=slots, **kw)] == [g.tokens for g in together]
    for i in (0, 7, 15, 16, 31):
        assert engine.generate_batch(prompts[i // 16], seed=[seeds[i]], **kw)[0].tokens == together[i].tokens


def test_a_row_takes_a_place_as_soon_as_one_is_free(monkeypatch):
    "Ten answers of very different length in two places: hardly more steps than tokens / 2, each answer its own."
    engine, lengths = Engine(make(), tok), [40, 3, 5, 30, 4, 8, 3, 25, 2, 6]
    steps, read, real = [], E.Batch.feed, E.Row.take
    monkeypatch.setattr(E.Batch, "feed", lambda self, tokens: steps.append(len(tokens)) or read(self, tokens))
    prompts = [PROMPTS[i % 3] for i in range(10)]
    def end(row, token, logprob, stops):
        token = real(row, token, logprob, {})
        if len(row.tokens) == lengths[row.index]: row.stop = "text"
        return token
    monkeypatch.setattr(E.Row, "take", end)
    out = engine.generate_batch(prompts, temperature=0, batch_size=2)
    assert [len(g.tokens) for g in out] == lengths
    for g in out: assert g.tokens == naive(engine.source, g.prompt, len(g.tokens))[0]
    assert max(steps) == 2 and sum(steps) == sum(lengths) - 10 and len(steps) <= sum(lengths) / 2 + 15


# What was read before is not read again

GAPPY = dict(NARROW)                                                                       # windows of 8: longer answers leave a gap
LOOKS_BACK = dict(NARROW, smear=True, value_embeds=True)


def remembering(model, conversations=4, **kw):
    "An engine that remembers, and a list that notes how many tokens each reading of several takes."
    engine, read = Engine(model, tok, keep=conversations, **kw), []
    decoder = engine.decoder()
    real = decoder.read
    def noted(ids, *args):
        if ids.shape[1] > 1: read.append(tuple(ids.shape))
        return real(ids, *args)
    decoder.read = noted
    return engine, read


@pytest.mark.parametrize("shape", [dict(n_kv_head=2), GAPPY, LOOKS_BACK], ids=["full", "windows", "record"])
def test_a_turn_reads_only_its_own_tokens(shape):
    "A conversation of six turns, its answers longer than the window: greedy tokens as without memory, and who reads what."
    model = make(std=.1, **{**shape, "sequence_len": 256})
    engine, read = remembering(model)
    ids = (PROMPTS[0] * 4)[:20]
    for turn in range(6):
        got = engine.generate_batch(ids, temperature=0, max_tokens=21, stop=())[0]
        tokens, logprobs = naive(model, ids, 21)
        assert got.tokens == tokens and max(abs(a - b) for a, b in zip(got.logprobs, logprobs)) < 1e-3
        assert read.pop() == ((1, 20) if turn == 0 else (1, 13)) and not read            # the last token, never read, and twelve new ones
        ids = ids + got.tokens + [5 + turn] * 12
    assert len(engine.prefixes.prefixes) == 1 and engine.prefixes.saved == sum(40 + 33 * t for t in range(5))


@pytest.mark.parametrize("shape", [dict(n_kv_head=2), GAPPY, LOOKS_BACK], ids=["full", "windows", "record"])
def test_a_prompt_may_go_on_from_anywhere(shape):
    "Random beginnings of prompts and answers, also within an answer that a ring has half forgotten: always the logits of the whole model."
    model = make(std=.1, **shape)
    engine, read = remembering(model)
    g = torch.Generator().manual_seed(0)
    def some(n): return torch.randint(0, tok.vocab_size, (n,), generator=g).tolist()
    seen, fresh = [some(24)], 0
    for i in range(24):
        old = seen[int(torch.randint(0, len(seen), (), generator=g))]
        ids = old[:int(torch.randint(0, len(old) + 1, (), generator=g))][:44] + some(1 + i % 5)
        g1 = engine.generate_batch(ids, temperature=0, max_tokens=2 + i % 14, stop=())[0]
        tokens, logprobs = naive(model, ids, len(g1.tokens))
        assert g1.tokens == tokens and max(abs(a - b) for a, b in zip(g1.logprobs, logprobs)) < 1e-3, i
        seen.append(ids + g1.tokens)
        fresh += len(ids)
    assert engine.prefixes.saved > fresh / 4
    held = engine.prefixes.prefixes.values()
    assert engine.prefixes.nbytes == sum(p.k.nbytes + p.v.nbytes for p in held) <= engine.prefixes.most
    if shape is not LOOKS_BACK and shape is not GAPPY: assert not any(p.gaps for p in held)
    else: assert any(p.gaps for p in held)


def test_what_was_not_used_for_longest_is_forgotten_first():
    model = make(n_kv_head=2, n_layer=1)
    engine, read = remembering(model, conversations=1)                                     # 64 tokens
    a, b, c = ([10 + i] * 20 for i in range(3))
    def ask(ids): engine.generate_batch(ids, temperature=0, max_tokens=1, stop=())
    for ids in (a, b, c): ask(ids)
    ask(a)                                                                                 # used again: b is now the oldest
    ask([99] * 20)
    assert [p[0] for p in engine.prefixes.prefixes] == [12, 10, 99]
    ask([98] * 50)
    assert [p[0] for p in engine.prefixes.prefixes] == [98] and engine.prefixes.nbytes <= engine.prefixes.most
    big = E.Prefix(tuple(range(200)), torch.zeros(1, 2, 200, 16), torch.zeros(1, 2, 200, 16))
    engine.prefixes.keep(big)
    assert [p[0] for p in engine.prefixes.prefixes] == [98], "what is larger than the whole memory takes nobody's place"


def test_remembered_keys_do_not_outlive_their_weights():
    model = make(n_kv_head=2)
    engine, _ = remembering(model)
    ids = (PROMPTS[0] * 4)[:30]
    engine.generate_batch(ids, temperature=0, max_tokens=2, stop=())
    with torch.no_grad():
        for p in model.parameters(): p.mul_(-1.1)
    assert engine.generate_batch(ids, temperature=0, max_tokens=20, stop=())[0].tokens == naive(model, ids, 20)[0]


def test_samples_of_one_prompt_remember_too():
    "Sixteen answers share a long prompt and leave at different times; the next turn of each reads only what is new."
    model = make(std=.15, sequence_len=160, n_kv_head=2, window_pattern="SL", short_window=1/10)
    engine, read = remembering(model, 40)
    prompt = (PROMPTS[0] * 30)[:91]
    first = engine.generate_batch(prompt, 16, max_tokens=30, temperature=.9, seed=1, stop=list(range(0, tok.vocab_size, 20)))
    assert first == Engine(model, tok).generate_batch(prompt, 16, max_tokens=30, temperature=.9, seed=1, stop=list(range(0, tok.vocab_size, 20)))
    read.clear()
    for g in sorted(first, key=lambda g: -len(g.tokens))[:4]:
        assert len(g.tokens) > 3
        ids = prompt + g.tokens + [7, 8]
        got, (tokens, logprobs) = engine.generate_batch(ids, temperature=0, max_tokens=5, stop=())[0], naive(model, ids, 5)
        assert got.tokens == tokens and max(abs(a - b) for a, b in zip(got.logprobs, logprobs)) < 1e-3
        assert read.pop() == (1, 3)


def test_a_row_that_never_wrote_and_an_engine_without_memory_keep_nothing():
    engine = Engine(make(), tok)
    engine.generate_batch(PROMPTS, temperature=0, max_tokens=3)
    assert engine.prefixes is None
    engine, _ = remembering(make())
    engine.generate_batch(PROMPTS[0] * 3, temperature=0, max_tokens=1)
    assert [len(p) for p in engine.prefixes.prefixes] == [3 * len(PROMPTS[0])]


# Eight bits for a weight

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_are_the_nearest(dtype):
    "Every entry within half a step of its row's scale, the largest exact; the product is that of the rounded matrix."
    w = torch.randn(48, 64) * torch.logspace(-4, 3, 48)[:, None]
    w[3] = 0
    q, scale = E.int8_rows(w)
    assert q.dtype == torch.int8 and (q * scale[:, None] - w).abs().le(scale[:, None] * .5001).all() and q.abs().amax(1).max() == 127
    assert (q[3] == 0).all() and torch.isfinite(scale).all()
    for rows in (1, 5, 33):
        x = torch.randn(rows, 64).to(dtype)
        rounded = (q * scale[:, None]).double()
        off = (E.int8_linear_of(w.to(dtype))(x).double() - x.double() @ rounded.T).abs()
        assert (off <= (1e-6 if dtype == torch.float32 else 1e-2) * (x.double().abs() @ rounded.abs().T)).all()


@pytest.mark.parametrize("shape", [dict(), RECORD], ids=["plain", "record"])
def test_an_engine_in_eight_bits(shape):
    "A quarter of the bytes; logits close to the exact ones, and equal to those of a model whose weights were rounded; never by itself."
    model = make(std=.1, n_embd=128, **shape)
    rounded = make(std=.1, n_embd=128, **shape)
    for name, p in rounded.named_parameters():
        if p.ndim == 2 and "wte" not in name and "value_embeds" not in name and p.shape[1] >= 32:
            q, scale = E.int8_rows(p.detach())
            p.data = q * scale[:, None]
    engine = Engine(model, tok, int8=True)
    out = engine.generate_batch(PROMPTS, temperature=0, max_tokens=20, stop=())
    assert not Engine(model, tok).int8
    for prompt, g in zip(PROMPTS, out):
        tokens, logprobs = naive(rounded, prompt, 20)
        assert g.tokens == tokens and max(abs(a - b) for a, b in zip(g.logprobs, logprobs)) < 1e-3
    exact, near = (Engine(model, tok, int8=q).decoder() for q in (False, True))
    ids = torch.tensor([PROMPTS[2]])
    with torch.inference_mode(): a, b = (d.cap(d.read(ids, d.new_cache(1, 64))) for d in (exact, near))
    assert 0 < (a - b).abs().max() < .05 * a.abs().max()


def test_a_prompt_is_read_once_for_all_samples(monkeypatch):
    engine, seen = Engine(make(), tok), []
    read = Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, ids, *a: seen.append(tuple(ids.shape)) or read(self, ids, *a))
    engine.generate_batch(PROMPTS[0], num_samples=8, max_tokens=3, stop=())
    assert seen == [(1, len(PROMPTS[0])), (8, 1), (8, 1)]


def test_a_text_ends_a_row():
    "Also one that spans tokens; before it nothing is cut, after it nothing is written."
    talk = tok.encode("mat. mat. mat. mat. mat. ")
    a, b, _ = scripted([tok.encode("The cat sat on the mat. "), talk, talk], until="t on")
    assert a.stop == "text" and "t on" in a.text and "The cat sat on the mat.".startswith(a.text) and b.stop == "assistant_end"
    streamed = list(Engine(make(), tok).generate(PROMPTS[0], max_tokens=12, seed=1, until="", stop=()))
    assert len(streamed) == 12                                                            # no text asked for: none ends it
