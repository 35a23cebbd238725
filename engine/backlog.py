"""What waits on the primary: the changes that are known and not on the secondary yet, counted from the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from engine.journal.format import JournalError, decode
from engine.model import ROOT, Changelog, DataChange, EntryChange, Gfid, Record

BUDGET = 0.05
"""Seconds that one look may spend on slices that only the disk has."""


class Backlog(NamedTuple):
    """What waits, at one instant. `bytes` are those of the slices, `changes` the objects that they change.

    `since` is the unix time of the oldest change whose time is known; without `dated` there are older ones. `crawling`:
    a hybrid crawl is wanted or under way, and what it will find is not among them.
    """

    changelogs: int
    bytes: int
    since: float | None
    changes: int | None = None
    exact: bool = False
    """Are `changes` all there are? Else they are so many at least."""
    dated: bool = True
    crawling: bool = False


class Slice(NamedTuple):
    """A waiting slice, and how many objects it changes where that is known."""

    changelog: Changelog
    changes: int | None


def changes_in(records: Iterable[Record], *, walked: bool = False) -> int:
    """How many objects these records change.

    The times of a directory in which a name came or went are part of that change, not another one; nor are those of
    the root, which every walk brings along (`walked`: these are a walk's).
    """
    changed: set[Gfid] = set()
    attributes: set[Gfid] = set()
    parents: set[Gfid] = set()
    for record in records:
        if isinstance(record, EntryChange):
            changed.add(record.gfid)
            parents.add(record.slot.parent)
            if record.dest is not None:
                parents.add(record.dest.parent)
        elif isinstance(record, DataChange):
            changed.add(record.gfid)
        else:
            attributes.add(record.gfid)
    if walked:
        attributes.discard(ROOT)
    return len(changed | (attributes - parents))


def changes_of(changelog: Changelog) -> int:
    """The same of a slice on the disk; 0 when it is gone (it is done), 1 when it cannot be read."""
    try:
        with open(changelog.path, "rb") as f:
            return changes_in(decode(f.read(), changelog.path).records, walked=changelog.part > 0)
    except FileNotFoundError:
        return 0
    except (OSError, JournalError):
        return 1


class Counts:
    """Counts waiting slices that only the disk has, each once and not too many at a time. Used under its owner's lock."""

    def __init__(
        self, count: Callable[[Changelog], int] = changes_of, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._known: dict[tuple[int, int], int] = {}

    def of(self, waiting: Sequence[Slice]) -> tuple[int, bool]:
        """The changes in these slices, and whether all of them have been counted by now."""
        until = self._clock() + BUDGET
        total, exact = 0, True
        kept: dict[tuple[int, int], int] = {}
        for changelog, changes in waiting:
            if changes is None:
                key = changelog.suffix, changelog.part
                changes = self._known.get(key)
                if changes is None and self._clock() < until:
                    changes = self._count(changelog)
                if changes is None:
                    exact = False
                    changes = 1  # a slice with content changes something
                else:
                    kept[key] = changes
            total += changes
        self._known = kept
        return total, exact
