"The exercises of nbs/51_chat_web.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _can_show(text, stops):
    places = [text.find(s) for s in stops if s in text]
    if places: return min(places)
    held = [n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])]
    return len(text) - max(held, default=0)
def _shortest(text, stops):
    places = [text.find(s) for s in stops if s in text]
    if places: return min(places)
    held = [n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])]
    return len(text) - min(held, default=0)
def _first_in_list(text, stops): return next((text.find(s) for s in stops if s in text), _can_show(text, stops))
check_can_show.verify(_can_show, wrong=[lambda t, s: min([t.find(x) for x in s if x in t], default=len(t)), _shortest, _first_in_list,
                                        lambda t, s: len(t) - max(map(len, s), default=0), lambda t, s: len(t)])

# %%
def _fork(trace, forced=False, difference=lambda o, t: o["logprob"] - t["logprob"], keep=lambda trace, i: trace[:i]):
    found = [(difference(o, t), i, o["id"]) for i, t in enumerate(trace) if forced or not t["forced"] for o in t["top_logprobs"] if o["id"] != t["id"]]
    best = max(found, key=lambda x: x[0])
    return [t["id"] for t in keep(trace, best[1])] + [best[2]]
check_fork.verify(_fork, wrong=[lambda t: _fork(t, forced=True), lambda t: _fork(t, difference=lambda o, t: o["logprob"]), lambda t: _fork(t, difference=lambda o, t: -t["logprob"]),
                                lambda t: _fork(t, keep=lambda t, i: t[:i + 1]), lambda t: [*_fork(t), *[x["id"] for x in t[len(_fork(t)):]]],
                                lambda t: _fork(t, difference=lambda o, t: -abs(o["logprob"] - t["logprob"]))])
