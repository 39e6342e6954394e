"The exercises of nbs/24_scaling.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_decay_factor.verify(lambda b, d: b / d, wrong=[lambda b, d: b**0.5 / d, lambda b, d: 1 / d, lambda b, d: d / b, lambda b, d: 1.])

# %%
check_same_so_far.verify(lambda s, t: math.isclose(lr_multiplier(t, 1000, 0, 0.4, 0., s), lr_multiplier(t, 2000, 0, 0.4, 0., s)),
    wrong=[lambda s, t: True, lambda s, t: False, lambda s, t: s == "trapezoid", lambda s, t: lr_multiplier(t, 1000, 0, 0.4, 0., s) == 1 if s == "trapezoid" else True])

# %%
def _most(depth, gib, ranks, zero=2):
    fits = [r for r in (1, 2, 4, 8, 16, 32, 64) if memory_per_rank(replace(plan(depth), device_batch_size=r), ranks, zero=zero)["total"] < gib * 2**30]
    return max(fits, default=0)
check_most_rows.verify(_most, wrong=[lambda d, g, r: 32, lambda d, g, r: _most(d, g, r, 0) if d != 20 else 1, lambda d, g, r: _most(d, g, 1) // 2, lambda d, g, r: _most(d, 2 * g, r)])
