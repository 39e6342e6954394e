"The exercises of nbs/41_tasks.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_key_of.verify(lambda p: ' * '.join(sorted(p.split(' * '), key=int)), wrong=[lambda p: p, lambda p: str(eval(p)), lambda p: '*', lambda p: sorted(p), lambda p: ''.join(sorted(p))])

# %%
_right = lambda parts: [0] + [int(k != 'python_output') for k, n in parts for _ in range(n)] + [1]
check_turn_mask.verify(_right, wrong=[lambda p: [0] + [1] * sum(n for _, n in p) + [1], lambda p: [0] + [int(k == 'text') for k, n in p for _ in range(n)] + [1], lambda p: _right(p)[:-1] + [0], lambda p: [1] + _right(p)[1:]])
