"""How long a save stops the training: python benchmarks/bench_checkpoint.py [--depth 8]

One process, a model and its optimizer after two steps. "plain" is `save_checkpoint`, which waits for the disk; "beside" is what
training waits for when a thread writes a copy. Writes benchmarks/results/checkpoint.json.
"""
import argparse, statistics, tempfile, time
from pathlib import Path
import torch
from nanochat_course.base_train import build_model
from nanochat_course.checkpoint import CheckpointWriter, save_checkpoint
from nanochat_course.common import Runtime, detect_device, machine, seed_everything, write_json
from nanochat_course.gpt import GPTConfig
from nanochat_course.optim import MuonAdamW, param_groups
from nanochat_course.scaling import plan
from nanochat_course.train import freed_memory_kept

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    seed_everything(0)
    rt, p = Runtime(detect_device(), torch.bfloat16), plan(args.depth, vocab_size=8192, sequence_len=128)
    model = build_model(GPTConfig(**p.model_config()), rt)
    optimizer = MuonAdamW(param_groups(model))
    def step():
        x = torch.randint(0, 8192, (1, 129), device=rt.device)
        model(x[:, :-1], x[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rt.synchronize()
    def timed(f):
        start = time.perf_counter()
        f()
        return time.perf_counter() - start
    plain, beside, whole = [], [], []
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept(rt.device):
        for _ in range(2): step()
        writer = CheckpointWriter(Path(folder) / "beside", rt)
        for i in range(args.rounds + 1):                       # in turns: what disturbs one disturbs the other
            plain.append(timed(lambda: save_checkpoint(Path(folder) / "plain", i, model, optimizer, meta={}, rt=rt)))
            start = time.perf_counter()
            beside.append(timed(lambda: writer.begin(i, model, optimizer, meta={})))
            writer.finish()
            whole.append(time.perf_counter() - start)
        size = sum(f.stat().st_size for f in writer.path.iterdir())
    record = dict(date=time.strftime("%Y-%m-%d"), command=f"python benchmarks/bench_checkpoint.py --depth {args.depth}", machine=machine(), device=str(rt.device),
                  megabytes=round(size / 1e6), plain=round(statistics.median(plain[1:]), 3), blocked=round(statistics.median(beside[1:]), 4),
                  blocked_the_first_time=round(beside[0], 3), written_after=round(statistics.median(whole[1:]), 3))
    record["share"] = round(record["blocked"] / record["plain"], 4)
    write_json(HERE / "results" / "checkpoint.json", record)
    print(record)


if __name__ == "__main__": main()
