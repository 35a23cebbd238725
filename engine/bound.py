"""A tree's checkpoint is bound to a slice: complete with the one that surely holds all that was before it (STA-2).

Times are shown, never compared: whatever the clock says then or did before, the slice is the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from engine.checkpoint import Checkpoint
from engine.status import BrickStatus
from engine.volume.base import Closed, Feed

SECOND = 1.0
"""Seconds after which the slice is asked for at the latest: when the checkpoint's second is over, the mark is shown past it."""


class Binding:
    """The slice of one brick's checkpoint, on one connection; after another one it is a later slice."""

    def __init__(self, status: BrickStatus) -> None:
        self._status = status
        self._which: object = None
        self._since = 0.0
        self._number = 0
        """The number of the slice; 0 until it is asked for."""
        self._there = False
        """The slice is on the secondary; what the secondary has may be in doubt for other reasons, and then that waits."""

    def wait(self) -> float:
        """Seconds until `ask` has something to do; an hour without a checkpoint."""
        point = self._status.checkpoint
        if point.time is None or point.completed or (self._number and self._which == _which(point)):
            return 3600.0
        left = point.time + 1 - time.time()
        return max(0.1, min(SECOND, left) if _due(point) else left)

    def ask(self, feed: Feed) -> None:
        """Ask for the slice of a checkpoint that is due."""
        point = self._status.checkpoint
        if point.time is None or point.completed:
            self._which, self._number, self._there = None, 0, False
            return
        if not _due(point):
            return
        if self._which != _which(point):
            self._which, self._number, self._since, self._there = _which(point), 0, time.monotonic(), False
        if self._there:
            self._status.checkpoint_reached()
        if not self._number and (time.time() >= point.time + 1 or time.monotonic() >= self._since + SECOND):
            self._number = feed.ask()

    def done(self, closed: Iterable[Closed]) -> None:
        """These slices are on the secondary, durably."""
        if self._number and any(c.complete and c.asked >= self._number for c in closed):
            self._there = True
            self._status.checkpoint_reached()


def _which(point: Checkpoint) -> object:
    return point.time, point.set_at


def _due(point: Checkpoint) -> bool:
    """Is it a checkpoint of now? Also where the clock was set back since."""
    return point.time is not None and ((point.set_at or 0) >= point.time or time.time() >= point.time)
