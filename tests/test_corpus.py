"The corpus: cleaning, sharding, checks, a user's files, and downloads from a server on loopback that misbehaves."
import email.utils, hashlib, json, os, random, subprocess, sys, threading, time

import psutil, pyarrow as pa, pyarrow.parquet as pq
import pytest
from loopback import Raw, Server, Shards, answer, whole
from nanochat_course.common import CourseError, corpus_dir, run_main
from nanochat_course.corpus import (CorpusConfig, RowGroups, announced, arriving, check_shard, clean_docstring, corpus, deduplicate, docstring_records, documents, download,
                                    list_shards, make_corpus, module_documents, python_sources, read_corpus, read_row_group, read_source, shards_for, split_text, write_corpus, write_shard)

TEXTS = [f"document {i}: " + "The cat sat on the mat. " * (i % 7) for i in range(200)]


@pytest.fixture
def shards(tmp_path):
    write_corpus(tmp_path / "c", list(TEXTS), num_shards=4)
    return tmp_path / "c"


# cleaning

@pytest.mark.parametrize("raw, clean", [
    ("A :class:`~a.b.C` and a :func:`os.stat` and :ref:`the title <target>`.", "A C and a os.stat and the title."),
    ("See ``x`` and `y`_ and `the page <https://e.org>`__.", "See x and y and the page."),
    ("**Bold** but f(*args, **kwargs) stays.", "Bold but f(*args, **kwargs) stays."),
    ("Text.\n\n    .. versionadded:: 3.1\n       gone\n\n    More.", "Text.\n\nMore."),
    ("Text.\n\n.. note:: Mind it.", "Text.\n\nNote: Mind it."),
    ("Sum.\n\nParameters\n----------\nx : int", "Sum.\n\nParameters:\nx : int"),
    ("Sum.\n\n:param int x: the first\n:type x: int\n:returns: the sum\n:raises KeyError: never", "Sum.\n\nx: the first\nReturns: the sum\nRaises KeyError: never"),
    ("Sum.\n\nExamples\n--------\n>>> 1 + 1\n2\n\n", "Sum."),
    ("Sum.\n\n>>> 1 + 1\n2\n\nMore.", "Sum.\n\nMore."),
    ("Sum.\n\n```py\nx = 1\n```\n<Tip>\n\nMore.", "Sum.\n\nMore."),
    ("", ""),
])
def test_clean_docstring(raw, clean): assert clean_docstring(raw) == clean


def test_module_documents():
    source = b'''"""A module about cats, long enough to be kept here."""
class Cat(Animal):
    """A cat that may sit on a mat, or on anything else."""
    def __init__(self, name, *, age: int=3, **kw): pass
    @property
    def tail(self): """The tail of the cat, which is long and grey, mostly."""
    @staticmethod
    def make(x, /, y=(1, 2), *args): """Make a cat out of thin air and a few other things."""
    async def sit(self, where: "str"="mat"): """Sit down somewhere and stay there for a good while."""
'''
    headers = [d.split("\n")[0] for d in module_documents(source, "zoo")]
    assert headers == ["module zoo", "class zoo.Cat(name, *, age=3, **kw)", "zoo.Cat.tail", "zoo.Cat.make(x, /, y=(1, 2), *args)", "zoo.Cat.sit(where='mat')"]
    assert module_documents(b"def (", "broken") == []


def test_sources_are_sorted_and_leave_the_course_out():
    sources = python_sources()
    assert sources == python_sources() and len(sources) > 500
    assert not [m for _, m in sources if m.startswith("nanochat_course") or ".tests." in m]
    assert [m for _, m in sources if m == "json.decoder"]


def test_deduplicate_keeps_the_first():
    a, b = "x " * 60, "y " * 60
    kept = deduplicate([f"f()\n\n{a}", f"g()\n\n{a.upper()}", f"h()\n\n{b}\n\n{a}"])
    assert [d.split("\n")[0] for d in kept] == ["f()", "h()"] and a.strip() not in kept[1]
    assert len(deduplicate([f"f()\n\n{a}", f"g()\n\n{a}\n\n{b}"])) == 1                                # a seen summary: the rest would describe nothing


def test_every_flipped_bit_is_noticed(tmp_path):
    rng = random.Random(0)
    write_shard(tmp_path / "s.parquet", ["".join(rng.choices("abcdefgh ", k=400)) for _ in range(50)], 50)
    good, chunk = (tmp_path / "s.parquet").read_bytes(), pq.read_metadata(tmp_path / "s.parquet").row_group(0).column(0)
    for _ in range(40):
        data = bytearray(good)
        data[rng.randrange(chunk.data_page_offset + 60, chunk.data_page_offset + chunk.total_compressed_size)] ^= 1 << rng.randrange(8)
        (tmp_path / "s.parquet").write_bytes(data)
        with pytest.raises(CourseError, match="row group 0"): read_row_group(tmp_path / "s.parquet", 0)


# shards

def test_write_corpus_loses_nothing_and_is_seeded(shards, tmp_path):
    assert sorted(documents(list_shards(shards, "all"))) == sorted(TEXTS)
    assert len(list_shards(shards, "train")) == 3 and list_shards(shards, "val") == list_shards(shards, "all")[-1:]
    write_corpus(tmp_path / "again", list(TEXTS), num_shards=4)
    write_corpus(tmp_path / "other", list(TEXTS), num_shards=4, seed=1)
    read = lambda name: list(documents(list_shards(tmp_path / name, "all")))
    assert read("c") == read("again") != read("other")
    assert pq.read_schema(list_shards(shards)[0]).names == ["text"] and pq.read_schema(list_shards(shards)[0]).field("text").type == pa.string()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_the_documents(shards, world):
    parts = [list(documents(list_shards(shards, "train"), r, world)) for r in range(world)]
    assert sorted(sum(parts, [])) == sorted(documents(list_shards(shards, "train"))) and all(parts)


def test_one_shard_or_none(tmp_path):
    with pytest.raises(CourseError, match="make one with"): list_shards(tmp_path)
    write_shard(tmp_path / "shard_00000.parquet", TEXTS, 10)
    with pytest.raises(CourseError, match="one shard only"): list_shards(tmp_path)
    with pytest.raises(CourseError, match="unknown split"): list_shards(tmp_path, "dev")


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def write_texts(path, n=60, word="cat"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"The {word} number {i} sat on the mat."}) + "\n" for i in range(n)))
    return str(path)


@pytest.mark.parametrize("lost", [0, 7, 15])
def test_a_lost_shard_is_noticed(tmp_path, base, lost):
    "The last one most of all: without it the last training shard would be the validation set."
    source = write_texts(tmp_path / "t.jsonl")
    make_corpus(source)
    path = list_shards(base / "data/t", "all")[lost]
    content = path.read_bytes()
    path.unlink()
    for split in ("train", "val", "all"):
        with pytest.raises(CourseError, match=f"should hold 16 shards, and {path.name} is gone: make the corpus again"): list_shards(base / "data/t", split)
    make_corpus(source)
    assert path.read_bytes() == content and list_shards(base / "data/t", "val")[0].name == "shard_00015.parquet"


def test_a_damaged_corpus_json_is_named(tmp_path, base):
    source = write_texts(tmp_path / "t.jsonl")
    make_corpus(source)
    for content in ("[1]", "null", "{}", '{"shards": "16"}', '{"shards": 16, "request": 3}', '{"sha'):
        (base / "data/t/corpus.json").write_text(content)
        for f in (lambda: list_shards(base / "data/t"), lambda: make_corpus(source)):
            with pytest.raises(CourseError, match="corpus.json"): f()


def test_parquet_files_of_any_name(tmp_path):
    "A folder without corpus.json: all parquet files, by name; hidden ones and others are left alone."
    for name in ("part-b", "part-a", "train-00000-of-00001", "._part-c"): write_shard(tmp_path / f"{name}.parquet", [name] * 3, 2)
    (tmp_path / "notes.txt").write_text("x")
    assert [p.stem for p in list_shards(tmp_path)] == ["part-a", "part-b"] and list_shards(tmp_path, "val")[0].stem == "train-00000-of-00001"
    assert list(documents(list_shards(tmp_path))) == ["part-a"] * 3 + ["part-b"] * 3


def test_corpora_of_one_name_do_not_replace_each_other(tmp_path, base, monkeypatch):
    first, second = write_texts(tmp_path / "a/book.jsonl"), write_texts(tmp_path / "b/book.jsonl", word="dog")
    made = make_corpus(first)
    with pytest.raises(CourseError, match=f"holds the corpus made from {first}: choose another folder .* --out-dir"): make_corpus(second)
    with pytest.raises(CourseError, match="--out-dir"): make_corpus("docstrings", base / "data/book")
    with pytest.raises(CourseError, match="--out-dir"): make_corpus("climbmix", base / "data/book")
    assert "cat" in next(documents(list_shards(base / "data/book"))) and make_corpus(first) == made
    assert make_corpus(second, base / "data/other")["documents"] == 60
    monkeypatch.chdir(tmp_path / "a")
    assert make_corpus("book.jsonl") == made, "the same file, named from another folder"


def test_a_corpus_made_by_a_relative_path_is_known_again(tmp_path, base, monkeypatch):
    "As earlier versions wrote it."
    source = write_texts(tmp_path / "book.jsonl")
    made = make_corpus(source)
    made["request"]["source"] = "book.jsonl"
    (base / "data/book/corpus.json").write_text(json.dumps(made))
    monkeypatch.chdir(tmp_path)
    assert make_corpus("book.jsonl") == made == make_corpus(source)


@pytest.mark.parametrize("name", ["docstrings", "climbmix", "fineweb-edu"])
def test_names_of_the_course_are_reserved(tmp_path, base, name):
    source = write_texts(tmp_path / f"{name}.jsonl")
    for out_dir in (None, base / "data" / name):
        with pytest.raises(CourseError, match=f"{name} is the name of a corpus of the course"): make_corpus(source, out_dir)
    assert not (base / "data").exists() and make_corpus(source, tmp_path / name)["documents"] == 60


def test_a_file_where_the_folder_should_be(tmp_path):
    source = write_texts(tmp_path / "t.jsonl")
    (tmp_path / "file").write_text("mine")
    for out_dir in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        with pytest.raises(CourseError, match="file is a file, not a folder") as e: make_corpus(source, out_dir)
        assert "\n" not in str(e.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_leftovers_of_killed_processes_are_removed(tmp_path, base):
    source, dead = write_texts(tmp_path / "t.jsonl"), subprocess.Popen(["true"])
    dead.wait()
    data = base / "data"
    mine = [data / f".t.{pid}.tmp" for pid in (dead.pid, os.getpid(), 10**30)] + [data / f".tt.{dead.pid}.tmp"]
    others = [data / ".t.1.tmp", data / f".t.{os.getppid()}.tmp", data / ".t.x.tmp", data / f"t.{dead.pid}.tmp"]
    for folder in (*mine, *others): write_shard(folder / "shard_00099.parquet", ["rubbish"], 1)
    make_corpus(source)
    assert not any(p.exists() for p in mine) and all(p.exists() for p in others)
    assert sorted(p.name for p in (data / "t").iterdir()) == ["corpus.json", *(f"shard_{i:05d}.parquet" for i in range(16))]


GATHER = """
import time
from nanochat_course import corpus
corpus.python_sources = lambda: [(f"file {i}", "m") for i in range(10**4)]
def slow(path_module): time.sleep(.1)
corpus.file_documents = slow
print("reading", flush=True)
corpus.docstring_documents(2)
"""


def test_workers_end_with_a_killed_parent():
    program = subprocess.Popen([sys.executable, "-c", GATHER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert program.stdout.readline() == "reading\n"
    running = lambda: [w for w in workers if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]
    for _ in range(400):
        if len(workers := psutil.Process(program.pid).children()) == 2: break
        time.sleep(.05)
    program.kill()
    program.wait()
    for _ in range(200):
        if not running(): break
        time.sleep(.05)
    left = running()
    for w in left: w.kill()
    assert len(workers) == 2 and not left


def test_broken_shards_are_named(shards):
    paths = list_shards(shards, "train")
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-50])
    with pytest.raises(CourseError, match="shard_00001.parquet is truncated"): RowGroups(paths)
    with pytest.warns(UserWarning, match="shard_00001"): assert len({p for p, *_ in RowGroups(paths, skip_corrupt=True).known}) == 2
    paths[1].write_bytes(b"")
    with pytest.raises(CourseError, match="shard_00001"): check_shard(paths[1])
    meta = pq.read_metadata(paths[0])
    chunk = meta.row_group(2).column(0)
    data = bytearray(paths[0].read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 5] ^= 4
    paths[0].write_bytes(data)
    assert len(check_shard(paths[0])) == meta.num_row_groups                  # the footer is fine
    with pytest.raises(CourseError, match="shard_00000.parquet, row group 2"): read_row_group(paths[0], 2)
    paths[1].write_bytes(whole)
    with pytest.warns(UserWarning, match="row group 2"): n = len(list(documents(paths, skip_corrupt=True)))
    assert n == sum(len(list(documents([p]))) for p in paths[1:]) + meta.num_rows - meta.row_group(2).num_rows


def test_rows_missing_in_the_middle(shards):
    "A file whose footer promises more than there is in front of it."
    path = list_shards(shards)[0]
    data = path.read_bytes()
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:200] + data[-footer:])
    with pytest.raises(CourseError, match="row group [0-9]+: lies beyond"): check_shard(path)


def test_other_columns(tmp_path):
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(CourseError, match='no column "text"'): check_shard(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(CourseError, match="not string"): check_shard(tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": ["x", None], "id": [1, 2]}), tmp_path / "c.parquet")
    assert list(documents([tmp_path / "c.parquet"])) == ["x", ""]


# a user's text

def test_text_file(tmp_path):
    text = "".join(f"Paragraph {i}. " + "word " * (i % 90) + "\n\n" for i in range(300))
    (tmp_path / "book.txt").write_text(text)
    parts = read_source(tmp_path / "book.txt")
    assert len(parts) > 10 and "".join("".join(parts).split()) == "".join(text.split()) and max(map(len, parts)) < 5000
    assert max(map(len, split_text("x" * 100_000))) <= 10_000
    result = make_corpus(str(tmp_path / "book.txt"), tmp_path / "out")
    assert result["documents"] == len(parts) and sorted(documents(list_shards(tmp_path / "out", "all"))) == sorted(parts)
    stamp = list_shards(tmp_path / "out")[0].stat().st_mtime_ns
    assert make_corpus(str(tmp_path / "book.txt"), tmp_path / "out") == result and list_shards(tmp_path / "out")[0].stat().st_mtime_ns == stamp
    (tmp_path / "book.txt").write_text(text * 2)
    assert make_corpus(str(tmp_path / "book.txt"), tmp_path / "out")["bytes"] > result["bytes"]


def test_folder_jsonl_parquet(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.md").write_text("one")
    (tmp_path / "in" / "deep" / "b.txt").write_text("two", encoding="utf-8-sig")
    (tmp_path / "in" / ".hidden.txt").write_text("no")
    (tmp_path / "in" / "image.png").write_bytes(b"\xff\xfe")
    (tmp_path / "in" / "c.jsonl").write_text('{"text": "three"}\n\n{"text": "four", "id": 3}\n')
    write_shard(tmp_path / "in" / "d.parquet", ["five", ""], 1)
    assert sorted(read_source(tmp_path / "in")) == ["five", "four", "one", "three", "two"]


def test_long_texts_of_a_folder_are_cut_as_a_single_one_is(tmp_path):
    text = "".join(f"Paragraph {i}. " + "word " * (i % 90) + "\n\n" for i in range(300))
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.md"): (tmp_path / "in" / name).write_text(text)
    (tmp_path / "in" / "c.txt").write_text("short")
    parts = read_source(tmp_path / "in" / "a.txt")
    assert len(parts) > 10 and read_source(tmp_path / "in") == parts * 2 + ["short"]


@pytest.mark.parametrize("name, content, message", [
    ("missing.txt", None, "does not exist"), ("empty.txt", b"", "is empty"), ("blank.txt", b" \n\n ", "is empty"), ("latin.txt", "Käse".encode("latin-1"), "not UTF-8"),
    ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2, is not JSON"), ("s.jsonl", b'{"text": "x"}\n{"text": "\\ud800 x"}', r"s.jsonl, line 2: its text has half a character .* at 0"),
    ("n.jsonl", b'{"text": "x"}\n{"text": ' + b"[" * 200_000, "n.jsonl, line 2, is not JSON"), ("i.jsonl", b'\n{"text": "x", "n": ' + b"1" * 5000 + b"}", "i.jsonl, line 2, is not JSON"), ("b.jsonl", b'{"body": "x"}', 'has no "text"'), ("c.jsonl", b'[1]', 'has no "text"'),
    ("d.parquet", b"PAR1 no PAR1", "not a parquet file"), ("one.txt", b"The cat sat on the mat.", "at least two"),
])
def test_bad_sources(tmp_path, name, content, message):
    if content is not None: (tmp_path / name).write_bytes(content)
    with pytest.raises(CourseError, match=message) as e: make_corpus(str(tmp_path / name), tmp_path / "out")
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "book.txt").write_text("The cat sat.\n\n" * 2000)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(CourseError, match="choose another folder"): make_corpus(str(tmp_path / "book.txt"), tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as e: run_main(corpus, CorpusConfig, ["--source", str(tmp_path / "nothing")])
    assert e.value.code == 2 and "does not exist" in capsys.readouterr().err


def test_command_says_where_the_corpus_is(tmp_path, base, capsys):
    source = write_texts(tmp_path / "my words.jsonl")
    run_main(corpus, CorpusConfig, ["--source", source])
    assert capsys.readouterr().out.endswith(f"in {base}/data/my words; the stages find it with --corpus 'my words'\n")
    run_main(corpus, CorpusConfig, ["--source", source, "--out-dir", str(tmp_path / "elsewhere")])
    assert f"--corpus {tmp_path}/elsewhere\n" in capsys.readouterr().out
    assert corpus_dir(f"{tmp_path}/elsewhere") == tmp_path / "elsewhere" and corpus_dir("my words") == base / "data/my words"


def test_docstring_records(tmp_path):
    texts = ["json.dumps(obj, …)\n\nSerialize obj\nto text.\n\nMore.", "module json\n\nAbout json.", "class a.B\n\nA class of things.", "a._c(x)\n\nPrivate.", "free text"] * 3
    write_corpus(tmp_path, texts, num_shards=2)
    assert set(docstring_records(tmp_path, "all")) == {("json.dumps", "(obj, …)", "Serialize obj to text."), ("a.B", "", "A class of things.")}
    assert {r[0] for r in docstring_records(tmp_path, "all", public=False)} == {"json.dumps", "a.B", "a._c"}


@pytest.mark.timeout(200)
def test_docstring_corpus():
    "The whole thing, once per session; other tests find it in the base folder."
    result = make_corpus()
    assert result["documents"] > 5000 and result["bytes"] > 2e6 and result["shards"] == 16
    texts = list(documents(list_shards(__import__("nanochat_course.common").common.base_dir() / "data" / "docstrings", "all")))
    assert len(texts) == result["documents"] == len(set(texts)) and sum(len(t.encode()) for t in texts) == result["bytes"]
    assert any(t.startswith("json.dumps(obj") for t in texts) and any(t.startswith("len(obj") for t in texts)
    assert sum("nanochat_course" in t for t in texts) == 0 and sum(">>> " in t for t in texts) / len(texts) < .02


# downloads

class Hub(Server):
    "A server that answers request number n as `plan[n]` says; afterwards properly."
    def __init__(self, payload, *plan, sha=None):
        self.payload, self.plan, self.sha, self.ranges, self.etag = payload, list(plan), sha, [], '"v1"'
        super().__init__()

    def get(self, h):
        if self.sha and not h.path.startswith("/cdn"):
            return answer(302, Location="/cdn" + h.path, X_Linked_ETag=f'"{self.sha}"', Content_Length="0")(h)
        step = self.plan.pop(0) if self.plan else "ok"
        asked = h.headers.get("Range")
        self.ranges.append(asked)
        if isinstance(step, int): return h.send_error(step)
        if callable(step): step = step(self) or "ok"
        start = int(asked[6:-1]) if asked and step != "no ranges" and h.headers.get("If-Range") == self.etag else 0
        if start >= len(self.payload): return h.send_error(416)
        body = self.payload[start:]
        h.send_response(206 if start else 200)
        h.send_header("ETag", self.etag)
        if start: h.send_header("Content-Range", f"bytes {start}-{len(self.payload) - 1}/{len(self.payload)}")
        h.send_header("Content-Length", str(len(body) + (100 if step == "wrong size" else 0)))
        h.end_headers()
        if step == "flip": body = bytes([body[0] ^ 1]) + body[1:]
        h.wfile.write(body[:len(body) // 2] if step == "cut" else body)


@pytest.fixture
def payload(tmp_path):
    rng = random.Random(0)
    write_shard(tmp_path / "p.parquet", ["".join(rng.choices("abcdefgh ", k=500)) for _ in range(100)], 20)
    return (tmp_path / "p.parquet").read_bytes()


def new_version(hub): hub.payload, hub.etag = hub.other, '"v2"'


@pytest.mark.parametrize("plan, ranges", [
    ((), [None]), (("cut",), [None, "bytes=half-"]), ((500, 503), [None] * 3), (("cut", 500, "cut"), 4), (("wrong size",), 3), (("cut", "no ranges"), 2), ((429,), 2),
])
def test_download(tmp_path, payload, plan, ranges):
    with Hub(payload, *plan) as hub: path = download(hub.url + "/s", tmp_path / "d" / "s.parquet", wait=.01, timeout=5)
    assert path.read_bytes() == payload and [p.name for p in path.parent.iterdir()] == ["s.parquet"]
    if isinstance(ranges, int): assert len(hub.ranges) == ranges
    else: assert hub.ranges == [r and r.replace("half", str(len(payload) // 2)) for r in ranges]


def test_download_of_a_file_that_changes(tmp_path, payload):
    write_shard(tmp_path / "q.parquet", ["other"] * 500, 100)
    with Hub(payload, "cut", new_version) as hub:
        hub.other = (tmp_path / "q.parquet").read_bytes() + b""
        path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert path.read_bytes() == hub.other


def test_download_checksum(tmp_path, payload):
    sha = hashlib.sha256(payload).hexdigest()
    with Hub(payload, "flip", "cut", sha=sha) as hub: assert download(hub.url + "/s", tmp_path / "s.parquet", wait=.01).read_bytes() == payload
    assert hub.ranges[1] is None and hub.ranges[2].startswith("bytes=")       # after a wrong checksum from the beginning, after a cut onwards
    with Hub(payload, sha="0" * 64) as hub, pytest.raises(CourseError, match="checksum is wrong"): download(hub.url + "/s", tmp_path / "t.parquet", attempts=2, wait=.01)
    assert not (tmp_path / "t.parquet").exists()


def test_download_gives_up(tmp_path, payload):
    with Hub(payload, 404) as hub, pytest.raises(CourseError, match="HTTP 404"): download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert len(hub.ranges) == 1                                               # no use in asking again
    with Hub(payload, 500, 500) as hub, pytest.raises(CourseError, match="in 2 attempts"): download(hub.url + "/s", tmp_path / "s.parquet", attempts=2, wait=.01)
    with Hub(b"<html>please log in</html>") as hub, pytest.raises(CourseError, match="not a parquet file"): download(hub.url + "/s", tmp_path / "s.parquet", attempts=2, wait=.01)
    assert not (tmp_path / "s.parquet").exists()
    with pytest.raises(CourseError, match="could not be downloaded"): download("http://127.0.0.1:9/s", tmp_path / "s.parquet", attempts=2, wait=.01)


def test_download_goes_on_in_another_process(tmp_path, payload):
    with Hub(payload, "cut", "cut") as hub:
        with pytest.raises(CourseError): download(hub.url + "/s", tmp_path / "s.parquet", attempts=1)
        assert (tmp_path / "s.parquet.part").stat().st_size == len(payload) // 2
        download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert hub.ranges[1] == f"bytes={len(payload) // 2}-"


def test_hub_corpus(tmp_path, payload, monkeypatch):
    with Hub(payload) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        result = make_corpus("climbmix", tmp_path / "c", num_shards=2)
        names = [p.name for p in list_shards(tmp_path / "c", "all")]
        assert names == ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"] and result["documents"] == 300
        assert make_corpus("climbmix", tmp_path / "c", num_shards=2) == result and len(hub.ranges) == 3
        assert make_corpus("climbmix", tmp_path / "c", num_shards=3)["shards"] == 4 and len(hub.ranges) == 4
    assert json.loads((tmp_path / "c" / "corpus.json").read_text())["shards"] == 4
    with pytest.raises(CourseError, match="6542 training shards"): make_corpus("climbmix", tmp_path / "d", num_shards=7000)


# servers that are wrong in other ways

def first_half(payload, etag='"v1"'): return answer(200, payload[:len(payload) // 2], ETag=etag, Content_Length=str(len(payload)))


def test_a_part_of_another_version_is_not_believed(tmp_path, payload):
    "A server that ignores If-Range: the file would be made of two versions, of one length, and nobody would know."
    write_shard(tmp_path / "q.parquet", ["".join(random.Random(1).choices("abcdefgh ", k=500)) for _ in range(100)], 20)
    other = (tmp_path / "q.parquet").read_bytes().ljust(len(payload), b"x")
    half, n = len(payload) // 2, len(payload)
    rest = answer(206, other[half:n], ETag='"v2"', Content_Range=f"bytes {half}-{n - 1}/{n}", Content_Length=str(n - half))
    with Raw(first_half(payload), rest, whole(payload, '"v2"')) as hub: path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert path.read_bytes() == payload and len(hub.seen) == 3 and "Range" not in hub.seen[2]


@pytest.mark.parametrize("content_range", [None, "bytes 0-{last}/{n}", "bytes {after}-{last}/{n}", "pages 1-2/3", "bytes x-y/z", ""])
def test_a_part_from_elsewhere_is_not_believed(tmp_path, payload, content_range):
    half, n = len(payload) // 2, len(payload)
    headers = {} if content_range is None else dict(Content_Range=content_range.format(last=n - 1, n=n, after=half + 1))
    rest = answer(206, payload[half:], ETag='"v1"', Content_Length=str(n - half), **headers)
    with Raw(first_half(payload), rest, whole(payload)) as hub: path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert path.read_bytes() == payload and len(hub.seen) == 3 and "Range" not in hub.seen[2]


def test_a_size_that_is_a_lie(tmp_path, payload):
    "It announces half of what it has: the bytes are all there, the footer is not."
    with Raw(answer(200, payload, ETag='"v1"', Content_Length=str(len(payload) // 2)), whole(payload)) as hub:
        assert download(hub.url + "/s", tmp_path / "s.parquet", wait=.01).read_bytes() == payload
    assert len(hub.seen) == 2 and "Range" not in hub.seen[1]


def test_a_rest_that_is_garbage(tmp_path, payload):
    "Right place, right version, right length, wrong bytes."
    half, n = len(payload) // 2, len(payload)
    rest = answer(206, b"x" * (n - half), ETag='"v1"', Content_Range=f"bytes {half}-{n - 1}/{n}", Content_Length=str(n - half))
    with Raw(first_half(payload), rest, whole(payload)) as hub: path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert path.read_bytes() == payload and len(hub.seen) == 3 and "Range" not in hub.seen[2]


def test_a_total_that_is_not_told(tmp_path, payload):
    "`bytes 5-9/*` is allowed: the range itself says where the body ends."
    half, n = len(payload) // 2, len(payload)
    rest = answer(206, payload[half:], ETag='"v1"', Content_Range=f"bytes {half}-{n - 1}/*", Content_Length=str(n - half))
    with Raw(first_half(payload), rest) as hub: path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert path.read_bytes() == payload and len(hub.seen) == 2


def test_an_etag_that_is_gone_is_forgotten(tmp_path, payload):
    "The second version has no ETag: its part must not be continued under the first one's."
    half, n = len(payload) // 2, len(payload)
    second = answer(200, payload[:half], Content_Length=str(n))
    with Raw(first_half(payload), second, whole(payload)) as hub: path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert path.read_bytes() == payload and [s.get("Range") for s in hub.seen] == [None, f"bytes={half}-", None]


def test_a_body_without_end_is_left(tmp_path):
    sent = []
    def endless(h):
        answer(200)(h)
        while sum(sent) < 50_000_000:
            h.wfile.write(b"x" * 100_000)
            sent.append(100_000)
    with Raw(endless) as hub, pytest.raises(CourseError, match="longer than 1,000,000 bytes"):
        download(hub.url + "/s", tmp_path / "s.parquet", attempts=1, most=1_000_000)
    assert sum(sent) < 50_000_000 and not list(tmp_path.glob("*.part"))
    with Raw(answer(200, b"x", Content_Length=str(10**12))) as hub, pytest.raises(CourseError, match="announces 1,000,000,000,000 bytes"):
        download(hub.url + "/s", tmp_path / "s.parquet", attempts=1)


def test_a_body_that_drips_is_asked_again(tmp_path, payload):
    "And nothing that came is lost."
    n = len(payload)
    def drip(h):
        answer(200, ETag='"v1"', Content_Length=str(n))(h)
        for i in range(200):
            h.wfile.write(payload[i:i + 1])
            h.wfile.flush()
            time.sleep(.02)
    rest = answer(206, lambda h: payload[int(h.headers["Range"][6:-1]):], ETag='"v1"', Content_Range=lambda h: f"bytes {h.headers['Range'][6:-1]}-{n - 1}/{n}")
    with Raw(drip, rest) as hub: path = download(hub.url + "/s", tmp_path / "s.parquet", wait=.01, timeout=.5, slowest=1000)
    assert path.read_bytes() == payload and len(hub.seen) == 2 and 1 <= int(hub.seen[1]["Range"][6:-1]) < 200


def test_a_stall_loses_nothing(tmp_path, payload):
    stopped = threading.Event()
    def stall(h):
        answer(200, payload[:777], ETag='"v1"', Content_Length=str(len(payload)))(h)
        stopped.wait(20)
    with Raw(stall) as hub:
        with pytest.raises(CourseError, match="1 attempts .*imed out"): download(hub.url + "/s", tmp_path / "s.parquet", attempts=1, timeout=.3)
        stopped.set()
    assert (tmp_path / "s.parquet.part").read_bytes() == payload[:777]


@pytest.mark.parametrize("asked", [lambda: "2", lambda: email.utils.formatdate(time.time() + 3, usegmt=True)], ids=["seconds", "date"])
def test_a_pause_that_is_asked_for_is_kept(tmp_path, payload, asked):
    times = []
    def busy(h): times.append(time.monotonic()); answer(429, Retry_After=asked())(h)
    def good(h): times.append(time.monotonic()); whole(payload)(h)
    with Raw(busy, good) as hub: download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert times[1] - times[0] >= 1.9


@pytest.mark.parametrize("asked", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT", "9" * 500])
def test_a_pause_that_is_too_long_ends_the_download(tmp_path, asked):
    with Raw(answer(503, Retry_After=asked)) as hub, pytest.raises(CourseError, match="asks for a pause of [0-9]+ minutes: run the same command again then"):
        download(hub.url + "/s", tmp_path / "s.parquet", wait=.01)
    assert len(hub.seen) == 1


@pytest.mark.parametrize("asked", ["soon", "-5", "", "Fri, 31 Dec 1999 23:59:59 GMT", "Wed", "1e9", "٣"])
def test_a_pause_that_is_nonsense(tmp_path, payload, asked):
    with Raw(lambda h: h.wfile.write(f"HTTP/1.1 503 x\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n".encode()), whole(payload)) as hub:
        assert download(hub.url + "/s", tmp_path / "s.parquet", wait=.01).read_bytes() == payload


@pytest.mark.parametrize("line", [b"\x1b[2J\x1b]0;owned\x07\r\n\r\n", b"HTTP/1.1 2\x1b[31m00 x\r\n\r\n"])
def test_foreign_text_does_not_reach_the_terminal(tmp_path, line):
    with Raw(lambda h: h.wfile.write(line)) as hub, pytest.raises(CourseError) as e: download(hub.url + "/s", tmp_path / "s.parquet", attempts=1)
    assert str(e.value).isprintable()
    pq.write_table(pa.table({"a\x1b[2J\nb": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(CourseError, match="no column") as e: check_shard(tmp_path / "c.parquet")
    assert str(e.value).isprintable()


def test_the_token_goes_to_one_server_only(tmp_path, payload, monkeypatch):
    "Kept over a redirect inside the server, not shown to the one that stores the data."
    with Raw(whole(payload)) as store, Raw() as hub:
        hub.answers = [lambda h: answer(307, Location="/moved" + h.path if not h.path.startswith("/moved") else store.url + "/data", Content_Length="0")(h)]
        monkeypatch.setenv("HF_TOKEN", " secret\n")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        make_corpus("climbmix", tmp_path / "c", num_shards=1)
    assert len(hub.seen) == 4 and {s.get("Authorization") for s in hub.seen} == {"Bearer secret"}
    assert len(store.seen) == 2 and not any("secret" in str(s) for s in store.seen)
    with Raw(answer(401)) as hub, pytest.raises(CourseError, match="HF_TOKEN"): download(hub.url + "/s", tmp_path / "s.parquet")
    assert "Authorization" not in hub.seen[0]


# a corpus that is read while it is still on its way

@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    with Shards(tmp_path / "made") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        for event in hub.open.values(): event.set()


def heads(texts): return [t[:t.index(":") + 2] for t in texts]


def test_the_first_few_are_waited_for_and_the_rest_is_announced(tmp_path, hub, capsys):
    hub.release(0, 1, 6542)
    made = make_corpus("climbmix", tmp_path / "c", num_shards=6, first_shards=2)
    assert made["shards"] == 7 and made["here"] == 3 and sorted(hub.order) == ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"]
    with pytest.raises(CourseError, match=r"shard_00002.parquet of .* is not here, and nobody is downloading it: start"): list_shards(tmp_path / "c")
    assert announced(tmp_path / "c") == "climbmix, 7 shards" and not arriving(tmp_path / "c")
    hub.release(*range(6))
    done = make_corpus("climbmix", tmp_path / "c", num_shards=6)
    assert done["documents"] == 420 and "here" not in done and done == read_corpus(tmp_path / "c")
    assert len(hub.order) == 7 and heads(documents(list_shards(tmp_path / "c"))) == hub.texts(*range(6))


def test_a_reader_waits_at_the_edge_and_reads_in_the_announced_order(tmp_path, hub, monkeypatch):
    "Shards arrive from the last to the first; the texts come in the order of their numbers."
    hub.release(0, 6542)
    make_corpus("climbmix", tmp_path / "c", num_shards=6, first_shards=1)
    rest = threading.Thread(target=make_corpus, args=("climbmix", tmp_path / "c"), kwargs=dict(num_shards=6))
    rest.start()
    while not arriving(tmp_path / "c"): time.sleep(.01)
    seen, texts = [], documents(list_shards(tmp_path / "c"))
    for _ in range(60): seen.append(next(texts))                              # what is here is read at once
    hub.release(4)                                                            # four at a time are asked for: 1 to 4
    while not (tmp_path / "c" / "shard_00004.parquet").exists(): time.sleep(.01)
    reader = threading.Thread(target=lambda: seen.extend(texts))
    reader.start()
    time.sleep(.3)
    assert len(seen) == 60 and reader.is_alive()                              # shard 1 is not here: nothing is read out of turn
    hub.release(5, 3, 2, 1)
    for thread in (rest, reader): thread.join(30)
    assert heads(seen) == hub.texts(*range(6))
    assert hub.order.index("shard_00004.parquet") < hub.order.index("shard_00001.parquet")


def test_a_download_that_dies_is_named(tmp_path, hub):
    "A process that downloads is killed: the reader says so, with the command that goes on."
    hub.release(0, 6542)
    command = [sys.executable, "-m", "nanochat_course.corpus", "--source", "climbmix", "--num-shards", "3", "--out-dir", str(tmp_path / "c")]
    with open(tmp_path / "log", "w") as log: process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ, HF_ENDPOINT=hub.url))
    while not (tmp_path / "c" / "shard_00000.parquet").exists(): time.sleep(.05)
    assert arriving(tmp_path / "c")
    with pytest.raises(CourseError, match=r"in use by process \d+ \(download\)"): make_corpus("climbmix", tmp_path / "c", num_shards=3)
    texts = documents(list_shards(tmp_path / "c"))
    assert heads(next(texts) for _ in range(60)) == hub.texts(0)
    process.kill()
    process.wait()
    os.utime(tmp_path / "c" / ".download", (0, 0))                            # a minute later
    (tmp_path / "c" / "download.log").write_text("error: the line\nis cut\n\n")
    message = r"shard_00001.parquet of .* is not here, and nobody is downloading it \(.*download.log ends with: is cut\): start the speedrun again, " \
              r"or python -m nanochat_course.corpus --source climbmix --num-shards 3; it goes on where it stopped"
    with pytest.raises(CourseError, match=message): next(texts)
    hub.release(1, 2)
    make_corpus("climbmix", tmp_path / "c", num_shards=3)
    assert heads(documents(list_shards(tmp_path / "c"))) == hub.texts(0, 1, 2)


def test_a_download_that_fails_ends_the_wait_at_once(tmp_path, hub):
    hub.release(0, 6542)
    make_corpus("climbmix", tmp_path / "c", num_shards=3, first_shards=1)
    (tmp_path / "c" / ".download").touch()
    texts = documents(list_shards(tmp_path / "c"))
    for _ in range(60): next(texts)
    hub.answers = [answer(404)]
    with pytest.raises(CourseError, match="HTTP 404"): make_corpus("climbmix", tmp_path / "c", num_shards=3)
    with pytest.raises(CourseError, match="nobody is downloading it: start"): next(texts)


def test_a_broken_shard_that_comes_late(tmp_path, hub):
    "It has a good name and bad bytes: found when its turn comes, or skipped."
    make = lambda name: (hub.release(0, 6542), make_corpus("climbmix", tmp_path / name, num_shards=2, first_shards=1), (tmp_path / name / ".download").touch())
    for name, skip in (("a", False), ("b", True)):
        make(name)
        texts = documents(list_shards(tmp_path / name), skip_corrupt=skip)
        for _ in range(60): next(texts)
        (tmp_path / name / "shard_00001.parquet").write_bytes(b"no parquet")
        if skip:
            with pytest.warns(UserWarning, match="shard_00001.parquet is truncated"): assert not list(texts)
        else:
            with pytest.raises(CourseError, match="shard_00001.parquet is truncated"): next(texts)


def test_shards_for():
    assert shards_for(5.84e9) == 123 and shards_for(1) == 1
    assert all((shards_for(t) - 1) * 250e6 < 1.1 * 4.75 * t <= shards_for(t) * 250e6 for t in (1e8, 1e9, 2.5e9, 9.99e9))
