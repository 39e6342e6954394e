"Chat evaluation: intervals that hold what they promise, graders asked evenly, the report of each stage."
import json, math, re
from dataclasses import replace
from types import SimpleNamespace
import pytest, torch
from nanochat_course import chat_eval as module
from nanochat_course.chat_eval import CHATCORE, SOURCES, ChatEvalConfig, answers_path, chat_core, chat_eval, chosen_letters, evaluate_chat, exams, wilson
from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
from nanochat_course.common import CourseError, Runtime, load_result
from nanochat_course.corpus import make_corpus
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.real_tasks import ARCTask, MMLUTask
from nanochat_course.tasks import IdentityTask, SpellingTask, SumsTask
from nanochat_course.tokenizer import train_bpe

CPU = Runtime(torch.device("cpu"), torch.float32)
QUICK = dict(device="cpu", dtype="float32", tasks="sums,identity", max_items=5, max_new_tokens=4, eval_tokens=0)


# the interval

@pytest.mark.parametrize("right, n, low, high", [(81, 263, .2553, .3662), (15, 148, .0624, .1605), (0, 20, .0000, .1611), (1, 29, .0061, .1718)])
def test_published_intervals(right, n, low, high):             # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)


def test_the_ends_solve_wilsons_equation():
    for n in (1, 7, 100):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1 and low < high
            for end in (low, high): assert (right / n - end)**2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-12)
            mirrored = wilson(n - right, n)
            assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    assert wilson(0, 0) == (0., 1.)


@pytest.mark.parametrize("n", [5, 20, 100])
def test_coverage(n):
    binomial = lambda k, p: math.comb(n, k) * p**k * (1 - p)**(n - k)
    intervals = [wilson(k, n) for k in range(n + 1)]
    grid = [(i + .5) / 500 for i in range(500)]
    covered = [sum(binomial(k, p) for k, (low, high) in enumerate(intervals) if low <= p <= high) for p in grid]
    assert sum(covered) / len(covered) > 0.945 and min(covered) > 0.82


# asking a task

class Scripted:
    "An engine that answers by a table, and remembers what it was asked."
    def __init__(self, tok, task, reply, sequence_len=256):
        self.tokenizer, self.source, self.asked, self.calls = tok, SimpleNamespace(config=SimpleNamespace(sequence_len=sequence_len)), [], []
        self.table = {tuple(tok.render_for_completion(task[i])): (i, reply(task[i])) for i in range(len(task))}

    def generate_batch(self, prompts, num_samples, max_tokens, temperature, seed):
        self.calls.append((num_samples, max_tokens, temperature, seed))
        found = [self.table[tuple(p)] for p in prompts]
        self.asked += [i for i, _ in found]
        return [SimpleNamespace(parts=parts) for _, parts in found]


def right(c):
    content = c["messages"][-1]["content"]
    return content if isinstance(content, list) else [dict(type="text", text=content)]


@pytest.fixture(scope="module")
def tok(): return train_bpe(["What is 12 + 7? 19. How do you spell cat? c, a, t."] * 3, 270, num_processes=1)


@pytest.mark.parametrize("make", [SumsTask, SpellingTask, IdentityTask])
def test_an_oracle_gets_all_and_a_mute_gets_nothing(tok, make):
    task = make("test", size=min(40, len(make("test"))))
    r = evaluate_chat(Scripted(tok, task, right), task, CPU, max_items=20)
    n = min(20, len(task))
    answers = r.pop("answers")
    assert r == dict(accuracy=1., interval=wilson(n, n), items=n) and all(a["right"] for a in answers)
    assert [a["item"] for a in answers] == [i * len(task) // n for i in range(n)] and answers[0]["answer"] == task.answer(task[0])
    mute = evaluate_chat(Scripted(tok, task, lambda c: []), task, CPU, max_items=20)
    assert not any(a["right"] or a["answer"] for a in mute.pop("answers")) and mute == dict(accuracy=0., interval=wilson(0, n), items=n)


def test_questions_are_spread_evenly_and_divided_among_the_ranks(tok, monkeypatch):
    task = SumsTask("test")
    engine = Scripted(tok, task, right)
    all_of_them = evaluate_chat(engine, task, CPU, max_items=-1)
    assert all_of_them["items"] == len(task) == len(engine.asked)
    engine.asked.clear(), engine.calls.clear()
    evaluate_chat(engine, task, CPU, max_items=10, max_tokens=7, temperature=.5, seed=3)
    gaps = {b - a for a, b in zip(engine.asked, engine.asked[1:])}
    assert engine.asked[0] == 0 and len(engine.asked) == 10 and max(gaps) - min(gaps) <= 1 and engine.asked[-1] >= len(task) * 0.9 - 1
    assert engine.calls == [(1, 7, .5, 3)]
    parts = [Scripted(tok, task, right) for _ in range(3)]
    monkeypatch.setattr(module, "gather_bytes", lambda data, rt: [data])           # one process of several, whose answers are its own
    shares = [evaluate_chat(e, task, replace(CPU, rank=r, world_size=3), max_items=10)["accuracy"] for r, e in enumerate(parts)]
    assert sorted(i for e in parts for i in e.asked) == engine.asked and sum(shares) == pytest.approx(1)
    few = Scripted(tok, task, right)
    assert evaluate_chat(few, task, CPU, max_items=10**6)["items"] == len(task) == len(few.asked)


def test_a_question_that_does_not_fit_counts_as_wrong(tok):
    task = SumsTask("test", size=20)
    lengths = sorted(len(tok.render_for_completion(task[i])) for i in range(20))
    limit = lengths[10]
    assert lengths[0] < limit
    r = evaluate_chat(Scripted(tok, task, right, sequence_len=limit), task, CPU, max_items=20)
    assert r["items"] == 20 and r["accuracy"] == sum(n < limit for n in lengths) / 20 < 1


# letters

def random_engine(texts, layers=2, seed=0):
    "A model of random weights everywhere, so that its choices depend on the question."
    tok = train_bpe(texts, 600, num_processes=1)
    torch.manual_seed(seed)
    model = GPT(GPTConfig(sequence_len=512, vocab_size=tok.vocab_size, n_layer=layers, n_head=2, n_kv_head=2, n_embd=64)).init_weights()
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)
    return Engine(model, tok)


@pytest.fixture(scope="module")
def quiz(tmp_path_factory):
    "Questions made by code, some with three choices, some numbered; the right ones evenly spread."
    path, rng = tmp_path_factory.mktemp("quiz") / "test.jsonl", torch.Generator().manual_seed(1)
    rows = []
    for i in range(300):
        n = 3 + i % 3
        words = ["".join(chr(97 + int(c)) for c in torch.randint(0, 8, (2 + (i * k) % 9,), generator=rng)) for k in range(n)]
        letters = list("ABCDE"[:n]) if i % 2 else [str(k + 1) for k in range(n)]
        rows.append(dict(id=str(i), question=f"Which of these is number {i}?", choices=dict(text=words, label=letters), answerKey=letters[(i // 3) % n]))
    path.write_text("\n".join(map(json.dumps, rows)))
    task = ARCTask("test", path=path)
    return task, random_engine([c["messages"][0]["content"] for c in task])


def test_letters_against_the_whole_model(quiz):
    "In batches of mixed lengths the choice is that of the model's own logits, question by question."
    task, engine = quiz
    conversations = [task[i] for i in range(0, 300, 7)]
    got = chosen_letters(engine, conversations, batch_size=16)
    for c, letter in zip(conversations, got):
        with torch.no_grad(): logits = engine.source(torch.tensor([engine.tokenizer.render_for_completion(c)]))[0, -1]
        assert letter == max(c["letters"], key=lambda l: logits[engine.tokenizer.encode(l)[0]])
    assert len(set(got)) > 3 and got == [chosen_letters(engine, [c])[0] for c in conversations]
    length = min(len(engine.tokenizer.render_for_completion(task[i])) for i in range(300))
    short = Engine(GPT(replace(engine.source.config, sequence_len=length)).init_weights(), engine.tokenizer)
    assert set(chosen_letters(short, conversations)) == {""}                       # longer than the context
    assert evaluate_chat(short, task, CPU, 20)["accuracy"] == 0


def test_a_random_model_is_at_chance(quiz):
    task, engine = quiz
    r = evaluate_chat(engine, task, CPU, max_items=-1)
    chance = sum(1 / len(task[i]["letters"]) for i in range(300)) / 300
    assert r["items"] == 300 and r["interval"][0] <= chance <= r["interval"][1]
    assert all(a["answer"] in task[a["item"]]["letters"] and a["right"] == (a["answer"] == task.answer(task[a["item"]])) for a in r["answers"])


@pytest.mark.parametrize("name", ["mmlu", "arc_easy"])
def test_a_random_model_is_at_chance_on_real_questions(test_data, tmp_path, name):
    "Four hundred questions of the test parts; and any fixed letter is near a quarter, so that no constant answer is worth much."
    from test_real_tasks import arc_rows, mmlu_rows
    bundle = test_data / "eval_bundle" / "eval_data" / "world_knowledge"
    rows = list(mmlu_rows(test_data / "mmlu" / "test") if name == "mmlu" else arc_rows(bundle / "arc_easy.jsonl"))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = dict(mmlu=MMLUTask, arc_easy=ARCTask)[name]("test", path=tmp_path / "test.jsonl")
    engine = random_engine([task[i]["messages"][0]["content"] for i in range(0, len(task), 40)], layers=1)
    r = evaluate_chat(engine, task, CPU, max_items=400)
    fits = sum(a["answer"] != "" for a in r["answers"])
    low, high = wilson(sum(a["right"] for a in r["answers"]), fits)
    assert fits > 300 and low <= .25 <= high
    for letter in "ABCD": assert abs(sum(task.answer(c) == letter for c in task) / len(task) - .25) < .03


def test_chat_core():
    "Centred as upstream: guessing is 0, all right 1; a task missing, no number."
    chance = {name: .25 if name in ("arc_easy", "arc_challenge", "mmlu") else 0. for name in CHATCORE}
    assert chat_core(chance, chance) == 0 and chat_core(dict.fromkeys(CHATCORE, 1.), chance) == 1
    assert chat_core(dict(arc_easy=.4, arc_challenge=.3, mmlu=.35, gsm8k=.05, humaneval=.1, spellingbee=.9, sums=1.), chance) == pytest.approx(
        ((.4 - .25) / .75 + (.3 - .25) / .75 + (.35 - .25) / .75 + .05 + .1 + .9) / 6)
    assert chat_core({k: 1. for k in CHATCORE if k != "humaneval"}, chance) is None


# the stage

@pytest.fixture
def world(tmp_path, monkeypatch):
    "A tokenizer and two untrained models, one after SFT and one after RL."
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "base"))
    texts = [f"Return the value number {i} of the list. The cat sat on the mat, {i * 7} times." for i in range(200)]
    train_bpe(texts, 300, num_processes=1).save(tmp_path / "base" / "tokenizer")
    model = GPT(GPTConfig(sequence_len=128, vocab_size=300, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)).init_weights()
    for stage in ("chatsft", "chatrl"): save_checkpoint(checkpoint_dir(stage, "tiny"), 1, model, meta={}, rt=CPU)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(dict(text=t)) + "\n" for t in texts))
    make_corpus(tmp_path / "t.jsonl", tmp_path / "base" / "data" / "words", num_shards=2)
    return tmp_path / "base"


def test_the_stage_asks_every_model_there_is(world):
    results = chat_eval(ChatEvalConfig(**QUICK | dict(corpus="words", eval_tokens=2048)))
    assert list(results) == ["sft", "rl"]
    assert not (world / "report" / "chat_eval_base.json").exists() and not (world / "report" / "chat_eval_mid.json").exists()
    for source, metrics in results.items():
        saved = load_result(f"chat_eval_{source}")
        assert saved["metrics"]["sums"] == metrics["sums"] and tuple(saved["metrics"]["sums 95%"]) == pytest.approx(wilson(5 * metrics["sums"], 5))
        assert metrics["chat mean"] == pytest.approx((metrics["sums"] + metrics["identity"]) / 2) and 0 < metrics["text val_bpb"] < 20
        assert len(saved["samples"]) >= 6 and all(set(s) == {"prompt", "text"} for s in saved["samples"])
    assert results["sft"] == results["rl"]                                       # the same weights, the same questions: the same marks


def test_the_real_exams(world, tmp_path, monkeypatch):
    "All six from a folder, with ChatCORE and every answer on record; HumanEval is left out, and said so, where nothing can isolate programs."
    from test_real_tasks import ROW, WORDS, write
    for name in CHATCORE:
        if name in ROW: write(tmp_path / "exams" / name / "test.parquet", [ROW[name]] * 3)
    (tmp_path / "exams" / "spellingbee").mkdir()
    (tmp_path / "exams" / "spellingbee" / "words.txt").write_text("\n".join(WORDS))
    config = ChatEvalConfig(**QUICK | dict(source="sft", tasks=",".join(CHATCORE), task_data=str(tmp_path / "exams"), max_items=2))
    m = chat_eval(config)["sft"]
    assert m["ChatCORE"] == pytest.approx(chat_core(m, dict.fromkeys(CHATCORE, 0.) | dict(arc_easy=.25, arc_challenge=.25, mmlu=.25)))
    lines = [json.loads(l) for l in answers_path("sft").read_text().splitlines()]
    assert [l["task"] for l in lines] == [name for name in CHATCORE for _ in range(2)] and all(set(l) == {"task", "item", "right", "answer"} for l in lines)
    def no(): raise CourseError("programs cannot be isolated here")
    monkeypatch.setattr(module, "isolation", no)
    said = []
    runtime = SimpleNamespace(print=said.append)
    assert list(exams(config, runtime)) == [name for name in CHATCORE if name != "humaneval"] and "humaneval is left out" in said[0]
    assert "ChatCORE" not in chat_eval(config)["sft"]
    with pytest.raises(CourseError, match="cannot be isolated"): exams(replace(config, tasks="humaneval"), runtime)
    with pytest.raises(CourseError, match="no task to ask"): exams(replace(config, tasks=","), runtime)


def test_one_source_only(world):
    assert list(chat_eval(ChatEvalConfig(source="sft", **QUICK))) == ["sft"] and "text val_bpb" not in load_result("chat_eval_sft")["metrics"]


def test_bad_input(world, tmp_path, monkeypatch):
    good = ChatEvalConfig(**QUICK)
    assert list(SOURCES) == ["base", "mid", "sft", "rl"]
    for kwargs, text in ((dict(source="sft,essay"), "unknown source essay: use base, mid, sft, rl"), (dict(tasks="dancing"), "dancing"),
                         (dict(model_tag="d99"), "no model 'd99'"), (dict(source="base"), "base_train"), (dict(eval_tokens=100, corpus="nowhere"), "no corpus")):
        with pytest.raises(CourseError, match=text): chat_eval(replace(good, **kwargs))
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "empty"))
    with pytest.raises(CourseError, match="base_train"): chat_eval(good)


# sixty questions

def test_no_question_of_the_probes_is_taught():
    from nanochat_course.chat_eval import LESSONS, PROBES
    from nanochat_course.tasks import TASKS, make_task
    users = lambda c: tuple(m["content"] for m in c["messages"][::2])
    asked = [q for probes in PROBES.values() for _, q, _ in probes]
    assert len(set(asked)) == 60 and {len(p) for p in PROBES.values()} == {20} and len(LESSONS) == 20 and {len(l) for l in LESSONS} == {3}
    taught = {u for name in TASKS if name not in ("talk", "persona") for u in map(users, make_task(name))}
    assert not {(q,) for q in asked} & taught
    talks = {users(c)[:3] for c in make_task("talk")}
    assert not {tuple(q for q, _ in lesson) for lesson in LESSONS} & talks and not {(q,) for q in asked} & {t[:1] for t in talks}


def test_what_is_right_in_a_probe_is_right():
    "Sums and counts worked out here; held-out words are spelled; names that are told come back."
    from nanochat_course.chat_eval import LESSONS, PROBES, is_right
    from nanochat_course.tasks import taught_functions
    functions = dict(taught_functions())
    for skill, q, right in (x for probes in PROBES.values() for x in probes):
        if skill == "calculator" and (m := re.search(r"(\d+) ([-+*]) (\d+)(?! [-+*])[^+]*$", q)) and q.count("+") < 2: assert right == f"= {eval(m[0].split('for')[0].split('is.')[0].rstrip('?. is'))}", q
        if m := re.search(r"(?:many|letter) (?:times is )?(\w) (?:are )?in (\w+)|many (\w) does (\w+)", q): assert right == f"= {(m[2] or m[4]).count(m[1] or m[3])}", q
        if right.startswith("does "): assert right[5:] in functions and right[5:] in q
        if skill == "unknownfunctions": assert right == "refusal" and not set(re.findall(r"[\w.]*\w\(?", q)) & set(n for n in functions if "." in n)
        if re.fullmatch(r"\w( \w){2,}", right) and "and" not in q: assert right.replace(" ", "") in q
    for lesson in LESSONS:
        for n, (q, right) in enumerate(lesson):
            if right.startswith("does "): assert right[5:] in functions
            if right.istitle() and right not in ("Nano", "Hello"): assert any(right in said for said, _ in lesson[:n + 1])


@pytest.mark.parametrize("right,good,bad", [
    ("refusal", ["I do not know.", "I cannot do that.", "You have not told me."], ["Paris.", "", "I know."]),
    ("= 42", ["17+25=42", "42", "#### 42"], ["142", "42-1=41", "I do not know. 42", ""]),
    ("l i s t", ["l i s t", "L i s t."], ["list", "l i s t s", "l s t i"]),
    ("Gina", ["Your name is Gina.", "Hello, Gina!"], ["Your name is not Gina.", "Your name is Regina.", "You have not told me."]),
    ("yes", ["Yes.", "Yes, it is."], ["No.", "8+5=13"]),
    ("does len", ["Return the number of items in a container."], ["Return the number of items.", "I do not know that function."])])
def test_the_grader_of_the_probes(right, good, bad):
    from nanochat_course.chat_eval import is_right
    assert [a for a in good if not is_right(a, right)] == [] and [a for a in bad if is_right(a, right)] == []


def test_probes_are_asked_with_the_answers_of_before():
    "A model that always says the same is asked; and an engine that records what it reads has each turn's own answers in it."
    from nanochat_course.chat_eval import LESSONS, ask_probes
    read = []
    texts = [q for l in LESSONS for q, _ in l]
    tokenizer = train_bpe(texts, vocab_size=400)
    torch.manual_seed(0)
    m = GPT(GPTConfig(sequence_len=256, vocab_size=400, n_layer=1, n_head=1, n_kv_head=1, n_embd=32), torch.float32)
    m.init_weights()
    engine = Engine(m, tokenizer)
    found = ask_probes(engine, max_tokens=3)
    assert len(found["answers"]) == 60 and [len(t) for t in found["talks"]] == [3] * 20 and sum(a["right"] for a in found["answers"]) < 10
    first = found["talks"][0]
    prompt = tokenizer.render_for_completion(dict(messages=[dict(role="user", content=LESSONS[0][0][0]), dict(role="assistant", content=first[0]["answer"]), dict(role="user", content=LESSONS[0][1][0])]))
    assert first[1]["answer"] == engine.generate_batch([prompt], 1, 3, temperature=0.)[0].text
