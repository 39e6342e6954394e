"Pretraining as a stage: the real program at a tiny size."
import json, os, random, shutil, signal, subprocess, sys, time

import forked
import pytest
import torch

from nanochat_course.base_train import GENERAL, BaseTrainConfig, base_plan, build_model
from nanochat_course.checkpoint import load_checkpoint, load_model, latest_step
from nanochat_course.common import Runtime, read_json, read_log
from nanochat_course.corpus import make_corpus
from nanochat_course.evaluation import builtin_bundle, evaluate_core, sample_text
from nanochat_course.gpt import GPTConfig
from nanochat_course.tok_train import TokTrainConfig, tok_train

FLAGS = dict(depth=1, corpus="small", max_seq_len=64, device_batch_size=4, total_batch_size=256, num_iterations=24, eval_tokens=1024, eval_every=0, save_every=4,
             device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder with a small corpus and its tokenizer."
    path, old = tmp_path_factory.mktemp("base"), os.environ["NANOCHAT_COURSE_DIR"]
    os.environ["NANOCHAT_COURSE_DIR"] = str(path)
    words = "the cat sat on a mat while seven dogs ran to some other house and slept there".split()
    rng = random.Random(0)
    (path / "small.jsonl").write_text("\n".join(json.dumps({"text": " ".join(rng.choices(words, k=rng.randint(5, 60)))}) for _ in range(400)))
    make_corpus(path / "small.jsonl", num_shards=3)
    tok_train(TokTrainConfig(vocab_size=300, corpus="small", num_processes=1))
    yield path
    os.environ["NANOCHAT_COURSE_DIR"] = old


def command(flags): return [sys.executable, "-m", "nanochat_course.base_train"] + [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def launch(folder, flags=FLAGS, **kw):
    return forked.Popen(command(flags), env=dict(os.environ, NANOCHAT_COURSE_DIR=str(folder), OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


def final(folder): return load_checkpoint(folder / "base_checkpoints" / "d1").model_state


def test_killed_at_random_moments_it_ends_the_same(folder, tmp_path):
    "The same weights, bit for bit, from one run and from a run that was killed again and again, and asked questions between the kills."
    one, many = tmp_path / "one", tmp_path / "many"
    for d in (one, many): shutil.copytree(folder, d, ignore=shutil.ignore_patterns("*_checkpoints", "report"))
    flags, kills = {**FLAGS, "num_iterations": 60}, 0
    p = launch(one, flags)
    assert p.wait(timeout=240) == 0, p.stderr.read()
    builtin_bundle(many / "eval_bundle", 6)
    flags |= dict(sample_every=7, core_metric_every=20, core_metric_max_per_task=3)
    log = many / "report" / "base_train.jsonl"
    for steps in random.Random(time.time_ns()).sample(range(1, 50), 4):    # killed as soon as the log shows so many steps, or some more
        p, deadline = launch(many, flags), time.time() + 120
        while not (log.exists() and any(r["step"] >= steps for r in read_log(log) if "loss" in r)) and p.poll() is None and time.time() < deadline: time.sleep(0.002)
        kills += p.poll() is None
        p.send_signal(signal.SIGKILL)
        p.wait()
    p = launch(many, flags)
    assert p.wait(timeout=240) == 0, p.stderr.read()
    a, b = final(one), final(many)
    assert kills and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    logs = [[(r["step"], r["loss"]) for r in read_log(d / "report" / "base_train.jsonl") if "loss" in r] for d in (one, many)]
    assert logs[0] == logs[1] and [s for s, _ in logs[0]] == list(range(60))
    m = read_json(many / "report" / "base_train.json")["metrics"]
    assert m["val_bpb"] == read_json(one / "report" / "base_train.json")["metrics"]["val_bpb"] and logs[0][-1][1] < logs[0][0][1] - 0.5


@pytest.mark.parametrize("change,text", [
    (dict(total_batch_size=300), "not divisible"), (dict(corpus="nowhere"), "no corpus in"), (dict(depth=0), "depth 0"),
    (dict(window_pattern="XL"), "window pattern"), (dict(compile="perhaps"), "compile"), (dict(device="abacus"), "unknown device")])
def test_bad_input_is_one_line_and_leaves_files_alone(folder, change, text):
    files = lambda: sorted(p for p in folder.rglob("*") if "report" not in p.parts and not p.name.endswith(".lock"))
    before = files()
    p = launch(folder, {**FLAGS, **change})
    out, err = p.communicate(timeout=120)
    assert p.returncode == 2 and text in err and err.strip().count("\n") == 0, err
    assert files() == before


def test_checkpoint_of_another_architecture_is_refused(folder, tmp_path):
    d = tmp_path / "d"
    shutil.copytree(folder, d, ignore=shutil.ignore_patterns("*_checkpoints", "report"))
    assert launch(d, {**FLAGS, "num_iterations": 4, "model_tag": "x"}).wait(timeout=120) == 0
    p = launch(d, {**FLAGS, "num_iterations": 8, "model_tag": "x", "depth": 2})
    _, err = p.communicate(timeout=120)
    assert p.returncode == 2 and "n_layer" in err and err.strip().count("\n") == 0
    assert latest_step(d / "base_checkpoints" / "x") == 4


def test_truncated_checkpoint_falls_back_to_the_last_whole_one(folder, tmp_path):
    d = tmp_path / "d"
    shutil.copytree(folder, d, ignore=shutil.ignore_patterns("*_checkpoints", "report"))
    assert launch(d, {**FLAGS, "num_iterations": 8, "model_tag": "x"}).wait(timeout=120) == 0
    newest = d / "base_checkpoints" / "x" / "step_000008" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    (newest.parent.parent / "result.json").unlink()
    p = launch(d, {**FLAGS, "num_iterations": 8, "model_tag": "x"})
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0 and "step_000008" in out + err and "going on from step 4" in out + err, (out + err)[-2500:]


def test_without_a_tokenizer_it_says_what_to_run(tmp_path):
    p = launch(tmp_path)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 2 and "tok_train" in err and err.strip().count("\n") == 0


def test_the_laptop_plan_and_the_real_one():
    big = base_plan(BaseTrainConfig(depth=12, max_seq_len=2048), 32768, 8)
    assert (big.n_embd, big.n_head, big.total_batch_size) == (768, 6, 524288)
    model = build_model(GPTConfig(**base_plan(BaseTrainConfig(), 4096).model_config()), Runtime(torch.device("cpu"), torch.float32))
    assert model.config.n_embd == 256 and model.num_params()["total"] == 5242880


def test_two_processes_train_like_one(folder, tmp_path, monkeypatch):
    "torchrun with two gloo processes and the sharded optimizer runs the same module; losses start alike and fall."
    d = tmp_path / "d"
    shutil.copytree(folder, d, ignore=shutil.ignore_patterns("*_checkpoints", "report"))
    builtin_bundle(d / "eval_bundle", 8)
    flags = {**FLAGS, "num_iterations": 8, "device_batch_size": 2, "model_tag": "two", "sample_every": 4, "core_metric_every": 4, "core_metric_max_per_task": 7}
    words = command(flags)[2:]
    p = forked.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", *words],
                       env=dict(os.environ, NANOCHAT_COURSE_DIR=str(d), OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=240)
    assert p.returncode == 0, p.stderr[-3000:]
    losses = [r["loss"] for r in read_log(d / "report" / "base_train.jsonl") if "loss" in r]
    result = read_json(d / "report" / "base_train.json")
    assert result["world_size"] == 2 and result["tokens"] == 8 * 256 and losses[-1] < losses[0] and abs(losses[0] - torch.tensor(300.0).log()) < 0.1
    lines = read_log(d / "report" / "base_train.jsonl")
    assert [r["step"] for r in lines if "core" in r] == [r["step"] for r in lines if "samples" in r] == [4, 8]
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(d))
    model, tok, _ = load_model(d / "base_checkpoints" / "two", Runtime(torch.device("cpu"), torch.float32))
    alone = evaluate_core(model, tok, d / "eval_bundle", 7)["core_metric"]            # two ranks shared the questions; the mark is that of one
    assert result["metrics"]["core"] == pytest.approx(alone, abs=1e-6) and result["tables"]["CORE"].keys() == {"step 4", "step 8"}
    assert [r["samples"] for r in lines if "samples" in r][-1] == [sample_text(model, tok, q, 24) for q in GENERAL]


def test_a_finished_run_is_not_passed_off_as_one_with_other_settings(folder, tmp_path):
    d = tmp_path / "d"
    shutil.copytree(folder, d, ignore=shutil.ignore_patterns("*_checkpoints", "report"))
    flags = {**FLAGS, "num_iterations": 4, "model_tag": "x"}
    assert launch(d, flags).wait(timeout=120) == 0
    report = (d / "report" / "base_train.json").read_text()
    p = launch(d, {**flags, "matrix_lr": 0.1})
    _, err = p.communicate(timeout=120)
    assert p.returncode == 2 and "matrix_lr 0.02 there, 0.1 here" in err and "--model-tag" in err and err.strip().count("\n") == 0
    assert (d / "report" / "base_train.json").read_text() == report


def test_the_record_in_two_processes_leaves_a_checkpoint_that_answers(folder, tmp_path, monkeypatch):
    "The preset's own flags, the sharded optimizer, a file that keeps every field, and an engine that continues as the model does."
    from nanochat_course.engine import Engine
    from nanochat_course.recipe import RECORD
    from nanochat_course.speedrun import command_line
    d = tmp_path / "d"
    shutil.copytree(folder, d, ignore=shutil.ignore_patterns("*_checkpoints", "report"))
    flags = dict(RECORD, **FLAGS) | dict(depth=3, num_iterations=8, device_batch_size=2, model_tag="record", warmup_steps=2)
    p = forked.run(command_line("base_train", flags, 2), env=dict(os.environ, NANOCHAT_COURSE_DIR=str(d), OMP_NUM_THREADS="1"),
                       capture_output=True, text=True, timeout=240)
    assert p.returncode == 0, p.stderr[-3000:]
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(d))
    model, tok, meta = load_model(d / "base_checkpoints" / "record", Runtime(torch.device("cpu"), torch.float32))
    names = {f: getattr(model.config, f) for f in ("value_embeds", "residual_scalars", "smear", "backout", "qk_scale", "rotary_base", "short_window", "c_fc_init")}
    assert names == {f: RECORD[f] for f in names} and model.smear_lambda.item() != 0
    losses = [r["loss"] for r in read_log(d / "report" / "base_train.jsonl") if "loss" in r]
    assert losses[-1] < losses[0] and abs(losses[0] - torch.tensor(300.0).log()) < 0.1
    ids = tok.encode("the cat", prepend=tok.bos)
    got = Engine(model, tok).generate_batch(ids, temperature=0, max_tokens=12, stop=())[0].tokens
    want = list(ids)
    with torch.no_grad():
        for _ in range(12): want.append(model(torch.tensor([want]))[0, -1].argmax().item())
    assert got == want[len(ids):]


def test_ranks_wait_longer_while_text_is_arriving(tmp_path):
    "The download's sign of life is what the loader looks at, too."
    from nanochat_course import corpus
    from nanochat_course.base_train import patience
    assert patience(tmp_path) == 10
    (tmp_path / corpus.HEARTBEAT).touch()
    assert patience(tmp_path) == 60
    os.utime(tmp_path / corpus.HEARTBEAT, (time.time() - 2 * corpus.PATIENCE,) * 2)
    assert patience(tmp_path) == 10
