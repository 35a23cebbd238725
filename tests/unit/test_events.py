"""Events with numbers that can be replayed, and the engine's own log (STA-4)."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.events import EventLog, Log


def test_sta_4_numbered_and_replayed() -> None:
    """STA-4: numbers without a gap from 1; those after one that a reader knows."""
    events = EventLog()
    assert events.since(0) == []
    for n in range(5):
        events.publish("batch done", id=n)
    found = events.since(2)
    assert found is not None
    assert [(e["seq"], e["id"]) for e in found] == [(3, 2), (4, 3), (5, 4)]
    assert events.since(5) == []
    assert events.seq == 5
    assert found[0]["event"] == "batch_done"


def test_sta_4_what_is_no_longer_kept_is_said() -> None:
    """STA-4: a reader that was away too long learns that, never a silent gap; nor one from another life."""
    events = EventLog(kept=3)
    for _ in range(10):
        events.publish("x")
    assert [e["seq"] for e in events.since(7) or []] == [8, 9, 10]
    assert events.since(6) is None
    assert events.since(11) is None
    assert EventLog().boot_id != EventLog().boot_id


def test_sta_4_a_waiter_is_woken() -> None:
    events = EventLog()
    assert not events.wait(0, 0.01)
    woken: list[bool] = []
    waiter = threading.Thread(target=lambda: woken.append(events.wait(0, 30)))
    waiter.start()
    events.publish("x")
    waiter.join(10)
    assert woken == [True]


def test_sta_4_many_writers_one_order() -> None:
    events = EventLog()
    threads = [threading.Thread(target=lambda: [events.publish("x") for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e["seq"] for e in events.since(0) or []] == list(range(1, 801))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


def test_a_line_of_text(path: Path) -> None:
    """Time, level, brick, text; nothing in a name can make another line or move a terminal's cursor."""
    log = Log(str(path))
    log.write("info", "plain", "/srv/www")
    log.write("warning", "evil \x1b[2J \r \u202e name")
    log.write("error", "two\nlines")
    log.close()
    lines = path.read_text().splitlines()
    assert lines[0].endswith("Z INFO    /srv/www: plain")
    assert "\\x1b[2J" in lines[1]
    assert all(c.isprintable() for line in lines for c in line)
    assert lines[3] == "    lines"


def test_a_line_of_json(path: Path) -> None:
    log = Log(str(path), as_json=True)
    log.write("warning", "two\nlines", os.fsdecode(b"/srv/\xff"))
    log.close()
    (line,) = path.read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert (found["level"], found["brick"], found["text"]) == ("warning", "/srv/\\xff", "two\nlines")
    assert found["time"] > 1_000_000_000


def test_the_level_can_change(path: Path) -> None:
    log = Log(str(path), "WARNING")
    log.write("info", "one")
    log.set_level("DEBUG")
    log.write("debug", "two")
    log.close()
    assert [line["text"] for line in log.lines()] == ["two"]
    assert "one" not in path.read_text()


def test_kept_lines_by_number_level_and_brick(path: Path) -> None:
    log = Log(str(path), "DEBUG")
    heard: list[dict[str, Any]] = []
    log.listeners.append(heard.append)
    for n in range(10):
        log.write("error" if n % 2 else "debug", f"line {n}", "/a" if n < 5 else "/b")
    assert [line["text"] for line in log.lines(since=7)] == ["line 7", "line 8", "line 9"]
    assert [line["text"] for line in log.lines(level="warning", brick="/a")] == ["line 1", "line 3"]
    assert [line["text"] for line in log.lines(limit=2)] == ["line 8", "line 9"]
    assert len(heard) == 10
    log.close()


def test_a_full_disk_costs_lines_not_the_engine(capfd: pytest.CaptureFixture[str]) -> None:
    """What cannot be written is counted and said when there is room; nothing is printed over the screen."""
    log = Log("/dev/full")
    log.write("info", "lost")
    log.write("info", "lost too")
    assert log.lost == 2
    assert [line["text"] for line in log.lines()] == ["lost", "lost too"]
    log.close()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_oldest_is_the_first_that_is_kept() -> None:
    """STA-4: before any event, and when the first ones have been dropped."""
    events = EventLog(kept=3)
    assert events.oldest == 1 and events.since(events.oldest - 1) == []
    for _ in range(5):
        events.publish("x")
    assert events.oldest == 3
    assert [one["seq"] for one in events.since(events.oldest - 1) or []] == [3, 4, 5]
