"The tokenizer stage: what it reads, when it stops, what it leaves behind."
import hashlib, json, os, sys
import forked
import pyarrow as pa, pyarrow.parquet as pq
import pytest
from nanochat_course.common import CourseError, load_result
from nanochat_course.tok_train import TokTrainConfig, compression, take_chars, tok_train
from nanochat_course.tokenizer import Tokenizer, train_bpe


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    return tmp_path


def write_corpus(base, shards, name="demo"):
    folder = base / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    for i, texts in enumerate(shards): pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), folder / f"shard_{i:05d}.parquet", row_group_size=2)
    return folder


TRAIN = [[f"The cat number {i} sat on the mat, and the dog {i * 7} did not." for i in range(30)], ["def f(x):\n    return x + 1\n" * 5, "Ünïcödé 猫 🐈" * 10]]
VAL = [["zebra zebra zebra zebra zebra zebra zebra zebra, the cat sat."]]


def test_trains_on_train_split_only(base):
    write_corpus(base, TRAIN + VAL)
    metrics = tok_train(TokTrainConfig(vocab_size=330, corpus="demo"))
    tok = Tokenizer.load(base / "tokenizer")
    assert tok.merges == train_bpe([t for shard in TRAIN for t in shard], 330).merges
    assert not any(b"zebra" in t for t in tok.vocab), "the validation shard was read"
    assert metrics["vocab_size"] == tok.vocab_size == 330 and metrics["train_documents"] == 32
    assert metrics["train_bytes"] == sum(len(t.encode()) for shard in TRAIN for t in shard)
    assert metrics["bytes_per_token"] == pytest.approx(len(VAL[0][0]) / len(tok.encode(VAL[0][0])))
    result = load_result("tok_train")
    assert result["metrics"] == metrics and result["config"]["vocab_size"] == 330 and result["samples"]


def test_second_run_does_nothing_and_changes_are_noticed(base, capsys):
    folder, config = write_corpus(base, TRAIN + VAL), TokTrainConfig(vocab_size=330, corpus="demo")
    first = tok_train(config)
    written = (base / "tokenizer/tokenizer.json").stat().st_mtime_ns
    assert tok_train(config) == first and "done already" in capsys.readouterr().out
    assert (base / "tokenizer/tokenizer.json").stat().st_mtime_ns == written
    assert tok_train(TokTrainConfig(vocab_size=320, corpus="demo"))["vocab_size"] == 320
    assert tok_train(config)["vocab_size"] == 330
    write_corpus(base, [TRAIN[0] * 2, *TRAIN[1:], *VAL])
    assert tok_train(config)["train_documents"] == 62, "the text has changed, the tokenizer has not"
    (base / "tokenizer/tokenizer.json").unlink()
    assert tok_train(config)["vocab_size"] == 330 and (base / "tokenizer/tokenizer.json").exists()
    assert tok_train(TokTrainConfig(vocab_size=330, corpus=str(folder)))["vocab_size"] == 330


def test_take_chars():
    seen = {}
    assert list(take_chars(["aaaa", "", "é", "bbbbbb", "cc"], 8, 4, seen)) == ["aaaa", "é", "bbb"]
    assert seen == dict(documents=3, chars=8, bytes=9)
    def endless():
        while True: yield "x" * 10
    assert sum(map(len, take_chars(endless(), 25, 10))) == 25


def test_long_document_is_capped(base):
    write_corpus(base, [*TRAIN, ["quux" * 50_000], *VAL])
    for cap, found in ((10_000, True), (80, False)):
        tok_train(TokTrainConfig(vocab_size=290, corpus="demo", doc_cap=cap))
        assert any(b"quux" in t for t in Tokenizer.load(base / "tokenizer").vocab) == found


@pytest.mark.parametrize("change, message", [(dict(corpus="nothing"), "no corpus"), (dict(vocab_size=200), "at least 265"),
                                             (dict(vocab_size=50_000), "smaller --vocab-size.*--doc-cap")])
def test_errors_leave_earlier_files(base, change, message):
    write_corpus(base, TRAIN + VAL)
    tok_train(TokTrainConfig(vocab_size=330, corpus="demo"))
    before = (base / "tokenizer/tokenizer.json").read_bytes()
    with pytest.raises(CourseError, match=message): tok_train(TokTrainConfig(**{"vocab_size": 330, "corpus": "demo", **change}))
    assert (base / "tokenizer/tokenizer.json").read_bytes() == before


def checkpoint_with(base, tag, tokenizer_sha256, stage="base"):
    folder = base / f"{stage}_checkpoints" / tag / "step_000010"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(dict(tokenizer_sha256=tokenizer_sha256)))


def test_a_tokenizer_that_checkpoints_need_is_set_aside(base, capsys):
    write_corpus(base, TRAIN + VAL)
    path = base / "tokenizer/tokenizer.json"
    tok_train(TokTrainConfig(vocab_size=330, corpus="demo"))
    first = path.read_bytes()
    for tag, stage in (("d4", "base"), ("d4", "chatsft")): checkpoint_with(base, tag, hashlib.sha256(first).hexdigest(), stage)
    checkpoint_with(base, "other", "0" * 64)
    checkpoint_with(base, "none", None)
    (base / "base_checkpoints/none/step_000010/meta.json").write_text("[1")
    capsys.readouterr()
    tok_train(TokTrainConfig(vocab_size=320, corpus="demo"))
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("base_checkpoints/d4, chatsft_checkpoints/d4: trained with the tokenizer that was here") and "tokenizer.old-1" in said
    assert (base / "tokenizer.old-1/tokenizer.json").read_bytes() == first and Tokenizer.load(base / "tokenizer").vocab_size == 320
    tok_train(TokTrainConfig(vocab_size=310, corpus="demo"))
    assert "trained with" not in capsys.readouterr().out and not (base / "tokenizer.old-2").exists(), "no checkpoint needs the second one"
    checkpoint_with(base, "d6", hashlib.sha256(path.read_bytes()).hexdigest())
    path.write_text("damaged" + path.read_text())
    tok_train(TokTrainConfig(vocab_size=330, corpus="demo", doc_cap=100))
    assert Tokenizer.load(base / "tokenizer").vocab_size == 330 and not (base / "tokenizer.old-2").exists()


def test_the_same_tokenizer_keeps_its_file(base):
    "A file from before there was a digest has other bytes, and checkpoints know their tokenizer by its bytes."
    write_corpus(base, TRAIN + VAL)
    path, config = base / "tokenizer/tokenizer.json", TokTrainConfig(vocab_size=330, corpus="demo")
    tok_train(config)
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["digest"]
    path.write_text(json.dumps(old), encoding="utf-8")
    checkpoint_with(base, "d4", hashlib.sha256(before := path.read_bytes()).hexdigest())
    (base / "report/tok_train.json").unlink()
    assert tok_train(config)["vocab_size"] == 330 and path.read_bytes() == before
    assert [p.name for p in base.glob("tokenizer*")] == ["tokenizer"]


def test_a_lost_shard_stops_the_stage(base):
    from nanochat_course.corpus import make_corpus
    (base / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for shard in TRAIN for t in shard))
    make_corpus(str(base / "t.jsonl"))
    (base / "data/t/shard_00015.parquet").unlink()
    with pytest.raises(CourseError, match="shard_00015.parquet is gone"): tok_train(TokTrainConfig(vocab_size=300, corpus="t"))


def test_one_shard_only(base):
    write_corpus(base, VAL)
    with pytest.raises(CourseError, match="one shard"): tok_train(TokTrainConfig(vocab_size=300, corpus="demo"))


def test_compression():
    tok = train_bpe(["aaaa"], 266)
    assert compression(tok, ["aaaa", "é"]) == 6 / 4 and compression(tok, []) == 0


def test_command(base):
    write_corpus(base, TRAIN + VAL)
    env = {**os.environ, "NANOCHAT_COURSE_DIR": str(base)}
    run = lambda *flags: forked.run([sys.executable, "-m", "nanochat_course.tok_train", *flags], capture_output=True, text=True, env=env)
    good = run("--vocab-size", "300", "--corpus", "demo", "--max-chars", "1000")
    assert good.returncode == 0, good.stderr
    assert "300 tokens" in good.stdout and json.loads((base / "report/tok_train.json").read_text())["metrics"]["vocab_size"] == 300
    bad = run("--corpus", "nothing")
    assert bad.returncode == 2 and bad.stderr.startswith("error: no corpus") and len(bad.stderr.strip().splitlines()) == 1


def test_text_that_is_still_on_its_way(base, capsys):
    "The tokenizer reads the shards in their order, waiting for them; when the rest has come it is not trained again."
    folder = write_corpus(base, TRAIN + TRAIN + VAL, "climbmix")
    os.replace(folder / "shard_00004.parquet", folder / "shard_06542.parquet")
    (folder / "corpus.json").write_text(json.dumps(dict(shards=5, request=dict(source="climbmix", num_shards=4))))
    late = [folder / f"shard_{i:05d}.parquet" for i in (2, 3)]
    for path in late: os.replace(path, path.with_suffix(".later"))
    (folder / ".download").touch()
    config = TokTrainConfig(vocab_size=330, corpus="climbmix", max_chars=1800)            # 1,800 characters are in the first shard
    first = tok_train(config)
    assert load_result("tok_train")["shards"]["shard_00002.parquet"] is None
    for path in late: os.replace(path.with_suffix(".later"), path)
    assert tok_train(config) == first and "done already" in capsys.readouterr().out
    pq.write_table(pa.table({"text": ["other"] * 30}), folder / "shard_00000.parquet")
    assert tok_train(TokTrainConfig(vocab_size=330, corpus="climbmix"))["train_documents"] == 30 + 2 + 30 + 2
