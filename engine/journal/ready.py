"""The closed slices of one brick that wait for the worker: in memory, and beyond a number of them on the disk alone."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from engine.backlog import Backlog, Counts, Slice
from engine.model import Changelog
from engine.volume.base import Closed, first

PARTS_AHEAD = 48
"""Slices a walk may be ahead of the worker: more would only lie on the disk."""

IN_HAND = 6
"""Closed slices whose records are kept in memory too."""

READY = 20_000
"""Closed slices kept in memory for the worker; what is beyond is found on the disk again (SAFE-6)."""


class Waiting(NamedTuple):
    """What waits at one instant: slices with content that are in memory; beyond them so many, with bytes and changes."""

    real: list[Closed]
    beyond: tuple[int, int, int]


class Ready:
    """The queue between the recorder and the worker; any thread may call. `lock` is the recorder's.

    `pending()` lists what is on the disk and not synced; it is called by `take`.
    """

    def __init__(self, lock: threading.Lock, pending: Callable[[], list[Changelog]]) -> None:
        self._lock = lock
        self._pending = pending
        self._ready: deque[Closed] = deque()
        self._spilled = False
        """Slices were closed that are not in memory: the worker lists the disk when it has none left."""
        self._beyond = (0, 0, 0)
        """Of those: how many, their bytes, and the changes in them, as far as these are known."""
        self._counts = Counts()
        self._counting = threading.Lock()
        self.room = threading.Event()
        """Set while a walk may go on: it is not too far ahead of the worker."""
        self.room.set()

    @property
    def few(self) -> bool:
        """Does the worker keep up, so that records are kept in memory too?"""
        return len(self._ready) < IN_HAND

    def _refill(self) -> None:
        """After slices were closed that did not fit in memory: take up what is on the disk again."""
        if not self._spilled or self._ready:
            return
        with self._lock:  # nothing may close between the look at the disk and the end of `_spilled`
            found = [c for c in self._pending() if c.size]
            self._ready.extend(Closed(c, c.part == 0, None, written(c)) for c in found[:READY])
            self._spilled = len(found) > READY
            rest = found[READY:]
            self._beyond = len(rest), sum(c.size for c in rest), len(rest)

    def take(self, most: int, most_bytes: int) -> list[Closed]:
        """The next closed slices, in order, for one batch; they stay until `done`."""
        self._refill()
        with self._lock:
            return first(self._ready, most, most_bytes)

    def done(self, count: int) -> None:
        """The first `count` slices have been synced."""
        with self._lock:
            for _ in range(count):
                self._ready.popleft()
            if len(self._ready) < PARTS_AHEAD:
                self.room.set()

    def prepend(self, closed: list[Closed]) -> None:
        """Slices found on the disk, older than any of this run."""
        with self._lock:
            self._ready.extendleft(reversed(closed))

    def add(self, closed: Closed) -> None:
        """A slice was closed."""
        with self._lock:
            last = self._ready[-1] if self._ready else None
            if last is not None and closed.changelog <= last.changelog:
                return  # found on the disk already
            if len(self._ready) < READY and not self._spilled:
                if not closed.changelog.size and last is not None and not last.changelog.size and (
                    closed.complete or not last.complete
                ):
                    self._ready[-1] = closed  # of heartbeats in a row the last one says it all
                else:
                    self._ready.append(closed)
            else:
                self._spilled = True
                slices, nbytes, changes = self._beyond
                some = closed.changelog.size
                self._beyond = slices + (some > 0), nbytes + some, changes + (closed.changes or 0)
            if len(self._ready) >= PARTS_AHEAD:
                self.room.clear()

    def waiting(self) -> Waiting:
        """What waits; called with the lock held, so that the caller can look at more at the same instant."""
        return Waiting([c for c in self._ready if c.changelog.size], self._beyond)

    def backlog(self, waiting: Waiting, heard: list[float], *, crawling: bool, whole: bool) -> Backlog:
        """The same as a backlog, with the times of what was heard of besides; `whole`: nothing else can be waiting."""
        real, (slices, nbytes, changes) = waiting
        with self._counting:
            counted, exact = self._counts.of([Slice(c.changelog, c.changes) for c in real])
        times = [c.since for c in real if c.since is not None] + heard
        return Backlog(
            len(real) + slices, sum(c.changelog.size for c in real) + nbytes, min(times) if times else None,
            # what was heard of may be outside the tree, or no change: only a slice says so
            counted + changes, exact and not slices and whole,
            # what a walk found is older than what was heard of meanwhile
            dated=all(c.since is not None and c.complete for c in real), crawling=crawling,
        )  # fmt: skip


def written(changelog: Changelog) -> float:
    """When a slice was written, from its file: no later than its changes were taken plus a little; 0 when it is gone."""
    try:
        return os.stat(changelog.path).st_mtime - 1.0
    except OSError:
        return 0.0
