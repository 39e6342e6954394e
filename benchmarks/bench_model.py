"""Training speed of the model: tokens a second, and where the time goes.

    python benchmarks/bench_model.py                 # the laptop size; about a minute
    python benchmarks/bench_model.py --compile       # also with torch.compile, whose first step takes long
    python benchmarks/bench_model.py --loop [--nanochat FOLDER] [--before FOLDER] [--rounds 2] [--steps 25]

Prints tables and writes benchmarks/results/model.json. Rows are measured in turns, round by round, and the best round of
each counts, so that another program on the machine disturbs all of them alike.

With --loop, whole programs instead of steps: `base_train` of the laptop preset with its loader and its log, in processes of
their own, in turns, in several environments, its blocks compiled (as the preset's own length has it) and not; with --nanochat its own `scripts.base_train` (a checkout; bfloat16, compiled) on
the same shards with the same tokenizer, size and batch; with --before the `base_train` of an earlier checkout of the course.
Tokens a second: the median of the steps after the fifth, the best round of each. Needs the corpus and the tokenizer of the
laptop preset (`nanochat-speedrun --preset laptop --until tok_train`). Writes benchmarks/results/loop.json.
"""
import argparse, json, math, os, pickle, re, resource, shutil, statistics, subprocess, sys, tempfile, time
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


# Whole training loops

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = {"ours": {}, "ours, threads that wait sleep": dict(OMP_WAIT_POLICY="PASSIVE")} | {
    f"ours, threads spin {n:,} times": dict(GOMP_SPINCOUNT=str(n)) for n in (1_000, 10_000, 100_000)}


def run_program(command, folder, env):
    "Run one program; returns its output and what the system counted."
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MALLOC_"))} | env
    r = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
    if r.returncode: raise SystemExit(f"{' '.join(command)}: {(r.stderr or r.stdout).strip()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    counted = {k: getattr(after, f) - getattr(before, f) for k, f in dict(user="ru_utime", system="ru_stime", page_faults="ru_minflt").items()}
    return r.stdout, dict(counted, wall=time.perf_counter() - start)


def our_loop(data, steps, folder, env, **more):
    "`base_train` of the laptop preset, a few steps of it."
    from nanochat_course.speedrun import PRESETS, command_line
    flags = dict(PRESETS["laptop"]["base_train"], num_iterations=steps, eval_every=0, save_every=0, eval_tokens=4096, **more)
    with tempfile.TemporaryDirectory() as base:
        os.symlink(data / "data", f"{base}/data")
        shutil.copytree(data / "tokenizer", f"{base}/tokenizer")
        _, counted = run_program(command_line("base_train", flags)[1:], folder, env | dict(PYTHONPATH=str(folder), NANOCHAT_COURSE_DIR=base))
        lines = [json.loads(line) for line in Path(base, "report/base_train.jsonl").read_text().splitlines()]
    speeds = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return dict(counted, tokens_per_second=statistics.median(speeds[5:]), loss=[line["loss"] for line in lines if "loss" in line][-1])


NANOCHAT = """
import importlib.util, runpy, sys, types
for name in ("wandb", "rustbpe"):                          # imported, and not needed to train
    if importlib.util.find_spec(name) is None: sys.modules[name] = types.ModuleType(name)
sys.argv = sys.argv[1:]
runpy.run_module("scripts.base_train", run_name="__main__", alter_sys=True)
"""


def nanochat_loop(data, steps, folder, cache):
    "nanochat's own script; its tokenizer is ours, stored as it wants it."
    from nanochat_course.speedrun import PRESETS
    from nanochat_course.tokenizer import Tokenizer
    p, tokenizer = PRESETS["laptop"]["base_train"], Tokenizer.load(data / "tokenizer")
    flags = {"depth": p["depth"], "head-dim": 64, "window-pattern": "L", "max-seq-len": p["max_seq_len"], "device-batch-size": p["total_batch_size"] // p["max_seq_len"],
             "total-batch-size": p["total_batch_size"], "num-iterations": steps, "eval-every": -1, "core-metric-every": -1, "sample-every": -1}
    with tempfile.TemporaryDirectory() as base:
        os.symlink(next(data.glob("data/docstrings")), f"{base}/base_data_climbmix")
        os.mkdir(f"{base}/tokenizer")
        Path(base, "tokenizer/tokenizer.pkl").write_bytes(pickle.dumps(tokenizer.core))
        torch.save(tokenizer.token_bytes(), f"{base}/tokenizer/token_bytes.pt")
        env = dict(NANOCHAT_BASE_DIR=base, NANOCHAT_DTYPE="bfloat16", PYTHONPATH=str(folder), TORCHINDUCTOR_CACHE_DIR=str(cache))
        out, counted = run_program(["-c", NANOCHAT, "base_train", *(f"--{k}={v}" for k, v in flags.items())], folder, env)
    speeds = [int(n.replace(",", "")) for n in re.findall(r"tok/sec: ([0-9,]+)", out)]
    return dict(counted, tokens_per_second=statistics.median(speeds[5:]), loss=float(re.findall(r"loss: ([0-9.]+)", out)[-1]))


def loops(args):
    "The training loops in turns."
    from nanochat_course.common import base_dir
    data, rows = args.data or base_dir(), {}
    if not (data / "tokenizer").exists(): raise SystemExit(f"no tokenizer in {data}: run nanochat-speedrun --preset laptop --until tok_train first, or name another --data")
    cache, out = Path(tempfile.gettempdir()) / "bench_model_inductor", args.out or ROOT / "benchmarks/results/loop.json"   # kept: compiling takes long
    kept = dict(TORCHINDUCTOR_CACHE_DIR=str(cache))
    programs = {name: lambda env=env: our_loop(data, args.steps, ROOT, env | kept, compile="blocks")    # as the whole run does, being longer
                for name, env in ENVIRONMENTS.items() if name == "ours" or not args.only_ours}
    programs["ours, not compiled"] = lambda: our_loop(data, args.steps, ROOT, {}, compile="off")
    if args.before:
        programs["before"] = lambda: our_loop(data, args.steps, args.before.resolve(), {})
        programs["before, threads that wait sleep"] = lambda: our_loop(data, args.steps, args.before.resolve(), dict(OMP_WAIT_POLICY="PASSIVE"))
    if args.nanochat: programs["nanochat"] = lambda: nanochat_loop(data, args.steps, args.nanochat.resolve(), cache)
    for _ in range(args.rounds):
        for name, program in programs.items():
            result = program()
            if name not in rows or result["tokens_per_second"] > rows[name]["tokens_per_second"]: rows[name] = result
            print(f"{name:40}{result['tokens_per_second']:10,.0f} tokens/s {result['page_faults'] / 1e6:8.2f} million page faults "
                  f"{result['system']:6.1f} s system {result['wall']:6.1f} s in all, loss {result['loss']:.4f}", flush=True)
            out.write_text(json.dumps(dict(date=time.strftime("%Y-%m-%d"), command=" ".join(["python benchmarks/bench_model.py --loop", f"--rounds {args.rounds} --steps {args.steps}", *(["--only-ours"] if args.only_ours else []), *(["--nanochat FOLDER"] if args.nanochat else []), *(["--before FOLDER"] if args.before else [])]),
                                           load_average=os.getloadavg(), machine=machine(), rows=rows), indent=1) + "\n")
    if "nanochat" in rows: print(f"ours / nanochat: {rows['ours']['tokens_per_second'] / rows['nanochat']['tokens_per_second']:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in dict(depth=4, width=256, vocab=4096, seq_len=512, batch=8, rounds=0, steps=25).items(): parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--loop", action="store_true", help="compare whole training programs")
    parser.add_argument("--nanochat", type=Path, help="folder of a nanochat checkout, for --loop")
    parser.add_argument("--before", type=Path, help="folder of an earlier checkout of the course, for --loop")
    parser.add_argument("--data", type=Path, help="folder with tokenizer/ and data/docstrings/, for --loop; default: NANOCHAT_COURSE_DIR")
    parser.add_argument("--only-ours", action="store_true", help="for --loop: leave out our own variants")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.loop else 7)
    if args.loop: return loops(args)
    args.out = args.out or ROOT / "benchmarks/results/model.json"
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
