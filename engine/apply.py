"""Applying a plan through a link: entry operations in order, then content beside metadata, then directory times."""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from engine.agent import wire
from engine.agent.frames import Kind
from engine.batch import Plan
from engine.link import Link, Pending
from engine.model import LIMBO, EngineError, EntryChange, EntryOp, Fop, Gfid, MetaOp, Outcome, Slot
from engine.sides import LISTED, slot_params
from engine.volume.base import Gone, View

FRAME = 256 * 1024
"""Bytes at which a frame of operations is sent."""

INLINE = 64 * 1024
"""Files up to this many bytes travel whole in a frame with others."""

WINDOW = 16
"""Frames under way before the first of them is awaited."""

BRICK_HINTS = {
    errno.ENOSPC: "free space or inodes there; it goes on by itself",
    errno.EDQUOT: "raise the quota there; it goes on by itself",
    errno.EROFS: "remount it read-write; it goes on by itself",
    errno.ENOTCONN: "a brick of the secondary is down; it goes on when that is back",
    errno.ETIMEDOUT: "a brick of the secondary does not answer; it goes on when it does",
    errno.EIO: "look at the disk there (dmesg); it goes on by itself",
}
BRICK_ERRNOS = frozenset(BRICK_HINTS)
"""What hits the whole brick, not one object (ERR-3)."""

_CREATE, _MKDIR, _SYMLINK, _LINK, _RENAME = (
    int(Fop.CREATE), int(Fop.MKDIR), int(Fop.SYMLINK), int(Fop.LINK), int(Fop.RENAME),
)  # fmt: skip
_REMOVES = (int(Fop.UNLINK), int(Fop.RMDIR))


class BrickFault(EngineError):
    """An error of the secondary's whole brick: the batch is held and the mark does not move (ERR-3)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One object that could not be brought over: what was tried, the errno, and what the secondary said.

    `slots` are all names that it is about, beside `slot`: it is settled when each of them agrees.
    """

    gfid: Gfid
    slot: Slot | None
    operation: str
    errno: int
    text: str
    found: Gfid = b""
    slots: tuple[Slot, ...] = ()


@dataclass(slots=True)
class Result:
    """What applying a plan came to."""

    problems: list[Problem] = field(default_factory=list)
    gone: list[Gfid] = field(default_factory=list)
    """Objects that were not where the index has them: to be looked at again after the next slice (SYN-6)."""
    sent: set[Gfid] = field(default_factory=set)
    """Objects whose content and metadata the secondary has acknowledged."""
    made: dict[Gfid, None] = field(default_factory=dict)
    """Objects newly made there that still need content or metadata."""
    nameless: bool = False
    """Of some file not all names are known: a crawl that compares finds them."""
    files: int = 0
    bytes: int = 0


class Watch(Protocol):
    """Who is told how far a batch has got, and may stop it (raises EngineError).

    A file that takes a while `begins` (with its path where the transfer knows it), is `at` so many bytes where that is
    `followed`, and `ends`; its bytes are told as sent, too, by `files`.
    """

    def entries(self, done: int) -> None: ...
    def files(self, done: int, nbytes: int) -> None: ...
    def throttle(self, nbytes: int) -> None: ...
    def begins(self, gfid: Gfid, path: bytes | None, size: int, *, followed: bool) -> None: ...
    def at(self, gfid: Gfid, nbytes: int) -> None: ...
    def ends(self, gfid: Gfid) -> None: ...


class Applier:
    """Applies entry operations and metadata of one brick over one link; content goes through a transfer engine.

    `inline` says whether small new files carry their content with their creation (the stream engine, outside of
    adoption); `adopting`, that files are made with their xattrs, for those that are there and equal otherwise. Raises
    LinkError, BrickFault; everything that hits one object only is a Problem in the result.
    """

    def __init__(
        self, view: View, link: Link, watch: Watch, *, inline: bool, xattrs: bool = True, adopting: bool = False
    ) -> None:
        self.adopting = adopting
        self.view = view
        self.link = link
        self.watch = watch
        self.inline = inline
        self.with_xattrs = xattrs

    # ---- entry operations ------------------------------------------------------------------------------------

    def entries(self, plan: Plan, result: Result) -> None:
        """Apply the entry operations in order, pipelined; fill in problems, what was made and what was sent whole."""
        flight: deque[tuple[Pending, list[EntryChange], list[tuple[int, Gfid, int, int]]]] = deque()
        buffer: list[bytes] = []
        changes: list[EntryChange] = []
        inlined: list[tuple[int, Gfid, int, int]] = []
        size = 0

        def flush() -> None:
            nonlocal buffer, changes, inlined, size
            if buffer:
                self.watch.throttle(size)
                flight.append((self.link.request(Kind.ENTRIES, b"".join(buffer)), changes, inlined))
                buffer, changes, inlined, size = [], [], [], 0
            while len(flight) > WINDOW:
                self._entries_done(*flight.popleft(), result)

        for change in plan.entries:
            whole = self._whole(change) if self.inline and change.fop == _CREATE else None
            if whole is not None:
                packed, length, mtime = whole
                inlined.append((len(changes), change.gfid, length, mtime))
            else:
                try:
                    op = self.entry_op(change)
                except OSError as e:  # of this one object: the others go on
                    problem = Problem(change.gfid, change.dest or change.slot, Fop(change.fop).name, e.errno or 0,
                                      f"primary: {e.strerror}")  # fmt: skip
                    result.problems.append(problem)
                    continue
                if op is None or (op.stat is None and change.dest is not None and change.dest.parent != LIMBO):
                    # gone, or not where it was last known to be: the next slice says which
                    result.gone.append(change.gfid)
                if op is None:
                    continue
                packed = wire.encode_entry(op)
            buffer.append(packed)
            changes.append(change)
            size += len(packed)
            if size >= FRAME:
                flush()
        flush()
        while flight:
            self._entries_done(*flight.popleft(), result)

    def _entries_done(
        self, pending: Pending, changes: list[EntryChange], inlined: list[tuple[int, Gfid, int, int]], result: Result
    ) -> None:
        reply = wire.decode_entries_reply(pending.wait().payload)
        for outcome in reply.failures:
            self._problem(changes[outcome.index], outcome, result)
        for gfid in reply.made:
            result.made[gfid] = None
            result.sent.discard(gfid)  # made anew: an agent of another brick had removed it
        if inlined:
            seen = {s.index: s for s in reply.sizes}
            nbytes = 0
            for at, gfid, size, mtime in inlined:
                found = seen.get(at)
                if found is not None and found.size == size and found.mtime_ns == mtime:
                    result.sent.add(gfid)
                    nbytes += size
            result.files += len(seen)
            result.bytes += nbytes
            self.watch.files(len(seen), nbytes)
        self.watch.entries(len(changes))

    def _problem(self, change: EntryChange, outcome: Outcome, result: Result) -> None:
        if owner_only(self.link, outcome.text):
            return
        if outcome.errno in BRICK_ERRNOS:
            raise brick_fault(self.link.where, outcome.errno, outcome.text)
        if outcome.text.startswith("replaced") and not self.view.index.has(outcome.found):
            return  # as on the primary
        result.problems.append(
            Problem(
                change.gfid, change.dest or change.slot, Fop(change.fop).name, outcome.errno, outcome.text, outcome.found,
                (change.slot,),
            )
        )

    def _whole(self, change: EntryChange) -> tuple[bytes, int, int] | None:
        """A new small file with its content, packed, its size and its mtime; None where it has to go another way.

        Kept flat: with the agent's end of it, it is what a first synchronisation is made of.
        """
        view = self.view
        try:
            fd = view.open_slot(change.slot, change.gfid, change.ctime_ns)
        except (Gone, OSError):
            return None
        try:
            st = os.fstat(fd)
            size = st.st_size
            if size > INLINE or st.st_blocks * 512 < size or not _stat.S_ISREG(st.st_mode):
                return None
            data = os.read(fd, size + 1) if size else b""
            if len(data) != size:
                return None
            stat, xattrs = view.stat_of(st, fd), view.xattrs_of(fd) if self.with_xattrs else {}
        except OSError:
            return None
        finally:
            os.close(fd)
        return wire.encode_new_file(change.gfid, change.slot, stat, xattrs, data), size, stat.mtime_ns

    def entry_op(self, change: EntryChange) -> EntryOp | None:
        """The operation for one change with the object's state of now; None when it has vanished meanwhile (CHG-5)."""
        fop, gfid, slot = change.fop, change.gfid, change.slot
        if fop in _REMOVES:
            return EntryOp(fop, gfid, slot)
        view = self.view
        seen = view.see(gfid)
        if seen is None:
            if fop == _RENAME and change.dest is not None:
                return EntryOp(fop, gfid, slot, change.dest)
            return None
        stat = seen.stat
        link = None
        xattrs: dict[bytes, bytes] | None = None
        if stat.is_symlink:
            link = self._text(gfid, change.dest or slot)
            if link is None and fop != _RENAME:
                return None
            xattrs = {}
        elif self.with_xattrs and (fop == _MKDIR or (self.adopting and stat.is_file)):
            # a file that is there may be equal by size and time, and have others
            try:
                xattrs = view.xattrs_of(view.dir_fd(gfid)) if fop == _MKDIR else view.meta(gfid)[1]
            except (Gone, PermissionError):
                xattrs = None
        return EntryOp(fop, gfid, slot, change.dest, stat, link, None, xattrs)

    def _text(self, gfid: Gfid, slot: Slot) -> bytes | None:
        for at in (slot, *(r.slot for r in self.view.index.rows(gfid))):
            if at.parent == LIMBO:
                continue
            try:
                return self.view.link_text(at, gfid)
            except Gone:
                continue
        return None

    def replaced(self, plan: Plan) -> list[Gfid]:
        """What this plan's RENAMEs would replace there although it is alive: only somebody's hand can have put it there
        (SEC-12). The agent says so when it has happened; but that can be lost with the agent. Raises LinkError, RemoteError.
        """
        renames = [e for e in plan.entries if e.dest is not None and e.dest.parent != LIMBO]
        leaving = {(e.gfid, e.slot) for e in plan.entries if e.fop == _RENAME or e.fop in _REMOVES}
        found: list[Gfid] = []
        for at in range(0, len(renames), LISTED):
            some = renames[at : at + LISTED]
            slots = [slot_params(e.dest) for e in some if e.dest is not None]
            for change, text in zip(some, self.link.call("taken", {"slots": slots})["taken"], strict=True):
                gfid = bytes.fromhex(text)
                if gfid and gfid != change.gfid and (gfid, change.dest) not in leaving and self.view.index.has(gfid):
                    found.append(gfid)
        return found

    # ---- metadata --------------------------------------------------------------------------------------------

    def metas(self, gfids: Iterable[Gfid], result: Result) -> None:
        """Bring owner, mode, xattrs and times of these objects over as they are now; vanished ones are success."""
        flight: deque[tuple[Pending, list[Gfid]]] = deque()
        ops: list[MetaOp] = []
        size = 0

        def flush() -> None:
            nonlocal ops, size
            if ops:
                flight.append((self.link.request(Kind.META, wire.encode_metas(ops)), [op.gfid for op in ops]))
                ops, size = [], 0
            while len(flight) > WINDOW:
                self._metas_done(*flight.popleft(), result)

        for gfid in gfids:
            try:
                stat, xattrs = self.view.meta(gfid)
            except Gone:
                if self.view.index.has(gfid):
                    result.gone.append(gfid)
                continue
            except OSError as e:
                result.problems.append(Problem(gfid, None, "META", e.errno or 0, f"primary: {e.strerror}"))
                continue
            ops.append(MetaOp(gfid, stat, xattrs if self.with_xattrs else None))
            size += 80 + sum(len(k) + len(v) for k, v in (xattrs or {}).items())
            if size >= FRAME:
                flush()
        flush()
        while flight:
            self._metas_done(*flight.popleft(), result)

    def _metas_done(self, pending: Pending, gfids: list[Gfid], result: Result) -> None:
        for outcome in wire.decode_entries_reply(pending.wait().payload).failures:
            if outcome.errno in BRICK_ERRNOS:
                raise brick_fault(self.link.where, outcome.errno, outcome.text)
            if owner_only(self.link, outcome.text):
                continue
            gfid = gfids[outcome.index]
            result.problems.append(Problem(gfid, None, "META", outcome.errno, outcome.text, outcome.found))


def brick_fault(where: str, number: int, text: str) -> BrickFault:
    """The error of a whole brick, with what to do about it."""
    said = f": {text}" if text and os.strerror(number) not in text else ""
    return BrickFault(
        f"{where}: {os.strerror(number)}{said}",
        hint=BRICK_HINTS.get(number, ""), code=errno.errorcode.get(number, "error").lower(), errno=number,
    )  # fmt: skip


def owner_only(link: Link, text: str) -> bool:
    """Did only the owner fail, because the agent is an ordinary user's? It can't be kept there, as with rsync."""
    return link.agent_uid not in (None, 0) and text.startswith("owner")
