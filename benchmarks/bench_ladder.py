"""What makes it fast: from a naive loop to the course's, one change at a time: python benchmarks/bench_ladder.py [--steps 24]

The same model, weights and batches on every rung; each rung keeps what the one before it brought. Tokens a second are the median
step's, the first two steps left out; the loss is that of the last steps. Writes benchmarks/results/ladder.json.
"""
import argparse, json, statistics, tempfile, time
from contextlib import nullcontext
from pathlib import Path
from pydoc_data.topics import topics
import torch, torch.nn.functional as F
from nanochat_course.common import Runtime, detect_device, machine, seed_everything, write_json
from nanochat_course.base_train import build_model
from nanochat_course.corpus import write_shard
from nanochat_course.dataloader import DataLoader
from nanochat_course.gpt import GPTConfig
from nanochat_course.optim import adamw_equations_, fast_dtype, param_groups
from nanochat_course.precision import compile_model
from nanochat_course.scaling import plan
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import freed_memory_kept, set_schedule
from nanochat_course.zero2 import make_optimizer

HERE = Path(__file__).resolve().parent
RUNGS = [  # name, what it adds, what others have published for such a step
    ("naive", {}, ""),
    ("bfloat16", dict(bf16=True), "2.2 times on a CPU with bf16 instructions (a public implementation of the same model size)"),
    ("attention without the T x T matrix", dict(attention=True), "1.09 times for FlashAttention 3 over the kernel before it (nanochat, H100)"),
    ("head in chunks", dict(head=True), ""),
    ("compiled", dict(compile=True), "most of the step from 31.4 to 22.3 minutes stands on it (modded-nanogpt, H100; with Muon in between)"),
    ("fused AdamW", dict(fused=True), ""),
    ("Muon, batched", dict(muon=True), "31.4 to 24.9 minutes to the same loss (modded-nanogpt, H100)"),
    ("loader beside the step", dict(loader=True), ""),
    ("memory kept", dict(memory=True), ""),
]


class Equations:
    "AdamW as its equations say it, one tensor after another."
    def __init__(self, groups):
        self.param_groups, self.state = groups, {}

    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                s = self.state.setdefault(p, dict(m=torch.zeros_like(p), v=torch.zeros_like(p), step=0))
                s["step"] += 1
                adamw_equations_(p, p.grad, s["m"], s["v"], s["step"], g["lr"], (0.8, 0.95), 1e-10)

    def zero_grad(self, set_to_none=True):
        for g in self.param_groups:
            for p in g["params"]: p.grad = None


def adamw_groups(model, p):
    "All parameters by AdamW; matrices at a rate that suits it."
    groups = param_groups(model, **p.learning_rates())
    return [dict(kind="adamw", names=g["names"], params=g["params"], lr=g["lr"] if g["kind"] == "adamw" else 0.003, betas=(0.8, 0.95), eps=1e-10,
                 weight_decay=0.) for g in groups]


def naive_loss(model, x, y): # all logits at once
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=-1)


def run(on, p, tokenizer, shards, device, steps, seed=0):
    "One rung: seconds of each step, and the losses."
    seed_everything(seed)
    rt = Runtime(device, fast_dtype(device) if on.get("bf16") else torch.float32)
    model = build_model(GPTConfig(**p.model_config()), rt)
    if not on.get("attention"):
        for block in model.transformer.h: block.attn.backend = "naive"
    groups = param_groups(model, **p.learning_rates()) if on.get("muon") else adamw_groups(model, p)
    optimizer = make_optimizer(groups, rt) if on.get("fused") else Equations(groups)
    compiled = compile_model(model, rt, "on" if on.get("compile") else "off")
    loader = DataLoader(tokenizer, shards, "train", p.device_batch_size, p.sequence_len, rt, prefetch=2 if on.get("loader") else 0)
    seconds, losses, schedule, batches = [], [], p.schedule(), iter(loader)
    with freed_memory_kept(device) if on.get("memory") else nullcontext():
        for step in range(steps):
            start = time.perf_counter()
            set_schedule(optimizer, schedule(step))
            for _ in range(p.grad_accum_steps):
                x, y, _ = next(batches)
                loss = compiled(x, y) if on.get("head") else naive_loss(compiled, x, y)
                (loss / p.grad_accum_steps).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            seconds.append(time.perf_counter() - start)
    if hasattr(batches, "close"): batches.close()
    torch.compiler.reset()
    return seconds, losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4096, help="tokens a step")
    args = parser.parse_args()
    device, rows, on = detect_device(), [], {}
    texts = [t[i:i + 2000] for t in topics.values() for i in range(0, len(t), 2000)]
    tokenizer = train_bpe(texts, 4096)
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate((texts[:-20], texts[-20:])): write_shard(Path(folder) / f"shard_{number:05d}.parquet", part, 8)
        p = plan(args.depth, vocab_size=tokenizer.vocab_size, sequence_len=512, total_batch_size=args.batch, num_iterations=args.steps)
        for name, adds, published in RUNGS:
            on |= adds
            seconds, losses = run(on, p, tokenizer, Path(folder), device, args.steps)
            step = statistics.median(seconds[2:])
            rows.append(dict(rung=name, tokens_per_second=round(args.batch / step), first_step=round(seconds[0], 2), steps=len(seconds),
                             loss=round(statistics.mean(losses[-4:]), 3), published=published))
            print(json.dumps(rows[-1]), flush=True)
    record = dict(date=time.strftime("%Y-%m-%d"), command=f"python benchmarks/bench_ladder.py --steps {args.steps}", machine=machine(), device=str(device),
                  depth=args.depth, batch=args.batch, rows=rows)
    write_json(HERE / "results" / "ladder.json", record)


if __name__ == "__main__": main()
