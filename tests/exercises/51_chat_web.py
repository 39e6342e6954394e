"The exercises of nbs/51_chat_web.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _joining(lengths, free, budget):
    joined = total = 0
    for n in lengths[:free]:
        total += n
        if joined and total > budget: break
        joined += 1
    return joined
def _starves(lengths, free, budget):
    joined = total = 0
    for n in lengths[:free]:
        total += n
        if total > budget: break
        joined += 1
    return joined
def _overtakes(lengths, free, budget):
    joined = total = 0
    for n in lengths:
        if joined < free and (not joined or total + n <= budget): joined, total = joined + 1, total + n
    return joined
check_joining.verify(_joining, wrong=[_starves, _overtakes, lambda n, f, b: min(len(n), f), lambda n, f, b: max(1, _joining(n, f, b)),
                                      lambda n, f, b: _joining(n, f, b - 1), lambda n, f, b: _joining(n, 10**9, b)])

# %%
def _fork(trace, forced=False, difference=lambda o, t: o["logprob"] - t["logprob"], keep=lambda trace, i: trace[:i]):
    found = [(difference(o, t), i, o["id"]) for i, t in enumerate(trace) if forced or not t["forced"] for o in t["top_logprobs"] if o["id"] != t["id"]]
    best = max(found, key=lambda x: x[0])
    return [t["id"] for t in keep(trace, best[1])] + [best[2]]
check_fork.verify(_fork, wrong=[lambda t: _fork(t, forced=True), lambda t: _fork(t, difference=lambda o, t: o["logprob"]), lambda t: _fork(t, difference=lambda o, t: -t["logprob"]),
                                lambda t: _fork(t, keep=lambda t, i: t[:i + 1]), lambda t: [*_fork(t), *[x["id"] for x in t[len(_fork(t)):]]],
                                lambda t: _fork(t, difference=lambda o, t: -abs(o["logprob"] - t["logprob"]))])
