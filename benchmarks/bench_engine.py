"""Tokens a second and time to the first token of the engine, of generation without a cache, of nanochat's engine and of transformers.

    python benchmarks/bench_engine.py [--nanochat FOLDER] [--transformers] [--threads N] [--tokens 128] [--rounds 5] [--out FILE.json]
    python benchmarks/bench_engine.py --bits [--out FILE.json]     what eight bits per weight cost the base model trained last, also by torchao

Random weights, depth 4, width 256, vocabulary 4,096, head size 128 as nanochat has it, prompt of 16 tokens; no token ends a row.
Ours and transformers.generate have the same weights, exported by export.to_hf. Each variant has a process of its own; the figure is
the fastest of the rounds, prefill included. The time to the first token is that of one token after a prompt of 256 tokens, in
milliseconds, the fastest too. FOLDER is a checkout of nanochat; --variants and --dtypes take a part of it all. "int8" is ours with
eight bits per weight.
"""
import argparse, datetime, json, os, subprocess, sys, tempfile, time
from pathlib import Path

SIZE = dict(sequence_len=512, vocab_size=4096, n_layer=4, n_head=2, n_kv_head=2, n_embd=256)
CASES = [(1, None), (1, 50), (16, None), (16, 50), (64, None), (64, 50)]      # rows, top-k; temperature 1
PROMPT, LONG = list(range(16)), [i % 4000 for i in range(256)]                 # for tokens a second, and for the first token


def fastest(run, tokens, rows, rounds):
    "Tokens a second of the fastest round, after a shorter one."
    run(8)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(tokens)
        times.append(time.perf_counter() - start)
    return tokens * rows / min(times)


def first_token(run, rounds):
    "Milliseconds until the first token after the long prompt."
    run(1)
    times = []
    for _ in range(max(3, rounds)):
        start = time.perf_counter()
        run(1)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def our_model(dtype):
    import torch
    from nanochat_course.gpt import GPT, GPTConfig
    torch.manual_seed(0)
    return GPT(GPTConfig(**SIZE), getattr(torch, dtype)).init_weights().eval()


def torchao_linear_of(w):
    "The same as `int8_linear_of`, by torchao."
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
    layer.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
    box = torch.nn.Sequential(layer)
    quantize_(box, Int8WeightOnlyConfig())
    return box


def product_times(rounds=7, n=1024, m=256):
    "Microseconds of one product with a matrix (n, m), each way in turn: dict dtype -> rows -> way."
    import torch
    from nanochat_course.decoder import int8_linear_of, linear_of
    torch.manual_seed(0)
    found, ways = {}, dict(exact=linear_of, ours=int8_linear_of, torchao=torchao_linear_of)
    for dtype in (torch.float32, torch.bfloat16):
        w = torch.randn(n, m).to(dtype)
        products = {name: way(w) for name, way in ways.items()}
        for rows in (1, 16):
            x, best = torch.randn(rows, m).to(dtype), {}
            for _ in range(rounds):
                for name, product in products.items():
                    with torch.inference_mode():
                        start = time.perf_counter()
                        for _ in range(100): product(x)
                        best[name] = min(best.get(name, 1e9), (time.perf_counter() - start) * 1e4)
            found.setdefault(str(dtype)[6:], {})[f"rows_{rows}"] = best
    return found


def eight_bits():
    "Bytes of the weights, how far the logits move, bits per byte of validation text of the base model trained last; and torchao beside ours."
    import torch
    from nanochat_course.checkpoint import checkpoint_dir, load_model
    from nanochat_course.common import Runtime, corpus_dir, machine
    from nanochat_course.dataloader import DataLoader
    from nanochat_course.decoder import ModelDecoder, int8_linear_of, linear_of
    from nanochat_course.evaluation import evaluate_bpb
    from nanochat_course.mid_train import find_tag
    rt = Runtime(torch.device("cpu"), torch.float32)
    model, tokenizer, _ = load_model(checkpoint_dir("base", find_tag("base", "")), rt)
    T, weights = model.config.sequence_len, [p for p in model.parameters() if p.ndim == 2]
    in_products = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m.in_features >= 32)
    exact, rough, other = (ModelDecoder(model, torch.float32, linear).model for linear in (linear_of, int8_linear_of, torchao_linear_of))
    class Judged(torch.nn.Module):
        "The loss from the logits, since the model's own goes past its products."
        def __init__(self, net):
            super().__init__()
            self.net = net
        def forward(self, x, y, loss_reduction="none"):
            loss = torch.nn.functional.cross_entropy(self.net(x).flatten(0, 1), y.flatten(), ignore_index=-1, reduction="none")
            return loss.view(y.shape)
    def batches(): return DataLoader(tokenizer, corpus_dir("docstrings"), "val", 8, T, rt, epochs=1)
    bpb = [evaluate_bpb(m, batches(), 8, tokenizer.token_bytes(), rt) for m in map(Judged, (exact, rough, other))]
    x = next(iter(batches()))[0]
    with torch.inference_mode(): moved = (exact(x) - rough(x)).abs()
    about = dict(date=str(datetime.date.today()), machine=machine(), command="python benchmarks/bench_engine.py --bits")
    return dict(about=about, parameters=sum(p.numel() for p in weights), in_products=in_products, tokens=8 * 8 * T, bpb_float32=bpb[0],
                bpb_int8=bpb[1], bpb_torchao=bpb[2], product_us=product_times(), logits_moved_mean=moved.mean().item(), logits_moved_most=moved.max().item())


def ours(dtype, naive, int8=False):
    import torch
    from nanochat_course.engine import Engine, sample, uniforms
    from nanochat_course.tokenizer import SPECIAL_TOKENS, Tokenizer
    model = our_model(dtype)
    engine = Engine(model, Tokenizer([], special_tokens=SPECIAL_TOKENS), int8=int8)

    def with_engine(prompt, rows, top_k):
        return lambda n: sum(1 for _ in engine.generate(prompt, num_samples=rows, max_tokens=n, top_k=top_k, stop=()))

    def without_cache(prompt, rows, top_k):
        @torch.inference_mode()
        def run(n):
            ids, u = torch.tensor(prompt).repeat(rows, 1), uniforms(list(range(rows)), n)
            for t in range(n): ids = torch.cat([ids, sample(model(ids)[:, -1], u[:, t:t+1], 1., top_k)[:, None]], 1)
        return run
    return without_cache if naive else with_engine


def transformers_generate(dtype):
    "The same weights in `transformers`; `min_new_tokens` keeps the end token from ending a row."
    import torch
    from nanochat_course.export import to_hf
    from transformers import AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        to_hf(our_model("float32"), folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None

    def make(prompt, rows, top_k):
        ids = torch.tensor([prompt]).repeat(rows, 1)
        def run(n):
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1., top_k=top_k or 0,
                                     min_new_tokens=n, max_new_tokens=n, pad_token_id=0)
            assert out.shape == (rows, len(prompt) + n)
        return run
    return make


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
    return lambda prompt, rows, top_k: lambda n: sum(1 for _ in engine.generate(prompt, num_samples=rows, max_tokens=n, temperature=1., top_k=top_k))


def worker(a):
    import torch
    if a.threads: torch.set_num_threads(a.threads)
    if a.worker == "nanochat": make = nanochat(a.dtype, a.nanochat)
    elif a.worker == "transformers": make = transformers_generate(a.dtype)
    else: make = ours(a.dtype, a.worker == "no cache", a.worker == "int8")
    slow = a.worker == "no cache"
    rounds, tokens = (2, min(a.tokens, 64)) if slow else (a.rounds, a.tokens)
    found = []
    for rows, top_k in CASES:
        if slow and rows > 16: continue
        speed = fastest(make(PROMPT, rows, top_k), tokens, rows, rounds)
        wait = first_token(make(LONG, rows, top_k), rounds)
        found.append(dict(engine=a.worker, dtype=a.dtype, rows=rows, top_k=top_k, tokens_per_second=speed, first_token_ms=wait))
    print(json.dumps(found))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanochat", help="folder of a nanochat checkout")
    p.add_argument("--transformers", action="store_true", help="compare with transformers.generate on the same weights")
    p.add_argument("--threads", type=int, default=0, help="0: torch's default")
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--bits", action="store_true", help="measure eight bits per weight, and nothing else")
    p.add_argument("--variants", nargs="+", help="of: 'no cache' ours int8 nanochat transformers; all that are asked for by default")
    p.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    p.add_argument("--out", help="JSON file for the figures; figures of other variants and dtypes in it stay")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    p.add_argument("--dtype", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker(a)
    if a.bits:
        found = eight_bits()
        if a.out: Path(a.out).write_text(json.dumps(found, indent=1) + "\n")
        return print(json.dumps(found, indent=1))
    names = a.variants or ["no cache", "ours", "int8"] + ["nanochat"] * bool(a.nanochat) + ["transformers"] * a.transformers
    results = json.loads(Path(a.out).read_text()) if a.out and Path(a.out).exists() else []
    for dtype in a.dtypes:
        for name in names:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--dtype", dtype]
            r = subprocess.run(command, capture_output=True, text=True)
            if r.returncode: raise SystemExit(f"{name}, {dtype}: {r.stderr.strip().splitlines()[-1:]}")
            results = [x for x in results if (x["engine"], x["dtype"]) != (name, dtype)]
            results += json.loads(r.stdout.splitlines()[-1])
            if a.out: Path(a.out).write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def show(results):
    "The table, and what is ours divided by theirs."
    get = {(r["engine"], r["dtype"], r["rows"], r["top_k"]): r for r in results}
    for field, unit in (("tokens_per_second", "tokens a second"), ("first_token_ms", "milliseconds to the first token after 256")):
        print(f"\n{unit}\n{'':10}{'rows':>5}{'top-k':>7}{'no cache':>10}{'ours':>10}{'int8':>10}{'nanochat':>10}{'transformers':>14}"
              "   ours against both")
        for dtype in ("float32", "bfloat16"):
            for rows, top_k in CASES:
                engines = ("no cache", "ours", "int8", "nanochat", "transformers")
                v = [get.get((e, dtype, rows, top_k), {}).get(field) for e in engines]
                if not any(v): continue
                columns = "".join(f"{x:>{w},.1f}" if x else f"{'-':>{w}}" for x, w in zip(v, (10, 10, 10, 10, 14)))
                better = [x and v[1] and (v[1] / x if field == "tokens_per_second" else x / v[1]) for x in v[3:]]
                print(f"{dtype:10}{rows:>5}{top_k or 'all':>7}{columns}   " + "  ".join(f"{x:.2f}x" if x else "-" for x in better))


if __name__ == "__main__": main()
