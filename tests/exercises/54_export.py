"The exercises of nbs/54_export.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def _mirror(state, n_head, n_kv_head, which=("q_proj", "k_proj"), halves=2, per_head=True):
    out = dict(state)
    for name, p in state.items():
        for part, heads in (("q_proj", n_head), ("k_proj", n_kv_head)):
            if part in name and part in which:
                w = p.clone().view(heads if per_head else 1, -1, p.shape[1])
                w[:, w.shape[1] // halves:] *= -1
                out[name] = w.view_as(p)
    return out
check_mirror.verify(_mirror, wrong=[lambda s, h, g: s, lambda s, h, g: {}, lambda s, h, g: _mirror(s, h, g, ("q_proj",)), lambda s, h, g: _mirror(s, h, g, ("k_proj",)),
                                    lambda s, h, g: _mirror(s, h, g, halves=4), lambda s, h, g: _mirror(s, h, g, per_head=False), lambda s, h, g: _mirror(s, h, h),
                                    lambda s, h, g: {k: -v for k, v in s.items()}, lambda s, h, g: {k: -v if "o_proj" in k else v for k, v in s.items()}])

# %%
import random
def _tells(ours, theirs, pieces=("123", "12", "'S", "'s", "'LL", "(the", "$the", "the", "!\n\n", ".\n", " ", "\n", "\t", "THE"), tries=5000, length=5):
    rng = random.Random(0)
    for _ in range(tries):
        text = "".join(rng.choices(pieces, k=length))
        if ours(text) != theirs(text): return text
check_tells.verify(_tells, wrong=[lambda a, b: None, lambda a, b: "12345", lambda a, b: _tells(a, b, length=40), lambda a, b: _tells(a, b, ("the", "cat", " ")),
                                  lambda a, b: _tells(a, b, ("123", "the", " ")), lambda a, b: _tells(a, b) or ""])
