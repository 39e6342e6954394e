"The interactive pictures: each one's numbers, as the browser computes them, are those of Python."
import functools, http.server, importlib.util, itertools, json, shutil, sys, threading
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest
import torch

import chromium
from nanochat_course.chat_rl import group_advantages
from nanochat_course.dataloader import Packer
from nanochat_course.attention import naive_attention, rms_norm, rotary, rotary_tables
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.newton_schulz import CUBIC, QUINTIC, orthogonalize, polar_express_coefficients
from nanochat_course.optim import AdamW, Muon
from nanochat_course.scaling import cost, lr_multiplier, memory_per_rank, plan
from nanochat_course.tokenizer import Tokenizer, count_words, learn_merges, train_bpe

ROOT = Path(__file__).resolve().parent.parent
PLAY = ROOT / "tools" / "site" / "play"
PICTURES = ["bpe", "newton_schulz", "sampling", "attention", "race", "packing", "scaling", "zero", "bandit", "sentence", "bugs", "talk"]
pytestmark = [pytest.mark.skipif(not chromium.find(), reason="needs chromium"), pytest.mark.timeout(300)]

sys.path.insert(0, str(ROOT / "tools" / "site"))
import play_data
import sentence_data


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


def tiny_model():
    "A small model of the plain architecture with weights that matter everywhere: windows, shared heads, no zeros."
    torch.manual_seed(5)
    tokenizer = train_bpe(["The cat sat on the mat, and the other cat sat on it too. naïve ☕ cafés 12 345"] * 9, 330)
    model = GPT(GPTConfig(sequence_len=64, vocab_size=tokenizer.vocab_size, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SL"))
    model.init_weights()
    for p in model.parameters(): p.data += 0.2 * torch.randn_like(p)
    return play_data.dequantised(model).eval(), tokenizer


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "A page with all pictures, served on the loopback address, in a browser; and the model beside it."
    folder = tmp_path_factory.mktemp("play")
    shutil.copytree(PLAY, folder / "play")
    scripts = "".join(f'<script src="play/{name}.js" defer></script>' for name in ["play", *PICTURES])
    boxes = "".join(f'<div class="play" data-play="{name}">fallback</div>' for name in PICTURES)
    (folder / "index.html").write_text(f'<!doctype html><meta charset="utf-8"><title>x</title><link rel="icon" href="data:,"><link rel="stylesheet" href="play/play.css">{scripts}{boxes}')
    model, tokenizer = tiny_model()
    play_data.export_model(model, tokenizer, folder / "model", "a test")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    browser = chromium.Browser()
    try:
        browser.open(f"http://127.0.0.1:{server.server_port}/index.html")
        browser.wait(f"document.querySelectorAll('.play.ready').length === {len(PICTURES)}")
        browser.model, browser.tokenizer = model, tokenizer
        yield browser
        assert not browser.console
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
        thread.join()


def call(page, function, *arguments):
    return page.js(f"{function}({', '.join(json.dumps(a) for a in arguments)})")


TEXTS = ["The cat sat on the mat. The cat that sat on the other mat was the other cat.", "aaaaaaa aaaa aaa aa bbbb", "abab baba abba " * 3,
         "I'LL won't it'ſ don't 'S", "naïve cafés ☕ 北京大学北京 👩‍👩‍👧 İstanbul ǅ", "x = 12345\n\n  y\t= 6\r\n    z\u00a0\u2003w \u2028 \x1c \x85 end  ", "", " ", "½ ² ٣٤٥ Ⅷ"]


@pytest.mark.parametrize("text", TEXTS)
def test_merges_and_tokens(page, text):
    words = count_words([text])
    merges = learn_merges(words, 40)
    found = call(page, "play.pictures.bpe.learn", text, 40)
    assert [tuple(m["pair"]) for m in found] == merges
    assert sorted(call(page, "play.pictures.bpe.split", text)) == sorted(words.elements())
    for k in {0, len(merges) // 2, len(merges)}:
        assert call(page, "play.pictures.bpe.encode", text, found[:k]) == Tokenizer(merges[:k]).encode(text)


def test_the_reader_sees_the_tokens(page):
    page.js("(() => { const t = document.querySelector('[data-play=bpe] textarea'); t.value = 'abab abab'; t.dispatchEvent(new Event('input')); })()")
    tokens = page.js("[...document.querySelectorAll('[data-play=bpe] .tokens span')].map(s => s.textContent)")
    assert tokens == ["abab", "·", "abab"], tokens
    assert page.js("document.querySelector('[data-play=bpe] .says').textContent").startswith(f"{len(tokens)} tokens for 9 bytes")


def test_newton_schulz(page):
    triples = {"cubic": [CUBIC], "quintic": [QUINTIC], "Polar Express": polar_express_coefficients(5)}
    values = torch.tensor([1, 0.4, 0.08, 0.003], dtype=torch.float64)
    values = values / values.norm()
    for name, list_ in triples.items():
        mine = page.js(f"play.pictures.newton_schulz.triples[{json.dumps(name)}]")
        np.testing.assert_allclose(mine, list_, rtol=1e-15)
        for steps in (1, 3, 5):
            chosen = [list_[min(i, len(list_) - 1)] for i in range(steps)]
            truth = torch.linalg.svdvals(orthogonalize(torch.diag(values), chosen, torch.float64))
            got = page.js(f"{values.tolist()}.map(s => play.pictures.newton_schulz.apply(s, play.pictures.newton_schulz.chosen({json.dumps(mine)}, {steps})))")
            np.testing.assert_allclose(sorted(np.abs(got)), sorted(truth.tolist()), rtol=1e-9)


def nucleus(logits, temperature, k, p):
    "Kept: the k likeliest; of these the smallest set that holds p."
    values, order = logits.sort(descending=True, stable=True)
    if k: values, order = values[:k], order[:k]
    q = torch.softmax(values / temperature, 0)
    n = int((q.cumsum(0) < p - 1e-12).sum()) + 1 if p < 1 else len(q)
    out = torch.zeros_like(logits)
    out[order[:n]] = q[:n] / q[:n].sum()
    return out


def test_sampling(page):
    page.js("play.fetch('sampling').then(d => window.logits = d.prompts[0].logits)")
    logits = torch.tensor(page.js("logits"), dtype=torch.float64)
    assert len(logits) == 4096
    for temperature, k, p in ((1, 0, 1), (0.7, 50, 1), (1.6, 0, 0.9), (0.3, 5, 0.5), (2.5, 40, 0.05)):
        got = torch.tensor(page.js(f"[...play.pictures.sampling.probabilities(logits, {temperature}, {k}, {p})]"), dtype=torch.float64)
        torch.testing.assert_close(got, nucleus(logits, temperature, k, p), atol=1e-12, rtol=1e-9)
        h = -(got[got > 0] * got[got > 0].log2()).sum().item()
        assert page.js(f"play.pictures.sampling.entropy([...play.pictures.sampling.probabilities(logits, {temperature}, {k}, {p})])") == pytest.approx(h)
    assert page.js("play.pictures.sampling.probabilities(logits, 0).indexOf(1)") == logits.argmax().item()
    q = [0.1, 0.5, 0, 0.4]
    assert [call(page, "play.pictures.sampling.pick", q, u) for u in (0, 0.49, 0.51, 0.89, 0.91, 1)] == [1, 1, 3, 3, 0, 0]


@pytest.mark.parametrize("window", [-1, 0, 3])
@pytest.mark.parametrize("base", [10000., 100., None])
def test_attention(page, window, base):
    page.js("play.fetch('attention').then(d => window.attention = d)")
    for head in page.js("attention.heads"):
        q, k = (torch.tensor(head[x], dtype=torch.float64)[None, :, None] for x in "qk")             # (1, T, 1, D)
        T = q.shape[1]
        if base: q, k = (rotary(x, *rotary_tables(T, q.shape[-1], base)) for x in (q, k))
        q, k = (rms_norm(x).transpose(1, 2) for x in (q, k))
        truth = naive_attention(q, k, torch.eye(T)[None, None], window)[0, 0]                          # the values are the positions
        got = page.js(f"play.pictures.attention.weights({json.dumps(head['q'])}, {json.dumps(head['k'])}, {json.dumps(dict(window=window, base=base))})")
        torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), truth.double(), atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("angle", [0, 30])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_race(page, name, angle):
    lr, beta, steepness, steps = {"SGD": 0.02, "AdamW": 0.2, "Muon": 0.1}[name], 0.9, 30, 25
    turn = lambda degrees: torch.tensor([[np.cos(a := np.radians(degrees)), -np.sin(a)], [np.sin(a), np.cos(a)]])
    U, V, S = turn(angle), turn(-angle / 2), torch.tensor([[steepness], [1.]], dtype=torch.float64)
    W = (U @ torch.diag(torch.tensor([1., 4.], dtype=torch.float64)) @ V.T).requires_grad_()
    optimizer = dict(SGD=lambda: torch.optim.SGD([W], lr=lr, momentum=beta), AdamW=lambda: AdamW([W], lr=lr, betas=(beta, 0.999), weight_decay=0.),
                     Muon=lambda: Muon([W], lr=lr, momentum=beta, ns_dtype=torch.float64))[name]()
    truth = []
    for _ in range(steps + 1):
        inside = U.T @ W @ V
        loss = 0.5 * (S * inside**2).sum()
        truth.append([inside[0, 0].item(), inside[1, 1].item(), loss.item()])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    got = call(page, "play.pictures.race.path", name, dict(lr=lr, beta=beta, steepness=steepness, angle=angle, steps=steps))
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-5)


def chapter_cell(notebook, start):
    "The source of the cell that defines something which the chapter does not export."
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())["cells"]
    return next(s for c in cells if c["cell_type"] == "code" and (s := "".join(c["source"])).startswith(start))


def pieces(packed):
    return [[(part["document"], part["start"], part["stop"]) for part in row["pieces"]] for row in packed["rows"]]


@pytest.mark.parametrize("row, least", [(32, 4), (24, 0), (12, 3), (64, 12)])
def test_packing(page, row, least):
    "Each rung puts the same tokens into the same rows as the chapter's code."
    names = dict(itertools=itertools, bisect_right=bisect_right, np=np)
    exec(chapter_cell("23_dataloader", "def ribbon"). partition("\nrows =")[0], names)
    exec(chapter_cell("23_dataloader", "def crop_rows"), names)
    for seed in (1, 7, 4711):
        lengths = call(page, "play.pictures.packing.documents", 24, 32, seed)
        assert len(lengths) == 24 and max(lengths) > 24
        packer = Packer(row, bos=0, min_piece=least)
        for i, n in enumerate(lengths): packer.add((i,), np.arange(n))
        truth = []
        while packer.order: truth.append([(key[0], a, b) for key, a, b, _, _ in packer.row()])
        kept = call(page, "play.pictures.packing.keep", lengths, row, least)
        assert pieces(kept) == truth
        # documents are numbered by hundreds, so that a token says whose it is; the start token is -1
        flat = names["ribbon"]([100 * i + np.arange(n) for i, n in enumerate(lengths)], row, -1)
        got = call(page, "play.pictures.packing.ribbon", lengths, row)["rows"]
        laid = [[t for part in r["pieces"] for t in [-1] * part["bos"] + [100 * part["document"] + j for j in range(part["start"], part["stop"])]] for r in got]
        assert laid[:len(flat)] == flat.tolist() and sum(map(len, laid)) == sum(lengths) + 24
        placed, lost = names["crop_rows"](lengths, row)
        cropped = call(page, "play.pictures.packing.crop", lengths, row)
        full = [r for r in cropped["rows"] if not r["free"]]
        assert placed == row * len(full) and lost <= cropped["lost"] <= lost + row      # the chapter stops when less than a row is left
        counted = call(page, "play.pictures.packing.count", kept, lengths, row)
        whole = {d for r in truth for d, a, b in r if b - a == lengths[d]}              # a start token alone is no cut
        cut = {d for d, n in enumerate(lengths) if n < row} - whole
        assert counted == dict(rows=len(truth), lost=0, free=row * len(truth) - sum(b - a + 1 for r in truth for _, a, b in r), inside=0, cut=len(cut))


@pytest.mark.parametrize("kind", ["none", "mean", "others", "standardised"])
def test_bandit(page, kind):
    "Advantages, the exact gradient and what a group of pulls estimates, as torch computes them; the same pulls for the same luck."
    rewards, payouts, logits = [1, 0, 0, 1, 11], torch.tensor([0.2, 0.7]), torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    truth = group_advantages(torch.tensor([rewards], dtype=torch.float64), kind)[0]
    assert page.js(f"play.pictures.bandit.kinds[{json.dumps(kind)}]({rewards})") == pytest.approx(truth.tolist())
    exact = torch.autograd.grad((logits.softmax(0) * payouts).sum(), logits)[0]
    assert call(page, "play.pictures.bandit.exact", logits.tolist(), payouts.tolist()) == pytest.approx(exact.tolist())
    luck = torch.rand(80, generator=torch.Generator().manual_seed(4)).tolist()
    machine = dict(payouts=payouts.tolist(), n=40, gift=2)
    pulls = page.js(f"(() => {{ const luck = {luck}; return play.pictures.bandit.pull({logits.tolist()}, {json.dumps(machine)}, () => luck.shift()); }})()")
    arms = torch.tensor([int(u >= logits.softmax(0)[0]) for u in luck[::2]])
    paid = torch.tensor([float(u < payouts[a]) + 2 for u, a in zip(luck[1::2], arms)], dtype=torch.float64)
    assert pulls == [dict(arm=a, reward=r) for a, r in zip(arms.tolist(), paid.tolist())]
    objective = (group_advantages(paid[None], kind)[0] * logits.log_softmax(0)[arms]).mean()
    assert call(page, "play.pictures.bandit.estimate", logits.tolist(), pulls, kind) == pytest.approx(torch.autograd.grad(objective, logits)[0].tolist())


def test_the_bandits_lesson(page):
    "A gift to both arms misleads a player without a baseline, and no other."
    players = lambda kind, gift: page.js(f"""Array.from({{length: 12}}, (_, i) => {{
      const {{path, estimate, pull, luck}} = play.pictures.bandit, random = luck(1000 + 17 * i);
      for (let warm = 0; warm < 5; warm++) random();
      return path(80, 0.5, logits => estimate(logits, pull(logits, {{payouts: [0.2, 0.8], n: 4, gift: {gift}}}, random), '{kind}')).at(-1);
    }})""")
    assert sum(p < 0.5 for p in players("none", 10)) >= 3 and min(players("none", 0)) > 0.8
    for kind in ("mean", "others", "standardised"): assert min(players(kind, 10)) > 0.8


def test_the_sentence(page):
    "The stored values are what the course's functions give now, and the first of them what the chapters print."
    stored, now = page.js("play.fetch('sentence')"), sentence_data.sentence_data()
    def compare(a, b, where=""):
        assert type(a) is type(b) or {type(a), type(b)} == {int, float}, where
        if isinstance(a, dict): assert a.keys() == b.keys(), where
        if isinstance(a, (dict, list)):
            assert len(a) == len(b), where
            for k in a if isinstance(a, dict) else range(len(a)): compare(a[k], b[k], f"{where}/{k}")
        else: assert a == (pytest.approx(b, abs=2e-3, rel=2e-2) if isinstance(a, float) else b), where
    compare(stored, now)
    printed = "".join(chapter_output("12_gpt") + chapter_output("11_attention"))
    assert f"mat after    {stored['after'][5]}" in printed
    looks = dict(zip(stored["tokens"], (round(v, 2) for v in stored["weights"][5][:6])))
    assert f"mat looks at {looks}" in printed
    for row in stored["trained"]:
        line = next(x for x in printed.splitlines() if x.startswith(f"| {row['step']} steps |" if row["step"] else "| before |"))
        assert [float(v) for v in line.split("|")[2:-1]] == pytest.approx(row["p"], abs=1e-3)
    assert str(stored["ids"]) in printed


def chapter_output(notebook):
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())["cells"]
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    return ["".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/markdown", "")) for o in outputs]


def test_the_sentence_can_be_followed(page):
    "Ten stations by the button, each with something to say; a token that was chosen stays chosen."
    box = "document.querySelector('[data-play=sentence]')"
    click = lambda text: page.js(f"[...{box}.querySelectorAll('button')].find(b => b.textContent === {json.dumps(text)}).click()")
    says = lambda: page.js(f"{box}.querySelector('.says').textContent")
    click("1 Bytes")
    click("·sat")
    seen = [says()]
    for _ in range(9):
        click("next")
        seen.append(says())
    assert len(set(seen)) == 10 and "undefined" not in "".join(seen) and "NaN" not in "".join(seen)
    assert seen[0].startswith("A computer has 23 numbers") and "“·sat” is 4 of them, from place 7 on" in seen[0]
    assert "Number 267 picks row 267" in seen[2] and page.js(f"{box}.querySelectorAll('button:disabled').length") == 1
    assert page.js(f"[...{box}.querySelectorAll('[aria-pressed=true]')].map(b => b.textContent)") == ["10 Reward", "·sat"]
    click("2 Tokens")
    page.js(f"(() => {{ const s = {box}.querySelector('input'); s.focus(); s.value = 13; s.dispatchEvent(new Event('input')); }})()")
    assert page.js(f"{box}.querySelectorAll('.panel .tokens span').length") == 7 and page.js("document.activeElement.type") == "range"


def test_collectives(page):
    "What the collectives leave on each rank, and what a ring sends: (n - 1) chunks for a half, 2 (n - 1) for an all-reduce."
    own = np.array([[10 * r + c + 1 for c in range(4)] for r in range(4)])
    on_diagonal = lambda row: [[row[c] if c == r else None for c in range(4)] for r in range(4)]
    last = {"all-reduce": [own.sum(0).tolist()] * 4, "reduce-scatter": on_diagonal(own.sum(0).tolist()),
            "all-gather": [np.diag(own).tolist()] * 4, "broadcast": [own[0].tolist()] * 4}
    chunks = {"all-reduce": [6] * 4, "reduce-scatter": [3] * 4, "all-gather": [3] * 4, "broadcast": [4, 4, 4, 0]}
    for name, truth in last.items():
        frames = page.js(f"play.pictures.zero.collectives[{json.dumps(name)}]()")
        assert [[None if cell is None else sum(cell) for cell in row] for row in frames[-1]["ranks"]] == truth
        assert page.js(f"play.pictures.zero.sent(play.pictures.zero.collectives[{json.dumps(name)}]())") == chunks[name]
        for before, after in zip(frames, frames[1:]):                                                     # what arrives, somebody had
            for s in after["sent"]: assert before["ranks"][s["from"]][s["chunk"]] is not None
            for r in range(4): assert sum(s["from"] == r for s in after["sent"]) <= 1


def test_memory_by_stage(page):
    p = plan(12)
    for zero in range(4):
        for ranks in (1, 4, 64):
            got = call(page, "play.pictures.zero.memory", p.params["total"], p.params["matrix"], ranks, zero)
            truth = memory_per_rank(p, ranks, zero)
            assert got == pytest.approx({k: truth[k] for k in got})


def test_one_dial(page):
    for depth in (2, 4, 7, 11, 12, 13, 20, 24, 31, 40):
        for ratio, gpus in ((10.5, 8), (1, 32), (40, 1)):
            p = plan(depth, target_param_data_ratio=ratio, world_size=gpus)
            got = call(page, "play.pictures.scaling.plan", depth, dict(ratio=ratio, gpus=gpus, utilisation=0.4, dollars=2))
            assert {k: got[k] for k in ("embedding", "unembedding", "matrix", "total", "scaling")} == p.params
            assert (got["width"], got["batch"], got["steps"], got["tokens"]) == (p.n_embd, p.total_batch_size, p.num_iterations, p.tokens)
            bill = cost(p.flops, "H100", gpus, 0.4, 2)
            assert [got[k] for k in ("flops", "hours", "dollars")] == pytest.approx([p.flops, bill["hours"], bill["dollars"]])
            assert [got[k] for k in ("matrix_lr", "embedding_lr", "unembedding_lr")] == pytest.approx([p.matrix_lr, p.embedding_lr, p.unembedding_lr])


@pytest.mark.parametrize("shape", ["trapezoid", "1-sqrt", "cosine", "linear", "inverse_sqrt", "constant"])
def test_schedules(page, shape):
    for steps, warmup, warmdown in ((101, 0, 0.5), (1000, 40, 0.35)):
        options = dict(warmup=warmup, warmdown=warmdown, final=0.1, shape=shape)
        got = page.js(f"Array.from({{length: {steps}}}, (_, t) => play.pictures.scaling.rate(t, {steps}, {json.dumps(options)}))")
        assert got == pytest.approx([lr_multiplier(t, steps, warmup, warmdown, 0.1, shape) for t in range(steps)])


def test_the_model_on_the_page(page):
    "Logits within 1e-3 of Python's on the same weights, with and without what the cache already holds; and the same greedy answer."
    page.js("[...document.querySelectorAll('[data-play=talk] button')].find(b => b.textContent.startsWith('load')).click()")
    page.wait("document.querySelector('[data-play=talk] input[type=text]')")
    assert "(a test)" in page.js("document.querySelector('[data-play=talk] .says').textContent")
    ask = lambda name, argument: page.js(f"play.pictures.talk.engine.ask({json.dumps(name)}, {json.dumps(argument)})")
    for text in ("The cat sat on the mat. naïve ☕ 345", "zzz ☕☕ 北"): assert ask("encode", text) == page.tokenizer.encode(text)
    ids = page.tokenizer.encode("The cat sat on the other mat, and it sat too, on the cat, the mat and the other 345 12 345 67 89 naïve cafés sat", prepend="<|bos|>")
    assert len(ids) >= 40                                                          # longer than the window of 32
    for n in (1, 7, 8, len(ids), 5):                                              # 8 goes on after 7, 5 begins anew
        with torch.no_grad(): truth = page.model(torch.tensor([ids[:n]]))[0, -1]
        got = torch.tensor(ask("logits", ids[:n]))
        assert truth.std() > 0.3 and (got - truth).abs().max() < 1e-3
    prompt = page.tokenizer.render_for_completion(dict(messages=[dict(role="user", content="The cat sat")]))
    truth = Engine(page.model, page.tokenizer).generate_batch([prompt], 1, 12, temperature=0.)[0]
    page.js("play.pictures.talk.engine.said = []; play.pictures.talk.engine.ontoken = t => play.pictures.talk.engine.said.push(t)")
    ask("answer", dict(messages=[dict(role="user", text="The cat sat")], temperature=0, k=0, most=12))
    said = page.js("play.pictures.talk.engine.said")
    assert [t["id"] for t in said] == list(truth.tokens)[:len(said)] and len(said) >= 1
    assert all(t["top"][0][1] == pytest.approx(t["p"]) for t in said)             # greedy: the likeliest came


def test_every_control_is_named_and_moves_its_picture(page):
    "Each slider and menu, moved, changes what its picture says or shows; none has an unnamed control."
    assert not page.js("[...document.querySelectorAll('.play :is(input, select, textarea)')].filter(c => !(c.labels?.length || c.getAttribute('aria-label'))).length")
    for name in PICTURES[:-1]:
        still = page.js(f"""(() => {{
          const box = document.querySelector('[data-play={name}]');
          const looks = () => box.innerHTML.replace(/<output.*?<\\/output>/g, '');
          const put = (control, value) => {{ control.value = value; control.dispatchEvent(new Event(control.type === 'range' ? 'input' : 'change')); }};
          return [...box.querySelectorAll('input[type=range], select')].filter(control => {{
            const before = looks(), old = control.value, tenth = Math.max(control.step, (control.max - control.min) / 10);
            put(control, control.options ? [...control.options].find(o => o.value !== old).value : +old + (+old + tenth > +control.max ? -tenth : tenth));
            const same = looks() === before;
            put(control, old);
            return same;
          }}).map(control => control.labels[0].textContent);
        }})()""")
        assert not still, f"{name}: {still}"


def test_a_model_that_the_page_cannot_compute_is_refused(tmp_path):
    from nanochat_course.common import CourseError
    with pytest.raises(CourseError, match="plain architecture"):
        model, tokenizer = tiny_model()
        play_data.export_model(GPT(GPTConfig(vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32, smear=True)), tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_chapters_say_about_their_pictures(page):
    "Attention: without positions the head that looked one token back no longer does. Race: of the three, AdamW alone notices that the valley is turned."
    page.js("play.fetch('attention').then(d => window.attention = d)")
    back = lambda base: page.js(f"play.pictures.attention.weights(attention.heads[0].q, attention.heads[0].k, {{base: {base}}}).slice(2).reduce((s, row, i) => s + row[i + 1], 0) / (attention.tokens.length - 2)")
    assert back(10000) > 0.3 and back("null") < 0.6 * back(10000)
    for name, least, most in (("SGD", 0, 1e-9), ("Muon", 0, 1e-4), ("AdamW", 0.1, np.inf)):
        straight, turned = (np.array(page.js(f"play.pictures.race.path('{name}', {{lr: 0.02, angle: {angle}, steps: 30}})")) for angle in (0, 30))
        assert least <= np.abs(turned - straight)[:, :2].max() <= most, name


def test_bug_museum(page):
    "The page shows the stored runs; each has the mark of its bug; naming it right is told apart from naming it wrong."
    stored = json.loads((ROOT / "benchmarks" / "results" / "bug_museum.json").read_text())
    assert page.js("play.fetch('bugs')") == stored and sorted(page.js("play.pictures.bugs.order")) == list(range(10))
    runs = {r["bug"]: r for r in stored["runs"]}
    last = {name: (r["train"][-1], r["validation"][-1][1]) for name, r in runs.items()}
    healthy, uniform = last[""], stored["uniform"]
    assert uniform == pytest.approx(np.log(512), abs=1e-3) and all(r["train"][0] == pytest.approx(uniform, abs=0.01) for r in runs.values())
    assert max(runs["learning rate too high"]["train"]) > uniform + 2 and last["learning rate too high"][1] > last["targets of another row"][1]
    assert last["targets not shifted"][0] < 0.1 and last["targets not shifted"][1] > uniform
    assert last["gradients never cleared"][1] > healthy[1] + 2 and last["no causal mask"][1] < healthy[1] - 2
    assert last["one batch for ever"][0] < 0.1 and last["one batch for ever"][1] > uniform
    assert 5.2 < last["targets of another row"][1] < 5.4                                        # the entropy of single tokens
    flat = [loss for step, loss in runs["schedule too short"]["validation"] if step > 70]
    assert max(flat) == min(flat) > healthy[1] + 1
    assert last["another tokenizer"][0] == healthy[0] and last["another tokenizer"][1] > healthy[1] + 2
    assert last["padding counted"][0] < 1.5 and last["padding counted"][1] > healthy[1]
    assert {*runs["everything starts at zero"]["train"]} == {uniform}
    say = lambda right: page.js(f"""(() => {{
      const box = document.querySelector('[data-play=bugs]'), bugs = play.data.bugs.runs.slice(1), mine = bugs[play.pictures.bugs.order[0]].bug;
      [...box.querySelectorAll('button')].find(b => (b.textContent === mine) === {right}).click();
      return box.querySelector('[role=status]').textContent;
    }})()""")
    assert say("false").startswith("Not ") and say("true").startswith("Yes, ")


def test_a_curve_of_the_museum_is_what_training_gives():
    "Six steps of three runs, trained here."
    spec = importlib.util.spec_from_file_location("bug_museum", ROOT / "benchmarks" / "bug_museum.py")
    museum = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(museum)
    runs = {r["bug"]: r for r in json.loads(museum.STORED.read_text())["runs"]}
    _, *ids = museum.make_data()
    for bug in ("", "targets not shifted", "padding counted"):
        assert museum.train(bug, *ids, most=6)[1] == pytest.approx(runs[bug]["train"][:6], abs=0.02)
