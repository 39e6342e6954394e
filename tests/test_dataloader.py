"The dataloader: against a slow obvious packer, and by counting every token."
import itertools, json, os, subprocess, sys, threading, time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq, pytest, torch
from hypothesis import given, settings, strategies as st
from nanochat_course.common import CourseError, Runtime
from nanochat_course.corpus import list_shards, write_corpus, write_shard
from nanochat_course.dataloader import DataLoader, Packer, Prefetcher, fill_row, fold, pack_rows, unfold

CPU = Runtime(torch.device("cpu"), torch.float32)
BOS = 256


class Bytes:
    "A tokenizer of bytes: what it does can be said in one line."
    bos, vocab_size = BOS, 257
    def encode(self, texts, prepend=None, append=None, num_threads=None): return [list(t.encode()) for t in texts]


def texts(n=300, seed=0, longest=400):
    rng = np.random.default_rng(seed)
    return [f"{i:04d} " + "x" * int(min(rng.lognormal(3.5, 1), longest)) for i in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    write_corpus(path, texts(), num_shards=4)
    return path


def rank(r, w): return Runtime(torch.device("cpu"), torch.float32, r, r, w)
def loader(folder, B=2, T=64, **kw): return DataLoader(Bytes(), folder, kw.pop("split", "train"), B, T, kw.pop("rt", CPU), **{"buffer_size": 32, **kw})
def take(it, n): return list(itertools.islice(iter(it), n))
def same(a, b): return all(torch.equal(x, p) and torch.equal(y, q) and s == t for (x, y, s), (p, q, t) in zip(a, b, strict=True))


def read_texts(path): return pq.read_table(path)["text"].to_pylist()


def rows_of(batches):
    "The rows of T + 1 tokens, put together again from inputs and targets; padding is cut off."
    for x, y, _ in batches:
        for a, b in zip(x.tolist(), y.tolist()):
            b = b[:len(b) - next((i for i, t in enumerate(reversed(b)) if t != -1), len(b))]
            yield a[:1] + b if b else []


# packing against an obvious packer

def slow_rows(docs, row_len, capacity, min_piece):
    "Best fit with a plain list, searched from end to end: [(document, start, stop), …] for each row."
    queue, held, rows = list(enumerate(docs)), [], []                 # held: (document, offset)
    left = lambda d, o: min(len(docs[d]) - o + 1, row_len)
    while queue or held:
        while queue and (len(held) < capacity or sum(len(docs[d]) - o + 1 for d, o in held) < row_len): held.append((queue.pop(0)[0], 0))
        row, space = [], row_len
        while space and held:
            if not row:
                d, o = min(held)
            exact = [h for h in held if left(*h) == space]
            loose = [h for h in held if left(*h) <= space - min_piece]
            if not row: pass
            elif exact: d, o = min(exact)
            elif loose: d, o = min(loose, key=lambda h: (-left(*h), h))
            else: d, o = max(held, key=lambda h: (left(*h), h))
            held.remove((d, o))
            n = min(len(docs[d]) - o, space - 1)
            row.append((d, o, o + n))
            space -= n + 1
            if o + n < len(docs[d]): held.append((d, o + n))
        rows.append(row)
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(2, 40), st.integers(1, 12), st.integers(1, 10))
def test_packer_is_the_obvious_one(lengths, row_len, capacity, min_piece):
    docs = [np.arange(n) for n in lengths]
    packer, queue, rows = Packer(row_len, BOS, min_piece), iter(enumerate(docs)), []
    while True:
        while packer.wants(capacity) and (item := next(queue, None)): packer.add((item[0],), item[1])
        if not packer.order: break
        rows.append([(key[0], a, b) for key, a, b, _, _ in packer.row()])
    assert rows == slow_rows(docs, row_len, capacity, min_piece)
    assert all(sum(b - a + 1 for _, a, b in row) == row_len for row in rows[:-1])                     # full rows only, but for the last
    for d, doc in enumerate(docs):                                                                    # each document whole and in order
        spans = [(a, b) for row in rows for k, a, b in row if k == d]
        assert [i for a, b in spans for i in range(a, b)] == list(range(len(doc)))


def test_fill_row():
    x, y = fill_row([((0,), 0, 3, np.array([5, 6, 7]), None), ((1,), 2, 4, np.array([1, 2, 3, 4]), np.array([1, 1, 0, 1]))], 9, bos=BOS, pad=0)
    assert x.tolist() == [BOS, 5, 6, 7, BOS, 3, 4, 0] and y.tolist() == [5, 6, 7, BOS, -1, 4, -1, -1]


# the loader counts every token

@pytest.mark.parametrize("T", [16, 64, 128, 256, 2048])
def test_an_epoch_holds_every_token_once(folder, T):
    from nanochat_course.corpus import documents
    expected = Counter(b for t in documents(list_shards(folder, "train")) for b in t.encode())
    batches = take(loader(folder, T=T, epochs=1), 10**6)
    tokens = Counter(t for row in rows_of(batches) for t in row)
    bos = tokens.pop(BOS)
    assert tokens == expected and bos >= 225
    assert all(x.shape == y.shape == (2, T) and x.dtype == y.dtype == torch.int64 for x, y, _ in batches)
    assert all((x[:, 0] == BOS).all() and (y != -1).any() for x, y, _ in batches)
    assert bool((torch.cat([y for _, y, _ in batches[:-1]] or [torch.zeros(1)]) != -1).all())       # padding in the last batch only
    if T >= 64: assert bos / (sum(tokens.values()) + bos) < .05


def test_targets_are_the_next_tokens(folder):
    for x, y, _ in take(loader(folder), 20): assert torch.equal(x[:, 1:], y[:, :-1])


class Numbers(Bytes):
    "Each word is a number, and its own token: a token says which document it is from."
    def encode(self, texts, prepend=None, append=None, num_threads=None): return [[int(w) for w in t.split()] for t in texts]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_partition_the_documents(tmp_path, world):
    lengths = {1000 + i: 1 + i * i % 97 for i in range(300)}
    write_corpus(tmp_path, [f"{i} " * n for i, n in lengths.items()], num_shards=4)
    train = Counter()
    from nanochat_course.corpus import documents
    for t in documents(list_shards(tmp_path, "train")): train.update(map(int, t.split()))
    ranks = [Counter(t for row in rows_of(DataLoader(Numbers(), tmp_path, "train", 2, 50, rank(r, world), epochs=1)) for t in row if t != BOS) for r in range(world)]
    assert all(ranks) and all(not a & b for a, b in itertools.combinations(ranks, 2))               # no document on two ranks
    assert sum(ranks, Counter()) == train                                                             # and none missing, to the last token


def split_at(row):
    "The pieces of a row between the BOS tokens."
    part, out = [], []
    for t in [*row[1:], BOS]:
        if t == BOS: out.append(part); part = []
        else: part.append(t)
    return [p for p in out if p]


# the same batches in one go and in pieces

@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 60), T=st.sampled_from([16, 64, 300]), prefetch=st.sampled_from([0, 3]))
def test_resume_is_exact(folder, k, T, prefetch):
    whole = take(loader(folder, T=T, prefetch=0), k + 15)
    state = json.loads(json.dumps(whole[k - 1][2]))
    assert same(take(loader(folder, T=T, prefetch=prefetch, state=state), 15), whole[k:])


def test_resume_at_every_batch_over_the_end_of_an_epoch(folder):
    whole = take(loader(folder, T=300), 80)
    assert whole[-1][2]["position"][0] >= 2 and len(json.dumps(whole[-1][2])) < 2000
    for k in range(0, 75, 5): assert same(take(loader(folder, T=300, state=whole[k][2]), 4), whole[k + 1:k + 5])


def test_resume_to_the_end_of_the_only_epoch(folder):
    whole = take(loader(folder, epochs=1), 10**6)
    for k in (0, len(whole) // 2, len(whole) - 2, len(whole) - 1): assert same(take(loader(folder, epochs=1, state=whole[k][2]), 10**6), whole[k + 1:])


def test_resume_in_another_process(folder, tmp_path):
    "Stop after five batches; another interpreter, with another hash seed and number of threads, goes on."
    whole = take(loader(folder), 25)
    (tmp_path / "state.json").write_text(json.dumps(whole[4][2]))
    code = ("import sys, json, torch; sys.path.insert(0, sys.argv[1]); from test_dataloader import *\n"
            "state = json.load(open(sys.argv[3]))\n"
            "print(json.dumps([[x.tolist(), y.tolist()] for x, y, _ in take(loader(sys.argv[2], state=state, num_threads=1, prefetch=1), 20)]))")
    out = subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__), str(folder), str(tmp_path / "state.json")], capture_output=True, text=True,
                         env={**os.environ, "PYTHONHASHSEED": "7"})
    assert json.loads(out.stdout) == [[x.tolist(), y.tolist()] for x, y, _ in whole[5:]], out.stderr


def test_state_belongs_to_the_batch_not_to_the_thread(folder):
    "However far the thread has read ahead, the state is that of the batch in hand."
    it = iter(loader(folder, prefetch=8))
    first = next(it)
    time.sleep(.3)
    assert same([first], take(loader(folder, prefetch=0), 1))
    it.close()


def test_states_of_all_ranks_and_wrong_states(folder):
    states = [take(loader(folder, rt=rank(r, 2)), 3)[-1][2] for r in range(2)]
    assert same(take(loader(folder, rt=rank(1, 2), state=states), 2), take(loader(folder, rt=rank(1, 2)), 5)[3:])
    for kw in (dict(B=4), dict(T=32), dict(rt=rank(0, 2)), dict(buffer_size=16), dict(split="val")):
        with pytest.raises(CourseError, match="resume with the same"): loader(folder, **{"state": take(loader(folder), 1)[0][2], **kw})


@given(st.lists(st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 50)), st.integers(0, 2)), unique_by=lambda e: e[0]))
def test_fold(entries): assert unfold(json.loads(json.dumps(fold(entries)))) == sorted(entries)


# awkward documents

def corpus_of(path, train, val=("v " * 200,)):
    write_shard(path / "shard_00000.parquet", train, 4)
    write_shard(path / "shard_00001.parquet", list(val), 4)
    return path


def test_awkward_documents(tmp_path):
    "Empty ones, one that fills many rows, a single letter."
    big = "".join(chr(97 + i % 26) for i in range(5000))
    batches = take(loader(corpus_of(tmp_path, ["", big, "", "z", "short one"]), T=64, epochs=1), 10**6)
    rows = list(rows_of(batches))
    joined = b"".join(bytes(p) for row in rows for p in split_at(row))
    assert Counter(joined) == Counter((big + "zshort one").encode()) and b"".join(bytes(t for t in row if t < 256) for row in rows[:78]) == big[:78 * 64].encode()


def test_a_million_spaces(tmp_path):
    from nanochat_course.tokenizer import train_bpe
    tokenizer = train_bpe(["the cat sat on the mat " * 50], 280)
    dl = DataLoader(tokenizer, corpus_of(tmp_path, [" " * 1_000_000, "The cat sat on the mat."] * 2), "train", 2, 256, CPU, epochs=1)
    got = b"".join(tokenizer.decode_bytes(t for t in row if t != tokenizer.bos) for row in rows_of(dl))
    assert len(got) == 2 * 1_000_000 + 2 * 23 and got.count(b" ") == 2 * 1_000_000 + 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize("train", [["a"], ["", "", ""], ["x" * 100]])
def test_too_little_text(tmp_path, train):
    with pytest.raises(CourseError, match="use more text"): next(iter(loader(corpus_of(tmp_path, train), B=4, T=64)))


def test_small_corpora_go_round_and_round(tmp_path):
    batches = take(loader(corpus_of(tmp_path, ["a" * 70, "b" * 70]), B=1, T=64), 50)
    count = Counter(t for row in rows_of(batches) for t in row)
    assert abs(count[97] - count[98]) <= 140 and batches[-1][2]["position"][0] > 10


@pytest.mark.parametrize("ranks", [(3, 1, 4), (1, 2), (4, 2, 2, 1), (2, 3, 1, 2)])
@pytest.mark.parametrize("epochs,batches", [(1, 1), (1, 4), (3, 1), (3, 4), (3, 9), (3, 15)])
def test_every_document_once_an_epoch_while_the_number_of_processes_changes(folder, ranks, epochs, batches):
    seen, states = Counter(), None
    for k, n in enumerate(ranks):
        new = []
        for r in range(n):
            it = iter(loader(folder, B=1 + n % 2, rt=rank(r, n), state=states, epochs=epochs, prefetch=0))
            taken = list(it) if k == len(ranks) - 1 else take(it, batches * (5 if r == 0 else 1))   # rank 0 may be an epoch ahead
            for x, y, _ in taken:
                row = torch.cat([x, y[:, -1:]], 1)
                seen.update(row[row >= 0].tolist())
            if k < len(ranks) - 1: new.append(json.loads(json.dumps(taken[-1][2])))
        states = new
    seen.pop(BOS)
    want = Counter(b for path in list_shards(folder, "train") for t in read_texts(path) for b in t.encode())
    assert seen == Counter({b: n * epochs for b, n in want.items()})

def test_a_changed_run_resumes_exactly_too(folder):
    states = [take(loader(folder, rt=rank(r, 3), prefetch=0), 5)[-1][2] for r in range(3)]
    for r in range(2):
        whole = take(loader(folder, rt=rank(r, 2), state=states, prefetch=0), 60)       # over the end of the epoch
        for k in (1, 7, 40): assert same(take(loader(folder, rt=rank(r, 2), state=json.loads(json.dumps(whole[k - 1][2])), prefetch=0), 60 - k), whole[k:])

def test_one_shard_and_too_many_ranks(tmp_path, folder):
    write_shard(tmp_path / "shard_00000.parquet", ["x"], 1)
    with pytest.raises(CourseError, match="one shard only"): loader(tmp_path)
    with pytest.raises(CourseError, match="use fewer processes"): loader(folder, split="val", rt=rank(0, 100))


def test_corrupt_shards(folder, tmp_path):
    import shutil, pyarrow.parquet as pq
    shutil.copytree(folder, tmp_path / "c")
    paths = list_shards(tmp_path / "c")
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:100])
    with pytest.raises(CourseError, match="shard_00001.parquet is truncated"): loader(tmp_path / "c")
    with pytest.warns(UserWarning, match="shard_00001"): ok = loader(tmp_path / "c", skip_corrupt=True, epochs=1)
    assert len(take(ok, 10**6)) > 10
    paths[1].write_bytes(whole)
    chunk = pq.read_metadata(paths[1]).row_group(3).column(0)
    data = bytearray(whole)
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    paths[1].write_bytes(data)
    with pytest.raises(CourseError, match="shard_00001.parquet, row group 3"): take(loader(tmp_path / "c", epochs=1), 10**6)
    with pytest.warns(UserWarning, match="row group 3"): assert len(take(loader(tmp_path / "c", epochs=1, skip_corrupt=True), 10**6)) > 10


# the thread

def alive(): return [t for t in threading.enumerate() if t.name == "dataloader"]


def test_the_thread_ends(folder):
    it = iter(loader(folder))
    next(it)
    assert alive()
    it.close()
    assert not alive()
    for _ in loader(folder): break
    take(loader(folder, epochs=1), 10**6)
    time.sleep(.3)
    assert not alive()


@pytest.mark.parametrize("how", ["next(it)", "next(it); raise SystemExit(0)", "next(it); time.sleep(.2); del it"])
def test_the_interpreter_ends(folder, how):
    code = f"import sys, time; sys.path.insert(0, sys.argv[1]); from test_dataloader import *\nit = iter(loader(sys.argv[2]))\n{how}"
    out = subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__), str(folder)], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and "Traceback" not in out.stderr


ENDINGS = """
import os, sys, time, torch
from nanochat_course.dataloader import Prefetcher

def items():
    while True: yield [torch.zeros(3) + i for i in range(2000)]          # freed in the thread, one after another

failed, first = 0, True
for _ in range(4):
    pid = os.fork()
    if not pid: break                                                    # the child goes on below and ends like any program
    failed += os.waitpid(pid, 0)[1] != 0
else:
    print(failed)
    sys.exit()
torch.set_num_threads(1)
ahead = Prefetcher(items(), 2)
next(ahead)
{how}
"""


@pytest.mark.parametrize("how", ["next(ahead)", "time.sleep(.02)"])
def test_no_tensor_is_freed_while_the_interpreter_ends(how):
    "Torch ends the process if a thread frees a tensor while the interpreter is finalized: with many tensors an item that is nearly sure to happen."
    out = subprocess.run([sys.executable, "-c", ENDINGS.replace("{how}", how)], capture_output=True, text=True, timeout=120)
    assert out.stdout == "0\n", out.stderr[-300:]


def test_errors_reach_the_reader_and_the_thread_reads_no_further():
    def numbers(seen):
        for i in range(100):
            seen.append(i)
            if i == 60: raise ValueError("at sixty")
            yield i
    seen, got = [], []
    with pytest.raises(ValueError, match="at sixty"):
        for i in Prefetcher(numbers(seen), 4):
            got.append(i)
            if i == 20: time.sleep(.2); assert len(seen) <= 20 + 4 + 3
    assert got == list(range(60))


# conversations

@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=40), st.integers(4, 32), st.integers(1, 8))
def test_pack_rows(items, T, buffer_size):
    sequences = [([1000 + i] * n, [int(j >= n - learn) for j in range(n)]) for i, (n, learn) in enumerate(items)]
    counts, seen = {}, Counter()
    for x, y in pack_rows(sequences, T, pad=7, buffer_size=buffer_size, counts=counts):
        assert x.shape == y.shape == (T,) and (y != -1).any()
        row = x.tolist() + [int(y[-1])]
        for i, group in itertools.groupby(row[:T]): seen[i] += len(list(group))
        for j in range(T - 1): assert y[j] in (-1, x[j + 1])
    fits = [i for i, (ids, mask) in enumerate(sequences) if len(ids) <= T + 1 and any(mask[1:])]
    assert counts == dict(packed=len(fits), too_long=sum(len(ids) > T + 1 for ids, _ in sequences),
                          no_target=sum(len(ids) <= T + 1 and not any(m[1:]) for ids, m in sequences))
    assert {i - 1000 for i in seen if i >= 1000} == set(fits)
    for i in fits: assert len(sequences[i][0]) - 1 <= seen[1000 + i] <= len(sequences[i][0])       # its last token may be a target only


# a corpus that is still being downloaded

@pytest.fixture
def late(tmp_path):
    "An announced corpus of five training shards, and a function that lets some of them arrive."
    write_corpus(tmp_path / "made", texts(400, longest=200), num_shards=6)
    folder, names = tmp_path / "climbmix", [*(f"shard_{i:05d}.parquet" for i in range(5)), "shard_06542.parquet"]
    folder.mkdir()
    (folder / "corpus.json").write_text(json.dumps(dict(shards=6, request=dict(source="climbmix", num_shards=5))))
    (folder / ".download").touch()
    def arrive(*numbers):
        for i in numbers: os.replace(tmp_path / "made" / f"shard_{i:05d}.parquet", folder / names[i])
    return folder, arrive


def test_batches_do_not_depend_on_when_and_in_which_order_shards_arrive(late, tmp_path):
    "Nor does going on after a stop, before or after the rest has come."
    folder, arrive = late
    arrive(0, 5)
    early = iter(loader(folder, prefetch=0))
    got = [next(early) for _ in range(5)]
    arrive(4, 2, 1)
    got += [next(early) for _ in range(10)]
    state = json.loads(json.dumps(got[-1][2]))
    resumed = iter(loader(folder, state=state, prefetch=0))           # shard 3 has not come
    again = [next(resumed) for _ in range(3)]
    arrive(3)
    (folder / ".download").unlink()
    got += take(early, 150)                                             # over the end of the epoch
    again += take(resumed, 147)
    assert {s["position"][0] for *_, s in got} == {0, 1}
    assert same(got, take(loader(folder, prefetch=0), 165)) and same(again, got[15:])
    assert same(take(loader(folder, state=state, prefetch=0), 150), got[15:])
    (folder / "corpus.json").unlink()                                   # and the same as of a corpus that was always here
    plain = take(loader(folder, prefetch=0), 165)
    assert all(torch.equal(x, p) and torch.equal(y, q) for (x, y, _), (p, q, _) in zip(got, plain))


def test_ranks_read_a_late_corpus_once(late):
    folder, arrive = late
    arrive(0, 3, 5)
    its = [iter(loader(folder, rt=rank(r, 3), epochs=1)) for r in range(3)]
    batches = [next(it) for it in its]
    arrive(1, 2, 4)
    batches += [b for it in its for b in it]
    seen = Counter(t for row in rows_of(batches) for t in row)
    seen.pop(BOS)
    assert seen == Counter(b for path in list_shards(folder, "train") for t in read_texts(path) for b in t.encode())


def test_more_ranks_go_on_while_shards_are_late(late):
    "To deal the rest anew, all of it must be known: the loaders wait for it."
    folder, arrive = late
    arrive(0, 5)
    states = [take(loader(folder, rt=rank(r, 2), prefetch=0), 2)[-1][2] for r in range(2)]
    done, worker = [], threading.Thread(target=lambda: done.append(take(loader(folder, rt=rank(1, 3), state=states, prefetch=0), 30)))
    worker.start()
    worker.join(.5)
    assert worker.is_alive()
    arrive(4, 3, 2, 1)
    worker.join(30)
    assert same(done[0], take(loader(folder, rt=rank(1, 3), state=states, prefetch=0), 30))


def test_a_loader_that_waits_can_be_closed(late, capsys):
    folder, arrive = late
    arrive(0, 5)
    it, said = iter(loader(folder, prefetch=64)), ""
    next(it)
    while "waiting for shard_00001.parquet" not in said: said += capsys.readouterr().out
    start = time.monotonic()
    it.close()
    assert time.monotonic() - start < 20 and not alive()              # `end_thread` would wait for 30 s


def test_a_dead_download_reaches_the_training_loop(late):
    folder, arrive = late
    arrive(0, 5)
    it = iter(loader(folder))
    next(it)
    (folder / ".download").unlink()
    with pytest.raises(CourseError, match="shard_00001.parquet of .* nobody is downloading it"): take(it, 10**6)
    with pytest.raises(CourseError, match="shard_00001.parquet of .* is not here"): loader(folder)
