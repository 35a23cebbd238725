"""What failed: into the ledger with what both sides have, and out of it when a retry makes them agree (ERR-1 to 3)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from engine.apply import Problem, Result
from engine.ledger import Failure, retried
from engine.link import Link
from engine.model import Gfid
from engine.reconcile import Reconciler
from engine.sides import TORN, compared, primary_state, secondary_states
from engine.volume.base import Feed, View

if TYPE_CHECKING:
    from engine.worker import Worker

MENDED = 1_000
"""Differences put right at once."""

NAMELESS = 600.0
"""Seconds after which a crawl for names that no brick has noted may be asked for again."""


class Failing:
    """The ledger of one brick, on one connection."""

    def __init__(self, worker: Worker, link: Link, view: View, reconciler: Reconciler) -> None:
        self.worker = worker
        self.link = link
        self.view = view
        self.reconciler = reconciler
        self._next_crawl = 0.0

    def of(self, problems: list[Problem]) -> list[Failure]:
        """Problems as entries of the ledger, with what both sides have of each object now."""
        if not problems:
            return []
        there = secondary_states(self.link, list(dict.fromkeys(p.gfid for p in problems)))
        return [self._failure(p, there.get(p.gfid, "")) for p in problems]

    def _failure(self, problem: Problem, there: str) -> Failure:
        index = self.view.index
        path = index.path(problem.gfid)
        if path is None:
            path = problem.slot.name if problem.slot is not None else problem.gfid.hex().encode()
        self.worker.log("warning", f"{problem.operation} {os.fsdecode(path)!r}: {problem.text}")
        here = primary_state(self.view, problem.gfid)
        text = problem.text
        if there.startswith(TORN):
            text = TORN + text.removeprefix(TORN)
        slots = problem.slots if problem.slot is None else (*problem.slots, problem.slot)
        return Failure.of_object(
            problem.gfid, path, problem.operation, problem.errno, text, time.time(), here, there, slots
        )

    def nameless(self, feed: Feed, result: Result) -> None:
        """Of some file not all names are known: a crawl compares every directory. Not at each retry."""
        now = time.monotonic()
        if result.nameless and not feed.crawling and now > self._next_crawl:
            self._next_crawl = now + NAMELESS
            feed.crawl("a file has names that no brick has noted")

    def unreadable(self, feed: Feed) -> None:
        """What can't be listed can't be replicated: into the ledger, not into silence (CRW-6)."""
        found = feed.unreadable()
        if not found:
            return
        now = time.time()
        text = "primary: the directory may not be listed (permission denied)"
        there = secondary_states(self.link, list(found))
        self.worker.ledger.add_many([
            Failure.of_object(g, self.view.index.path(g) or b"?", "LIST", 13, text, now,
                              primary_state(self.view, g), there.get(g, "")) for g in found
        ])  # fmt: skip
        self._show()

    def note(self, failures: list[Failure]) -> None:
        """Into the ledger, and told (ERR-3)."""
        if failures:
            self.worker.ledger.add_many(failures)
            self.worker.event("failure added", {"count": len(failures)})
            self._show()

    def unsettled(self) -> None:
        """What an earlier run or connection was about to settle is looked at again, from the ledger."""
        left = self.worker.ledger.unsettled()
        text = "it was being settled when the run or the connection ended"
        self.note(self.of([Problem(gfid, None, operation, 0, text) for gfid, operation in left]))
        self.worker.ledger.settled()

    def set_aside(self, keep_deleted: float | None) -> None:
        """What earlier connections displaced and nothing has wanted since: what is gone on the primary goes, what is not
        is brought back (SEC-16). Only once all has been repeated: a directory that is gone may hold what a later slice
        brings elsewhere."""
        waiting = [o["gfid"] for o in self.link.call("limbo", {}).get("objects", []) if o.get("gfid")]
        alive = {g for g in waiting if self.view.index.has(bytes.fromhex(g))}
        stay = alive | self.worker.ledger.rejected()
        dead = [g for g in waiting if g not in stay]
        self._settle([Problem(bytes.fromhex(g), None, "RENAME", 0, "set aside by an earlier connection") for g in alive])
        if alive or dead:
            self.link.call("commit", {"purge": dead, "keep_deleted": keep_deleted, "mark": None})
            self.worker.ledger.settled()

    def recheck(self, commit: Callable[[], None]) -> None:
        """After a run that did not end in order: what may be newer on the secondary is compared, and sent again where it
        differs (MRK-6)."""
        suspects = [g for g in self.worker.primary.suspects() if self.view.index.has(g)]
        if suspects:
            differ, elsewhere, same = compared(self.view, self.link, suspects)
            why = "the last run did not end in order"
            again = [Problem(g, None, "DATA", 0, why) for g in differ]
            again += [Problem(g, None, "RENAME", 0, why) for g in elsewhere]
            self._settle(again, same)
            commit()
            self.worker.ledger.settled()
            self.worker.log("info", f"{why}: {len(suspects)} objects compared, {len(differ)} sent again, "
                                    f"{len(elsewhere)} put in their place")  # fmt: skip
        self.worker.primary.rechecked()

    def mend(self, problems: list[Problem], extras: list[Failure]) -> None:
        """What a comparison found: put right, or kept; names that only the secondary has are kept for a person."""
        for at in range(0, len(problems), MENDED):
            self._settle(problems[at : at + MENDED])
        self.note(extras)

    def _settle(self, problems: list[Problem], metas: Iterable[Gfid] = ()) -> None:
        """As the primary has them now, and the attributes of some others; what fails, or is on the move, goes into the
        ledger, which tries it again."""
        result = Result()
        result.problems = self.reconciler.settle(problems, result)
        self.reconciler.applier.metas(metas, result)
        moving = [Problem(g, None, "DATA", 0, "on the move") for g in result.gone if self.view.index.has(g)]
        self.note(self.of(result.problems + moving))

    def retry(self, feed: Feed, commit: Callable[[], None]) -> None:
        """Retry what is due: the secondary is made to match the primary's state of now, and that is committed (ERR-3)."""
        ledger = self.worker.ledger
        due = ledger.due(time.time())
        if not due:
            return
        feed.rewalk([bytes.fromhex(f.gfid) for f in due if f.operation == "LIST"])
        objects = [f for f in due if f.kind in ("object", "rejected-delete")]
        problems = [
            Problem(bytes.fromhex(f.gfid), None, retried(f.operation), f.errno, f.message, slots=ledger.slots(f.gfid))
            for f in objects
        ]
        result = Result()
        left = {p.gfid: p for p in self.reconciler.settle(problems, result)}
        self.nameless(feed, result)
        unsettled = left.keys() | set(result.gone)
        commit()
        cleared = [f.id for f in objects if bytes.fromhex(f.gfid) not in unsettled]
        if not feed.crawling:
            cleared += [f.id for f in due if f.kind == "changelog"]
        if again := self.of(list(left.values())):
            ledger.add_many(again)
        ledger.settled()
        if cleared:
            ledger.cleared(cleared)
            self.worker.event("failure cleared", {"count": len(cleared)})
        ledger.postpone([f.id for f in due if f.id not in cleared and bytes.fromhex(f.gfid or "") not in left])
        self._show()

    def _show(self) -> None:
        self.worker.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)
