"The stage: a small checkpoint, judged; bad input in one line."
import json, os, random, shutil, sys
from types import SimpleNamespace
import forked, pytest, torch
from nanochat_course.base_eval import BaseEvalConfig, Recorder, base_eval, core_tasks
from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
from nanochat_course.common import CourseError, Runtime, load_result
from nanochat_course.corpus import make_corpus
from nanochat_course.dataloader import DataLoader
from nanochat_course.evaluation import builtin_bundle, builtin_tasks, evaluate_bpb, xz_bpb
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tokenizer import train_bpe

RT = Runtime(torch.device("cpu"), torch.float32)
QUICK = dict(corpus="words", device="cpu", dtype="float32", split_tokens=2048, max_per_task=4, max_tokens=3)


@pytest.fixture
def world(tmp_path, monkeypatch):
    "A corpus, a tokenizer and two untrained checkpoints, d10 and then d2."
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "base"))
    texts = [f"Return the value number {i} of the list. The cat sat on the mat, {i * 7} times." for i in range(200)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(dict(text=t)) + "\n" for t in texts))
    make_corpus(tmp_path / "t.jsonl", tmp_path / "base" / "data" / "words", num_shards=2)
    tok = train_bpe(texts + [json.dumps(builtin_tasks(4))], 320)
    tok.save(tmp_path / "base" / "tokenizer")
    torch.manual_seed(0)
    config = dict(sequence_len=64, vocab_size=tok.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)
    model = GPT(GPTConfig(**config)).init_weights()
    for i, tag in enumerate(("d10", "d2")):
        save_checkpoint(checkpoint_dir("base", tag), 1, model, meta=dict(model_config=config, step=1), rt=RT)
        os.utime(checkpoint_dir("base", tag), (1000 + i, 1000 + i))
    return SimpleNamespace(path=tmp_path / "base", tok=tok, model=model)


def test_verdict(world):
    metrics = base_eval(BaseEvalConfig(**QUICK))
    result = load_result("base_eval")
    assert metrics["model_tag"] == "d2" and result["metrics"] == metrics                        # the one trained last, not the deepest
    assert 0 < metrics["val_bpb"] < 20 and set(result["tables"]["reference"]) == {"unigram bytes", "unigram tokens", "xz -9e"}
    assert "mini_core" in metrics and "core" not in metrics                                      # the built-in tasks never pass for CORE
    assert len(result["samples"]) == 10 and all(s["text"].startswith(s["prompt"]) for s in result["samples"])
    loader = DataLoader(world.tok, world.path / "data" / "words", "val", 8, 64, RT, epochs=1)
    assert metrics["val_bpb"] == pytest.approx(evaluate_bpb(world.model, loader, 4, world.tok.token_bytes(), RT), rel=1e-4)


def test_reference_lines_are_drawn_on_the_same_bytes(world):
    loader = lambda: DataLoader(world.tok, world.path / "data" / "words", "val", 8, 64, RT, epochs=1)
    seen = Recorder(loader(), 10**6)
    evaluate_bpb(world.model, seen, 3, world.tok.token_bytes(), RT)
    targets = [y for (_, y, *_), _ in zip(loader(), range(3))]
    ids = [i for y in targets for i in y.flatten().tolist() if i >= 0 and world.tok.token_bytes()[i] > 0]
    base_eval(BaseEvalConfig(eval="bpb", **{**QUICK, "split_tokens": 3 * 8 * 64}))
    assert [i for i in seen.ids if world.tok.token_bytes()[i] > 0] == ids
    assert load_result("base_eval")["tables"]["reference"]["xz -9e"] == pytest.approx(xz_bpb(world.tok.decode_bytes(ids)))


def test_a_bundle_in_its_place_is_used_and_named_core(world):
    builtin_bundle(world.path / "eval_bundle", 4)
    assert "core" in base_eval(BaseEvalConfig(eval="core", **QUICK))
    shutil.rmtree(world.path / "eval_bundle")
    with pytest.raises(CourseError, match="no CORE bundle"): base_eval(BaseEvalConfig(eval="core", core_bundle=str(world.path / "none"), **QUICK))


def test_core_is_required_or_left_alone(world, monkeypatch):
    "Without the flag nobody is asked for the bundle; with it there is no falling back."
    monkeypatch.setenv("NANOCHAT_COURSE_CORE_URL", "http://127.0.0.1:9/eval_bundle.zip")
    assert "mini_core" in base_eval(BaseEvalConfig(eval="core", **QUICK))
    with pytest.raises(CourseError, match="no CORE bundle: .*put the file at .*eval_bundle.zip yourself"): core_tasks(BaseEvalConfig(require_core=True), attempts=1)
    shutil.make_archive(world.path / "eval_bundle", "zip", builtin_bundle(world.path / "made" / "eval_bundle", 4).parent)
    for config in (dict(require_core=True), {}, dict(core_bundle=str(world.path / "eval_bundle.zip"))):
        assert "core" in base_eval(BaseEvalConfig(eval="core", **QUICK, **config))
        shutil.rmtree(world.path / "eval_bundle")                                              # made again from the archive


def test_parts(world):
    assert base_eval(BaseEvalConfig(eval="sample", model_tag="d10", **QUICK))["model_tag"] == "d10"
    assert set(base_eval(BaseEvalConfig(eval="sample", **QUICK))) == {"model_tag", "step"}
    assert "val_bpb" in base_eval(BaseEvalConfig(eval="bpb,sample", model_tag="d2", **QUICK))


def test_bad_input(world, monkeypatch, tmp_path):
    for kwargs, text in ((dict(eval="essay"), "cannot evaluate essay"), (dict(model_tag="d99"), "no base checkpoint of model 'd99', there is d10, d2"), (dict(step=77), "does not exist"), (dict(corpus="nowhere"), "no corpus")):
        with pytest.raises(CourseError, match=text): base_eval(BaseEvalConfig(**{**QUICK, **kwargs}))
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "empty"))
    with pytest.raises(CourseError, match="run python -m nanochat_course.base_train first"): base_eval(BaseEvalConfig(**QUICK))


def test_command_line(world):
    run = lambda *a: forked.run([sys.executable, "-m", "nanochat_course.base_eval", "--device", "cpu", "--dtype", "float32", *a], capture_output=True, text=True, timeout=300,
                                    env=dict(os.environ, OMP_NUM_THREADS="1"))
    bad = run("--model-tag", "d99")
    assert bad.returncode == 2 and bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1
    good = run("--corpus", "words", "--split-tokens", "1024", "--eval", "bpb")
    assert good.returncode == 0, good.stderr
    assert "bits per byte" in good.stdout + good.stderr


# the judge of a known truth

def by_hand(model, tokenizer, label, t):
    "Accuracy on a task as the definitions say, one row at a time, with another tokenizer and nothing of ours but the prompts."
    from nanochat_course.evaluation import few_shot, render_item
    right, n = 0, model.config.n_positions
    items = t["items"]
    random.Random(1337).shuffle(items)
    def tokens(text): return [50256, *tokenizer(text)["input_ids"]]
    def log_p(ids): return torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].double(), -1)[range(len(ids) - 1), ids[1:]]
    for i, item in enumerate(items):
        rows = [tokens(text) for text in render_item(item, t["kind"], few_shot(items, i, t["num_fewshot"]), t["delimiter"])]
        if t["kind"] == "language_modeling":
            prompt, whole = rows
            answer = len(whole) - len(prompt)
            assert whole[:len(prompt)] == prompt
            whole = whole[-n:]
            best = model(torch.tensor([whole])).logits[0, :-1].argmax(-1)
            right += best[-answer:].tolist() == whole[-answer:]
            continue
        if t["kind"] == "multiple_choice": shared = len(os.path.commonprefix(rows)); sizes = [len(r) - shared for r in rows]
        else: sizes = [len(os.path.commonprefix([r[::-1] for r in rows]))] * len(rows)
        losses = [-log_p(r[-n:])[-size:].mean().item() for r, size in zip(rows, sizes)]
        right += losses.index(min(losses)) == item["gold"]
    return right / len(items)


@pytest.mark.parametrize("positions", [1024, 48])
def test_gpt2_is_judged_as_an_independent_computation_does(tmp_path, monkeypatch, test_data, capsys, positions):
    "A random GPT-2 with the published vocabulary; with 48 positions, long prompts lose their beginning."
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "base"))
    torch.manual_seed(1)
    config = transformers.GPT2Config(n_positions=positions, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    for theirs, ours in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")): shutil.copy(test_data / "gpt2_tokenizer" / theirs, tmp_path / "gpt2" / ours)
    tokenizer = transformers.GPT2Tokenizer(str(tmp_path / "gpt2" / "vocab.json"), str(tmp_path / "gpt2" / "merges.txt"))
    folder = builtin_bundle(tmp_path / "tasks", 12)
    metrics = base_eval(BaseEvalConfig(gpt2=str(tmp_path / "gpt2"), core_bundle=str(folder), device="cpu", dtype="bfloat16", max_per_task=12))
    with torch.inference_mode(): want = {label: by_hand(model, tokenizer, label, t) for label, t in builtin_tasks(12).items()}
    said = capsys.readouterr().out
    assert " | ".join(f"{label} {v:.3f}" for label, v in want.items()) in said, (said, want)
    assert set(metrics) == {"core"} and not (tmp_path / "base" / "report").exists()          # a judgement of our own model stays


def test_gpt2_that_is_none(tmp_path):
    with pytest.raises(CourseError, match="holds no model.safetensors"): base_eval(BaseEvalConfig(gpt2=str(tmp_path), device="cpu"))
