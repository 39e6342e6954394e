"The exercises of nbs/71_nanogpt.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _credit(a, b):
    by_steps, by_ms = math.log(a[0] / b[0]), math.log(a[1] / b[1])
    return by_steps / (by_steps + by_ms)
check_credit.verify(_credit, wrong=[
    lambda a, b: (a[0] - b[0]) / a[0] / ((a[0] - b[0]) / a[0] + (a[1] - b[1]) / a[1]), lambda a, b: 1 - _credit(a, b), lambda a, b: 2 / 3,
    lambda a, b: (a[0] / b[0]) / (a[0] / b[0] + a[1] / b[1])])

# %%
def _partner(layer, n_layer):
    other = n_layer - 1 - layer
    return other if layer > other else None
check_partner.verify(_partner, wrong=[
    lambda layer, n: n - 1 - layer, lambda layer, n: n - layer if layer >= n // 2 else None, lambda layer, n: n - 1 - layer if layer >= n // 2 else None,
    lambda layer, n: layer - n // 2 if layer >= n // 2 else None])
