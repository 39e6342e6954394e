"Conversations, tasks and their loader: nothing leaks, nobody forges a role, no row without a target."
import functools, importlib, inspect, itertools, json, os, random, re, socket, subprocess, sys, textwrap, zlib
from collections import Counter
import forked, pytest, torch
from nanochat_course.common import CourseError, Runtime
from nanochat_course.tasks import *
from nanochat_course import tasks
from nanochat_course.tasks import IDENTITY
from nanochat_course.tokenizer import SPECIAL_TOKENS, train_bpe

CPU = Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def tok():
    from pydoc_data.topics import topics
    return train_bpe(list(topics.values())[:60], 700)


# tasks

@pytest.mark.parametrize("name", TASKS)
def test_items_are_deterministic_and_the_reference_answer_is_right(name):
    for split in ("train", "test"):
        a, b = make_task(name, split), make_task(name, split)
        for i in random.Random(0).sample(range(len(a)), 40):
            assert a[i] == b[i]
            assert a.grade(a[i], a[i]["messages"][-1]["content"])
            assert not a.grade(a[i], "") and not a.grade(a[i], "no idea")
    with pytest.raises(IndexError): a[len(a)]
    assert len(list(make_task(name, "test", size=5))) == 5


def test_items_are_the_same_in_another_process():
    digest = lambda: zlib.crc32(repr([list(make_task(n, s, size=30)) for n in TASKS for s in ("train", "test")]).encode())
    code = "import zlib; from nanochat_course.tasks import *; digest = " + inspect.getsource(digest).split("=", 1)[1].strip() + "; print(digest())"
    env = dict(os.environ, PYTHONHASHSEED="7", OMP_NUM_THREADS="1")
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout) == digest()


def question(c): return c["messages"][0]["content"]


@pytest.mark.parametrize("name", TASKS)
def test_held_out_questions_are_never_taught(name):
    train, test = make_task(name), make_task(name, "test")
    assert not {question(c) for c in train} & {question(c) for c in test}


def test_held_out_words_are_never_spelled():
    letters = lambda c: visible_text(c["messages"][1]["content"])
    taught = {letters(c).replace(" ", "") for c in SpellingTask()} | {re.sub("[^a-z]", "", letters(c)) for c in LetterCountTask()}
    assert not taught & set(SpellingTask("test").keys)
    assert not taught & set(LetterCountTask("test").keys)


def test_held_out_sums_have_no_twin_in_training():
    pair = lambda k: tuple(sorted(k.split()))
    assert not {pair(k) for k in SumsTask().keys} & {pair(k) for k in SumsTask("test").keys}


def test_held_out_stories_have_no_numbers_in_common_with_training():
    for make in (WordProblemsTask, StoryTask):
        calls = lambda t: {tuple(p["text"] for p in c["messages"][1]["content"] if p["type"] == "python") for c in t}
        assert not calls(make(split="train")) & calls(make(split="test"))


def test_every_function_is_taught_and_every_identity_answer_too():
    assert {a for _, a in DocstringTask("test").keys} <= {a for _, a in DocstringTask().keys}
    assert {k[2] for k in IdentityTask("test").keys} == {k[2] for k in IdentityTask().keys} == {a for a, _, _ in IDENTITY}
    assert len(taught_functions()) >= 100 and len({n for n, _ in taught_functions()}) == len(taught_functions())


def test_graders_are_not_fooled():
    count = chat("How many a are in aaa?", "a 1 a 2 a 3 = 3")
    assert LetterCountTask().grade(count, "a 1 a 2 a 3 = 3.") and not LetterCountTask().grade(count, "= 13") and not LetterCountTask().grade(count, "3 = 2")
    total = chat("1 + 2?", "3")
    assert SumsTask().grade(total, " 3. ") and not any(SumsTask().grade(total, a) for a in ("13", "3 4", "-3", "03", "3 or 4", "three"))
    assert SpellingTask().grade(chat("", "c a t"), "C a  t.") and not SpellingTask().grade(chat("", "c a t"), "c a t s")


def test_counting_lesson_is_right():
    for c in LetterCountTask("test"):
        letter, = [w for w in re.findall(r"\b[a-z]\b", question(c)) if w != "a" or " a " in question(c)][:1] or ["a"]
        body, n = visible_text(c["messages"][1]["content"]).split(" = ")
        word = re.sub("[^a-z]", "", body)
        assert word in question(c) and any(word.count(x) == int(n) for x in set(re.findall(r"\b[a-z]\b", question(c))))
        assert re.sub("[^0-9 ]", "", body).split() == [str(k + 1) for k in range(int(n))]


# GSM8K

def test_gsm_format():
    answer = "She has 48/2=<<48/2=24>>24 clips.\nThen 24-1,000=<<24-1000=-976>>-976.\n#### -1,976.5"
    parts = gsm_parts(answer)
    assert [p["type"] for p in parts] == ["text", "python", "python_output", "text", "python", "python_output", "text"]
    assert parts[1]["text"] == "48/2" and parts[2]["text"] == "24" and parts[5]["text"] == "-976"
    assert visible_text(parts) == re.sub("<<.*?>>", "", answer)
    assert gsm_answer(answer) == "-1976.5" and gsm_answer("42") is None
    t = StoryTask()
    item = chat("?", parts)
    assert t.grade(item, "#### -1976.5") and t.grade(item, parts)
    assert not any(t.grade(item, a) for a in ("-1976.5", "#### 1976.5", "#### -1976", "####-1976.5"))


def test_unknown_names():
    with pytest.raises(CourseError, match="unknown task 'juggling'"): make_task("juggling")
    with pytest.raises(CourseError, match="unknown split 'dev'"): SpellingTask("dev")
    with pytest.raises(CourseError, match="-1 epochs"): TaskMixture([(SumsTask(), -1)])


# conversations from a file

SAID = [dict(role="user", content="Who sat?"), dict(role="assistant", content="The cat."), dict(role="user", content="Where?"), dict(role="assistant", content="On the mat.")]


@pytest.mark.parametrize("row", [SAID, dict(messages=SAID, id=7), dict(conversation=SAID), dict(conversations=[{"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in SAID]),
                                 dict(messages=[dict(m, content=[dict(type="text", text=m["content"])]) for m in SAID])])
def test_formats_of_conversations(row, tmp_path, tok):
    (tmp_path / "c.jsonl").write_text("\n" + json.dumps(row) + "\n\n")
    (tmp_path / "c.json").write_text(json.dumps([row, row], indent=1))
    assert read_conversations(tmp_path / "c.jsonl") == [dict(messages=SAID)] and read_conversations(tmp_path / "c.json") == 2 * [dict(messages=SAID)]
    assert tok.render_conversation(FileTask(tmp_path / "c.jsonl")[0]) == tok.render_conversation(dict(messages=SAID))


@pytest.mark.parametrize("line,error", [("{", "line 2 is not valid JSON"), ("7", "line 2: no conversation"), ('{"text": "a"}', "line 2: no conversation"), ("[]", "line 2: a conversation needs"),
    ('[{"role": "user", "content": "a"}]', "line 2: nobody answers"), ('[{"role": "cat", "content": "a"}]', "line 2: message 0 is by 'cat'"), ("[7]", "line 2: message 0 is by None"),
    ('[{"role": "assistant", "content": "a"}]', "line 2: message 0 is by 'assistant', but it is the user's turn"), ('[{"role": "user", "content": null}]', "line 2: message 0: its content is a NoneType"),
    ('[{"role": "system", "content": "a"}]', "line 2: a system message must be followed"), ("[" * 100_000, "line 2 is not valid JSON"), ('[{"role": "user", "content": 1' + "0" * 5000 + "}]", "line 2 is not valid JSON")])
def test_mistakes_in_a_file_of_conversations(line, error, tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps(SAID) + "\n" + line)
    with pytest.raises(CourseError, match=re.escape(f"c.jsonl {error}")): FileTask(tmp_path / "c.jsonl")


def test_awkward_files_of_conversations(tmp_path, tok):
    for name, data, error in (("no.jsonl", None, "is no file"), ("bytes.jsonl", b"\xff\xfe", "is not UTF-8"), ("empty.jsonl", b"\n", "holds no conversation"), ("one.json", b'{"a": 1}', "no list of conversations"), ("bad.json", b"[[", "not valid JSON")):
        if data is not None: (tmp_path / name).write_bytes(data)
        with pytest.raises(CourseError, match=error): read_conversations(tmp_path / name)
    (tmp_path / "half.jsonl").write_text(json.dumps(SAID).replace("cat", "cat \\ud83d") + "\n" + json.dumps([dict(role="system", content="Be brief."), *SAID]))
    half, system = read_conversations(tmp_path / "half.jsonl")
    tok.render_conversation(half)
    assert "Be brief." in tok.decode(tok.render_conversation(system)[0])


def test_own_conversations_are_held_out_if_there_are_many(tmp_path):
    for n in (99, 100, 400):
        (tmp_path / "c.jsonl").write_text("\n".join(json.dumps([dict(role="user", content=str(i)), SAID[1]]) for i in range(n)))
        train, test = ([question(c) for c in FileTask(tmp_path / "c.jsonl", split)] for split in ("train", "test"))
        assert sorted(train + test) == sorted(map(str, range(n))) and not set(train) & set(test)
        assert (len(test) == 0) == (n < 100) and len(test) < n / 10


def test_real_conversations(test_data, tok):
    rows = [json.loads(l) for l in (test_data / "chat" / "identity_conversations.jsonl").read_text().splitlines()]
    task = FileTask(test_data / "chat" / "identity_conversations.jsonl")
    assert 900 < len(task) < 990 and all([m["content"] for m in c["messages"]] in [[m["content"] for m in r] for r in rows] for c in itertools.islice(task, 20))
    loader = ConversationLoader(tok, [task[i] for i in range(60)], 1, 256, CPU)
    assert loader.cut == sum(n > 257 for n in loader.lengths) > 40 and len(loader.lengths) == 60


@pytest.mark.parametrize("text,number", [("10-12", "12"), ("2020-11-12", "12"), ("= -12", "-12"), ("-12", "-12"), ("(10)-3", "3"), ("7+-3", "-3"), ("1,234.5", "1234.5"), ("12.", "12"), ("none", "")])
def test_last_number(text, number): assert last_number(text) == number


def test_a_name_is_a_word():
    who = chat("May I know your name?", "I am Nano, a small language model.", must="Nano")
    assert IdentityTask().grade(who, "My name is nano!") and not any(IdentityTask().grade(who, a) for a in ("I was made in the nanochat course.", "Nanometre", "I am a cat."))


@pytest.mark.parametrize("must,right,wrong", [
    ("Nano", ["I am Nano.", "Nano", "My name is Nano, a small language model.", "You can call me Nano.", "No, I am Nano."],
     ["I am not Nano.", "My name is not Nano.", "I was made in the nanochat course.", "Is your name Nano?", "My name is Anna, and Nano is my cat.", "I am Anna. I am Nano.",
      "Nano is a river.", "I never was Nano.", "I am Nano, but my name is not Nano.", "Call me Tom. I am Nano."]),
    ("program", ["No, I am a program.", "I am a program, not a human.", "A program."],
     ["Yes, I am a human program.", "I am a human who writes a program.", "I am not a program.", "Yes. I am a program.", "I am a woman and a program.", "Is it a program?"]),
    ("nanochat course", ["I was made in the nanochat course.", "The nanochat course made me."], ["I was not made in the nanochat course.", "The nanochat course is long.", "In a course."]),
    ("Hello", ["Hello! I am Nano. How can I help you?", "Hello!"], ["I do not say Hello.", "Goodbye!"]),
    ("transformer", ["I am a transformer that predicts the next token.", "A transformer"], ["I am no longer a transformer.", "A transformer hums in the cellar."])])
def test_who_it_is_is_graded_by_meaning(must, right, wrong):
    "Named right and wrong answers; a grader that looks for the word accepts most of the wrong ones."
    grade = lambda a: IdentityTask().grade(chat("?", "!", must=must), a)
    assert [a for a in right if not grade(a)] == [] and [a for a in wrong if grade(a)] == []


def test_every_persona_is_right_about_itself():
    for facts in (IDENTITY, persona("Minka"), tasks.PersonaTask.facts):
        assert all(says_of_itself(answer, must) for answer, must, _ in facts)
        assert not any(says_of_itself(other, must) for answer, must, _ in facts for other, _, _ in facts if other != answer and must != "Nano" and must != "Minka")


# talks

def user(c): return [m["content"] for m in c["messages"][::2]]
def said(c): return [visible_text(m["content"]) for m in c["messages"][1::2]]
def calls(c): return [p["text"] for m in c["messages"][1::2] if not isinstance(m["content"], str) for p in m["content"] if p["type"] == "python"]


@pytest.fixture(scope="module")
def talks(): return {split: list(make_task("talk", split, size=2000)) for split in ("train", "test")}


def test_talks_have_one_to_six_turns(talks):
    turns = Counter(len(c["messages"]) // 2 for c in talks["train"])
    assert set(turns) == set(range(1, 7)) and turns[1] < 800 and sum(turns[n] for n in (3, 4, 5, 6)) > 600


def follow(total, question):
    "What a follow-up question asks for, worked out from its words alone."
    words = question.lower().rstrip("?.").split()
    if whole := re.search(r"(\d+) ([-+*]) (\d+)", question): return "".join(whole.groups())
    op = next(o for names, o in ((("plus", "add"), "+"), (("minus", "less"), "-"), (("times", "multiplied"), "*")) if set(names) & set(words))
    return f"{total}{op}{words[-1]}"


def test_every_answer_of_a_talk_can_be_worked_out(talks):
    "Spelled words, results and what the user said are found again from the user's words and the answers before, with none of the task's own code."
    seen = Counter()
    for c in talks["train"] + talks["test"]:
        total = word = None
        facts = {}
        for q, message in zip(user(c), c["messages"][1::2]):
            a, parts = visible_text(message["content"]), message["content"]
            for n, p in enumerate(parts if not isinstance(parts, str) else []):
                if p["type"] == "python":
                    assert parts[n + 1]["type"] == "python_output" and str(eval(p["text"])) == parts[n + 1]["text"]
                    if not re.search("[A-Z][a-z]+ (has|gets|buys|finds|gives|loses|sells)", q):
                        assert p["text"] == follow(total, q), (q, p["text"])
                        seen["calculated"] += 1
                    else:
                        numbers = re.findall(r"\d+", q)
                        assert p["text"] in (f"{numbers[0]}{p['text'][len(numbers[0])]}{numbers[-1]}", f"{total}{'-' if '-' in p['text'] else '+'}{numbers[-1]}")
                        seen["story"] += 1
                    total = parts[n + 1]["text"]
            if re.fullmatch("[a-z]( [a-z])+", a):
                letters = a.replace(" ", "")
                if letters in re.findall("[a-z]+", q.lower()): word, seen["spelled"] = letters, seen["spelled"] + 1
                else:
                    assert letters == word[::-1] and re.search("backwards|other way", q.lower()), (q, a)
                    seen["backwards"] += 1
            if m := re.fullmatch(r"(Hello, (\w+)!)", a): facts["name"] = m[2]; assert m[2] in q
            if m := re.fullmatch(r"I will remember that\.", a): facts["other"] = facts.get("other", "") + q
            if m := re.fullmatch(r"Your name is (\w+)\.", a): assert m[1] == facts["name"]; seen["name"] += 1
            elif m := re.fullmatch(r"You(?:r cat is called| live in| like| are) (\w+)(?: years old)?\.", a): assert m[1] in facts["other"]; seen["fact"] += 1
            if a == "You have not told me." and "name" in q.lower() and "cat" not in q: assert "name" not in facts; seen["untold"] += 1
    assert min(seen[k] for k in ("calculated", "story", "spelled", "backwards", "name", "fact", "untold")) >= 10, seen


def test_nothing_held_out_occurs_in_a_talk(talks):
    "Words, problems, names and wordings of the test part, counted in what is taught: none; in the test talks: many."
    words, functions = set(SpellingTask("test").keys), {n for n, _ in UnknownFunctionsTask("test").keys if "." in n}
    spelled_in = lambda cs: sum(re.sub("[^a-z]", "", a.split(" = ")[0]) in words for c in cs for a in said(c) if re.fullmatch("[a-z](?: [a-z0-9]+)+(?: = [0-9]+)?", a))
    def problems(cs):
        found = [re.fullmatch(r"(\d+)([-+*])(\d+)", e).groups() for c in cs for e in calls(c)]
        key = lambda a, op, b: f"{a} - {b}" if op == "-" else " ".join(sorted((a, op, b)))
        return sum(zlib.crc32(key(*p).encode()) % 10 == 0 for p in found)
    names = lambda cs: sum(zlib.crc32(m.encode()) % 6 == 0 for c in cs for m in re.findall(r"Hello, (\w+)!", " ".join(said(c))))
    asked = lambda cs: sum(bool(functions & set(re.findall(r"[\w.]*\w", q))) and a.startswith("I do not know that") for c in cs for q, a in zip(user(c), said(c)))
    for count in (spelled_in, problems, names, asked): assert count(talks["train"]) == 0 and count(talks["test"]) > 50, count
    openings = lambda cs: {user(c)[0] for c in cs}
    assert not openings(talks["train"]) & openings(talks["test"])


def test_a_refusal_is_taught_for_what_is_not_taught_only(talks):
    taught = dict(taught_functions())
    refused = Counter()
    for c in talks["train"] + talks["test"]:
        for q, a in zip(user(c), said(c)):
            names = [w for w in re.findall(r"[\w.]*\w", q) if w in taught]
            if a in taught.values(): assert any(taught[n] == a for n in names), (q, a)
            if a == "I do not know that function.":
                refused["functions"] += 1
                assert not set(names) - {"function", "format", "print", "list", "set", "dict", "str"}, (q, a)
    assert refused["functions"] > 300
    assert not any(refuses(a) for _, a in taught_functions())
    assert refuses("I do not know.") and refuses("You have not told me.") and not refuses("I know.") and not refuses("It does not matter.")


def test_what_people_say_first_is_taught_often_and_the_probes_never(talks):
    "In 2,000 talks: a person's first words word for word; short follow-ups of all three kinds; results that are gone on with."
    asked = Counter(q for c in talks["train"] for q in user(c))
    assert all(asked[q] >= 3 for q in tasks.FIRST_WORDS), {q: asked[q] for q in tasks.FIRST_WORDS}
    assert not set(tasks.FIRST_WORDS) & {q for c in talks["test"] for q in user(c)}
    built_in = {sentence for name, sentence in taught_functions() if "." not in name}
    kinds = Counter()
    for c in talks["train"]:
        for q, a in list(zip(user(c), said(c)))[1:]:
            kinds["gone on with"] += bool(re.match("(and |now |what is that )?(plus|add|minus|less|times|multiplied) ", q.lower()))
            if not q.startswith("And "): continue
            kinds["spelled"] += bool(re.fullmatch("[a-z]( [a-z])+", a))
            kinds["built in"] += a in built_in
            kinds["not known"] += a == "I do not know that function."
    assert min(kinds[k] for k in ("spelled", "built in", "not known", "gone on with")) >= 20, kinds


def test_talks_go_on_with_results_and_turn_words_around(talks):
    "Often enough to be learned: results that are copied, small ones as people have them among them, and short words backwards, letter for letter."
    totals, turned = Counter(), []
    for c in talks["train"]:
        total = letters = None
        for q, message in zip(user(c), c["messages"][1::2]):
            answer = visible_text(message["content"])
            calculated = re.match(r"(\d+)[-+*]\d+=(-?\d+)", answer)
            if re.fullmatch(r"(and |now |what is that )?(plus|add|minus|less|times|multiplied by) \d+[?.]", q.lower()):
                assert calculated[1] == total, (q, answer)              # copied out of the turn before
                totals[total] += 1
            if calculated: total = calculated[2]
            if re.fullmatch(r"(and |now )?backwards[?.]", q.lower()):           # the word itself may have to be spelled
                assert answer.split() == letters[::-1]
                turned.append(len(letters))
            letters = answer.split()
    assert totals.total() >= 150 and sum(n for t, n in totals.items() if 10 <= int(t) <= 20) >= 20 and len(totals) > 65
    assert len(turned) >= 100 and max(turned) <= 5


def test_the_functions_that_people_ask_for_are_taught():
    "The first of each module are those that a person tries; every place gives some, and none is both taught and refused."
    taught = {name for name, _ in taught_functions()}
    assert {"math.floor", "math.sqrt", "math.ceil", "os.path.basename", "random.randint", "statistics.mean", "len", "sorted"} <= taught
    assert set(tasks.FAMILIAR) <= taught and len(taught) == 160
    assert all(any(name.startswith(f"{place}.") for name in taught) for place in tasks.TAUGHT[1:])
    assert not taught & set(tasks.other_functions())


@pytest.mark.parametrize("module", ("tasks", "real_tasks", "mid_train", "chat_sft"))
def test_help_explains_every_parameter(module):
    "Of public functions, of classes and of their public methods."
    module, silent = importlib.import_module(f"nanochat_course.{module}"), []
    def ask(label, thing, doc):
        lines = doc.partition("Parameters:")[2].splitlines()
        explained = {name.strip(" *") for line in lines if ":" in line for name in line.partition(":")[0].split(",")}
        silent.extend(f"{label}({name})" for name in inspect.signature(thing).parameters if name not in ("self", "cls", *explained))
    for name in module.__all__:
        thing = getattr(module, name)
        if getattr(inspect.unwrap(thing) if callable(thing) else thing, "__module__", "") != module.__name__: continue
        ask(name, thing, inspect.getdoc(thing) or "")
        for method, code in vars(thing).items() if inspect.isclass(thing) else ():
            if inspect.isfunction(code) and (method == "__call__" or not method.startswith("_")):
                ask(f"{name}.{method}", code, inspect.getdoc(getattr(thing, method)) or "")
    assert not silent


def test_talks_are_graded_by_the_task_of_their_last_turn():
    task = make_task("talk", "test")
    graded = Counter()
    for i in range(1000):
        c = task[i]
        right = c["messages"][-1]["content"]
        assert task.grade(c, right) and not task.grade(c, "I like turtles.")
        graded[c["graded"]] += 1
    assert set(graded) >= {"spelling", "calculator", "memory", "docstring", "unknownfunctions", "identity", "wordproblems"}


def test_a_held_out_problem_is_held_out_everywhere():
    "Independent of the tasks: every a+b, a-b, a*b that an answer of the train part holds, against the rule written out here."
    key = lambda a, op, b: f"{a} - {b}" if op == "-" else " ".join(sorted((a, op, b)))
    out = lambda p: zlib.crc32(key(*p).encode()) % 10 == 0
    for name in ("calculator", "wordproblems", "stories"):
        problems = lambda split: [[re.fullmatch(r"(\d+)([-+*])(\d+)", e).groups() for e in calls(c)] for c in make_task(name, split)]
        assert not any(out(p) for ps in problems("train") for p in ps) and all(any(map(out, ps)) for ps in problems("test"))


# mixtures

def test_mixture_counts_epochs():
    a, b, c = SumsTask(size=10), SpellingTask(size=8), DocumentTask(["one", "two"])
    m = TaskMixture([(a, 2), (b, 0.5), (c, 1.5)])
    assert len(m) == 20 + 4 + 3
    counts = {}
    for t, i in m.order: counts[t, i] = counts.get((t, i), 0) + 1
    assert all(counts[0, i] == 2 for i in range(10)) and sum(counts.get((1, i), 0) for i in range(8)) == 4 and max(counts.get((1, i), 0) for i in range(8)) == 1
    assert m.order == TaskMixture([(a, 2), (b, 0.5), (c, 1.5)]).order != TaskMixture([(a, 2), (b, 0.5), (c, 1.5)], seed=1).order
    assert [m[i] for i in range(len(m))] == list(m)


# the loader

@functools.cache
def small_mixture(): return TaskMixture([(make_task(n, size=30), 1) for n in TASKS] + [(DocumentTask(["The cat sat on the mat. " * 9] * 5), 1)])


@pytest.mark.parametrize("supervise", ["assistant", "all"])
def test_rows_hold_whole_conversations_and_always_a_target(tok, supervise):
    m = small_mixture()
    loader = ConversationLoader(tok, m, 4, 512, CPU, supervise=supervise)
    batches = list(loader())
    assert len(batches) == loader.num_iterations and loader.left_out == loader.cut == 0
    found = []
    for x, y, _ in batches:
        assert x.shape == y.shape == (4, 512) and x.dtype == y.dtype == torch.int64
        for row, target in zip(x.tolist(), y.tolist()):
            if max(target) < 0: assert not any(row); continue
            assert all(t in (-1, n) for t, n in zip(target, row[1:]))
            starts = [i for i, t in enumerate(row) if t == tok.bos] + [len(row)]
            found += [(row[a:b], target[a:b]) for a, b in zip(starts, starts[1:])]
    def expected(c):
        if "text" in c: ids = tok.encode(c["text"], prepend="<|bos|>"); return ids, [int(supervise == "all")] + [1] * (len(ids) - 1)
        ids, mask = tok.render_conversation(c)
        return ids, mask if supervise == "assistant" else [1] * len(ids)
    want = [expected(c) for c in m]
    for ids, _ in found:                                         # a row's last conversation has padding after it, or lacks its last token
        fits = [w for w in want if w[0][:len(ids)] == ids or ids[:len(w[0])] == w[0] and not any(ids[len(w[0]):])]
        assert fits, f"torn: {tok.decode(ids)}"
        want.remove(fits[0])
    assert not want and loader.conversations == len(m)
    want = [expected(c) for c in m]
    n = sum(int((y >= 0).sum()) for _, y, _ in batches)
    full = sum(sum(w[1]) for w in want)
    assert n == full if supervise == "assistant" else full - len(loader.rows) - len(m) <= n <= full


def test_padding_is_small(tok):
    small = [(make_task(n), 0.02 if n == "talk" else 0.2) for n in TASKS]
    loader = ConversationLoader(tok, TaskMixture(small), 8, 512, CPU)
    assert 0 <= loader.padding < 0.02
    total = sum(len(tok.render_conversation(c)[0]) for c in TaskMixture(small))
    assert loader.tokens == total


def test_a_conversation_without_a_target_is_left_out_and_counted(tok):
    long = chat("The cat sat on the mat. " * 40, "Yes.")
    half = chat("The cat sat.", "The cat sat on the mat. " * 40)
    for supervise in ("assistant", "all"):
        loader = ConversationLoader(tok, [long, half, chat("Who sat?", "The cat.")], 1, 64, CPU, supervise=supervise)
        assert loader.left_out == 1 and loader.cut == 2 and loader.conversations == 2
        assert min(loader.targets) > 0
    with pytest.raises(CourseError, match="rows of conversations"): ConversationLoader(tok, [long], 1, 64, CPU)


def test_resume_and_ranks(tok):
    m = small_mixture()
    whole = list(ConversationLoader(tok, m, 3, 128, CPU)())
    for stop in (0, 1, len(whole) - 1):
        state = json.loads(json.dumps(whole[stop][2]))
        rest = list(ConversationLoader(tok, m, 3, 128, CPU)(state))
        assert len(rest) == len(whole) - stop - 1 and all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(rest, whole[stop + 1:]))
    for world, accum in ((2, 1), (3, 2), (5, 1)):
        parts = [ConversationLoader(tok, m, 3, 128, Runtime(torch.device("cpu"), torch.float32, rank=r, world_size=world), grad_accum_steps=accum) for r in range(world)]
        batches = [list(p()) for p in parts]
        assert {len(bs) for bs in batches} == {parts[0].num_iterations * accum}                     # nobody waits for nobody
        assert {tuple(x.shape) for bs in batches for x, _, _ in bs} == {(3, 128)}                   # a compiled model is compiled once
        assert real_rows(b for bs in batches for b in bs) == real_rows(whole)                       # exactly one epoch
    with pytest.raises(CourseError, match="supervise"): ConversationLoader(tok, m, 3, 128, CPU, supervise="user")

def real_rows(batches):
    "The rows that have a target, as a sorted list."
    return sorted(tuple(x.tolist()) for inputs, targets, _ in batches for x, y in zip(inputs, targets) if (y >= 0).any())


def loaders(tok, world, accum, batch=2, mixture=None):
    return [ConversationLoader(tok, mixture or small_mixture(), batch, 128, Runtime(torch.device("cpu"), torch.float32, rank=r, world_size=world), grad_accum_steps=accum)
            for r in range(world)]


@pytest.mark.parametrize("before,after", [((4, 1), (2, 2)), ((2, 2), (1, 4)), ((1, 4), (4, 1)), ((1, 2), (3, 1)), ((3, 1), (1, 2)), ((8, 1), (1, 3)), ((1, 5), (7, 2))])
def test_another_number_of_ranks_goes_on_with_the_next_row(tok, before, after):
    "Also where the batch is another one: no row is left out, none comes twice."
    whole = real_rows(loaders(tok, 1, 1)[0]())
    for steps in (1, 2, loaders(tok, *before)[0].num_iterations - 1):
        first = [list(itertools.islice(l(), steps * before[1])) for l in loaders(tok, *before)]
        states = json.loads(json.dumps([batches[-1][2] for batches in first]))
        rest = [list(l(states)) for l in loaders(tok, *after)]
        assert real_rows(b for batches in first + rest for b in batches) == whole
        assert len({len(batches) for batches in rest}) == 1
        if before[0] * before[1] == after[0] * after[1]:
            assert len(rest[0]) == (loaders(tok, *after)[0].num_iterations - steps) * after[1]


@pytest.mark.parametrize("rows", range(1, 20))
def test_any_number_of_rows_on_any_number_of_ranks(tok, rows):
    "Each conversation of a mixture once, in steps of which none is empty, on as many ranks as you like: also more ranks than rows."
    mixture = [chat("The cat sat on the mat. " * 9, "Yes. " * 30 + str(i)) for i in range(rows)]
    for world, accum, batch in ((1, 1, 4), (2, 1, 2), (3, 1, 1), (8, 1, 1), (3, 2, 1), (8, 2, 2)):
        ranks = loaders(tok, world, accum, batch, mixture)
        assert len(ranks[0].rows) == rows
        batches = [list(l()) for l in ranks]
        assert len(real_rows(b for bs in batches for b in bs)) == rows
        assert {len(bs) for bs in batches} == {-(-rows // (batch * world * accum)) * accum}
        assert {tuple(x.shape) for bs in batches for x, _, _ in bs} == {(batch, 128)}
        for step in range(ranks[0].num_iterations):
            assert any((y >= 0).any() for bs in batches for _, y, _ in bs[step * accum:(step + 1) * accum])


def test_a_large_mixture_is_packed_by_all_ranks_together(tok, tmp_path):
    "In shares of 40 items: two processes and one have the same rows, each item once; one share is what it was without shares."
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent("""
        import sys, zlib
        from nanochat_course.common import runtime
        from nanochat_course.tasks import *
        from nanochat_course.tokenizer import Tokenizer
        mixture = TaskMixture([(make_task(n, size=30), 1) for n in TASKS])
        with runtime("cpu", "float32") as rt:
            l = ConversationLoader(Tokenizer.load(sys.argv[1]), mixture, 2, 128, rt, share=40)
            rows = zlib.crc32(repr([[x.tolist(), y.tolist()] for x, y in l.rows]).encode())
            print(rows, len(l.rows), l.tokens, l.cut, l.left_out, l.conversations, zlib.crc32(repr(l.lengths).encode()), l.num_iterations * rt.world_size // 2)
    """))
    tok.save(tmp_path / "tok")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    def start(rank, world):
        env = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
        return forked.Popen([sys.executable, str(script), str(tmp_path / "tok")], env=env, stdout=subprocess.PIPE, text=True)
    one, two = start(0, 1), [start(r, 2) for r in (0, 1)]
    said = [p.communicate(timeout=100)[0].split()[:7] for p in (one, *two)]
    assert said[0] == said[1] == said[2] and len(said[0]) == 7
    mixture = TaskMixture([(make_task(n, size=30), 1) for n in TASKS])
    shares, whole = ConversationLoader(tok, mixture, 2, 128, CPU, share=40), ConversationLoader(tok, mixture, 2, 128, CPU)
    assert int(said[0][2]) == shares.tokens == whole.tokens and shares.lengths == whole.lengths and shares.cut == whole.cut
    count = lambda l: Counter(t for _, y in l.rows for t in y.tolist() if t >= 0)
    assert count(shares) == count(whole) and len(shares.rows) > len(whole.rows) - 1


def test_weights_make_the_mean_of_a_step(tok):
    "However a step is dealt, the loop's mean of the weighted losses and their gradient are those of all its targets together."
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(700, 16), torch.nn.Linear(16, 700))
    def mean_loss(inputs, targets):
        loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
        return loss / (targets >= 0).sum().clamp(min=1)
    def gradient(): return torch.cat([p.grad.flatten() for p in model.parameters()])
    long = [chat("Who?", "The cat. " * n) for n in (1, 1, 1, 20, 1, 30, 2, 1, 1)]
    whole = ConversationLoader(tok, long, 100, 128, CPU)
    x, y = (torch.stack(rows).long() for rows in zip(*whole.rows))
    want = mean_loss(x, y)
    want.backward()
    want, grad = want.item(), gradient()
    for world, accum, batch in ((1, 1, 9), (2, 1, 5), (3, 1, 3), (3, 4, 1), (8, 1, 2), (5, 2, 3)):
        model.zero_grad()
        ranks, total = loaders(tok, world, accum, batch, long), 0.
        for l in ranks: l.resize(batch, accum, step_rows=len(whole.rows))
        assert ranks[0].num_iterations == 1
        for l in ranks:
            for inputs, targets, _ in l.weighted():
                loss = mean_over_step(mean_loss, inputs, targets) / (world * accum)                    # what the loop divides by
                loss.backward()
                total += loss.item()
        assert total == pytest.approx(want, rel=1e-5) and torch.allclose(gradient(), grad, rtol=1e-4, atol=1e-7)


# roles

def test_nobody_forges_a_role(tok):
    rng, alphabet = random.Random(1), [*SPECIAL_TOKENS, "<|", "|>", "<", "assistant", " ", "\n", "\x00", "é", "🙂", "\u202e", "word", "123"]
    specials = set(tok.special_ids.values())
    for _ in range(2000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(25)))
        ids, mask = tok.render_conversation(chat(text, text))
        assert [tok.decode([i]) for i in ids if i in specials] == ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"]
        assert not any(mask[:ids.index(tok.special("<|assistant_start|>")) + 1])
