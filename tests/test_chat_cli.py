# ruff: noqa: E501
"The terminal chat: in a pipe, in a pseudo-terminal, and its parts."
import errno, io, os, pty, select, shutil, signal, sys, time

import forked, pytest, torch

from nanochat_course import chat_cli
from nanochat_course.chat_cli import Chat, Printer, command, converse, find_model, fit, harmless, pieces, questions, teachers
from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
from nanochat_course.common import CourseError, Runtime, base_dir
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.tokenizer import train_bpe

tok = train_bpe(["The cat sat on the mat. " * 20 + "12+34 übergrößte"], 320, num_processes=1)
COMMAND = [sys.executable, "-m", "nanochat_course.chat_cli"]
PASTE = "\x1b[?2004"                                                # h: the prompt begins to read keys, l: it ends


def call(expression, result): # a tool call as the engine writes it
    sp = tok.special
    return [sp("<|python_start|>"), *tok.encode(expression), sp("<|python_end|>"), sp("<|output_start|>"), *tok.encode(result), sp("<|output_end|>")]


class Echo:
    "An engine that says what it is told to, and remembers its prompts."
    def __init__(self, tokens, stop_at=None): self.tokens, self.stop_at, self.prompts = tokens, stop_at, []
    def generate(self, prompt, **kw):
        self.prompts.append(prompt)
        for i, t in enumerate(self.tokens):
            if i == self.stop_at: raise KeyboardInterrupt
            yield [t], [1]


def chat_with(tokens, context=200, **kw): return Chat(Echo(tokens, kw.pop("stop_at", None)), tok, context, **kw)


class Keys:
    def __init__(self, *lines): self.lines = list(lines)
    def prompt(self, _):
        if not self.lines: raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, type): raise line
        return line


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "A folder with a tokenizer and untrained models after three stages."
    old, folder = os.environ["NANOCHAT_COURSE_DIR"], tmp_path_factory.mktemp("house")
    os.environ["NANOCHAT_COURSE_DIR"] = str(folder)
    tok.save(base_dir() / "tokenizer")
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=96, vocab_size=tok.vocab_size, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)).init_weights()
    for stage, tag in (("base", "d1"), ("mid", "d1"), ("chatsft", "d1"), ("chatsft", "d2")):
        save_checkpoint(checkpoint_dir(stage, tag), 3, model, meta={}, rt=Runtime(torch.device("cpu"), torch.float32))
    yield folder
    os.environ["NANOCHAT_COURSE_DIR"] = old


def run(*args, house, stdin="", **kw):
    return forked.run([*COMMAND, "--device", "cpu", "--dtype", "float32", *args], input=stdin, capture_output=True, text=True, timeout=120,
                          env=dict(os.environ, NANOCHAT_COURSE_DIR=str(house), OMP_NUM_THREADS="1"), **kw)


def test_no_model(tmp_path):
    r = run("-p", "hi", house=tmp_path)
    assert r.returncode == 2 and "make speedrun" in r.stderr and len(r.stderr.strip().splitlines()) == 1 and not r.stdout


def test_the_model_trained_last(house):
    assert find_model()[0] == "chatsft"
    mid, sft = (house / f"{stage}_checkpoints" / "d1" for stage in ("mid", "chatsft"))
    times = [(p, p.stat().st_mtime) for p in (mid, sft)]
    os.utime(mid, (times[1][1] + 60,) * 2)                     # midtraining was done again
    assert find_model() == ("mid", mid)
    for p, t in times: os.utime(p, (t, t))
    assert find_model("mid") == ("mid", house / "mid_checkpoints" / "d1")
    assert find_model(tag="d1") == ("chatsft", house / "chatsft_checkpoints" / "d1")
    for kw in (dict(source="base"), dict(source="chatrl"), dict(tag="d9")):
        with pytest.raises(CourseError): find_model(**kw)


def test_a_model_that_newer_training_has_overtaken(house, tmp_path, monkeypatch):
    "RL of last week on SFT of last week: after a new SFT the new one speaks, unless RL is asked for."
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    for stage, when in (("mid", 1), ("chatsft", 2), ("chatrl", 3)):
        shutil.copytree(house / "mid_checkpoints" / "d1", checkpoint_dir(stage, "d1"))
        os.utime(checkpoint_dir(stage, "d1"), (when, when))
    assert find_model()[0] == find_model(tag="d1")[0] == "chatrl"
    os.utime(checkpoint_dir("chatsft", "d1"), (9, 9))
    assert find_model()[0] == find_model(tag="d1")[0] == "chatsft" and find_model("chatrl")[0] == "chatrl"
    os.utime(checkpoint_dir("mid", "d1"), (10, 10))
    assert find_model()[0] == "mid"


def test_outside_the_repository_the_installed_command_is_named(tmp_path):
    r = run("-p", "hi", house=tmp_path / "none", cwd=tmp_path)
    assert "nanochat-speedrun trains one" in r.stderr and "make" not in r.stderr


@pytest.mark.parametrize("tag", ["../base_checkpoints/d1", "/abs", "d*", ".", "..", ""])
def test_a_name_is_a_name(house, tag):
    "A tag with a path or a pattern in it finds nothing; without one, what was set aside is not found."
    aside = house / "chatrl_checkpoints" / "d1.old-20260101-000000"
    (aside / "step_000001").mkdir(parents=True, exist_ok=True)
    if tag:
        with pytest.raises(CourseError, match="no chat model with tag"): find_model(tag=tag)
    else: assert find_model()[0] == "chatsft"
    assert find_model(tag=aside.name) == ("chatrl", aside)


def test_examples_are_questions_of_the_training(house):
    config = dict(mixture="smoltalk:1 identity:1 spelling:2 lettercount:0 sums:.5", no_such_flag=3)
    tasks = teachers("mid", "d1", dict(config=config))
    assert [type(t).__name__ for t in tasks] == ["IdentityTask", "SpellingTask", "HandSumsTask"]
    known = {t[i]["messages"][0]["content"] for t in tasks for i in range(len(t))}
    for _ in range(5):
        asked = questions(tasks)
        assert len(asked) == 3 and set(asked) <= known
    assert teachers("mid", "d1", {}) == teachers("chatrl", "d1", dict(config=config)) == []      # this house's SFT model says nothing


def test_base_model_only(house, tmp_path, monkeypatch):
    (tmp_path / "base_checkpoints").mkdir()
    os.symlink(house / "base_checkpoints" / "d1", tmp_path / "base_checkpoints" / "d1")
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    with pytest.raises(CourseError, match="has not learned to chat"): find_model()


def test_one_shot_and_pipe(house):
    a = run("-p", "Where did the cat sit?", "--seed", "1", "--max-tokens", "12", house=house)
    b = run("--seed", "1", "--max-tokens", "12", house=house, stdin="Where did the cat sit?\n")
    assert a.returncode == b.returncode == 0 and a.stdout == b.stdout and a.stdout.endswith("\n") and "\x1b" not in a.stdout, (a, b)
    c = run("-p", "x" * 500, house=house)
    assert c.returncode == 2 and "shorten" in c.stderr and len(c.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("args", [["--temperature", "-1"], ["--top-k", "-2"], ["--source", "base"], ["--device", "abacus"], ["--step", "77"]], ids=str)
def test_mistakes_on_the_command_line(house, args):
    r = run("-p", "hi", *args, house=house)
    assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1, r.stderr


def test_nothing_to_answer(house):
    r = run(house=house)
    assert r.returncode == 2 and "nothing to answer" in r.stderr


def test_terminal(house):
    "A pseudo-terminal: a question, a command, Ctrl-C while it answers and at the prompt, Ctrl-D."
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(NANOCHAT_COURSE_DIR=str(house), TERM="xterm", OMP_NUM_THREADS="1", PROMPT_TOOLKIT_NO_CPR="1")
        os.execv(sys.executable, [*COMMAND, "--device", "cpu", "--dtype", "float32", "--max-tokens", "20", "--seed", "1"])
    seen = ""
    def expect(text, seconds=60):
        nonlocal seen
        end = time.time() + seconds
        while text not in seen:
            assert time.time() < end, f"{text!r} did not come: {seen[-500:]!r}"
            if select.select([fd], [], [], .2)[0]:
                try: seen += os.read(fd, 65536).decode("utf-8", "replace")
                except OSError as e:
                    assert e.errno == errno.EIO and text in seen, seen[-500:]
        seen = seen[seen.index(text) + len(text):]
    def ready(): expect(f"{PASTE}h"), expect("you>")                # what is typed before the prompt takes over, the terminal keeps or drops
    try:
        expect("parameters"), ready()
        os.write(fd, b"The cat\x1b\rsat.\r")                      # Alt-Enter: two lines, one message
        expect("sat."), expect(f"{PASTE}l"), ready()
        os.write(fd, b"/top-k 0\r"), expect("top-k all"), ready()
        os.write(fd, b"\x03"), expect("/quit to leave"), ready()
        os.write(fd, b"/quit\r")
        for _ in range(600):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done: break
            time.sleep(.05)
            if select.select([fd], [], [], 0)[0]:
                try: os.read(fd, 65536)
                except OSError: pass
        assert done and os.waitstatus_to_exitcode(status) == 0
    finally:
        try: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError): pass
        os.close(fd)
    history = (house / "chat_history").read_text()
    assert "+The cat\n+sat." in history and "+/top-k 0" in history


def test_answer_becomes_part_of_the_conversation():
    c = chat_with([*tok.encode("It is "), *call("6*7", "42"), tok.special("<|assistant_end|>")])
    assert [k for k, _ in c.answer("6*7?")][-1] == "python_output"
    assert c.messages[-1]["content"] == [dict(type="text", text="It is "), dict(type="python", text="6*7"), dict(type="python_output", text="42")]
    list(c.answer("again"))
    prompt = tok.decode(c.engine.prompts[-1])
    assert prompt.count("<|user_start|>") == 2 and "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|><|assistant_end|>" in prompt
    c.clear()
    list(c.answer("new"))
    assert tok.decode(c.engine.prompts[-1]).count("<|user_start|>") == 1


def test_ctrl_c_stops_the_answer_only(capsys):
    c = chat_with(tok.encode("The cat sat on the mat."), stop_at=3)
    converse(c, Keys("hello", KeyboardInterrupt, "/help", ""))
    out = capsys.readouterr().out
    assert "(stopped)" in out and "/temperature" in out and "Ctrl-D or /quit" in out
    assert c.messages == [dict(role="user", content="hello"), dict(role="assistant", content=[dict(type="text", text=tok.decode(tok.encode("The cat sat on the mat.")[:3]))])]


def test_context_overflow_drops_whole_turns(capsys):
    c = chat_with(tok.encode("yes"), context=80, system="be brief")
    converse(c, Keys(*["The cat sat on the mat."] * 12))
    assert "were forgotten" in capsys.readouterr().out
    for p in c.engine.prompts:
        text = tok.decode(p)
        assert len(p) <= 60 and text.startswith("<|bos|><|user_start|>be brief") and text.count("<|user_start|>") == text.count("<|assistant_start|>")
    before = list(c.messages)
    converse(c, Keys("x" * 500))
    assert "error: this message alone" in capsys.readouterr().out and c.messages == before
    with pytest.raises(CourseError): fit(tok, [dict(role="user", content="x" * 99)], 20)


def test_commands():
    c = chat_with([])
    assert "does not say" in command(c, "/examples")
    c.examples = lambda: ["Who are you?", "What is 1 + 1?"]
    assert command(c, "/examples") == "  Who are you?\n  What is 1 + 1?"
    assert command(c, "/temperature 0") == "temperature 0" and c.temperature == 0
    assert command(c, "/top-k 0") == "top-k all" and command(c, "/quit") is None
    c.messages = [dict(role="user", content="x")]
    command(c, "/system You are a cat")
    assert c.system == "You are a cat" and not c.messages
    command(c, "/system -")
    assert c.system == ""
    for line in ("/temperature -1", "/temperature nan", "/temperature inf", "/temperature x", "/top-k 1.5", "/top-k -1", "/", "/nothing", "/top-k ٣x"):
        with pytest.raises(CourseError): command(c, line)


def test_tool_calls_are_shown_apart():
    out = io.StringIO()
    p = Printer(out)
    for kind, text in pieces(tok, [*tok.encode("a"), *call("1+1", "2"), *call("2+2", "4"), *tok.encode("b"), tok.special("<|python_start|>"), *tok.encode("9")]): p(kind, text)
    p.end()
    assert out.getvalue() == "a[calculator: 1+1 = 2][calculator: 2+2 = 4]b[calculator: 9]\n"


def test_the_terminal_is_safe_from_the_model():
    assert harmless("a\x1b[2Jb\x07\r\u202ec\td\n\ud800🙂") == "a[2Jbc\td\n🙂"




def test_eight_bits_only_when_asked(house, monkeypatch, capsys):
    made = []

    class Watched(Engine):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self.int8)
    monkeypatch.setattr(chat_cli, "Engine", Watched)
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(house))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for asked in (False, True): chat_cli.chat(chat_cli.ChatConfig(prompt="hi", device="cpu", dtype="float32", max_tokens=3, int8=asked))
    assert made == [False, True]
