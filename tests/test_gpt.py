"The model against a second implementation written from the formulas, against transformers, and against its own cache."
import math
import pytest, torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from nanochat_course.common import CourseError
from nanochat_course.gpt import GPT, GPTConfig, SquaredReLU, head_loss

CONFIGS = dict(
    base=dict(sequence_len=48, vocab_size=100, n_layer=3, n_head=4, n_kv_head=4, n_embd=32),
    shared=dict(sequence_len=48, vocab_size=100, n_layer=3, n_head=4, n_kv_head=1, n_embd=32),
    windows=dict(sequence_len=48, vocab_size=128, n_layer=4, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SSL"),
    record=dict(sequence_len=48, vocab_size=100, n_layer=5, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SSL", short_window=0.25,
                rotary_base=1e5, qk_scale=1.2, value_embeds=True, residual_scalars=True, smear=True, backout=True, wte_init=.8, c_fc_init=.4),
)
NEVER_ZERO = ("c_proj", "lm_head", "gate", "smear_lambda")


def make(name="base", dtype=torch.float32, seed=0, **changes):
    "A model in which nothing is zero."
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**CONFIGS[name], **changes}), dtype).init_weights()
    for n, p in model.named_parameters():
        if any(part in n for part in NEVER_ZERO): nn.init.normal_(p, std=.3)
    return model


def reference(model, idx):
    "The forward pass from the formulas, in float64, without any code of the course."
    c, w = model.config, {n: p.detach().double() for n, p in model.named_parameters()}
    norm = lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    (B, T), D = idx.shape, c.n_embd // c.n_head
    angle = torch.arange(T).double()[:, None] * c.rotary_base ** (-torch.arange(0, D, 2).double() / D)
    def turn(x): z = torch.complex(x[..., :D//2], x[..., D//2:]) * torch.polar(torch.ones_like(angle), -angle); return torch.cat([z.real, z.imag], -1)
    pattern = (c.window_pattern * c.n_layer)[:c.n_layer - 1] + "L"
    x = norm(w["transformer.wte.weight"][idx])
    if c.smear:
        gate = w["smear_lambda"] / (1 + torch.exp(-x[:, 1:, :24] @ w["smear_gate.weight"].T))
        x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], 1)
    x0 = x
    for i, letter in enumerate(pattern):
        p = f"transformer.h.{i}."
        if c.residual_scalars: x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        h = norm(x)
        q, k, v = ((h @ w[f"{p}attn.c_{s}.weight"].T).view(B, T, -1, D).transpose(1, 2) for s in "qkv")
        q, k = norm(turn(q)) * c.qk_scale, norm(turn(k)) * c.qk_scale
        if c.value_embeds and (c.n_layer - 1 - i) % 2 == 0:
            gate = 3 / (1 + torch.exp(-h[..., :12] @ w[p + "attn.ve_gate.weight"].T))                # (B, T, G)
            added = w[f"value_embeds.{i}.weight"][idx].view(B, T, -1, D)
            v = v + (gate[..., None] * added).transpose(1, 2)
        k, v = (y.repeat_interleave(c.n_head // c.n_kv_head, 1) for y in (k, v))
        back = torch.arange(T)[:, None] - torch.arange(T)
        seen = (back >= 0) & (back <= (int(c.sequence_len * c.short_window) if letter == "S" else T))
        y = (q @ k.mT / math.sqrt(D)).masked_fill(~seen, -math.inf).softmax(-1) @ v
        x = x + y.transpose(1, 2).reshape(B, T, -1) @ w[p + "attn.c_proj.weight"].T
        x = x + (norm(x) @ w[p + "mlp.c_fc.weight"].T).clamp(min=0)**2 @ w[p + "mlp.c_proj.weight"].T
        if i == c.n_layer // 2: middle = x
    if c.backout: x = x - w["backout_lambda"] * middle
    u = norm(x) @ w["lm_head.weight"].T
    return (c.softcap * torch.tanh(u / c.softcap))[..., :c.vocab_size]


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_loss_against_the_formulas(name):
    model, idx = make(name), torch.randint(0, 100, (2, 48))
    logits, want = model(idx), reference(model, idx)
    assert logits.dtype == torch.float32 and logits.shape == (2, 48, model.config.vocab_size)
    torch.testing.assert_close(logits.double(), want, atol=1e-4, rtol=1e-4)
    targets = idx.roll(-1, 1).clone(); targets[0, :30] = -1
    each = F.cross_entropy(want.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    for reduction, value in (("mean", each.sum() / 66), ("sum", each.sum()), ("none", each.view(2, 48))):
        torch.testing.assert_close(model(idx, targets, loss_reduction=reduction).double(), value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 0])
def test_head_loss_gradients(reduction, chunk):
    torch.manual_seed(0)
    x, w, y = torch.randn(3, 13, 8), 4 * torch.randn(50, 8), torch.randint(0, 50, (3, 13))
    y[1] = -1
    weight = torch.rand(3, 13)
    def plain(x, w):
        each = F.cross_entropy(15 * torch.tanh(x.double().flatten(0, 1) @ w.double().T / 15), y.flatten(), ignore_index=-1, reduction="none").view(3, 13)
        return dict(none=(each * weight).sum(), sum=3 * each.sum(), mean=3 * each.sum() / 26)[reduction]
    def ours(x, w):
        loss = head_loss(x, w, y, 15., reduction, chunk)
        return (loss * weight).sum() if reduction == "none" else 3 * loss
    results = []
    for f in (plain, ours):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        loss = f(a, b)
        results.append([loss.float(), *torch.autograd.grad(loss, (a, b))])
    for got, want in zip(results[1], results[0]): torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_confident_logits_stay_finite():
    x, w = 1e4 * torch.eye(4)[None], torch.cat([torch.eye(4), -torch.eye(4)])
    for target in (0, 4):
        loss = head_loss(x.requires_grad_(), w, torch.full((1, 4), target), 15.)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, x)[0]).all() and loss < 31 + math.log(8)


@pytest.mark.parametrize("softcap", [15., 30., 31., 60., 200., 1e4])
@pytest.mark.parametrize("size", [.3, 30., 3000.])
def test_any_softcap_against_float64(softcap, size):
    "Probabilities that float32 cannot hold: the loss is finite and exact all the same, and so are the gradients."
    torch.manual_seed(0)
    x, w, y = torch.randn(2, 20, 8), size * torch.randn(50, 8), torch.randint(0, 50, (2, 20))
    def plain(x, w): return F.cross_entropy(softcap * torch.tanh(x.double().flatten(0, 1) @ w.double().T / softcap), y.flatten())
    results = []
    for f in (plain, lambda x, w: head_loss(x, w, y, softcap)):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        loss = f(a, b)
        results.append([loss.detach().float(), *torch.autograd.grad(loss, (a, b))])
    for got, want in zip(results[1], results[0]): torch.testing.assert_close(got, want, atol=1e-4 * size, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_without_targets(reduction):
    model, idx = make(), torch.randint(0, 100, (2, 16))
    loss = model(idx, torch.full_like(idx, -1), loss_reduction=reduction).sum()
    loss.backward()
    assert loss == 0 and all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_logits_of_all_tokens_are_never_held():
    from torch.utils._python_dispatch import TorchDispatchMode
    class Largest(TorchDispatchMode):
        numel = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.numel = max([self.numel, *(o.numel() for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, torch.Tensor))])
            return out
    model = make(vocab_size=2**15, n_layer=1)
    idx = torch.randint(0, 2**15, (16, 48))                                  # 25 million logits
    with Largest() as big: model(idx, idx).backward()
    assert big.numel <= 2**21


def test_starts_at_log_v():
    model = GPT(GPTConfig(**CONFIGS["base"])).init_weights()
    idx = torch.randint(0, 100, (4, 48))
    assert abs(model(idx, idx.roll(-1, 1)).item() - math.log(100)) < 0.01
    assert all((p == 0).all() for n, p in model.named_parameters() if "c_proj" in n)


def test_meta_device_then_same_weights():
    want = GPT(GPTConfig(**CONFIGS["windows"]))
    torch.manual_seed(0)
    want.init_weights()
    with torch.device("meta"): model = GPT(GPTConfig(**CONFIGS["windows"]))
    assert all(p.is_meta for p in model.parameters())
    counts = model.num_params()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.init_weights()
    idx = torch.randint(0, 100, (1, 48))
    assert torch.equal(model(idx), want(idx)) and model.num_params() == counts
    assert set(model.state_dict()) == {n for n, _ in model.named_parameters()}, "the rotary tables belong in no checkpoint"
    assert model.device == torch.device("cpu")


def test_parameters_by_role():
    model = make("shared")
    roles, counts = model.parameters_by_role(), model.num_params()
    names = [n for ps in roles.values() for n, _ in ps]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters()) and set(roles) == {"embedding", "unembedding", "matrix", "scalar"}
    assert counts["matrix"] == 3 * (32 * 32 + 2 * 32 * 8 + 32 * 32 + 8 * 32 * 32) and counts["embedding"] == counts["unembedding"] == 128 * 32
    assert counts["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name, changes", [("base", {}), ("base", dict(n_kv_head=2)), ("base", dict(n_layer=5, n_embd=64)), ("record", dict(window_pattern="L"))])
def test_flops_against_torch(name, changes):
    model = make(name, **{"vocab_size": 128, **changes})
    for block in model.transformer.h: block.attn.backend = "naive"
    idx = torch.randint(0, 128, (2, 48))
    with FlopCounterMode(display=False) as counter: model(idx, idx).backward()
    assert counter.get_total_flops() == model.flops_per_token() * idx.numel()


def test_flops_follow_the_window():
    full, short = (GPT(GPTConfig(**{**CONFIGS["base"], "window_pattern": p})).flops_per_token() for p in ("L", "S"))
    assert full - short == 2 * 12 * 32 * 24          # two of three layers, half of 48 tokens


@pytest.mark.parametrize("name", ["base", "shared"])
def test_equals_transformers(name):
    transformers = pytest.importorskip("transformers", "5.0")
    model, c = make(name), GPTConfig(**CONFIGS[name])
    hf = transformers.NanoChatForCausalLM(transformers.NanoChatConfig(vocab_size=128, hidden_size=c.n_embd, intermediate_size=4 * c.n_embd, num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, max_position_embeddings=c.sequence_len, final_logit_softcapping=c.softcap)).eval()
    names = {"transformer.wte": "model.embed_tokens", "transformer.h": "model.layers", "attn.c_q": "self_attn.q_proj", "attn.c_k": "self_attn.k_proj",
             "attn.c_v": "self_attn.v_proj", "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    state = {}
    for n, p in model.state_dict().items():
        for a, b in names.items(): n = n.replace(a, b)
        state[n] = p
    hf.load_state_dict(state, strict=True)
    idx = torch.randint(0, 100, (2, 48))
    with torch.no_grad(): torch.testing.assert_close(hf(idx).logits[..., :100], model(idx), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pieces", [[48], [1] * 48, [20, 28], [13, 1, 1, 5, 28], [30] + [1] * 18])
def test_cache_equals_uncached(name, pieces):
    model, idx = make(name), torch.randint(0, 100, (2, 48))
    cache, got = model.new_cache(2), []
    with torch.no_grad():
        for part in idx.split(pieces, 1): got.append(model(part, kv_cache=cache))
        torch.testing.assert_close(torch.cat(got, 1), model(idx), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_with_ragged_prompts_equals_uncached(name):
    "Prompts of different length in one batch write what each writes alone without a cache."
    model, prompts = make(name), [torch.randint(0, 100, (n,)).tolist() for n in (11, 3, 26)]
    wanted, margins = [], []
    with torch.no_grad():
        for prompt in prompts:
            row = list(prompt)
            for _ in range(15):
                top = model(torch.tensor([row]))[0, -1].topk(2)
                margins.append((top.values[0] - top.values[1]).item())
                row.append(top.indices[0].item())
            wanted.append(row)
        assert min(margins) > 1e-4, "choose another seed: a tie would make this test a coin toss"
        lengths = torch.tensor([len(p) for p in prompts])
        cache = model.new_cache(3)
        padded = torch.tensor([p + [7] * (26 - len(p)) for p in prompts])
        logits = model(padded, kv_cache=cache, logits_at=lengths - 1)
        assert logits.shape == (3, 1, model.config.vocab_size)
        cache.lengths, rows = lengths, [list(p) for p in prompts]
        for _ in range(15):
            nxt = logits[:, -1].argmax(-1)
            for row, t in zip(rows, nxt.tolist()): row.append(t)
            logits = model(nxt[:, None], kv_cache=cache)
    assert rows == wanted


def test_bfloat16_trains_float32_weights():
    model, idx = make(dtype=torch.bfloat16), torch.randint(0, 100, (4, 48))
    loss, wide = model(idx, idx.roll(-1, 1)), make()(idx, idx.roll(-1, 1))
    loss.backward()
    assert loss.dtype == torch.float32 and abs(loss - wide) < 0.05 * wide
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())
    wide.backward()
    other = make(); other(idx, idx.roll(-1, 1)).backward()
    for (n, p), q in zip(model.named_parameters(), other.parameters()):
        assert F.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.98, n


def test_cast_for_inference():
    model, idx = make(dtype=torch.bfloat16), torch.randint(0, 100, (2, 20))
    with torch.no_grad(): want = model(idx)
    model.cast_for_inference()
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(idx), want, atol=0, rtol=0)
    assert model.cos.dtype == torch.float32, "angles of distant positions need their digits"


@pytest.mark.parametrize("changes,message", [(dict(n_embd=33), "n_head"), (dict(n_kv_head=3), "n_kv_head"), (dict(window_pattern="SXL"), "letters S"), (dict(window_pattern=""), "letters S"),
    (dict(n_layer=0), "at least 1"), (dict(n_embd=20), "even number"), (dict(softcap=0.), "positive"), (dict(short_window=0.), "share of the context"),
    (dict(short_window=2.), "share of the context"), (dict(qk_scale=-1.), "qk_scale"), (dict(n_embd=16, smear=True), "24 channels"), (dict(n_embd=8, value_embeds=True), "12 channels")])
def test_bad_configurations(changes, message):
    with pytest.raises(CourseError, match=message): GPTConfig(**{**CONFIGS["base"], **changes})


def test_windows_of_layers():
    c = GPTConfig(n_layer=6, window_pattern="SSSL", sequence_len=2048)
    assert c.windows == (1024, 1024, 1024, -1, 1024, -1)
    assert GPTConfig(n_layer=1, window_pattern="S").windows == (-1,)


def test_too_long():
    model = make()
    with pytest.raises(CourseError, match="larger sequence_len"): model(torch.zeros(1, 49, dtype=torch.long))
    cache = model.new_cache(1, 60)
    model(torch.zeros(1, 40, dtype=torch.long), kv_cache=cache)
    with pytest.raises(CourseError, match="larger sequence_len"): model(torch.zeros(1, 9, dtype=torch.long), kv_cache=cache)
    with pytest.raises(CourseError, match="loss_reduction"): model(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long), loss_reduction="max")


def test_an_evaluation_may_look_further():
    "Longer than the context, as a longer model computes it; training goes on afterwards, and still refuses."
    model, idx = make().eval(), torch.randint(0, 100, (2, 130))
    longer = GPT(GPTConfig(**{**CONFIGS["base"], "sequence_len": 256})).eval()
    longer.load_state_dict(model.state_dict())
    with torch.inference_mode(): got, want = model(idx), longer(idx)
    torch.testing.assert_close(got, want)
    cache = model.new_cache(2, 130)
    with torch.no_grad(): torch.testing.assert_close(torch.cat([model(idx[:, :100], kv_cache=cache), model(idx[:, 100:], kv_cache=cache)], 1), want, atol=1e-4, rtol=1e-4)
    model.train()
    model(idx[:, :48], idx[:, :48]).backward()
    with pytest.raises(CourseError, match="larger sequence_len"): model(idx)


def test_squared_relu():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SquaredReLU.apply, x) and torch.equal(SquaredReLU.apply(x), x.clamp(min=0)**2)


@pytest.mark.parametrize("name", ["windows", "record"])
def test_one_graph_for_compile(name):
    "Training, both kinds of layers and all optional parts trace without a break."
    model, idx = make(name), torch.randint(0, 100, (2, 48))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = compiled(idx, idx.roll(-1, 1))
    loss.backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    want = model(idx, idx.roll(-1, 1)); want.backward()
    torch.testing.assert_close(loss, want)
    for g, p in zip(got, model.parameters()): torch.testing.assert_close(g, p.grad, atol=1e-5, rtol=1e-4)


PARTS = dict(value_embeds=True, residual_scalars=True, smear=True, backout=True)


def test_a_plain_model_has_the_bits_it_always_had():
    "No parameter of a part that is off, and every weight drawn by the calls of the plain model alone, in their order."
    model = GPT(GPTConfig(**CONFIGS["base"]))
    torch.manual_seed(3)
    model.init_weights()
    torch.manual_seed(3)
    want = {"transformer.wte.weight": torch.empty(128, 32).normal_(std=1.), "lm_head.weight": torch.empty(128, 32).normal_(std=0.001)}
    bound = math.sqrt(3 / 32)
    for i in range(3):
        p = f"transformer.h.{i}."
        for part, rows in (("attn.c_q", 32), ("attn.c_k", 32), ("attn.c_v", 32), ("mlp.c_fc", 128)):
            want[f"{p}{part}.weight"] = torch.empty(rows, 32).uniform_(-bound, bound)
        want |= {p + "attn.c_proj.weight": torch.zeros(32, 32), p + "mlp.c_proj.weight": torch.zeros(32, 128)}
    state = model.state_dict()
    assert set(state) == set(want) and all(torch.equal(state[n], want[n]) for n in want)


def test_parts_leave_the_other_weights_as_they_are():
    plain, parts = (GPT(GPTConfig(**{**CONFIGS["base"], **more})) for more in ({}, PARTS))
    for m in (plain, parts): torch.manual_seed(3); m.init_weights()
    own, other = plain.state_dict(), parts.state_dict()
    assert all(torch.equal(own[n], other[n]) for n in own) and len(other) > len(own)


def test_where_the_parts_begin():
    "Shapes and first values, as facts of the published recipe (nanochat, 2026)."
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=2048, vocab_size=1000, n_layer=5, n_head=4, n_kv_head=2, n_embd=64, wte_init=.8, c_fc_init=.4, short_window=.25,
                          window_pattern="SSSL", **PARTS)).init_weights()
    p = dict(model.named_parameters())
    assert model.config.windows == (512, 512, 512, -1, -1)
    assert [n for n in p if "value_embeds" in n] == [f"value_embeds.{i}.weight" for i in (0, 2, 4)], "every other layer, the last among them"
    assert p["value_embeds.0.weight"].shape == (1024, 32) and p["transformer.h.4.attn.ve_gate.weight"].shape == (2, 12)
    assert "transformer.h.1.attn.ve_gate.weight" not in p and p["smear_gate.weight"].shape == (1, 24)
    assert p["smear_lambda"].item() == 0 and p["backout_lambda"].item() == pytest.approx(.2)
    torch.testing.assert_close(p["resid_lambdas"], torch.tensor([1.15, 1.125, 1.1, 1.075, 1.05]))
    torch.testing.assert_close(p["x0_lambdas"], torch.tensor([.2, .1625, .125, .0875, .05]))
    assert p["transformer.wte.weight"].std().item() == pytest.approx(.8, rel=.02)
    for name, std in (("mlp.c_fc", .4 / 8), ("attn.c_q", 1 / 8)): assert p[f"transformer.h.0.{name}.weight"].std().item() == pytest.approx(std, rel=.03)
    assert p["value_embeds.0.weight"].std().item() == pytest.approx(1 / 8, rel=.03)
    for name in ("smear_gate.weight", "transformer.h.0.attn.ve_gate.weight"): assert 0 <= p[name].min() and p[name].max() <= .02


def test_roles_of_the_parts():
    model = make("record")
    roles = {role: [n for n, _ in named] for role, named in model.parameters_by_role().items()}
    assert roles["value_embedding"] == [f"value_embeds.{i}.weight" for i in (0, 2, 4)] and roles["scalar"] == []
    assert roles["residual"] == ["resid_lambdas"] and roles["x0"] == ["x0_lambdas"]
    assert sorted(roles["smear"]) == ["backout_lambda", "smear_gate.weight", "smear_lambda"]
    assert "transformer.h.0.attn.ve_gate.weight" in roles["matrix"] and model.num_params()["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone_is_the_formula_and_is_felt(part):
    model, idx = make(**{part: True}), torch.randint(0, 100, (2, 48))
    with torch.no_grad():
        torch.testing.assert_close(model(idx).double(), reference(model, idx), atol=1e-4, rtol=1e-4)
        assert (model(idx) - make()(idx)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["record"])
def test_parts_in_bfloat16(name):
    "Factors stay float32 and do not widen the stream; a cast model answers as the training model does."
    model, idx = make(name, torch.bfloat16), torch.randint(0, 100, (2, 20))
    seen = []
    for block in model.transformer.h: block.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    with torch.no_grad(): want = model(idx)
    model.cast_for_inference()
    assert set(seen) == {torch.bfloat16} and {p.dtype for p in model.parameters() if p.ndim == 1} == {torch.float32}
    torch.testing.assert_close(model(idx), want, atol=0, rtol=0)
