"The exercises of nbs/42_real_tasks.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
import re
def _key(c):
    lines = c["messages"][0]["content"].lower().split("\n")
    return frozenset(" ".join(re.findall(r"\w+", line.rsplit("=", 1)[0])) for line in lines)
def _leaked(key): return lambda taught, asked: [i for i, c in enumerate(asked) if key(c) in {key(t) for t in taught}]
check_leaked.verify(_leaked(_key), wrong=[_leaked(lambda c: c["messages"][0]["content"]), _leaked(lambda c: c["messages"][0]["content"].lower()),
                                          _leaked(lambda c: _key(c) - {min(_key(c), key=lambda w: -len(w))}), _leaked(lambda c: c["messages"][0]["content"].split("\n")[0].lower().replace("  ", " ").rstrip("?")),
                                          lambda taught, asked: [], lambda taught, asked: list(range(len(asked)))])

# %%
def _letter_of(answer, letters):
    answer = re.sub(r"\bA (?!or\b|and\b)(?=[a-z])", " ", answer)
    found = [w for w in re.findall(r"\b\w+\b", answer) if w in letters]
    return found[0] if len(set(found)) == 1 else None
check_letter_of.verify(_letter_of, wrong=[lambda a, l: a.strip(" .") if a.strip(" .") in l else None, lambda a, l: next((c for c in a if c in l), None),
                                          lambda a, l: next((w for w in re.findall(r"\b\w+\b", a) if w in l), None), lambda a, l: l[0],
                                          lambda a, l: (re.findall(r"\b[A-D1-9]\b", a) or [None])[-1]])
