"The exercises of nbs/55_doctor.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def container_solution(meminfo_kb, limit, used):
    room = meminfo_kb * 1024
    if limit != "max": room = min(room, int(limit) - int(used))
    return max(0, room)

check_container.verify(container_solution, wrong=[
    lambda m, l, u: m * 1024, lambda m, l, u: m if l == "max" else int(l) - int(u),
    lambda m, l, u: m * 1024 if l == "max" else int(l) - int(u), lambda m, l, u: m * 1024 if l == "max" else min(m * 1024, int(l))])

# %%
def slow_solution(speeds):
    middle = sorted(speeds)[len(speeds) // 2]
    return [i for i, s in enumerate(speeds) if s < 0.85 * middle]

check_slow.verify(slow_solution, wrong=[
    lambda s: [i for i, x in enumerate(s) if x < 0.85 * max(s)], lambda s: [i for i, x in enumerate(s) if x < 0.85 * sum(s) / len(s)],
    lambda s: [min(range(len(s)), key=s.__getitem__)], lambda s: [i for i, x in enumerate(s) if x < 0.99 * sorted(s)[len(s) // 2]]])
