"""Sixty questions, twenty conversations and what it does not know, for the models of a run: python benchmarks/bench_chat.py --run FOLDER [--before FOLDER]

Asks the model after the last stage of a run (mid, SFT or RL) and, with --before, that of an earlier run, and writes
benchmarks/results/chat_laptop.json: every answer, and of each kind the share of right ones with Wilson's interval.
"""
import argparse, json, os, time
from pathlib import Path
from nanochat_course.chat_eval import SOURCES, ask_probes, calibration, wilson, written_answers
from nanochat_course.checkpoint import latest_step, load_model
from nanochat_course.common import machine, runtime, write_json
from nanochat_course.dataloader import DataLoader
from nanochat_course.engine import Engine
from nanochat_course.evaluation import evaluate_bpb
from nanochat_course.tasks import chat

HERE = Path(__file__).resolve().parent
EXTRA = "What does str.floor do?"                       # quoted in the chapter on tasks
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--run", required=True, help="NANOCHAT_COURSE_DIR of a finished run")
parser.add_argument("--before", default="", help="the same of an earlier run; empty: keep what the results hold of it")
parser.add_argument("--model-tag", default="laptop")
parser.add_argument("--out", default=str(HERE / "results" / "chat_laptop.json"))
args = parser.parse_args()


def share(right):
    "Right answers of some, and the interval."
    return dict(right=sum(right), asked=len(right), interval=wilson(sum(right), len(right)))


def reading(folder, rt):
    "Bits per byte on unread documentation after each stage that there is."
    found = {}
    for source, name in SOURCES.items():
        stage = Path(folder) / f"{name}_checkpoints" / args.model_tag
        if latest_step(stage) is None: continue
        model, tokenizer, _ = load_model(stage, rt)
        T = model.config.sequence_len
        val = DataLoader(tokenizer, Path(folder) / "data" / "docstrings", "val", 8, T, rt, epochs=1)
        found[source] = evaluate_bpb(model, val, 65536 // (8 * T), tokenizer.token_bytes(), rt)
    return found


def measure(folder):
    "All measurements of the last model of a run."
    os.environ["NANOCHAT_COURSE_DIR"] = str(folder)                                # its own tokenizer
    source = next(s for s in reversed(SOURCES) if latest_step(Path(folder) / f"{SOURCES[s]}_checkpoints" / args.model_tag) is not None)
    with runtime("cpu") as rt:
        engine = Engine(*load_model(Path(folder) / f"{SOURCES[source]}_checkpoints" / args.model_tag, rt)[:2])
        found = ask_probes(engine)
        known, bits = calibration(engine), reading(folder, rt)
        (extra, _), = written_answers(engine, [chat(EXTRA, "")], max_tokens=48, temperature=0.)
    kinds = {kind: share([a["right"] for a in found["answers"] if a["kind"] == kind]) for kind in ("taught", "near", "far")}
    turns = {f"turn {i + 1}": share([t[i]["right"] for t in found["talks"]]) for i in range(3)}
    whole = share([all(turn["right"] for turn in t) for t in found["talks"]])
    refused = {k: dict(v, interval=wilson(v["refused"], v["asked"])) for k, v in known.items()}
    return dict(source=source, questions=kinds, turns=turns, conversations=whole, refused=refused, reading=bits, extra={EXTRA: extra}, **found)


if __name__ == "__main__":
    out = Path(args.out)
    result = json.loads(out.read_text()) if out.exists() else {}
    if args.before: result["before"] = measure(args.before)
    result |= dict(date=time.strftime("%Y-%m-%d"), command="python benchmarks/bench_chat.py --run FOLDER --before FOLDER", machine=machine(), after=measure(args.run))
    write_json(out, result)
    for name in ("before", "after"):
        if name in result: print(name, {k: f"{v['right']} of {v['asked']}" for k, v in (result[name]["questions"] | result[name]["turns"]).items()}, result[name]["refused"])
