"The exercises of nbs/53_plan.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def deepest_solution(dollars): return max(d for d in range(4, 41, 2) if bill(PlanConfig(depth=d))["dollars"] <= dollars)
check_deepest.verify(deepest_solution, wrong=[lambda d: 24, lambda d: min(40, deepest_solution(d) + 2), lambda d: max(4, deepest_solution(d) - 2), lambda d: deepest_solution(d) + 1])

# %%
def slower_solution(depth, gpus):
    eight, few = (bill(PlanConfig(depth=depth, gpus=n, preset="8xh100")) for n in (8, gpus))
    return few["hours"] / eight["hours"], few["total_batch_size"] == eight["total_batch_size"]

def forgets_preset(depth, gpus):
    eight, few = (bill(PlanConfig(depth=depth, gpus=n)) for n in (8, gpus))
    return few["hours"] / eight["hours"], few["total_batch_size"] == eight["total_batch_size"]
check_slower.verify(slower_solution, wrong=[forgets_preset, lambda d, n: (8 / n, not slower_solution(d, n)[1]), lambda d, n: (n / 8, True), lambda d, n: (1 / slower_solution(d, n)[0], slower_solution(d, n)[1])])
