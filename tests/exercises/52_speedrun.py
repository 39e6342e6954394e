"The exercises of nbs/52_speedrun.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_outdated.verify(lambda o, c: next((o[i:] for i, s in enumerate(o) if s in c), []), wrong=[lambda o, c: [s for s in o if s in c], lambda o, c: o if c else [], lambda o, c: o[-len(c):] if c else []])

# %%
def must_run_solution(reads, writes, changed):
    stale, run = set(), []
    for s in reads:
        if s in changed or stale & set(reads[s]): run.append(s); stale |= set(writes[s])
    return run
def one_hop(reads, writes, changed):
    stale = {w for s in changed for w in writes[s]}
    return [s for s in reads if s in changed or stale & set(reads[s])]
def chain(reads, writes, changed): return next((list(reads)[i:] for i, s in enumerate(reads) if s in changed), [])
check_must_run.verify(must_run_solution, wrong=[one_hop, chain, lambda r, w, c: [s for s in r if s in c]])

# %%
check_status.verify(lambda r: r if r >= 0 else 128 - r, wrong=[lambda r: r, lambda r: 128 + r, lambda r: abs(r)])
