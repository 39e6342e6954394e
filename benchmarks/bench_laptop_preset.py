"""Are the laptop preset's values good? python benchmarks/bench_laptop_preset.py [--share 0.2]

Pretrains for a share of the preset's tokens, again and again with one value changed, and writes validation bits per byte to
benchmarks/results/laptop_preset.json. Needs the corpus and the tokenizer of the laptop preset (make speedrun makes them).
"""
import argparse, os, shutil, subprocess, tempfile, time
from pathlib import Path

from nanochat_course.common import base_dir, load_result, machine, write_json
from nanochat_course.speedrun import PRESETS, command_line, stage_config
from nanochat_course.base_train import base_plan

HERE = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--share", type=float, default=0.2, help="of the preset's training tokens")
parser.add_argument("--only", default="", help="comma-separated names of changes; empty: all")
args = parser.parse_args()

preset = PRESETS["laptop"]["base_train"]
vocab = PRESETS["laptop"]["tok_train"]["vocab_size"]
p = base_plan(stage_config("base_train", preset), vocab)
tokens, scale, batch, T = p.tokens * args.share, p.matrix_lr / 0.02, p.total_batch_size, p.sequence_len
preset = dict(preset, total_batch_size=batch, device_batch_size=p.device_batch_size, lr_scale=scale)   # fixed, so that a shorter run changes nothing else
changes = {"preset": {}, "all rates x 2": dict(lr_scale=scale * 2), "all rates / 2": dict(lr_scale=scale / 2),
           "embedding rate x 2": dict(embedding_lr=0.6), "embedding rate / 2": dict(embedding_lr=0.15), "head rate x 3": dict(unembedding_lr=0.012),
           "batch x 2": dict(total_batch_size=batch * 2, device_batch_size=p.device_batch_size), "batch / 2": dict(total_batch_size=batch // 2, device_batch_size=max(1, batch // 2 // T)),
           "context / 2": dict(max_seq_len=T // 2, device_batch_size=batch // (T // 2)), "no weight decay": dict(weight_decay=0.), "warm-down 0.8": dict(warmdown_ratio=0.8), "warm-down 0.3": dict(warmdown_ratio=0.3), "MLPs start in full": dict(c_fc_init=1.)}
if args.only: changes = {k: v for k, v in changes.items() if k == "preset" or k in args.only.split(",")}
source, folder, rows = base_dir(), Path(tempfile.mkdtemp()), []
shutil.copytree(source / "tokenizer", folder / "tokenizer")
os.symlink(source / "data", folder / "data")
os.environ["NANOCHAT_COURSE_DIR"] = str(folder)
for name, change in changes.items():
    flags = dict(preset, **change)
    flags["num_iterations"] = max(1, int(tokens // flags["total_batch_size"]))
    shutil.rmtree(folder / "base_checkpoints", ignore_errors=True)
    subprocess.run(command_line("base_train", dict(flags, save_every=0, eval_every=0, eval_tokens=131072)), check=True, stdout=subprocess.DEVNULL)
    result = load_result("base_train")
    rows.append(dict(changed=name, val_bpb=result["metrics"]["val_bpb"], seconds=round(result["seconds"], 1)))
    print(rows[-1], flush=True)
    write_json(HERE / "results" / "laptop_preset.json", dict(date=time.strftime("%Y-%m-%d"), command=f"python benchmarks/bench_laptop_preset.py --share {args.share}" + (f' --only "{args.only}"' if args.only else ""),
               machine=machine(), tokens=int(tokens), preset=preset, rows=rows))
shutil.rmtree(folder)
