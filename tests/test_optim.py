"AdamW, Muon and the hybrid: the same updates as PyTorch's, state by name, slices and stacks to the last bit, wrong groups."
import copy
import pytest, torch, torch._dynamo.testing
from nanochat_course import optim
from nanochat_course.common import CourseError
from nanochat_course.optim import AdamW, Muon, MuonAdamW, adamw_equations_, adamw_update_, muon_update_, param_groups
from products import same_product_alone

def params(*shapes, seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s)) for s in shapes]

def twins(*shapes): return params(*shapes), params(*shapes)

def train(steps, *pairs, seed=1):
    "Give both lists the same gradients, step both optimizers."
    torch.manual_seed(seed)
    (P, ours), (Q, theirs) = pairs
    for _ in range(steps):
        for p, q in zip(P, Q): p.grad = torch.randn_like(p); q.grad = p.grad.clone()
        ours.step(); theirs.step()
    return max((p - q).abs().max().item() for p, q in zip(P, Q))

@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("settings", [dict(), dict(betas=(0.8, 0.95), eps=1e-10, weight_decay=0.), dict(weight_decay=0.3, betas=(0.5, 0.9))])
def test_adamw_is_torchs(fused, settings):
    P, Q = twins((40, 32), (7, 33), (5,), ())
    assert train(20, (P, AdamW(P, lr=0.01, **settings)), (Q, torch.optim.AdamW(Q, lr=0.01, fused=fused, **{"weight_decay": 0.01, **settings}))) < 5e-6

@pytest.mark.parametrize("step", [lambda t: t, lambda t: torch.tensor(float(t))])
def test_the_bias_correction_keeps_its_digits(step):
    "A slow second mean against the same equations in float64: 1 - 0.9999 in float32 has four digits left."
    torch.manual_seed(0)
    start, settings = torch.randn(7, 33), dict(lr=0.01, betas=(0.9, 0.9999), weight_decay=0.1)
    p, m, v = start.clone(), torch.zeros(7, 33), torch.zeros(7, 33)
    exact = torch.nn.Parameter(start.double())
    theirs = torch.optim.AdamW([exact], foreach=False, **settings)
    for t in range(1, 11):
        g = torch.randn(7, 33)
        exact.grad = g.double()
        adamw_equations_(p, g, m, v, step(t), 0.01, (0.9, 0.9999), weight_decay=0.1)
        theirs.step()
    assert (p - exact).abs().max() < 1e-6

def theirs_in_float32(monkeypatch):
    "PyTorch's Muon always multiplies in bf16; give it the same iteration in float32."
    from torch.optim import _muon
    def iterate(G, abc, steps, eps):
        a, b, c = abc
        X = (G.T if G.size(0) > G.size(1) else G) / G.norm().clamp(min=eps)
        for _ in range(steps):
            A = X @ X.T
            X = a * X + (b * A + c * A @ A) @ X
        return X.T if G.size(0) > G.size(1) else X
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", iterate)

@pytest.mark.parametrize("shape", [(24, 24), (24, 64), (64, 24), (32, 40)])
@pytest.mark.parametrize("rule", [("keller", "original"), ("moonshot", "match_rms_adamw")])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs(shape, rule, nesterov, monkeypatch):
    P, Q = twins(shape, shape, shape)
    ours = Muon(P, lr=0.02, weight_decay=0.1, method="newton_schulz", lr_scale=rule[0], nesterov=nesterov, ns_dtype=torch.float32)
    theirs_in_float32(monkeypatch)
    assert train(20, (P, ours), (Q, torch.optim.Muon(Q, lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=rule[1]))) < 2e-5

@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)])
def test_muon_is_torchs_in_bf16_up_to_rounding(shape):
    P, Q = twins(shape)
    start = P[0].detach().clone()
    train(20, (P, Muon(P, lr=0.02, method="newton_schulz", ns_dtype=torch.bfloat16)), (Q, torch.optim.Muon(Q, lr=0.02, weight_decay=0.)))
    assert (P[0] - Q[0]).norm() < 0.1 * (Q[0] - start).norm()

@pytest.mark.parametrize("settings", [dict(), dict(beta2=0.9, cautious=True, weight_decay=0.1), dict(method="newton_schulz", nesterov=False, weight_decay=0.1),
                                      dict(beta2=0.9, equilibrate=True, renormalize=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 24), (33, 47), (160, 64), (512, 514)])
def test_a_stack_has_the_bits_of_its_pieces(shape, dtype, settings):
    torch.manual_seed(0)
    K = 5 if shape[0] < 500 else 3
    P, G = torch.randn(K, *shape), torch.randn(2, K, *shape)
    def run(parts):
        p, m, s = P.clone(), torch.zeros_like(P), torch.zeros(K, *optim.second_moment_shape(shape))
        for g in G:
            for i in parts: muon_update_(p[i], g[i], m[i], s[i] if "beta2" in settings else None, lr=0.02, ns_dtype=dtype, **settings)
        return p, m, s
    def as_lists():
        p, m, s = [list(x.clone()) for x in (P, torch.zeros_like(P), torch.zeros(K, *optim.second_moment_shape(shape)))]
        for g in G: muon_update_(p, list(g), m, s if "beta2" in settings else None, lr=0.02, ns_dtype=dtype, **settings)
        return [torch.stack(x) for x in (p, m, s)]
    whole, exact = run([slice(None)]), same_product_alone(shape, dtype)
    for other in (run([slice(0, 1), slice(1, K)]), run([slice(i, i + 1) for i in range(K)]), as_lists()):
        for a, b in zip(whole, other): assert torch.equal(a, b) if exact else (a - b).norm() <= 1e-5 * a.norm()
    assert not torch.equal(whole[0], P) and whole[1].abs().sum() > 0

@pytest.mark.parametrize("shape", [(10, 32), (10, 33), (1003, 48), (9, 5)])
def test_adamw_on_slices_of_rows_has_the_same_bits(shape):
    torch.manual_seed(0)
    P, m, v, G = torch.randn(shape), torch.randn(shape), torch.rand(shape), torch.randn(3, *shape)
    def run(parts):
        p, a, b = P.clone(), m.clone(), v.clone()
        steps = [torch.tensor(4.) for _ in parts]
        for g in G: adamw_update_([p[i] for i in parts], [g[i] for i in parts], [a[i] for i in parts], [b[i] for i in parts], steps, lr=0.1, weight_decay=0.1)
        return p, a, b
    whole = run([slice(None)])
    for parts in ([slice(0, 3), slice(3, None)], [slice(0, 1), slice(1, 8), slice(8, None)]):
        for a, b in zip(whole, run(parts)): assert torch.equal(a, b)

def test_l2_and_decoupled_differ():
    w = [torch.ones(2) for _ in range(2)]
    for decoupled in (0, 1):
        m, v = torch.zeros(2), torch.zeros(2)
        g = torch.tensor([10., 0.001]) + (0 if decoupled else 0.1)
        adamw_equations_(w[decoupled], g, m, v, 1, 0.1, weight_decay=0.1 if decoupled else 0.)
    assert torch.allclose(w[1], torch.full((2,), 0.99 - 0.1), atol=1e-4) and torch.allclose(w[0], torch.full((2,), 0.9), atol=1e-4)

def test_cautious_decay_only_where_the_update_shrinks():
    P = torch.tensor([[3., -3.], [-3., 3.]])
    plain, cautious, none = P.clone(), P.clone(), P.clone()
    g = torch.tensor([[1., 1.], [-1., 1.]])
    for p, kw in ((plain, dict(weight_decay=0.5)), (cautious, dict(weight_decay=0.5, cautious=True)), (none, {})):
        muon_update_([p], [g], [torch.zeros(2, 2)], lr=0.1, ns_dtype=torch.float32, **kw)
    u = (P - none)
    same = u * P > 0
    assert torch.allclose(cautious, torch.where(same, plain, none)) and not torch.equal(plain, cautious) and not torch.equal(none, cautious)

def test_normuon_lines():
    "Rows where there are at least as many as columns, columns elsewhere: there the rows of an orthogonal matrix are all of length one."
    torch.manual_seed(0)
    for turn, at in ((lambda X: X, -1), (lambda X: X.mT, -2)):
        O = turn(torch.randn(2, 30, 10) * torch.logspace(-2, 0, 30)[:, None])
        S = torch.zeros(2, *optim.second_moment_shape(O.shape[1:]))
        N = optim.equalize_lines_(O, S, 0.9)
        lines = N.norm(dim=at)
        assert (lines / lines.mean(-1, keepdim=True) - 1).abs().max() < 1e-3
        assert torch.allclose(N.norm(dim=(1, 2)), O.norm(dim=(1, 2)), rtol=1e-4)
        assert torch.allclose(S, 0.1 * O.square().mean(at, keepdim=True), rtol=1e-4)
    assert optim.equalize_lines_(torch.zeros(1, 3, 2), torch.zeros(1, 3, 1), 0.9).eq(0).all()
    assert [optim.second_moment_shape(s) for s in ((8, 8), (8, 24), (24, 8))] == [(8, 1), (1, 24), (24, 1)]

def hybrid(P, **muon):
    return MuonAdamW([dict(kind="adamw", params=P[:2], names=["wte", "gain"], lr=0.1), dict(kind="muon", params=P[2:4], names=["h.0.w", "h.1.w"], lr=0.02, **muon),
                      dict(kind="muon", params=P[4:], names=["h.0.v"], lr=0.02)])

SHAPES = ((10, 16), (3,), (8, 8), (8, 8), (8, 24))

def give_grads(P, seed):
    torch.manual_seed(seed)
    for p in P: p.grad = torch.randn_like(p)

@pytest.mark.parametrize("how", ["by name", "torch"])
@pytest.mark.parametrize("muon", [dict(), dict(beta2=0.9, cautious=True, weight_decay=0.1)])
def test_stop_and_go_on(how, muon):
    P, Q = twins(*SHAPES)
    a, b = hybrid(P, **muon), hybrid(Q, **muon)
    for t in range(3): give_grads(P, t); a.step()
    with torch.no_grad():
        for p, q in zip(P, Q): q.copy_(p)
    if how == "torch": b.load_state_dict(copy.deepcopy(a.state_dict()))
    else: b.load_state_tensors({k: t.clone() for k, t in a.state_tensors().items()})
    sa, sb = a.state_tensors(), b.state_tensors()
    assert sa.keys() == sb.keys() and all(torch.equal(sa[k], sb[k]) and sa[k].data_ptr() != sb[k].data_ptr() for k in sa)
    for t in range(3, 6):
        give_grads(P, t); give_grads(Q, t); a.step(); b.step()
    assert all(torch.equal(p, q) for p, q in zip(P, Q))

def test_state_names_and_errors():
    P = params(*SHAPES)
    o = hybrid(P, beta2=0.9)
    assert o.state_tensors() == {}
    give_grads(P, 0); P[3].grad = None
    o.step()
    state = o.state_tensors()
    assert set(state) == {"wte/step", "wte/exp_avg", "wte/exp_avg_sq", "gain/step", "gain/exp_avg", "gain/exp_avg_sq", "h.0.w/momentum_buffer", "h.0.w/second_moment", "h.0.v/momentum_buffer"}
    assert state["wte/step"].shape == () and state["wte/step"] == 1 and state["h.0.w/second_moment"].shape == (8, 1)
    before = {k: t.clone() for k, t in state.items()}
    with pytest.raises(CourseError, match="belongs to no parameter"): o.load_state_tensors({"h.9.w/momentum_buffer": torch.zeros(8, 8)})
    with pytest.raises(CourseError, match="shape"): o.load_state_tensors({"wte/step": torch.tensor(1.), "h.0.w/momentum_buffer": torch.zeros(8, 9)})
    assert all(torch.equal(before[k], t) for k, t in o.state_tensors().items())
    o.load_state_tensors({})
    assert o.state_tensors() == {}

def test_parameters_without_gradient_are_left_alone():
    P = params(*SHAPES)
    o = hybrid(P, weight_decay=0.5)
    start = [p.detach().clone() for p in P]
    o.step()
    assert all(torch.equal(p, s) for p, s in zip(P, start)) and not o.state
    give_grads(P, 0); P[1].grad = P[2].grad = None
    o.step()
    assert [torch.equal(p, s) for p, s in zip(P, start)] == [False, True, True, False, False]

def test_zero_gradients_do_not_move_muon():
    P = params((8, 8), (8, 8)); start = [p.detach().clone() for p in P]
    o = Muon(P, beta2=0.9)
    for p in P: p.grad = torch.zeros_like(p)
    o.step()
    assert all(torch.equal(p, s) for p, s in zip(P, start))

def test_schedules_reach_the_update():
    P = twins((8, 8))
    (p,), (q,) = P
    a, b = Muon([p], lr=0.5), Muon([q], lr=0.02)
    a.param_groups[0].update(lr=0.02, momentum=0.8); b.param_groups[0]["momentum"] = 0.8
    for o, x in ((a, p), (b, q)): give_grads([x], 0); o.step()
    assert torch.equal(p, q) and a.param_groups[0]["initial_lr"] == 0.5 and b.param_groups[0]["initial_lr"] == 0.02

@pytest.mark.parametrize("group, text", [
    (dict(kind="sgd", params=params((2, 2)), lr=1.), "kind is 'sgd'"),
    (dict(params=params((2, 2)), lr=1.), "kind is None"),
    (dict(kind="muon", lr=1.), "params missing"),
    (dict(kind="muon", params=params((2, 2))), "lr missing"),
    (dict(kind="muon", params=params((3,)), lr=1.), "matrices only"),
    (dict(kind="muon", params=params((2, 2, 2)), lr=1.), "matrices only"),
    (dict(kind="muon", params=params((2, 3), (3, 2)), lr=1.), "one shape"),
    (dict(kind="adamw", params=[], lr=1.), "no parameters"),
    (dict(kind="adamw", params=params((2,)), lr=1., momentum=0.9), "momentum unknown"),
    (dict(kind="muon", params=params((2, 2)), lr=1., method="svd"), "method 'svd' unknown"),
    (dict(kind="muon", params=params((2, 2)), lr=1., lr_scale="big"), "unknown lr_scale"),
    (dict(kind="adamw", params=params((2,)), names=["a", "b"], lr=1.), "1 parameters and 2 names"),
    (dict(kind="adamw", params=params((2,), (2,)), names=["a", "a"], lr=1.), "same name")])
def test_wrong_groups(group, text):
    with pytest.raises(CourseError, match=text) as e: MuonAdamW([group])
    assert "\n" not in str(e.value)

def test_what_people_try_first():
    model = torch.nn.Sequential(torch.nn.Embedding(64, 8), torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 64, bias=False))
    for make, text in ((lambda: MuonAdamW(model.parameters()), "group 0: a Parameter, but a dict"),
                       (lambda: param_groups(model), "Sequential has no parameters_by_role")):
        with pytest.raises(CourseError, match=text) as e: make()
        assert "\n" not in str(e.value)
    with pytest.warns(UserWarning, match="param0, param2 looks like an embedding"): Muon(model.parameters())
    with pytest.warns(UserWarning, match="lm_head"): Muon([("lm_head.weight", params((8, 8))[0])])

def test_hidden_matrices_bring_no_warning(recwarn):
    Muon(params((8, 8), (32, 8), (8, 32)))
    assert not recwarn.list

@pytest.mark.parametrize("seed", range(5))
def test_param_groups_of_a_model(seed):
    from nanochat_course.gpt import GPT, GPTConfig
    torch.manual_seed(seed)                                                      # of five starts none may be held up
    model = GPT(GPTConfig(sequence_len=16, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)); model.init_weights()
    next(iter(model.parameters_by_role()["matrix"]))[1].requires_grad_(False)
    groups = param_groups(model, matrix_lr=0.05, weight_decay=0.1, beta2=0.9)
    o = MuonAdamW(groups)
    named = o.named()
    assert set(named) == {n for n, p in model.named_parameters() if p.requires_grad} and all(named[n] is p for n, p in model.named_parameters() if n in named)
    assert {g["role"]: g["lr"] for g in o.param_groups} | {} == {"embedding": 0.2, "unembedding": 0.004, "matrix": 0.05} | ({"scalar": 0.5} if model.parameters_by_role()["scalar"] else {})
    for g in o.param_groups: assert (g["kind"] == "muon") == (g["role"] == "matrix") and g["initial_lr"] == g["lr"]
    x = torch.randint(0, 64, (2, 16))
    first = None
    for _ in range(15):
        loss = model(x, x); loss.backward(); o.step(); o.zero_grad()
        first = first or loss.item()
    assert loss.item() < 0.7 * first

def test_closure_and_hooks_of_torch_optimizers():
    p, = params((4, 4))
    o = Muon([p], lr=0.01)
    def closure():
        o.zero_grad(); loss = p.square().sum(); loss.backward(); return loss
    losses = [o.step(closure).item() for _ in range(3)]
    assert losses[2] < losses[0]
    torch.optim.lr_scheduler.LambdaLR(o, lambda t: 0.5)
    assert o.param_groups[0]["lr"] == 0.005

@pytest.mark.parametrize("settings", [dict(), dict(beta2=0.9, cautious=True, equilibrate=True, renormalize=True)])
def test_compiled_is_the_same(settings, monkeypatch):
    "One graph without a break; traced only (the C++ backend takes a minute), and once for all values of the schedule."
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    traced = torch.compile(optim.muon_direction_, dynamic=False, fullgraph=True, backend=graphs)
    monkeypatch.setattr(optim, "compiled_direction", lambda: traced)
    P, Q = twins((16, 24), (16, 24))
    kw = dict(lr=0.02, weight_decay=0.1, ns_dtype=torch.float32, **settings)
    a, b = Muon(P, compile=True, **kw), Muon(Q, compile=False, **kw)
    for t in range(4):
        for o in (a, b): o.param_groups[0].update(lr=0.02 - 0.001 * t, momentum=0.8 + 0.01 * t)
        assert train(1, (P, a), (Q, b), seed=t) < 1e-6
    assert graphs.frame_count == 1

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_as_cpu():
    P, Q = params(*SHAPES), [torch.nn.Parameter(p.detach().cuda()) for p in params(*SHAPES)]
    a, b = hybrid(P, ns_dtype=torch.float32, beta2=0.9), hybrid(Q, ns_dtype=torch.float32, beta2=0.9)
    for t in range(5):
        give_grads(P, t)
        for p, q in zip(P, Q): q.grad = p.grad.cuda()
        a.step(); b.step()
    assert all(torch.allclose(p, q.cpu(), atol=1e-2) for p, q in zip(P, Q))

def test_even_rows_and_exact_norm_by_their_definitions():
    torch.manual_seed(0)
    G = torch.randn(3, 20, 12) * torch.logspace(-4, 2, 20)[:, None]
    E, N = optim.even_rows(G), optim.exact_norm(G)
    for g, e, n in zip(G.double(), E.double(), N.double()):
        want = g / g.norm(dim=1, keepdim=True) * (g.norm() / 20**0.5)
        torch.testing.assert_close(e, want, rtol=1e-5, atol=1e-6)
        assert e.norm().item() == pytest.approx(g.norm().item(), rel=1e-5) and n.norm().item() == pytest.approx(12**0.5, rel=1e-5)
        torch.testing.assert_close(n / n.norm(), g / g.norm(), rtol=1e-4, atol=1e-7)
    silent = torch.zeros(1, 4, 3); silent[0, 0] = 1.
    assert optim.even_rows(silent)[0, 1:].eq(0).all() and optim.even_rows(silent * 0).eq(0).all() and optim.exact_norm(silent * 0).eq(0).all()

@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_a_step_with_everything_is_the_published_one(shape):
    "Momentum, even rows, polar factor (by SVD), exact norm, NorMuon, cautious decay: in float64, without any code of the course."
    torch.manual_seed(0)
    along = 1 if shape[0] >= shape[1] else 0
    W, M, S = torch.randn(shape), torch.zeros(shape), torch.zeros((shape[0], 1) if along else (1, shape[1]))
    w, m, s = W.double(), M.double(), S.double()
    for t in range(3):
        G = torch.randn(shape) * torch.logspace(0, 1, shape[0])[:, None]
        muon_update_([W], [G], [M], [S], lr=0.05, momentum=0.9, weight_decay=0.3, beta2=0.8, cautious=True, equilibrate=True, renormalize=True,
                     method="newton_schulz", ns_steps=5, ns_dtype=torch.float32)
        m = 0.9 * m + 0.1 * G.double()
        x = 0.1 * G.double() + 0.9 * m
        x = x / x.norm(dim=1, keepdim=True) * x.norm() / shape[0]**0.5
        u, sv, vt = torch.linalg.svd(x, full_matrices=False)
        sv = sv / x.norm()
        for _ in range(5): sv = 3.4445 * sv - 4.7750 * sv**3 + 2.0315 * sv**5
        o = u @ torch.diag(sv) @ vt
        o = o * min(shape)**0.5 / o.norm()
        s = 0.8 * s + 0.2 * o.square().mean(along, keepdim=True)
        n = o / s.sqrt()
        o = n * o.norm() / n.norm()
        w = torch.where(o * w >= 0, w * (1 - 0.05 * 0.3), w) - 0.05 * max(1, shape[0] / shape[1])**0.5 * o
    torch.testing.assert_close(W.double(), w, rtol=2e-3, atol=2e-4)

def test_groups_of_the_record():
    "Rates, memories and decays by role, as nanochat sets them up for scalar_lr 0.5 and embedding_lr 0.3."
    from nanochat_course.gpt import GPT, GPTConfig
    model = GPT(GPTConfig(sequence_len=16, vocab_size=64, n_layer=3, n_head=2, n_kv_head=2, n_embd=32, value_embeds=True, residual_scalars=True, smear=True, backout=True)).init_weights()
    groups = param_groups(model, embedding_lr=0.3, unembedding_lr=0.008, adam_by_role=optim.ADAM_BY_ROLE, weight_decay=0.28, beta2=0.9, cautious=True)
    got = {g["role"]: (pytest.approx(g["lr"]), g["betas"], g["weight_decay"]) for g in groups if g["kind"] == "adamw"}
    assert got == {"embedding": (0.3, (0.8, 0.995), 0.001), "unembedding": (0.008, (0.8, 0.96), 0.01), "value_embedding": (0.15, (0.8, 0.995), 0.01),
                   "residual": (0.005, (0.8, 0.95), 0.05), "x0": (0.5, (0.96, 0.95), 0.), "smear": (0.2, (0.8, 0.95), 0.)}
    plain = {g["role"]: (g["betas"], g["weight_decay"]) for g in param_groups(model) if g["kind"] == "adamw"}
    assert set(plain.values()) == {((0.8, 0.95), 0.)}, "without adam_by_role all are treated alike"
    muon = [g for g in groups if g["kind"] == "muon"]
    assert (2, 12) in {tuple(p.shape) for g in muon for p in g["params"]} and all(g["weight_decay"] == 0.28 and g["cautious"] for g in muon)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    o, x = MuonAdamW(groups), torch.randint(0, 64, (2, 16))
    losses = []
    for _ in range(10):
        loss = model(x, x); loss.backward(); o.step(); o.zero_grad(); losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and model.smear_lambda.item() != 0 and model.resid_lambdas[0] != 1.15
