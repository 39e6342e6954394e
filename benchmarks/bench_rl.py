"""What reinforcement learning adds on held-out sums.

    python benchmarks/bench_rl.py [--seeds 0 1 2]             the laptop preset's RL stage, three seeds
    python benchmarks/bench_rl.py ablation [--only grpo rloo]   every algorithm and the controls, on a small model, three seeds

The first needs a finished SFT model of the laptop preset under NANOCHAT_COURSE_DIR (make speedrun leaves one), runs
chat_rl with the preset's settings once for each seed in a copy of that folder and writes benchmarks/results/rl_sums.json.

The second trains its own small SFT model on sums up to 19 + 19 with the working written down, and from it every variant.
It adds each run to benchmarks/results/rl_ablation.json as soon as it is done and skips those that are there, so it may be
stopped at any time; a run takes about ten seconds on a quiet core. `--start FILE` keeps the SFT model (safetensors), so
that the next call need not train it.
"""
import argparse, copy, json, os, random, shutil, subprocess, tempfile, time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nanochat_course.chat_rl import (ALGORITHMS, Algorithm, RolloutLoader, evaluate_pass, kl_estimate,
                                     policy_gradient_loss, roll_out, rollout_batch, token_logprobs)
from nanochat_course.common import Runtime, base_dir, load_result, machine, read_log, seed_everything, write_json
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import param_groups
from nanochat_course.scaling import Schedule
from nanochat_course.speedrun import PRESETS, command_line
from nanochat_course.tasks import ConversationLoader, SumsTask, TaskMixture
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import LoopConfig, train
from nanochat_course.zero2 import make_optimizer

HERE = Path(__file__).resolve().parent
CPU = Runtime(torch.device("cpu"), torch.float32)
SFT_STEPS, STEPS, TOKENS, LARGEST = 150, 32, 18, 19
naive = Algorithm(clip=(float("inf"), float("inf")))


class RandomReward(SumsTask):
    "Right or wrong by a coin that falls as often as the model is right; the answer plays no part."
    rate, tosses = 0.3, None

    def grade(self, conversation, completion):
        self.tosses = self.tosses or random.Random(0)
        return self.tosses.random() < self.rate


VARIANTS = {name: a for name, a in ALGORITHMS.items()}               # fresh answers, each used once
VARIANTS |= {
    "grpo without penalty": replace(ALGORITHMS["grpo"], kl=0.),
    "reinforce, penalty k2": replace(ALGORITHMS["reinforce"], kl=.04, kl_kind="k2"),
    "reinforce, penalty k3": replace(ALGORITHMS["reinforce"], kl=.04),
    "4 updates, no ratio": replace(ALGORITHMS["reinforce"], updates=4),      # answers used four times
    "4 updates, ratio": replace(naive, updates=4),
    "4 updates, ratio and clip": replace(ALGORITHMS["ppo"], updates=4),
    "random reward": ALGORITHMS["reinforce"],                                # what is chance
    "more SFT": None}                                                        # the other way to spend the time


def laptop(args):
    "The stage of the preset, once for each seed."
    source, flags, runs = base_dir(), PRESETS["laptop"]["chat_rl"], []
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(source / "tokenizer", folder / "tokenizer")
    shutil.copytree(source / "chatsft_checkpoints", folder / "chatsft_checkpoints")
    os.environ["NANOCHAT_COURSE_DIR"] = str(folder)
    for seed in args.seeds:
        shutil.rmtree(folder / "chatrl_checkpoints", ignore_errors=True)
        start = time.time()
        subprocess.run(command_line("chat_rl", dict(flags, seed=seed, eval_items=args.eval_items)), check=True)
        result = load_result("chat_rl")
        m = result["metrics"]
        rewards = [round(r["reward"], 4) for r in read_log(result["log"]) if "reward" in r]
        runs.append(dict(seed=seed, before=m["sums pass@1 before"], after=m["sums pass@1"],
                         before8=m["sums pass@8 before"], after8=m["sums pass@8"],
                         seconds=round(time.time() - start, 1), rewards=rewards))
        print({k: v for k, v in runs[-1].items() if k != "rewards"}, flush=True)
    shutil.rmtree(folder)
    gain = sum(r["after"] - r["before"] for r in runs) / len(runs)
    print(f"pass@1 {gain:+.3f}, mean of {len(runs)} seeds")
    found = dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_rl.py", machine=machine(),
                 settings=result["config"], mean_gain=gain, runs=runs)
    write_json(HERE / "results" / "rl_sums.json", found)


def optimizer(model, share):
    "The optimizer of SFT, its rates times `share`."
    rates = dict(embedding_lr=.1 * share, unembedding_lr=.01 * share, matrix_lr=.01 * share)
    return make_optimizer(param_groups(model, **rates), CPU)


def lessons(tok, task, repeats=25):
    "Batches of the sums with their answers, for `train`."
    return lambda state: iter(ConversationLoader(tok, TaskMixture([(task, repeats)]), 16, 64, CPU)(state))


def small_sft(keep=None):
    "The model that all variants start from, its tokenizer, and the two parts of the task; `keep`: a file for its weights."
    task, test = SumsTask("train", largest=LARGEST), SumsTask("test", largest=LARGEST)
    seed_everything(0)
    tok = train_bpe([m["content"] for i in range(200) for m in task[i]["messages"]], 300, num_processes=1)
    shape = GPTConfig(sequence_len=64, vocab_size=tok.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=96)
    model = GPT(shape).init_weights()
    if keep and keep.exists():
        model.load_state_dict(load_file(keep), strict=False)             # the rotary tables are not kept
        return model, tok, task, test
    halved = Schedule(SFT_STEPS, 0, .5, 0.)                             # rates that fall through the second half
    train(model, optimizer(model, 1.), lessons(tok, task), LoopConfig(SFT_STEPS), CPU, schedule=halved, desc="SFT")
    if keep: save_file(model.state_dict(), keep)
    return model, tok, task, test


def divergence(model, reference, groups, tok):
    "KL to the SFT model per token, on the model's own answers."
    inputs, (targets, _) = rollout_batch([r for g in groups for r in g], tok.bos)
    here, there = token_logprobs(model, inputs, targets), token_logprobs(reference, inputs, targets)
    return (kl_estimate(here, there) * (targets >= 0)).sum().item() / (targets >= 0).sum().item()


def one(name, seed, start, tok, task, test, steps):
    "Train a variant and measure it on held-out sums."
    began, model, algorithm, rewards = time.time(), copy.deepcopy(start), VARIANTS[name], []
    seed_everything(seed)
    opt, decay = optimizer(model, .3), lambda step: dict(lr=1 - step / steps)
    if algorithm is None:
        train(model, opt, lessons(tok, task), LoopConfig(steps), CPU, schedule=decay, desc=name)
    else:
        asked = task if name != "random reward" else RandomReward("train", largest=LARGEST)
        def note(step, groups): rewards.append(round(sum(r.reward for g in groups for r in g) / sum(map(len, groups)), 4))
        reference = copy.deepcopy(start) if algorithm.kl else None
        loader = RolloutLoader(Engine(model, tok), asked, CPU, 8, 16, TOKENS, seed=seed, on_batch=note,
                               algorithm=algorithm, reference=reference)
        loss = partial(policy_gradient_loss, algorithm=algorithm)
        train(model, opt, loader, LoopConfig(steps, prefetch=False), CPU, schedule=decay, loss_fn=loss, desc=name)
    model.eval()
    engine, items = Engine(model, tok), list(range(len(test)))
    found = evaluate_pass(engine, test, items, CPU, 16, (1, 8), TOKENS, seed=1000 + seed)
    groups = roll_out(engine, test, items[:24], 8, TOKENS, seed=seed)
    answers = [r for g in groups for r in g]
    tokens = sum(sum(r.mask) for r in answers)
    entropy = -sum(sum(r.logprobs) for r in answers) / tokens
    return dict(variant=name, seed=seed, steps=steps, **found, kl=divergence(model, start, groups, tok),
                tokens=tokens / len(answers), entropy=entropy, seconds=round(time.time() - began, 1), rewards=rewards)


def ablation(args):
    "All variants and seeds that the file does not have yet."
    out = Path(args.out or HERE / "results" / "rl_ablation.json")
    saved = json.loads(out.read_text()) if out.exists() else dict(runs=[])
    there = {(r["variant"], r["seed"]) for r in saved["runs"] if r["steps"] == args.steps}
    todo = [(name, seed) for seed in args.seeds for name in args.only or VARIANTS if (name, seed) not in there]
    start, tok, task, test = small_sft(args.start)
    before = evaluate_pass(Engine(start, tok), test, list(range(len(test))), CPU, 16, (1, 8), TOKENS, seed=999)
    RandomReward.rate = before["pass@1"]
    for name, seed in todo:
        saved["runs"].append(one(name, seed, start, tok, task, test, args.steps))
        settings = dict(sft_steps=SFT_STEPS, steps=args.steps, questions=8, samples=16, largest=LARGEST)
        saved |= dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_rl.py ablation",
                      machine=machine(), before=before, settings=settings)
        write_json(out, saved)
        print({k: v for k, v in saved["runs"][-1].items() if k != "rewards"}, flush=True)
    print(f"before: pass@1 {before['pass@1']:.3f}, pass@8 {before['pass@8']:.3f}")
    for name in VARIANTS:
        runs = [r for r in saved["runs"] if r["variant"] == name]
        if not runs: continue
        mean = lambda key: sum(r[key] for r in runs) / len(runs)
        spread = ", ".join(f"{r['pass@1']:.2f}" for r in runs)
        print(f"{name:26} pass@1 {mean('pass@1'):.3f} ({spread}), pass@8 {mean('pass@8'):.3f}, "
              f"KL {mean('kl'):.3f}, tokens {mean('tokens'):.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="laptop", choices=["laptop", "ablation"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--eval-items", type=int, default=250, help="held-out sums of the laptop runs")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="of the ablation's variants")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of the ablation's runs")
    parser.add_argument("--out", help="file of the ablation")
    parser.add_argument("--start", type=Path, help="file that keeps the ablation's SFT model between calls")
    args = parser.parse_args()
    (laptop if args.what == "laptop" else ablation)(args)


if __name__ == "__main__": main()
