"""When a run with --once ends, what it says then, and how a brick's progress reads."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from engine.guard import Hold
from engine.model import EngineError, Mark
from engine.status import BrickStatus, Who
from engine.verdict import Thresholds
from georep_tui import headless
from georep_tui.headless import GIVE_UP, GIVE_UP_UNBEGUN, Plain
from georep_tui.progress import row
from georep_tui.view.text import width

NOW = 1_795_325_087.0


@pytest.fixture
def status(tmp_path: Path) -> BrickStatus:
    made = BrickStatus(Who("b1", "m1", "/srv/www", "", "dr:/srv/www"), str(tmp_path / "status.json"))
    made.initializing()
    return made


def _live(status: BrickStatus) -> None:
    status.synced(Mark(1000, 0))
    status.crawl("live", None, None, None)
    status.backlog(0, 0, None)
    status.active()


def _seen(status: BrickStatus) -> dict[str, Any]:
    return status.snapshot(NOW, Thresholds())


def _ends(status: BrickStatus, *, begun: bool) -> int | None:
    ended = headless._once([_seen(status)], {"b1"} if begun else set())
    return None if ended is None else ended[0]


def test_a_running_brick_goes_on(status: BrickStatus) -> None:
    assert _ends(status, begun=False) is None
    _live(status)
    assert _ends(status, begun=True) is None


def test_held_ends_it_with_1(status: BrickStatus) -> None:
    """SAFE-1: with --once nobody is waited for."""
    _live(status)
    status.held(Hold("h", "60 of 100", 60, 100, (), NOW))
    assert _ends(status, begun=True) == 1


def test_held_waits_for_the_other_bricks(status: BrickStatus, tmp_path: Path) -> None:
    _live(status)
    status.held(Hold("h", "60 of 100", 60, 100, (), NOW))
    other = BrickStatus(Who("b2", "m1", "/srv/b", "", "dr:/b"), str(tmp_path / "other.json"))
    _live(other)
    other.batch_begin(1, changelogs=1, entries=5, files=5)
    assert headless._once([_seen(status), _seen(other)], {"b1", "b2"}) is None
    other.batch_end(1.0)
    assert headless._once([_seen(status), _seen(other)], {"b1", "b2"}) == (1, None)


@pytest.mark.parametrize(("begun", "most", "code"), [(True, GIVE_UP, 1), (False, GIVE_UP_UNBEGUN, 2)])
def test_faults_in_a_row_end_it(status: BrickStatus, begun: bool, most: int, code: int) -> None:
    """ERR-4: some patience, not for ever."""
    for attempt in range(1, most):
        status.faulty(EngineError("line gone"), attempt, NOW)
        assert _ends(status, begun=begun) is None
    status.faulty(EngineError("line gone"), most, NOW)
    assert _ends(status, begun=begun) == code


def test_an_internal_error_is_70(status: BrickStatus) -> None:
    status.faulty(EngineError("KeyError", code="internal"), 1, NOW)
    assert _ends(status, begun=True) == 70


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_progress_of_a_brick(status: BrickStatus, columns: int) -> None:
    assert row(_seen(status), columns)[0] == "◌ Starting"
    _live(status)
    assert row(_seen(status), columns)[1:] == ["/srv/www", "in step"]
    status.batch_begin(1, changelogs=1, entries=10, files=10)
    status.entries_done(10)
    status.files_done(5, 1 << 20)
    cells = row(_seen(status), columns)
    assert "75%" in cells[2]
    assert cells[3:5] == ["5/10", "1.0 MiB"]
    assert width("  ".join(cells)) <= max(columns, 72)
    status.faulty(EngineError("No space left\x1b[2J"), 1, NOW)
    assert row(_seen(status), columns)[2] == "No space left\\x1b[2J"


def test_output_that_is_closed_is_left_alone(tmp_path: Path) -> None:
    """A reader that went away costs nothing but its lines."""
    read, write = os.pipe()
    os.close(read)
    out = os.fdopen(write, "w")
    plain = Plain(out)
    plain.line("one")
    plain.line("two")
    out.close()
    closed = io.StringIO()
    closed.close()
    Plain(closed).line("x")
    assert tmp_path.exists()
