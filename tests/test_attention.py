"Attention against the matrix formula written anew, its backends, its norms and rotation, and the cache."
import math
import pytest, torch, torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from nanochat_course.attention import BlockAttention, KVCache, attention, naive_attention, rms_norm, rotary, rotary_tables, window_blocks
from nanochat_course.common import CourseError


def by_loops(q, k, v, window):
    "One query at a time, from the definition, in float64."
    (B, H, T, D), G = q.shape, k.shape[1]
    out = torch.zeros(B, H, T, D, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for i in range(T):
                first = 0 if window < 0 else max(0, i - window)
                keys = range(first, i + 1)
                scores = torch.tensor([float(q[b, h, i].double() @ k[b, g, j].double()) / math.sqrt(D) for j in keys], dtype=torch.float64)
                out[b, h, i] = sum(w * v[b, g, j].double() for w, j in zip(scores.softmax(0), keys))
    return out


def random_qkv(B, H, G, T, D, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(B, n, T, D, dtype=dtype) for n in (H, G, G)]


def with_gradients(f, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = f(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize("window", [-1, 0, 1, 3, 8, 20])
@pytest.mark.parametrize("H,G", [(2, 2), (4, 2), (3, 1)])
def test_oracle_against_loops(H, G, window):
    q, k, v = random_qkv(2, H, G, 9, 4)
    torch.testing.assert_close(naive_attention(q, k, v, window).double(), by_loops(q, k, v, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("T,block", [(1, 16), (2, 1), (15, 16), (16, 16), (17, 16), (50, 16), (64, 7), (33, 64)])
@pytest.mark.parametrize("window", [0, 1, 6, 15, 16, 17, 31, 32, 33, 48, 63, 1000])
@pytest.mark.parametrize("kept", [0, 512])
def test_blocks_forward_and_backward(T, block, window, kept, monkeypatch):
    "With the weights of the forward pass, and with weights computed again."
    monkeypatch.setattr("nanochat_course.attention.KEPT_KEYS", kept)
    q, k, v = random_qkv(2, 4, 2, T, 8, torch.float64)
    mask = torch.ones(T, T).tril().bool() & ~torch.ones(T, T).tril(-window - 1).bool()
    want = with_gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=mask), q, k, v)
    got = with_gradients(lambda q, k, v: BlockAttention.apply(q, k, v, window, block), q, k, v)
    for g, w in zip(got, want): torch.testing.assert_close(g, w, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("backend", ["auto", "blocks", "flex", "naive"])
@pytest.mark.parametrize("T,window", [(5, -1), (130, 0), (300, 10), (300, 127), (300, 128), (300, 129), (257, 299)])
def test_backends_agree(backend, T, window):
    q, k, v = random_qkv(1, 2, 1, T, 16)
    torch.testing.assert_close(attention(q, k, v, window, backend), naive_attention(q, k, v, window), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("T", [1, 127, 128, 129, 700, 1024])
@pytest.mark.parametrize("window", [0, 1, 126, 127, 128, 129, 255, 256, 257, 1024])
def test_squares_of_a_window(T, window):
    "The list of squares is the one that PyTorch finds by looking at every score."
    from torch.nn.attention.flex_attention import create_block_mask
    want = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j <= window), None, None, T, T, device="cpu")
    assert torch.equal(window_blocks(T, window).to_dense(), want.to_dense())
    assert window_blocks(T, window).shape == want.shape


@pytest.mark.parametrize("T", [128, 129, 700, 1024])
@pytest.mark.parametrize("window", [0, 126, 127, 128, 254, 255, 256, 383, 1024])
def test_squares_without_a_mask(T, window):
    "A square stands in the second list if and only if no pair in it is masked, and in one list only."
    mask, block = window_blocks(T, window), 128
    n = -(-T // block)
    i = torch.arange(n * block)
    back = i[:, None] - i
    seen = ((back >= 0) & (back <= window)).view(n, block, n, block).transpose(1, 2)                 # (query block, key block, i, j)
    def listed(count, blocks): return [set(blocks[0, 0, row, :count[0, 0, row]].tolist()) for row in range(n)]
    part, whole = listed(mask.kv_num_blocks, mask.kv_indices), listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert whole == [{j for j in range(n) if seen[row, j].all()} for row in range(n)]
    assert part == [{j for j in range(n) if seen[row, j].any() and not seen[row, j].all()} for row in range(n)]


def test_full_backend_refuses_a_window():
    q, k, v = random_qkv(1, 1, 1, 10, 4)
    torch.testing.assert_close(attention(q, k, v, -1, "full"), naive_attention(q, k, v))
    for window, backend in ((3, "full"), (-1, "fast")):
        with pytest.raises(CourseError, match="use auto"): attention(q, k, v, window, backend)


def test_no_square_tensor_for_a_window():
    class Largest(TorchDispatchMode):
        numel = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.numel = max([self.numel, *(o.numel() for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, torch.Tensor))])
            return out
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 1, 1, 4096, 8))
    with Largest() as big: attention(q, k, v, 100).sum().backward()
    assert big.numel <= max(4096 * 8, 128 * (100 + 128)), "a window must not build a T x T tensor, forward or backward"


@pytest.mark.parametrize("T,window,kept", [(512, -1, True), (513, -1, False), (2048, 500, True), (2048, 600, False)])
def test_weights_are_kept_where_they_are_few(T, window, kept):
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 1, 1, T, 8))
    saved = lambda out: sum(x.numel() for x in out.grad_fn.saved_tensors) - 4 * q.numel()
    out = attention(q, k, v, window)
    block = 256 if window < 0 else 128
    strips = [(a, min(a + block, T), max(0, a - window) if window >= 0 else 0) for a in range(0, T, block)]
    assert saved(out) == (sum((b - a) * (b - s) for a, b, s in strips) if kept else 0)


def test_no_token_sees_the_future():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 2, 2, 40, 8))
    for window in (-1, 5):
        dk, dv = torch.autograd.grad(attention(q, k, v, window)[:, :, 20].sum(), (k, v))
        assert dk[:, :, 21:].abs().max() == 0 and dv[:, :, 21:].abs().max() == 0
        assert (dv[:, :, :21].abs().sum((0, 1, 3)) > 0).tolist() == [window < 0 or 20 - j <= window for j in range(21)]


def test_bfloat16_is_as_close_as_one_rounding():
    q, k, v = (rms_norm(x) for x in random_qkv(2, 2, 2, 200, 64))
    want = naive_attention(q, k, v)
    got = attention(*(x.bfloat16() for x in (q, k, v)))
    assert got.dtype == torch.bfloat16 and (got.float() - want).abs().max() < 0.04


def test_rms_norm():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    assert torch.autograd.gradcheck(rms_norm, x)
    zero = torch.zeros(2, 4, requires_grad=True)
    rms_norm(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()
    assert rms_norm(x.bfloat16()).dtype == torch.bfloat16


def test_rotary_is_complex_multiplication():
    torch.manual_seed(0)
    T, D = 7, 6
    x = torch.randn(2, T, 3, D, dtype=torch.float64)
    angle = torch.arange(T).double()[:, None] * 10000. ** (-torch.arange(0, D, 2).double() / D)           # (T, D/2)
    z = torch.complex(x[..., :D//2], x[..., D//2:]) * torch.polar(torch.ones_like(angle), -angle)[:, None]
    torch.testing.assert_close(rotary(x, *rotary_tables(T, D)), torch.cat([z.real, z.imag], -1), atol=1e-6, rtol=1e-6)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotary(x, *rotary_tables(T, D)), x)


def test_rotary_scores_depend_on_distance():
    cos, sin = rotary_tables(50, 16)
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)
    rq, rk = (rotary(x.expand(1, 50, 1, 16), cos, sin)[0, :, 0] for x in (q, k))
    s = rq @ rk.T
    for d in (-9, -1, 0, 3, 20): torch.testing.assert_close(s.diagonal(d), s.diagonal(d)[:1].expand(50 - abs(d)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(s[0, 0], s[5, 0], atol=1e-2)


def feed(cache, q, k, v, pieces, window):
    out = []
    for qp, kp, vp in zip(*(x.split(pieces, 2) for x in (q, k, v))):
        cache.start(qp.shape[2]); out.append(cache.attend(0, qp, kp, vp, window)); cache.advance(qp.shape[2])
    return torch.cat(out, 2)


@pytest.mark.parametrize("window", [-1, 0, 4, 11, 100])
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [10, 14], [7, 1, 1, 9, 6], [3, 21]])
def test_cache_equals_one_pass(window, pieces):
    q, k, v = random_qkv(3, 4, 2, 24, 8)
    cache = KVCache(1, 3, 30, 2, 8)
    torch.testing.assert_close(feed(cache, q, k, v, pieces, window), naive_attention(q, k, v, window), atol=1e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [24] * 3
    cache.reset()
    torch.testing.assert_close(feed(cache, q, k, v, pieces, window), naive_attention(q, k, v, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [-1, 3])
@pytest.mark.parametrize("more", [[1] * 6, [4, 2], [1, 5]])
def test_cache_with_rows_of_different_length(window, more):
    "After a padded prefill each row goes on as if it were alone."
    lengths, n = [9, 1, 6], sum(more)
    rows = [random_qkv(1, 4, 2, length + n, 8, seed=i) for i, length in enumerate(lengths)]
    cache = KVCache(1, 3, 20, 2, 8)
    padded = [torch.cat([F.pad(r[x][:, :, :length], (0, 0, 0, 9 - length), value=1e3) for r, length in zip(rows, lengths)]) for x in range(3)]
    feed(cache, *padded, [9], window)
    cache.lengths = torch.tensor(lengths)
    got = feed(cache, *(torch.cat([r[x][:, :, -n:] for r in rows]) for x in range(3)), more, window)
    for i, r in enumerate(rows): torch.testing.assert_close(got[i:i+1], naive_attention(*r, window)[:, :, -n:], atol=1e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [length + n for length in lengths]


def test_cache_copies_rows():
    q, k, v = random_qkv(2, 2, 2, 8, 4)
    cache = KVCache(1, 2, 10, 2, 4)
    feed(cache, q[:, :, :5], k[:, :, :5], v[:, :, :5], [5], -1)
    wide, one = cache.expand(3), cache.select([1])
    assert wide.batch_size == 6 and one.batch_size == 1 and wide.lengths.tolist() == [5] * 6
    repeat = [x[:, :, 5:].repeat_interleave(3, 0) for x in (q, k, v)]
    got = feed(wide, *repeat, [1, 1, 1], -1)
    torch.testing.assert_close(got, naive_attention(q, k, v)[:, :, 5:].repeat_interleave(3, 0), atol=1e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [5, 5] and (cache.k[:, :, :, 5:] == 0).all(), "a copy must not write into the original"
    torch.testing.assert_close(feed(one, *(x[1:, :, 5:] for x in (q, k, v)), [3], -1), naive_attention(q, k, v)[1:, :, 5:], atol=1e-5, rtol=1e-5)


def test_full_cache_says_so():
    cache = KVCache(1, 2, 8, 1, 4)
    cache.lengths = torch.tensor([3, 6])
    cache.start(2)
    with pytest.raises(CourseError, match="larger max_len"): cache.start(3)
