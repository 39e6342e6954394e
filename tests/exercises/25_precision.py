"The exercises of nbs/25_precision.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_smallest.verify(lambda w, d: torch.finfo(d).eps / 2 * 2**math.floor(math.log2(abs(w))),
    wrong=[lambda w, d: torch.finfo(d).eps, lambda w, d: torch.finfo(d).eps * abs(w), lambda w, d: torch.finfo(d).eps / 2 * abs(w), lambda w, d: torch.finfo(d).tiny,
           lambda w, d: torch.finfo(d).eps * 2**math.floor(math.log2(abs(w)))])

# %%
def solution(x):
    amax = x.abs().max().item()
    return 2.**math.floor(math.log2(448 / amax)) if amax else 1.
check_scale.verify(solution, wrong=[lambda x: 448 / x.abs().max(), lambda x: 2.**math.ceil(math.log2(448 / max(x.abs().max().item(), 1e-12))), lambda x: 1.,
    lambda x: 2.**torch.floor(torch.log2(448 / x.abs().max())), lambda x: 2.**math.floor(math.log2(448 / max(x.max().item(), 1e-12))) / 2])
