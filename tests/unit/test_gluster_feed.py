"""What a brick's journal gives its worker: each slice once, none passed over, and a word when it falls silent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.journal.format import encode
from engine.journal.history import place
from engine.journal.reader import Journal
from engine.journal.waiting import JournalBacklog
from engine.model import DataChange, EngineError, Mark
from engine.volume import glusterfeed
from engine.volume.base import Closed
from engine.volume.glusterfeed import GlusterFeed


LATER = 200
"""Seconds after the journal's begin that are later than now: what a brick closes after the feed began."""


class Brick:
    """A journal that a test writes as a brick does, and the feed that reads it."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.now = int(time.time()) - 100
        self.index = root / "htime" / f"HTIME.{self.now}"
        self.index.parent.mkdir(parents=True)
        (root / "CHANGELOG").write_bytes(encode([]))
        self.idle(0)
        self.life = 1
        self.asked: list[float] = []

        def quiet(seconds: float) -> float:
            self.asked.append(seconds)
            raise EngineError("it was switched off", code="journal-off")

        def no_crawl(*_: object) -> None:
            raise AssertionError("no crawl is due")

        self.feed = GlusterFeed(
            Journal(self.root, owned=False, clock=lambda: self.now + 2.0 * LATER), Mark(self.now, 0), self.now, no_crawl, lambda _: None,  # type: ignore[arg-type]
            life=lambda: self.life, quiet=quiet, on_closed=lambda: None, log=lambda *_: None,
        )  # fmt: skip

    def idle(self, second: int) -> None:
        """An empty slice ends."""
        with self.index.open("ab") as f:
            f.write(place(self.root, self.now + second).replace(b"CHANGELOG.", b"changelog.") + b"\0")

    def full(self, second: int, n: int, indexed: bool = True) -> None:
        """A slice with a record of object `n` ends, with the rename over what has the name."""
        path = place(self.root, self.now + second)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + b".new", "wb") as f:
            f.write(encode([DataChange(bytes([n]) * 16)]))
        os.rename(path + b".new", path)
        if indexed:
            with self.index.open("ab") as out:
                out.write(path + b"\0")

    def taken(self) -> list[Closed]:
        """All that is to be done, done."""
        found: list[Closed] = []
        while some := self.feed.take(100, 1 << 20):
            found += some
            self.feed.done(len(some))
        return found

    def seconds(self) -> list[int]:
        """The seconds at which slices with content ended that are taken now."""
        return [c.changelog.suffix - self.now for c in self.taken() if c.changelog.size]


@pytest.fixture
def brick(tmp_path: Path) -> Iterator[Brick]:
    made = Brick(tmp_path / "changelogs")
    yield made
    made.feed.stop()


def test_mrk_9_each_slice_is_given_once(brick: Brick) -> None:
    brick.full(1, 1)
    brick.idle(2)
    brick.full(3, 3)
    assert brick.seconds() == [1, 3]
    assert brick.taken() == []
    brick.full(4, 4)
    assert brick.seconds() == [4]


def test_mrk_9_a_full_slice_after_an_idle_one_of_the_same_second(brick: Brick) -> None:
    """Options that are changed end slices: the second may have been taken before it was over."""
    brick.full(1, 1)
    brick.idle(2)
    assert brick.seconds() == [1]
    brick.full(2, 2)
    assert brick.seconds() == [2]
    brick.idle(2)
    assert brick.taken() == []


def test_mrk_9_a_slice_that_was_overwritten_calls_for_a_crawl(brick: Brick) -> None:
    brick.full(1, 1)
    assert brick.seconds() == [1]
    brick.full(2, 2)
    brick.full(2, 3)
    with pytest.raises(AssertionError, match="no crawl is due"):
        brick.taken()


def test_crw_1_a_brick_that_began_anew_has_a_slice_without_an_index(brick: Brick) -> None:
    brick.idle(LATER)  # it has closed a slice since the feed began
    brick.taken()
    brick.full(LATER + 1, 1, indexed=False)
    assert brick.seconds() == []  # nobody looks: listing every day's files is not for each rollover
    brick.life = 2
    brick.full(LATER + 3, 3, indexed=False)
    brick.full(LATER + 5, 5)
    assert brick.seconds() == [LATER + 1, LATER + 3, LATER + 5]


@pytest.mark.parametrize("how", ["no-slice", "silent"])
def test_a_journal_that_falls_silent_is_asked_about(brick: Brick, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What changes while journalling is off would look synced."""
    brick.taken()
    assert brick.asked == []
    if how == "no-slice":
        monkeypatch.setattr(glusterfeed, "GONE", 0.0)
        os.unlink(os.path.join(brick.root, b"CHANGELOG"))
        brick.feed.backlog()
    else:
        monkeypatch.setattr(brick.feed, "_patience", 0.0)
    with pytest.raises(EngineError, match="switched off"):
        brick.feed.backlog()
    assert len(brick.asked) == 1




def test_what_waits_is_known_without_a_feed(brick: Brick) -> None:
    """A brick keeps its journal while there is no line: number, bytes and the oldest change's time are read from it."""
    waiting = JournalBacklog(brick.root, owned=False)
    mark = Mark(brick.now, 0)
    assert waiting.after(Mark(0, 0)) is None, "before a first copy nothing says from where"
    for second in (2, 3):
        brick.full(second, second)
    found = waiting.after(mark)
    assert found is not None and (found.changelogs, found.changes, found.exact, found.since) == (2, 2, True, float(mark.sec))
    assert found.bytes > 0 and not found.crawling
    Path(os.fsdecode(brick.root), "CHANGELOG").write_bytes(encode([DataChange(bytes([n]) * 16) for n in range(9)]))
    later = JournalBacklog(brick.root, owned=False).after(Mark(brick.now + 3, 0))
    assert later is not None and (later.changelogs, later.changes, later.exact) == (0, 1, False), "the open slice has something"
    assert later.since == brick.now + 3


def test_a_slice_that_was_closed_and_not_read_waits(brick: Brick) -> None:
    """Between its end and the look at the index it is in no list: its age is not forgotten."""
    brick.taken()
    live = Path(os.fsdecode(brick.root), "CHANGELOG")
    with live.open("ab") as f:
        f.write(b"x" * 100)
    heard = threading.Event()
    for _ in range(500):
        if brick.feed.heard is not None or heard.wait(0.01):
            break
    first = brick.feed.heard
    assert first is not None
    brick.feed._watch.told = heard.set
    live.unlink()
    brick.full(1, 1)
    assert heard.wait(5)
    assert brick.feed.heard == first, "rolled over, and still to be read"
    found = brick.feed.backlog()
    assert (found.changelogs, found.changes) == (1, 1)
