"The exercises of nbs/62_optimizer_lab.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_add.verify(lambda x, t, z, w: (x + (z - x) * w / (t + w), t + w),
    wrong=[lambda x, t, z, w: (x + (z - x) * w / t if t else z, t + w), lambda x, t, z, w: ((x + z) / 2, t + w), lambda x, t, z, w: (x + z * w, t + w), lambda x, t, z, w: (x + (z - x) * w / (t + w), t + 1)])

# %%
def numbers_solution(shape, name, max_dim=10_000):
    copies = dict(sgd=0, momentum=1, muon=1, adamw=2, soap=2)[name] * shape[0] * shape[1]
    return copies + (sum(2 * d * d for d in shape if d <= max_dim) if name == "soap" else 0)
check_numbers.verify(numbers_solution, wrong=[lambda s, n, d=0: dict(sgd=0, momentum=1, muon=1, adamw=2, soap=6)[n] * s[0] * s[1], lambda s, n, d=10_000: numbers_solution(s, n),
    lambda s, n, d=10_000: numbers_solution(s, n, d) + (n == "muon"), lambda s, n, d=10_000: numbers_solution(s, n, d) - (sum(x * x for x in s if x <= d) if n == "soap" else 0)])

# %%
check_unfair.verify(lambda race: next(lr for lr in RATES if race("adamw", lr) < race("muon", lr)), wrong=[lambda race: 0.02, lambda race: min(RATES, key=lambda lr: race("muon", lr) / race("adamw", lr)), lambda race: None])
