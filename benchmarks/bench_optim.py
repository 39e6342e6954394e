"""One optimizer step at the shapes of a depth-12 model: ours, PyTorch's and nanochat's, in one run.

    python benchmarks/bench_optim.py [--nanochat FOLDER] [--steps 5] [--depth 12] [--out benchmarks/results/optim_cpu.json]

Each variant runs in a process of its own, on random weights and gradients; the time is the fastest of `steps` steps after a first one.
The parameters: per layer four n x n matrices, one 4n x n and one n x 4n, six gates of 12 x 32 (84.9M in 78 matrices at depth 12);
beside them eight tables of 32,768 x n (201.3M): embedding, head, six value embeddings. nanochat is measured if its checkout is given.
"""
import argparse, json, os, resource, subprocess, sys, time
from pathlib import Path
import torch

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {   # name -> (settings of the Muon groups, what it is compared with)
    "torch": None,
    "ours, quintic": dict(method="newton_schulz"),
    "ours": dict(method="polar_express"),
    "ours, NorMuon, cautious decay": dict(method="polar_express", beta2=0.9, cautious=True),
    "ours, float32": dict(method="polar_express", ns_dtype=torch.float32),
    "ours, NorMuon, cautious decay, float32": dict(method="polar_express", beta2=0.9, cautious=True, ns_dtype=torch.float32),
    "nanochat, bf16": None,
    "nanochat, float32": None,
}
PAIRS = [("ours, quintic", "torch"), ("ours", "torch"), ("ours, NorMuon, cautious decay", "nanochat, bf16"),
         ("ours, NorMuon, cautious decay, float32", "nanochat, float32")]


def parameters(depth):
    torch.manual_seed(0)
    n = 64 * depth
    shapes = [(n, n)] * 4 * depth + [(4*n, n)] * depth + [(n, 4*n)] * depth + [(12, 32)] * 6
    def make(shape):
        p = torch.nn.Parameter(torch.randn(shape) * 0.02)
        p.grad = torch.randn(shape) * 1e-3
        return p
    return [make(s) for s in shapes], [make((32768, n)) for _ in range(8)]


def optimizers(name, matrices, others, nanochat):
    "List of optimizers whose steps make one step of all parameters."
    adamw = dict(lr=1e-3, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.)
    if name == "torch":
        return [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1), torch.optim.AdamW(others, fused=True, **adamw)]
    shapes = {}
    for p in matrices: shapes.setdefault(p.shape, []).append(p)
    if name.startswith("nanochat"):
        sys.path.insert(0, nanochat)
        from nanochat.optim import MuonAdamW
        muon = dict(beta2=0.9)
    else:
        from nanochat_course.optim import MuonAdamW
        muon = VARIANTS[name]
    return [MuonAdamW([dict(kind="adamw", params=others, **adamw)] +
                      [dict(kind="muon", params=ps, lr=0.02, momentum=0.95, ns_steps=5, weight_decay=0.1, **muon) for ps in shapes.values()])]


def measure(name, depth, steps, nanochat):
    "Seconds of one step, in this process."
    matrices, others = parameters(depth)
    opts = optimizers(name, matrices, others, nanochat)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        for o in opts: o.step()
        seconds.append(time.perf_counter() - start)
    return dict(name=name, seconds=min(seconds[1:]), median=sorted(seconds[1:])[len(seconds[1:]) // 2], first=seconds[0],
                peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                matrices=len(matrices), matrix_params=sum(p.numel() for p in matrices), other_params=sum(p.numel() for p in others))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--nanochat", default="", help="folder with nanochat's sources; empty leaves it out")
    a.add_argument("--steps", type=int, default=5)
    a.add_argument("--depth", type=int, default=12)
    a.add_argument("--out", default=str(ROOT / "benchmarks/results/optim_cpu.json"))
    a.add_argument("--only", default="", help="measure one variant in this process and print JSON")
    args = a.parse_args()
    if args.only: return print(json.dumps(measure(args.only, args.depth, args.steps, args.nanochat)))
    rows = {}
    for name in VARIANTS:
        if name.startswith("nanochat") and not args.nanochat: continue
        env = dict(os.environ, NANOCHAT_DTYPE="bfloat16" if "bf16" in name else "float32")
        r = subprocess.run([sys.executable, __file__, "--only", name, "--depth", str(args.depth), "--steps", str(args.steps), "--nanochat", args.nanochat],
                           env=env, capture_output=True, text=True)
        if r.returncode: print(f"{name}: failed\n{r.stderr[-1500:]}"); continue
        rows[name] = json.loads(r.stdout.splitlines()[-1])
        print(f"{name:40s} {rows[name]['seconds']:6.2f} s   (median {rows[name]['median']:.2f}, first {rows[name]['first']:.2f})   {rows[name]['peak_gib']:.1f} GiB", flush=True)
    ratios = {f"{ours} against {other}": rows[other]["seconds"] / rows[ours]["seconds"] for ours, other in PAIRS if ours in rows and other in rows}
    for k, v in ratios.items(): print(f"{k}: {v:.2f} times as fast")
    from nanochat_course.common import machine, write_json
    write_json(args.out, dict(command="python benchmarks/bench_optim.py" + (" --nanochat FOLDER" if args.nanochat else ""), depth=args.depth,
                              threads=torch.get_num_threads(), machine=machine(), rows=list(rows.values()), ratios=ratios))


if __name__ == "__main__": main()
