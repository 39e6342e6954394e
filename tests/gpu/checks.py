"""What a GPU computes, against the same on a CPU: functions of a device, each returns what it measured and fails by an assertion.

On device "cpu" the same functions run at small sizes (test_smoke.py): then they show that the comparisons themselves are right.
"""
import os, subprocess, sys, tempfile, time
from pathlib import Path

import torch
from nanochat_course.attention import attention
from nanochat_course.base_train import build_model
from nanochat_course.common import Runtime
from nanochat_course.doctor import DoctorConfig, attention_error, fp8_error, gpu_speed, make_job, relative, train_steps
from nanochat_course.gpt import GPTConfig, head_loss
from nanochat_course.newton_schulz import newton_schulz, polar_express
from nanochat_course.optim import adamw_equations_, adamw_update_, muon_update_
from nanochat_course.precision import convert_to_fp8
from nanochat_course.scaling import mfu

ROOT = Path(__file__).resolve().parents[2]


def draw(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(device): return torch.device(device).type != "cuda"


def attention_backends(device):
    "Every backend, with and without a window, forward and backward, against naive attention in float32 on the same device."
    T, D = (256, 32) if small(device) else (2048, 128)
    cases = [("full", -1, False), ("blocks", -1, False), ("blocks", T // 2, False), ("blocks", 37, False), ("auto", T // 2, False)]
    if not small(device): cases += [("flex", -1, True), ("flex", T // 2, True), ("flex", 37, True), ("auto", T // 2, True), ("auto", -1, True)]
    errors = {}
    for backend, window, compiled in cases:
        for dtype, most in ((torch.float32, 1e-4 if small(device) else 5e-3), (torch.bfloat16, 0.02)):     # TF32 inside flex
            key = f"{backend}, window {window}, {'compiled, ' if compiled else ''}{str(dtype)[6:]}"
            errors[key] = max(attention_error(backend, window, device, dtype, T, 2, D, compiled))
            assert errors[key] < most, f"{key}: relative error {errors[key]:.2g}"
    return errors


def naive_head_loss(x, w, targets, cap):
    "Losses of (B, T) tokens in float64."
    logits = cap * torch.tanh(x.double() @ w.double().T / cap)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="mean")


def head(device):
    "The chunked loss and its hand-made gradient against autograd in float64 on the CPU; chunks that do not divide the tokens."
    B, T, C, V = (2, 50, 32, 320) if small(device) else (4, 1000, 768, 32768)
    x, w = draw(B, T, C), draw(V, C, seed=1) * 0.1
    targets = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(2))
    targets[0, :7] = -1
    ours, true = ([t.detach().to(d).requires_grad_() for t in (x, w)] for d in (device, "cpu"))
    loss = head_loss(ours[0], ours[1], targets.to(device), 15., chunk=B * T // 3 + 1)
    loss.backward()
    exact = naive_head_loss(*true, targets, 15.)
    exact.backward()
    errors = dict(loss=abs(loss.item() - exact.item()), x=relative(ours[0].grad.cpu(), true[0].grad), weight=relative(ours[1].grad.cpu(), true[1].grad))
    assert max(errors.values()) < 1e-4, errors
    return errors


def orthogonalisation(device):
    "Newton-Schulz and Polar Express: float32 as on the CPU; in bfloat16 the singular values end where they should."
    shapes = [(3, 48, 96), (2, 64, 64)] if small(device) else [(12, 768, 3072), (12, 3072, 768), (48, 768, 768)]
    out = {}
    for shape in shapes:
        G = draw(*shape)
        for f in (newton_schulz, polar_express):
            exact, ours = f(G, dtype=torch.float32), f(G.to(device), dtype=torch.float32).cpu()
            low = f(G.to(device), dtype=torch.bfloat16).cpu().float()
            values = torch.linalg.svdvals(low)
            key = f"{f.__name__} {shape}"
            out[key] = dict(float32=relative(ours, exact), bfloat16=relative(low, exact), least=values.min().item(), largest=values.max().item())
            assert out[key]["float32"] < 2e-3 and values.max() < 1.4, (key, out[key])
    return out


def adamw(device):
    "The fused kernel, ten steps, against the equations in float64 on the CPU."
    n = (40, 64) if small(device) else (8192, 768)
    p, state = draw(*n).to(device), [torch.zeros(n, device=device) for _ in range(2)]
    exact, exact_state = p.cpu().double(), [torch.zeros(n, dtype=torch.float64) for _ in range(2)]
    count, settings = torch.zeros((), device=device), dict(lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1)
    for i in range(10):
        g = draw(*n, seed=i + 1)
        adamw_update_([p], [g.to(device)], [state[0]], [state[1]], [count], **settings)
        adamw_equations_(exact, g.double(), *exact_state, i + 1, **settings)
    error = relative(p.cpu(), exact)
    assert error < 1e-5, error
    return dict(error=error)


def muon(device, compiled=None):
    "Five steps of Muon, compiled on a GPU, against uncompiled ones on the CPU; products in float32."
    K, m, n = (3, 48, 96) if small(device) else (12, 768, 3072)
    compiled = not small(device) if compiled is None else compiled
    start = draw(K, m, n)
    def steps(where, compile):
        W, M, S = start.clone().to(where), torch.zeros(K, m, n, device=where), torch.zeros(K, m, 1, device=where)
        for i in range(5):
            G = draw(K, m, n, seed=i + 1).to(where)
            muon_update_(W, G, M, S, lr=0.02, weight_decay=0.1, cautious=True, beta2=0.9, ns_dtype=torch.float32, compile=compile)
        return W.cpu() - start
    error = relative(steps(device, compiled), steps("cpu", False))
    assert error < 5e-3, error
    return dict(error=error)


def models(device, dtype):
    "The same weights on two devices, not at their zero start."
    c = GPTConfig(sequence_len=64, vocab_size=320, n_layer=3, n_head=2, n_kv_head=1, n_embd=64, window_pattern="SL") if small(device) else \
        GPTConfig(sequence_len=1024, vocab_size=32768, n_layer=4, n_head=4, n_kv_head=2, n_embd=512, window_pattern="SSSL")
    torch.manual_seed(0)
    cpu = build_model(c, Runtime(torch.device("cpu"), torch.float32))
    with torch.no_grad():
        for i, p in enumerate(cpu.parameters()):
            if not p.any(): p.copy_(draw(*p.shape, seed=i) * 0.02)
    other = build_model(c, Runtime(torch.device(device), dtype))
    other.load_state_dict(cpu.state_dict())
    ids = torch.randint(c.vocab_size, (2, c.sequence_len + 1), generator=torch.Generator().manual_seed(1))
    return cpu, other, ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def gradients(model, inputs, targets, call=None):
    "Loss and all gradients, on the CPU."
    model.zero_grad()
    where = next(model.parameters()).device
    loss = (model if call is None else call)(inputs.to(where), targets.to(where))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten().cpu().double() for p in model.parameters()])


def whole_model(device):
    "Loss and gradients of a model with windows and shared heads, against the same weights in float32 on the CPU."
    out = {}
    for dtype, most in ((torch.float32, 2e-3), (torch.bfloat16, 0.06)):
        cpu, other, inputs, targets = models(device, dtype)
        (loss, grad), (true, exact) = gradients(other, inputs, targets), gradients(cpu, inputs, targets)
        out[str(dtype)[6:]] = dict(loss=abs(loss - true), gradient=relative(grad, exact))
        assert abs(loss - true) < most and relative(grad, exact) < most, out
    return out


def compiled_model(device, backend="inductor"):
    "Compiled as one graph: no break, no second compilation, the same loss and gradients as eager."
    from torch._dynamo.utils import counters
    torch._dynamo.reset()
    counters.clear()
    _, model, inputs, targets = models(device, torch.float32)
    call = torch.compile(model, dynamic=False, fullgraph=True, backend=backend)
    eager = gradients(model, inputs, targets)
    for _ in range(3): ours = gradients(model, inputs, targets, call)
    out = dict(graphs=counters["stats"]["unique_graphs"], breaks=sum(counters["graph_break"].values()),
               loss=abs(ours[0] - eager[0]), gradient=relative(ours[1], eager[1]))
    assert out["graphs"] == 1 and out["breaks"] == 0, out
    assert out["loss"] < 2e-3 and out["gradient"] < 5e-3, out
    return out


def eight_bits(device):
    "One product, and a model whose large layers and head multiply in 8 bits: its loss and gradient near those in bfloat16."
    out = dict(product=fp8_error(device))
    assert out["product"] < 1e-2, out
    _, model, inputs, targets = models(device, torch.bfloat16)
    loss, grad = gradients(model, inputs, targets)
    rt = Runtime(torch.device(device), torch.bfloat16)
    out["layers"] = len(convert_to_fp8(model, rt, min_size=64, head=True, emulate=small(device)))
    low, low_grad = gradients(model, inputs, targets)
    out.update(loss=abs(low - loss), gradient=relative(low_grad, grad))
    assert out["layers"] >= 12 and 0 < out["loss"] < 0.05 and out["gradient"] < 0.5, out
    return out


def peak_of(device, f):
    "Bytes that a call needs beyond what was there, and its seconds; the second call is measured."
    f()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    f()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, time.perf_counter() - began


def window_memory(device):
    "A window of 512 at 8,192 tokens: the same numbers as with a full mask, in at most a quarter of its memory."
    T, window, D = (512, 64, 32) if small(device) else (8192, 512, 128)
    q, k, v, up = (draw(1, 6, T, D, seed=i).to(device, torch.float32 if small(device) else torch.bfloat16) for i in range(4))
    run = attention if small(device) else torch.compile(attention, dynamic=False, fullgraph=True)
    back = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    mask = (back >= 0) & (back <= window)
    def masked(q, k, v):
        scores = (q @ k.mT / D**0.5).masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ v
    def step(f):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = f(*leaves)
        out.backward(up)
        return [out.detach(), *(x.grad for x in leaves)]
    ours, true = step(lambda *x: run(*x, window, "auto")), step(masked)
    out = dict(error=max(relative(a, b) for a, b in zip(ours, true)))
    assert out["error"] < (1e-4 if small(device) else 0.03), out
    if not small(device):
        out["bytes"], out["seconds"] = peak_of(device, lambda: step(lambda *x: run(*x, window, "auto")))
        out["bytes_masked"], out["seconds_masked"] = peak_of(device, lambda: step(masked))
        assert out["bytes"] < out["bytes_masked"] / 4, out
    return out


def throughput(device):
    "Tokens a second and MFU of the training step at several depths; nanochat's beside them if NANOCHAT names a checkout."
    cases = [(2, 4, False)] if small(device) else [(12, 16, False), (20, 16, False), (24, 16, True)]
    out = {}
    for depth, rows, fp8 in cases:
        flags = [f"base_train.{k}={v}" for k, v in dict(depth=depth, device_batch_size=rows, fp8=fp8).items()]
        if small(device): job = make_job(DoctorConfig(preset="tiny", set=tuple(flags)))
        else: job = make_job(DoctorConfig(preset="8xh100", gpus=1, set=tuple(flags)))
        if not small(device): torch.cuda.reset_peak_memory_stats()
        told = train_steps(job, 3 if small(device) else 15)
        seconds = sorted(told["seconds"][-10:])[len(told["seconds"][-10:]) // 2]
        rate = rows * job.plan.sequence_len / seconds
        name = "" if small(device) else torch.cuda.get_device_name()
        row = dict(rows=rows, fp8=fp8, tokens_per_second=rate, mfu=mfu(job.plan.flops_per_token, rate, name), peak_bytes=told["peak"], losses=told["losses"])
        assert row["losses"][-1] < row["losses"][0], row
        if os.environ.get("NANOCHAT") and not small(device): row["nanochat"] = upstream(depth, rows, fp8)
        out[f"depth {depth}"] = row
        torch._dynamo.reset()                                                # the next depth shares no graph with this one
        if not small(device): torch.cuda.empty_cache()
    return out | dict(product_flops=gpu_speed(device, **(dict(n=128, repeat=2) if small(device) else {})))


def upstream(depth, rows, fp8):
    "nanochat's own model and optimizer, the same shapes, timed the same way; its answer, or why there is none."
    import json
    command = [sys.executable, str(Path(__file__).parent / "upstream.py"), str(depth), str(rows), str(int(fp8))]
    checkout = os.path.abspath(os.environ["NANOCHAT"])
    done = subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": checkout}, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else dict(error=done.stderr.strip()[-300:])


SHORT = dict(base_train=dict(num_iterations=50, total_batch_size=65536, eval_tokens=65536, save_every=25),
             base_eval=dict(split_tokens=65536, max_per_task=8), mid_train=dict(num_iterations=10, eval_items=8),
             chat_sft=dict(num_iterations=10, eval_items=8), chat_rl=dict(num_iterations=2), chat_eval=dict(max_items=8))


SHORT_FLAGS = [f"{stage}.{k}={v}" for stage, settings in SHORT.items() for k, v in settings.items()]
SHORT_FLAGS += ["corpus.num_shards=2", "tok_train.max_chars=100000000"]


def rehearsal(device):
    "The real run's preset on one GPU, every stage shortened to some steps, the data downloaded; on a CPU the tiny one, up to the base model."
    with tempfile.TemporaryDirectory() as folder:
        if small(device):
            (Path(folder) / "text").mkdir()
            for i in range(2): (Path(folder) / "text" / f"{i}.txt").write_text("\n\n".join(f"{n} plus {n + i} is {2 * n + i}." for n in range(4000)))
            flags = ["corpus.source=" + str(Path(folder) / "text"), "tok_train.vocab_size=300", "tok_train.corpus=text", "base_train.corpus=text",
                     "base_train.depth=1", "base_train.max_seq_len=128", "base_train.num_iterations=2"]
            words = ["--preset", "tiny", "--until", "base_train"]
        else:
            flags, words = SHORT_FLAGS, ["--preset", "8xh100", "--gpus", "1"]
        for flag in flags: words += ["--set", flag]
        began = time.time()
        done = subprocess.run([sys.executable, "-m", "nanochat_course.speedrun", *words], env={**os.environ, "NANOCHAT_COURSE_DIR": folder},
                              capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
        stages = sorted(f.stem for f in (Path(folder) / "report").glob("*.json"))
    assert "base_train" in stages and (small(device) or "chat_rl" in stages), stages
    return dict(seconds=time.time() - began, stages=stages)


CHECKS = dict(attention=attention_backends, head_loss=head, newton_schulz=orthogonalisation, adamw=adamw, muon=muon, model=whole_model,
              compile=compiled_model, fp8=eight_bits, window_memory=window_memory, throughput=throughput, rehearsal=rehearsal)
