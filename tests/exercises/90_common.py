"The exercises of nbs/90_common.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_global_mean.verify(lambda t, c, r: r(t) / r(c), wrong=[lambda t, c, r: t / c, lambda t, c, r: r(t / c) / 2, lambda t, c, r: r(t) / c])

# %%
check_relogged.verify(lambda k, e: list(range((k + 1) // e * e, k + 1)), wrong=[lambda k, e: list(range(k // e * e, k + 1)), lambda k, e: list(range(k // e * e + 1, k + 1)), lambda k, e: []])
