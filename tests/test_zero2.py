"The sharded optimizer in real processes against the plain one in a single process."
import os, random, signal, time
import pytest, torch, torch.distributed as dist, torch.multiprocessing as mp
from nanochat_course.common import CourseError, Runtime, runtime
from nanochat_course.optim import MuonAdamW
from nanochat_course import zero2
from nanochat_course.zero2 import DistMuonAdamW, awkward_parameters, deal, make_buckets, make_optimizer, run_ranks

# One description of a run serves both sides: the ranks each make their own gradients, the single process makes everybody's.
CASES = {
    "plain, stage 1": dict(stage=1),
    "plain": dict(),
    "micro-batches, stage 1": dict(stage=1, micro=3),
    "micro-batches": dict(micro=3),
    "gaps, stage 1": dict(stage=1, micro=2, gaps=0.4),
    "gaps": dict(gaps=0.4),
    "gaps in micro-batches": dict(micro=4, gaps=0.3),
    "many gaps": dict(micro=2, gaps=0.9),
    "one rank has nothing": dict(micro=2, idle_rank=1),
    "never on any rank": dict(never=("square1", "head", "gate", "tall4")),
    "by hand": dict(by_hand=True),
    "by hand, with gaps": dict(by_hand=True, gaps=0.5),
    "frozen": dict(frozen=("square0", "head", "scales")),
    "whole buckets frozen": dict(frozen=("square0", "square1", "square2", "embedding")),
    "frozen in the middle": dict(freeze_at=4),
    "one Parameter used twice": dict(twice=True, micro=2),
    "few parameters": dict(only=("square0", "gate")),
    "one vector": dict(only=("scales",)),
    "rows only": dict(only=("embedding",), small=1),
    "everything small": dict(small=10**9),
    "nothing small": dict(small=1),
    "thrown away": dict(throw_away=True, micro=2, gaps=0.3),
    "steps without a backward pass": dict(idle_steps=True),
    "delays": dict(delay=0.004, micro=2, gaps=0.2),
    "many in flight": dict(in_flight=100, micro=2, delay=0.002),
    "one in flight": dict(in_flight=1, gaps=0.2),
    "closure": dict(closure=True),
    "clipping": dict(clip=1.0, tol=1e-5),
    "clipping with gaps, stage 1": dict(clip=5.0, gaps=0.4, stage=1, tol=1e-5),
    "clipping with gaps": dict(clip=5.0, gaps=0.4, micro=2, tol=1e-5),
    "real gradients": dict(real=True, tol=1e-5),
    "real gradients, micro-batches": dict(real=True, micro=3, gaps=0.2, tol=1e-5),
}

def gradient(case, name, shape, rank, step, micro):
    "The gradient of one parameter on one rank in one micro-batch; None where there is a gap."
    g = random.Random(f"{name} {rank} {step} {micro}")
    if rank == case.get("idle_rank") or name in case.get("never", ()) or g.random() < case.get("gaps", 0): return None
    t = torch.Generator().manual_seed(g.randrange(2**31))
    return torch.randn(shape, generator=t) if case.get("real") else torch.randint(-4, 5, shape, generator=t).float()

def groups_of(case, seed=0):
    groups = awkward_parameters(seed)
    for g in groups:
        keep = [(n, p) for n, p in zip(g["names"], g["params"]) if n in case.get("only", g["names"])]
        g["names"], g["params"] = [n for n, _ in keep], [p for _, p in keep]
        for n, p in keep: p.requires_grad_(n not in case.get("frozen", ()))
    return [g for g in groups if g["params"]]

def backward(case, params, rank, step, micro):
    "Through autograd, with its hooks, or by hand."
    grads = {n: gradient(case, n, p.shape, rank, step, micro) for n, p in params.items() if p.requires_grad}
    grads = {n: g for n, g in grads.items() if g is not None}
    if case.get("by_hand"):
        for n, g in grads.items(): params[n].grad = g
    elif grads:
        terms = [(params[n] * g).sum() for n, g in grads.items()]
        if case.get("twice"): terms += [(params[n] * g * 2).sum() for n, g in grads.items()]
        sum(terms).backward()

def weights(params): return {n: p.detach().clone() for n, p in params.items()}
def packed(tensors): return {n: (tuple(t.shape), t.detach().cpu().contiguous().numpy().tobytes()) for n, t in tensors.items()}
def unpacked(packs): return {n: torch.frombuffer(bytearray(b), dtype=torch.float32).view(shape) for n, (shape, b) in packs.items()}

def one_case(rt, case, steps=20):
    "One rank's run; weights and state at the end, as bytes."
    opt = DistMuonAdamW(groups_of(case), rt, stage=case.get("stage", 2), small=case.get("small", 1024), in_flight=case.get("in_flight", 2), timeout_minutes=0.5)
    params, sleep, norms = opt.named(), random.Random(f"{rt.rank}"), []
    pause = lambda: time.sleep(sleep.random() * case["delay"]) if "delay" in case else None
    for step in range(steps):
        if step == case.get("freeze_at"):
            for n in ("square1", "embedding", "scales"): params[n].requires_grad_(False)
        if case.get("throw_away") and step % 3 == 1:
            backward(case, params, rt.rank, 1000 + step, 0)
            opt.zero_grad()
        def passes():
            for m in range(case.get("micro", 1)):
                pause()
                backward(case, params, rt.rank, step, m)
        if not case.get("closure"): passes()
        pause()
        if "clip" in case: norms.append(opt.clip_grad_norm_(case["clip"]).item())
        opt.step(passes if case.get("closure") else None)
        if case.get("idle_steps"): opt.step(); opt.zero_grad(); opt.zero_grad()
    return packed(params), packed(opt.state_tensors()), norms

def all_cases(rt, names): return {n: one_case(rt, CASES[n]) for n in names}

def oracle(world_size, case, steps=20):
    "The same run in one process."
    opt, norms = MuonAdamW(groups_of(case)), []
    params = opt.named()
    for step in range(steps):
        if step == case.get("freeze_at"):
            for n in ("square1", "embedding", "scales"): params[n].requires_grad_(False)
        for n, p in params.items():
            grads = [gradient(case, n, p.shape, r, step, m) for r in range(world_size) for m in range(case.get("micro", 1))] if p.requires_grad else []
            grads = [g for g in grads if g is not None]
            p.grad = sum(grads) * (3 if case.get("twice") else 1) / world_size if grads else None
        if "clip" in case: norms.append(torch.nn.utils.clip_grad_norm_(list(params.values()), case["clip"]).item())
        opt.step()
    return weights(params), opt.state_tensors(), norms

SOME = ["plain", "gaps in micro-batches", "clipping with gaps", "rows only", "few parameters", "delays"]

@pytest.fixture(scope="module")
def runs():
    "All cases, in one start of the processes for each number of ranks."
    done = {}
    def get(world_size):
        if world_size not in done: done[world_size] = run_ranks(all_cases, world_size, list(CASES) if world_size == 4 else SOME)
        return done[world_size]
    return get

@pytest.mark.parametrize("world_size,name", [(4, n) for n in CASES] + [(2, n) for n in SOME] + [(8, n) for n in SOME])
def test_same_as_one_process(runs, world_size, name):
    case, ranks = CASES[name], [r[name] for r in runs(world_size)]
    for r in ranks[1:]: assert r[0] == ranks[0][0], "ranks differ in a bit"
    want, state, norms = oracle(world_size, case)
    for got, want in ((unpacked(ranks[0][0]), want), (unpacked(ranks[0][1]), state)):
        assert set(got) == set(want)
        for n in want:
            if "tol" in case: assert (got[n] - want[n]).norm() <= case["tol"] * want[n].norm().clamp(min=1e-3), n
            else: assert torch.equal(got[n], want[n]), f"{n} is off by {(got[n] - want[n]).abs().max()}"
    for r in ranks:
        assert r[2] == ranks[0][2] and r[2] == pytest.approx(norms, rel=1e-5)
    for r in ranks[1:]: assert not r[1], "the state is collected on rank 0 only"
