"The exercises of nbs/21_optim.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def adamw_solution(w, g, m, v, t, lr, b1, b2, eps, decay, bias=True, l2=False):
    if l2: g = g + decay * w
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    c1, c2 = (1 - b1**t, 1 - b2**t) if bias else (1, 1)
    return w * (1 if l2 else 1 - lr * decay) - lr * (m / c1) / ((v / c2).sqrt() + eps), m, v
check_adamw.verify(adamw_solution, wrong=[lambda *a: adamw_solution(*a, bias=False), lambda *a: adamw_solution(*a, l2=True), lambda w, g, m, v, *a: (w - 0.1 * g, m, v), lambda *a: None])

# %%
check_factor.verify(lambda s, t: t * max(s)**0.5, wrong=[lambda s, t: t * min(s)**0.5, lambda s, t: t * s[0]**0.5, lambda s, t: t, lambda s, t: 0.2 * max(s)**0.5])

# %%
check_mask.verify(lambda u, w: u * w >= 0, wrong=[lambda u, w: u * w < 0, lambda u, w: u > 0, lambda u, w: w > 0, lambda u, w: torch.ones(4).bool()])
