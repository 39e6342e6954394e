"The exercises of nbs/26_checkpoint.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def solution(s, h, dt): return max(1, round(math.sqrt(2 * s * h * 3600) / dt))
check_save_every.verify(solution, wrong=[lambda s, h, dt: math.sqrt(2 * s * h * 3600) / dt, lambda s, h, dt: round(math.sqrt(2 * s * h * 3600)),
    lambda s, h, dt: max(1, round(math.sqrt(s * h * 3600) / dt)), lambda s, h, dt: 1000, lambda s, h, dt: round(math.sqrt(2 * s * h * 3600) / dt)])

# %%
def solution(items, state=None):
    state = state or {}
    position, buffer = state.get("position", 0), list(state.get("buffer", []))
    while True:
        while len(buffer) < 4: buffer.append(items[position % len(items)]); position += 1
        item = buffer.pop(random.Random(position).randrange(4))
        yield item, dict(position=position, buffer=list(buffer))

def aliased(items, state=None): # yields its own buffer, which changes afterwards
    state = state or {}
    position, buffer = state.get("position", 0), list(state.get("buffer", []))
    while True:
        while len(buffer) < 4: buffer.append(items[position % len(items)]); position += 1
        item = buffer.pop(random.Random(position).randrange(4))
        yield item, dict(position=position, buffer=buffer)

def replay(items, state=None): # keeps the whole history
    n = len(state["seen"]) if state else 0
    seen = list(state["seen"]) if state else []
    for x, _ in islice(forgetful(items), n, None): seen.append(x); yield x, dict(seen=list(seen))
check_shuffled.verify(solution, wrong=[forgetful, aliased, replay, lambda items, state=None: ((x, {}) for x in items)])
