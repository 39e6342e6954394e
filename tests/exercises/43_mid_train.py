"The exercises of nbs/43_mid_train.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
_right = lambda ts: [n * l * e / sum(n * l * e for n, l, e in ts) for n, l, e in ts]
check_shares.verify(_right, wrong=[lambda ts: [n * e / sum(n * e for n, l, e in ts) for n, l, e in ts], lambda ts: [l * e / sum(l * e for n, l, e in ts) for n, l, e in ts], lambda ts: [n * l * e for n, l, e in ts], lambda ts: [n * l / sum(n * l for n, l, e in ts) for n, l, e in ts]])

# %%
def _sizes(rows, batch, parts):
    m = parts * math.ceil(rows / (batch * parts))
    return [(i + 1) * rows // m - i * rows // m for i in range(m)]
check_sizes.verify(_sizes, wrong=[lambda r, b, p: [b] * (r // b) + [r % b], lambda r, b, p: [b] * math.ceil(r / b), lambda r, b, p: [1] * r,
                                  lambda r, b, p: [max(0, min(b, r - i * b)) for i in range(p * math.ceil(r / (b * p)))]])
