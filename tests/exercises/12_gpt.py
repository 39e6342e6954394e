"The exercises of nbs/12_gpt.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_count.verify(lambda V, L, C: 2*V*C + L*12*C*C, wrong=[lambda V, L, C: V*C + L*12*C*C, lambda V, L, C: L*12*C*C, lambda V, L, C: 2*V*C + L*8*C*C, lambda V, L, C: 2*V*C + 12*C*C])

# %%
def _mean(pieces): return sum(l[t >= 0].sum() for l, t in pieces) / max(sum((t >= 0).sum().item() for _, t in pieces), 1)
check_mean.verify(_mean, wrong=[lambda ps: torch.cat([l for l, _ in ps]).mean(), lambda ps: sum(l[t >= 0].mean() for l, t in ps) / len(ps),
    lambda ps: sum(l[t >= 0].sum() for l, t in ps) / sum(len(l) for l, _ in ps), lambda ps: torch.cat([l[t >= 0] for l, t in ps]).mean()])
