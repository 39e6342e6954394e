"The exercises of nbs/50_chat_cli.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _right(counts, room): return next((d for d in range(0, len(counts), 2) if sum(counts[d:]) <= room), None)
check_to_drop.verify(_right, wrong=[lambda c, r: next((d for d in range(len(c)) if sum(c[d:]) <= r), None), lambda c, r: len(c) - 1, lambda c, r: 0,
                                    lambda c, r: next((d for d in range(0, len(c), 2) if sum(c[d:]) < r), None)])

# %%
def _transcript(stream):
    out, last = "", "text"
    for kind, text in [*stream, ("text", "")]:
        if kind != last: out += "}" if kind == "text" else "=" if last == "python" else "{"
        out, last = out + text, kind
    return out
check_transcript.verify(_transcript, wrong=[lambda s: "".join(t for _, t in s), lambda s: "".join(t if k == "text" else "{" + t + "}" for k, t in s),
                                            lambda s: "".join(t for k, t in s if k == "text")])
