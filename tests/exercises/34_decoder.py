"The exercises of nbs/34_decoder.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _top_p(logits, p):
    q, i = logits.softmax(-1).sort(descending=True)
    out = logits.clone()
    out[i[q.cumsum(-1) - q >= p]] = -torch.inf
    return out
def _wrong1(logits, p):
    q, i = logits.softmax(-1).sort(descending=True); out = logits.clone(); out[i[q.cumsum(-1) > p]] = -torch.inf; return out
def _wrong2(logits, p):
    q = logits.softmax(-1); out = logits.clone(); out[q.cumsum(-1) - q >= p] = -torch.inf; return out
check_top_p.verify(_top_p, wrong=[_wrong1, _wrong2, lambda l, p: l, lambda l, p: torch.where(l.softmax(-1) >= p, l, -torch.inf)])

# %%
def _conv(cfg, gigabytes, tokens, b=2):
    d = cfg.n_kv_head * cfg.head_dim
    weights = cfg.n_layer * (10 * cfg.n_embd**2 + 2 * cfg.n_embd * d) + 2 * cfg.n_embd * cfg.vocab_size
    return (gigabytes * 10**9 - b * weights) // (2 * b * cfg.n_layer * d * tokens)
check_conversations.verify(_conv, wrong=[
    lambda c, g, t, b=2: g * 10**9 // (2 * b * c.n_layer * c.n_embd * t),
    lambda c, g, t, b=2: (g * 10**9 - b * (12 * c.n_layer * c.n_embd**2 + 2 * c.n_embd * c.vocab_size)) // (2 * b * c.n_layer * c.n_embd * t),
    lambda c, g, t, b=2: _conv(c, g, t, 2), lambda c, g, t, b=2: 2 * _conv(c, g, t, b)])
