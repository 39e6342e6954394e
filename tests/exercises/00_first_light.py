"The exercises of nbs/00_first_light.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def surprise_solution(s, table):
    i = encode(s)
    return -table[i[:-1], i[1:]].log2().sum().item()
check_surprise.verify(surprise_solution, wrong=[
    lambda s, t: surprise_solution(s, t) * math.log(2), lambda s, t: surprise_solution(s, t) / (len(s) - 1), lambda s, t: -surprise_solution(s, t),
    lambda s, t: surprise_solution(s, t.T), lambda s, t: surprise_solution(s[::-1], t), lambda s, t: surprise_solution(s + s[-1], t)])

# %%
def head_solution(x, Wq, Wk, Wv, mask=True, scale=0.5, zero=False, strict=False, dim=-1):
    q, k, v = x @ Wq, x @ Wk, x @ Wv
    scores = q @ k.T / q.shape[1]**scale
    future = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), 0 if strict else 1)
    if zero: return scores.softmax(dim).masked_fill(future, 0.) @ v
    return (scores.masked_fill(future, -torch.inf) if mask else scores).softmax(dim) @ v
check_head.verify(head_solution, wrong=[
    lambda *a: head_solution(*a, mask=False), lambda *a: head_solution(*a, scale=0.), lambda *a: head_solution(*a, scale=1.), lambda *a: head_solution(*a, zero=True),
    lambda *a: head_solution(*a, strict=True), lambda *a: head_solution(*a, dim=0), lambda x, q, k, v: head_solution(x, k, q, v), lambda x, q, k, v: head_solution(x, q, k, v).sum(1)])

# %%
def counted_solution(train, longest=4, weight=4.):
    tables = [{} for _ in range(longest + 1)]
    ids = train.tolist()
    for n in range(longest + 1):
        for i in range(n, len(ids)):
            row = tables[n].setdefault(tuple(ids[i - n:i]), {})
            row[ids[i]] = row.get(ids[i], 0) + 1
    def guess(before):
        p = torch.ones(V) / V
        for n in range(longest + 1):
            row = tables[n].get(tuple(before[len(before) - n:]), {})
            counts = torch.zeros(V)
            for i, c in row.items(): counts[i] = c
            p = (counts + weight * p) / (counts.sum() + weight)
        return p
    return guess

def plain_tables(train, n):
    "A table after n characters with one added to each count: its rows are too empty."
    rows = {}
    ids = train.tolist()
    for i in range(n, len(ids)): rows.setdefault(tuple(ids[i - n:i]), torch.ones(V))[ids[i]] += 1
    return lambda before: (lambda row: row / row.sum())(rows.get(tuple(before[-n:]), torch.ones(V)))

def never_say_never(train):
    guess = plain_tables(train, 2)
    return lambda before: (lambda p: (p - p.min()) / (p - p.min()).sum() if (p - p.min()).sum() > 0 else p)(guess(before))

check_counted.verify(counted_solution, wrong=[
    lambda t: plain_tables(t, 1), lambda t: plain_tables(t, 3), lambda t: plain_tables(t, 4), never_say_never, lambda t: lambda before: torch.ones(V),
    lambda t: counted_solution(t[:1000])])

# %%
def surprise_on_held_out(guess): return sum(-guess(held_out[i - 8:i].tolist())[held_out[i]].log2().item() for i in range(10, len(held_out) - 2, 40)) / len(range(10, len(held_out) - 2, 40))
assert surprise_on_held_out(counted_solution(train)) < score["four blocks"], "the solution's text says that counting wins here"
