"Sharded parameters in real processes against one process; FSDP2 and Muon beside them."
import functools, itertools
import pytest, torch, torch.nn as nn
from nanochat_course.common import CourseError, Runtime
from nanochat_course.optim import MuonAdamW
from nanochat_course.labs.zero2 import integer_gradient, largest_difference, run_ranks
from nanochat_course.labs.zero3 import (Awkward, Dot, adamw_groups, awkward_run, bytes_written, collectives, compare, distance, muon_ways,
                                        on_the_wire, refusal, sentence, small_gpt)
from nanochat_course.zero3 import FlatShard, RowMuonAdamW, Zero3

ALONE = Runtime(torch.device("cpu"), torch.float32)
CASES = {
    "plain": dict(),
    "micro-batches": dict(micro=3, steps=6),
    "no prefetch": dict(prefetch=False, steps=6),
    "kept until the backward pass": dict(reshard_after_forward=False, steps=6),
    "kept, micro-batches": dict(reshard_after_forward=False, micro=2, steps=6),
    "losses thrown away": dict(throw_away=True, steps=6),
    "kept, losses thrown away": dict(throw_away=True, reshard_after_forward=False, steps=6),
}
WAYS = ("ZeRO-2", "own ZeRO-3", "own ZeRO-3, kept", "FSDP2", "FSDP2, kept")

class Matrices(nn.Module):
    "Matrices with few rows, rows that do not divide, and a vector, for FSDP2."
    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.unit = Dot("m", {n: nn.Parameter(torch.randn(*shape, generator=g)) for n, shape in
                              dict(a0=(7, 16), a1=(7, 16), a2=(7, 16), a3=(7, 16), a4=(7, 16), b=(3, 8), c=(32, 16), v=(5,)).items()})

    def forward(self, gradient): return self.unit(torch.zeros(()), gradient)

def matrix_groups(model, **muon):
    p = dict(model.unit.named_parameters())
    muon = dict(kind="muon", lr=0.05, ns_dtype=torch.float32) | muon
    return [dict(kind="adamw", params=[p["v"]], names=["v"], lr=0.01, weight_decay=0.1),
            *[dict(muon, params=[p[n] for n in names], names=names) for names in (["a0", "a1", "a2", "a3", "a4"], ["b"], ["c"])]]

MUON = {"decay": dict(weight_decay=0.1), "cautious decay": dict(weight_decay=0.1, cautious=True), "NorMuon": dict(beta2=0.95)}

def muon_steps(rt, world, how, muon, steps=5):
    "Integer gradients, Muon on matrices that FSDP2 has cut."
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    model = Matrices()
    if rt.distributed: fully_shard(model, mesh=init_device_mesh("cpu", (rt.world_size,)))
    groups = matrix_groups(model, **muon)
    opt = RowMuonAdamW(groups, rt, how) if rt.distributed else MuonAdamW(groups)
    ranks = [rt.rank] if rt.distributed else range(world)
    for step in range(steps):
        for r in ranks: (model(lambda n, shape: integer_gradient(n, shape, r, step)) / len(ranks)).backward()
        opt.step()
        opt.zero_grad()
    return {n: (p.full_tensor() if rt.distributed else p).detach().flatten().tolist() for n, p in model.named_parameters()}

def gpt_run(rt, world, steps=20, micro=1, freeze=False, **settings):
    "The GPT under own ZeRO-3, or plain in one process: losses, weights, bytes sent by step, bytes by the ledger."
    model = small_gpt(3, 64)
    if freeze: model.transformer.h[1].requires_grad_(False); model.transformer.h[2].mlp.c_fc.requires_grad_(False)
    zero = Zero3(model, list(model.transformer.h), rt, **settings) if rt.distributed else None
    opt = MuonAdamW(zero.param_groups(lr=1e-3) if zero else [dict(kind="adamw", params=[p for p in model.parameters() if p.requires_grad], lr=1e-3)])
    losses, sent, ledger = [], [], []
    def one(step):
        total = 0.
        for m, r in itertools.product(range(micro), [rt.rank] if rt.distributed else range(world)):
            loss = model(*sentence(r, step + 7 * m)) / micro / (1 if rt.distributed else world)
            loss.backward()
            total += loss.detach()
        opt.step()
        opt.zero_grad()
        return total
    for step in range(steps):
        if zero: zero.ledger.clear()
        out = []
        sent.append(on_the_wire(rt, lambda: out.append(one(step))) if rt.distributed and step == steps - 1 else out.append(one(step)))
        if zero: ledger.append(sum(b for _, b in zero.ledger))
        losses.append(rt.all_reduce(out[0], "mean").item())
    weights = zero.whole_parameters() if zero else {n: p.detach() for n, p in model.named_parameters()}
    return dict(losses=losses, sent=sent[-1], ledger=ledger[-1] if ledger else 0, weights={n: p.flatten().tolist() for n, p in weights.items()})

GPTS = {"plain": dict(), "micro-batches": dict(micro=2, steps=5), "frozen": dict(freeze=True, steps=5), "kept": dict(reshard_after_forward=False, steps=5)}

def everything(rt):
    "All that this file checks, in one start of the processes."
    W = rt.world_size
    return dict(awkward=[awkward_run(rt, W, **c) for c in CASES.values()], refusal=refusal(rt), collectives=collectives(rt),
                gpt=[gpt_run(rt, W, **c) for c in GPTS.values()], muon={how: [muon_steps(rt, W, how, m) for m in MUON.values()] for how in ("owner", "everybody", "rows")})

@functools.cache
def ran(W): return run_ranks(everything, W)

@functools.cache
def compared(): return run_ranks(compare, 4, WAYS, 8, 2)

both = pytest.mark.parametrize("W", [2, 4])
options = lambda case, *names: {k: v for k, v in case.items() if k in names}

@both
@pytest.mark.parametrize("case", CASES)
def test_awkward_model_equals_one_process(W, case):
    i, same = list(CASES).index(case), options(CASES[case], "micro", "steps")
    ours, one, plain = [r["awkward"][i] for r in ran(W)], awkward_run(ALONE, W, **same), awkward_run(ALONE, W, sharded=False, **same)
    assert all(w == ours[0] for w in ours), "ranks differ"
    assert ours[0] == one, "the sums are exact, so many ranks must give the bits of one"
    assert largest_difference(ours[0], plain) < 1e-5
    start = {n: p.flatten().tolist() for n, p in Awkward().named_parameters()}
    for n, p in Awkward().named_parameters(): assert (ours[0][n] == start[n]) == (not p.requires_grad), f"{n}: frozen must stay, the others move"

@both
@pytest.mark.parametrize("case", GPTS)
def test_gpt_equals_one_process(W, case):
    i = list(GPTS).index(case)
    want = gpt_run(ALONE, W, **options(GPTS[case], "micro", "steps", "freeze"))
    for r in ran(W):
        got = r["gpt"][i]
        assert max(abs(a - b) for a, b in zip(got["losses"], want["losses"])) < 1e-5
        tensors = [{n: torch.tensor(x) for n, x in w["weights"].items()} for w in (got, want)]
        assert distance(*tensors) < 1e-5

@both
@pytest.mark.skipif(not bytes_written(), reason="this system does not count bytes")
@pytest.mark.parametrize("case", ["plain", "micro-batches", "frozen", "kept"])
def test_bytes_sent_follow_the_formula(W, case):
    model, k = small_gpt(3, 64), GPTS[case].get("micro", 1)
    block, ends = 4 * 12 * 64**2, 4 * (model.num_params()["total"] - 3 * 12 * 64**2)
    gathers = 1 if case == "kept" else 2
    trained = 3 * block if case != "frozen" else block + block * 8 // 12             # no reduction for what is frozen
    formula = k * ((W - 1) * (gathers * 3 * block + trained + 2 * ends) // W)
    for r in ran(W):
        got = r["gpt"][list(GPTS).index(case)]
        assert got["ledger"] == formula
        assert formula <= got["sent"] < 1.02 * formula

@both
@pytest.mark.skipif(not bytes_written(), reason="this system does not count bytes")
def test_collectives_send_what_the_ring_formula_says(W):
    want = {"AllGather": (W - 1) / W, "ReduceScatter": 2 * (W - 1) / W, "ReduceScatter, by AllToAll": (W - 1) / W, "AllReduce": 2 * (W - 1) / W, "AllToAll": (W - 1) / W**2}
    for r in ran(W):
        for name, share in want.items():
            _, _, sent, size = r["collectives"][name]
            assert share * size <= sent < 1.02 * share * size, name

def test_collectives_move_a_subscript():
    a, b = (r["collectives"] for r in ran(2))
    assert a["AllGather"][1] == b["AllGather"][1] == a["AllReduce"][0] == [[1, 2], [3, 4]]
    assert (a["ReduceScatter"][1], b["ReduceScatter"][1]) == ([11, 22], [33, 44]) == (a["ReduceScatter, by AllToAll"][1], b["ReduceScatter, by AllToAll"][1])
    assert a["AllReduce"][1] == [[11, 22], [33, 44]] == b["AllReduce"][1]
    assert (a["AllToAll"][1], b["AllToAll"][1]) == ([1, 3], [2, 4])

@both
def test_different_seeds_are_refused(W): assert all("different weights" in (r["refusal"] or "") for r in ran(W))

@both
@pytest.mark.parametrize("case", MUON)
def test_muon_on_rows_of_whole_matrices(W, case):
    i = list(MUON).index(case)
    want = muon_steps(ALONE, W, "", MUON[case])
    for how in ("owner", "everybody"):
        for r in ran(W): assert largest_difference(r["muon"][how][i], want) < 1e-5, how
    assert largest_difference(ran(W)[0]["muon"]["rows"][i], want) > 1e-2, "Newton-Schulz on rows is another update"

def test_stages_keep_and_send_what_they_should():
    first, P = compared()[0], 4 * small_gpt().num_params()["total"]
    blocks = 4 * small_gpt().num_params()["matrix"]
    for name, m in first.items():
        assert m["loss"] < 1e-5 and m["weights"] < 1e-5, name
        assert m["parameters"] == (P if name == "ZeRO-2" else P // 4) and m["gradients"] == P // 4 and m["states"] - P // 2 < 1000, name
        gathered, reduced = (2 if "kept" in name or name == "ZeRO-2" else 3), ("FSDP2" in name)
        formula = 3 / 4 * (gathered * blocks + 2 * (P - blocks) + reduced * P)        # gloo's reduce-scatter sends twice
        assert not bytes_written() or formula <= m["sent"] < 1.02 * formula, name
    peak = {n: max(map(max, m["memory"].values())) for n, m in first.items()}
    assert peak["own ZeRO-3"] < 0.85 * peak["ZeRO-2"] and peak["own ZeRO-3"] < 0.75 * peak["own ZeRO-3, kept"]
    assert peak["FSDP2"] < 0.85 * peak["FSDP2, kept"]
    for name, m in first.items(): assert m["memory"]["optimizer"][-1] <= 1.01 * m["memory"]["forward"][0], f"{name}: a step leaves memory behind"

def test_muon_ways_report_bytes_and_distance():
    out, W = run_ranks(muon_ways, 2, ("owner",), 4)[0], 2
    matrices = 4 * small_gpt(4, 64).num_params()["matrix"]
    formula = 2 * (W - 1) / W**2 * matrices
    assert out["owner"]["weights"] < 1e-4 and (not bytes_written() or formula <= out["owner"]["sent"] < 1.05 * formula)

@pytest.mark.parametrize("frozen", [False, True])
def test_one_rank_is_the_plain_model(frozen):
    model, plain = small_gpt(3, 32), small_gpt(3, 32)
    for m in (model, plain): m.transformer.h[1].requires_grad_(not frozen)
    zero = Zero3(model, list(model.transformer.h), ALONE)
    loss, want = (m(*sentence(0, 0)) for m in (model, plain))
    for x in (loss, want): x.backward()
    assert torch.equal(loss, want) and not list(model.parameters())
    for u in zero.units:
        for names, f in zip(u.names, u.flats):
            for i, n in enumerate(names):
                want = plain.get_parameter(n).grad
                assert f.shard.grad is None if want is None else torch.equal(f.places(f.shard.grad[None])[i], want), n
    assert all(u.whole is None for u in zero.units), "everything is freed after the backward pass"

def test_no_gathered_parameter_survives_the_forward_pass():
    model = small_gpt(2, 64)
    zero, kept, pack = Zero3(model, list(model.transformer.h), ALONE), [], None
    pack, addresses = zero.pack, set()
    def spy(t):
        addresses.update(zero.live)
        note = pack(t)
        if isinstance(note, torch.Tensor): kept.append(t.untyped_storage().data_ptr())
        return note
    zero.pack = spy
    loss = model(*sentence(0, 0))
    assert addresses and not addresses & set(kept) and all(u.whole is None for u in zero.units)
    loss.backward()

def masters(rt):
    "Computing in bfloat16: what `whole_parameters` gives after some steps, and what the shards hold."
    model = small_gpt(2, 32)
    zero = Zero3(model, list(model.transformer.h), rt, dtype=torch.bfloat16)
    opt = MuonAdamW(zero.param_groups(lr=1e-3))
    for step in range(2):
        model(*sentence(rt.rank, step)).backward()
        opt.step()
        opt.zero_grad()
    whole = zero.whole_parameters()
    lost = max((p - p.bfloat16().float()).abs().max().item() for p in whole.values())
    own = [(f, names) for u in zero.units for f, names in zip(u.flats, u.names)]
    W, same = rt.world_size, True
    for f, names in own:                                    # laid end to end again, this rank's piece must be its shard
        flat = torch.cat([whole[n].flatten() for n in names])
        flat = torch.nn.functional.pad(flat, (0, f.shard.numel() * W - len(flat)))
        same &= torch.equal(flat.view(W, -1)[rt.rank], f.shard.detach())
    return str(next(iter(whole.values())).dtype), lost, same

def test_whole_parameters_are_the_masters():
    for dtype, lost, same in (masters(ALONE), *run_ranks(masters, 2)):
        assert dtype == "torch.float32" and same and lost > 0, "bits beyond bfloat16 must survive"

def test_without_gradients_nothing_stays():
    model = small_gpt(2, 32)
    zero = Zero3(model, list(model.transformer.h), ALONE, reshard_after_forward=False)
    with torch.no_grad(): model(*sentence(0, 0))
    assert all(u.whole is None for u in zero.units) and not zero.live

def test_nested_and_shared_units():
    nested = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))
    zero = Zero3(nested, [nested[0][0], nested[0]], ALONE)
    assert [sum(map(len, u.names)) for u in zero.units] == [2, 2, 2]
    nested(torch.ones(1, 4)).sum().backward()
    assert all(f.shard.grad is not None for u in zero.units for f in u.flats)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight                                              # one Parameter in two modules
    with pytest.raises(CourseError, match="0.weight is used in more than one unit"): Zero3(module, list(module), ALONE)
    assert len(list(module.parameters())) == 3, "a refusal leaves the model as it was"
    Zero3(module, [], ALONE)
    block = nn.Linear(4, 4)
    two = nn.ModuleList([nn.Sequential(block), nn.Sequential(block)])                # one module in two units
    with pytest.raises(CourseError, match="more than one unit"): Zero3(two, list(two), ALONE)

def test_a_unit_may_be_used_twice():
    torch.manual_seed(0)
    plain, model = (nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    zero, x = Zero3(model, [model[0]], ALONE), torch.randn(3, 4)
    for m in (plain, model): m[0](torch.tanh(m[0](x))).sum().backward()
    got = zero.units[0].flats[0]
    for g, p in zip(got.places(got.shard.grad[None]), plain.parameters()): assert torch.allclose(g, p.grad)

def test_optimizers_refuse():
    model = small_gpt(2, 32)
    Zero3(model, list(model.transformer.h), ALONE)
    with pytest.raises(CourseError, match="no parameters"): MuonAdamW([dict(kind="adamw", params=model.parameters(), lr=1e-3)])
    with pytest.raises(CourseError, match="how='halves'"): RowMuonAdamW([], ALONE, "halves")
    with pytest.raises(ValueError): adamw_groups(model)

def test_flat_shards_cut_anywhere():
    flat = FlatShard([nn.Parameter(torch.arange(35.).view(7, 5)), nn.Parameter(torch.full((40,), 2.)), nn.Parameter(torch.tensor(3.))], Runtime(torch.device("cpu"), torch.float32, 1, 1, 4))
    assert flat.shape == (4, 32) and torch.equal(flat.shard[:3], torch.tensor([32., 33., 34.])) and flat.shard[3] == 2
