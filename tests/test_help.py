"help() shows what the comments of a signature say."
import importlib, inspect, pydoc, re
from pathlib import Path

import pytest
from fastcore.docments import docments

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nanochat_course"
MODULES = sorted(".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py") if not p.stem.startswith("_"))


def public(module):
    "Functions and classes that a module offers and defines."
    for name in module.__all__:
        thing = getattr(module, name)
        plain = inspect.unwrap(thing) if callable(thing) else thing
        if (inspect.isfunction(plain) or inspect.isclass(plain)) and plain.__module__ == module.__name__: yield name, thing


@pytest.mark.parametrize("name", MODULES)
def test_every_documented_parameter_is_in_help(name):
    "fastcore reads the comments in its own way; whatever it finds has to be in the docstring."
    found = 0
    for label, thing in public(importlib.import_module(f"nanochat_course.{name}")):
        if re.match(r"def .*\): [^#\n]", inspect.getsource(inspect.unwrap(thing))): continue   # all on one line: its comment is about the body
        doc = inspect.getdoc(thing) or ""
        try: comments = docments(thing, full=True)
        except (SyntaxError, TypeError, ValueError, KeyError): continue         # a one-line body behind the signature: fastcore cannot read it
        for parameter, said in comments.items():
            if parameter == "self" or not said.docment or (parameter == "return" and inspect.isclass(thing)): continue
            for line in said.docment.splitlines(): assert line.strip() in doc, f"{label}({parameter}) is not explained in help(): {said.docment!r}"
            found += 1
    assert found or name == "__init__"


def unexplained(thing):
    "Parameters of a function, or of a class of this package that has a constructor of its own, of which help() says nothing."
    if inspect.isclass(thing):
        maker = next(c for c in thing.__mro__ if "__init__" in vars(c))
        if not maker.__module__.startswith("nanochat_course"): return []        # an autograd function's, a torch module's
    said = re.findall(r"^    ([\w, ]+): \S", inspect.getdoc(thing) or "", re.M)
    names = [n for n, p in inspect.signature(thing).parameters.items() if n != "self"]
    return [n for n in names if not any(n in group.split(", ") for group in said)]


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_of_the_package_is_explained(name):
    missing = {label: unexplained(thing) for label, thing in public(importlib.import_module(f"nanochat_course.{name}"))}
    missing = {label: names for label, names in missing.items() if names}
    assert not missing, f"nanochat_course.{name}: say behind each parameter what it is, its shape and its unit: {missing}"


def test_a_parameter_without_meaning_is_found():
    def good(a, b): "Two.\n\nParameters:\n    a, b: numbers"
    def bad(a, b): "Two.\n\nParameters:\n    a: a number"
    class Inherits(dict): pass
    assert (unexplained(good), unexplained(bad), unexplained(Inherits)) == ([], ["b"], [])


def unsaid(module):
    "The parameters of functions, classes and their methods of which help() says nothing."
    for label, thing in public(module):
        plain = inspect.unwrap(thing)
        parts = [(label, thing)]
        if inspect.isclass(plain): parts += [(f"{label}.{k}", f) for k, f in vars(plain).items() if inspect.isfunction(f) and k[0] != "_"]
        for name, part in parts:
            doc = inspect.getdoc(part) or ""
            said = {p.strip("* ") for names in re.findall(r"^ +([\w, *]+):", doc, re.MULTILINE) for p in names.split(",")}
            yield from (f"{name}({p})" for p in inspect.signature(part).parameters if p not in said | {"self"})


@pytest.mark.parametrize("name", ["evaluation", "base_eval", "chat_rl", "chat_eval", "transcript", "preferences", "exercises"])
def test_no_parameter_is_left_without_a_word(name):
    assert list(unsaid(importlib.import_module(f"nanochat_course.{name}"))) == []


def test_methods_fields_and_patches_are_explained():
    from nanochat_course import chat_sft, mid_train, optim, tokenizer
    assert "Parameters:\n" in inspect.getdoc(tokenizer.Tokenizer.encode)
    assert "special_tokens: names; their ids follow the last merge" in inspect.getdoc(tokenizer.Tokenizer)     # from its base class
    init = inspect.getdoc(optim.MuonAdamW.__init__)
    assert init.startswith("Parameters:\n    param_groups: ") and init.splitlines()[1].strip() in inspect.getdoc(optim.MuonAdamW)
    inherited = [line for line in inspect.getdoc(mid_train.MidTrainConfig).splitlines() if line.startswith("    corpus: ")]
    assert inherited and inherited[0] in inspect.getdoc(chat_sft.ChatSFTConfig)


def test_what_is_said_once_is_shown_wherever_it_holds():
    "A method that overrides another, and a stage whose parameter is its configuration."
    from nanochat_course import mid_train, tasks
    said = next(line for line in inspect.getdoc(tasks.Task.grade).splitlines() if line.strip().startswith("completion: "))
    for task in (tasks.SumsTask, tasks.MemoryTask, tasks.TalkTask):
        doc = inspect.getdoc(task.grade)
        assert said in doc.splitlines() and doc.startswith("Is the completion right?"), task
    assert "config: a MidTrainConfig, whose fields are explained there" in inspect.getdoc(mid_train.mid_train)


def test_one_line_bodies_and_several_names_on_a_line():
    from nanochat_course import evaluation, exercises
    assert "name: shown, and kept in the learner's progress" in inspect.getdoc(exercises.exercise)
    assert "model, tokenizer: as in `sample_text`" in inspect.getdoc(evaluation.sample_texts)


def test_a_long_default_is_shown_by_its_name_and_is_still_itself():
    from nanochat_course.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, train_bpe
    shown = pydoc.plain(pydoc.render_doc(train_bpe))
    assert "pattern: str = SPLIT_PATTERN" in shown and SPLIT_PATTERN[:40] not in shown
    parameters = inspect.signature(train_bpe).parameters
    assert parameters["pattern"].default == SPLIT_PATTERN == inspect.unwrap(train_bpe).__defaults__[0]
    assert parameters["special_tokens"].default == SPECIAL_TOKENS
