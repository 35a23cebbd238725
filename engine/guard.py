"""The delete guard (SAFE-1): how much may be deleted in a while before a person is asked. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.model import Gfid


@dataclass(frozen=True, slots=True)
class Hold:
    """Deletes that wait for a person. `id` changes with the set of objects: a changed batch asks anew."""

    id: str
    reason: str
    deletes: int
    of: int
    sample: tuple[str, ...]
    since: float
    bytes: int | None = None


def hold_id(objects: Iterable[Gfid | str]) -> str:
    """The id of a set of deletes."""
    digest = hashlib.blake2b(digest_size=5)
    for one in sorted(o if isinstance(o, bytes) else o.encode() for o in objects):
        digest.update(one)
    return digest.hexdigest()


BORN = 200_000
"""Objects made within the window that are remembered; of more, the oldest count as deletes again."""


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
    base: int = 0
    """Objects in the replica when the window began, and those a crawl has found since."""
    born: dict[Gfid, float] = field(default_factory=dict)

    def made(self, gfids: Iterable[Gfid], now: float) -> None:
        """These objects were made by changes of now (not found by a crawl: those were there before)."""
        for gfid in gfids:
            self.born[gfid] = now
        while self.born:
            oldest = next(iter(self.born))
            if len(self.born) <= BORN and self.born[oldest] > now - self.window:
                break
            del self.born[oldest]

    def weighed(self, gfids: Iterable[Gfid]) -> list[Gfid]:
        """Those whose deletion counts."""
        return [g for g in gfids if g not in self.born]

    def trim(self, now: float, objects: int) -> None:
        """Forget what is older than the window; an empty window begins with the replica as it is."""
        self.events = [(t, n) for t, n in self.events if t > now - self.window]
        if not self.events:
            self.base = objects

    def counted(self) -> int:
        """Deletes within the window."""
        return sum(n for _, n in self.events)

    def exceeded(self, now: float, deletes: int, objects: int) -> bool:
        """Would that many more deletes go beyond what may pass unasked?"""
        if not deletes:
            return False
        self.trim(now, objects)
        total = self.counted() + deletes
        return total > max(self.minimum, int(self.share * self.base))

    def passed(self, now: float, deletes: int) -> None:
        """That many deletes have been applied."""
        if deletes:
            self.events.append((now, deletes))

    def found(self, objects: int) -> None:
        """A crawl found that many more objects, which were there before: deleting them would count."""
        self.base += objects

    def approve(self) -> None:
        """A person agreed: the window begins anew."""
        self.events.clear()
