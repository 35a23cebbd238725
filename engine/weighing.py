"""The deletes of one batch: may they pass, or do they wait for a person, and what becomes of those that were rejected (SAFE-1)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from engine.batch import REMOVES, Plan
from engine.guard import Hold, hold_id
from engine.ledger import Failure
from engine.link import Link
from engine.model import Gfid
from engine.options import Options
from engine.sides import looked_up, primary_state, secondary_states
from engine.volume.base import View

if TYPE_CHECKING:
    from engine.worker import Worker


class Weighing:
    """What the guard is asked of a batch, on one connection."""

    def __init__(self, worker: Worker, link: Link, view: View) -> None:
        self._worker = worker
        self._link = link
        self._view = view
        self._asked = ""
        """The id of the deletes of which the secondary was asked whether it has them, and those it has."""
        self._found: set[Gfid] = set()

    def passes(
        self, options: Options, todo: Plan, dead: list[Gfid], weighed: list[Gfid], failures: list[Failure]
    ) -> bool:
        """May the deletes that count pass? Rejected, all leave the plan and are kept in the ledger (SAFE-1)."""
        worker, now = self._worker, time.time()
        worker.guard.share = options.delete_guard_share
        worker.guard.window = options.delete_guard_window
        worker.guard.minimum = options.delete_guard_minimum
        if not worker.guard.exceeded(now, len(weighed), lambda: self._replica(todo, weighed)):
            return True
        # what an earlier run did before its mark was written is no more to lose
        weighed[:] = self._there(weighed)
        if not worker.guard.exceeded(now, len(weighed), lambda: self._replica(todo, weighed)):
            return True
        names = tuple(os.fsdecode(todo.removed[g].name) for g in weighed[:10])
        base, count = worker.guard.base or 0, worker.guard.counted() + len(weighed)
        hold = Hold(hold_id(weighed), f"{count} of {base} objects would be deleted", len(weighed), base, names, now)
        if worker.permitted(hold):
            return True
        who = worker.rejected(hold)
        if who is None:
            return False
        self._keep(todo, dead, who, failures)
        dead.clear()
        return True

    def _replica(self, todo: Plan, weighed: list[Gfid]) -> int:
        """How many objects the replica of this brick has before this batch, without those made of late."""
        has = self._view.index.has
        young = sum(map(has, self._worker.guard.born.all())) + sum(map(has, todo.fresh.difference(todo.made)))
        return max(0, self._view.index.count() - young) + len(weighed)

    def _there(self, weighed: list[Gfid]) -> list[Gfid]:
        """Those of them that the secondary still has; asked once for the same ones, however long they are held."""
        asked = hold_id(weighed)
        if self._asked != asked:
            self._asked = asked
            self._found = {g for g, there in looked_up(self._link, weighed) if there is not None}
        return [g for g in weighed if g in self._found]

    def _keep(self, todo: Plan, dead: list[Gfid], who: str, failures: list[Failure]) -> None:
        """Leave rejected deletes out of the plan, and what would take their names; both are in the ledger then."""
        now = time.time()
        gone = set(dead)
        taken = {todo.removed[g] for g in dead}
        in_the_way = {e.gfid: e.dest or e.slot for e in todo.entries
                      if e.gfid not in gone and e.fop not in REMOVES and (e.dest or e.slot) in taken}  # fmt: skip
        there = secondary_states(self._link, list(dict.fromkeys([*in_the_way, *dead])))
        failures += [Failure.rejected_delete(g, todo.removed[g].name, who, now, there.get(g, "present")) for g in dead]
        failures += [Failure.rejected_replacement(g, slot.name, who, now, primary_state(self._view, g), there.get(g, "absent"))
                     for g, slot in in_the_way.items()]  # fmt: skip
        left_out = gone | in_the_way.keys()
        todo.entries = [e for e in todo.entries if e.gfid not in left_out]
        for gfid in left_out:
            todo.data.pop(gfid, None)
            todo.meta.pop(gfid, None)
            todo.check.pop(gfid, None)
            todo.fresh.discard(gfid)
