"""The replica's tree: where objects are on disk, checked against the index; moves, links, limbo."""

from __future__ import annotations

import errno
import os
import stat as _stat
import time
from typing import NamedTuple, Optional

from engine.agent.handles import DIR_FLAGS, OpenDirs, OpError, hex_name, ident_of, kind_word
from engine.agent.heal import NOWHERE, Stray, scan
from engine.agent.index import Row
from engine.agent.pending import PendingIndex
from engine.agent.types import LIMBO, ROOT, Gfid, Slot

_DEEP = 20_000  # more directories above each other than any tree has: the index runs in a circle
_SCANS = 16  # how often a recovery walks the whole tree at most
_KEEP = 32  # of a long chain of directories, this many of the last stay open


class Where(NamedTuple):
    """An object found on disk: open parent directory, name, lstat, its row (None where the index has none)."""

    pfd: int
    name: bytes
    st: os.stat_result
    row: Optional[Row]

    @property
    def in_limbo(self) -> bool:
        return self.row is not None and self.row.parent == LIMBO


class Mode(NamedTuple):
    """What may be done with an object on disk that the index does not know.

    `replace`: it may be taken over or moved to limbo; `checksum`: equal size is enough to be adopted, for content
    to be compared; `recovering`: operations since the last commit went to disk but not into the index, so what is
    unknown is most likely ours.
    """

    replace: bool
    checksum: bool
    recovering: bool


class Tree:
    """One tree and its index. Every use of an object checks inode and type; a row that is wrong is dropped.

    Raises OpError where one operation cannot be done, OSError as the system gives it.
    """

    def __init__(self, root_fd: int, limbo_fd: int, index: PendingIndex, limit: int = 512) -> None:
        self.root_fd = root_fd
        self.limbo_fd = limbo_fd
        self.index = index
        self.dirs = OpenDirs(limit)
        self.dirs.fix(ROOT, root_fd)
        self.dirs.fix(LIMBO, limbo_fd)
        self.mode: Optional[Mode] = None
        self.limbo: set[Gfid] = set()
        """Gfids of what is in limbo under its own name, whether the index knows it or not."""
        self.unsure: set[Gfid] = set()
        """Objects found again without a row after a crash: their content may be incomplete."""
        self.hollow: set[Gfid] = set()
        """Files made without their content, which has not come yet."""
        self.came_from: dict[Gfid, Slot] = {}
        """Where what is in limbo was, for an undelete; only what this process moved there."""
        self.strays: dict[Gfid, Stray] = {}
        self.unconfirmed: dict[Slot, Gfid] = {}
        """Slots that got their rows by looking for inodes after a crash, not by an operation."""
        self._healed = False
        self._scans = 0
        self._foreign = 0
        self.read_limbo()

    def read_limbo(self) -> None:
        """Learn from disk what is in limbo."""
        self.limbo = {g for g in map(gfid_of_name, os.listdir(os.fsencode(f"/proc/self/fd/{self.limbo_fd}"))) if g}

    # --- directories

    def dirfd(self, gfid: Gfid) -> int:
        """A descriptor of a directory, good until `dirs.settle`. OpError ENOENT `parent` when it is not here."""
        fd = self.dirs.get(gfid)
        if fd is not None:
            return fd
        for _ in range(4):
            fd, stale = self._walk(gfid)
            if fd is not None:
                return fd
            if stale is None or not self._find_again(stale):
                break
        raise OpError(errno.ENOENT, f"parent: directory {gfid.hex()} is not here", gfid)

    def _walk(self, gfid: Gfid) -> tuple[Optional[int], Optional[Gfid]]:
        """Open a directory from the nearest open one above it; else the gfid that is not where its row says."""
        chain: list[Row] = []
        at = gfid
        while True:
            fd = self.dirs.get(at)
            if fd is not None:
                break
            rows = self.index.rows(at)
            if not rows:
                return None, at
            if len(rows) > 1:
                rows.sort(key=lambda r: r.parent == NOWHERE)
            if rows[0].parent == NOWHERE:
                fd = self._open_stray(at)
                if fd is None:
                    return None, at
                break
            if rows[0].kind != _stat.S_IFDIR:
                raise OpError(errno.ENOTDIR, f"parent: {at.hex()} is {kind_word(rows[0].kind)}", at)
            chain.append(rows[0])
            at = rows[0].parent
            if len(chain) > _DEEP:  # rows of different times make a circle: none of them is to be trusted
                for row in set(chain):
                    self.index.remove_slot(row.parent, row.name)
                return None, gfid
        ours = False
        for left, row in zip(range(len(chain) - 1, -1, -1), reversed(chain)):
            try:
                new = os.open(row.name, DIR_FLAGS, dir_fd=fd)
            except OSError as e:
                if ours:
                    os.close(fd)
                if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                self._stale(row)
                return None, row.gfid
            if ours:
                os.close(fd)
            if ident_of(os.fstat(new)) != row.ident:
                os.close(new)
                self._stale(row)
                return None, row.gfid
            ours = left >= _KEEP
            if not ours:
                self.dirs.add(row.gfid, new)
            fd = new
        return fd, None

    def _find_again(self, gfid: Gfid) -> bool:
        """A directory is not where its row said: is it known to be elsewhere?"""
        if gfid in self.limbo:
            return self.locate(gfid) is not None
        return bool(self.index.rows(gfid))

    def _stale(self, row: Row) -> None:
        """A row is not true: look for its object after a crash, then forget the row if it still says the same."""
        self.heal()
        if self.index.get(row.parent, row.name) == row:  # it was read a while ago: the slot may be another's by now
            self.index.remove_slot(row.parent, row.name)

    # --- what is where

    def probe(self, pfd: int, slot: Slot) -> tuple[Optional[Row], Optional[os.stat_result]]:
        """What is at a slot: (None, None) nothing; (row, stat) an object; (None, stat) something unknown."""
        row = self.index.get(slot[0], slot[1])
        try:
            st = os.stat(slot[1], dir_fd=pfd, follow_symlinks=False)
        except FileNotFoundError:
            if row is not None:
                self._stale(row)
            return None, None
        if row is not None:
            if row.ident == ident_of(st) and row.kind == _stat.S_IFMT(st.st_mode):
                return row, st
            self._stale(row)
        if self.mode is not None and self.mode.recovering:
            known = self.index.by_ident(ident_of(st), _stat.S_IFMT(st.st_mode))
            if known is not None:
                row = self.register(slot, known.gfid, st)
                self.unconfirmed[row.slot] = row.gfid
                return row, st
        return None, st

    def at(self, row: Row) -> Optional[Where]:
        """Where a row says, if that is true; else the row is dropped (kept when only its parent is away)."""
        if row.parent == NOWHERE:
            return self._find_stray(row.gfid)
        try:
            pfd = self.dirfd(row.parent)
            st = os.stat(row.name, dir_fd=pfd, follow_symlinks=False)
        except OpError:
            return None
        except FileNotFoundError:
            self._stale(row)
            return None
        if row.ident == ident_of(st) and row.kind == _stat.S_IFMT(st.st_mode):
            return Where(pfd, row.name, st, row)
        self._stale(row)
        return None

    def locate(self, gfid: Gfid) -> Optional[Where]:
        """One place where an object really is, in limbo first; None when it is nowhere."""
        if gfid == ROOT:
            return Where(self.root_fd, b".", os.fstat(self.root_fd), None)
        rows = self.index.rows(gfid)
        if len(rows) > 1:
            rows.sort(key=lambda r: (r.parent == NOWHERE, r.parent != LIMBO))
        looked = self._scans
        for row in rows:
            where = self.at(row)
            if where is not None:
                return where
        if self._scans != looked:
            return self.locate(gfid)
        if gfid in self.limbo:
            name = hex_name(gfid)
            try:
                st = os.stat(name, dir_fd=self.limbo_fd, follow_symlinks=False)
            except FileNotFoundError:
                self.limbo.discard(gfid)
            else:
                self.unsure.add(gfid)
                return Where(self.limbo_fd, name, st, self.register(Slot(LIMBO, name), gfid, st))
        return None

    def others(self, gfid: Gfid, slot: Slot, st: os.stat_result) -> bool:
        """Has the object another name that is really there, limbo included?"""
        if st.st_nlink < 2 or _stat.S_ISDIR(st.st_mode):
            return False
        for row in self.index.rows(gfid):
            if row.slot != slot and (row.parent != NOWHERE or slot.parent != NOWHERE) and self.at(row) is not None:
                return True
        return False

    def heal(self) -> bool:
        """After a crash, once: set the rows of known objects by where their inodes are. True when it ran now."""
        if self.mode is None or not self.mode.recovering or self._healed:
            return False
        self._healed = True
        self._scan()
        return True

    def _scan(self) -> None:
        self._scans += 1
        self.strays, found, rewritten = scan(self.root_fd, self.limbo_fd, self.index)
        self.unconfirmed.update(found)
        self.unsure.update(rewritten)

    def drop_unconfirmed(self) -> int:
        """All has been repeated: names that were found after the crash, and that nothing has spoken of, go."""
        n = 0
        for slot, gfid in list(self.unconfirmed.items()):
            row = self.index.get(slot.parent, slot.name)
            where = None if row is None or row.gfid != gfid else self.at(row)
            if where is not None and where.row is not None:
                self.unname(where.pfd, slot, where.row, where.st)
                n += 1
            self.dirs.settle()
        self.unconfirmed.clear()
        return n

    def _open_stray(self, gfid: Gfid) -> Optional[int]:
        where = self._find_stray(gfid)
        if where is None or not _stat.S_ISDIR(where.st.st_mode):
            return None
        fd = os.open(where.name, DIR_FLAGS, dir_fd=where.pfd)
        self.dirs.add(gfid, fd)
        return fd

    def _find_stray(self, gfid: Gfid) -> Optional[Where]:
        """A known object below an unknown directory; when that has moved since the scan, by another scan."""
        while True:
            stray = self.strays.get(gfid)
            where = None if stray is None else self._stray(stray)
            if where is not None or self._scans >= _SCANS:
                return where
            self._scan()
            if gfid not in self.strays:
                self.index.remove_slot(NOWHERE, hex_name(gfid))
                return None

    def _stray(self, stray: Stray) -> Optional[Where]:
        """Open what the scan found below a directory that is not known yet; None when it is not there."""
        try:
            fd = self.dirfd(stray.parent)
            for name in stray.path[:-1]:
                fd = os.open(name, DIR_FLAGS, dir_fd=fd)
                self.dirs.lend(fd)
            st = os.stat(stray.path[-1], dir_fd=fd, follow_symlinks=False)
        except (OpError, FileNotFoundError, NotADirectoryError):
            return None
        if ident_of(st) != stray.ident or _stat.S_IFMT(st.st_mode) != stray.kind:
            return None
        return Where(fd, stray.path[-1], st, None)

    # --- changes

    def register(self, slot: Slot, gfid: Gfid, st: os.stat_result) -> Row:
        """Write the row of an object; a directory has one only."""
        kind = _stat.S_IFMT(st.st_mode)
        row = Row(slot[0], slot[1], gfid, kind, ident_of(st), 0, 0, 0)
        if kind == _stat.S_IFDIR:
            for old in self.index.rows(gfid):
                if old.slot != slot:
                    self.index.remove_slot(old.parent, old.name)
                if old.ident != row.ident:
                    self.dirs.drop(gfid)
        self.index.put_row(row)
        self.unconfirmed.pop(slot, None)
        if self._healed and self.strays.pop(gfid, None) is not None:
            self.index.remove_slot(NOWHERE, hex_name(gfid))
        if slot[0] == LIMBO:
            self.limbo.add(gfid)
        return row

    def unname(self, pfd: int, slot: Slot, row: Row, st: os.stat_result) -> None:
        """Take one name away: the last one takes its object to limbo, a directory with all that is in it (SEC-16).

        `slot` has the name on disk; `row` is the one to go, which for a stray has another.
        """
        if self.others(row.gfid, slot, st):
            os.unlink(slot.name, dir_fd=pfd)
        else:
            self.into_limbo(pfd, slot.name, row.gfid, st)
            if row.parent != NOWHERE:
                self.came_from[row.gfid] = slot
            self.register(Slot(LIMBO, hex_name(row.gfid)), row.gfid, st)
        self.index.remove_slot(row.parent, row.name)
        if row.parent == NOWHERE:
            self.strays.pop(row.gfid, None)

    def into_limbo(self, pfd: int, name: bytes, gfid: Gfid, st: os.stat_result) -> None:
        """Move one name to limbo, under its object's gfid; rows are the caller's."""
        there = hex_name(gfid)
        if gfid in self.limbo and not self._make_room(there, st):
            os.unlink(name, dir_fd=pfd)
            return
        os.rename(name, there, src_dir_fd=pfd, dst_dir_fd=self.limbo_fd)
        self.limbo.add(gfid)

    def origin(self, gfid: Gfid) -> Optional[bytes]:
        """The path from which an object came to limbo in this batch, None when that is not known."""
        parts: list[bytes] = []
        while gfid != ROOT:
            slot = self.came_from.get(gfid)
            if slot is None:
                row = self.index.row(gfid) if parts else None
                if row is None or row.parent == LIMBO:
                    return None
                slot = row.slot
            parts.append(slot.name)
            gfid = slot.parent
            if len(parts) > _DEEP:
                return None
        return b"/".join(reversed(parts))

    def _make_room(self, there: bytes, st: os.stat_result) -> bool:
        """Free a name in limbo; False when the same file holds it already."""
        try:
            old = os.stat(there, dir_fd=self.limbo_fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if old.st_ino == st.st_ino and not _stat.S_ISDIR(st.st_mode):
            return False
        os.rename(there, self.foreign_name(there), src_dir_fd=self.limbo_fd, dst_dir_fd=self.limbo_fd)
        return True

    def foreign_name(self, name: bytes) -> bytes:
        """A new name in limbo for something that has no gfid."""
        if not self._foreign:
            self._foreign = time.time_ns()
        self._foreign += 1
        return b"foreign.%x.%s" % (self._foreign, name[:200])

    def banish(self, pfd: int, name: bytes) -> bytes:
        """Move something unknown to limbo; its name there."""
        there = self.foreign_name(name)
        os.rename(name, there, src_dir_fd=pfd, dst_dir_fd=self.limbo_fd)
        return there

    def move(
        self,
        where: Where,
        gfid: Gfid,
        pfd: int,
        slot: Slot,
        row: Optional[Row] = None,
        st: Optional[os.stat_result] = None,
    ) -> None:
        """Rename an object to a slot. What is there (`row`, `st` of probe) goes to limbo; a file is never missing."""
        aside = None if st is None else self._set_aside(pfd, slot, row, st, _stat.S_ISDIR(where.st.st_mode))
        try:
            os.rename(where.name, slot.name, src_dir_fd=where.pfd, dst_dir_fd=pfd)
        except OSError:
            if aside:
                self._put_back(aside, pfd, slot)
            raise
        if row is not None and aside and gfid_of_name(aside) == row.gfid and st is not None:
            self.register(Slot(LIMBO, aside), row.gfid, st)
        if where.row is not None:
            self.index.remove_slot(where.row.parent, where.row.name)
            if where.row.parent == LIMBO:
                self.limbo.discard(gfid)
        elif where.pfd == self.limbo_fd and where.name == hex_name(gfid):
            self.limbo.discard(gfid)
        self.register(slot, gfid, where.st)

    def link(
        self,
        where: Where,
        gfid: Gfid,
        pfd: int,
        slot: Slot,
        row: Optional[Row] = None,
        st: Optional[os.stat_result] = None,
    ) -> None:
        """Give an object another name. What is there goes to limbo, without a moment in which nothing is there."""
        if st is None:
            os.link(where.name, slot.name, src_dir_fd=where.pfd, dst_dir_fd=pfd, follow_symlinks=False)
            self.register(slot, gfid, where.st)
            return
        name = self.foreign_name(b"new")
        os.link(where.name, name, src_dir_fd=where.pfd, dst_dir_fd=self.limbo_fd, follow_symlinks=False)
        try:
            self.move(Where(self.limbo_fd, name, where.st, None), gfid, pfd, slot, row, st)
        except (OSError, OpError):
            os.unlink(name, dir_fd=self.limbo_fd)
            raise

    def _set_aside(
        self, pfd: int, slot: Slot, row: Optional[Row], st: os.stat_result, for_directory: bool
    ) -> Optional[bytes]:
        """Save what is at a slot before something is renamed over it; its name in limbo, None: nothing to save."""
        directory = _stat.S_ISDIR(st.st_mode)
        if row is not None and self.others(row.gfid, slot, st):
            if for_directory:
                os.unlink(slot.name, dir_fd=pfd)
                self.index.remove_slot(slot.parent, slot.name)
            return None
        name = self.foreign_name(slot.name) if row is None else hex_name(row.gfid)
        if row is not None and row.gfid in self.limbo and not self._make_room(name, st):
            if for_directory:
                os.unlink(slot.name, dir_fd=pfd)
            return None
        if not directory and not for_directory:
            try:
                os.link(slot.name, name, src_dir_fd=pfd, dst_dir_fd=self.limbo_fd, follow_symlinks=False)
            except OSError as e:
                # filesystems without hard links, too many of them, or links forbidden to us: a moment without it
                if e.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES):
                    raise
            else:
                return name
        os.rename(slot.name, name, src_dir_fd=pfd, dst_dir_fd=self.limbo_fd)
        return name

    def _put_back(self, name: bytes, pfd: int, slot: Slot) -> None:
        """Undo _set_aside after the rename failed."""
        try:
            os.stat(slot.name, dir_fd=pfd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, slot.name, src_dir_fd=self.limbo_fd, dst_dir_fd=pfd)
        else:
            os.unlink(name, dir_fd=self.limbo_fd)


def gfid_of_name(name: bytes) -> Gfid:
    """The gfid a name in limbo stands for; empty for a foreign one."""
    if len(name) != 32:
        return b""
    try:
        gfid = bytes.fromhex(name.decode("ascii"))
    except ValueError:
        return b""
    return gfid if hex_name(gfid) == name else b""
