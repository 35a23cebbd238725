"""Making the secondary agree with the primary of now, object by object: conflicts (CON-1…6), ledger retries, repair."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from engine.apply import BRICK_ERRNOS, Applier, Problem, Result, brick_fault
from engine.link import Link, RemoteError
from engine.model import LIMBO, ROOT, Gfid, Slot
from engine.transfer.base import Transfer
from engine.volume.base import Gone, View

ROUNDS = 10
"""Rounds without progress after which what is left goes to the ledger (CON-6)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of one object, and why (CON-6: every decision can be shown)."""

    gfid: Gfid
    row: str
    text: str


class Reconciler:
    """Brings single objects to the primary's state of now; it never replays an old operation (ERR-3)."""

    def __init__(
        self,
        view: View,
        link: Link,
        applier: Applier,
        transfer: Transfer,
        decided: Callable[[Decision], None],
    ) -> None:
        self.view = view
        self.link = link
        self.applier = applier
        self.transfer = transfer
        self.decided = decided

    def settle(self, problems: list[Problem], result: Result) -> list[Problem]:
        """Resolve problems; what could not be resolved comes back, with the last errno.

        Objects that are not where the primary's index has them go to `result.gone`: look again after a slice.
        """
        left = list(problems)
        before: set[Gfid] | None = None
        for _ in range(ROUNDS):
            todo: dict[Gfid, Problem] = {}
            slots: dict[Gfid, list[Slot]] = {}
            for p in left:
                todo.setdefault(p.gfid, p)
                if p.slot is not None and not p.found:
                    slots.setdefault(p.gfid, []).append(p.slot)
                if p.found and p.found not in todo:
                    todo[p.found] = p
            if not todo or set(todo) == before:
                break
            before = set(todo)
            left = self._round(todo, slots, result)
        return left

    def _round(self, todo: dict[Gfid, Problem], slots: dict[Gfid, list[Slot]], result: Result) -> list[Problem]:
        left: list[Problem] = []
        data: dict[Gfid, None] = {}
        meta: dict[Gfid, None] = {}
        order = sorted(todo, key=self._depth)
        for gfid in order:
            problem = todo[gfid]
            try:
                self._one(gfid, problem, slots.get(gfid, []), data, meta, result)
            except RemoteError as e:
                if e.errno in BRICK_ERRNOS:
                    raise brick_fault(self.link.where, e.errno or 0, e.text) from e
                number = e.errno or problem.errno
                left.append(Problem(gfid, problem.slot, problem.operation, number, e.text, found=e.found))
            except OSError as e:
                text = f"primary: {e.strerror}"
                left.append(Problem(gfid, problem.slot, problem.operation, e.errno or 0, text))
        again = Result()
        if data:
            self.transfer.send(list(data), set(), again)
        rest = [g for g in meta if g not in again.sent]
        if rest:
            # directories last, the deepest first: making what is below them changes their times
            self.applier.metas(sorted(rest, key=self._depth, reverse=True), again)
        result.gone += again.gone
        result.sent |= again.sent
        result.files += again.files
        result.bytes += again.bytes
        return left + again.problems

    def _depth(self, gfid: Gfid) -> int:
        path = self.view.index.path(gfid)
        return 0 if not path else path.count(b"/") + 1

    def _one(
        self, gfid: Gfid, problem: Problem, slots: list[Slot], data: dict[Gfid, None], meta: dict[Gfid, None],
        result: Result,
    ) -> None:  # fmt: skip
        if gfid in (ROOT, LIMBO):
            meta[ROOT] = None
            return
        rows = [r for r in self.view.index.rows(gfid) if r.parent != LIMBO]
        # where it is now on the secondary: those directories' times change when it moves
        there = self.link.call("lookup", {"gfids": [gfid.hex()]}).get("objects", {}).get(gfid.hex()) or {}
        for name in there.get("names", []):
            meta[bytes.fromhex(name["parent"])] = None
        if not rows:
            if self.view.index.has(gfid):
                raise OSError(errno.ENODATA, "it is there, but none of its names is known")
            self.link.call("remove", {"gfid": gfid.hex()})
            self.decided(Decision(gfid, "CON-1", f"{problem.operation}: gone on the primary, removed on the secondary"))
            for slot in slots:
                if self.view.index.get(*slot) is None and (slot.parent == ROOT or self.view.index.has(slot.parent)):
                    self.link.call("clear_slot", slot_params(slot))
                    meta[slot.parent] = None
            return
        seen = self.view.see(gfid)
        if seen is None:
            result.gone.append(gfid)
            return
        for parent in {r.parent for r in rows}:
            self._parents(parent, meta)
            meta[parent] = None
        stat = seen.stat
        link = None
        if stat.is_symlink:
            try:
                link = self.view.link_text(rows[0].slot, gfid)
            except Gone:
                result.gone.append(gfid)
                return
        answer = self.link.call("place", place_params(gfid, [r.slot for r in rows], stat, link))
        names = ", ".join(repr(os.fsdecode(r.name)) for r in rows[:3])
        self.decided(Decision(gfid, "CON-2/3/4", f"{problem.operation}: put where the primary has it ({names})"))
        if stat.is_file and (answer.get("data") or problem.operation in ("DATA", "META", "RETRY")):
            data[gfid] = None
        meta[gfid] = None
        for row in rows:
            meta[row.parent] = None

    def _parents(self, gfid: Gfid, meta: dict[Gfid, None]) -> None:
        """Make missing parents on the secondary from the primary's (CON-5)."""
        chain: list[Gfid] = []
        while gfid != ROOT and gfid != LIMBO:
            known = self.link.call("lookup", {"gfids": [gfid.hex()]}).get("objects", {})
            if known.get(gfid.hex(), {}).get("names"):
                break
            chain.append(gfid)
            row = self.view.index.row(gfid)
            if row is None:
                return
            gfid = row.parent
        for missing in reversed(chain):
            row = self.view.index.row(missing)
            seen = self.view.see(missing)
            if row is None or seen is None:
                return
            self.link.call("place", place_params(missing, [row.slot], seen.stat, None))
            text = f"parent {os.fsdecode(row.name)!r} was missing, made from the primary's"
            self.decided(Decision(missing, "CON-5", text))
            meta[missing] = None


def slot_params(slot: Slot) -> dict[str, Any]:
    """A slot as the agent's calls take it."""
    return {"parent": slot.parent.hex(), "name": base64.b64encode(slot.name).decode()}


def place_params(gfid: Gfid, slots: Iterable[Slot], stat: Any, link: bytes | None) -> dict[str, Any]:
    """The parameters of `place`."""
    return {
        "gfid": gfid.hex(),
        "slots": [slot_params(s) for s in slots],
        "stat": list(stat),
        "link": None if link is None else base64.b64encode(link).decode(),
        "replace": True,
    }
