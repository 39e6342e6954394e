"The exercises of nbs/30_evaluation.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_combine.verify(lambda r: sum(n for n, _ in r) / math.log(2) / sum(b for _, b in r),
    wrong=[lambda r: sum(n for n, _ in r) / sum(b for _, b in r), lambda r: sum(n / math.log(2) / b for n, b in r) / len(r)])

# %%
check_choose.verify(lambda o: min(range(len(o)), key=lambda i: sum(o[i]) / len(o[i])),
    wrong=[lambda o: min(range(len(o)), key=lambda i: sum(o[i])), lambda o: min(range(len(o)), key=lambda i: min(o[i])), lambda o: max(range(len(o)), key=lambda i: sum(o[i]) / len(o[i]))])
