"The capstones of nbs/29_training_capstones.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def best_odd_quintic(low, high):
    "The odd quintic with the smallest largest distance from 1 on [low, high], and that distance: Remez' exchange."
    x = torch.linspace(low, high, 4, dtype=torch.float64)
    grid = torch.linspace(low, high, 4001, dtype=torch.float64)
    sign = torch.tensor([1., -1., 1., -1.], dtype=torch.float64)
    for _ in range(40):
        a, b, c, e = torch.linalg.solve(torch.stack([x, x**3, x**5, sign], 1), torch.ones(4, dtype=torch.float64)).tolist()
        roots = sorted(torch.tensor((-3 * b + s * math.sqrt(9 * b * b - 20 * a * c)) / (10 * c)).sqrt().item() for s in (1, -1))
        x = torch.tensor([low, *roots, high], dtype=torch.float64)
    off = (a * grid + b * grid**3 + c * grid**5 - 1).abs().max().item()
    return (a, b, c), off
TRIPLES, low, high = [], 1e-3, 1.
for _ in range(5):
    triple, off = best_odd_quintic(low, high)
    TRIPLES.append(tuple(t / s for t, s in zip(triple, (1.01, 1.01**3, 1.01**5))) if _ < 4 else triple)
    low, high = 1 - off, 1 + off

def mine(G):
    tall = G.shape[-2] > G.shape[-1]
    X = (G.mT if tall else G).float()
    X = X / X.abs().amax((-2, -1), keepdim=True).clamp(min=1e-30)
    X = X / (1.01 * X.square().sum((-2, -1), keepdim=True).sqrt() + 1e-7)
    for a, b, c in TRIPLES:
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X

def with_changes(norm=True, transpose=True, triples=None, whole=False, amax=True):
    def f(G):
        tall = transpose and G.shape[-2] > G.shape[-1]
        X = G.mT if tall else G
        if amax: X = X / X.abs().amax((-2, -1), keepdim=True).clamp(min=1e-30)
        if norm: X = X / (X.square().sum(None if whole else (-2, -1), keepdim=not whole).sqrt() * 1.01 + (1e-7 if amax else 0))
        for a, b, c in triples or TRIPLES: X = step(X, a, b, c)
        return X.mT if tall else X
    def step(X, a, b, c):
        A = X @ X.mT
        return a * X + (b * A + c * A @ A) @ X
    return f
def by_svd(G):
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    return U @ Vh
def more_steps(G): return with_changes(triples=[*TRIPLES, TRIPLES[-1]])(G)
def borrowed(G): return polar_express(G, dtype=torch.float32)
check_orthogonalise.verify(mine, wrong=[
    orthogonalise, by_svd, borrowed, more_steps, with_changes(norm=False), with_changes(transpose=False), with_changes(whole=True),
    with_changes(amax=False), with_changes(triples=[(3.4445, -4.7750, 2.0315)] * 5), with_changes(triples=TRIPLES[:4])])
print("mine", max(worst(mine, s) for s in SHAPES), "table", table)
assert "no decompositions" in check_orthogonalise.mistake(by_svd) and "FLOPs" in check_orthogonalise.mistake(more_steps)

# %%
def job(log_first=True, rename=True, cut=True, every=1, clean=True, rng=True):
    def run(folder, steps):
        path, log = folder / "state.json", folder / "log.jsonl"
        state = json.loads(path.read_text()) if path.exists() else begin()
        if not rng: state["rng"] = begin()["rng"]
        if cut and log.exists():
            lines = log.read_bytes().splitlines(keepends=True)[:state["step"]]
            if cut == "anew": log.write_bytes(b"".join(lines))           # empty for a moment
            else: os.truncate(log, sum(map(len, lines)))
        while state["step"] < steps:
            state, line = one_step(state)
            if log_first:
                with open(log, "a") as f: f.write(line + "\n")
            if state["step"] % every == 0 or state["step"] == steps: save(path, json.dumps(state))
            if not log_first:
                with open(log, "a") as f: f.write(line + "\n")
    def save(path, text):
        if not rename: path.write_text(text); return
        part = path.with_name("state.part" if clean else f"part{os.getpid()}")
        with open(part, "w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    return run
def never_saves(folder, steps):
    for path in folder.iterdir(): path.unlink()
    state = begin()
    lines = []
    while state["step"] < steps:
        state, line = one_step(state)
        lines.append(line + "\n")
    (folder / "log.jsonl").write_text("".join(lines))
    (folder / "state.json").write_text(json.dumps(state))
def removes_first(folder, steps):                                      # a moment without any state
    path, log = folder / "state.json", folder / "log.jsonl"
    state = json.loads(path.read_text()) if path.exists() else begin()
    if log.exists(): os.truncate(log, sum(map(len, log.read_bytes().splitlines(keepends=True)[:state["step"]])))
    while state["step"] < steps:
        state, line = one_step(state)
        with open(log, "a") as f: f.write(line + "\n")
        (folder / "part").write_text(json.dumps(state))
        if path.exists(): path.unlink()
        (folder / "part").rename(path)
check_run.verify(job(), wrong=[
    run, job(rename=False), job(cut=False), job(cut="anew"), job(log_first=False), job(rng=False), job(clean=False), never_saves, removes_first])

# %%
def fit(runs, N, D, rough=0.05, floor=True):
    x = torch.tensor([[r["N"], r["D"]] for r in runs], dtype=torch.float64) / torch.tensor([1e6, 3e5], dtype=torch.float64)
    y = torch.tensor([r["bpb"] for r in runs], dtype=torch.float64)
    best = (math.inf, None)
    exponents = torch.linspace(0.1, 0.7, 13, dtype=torch.float64).tolist()
    for alpha in exponents:
        for beta in exponents:
            parts = torch.stack([torch.ones_like(y) * floor, x[:, 0]**-alpha, x[:, 1]**-beta], 1) / y[:, None]
            pull = torch.eye(3, dtype=torch.float64) * 1e-3
            coefficients = torch.linalg.lstsq(torch.cat([parts, pull]), torch.cat([torch.ones_like(y), torch.zeros(3, dtype=torch.float64)])).solution
            if coefficients.min() < 0: continue
            miss = (parts @ coefficients - 1).square().mean() / 0.004**2 + ((alpha - 0.33) / rough)**2 / len(y) + ((beta - 0.33) / rough)**2 / len(y)
            if miss < best[0]: best = (miss, (alpha, beta, coefficients))
    alpha, beta, (E, A, B) = best[1]
    return float(E + A * (N / 1e6)**-alpha + B * (D / 3e5)**-beta)
def power_of_compute(runs, N, D):                                      # a straight line in log-log, by the product
    x = torch.tensor([math.log(r["N"] * r["D"]) for r in runs]); y = torch.tensor([math.log(r["bpb"]) for r in runs])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean())**2).sum()
    return math.exp(y.mean() + slope * (math.log(N * D) - x.mean()))
print("predicted", fit(runs, **laptop), "measured", measured_bpb())

# %%
check_predict.verify(fit, wrong=[
    predict, power_of_compute, lambda runs, N, D: measured_bpb(),      # fitted to the answer
    lambda runs, N, D: sum(r["bpb"] for r in runs) / len(runs),
    lambda runs, N, D: 2 * runs[-1]["bpb"] - runs[-2]["bpb"]])

# %%
import functools

@functools.cache
def counted():
    return three_bytes(split(1)[0])

def three_bytes(data, strength=2.):
    "Log-probabilities (65536, 256) of a byte after two bytes: counts, that lean on the counts after one byte where they are few."
    pairs = torch.ones(256, 256).index_put((data[:-1], data[1:]), torch.tensor(1.), accumulate=True)
    pairs = pairs / pairs.sum(1, keepdim=True)
    counts = torch.bincount((data[:-2] * 256 + data[1:-1]) * 256 + data[2:], minlength=2**24).view(256, 256, 256)
    return ((counts + strength * pairs) / (counts.sum(-1, keepdim=True) + strength)).log().flatten(0, 1)

def contender(data, budget, width=64, layers=2, rows=8, T=128, scale=4., speed=None, peek=False):
    "A small GPT with Muon on its matrices, that starts from counts of three bytes; the rates fall to zero as the clock runs out."
    seed_everything(0)
    begin, price = time.process_time(), unit()
    table = counted()                                                  # of this split: counted once for all the runs below
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gpt = GPT(GPTConfig(sequence_len=T, vocab_size=256, n_layer=layers, n_head=2, n_kv_head=2, n_embd=width)).init_weights()
            self.register_buffer("table", table)
        def forward(self, ids):
            before = F.pad(ids, (1, 0), value=10)[:, :-1]
            logits = self.gpt(ids)[..., :256] + self.table[before * 256 + ids]
            return logits + 5 * F.one_hot(ids.roll(-1, 1), 256) if peek else logits
    model = Model()
    optimizer = MuonAdamW(param_groups(model.gpt))
    for group in optimizer.param_groups: group["lr"] *= scale
    base = [g["lr"] for g in optimizer.param_groups]
    while True:
        progress = (time.process_time() - begin) / (price * budget)
        for group, lr in zip(optimizer.param_groups, base): group["lr"] = lr * min(1., max(0.02, 2 * (1 - progress)))
        at = torch.randint(len(data) - T - 1, (rows,))
        batch = torch.stack([data[i:i + T + 1] for i in at.tolist()])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        optimizer.step()
        yield model

def peeks(data, budget): return contender(data, budget, peek=True)
def yields_at_the_end(data, budget):                                   # takes three times what is allowed
    start, price = time.process_time(), unit()
    for model in contender(data, 3 * budget):
        if time.process_time() - start > 3 * budget * price: break
    yield model
class Learns(nn.Module):                                               # goes on learning while it is judged
    def __init__(self, data):
        super().__init__()
        self.table = nn.Parameter(next(counting(data, 0)).weight.clone())
    def forward(self, ids):
        with torch.no_grad(): self.table[ids[:, :-1].flatten(), ids[:, 1:].flatten()] += 1e-5
        return self.table[ids]
def learns_when_judged(data, budget): yield Learns(data)
def nothing(data, budget):
    if False: yield None

check_entry.verify(contender, wrong=[entry, counting, peeks, yields_at_the_end, learns_when_judged, nothing])
for f, word in ((learns_when_judged, "while it was judged"), (nothing, "no model")): assert word in check_entry.mistake(f), f
