"""Tokens a second of the engine, of generation without a cache, and of nanochat's engine, in one run.

    python benchmarks/bench_engine.py [--nanochat FOLDER] [--threads N] [--tokens 128] [--rounds 5] [--out FILE.json]

Random weights, depth 4, width 256, vocabulary 4,096, head size 128 as nanochat has it, prompt of 16 tokens; no token ends a row.
Each variant has a process of its own; the figure is the fastest of the rounds, prefill included. FOLDER is a checkout of nanochat.
"""
import argparse, json, os, subprocess, sys, time
from pathlib import Path

SIZE = dict(sequence_len=512, vocab_size=4096, n_layer=4, n_head=2, n_kv_head=2, n_embd=256)
CASES = [(1, None), (1, 50), (16, None), (16, 50)]      # rows, top-k; temperature 1


def fastest(run, tokens, rows, rounds):
    "Tokens a second of the fastest round, after a shorter one."
    run(8)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(tokens)
        times.append(time.perf_counter() - start)
    return tokens * rows / min(times)


def ours(dtype, naive):
    import torch
    from nanochat_course.engine import Engine, sample, uniforms
    from nanochat_course.gpt import GPT, GPTConfig
    from nanochat_course.tokenizer import SPECIAL_TOKENS, Tokenizer
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZE), getattr(torch, dtype)).init_weights().eval()
    tokenizer = Tokenizer([], special_tokens=SPECIAL_TOKENS)
    engine = Engine(model, tokenizer)

    def with_engine(rows, top_k):
        return lambda n: sum(1 for _ in engine.generate(list(range(16)), num_samples=rows, max_tokens=n, top_k=top_k, stop=()))

    def without_cache(rows, top_k):
        @torch.inference_mode()
        def run(n):
            ids, u = torch.arange(16).repeat(rows, 1), uniforms(list(range(rows)), n)
            for t in range(n): ids = torch.cat([ids, sample(model(ids)[:, -1], u[:, t:t+1], 1., top_k)[:, None]], 1)
        return run
    return without_cache if naive else with_engine


def nanochat(dtype, folder):
    os.environ["NANOCHAT_DTYPE"] = dtype
    sys.path.insert(0, str(folder))
    import torch
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    class Tokens:                                        # specials beyond the vocabulary: never sampled
        def encode_special(self, name): return 10_000 + len(name)
        def get_bos_token_id(self): return 20_000
    torch.manual_seed(0)
    with torch.device("meta"): model = GPT(GPTConfig(**SIZE, window_pattern="L"))
    model.to_empty(device="cpu")
    model.init_weights()
    engine = Engine(model.eval(), Tokens())
    return lambda rows, top_k: lambda n: sum(1 for _ in engine.generate(list(range(16)), num_samples=rows, max_tokens=n, temperature=1., top_k=top_k))


def worker(a):
    import torch
    if a.threads: torch.set_num_threads(a.threads)
    make = nanochat(a.dtype, a.nanochat) if a.worker == "nanochat" else ours(a.dtype, a.worker == "no cache")
    rounds, tokens = (2, min(a.tokens, 64)) if a.worker == "no cache" else (a.rounds, a.tokens)
    print(json.dumps([dict(engine=a.worker, dtype=a.dtype, rows=rows, top_k=top_k, tokens_per_second=fastest(make(rows, top_k), tokens, rows, rounds))
                      for rows, top_k in CASES]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanochat", help="folder of a nanochat checkout")
    p.add_argument("--threads", type=int, default=0, help="0: torch's default")
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", help="JSON file for the figures")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    p.add_argument("--dtype", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker(a)
    results = []
    for dtype in ("float32", "bfloat16"):
        for name in ("no cache", "ours") + (("nanochat",) if a.nanochat else ()):
            r = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--worker", name, "--dtype", dtype], capture_output=True, text=True)
            if r.returncode: raise SystemExit(f"{name}, {dtype}: {r.stderr.strip().splitlines()[-1:]}")
            results += json.loads(r.stdout.splitlines()[-1])
    get = {(r["engine"], r["dtype"], r["rows"], r["top_k"]): r["tokens_per_second"] for r in results}
    print(f"{'':10}{'rows':>5}{'top-k':>7}{'no cache':>10}{'ours':>10}{'nanochat':>10}{'ours / nanochat':>17}   (tokens a second)")
    for dtype in ("float32", "bfloat16"):
        for rows, top_k in CASES:
            v = [get.get((e, dtype, rows, top_k)) for e in ("no cache", "ours", "nanochat")]
            columns = "".join(f"{x:>10,.0f}" if x else f"{'-':>10}" for x in v)
            print(f"{dtype:10}{rows:>5}{top_k or 'all':>7}" + columns + (f"{v[1] / v[2]:>17.2f}" if v[2] else ""))
    if a.out: Path(a.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__": main()
