"The exercises of nbs/31_tok_train.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
best_vocab_solution = lambda rate, depth, width: min(rate, key=lambda V: (12 * depth * width**2 + V * width) / rate[V])
check_best_vocab.verify(best_vocab_solution, wrong=[lambda r, L, d: max(r, key=r.get), lambda r, L, d: min(r), lambda r, L, d: min(r, key=lambda V: (12*L*d*d + V*d) * r[V]),
    lambda r, L, d: min(r, key=lambda V: 12*L*d*d / r[V])])

# %%
check_unused.verify(unused_solution, wrong=[lambda t, x: [], lambda t, x: sorted(set(range(t.vocab_size)) - {i for ids in t.encode(x) for i in ids}),
    lambda t, x: [i for i in unused_solution(t, x) if i >= 256], lambda t, x: list(range(len(t.vocab)))])
