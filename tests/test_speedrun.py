"One command: presets, ledger, interruption, failure."
import os, signal, subprocess, sys

import pytest

from nanochat_course import speedrun as S
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
    assert eight[1:] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=8", "-m", "nanochat_course.base_train", "--depth", "24", "--no-fp8"]


def test_ledger_knows_what_is_out_of_date():
    preset = S.PRESETS["tiny"]
    rows = S.plan_stages(preset, {})
    assert not any(r["finished"] for r in rows)
    ledger = {r["stage"]: dict(fingerprint=r["fingerprint"], seconds=1) for r in rows}
    assert all(r["finished"] for r in S.plan_stages(preset, ledger))
    for i, stage in enumerate(S.ORDER):
        flags = dict(preset.get(stage, {}), **({"seed": 7} if stage != "base_eval" and stage != "tok_train" else {"max_tokens": 3} if stage == "base_eval" else {"vocab_size": 999}))
        done = [r["finished"] for r in S.plan_stages({**preset, stage: flags}, ledger)]
        assert done == [True] * i + [False] * (len(S.ORDER) - i), stage


SCRIPT = """
import sys, nanochat_course.speedrun as s
s.ORDER = ["corpus", "tok_train"]
s.command_line = lambda stage, flags, nproc: [sys.executable, {stage!r}, stage]
from nanochat_course.common import run_main
run_main(s.speedrun, s.SpeedrunConfig, ["--preset", "tiny", *sys.argv[1:]])
"""


def run(tmp_path, stage_code, *args, wait=True):
    "The real driver, with a stand-in for the stages' programs."
    (tmp_path / "stage.py").write_text(stage_code)
    (tmp_path / "run.py").write_text(SCRIPT.format(stage=str(tmp_path / "stage.py")))
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path / "files"))
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)          # a background job starts with Ctrl-C ignored, and its children too
    p = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), *args], env=env, preexec_fn=listen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    if not wait: return p
    out, err = p.communicate(timeout=120)
    return p.returncode, out, err


DONE = """
import sys, json, os, pathlib
d = pathlib.Path(os.environ["NANOCHAT_COURSE_DIR"]); (d / "report").mkdir(parents=True, exist_ok=True)
with open(d / "calls.txt", "a") as f: f.write(sys.argv[1] + "\\n")
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
    assert p.wait(timeout=30) == 130 and (tmp_path / "files" / "saved.txt").exists()
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


def test_outdated_work_is_kept_aside(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    (tmp_path / "base_checkpoints" / "tiny" / "step_000001").mkdir(parents=True)
    (tmp_path / "report").mkdir()
    write_json(tmp_path / "report" / "base_train.json", {})
    moved = S.set_aside("base_train", "tiny")
    assert len(moved) == 2 and all(m.exists() for m in moved) and not (tmp_path / "base_checkpoints" / "tiny").exists()
    assert S.set_aside("base_train", "tiny") == []


@pytest.mark.parametrize("args,text", [(["--preset", "huge"], "unknown preset"), (["--until", "lunch"], "unknown stage")])
def test_bad_input_is_one_line(args, text, tmp_path):
    env = dict(os.environ, NANOCHAT_COURSE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "nanochat_course.speedrun", *args], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name,ranks,gigabytes", [("gpu", 1, 24), ("8xh100", 8, 80)])
def test_presets_fit_their_machine_by_the_formula(name, ranks, gigabytes):
    "Each training stage's rows in one pass leave a tenth of the card for what the formula leaves out."
    from dataclasses import replace
    from nanochat_course.base_train import base_plan
    from nanochat_course.scaling import memory_per_rank
    preset = S.PRESETS[name]
    plan = base_plan(S.stage_config("base_train", preset["base_train"]), preset["tok_train"]["vocab_size"], ranks)
    for stage in ("base_train", "mid_train", "chat_sft"):
        rows = preset[stage].get("device_batch_size", 65536 // plan.sequence_len)          # the default of the stages on a GPU
        assert memory_per_rank(replace(plan, device_batch_size=rows))["total"] < .9 * gigabytes * 1e9, stage


def test_stages_wait_without_spinning_unless_told_otherwise(monkeypatch, tmp_path):
    def policy():
        code = f"import os; open({str(tmp_path / 'said')!r}, 'w').write(os.environ['OMP_WAIT_POLICY'])"
        assert S.run_stage([sys.executable, "-c", code]) == 0
        return (tmp_path / "said").read_text()
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert policy() == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert policy() == "ACTIVE"
