"""What is settled of an object that has several problems (CON-1 to CON-6)."""

from __future__ import annotations

import pytest

from engine.apply import Problem
from engine.model import ROOT, Slot
from engine.problems import gathered

A, B = bytes([1]) * 16, bytes([2]) * 16
SLOT = Slot(ROOT, b"a")


@pytest.mark.parametrize("content_first", [False, True])
def test_a_problem_that_needs_content_is_not_lost_behind_another(content_first: bool) -> None:
    """Renamed and written at once: its place is put right, and its content is sent, too."""
    problems = [Problem(A, SLOT, "RENAME", 17, "occupied"), Problem(A, None, "DATA", 0, "moved")]
    todo, slots = gathered(reversed(problems) if content_first else problems)
    assert todo[A].operation == "DATA" and slots == {A: [SLOT]}


def test_what_was_in_the_way_is_settled_too_and_for_its_own_content() -> None:
    problems = [Problem(A, SLOT, "CREATE", 17, "occupied", found=B), Problem(B, None, "DATA", 0, "moved")]
    todo, slots = gathered(problems)
    assert todo[A].operation == "CREATE" and todo[B].operation == "DATA" and slots == {}


@pytest.mark.parametrize("tree_first", [False, True])
def test_a_directory_that_is_settled_with_all_in_it_stays_that(tree_first: bool) -> None:
    problems = [Problem(A, None, "TREE", 0, ""), Problem(A, None, "DATA", 0, "moved")]
    assert gathered(problems if tree_first else reversed(problems))[0][A].operation == "TREE"
