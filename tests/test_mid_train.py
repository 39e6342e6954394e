"Midtraining as a stage: it learns, it goes on exactly where it was killed, and it says what is missing."
import json, os, random, shutil, signal, sys, time
from dataclasses import replace
from pathlib import Path
import forked, pytest, torch
from nanochat_course import checkpoint
from nanochat_course.chat_cli import find_model
from nanochat_course.checkpoint import all_steps, checkpoint_dir, latest_step, load_checkpoint, save_checkpoint
from nanochat_course.common import CourseError, Runtime, base_dir, load_result, read_log
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.mid_train import (MidTrainConfig, chat_plan, chat_tasks, find_tag, held_out_loss, mid_train, pretraining, stage_start, training_mixture)
from nanochat_course.optim import MuonAdamW, param_groups
from nanochat_course.tasks import ConversationLoader, IdentityTask
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import Loop

CPU = Runtime(torch.device("cpu"), torch.float32)
SMALL = MidTrainConfig(device="cpu", dtype="float32", total_batch_size=512, device_batch_size=4, mixture="identity:0.6",
                       documents=0, save_every=4, eval_items=16)


@pytest.fixture
def base(tmp_path, monkeypatch):
    "A base model of no merit, as `base_train` would leave it."
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    make_base()
    return tmp_path


def make_base(tag="tiny", seed=0):
    from pydoc_data.topics import topics
    if not (base_dir() / "tokenizer").exists(): train_bpe(list(topics.values())[:30], 600).save(base_dir() / "tokenizer")
    torch.manual_seed(seed)
    model = GPT(GPTConfig(sequence_len=128, vocab_size=600, n_layer=2, n_head=2, n_kv_head=2, n_embd=64))
    model.init_weights()
    optimizer = MuonAdamW(param_groups(model))
    x = torch.randint(0, 600, (2, 32))
    model(x, x).backward()
    optimizer.step()
    save_checkpoint(checkpoint_dir("base", tag), 7, model, optimizer, meta={}, rt=CPU)
    return model


def weights(stage, tag="tiny"):
    c = load_checkpoint(checkpoint_dir(stage, tag))
    return {**c.model_state, **{f"optimizer/{k}": v for k, v in c.optimizer_state.items()}}


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_and_leaves_what_the_next_stage_needs(base):
    r = mid_train(SMALL)
    m = r["metrics"]
    assert m["assistant_loss"] < m["before"]["assistant_loss"] - 1 and m["identity"] == m["assistant_loss"]
    assert m["num_iterations"] == latest_step(checkpoint_dir("mid", "tiny")) and r["tag"] == "tiny"
    saved = load_result("mid_train")
    assert saved["metrics"] == m and len(saved["samples"]) >= 6 and all(set(s) == {"prompt", "text"} for s in saved["samples"])
    assert [l["step"] for l in read_log(saved["log"]) if "loss" in l] == list(range(m["num_iterations"]))
    assert load_checkpoint(checkpoint_dir("mid", "tiny")).meta["origin"]["step"] == 7


def kill_at(step, monkeypatch):
    one_step = Loop.one_step
    def dying(self, stop):
        if self.state.step == step: raise RuntimeError("killed")
        return one_step(self, stop)
    monkeypatch.setattr(Loop, "one_step", dying)


@pytest.mark.parametrize("steps", [range(1, 7), range(7, 13)], ids=["early", "late"])
def test_killed_and_started_again_it_ends_the_same(base, monkeypatch, steps):
    step = random.Random(time.time_ns()).choice(steps)
    straight = mid_train(SMALL)
    want = weights("mid")
    shutil.rmtree(checkpoint_dir("mid", "tiny"))
    with monkeypatch.context() as m:
        kill_at(step, m)
        with pytest.raises(RuntimeError, match="killed"): mid_train(SMALL)
    again = mid_train(SMALL)
    assert same(weights("mid"), want), f"killed at step {step}: other weights"
    for k in ("assistant_loss", "train_loss", "tokens", "before"): assert again["metrics"][k] == straight["metrics"][k], k
    assert again["samples"] == straight["samples"]
    log = read_log(base_dir() / "report" / "mid_train.jsonl")
    assert [l["step"] for l in log if "loss" in l] == list(range(straight["metrics"]["num_iterations"]))


def test_killed_from_outside(base):
    want = (mid_train(SMALL), weights("mid"))
    shutil.rmtree(checkpoint_dir("mid", "tiny"))
    flags = "--device cpu --dtype float32 --total-batch-size 512 --device-batch-size 4 --mixture identity:0.6 --documents 0 --save-every 4 --eval-items 16"
    process = forked.Popen([sys.executable, "-m", "nanochat_course.mid_train", *flags.split()], env=dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads())))
    deadline = time.time() + 300
    while not all_steps(checkpoint_dir("mid", "tiny")) and time.time() < deadline and process.poll() is None: time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    mid_train(SMALL)
    got = weights("mid")
    assert got.keys() == want[1].keys() and all(torch.allclose(got[k].float(), v.float(), rtol=1e-3, atol=1e-4) for k, v in want[1].items() if not k.startswith("optimizer/"))


def test_a_finished_stage_is_not_done_again(base, monkeypatch):
    first = mid_train(SMALL)
    monkeypatch.setattr(Loop, "one_step", lambda *a: pytest.fail("it trained again"))
    assert mid_train(SMALL)["metrics"]["assistant_loss"] == first["metrics"]["assistant_loss"]


def test_another_base_model_means_a_new_start(base, capsys):
    mid_train(SMALL)
    before = weights("mid")
    shutil.rmtree(checkpoint_dir("base", "tiny"))
    make_base(seed=1)
    mid_train(SMALL)
    assert "starting again" in capsys.readouterr().out and not same(weights("mid"), before)


def test_warm_start_changes_the_run(base):
    mid_train(SMALL)
    warm = weights("mid")
    mid_train(replace(SMALL, load_optimizer=False))
    assert not same(warm, weights("mid"))


def test_every_file_of_the_checkpoint_is_hashed_once(base, monkeypatch):
    "The weights of a large model are many gigabytes. Damage is still found, in the optimizer's state too if it is wanted."
    hashed, sha256 = [], checkpoint.sha256
    monkeypatch.setattr(checkpoint, "sha256", lambda path: hashed.append(Path(path).name) or sha256(path))
    stage_start(SMALL, "base", CPU)
    assert hashed.count("model.safetensors") == 1 and hashed.count("optimizer.safetensors") == 1, hashed
    hashed.clear()
    stage_start(replace(SMALL, load_optimizer=False), "base", CPU)
    assert hashed.count("model.safetensors") == 1 and "optimizer.safetensors" not in hashed, hashed
    for name in ("optimizer.safetensors", "model.safetensors"):
        path = next(checkpoint_dir("base", "tiny").glob(f"*/{name}"))
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CourseError, match=f"{name} is damaged"): stage_start(SMALL, "base", CPU)
        if name.startswith("optimizer"): stage_start(replace(SMALL, load_optimizer=False), "base", CPU)
        path.write_bytes(whole)


def test_missing_stages_and_models(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    with pytest.raises(CourseError, match="run python -m nanochat_course.base_train first"): mid_train(SMALL)
    with pytest.raises(CourseError, match="run python -m nanochat_course.chat_sft first"): find_tag("chatsft")
    make_base("d2")
    with pytest.raises(CourseError, match="no base checkpoint of model 'd9', there is d2"): mid_train(replace(SMALL, model_tag="d9"))
    os.utime(checkpoint_dir("base", "d2"), (1, 1))
    make_base("d3")
    assert find_tag("base") == "d3" and find_tag("base", "d2") == "d2"
    with pytest.raises(CourseError, match="step_000099"): mid_train(replace(SMALL, model_step=99))
    with pytest.raises(CourseError, match="no corpus in"): mid_train(replace(SMALL, documents=3))
    with pytest.raises(CourseError, match="gsm8k does not exist"): mid_train(replace(SMALL, mixture="gsm8k:1", task_data=str(tmp_path)))
    with pytest.raises(CourseError, match="divisible"): mid_train(replace(SMALL, total_batch_size=500))


def test_exactly_one_epoch(base):
    from nanochat_course.tokenizer import Tokenizer
    tok = Tokenizer.load(base_dir() / "tokenizer")
    loader = ConversationLoader(tok, training_mixture(SMALL), 1, 128, CPU, supervise="all")
    p = chat_plan(SMALL, GPTConfig(sequence_len=128, vocab_size=600, n_layer=2, n_head=2, n_kv_head=2, n_embd=64), loader, CPU)
    assert p.total_batch_size == 512 and p.num_iterations == -(-len(loader.rows) // 4) == len(list(loader()))
    assert sum(int((y >= 0).any(1).sum()) for _, y, _ in loader()) == len(loader.rows)
    shorter = chat_plan(replace(SMALL, num_iterations=3, init_lr_frac=0.5), GPTConfig(sequence_len=128, vocab_size=600, n_layer=2, n_head=2, n_kv_head=2, n_embd=64), loader, CPU)
    assert shorter.num_iterations == 3 and shorter.matrix_lr == p.matrix_lr / 2
    parts = dict(value_embeds=True, residual_scalars=True, smear=True, backout=True)
    shape = GPTConfig(sequence_len=128, vocab_size=600, n_layer=2, n_head=2, n_kv_head=2, n_embd=64, **parts)
    model, p = GPT(shape), chat_plan(SMALL, shape, loader, CPU)
    assert p.flops_per_token == model.flops_per_token() and p.params["total"] == model.num_params()["total"], "the plan knows the recipe's parts"


def test_held_out_loss_counts_each_supervised_token_once(base):
    from nanochat_course.tokenizer import Tokenizer
    tok, model = Tokenizer.load(base_dir() / "tokenizer"), make_base("other")
    task = IdentityTask("test")
    got = held_out_loss(model.eval(), tok, [task], len(task), 64, CPU)
    nats, n = 0., 0
    for row, targets in ConversationLoader(tok, task, 1, 64, CPU).rows:
        with torch.no_grad(): loss = torch.nn.functional.cross_entropy(model(row[None].long())[0], targets.long(), ignore_index=-1, reduction="sum")
        nats, n = nats + loss.item(), n + int((targets >= 0).sum())
    assert got["assistant_loss"] == pytest.approx(nats / n, rel=1e-4) and got["identity"] == got["assistant_loss"]


SHAPE = GPTConfig(sequence_len=128, vocab_size=600, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_a_step_is_the_same_on_any_number_of_ranks(base, ranks):
    "Batch, steps and rates follow from the mixture; the ranks only share the rows of a step."
    from nanochat_course.tokenizer import Tokenizer
    tok, rt = Tokenizer.load(base_dir() / "tokenizer"), replace(CPU, world_size=ranks)
    for config in (SMALL, replace(SMALL, device_batch_size=1), replace(SMALL, device_batch_size=-1), replace(SMALL, device_batch_size=-1, total_batch_size=-1)):
        one = ConversationLoader(tok, training_mixture(config), 1, 128, CPU)
        want = chat_plan(config, SHAPE, one, CPU)
        loader = ConversationLoader(tok, training_mixture(config), 1, 128, rt)
        got = chat_plan(config, SHAPE, loader, rt)
        for k in ("num_iterations", "total_batch_size", "matrix_lr", "embedding_lr"): assert getattr(got, k) == getattr(want, k), k
        assert got.grad_accum_steps == loader.grad_accum_steps and loader.step_rows * 128 == got.total_batch_size
        assert loader.batch_size * loader.grad_accum_steps * ranks >= loader.step_rows > (loader.batch_size - 1) * loader.grad_accum_steps * ranks


def test_rates_are_those_of_pretraining(base):
    "A tuned rate is handed on, and a large model's rates are not raised because its fine-tuning is short; what is given on the command line counts."
    from nanochat_course.tokenizer import Tokenizer
    loader = ConversationLoader(Tokenizer.load(base_dir() / "tokenizer"), training_mixture(SMALL), 1, 128, CPU)
    def rates(before, **flags): return chat_plan(replace(SMALL, **flags), SHAPE, loader, CPU, before)
    small, large = pretraining(dict(config=dict(matrix_lr=0.03), loop=dict(tokens=2_000_000))), pretraining(dict(config=dict(matrix_lr=0.03), loop=dict(tokens=3e9)))
    assert rates(None).matrix_lr == 0.02 and rates(small).matrix_lr == 0.03 and rates(small, matrix_lr=0.01).matrix_lr == 0.01
    assert rates(large).matrix_lr == pytest.approx(0.03 * (512 / 2**19)**0.5)
    assert rates(large).embedding_lr == pytest.approx(rates(small).embedding_lr * (512 / 2**19)**0.5)
    assert rates(pretraining(dict(config=dict(lr_scale=0.5)))).matrix_lr == 0.01
    assert pretraining(dict(config=dict(matrix_lr=-1.), pretraining=large)) == large                       # SFT looks through midtraining


def test_the_batch_is_that_of_pretraining(base):
    "A real pretraining hands its batch on, as long as 300 steps come of it; a small one and the command line do not."
    from types import SimpleNamespace
    rows = SimpleNamespace(rows=range(300_000), seq_len=2048, resize=lambda *a: None, num_iterations=7, batch_size=1)
    shape, config = GPTConfig(sequence_len=2048, vocab_size=32768, n_layer=12, n_head=6, n_kv_head=6, n_embd=768), MidTrainConfig()
    def tokens(before, rows=rows, **flags): return chat_plan(replace(config, **flags), shape, rows, CPU, before).total_batch_size
    large = pretraining(dict(config={}, loop=dict(tokens=5_000 * 2**20, step=5_000)))
    assert large["batch"] == 2**20 and tokens(large) == 2**20 and tokens(large, total_batch_size=2**16) == 2**16
    few = SimpleNamespace(**vars(rows) | dict(rows=range(3_000)))
    assert tokens(large, few) == 2**14 and 300 <= 3_000 * 2048 / 2**14 < 600
    small = pretraining(dict(config={}, loop=dict(tokens=20_000, step=10)))
    assert tokens(small, few) == tokens(None, few) == tokens(pretraining(dict(pretraining={k: v for k, v in small.items() if k != "batch"})), few)
    older = {k: v for k, v in large.items() if k != "batch"}                       # of a checkpoint from before the batch was kept
    assert tokens(older) == 2**19
    plan = chat_plan(config, shape, rows, CPU, large)
    assert "as in pretraining" in plan.why["total_batch_size"] and plan.matrix_lr == pytest.approx(0.02 * 2**.5)


@pytest.mark.parametrize("depth,gigabytes,rows", [(12, 24, 16), (24, 80, 16), (24, 140, 32), (24, 24, 2), (12, 80, 32)])
def test_rows_that_fit(depth, gigabytes, rows):
    "By the formula, with a fifth of the card left; on a CPU 4,096 tokens; what is given is taken."
    from nanochat_course.mid_train import rows_at_once
    from nanochat_course.scaling import plan
    p = plan(depth, world_size=8)
    assert rows_at_once(MidTrainConfig(), p, CPU, memory=gigabytes * 10**9) == rows
    assert rows_at_once(MidTrainConfig(), p, CPU) == 2 and rows_at_once(MidTrainConfig(device_batch_size=5), p, CPU, memory=1) == 5


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_finished_stage_on_another_number_of_ranks(base, ranks):
    "Its steps are the same, however many batches make one: it is finished there, too, and not refused."
    from nanochat_course.tokenizer import Tokenizer
    from nanochat_course.train import LoopConfig, finished, run_settings
    mid_train(replace(SMALL, num_iterations=2))
    directory = checkpoint_dir("mid", "tiny")
    meta = load_checkpoint(directory).meta["run"]
    loader = ConversationLoader(Tokenizer.load(base_dir() / "tokenizer"), training_mixture(SMALL), 1, 128, replace(CPU, world_size=ranks), supervise="all")
    p = chat_plan(replace(SMALL, num_iterations=2), SHAPE, loader, replace(CPU, world_size=ranks))
    loop = LoopConfig(p.num_iterations, loader.grad_accum_steps)
    settings = run_settings(loop, {k: v for k, v in meta.items() if k != "loop"}, ranks)
    assert loader.grad_accum_steps * ranks != 1 and finished(directory, settings)
    assert not finished(directory, settings | dict(data=dict(settings["data"], batch=1024)))


CHATS = [[dict(role="user", content=f"Who sat on mat {i}?"), dict(role="assistant", content=f"The cat of mat {i}."),
          dict(role="user", content="And then?"), dict(role="assistant", content="It slept. " * (20 if i % 10 == 0 else 1))] for i in range(120)]


def test_own_conversations(base, capsys):
    "A file is taught and judged by its held-out part; what was cut is said, with the length that would do; another file is another run."
    (base / "mine.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    config = replace(SMALL, mixture="", conversations=str(base / "mine.jsonl"), conversations_epochs=2, num_iterations=3, max_seq_len=64)
    train, test = (chat_tasks(config, split)[0][0] for split in ("train", "test"))
    assert len(train) + len(test) == 120 and 1 <= len(test) <= 15 and len(training_mixture(config)) == 2 * len(train)
    m = mid_train(config)["metrics"]
    assert set(m["before"]) == {"assistant_loss", "file"} and m["assistant_loss"] < m["before"]["assistant_loss"]
    out = capsys.readouterr().out
    cut = 2 * sum(len(c["messages"][3]["content"]) > 100 for c in train)
    assert f"{cut} of {2 * len(train)} cut" in out and "--max-seq-len 128" in out and "--source mid --model-tag tiny" in out and m["cut"] == cut
    assert find_model() == ("mid", checkpoint_dir("mid", "tiny"))
    (base / "mine.jsonl").write_text(json.dumps(CHATS[0]))
    assert mid_train(config)["metrics"]["before"] == {}                                                     # a single conversation: nothing is held out
    assert "began otherwise" in capsys.readouterr().out
    with pytest.raises(CourseError, match="reads 128 tokens"): mid_train(replace(config, max_seq_len=256))
    with pytest.raises(CourseError, match="nothing to learn"): mid_train(replace(config, conversations=""))
    (base / "mine.jsonl").write_text(json.dumps(CHATS[0]) + "\n[]")
    with pytest.raises(CourseError, match="mine.jsonl line 2: "): mid_train(config)


def test_documents_may_begin_further_on(tmp_path, monkeypatch):
    "Documents of a mixture are those from `documents_from` on; a corpus that ends before is named."
    from nanochat_course import mid_train as module
    texts = [f"document {i}" for i in range(10)]
    monkeypatch.setattr(module, "list_shards", lambda *a: texts)
    monkeypatch.setattr(module, "documents", iter)
    found = lambda **kw: sorted(c["text"] for c in module.training_mixture(module.MidTrainConfig(mixture="identity:0.01", **kw)) if "text" in c)
    assert found(documents=3, documents_from=4) == texts[4:7] and found(documents=5) == texts[:5] and found(documents=0) == []
    with pytest.raises(CourseError, match="no document number 10"): found(documents=1, documents_from=10)
