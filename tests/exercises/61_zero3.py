"The exercises of nbs/61_zero3.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
right = lambda P, W, K, kept: K * (2 if kept else 3) * 4 * P * (W - 1) // W
check_bytes.verify(right, wrong=[lambda P, W, K, kept: right(P, W, 1, kept), lambda P, W, K, kept: right(P, W, K, False), lambda P, W, K, kept: 4 * P * (W - 1) // W * (K + (1 if kept else 2)),
                                 lambda P, W, K, kept: 4 * P * (W - 1) // W * (2 * K + 1 if not kept else K + 1), lambda P, W, K, kept: K * (2 if kept else 3) * 4 * P])

# %%
def right(sizes, per, k):
    first = sum(sizes[:k]); last = first + sizes[k]
    return [(r, max(first, r * per) - r * per, min(last, (r + 1) * per) - r * per) for r in range(first // per, -(-last // per))]
def from_zero(sizes, per, k): return right([sizes[k]], per, 0)
def absolute(sizes, per, k): return [(r, r * per + a, r * per + b) for r, a, b in right(sizes, per, k)]
def with_empty(sizes, per, k): return [(r, min(max(sum(sizes[:k]) - r * per, 0), per), min(max(sum(sizes[:k + 1]) - r * per, 0), per)) for r in range(-(-sum(sizes) // per))]
check_where.verify(right, wrong=[from_zero, absolute, with_empty])
