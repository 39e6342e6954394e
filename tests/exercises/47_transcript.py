"The exercises of nbs/47_transcript.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def loops_solution(text):
    for k in range(2, len(text) // 3 + 1):
        tail = text[-3 * k:]
        if tail.strip() and all(a == b for a, b in zip(tail, tail[k:])): return True
    return False
check_loops.verify(loops_solution, wrong=[lambda text: True, lambda text: False, lambda text: "  " in text, lambda text: len(text) > 10,
                                          lambda text: any(text[-k:] == text[-2 * k:-k] for k in range(1, len(text) // 2 + 1))])

# %%
def changed_solution(talks, before, after):
    pairs = [(x["content"], y["content"]) for t in talks for x, y in zip(t[before], t[after]) if x["role"] == "assistant"]
    return sum(x != y for x, y in pairs) / len(pairs)
def first_turns(talks, before, after): return sum(t[before][1] != t[after][1] for t in talks) / len(talks)
def all_messages(talks, before, after):
    pairs = [(x, y) for t in talks for x, y in zip(t[before], t[after])]
    return sum(x != y for x, y in pairs) / len(pairs)
check_changed.verify(changed_solution, wrong=[first_turns, all_messages, lambda *a: 0, lambda t, a, b: float(a != b)])
