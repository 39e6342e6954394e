"The tokenizer against independent truth: a trainer that recounts everything, rustbpe, tiktoken, and any text hypothesis can think of."
import gc, json, os, random, re, signal, subprocess, sys, sysconfig, time
from collections import Counter
from pathlib import Path
import numpy as np, psutil, pytest, regex, tiktoken, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from nanochat_course.common import CourseError
from nanochat_course.tokenizer import (BPE, GPT2_PATTERN, NOT_LATIN, SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, count_words, count_words_parallel,
                                       cut_runs, latin_pattern, learn_merges, pieces, tokenizer_digest, tokens_html, train_bpe, word_finder)

SENTENCE = "The cat sat on the mat."


@pytest.fixture(params=[(0, 8), (1, 1), (3, 2), (3, 10**9), (32, 8), (32, 1)])
def few(request, monkeypatch):
    "Pairs with fewer places than the first number go through a loop, the others through numpy (0: numpy alone); the second is how far the floor is lowered at a time."
    monkeypatch.setattr("nanochat_course.tokenizer.FEW", request.param[0])
    monkeypatch.setattr("nanochat_course.tokenizer.DEPTH", request.param[1])


def naive_merges(words, num_merges):
    "Recount all pairs before each merge; shares no code with the trainer."
    table, merges = [(list(w.encode()), n) for w, n in words.items()], []
    while len(merges) < num_merges:
        counts = Counter()
        for ids, n in table:
            for i in range(len(ids) - 1): counts[ids[i], ids[i + 1]] += n
        if not counts: break
        top = max(counts.values())
        pair = sorted(p for p, n in counts.items() if n == top)[0]
        for ids, _ in table:
            i = 0
            while i < len(ids) - 1:
                if (ids[i], ids[i + 1]) == pair: ids[i:i + 2] = [256 + len(merges)]
                i += 1
        merges.append(pair)
    return merges


@pytest.fixture(scope="module")
def docs():
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
    return [f.read_text(errors="replace") for f in files]


@pytest.fixture(scope="module")
def tok(docs): return train_bpe(docs, 1500, num_processes=1)


# --- training ---

def test_a_recount_that_finds_nothing_lowers_the_floor_all_the_same(monkeypatch):
    "The bound that spares the sorting may lie above every true count: here all pairs share one number."
    words = {"abcdefgh": 3, "ijklmnop": 2, "aab": 1}
    class Shared:
        "numpy, but every bin holds everything."
        def __getattr__(self, name): return getattr(np, name)
        def bincount(self, x, weights): return np.full(len(np.bincount(x)), weights.sum())
    monkeypatch.setattr("nanochat_course.tokenizer.np", Shared())
    assert learn_merges(words, 50) == naive_merges(words, 50)


def test_too_many_words_for_the_vocabulary():
    with pytest.raises(CourseError, match="too many distinct words"): learn_merges({"ab" * 2**21: 1}, 2**21)


@settings(max_examples=200, deadline=None)
@given(st.text("a1 .,'\n\r\t\x1c\x85\xa0é猫", max_size=60), st.integers(1, 9))
def test_pieces_have_the_words_of_the_whole(text, size):
    cut = list(pieces(text, size))
    assert "".join(cut) == text
    find = regex.compile(SPLIT_PATTERN).findall
    assert [w for piece in cut for w in find(piece)] == find(text)


def test_a_long_text_is_cut():
    assert len(list(pieces("one line\n" * 10_000))) > 4 and list(pieces("")) == [""]
    text = ["x y\n" * 400_000 + "猫"]
    assert count_words_parallel(text, num_processes=2) == count_words(text)


@pytest.mark.parametrize("words", [{"aaaaaaa": 1}, {"aaa": 2, "aaaa": 1, "baaab": 3}, {"abab": 1, "baba": 1, "ababa": 5}, {"": 1, "x": 9}, {},
                                   {"éé": 2, "猫猫猫": 1},
                                   {"\0\0a": 3, "a\0": 3}])
def test_learn_merges_small(words, few): assert learn_merges(words, 50) == naive_merges(words, 50)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abc", max_size=14), st.integers(1, 5), max_size=8))
def test_learn_merges_property(few, words): assert learn_merges(words, 30) == naive_merges(words, 30)


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_while_merges_are_learned(collecting):
    "Its many lists have no cycles; afterwards the collector is what it was, whatever happened."
    rounds, note = [], lambda phase, info: rounds.append(phase)
    words = {f"w{i:x}": 1 + i % 7 for i in range(3000)}
    (gc.enable if collecting else gc.disable)()
    gc.callbacks.append(note)
    try:
        learn_merges(words, 300)
        assert not rounds and gc.isenabled() == collecting
        with pytest.raises(AttributeError): learn_merges({1: 2}, 3)
        assert gc.isenabled() == collecting
    finally:
        gc.callbacks.remove(note)
        gc.enable()


def test_learn_merges_is_order_free(docs):
    words = count_words(docs[:5])
    items = list(words.items())
    random.Random(0).shuffle(items)
    assert learn_merges(words, 150) == learn_merges(dict(items), 150) == naive_merges(words, 150)


def test_parallel_counting(docs):
    texts = docs * 3
    assert sum(map(len, texts)) > 3 * 2**20, "too short to start processes"
    assert count_words_parallel(texts, num_processes=2) == count_words(texts)
    assert count_words_parallel(iter(texts), num_processes=1) == count_words(texts)


LATIN = "".join(c for c in map(chr, [*range(0x250), *range(0x2000, 0x2070)]) if not 0x1c <= ord(c) <= 0x1f)


@pytest.mark.parametrize("pattern", [SPLIT_PATTERN, GPT2_PATTERN])
def test_the_fast_engine_cuts_like_the_able_one(pattern):
    "`re` with letters written out against `regex` with \\p{L}: each character of its alphabet in several places, then any text of them."
    fast, judge = re.compile(latin_pattern(pattern)).findall, regex.compile(pattern).findall
    assert not NOT_LATIN.search(LATIN) and all(NOT_LATIN.search(c) for c in "\x1c\x1f\u0250\u1fff\u2070α猫🐈\ud800")
    for c in LATIN:
        for text in (c, c * 5, f"a{c}b", f" {c}{c} 1{c}2", f"'{c}", f"'{c}e x", f"\n {c}\r{c}  "): assert fast(text) == judge(text), ascii(text)
    rng = random.Random(0)
    for alphabet in (LATIN, "aZéſ sdmtlv'’ \t\n\r\x85\xa0\u2003\u2028.,1²½", " \n\r\ta'."):
        for _ in range(2000):
            text = "".join(rng.choices(alphabet, k=rng.randrange(40)))
            assert fast(text) == judge(text), ascii(text)


def test_words_are_those_of_the_pattern(docs):
    for pattern in (SPLIT_PATTERN, GPT2_PATTERN, r"\w+|\W"):
        for text in [*docs[:20], "a\x1cb \x1f c", "猫 sat, 12345", "’s naïve ŀ \u2028\u200b ²"]: assert word_finder(pattern)(text) == regex.findall(pattern, text)
    assert count_words(["a b", "a", " b 猫"]) == {"a": 2, " b": 2, " 猫": 1}


WORKERS = """
import os, sys, time
from nanochat_course.tokenizer import count_words_parallel
def texts():
    for i in range(5): yield "word " * 300_000
    print("reading", flush=True)
    while True:
        time.sleep(.05)
        yield "word " * 300_000
count_words_parallel(texts(), num_processes=2)
"""


def running(children):
    "Of these processes, those that are alive and no zombies."
    return [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


def kill_one(which):
    "Start a program that counts in two processes, kill it or one of its workers, and return it and its workers."
    program = subprocess.Popen([sys.executable, "-c", WORKERS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "reading\n"
    for _ in range(200):
        if len(workers := psutil.Process(program.pid).children()) == 2: break
        time.sleep(.05)
    os.kill(workers[0].pid if which == "worker" else program.pid, signal.SIGKILL)
    return program, workers


def test_workers_end_with_their_parent():
    program, workers = kill_one("parent")
    program.wait(20)
    for _ in range(200):
        if not running(workers): break
        time.sleep(.05)
    left = running(workers)
    for w in left: w.kill()
    assert len(workers) == 2 and not left, "processes that count words wait for ever for a parent that is dead"


def test_a_killed_worker_is_named():
    program, workers = kill_one("worker")
    try: out, err = program.communicate(timeout=60)
    finally: program.kill()
    assert program.returncode == 1 and "a process that counted words was killed" in err.splitlines()[-1]
    assert not running(workers)


def test_rustbpe_same_merges(docs):
    rustbpe = pytest.importorskip("rustbpe")
    for vocab_size in (300, 3000):
        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(iter(docs), vocab_size, pattern=SPLIT_PATTERN)
        ranks = {bytes(t): i for t, i in theirs.get_mergeable_ranks()}
        ours = train_bpe(docs, vocab_size, special_tokens=())
        assert ours.vocab == sorted(ranks, key=ranks.get)


def test_rustbpe_tie_rule():
    "Pairs that all stand once: the merges tell the rule, whatever it is, and it is ours."
    rustbpe = pytest.importorskip("rustbpe")
    for texts in (["zy yx xw wv ab"], ["ba ab cb bc ca ac"], ["aaaa aaa bbb bbbb abab baba"], ["the cat sat on the mat " * 3, "tac eht"]):
        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(iter(texts), 300, pattern=SPLIT_PATTERN)
        ranks = {bytes(t): i for t, i in theirs.get_mergeable_ranks()}
        assert train_bpe(texts, 300, special_tokens=()).vocab == sorted(ranks, key=ranks.get)


def test_rustbpe_same_merges_on_web_text(test_data):
    rustbpe = pytest.importorskip("rustbpe")
    texts = [json.loads(line)["text"] for line in open(test_data / "openwebtext/openwebtext-1000.jsonl", encoding="utf-8")]
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(texts), 8192 - 9, pattern=SPLIT_PATTERN)
    ranks = {bytes(t): i for t, i in theirs.get_mergeable_ranks()}
    assert train_bpe(texts, 8192).vocab == sorted(ranks, key=ranks.get)


def test_vocab_too_small():
    with pytest.raises(CourseError, match="at least 265"): train_bpe([SENTENCE], 264)
    assert train_bpe([SENTENCE], 265).merges == []


def test_odd_training_texts():
    assert train_bpe([], 300).vocab_size == 265
    assert train_bpe(["", ""], 300).vocab_size == 265
    assert train_bpe(["one string"], 270).vocab_size == 270
    assert train_bpe(["x" + " " * 1_000_000 + "y"], 275).decode([265]) == " " * 1024
    assert train_bpe(["lone \ud800 surrogate"], 300).vocab_size > 265
    with pytest.raises(CourseError, match="strings"): train_bpe([b"bytes"], 300)
    for one in ("story.txt", Path("story.txt")):                      # a string is a sequence of strings: its letters would be the texts
        with pytest.raises(CourseError, match=r"takes a list of texts: for one text give \[text\], for a file"): train_bpe(one, 300)


def test_split_pattern():
    cut = regex.compile(SPLIT_PATTERN).findall
    assert cut("I'll pay 12345 $!\n\n  now  x") == ["I", "'ll", " pay", " ", "12", "34", "5", " $!\n\n", " ", " now", " ", " x"]
    assert max(len(w) for w in cut("1234567890" * 5)) == 2


# --- encoding ---

def slow_encode(tok, text):
    rank, ids = {p: i for i, p in enumerate(tok.merges)}, []
    for word in regex.findall(tok.pattern, text):
        w = list(word.encode())
        while len(w) > 1:
            best = min(range(len(w) - 1), key=lambda i: rank.get((w[i], w[i + 1]), 1 << 30))
            if (w[best], w[best + 1]) not in rank: break
            w[best:best + 2] = [256 + rank[w[best], w[best + 1]]]
        ids += w
    return ids


def test_encode_is_merging_by_rank(tok, docs):
    for text in [SENTENCE, docs[-1][:20_000], "naïve 猫 🐈 3.14159\n\n\n  ok", "aaaaaaaaaaa  \t\t\n"]: assert tok.encode(text) == slow_encode(tok, text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back(text):
    tok = small_tokenizer()
    ids = tok.encode(text)
    assert tok.decode(ids) == text and ids == slow_encode(tok, text) and max(ids, default=0) < len(tok.vocab)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back(data):
    tok = small_tokenizer()
    assert tok.decode_bytes(tok.encode_bytes(data)) == data


_small = []
def small_tokenizer():
    if not _small: _small.append(train_bpe([SENTENCE * 3, "naïve café 猫 猫 0123 <|bos|> \n\n  " * 3], 340))
    return _small[0]


@pytest.mark.parametrize("text", [" ", "\t", "\n", "\u00a0", " \n", "\r\n"])
def test_a_million_white_characters(tok, text):
    long = "a" + text * (1_000_000 // len(text)) + "b"
    assert tok.decode(tok.encode(long)) == long
    assert tok.encode([long, "x"]) == [tok.encode(long), tok.encode("x")]


def test_cut_runs_changes_nothing_else(tok):
    for n in (1000, 5000, 60_000):
        long = "a" * 70_000 + " " * n + "b"
        assert cut_runs(long) == [long]
        assert tok.encode(long) == tok.core.encode_ordinary(long)


def test_encode_lists_and_ends(tok):
    texts = [SENTENCE, "", "a b", " " * 100_000]
    assert tok.encode(texts, num_threads=2) == [tok.encode(t) for t in texts]
    assert tok.encode(texts, prepend="<|bos|>", append=7) == [[tok.bos, *tok.encode(t), 7] for t in texts]
    assert tok.encode("") == [] and tok.encode([]) == [] and tok.decode([]) == ""
    with pytest.raises(CourseError, match="no special token"): tok.encode("x", prepend="<|nope|>")


def test_specials_in_text_are_text(tok):
    for name in SPECIAL_TOKENS:
        ids = tok.encode(f"a{name}b", prepend=name)
        assert ids[0] == tok.special(name) and tok.special(name) not in ids[1:] and tok.decode(ids[1:]) == f"a{name}b"


def test_ids_and_token_bytes(tok):
    assert tok.vocab[:256] == [bytes([b]) for b in range(256)]
    assert len(set(tok.vocab)) == len(tok.vocab) == tok.vocab_size - 9 and tok.vocab_size == 1500
    assert list(tok.special_ids.values()) == list(range(1491, 1500)) and tok.bos == 1491
    n = tok.token_bytes()
    assert n.dtype == torch.int32 and n.shape == (1500,) and n[1491:].sum() == 0 and n[tok.encode(SENTENCE)].sum() == len(SENTENCE)
    assert all(int(n[i]) == len(tok.decode_bytes([i])) for i in range(1491))


# --- conversations ---

CONVERSATION = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2? <|assistant_start|>"},
    {"role": "assistant", "content": [
    {"type": "text", "text": "It is "}, {"type": "python", "text": "2+2"}, {"type": "python_output", "text": "4"}, {"type": "text", "text": "4."}]},
    {"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Bye"}]}


def test_render_conversation(tok):
    ids, mask = tok.render_conversation(CONVERSATION)
    assert tok.decode(ids) == ("<|bos|><|user_start|>Be brief.\n\n2+2? <|assistant_start|><|user_end|><|assistant_start|>It is "
                               "<|python_start|>2+2<|python_end|><|output_start|>4<|output_end|>4.<|assistant_end|><|user_start|>Thanks<|user_end|><|assistant_start|>Bye<|assistant_end|>")
    learned = tok.decode([i for i, m in zip(ids, mask) if m])
    assert learned == "It is <|python_start|>2+2<|python_end|>4.<|assistant_end|>Bye<|assistant_end|>"
    assert [i for i in ids if i >= 1491].count(tok.special("<|assistant_start|>")) == 2, "the user's text wrote a special token"
    assert CONVERSATION["messages"][0]["role"] == "system", "the conversation was changed"
    short = tok.render_conversation(CONVERSATION, max_tokens=10)
    assert short == (ids[:10], mask[:10])


def test_render_for_completion(tok):
    ids = tok.render_for_completion(CONVERSATION)
    assert tok.decode(ids).endswith("<|user_start|>Thanks<|user_end|><|assistant_start|>") and ids[-1] == tok.special("<|assistant_start|>")
    without = {"messages": CONVERSATION["messages"][:-1]}
    assert tok.render_for_completion(without) == ids
    full = tok.render_conversation(CONVERSATION)[0]
    assert full[:len(ids)] == ids


@pytest.mark.parametrize("conversation, message", [({}, "a conversation is"), ({"messages": []}, "at least one"), ({"messages": ["hi"]}, "a conversation is"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "user's turn"), ({"messages": [{"role": "user", "content": "x"}] * 2}, "assistant's turn"),
    ({"messages": [{"role": "system", "content": "x"}]}, "followed by a user"),
    ({"messages": [{"role": "system", "content": None}, {"role": "user", "content": "x"}]}, "system message's content is a NoneType"), ({"messages": [{"role": "user", "content": None}]}, "not text"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "image", "text": ""}]}]}, "type 'image'"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "text"}]}]}, "without text")])
def test_bad_conversations(tok, conversation, message):
    with pytest.raises(CourseError, match=message): tok.render_conversation(conversation)


def test_tokens_html(tok):
    page = tokens_html(tok, tok.encode("a <b> & c\n"))
    assert "<b>" not in page and "&lt;" in page and "&amp;" in page


# --- disk ---

def test_save_and_load(tok, tmp_path, docs):
    tok.save(tmp_path / "new" / "folder")
    again = Tokenizer.load(tmp_path / "new" / "folder")
    assert again.vocab == tok.vocab and again.special_ids == tok.special_ids and again.encode(docs[0]) == tok.encode(docs[0])
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["tokenizer.json"]
    data = json.loads((tmp_path / "new/folder/tokenizer.json").read_text(encoding="utf-8"))
    assert data["merges"][0].split(" ", 2)[:2] == [str(i) for i in tok.merges[0]]


@pytest.mark.parametrize("old, new", [('"merges"', '"merge"'), ('"vocab_size": 1500', '"vocab_size": 1501'), ('"byte_order": "0 1', '"byte_order": "1 1'),
    ('"pattern": "', '"pattern": "(['), (' "merges": [\n  "', ' "merges": [\n  "9999 '), (None, ""), (None, "[]"), (None, '{"kind": "byte-level')])
def test_load_damaged(tok, tmp_path, old, new):
    tok.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(old, new) if old else new, encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    with pytest.raises(CourseError, match="tokenizer.json"): Tokenizer.load(tmp_path)


def craft(path, keep_digest=False, **changes):
    "Change a stored tokenizer as one would by hand: with a digest that fits, so that only the content can give it away."
    data = json.loads(path.read_text(encoding="utf-8")) | changes
    merges = [tuple(map(int, m.split(" ", 2)[:2])) for m in data["merges"]]
    if not keep_digest: data["digest"] = tokenizer_digest(merges, data["pattern"], data["special_tokens"], list(map(int, data["byte_order"].split())))
    path.write_text(json.dumps(data), encoding="utf-8")


def test_every_flipped_bit_that_matters_is_noticed(tok, tmp_path):
    "A bit flipped in the file: refused, or the same ids as before. (The text beside each merge is for people, and may change.)"
    tok.save(tmp_path)
    path, rng, refused = tmp_path / "tokenizer.json", random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try: again = Tokenizer.load(tmp_path)
        except CourseError: refused += 1
        else: assert (again.merges, again.pattern, again.special_ids, again.byte_order) == (tok.merges, tok.pattern, tok.special_ids, tok.byte_order)
    assert refused > 10


def test_files_without_a_digest_load(tok, tmp_path):
    tok.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(data.pop("digest")) == 64
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    assert Tokenizer.load(tmp_path).merges == tok.merges


def test_duplicate_merges_are_refused(tok, tmp_path):
    tok.save(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["merges"]
    craft(tmp_path / "tokenizer.json", merges=[*merges[:-1], merges[0]])
    with pytest.raises(CourseError, match="a merge stands there twice"): Tokenizer.load(tmp_path)


def test_tokens_that_double_take_no_memory(tmp_path):
    train_bpe(["aaaa"], 266).save(tmp_path)
    craft(tmp_path / "tokenizer.json", merges=["97 97", *(f"{255 + i} {255 + i}" for i in range(1, 40))], vocab_size=256 + 40 + 9)
    before = psutil.Process().memory_info().rss
    with pytest.raises(CourseError, match="would fill more than 64 MB"): Tokenizer.load(tmp_path)
    assert psutil.Process().memory_info().rss - before < 1 << 28


@pytest.mark.parametrize("pattern", ["", "(?!)", "[a-c]+", r"\S+", "[^猫]+", "(?=a)", "(a|)", "("])
def test_patterns_that_lose_text_are_refused(tok, tmp_path, pattern, capfd):
    tok.save(tmp_path)
    craft(tmp_path / "tokenizer.json", pattern=pattern.replace("猫", "一"))
    with pytest.raises(CourseError, match="tokenizer.json is damaged") as e: Tokenizer.load(tmp_path)
    assert "\n" not in str(e.value) and "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, r"\w+|\W", r"[\s\S]"])
def test_other_patterns_load(tok, tmp_path, pattern):
    tok.save(tmp_path)
    craft(tmp_path / "tokenizer.json", pattern=pattern)
    assert Tokenizer.load(tmp_path).pattern == pattern


def test_load_missing(tmp_path):
    with pytest.raises(CourseError, match="tok_train"): Tokenizer.load(tmp_path / "nothing")


def test_save_is_atomic(tok, tmp_path, monkeypatch):
    tok.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError): train_bpe([SENTENCE], 270).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# --- GPT-2 ---

@pytest.fixture(scope="module")
def gpt2(test_data):
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    files = test_data / "gpt2_tokenizer/vocab.bpe", test_data / "gpt2_tokenizer/encoder.json"
    ranks = data_gym_to_mergeable_bpe_ranks(*map(str, files))
    oracle = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    return Tokenizer.from_gpt2(*files), oracle, files


def test_gpt2_ids(gpt2, test_data, tmp_path):
    ours, oracle, _ = gpt2
    assert ours.vocab_size == 50257 and ours.bos == 50256 and ours.encode("Hello world") == [15496, 995]
    texts = [json.loads(line)["text"] for line in open(test_data / "openwebtext/openwebtext-1000.jsonl", encoding="utf-8")][:200]
    texts += ["naïve 猫 🐈\x00\x7f\xad\xa0 ¡", " " * 5000, "\n\n\n \t x", "<|endoftext|>"]
    assert ours.encode(texts) == oracle.encode_ordinary_batch(texts)
    assert all(ours.decode(i) == t for i, t in zip(ours.encode(texts), texts))
    assert ours.decode_bytes(ours.encode_bytes(bytes(range(256)))) == bytes(range(256))
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode(texts[0]) == ours.encode(texts[0])


def test_gpt2_wrong_files(gpt2, tmp_path):
    bpe, encoder = gpt2[2]
    with pytest.raises(CourseError, match="does not exist"): Tokenizer.from_gpt2(bpe, tmp_path / "none.json")
    (tmp_path / "short.bpe").write_text("\n".join(bpe.read_text(encoding="utf-8").split("\n")[:100]), encoding="utf-8")
    with pytest.raises(CourseError, match="GPT-2"): Tokenizer.from_gpt2(tmp_path / "short.bpe", encoder)
    with pytest.raises(CourseError, match="GPT-2"): Tokenizer.from_gpt2(encoder, encoder)


def test_gpt2_format_in_miniature(tmp_path):
    letters = [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [chr(256 + i) for i in range(68)]
    (tmp_path / "v").write_text("#version: 0.2\nĠ t\nĠt h\n", encoding="utf-8")
    (tmp_path / "e").write_text(json.dumps({n: i for i, n in enumerate([*letters, "Ġt", "Ġth", "<|endoftext|>"])}))
    tok = Tokenizer.from_gpt2(tmp_path / "v", tmp_path / "e")
    assert [tok.vocab[i] for i in tok.encode(" the")] == [b" th", b"e"] and tok.bos == 258
    assert isinstance(tok, BPE) and tok.decode(tok.encode("é\0 \xad")) == "é\0 \xad"
