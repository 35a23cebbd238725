"""The hybrid crawl of a GlusterFS brick: a walk by xtime, compared with the secondary where that has something (CRW-5, CRW-8)."""

from __future__ import annotations

import base64
import errno
import os
import stat as _stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.model import NO_MARK, ROOT, DataChange, EntryChange, Fop, Gfid, Mark, MetaChange, Record, Slot
from engine.volume.brickpath import GFID, internal, is_link_file, times_of
from engine.volume.glusterview import GlusterView

STEP = 8192
"""Entries in one slice."""

_SETATTR = 38
_WORDS = struct.Struct("!II")
_WALKED = struct.Struct("!16sII")
WALKED = "trusted.georep.walked"
"""On a directory of the brick: the walk that is done with all below it, and the directory's xtime then."""
_VANISHED = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ENODATA)


class _Dir(NamedTuple):
    gfid: Gfid
    path: bytes
    xtime: Mark
    floor: Mark


@dataclass(slots=True)
class Piece:
    """One slice of the walk: its records, and the directories that are done with all below them, with their xtime."""

    records: list[Record] = field(default_factory=list)
    finished: list[tuple[bytes, Mark]] = field(default_factory=list)


class Hybrid:
    """A walk over one brick from its root. Each piece is to be applied before `finish` is called with it.

    What is not newer than `floor`, the root's mark, is skipped. `theirs(gfid)` lists a directory as the secondary has
    it; None on a first sync to an empty secondary, where there is nothing to compare with and directories get a mark of
    their own as they are done, so that the walk can go on after a restart. These carry the walk's `token` (16 bytes):
    marks of another walk say nothing of this one, whose secondary may have been emptied since.
    """

    def __init__(
        self,
        view: GlusterView,
        floor: Mark,
        xtime_name: str,
        theirs: Callable[[Gfid], list[dict[str, Any]]] | None,
        log: Callable[[str, str], None],
        cap: int,
        token: bytes,
    ) -> None:
        self.view = view
        self.floor = floor
        self.xtime_name = xtime_name
        self.theirs = theirs
        self.log = log
        self.cap = Mark(cap, 0)
        self.token = token
        self.seen = 0
        self.files = self.bytes = 0
        """Regular files that were found to be new, and their bytes."""
        self.unreadable: list[Gfid] = []

    def pieces(self) -> Iterator[Piece]:
        """The walk, in slices of at most STEP entries and what a last directory adds."""
        piece = Piece()
        removals: list[EntryChange] = []
        root = self.view.brick
        todo: list[_Dir | tuple[bytes, Mark]] = [_Dir(ROOT, root, self._xtime(root) or self.cap, self.floor)]
        while todo:
            one = todo.pop()
            if not isinstance(one, _Dir):
                piece.finished.append(one)
                continue
            todo.append((one.path, min(one.xtime, self.cap)))
            below: list[_Dir] = []
            for records in self._directory(one, below, removals):
                piece.records += records
                if len(piece.records) >= STEP:
                    yield piece
                    piece = Piece()
            todo += below
        yield piece
        # what is to go goes last: what only moved has its new place by then
        for at in range(0, len(removals), STEP):
            yield Piece(list(removals[at : at + STEP]))

    def finish(self, piece: Piece) -> None:
        """A piece is on the secondary: its finished directories have their mark, on a first sync."""
        if self.theirs is not None:
            return
        for path, mark in piece.finished:
            if path == self.view.brick:
                continue  # the root's is the session's
            try:
                os.setxattr(path, WALKED, _WALKED.pack(self.token, *mark))
            except OSError as e:
                if e.errno not in _VANISHED:
                    raise

    def _walked(self, path: bytes) -> Mark:
        """How far this walk got with a directory before it was interrupted."""
        try:
            value = os.getxattr(path, WALKED)
        except OSError as e:
            if e.errno == errno.ENODATA:
                return NO_MARK
            raise
        token, *mark = _WALKED.unpack(value) if len(value) == _WALKED.size else (b"", *NO_MARK)
        return Mark(*mark) if token == self.token else NO_MARK

    def _xtime(self, path: bytes) -> Mark | None:
        try:
            value = os.getxattr(path, self.xtime_name, follow_symlinks=False)
        except OSError as e:
            if e.errno == errno.ENODATA:
                return None  # it counts as changed now (MRK-3)
            raise
        return Mark(*_WORDS.unpack(value)) if len(value) == _WORDS.size else None

    def _directory(self, one: _Dir, below: list[_Dir], removals: list[EntryChange]) -> Iterator[list[Record]]:
        there: dict[bytes, dict[str, Any]] = {}
        if self.theirs is not None:
            there = {base64.b64decode(e["name"]): e for e in self.theirs(one.gfid)}
        try:
            entries = list(os.scandir(one.path))
        except OSError as e:
            if e.errno not in _VANISHED:
                self.log("warning", f"{os.fsdecode(one.path)}: {e.strerror}")
                self.unreadable.append(one.gfid)
            return
        names: set[bytes] = set()
        for entry in entries:
            if internal(one.gfid, entry.name):
                continue
            try:
                found = self._entry(one, entry, there.get(entry.name), below)
            except OSError as e:
                if e.errno not in _VANISHED:
                    self.log("warning", f"{os.fsdecode(entry.path)}: {e.strerror}: skipped")
                continue
            if found is None:
                continue
            names.add(entry.name)
            self.seen += 1
            if found:
                yield found
        for name, other in there.items():
            if name not in names:
                self._extra(Slot(one.gfid, name), other, removals)

    def _entry(
        self, one: _Dir, entry: os.DirEntry[bytes], other: dict[str, Any] | None, below: list[_Dir]
    ) -> list[Record] | None:
        """The records of one name; None when the brick does not really have it."""
        st = entry.stat(follow_symlinks=False)
        if is_link_file(entry.path, st):
            return None
        gfid = os.getxattr(entry.path, GFID, follow_symlinks=False)
        xtime = self._xtime(entry.path)
        slot = Slot(one.gfid, entry.name)
        changed = xtime is None or xtime > one.floor
        same = other is not None and other.get("gfid") == gfid.hex()
        if _stat.S_ISDIR(st.st_mode):
            floor = one.floor
            if self.theirs is None:
                floor = max(floor, self._walked(entry.path))
            if xtime is None or xtime > floor:
                below.append(_Dir(gfid, entry.path, xtime or self.cap, floor))
            if (changed and self.theirs is None and floor == one.floor) or (self.theirs is not None and not same):
                return [EntryChange(gfid, int(Fop.MKDIR), slot), MetaChange(gfid, _SETATTR)]
            return [MetaChange(gfid, _SETATTR)] if changed else []
        if self.theirs is None:
            if not changed:
                return []
            return self._new(gfid, slot, st)
        if not same:
            return self._new(gfid, slot, st)
        assert other is not None
        stat = times_of(entry.path, st, False)
        if _stat.S_ISREG(st.st_mode) and self.view.around.direct:
            if (stat.size, stat.mtime_ns) == (other.get("size"), other.get("mtime_ns")):
                return [MetaChange(gfid, _SETATTR)] if changed else []
            return [DataChange(gfid), MetaChange(gfid, _SETATTR)]
        if _stat.S_ISREG(st.st_mode) and changed:
            return [DataChange(gfid), MetaChange(gfid, _SETATTR)]
        return [MetaChange(gfid, _SETATTR)] if changed else []

    def _new(self, gfid: Gfid, slot: Slot, st: os.stat_result) -> list[Record]:
        if _stat.S_ISREG(st.st_mode):
            self.files += 1
            self.bytes += st.st_size
        if _stat.S_ISLNK(st.st_mode):
            fop = Fop.LINK if st.st_nlink > 2 else Fop.SYMLINK
            return [EntryChange(gfid, int(fop), slot), MetaChange(gfid, _SETATTR)]
        if st.st_nlink > 2:  # one is the brick's own
            return [EntryChange(gfid, int(Fop.LINK), slot), DataChange(gfid), MetaChange(gfid, _SETATTR)]
        if _stat.S_ISREG(st.st_mode) and self.theirs is None:
            return [EntryChange(gfid, int(Fop.CREATE), slot)]
        out: list[Record] = [EntryChange(gfid, int(Fop.MKNOD), slot), MetaChange(gfid, _SETATTR)]
        if _stat.S_ISREG(st.st_mode):
            out.append(DataChange(gfid))
        return out

    def _extra(self, slot: Slot, other: dict[str, Any], removals: list[EntryChange]) -> None:
        """The secondary has a name that this brick has not: another brick has it, or it is to go."""
        if internal(slot.parent, slot.name) or self.view.elsewhere(slot):
            return
        text = other.get("gfid")
        if not text:
            return
        gfid = bytes.fromhex(text)
        is_dir = _stat.S_ISDIR(int(other["mode"]))
        if is_dir and self.view.index.has(gfid):
            return  # it moved: where it is now, the walk finds it
        removals.append(EntryChange(gfid, int(Fop.RMDIR if is_dir else Fop.UNLINK), slot))
