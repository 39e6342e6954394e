"The exercises of nbs/23_dataloader.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def best_fit_solution(lengths, space): i = bisect_right(lengths, space) - 1; return i if i >= 0 else None
from bisect import bisect_left
check_best_fit.verify(best_fit_solution, wrong=[lambda l, s: bisect_right(l, s) - 1, lambda l, s: (lambda i: i if i >= 0 else None)(bisect_left(l, s) - 1),
    lambda l, s: max((i for i, n in enumerate(l) if n <= s), default=None), lambda l, s: 0 if l and l[0] <= s else None])

# %%
_kept = lambda lengths, T: sum(min(n, T) for n in lengths)
check_padded.verify(lambda n, T: (1 - _kept(n, T) / (T * len(n)), 1 - _kept(n, T) / sum(n)), wrong=[
    lambda n, T: (1 - _kept(n, T) / (T * len(n)), 0.), lambda n, T: (1 - _kept(n, T) / (T * len(n)), sum(1 - min(x, T) / x for x in n) / len(n)),
    lambda n, T: (_kept(n, T) / (T * len(n)), _kept(n, T) / sum(n)), lambda n, T: (1 - sum(n) / (T * len(n)), 1 - _kept(n, T) / sum(n))])
