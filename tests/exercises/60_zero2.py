"The exercises of nbs/60_zero2.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
right = lambda P, W, K, s: 4 * P * (W - 1) // W * ((K if s == 2 else 1) + 1)
check_bytes.verify(right, wrong=[lambda P, W, K, s: 2 * right(P, W, K, s), lambda P, W, K, s: 8 * P * (W - 1) // W, lambda P, W, K, s: 4 * P * (W - 1) // W * 2 * (K if s == 2 else 1)])

# %%
sq = lambda ts: sum((t.square().sum() for t in ts), torch.zeros(()))
check_norm.verify(lambda s, r, m, red: red(sq(s) + (sq(r) if m else 0)).sqrt(), wrong=[lambda s, r, m, red: red(sq(s) + sq(r)).sqrt(), lambda s, r, m, red: (sq(s) + sq(r)).sqrt(), lambda s, r, m, red: red((sq(s) + (sq(r) if m else 0)).sqrt())])
