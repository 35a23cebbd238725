"""Checkpoints (STA-2): complete once when the mark reaches them, afresh when changed; times as people write them."""

from __future__ import annotations

import pytest

from engine.checkpoint import Checkpoint, merged, parse_time
from engine.model import NO_MARK, EngineError, Mark

NOW = 1_795_325_087.9


def test_sta_2_complete_when_the_mark_reaches_it() -> None:
    """STA-2: not a second before; the completion time is recorded once."""
    point = Checkpoint().set(100)
    assert (point.time, point.completed, point.completion_time) == (100, False, None)
    for mark in (NO_MARK, Mark(0, 0), Mark(99, 999_999_999)):
        assert point.reached(mark, 500.0) == point
    done = point.reached(Mark(100, 0), 500.0)
    assert (done.completed, done.completion_time) == (True, 500.0)
    assert done.reached(Mark(101, 0), 600.0) == done


def test_sta_2_a_changed_one_starts_afresh() -> None:
    """STA-2: another time is another checkpoint; the same one goes on."""
    done = Checkpoint().set(100).reached(Mark(150, 0), 500.0)
    assert done.set(100) is done
    assert done.set(200) == Checkpoint(200, False, None)
    assert done.set(None) == Checkpoint(None, None, None)


def test_sta_2_none_is_never_complete() -> None:
    assert Checkpoint().reached(Mark(1000, 0), 5.0) == Checkpoint()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", 1_795_325_087), ("clear", None), ("1795325000", 1_795_325_000), (" 1795325000.7 ", 1_795_325_000),
        ("2026-11-22T05:24:47+00:00", 1_795_325_087), ("2026-11-22T06:24:47+01:00", 1_795_325_087),
        ("2026-11-22T05:24:47Z", 1_795_325_087), (1_795_325_000, 1_795_325_000), (7.9, 7),
    ],
)  # fmt: skip
def test_times(text: str | float, time: int | None) -> None:
    assert parse_time(text, NOW) == time


@pytest.mark.parametrize("text", ["", "yesterday-ish", "2026-13-45", "nan", "inf", "-5", "1e400", "9" * 20])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(EngineError, match="is no time") as found:
        parse_time(text, NOW)
    assert "ISO 8601" in found.value.hint
    assert found.value.code == "usage"


def test_sta_2_kept_as_json() -> None:
    point = Checkpoint().set(100, "anna", 90.0).reached(Mark(150, 0), 500.0)
    assert Checkpoint.of(point.shown()) == point


def test_sta_2_a_sessions_checkpoint_is_complete_when_every_bricks_is() -> None:
    """STA-2: with the time of the last, and all failures before it."""
    done = {"time": 100, "set": 90.0, "by": "anna", "completed": True, "completion_time": 110.0, "failures_before": 1}
    late = {**done, "completion_time": 130.0, "failures_before": 0}
    open_ = {**done, "completed": False, "completion_time": None}
    older = {**done, "time": 50, "set": 40.0}
    (found,) = merged([[done], [late]])
    assert (found["completed"], found["completion_time"], found["failures_before"]) == (True, 130.0, 1)
    (found,) = merged([[done], [open_]])
    assert (found["completed"], found["completion_time"]) == (False, None)
    assert [c["time"] for c in merged([[done, older], [late, older]])] == [100, 50]
    assert merged([[], []]) == []
