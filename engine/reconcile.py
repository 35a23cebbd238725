"""Making the secondary agree with the primary of now, object by object: conflicts (CON-1…6), ledger retries, repair."""

from __future__ import annotations

import base64
import errno
import os
import stat as _stat
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from engine.apply import BRICK_ERRNOS, Applier, Problem, Result, brick_fault
from engine.ledger import TREE, retried
from engine.link import Link, RemoteError
from engine.model import LIMBO, ROOT, Gfid, Slot, Stat
from engine.object_names import Names, NamesUnknown, compared_names, parse_slot, slots_there
from engine.problems import CONTENT, Decision, Due, claimed, gathered
from engine.sides import LISTED, listing, looked_up, slot_params
from engine.transfer.base import Transfer
from engine.volume.base import Gone, View

BELOW = 100_000
"""Gfids named in one removal: more take more than one."""

PLACED = 1_000
"""Names given to an object in one call."""

ROUNDS = 10
"""Rounds without progress after which what is left goes to the ledger (CON-6)."""


class Reconciler:
    """Brings single objects to the primary's state of now; it never replays an old operation (ERR-3)."""

    def __init__(
        self,
        view: View,
        link: Link,
        applier: Applier,
        transfer: Transfer,
        decided: Callable[[Decision], None],
        settling: Callable[[Iterable[tuple[Gfid, str]]], None],
    ) -> None:
        """`decided` is told what was decided, `settling` of objects that from now on are half done, with the operation of
        a retry; durable when it returns."""
        self.view = view
        self.link = link
        self.applier = applier
        self.transfer = transfer
        self.decided = decided
        self.settling = settling
        self._there: dict[Gfid, dict[str, Any] | None] = {}
        """Where objects are on the secondary, as seen at the start of the round; each used once."""
        self._known: set[Gfid] = set()
        """Directories the secondary has, as far as seen in this round: one that goes meanwhile costs another round."""
        self._covered: set[Gfid] = set()
        """What a retry of a directory that was made here would settle, too."""

    def settle(self, problems: list[Problem], result: Result) -> list[Problem]:
        """Resolve problems; what could not be resolved comes back, with the last errno.

        Objects that are not where the primary's index has them go to `result.gone`: look again after a slice.
        """
        left = list(problems)
        before: set[Gfid] | None = None
        told: set[Gfid] = set()
        self._covered = set()
        stuck = False
        for _ in range(ROUNDS):
            left = [self._without_right_found(p) for p in left]
            todo, slots = gathered(left)
            if not todo:
                break
            same = set(todo) == before
            way = any(p.errno == errno.EEXIST and p.found for p in left)
            if same and (stuck or not way) and not any(p.errno == errno.EAGAIN for p in left):
                break
            stuck = same and way
            before = set(todo)
            if new := before - told:
                self.settling([(g, retried(todo[g].operation)) for g in new])
                told |= new
                self._covered.update(g for g in new if todo[g].operation == TREE)
            left = self._round(todo, slots, claimed(left), result, stuck)
        return left

    def _without_right_found(self, problem: Problem) -> Problem:
        """Forget what was found in the way where the primary has it in that very place: it is left alone (CON-2)."""
        if not problem.found or problem.slot is None or problem.text.startswith("replaced"):
            return problem
        try:
            right = self.view.holds(problem.slot, problem.found)
        except OSError:
            return problem
        return replace(problem, found=b"") if right else problem

    def _round(
        self, todo: dict[Gfid, Problem], slots: dict[Gfid, list[Slot]], claims: dict[Gfid, dict[Slot, None]], result: Result,
        stuck: bool,
    ) -> list[Problem]:  # fmt: skip
        """Look at each once, and settle it. `stuck`: objects that have each other's names are taken apart, each once."""
        aside: set[Gfid] = set()
        left: list[Problem] = []
        due = Due(gone=result.gone)
        self._look(todo)
        order = deque(sorted(todo, key=self._depth))
        while order:
            gfid = order.popleft()
            problem = todo[gfid]
            try:
                self._one(gfid, problem, slots.get(gfid, []), claims.get(gfid, {}), due)
            except RemoteError as e:
                if e.errno in BRICK_ERRNOS:
                    raise brick_fault(self.link.where, e.errno or 0, e.text) from e
                number = e.errno or problem.errno
                way = False
                if stuck and number == errno.EEXIST and e.found in todo and not {gfid, e.found} & aside:
                    aside.add(e.found)
                    way = self._set_aside(e.found, gfid)
                    if e.found not in order:
                        order.append(e.found)  # some of its names may have been taken, even where that failed
                if way:
                    order.appendleft(gfid)
                else:
                    left.append(
                        Problem(gfid, problem.slot, problem.operation, number, e.text, e.found, tuple(claims.get(gfid, ())))
                    )
                if number == errno.EINVAL:
                    # into a directory that is below it there: that one moved on the primary, too (CON-3)
                    left += [Problem(above, None, "RENAME", number, e.text) for above in self._above(gfid)]
            except OSError as e:
                text = e.text if isinstance(e, NamesUnknown) else f"primary: {e.strerror}"
                result.nameless |= isinstance(e, NamesUnknown)
                left.append(
                    Problem(gfid, problem.slot, problem.operation, e.errno or 0, text, slots=tuple(claims.get(gfid, ())))
                )
            operation = retried(problem.operation)
            below, due.below = due.below, []
            for found in below:
                known = todo.get(found)
                if known is None or (operation == TREE and known.operation != TREE and self._is_directory(found)):
                    todo[found] = Problem(found, None, operation, errno.ENOENT, "its directory was missing")
                    if known is None or found not in order:
                        order.append(found)
        again = Result()
        if due.data:
            self.transfer.send(list(due.data), set(), again)
            left += self._changed_since(due.data)
        # the times of a file whose content did not come are not put right: nothing else would tell
        failed = {p.gfid for p in again.problems} | set(again.gone)
        rest = [g for g in due.meta if g not in again.sent and g not in failed]
        if rest:
            # directories last, the deepest first: making what is below them changes their times
            self.applier.metas(sorted(rest, key=self._depth, reverse=True), again)
        result.gone += again.gone
        result.sent |= again.sent
        result.files += again.files
        result.bytes += again.bytes
        return left + due.again + again.problems

    def _changed_since(self, sent: dict[Gfid, Stat]) -> list[Problem]:
        """Files that changed while their content was sent by a worker that does not have all of their records: what the
        other one sent may have been newer, and this one's landed later."""
        out: list[Problem] = []
        for gfid, stat in sent.items():
            if self.view.orders(gfid):
                continue
            try:
                seen = self.view.see(gfid)
            except OSError:
                continue  # its next look says so
            if seen is not None and (seen.stat.size, seen.stat.mtime_ns) != (stat.size, stat.mtime_ns):
                out.append(Problem(gfid, None, "DATA", errno.EAGAIN, "it changed while its content was sent"))
        return out

    def _set_aside(self, gfid: Gfid, wanted_by: Gfid) -> bool:
        """Take the names that `wanted_by` has here from an object that has one of them there; False when that failed."""
        self._there.pop(gfid, None)  # it is not where it was seen
        slots = [slot_params(r.slot) for r in self.view.index.rows(wanted_by) if r.parent != LIMBO]
        try:
            if self.view.see(gfid) is None:  # what is gone is removed, wherever it is
                return False
            return bool(self.link.call("set_aside", {"gfid": gfid.hex(), "slots": slots})["names"])
        except (RemoteError, OSError):
            return False

    def _look(self, gfids: Iterable[Gfid]) -> None:
        """Where these are on the secondary now, and which of their directories it has: two questions for all of them."""
        self._there = dict(looked_up(self.link, [g for g in gfids if g not in (ROOT, LIMBO)]))
        parents = {r.parent: None for g in self._there for r in self.view.index.rows(g)}
        found = looked_up(self.link, [p for p in parents if p not in (ROOT, LIMBO) and p not in self._there])
        self._known = {p for p, there in (*found, *self._there.items()) if there and there["names"]}

    def _is_directory(self, gfid: Gfid) -> bool:
        row = self.view.index.row(gfid)
        return row is not None and row.kind == _stat.S_IFDIR

    def _depth(self, gfid: Gfid) -> int:
        path = self.view.index.path(gfid)
        return 0 if not path else path.count(b"/") + 1

    def _one(self, gfid: Gfid, problem: Problem, slots: list[Slot], claims: Iterable[Slot], due: Due) -> None:
        """Settle one; `due` gets what is left to be done. `slots` are freed where the object is gone; `claims` may be names
        of it."""
        if gfid in (ROOT, LIMBO):
            due.meta[ROOT] = None
            return
        # where it is now on the secondary: those directories' times change when it moves
        there = self._there.pop(gfid) if gfid in self._there else dict(looked_up(self.link, [gfid]))[gfid]
        has = slots_there(there)
        due.meta.update((slot.parent, None) for slot in has)
        known = self.view.names(gfid)
        if not known.rows and not self.view.index.has(gfid):
            self._remove_gone(gfid, problem, slots, has, due)
            return
        names = compared_names(self.view, gfid, known, claims, has)
        if not names.want:
            raise OSError(errno.ENODATA, "it is there, but none of its names is known")
        seen = self.view.see(gfid)
        if seen is None:
            due.gone.append(gfid)
            return
        for parent in {slot.parent for slot in names.want}:
            self._parents(parent, due)
            due.meta[parent] = None
        stat = seen.stat
        lacking = self._lacking(gfid, names, there)
        if there is not None and not lacking and not names.drop and self._same_kind(stat, there):
            links = int(there["stat"]["nlink"])
            differs = (stat.size, stat.mtime_ns) != (there["stat"]["size"], there["stat"]["mtime_ns"]) or there.get("torn")
            if stat.is_file and (differs or problem.operation in CONTENT):
                due.data[gfid] = stat
            if stat.is_dir and problem.operation == TREE:
                due.below += self._below(gfid)
        else:
            answer = self._place(gfid, problem, names, lacking, seen.stat, there, due)
            if answer is None:
                return
            links = int(answer["nlink"])
            torn = there is not None and there.get("torn")
            if stat.is_file and (answer["data"] or torn or problem.operation in CONTENT):
                due.data[gfid] = stat
            if stat.is_dir and (answer["made"] or problem.operation == TREE):
                due.below += self._below(gfid)
        due.meta[gfid] = None
        if not known.complete and known.links is not None and links != known.links:
            raise NamesUnknown(known.links, len(names.want), links)
        if not self.view.orders(gfid) and set(self.view.names(gfid).rows) != set(known.rows):
            text = "its names changed while they were compared"
            due.again.append(Problem(gfid, None, problem.operation, errno.EAGAIN, text, slots=tuple(claims)))

    def _remove_gone(self, gfid: Gfid, problem: Problem, slots: list[Slot], has: list[Slot], due: Due) -> None:
        """Take an object that is gone on the primary from the secondary, and what has its names there and is nobody's."""
        self._remove(gfid, has, due)
        self.decided(Decision(gfid, "CON-1", f"{problem.operation}: gone on the primary, removed on the secondary"))
        for slot in slots:
            if self.view.index.get(*slot) is None and (slot.parent == ROOT or self.view.index.has(slot.parent)):
                self.clear(slot, due)
                due.meta[slot.parent] = None

    def _lacking(self, gfid: Gfid, names: Names, there: dict[str, Any] | None) -> list[Slot]:
        """The names that it does not have on the secondary. Of very many, `lookup` tells a part: the others are asked for."""
        if there is None or int(there["stat"]["nlink"]) <= len(there["names"]):
            return list(names.missing)
        lacking: list[Slot] = []
        for at in range(0, len(names.missing), LISTED):
            some = names.missing[at : at + LISTED]
            taken = self.link.call("taken", {"slots": [slot_params(s) for s in some]})["taken"]
            lacking += [s for s, text in zip(some, taken, strict=True) if bytes.fromhex(text) != gfid]
        return lacking

    def _place(
        self, gfid: Gfid, problem: Problem, names: Names, lacking: list[Slot], stat: Stat, there: dict[str, Any] | None,
        due: Due,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Give it the names it lacks, and take those from it that are not its own; the agent's last answer, with `made` and
        `data` of all. None where it moved just now."""
        if stat.is_dir and there is None:
            self._about_to_make(gfid)
        link = None
        if stat.is_symlink:
            try:
                link = self.view.link_text(names.want[0], gfid)
            except Gone:
                due.gone.append(gfid)
                return None
        anew = there is None or stat.is_symlink or not self._same_kind(stat, there)
        slots = list(names.want) if anew else lacking or list(names.want[:1])
        parts = [slots[at : at + PLACED] for at in range(0, len(slots), PLACED)]
        made = data = False
        answer: dict[str, Any] = {}
        for i, part in enumerate(parts):
            drop = names.drop if i == len(parts) - 1 else ()
            answer = self.link.call("place", place_params(gfid, part, stat, link, drop))
            made |= bool(answer["made"])
            data |= bool(answer["data"])
        beyond = [slot for slot in map(parse_slot, answer["beyond"]) if slot not in names.want]
        if wrong := [slot for slot in beyond if not self.view.holds(slot, gfid)]:
            answer = self.link.call("place", place_params(gfid, slots[:1], stat, link, wrong))
            data |= bool(answer["data"])
        self.decided(Decision(gfid, "CON-2/3/4", _placed_text(problem, names, lacking, wrong)))
        due.meta.update((slot.parent, None) for slot in (*names.want, *wrong))
        return {**answer, "made": made, "data": data}

    def _about_to_make(self, directory: Gfid) -> None:
        """A directory is missing there: once it is made, nothing tells any more that what is in it is missing, too."""
        if directory not in self._covered:
            self.settling([(directory, TREE)])
            self._covered.add(directory)

    def _below(self, directory: Gfid) -> list[Gfid]:
        """What is in a directory that was just made there."""
        found = self.view.below(directory)
        if directory in self._covered:
            self._covered.update(found)
        return found

    def _same_kind(self, stat: Stat, there: dict[str, Any]) -> bool:
        """Is it the same kind of object there, surely, and not set aside? A symlink may have another text: put anew."""
        if stat.is_symlink or there["limbo"] or not there["sure"]:
            return False
        return _stat.S_IFMT(stat.mode) == _stat.S_IFMT(there["stat"]["mode"])

    def clear(self, slot: Slot, due: Due) -> None:
        """Free a name there: what is alive is put where the primary has it, what is not goes, a directory with its dead."""
        found = bytes.fromhex(self.link.call("taken", {"slots": [slot_params(slot)]})["taken"][0])
        if found and self.view.index.has(found):
            self._put_right(found, due, "it has a name that is nobody's here")
            return
        try:
            self.link.call("clear_slot", {**slot_params(slot), "gfid": found.hex()})
        except RemoteError as e:
            if e.errno != errno.ENOTEMPTY or e.found != found:
                raise
            self._remove(found, [slot], due)

    def _remove(self, gfid: Gfid, slots: list[Slot], due: Due) -> None:
        """Take what is gone on the primary away, with the names it has there, and of what is in it, that which is gone, too.

        What is alive is put where the primary has it, never removed with the directory it happens to be in: another
        brick's changes may not have been applied there yet. Raises RemoteError ENOTEMPTY when that does not come to an
        end.
        """
        dead: list[str] = []
        last = -1
        while True:
            try:
                params = {"gfid": gfid.hex(), "slots": [slot_params(s) for s in slots], "below": dead[:BELOW]}
                beyond = [parse_slot(name) for name in self.link.call("remove", params)["beyond"]]
                if not beyond or beyond == slots:
                    return
                if self.view.index.has(gfid):
                    self._put_right(gfid, due, "it is there after all")
                    return
                slots = beyond  # names that it got just now, or beyond those that are told at once
                continue
            except RemoteError as e:
                if e.errno != errno.ENOTEMPTY or len(dead) == last:
                    raise
            last = len(dead)
            dead = self._dead_below(gfid, due)

    def _dead_below(self, gfid: Gfid, due: Due) -> list[str]:
        """What is in a directory there and gone on the primary; what is alive is taken out of it."""
        found: list[str] = []
        todo = [gfid]
        while todo:
            for entry in list(listing(self.link, todo.pop())):  # what is taken out changes it
                one = bytes.fromhex(entry["gfid"])
                if self.view.index.has(one):
                    self._put_right(one, due)
                    continue
                found.append(one.hex())
                if _stat.S_ISDIR(int(entry["mode"])):
                    todo.append(one)
        return found

    def _put_right(self, gfid: Gfid, due: Due, why: str = "in a directory that goes") -> None:
        self._one(gfid, Problem(gfid, None, "REMOVE", 0, why), [], (), due)

    def _above(self, gfid: Gfid) -> list[Gfid]:
        """The directories above an object on the primary, the root left out."""
        out: list[Gfid] = []
        row = self.view.index.row(gfid)
        while row is not None and row.parent not in (ROOT, LIMBO) and row.parent not in out:
            out.append(row.parent)
            row = self.view.index.row(row.parent)
        return out

    def _parents(self, gfid: Gfid, due: Due) -> None:
        """Make missing parents on the secondary from the primary's (CON-5)."""
        chain: list[Gfid] = []
        while gfid != ROOT and gfid != LIMBO:
            if gfid in self._known:
                break
            if gfid in chain:
                return  # the index saw them at different times, each below the other: the next round knows more
            there = dict(looked_up(self.link, [gfid]))[gfid]
            if there and there["names"]:
                self._known.add(gfid)
                break
            chain.append(gfid)
            row = self.view.index.row(gfid)
            if row is None:
                return
            gfid = row.parent
        if chain:
            self._about_to_make(chain[-1])
        for missing in reversed(chain):
            row = self.view.index.row(missing)
            seen = self.view.see(missing)
            if row is None or seen is None:
                return
            self.link.call("place", place_params(missing, [row.slot], seen.stat, None, ()))
            text = f"parent {os.fsdecode(row.name)!r} was missing, made from the primary's"
            self.decided(Decision(missing, "CON-5", text))
            due.meta[missing] = due.meta[row.parent] = None
            due.below += self._below(missing)


def place_params(
    gfid: Gfid, slots: Iterable[Slot], stat: Stat, link: bytes | None, drop: Iterable[Slot]
) -> dict[str, Any]:
    """The parameters of `place`."""
    return {
        "gfid": gfid.hex(),
        "slots": [slot_params(s) for s in slots],
        "drop": [slot_params(s) for s in drop],
        "stat": list(stat),
        "link": None if link is None else base64.b64encode(link).decode(),
        "replace": True,
    }


def _placed_text(problem: Problem, names: Names, lacking: list[Slot], wrong: list[Slot]) -> str:
    """What was done with the names of an object, for the log."""
    why = f" ({problem.text})" if problem.text else ""
    parts = [f"{verb} {_some(slots)}" for verb, slots in (("has", names.want), ("given", lacking),
                                                          ("taken", [*names.drop, *wrong])) if slots]  # fmt: skip
    return f"{problem.operation}{why}: put where the primary has it ({'; '.join(parts)})"


def _some(slots: Sequence[Slot]) -> str:
    more = f" and {len(slots) - 3:,} more" if len(slots) > 3 else ""
    return ", ".join(repr(os.fsdecode(s.name)) for s in slots[:3]) + more
