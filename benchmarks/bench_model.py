"""Training speed of the model: tokens a second, and where the time goes.

    python benchmarks/bench_model.py                 # the laptop size; about a minute
    python benchmarks/bench_model.py --compile       # also with torch.compile, whose first step takes long

Prints tables and writes benchmarks/results/model.json. Rows are measured in turns, round by round, and the best round of
each counts, so that another program on the machine disturbs all of them alike.
"""
import argparse, json, math, time
from pathlib import Path
import torch
from nanochat_course.common import machine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course import gpt


def make(args, dtype, head_dim, backend="auto"):
    torch.manual_seed(0)
    heads = args.width // head_dim
    config = GPTConfig(sequence_len=args.seq_len, vocab_size=args.vocab, n_layer=args.depth, n_head=heads, n_kv_head=heads, n_embd=args.width)
    with torch.device("meta"): model = GPT(config, dtype)
    model.to_empty(device=args.device).init_weights()
    for block in model.transformer.h: block.attn.backend = backend
    return model


def make_optimizer(model):
    "The course's own optimizer where it is there, else AdamW."
    try:
        from nanochat_course.optim import MuonAdamW, param_groups
        return MuonAdamW(param_groups(model, embedding_lr=.1, unembedding_lr=.004, matrix_lr=.01, scalar_lr=.1, weight_decay=0.))
    except ImportError: return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def make_step(model, optimizer, args):
    idx = torch.randint(0, args.vocab, (args.batch, args.seq_len), device=args.device)
    targets = idx.roll(-1, 1)
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    def step():
        times = [time.perf_counter()]
        loss = model(idx, targets); sync(); times.append(time.perf_counter())
        loss.backward(); sync(); times.append(time.perf_counter())
        if optimizer is not None: optimizer.step()
        for p in model.parameters(): p.grad = None
        sync(); times.append(time.perf_counter())
        return [b - a for a, b in zip(times, times[1:])]
    return step


def parts(model, args, rounds):
    "Seconds of forward and backward of each kind of part, measured alone at the model's shapes; the best of `rounds`."
    c, dtype, (B, T) = model.config, model.dtype, (args.batch, args.seq_len)
    rand = lambda *shape: torch.randn(*shape, device=args.device, dtype=dtype)
    x, block = rand(B, T, c.n_embd).requires_grad_(), model.transformer.h[0]
    idx = torch.randint(0, c.vocab_size, (B, T), device=args.device)
    heads = rand(B, T, c.n_head, c.head_dim).requires_grad_()
    q, k, v = (rand(B, n, T, c.head_dim).requires_grad_() for n in (c.n_head, c.n_kv_head, c.n_kv_head))
    cos_sin = model.rotary_at(T)
    cases = {
        "embedding": (1, lambda: model.transformer.wte(idx).to(dtype)),
        "norms": (2 * c.n_layer + 2, lambda: gpt.rms_norm(x)),
        "q, k, v and output products": (c.n_layer, lambda: block.attn.c_proj(block.attn.c_q(x) + block.attn.c_k(x) + block.attn.c_v(x))),
        "rotation and QK norm": (2 * c.n_layer, lambda: gpt.rms_norm(gpt.rotary(heads, *cos_sin))),
        "attention itself": (c.n_layer, lambda: gpt.attention(q, k, v, -1, block.attn.backend)),
        "MLP": (c.n_layer, lambda: block.mlp(x)),
        "head and loss": (1, lambda: gpt.head_loss(x, model.lm_head.weight, idx, c.softcap)),
    }
    best = dict.fromkeys(cases, math.inf)
    for _ in range(rounds):
        for name, (times, f) in cases.items():
            for p in [*model.parameters(), x, heads, q, k, v]: p.grad = None
            start = time.perf_counter()
            out = f()
            out.backward(torch.ones_like(out))
            if args.device == "cuda": torch.cuda.synchronize()
            best[name] = min(best[name], times * (time.perf_counter() - start))
    for p in model.parameters(): p.grad = None
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in dict(depth=4, width=256, vocab=4096, seq_len=512, batch=8, rounds=7).items(): parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "model.json", type=Path)
    args = parser.parse_args()
    tokens = args.batch * args.seq_len
    bf16, fp32 = torch.bfloat16, torch.float32
    variants = {"bfloat16, heads of 64": (bf16, 64, "auto"), "bfloat16, heads of 128": (bf16, 128, "auto"),
                "bfloat16, heads of 64, PyTorch's attention": (bf16, 64, "full"), "float32, heads of 64": (fp32, 64, "auto"), "float32, heads of 64, PyTorch's attention": (fp32, 64, "full")}
    steps, rows = {}, []
    for name, (dtype, head_dim, backend) in variants.items():
        model = make(args, dtype, head_dim, backend)
        steps[name] = make_step(model, make_optimizer(model), args)
    if args.compile:
        for name, dtype in (("bfloat16, heads of 64, compiled", bf16), ("float32, heads of 64, compiled", fp32)):
            model = make(args, dtype, 64)
            steps[name] = make_step(torch.compile(model), make_optimizer(model), args)
    first = {name: sum(step()) for name, step in steps.items()}
    times = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items(): times[name].append(step())
    print(f"depth {args.depth}, width {args.width}, vocabulary {args.vocab}, {args.batch} x {args.seq_len} tokens, {args.device}, {torch.get_num_threads()} threads\n")
    print(f"{'':46}{'tokens/s':>10}{'median':>10}{'forward':>10}{'backward':>10}{'optimizer':>10}{'first step':>12}")
    for name, ts in times.items():
        best, median = min(ts, key=sum), sorted(map(sum, ts))[len(ts) // 2]
        rows.append(dict(name=name, tokens_per_second=tokens / sum(best), median_tokens_per_second=tokens / median, forward=best[0], backward=best[1], optimizer=best[2], first_step=first[name]))
        print(f"{name:46}{tokens / sum(best):10,.0f}{tokens / median:10,.0f}" + "".join(f"{1e3 * t:8.0f}ms" for t in best) + f"{first[name]:11.1f}s")
    model = make(args, bf16, 64)
    where = parts(model, args, args.rounds)
    where["optimizer"] = rows[0]["optimizer"]
    whole = rows[0]["forward"] + rows[0]["backward"] + rows[0]["optimizer"]
    where["between them"] = max(0., whole - sum(where.values()))
    print(f"\nwhere the time goes ({rows[0]['name']}): forward and backward of each part alone, times its number")
    for name, t in where.items(): print(f"  {name:32}{1e3 * t:8.1f} ms{t / whole:8.1%}")
    flops = model.flops_per_token()
    print(f"\n{flops / 1e6:.1f} million operations per token: {rows[0]['tokens_per_second'] * flops / 1e9:.0f} billion a second")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(dict(settings={k: v for k, v in vars(args).items() if k != "out"}, threads=torch.get_num_threads(), rows=rows, parts=where, flops_per_token=flops, machine=machine()), indent=1) + "\n")


if __name__ == "__main__": main()
