"The exercises of nbs/23_dataloader.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def best_fit_solution(lengths, space): i = bisect_right(lengths, space) - 1; return i if i >= 0 else None
from bisect import bisect_left
check_best_fit.verify(best_fit_solution, wrong=[lambda l, s: bisect_right(l, s) - 1, lambda l, s: (lambda i: i if i >= 0 else None)(bisect_left(l, s) - 1),
    lambda l, s: max((i for i, n in enumerate(l) if n <= s), default=None), lambda l, s: 0 if l and l[0] <= s else None])

# %%
def inplace(row, mask): row[mask == 0] = -1; return row[1:]
check_masked_targets.verify(lambda r, m: np.where(m[1:] == 1, r[1:], -1), wrong=[lambda r, m: np.where(m[:-1] == 1, r[1:], -1), lambda r, m: r[1:],
    lambda r, m: np.where(m == 1, r, -1), lambda r, m: np.where(m[:-1] == 1, r[:-1], -1), inplace])
