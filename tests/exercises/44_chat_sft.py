"The exercises of nbs/44_chat_sft.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _loud(masks, count=sum, among=lambda cs: sum(c > 0 for c in cs)):
    counts = [count(m) for m in masks]
    return [(c / sum(counts), (c > 0) / among(counts)) for c in counts]
check_loudness.verify(_loud, wrong=[lambda m: _loud(m, count=len), lambda m: _loud(m, among=len), lambda m: [(t, t) for t, _ in _loud(m)],
                                    lambda m: [(c, c) for _, c in _loud(m)], lambda m: [(c, t) for t, c in _loud(m)], lambda m: [(1 / len(m), 1 / len(m))] * len(m)])

# %%
check_make_targets.verify(lambda ids, mask: [i if m else -1 for i, m in zip(ids[1:], mask[1:])],
    wrong=[lambda ids, mask: [i if m else -1 for i, m in zip(ids[1:], mask)], lambda ids, mask: [i if m else -1 for i, m in zip(ids, mask)], lambda ids, mask: ids[1:],
           lambda ids, mask: [i if m else -1 for i, m in zip(ids[:-1], mask[:-1])], lambda ids, mask: [i * m for i, m in zip(ids[1:], mask[1:])]])
