"""Lessons: each runs to its end, where it asserts what it has taught, and warns of nothing."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "docs" / "lessons").glob("*.py"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs(lesson, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-W", "error", lesson], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not list(tmp_path.iterdir()), "a lesson leaves nothing behind"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_ends_with_what_it_taught(lesson):
    assert isinstance(ast.parse(lesson.read_text(encoding="utf-8")).body[-1], ast.Assert)


def test_the_index_names_every_lesson():
    index = (LESSONS[0].parent / "README.md").read_text(encoding="utf-8")
    assert LESSONS
    assert [lesson.name for lesson in LESSONS if f"({lesson.name})" not in index] == []
