"The exercises of nbs/40_engine.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_smuggled.verify(lambda: "'.count('.upper()", wrong=[
    lambda: "'strawberry'.count('r')", lambda: "'.count(' + 'a'", lambda: "str(1)", lambda: "__import__('os').name", lambda: 3,
    lambda: "'a'.count('a') and 1", lambda: "'a.count('"[:-1] + "')"])

# %%
def _honest(tok, tokens, mask):
    tool, start = ToolUse(tok), tok.special("<|output_start|>")
    for token, sampled in zip(tokens, mask):
        if tool.forced:
            if sampled or token != tool.forced.popleft(): return False
        elif token == start: return False
        else: tool.push(token)
    return True
def _by_parts(tok, tokens, mask):
    parts = to_parts(tok, tokens)
    return all(use_calculator(a["text"]) == b["text"] for a, b in zip(parts, parts[1:]) if b["type"] == "python_output")
def _by_mask(tok, tokens, mask):
    inside, marks = False, (tok.special("<|output_start|>"), tok.special("<|output_end|>"))
    for t, m in zip(tokens, mask):
        inside = inside or t == marks[0]
        if inside and m: return False
        inside = inside and t != marks[1]
    return True
def _first_only(tok, tokens, mask):
    end = tok.special("<|output_end|>")
    n = tokens.index(end) + 1 if end in tokens else len(tokens)
    return _honest(tok, tokens[:n], mask[:n])
def _somewhere(tok, tokens, mask):
    results = [use_calculator(p["text"]) for p in to_parts(tok, tokens) if p["type"] == "python"]
    return _by_mask(tok, tokens, mask) and all(p["text"] in results for p in to_parts(tok, tokens) if p["type"] == "python_output")
check_honest.verify(_honest, wrong=[_by_parts, _by_mask, _first_only, _somewhere, lambda *a: True, lambda *a: False])
