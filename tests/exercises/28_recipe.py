"The exercises of nbs/28_recipe.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_scale.verify(lambda D, n, w: math.sqrt(math.log((n - 1) * w / (1 - w)) / math.sqrt(D)), wrong=[
    lambda D, n, w: math.log((n - 1) * w / (1 - w)) / math.sqrt(D), lambda D, n, w: math.sqrt(math.log(n * w / (1 - w)) / D), lambda D, n, w: 1.2])

# %%
def _step(memory, x, strength):
    before = torch.zeros_like(x[:1]) if memory is None else memory
    return x[-1:], x + strength * torch.cat([before, x[:-1]])
def _chained(memory, x, strength):
    memory, x = (x[0] * 0 if memory is None else memory), x.clone()
    for t in range(len(x)): x[t] += strength * memory; memory = x[t].clone()
    return memory, x
def _keeps_smeared(memory, x, strength):
    y = _step(memory, x, strength)[1]
    return y[-1:], y
check_step.verify(_step, wrong=[_chained, _keeps_smeared, lambda m, x, s: _step(None, x, s), lambda m, x, s: (x[:1], _step(m, x, s)[1]), lambda m, x, s: (x[-1:], x + s * x)])
