"Eight bits, by emulation, and the decision to compile."
from functools import partial

import pytest, torch
from nanochat_course.checkpoint import load_checkpoint, restore, save_checkpoint
from nanochat_course.common import CourseError, Runtime
from nanochat_course.gpt import GPT, GPTConfig, head_loss, head_part
from nanochat_course.optim import MuonAdamW, param_groups
from nanochat_course.precision import WORTH_COMPILING, compile_model, convert_to_fp8, fp8_product, fp8_reason, fp8_worthwhile, without_fp8

RT = Runtime(torch.device("cpu"), torch.bfloat16)


def make(vocab_size=300):
    torch.manual_seed(0)
    return GPT(GPTConfig(sequence_len=16, vocab_size=vocab_size, n_layer=2, n_head=4, n_kv_head=1, n_embd=64), torch.bfloat16).init_weights()


def batch(n=0):
    x = torch.randint(0, 300, (4, 17), generator=torch.Generator().manual_seed(n))
    return x[:, :-1], x[:, 1:]


def test_only_large_layers_and_never_the_head():
    model = make()
    names = convert_to_fp8(model, RT, min_size=64, emulate=True)
    assert names == [f"transformer.h.{i}.{n}" for i in range(2) for n in ("attn.c_q", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")], "k and v have a side of 16"
    assert [n for n, m in model.named_modules() if type(m).__name__ == "Float8Linear"] == names
    assert convert_to_fp8(make(), RT, emulate=True) == [], "by default nothing below 1,024"
    lin = torch.nn.Linear
    assert fp8_worthwhile(lin(1024, 2048), "a") and not fp8_worthwhile(lin(1024, 2048), "lm_head")
    assert not fp8_worthwhile(lin(1032, 2048), "a") and not fp8_worthwhile(lin(2048, 1032), "a") and not fp8_worthwhile(torch.nn.Embedding(2048, 2048), "a")


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_gradients_are_near_and_weights_are_the_same_objects(recipe):
    model, low = make(), make()
    before = dict(low.named_parameters())
    convert_to_fp8(low, RT, min_size=16, recipe=recipe, emulate=True)
    after = dict(low.named_parameters())
    assert before.keys() == after.keys() and all(before[k] is after[k] for k in before)
    for m in (model, low):
        optimizer = MuonAdamW(param_groups(m))
        for n in range(3): m(*batch(n)).backward(); optimizer.step(); optimizer.zero_grad()
    a, b = model(*batch(9)), low(*batch(9))
    assert a != b and abs(a - b) < 0.05, "rounded, but not wrong"
    low.zero_grad(); low(*batch(9)).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in low.parameters())


def test_a_checkpoint_does_not_notice(tmp_path):
    low, plain = make(), make()
    convert_to_fp8(low, RT, min_size=16, emulate=True)
    with torch.no_grad(): low.lm_head.weight.fill_(0.5)
    save_checkpoint(tmp_path, 1, low, meta={}, rt=RT)
    restore(load_checkpoint(tmp_path), plain)
    assert plain.lm_head.weight.eq(0.5).all()


def test_an_evaluation_without_eight_bits():
    "Inside, the loss of the plain model to the last bit; afterwards, also after an error, the 8-bit layers again."
    low, plain = make(), make()
    names = convert_to_fp8(low, RT, min_size=16, emulate=True)
    for p, q in zip(low.parameters(), plain.parameters()): torch.nn.init.normal_(p, std=.1); q.data.copy_(p.data)
    before = dict(low.named_modules())
    with torch.no_grad():
        with without_fp8(low): assert low(*batch()) == plain(*batch())
        assert low(*batch()) != plain(*batch())
    with pytest.raises(ZeroDivisionError):
        with without_fp8(low): raise ZeroDivisionError
    assert dict(low.named_modules()) == before and names


def head_gradients(products, dtype=torch.bfloat16):
    "Loss of 96 tokens, two of them without a target, and the gradients of states and head: a large vocabulary of which nearly all is unlikely."
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, 96, 64, generator=g, dtype=torch.float64), 0.4 * torch.randn(4096, 64, generator=g, dtype=torch.float64)
    y = torch.randint(4096, (1, 96), generator=g)
    y[0, 3:5] = -1
    x, w = x.to(dtype).requires_grad_(), (w if dtype == torch.float64 else w.float()).requires_grad_()
    loss = head_loss(x, w, y, 15., chunk=32, part=partial(head_part, products=products)) if products else \
        torch.nn.functional.cross_entropy(15 * torch.tanh(x[0] @ w.T / 15), y[0], ignore_index=-1)
    loss.backward()
    return loss.item(), x.grad.double(), w.grad.double()


def test_the_head_in_eight_bits():
    "Loss and gradients near autograd's in float64; a gradient in e5m2 keeps a probability of a millionth, in e4m3 it would be gone."
    e4m3 = partial(fp8_product, emulate=True)
    e5m2 = partial(e4m3, kind=torch.float8_e5m2)
    exact, *true = head_gradients(None, torch.float64)
    off = lambda got, want: ((got - want).norm() / want.norm()).item()
    errors = {}
    for name, products in dict(bf16=(torch.mm, torch.mm), fp8=(e4m3, e5m2)).items():
        loss, dx, dw = head_gradients(products)
        errors[name] = abs(loss - exact), off(dx, true[0]), off(dw, true[1])
    assert errors["bf16"][0] < errors["fp8"][0] + 1e-3 < 0.05 and errors["bf16"][2] < 0.01 < errors["fp8"][2] < 0.1 and errors["fp8"][1] < 0.1, errors
    a, b = torch.tensor([[-1., 1e-6] + 14 * [0.]]), torch.cat([torch.zeros(1, 16), torch.ones(15, 16)])
    assert e4m3(a, b).eq(0).all() and e5m2(a, b).sub(1e-6).abs().max() < 2e-7


def test_the_model_uses_it_in_training_and_not_in_evaluation():
    model, plain = make(), make()
    for p, q in zip(model.parameters(), plain.parameters()): torch.nn.init.normal_(p, std=.1); q.data.copy_(p.data)
    assert convert_to_fp8(model, RT, min_size=64, head=True, emulate=True)[-1] != "lm_head", "300 tokens are not divisible by 16"
    torch.manual_seed(0)
    config = GPTConfig(sequence_len=16, vocab_size=304, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)
    model, plain = (GPT(config, torch.bfloat16).init_weights() for _ in range(2))
    with torch.no_grad(): model.lm_head.weight.normal_()
    plain.load_state_dict(model.state_dict())
    assert convert_to_fp8(model, RT, min_size=32, head=False, emulate=True)[-1] != "lm_head" and model(*batch()) == model(*batch())
    layers = model(*batch()).item()
    assert convert_to_fp8(model, RT, min_size=32, head=True, emulate=True)[-1] == "lm_head"
    assert model(*batch()).item() != layers
    with torch.no_grad(), without_fp8(model): assert model(*batch()) == plain(*batch())
    assert model(*batch()).item() != layers, "on again"
    with torch.no_grad(), without_fp8(plain): pass
    assert "head_part" not in vars(plain)


def test_compiled_evaluation_compiles_once():
    "Training and evaluation take turns; each is compiled in the first turn alone."
    graphs = []
    def backend(graph, inputs): graphs.append(graph); return graph.forward
    low = make(vocab_size=304)
    assert convert_to_fp8(low, RT, min_size=16, head=True, emulate=True)[-1] == "lm_head"
    torch._dynamo.reset()
    model, seen = torch.compile(low, dynamic=False, backend=backend), []
    for n in range(3):
        model(*batch(n)).backward()
        with torch.no_grad(), without_fp8(model): model(*batch(n), loss_reduction="none")
        seen.append(len(graphs))
    assert seen[0] >= 2 and seen[1:] == seen[:1] * 2, seen


def test_errors_are_one_line(monkeypatch):
    with pytest.raises(CourseError, match="no 8-bit matrix product"): convert_to_fp8(make(), RT)
    with pytest.raises(CourseError, match="unknown FP8 recipe"): convert_to_fp8(make(), RT, recipe="rows", emulate=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: "A100")
    assert "A100 is older" in fp8_reason(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: (9, 0))
    assert fp8_reason(torch.device("cuda", 0)) == ""


def test_compile_decides_by_device():
    model = make()
    gpu = Runtime(torch.device("cuda", 0), torch.bfloat16)
    assert compile_model(model, RT) is model and compile_model(model, gpu, "off") is model
    for wrapped in (compile_model(model, gpu), compile_model(model, RT, "on")): assert wrapped._orig_mod is model
    with pytest.raises(CourseError, match="unknown compile mode"): compile_model(model, RT, "yes")


def test_a_long_run_on_a_cpu_compiles_its_blocks(capsys):
    for flops, mode, changed in ((WORTH_COMPILING, "auto", True), (WORTH_COMPILING - 1, "auto", False), (0., "blocks", True), (1e20, "off", False)):
        model = make()
        assert compile_model(model, RT, mode, flops) is model and ("run_block" in vars(model)) is changed, (flops, mode)
    import torch._inductor.config
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}), torch._inductor.utils.fresh_cache():
        model = make()
        assert compile_model(model, RT, flops=1e20) is model and "run_block" not in vars(model)
    assert "nothing is compiled" in capsys.readouterr().out
    assert torch.isfinite(model(*batch()))


@pytest.mark.parametrize("kind", ["alone", "within documents"])
def test_one_block_is_compiled_for_all_layers(kind):
    "Losses and gradients of the plain model; no other program for validation or generation; with real kernels."
    import torch._dynamo.utils
    from contextlib import nullcontext
    from nanochat_course.real_tasks import within_documents
    def one(compiled):
        torch.manual_seed(0)
        model = GPT(GPTConfig(sequence_len=24, vocab_size=50, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, window_pattern="L")).init_weights()
        for p in model.parameters(): torch.nn.init.normal_(p, std=.2)
        if compiled: compile_model(model, Runtime(torch.device("cpu"), torch.float32), "blocks")
        losses = []
        for n in range(2):
            ids = torch.randint(0, 50, (3, 25), generator=torch.Generator().manual_seed(n))
            x, y = ids[:, :-1], ids[:, 1:]
            with within_documents(model, x, 7) if kind != "alone" else nullcontext():
                loss = model(x, y)
                loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                model(x[:2, :9], y[:2, :9])
                model(x[:1, :5], kv_cache=model.new_cache(1, 10))
        return losses, {n: p.grad for n, p in model.named_parameters()}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, fast = one(False), one(True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "one for the blocks, one for the head"
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)
    for name, grad in plain[1].items(): torch.testing.assert_close(fast[1][name], grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("window, pair", [(-1, False), (5, True), (100, False)])
def test_flash_attention_3_gets_what_it_wants(window, pair):
    "Its own layout and windows, (B, T, H, D) and (left, right), written down here as its documentation has them; the mark is the naive attention."
    from nanochat_course.attention import attention, naive_attention
    from nanochat_course.precision import flash3_attention
    def theirs(q, k, v, causal, window_size):
        T = q.shape[1]
        assert causal and window_size in ((-1, -1), (5, 0))
        back = torch.arange(T)[:, None] - torch.arange(T)
        seen = (back >= 0) & ((back <= window_size[0]) if window_size[0] >= 0 else True)
        k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1]**0.5
        out = torch.einsum("bhts,bshd->bthd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)
        return (out, scores.logsumexp(-1)) if pair else out                       # older versions return both
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 12, 8), torch.randn(2, 2, 12, 8), torch.randn(2, 2, 12, 8)
    torch.testing.assert_close(attention(q, k, v, window, flash3_attention(theirs)), naive_attention(q, k, v, window))


def test_flash_attention_3_is_refused_with_a_reason(monkeypatch):
    from nanochat_course import precision as P
    cuda = torch.device("cuda", 0)
    assert P.find_flash3(torch.device("cpu"), torch.bfloat16) == (None, "device cpu")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: (8, 0))
    assert "A100" in P.find_flash3(cuda, torch.bfloat16)[1]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: (9, 0))
    assert "bfloat16" in P.find_flash3(cuda, torch.float32)[1]
    assert "kernels" in P.find_flash3(cuda, torch.bfloat16)[1]
    model = GPT(GPTConfig(sequence_len=8, vocab_size=64, n_layer=1, n_head=2, n_kv_head=2, n_embd=32))
    assert P.choose_attention(model, RT).startswith("attention: PyTorch's own") and model.transformer.h[0].attn.backend == "auto"
    monkeypatch.setattr(P, "find_flash3", lambda *a: (lambda *b, **c: None, "here"))
    assert P.choose_attention(model, RT) == "attention: FlashAttention 3 (here)" and callable(model.transformer.h[0].attn.backend)
