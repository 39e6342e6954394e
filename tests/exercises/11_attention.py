"The exercises of nbs/11_attention.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
_back = lambda T: torch.arange(T)[:, None] - torch.arange(T)
check_mask.verify(lambda T, w: (_back(T) >= 0) & (_back(T) <= w), wrong=[lambda T, w: _back(T).abs() <= w, lambda T, w: (_back(T) >= 0) & (_back(T) < w),
    lambda T, w: (_back(T) > 0) & (_back(T) <= w), lambda T, w: torch.ones(T, T).tril().bool(), lambda T, w: ((_back(T) >= 0) & (_back(T) <= w)).T])

# %%
def _un(y, p, d, sign=-1, shift=0): c, s = rotary_tables(p + 2, d); return rotary(y.view(1, 1, 1, -1), c[p+shift:p+shift+1], sign * s[p+shift:p+shift+1]).flatten()
check_unrotate.verify(_un, wrong=[lambda y, p, d: y, lambda y, p, d: _un(y, p, d, 1), lambda y, p, d: _un(y, p, d, -1, 1)])
