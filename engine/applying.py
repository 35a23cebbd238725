"""One batch on the secondary: entries, content, attributes, and what failed of them with the primary's state of now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from engine.apply import Applier, Problem, Result
from engine.approval import approval
from engine.batch import Plan
from engine.brickplan import changed_since
from engine.failing import Failing
from engine.link import Link
from engine.model import EngineError, Gfid
from engine.reconcile import Reconciler
from engine.register import adopt, why_compared
from engine.transfer.base import Transfer
from engine.verify import differing, unequal
from engine.volume.base import Feed, View

if TYPE_CHECKING:
    from engine.worker import Worker

ASKED = 5_000
"""Gfids in one question to the agent."""

RECENT = 20_000
"""Directories remembered for putting their times right when the brick is idle."""


class Applying:
    """Applies plans, on one connection. `applier` is another one when a comparison has ended."""

    def __init__(
        self, worker: Worker, link: Link, view: View, applier: Applier, transfer: Transfer, reconciler: Reconciler,
        failing: Failing,
    ) -> None:  # fmt: skip
        self._worker = worker
        self._link = link
        self._view = view
        self._status = worker.status
        self.applier = applier
        self._transfer = transfer
        self._reconciler = reconciler
        self._failing = failing
        self._recent: dict[Gfid, None] = {}
        """Directories touched since the brick was last idle: their times are put right once more then."""
        self.compared = 0
        """Objects seen by the crawl of a comparison."""

    def apply(self, feed: Feed, todo: Plan, dead: list[Gfid], result: Result, tries: int) -> None:
        """Entries, then content, then attributes; what fails is settled with the primary's state of now."""
        self._link.rest = feed.turn.rest
        with feed.turn.batch():
            self._status.batch_phase("entry")
            if self._worker.seat.replaces and (alive := self.applier.replaced(todo)):
                self._worker.ledger.settling([(gfid, "RETRY") for gfid in alive])
            self.applier.entries(todo, result)
            self._status.batch_phase("data")
            self._content(todo, result)
            self._status.batch_phase("meta")
            self._attributes(todo, result)
        if self._worker.primary.kind == "gluster":
            result.problems += changed_since(todo, self._view.here, self._view.holds)
            self._beside_others(dead, result)
        failed: set[Gfid] = set()
        """Objects of which something failed: should they vanish, the secondary may have them where no record says."""
        for _ in range(tries):
            failed.update(p.gfid for p in result.problems)
            failed.update(p.found for p in result.problems if p.found)
            if not result.problems and not result.gone:
                return
            if result.gone:
                # not where the index had them: the next slice knows where they are
                feed.close_now(30)
            # what else is in the index no more has vanished: its removal is on its way (SYN-6)
            moved = [g for g in dict.fromkeys(result.gone) if g in failed or self._view.index.has(g)]
            again = [Problem(g, None, "DATA", 0, "moved") for g in moved]
            problems, result.problems, result.gone = result.problems + again, [], []
            self._foreign(problems)
            settled = Result()
            left = self._reconciler.settle(problems, settled)
            result.files += settled.files
            result.bytes += settled.bytes
            result.gone = settled.gone
            result.problems = left
            result.nameless |= settled.nameless
            # what was settled may have changed the times of directories that were right before
            self.applier.metas([g for g in todo.touched if self._view.index.has(g)], result)
            if left and not result.gone:
                break
        for gfid in dict.fromkeys(result.gone):
            if self._view.index.has(gfid):
                result.problems.append(Problem(gfid, None, "DATA", 0, "could not be found on the primary"))
        result.gone = []
        self._failing.nameless(feed, result)

    def _beside_others(self, dead: list[Gfid], result: Result) -> None:
        """The workers of a volume's bricks are not equally far: what is dead may be there under a name of before."""
        for at in range(0, len(dead), ASKED):
            some = [gfid.hex() for gfid in dead[at : at + ASKED]]
            for text in self._link.call("here", {"gfids": some}).get("here", []):
                result.problems.append(Problem(bytes.fromhex(text), None, "UNLINK", 0, "gone, and still there"))

    def _foreign(self, problems: list[Problem]) -> None:
        """On a secondary that is not ours yet, something else is in the way: hold until a person allows it (SAFE-1)."""
        foreign = [p for p in problems if p.text.startswith("foreign")]
        if not foreign or not self._worker.adopting:
            return
        self._await_approval([p.gfid for p in foreign],
                             [os.fsdecode(p.slot.name) if p.slot else p.gfid.hex() for p in foreign[:10]])  # fmt: skip

    def _await_approval(self, gfids: list[Gfid], sample: list[str]) -> None:
        """Wait until a person allows that these are replaced on the secondary. Raises EngineError when that ends."""
        what = f"{len(gfids)} objects on the secondary differ and would be replaced (--adopt allows it)"
        of = self._view.index.count() + len(gfids)
        self.compared = max(self.compared, of - len(gfids))
        self._status.comparing(self.compared, None, why_compared(self._worker))
        while not approval(self._worker, what, [g.hex() for g in gfids], sample, len(gfids), of):
            if self._worker.stopping.is_set():
                raise EngineError("stopping", code="stopping")
            if self._link.broken is not None:
                raise self._link.broken
            self._worker.wake.clear()
            self._worker.wake.wait(5)
        marks = self._worker.primary.marks
        marks.identify({**marks.identity, "replace": "yes"})
        adopt(self._worker, self._link)

    def _content(self, todo: Plan, result: Result) -> None:
        files = [g for g in todo.data if g not in result.sent and self._is_file(g)]
        if todo.check:
            files += self._differing([g for g in todo.check if self._view.index.has(g)])
        more = [g for g in result.made if g not in result.sent and g not in todo.data and self._is_file(g)]
        files += more
        if self._worker.adopting:
            # what was adopted as equal is not in `made`; what is perhaps equal is compared first
            files, replaced = unequal(self._view, self._link, [g for g in files if g in result.made])
            if replaced:
                names = [self._view.index.path(g) or b"?" for g in replaced[:10]]
                self._await_approval(replaced, [os.fsdecode(n) for n in names])
        if files:
            self._transfer.send(files, result.made, result)

    def _is_file(self, gfid: Gfid) -> bool:
        return self._view.index.kind(gfid) == 0o100000

    def _differing(self, gfids: list[Gfid]) -> list[Gfid]:
        """Those whose content is not the same on both sides (CHG-7: perhaps changed)."""
        return differing(self._view, self._link, gfids)

    def _attributes(self, todo: Plan, result: Result) -> None:
        skip = result.sent
        metas = {g: None for g in (*todo.meta, *result.made) if g not in skip}
        dirs = {g: None for g in todo.touched}
        for gfid in list(metas):
            if self._view.index.kind(gfid) == 0o040000:
                del metas[gfid]
                dirs[gfid] = None
        self.applier.metas(metas, result)
        self.applier.metas(dirs, result)
        if len(self._recent) < RECENT:
            self._recent.update(dirs)

    def directory_times(self) -> None:
        """Idle: directories have the primary's times, also where a name came and went without a trace."""
        if self._recent:
            recent, self._recent = self._recent, {}
            result = Result()
            self.applier.metas([g for g in recent if self._view.index.has(g)], result)
            self._failing.note(self._failing.of(result.problems))
