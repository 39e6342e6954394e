"The exercises of nbs/10_tokenizer.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def expand_solution(i, merges): return bytes([i]) if i < 256 else b"".join(expand_solution(j, merges) for j in merges[i - 256])
check_expand.verify(expand_solution, wrong=[lambda i, m: bytes([i % 256]), lambda i, m: bytes([i]) if i < 256 else bytes(j % 256 for j in m[i - 256]),
    lambda i, m: bytes([i]) if i < 256 else b"".join(expand_solution(j, m) for j in m[i - 256][::-1]), lambda i, m: chr(i)])

# %%
def mask_solution(ids, special, start_too=False, end_too=True, tool_too=False, end_out=0):
    out, speaking, tool = [], False, False
    for i in ids:
        if i == special["<|output_start|>"]: tool = True
        last = i == special["<|assistant_end|>"]
        out.append(int(speaking and (tool_too or not tool) and (end_too or not last)))
        if i == special["<|output_end|>"]: tool = False; out[-1] = end_out
        if i == special["<|assistant_start|>"]: speaking = True; out[-1] = int(start_too)
        if last: speaking = False
    return out
check_mask.verify(mask_solution, wrong=[lambda i, s: mask_solution(i, s, start_too=True), lambda i, s: mask_solution(i, s, end_too=False),
    lambda i, s: mask_solution(i, s, tool_too=True), lambda i, s: mask_solution(i, s, end_out=1), lambda i, s: [1] * len(i), lambda i, s: []])

# %%
by_three_solution = lambda p: p.replace(r"\p{N}{1,2}", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))")
check_by_three.verify(by_three_solution, wrong=[lambda p: p, lambda p: p.replace("{1,2}", "{1,3}"), lambda p: p.replace("{1,2}", "{3}"), lambda p: r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"])
