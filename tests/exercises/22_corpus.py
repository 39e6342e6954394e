"The exercises of nbs/22_corpus.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_leak.verify(leak_solution, wrong=[lambda t, v: sum(d in t for d in v) / len(v), lambda t, v: sum(d in "".join(t) for d in v) / len(v),
    lambda t, v: (lambda s, p: sum(len(x) for x in p if x in s) / sum(map(len, p)))({p for d in t for p in d.split("\n\n")}, {p for d in v for p in d.split("\n\n")}),
    lambda t, v: (lambda s, p: sum(x in s for x in p) / len(p))({p for d in t for p in d.split("\n\n")}, [p for d in v for p in d.split("\n\n")])])

# %%
check_resume.verify(lambda have, s, body: have + body if s == 206 else body if s == 200 else have,
                    wrong=[lambda have, s, body: have + body, lambda have, s, body: body if s == 200 else have + body, lambda have, s, body: body,
                           lambda have, s, body: have + body[len(have):] if s == 200 else have + body if s == 206 else have])
