"""What the dataloader costs: text per second on one core, by part, and what it takes from training.

    OMP_NUM_THREADS=1 python benchmarks/bench_dataloader.py [--batches 200] [--out benchmarks/results/dataloader.json]

Uses the corpus of docstrings (made if missing) and a tokenizer with 4,096 tokens trained on a part of it; batch 8, context 512.
All rates come from one run on one machine: compare them with each other. "Cut" counts documents that were cut although a row would have held them whole.
"""
import argparse, json, sys, time
from pathlib import Path
import numpy as np, torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from nanochat_course.common import Runtime, base_dir, machine, write_json
from nanochat_course.corpus import documents, list_shards, make_corpus
from nanochat_course.dataloader import DataLoader, Packer
from nanochat_course.tokenizer import train_bpe

B, T = 8, 512


def clock(f):
    start, cpu = time.perf_counter(), time.process_time()
    result = f()
    return result, time.perf_counter() - start, time.process_time() - cpu


def packing(docs, T, size):
    "Rows, tokens lost, places taken by bos, avoidable cuts."
    packer, waiting, rows = Packer(T + 1, 0), iter(enumerate(docs)), []
    while True:
        while packer.wants(size) and (item := next(waiting, None)): packer.add((item[0],), item[1])
        if not packer.order: break
        rows.append([(a, b, len(ids)) for _, a, b, ids, _ in packer.row()])
    pieces = [p for r in rows for p in r]
    return dict(rows=len(rows), lost=1 - sum(b - a for a, b, _ in pieces) / sum(map(len, docs)), bos=len(pieces) / (len(rows) * (T + 1)),
                cut_per_row=sum(b < n <= T for _, b, n in pieces) / len(rows))


def training(batches, seconds_per_batch, n):
    "Wall seconds for n steps of a model that computes for `seconds_per_batch` each."
    weights = torch.randn(256, 256)
    def step():
        end = time.perf_counter() + seconds_per_batch
        while time.perf_counter() < end: weights @ weights
    start = time.perf_counter()
    for _ in zip(range(n), batches): step()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    corpus, data, rt = make_corpus(), base_dir() / "data" / "docstrings", Runtime(torch.device("cpu"), torch.float32)
    shards = list_shards(data)
    texts, read, _ = clock(lambda: list(documents(shards[:6])))
    size = sum(len(t.encode()) for t in texts)
    tokenizer = train_bpe(texts[:8000], 4096)
    docs, encode, encode_cpu = clock(lambda: [np.array(ids, np.int32) for i in range(0, len(texts), 64) for ids in tokenizer.encode(texts[i:i + 64], num_threads=1)])
    tokens = sum(map(len, docs))
    _, pack, _ = clock(lambda: packing(docs, T, 256))

    def load():
        it = iter(DataLoader(tokenizer, data, "train", B, T, rt, num_threads=1, prefetch=0))
        for _ in range(args.batches): next(it)
    _, wall, cpu = clock(load)
    per_token = size / tokens
    parts = {"read": size / read / 1e6, "encode": size / encode_cpu / 1e6, "pack": size / pack / 1e6, "whole loader": args.batches * B * T * per_token / cpu / 1e6}

    step = B * T / 13_000                                                  # a step at the goal of 13,000 tokens a second
    n, plain = 20, {}
    fixed = [next(iter(DataLoader(tokenizer, data, "train", B, T, rt, prefetch=0)))] * n
    plain["no loader"] = training(fixed, step, n)
    for name, depth in (("read ahead", 4), ("no thread", 0)):
        it = iter(DataLoader(tokenizer, data, "train", B, T, rt, prefetch=depth))
        next(it)
        plain[name] = training(it, step, n)
        it.close()
    result = dict(machine=machine(), corpus={k: corpus[k] for k in ("documents", "bytes", "words", "seconds")}, bytes_per_token=per_token, MB_per_core_second=parts,
                  tokens_per_core_second=args.batches * B * T / cpu, training_seconds=plain,
                  packing={t: packing(docs, t, 256) for t in (128, 256, 512, 1024, 2048)}, state_bytes=len(json.dumps(fixed[0][2])))
    print(f"corpus: {corpus['documents']:,} documents, {corpus['bytes']:,} bytes, {corpus['words']:,} words, made in {corpus['seconds']} s")
    for k, v in parts.items(): print(f"{k:>13}: {v:8.1f} MB of text per second on one core")
    print(f"{result['tokens_per_core_second']:,.0f} tokens per second on one core, {per_token:.2f} bytes per token; state {result['state_bytes']:,} bytes")
    for k, v in plain.items(): print(f"{k:>13}: {n} steps at 13,000 tokens/s in {v:.2f} s ({v / plain['no loader'] - 1:+.1%})")
    for t, p in result["packing"].items(): print(f"T = {t:4}: {p['lost']:.2%} lost, {p['bos']:.1%} bos, {p['cut_per_row']:.3f} avoidable cuts per row")
    if args.out: write_json(args.out, result)


if __name__ == "__main__": main()
