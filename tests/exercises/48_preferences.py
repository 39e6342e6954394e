"The exercises of nbs/48_preferences.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
import math
def _margin(c, r, rc, rr, beta): return beta * ((c - rc) - (r - rr))
def _sigmoid(x): return 1 / (1 + math.exp(-x))
check_gradient.verify(lambda *a: -a[-1] * _sigmoid(-_margin(*a)), wrong=[
    lambda *a: a[-1] * _sigmoid(-_margin(*a)), lambda *a: -_sigmoid(-_margin(*a)), lambda *a: -a[-1] * _sigmoid(_margin(*a)),
    lambda c, r, rc, rr, beta: -beta * _sigmoid(-beta * (c - r))])

# %%
def _needed(p):
    n = 1
    while sum(math.comb(n, k) * p**k * (1 - p)**(n - k) for k in range(n // 2 + 1, n + 1)) < 0.95: n += 2
    return n
check_pairs.verify(_needed, wrong=[lambda p: 1, lambda p: _needed(p) + 2, lambda p: math.ceil(math.log(.05) / math.log(1 - p))])
