"The exercises of nbs/27_train.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_weighted_pieces.verify(lambda losses, counts: [c / max(1, sum(counts)) for c in counts],
    wrong=[lambda l, c: [1 / len(c)] * len(c), lambda l, c: c, lambda l, c: [x / sum(c) for x in c], lambda l, c: [x / max(c) for x in c], lambda l, c: [1] * len(c)])

# %%
import statistics
def _spikes(norms, factor, window, middle=statistics.median, keep=False, nan=True, least=5, last=True):
    kept, out = [], []
    for i, n in enumerate(norms):
        recent = kept[-window:] if last else kept
        bad = (nan and n != n) or (len(recent) >= least and n > factor * middle(recent))
        if bad: out.append(i)
        if keep or not bad: kept.append(n)
    return out
check_spikes.verify(_spikes, wrong=[lambda *a: _spikes(*a, keep=True, middle=statistics.mean), lambda *a: _spikes(*a, keep=True), lambda *a: _spikes(*a, nan=False),
                                    lambda *a: _spikes(*a, least=1), lambda *a: _spikes(*a, last=False), lambda norms, factor, window: [i for i, n in enumerate(norms) if n > factor]])
