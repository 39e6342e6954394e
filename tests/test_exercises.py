"The checks of the exercises, and the list of what was solved."
import os, subprocess, sys
from pathlib import Path

import pytest

from nanochat_course import exercises
from nanochat_course.exercises import all_exercises, exercise, next_exercise, progress_lines, remember

ROOT = Path(__file__).resolve().parent.parent
NAMES = [(chapter, name, card) for chapter, cards in all_exercises().items() for name, card in cards.items()]


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    return tmp_path


def test_every_exercise_has_a_card_and_a_name_of_its_own():
    names = [name for _, name, _ in NAMES]
    assert len(names) == len(set(names)) > 80
    for chapter, name, (stars, minutes) in NAMES:
        if chapter == "91_exercises": continue
        assert stars in range(1, 6) and minutes, f"{name} has no difficulty"
        assert name.startswith(chapter[:2] + "."), f"{name} is asked in {chapter}"


def test_every_part_ends_with_capstones():
    hard = {c: [n for ch, n, (stars, _) in NAMES if ch == c and stars >= 4] for c in all_exercises() if c.endswith("_capstones")}
    assert len(hard) == 4 and sum(map(len, hard.values())) >= 12
    for chapter, names in hard.items():
        assert len(names) == len(all_exercises()[chapter]) >= 3
        solved = (ROOT / "tests" / "exercises" / f"{chapter}.py").read_text()
        assert solved.count(".verify(") == len(names), f"a capstone of {chapter} has no reference solution"


def test_what_is_next_follows_the_last_that_was_solved():
    chapters = {"01_a": {"a": (1, 5), "b": (2, 5)}, "02_b": {"c": (3, 5)}}
    assert next_exercise(chapters, set())[1] == "a"
    assert next_exercise(chapters, {"a"})[1] == "b"
    assert next_exercise(chapters, {"b"})[1] == "c"            # who skips is not sent back
    assert next_exercise(chapters, {"b", "c"})[1] == "a"       # until nothing is open behind
    assert next_exercise(chapters, {"a", "b", "c"}) is None


def test_the_program_says_what_was_solved_and_what_is_next(fresh):
    first, second = NAMES[0][1], NAMES[1][1]
    exercise(first)(lambda f: None)(lambda: 1)                  # solved, and so remembered
    remember("77.7 of another edition")
    with open(fresh / "progress.jsonl", "a") as f: f.write('"torn')
    env = {**os.environ, "NANOCHAT_COURSE_DIR": str(fresh)}
    done = subprocess.run([sys.executable, "-m", "nanochat_course.exercises"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"✓ {first}" in done.stdout and f"– {second}" in done.stdout and "✓ 77.7 of another edition" in done.stdout
    assert lines[-2].split()[:4] == ["in", "all", "2", "of"]
    assert lines[-1].startswith(f"next: {second} (★") and lines[-1].endswith(".ipynb")


def test_outside_the_repository_only_what_was_solved_is_listed(fresh, monkeypatch):
    monkeypatch.setattr(exercises, "all_exercises", dict)
    assert progress_lines() == ["no exercise solved yet: open a notebook, fill in a stub, run its cell"]
    remember("10.1 the bytes of a token")
    assert progress_lines() == [f"{'10':24s} 1 of 1   ✓ 10.1 the bytes of a token", f"{'in all':24s} 1 of 1"]
