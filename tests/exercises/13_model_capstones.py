"The capstones of nbs/13_model_capstones.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def by_hand(V, T, sharp=30., previous=True, first=True):
    C = 3 * V + T
    letter, place, before, found = slice(0, V), slice(V, V + T), slice(V + T, 2 * V + T), slice(2 * V + T, C)
    w = dict(embed=torch.zeros(V, C), pos=torch.zeros(T, C), unembed=torch.zeros(C, V))
    w |= {name: torch.zeros(C, T) for name in ("Q1", "K1")} | {name: torch.zeros(C, V) for name in ("Q2", "K2")}
    w |= {name: torch.zeros(C, C) for name in ("OV1", "OV2")}
    w["embed"][:, letter] = torch.eye(V)
    w["pos"][:, place] = torch.eye(T)
    if first: w["pos"][0, before] = -1
    w["Q1"][place] = sharp * torch.diag(torch.ones(T - 1), -1)         # position i asks for i - 1
    w["K1"][place] = torch.eye(T)
    w["OV1"][letter, before] = torch.eye(V)
    w["Q2"][letter] = sharp * torch.eye(V)
    w["K2"][before if previous else letter] = torch.eye(V)
    w["OV2"][letter, found] = torch.eye(V)
    w["unembed"][found] = torch.eye(V)
    return w

class Fixed:                                                           # made for one length and one alphabet
    def __call__(self, V, T): return by_hand(26, 40)
def looks_at_the_copy(V, T):                                           # the letter itself is the key; its own position is masked by hand
    w = by_hand(V, T, previous=False)
    w["pos"][:, -1] = 0
    w["pos"][T - 1, :V] = -0.5
    return w
check_induction.verify(by_hand, wrong=[
    induction_weights,
    lambda V, T: by_hand(V, T, previous=False),                        # matches the letter with itself
    looks_at_the_copy,
    lambda V, T: by_hand(V, T, sharp=4.),                              # right and undecided
    lambda V, T: by_hand(V, T, first=False),                           # fails when the earlier copy is the first letter
    lambda V, T: {**by_hand(V, T), "OV1": torch.zeros(3 * V + T, 3 * V + T)},   # no head writes what came before
    Fixed()])
message = check_induction.mistake(lambda V, T: by_hand(V, T, first=False))
assert "very first letter" in message, message
assert "undecided" in check_induction.mistake(lambda V, T: by_hand(V, T, sharp=4.))
scores_by_hand = induction_score(by_hand, 26, 40, seed=99)             # fresh sequences
assert scores_by_hand["right"] == 1 and scores_by_hand["target"] > 0.99

# %%
def heap_encode(piece, rank, check_stale=True, left_to_right=True):
    n = len(piece)
    part = [piece[i:i + 1] for i in range(n)]                          # the part that begins at a place; None when it was merged away
    after, prior = list(range(1, n + 1)), list(range(-1, n - 1))
    heap = []
    def push(i):
        if i >= 0 and after[i] < n and (r := rank.get(part[i] + part[after[i]])) is not None:
            heapq.heappush(heap, (r, i if left_to_right else -i, part[i] + part[after[i]]))
    for i in range(n): push(i)
    while heap:
        _, i, whole = heapq.heappop(heap)
        i = abs(i)
        if part[i] is None or after[i] >= n: continue
        j = after[i]
        if check_stale and part[i] + part[j] != whole: continue
        part[i], part[j], after[i] = part[i] + part[j], None, after[j]
        if after[i] < n: prior[after[i]] = i
        push(i)
        push(prior[i])
    return [rank[p] for p in part if p is not None]

def longest_first(piece, rank):
    ids, i = [], 0
    while i < len(piece):
        j = next(j for j in range(min(len(piece), i + 20), i, -1) if piece[i:j] in rank)
        ids.append(rank[piece[i:j]])
        i = j
    return ids

def left_first(piece, rank):
    parts, i = [piece[k:k + 1] for k in range(len(piece))], 0
    while i < len(parts) - 1:
        if parts[i] + parts[i + 1] in rank: parts[i:i + 2], i = [parts[i] + parts[i + 1]], max(0, i - 1)
        else: i += 1
    return [rank[p] for p in parts]

def scans(piece, rank):                                                # looks up little, and compares everything each time
    parts = [piece[i:i + 1] for i in range(len(piece))]
    look = lambda a, b: rank.get(a + b, math.inf)
    pairs = [look(a, b) for a, b in zip(parts, parts[1:])]
    while pairs and (best := min(pairs)) != math.inf:
        i = pairs.index(best)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
        del pairs[i]
        if i: pairs[i - 1] = look(parts[i - 1], parts[i])
        if i < len(pairs): pairs[i] = look(parts[i], parts[i + 1])
    return [rank[p] for p in parts]

check_encoder.verify(heap_encode, wrong=[
    encode_piece, scans, longest_first, left_first,
    lambda p, r: heap_encode(p, r, check_stale=False),
    lambda p, r: [r[bytes([b])] for b in p],
    lambda p, r: heap_encode(p, r) if len(p) < 100 else longest_first(p, r)])
assert "steps are used up" in check_encoder.mistake(encode_piece) and "steps are used up" in check_encoder.mistake(scans)
assert "other ids" in check_encoder.mistake(lambda p, r: heap_encode(p, r) if len(p) < 100 else longest_first(p, r))

# %%
class Ring:
    def __init__(self, window): self.window, self.k, self.v, self.seen, self.copy, self.keep, self.late = window, None, None, 0, True, window, 0
    def attend(self, q, k, v):
        old = 0 if self.k is None else self.k.shape[-2]
        if old: k, v = torch.cat([self.k, k], -2), torch.cat([self.v, v], -2)
        t = q.shape[-2]
        at = self.seen + torch.arange(t)[:, None] - (self.seen - old + torch.arange(old + t))[None]       # how far back each key is
        self.seen += t
        scores = (q @ k.mT / q.shape[-1]**0.5).masked_fill((at < self.late) | (at > self.window), -torch.inf)
        self.k, self.v = k[..., -self.keep:, :], v[..., -self.keep:, :]
        if self.copy: self.k, self.v = self.k.clone(), self.v.clone()
        return scores.softmax(-1) @ v
def ring(**changes):
    def make(window):
        cache = Ring(window)
        for name, value in changes.items(): setattr(cache, name, value)
        return cache
    return make
check_cache.verify(Ring, wrong=[
    WindowCache, ring(copy=False),                                     # a view keeps the whole tensor
    ring(keep=10**6), ring(late=-1), ring(window=3),
    lambda w: ring(keep=max(1, w - 1))(w), lambda w: ring(window=w + 1, keep=w + 1)(w)])
assert "tokens are held" in check_cache.mistake(ring(copy=False))

# %%
def counted_loss(logits, targets):
    picked = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -(picked * (targets >= 0)).sum() / (targets >= 0).sum().clamp(min=1)
def drawn(data, step, rows, T):
    places = torch.randint(len(data) - T, (rows,), generator=torch.Generator().manual_seed(1234 + step))
    return torch.stack([data[p:p + T + 1] for p in places.tolist()])
def clipped(grads, limit):
    total = sum(g.square().sum() for g in grads).sqrt().item()
    return [g * min(1., limit / (total + 1e-6)) for g in grads]
def decoupled(w, g, m, v, t, lr, decay):
    m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
    return w * (1 - lr * decay) - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8), m, v
healed = dict(norm=lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), scores=lambda q, k: q @ k.mT / q.shape[-1]**0.5,
              merge=lambda y: y.transpose(1, 2).flatten(2), activation=lambda x: F.relu(x).square(), mean_loss=counted_loss,
              draw=drawn, clip=clipped, adamw=decoupled)
without = lambda *names: {k: f for k, f in healed.items() if k not in names}
check_hunt.verify(healed, wrong=[
    {}, without("merge"), {**healed, "mask": lambda s: s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(0), -torch.inf)},
    {**healed, "cap": lambda x: 15 * torch.tanh(x / 15)},              # innocent, and unchanged
    {**healed, "merge": lambda y: y.transpose(1, 2).transpose(2, 3).flatten(2)}, {**healed, "scores": lambda q, k: q @ k.mT},
    {**healed, "draw": lambda data, step, rows, T: torch.stack([data[torch.randint(len(data), (T + 1,), generator=torch.Generator().manual_seed(step))] for _ in range(rows)])},
    {**healed, "clip": lambda grads, limit: [g.clamp(-limit, limit) for g in grads]},
    {**healed, "norm": lambda x: F.layer_norm(x, x.shape[-1:])}, {**healed, "activation": F.relu}, {**healed, "no such part": None},
    {**healed, "mean_loss": lambda l, t: F.cross_entropy(l.flatten(0, 1), t.flatten().clamp(min=0))}])
assert hunt({}) == dict(mended=[], wrong=[], innocent=[], at_large=8)

# %%
# what is right is said by others: the course's GPT, torch's AdamW, torch's clipping, torch's loss
whole = {**PARTS, **healed}
seed_everything(3)
truth = GPT(CONFIG, dtype=torch.float64).init_weights().double()
with torch.no_grad():
    for p in truth.parameters(): p.add_(torch.randn_like(p) * 0.1)
ids = torch.randint(0, 256, (3, 32))
w = {name: p.detach().clone().requires_grad_() for name, p in truth.state_dict().items()}
test_close(forward(whole, w, ids).float(), truth(ids)[..., :256].float(), eps=1e-4)
assert (forward(PARTS, w, ids) - truth(ids)).abs().max() > 0.1
targets = torch.randint(-1, 256, (3, 32))
test_close(counted_loss(truth(ids).double(), targets), F.cross_entropy(truth(ids).double().flatten(0, 1), targets.flatten(), ignore_index=-1), eps=1e-9)
a, b = (torch.nn.Parameter(R(4, 5) + 1) for _ in range(2))
adam = torch.optim.AdamW([a], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
m = v = 0.
for t in range(1, 4):
    a.grad = R(4, 5) * t
    adam.step()
    b, m, v = decoupled(b.detach(), R(4, 5) * t, m, v, t, 0.01, 0.1)
test_close(a.detach(), b, eps=1e-12)
grads = [R(3, 4), R(5)]
other = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
for o, g in zip(other, grads): o.grad = g.clone()
torch.nn.utils.clip_grad_norm_(other, 1.)
for o, g in zip(other, clipped(grads, 1.)): test_close(o.grad, g, eps=1e-6)

# %%
measured = effects(healed)
print(measured)
healthy = measured.pop("none")
for name, (last, bpb) in measured.items():
    assert abs(bpb - healthy[1]) > 0.002 or abs(last - healthy[0]) > 0.002, f"{name} has no measurable effect: {bpb} against {healthy[1]}"
    assert last < 5, f"with a sick {name} it does not train"
assert measured["draw"][0] < healthy[0] - 1 < healthy[1] - 1 and measured["draw"][1] > healthy[1] + 0.5, "one batch, by heart"
assert measured["mean_loss"][0] < healthy[0], "a number that looks better"
ids[:, -1] += 1                                                        # one token of the future
moved = lambda parts: (forward(parts, w, ids % 256) - forward(parts, w, (ids - F.one_hot(torch.tensor(31), 32)) % 256))[:, :-1].abs().max().item()
assert moved(whole) == 0 and moved({**whole, "merge": PARTS["merge"]}) > 0, "one of the eight looks into the future"
