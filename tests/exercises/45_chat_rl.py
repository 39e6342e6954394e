"The exercises of nbs/45_chat_rl.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_loo.verify(lambda r: (r - r.mean(1, keepdim=True)) * r.shape[1] / (r.shape[1] - 1), wrong=[group_advantages, lambda r: r - r.mean(), lambda r: r - r.sum(1, keepdim=True) / (r.shape[1] - 1)])

# %%
check_no_signal.verify(lambda p, n: p**n + (1 - p)**n, wrong=[lambda p, n: (1 - p)**n, lambda p, n: p**n, lambda p, n: 1 - p**n - (1 - p)**n])
