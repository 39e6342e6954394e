"Orthogonalisation: against the SVD, PyTorch's iteration, and the inputs that break naive versions."
import pytest, torch
from nanochat_course import newton_schulz as ns
from nanochat_course.common import CourseError
from products import same_product_alone

SHAPES = [(16, 16), (16, 40), (40, 16), (1, 7), (7, 1), (33, 47), (520, 520), (520, 1100)]

def polar(G):
    U, _, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    return U @ Vh

def loop(G, triples):
    "The definition, in float64."
    X = G.double() / G.double().norm()
    for a, b, c in triples:
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X

def relative(a, b): return ((a.double() - b).norm() / b.norm()).item()

@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pairs", [None, True, False])
def test_is_the_polynomial(shape, pairs):
    torch.manual_seed(0)
    G = torch.randn(shape)
    for f, triples in ((ns.newton_schulz, [ns.QUINTIC] * 5), (ns.polar_express, ns.polar_express_coefficients(5))):
        assert relative(f(G.double(), dtype=torch.float64, pairs=pairs), loop(G, triples)) < 1e-11
        assert relative(f(G, dtype=torch.float32, pairs=pairs), loop(G, triples)) < 5e-5
        assert relative(f(G, dtype=torch.bfloat16, pairs=pairs), loop(G, triples)) < 0.1

@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_any_number_of_steps(steps):
    torch.manual_seed(0)
    G = torch.randn(12, 30)
    assert relative(ns.polar_express(G, steps, dtype=torch.float64), loop(G, ns.polar_express_coefficients(steps))) < 1e-6

@pytest.mark.parametrize("shape", [(24, 64), (64, 64), (600, 300)])
def test_as_torch_muon(shape):
    from torch.optim._muon import _zeropower_via_newtonschulz as theirs
    torch.manual_seed(0)
    G = torch.randn(shape)
    assert relative(ns.newton_schulz(G, dtype=torch.bfloat16, pairs=False), theirs(G, ns.QUINTIC, 5, 1e-7).double()) < 0.03

def test_polar_express_converges_to_the_polar_factor():
    torch.manual_seed(0)
    G = torch.randn(20, 50)
    errors = [relative(ns.polar_express(G, k, dtype=torch.float64), polar(G)) for k in (3, 5, 8, 10)]
    assert errors == sorted(errors, reverse=True) and errors[1] < 0.13 and errors[3] < 1e-6
    s = torch.linalg.svdvals(ns.newton_schulz(torch.randn(64, 64), dtype=torch.float32))
    assert 0.1 < s.min() and s.max() < 1.25

def test_coefficients():
    "The first triple is the published one; each is the best for its interval."
    assert torch.tensor(ns.polar_express_coefficients(5)[0]).allclose(torch.tensor((8.156554524902461, -22.48329292557795, 15.878769915207462)))
    for l, u in ((0.02, 1.), (0.3, 1.7), (0.9, 1.1)):
        (a, b, c), E = ns.minimax_quintic(l, u)
        x = torch.linspace(l, u, 5001, dtype=torch.float64)
        err = lambda a, b, c: (1 - (a*x + b*x**3 + c*x**5)).abs().max()
        assert abs(err(a, b, c) - E) < 1e-5
        torch.manual_seed(0)
        for d in torch.randn(200, 3).mul(1e-2).tolist(): assert err(a + d[0], b + d[1], c + d[2]) >= E - 1e-9
    t = ns.minimax_quintic(1 - 1e-7, 1.)[0]
    assert torch.tensor(t).allclose(torch.tensor((15/8, -10/8, 3/8)), atol=1e-3)

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 24), (33, 47), (96, 32), (256, 256), (520, 520), (1100, 520)])
def test_a_stack_has_the_bits_of_its_pieces(shape, dtype):
    torch.manual_seed(0)
    G = torch.randn(5, *shape)
    whole = ns.polar_express(G, dtype=dtype)
    same = torch.equal if same_product_alone(shape, dtype) else lambda a, b: (a - b).norm() <= 1e-5 * a.norm()
    for part in (slice(0, 1), slice(1, 3), slice(0, 4)): assert same(whole[part], ns.polar_express(G[part], dtype=dtype))
    assert same(whole[2], ns.polar_express(G[2], dtype=dtype))
    assert ns.polar_express(G.view(5, 1, *shape), dtype=dtype).shape == (5, 1, *shape)

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_tiny_huge(dtype):
    torch.manual_seed(0)
    G = torch.randn(3, 16, 40)
    assert torch.equal(ns.polar_express(torch.zeros_like(G), dtype=dtype), torch.zeros_like(G).to(dtype))
    mixed = G.clone(); mixed[1] = 0
    out = ns.polar_express(mixed, dtype=dtype)
    assert out[1].eq(0).all() and torch.equal(out[0], ns.polar_express(G, dtype=dtype)[0])
    for scale in (2.**-90, 2.**90): assert torch.equal(ns.polar_express(G * scale, dtype=dtype), ns.polar_express(G, dtype=dtype))
    assert ns.newton_schulz(G.bfloat16()).isfinite().all()

def test_rank_deficient():
    torch.manual_seed(0)
    G = torch.randn(40, 3) @ torch.randn(3, 100)
    s = torch.linalg.svdvals(ns.polar_express(G, dtype=torch.float32))
    assert s[:3].min() > 0.8 and s[3:].max() < 1e-3
    assert torch.linalg.svdvals(ns.polar_express(G, dtype=torch.bfloat16).float())[0] < 1.3

def test_not_finite_stays_visible_and_apart():
    torch.manual_seed(0)
    G = torch.randn(4, 8, 24)
    good = ns.polar_express(G)
    for bad in (float("nan"), float("inf")):
        H = G.clone(); H[1, 0, 3] = bad
        out = ns.polar_express(H)
        assert not out[1].isfinite().all()
        assert all(torch.equal(out[i], good[i]) for i in (0, 2, 3))

def test_paired_steps_do_not_blow_up_in_bf16():
    torch.manual_seed(0)
    for decades in (1, 3, 6):
        U, V = (torch.linalg.qr(torch.randn(n, 128, dtype=torch.float64))[0] for n in (128, 512))
        G = U @ torch.diag(torch.logspace(0, -decades, 128, dtype=torch.float64)) @ V.mT
        out, exact = ns.polar_express(G.float(), dtype=torch.bfloat16, pairs=True), loop(G, ns.polar_express_coefficients(5))
        assert relative(out, exact) < 0.04 + 1.2 * relative(ns.polar_express(G.float(), dtype=torch.bfloat16, pairs=False), exact)
        assert torch.linalg.svdvals(out.float())[0] < 1.25

def test_symmetric_product_is_the_product():
    torch.manual_seed(0)
    for m in (64, 512, 700):
        X = torch.randn(2, m, 90)
        S = ns.symmetric_product(X, X.mT)
        assert S.allclose(X @ X.mT, atol=1e-3) and S.allclose(S.mT, atol=1e-4)
        assert ns.symmetric_product(S, S, S, 0.5, 1e-3).allclose(0.5 * S + 1e-3 * S @ S, atol=1e-2)

def test_wrong_input():
    with pytest.raises(CourseError, match="takes matrices"): ns.polar_express(torch.randn(5))
    assert ns.polar_express(torch.zeros(0, 4)).shape == (0, 4)
