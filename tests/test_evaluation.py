"Bits per byte, reference lines, samples and CORE, against slow versions, known answers and published numbers."
import csv, io, json, lzma, math, os, random, socket, subprocess, sys, textwrap, threading, time, zipfile
from dataclasses import replace
from types import SimpleNamespace
import forked, pytest, torch, torch.nn.functional as F
from loopback import Server
from nanochat_course.common import CourseError, Runtime
from nanochat_course.evaluation import (accuracy, builtin_bundle, builtin_tasks, byte_bpb, centered, entropy, evaluate_bpb, evaluate_core, evaluate_task, few_shot, find_copies, get_bundle, longer_context, tokenised_items, read_items,
                                        load_bundle, reference_lines, render_item, sample_text, sample_texts, score_rows, scored_rows, unigram_bpb, xz_bpb)
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tokenizer import train_bpe

RT = Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def tok(): return train_bpe([json.dumps(t["items"]) for t in builtin_tasks().values()] * 2, 400)


@pytest.fixture(scope="module")
def model(tok):
    torch.manual_seed(0)
    m = GPT(GPTConfig(sequence_len=256, vocab_size=tok.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)).init_weights()
    for p in m.parameters(): p.data += 0.05 * torch.randn_like(p)               # so that attention matters
    return m


def slow_bpb(model, x, y, token_bytes):
    logits, bits, count = model(x), 0., 0
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            target = int(y[b, t])
            if target < 0 or int(token_bytes[target]) == 0: continue
            bits -= F.log_softmax(logits[b, t].double(), -1)[target].item() / math.log(2)
            count += int(token_bytes[target])
    return bits / count


def batch(tok, rows=4, T=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(tok.vocab_size, (rows, T + 1), generator=g)
    x, y = x[:, :-1].contiguous(), x[:, 1:].clone()
    y[0, :9], y[-1, 13] = -1, tok.bos
    return x, y


def test_bpb_equals_the_slow_version(tok, model):
    x, y = batch(tok)
    assert evaluate_bpb(model, [(x, y, {})], 1, tok.token_bytes(), RT) == pytest.approx(slow_bpb(model, x, y, tok.token_bytes()), rel=1e-5)


def test_bpb_is_loss_over_ln2_over_bytes(tok, model):
    ids = torch.tensor(tok.encode("The cat sat on the mat. Return the value." * 4)[:33])[None]
    x, y = ids[:, :-1], ids[:, 1:]
    size = tok.token_bytes()[y].sum().item()
    assert evaluate_bpb(model, [(x, y)], 1, tok.token_bytes(), RT) == pytest.approx(model(x, y).item() * y.numel() / math.log(2) / size, rel=1e-5)


def test_bpb_weighs_batches_by_bytes_takes_only_some_and_restores_training(tok, model):
    a, b = batch(tok, 1), batch(tok, 3, seed=1)
    b[1][:, 4:] = -1
    both = torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])
    model.train()
    assert evaluate_bpb(model, [a, b], 2, tok.token_bytes(), RT) == pytest.approx(slow_bpb(model, *both, tok.token_bytes()), rel=1e-5)
    assert model.training
    def endless():
        while True: yield a
    assert evaluate_bpb(model, endless(), 3, tok.token_bytes(), RT) == pytest.approx(evaluate_bpb(model, [a], 1, tok.token_bytes(), RT))


def test_bpb_without_bytes_is_an_error(tok, model):
    x, y = batch(tok)
    with pytest.raises(CourseError, match="no bytes"): evaluate_bpb(model, [(x, torch.full_like(y, -1))], 1, tok.token_bytes(), RT)


def test_two_ranks_agree_with_one(tok, tmp_path):
    "torchrun-like: two gloo processes with batches of different size, and CORE split by item."
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent("""
        import json, sys, torch
        from nanochat_course.common import runtime
        from nanochat_course.evaluation import builtin_bundle, evaluate_bpb, evaluate_core
        from nanochat_course.tokenizer import train_bpe
        class Ramp:                                     # a model whose loss depends on the position
            def __call__(self, x, y=None, loss_reduction="mean"):
                if y is not None: return torch.arange(x.numel(), dtype=torch.float).view(x.shape) / 100
                return torch.cos(torch.arange(x.shape[1] * 300).view(1, -1, 300) * (1 + x[..., None] % 7)).float()
        tok = train_bpe(["the cat sat on the mat"] * 3, 280)
        rows = [torch.arange(40).view(2, 20) % 250, torch.arange(60).view(2, 30) % 250]
        with runtime("cpu", "float32") as rt:
            mine = [(r, r) for r in rows[rt.rank::rt.world_size]]
            bpb = evaluate_bpb(Ramp(), mine, 9, tok.token_bytes(), rt)
            core = evaluate_core(Ramp(), tok, builtin_bundle(sys.argv[1] + str(rt.rank), 7), rt=rt)
            if rt.is_main: print(json.dumps([bpb, core["accuracy"]]))
    """))
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    def start(rank, world):
        env = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
        return forked.Popen([sys.executable, str(script), str(tmp_path / f"b{world}_")], env=env, stdout=subprocess.PIPE, text=True)
    two = [start(r, 2) for r in (0, 1)]
    double = json.loads(two[0].communicate(timeout=300)[0]); two[1].wait(300)
    bpb, accuracy = json.loads(start(0, 1).communicate(timeout=300)[0])
    assert bpb == pytest.approx(double[0]) and accuracy == pytest.approx(double[1])


def test_reference_lines(tok):
    assert byte_bpb(b"abab") == 1 and byte_bpb(bytes(range(256))) == 8 and byte_bpb(b"aaaa") == 0 and entropy([1, 1, 2]) == 1.5
    data = ("The cat sat on the mat. " * 100).encode()
    assert xz_bpb(data) == 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
    text = json.dumps(builtin_tasks())
    ids = tok.encode(text)
    lines = reference_lines(tok, [tok.bos, *ids, tok.bos])
    assert lines["unigram bytes"] == pytest.approx(byte_bpb(text.encode())) and lines["xz -9e"] == xz_bpb(text.encode())
    probability = {i: ids.count(i) / len(ids) for i in set(ids)}
    assert lines["unigram tokens"] == pytest.approx(-sum(math.log2(probability[i]) for i in ids) / len(text.encode()))
    with pytest.raises(CourseError): xz_bpb(b"")
    with pytest.raises(CourseError): unigram_bpb([tok.bos], tok.token_bytes())


def test_xz_on_real_documentation(test_data):
    data = (test_data / "tinyshakespeare" / "input.txt").read_bytes()[:400_000]
    assert xz_bpb(data) < unigram_bpb(list(data), torch.ones(256)) == pytest.approx(byte_bpb(data))


def test_samples(tok, model):
    greedy = sample_text(model, tok, "The cat", 8)
    ids = tok.encode("The cat", prepend=tok.bos)
    for _ in range(8):
        t = int(model(torch.tensor([ids]))[0, -1].argmax())
        if t == tok.bos: break
        ids.append(t)
    assert greedy == tok.decode(ids[1:]) and greedy.startswith("The cat")
    draw = lambda seed, **kw: sample_text(model, tok, "The cat", 8, 1., seed=seed, **kw)
    assert draw(1) == draw(1) and len({draw(s) for s in range(4)}) > 1 and draw(3, top_k=1) == greedy
    assert isinstance(sample_text(model, tok, "", 4), str) and len(tok.encode(sample_text(model, tok, "x " * 300, 2))) > 256   # longer than the context
    out = sample_texts(model, tok, ["a", "b"], (0., 0.5), generate=lambda p, n, t, s: f"{p}{n}{t}{s}")
    assert [o["text"] for o in out] == ["a320.042", "a320.542", "b320.043", "b320.543"]


# CORE

def test_prompts():
    q = dict(query="Q", choices=["x", "y"], gold=1)
    assert render_item(q, "multiple_choice", [dict(query="A", choices=["1", "2"], gold=0)], "\nAnswer: ") == ["A\nAnswer: 1\n\nQ\nAnswer: x", "A\nAnswer: 1\n\nQ\nAnswer: y"]
    s = dict(context_options=["a", "b"], continuation="c", gold=0)
    assert render_item(s, "schema", [s]) == ["a c\n\na c", "a c\n\nb c"]
    l = dict(context=" in \n", continuation="out")
    assert render_item(l, "language_modeling", [l], "\nOutput: ") == ["in\nOutput: out\n\nin\nOutput:", "in\nOutput: out\n\nin\nOutput: out"]
    with pytest.raises(CourseError, match="unknown task type"): render_item(l, "essay")


@pytest.mark.parametrize("n", [0, 1, 3, 10, 100])
def test_few_shot_never_holds_the_item(n):
    items = [dict(query=str(i % 7), choices=["a"], gold=0) for i in range(12)]             # five items stand there twice
    for i in range(12):
        shots = few_shot(items, i, n)
        assert items[i] not in shots and shots == few_shot(items, i, n)
        assert len(shots) == min(n, 12 - items.count(items[i]))
    assert few_shot(items[:1], 0, 3) == []


def test_shots_by_index_are_those_of_comparing_every_item(test_data):
    "The slow rule, written out, on every task of the bundle; and on items that stand there several times."
    def slow(data, index, n):
        others = [i for i, d in enumerate(data) if d != data[index]] if n else []
        return [data[i] for i in random.Random(1234 + index).sample(others, min(n, len(others)))]
    rng, stand_in = random.Random(0), dict(hellaswag="hellaswag_converted", squad="squad_sample1000", coqa="coqa_first500")
    repeated = [dict(query=str(rng.randrange(12)), choices=["a"], gold=0) for _ in range(40)]
    tasks = [(repeated, n) for n in (0, 1, 7, 30, 100)]
    for t in load_bundle(test_data / "eval_bundle"):
        path = t["path"].with_name(stand_in.get(t["path"].stem, t["path"].stem) + ".jsonl")
        tasks.append((read_items(path), t["num_fewshot"]))
    for data, n in tasks:
        copies = find_copies(data)
        for i in [*range(len(data))][:len(data) if data is repeated else 3] + [len(data) - 1]:
            assert few_shot(data, i, n, copies[i]) == few_shot(data, i, n) == slow(data, i, n)


def test_a_limit_draws_its_examples_among_the_items_that_are_asked(tok, model, monkeypatch):
    "nanochat's order: first the limit, then the examples."
    from nanochat_course import evaluation
    seen, original = [], evaluation.render_item
    monkeypatch.setattr(evaluation, "render_item", lambda item, kind, shots, delimiter: (seen.append((item, shots)), original(item, kind, shots, delimiter))[1])
    items = [dict(query=f"{i} + 1 =", choices=[str(i + 1), "0"], gold=0) for i in range(40)]
    evaluate_task(model, tok, items, "multiple_choice", 3, RT, limit=8)
    expected = [random.Random(1234 + i).sample([j for j in range(8) if j != i], 3) for i in range(8)]
    assert [(items.index(item), [items.index(s) for s in shots]) for item, shots in seen] == list(enumerate(expected))


def test_long_prompts_are_read_whole(tok, model):
    "Longer than the training context: as a model with a longer context would score them, and the model is what it was afterwards."
    items = [dict(query="The cat sat on the mat. " * n + "Who sat?", choices=["The cat.", "A dog."], gold=0) for n in (1, 90)]
    longer = GPT(replace(model.config, sequence_len=2048))
    longer.load_state_dict(model.state_dict())
    longer.init_rotary()
    rows = [scored_rows(tok, item, "multiple_choice", [items[0]], " ") for item in items]
    assert max(len(ids) for ids, _ in rows[1]) > model.config.sequence_len
    config, cos = model.config, model.cos.clone()
    with longer_context(model, 2048): got = [score_rows(model, r, RT.device) for r in rows]
    want = [score_rows(longer.eval(), r, RT.device) for r in rows]
    assert [[s[0] for s in r] for r in got] == [pytest.approx([s[0] for s in r], rel=1e-5) for r in want]
    assert model.config is config and torch.equal(model.cos, cos)
    assert evaluate_task(model, tok, items, "multiple_choice", 1, RT) == sum(losses[0][0] <= losses[1][0] for losses in want) / 2
    class Short(Reader): max_seq_len = 64
    assert all(len(ids) <= 64 for item in items for ids, _ in scored_rows(tok, item, "multiple_choice", [], " ", 64))
    class Watch(Short):
        def __call__(self, ids): assert ids.shape[1] <= 64; return super().__call__(ids)
    evaluate_task(Watch([], tok), tok, items, "multiple_choice", 1, RT)


def test_few_shot_is_the_published_draw():
    items = [dict(query=str(i)) for i in range(50)]
    expected = random.Random(1234 + 7).sample([i for i in range(50) if i != 7], 10)        # nanochat's rule
    assert [int(s["query"]) for s in few_shot(items, 7, 10)] == expected


def test_scored_part(tok):
    for kind, item in (("multiple_choice", dict(query="3 + 4 =", choices=["7", "11"], gold=0)), ("schema", dict(context_options=["The cat", "The cats"], continuation="is here.", gold=0)),
                       ("language_modeling", dict(context="Input: dog\nOutput:", continuation="dog"))):
        for ids, start in scored_rows(tok, item, kind, [], " "):
            assert ids[0] == tok.bos and 1 <= start < len(ids)
            tail = tok.decode(ids[start:])
            assert ({"multiple_choice": item.get("choices"), "schema": ["is here."], "language_modeling": ["dog"]}[kind]) and any(tail.strip() in c or c in tail for c in (item.get("choices") or [item["continuation"]]))
    long = dict(context="word " * 400, continuation="end")
    (ids, start), = scored_rows(tok, long, "language_modeling", [], " ", 64)
    assert len(ids) == 64 and tok.decode(ids[start:]).strip() == "end"


def test_right_padding_changes_nothing(tok, model):
    rows = [(tok.encode("The cat sat on " + "the " * n, prepend=tok.bos), 2) for n in range(1, 9)]
    together, alone = score_rows(model, rows, RT.device), [score_rows(model, [r], RT.device)[0] for r in rows]
    assert [t[0] for t in together] == pytest.approx([a[0] for a in alone], rel=1e-4) and [t[1] for t in together] == [a[1] for a in alone]
    for pad in (0, 5): assert [s[0] for s in score_rows(model, rows, RT.device, pad)] == pytest.approx([t[0] for t in together], rel=1e-4)


class Reader:
    "Knows the continuation of texts it was shown; uniform elsewhere."
    def __init__(self, texts, tok, strength=20.):
        self.V, self.strength, self.after = tok.vocab_size, strength, {}
        for t in texts:
            ids = tok.encode(t, prepend=tok.bos)
            for i in range(1, len(ids)): self.after[tuple(ids[:i])] = ids[i]
    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, self.V)
        for b, row in enumerate(ids.tolist()):
            for t in range(len(row)):
                n = self.after.get(tuple(row[:t + 1]))
                if n is not None: logits[b, t, n] = self.strength
        return logits


def prompts(t, option):
    "For each item the prompt of the option that `option(item, n)` names."
    for i, item in enumerate(t["items"]):
        r = render_item(item, t["kind"], few_shot(t["items"], i, t["num_fewshot"]), t["delimiter"])
        yield r[-1] if t["kind"] == "language_modeling" else r[option(item, len(r))]


@pytest.mark.parametrize("label", ["sums", "names", "agreement", "copying"])
@pytest.mark.parametrize("batch_tokens", [1, 500, 16384])
def test_a_model_that_knows_the_answers_gets_them_all(tok, label, batch_tokens):
    t = builtin_tasks(12)[label]
    run = lambda m, rt=RT: evaluate_task(m, tok, t["items"], t["kind"], t["num_fewshot"], rt, t["delimiter"], batch_tokens=batch_tokens)
    assert run(Reader(prompts(t, lambda item, n: item["gold"]), tok)) == 1
    if "gold" in t["items"][0]:
        assert run(Reader(prompts(t, lambda item, n: (item["gold"] + 1) % n), tok)) == 0
        half = iter(range(99))
        assert run(Reader(prompts(t, lambda item, n: (item["gold"] + next(half) % 2) % n), tok)) == 0.5     # every other item wrong
    else: assert run(Reader([], tok)) == 0


def test_ranks_share_the_items(tok):
    t = builtin_tasks(11)["sums"]
    m = Reader(prompts(t, lambda item, n: item["gold"]), tok)
    shares = [evaluate_task(m, tok, t["items"], t["kind"], t["num_fewshot"], SimpleNamespace(rank=r, world_size=3, device=RT.device, all_reduce=lambda x: x)) for r in range(3)]
    assert sum(shares) == pytest.approx(1) and shares[0] == pytest.approx(4 / 11)


def test_a_guessing_model_lands_near_the_baseline(tok):
    class Noise:
        def __init__(self): self.g = torch.Generator().manual_seed(0)
        def __call__(self, ids): return torch.randn(*ids.shape, tok.vocab_size, generator=self.g)
    t = builtin_tasks(300)["sums"]
    acc = evaluate_task(Noise(), tok, t["items"], t["kind"], 0, RT)
    assert abs(acc - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 300)


def test_bundle_errors(tmp_path, tok, model):
    with pytest.raises(CourseError, match="no CORE bundle.*eval_bundle"): evaluate_core(model, tok, tmp_path / "none")
    folder = builtin_bundle(tmp_path / "b", 4)
    (folder / "eval_data" / "sums.jsonl").unlink()
    with pytest.raises(CourseError, match="sums.jsonl is missing"): evaluate_core(model, tok, folder)
    folder = builtin_bundle(tmp_path / "c", 4)
    (folder / "eval_data" / "sums.jsonl").write_text('{"query": "1 +')
    with pytest.raises(CourseError, match="sums.jsonl, line 1"): evaluate_core(model, tok, folder)
    with pytest.raises(CourseError, match="no task"): evaluate_core(model, tok, builtin_bundle(tmp_path / "d", 4), tasks=["nothing"])


def test_builtin_core_runs(tmp_path, tok, model):
    out = evaluate_core(model, tok, builtin_bundle(tmp_path, 6))
    assert set(out["accuracy"]) == {"sums", "names", "agreement", "copying"} and out["core_metric"] == pytest.approx(sum(out["centered"].values()) / 4)
    assert builtin_tasks(6) == builtin_tasks(6)


# rows made ahead of the model

@pytest.mark.parametrize("label", ["sums", "agreement", "copying"])
@pytest.mark.parametrize("world", [1, 3])
def test_items_by_the_hundred_are_the_items_one_by_one(tok, label, world):
    t, seen = builtin_tasks(11)[label], {}
    for r in range(world):
        rt = SimpleNamespace(rank=r, world_size=world)
        for numbers, items in tokenised_items(tok, t["items"], t["kind"], t["num_fewshot"], t["delimiter"], rt, at_once=4):
            seen.update(zip(numbers, items))
    want = [scored_rows(tok, item, t["kind"], few_shot(t["items"], i, t["num_fewshot"]), t["delimiter"]) for i, item in enumerate(t["items"])]
    assert [seen[i] for i in range(len(want))] == want


def test_a_rank_without_items_still_takes_part(tok):
    "Otherwise the others would wait for it in the sum for ever."
    t = builtin_tasks(2)["sums"]
    parts = list(tokenised_items(tok, t["items"], t["kind"], 0, " ", SimpleNamespace(rank=2, world_size=3)))
    assert [(list(numbers), items) for numbers, items in parts] == [([], [])]
    sums = []
    rt = SimpleNamespace(rank=2, world_size=3, device=RT.device, all_reduce=lambda x: (sums.append(x), x)[1])
    assert accuracy(None, t["items"], t["kind"], parts, rt, 100) == 0 and len(sums) == 1


def test_rows_are_made_while_the_model_answers(tok, tmp_path, monkeypatch):
    "While the first part is scored, the next ones are prepared, those of the next task among them."
    from nanochat_course import evaluation
    made, waited = [], []
    original = evaluation.tokenised_items
    def small(*args, **kw):
        for part in original(*args, **kw, at_once=3):
            made.append(threading.current_thread().name)
            yield part
    monkeypatch.setattr(evaluation, "tokenised_items", small)
    class Slow:
        def __call__(self, ids):
            if not waited:
                end = time.monotonic() + 10
                while len(made) < 4 and time.monotonic() < end: time.sleep(.01)
                waited.append(len(made))
            return torch.zeros(*ids.shape, tok.vocab_size)
    evaluate_core(Slow(), tok, builtin_bundle(tmp_path, 6))
    assert waited[0] >= 4 and set(made) == {"dataloader"} and len(made) == 8         # four tasks of two parts each


def test_errors_of_the_preparing_thread_arrive_and_it_ends(tok, model, tmp_path):
    folder = builtin_bundle(tmp_path / "b", 4)
    (folder / "eval_data" / "copying.jsonl").write_text("{")
    with pytest.raises(CourseError, match="copying.jsonl, line 1"): evaluate_core(model, tok, folder)
    class Broken:
        def __call__(self, ids): raise RuntimeError("the model is ill")
    with pytest.raises(RuntimeError, match="is ill"): evaluate_core(Broken(), tok, builtin_bundle(tmp_path / "c", 4))
    assert not [t for t in threading.enumerate() if t.name == "dataloader"]


# the bundle as a download

class Store(Server):
    "A server that answers request number n with `bodies[n]`, the last one for ever; an int is a status."
    def __init__(self, *bodies):
        self.bodies, self.seen = bodies, []
        super().__init__()
        self.url += "/eval_bundle.zip"

    def get(self, h):
        self.seen.append(h.headers.get("Range"))
        body = self.bodies[min(len(self.seen), len(self.bodies)) - 1]
        if isinstance(body, int): return h.send_error(body)
        start = int(self.seen[-1][6:-1]) if self.seen[-1] else 0
        cut, body = (body[0], body[1]) if isinstance(body, tuple) else (None, body)
        h.send_response(206 if start else 200)
        if start: h.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        h.send_header("ETag", '"v1"')
        h.send_header("Content-Length", str(len(body) - start))
        h.end_headers()
        h.wfile.write(body[start:cut])


def zipped(tmp_path, extra=(), drop=""):
    "The built-in tasks as an archive like nanochat's."
    folder, out = builtin_bundle(tmp_path / "made", 4), io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != drop):
            z.write(path, f"eval_bundle/{path.relative_to(folder).as_posix()}")
        z.writestr("__MACOSX/eval_bundle/._core.yaml", "")
        for name, text in extra: z.writestr(name, text)
    return out.getvalue()


def test_the_bundle_is_downloaded_once(tmp_path, monkeypatch, tok, model):
    body = zipped(tmp_path)
    with Store(503, (len(body) // 2, body), body) as store:
        monkeypatch.setenv("NANOCHAT_COURSE_CORE_URL", store.url)
        folder = get_bundle(tmp_path / "base" / "eval_bundle", wait=.01)
        assert store.seen == [None, None, f"bytes={len(body) // 2}-"]
        assert get_bundle(folder) == folder and len(store.seen) == 3
        files = lambda top: {p.relative_to(top).as_posix(): p.read_bytes() for p in top.rglob("*") if p.is_file()}
        assert files(folder) == files(tmp_path / "made")
        assert sorted(p.name for p in (tmp_path / "base").iterdir()) == ["eval_bundle", "eval_bundle.zip"]
        assert evaluate_core(model, tok, folder)["accuracy"] == evaluate_core(model, tok, tmp_path / "made")["accuracy"]
        (folder / "eval_data" / "sums.jsonl").unlink()
        with pytest.raises(CourseError, match="lacks the items of sums: remove it, and it will be made again"): get_bundle(folder)
        (folder / "core.yaml").unlink()
        with pytest.raises(CourseError, match="no CORE bundle at .*core.yaml is missing"): get_bundle(folder)
        assert len(store.seen) == 3


def test_a_bundle_brought_by_hand_needs_no_net(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_CORE_URL", "http://127.0.0.1:9/none")
    with pytest.raises(CourseError, match=r"no CORE bundle: .* could not be downloaded .*; or put the file at .*/eval_bundle.zip yourself"):
        get_bundle(tmp_path / "eval_bundle", attempts=1)
    with pytest.raises(CourseError, match="no CORE bundle at .*unpack nanochat's"): get_bundle(tmp_path / "eval_bundle", online=False)
    (tmp_path / "eval_bundle.zip").write_bytes(zipped(tmp_path))
    for name in ("eval_bundle.zip", "eval_bundle"): assert get_bundle(tmp_path / name, online=False) == tmp_path / "eval_bundle"


@pytest.mark.parametrize("make, message", [
    (lambda tmp: b"<html>please log in</html>", "no zip archive"), (lambda tmp: b"", "no zip archive"),
    (lambda tmp: zipped(tmp)[:-30], "no zip archive"),
    (lambda tmp: zipped(tmp).replace(b"eval_bundle/core.yaml", b"eval_bundle/cora.yaml"), "no eval_bundle/core.yaml"),
    (lambda tmp: (lambda z: z[:60] + bytes([z[60] ^ 255]) + z[61:])(zipped(tmp)), "damaged|no zip archive"),
], ids=["html", "empty", "cut", "other", "flipped"])
def test_what_is_not_the_bundle_is_not_unpacked(tmp_path, monkeypatch, make, message):
    with Store(make(tmp_path)) as store:
        monkeypatch.setenv("NANOCHAT_COURSE_CORE_URL", store.url)
        with pytest.raises(CourseError, match=message): get_bundle(tmp_path / "b" / "eval_bundle", attempts=2, wait=.01)
        assert len(store.seen) == 2 and not [p for p in (tmp_path / "b").iterdir() if p.suffix != ".etag"]


@pytest.mark.parametrize("name", ["eval_bundle/../../evil", "/tmp/nanochat_course_evil", "eval_bundle/eval_data/../../evil", "..\\evil", "eval_bundle/..\\..\\evil"])
def test_an_archive_cannot_write_elsewhere(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eval_bundle.zip").write_bytes(zipped(tmp_path, [(name, "evil")]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CourseError, match="leads out of its folder: nothing has been unpacked"): get_bundle(tmp_path / "in" / "eval_bundle")
    assert sorted(tmp_path.rglob("*")) == before and not os.path.exists("/tmp/nanochat_course_evil")


def test_links_and_bombs_are_refused(tmp_path, monkeypatch):
    from nanochat_course import evaluation
    link = zipfile.ZipInfo("eval_bundle/eval_data/link")
    link.external_attr = 0o120777 << 16
    (tmp_path / "a.zip").write_bytes(zipped(tmp_path, [(link, "/etc")]))
    with pytest.raises(CourseError, match="leads out of its folder"): get_bundle(tmp_path / "a")
    monkeypatch.setattr(evaluation, "BUNDLE_SIZE", 10_000_000)
    (tmp_path / "b.zip").write_bytes(zipped(tmp_path, [("eval_bundle/zeros", b"0" * 10_000_001)]))
    with pytest.raises(CourseError, match="would unfold to 10,0.* bytes"): get_bundle(tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


# the real bundle

def test_bundle_lists_22_tasks(test_data):
    tasks = load_bundle(test_data / "eval_bundle")
    assert len(tasks) == 22 and len({t["label"] for t in tasks}) == 22
    t = {t["label"]: t for t in tasks}
    assert t["boolq"]["baseline"] == 62 and t["copa"]["baseline"] == 50 and t["jeopardy"]["num_fewshot"] == 10 and t["jeopardy"]["delimiter"] == "\nAnswer: "
    assert t["winograd"]["kind"] == "schema" and t["squad"]["kind"] == "language_modeling" and t["copa"]["delimiter"] == " "


@pytest.mark.parametrize("name, score", [("gpt2", 0.1139), ("gpt2-medium", 0.1849), ("gpt2-large", 0.2146), ("gpt2-xl", 0.2565)])
def test_published_scores_follow_from_the_accuracies(test_data, name, score):
    rows = [[c.strip() for c in r] for r in csv.reader(open(test_data / "eval_bundle" / f"openai-community-{name}.csv"))][1:]
    baseline = {t["label"]: t["baseline"] for t in load_bundle(test_data / "eval_bundle")}
    values = [centered(float(acc), baseline[label]) for label, acc, _ in rows if label != "CORE"]
    assert values == pytest.approx([float(c) for label, _, c in rows if label != "CORE"], abs=2e-6)
    assert sum(values) / 22 == pytest.approx(float(rows[-1][2]), abs=2e-6) and round(sum(values) / 22, 4) == score


def test_every_real_item_makes_rows(test_data, tok):
    stand_in = dict(hellaswag="hellaswag_converted", squad="squad_sample1000", coqa="coqa_first500")
    for t in load_bundle(test_data / "eval_bundle"):
        path = t["path"].with_name(stand_in.get(t["path"].stem, t["path"].stem) + ".jsonl")
        with open(path, encoding="utf-8") as f: items = [json.loads(line) for _, line in zip(range(40), f)]
        for i in range(0, len(items), 8):
            rows = scored_rows(tok, items[i], t["kind"], few_shot(items, i, t["num_fewshot"]), t["delimiter"], 2048)
            assert len(rows) == {"multiple_choice": len(items[i].get("choices", [])), "schema": len(items[i].get("context_options", [])), "language_modeling": 1}[t["kind"]]
            assert all(1 <= s < len(r) <= 2048 for r, s in rows)


def test_a_reader_of_copa_gets_copa_right(test_data, tok):
    t = next(t for t in load_bundle(test_data / "eval_bundle") if t["label"] == "copa")
    items = [json.loads(line) for line in open(t["path"], encoding="utf-8")][:20]
    m = Reader([render_item(i, t["kind"])[i["gold"]] for i in items], tok)
    assert evaluate_task(m, tok, items, t["kind"], 0, RT) == 1
