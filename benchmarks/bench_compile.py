"""Does compiling pay? Steps of the laptop model: plain, its blocks compiled, compiled as a whole; in turns, in one process.

    python benchmarks/bench_compile.py [--depth 4] [--steps 10]
"""
import argparse, json, statistics, time
import torch
from nanochat_course.common import runtime, seed_everything
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.precision import compile_model

p = argparse.ArgumentParser()
for name, default in (("depth", 4), ("batch", 8), ("context", 512), ("vocab", 4096), ("steps", 10)): p.add_argument(f"--{name}", type=int, default=default)
a = p.parse_args()

with runtime() as rt:
    seed_everything(0)
    size = GPTConfig(a.context, a.vocab, a.depth, a.depth, a.depth, 64 * a.depth)
    x = torch.randint(0, a.vocab, (a.batch, a.context + 1), device=rt.device)

    def step(model):
        t = time.perf_counter()
        model(x[:, :-1], x[:, 1:]).backward()
        model.zero_grad(set_to_none=True)
        rt.synchronize()
        return time.perf_counter() - t

    modes = dict(plain="off", blocks="blocks", whole="on")
    models = {k: compile_model(GPT(size, rt.dtype).to(rt.device).init_weights(), rt, mode) for k, mode in modes.items()}
    first = {k: step(m) for k, m in models.items()}
    times = {k: [] for k in models}
    for _ in range(a.steps):
        for k, m in models.items(): times[k].append(step(m))
    median = {k: statistics.median(v) for k, v in times.items()}
    saved = {k: median["plain"] - median[k] for k in ("blocks", "whole")}
    pays = {k: round(first[k] / s) if s > 0 else "never" for k, s in saved.items()}
    print(json.dumps(dict(device=str(rt.device), dtype=str(rt.dtype), threads=torch.get_num_threads(), first_step_s=first, median_step_s=median,
                          tokens_per_s={k: round(a.batch * a.context / v) for k, v in median.items()},
                          speedup={k: median["plain"] / median[k] for k in saved}, pays_after_steps=pays), indent=1))
