"Files of tokens: golden bytes, damaged files, memory, the same rows for any number of ranks, the writer, the download."
import itertools, json, struct, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback import Raw, answer, whole

from nanochat_course import fineweb as fw
from nanochat_course.common import CourseError, Runtime
from nanochat_course.tokenizer import train_bpe

CPU = Runtime(torch.device("cpu"), torch.float32)
GOLDEN = struct.pack("<256i", 20240520, 1, 5, *[0] * 253) + struct.pack("<5H", 50256, 0, 1, 65535, 464)


def rank(r, world): return Runtime(CPU.device, CPU.dtype, r, r, world)


def test_golden_bytes(tmp_path):
    "Written by hand, byte for byte; and read from bytes that our writer never saw."
    fw.write_shard(tmp_path / "a.bin", [50256, 0, 1, 65535, 464])
    assert (tmp_path / "a.bin").read_bytes() == GOLDEN
    (tmp_path / "b.bin").write_bytes(GOLDEN)
    assert fw.read_shard(tmp_path / "b.bin").tolist() == [50256, 0, 1, 65535, 464]
    fw.write_shard(tmp_path / "none.bin", [])
    assert fw.read_shard(tmp_path / "none.bin").tolist() == [] and (tmp_path / "none.bin").stat().st_size == 1024


@pytest.mark.parametrize("data, words", [
    (GOLDEN[:-3], "middle of a token"), (GOLDEN[:-4], "holds 3 tokens, its header says 5"), (GOLDEN + b"\0\0", "holds 6 tokens"),
    (GOLDEN[:1023], "less than a header"), (b"", "less than a header"), (b"PAR1" + bytes(2000), "no file of tokens"),
    (struct.pack("<256i", 20240520, 2, 0, *[0] * 253), "version 2"), (struct.pack(">256i", 20240520, 1, 0, *[0] * 253), "no file of tokens"),
    (struct.pack("<256i", 20240520, 1, -1, *[0] * 253), "its header says -1")])
def test_damaged_files_are_named(tmp_path, data, words):
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    with pytest.raises(CourseError, match=words) as e: fw.read_shard(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(CourseError, match=words): fw.ShardLoader([path], 1, 2, CPU)      # checked before the first batch


def test_what_is_missing_or_cannot_be_written(tmp_path):
    with pytest.raises(CourseError, match="does not exist"): fw.shard_tokens(tmp_path / "none.bin")
    for ids, words in (([70000], "16 bits"), ([-1, 3], "16 bits"), ([[1, 2]], "one row"), ([1.5], "one row"), (["a"], "one row")):
        with pytest.raises(CourseError, match=words): fw.write_shard(tmp_path / "y.bin", ids)
    assert not list(tmp_path.iterdir()), "a file that cannot be whole is not there at all"
    with pytest.raises(CourseError, match="do not fit into one file"): fw.header(2**31)


def test_a_shard_is_never_loaded_whole(tmp_path):
    "Two files of 600 MB each, read by a process of its own here and there; it grows by a hundredth of them."
    for name in ("a", "b"):
        with open(tmp_path / f"{name}.bin", "wb") as f:
            fw.header(3 * 10**8).tofile(f)
            f.truncate(1024 + 6 * 10**8)
    code = f"""
import resource, torch
from nanochat_course import fineweb as fw
from nanochat_course.common import Runtime
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loader = fw.ShardLoader(sorted(Path({str(tmp_path)!r}).glob("*.bin")), 4, 1024, Runtime(torch.device("cpu"), torch.float32))
for row in range(0, loader.rows, loader.rows // 20): loader.batch(row)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)      # kilobytes
    assert grown < 60_000, f"{grown / 1000:.0f} MB"


@pytest.fixture
def stream(tmp_path):
    "Three shards of uneven length, one shorter than a row: a stream of 0, 1, 2, …, 99."
    paths = [tmp_path / f"{n}.bin" for n in "abc"]
    for path, (start, stop) in zip(paths, ((0, 37), (37, 40), (40, 100))): fw.write_shard(path, range(start, stop))
    return paths


def test_rows_are_the_stream_and_targets_come_one_later(stream):
    loader = fw.ShardLoader(stream, 3, 7, CPU)
    assert loader.rows == 99 // 7
    got = list(itertools.islice(loader, 6))
    inputs = torch.cat([x for x, _, _ in got]).flatten()
    want = np.concatenate([np.arange(r % 14 * 7, r % 14 * 7 + 7) for r in range(18)])           # the first rows again after the 14th
    assert inputs.tolist() == want.tolist()
    assert all(torch.equal(y, x + 1) for x, y, _ in got)
    assert got[-1][2] == dict(seq_len=7, tokens=100, row=18)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_any_number_of_ranks_reads_the_rows_of_one(stream, world):
    alone = list(itertools.islice(fw.ShardLoader(stream, 2, 5, CPU), 12))
    ranks = [iter(fw.ShardLoader(stream, 2, 5, rank(r, world))) for r in range(world)]
    together = [next(ranks[m % world]) for m in range(12)]
    for (x, y, _), (u, v, _) in zip(alone, together): assert torch.equal(x, u) and torch.equal(y, v)
    states = [s for *_, s in together[-world:]]
    assert all(s == alone[-1][2] for s in states), "after the same number of passes all are at the same place"


def test_another_number_of_ranks_goes_on(stream):
    four = [iter(fw.ShardLoader(stream, 2, 5, rank(r, 4))) for r in range(4)]
    states = json.loads(json.dumps([next(loader)[2] for loader in four]))
    alone = list(itertools.islice(fw.ShardLoader(stream, 2, 5, CPU), 6))
    for world in (1, 2):
        ranks = [iter(fw.ShardLoader(stream, 2, 5, rank(r, world), state=states if world > 1 else states[0])) for r in range(world)]
        for m in (4, 5): assert torch.equal(next(ranks[m % world])[0], alone[m][0])


def test_bad_places_and_bad_vocabularies(stream):
    state = next(iter(fw.ShardLoader(stream, 2, 5, CPU)))[2]
    with pytest.raises(CourseError, match="seq_len = 5, this run has 6"): fw.ShardLoader(stream, 2, 6, CPU, state=state)
    with pytest.raises(CourseError, match="tokens = 100, this run has 40"): fw.ShardLoader(stream[:2], 2, 5, CPU, state=state)
    with pytest.raises(CourseError, match="places in the data differ"): fw.ShardLoader(stream, 2, 5, CPU, state=[state, dict(state, row=6)])
    with pytest.raises(CourseError, match="a row needs 101"): fw.ShardLoader(stream, 2, 100, CPU)
    with pytest.raises(CourseError, match="a token 10 .* knows 10"): next(iter(fw.ShardLoader(stream, 1, 10, CPU, vocab_size=10)))


TEXT = ["The cat sat on the mat.", "A dog, a log; a bog.", "", "Eins zwei drei."] * 6


def test_the_writer_cuts_one_stream_into_files(tmp_path):
    tokenizer = train_bpe(TEXT, 300, num_processes=1)
    want = [t for d in TEXT for t in tokenizer.encode(d, prepend=tokenizer.bos)]
    made = fw.write_shards(iter(TEXT), tokenizer, tmp_path / "out", shard_tokens=50, val_tokens=17)
    val, train = fw.list_bins(tmp_path / "out", "val"), fw.list_bins(tmp_path / "out", "train")
    assert fw.read_shard(val[0]).tolist() == want[:17]
    assert np.concatenate([fw.read_shard(p) for p in train]).tolist() == want[17:]
    assert {len(fw.read_shard(p)) for p in train[:-1]} == {50} and [p.name for p in (val[0], train[0])] == ["fineweb_val_000000.bin", "fineweb_train_000001.bin"]
    assert made == dict(vocab_size=tokenizer.vocab_size, tokens=len(want) - 17, val_tokens=17, shards=len(train) + 1)
    assert fw.vocabulary(tmp_path / "out") == tokenizer.vocab_size and fw.vocabulary(tmp_path) == 50257


def test_the_writer_refuses_what_cannot_be_trained_on(tmp_path):
    tokenizer = train_bpe(TEXT, 300, num_processes=1)
    with pytest.raises(CourseError, match="leave nothing to train on"): fw.write_shards(TEXT, tokenizer, tmp_path, val_tokens=10**6)
    with pytest.raises(CourseError, match="at least 1"): fw.write_shards(TEXT, tokenizer, tmp_path, val_tokens=0)
    with pytest.raises(CourseError, match="no \\*_train_"): fw.list_bins(tmp_path / "nowhere", "train")


def test_gpt2_ids_of_a_known_sentence(tmp_path, test_data):
    "GPT-2's own vocabulary: ids that everybody knows."
    (tmp_path / "t.txt").write_text("Hello, world! Hello again.")
    config = fw.FinewebConfig(text=str(tmp_path / "t.txt"), out=str(tmp_path / "out"), gpt2_dir=str(test_data / "gpt2_tokenizer"), val_tokens=2)
    files = fw.fineweb(config)
    ids = np.concatenate([fw.read_shard(p) for p in sorted(files, key=lambda p: p.name[-10:])]).tolist()
    assert ids[:5] == [50256, 15496, 11, 995, 0] and fw.vocabulary(tmp_path / "out") == 50257


def test_download_checks_and_tries_again(tmp_path, monkeypatch):
    "The first answer for a training shard is cut (with a length that says so), the second holds an odd number of bytes, the third is right."
    tries = {}
    def send(h):
        tries[h.path] = tries.get(h.path, 0) + 1
        assert h.path.startswith("/datasets/kjj0/fineweb10B-gpt2/resolve/main/fineweb_")
        if "train" in h.path and tries[h.path] == 1: return answer(200, GOLDEN[:600], Content_Length=str(len(GOLDEN)))(h)
        if "train" in h.path and tries[h.path] == 2: return whole(GOLDEN[:-1])(h)
        return whole(GOLDEN)(h)
    with Raw(send) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        files = fw.download_shards(tmp_path, 1, wait=0.01, attempts=4)
    assert [p.name for p in files] == ["fineweb_val_000000.bin", "fineweb_train_000001.bin"]
    assert all(p.read_bytes() == GOLDEN for p in files) and tries[max(tries)] >= 1 and max(tries.values()) == 3
    assert fw.vocabulary(tmp_path) == 50257
    with pytest.raises(CourseError, match="1 to 103, not 104"): fw.download_shards(tmp_path, 104)
