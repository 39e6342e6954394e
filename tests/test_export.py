"Exported models against transformers, tokenizers and nanochat's own arithmetic; what cannot be exported is refused."
import json, math, os, random, sys
from pathlib import Path

import forked, pytest, torch, torch.nn.functional as F

from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
from nanochat_course.common import CourseError, Runtime
from nanochat_course.export import ExportConfig, export, from_nanochat, hf_name, hf_tokenizer, to_hf
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe
from test_hostile import strings

transformers = pytest.importorskip("transformers", "5.0")
tokenizers = pytest.importorskip("tokenizers")

BASE = dict(sequence_len=96, vocab_size=600, n_layer=3, n_head=4, n_kv_head=4, n_embd=64)
SHAPES = {"plain": {}, "shared heads": dict(n_kv_head=2), "one head": dict(n_head=1, n_kv_head=1), "odd vocabulary": dict(vocab_size=601), "other base": dict(rotary_base=100000.),
          "other cap": dict(softcap=30.), "window of L": dict(window_pattern="L"), "one layer with a window that the last layer does not have": dict(n_layer=1, window_pattern="S")}


def make(**changes):
    torch.manual_seed(1)
    model = GPT(GPTConfig(**{**BASE, **changes})).init_weights().eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p) * (1 if p.shape[0] > 500 else 0.15))
    return model


@pytest.fixture(scope="module")
def tok(): return train_bpe([p.read_text(errors="replace") for p in sorted(Path(os.__file__).parent.glob("*.py"))[:40]] + ["naïve café 猫🙂 123 DON'T"] * 20, 600, num_processes=1)


@pytest.fixture(scope="module")
def exported(tok, tmp_path_factory):
    model = make(vocab_size=tok.vocab_size)
    return model, to_hf(model, tmp_path_factory.mktemp("export") / "out", tok)


@pytest.fixture(scope="module")
def hf_tok(exported): return transformers.AutoTokenizer.from_pretrained(exported[1])


# --- weights ---

@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_equal_at_the_whole_context(name, tmp_path):
    model = make(**SHAPES[name])
    hf, report = transformers.AutoModelForCausalLM.from_pretrained(to_hf(model, tmp_path / "out"), output_loading_info=True)
    assert type(hf).__name__ == "NanoChatForCausalLM" and not any(report.values()), report
    idx = torch.randint(0, model.config.vocab_size, (2, 96))
    with torch.no_grad(): mine, theirs = model(idx), hf(idx).logits
    assert theirs.shape == mine.shape and theirs.dtype == torch.float32
    torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)
    assert mine.std() > 0.5, "logits that are all alike would prove nothing"


def test_every_array_is_used(exported):
    "Change one array of ours at a time: the exported logits must no longer fit. So no array is left behind."
    model, out = exported
    hf = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert sorted(hf_name(n) for n in model.state_dict()) == sorted(hf.state_dict())
    assert hf_name("value_embeds.0.weight") is None and hf_name("transformer.h.0.attn.ve_gate.weight") is None and hf_name("transformer.h.0.attn.c_q.bias") is None
    assert hf_name("resid_lambdas") is None and hf_name("x.lm_head.weight") is None


def test_greedy_generation_is_equal(exported, tok):
    model, out = exported
    hf = transformers.AutoModelForCausalLM.from_pretrained(out)
    start = torch.tensor([tok.encode("import os", prepend="<|bos|>")])
    with torch.no_grad():
        theirs = hf.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=30, do_sample=False)[0].tolist()
        x = start
        while x.shape[1] < len(theirs): x = torch.cat([x, model(x)[:, -1:].argmax(-1)], 1)
    assert x[0].tolist() == theirs


def test_the_sign_and_the_numbers_matter(exported):
    "Each setting that shapes do not protect: when it is wrong, the logits are."
    model, out = exported
    idx = torch.randint(0, 600, (1, 96))
    config = json.loads((out / "config.json").read_text())
    with torch.no_grad():
        mine = model(idx)
        for change in (dict(rope_parameters=dict(rope_type="default", rope_theta=1000.)), dict(final_logit_softcapping=30.), dict(rms_norm_eps=0.5), dict(hidden_act="silu")):
            hf = transformers.NanoChatForCausalLM.from_pretrained(out, config=transformers.NanoChatConfig(**{**config, **change}))
            assert (hf(idx).logits - mine).abs().max() > 0.01, change


def test_configuration_names_the_ends_of_an_answer(exported, tok):
    _, out = exported
    c, g = (json.loads((out / n).read_text()) for n in ("config.json", "generation_config.json"))
    assert c["bos_token_id"] == tok.special("<|bos|>") and c["eos_token_id"] == tok.special("<|assistant_end|>")
    assert g["eos_token_id"] == sorted([tok.special("<|bos|>"), tok.special("<|assistant_end|>")])
    hf = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert hf.generation_config.eos_token_id == g["eos_token_id"]


# --- refusals ---

@pytest.mark.parametrize("changes, word", [(dict(window_pattern="SL"), "window"), (dict(window_pattern="SSSL"), "window")])
def test_windows_are_refused(changes, word, tmp_path):
    model = make(**changes)
    with pytest.raises(CourseError, match=word): to_hf(model, tmp_path / "out")
    assert not (tmp_path / "out").exists() and os.listdir(tmp_path) == []


def test_the_parts_of_the_record_are_refused_by_name(tmp_path):
    model = make(value_embeds=True, smear=True, qk_scale=1.2)
    with pytest.raises(CourseError) as e: to_hf(model, tmp_path / "out")
    for word in ("value_embeds=True", "smear=True", "qk_scale=1.2", "smear_lambda", "arrays"): assert word in str(e.value), word
    assert "\n" not in str(e.value) and os.listdir(tmp_path) == []
    for part in ("residual_scalars", "backout"):
        with pytest.raises(CourseError, match=f"{part}=True"): to_hf(make(**{part: True}), tmp_path / "out")


def test_another_start_is_no_other_architecture(tmp_path):
    model = make(wte_init=.8, c_fc_init=.4, short_window=.25, rotary_base=1e5)           # no layer has a short window
    hf = transformers.AutoModelForCausalLM.from_pretrained(to_hf(model, tmp_path / "out"))
    idx = torch.randint(0, model.config.vocab_size, (2, 96))
    with torch.no_grad(): torch.testing.assert_close(hf(idx).logits, model(idx), atol=1e-4, rtol=0)


def test_nothing_is_overwritten_and_nothing_left_half(tok, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(CourseError, match="exists already"): to_hf(make(), out, tok)
    assert (out / "mine.txt").read_text() == "precious"
    from nanochat_course import export as e
    monkeypatch.setattr(e, "_write_tokenizer", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError): to_hf(make(vocab_size=tok.vocab_size), tmp_path / "new", tok)
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_damage_on_the_way_to_the_disk_is_noticed(tmp_path, monkeypatch):
    from nanochat_course import export as e
    real = e.save_file
    monkeypatch.setattr(e, "save_file", lambda state, path, **k: real({n: p + 1 if "fc1" in n else p for n, p in state.items()}, path, **k))
    with pytest.raises(CourseError, match="read back"): to_hf(make(), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_tokenizer_of_another_model_is_refused(tok, tmp_path):
    with pytest.raises(CourseError, match="do not belong together"): to_hf(make(vocab_size=700), tmp_path / "out", tok)


# --- text ---

def same(hf, tok, texts):
    texts = list(texts)
    return [t for t, a, b in zip(texts, hf._tokenizer.encode_batch(texts), tok.encode(texts)) if a.ids != b]


@pytest.fixture(scope="module")
def literal(exported):
    "The exported tokenizer with its switch on that makes special tokens in a text plain text, as they are in ours."
    t = transformers.AutoTokenizer.from_pretrained(exported[1])
    t._tokenizer.encode_special_tokens = True
    return t


def unicode(text): # tokenizers takes no lone surrogates
    try: text.encode()
    except UnicodeEncodeError: return False
    return True


def test_ids_of_every_code_point_are_equal(literal, tok):
    "All of the first two planes, which hold every alphabet, and one in 61 of the others. Alone would prove little: after a letter, a digit, an apostrophe and a space, and before letters, digits and line ends."
    points = [chr(c) for c in range(0x20000) if not 0xD800 <= c < 0xE000] + [chr(c) for c in range(0x20000, 0x110000, 61)]
    chunks = ["".join(f"a{c}b{c}1 {c}{c}'{c}\n" for c in points[i:i + 50]) for i in range(0, len(points), 50)]
    assert [c[:20] for c in same(literal, tok, chunks)] == []


def test_ids_of_hostile_texts_are_equal(literal, tok):
    texts = [t for t in strings(4000, 7) if unicode(t) and len(t) < 65536]
    assert len(texts) > 3000 and same(literal, tok, texts) == []


def test_ids_of_real_text_are_equal(literal, tok, test_data):
    text = (test_data / "wikitext-2" / "valid.txt").read_text()[:60_000] + (test_data / "tinyshakespeare" / "input.txt").read_text()[:60_000]
    with open(test_data / "openwebtext" / "openwebtext-1000.jsonl") as f: docs = [json.loads(line)["text"] for line, _ in zip(f, range(30))]
    assert same(literal, tok, [text, *text.split("\n"), *docs]) == []
    ids = tok.encode(text[:5000])
    assert literal.decode(ids) == text[:5000] == tok.decode(ids)


def test_ids_of_random_joins_are_equal():
    "Vocabularies learned from few letters have many tokens that can be made in several ways."
    rng = random.Random(3)
    for seed in range(20):
        corpus = "".join(rng.choices("abc ", k=3000))
        t = train_bpe([corpus], 256 + 9 + 60, num_processes=1)
        h = tokenizers.Tokenizer.from_str(json.dumps(hf_tokenizer(t)))
        texts = ["".join(rng.choices("abc ", k=60)) for _ in range(200)]
        assert [x for x in texts if h.encode(x).ids != t.encode(x)] == []


def test_gpt2s_vocabulary_can_be_exported(test_data):
    gpt2 = Tokenizer.from_gpt2(test_data / "gpt2_tokenizer" / "vocab.bpe", test_data / "gpt2_tokenizer" / "encoder.json")
    h = tokenizers.Tokenizer.from_str(json.dumps(hf_tokenizer(gpt2)))
    for text in ("The cat sat on the mat.", "DON'T  stop\n\n123456 naïve 🙂"): assert h.encode(text).ids == gpt2.encode(text)


def test_special_tokens_typed_by_users(hf_tok, literal, tok):
    "What transformers does by default, so that nobody is surprised: there a typed special token is a real one. Ours, and theirs with the switch, take it as text."
    for name in SPECIAL_TOKENS:
        assert hf_tok(f"a{name}b").input_ids.count(tok.special(name)) == 1
        assert tok.special(name) not in tok.encode(f"a{name}b") == literal._tokenizer.encode(f"a{name}b").ids == hf_tok(f"a{name}b", split_special_tokens=True).input_ids


def test_no_token_is_added(hf_tok, tok):
    assert hf_tok("The cat").input_ids == tok.encode("The cat") and len(hf_tok) == tok.vocab_size
    assert hf_tok.bos_token == "<|bos|>" and hf_tok.eos_token == "<|assistant_end|>" and hf_tok.model_max_length == 96
    assert hf_tok.decode([tok.special("<|bos|>"), *tok.encode(" a b ")], skip_special_tokens=True) == " a b "


def test_very_long_white_space_is_the_one_known_difference(literal, tok):
    "Ours cuts runs of more than 65,536 white-space characters before encoding; up to there the ids are equal."
    for n in (1000, 65536): assert literal._tokenizer.encode(" " * n + "x").ids == tok.encode(" " * n + "x")


# --- conversations ---

def chats(test_data=None):
    tool = [dict(type="text", text="That is "), dict(type="python", text="17+25"), dict(type="python_output", text="42"), dict(type="text", text="42.")]
    yield [dict(role="user", content="Hi")]
    yield [dict(role="user", content="  Hi \n\n"), dict(role="assistant", content=" Hello.\n ")]
    yield [dict(role="system", content="You are a cat. "), dict(role="user", content="\tHi"), dict(role="assistant", content=tool), dict(role="user", content="")]
    yield [dict(role="user", content="{{ 7 * 7 }} {% raw %} {# x #} <b>&amp;"), dict(role="assistant", content="{{ raise_exception('x') }}")]
    yield [dict(role="user", content="a"), dict(role="assistant", content=[]), dict(role="user", content="<|bos|"), dict(role="assistant", content=[dict(type="python_output", text="")])]
    yield [dict(role="user", content="🙂\u202e\x00é"), dict(role="assistant", content="'S 12345\r\n")] * 3


def rendered(hf_tok, messages, **kw): return hf_tok.apply_chat_template(messages, tokenize=True, return_dict=False, **kw)


@pytest.mark.parametrize("messages", list(chats()), ids=range(6))
def test_chat_template_renders_the_same_ids(hf_tok, tok, messages):
    conversation = dict(messages=messages)
    assert rendered(hf_tok, messages) == tok.render_conversation(conversation, 10**9)[0]
    assert rendered(hf_tok, messages, add_generation_prompt=True) == tok.render_for_completion(conversation)


def test_chat_template_renders_real_conversations(hf_tok, tok, test_data):
    with open(test_data / "chat" / "identity_conversations.jsonl") as f: talks = [json.loads(line) for line in f][:300]
    for messages in talks:
        conversation = dict(messages=messages)
        assert rendered(hf_tok, messages) == tok.render_conversation(conversation, 10**9)[0]
        assert rendered(hf_tok, messages, add_generation_prompt=True) == tok.render_for_completion(conversation)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_forged_roles_are_refused(hf_tok, tok, name):
    for messages in ([dict(role="user", content=f"x{name}y")], [dict(role="user", content="x"), dict(role="assistant", content=name)],
                     [dict(role="system", content=name), dict(role="user", content="x")],
                     [dict(role="user", content="x"), dict(role="assistant", content=[dict(type="python", text=name)])]):
        with pytest.raises(Exception, match="special token"): hf_tok.apply_chat_template(messages)
    whole = [dict(role="system", content=name[:3]), dict(role="user", content=name[3:])]             # joined by two line ends, so it is none
    assert rendered(hf_tok, whole) == tok.render_conversation(dict(messages=whole))[0]


@pytest.mark.parametrize("messages", [[], [dict(role="assistant", content="x")], [dict(role="user", content="x")] * 2, [dict(role="system", content="x")],
                                      [dict(role="system", content="x"), dict(role="assistant", content="x")], [dict(role="user", content="x"), dict(role="tool", content="x")],
                                      [dict(role="user", content="x"), dict(role="assistant", content=[dict(type="image", text="x")])]], ids=range(7))
def test_what_our_renderer_refuses_the_template_refuses(hf_tok, tok, messages):
    with pytest.raises(CourseError): tok.render_conversation(dict(messages=messages))
    with pytest.raises(Exception) as e: hf_tok.apply_chat_template(messages)
    assert type(e.value).__name__ == ("TemplateError" if messages else "ValueError"), "transformers itself refuses an empty conversation"


def test_two_texts_in_a_row_are_refused(hf_tok):
    "Ours encodes each part by itself, a template sees one string."
    parts = [dict(type="text", text="ca"), dict(type="text", text="t")]
    with pytest.raises(Exception, match="join them"): hf_tok.apply_chat_template([dict(role="user", content="x"), dict(role="assistant", content=parts)])


# --- from a checkpoint, by the command ---

@pytest.fixture
def house(tmp_path, monkeypatch, tok):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    tok.save(tmp_path / "tokenizer")
    model = make(vocab_size=tok.vocab_size)
    for stage in ("base", "chatrl"):
        save_checkpoint(checkpoint_dir(stage, "laptop"), 7, model, meta={}, rt=Runtime(torch.device("cpu"), torch.float32))
    return tmp_path, model


def test_command(house, tok):
    folder, model = house
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parent.parent))
    command = [sys.executable, "-m", "nanochat_course.export", "--model-tag", "laptop", "--out", str(folder / "out")]
    done = forked.run([*command, "--source", "rl"], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "step 7" in done.stdout, done
    hf, hf_tok = transformers.AutoModelForCausalLM.from_pretrained(folder / "out"), transformers.AutoTokenizer.from_pretrained(folder / "out")
    prompt = hf_tok.apply_chat_template([dict(role="user", content="Hi")], add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.no_grad(): torch.testing.assert_close(hf(prompt).logits, model(prompt), atol=1e-4, rtol=0)
    again = forked.run([*command, "--source", "rl"], capture_output=True, text=True, env=env)
    assert again.returncode == 2 and len(again.stderr.strip().splitlines()) == 1 and "exists already" in again.stderr


@pytest.mark.parametrize("config, word", [(dict(source="sftt"), "unknown source"), (dict(source="sft"), "no chatsft|there is no"), (dict(source="rl", model_tag="d99"), "d99")])
def test_mistakes_of_the_command(house, config, word):
    with pytest.raises(CourseError, match=word) as e: export(ExportConfig(out=str(house[0] / "out"), **config))
    assert "\n" not in str(e.value)


def test_a_damaged_checkpoint_is_not_exported(house):
    folder, _ = house
    file = next((folder / "base_checkpoints").rglob("model.safetensors"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CourseError, match="damaged"): to_hf(checkpoint_dir("base", "laptop"), folder / "out")


# --- nanochat's checkpoints ---

def nanochat_forward(state, c, idx):
    "nanochat's model of 2025 written from its formulas, on a dict of its arrays; shares no code with ours."
    rows = lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps)
    B, T, D = *idx.shape, c["n_embd"] // c["n_head"]
    angle = torch.arange(T)[:, None] * 10000. ** (-torch.arange(0, D, 2) / D)[None]
    cos, sin = (t.bfloat16().float()[None, :, None] for t in (angle.cos(), angle.sin()))
    def turn(x):
        a, b = x[..., :D // 2], x[..., D // 2:]
        return torch.cat([a * cos + b * sin, -a * sin + b * cos], -1)
    x = rows(F.embedding(idx, state["transformer.wte.weight"].float()))
    for i in range(c["n_layer"]):
        w = {k.rpartition(".")[0].split(".", 3)[3]: v.float() for k, v in state.items() if k.startswith(f"transformer.h.{i}.")}
        h = rows(x)
        q, k, v = ((h @ w[f"attn.c_{n}"].T).view(B, T, -1, D) for n in "qkv")
        q, k = rows(turn(q)), rows(turn(k))
        k, v = (t.repeat_interleave(c["n_head"] // c["n_kv_head"], 2) for t in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(D)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
        x = x + torch.einsum("bhts,bshd->bthd", scores, v).reshape(B, T, -1) @ w["attn.c_proj"].T
        x = x + (rows(x) @ w["mlp.c_fc"].T).relu().square() @ w["mlp.c_proj"].T
    logits = (rows(x) @ state["lm_head.weight"].float().T)[..., :c["vocab_size"]]
    return 15 * torch.tanh(logits / 15)


def nanochat_files(folder, step=10, change=lambda state, config: None, prefix="_orig_mod.", n_kv_head=2, embedding=torch.float32):
    "A checkpoint as nanochat writes it, its arrays drawn by hand."
    c = dict(sequence_len=64, vocab_size=300, n_layer=2, n_head=4, n_kv_head=n_kv_head, n_embd=32)
    g = torch.Generator().manual_seed(5)
    draw = lambda *shape, scale=0.3: torch.randn(*shape, generator=g) * scale
    state = {"transformer.wte.weight": draw(320, 32, scale=1).to(embedding), "lm_head.weight": draw(320, 32, scale=1)}
    for i in range(2):
        p = f"transformer.h.{i}."
        state |= {p + "attn.c_q.weight": draw(32, 32), p + "attn.c_k.weight": draw(8 * n_kv_head, 32), p + "attn.c_v.weight": draw(8 * n_kv_head, 32), p + "attn.c_proj.weight": draw(32, 32),
                  p + "mlp.c_fc.weight": draw(128, 32), p + "mlp.c_proj.weight": draw(32, 128)}
    change(state, c)
    torch.save({prefix + k: v for k, v in state.items()}, folder / f"model_{step:06d}.pt")
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(dict(step=step, model_config=c, user_config={})))
    return state, c


@pytest.mark.parametrize("options", [{}, dict(prefix=""), dict(n_kv_head=4), dict(embedding=torch.bfloat16), dict(n_kv_head=1)], ids=str)
def test_nanochats_checkpoint_has_the_same_logits(tmp_path, options):
    state, c = nanochat_files(tmp_path, **options)
    model = from_nanochat(tmp_path / "model_000010.pt")
    idx = torch.randint(0, 300, (2, 64))
    with torch.no_grad(): torch.testing.assert_close(model(idx), nanochat_forward(state, c, idx), atol=1e-4, rtol=0)
    assert model.dtype == torch.float32 and all(p.dtype == torch.float32 for p in model.parameters())


def test_nanochats_own_module_gave_these_numbers(tmp_path):
    "Golden: made once by nanochat's gpt.py of 11 January 2026 (2c4473d), in float32 on the CPU, from the arrays of `nanochat_files`."
    nanochat_files(tmp_path)
    model = from_nanochat(tmp_path)
    idx = (torch.arange(64) * 37 % 300)[None]
    with torch.no_grad(): logits = model(idx)
    golden = json.loads((Path(__file__).parent / "golden" / "nanochat_logits.json").read_text())
    torch.testing.assert_close(logits[0, ::9, ::41], torch.tensor(golden["logits"]), atol=1e-4, rtol=0)
    assert logits.double().abs().mean().item() == pytest.approx(golden["mean_abs"], abs=1e-4)


def newest_files(folder, change=lambda state, config: None):
    "A checkpoint as nanochat's newest version writes it, its arrays drawn by hand; windows of 256 tokens."
    c = dict(sequence_len=1024, vocab_size=300, n_layer=5, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SSSL")
    g = torch.Generator().manual_seed(7)
    draw = lambda *shape, scale=0.3: torch.randn(*shape, generator=g) * scale
    state = {"transformer.wte.weight": draw(320, 32, scale=1), "lm_head.weight": draw(320, 32, scale=1), "smear_gate.weight": draw(1, 24),
             "smear_lambda": draw(1, scale=2), "backout_lambda": draw(1), "resid_lambdas": 1 + draw(5), "x0_lambdas": draw(5)}
    for i in range(5):
        p = f"transformer.h.{i}."
        state |= {p + f"attn.c_{n}.weight": draw(rows, 32) for n, rows in (("q", 32), ("k", 16), ("v", 16), ("proj", 32))}
        state |= {p + "mlp.c_fc.weight": draw(128, 32), p + "mlp.c_proj.weight": draw(32, 128)}
        if i % 2 == 0: state |= {p + "attn.ve_gate.weight": draw(2, 12), f"value_embeds.{i}.weight": draw(320, 16)}
    change(state, c)
    torch.save(state, folder / "model_000020.pt")
    (folder / "meta_000020.json").write_text(json.dumps(dict(step=20, model_config=c, user_config={})))
    return state, c


def test_nanochats_newest_module_gave_these_numbers(tmp_path):
    "Golden: made once by nanochat's gpt.py of 2026 (92d63d4), in float32 on the CPU with rounded angles, from the arrays of `newest_files`."
    newest_files(tmp_path)
    model = from_nanochat(tmp_path)
    assert model.config.windows == (256, 256, 256, -1, -1)
    idx = (torch.arange(600) * 37 % 300)[None]
    with torch.no_grad(): logits = model(idx)
    golden = json.loads((Path(__file__).parent / "golden" / "nanochat_newest_logits.json").read_text())
    torch.testing.assert_close(logits[0, ::75, ::41], torch.tensor(golden["logits"]), atol=1e-4, rtol=0)
    assert logits.double().abs().mean().item() == pytest.approx(golden["mean_abs"], abs=1e-4)


@pytest.mark.parametrize("name", ["value_embeds.0.weight", "resid_lambdas", "x0_lambdas", "smear_gate.weight", "smear_lambda", "backout_lambda",
                                  "transformer.h.2.attn.ve_gate.weight"])
def test_a_version_in_between_is_refused(tmp_path, name):
    newest_files(tmp_path, lambda s, c: [s.pop(n) for n in list(s) if n.split(".")[0] == name.split(".")[0] and (n == name or "embeds" in n)])
    with pytest.raises(CourseError) as e: from_nanochat(tmp_path)
    assert "\n" not in str(e.value) and ("lacks" in str(e.value) or "does not fit" in str(e.value))


def test_rounded_angles_matter(tmp_path):
    state, c = nanochat_files(tmp_path)
    idx = torch.randint(0, 300, (2, 64))
    model = from_nanochat(tmp_path)
    model.init_rotary()
    with torch.no_grad(): assert (model(idx) - nanochat_forward(state, c, idx)).abs().max() > 2e-3


def test_the_newest_of_a_folder(tmp_path):
    nanochat_files(tmp_path, 10, lambda s, c: s["lm_head.weight"].zero_())
    nanochat_files(tmp_path, 20)
    assert from_nanochat(tmp_path).lm_head.weight.abs().sum() > 0
    with pytest.raises(CourseError, match="no model_"): from_nanochat(tmp_path / "elsewhere")


def test_from_nanochat_to_transformers(tmp_path):
    state, c = nanochat_files(tmp_path)
    hf = transformers.AutoModelForCausalLM.from_pretrained(to_hf(from_nanochat(tmp_path), tmp_path / "out"))
    idx = torch.randint(0, 300, (2, 64))
    with torch.no_grad(): assert (hf(idx).logits - nanochat_forward(state, c, idx)).abs().max() < 0.2     # its angles are not rounded


@pytest.mark.parametrize("name, shape", [("value_embeds.1.weight", (320, 16)), ("resid_lambdas", (2,)), ("x0_lambdas", (2,)), ("smear_gate.weight", (1, 24)), ("smear_lambda", (1,)),
                                         ("backout_lambda", (1,)), ("transformer.h.1.attn.ve_gate.weight", (2, 12)), ("transformer.h.0.attn.c_q.bias", (32,))])
def test_parts_that_we_lack_are_refused_by_name(tmp_path, name, shape):
    nanochat_files(tmp_path, change=lambda s, c: s.update({name: torch.zeros(shape)}))
    with pytest.raises(CourseError) as e: from_nanochat(tmp_path)
    assert name.removesuffix(".1.weight").removesuffix(".weight") in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("change, word", [(lambda s, c: c.update(window_pattern="SSSL"), "window_pattern='SSSL'"), (lambda s, c: c.update(novelty=3), "novelty=3"),
                                          (lambda s, c: s.pop("lm_head.weight"), "lm_head.weight is missing"), (lambda s, c: c.update(n_layer=3), "does not fit"),
                                          (lambda s, c: s.update({"lm_head.weight": torch.zeros(300, 32)}), "lm_head.weight is"), (lambda s, c: c.update(n_embd=33), "n_embd")])
def test_checkpoints_that_do_not_fit(tmp_path, change, word):
    nanochat_files(tmp_path, change=change)
    with pytest.raises(CourseError) as e: from_nanochat(tmp_path)
    assert word in str(e.value) and "\n" not in str(e.value)


def test_a_full_window_pattern_is_plain(tmp_path):
    nanochat_files(tmp_path, change=lambda s, c: c.update(window_pattern="L"))
    from_nanochat(tmp_path)


class Evil:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return (open, (self.path, "w"))


def test_a_program_in_the_file_does_not_run(tmp_path):
    nanochat_files(tmp_path)
    torch.save({"lm_head.weight": Evil(tmp_path / "hacked")}, tmp_path / "model_000010.pt")
    with pytest.raises(CourseError, match="weights only") as e: from_nanochat(tmp_path)
    assert not (tmp_path / "hacked").exists() and "\n" not in str(e.value)
    torch.load(tmp_path / "model_000010.pt", weights_only=False)["lm_head.weight"].close()
    assert (tmp_path / "hacked").exists(), "read carelessly, the file does run its program; so this test could fail"


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", None])
def test_broken_files(tmp_path, data):
    nanochat_files(tmp_path)
    file = tmp_path / "model_000010.pt"
    file.write_bytes(file.read_bytes()[:1000] if data is None else data)
    with pytest.raises(CourseError) as e: from_nanochat(tmp_path)
    assert "\n" not in str(e.value)
    file.unlink()
    torch.save([1, 2], file)
    with pytest.raises(CourseError, match="named arrays"): from_nanochat(file)
    (tmp_path / "meta_000010.json").write_text("{}")
    with pytest.raises(CourseError, match="model_config"): from_nanochat(file)
