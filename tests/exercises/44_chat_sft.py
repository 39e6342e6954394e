"The exercises of nbs/44_chat_sft.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
_right = lambda ps: sum(l * m for ls, ms in ps for l, m in zip(ls, ms)) / sum(m for _, ms in ps for m in ms)
_mean = lambda ls, ms: sum(l * m for l, m in zip(ls, ms)) / sum(ms)
check_batch_loss.verify(_right, wrong=[lambda ps: sum(_mean(*p) for p in ps) / len(ps), lambda ps: sum(sum(ls) / len(ls) for ls, _ in ps) / len(ps),
                                       lambda ps: sum(l for ls, _ in ps for l in ls) / sum(len(ls) for ls, _ in ps), lambda ps: sum(_mean(*p) for p in ps if sum(p[1])) / len([p for p in ps if sum(p[1])])])

# %%
check_make_targets.verify(lambda ids, mask: [i if m else -1 for i, m in zip(ids[1:], mask[1:])],
    wrong=[lambda ids, mask: [i if m else -1 for i, m in zip(ids[1:], mask)], lambda ids, mask: [i if m else -1 for i, m in zip(ids, mask)], lambda ids, mask: ids[1:],
           lambda ids, mask: [i if m else -1 for i, m in zip(ids[:-1], mask[:-1])], lambda ids, mask: [i * m for i, m in zip(ids[1:], mask[1:])]])
