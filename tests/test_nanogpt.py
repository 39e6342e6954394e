"The other speedrun: models of all rungs against other implementations, the ladder, the optimizers, ranks, resuming, the plan."
import importlib, json, math, os, subprocess, sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import forked
import numpy as np
import pytest
import torch

from nanochat_course import nanogpt as ng
from nanochat_course.common import CourseError, Runtime, read_log
from nanochat_course.engine import Decoder, ModelDecoder
from nanochat_course.fineweb import write_shard
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.plan import PlanConfig, bill, show_bill
from nanochat_course.tokenizer import train_bpe

ROOT = Path(__file__).resolve().parent.parent
CPU = Runtime(torch.device("cpu"), torch.float32)
NAMES = [rung.name for rung in ng.LADDER]


def tiny(name, seed=0, **changes):
    "A model of a rung in which nothing is zero, 3 layers wide 32."
    r = replace(ng.resized(ng.recipe(name), 3, 32, 24, 20), n_head=2, **changes)
    torch.manual_seed(seed)
    model = ng.make_model(r, 100, CPU)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lambda" in n or "skip" in n: p.uniform_(0.3, 0.9)
            elif "bias" in n or p.abs().max() < 1e-2: p.normal_(std=0.2)
    return r, model


def test_the_first_rung_is_gpt2():
    "The same weights in transformers' GPT-2, which has learned positions, LayerNorm, biases, tanh GELU and a tied head."
    transformers = pytest.importorskip("transformers")
    r, model = tiny("llmc")
    with torch.no_grad():
        for p in model.parameters(): p.normal_(std=0.3)
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=100, n_positions=24, n_embd=32, n_layer=3, n_head=2)).eval()
    w, state = dict(model.named_parameters()), {}
    for i in range(3):
        here, there = f"transformer.h.{i}.", f"transformer.h.{i}."
        for kind in ("weight", "bias"):
            turn = lambda x: x.T if x.ndim == 2 else x                     # theirs multiply from the other side
            state[f"{there}ln_1.{kind}"], state[f"{there}ln_2.{kind}"] = w[f"{here}attn_norm.{kind}"], w[f"{here}mlp_norm.{kind}"]
            state[f"{there}attn.c_attn.{kind}"] = turn(torch.cat([w[f"{here}attn.c_{s}.{kind}"] for s in "qkv"]))
            for part in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"): state[f"{there}{part}.{kind}"] = turn(w[f"{here}{part}.{kind}"])
    state |= {"transformer.wte.weight": w["transformer.wte.weight"], "transformer.wpe.weight": w["transformer.wpe.weight"],
              "transformer.ln_f.weight": w["last_norm.weight"], "transformer.ln_f.bias": w["last_norm.bias"], "lm_head.weight": w["transformer.wte.weight"]}
    hf.load_state_dict(state)
    idx = torch.randint(100, (2, 24))
    with torch.no_grad(): torch.testing.assert_close(model(idx), hf(idx).logits, atol=2e-4, rtol=1e-4)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in hf.parameters())


def test_gpt2s_size():
    "124,439,808 parameters, as everybody counts them; 162 million with a head of its own and padded tables."
    def count(name):
        with torch.device("meta"): return GPT(ng.model_config(ng.recipe(name), 50257)).num_params()["total"]
    assert count("llmc") == 124_439_808
    assert count("untied") == 2 * 50304 * 768 + 12 * 12 * 768**2


def unet_reference(model, r, idx):
    "The second last rung from the formulas, in float64."
    w = {n: p.detach().double() for n, p in model.named_parameters()}
    norm = lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    (B, T), D = idx.shape, r.n_embd // r.n_head
    angle = torch.arange(T).double()[:, None] * 1e4 ** (-torch.arange(0, D, 2).double() / D)
    def turn(x): z = torch.complex(x[..., :D//2], x[..., D//2:]) * torch.polar(torch.ones_like(angle), -angle); return torch.cat([z.real, z.imag], -1)
    x = x0 = norm(w["transformer.wte.weight"][idx])
    stack, half, first = [], r.n_layer // 2, None
    for i in range(r.n_layer):
        p = f"transformer.h.{i}."
        if i >= r.n_layer - half: x = x + w["skip_weights"][r.n_layer - 1 - i] * stack.pop()
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        h = norm(x)
        q, k, v = ((h @ w[f"{p}attn.c_{s}.weight"].T).view(B, T, -1, D).transpose(1, 2) for s in "qkv")
        if i == 0: first = v
        else: v = (1 - w[p + "attn.value_lambda"]) * v + w[p + "attn.value_lambda"] * first
        q, k = norm(turn(q)), norm(turn(k))
        y = (q @ k.mT / math.sqrt(D)).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf).softmax(-1) @ v
        x = x + y.transpose(1, 2).reshape(B, T, -1) @ w[p + "attn.c_proj.weight"].T
        x = x + (norm(x) @ w[p + "mlp.c_fc.weight"].T).clamp(min=0)**2 @ w[p + "mlp.c_proj.weight"].T
        if i < half: stack.append(x)
    return (30 * torch.tanh(norm(x) @ w["lm_head.weight"].T / 30))[..., :100]


@pytest.mark.parametrize("layers", [3, 4])
def test_value_residual_and_the_u(layers):
    r, model = tiny("unet", n_layer=layers)
    idx = torch.randint(100, (2, 17))
    with torch.no_grad(): torch.testing.assert_close(model(idx).double(), unet_reference(model, r, idx), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_rung_trains_and_writes(name):
    "Loss falls on one batch; every parameter gets a gradient; token by token with the cache is the whole; the engine uses the model itself."
    r, model = tiny(name)
    idx = torch.randint(100, (2, 20))
    with torch.no_grad():
        cache = model.new_cache(2)
        pieces = [model(piece, kv_cache=cache) for piece in idx.split([7, 1, 12], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(idx), atol=2e-5, rtol=1e-4)
    assert not Decoder.fits(model)
    decoder = ModelDecoder(model, torch.float32)
    rows = decoder.new_cache(2, 24)
    with torch.no_grad(): torch.testing.assert_close(decoder.read(idx, rows), model(idx)[:, -1], atol=2e-5, rtol=1e-4)
    optimizer, losses = ng.optimizer_of(model, r, CPU), []
    for _ in range(8):
        loss = model(idx[:, :-1], idx[:, 1:])
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


def test_no_cap_is_no_cap():
    "A cap of a million: the loss and its gradient are those of plain cross-entropy."
    _, model = tiny("rotary")
    idx = torch.randint(100, (2, 20))
    loss = model(idx[:, :-1], idx[:, 1:])
    plain = torch.nn.functional.cross_entropy(model(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
    got, want = (torch.autograd.grad(l, model.transformer.wte.weight)[0] for l in (loss, plain))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


def test_learned_positions_end_and_other_mistakes_are_one_line():
    _, model = tiny("llmc")
    with pytest.raises(CourseError, match="has learned 24 positions"): model.eval()(torch.zeros(1, 25, dtype=torch.long))
    for wrong, words in ((dict(norm="batch"), "unknown norm"), (dict(positions="no"), "rotary or learned"), (dict(vocab_multiple=0), "at least 1"),
                         (dict(value_embeds=True, value_residual=True), "leave one of them out")):
        with pytest.raises(CourseError, match=words): GPTConfig(**wrong)
    with pytest.raises(CourseError, match="unknown rung 'nope': use one of llmc"): ng.recipe("nope")
    with pytest.raises(CourseError, match="use 512"): ng.passes_of(ng.NanoGPTConfig(total_batch_size=500, device_batch_size=2), 128, 2)


@pytest.mark.parametrize("name", ["llmc", "rotary", "unet"])
def test_export_refuses_what_it_cannot_hold(name, tmp_path):
    from nanochat_course.export import to_hf
    _, model = tiny(name)
    tokenizer = train_bpe(["a small text for a small model"] * 3, 270, num_processes=1)
    with pytest.raises(CourseError) as e: to_hf(model, tmp_path / "hf", tokenizer)
    assert "\n" not in str(e.value) and not (tmp_path / "hf").exists()


def test_the_plain_model_has_nothing_new():
    "Off by default: the names of a plain model's parameters are those of before."
    c = GPTConfig(sequence_len=16, vocab_size=100, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)
    parts = [f"transformer.h.0.{n}.weight" for n in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert [n for n, _ in GPT(c).named_parameters()] == ["transformer.wte.weight", *parts, "lm_head.weight"]


PUBLISHED = {   # minutes, steps and validation loss in the logs of the records
    "llmc": (45, 19560, 3.2722), "rotary": (31.4, 9536, 3.275959), "muon": (24.9, None, None), "muon-tuned": (22.3, 6200, 3.2785),
    "modern": (15.2, 5100, 3.2741), "sharded": (13.1, 5100, 3.2747), "newer-torch": (12.0, 5100, 3.2755), "untied": (10.8, 4578, 3.2762),
    "shortcuts": (8.2, 3200, 3.2791), "bfloat16": (7.8, 3242, 3.2781), "unet": (7.2, 3000, 3.2753), "long-rows": (5.03, 1875, 3.2783),
    "windows": (4.66, 1750, 3.2759)}


LOGGED = {   # learning rates of embedding, head, matrices and single numbers, first beta, steps of the fall, tokens in a row: from the logs' code
    "untied": (0.3, 0.002, 0.02, None, 0.9, 1308, 1024), "shortcuts": (0.3, 0.002, 0.02, 0.02, 0.9, 914, 1024),
    "bfloat16": (0.3, 0.002, 0.02, 0.02, 0.9, 926, 1024), "unet": (0.6, 0.008, 0.04, 0.04, 0.9, 900, 1024),
    "long-rows": (0.6, 0.008, 0.04, 0.04, 0.9, 562, 65536), "windows": (0.6, 0.008, 0.05, 0.04, 0.8, 640, 65536)}


@pytest.mark.parametrize("name", LOGGED)
def test_the_later_rungs_have_the_settings_of_their_logs(name):
    r = ng.recipe(name)
    got = (r.embedding_lr, r.unembedding_lr, r.matrix_lr, r.scalar_lr, r.betas[0], r.warmdown_steps, r.sequence_len)
    assert all(want is None or have == want for have, want in zip(got, LOGGED[name], strict=True))
    assert (r.documents, r.stream) == (name in ("long-rows", "windows"), "float32" if name in ("untied", "shortcuts") else "bfloat16")


def test_the_ladder_is_the_published_one():
    assert len(ng.LADDER) == 13 and [r.minutes for r in ng.LADDER] == sorted((r.minutes for r in ng.LADDER), reverse=True)
    assert {r.name: (r.minutes, r.steps) for r in ng.LADDER} == {k: v[:2] for k, v in PUBLISHED.items()}
    for r in ng.LADDER:
        assert r.loss is None or r.loss == pytest.approx(PUBLISHED[r.name][2], abs=5e-5) and r.loss < 3.28
        assert r.steps is None or ng.recipe(r.name).num_iterations == r.steps
        assert ng.recipe(r.name).warmup_steps + ng.recipe(r.name).warmdown_steps < ng.recipe(r.name).num_iterations
    tokens = {r.name: r.tokens for r in ng.LADDER}
    assert tokens["llmc"] == 19560 * 524288 and tokens["untied"] == pytest.approx(2.4e9, rel=1e-4) and tokens["muon"] is None


def test_each_rung_is_one_change_and_nothing_idle():
    "What a rung names differs from the rung before; all else is the same; one literal in the ladder."
    before = ng.Recipe()
    assert ng.recipe("llmc") == before
    for rung in ng.LADDER[1:]:
        now = ng.recipe(rung.name)
        differs = {f.name for f in fields(ng.Recipe) if getattr(now, f.name) != getattr(before, f.name)}
        assert differs == set(rung.change), rung.name
        before = now


def test_resizing_keeps_the_recipe():
    r = ng.resized(ng.recipe("shortcuts"), 4, 128, 256, 160, 2.)
    assert (r.n_layer, r.n_embd, r.n_head, r.sequence_len, r.num_iterations) == (4, 128, 1, 256, 160)
    assert (r.warmdown_steps, r.momentum_warmup, r.matrix_lr) == (46, 25, 0.04)
    w = ng.resized(ng.recipe("windows"), sequence_len=1024, steps=60)
    assert (w.window_start, w.window_end) == (64, 1792)
    small = ng.resized(ng.recipe("long-rows"), sequence_len=128)
    assert (small.sequence_len, small.window_start, small.window_end) == (128, 128, 128)
    same = ng.resized(ng.recipe("unet"))
    assert same == ng.recipe("unet")


def test_windows_grow_and_end_open():
    r = ng.resized(replace(ng.recipe("windows"), window_start=4, window_end=64, sequence_len=64), steps=60)
    _, model = tiny("unet")
    grow = ng.GrowingWindow(ng.schedule_of(r), model, r)
    seen = [grow(step) and model.transformer.h[1].attn.window for step in range(60)]
    assert sorted(set(seen), key=seen.index) == [4, 16, 28, 40, 52, -1] and seen.count(4) == 10
    assert grow(59)["lr"] == ng.schedule_of(r)(59)["lr"] > 0


def documents_model(dtype=torch.float64, **changes):
    "A model of the last rung in which nothing is zero, masked by document; id 0 begins one."
    r, model = tiny("windows", sequence_len=40, documents=True, **changes)
    model.double() if dtype == torch.float64 else model
    model.dtype = dtype
    ng.mask_documents(model, 0)
    return r, model


@pytest.mark.parametrize("window", [-1, 3])
def test_a_document_in_a_row_is_as_if_alone(window):
    "Losses and gradients of three documents in one row are those of three rows; the first tokens of the row end a document of the row before."
    _, model = documents_model()
    for block in model.transformer.h: block.attn.window = window
    lengths, rng = (4, 9, 13), torch.Generator().manual_seed(1)
    docs = [torch.cat([torch.zeros(1, dtype=torch.long), torch.randint(1, 100, (n,), generator=rng)]) for n in lengths]
    docs[0] = docs[0][1:]                                                     # begins in the middle
    row = torch.cat(docs)[None]
    targets = torch.cat([torch.cat([d[1:], torch.tensor([-1])]) for d in docs])[None]
    together = model(row, targets, loss_reduction="sum")
    want_grads = torch.autograd.grad(together, list(model.parameters()))
    alone = sum(model(d[None, :-1], d[None, 1:], loss_reduction="sum") for d in docs)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-6)
    for got, want in zip(torch.autograd.grad(alone, list(model.parameters())), want_grads):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-4)
    for block in model.transformer.h: block.attn.backend = "auto"             # and without the mask they are not
    assert abs(model(row, targets, loss_reduction="sum") - alone) > 1e-2


def test_the_tenth_record_moves_sixteen_bits():
    "Before it the stream of a 16-bit model is float32, while its products are not; from it on the stream is bfloat16. The loss is the same but for rounding."
    ids, losses = torch.randint(100, (2, 20), generator=torch.Generator().manual_seed(0)), {}
    for name, rt, stream in (("shortcuts", CPU, torch.float32), ("shortcuts", Runtime(CPU.device, torch.bfloat16), torch.float32),
                             ("bfloat16", Runtime(CPU.device, torch.bfloat16), torch.bfloat16)):
        r = replace(ng.resized(ng.recipe(name), 3, 32, 24, 20), n_head=2)
        torch.manual_seed(0)
        model, seen = ng.make_model(r, 100, rt), {}
        with torch.no_grad():
            for n, p in model.named_parameters():
                if p.abs().max() < 1e-2 and p.ndim == 2: p.normal_(std=0.2)
        model.transformer.h[-1].register_forward_hook(lambda module, args, out: seen.update(stream=out.dtype))
        model.transformer.h[-1].mlp.c_fc.register_forward_hook(lambda module, args, out: seen.update(product=out.dtype))
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        assert (seen["stream"], seen["product"]) == (stream, rt.dtype)
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
        losses[name, rt.dtype] = loss.item()
    exact, *rounded = losses.values()
    assert all(0 < abs(loss - exact) < 0.02 for loss in rounded)


def test_the_new_parts_compile_without_a_break():
    "Autocast around the model: one graph, and the same loss for two batches. (Rows of documents: test_fake_cuda.py.)"
    r = replace(ng.resized(ng.recipe("shortcuts"), 2, 32, 24, 20), n_head=2)
    torch.manual_seed(0)
    model = ng.make_model(r, 100, Runtime(CPU.device, torch.bfloat16))
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    for seed in (0, 1):
        ids = torch.randint(8, (2, 20), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad(): assert compiled(ids, ids.roll(-1, 1)).item() == pytest.approx(model(ids, ids.roll(-1, 1)).item(), abs=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "Tokens with something to learn: a walk on a ring, with jumps."
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.choice([1, 1, 1, 2, 7], 20000)) % 61
    write_shard(folder / "x_val_0.bin", walk[:3000])
    write_shard(folder / "x_train_1.bin", walk[3000:9001])
    write_shard(folder / "x_train_2.bin", walk[9001:])
    (folder / "shards.json").write_text(json.dumps(dict(vocab_size=61)))
    return folder


SMALL = dict(depth=2, n_embd=64, max_seq_len=32, num_iterations=8, total_batch_size=256, device_batch_size=2, device="cpu", dtype="float32",
             val_tokens=2048, eval_every=4, save_every=4)


def flags(**given): return [word for k, v in given.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def curve(folder, world, **given):
    "Losses of a run in `world` processes: the script as users start it."
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(folder), OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    done = forked.run([*start, "-m", "nanochat_course.nanogpt", *flags(**SMALL | given)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    log = read_log(folder / "report" / "nanogpt.jsonl")
    return [l["loss"] for l in log if "loss" in l], [l["val_loss"] for l in log if "val_loss" in l]


def test_ranks_give_the_curve_of_one(data, tmp_path, monkeypatch):
    "1, 2 and 4 gloo processes: the sharded optimizer, and the one that every rank runs whole. The same rows, the same curve."
    def alone(rung):
        monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / rung))
        ng.nanogpt(ng.NanoGPTConfig(rung=rung, data=str(data), **SMALL))
        log = read_log(tmp_path / rung / "report" / "nanogpt.jsonl")
        return [l["loss"] for l in log if "loss" in l], [l["val_loss"] for l in log if "val_loss" in l]
    one, val = alone("unet")
    assert len(one) == 8 and len(val) == 3 and one[-1] < one[0] - 0.3
    for world in (2, 4):
        many, val_many = curve(tmp_path / f"many{world}", world, rung="unet", data=data)
        assert many == pytest.approx(one, abs=2e-3) and val_many == pytest.approx(val, abs=2e-3)
    assert curve(tmp_path / "whole", 2, rung="modern", data=data)[0] == pytest.approx(alone("modern")[0], abs=2e-3)


def test_a_stopped_run_goes_on(data, tmp_path, monkeypatch):
    "The checkpoint of step 4, and everything after it once more: the same losses, bit for bit."
    import shutil
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    config = ng.NanoGPTConfig(rung="windows", data=str(data), **SMALL)
    first = ng.nanogpt(config)
    folder = tmp_path / "nanogpt_checkpoints" / "windows"
    losses = [l["loss"] for l in read_log(tmp_path / "report" / "nanogpt.jsonl") if "loss" in l]
    shutil.rmtree(folder / "step_000008")
    (folder / "result.json").unlink()
    again = ng.nanogpt(config)
    assert again["val_loss"] == first["val_loss"]
    assert [l["loss"] for l in read_log(tmp_path / "report" / "nanogpt.jsonl") if "loss" in l] == losses


def test_a_wrong_vocabulary_or_batch_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    for wrong, words in ((dict(data=str(tmp_path / "none")), "no \\*_train_"), (dict(total_batch_size=250), "use 256"),
                         (dict(max_seq_len=5000, total_batch_size=10000), "a row needs 5,001")):
        with pytest.raises(CourseError, match=words): ng.nanogpt(ng.NanoGPTConfig(**SMALL | dict(rung="modern", data=str(data)) | wrong))


def test_the_plan_of_the_record():
    "Published: 10.8 minutes on eight H100s for 2.4 billion tokens."
    b = bill(PlanConfig(preset="nanogpt-124m"))
    assert (b["steps"], b["total_batch_size"]) == (4578, 524288) and b["parameters"] == 162_201_600
    assert 60 * b["hours"] == pytest.approx(10.8, rel=0.2)
    assert b["download"] == pytest.approx(25 * 200e6, rel=0.05)


def test_the_plan_is_told_in_units_that_fit():
    "Read back from the printed line: minutes for runs of minutes, hours for hours, cents below ten dollars."
    for preset, unit in (("nanogpt-124m", "min"), ("gpu", "min"), ("8xh100", "h")):
        b = bill(PlanConfig(preset=preset))
        lines = {line[:12].strip(): line[12:] for line in show_bill(b).splitlines()}
        words = lines["time"].split(" of pretraining")[0].split()
        seconds = sum(float(n) * {"h": 3600, "min": 60, "s": 1}[u] for n, u in zip(words[::2], words[1::2]))
        assert words[1] == unit and seconds == pytest.approx(3600 * b["hours"], rel=0.02)
        assert float(lines["cost"].split()[0].replace(",", "")) == pytest.approx(b["dollars"], abs=0.5 if b["dollars"] >= 10 else 5e-3)


def test_the_stored_measurement_belongs_to_this_ladder():
    stored = json.loads((ROOT / "benchmarks" / "results" / "nanogpt_cpu.json").read_text())
    assert {r["rung"] for r in stored["runs"]} - {"modern with AdamW"} | {"sharded", "newer-torch", "bfloat16"} == set(NAMES)
    for name, then in stored["recipes"].items():
        now = json.loads(json.dumps(asdict(ng.resized(ng.recipe(name), **stored["size"]))))
        assert then == now, f"{name} has changed since it was measured: run benchmarks/bench_nanogpt.py again"


def test_muon_beat_adamw_at_equal_tokens():
    "What the chapter says of the stored runs: every seed of every rung of Muon, at its best rates, is below every run of AdamW."
    stored = json.loads((ROOT / "benchmarks" / "results" / "nanogpt_cpu.json").read_text())
    short = [r for r in stored["runs"] if r["steps"] == stored["size"]["steps"]]
    best = {n: min((r for r in short if r["rung"] == n and r["seed"] == 0), key=lambda r: r["val_loss"])["factor"] for n in {r["rung"] for r in short}}
    muon = [r for r in short if r["rung"] in NAMES and ng.recipe(r["rung"]).muon and r["factor"] == best[r["rung"]]]
    adamw = [r for r in short if r["rung"] not in NAMES or not ng.recipe(r["rung"]).muon]
    assert len({r["seed"] for r in muon if r["rung"] == "muon-tuned"}) == len({r["seed"] for r in adamw if r["rung"] == "rotary"}) == 3
    assert max(r["val_loss"] for r in muon) < min(r["val_loss"] for r in adamw)


def test_the_benchmark_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    "The race at the size of a rehearsal, stopped after one run and started again. And its list of runs: none twice, none missing."
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    bench = importlib.import_module("bench_nanogpt")
    threads = torch.get_num_threads()
    def race(minutes, *more):
        monkeypatch.setattr(sys, "argv", ["bench_nanogpt.py", "--size", "smoke", "--minutes", str(minutes), "--out", str(tmp_path / "r.json"),
                                          "--data", str(tmp_path / "tokens"), *more])
        try: bench.main()
        finally: torch.set_num_threads(threads)
        return json.loads((tmp_path / "r.json").read_text())["runs"]
    first = race(1e-4)
    runs = race(0.02)
    assert len(first) == 1 and len(runs) > 1 and runs[0] == first[0] and all(math.isfinite(r["val_loss"]) for r in runs)
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: (")
    bench.step_times = lambda *args, measure=bench.step_times: measure(*args, rounds=1, steps=3)
    race(0, "--times")
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["runs"] == runs and all(stored["times"][rung] > 0 for rung in bench.RUNGS)
    keys = [(r["rung"], r["factor"], r["seed"], r["steps"]) for r in runs]
    while todo := bench.missing(runs, 4):                                  # the rest of the list, without training
        keys.append(todo)
        runs.append(dict(zip(("rung", "factor", "seed", "steps"), todo), val_loss=todo[1]))
    assert len(set(keys)) == len(keys) == 3 * 10 + 2 * 6 + 3 + 2


def test_the_launcher_downloads_and_trains(tmp_path):
    "runs/nanogpt_speedrun.sh from a hub on loopback to a checkpoint, by torchrun with one process; only the environment is there already."
    from loopback import Raw, whole
    ids = np.cumsum(np.random.default_rng(0).choice([1, 2, 7], 6000)) % 61
    write_shard(tmp_path / "shard", ids)
    body = (tmp_path / "shard").read_bytes()
    (tmp_path / "runs").mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "runs" / "nanogpt_speedrun.sh").write_text((ROOT / "runs" / "nanogpt_speedrun.sh").read_text())
    (tmp_path / "runs" / "setup.sh").write_text(f"VENV={tmp_path / 'venv'}\n")
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    small = {k: v for k, v in SMALL.items() if k not in ("num_iterations", "depth", "n_embd")} | dict(num_iterations=2, depth=1, n_embd=32)
    with Raw(lambda h: whole(body)(h)) as hub:
        env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path / "base"), HF_ENDPOINT=hub.url, SHARDS="2", PYTHONPATH=str(ROOT))
        start = ["bash", str(tmp_path / "runs" / "nanogpt_speedrun.sh"), *flags(**small)]
        refused = subprocess.run(start, env=dict(env, GPUS="3"), capture_output=True, text=True, timeout=240)
        done = subprocess.run(start, env=dict(env, GPUS="1"), capture_output=True, text=True, timeout=240)
    assert refused.returncode == 2 and "use 1, 2, 4 or 8" in refused.stderr
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "base" / "data" / "fineweb10B").glob("*.bin")) == [
        "fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"]
    assert (tmp_path / "base" / "nanogpt_checkpoints" / "untied" / "step_000002" / "model.safetensors").exists()
