"""Deletes that this session's own records ask for: weighed by the guard, and asked about beyond it (SAFE-1)."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.batch import REMOVES, Plan
from engine.gate import DELETE, Item, Question
from engine.guard import hold_id
from engine.ledger import Failure
from engine.link import Link
from engine.model import Gfid
from engine.sides import PAGE, looked_up, primary_state, secondary_states
from engine.volume.base import View

if TYPE_CHECKING:
    from engine.worker import Worker


class Deletes:
    """The deletes of one brick, on one connection."""

    def __init__(self, worker: Worker, link: Link, view: View) -> None:
        self.worker = worker
        self.link = link
        self.view = view
        self._asked = ""
        """The id of the deletes of which the secondary was asked whether it has them, and those it has."""
        self._found: set[Gfid] = set()

    def pass_(self, todo: Plan, dead: list[Gfid], weighed: list[Gfid], failures: list[Failure]) -> bool:
        """May the deletes that count pass? Rejected, all leave the plan and are kept in the ledger (SAFE-1)."""
        worker, now, options = self.worker, time.time(), self.worker.options()
        guard = worker.guard
        guard.share, guard.window, guard.minimum = (
            options.delete_guard_share, options.delete_guard_window, options.delete_guard_minimum,
        )  # fmt: skip
        if not guard.exceeded(now, len(weighed), lambda: self._replica(todo, weighed)):
            worker.gate.withdraw(DELETE)
            return True
        # what an earlier run did before its mark was written is no more to lose
        weighed[:] = self._there(weighed)
        if not guard.exceeded(now, len(weighed), lambda: self._replica(todo, weighed)):
            worker.gate.withdraw(DELETE)
            return True
        base, count = guard.base or 0, guard.counted() + len(weighed)
        reason = f"{count} of {base} objects would be deleted"
        answer = worker.gate.ask(
            Question(DELETE, reason, lambda: self._items(todo, weighed), base, hold_id(weighed), len(weighed))
        )
        if answer is None:
            worker.on_idle()
            return False
        if answer.approved:
            guard.approve()
            return True
        self._keep(todo, dead, answer.who, failures)
        dead.clear()
        return True

    def _replica(self, todo: Plan, weighed: list[Gfid]) -> int:
        """How many objects the replica of this brick has before this batch, without those made of late."""
        has = self.view.index.has
        young = sum(map(has, self.worker.guard.born.all())) + sum(map(has, todo.fresh.difference(todo.made)))
        return max(0, self.view.index.count() - young) + len(weighed)

    def _there(self, weighed: list[Gfid]) -> list[Gfid]:
        """Those of them that the secondary still has; asked once for the same ones, however long they are held."""
        asked = hold_id(weighed)
        if self._asked != asked:
            self._asked = asked
            self._found = {g for g, there in looked_up(self.link, weighed) if there is not None}
        return [g for g in weighed if g in self._found]

    def _items(self, todo: Plan, weighed: list[Gfid]) -> Iterator[Item]:
        """What would go, by its path there; of a volume, whose objects have no paths, by its name."""
        tree = self.worker.primary.kind == "tree"
        for at in range(0, len(weighed), PAGE):
            some = weighed[at : at + PAGE]
            found = self.link.call("paths", {"gfids": [g.hex() for g in some]}).get("objects", {}) if tree else {}
            for gfid in some:
                there = found.get(gfid.hex())
                if there is None:
                    yield Item(todo.removed[gfid].name, 0, gfid=gfid.hex(), why="deleted on the primary")
                else:
                    path, ino, kind, size, mtime_ns = there
                    yield Item(base64.b64decode(path), kind, size, mtime_ns, ino, gfid.hex(), "deleted on the primary")

    def _keep(self, todo: Plan, dead: list[Gfid], who: str, failures: list[Failure]) -> None:
        """Leave rejected deletes out of the plan, and what would take their names; both are in the ledger then."""
        now = time.time()
        gone = set(dead)
        taken = {todo.removed[g] for g in dead}
        in_the_way = {e.gfid: e.dest or e.slot for e in todo.entries
                      if e.gfid not in gone and e.fop not in REMOVES and (e.dest or e.slot) in taken}  # fmt: skip
        there = secondary_states(self.link, list(dict.fromkeys([*in_the_way, *dead])))
        failures += [Failure.rejected_delete(g, todo.removed[g].name, who, now, there.get(g, "present")) for g in dead]
        failures += [Failure.rejected_replacement(g, slot.name, who, now, primary_state(self.view, g), there.get(g, "absent"))
                     for g, slot in in_the_way.items()]  # fmt: skip
        left_out = gone | in_the_way.keys()
        todo.entries = [e for e in todo.entries if e.gfid not in left_out]
        for gfid in left_out:
            todo.data.pop(gfid, None)
            todo.meta.pop(gfid, None)
            todo.check.pop(gfid, None)
            todo.fresh.discard(gfid)
