"The exercises of nbs/93_report.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def best_solution(row):
    values = [(float(c.replace(",", "")), i) for i, c in enumerate(row) if i and c != "–"]
    return max(values)[1] if values else None
check_best.verify(best_solution, wrong=[lambda r: 1, lambda r: max(range(1, len(r)), key=lambda i: r[i]),
    lambda r: max(range(1, len(r)), key=lambda i: 0 if r[i] == "–" else float(r[i].replace(",", "")))])

# %%
def falling_solution(losses):
    n = len(losses) // 10
    a, b = torch.tensor(losses[-2*n:-n]), torch.tensor(losses[-n:])
    return bool(a.mean() - b.mean() > ((a.var() + b.var()) / n).sqrt() + 1e-12)
check_falling.verify(falling_solution, wrong=[lambda l: True, lambda l: False, lambda l: l[-1] < l[-2],
    lambda l: sum(l[-len(l)//10:]) < sum(l[-2*(len(l)//10):-(len(l)//10)])])
