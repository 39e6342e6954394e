"The exercises of nbs/56_completions.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

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
def _events(packets):
    rest, found = b"", []
    for packet in packets:
        rest += packet
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            if line == b"data: [DONE]": return found
            if line.startswith(b"data: "): found.append(json.loads(line[6:]))
    return found
def _by_packet(packets):
    lines = [line for p in packets for line in p.decode(errors="replace").splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]
def _goes_on(packets):
    lines = [line for line in b"".join(packets).split(b"\n")[:-1] if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines if line != b"data: [DONE]"]
def _half_lines(packets):
    found = []
    for line in b"".join(packets).split(b"\n"):
        if line == b"data: [DONE]": break
        if line.startswith(b"data: "): found.append(json.loads(line[6:] if line.endswith(b'"') or line.endswith(b"}") else line[6:] + b'"'))
    return found
def _text(packets):
    text = "".join(p.decode(errors="replace") for p in packets)
    return [json.loads(line[6:]) for line in text.split("data: [DONE]")[0].split("\n")[:-1] if line.startswith("data: ")]
check_events.verify(_events, wrong=[_by_packet, _goes_on, _half_lines, _text, lambda p: []])
