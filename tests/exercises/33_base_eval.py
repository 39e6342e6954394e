"The exercises of nbs/33_base_eval.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_beaten.verify(lambda b, r: sorted((n for n, v in r.items() if v > b), key=r.get),
    wrong=[lambda b, r: [n for n, v in r.items() if v > b], lambda b, r: sorted((n for n, v in r.items() if v < b), key=r.get), lambda b, r: sorted(r, key=r.get)])

# %%
check_real.verify(lambda a, b, n: abs(a - b) > 2 * ((a * (1 - a) + b * (1 - b)) / n) ** 0.5,
    wrong=[lambda a, b, n: a != b, lambda a, b, n: b - a > 2 * ((a * (1 - a) + b * (1 - b)) / n) ** 0.5, lambda a, b, n: abs(a - b) > 2 * (a * (1 - a) / n) ** 0.5])
