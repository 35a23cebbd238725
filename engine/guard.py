"""The delete guard (SAFE-1): how much may be deleted in a while before a person is asked. Pure."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.model import Gfid


@dataclass(frozen=True, slots=True)
class Hold:
    """What waits for a person. `id` changes with the set of objects: a changed list asks anew.

    `deletes` counts the objects that would go, `of` those of the replica (0: not known), `bytes` their content. `kind` says
    what is asked (see `gate`), `list` where all of them are written down, `by_directory` the directories with the most.
    """

    id: str
    reason: str
    deletes: int
    of: int
    sample: tuple[str, ...]
    since: float
    bytes: int | None = None
    kind: str = "delete"
    list: str = ""
    by_directory: tuple[dict[str, Any], ...] = ()
    directories: int = 0

    def shown(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id, "reason": self.reason, "deletes": self.deletes, "of": self.of, "bytes": self.bytes,
            "sample": [*self.sample], "since": self.since, "kind": self.kind, "list": self.list or None,
            "by_directory": [*self.by_directory], "directories": self.directories,
        }  # fmt: skip


def hold_id(objects: Iterable[Gfid | str]) -> str:
    """The id of a set of deletes."""
    digest = hashlib.blake2b(digest_size=5)
    for one in sorted(o if isinstance(o, bytes) else o.encode() for o in objects):
        digest.update(one)
    return digest.hexdigest()


BORN = 200_000
"""Objects made within the window that are remembered; of more, the oldest count as deletes again."""

BURIED = 200_000
"""Deleted objects remembered until the brick is idle; of more, the oldest count again for each name they have left."""


class Born:
    """Objects made by changes of now. All bricks of a volume share one, since an object may be made on one brick and
    be removed, after a rename between them, on another. Any thread may call it."""

    def __init__(self) -> None:
        self._at: dict[Gfid, float] = {}
        self._lock = threading.Lock()

    def add(self, gfids: Iterable[Gfid], now: float, window: float) -> None:
        """These were made now (unix time); what is older than `window` seconds is forgotten."""
        with self._lock:
            for gfid in gfids:
                self._at.pop(gfid, None)
                self._at[gfid] = now
            while self._at:
                oldest = next(iter(self._at))
                if len(self._at) <= BORN and self._at[oldest] > now - window:
                    break
                del self._at[oldest]

    def __contains__(self, gfid: Gfid) -> bool:
        return gfid in self._at

    def all(self) -> list[Gfid]:
        """All that are remembered."""
        with self._lock:
            return list(self._at)


@dataclass(slots=True)
class DeleteGuard:
    """Counts deletes over a sliding window (seconds) against a share (0…1) of the replica, and at least `minimum`.

    What counts is the replica as it was when the window began: what was made after that and is deleted again
    (temporary files, spools) is no loss.
    """

    share: float
    window: float
    minimum: int
    events: list[tuple[float, int]] = field(default_factory=list)
    base: int | None = None
    """Objects in the replica when the window began, and those a crawl has found since; None until it matters."""
    _measured: tuple[int, float] = (0, 0.0)
    """For how many deletes the base was counted, and when: asked every second while they are held, it stays."""
    born: Born = field(default_factory=Born)
    buried: dict[Gfid, None] = field(default_factory=dict)
    """Objects that died since the brick was last idle. The names of one may go in several batches, and it is gone from
    the primary in the first of them already: removing another name is no second delete."""

    def made(self, gfids: Iterable[Gfid], now: float) -> None:
        """These objects were made by changes of now (not found by a crawl: those were there before)."""
        self.born.add(gfids, now, self.window)

    def lost(self, dead: Iterable[Gfid], fresh: Iterable[Gfid]) -> list[Gfid]:
        """Those of the `dead` that die with this batch; what comes back with it (`fresh`) may die anew."""
        for gfid in fresh:
            self.buried.pop(gfid, None)
        return [g for g in dead if g not in self.buried]

    def idle(self) -> None:
        """Nothing is left to be done: no name of a dead object is."""
        self.buried.clear()

    def weighed(self, gfids: Iterable[Gfid], fresh: Container[Gfid]) -> list[Gfid]:
        """Those whose deletion counts; what is `fresh` came with the same batch."""
        return [g for g in gfids if g not in self.born and g not in fresh]

    def counted(self) -> int:
        """Deletes within the window."""
        return sum(n for _, n in self.events)

    def exceeded(self, now: float, deletes: int, objects: Callable[[], int]) -> bool:
        """Would that many more deletes go beyond what may pass unasked?

        `objects` counts the replica as it is before these deletes, but for what was made within the window. That takes
        a while, so it is asked only when the answer hangs on it.
        """
        if not deletes:
            return False
        self.events = [(t, n) for t, n in self.events if t > now - self.window]
        total = self.counted() + deletes
        if total <= self.minimum:
            return False
        count, at = self._measured
        known = self.base is not None and total == count and now - at < self.window
        if not known and (not self.events or self._over(total)):
            self.base = objects() + self.counted()
            self._measured = (total, now)
        return self._over(total)

    def _over(self, total: int) -> bool:
        return total > max(self.minimum, int(self.share * (self.base or 0)))

    def passed(self, now: float, lost: Iterable[Gfid], counted: int) -> None:
        """These objects have been deleted; so many of them count."""
        for gfid in lost:
            self.buried[gfid] = None
        while len(self.buried) > BURIED:
            del self.buried[next(iter(self.buried))]
        if counted:
            self.events.append((now, counted))

    def approve(self) -> None:
        """A person agreed: the window begins anew."""
        self.events.clear()
        self.base = None
