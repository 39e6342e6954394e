"""Does it matter that packed conversations see their neighbours?

    python benchmarks/bench_document_mask.py [--seeds 0 1 2]

Trains a small model from nothing on the laptop's fine-tuning lessons, packed into rows: once as the stages do it, once
with a document mask. Each is then asked for its loss on held-out conversations, every one alone in its row, and packed
with the neighbours in view. Writes benchmarks/results/document_mask.json, run by run; what is there already is not run
again. A run takes about 20 s on a quiet core.
"""
import argparse, json, random, time
from pathlib import Path

import torch

from nanochat_course.common import Runtime, machine, seed_everything, write_json
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import param_groups
from nanochat_course.real_tasks import by_document
from nanochat_course.scaling import Schedule
from nanochat_course.tasks import (ConversationLoader, TaskMixture, make_task, mean_over_step, read_mixture,
                                   visible_text)
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import LoopConfig, train
from nanochat_course.zero2 import make_optimizer

OUT = Path(__file__).resolve().parent / "results" / "document_mask.json"
CPU = Runtime(torch.device("cpu"), torch.float32)
T, ROWS, STEPS, VOCAB = 192, 8, 120, 1024


class Some:
    "Items drawn from a mixture; a seed gives them their order."
    def __init__(self, mixture, count, seed):
        self.mixture, self.order = mixture, random.Random(seed).sample(range(len(mixture)), count)
    def __len__(self): return len(self.order)
    def __getitem__(self, i): return self.mixture[self.order[i]]


def lessons(split):
    "The tasks of the laptop's fine-tuning, each once."
    return TaskMixture([(make_task(name, split), 1) for name in read_mixture("laptop_sft")])


def words(conversation): return " ".join(visible_text(m["content"]) for m in conversation["messages"])


@torch.no_grad()
def held_out(model, tok, conversations, packed):
    "Nats per token that the assistant should have written; the conversations alone in their rows, or packed."
    model.eval()
    groups = [conversations] if packed else [[c] for c in conversations]
    rows = [row for group in groups for row in ConversationLoader(tok, group, 1, T, CPU).rows]
    nats = 0.
    for i in range(0, len(rows), 32):
        inputs, targets = (torch.stack(x).long() for x in zip(*rows[i:i + 32]))
        nats += model(inputs, targets, loss_reduction="sum").item()
    model.train()
    return nats / sum(int((y >= 0).sum()) for _, y in rows)


def one(masked, seed):
    "Train one model and read it in both ways."
    start, train_set = time.time(), lessons("train")
    some = random.Random(0).sample(range(len(train_set)), 2000)
    tok = train_bpe([words(train_set[i]) for i in some], VOCAB, num_processes=1)
    seed_everything(seed)
    shape = GPTConfig(sequence_len=T, vocab_size=tok.vocab_size, n_layer=3, n_head=3, n_kv_head=3, n_embd=96)
    model = GPT(shape).init_weights()
    loader = ConversationLoader(tok, Some(train_set, min(len(train_set), 6_000), seed), ROWS, T, CPU)
    steps = min(STEPS, loader.num_iterations)
    rates = dict(embedding_lr=.1, unembedding_lr=.01, matrix_lr=.01)
    loss = by_document(mean_over_step, tok.bos) if masked else mean_over_step
    optimizer = make_optimizer(param_groups(model, **rates), CPU)
    result = train(model, optimizer, loader.weighted, LoopConfig(steps), CPU, schedule=Schedule(steps, 0, .5, 0.),
                   loss_fn=loss, desc="masked" if masked else "open")
    asked = Some(lessons("test"), 400, 0)
    asked = [asked[i] for i in range(len(asked))]
    return dict(masked=masked, seed=seed, steps=steps, train_loss=result["loss"],
                alone=held_out(model, tok, asked, False), packed=held_out(model, tok, asked, True),
                per_row=loader.conversations / len(loader.rows), seconds=round(time.time() - start, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    saved = json.loads(OUT.read_text()) if OUT.exists() else dict(runs=[])
    for seed in args.seeds:
        for masked in (False, True):
            if any((r["masked"], r["seed"]) == (masked, seed) for r in saved["runs"]): continue
            saved["runs"].append(one(masked, seed))
            saved |= dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_document_mask.py",
                          machine=machine(), settings=dict(layers=3, width=96, tokens=T, rows=ROWS, vocabulary=VOCAB))
            write_json(OUT, saved)
            print(saved["runs"][-1], flush=True)


if __name__ == "__main__": main()
