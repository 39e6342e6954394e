"One command: presets, ledger, interruption, failure."
from pathlib import Path
import os, re, signal, subprocess, sys, time

import forked
import pytest
import torch

from nanochat_course import common, speedrun as S
from nanochat_course.common import CourseError, read_json, write_json


def test_every_preset_is_valid_and_every_stage_has_a_command():
    for name, preset in S.PRESETS.items():
        assert set(preset) <= set(S.ORDER), name
        for stage in S.ORDER:
            config = S.stage_config(stage, preset.get(stage, {}))
            assert all(getattr(config, k) == v for k, v in preset.get(stage, {}).items())


def test_choice_by_hardware_and_by_name():
    assert [S.choose_preset(gpus=n)[0] for n in (0, 1, 4, 8)] == ["laptop", "gpu", "gpu", "8xh100"]
    assert S.choose_preset("tiny", gpus=8) == ("tiny", "asked for")
    with pytest.raises(CourseError, match="unknown preset 'huge'"): S.choose_preset("huge")


def test_commands_are_the_ones_a_person_would_type():
    one, eight = S.command_line("base_train", dict(depth=24, fp8=True), 1), S.command_line("base_train", dict(depth=24, fp8=False), 8)
    assert one[1:] == ["-m", "nanochat_course.base_train", "--depth", "24", "--fp8"]
    assert eight[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=8"]
    assert eight[-5:] == ["-m", "nanochat_course.base_train", "--depth", "24", "--no-fp8"] and "--max-restarts=3" in eight
    assert "--max-restarts=3" not in S.command_line("base_eval", {}, 8)
    from torch.distributed.run import get_args_parser
    get_args_parser().parse_args(eight[3:])                                # torchrun knows every option


def fake_gpus(monkeypatch, count, cuda="13.0"):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.version, "cuda", cuda)


def test_a_preset_for_gpus_never_runs_on_a_cpu(monkeypatch, tmp_path):
    fake_gpus(monkeypatch, 8)
    assert [S.count_gpus(n) for n in ("tiny", "laptop", "gpu", "8xh100")] == [1, 1, 8, 8] and S.count_gpus("8xh100", 1) == 1
    fake_gpus(monkeypatch, 4)
    assert S.count_gpus("gpu") == 4 and S.count_gpus("8xh100", 4) == 4
    for name, wanted in (("8xh100", -1), ("gpu", 5)):
        with pytest.raises(CourseError, match=f"wants {max(wanted, 8 if wanted < 0 else 0)} GPUs, torch can use 4"): S.count_gpus(name, wanted)
    fake_gpus(monkeypatch, 0, None)
    assert S.count_gpus("laptop") == 1
    with pytest.raises(CourseError, match="built for CPUs only"): S.count_gpus("gpu")
    fake_gpus(monkeypatch, 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CourseError, match="no NVIDIA driver"): S.count_gpus("gpu")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '535.104.05\\n535.104.05\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(CourseError, match="lists 2 with driver 535.104.05, and this torch is built for CUDA 13.0"): S.count_gpus("8xh100")


def test_settings_are_typed_and_checked_by_the_stage():
    preset = S.override(S.PRESETS["tiny"], ("base_train.depth=3", "base_train.total-batch-size=2048", "mid_train.mixture=identity:2 sums:.5", "base_train.fp8=TRUE",
                                            "base_train.tracker=wandb", "chat_rl.save_every=-1", "corpus.source=a=b.txt", "base_train.model_tag="))
    assert preset["base_train"] | dict(depth=3, total_batch_size=2048, fp8=True, tracker="wandb", model_tag="") == preset["base_train"]
    assert preset["mid_train"]["mixture"] == "identity:2 sums:.5" and preset["chat_rl"]["save_every"] == -1 and preset["corpus"] == dict(source="a=b.txt")
    assert S.PRESETS["tiny"]["base_train"]["depth"] == 2 and "corpus" not in S.PRESETS["tiny"]
    for stage, flags in preset.items(): S.stage_config(stage, flags)


@pytest.mark.parametrize("setting,text", [("depth=3", "write stage.flag=value"), ("pretrain.depth=3", "unknown stage 'pretrain'"), ("base_train.dept=3", "perhaps you meant depth"),
    ("base_train.depth=three", "must be like its default, 4"), ("base_train.depth=3.5", "like its default"), ("base_train.fp8=maybe", "true or false"), ("base_train.depth", "write stage.flag=value")])
def test_settings_that_are_refused(setting, text):
    with pytest.raises(CourseError) as e: S.override(S.PRESETS["tiny"], ("base_train.seed=1", setting))
    assert text in str(e.value) and "\n" not in str(e.value)


def test_settings_belong_to_the_run_and_trackers_do_not():
    preset, ledger = S.PRESETS["tiny"], {}
    for row in S.plan_stages(preset, {}): ledger[row["stage"]] = dict(fingerprint=row["fingerprint"])
    done = lambda *settings: [r["finished"] for r in S.plan_stages(S.override(preset, settings), ledger)]
    assert done("base_train.weight_decay=0.1") == [True] * 2 + [False] * 7
    assert all(done("base_train.tracker=wandb", "base_train.run=second"))


def test_a_ledger_with_garbage(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    assert S.read_ledger() == {}
    write_json(S.ledger_path(), dict(corpus=None, tok_train=3, base_train=dict(seconds="long"), base_eval=dict(seconds=2.), lunch={}))
    assert S.read_ledger() == dict(base_eval=dict(seconds=2.))
    S.ledger_path().write_text("null")
    with pytest.raises(CourseError, match="speedrun.json holds a NoneType"): S.read_ledger()


def test_lost_summaries_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    report = tmp_path / "report"
    for name in ("base_train", "chat_eval_base", "chat_eval_sft"): write_json(report / f"{name}.json", dict(stage=name))
    assert S.lost_summaries("corpus", {}) == S.lost_summaries("base_train", {}) == S.lost_summaries("chat_eval", dict(source="base,sft")) == []
    assert S.lost_summaries("chat_eval", {}) == [report / "chat_eval_mid.json", report / "chat_eval_rl.json"]
    for text in ("null", "{}", "[1]", "", "\xff"):
        (report / "base_train.json").write_text(text, encoding="latin-1")
        assert S.lost_summaries("base_train", {}) == [report / "base_train.json"]


def test_ledger_knows_what_is_out_of_date():
    preset = S.PRESETS["tiny"]
    rows = S.plan_stages(preset, {})
    assert not any(r["finished"] for r in rows)
    ledger = {r["stage"]: dict(fingerprint=r["fingerprint"], seconds=1) for r in rows}
    assert all(r["finished"] for r in S.plan_stages(preset, ledger))
    for i, stage in enumerate(S.ORDER):
        flags = dict(preset.get(stage, {}), **({"vocab_size": 999} if stage == "tok_train" else {"max_tokens": 3} if stage in ("base_eval", "transcript") else {"seed": 7}))
        done = [r["finished"] for r in S.plan_stages({**preset, stage: flags}, ledger)]
        assert done == [True] * i + [False] * (len(S.ORDER) - i), stage


SCRIPT = """
import sys, nanochat_course.speedrun as s
s.ORDER = ["corpus", "tok_train"]
s.command_line = lambda stage, flags, nproc: [sys.executable, {stage!r}, stage]
from nanochat_course.common import run_main
run_main(s.speedrun, s.SpeedrunConfig, ["--preset", "tiny", *sys.argv[1:]])
"""


started = []


@pytest.fixture(autouse=True)
def nobody_left():
    "Whatever a test that fails has started ends with it."
    yield
    for p in started:
        try: os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError: pass
    started.clear()


def run(tmp_path, stage_code, *args, wait=True, script=SCRIPT):
    "The real driver, with a stand-in for the stages' programs."
    (tmp_path / "stage.py").write_text(stage_code)
    (tmp_path / "run.py").write_text(script.format(stage=str(tmp_path / "stage.py")))
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path / "files"))
    p = forked.Popen([sys.executable, str(tmp_path / "run.py"), *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    started.append(p)
    if not wait: return p
    out, err = p.communicate(timeout=280)
    return p.returncode, out, err


DONE = """
import sys, json, os, pathlib
d = pathlib.Path(os.environ["NANOCHAT_COURSE_DIR"]); (d / "report").mkdir(parents=True, exist_ok=True)
with open(d / "calls.txt", "a") as f: f.write(sys.argv[1] + "\\n")
summary = dict(seconds=1., peak_memory=1, dtype="float32", machine=dict(gpus=[], cores=2, python="3", torch="2"), config={})
if sys.argv[1] != "corpus": (d / "report" / (sys.argv[1] + ".json")).write_text(json.dumps(summary))
"""
WAITING = DONE + """
import signal, time
def saves(number, frame): (d / "saved.txt").write_text(str(number)); sys.exit(130)
if sys.argv[1] == "tok_train":
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN: signal.signal(signal.SIGHUP, saves)
    signal.signal(signal.SIGTERM, saves); signal.signal(signal.SIGINT, saves)
    print("waiting", flush=True)
    while not (d / "go").exists(): time.sleep(.01)
"""


def test_failure_names_the_stage_and_the_next_run_goes_on(tmp_path):
    status, out, err = run(tmp_path, DONE + "sys.exit(3 if sys.argv[1] == 'tok_train' else 0)")
    assert status == 2 and err.strip() == "error: tok_train ended with status 3, see above; once mended, the same command goes on from there"
    status, out, err = run(tmp_path, DONE)
    assert "[1/2] corpus: finished earlier" in out and (tmp_path / "files" / "calls.txt").read_text().split() == ["corpus", "tok_train", "tok_train"]


def test_interrupt_reaches_the_stage_and_is_passed_on(tmp_path):
    code = DONE + """
import time
if sys.argv[1] == "tok_train":
    try: print("waiting", flush=True); time.sleep(60)
    except KeyboardInterrupt: (d / "saved.txt").write_text("saved"); sys.exit(130)
"""
    p = run(tmp_path, code, wait=False)
    while "waiting" not in p.stdout.readline(): pass
    os.killpg(p.pid, signal.SIGINT)                        # what the terminal does on Ctrl-C
    assert p.wait(timeout=280) == 130 and (tmp_path / "files" / "saved.txt").exists()
    ledger = read_json(tmp_path / "files" / "report" / "speedrun.json")
    assert "fingerprint" in ledger["corpus"] and "fingerprint" not in ledger["tok_train"]


def test_killed_driver_loses_no_finished_stage(tmp_path):
    code = DONE + "import time\nif sys.argv[1] == 'tok_train': print('waiting', flush=True); time.sleep(60)\n"
    p = run(tmp_path, code, wait=False)
    while "waiting" not in p.stdout.readline(): pass
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    status, out, _ = run(tmp_path, DONE)
    assert "[1/2] corpus: finished earlier" in out


def wait_for_stage(p):
    while "waiting" not in p.stdout.readline(): assert p.poll() is None


@pytest.mark.parametrize("number,group", [(signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGHUP, True)], ids=["scheduler", "hangup of the driver", "hangup of the group"])
def test_a_signal_to_the_driver_reaches_the_stage_once(tmp_path, number, group):
    "A lost connection (SIGHUP, to the whole group) and a scheduler (SIGTERM, to the driver): the stage hears of it, and saves."
    p = run(tmp_path, WAITING, wait=False)
    wait_for_stage(p)
    (os.killpg if group else os.kill)(p.pid, number)
    assert p.wait(timeout=280) == 130 and (tmp_path / "files" / "saved.txt").read_text() == str(int(signal.SIGTERM))
    assert "fingerprint" not in read_json(tmp_path / "files" / "report" / "speedrun.json")["tok_train"]


def test_an_interrupt_of_the_driver_alone_is_remembered(tmp_path):
    p = run(tmp_path, WAITING, wait=False, script=SCRIPT.replace('"tok_train"]', '"tok_train", "base_eval"]'))
    wait_for_stage(p)
    p.send_signal(signal.SIGINT)
    time.sleep(.1)
    (tmp_path / "files" / "go").touch()
    out, err = p.communicate(timeout=280)
    assert p.returncode == 130 and "interrupted" in err
    assert (tmp_path / "files" / "calls.txt").read_text().split() == ["corpus", "tok_train"]
    ledger = read_json(tmp_path / "files" / "report" / "speedrun.json")
    assert "fingerprint" in ledger["tok_train"] and "base_eval" not in ledger


def test_two_speedruns_at_once(tmp_path):
    first = run(tmp_path, WAITING, wait=False)
    wait_for_stage(first)
    status, out, err = run(tmp_path, WAITING)
    assert status == 2 and re.search(r"in use by process \d+ \(stage", err) and err.count("\n") == 1 and "preset" not in out
    (tmp_path / "files" / "go").touch()
    assert first.wait(timeout=280) == 0 and (tmp_path / "files" / "calls.txt").read_text().split() == ["corpus", "tok_train"]


def test_the_stage_of_a_killed_driver_keeps_others_out(tmp_path):
    first = run(tmp_path, WAITING, wait=False)
    wait_for_stage(first)
    first.kill()
    first.wait()
    status, _, err = run(tmp_path, WAITING)
    pid = int(re.search(r"in use by process (\d+) \(stage", err)[1])
    assert status == 2 and pid != first.pid
    (tmp_path / "files" / "go").touch()
    while common.alive(pid): time.sleep(.02)
    status, out, err = run(tmp_path, WAITING)
    assert status == 0, err


def test_all_done_is_true(tmp_path):
    "A summary that is gone or empty is made again; the stages after it are not."
    three = SCRIPT.replace('"tok_train"]', '"tok_train", "base_eval"]')
    assert run(tmp_path, DONE, script=three)[0] == 0
    for text in (None, "null", "{}"):
        summary, calls = tmp_path / "files" / "report" / "tok_train.json", tmp_path / "files" / "calls.txt"
        calls.write_text("")
        if text is None: summary.unlink()
        else: summary.write_text(text)
        status, out, _ = run(tmp_path, DONE, script=three)
        assert status == 0 and "its summary is gone" in out and "all done" in out and calls.read_text().split() == ["tok_train"]


def test_until_the_corpus_there_is_no_report(tmp_path):
    status, out, err = run(tmp_path, DONE, "--until", "corpus")
    assert status == 0 and "done up to corpus" in out and "report:" not in out and not err
    assert "talk to the model" not in out


def test_settings_are_in_the_ledger_and_reach_the_stage(tmp_path):
    script = SCRIPT.replace("sys.executable, {stage!r}, stage]", "sys.executable, {stage!r}, stage, *map(str, flags.items())]")
    run(tmp_path, DONE + "(d / (sys.argv[1] + '.flags')).write_text(' '.join(sys.argv))", "--set", "tok_train.doc_cap=5", "--set", "tok_train.max-chars=9", script=script)
    flags = (tmp_path / "files" / "tok_train.flags").read_text()
    assert "('doc_cap', 5)" in flags and "('max_chars', 9)" in flags
    assert read_json(tmp_path / "files" / "report" / "speedrun.json")["tok_train"]["set"] == {"tok_train.doc_cap": "5", "tok_train.max-chars": "9"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_gpus_a_preset_for_gpus_makes_its_text_and_stops(tmp_path):
    script = SCRIPT.replace('"tiny"', '"8xh100"').replace('"tok_train"]', '"tok_train", "base_train"]')
    status, out, err = run(tmp_path, DONE, script=script)
    assert status == 2 and "preset 8xh100 wants 8 GPUs, torch can use 0 here" in err and not out and err.count("\n") == 1
    assert run(tmp_path, DONE, "--until", "tok_train", script=script)[0] == 0


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "files").write_text("")
    status, _, err = run(tmp_path, DONE)
    assert status == 2 and "is not a folder: set NANOCHAT_COURSE_DIR" in err and err.count("\n") == 1


TORCHRUN = """
import os, sys, nanochat_course.speedrun as s
from nanochat_course.common import run_main
real = s.command_line
def command_line(stage, flags, nproc):
    command = real(stage, {{}}, 2)
    return [*command[:command.index(f"nanochat_course.{{stage}}") - 1], {stage!r}]
s.ORDER, s.SINGLE, s.command_line, s.count_gpus = ["base_train"], (), command_line, lambda *_: 2
run_main(s.speedrun, s.SpeedrunConfig, ["--preset", "tiny", *sys.argv[1:]])
"""
RANK = """
import json, os, sys, signal, time
from dataclasses import dataclass
from nanochat_course.common import CourseError, Runtime, base_dir, run_main, save_result
import torch
@dataclass(frozen=True)
class Config: save_every:int=1
def stage(config):
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    with open(base_dir() / "calls.txt", "a") as f: f.write(str(rank))
    how = (base_dir() / "how").read_text()
    if how == "mistake": raise CourseError("two ranks, one mistake")
    if how == "crash" and attempt == 0: time.sleep(.5); os.kill(os.getpid(), 9)
    if how == "stop":
        def saves(*_): (base_dir() / f"saved{{rank}}").write_text("x"); raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, saves)
        (base_dir() / f"waiting{{rank}}").touch()
        time.sleep(60)
    save_result("base_train", config, Runtime(torch.device("cpu"), torch.float32, rank=rank), 1.)
run_main(stage, Config, [])
"""


@pytest.mark.parametrize("how", ["stop", "mistake", "crash"])
def test_several_ranks_stopped_mistaken_and_crashed(tmp_path, how):
    "Under the real torchrun: a clean stop is an interruption, a mistake is told once by the driver, a crash is tried again."
    files = tmp_path / "files"
    files.mkdir()
    (files / "how").write_text(how)
    p = run(tmp_path, RANK.replace("{{", "{").replace("}}", "}"), wait=False, script=TORCHRUN)
    if how == "stop":
        while not ((files / "waiting0").exists() and (files / "waiting1").exists()): time.sleep(.02); assert p.poll() is None, p.communicate()
        os.kill(p.pid, signal.SIGTERM)
    out, err = p.communicate(timeout=280)
    last = err.strip().splitlines()[-1] if err.strip() else ""
    if how == "stop": assert p.returncode == 130 and last.startswith("interrupted") and (files / "saved0").exists() and (files / "saved1").exists(), err
    if how == "mistake": assert p.returncode == 2 and last == "error: base_train ended with status 1, two ranks, one mistake; once mended, the same command goes on from there" and err.count("error: two ranks, one mistake") <= 1
    if how == "crash": assert p.returncode == 0 and "all done" in out and set((files / "calls.txt").read_text()) == {"0", "1"}, err


def test_outdated_work_is_kept_aside(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    (tmp_path / "base_checkpoints" / "tiny" / "step_000001").mkdir(parents=True)
    (tmp_path / "report").mkdir()
    write_json(tmp_path / "report" / "base_train.json", {})
    moved = S.set_aside("base_train", "tiny")
    assert len(moved) == 2 and all(m.exists() for m in moved) and not (tmp_path / "base_checkpoints" / "tiny").exists()
    assert S.set_aside("base_train", "tiny") == []


@pytest.mark.parametrize("args,text", [(["--preset", "huge"], "unknown preset"), (["--until", "lunch"], "unknown stage"),
                                       (["--set", "tok_train.doc_cap=1", "--set", "tok_train.doc_cup=2"], "perhaps you meant doc_cap")])
def test_bad_input_is_one_line(args, text, tmp_path):
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path))
    done = forked.run([sys.executable, "-m", "nanochat_course.speedrun", *args], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name,ranks,gigabytes", [("gpu", 1, 24), ("8xh100", 8, 80)])
def test_presets_fit_their_machine_by_the_formula(name, ranks, gigabytes):
    "Each training stage's rows in one pass leave a tenth of the card for what the formula leaves out."
    from dataclasses import replace
    import torch
    from nanochat_course.base_train import base_plan
    from nanochat_course.common import Runtime
    from nanochat_course.mid_train import rows_at_once
    from nanochat_course.scaling import memory_per_rank
    preset = S.PRESETS[name]
    plan = base_plan(S.stage_config("base_train", preset["base_train"]), preset["tok_train"]["vocab_size"], ranks)
    rows = dict(base_train=preset["base_train"]["device_batch_size"])
    for stage in ("mid_train", "chat_sft"):
        rows[stage] = rows_at_once(S.stage_config(stage, preset[stage]), plan, Runtime(torch.device("cpu"), torch.float32, world_size=ranks), gigabytes * 10**9)
    assert rows["mid_train"] == rows["chat_sft"] == 16
    rl = S.stage_config("chat_rl", preset["chat_rl"])
    rows["chat_rl"] = rl.device_batch_size * (rl.max_new_tokens + 400) / plan.sequence_len       # GSM8K's longest question has fewer than 400 tokens
    for stage, n in rows.items(): assert memory_per_rank(replace(plan, device_batch_size=n))["total"] < .9 * gigabytes * 1e9, stage


def test_gpu_presets_learn_and_ask_the_published_tasks():
    "nanochat's mixtures and its numbers for RL; the laptop's presets name none of them, so that they need no network."
    from nanochat_course.chat_eval import CHATCORE
    from nanochat_course.tasks import PUBLISHED, read_mixture
    for name in ("gpu", "8xh100"):
        stage = {s: S.stage_config(s, S.PRESETS[name][s]) for s in ("mid_train", "chat_sft", "chat_rl", "chat_eval")}
        assert read_mixture(stage["mid_train"].mixture) == dict(smoltalk=1, mmlu=1, gsm8k=1, persona=1, simplespelling=1, spellingbee=1)
        assert read_mixture(stage["chat_sft"].mixture) == dict(smoltalk=1, mmlu=1, gsm8k=2, persona=2, simplespelling=1, spellingbee=1)
        rl = stage["chat_rl"]
        assert (rl.task, rl.num_samples, rl.examples_per_step, rl.max_new_tokens, rl.init_lr_frac) == ("gsm8k", 16, 16, 256, .05)
        assert tuple(stage["chat_eval"].tasks.split(",")) == CHATCORE and stage["chat_eval"].max_items == -1
    for name in ("tiny", "laptop"):
        for s in ("mid_train", "chat_sft"): assert not set(read_mixture(S.stage_config(s, S.PRESETS[name][s]).mixture)) & set(PUBLISHED)
        assert S.stage_config("chat_rl", S.PRESETS[name]["chat_rl"]).task not in PUBLISHED
        assert not set(S.stage_config("chat_eval", S.PRESETS[name]["chat_eval"]).tasks.split(",")) & set(PUBLISHED)


def test_stages_wait_asleep_beside_other_programs(monkeypatch, tmp_path):
    def policy():
        code = f"import os; open({str(tmp_path / 'said')!r}, 'w').write(os.environ.get('OMP_WAIT_POLICY', 'none'))"
        assert S.run_stage([sys.executable, "-c", code]) == (0, False)
        return (tmp_path / "said").read_text()
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(.5)
    try: assert S.busy_cores() > .5 and policy() == "PASSIVE"
    finally: busy.kill()
    monkeypatch.setattr(S, "busy_cores", lambda: .1)
    assert policy() == "none"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert policy() == "ACTIVE"


# what comes from the net

def test_pretraining_decides_how_much_text_is_downloaded():
    from nanochat_course.plan import PlanConfig, planned, storage
    for name in ("gpu", "8xh100"):
        flags, tokens = S.corpus_flags(S.PRESETS[name]), planned(PlanConfig(preset=name)).tokens
        assert (flags["num_shards"] - 1) * 250e6 < 1.1 * 4.75 * tokens <= flags["num_shards"] * 250e6
        assert storage(planned(PlanConfig(preset=name)))["shards"] == flags["num_shards"] + 1
    more = lambda *settings: S.corpus_flags(S.override(S.PRESETS["gpu"], settings))["num_shards"]
    assert more("base_train.depth=20") > more() == more("base_train.target-tokens=-1") and more("base_train.target_tokens=5.3e7") == 2
    assert more("corpus.num_shards=3") == 3 and more("base_train.target_tokens=1e13") == 6542
    assert S.corpus_flags(S.PRESETS["laptop"]) == {} and S.corpus_flags(S.override(S.PRESETS["tiny"], ("corpus.source=a.txt",))) == dict(source="a.txt")


def test_more_text_does_not_make_the_tokenizer_old():
    marks = lambda *settings: [r["fingerprint"] for r in S.plan_stages(S.override(S.PRESETS["gpu"], settings), {})]
    assert marks()[:2] == marks("base_train.depth=20", "corpus.first_shards=2")[:2] and marks()[2] != marks("base_train.depth=20")[2]
    assert marks()[0] != marks("corpus.num_shards=3")[0]


def test_small_presets_ask_the_net_for_nothing():
    for name in ("tiny", "laptop"):
        assert "source" not in S.PRESETS[name].get("corpus", {}) and S.stage_config("corpus", {}).source == "docstrings"
        assert not S.stage_config("base_eval", S.PRESETS[name]["base_eval"]).require_core
    for name in ("gpu", "8xh100"): assert S.stage_config("base_eval", S.PRESETS[name]["base_eval"]).require_core


def test_core_is_asked_for_before_anything_is_done(tmp_path, monkeypatch):
    "Without a net a run that must end with CORE ends at once; the file brought by hand will do."
    import shutil
    from nanochat_course.evaluation import builtin_bundle
    monkeypatch.setenv("NANOCHAT_COURSE_CORE_URL", "http://127.0.0.1:9/eval_bundle.zip")
    script = SCRIPT.replace('"tok_train"]', '"tok_train", "base_eval"]')
    command = ("--set", "base_eval.require_core=true")
    patient = script.replace("run_main(", "e = s.core_tasks; s.core_tasks = lambda config: e(config, attempts=1)\nrun_main(")
    status, out, err = run(tmp_path, DONE, "--until", "tok_train", *command, script=patient)      # a machine is prepared before it costs money
    assert status == 2 and re.search(r"error: no CORE bundle: .* or put the file at .*/eval_bundle.zip yourself\n$", err) and err.count("\n") == 1
    assert not (tmp_path / "files" / "calls.txt").exists()
    shutil.make_archive(tmp_path / "files" / "eval_bundle", "zip", builtin_bundle(tmp_path / "made" / "eval_bundle", 4).parent)
    status, out, err = run(tmp_path, DONE, *command, script=patient)
    assert status == 0 and "CORE: its tasks are in" in out and (tmp_path / "files" / "calls.txt").read_text().split() == ["corpus", "tok_train", "base_eval"]
    assert "CORE: its tasks" not in run(tmp_path, DONE, *command, script=patient)[1]                    # finished: not asked again


LATE = """
import sys, nanochat_course.speedrun as s
s.ORDER, real = ["corpus", "tok_train"], s.command_line
s.command_line = lambda stage, flags, nproc=1: real(stage, flags) if stage == "corpus" else [sys.executable, {stage!r}]
s.PRESETS["late"] = dict(corpus=dict(source="climbmix", num_shards=6, first_shards=2))
from nanochat_course.common import run_main
run_main(s.speedrun, s.SpeedrunConfig, ["--preset", "late", *sys.argv[1:]])
"""
READER = """
import sys
from nanochat_course.common import CourseError, base_dir
from nanochat_course.corpus import documents, list_shards
with open(base_dir() / "read.txt", "w") as f:
    try:
        for text in documents(list_shards(base_dir() / "data" / "climbmix")): f.write(text.split(":")[0] + "\\n"); f.flush()
    except CourseError as e: print(f"error: {e}", file=sys.stderr); sys.exit(2)
"""


def test_text_arrives_while_the_stages_run(tmp_path, monkeypatch):
    "Two of six shards are waited for. The downloader is killed, and named; the same command goes on; nothing is left behind."
    import psutil
    from loopback import Shards
    (tmp_path / "made").mkdir()
    with Shards(tmp_path / "made") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        corpus, seen = tmp_path / "files" / "data" / "climbmix", tmp_path / "files" / "read.txt"
        hub.release(0, 1, 3, 6542)
        first = run(tmp_path, READER, wait=False, script=LATE)
        while not seen.exists() or seen.read_text().count("\n") < 120: time.sleep(.02); assert first.poll() is None
        while not (corpus / ".download").exists(): time.sleep(.02)
        downloader = [p for p in psutil.Process(first.pid).children() if "nanochat_course.corpus" in p.cmdline()]
        downloader[0].kill()
        os.utime(corpus / ".download", (0, 0))                                     # a minute passes
        out, err = first.communicate(timeout=100)
        assert first.returncode == 2 and "4 of 7 shards are downloaded meanwhile" in out
        assert "error: shard_00002.parquet of" in err and "nobody is downloading it" in err and "tok_train ended with status 2" in err
        hub.release(2, 5)
        second = run(tmp_path, READER, wait=False, script=LATE)
        while not seen.exists() or seen.read_text().count("\n") < 240: time.sleep(.02); assert second.poll() is None
        downloader = [p for p in psutil.Process(second.pid).children() if "nanochat_course.corpus" in p.cmdline()]
        os.killpg(second.pid, signal.SIGINT)                                       # Ctrl-C: the stage ends, and with it the download
        assert second.wait(100) == 130
        psutil.wait_procs(downloader, timeout=10)
        assert downloader and not any(p.is_running() for p in downloader)
        hub.release(4)
        status, out, err = run(tmp_path, READER, script=LATE)
        assert status == 0 and "[1/2] corpus: finished earlier" in out, err
        assert seen.read_text().split("\n")[:-1] == [f"shard {i}, document {k}" for i in range(6) for k in range(60)]
        assert read_json(corpus / "corpus.json")["documents"] == 420


def test_a_machine_is_prepared_with_all_of_its_text(tmp_path, monkeypatch):
    "`--until corpus` and `--until tok_train` wait for the last shard, and say why it does not come."
    from loopback import Shards
    script = LATE.replace("first_shards=2", "first_shards=5")
    (tmp_path / "made").mkdir()
    with Shards(tmp_path / "made") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.release(0, 1, 2, 3, 4, 6542)
        hub.gone.add("shard_00005.parquet")
        first = run(tmp_path, READER, "--until", "corpus", wait=False, script=script)
        while "waiting for the rest of the text" not in first.stdout.readline(): assert first.poll() is None
        hub.release(5)
        out, err = first.communicate(timeout=100)
        assert first.returncode == 2 and re.search(r"download of the text ended with status 2 \(.*HTTP 404.*\): the same command goes on", err) and err.count("\n") == 1
        hub.gone.clear()
        status, out, err = run(tmp_path, READER, "--until", "corpus", script=script)
        assert status == 0 and read_json(tmp_path / "files" / "data" / "climbmix" / "corpus.json")["documents"] == 420


COMES_BACK = """
import os, sys, torch, torch.distributed as dist
from dataclasses import dataclass
from pathlib import Path
from nanochat_course.common import run_main, runtime
@dataclass(frozen=True)
class Config: pass
def stage(config):
    "One rank dies after they have met."
    with runtime("cpu") as rt:
        total = torch.ones(1)
        dist.all_reduce(total)
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and rt.rank: os.kill(os.getpid(), 9)
        dist.all_reduce(total)
        Path(f"{sys.argv[0]}.{rt.rank}").write_text(str(total.item()))
run_main(stage, Config)
"""


def test_ranks_meet_again_after_a_restart(tmp_path):
    "torchrun keeps one store over its restarts unless it is told not to; the addresses of the dead are in it."
    script = tmp_path / "ranks.py"
    script.write_text(COMES_BACK)
    status, _ = S.run_stage([sys.executable, "-m", *S.torchrun("base_train", 3)[:-1], str(script)])
    assert status == 0 and [Path(f"{script}.{rank}").read_text() for rank in range(3)] == ["9.0"] * 3


def test_what_the_ranks_do_is_known_for_every_stage():
    "The stored look at eight ranks, which the chapter draws: every stage, every rank, letters that are explained."
    seen = read_json(Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "ranks.json")
    assert [stage["stage"] for stage in seen["stages"]] == S.ORDER
    for stage in seen["stages"]:
        assert len(stage["ranks"]) == (1 if stage["stage"] in S.SINGLE else 8) and len({len(line) for line in stage["ranks"]}) == 1
        assert set("".join(stage["ranks"])) <= {*seen["letters"], " "} and all(line.strip() for line in stage["ranks"])


def test_a_watched_rank_is_a_line_of_letters(tmp_path, monkeypatch):
    "Imports are left out; what was seen most often stands for a stretch of time; after a rank's end there is nothing."
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "benchmarks")
    import bench_ranks
    monkeypatch.setattr(bench_ranks, "BINS", 4)
    looks = {0: "i" * 20 + "m" * 10 + "w" * 5 + "o" * 5 + "s" * 20, 1: "i" * 20 + "m" * 18}
    for rank, letters in looks.items():
        (tmp_path / f"base_train.{rank}.log").write_text("".join(f"{100 + 0.05 * i:.3f} {c}\n" for i, c in enumerate(letters)))
    (tmp_path / "base_train.1.log").open("a").write("103.0")                      # cut off by a kill
    row = bench_ranks.stage_rows(tmp_path, "base_train")
    assert row["ranks"] == ["mwss", "mm  "] and row["starting"] == pytest.approx(0.85, abs=0.06) and row["seconds"] == pytest.approx(2.1, abs=0.06)
