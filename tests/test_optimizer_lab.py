"The optimizer lab: SOAP and schedule-free against their papers in float64, state in bytes, the search, the command end to end, bad input."
import json, math, os, sys
from pathlib import Path

import forked, pytest, torch
from nanochat_course.labs import optimizer_lab as lab
from nanochat_course.checkpoint import load_optimizer_tensors, optimizer_tensors
from nanochat_course.common import CourseError, Runtime
from nanochat_course.labs.optimizer_lab import CONTENDERS, OneMatrix, OptimizerLabConfig, ScheduleFreeAdamW, SOAP

ROOT = Path(__file__).resolve().parent.parent


def follow(make, gradients, start):
    "The parameter after an optimizer has been given these gradients."
    p = torch.nn.Parameter(start.clone())
    optimizer = make([p])
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    return p.detach(), optimizer


def draw(*shape, steps=40, seed=0):
    "A start, and gradients whose directions differ in size."
    gen = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, shape[-1]).double()
    return torch.randn(*shape, generator=gen).double(), torch.randn(steps, *shape, generator=gen).double() * scale


def slow_soap(gradients, start, lr, b1, b2, eps, decay, every):
    "Algorithm 3 and 4 of arXiv 2409.11321 line by line, without a loop over sides; bias-corrected as Adam, basis kept in falling order."
    W, t = start.clone(), 0
    for k, G in enumerate(gradients):
        if k == 0:
            L, R = (1 - b2) * (G @ G.T), (1 - b2) * (G.T @ G)        # in this order: a wide gradient leaves a part of the basis to the rounding
            QL, QR = torch.linalg.eigh(L).eigenvectors.flip(1), torch.linalg.eigh(R).eigenvectors.flip(1)
            M, V = torch.zeros_like(G), torch.zeros_like(G)
            continue
        t += 1
        G_rotated = QL.T @ G @ QR
        M = b1 * M + (1 - b1) * G
        M_rotated = QL.T @ M @ QR
        V = b2 * V + (1 - b2) * G_rotated * G_rotated
        N_rotated = (M_rotated / (1 - b1**t)) / (torch.sqrt(V / (1 - b2**t)) + eps)
        W = W - lr * decay * W - lr * QL @ N_rotated @ QR.T
        L, R = b2 * L + (1 - b2) * G @ G.T, b2 * R + (1 - b2) * G.T @ G
        if t % every == 0:
            left = torch.argsort(torch.diag(QL.T @ L @ QL), descending=True)
            right = torch.argsort(torch.diag(QR.T @ R @ QR), descending=True)
            V = V[left][:, right]
            QL, QR = torch.linalg.qr(L @ QL[:, left]).Q, torch.linalg.qr(R @ QR[:, right]).Q
    return W


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)])
@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("decay", [0., 0.1])
def test_soap_is_the_papers(shape, every, decay):
    start, gradients = draw(*shape)
    ours, _ = follow(lambda p: SOAP(p, lr=0.02, betas=(0.9, 0.8), weight_decay=decay, every=every), gradients, start)
    slow = slow_soap(gradients, start, 0.02, 0.9, 0.8, 1e-8, decay, every)
    assert (ours - slow).norm() / (slow - start).norm() < 1e-10


def test_soap_without_a_basis_is_adam():
    for shape in ((6, 9), (7,), ()):
        start, gradients = torch.randn(shape).double(), torch.randn(30, *shape).double()
        ours, _ = follow(lambda p: SOAP(p, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, max_dim=0), gradients, start)
        theirs, _ = follow(lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1), gradients, start)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_soap_turns_with_the_problem_and_adam_does_not():
    start, gradients = draw(6, 6)
    gen = torch.Generator().manual_seed(1)
    P, Q = (torch.linalg.qr(torch.randn(6, 6, generator=gen).double())[0] for _ in range(2))
    def off(make):
        plain, turned = follow(make, gradients, start)[0], follow(make, P @ gradients @ Q, P @ start @ Q)[0]
        return ((turned - P @ plain @ Q).norm() / (plain - start).norm()).item()
    assert off(lambda p: SOAP(p, lr=0.01, every=4)) < 1e-8
    assert off(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.)) > 0.05


def test_soap_waits_for_a_gradient_that_says_something():
    "The first gradient gives the basis only, and a zero one gives none."
    start, gradients = draw(6, 6)
    p, optimizer = follow(lambda p: SOAP(p, lr=0.02), torch.zeros(3, 6, 6).double(), start)
    assert torch.equal(p, start) and not any(optimizer.state.values())
    p, optimizer = follow(lambda p: SOAP(p, lr=0.02), gradients[:1], start)
    assert torch.equal(p, start) and set(next(iter(optimizer.state.values()))) == {"step", "m", "v", "left", "right", "gram_left", "gram_right"}
    later, _ = follow(lambda p: SOAP(p, lr=0.02), torch.cat([torch.zeros(3, 6, 6).double(), gradients]), start)
    assert torch.equal(later, follow(lambda p: SOAP(p, lr=0.02), gradients, start)[0])


def three_sequences(gradients, start, lrs, b1, b2, eps, decay):
    "Algorithm 1 of arXiv 2405.15682 with all three sequences kept."
    x, y, z, v, weights = start, start, start, torch.zeros_like(start), 0.
    for t, (g, lr) in enumerate(zip(gradients, lrs), 1):
        v = b2 * v + (1 - b2) * g * g
        gamma = lr * math.sqrt(1 - b2**t)
        z = z - gamma * g / (torch.sqrt(v) + eps) - gamma * decay * y
        weights += gamma**2
        x = (1 - gamma**2 / weights) * x + gamma**2 / weights * z
        y = (1 - b1) * z + b1 * x
    return x, y, z


@pytest.mark.parametrize("b1", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("decay", [0., 0.1])
def test_schedule_free_is_the_papers(b1, decay):
    start, gradients = draw(5, 7)
    lrs = [0.02 * min(1, (t + 1) / 10) for t in range(len(gradients))]                       # a warm-up
    p = torch.nn.Parameter(start.clone())
    optimizer = ScheduleFreeAdamW([p], lr=1., betas=(b1, 0.95), weight_decay=decay)
    for g, lr in zip(gradients, lrs):
        optimizer.param_groups[0]["lr"], p.grad = lr, g
        optimizer.step()
    x, y, z = three_sequences(gradients, start, lrs, b1, 0.95, 1e-8, decay)
    close = dict(rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(p.detach(), y, **close)
    torch.testing.assert_close(optimizer.state[p]["z"], z, **close)
    optimizer.eval()
    torch.testing.assert_close(p.detach(), x, **close)
    optimizer.eval()                                                                          # twice is once
    torch.testing.assert_close(p.detach(), x, **close)
    with pytest.raises(CourseError, match="optimizer.train"): optimizer.step()
    optimizer.train()
    torch.testing.assert_close(p.detach(), y, **close)
    p.grad = gradients[0]
    optimizer.step()                                                                          # and it goes on from there
    torch.testing.assert_close(p.detach(), three_sequences([*gradients, gradients[0]], start, [*lrs, lrs[-1]], b1, 0.95, 1e-8, decay)[1], **close)


def test_schedule_free_answers_with_the_mean_of_the_steps():
    "With a constant rate and gradients of one size, x is the plain mean of all z."
    p = torch.nn.Parameter(torch.zeros(3).double())
    optimizer, zs = ScheduleFreeAdamW([p], lr=0.1, betas=(0.9, 0.)), []
    for t in range(12):
        p.grad = torch.tensor([1., -1., (-1.)**t]).double()
        optimizer.step()
        zs.append(optimizer.state[p]["z"].clone())
    optimizer.eval()
    torch.testing.assert_close(p.detach(), torch.stack(zs).mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(zs[-1][:2], torch.tensor([-1.2, 1.2]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [lambda p: SOAP(p, lr=0.02, every=3), lambda p: ScheduleFreeAdamW(p, lr=0.02)], ids=["soap", "schedule-free"])
def test_state_goes_through_a_checkpoint(make):
    "Half the steps, the state by name into a new optimizer, the other half: the same to the last bit."
    start, gradients = draw(6, 8)
    whole, _ = follow(make, gradients, start)
    half, optimizer = follow(make, gradients[:20], start)
    model = OneMatrix(start, None)
    tensors = {f"w/{k}": t.clone() for k, t in next(iter(optimizer.state.values())).items()}
    model.w.data.copy_(half)
    again = make([model.w])
    load_optimizer_tensors(again, model, tensors)
    assert set(optimizer_tensors(again, model)) == set(tensors)
    for g in gradients[20:]:
        model.w.grad = g
        again.step()
    assert torch.equal(model.w, whole)


@pytest.mark.parametrize("shape", [(16, 16), (16, 48)])
def test_state_bytes_by_closed_form(shape):
    m, n = shape
    extra = dict(sgd=0, momentum=4 * m * n, adamw=8 * m * n + 4, muon=4 * m * n, soap=8 * m * n + 8 * (m * m + n * n) + 4, schedule_free=8 * m * n + 4 + 8)
    for name, want in extra.items():
        model = OneMatrix(torch.randn(shape), lambda w: w.square().sum())
        optimizer = CONTENDERS[name].make(model, 0.01)
        assert lab.state_bytes(optimizer) == 0
        for _ in range(2): model.zero_grad(); model().backward(); optimizer.step()
        assert lab.state_bytes(optimizer) == want, name


class Tables(torch.nn.Module):
    "A model of every role."
    def __init__(self):
        super().__init__()
        self.config = type("Config", (), dict(n_embd=48))
        make = lambda *shape: torch.nn.Parameter(torch.randn(shape))
        self.wte, self.head, self.a, self.b, self.s = make(96, 48), make(96, 48), make(48, 48), make(192, 48), make(5)

    def parameters_by_role(self):
        return dict(embedding=[("wte", self.wte)], unembedding=[("head", self.head)], matrix=[("a", self.a), ("b", self.b)], scalar=[("s", self.s)])

    def forward(self): return sum(p.square().sum() for p in self.parameters())


def test_contenders_train_every_parameter_and_keep_the_proportions():
    for name, contender in CONTENDERS.items():
        torch.manual_seed(0)
        model = Tables()
        before, optimizer = {n: p.detach().clone() for n, p in model.named_parameters()}, contender.make(model, 0.01)
        for _ in range(2): model.zero_grad(); model().backward(); optimizer.step()
        assert all(not torch.equal(before[n], p) for n, p in model.named_parameters()), name
    kinds = {n: (g["kind"], g["lr"]) for g in CONTENDERS["hybrid"].make(Tables(), 0.02).param_groups for n in g["names"]}
    assert kinds["a"] == kinds["b"] == ("muon", 0.02) and {kinds[n][0] for n in ("wte", "head", "s")} == {"adamw"}
    assert kinds["wte"][1] == pytest.approx(0.2 * 4) and kinds["head"][1] == pytest.approx(0.004 * 4)       # width 48: sqrt(768 / 48) = 4
    roles = {n: (g["kind"], g["lr"]) for g in CONTENDERS["adamw_roles"].make(Tables(), 0.02).param_groups for n in g["names"]}
    assert {k for k, _ in roles.values()} == {"adamw"} and roles["wte"] == kinds["wte"] and roles["a"][1] == pytest.approx(0.1 / 48**0.5)
    alone = {n: g["kind"] for g in CONTENDERS["muon"].make(Tables(), 0.02).param_groups for n in g["names"]}
    assert alone == dict(wte="muon", head="muon", a="muon", b="muon", s="adamw")


def test_the_matrix_problem_is_as_ill_conditioned_as_it_says():
    aligned, rotated = (lab.ill_conditioned(4, 6, 100., rotated=r)() for r in (False, True))
    for model in (aligned, rotated):
        curvature = torch.autograd.functional.hessian(model.loss, model.w.detach()).reshape(24, 24)
        values = torch.linalg.eigvalsh(curvature)
        assert model().item() == pytest.approx(1.) and values[-1] == pytest.approx(1.) and values[0] == pytest.approx(1e-4)
    beside = lambda H: (H - H.diag().diag()).abs().max()
    aligned, rotated = (torch.autograd.functional.hessian(m.loss, m.w.detach()).reshape(24, 24) for m in (aligned, rotated))
    assert beside(aligned) < 1e-12 and beside(rotated) > 0.05
    sgd = [lab.descend(lab.ill_conditioned(rotated=r)(), CONTENDERS["sgd"], 1., 50)[0][-1] for r in (False, True)]
    assert sgd[0] == pytest.approx(sgd[1], rel=1e-9)                                          # no axes, no difference


def test_search_finds_the_best_rate_and_keeps_to_its_tries():
    for start in (1 / 64, 1., 64.):
        tried = lab.tune(lambda lr: (math.log2(lr) - 1)**2, start, 10)
        assert len(tried) == 10 and min(tried, key=tried.get) == pytest.approx(2., rel=0.2)
    broken = lab.tune(lambda lr: math.nan if lr > 0.3 else -lr, 1., 6)
    assert len(broken) == 6 and 0.1 < min(broken, key=broken.get) <= 0.3 and broken[1.] == math.inf
    calls = []
    lab.tune(lambda lr: calls.append(lr) or 1., 1., 7)
    assert len(calls) == len(set(calls)) == 7                                                 # no rate twice


def test_reaches():
    curve = [(0, 5.), (10, 3.), (20, 2.)]
    assert lab.reaches(curve, 4.) == 5. and lab.reaches(curve, 2.) == 20. and lab.reaches(curve, 1.9) is None
    assert lab.reaches([(0, 5.), (10, 5.5), (20, 3.5)], 4.) == 17.5


def test_a_run_that_explodes_is_no_best_run():
    run = lab.best_rate(lab.ill_conditioned(4, 4), "sgd", 60, rates=(0.5, 1e9))
    assert run["lr"] == 0.5 and run["tried"][1e9] == math.inf and len(run["losses"]) == 61


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps(dict(text=f"The cat number {i} sat on the mat. " * 12)) + "\n" for i in range(60)))
    return path


@pytest.fixture(scope="module")
def corpus(text_file):
    from nanochat_course.corpus import make_corpus
    folder = text_file.parent / "corpus"
    make_corpus(text_file, folder, num_shards=3)
    return folder


TINY = dict(n_layer=1, n_embd=32, vocab_size=300, seq_len=32, batch_size=2, steps=6, tries=2, seeds=2, device="cpu")


def test_everybody_sees_the_same_batches_and_first_weights(corpus):
    problem = lab.GPTProblem(lab.Setup(1, 32, 300, 32, 2, 6, range_steps=4), Runtime(torch.device("cpu"), torch.float32), str(corpus))
    a, b = ([x for x, _, _ in problem.stream(3)(None)] for _ in range(2))
    assert len(a) == 6 and all(torch.equal(x, y) for x, y in zip(a, b))
    assert not all(torch.equal(x, y) for x, y in zip(a, [x for x, _, _ in problem.stream(4)(None)]))
    assert all(torch.equal(p, q) for p, q in zip(problem.model(5).parameters(), problem.model(5).parameters()))
    first = {n: lab.gpt_run(problem, n, 1e-9, 0)["train"][0] for n in CONTENDERS}
    assert len(set(first.values())) == 1                                                      # the first loss is before any update
    assert lab.gpt_run(problem, "sgd", 1e30, 0)["val"] == math.inf                            # an exploding run is a result, no crash


def test_the_command_end_to_end(corpus, tmp_path):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in dict(TINY, corpus=corpus, out=tmp_path / "lab").items()]
    done = forked.run([sys.executable, "-m", "nanochat_course.labs.optimizer_lab", *flags], capture_output=True, text=True, cwd=tmp_path,
                          env=dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path / "base"), OMP_NUM_THREADS="1"), timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.name for p in (tmp_path / "lab").iterdir()} == {"optimizer_lab.json", "surface.png", "matrix.png", "gpt.png"}
    result = json.loads((tmp_path / "lab" / "optimizer_lab.json").read_text())
    assert set(result["gpt"]) == set(CONTENDERS) and set(result["surface"]) == set(lab.SURFACES) and set(result["matrix"]) == {"aligned", "rotated"}
    assert not set(result["matrix"]["rotated"]) & set(lab.NEED_ROLES)
    for name, r in result["gpt"].items():
        assert len(r["tried"]) == 2 and len(r["vals"]) == 2 and r["curve"][-1][0] == 6 and r["optimizer_s"] < r["step_s"], name
        assert r["val"] == pytest.approx(sum(r["vals"]) / 2, rel=1e-5) and r["title"] in done.stdout
    assert result["gpt"]["muon"]["state_bytes"] == result["parameter_bytes"] and result["gpt"]["sgd"]["state_bytes"] == 0
    assert result["config"]["seeds"] == 2 and result["machine"]["torch"] == torch.__version__ and "path" not in json.dumps(list(result["surface"]["valley"]["sgd"]))
    assert lab.show(result)                                                                   # a stored result can be shown again
    lab.draw_gpt(result["gpt"])


@pytest.mark.parametrize("wrong,says", [
    (dict(problem="chess"), "unknown problem 'chess'"), (dict(optimizers="adam"), "unknown optimizer 'adam'"), (dict(optimizers=" , "), "no optimizer named"),
    (dict(problem="matrix", optimizers="hybrid"), "--problem gpt"), (dict(steps=-3), "steps is -3"), (dict(tries=0), "tries is 0"),
    (dict(seeds=0), "seeds is 0"), (dict(n_embd=40), "multiple of 32"), (dict(device="tpu"), "unknown device"), (dict(out=__file__), "is a file"),
    (dict(problem="gpt", corpus="nowhere/at/all"), "no corpus")])
def test_bad_input_is_one_line(wrong, says):
    with pytest.raises(CourseError, match=says) as e: lab.optimizer_lab(OptimizerLabConfig(**wrong))
    assert "\n" not in str(e.value)


def test_bad_input_of_the_optimizers():
    p = [torch.nn.Parameter(torch.ones(2, 2))]
    with pytest.raises(CourseError, match="every is 0"): SOAP(p, every=0)
    with pytest.raises(CourseError, match="between 0 and 1"): ScheduleFreeAdamW(p, betas=(0., 0.9))


def test_a_command_with_a_typo_exits_with_status_2(tmp_path):
    done = forked.run([sys.executable, "-m", "nanochat_course.labs.optimizer_lab", "--optimizers", "adamw,lion"], capture_output=True, text=True,
                          env=dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path)), timeout=120)
    assert done.returncode == 2 and done.stderr.strip().startswith("error: unknown optimizer 'lion'") and done.stderr.count("\n") == 1
