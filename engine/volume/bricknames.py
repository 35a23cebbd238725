"""Which names the objects of a volume have, as its bricks have noted them."""

from __future__ import annotations

import errno
import os
import stat as _stat
from dataclasses import dataclass, field

from engine.agent.index import Row
from engine.model import ROOT, Gfid, Slot, gfid_text, parse_gfid
from engine.volume.brickpath import (
    GFID,
    GONE,
    NAME_PREFIX,
    below,
    directory_slot,
    handle,
    internal,
    is_directory,
    is_link_file,
)
from engine.volume.mount import AuxMount

COUNTED = 50_000
"""Objects counted one by one; more are estimated."""

HINTS = 50_000
"""Places remembered from the journal."""


@dataclass(slots=True)
class Around:
    """What a view knows of the volume around its brick.

    `direct`: content and stats on the brick are the volume's own (not dispersed, not sharded, not an arbiter).
    `peers`: the other bricks of the same replica set on this node; `alone`: there are none elsewhere either.
    `others`: one running brick here of each other subvolume; `whole`: that, with this brick, is the whole volume.
    """

    direct: bool
    peers: list[bytes] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)
    whole: bool = True
    hints: dict[Gfid, Slot] = field(default_factory=dict)
    """Where the journal last had an object: bricks lose handles of directories now and then (seen in 10.3)."""

    def hint(self, gfid: Gfid, slot: Slot) -> None:
        """The journal says that the object is there."""
        self.hints.pop(gfid, None)
        self.hints[gfid] = slot
        while len(self.hints) > HINTS:
            del self.hints[next(iter(self.hints))]


class BrickNames:
    """Which names objects have, from the handles and `gfid2path` xattrs of the bricks here, else from the mount."""

    def __init__(self, brick: bytes, around: Around, mount: AuxMount) -> None:
        self.brick = brick
        self.around = around
        self.mount = mount
        self._bricks = [brick, *around.others]

    def find(self, gfid: Gfid) -> tuple[bytes, os.stat_result] | None:
        """The handle of an object on a brick here and its lstat (a symlink with one name: a directory's)."""
        for brick in self._bricks:
            path = handle(brick, gfid)
            try:
                st = os.lstat(path)
            except OSError as e:
                if e.errno in GONE:
                    continue
                raise
            if not is_link_file(path, st):
                return path, st
        return self._hinted(gfid)

    def _hinted(self, gfid: Gfid) -> tuple[bytes, os.stat_result] | None:
        """A directory without a handle, where the journal last had it."""
        slot = self.around.hints.get(gfid)
        if slot is None:
            return None
        try:
            path, st = below(self.brick, slot.parent, slot.name)
            if _stat.S_ISDIR(st.st_mode) and os.getxattr(path, GFID, follow_symlinks=False) == gfid:
                return path, st
        except OSError:
            return None
        return None

    def has(self, gfid: Gfid) -> bool:
        """Is this object anywhere on the volume?"""
        if gfid == ROOT:
            return True
        found = self.find(gfid)
        if found is not None:
            return not self._set_aside(*found)
        return not self.around.whole and self._mounted(gfid) is not None

    @staticmethod
    def _set_aside(path: bytes, st: os.stat_result) -> bool:
        """Is this a directory that a heal put aside, to be removed?"""
        where = directory_slot(path) if is_directory(path, st) and _stat.S_ISLNK(st.st_mode) else None
        return where is not None and internal(*where)

    def _mounted(self, gfid: Gfid) -> os.stat_result | None:
        try:
            return os.lstat(b".gfid/" + gfid_text(gfid).encode(), dir_fd=self.mount.fd)
        except OSError as e:
            if e.errno in GONE:
                return None
            raise

    def rows(self, gfid: Gfid) -> list[Row]:
        """All names of an object that are known: none too for one that is there, where a brick lost track of it."""
        found = self.find(gfid)
        if found is None:
            return [] if self.around.whole else self._mounted_rows(gfid)
        path, st = found
        kind = _stat.S_IFMT(st.st_mode)
        if is_directory(path, st):
            kind = _stat.S_IFDIR
            where = directory_slot(path) if _stat.S_ISLNK(st.st_mode) else self.around.hints.get(gfid)
            slots = [where] if where is not None else []
        else:
            slots = self._noted(path, st)
        return [
            Row(s.parent, s.name, gfid, kind, b"", st.st_size, st.st_mtime_ns, 0) for s in sorted(slots) if not internal(*s)
        ]

    def _noted(self, path: bytes, st: os.stat_result) -> list[Slot]:
        """The names that a file's xattrs give it, as far as they hold: a brick keeps the name of what a rename displaced
        (seen in 10.3)."""
        sure: list[Slot] = []
        unsure: list[Slot] = []
        try:
            for key in os.listxattr(path, follow_symlinks=False):
                if not key.startswith(NAME_PREFIX):
                    continue
                parent, slash, base = os.getxattr(path, key, follow_symlinks=False).partition(b"/")
                if not slash:
                    continue
                slot = Slot(parse_gfid(parent), base)
                holds = self._holds(path, slot, st)
                if holds:
                    sure.append(slot)
                elif holds is None:
                    unsure.append(slot)
        except OSError as e:
            if e.errno not in (*GONE, errno.ENODATA):
                raise
            return []
        # the links of the file say how many names it has, beside its handle
        return sure if st.st_nlink - 1 <= len(sure) else sure + unsure

    def _holds(self, path: bytes, slot: Slot, st: os.stat_result) -> bool | None:
        """Does that name really lead to the object? None where that cannot be told: its directory has no handle."""
        brick = path[: path.index(b"/.glusterfs/")]
        try:
            there = below(brick, slot.parent, slot.name)[1]
        except OSError as e:
            if e.errno not in GONE:
                raise
            return False if os.path.lexists(handle(brick, slot.parent)) else None
        return (there.st_ino, there.st_dev) == (st.st_ino, st.st_dev)

    def _mounted_rows(self, gfid: Gfid) -> list[Row]:
        st = self._mounted(gfid)
        if st is None:
            return []
        try:
            path = os.getxattr(self.mount.path(gfid), "glusterfs.gfid2path", follow_symlinks=False).rstrip(b"\0")
            above, _, name = path.strip(b"/").rpartition(b"/")
            text = os.getxattr(self.mount.base + above, "glusterfs.gfid.string") if above else b""
        except OSError as e:
            if e.errno in (*GONE, errno.ENODATA):
                return []
            raise
        parent = parse_gfid(text.rstrip(b"\0")) if above else ROOT
        return [Row(parent, name, gfid, _stat.S_IFMT(st.st_mode), b"", st.st_size, st.st_mtime_ns, 0)]

    def row(self, gfid: Gfid) -> Row | None:
        """One of the names of an object."""
        rows = self.rows(gfid)
        return rows[0] if rows else None

    def get(self, parent: Gfid, name: bytes) -> Row | None:
        """What a slot holds anywhere on the volume, None when it is free."""
        for brick in self._bricks:
            try:
                path, st = below(brick, parent, name)
                if is_link_file(path, st):
                    continue
                gfid = os.getxattr(path, GFID, follow_symlinks=False)
            except OSError as e:
                if e.errno in (*GONE, errno.ENODATA, errno.ENAMETOOLONG):
                    continue
                raise
            return Row(parent, name, gfid, _stat.S_IFMT(st.st_mode), b"", st.st_size, st.st_mtime_ns, 0)
        if self.around.whole:
            return None
        path = self.mount.path(parent) + b"/" + name
        try:
            st = os.lstat(path)
            gfid = parse_gfid(os.getxattr(path, "glusterfs.gfid.string", follow_symlinks=False).rstrip(b"\0"))
        except OSError as e:
            if e.errno in (*GONE, errno.ENODATA, errno.ENAMETOOLONG):
                return None
            raise
        return Row(parent, name, gfid, _stat.S_IFMT(st.st_mode), b"", st.st_size, st.st_mtime_ns, 0)

    def path(self, gfid: Gfid) -> bytes | None:
        """One path of an object relative to the root (b"" for the root), None when it is nowhere."""
        parts: list[bytes] = []
        while gfid != ROOT:
            row = self.row(gfid)
            if row is None or len(parts) > 10_000:
                return None
            parts.append(row.name)
            gfid = row.parent
        return b"/".join(reversed(parts))

    def count(self) -> int:
        """How many objects the brick has; of very many a part is counted: gfids are spread evenly."""
        total = 0
        top = self.brick + b"/.glusterfs"
        for done, first in enumerate((b"%02x" % i for i in range(256)), 1):
            try:
                seconds = os.listdir(os.path.join(top, first))
            except FileNotFoundError:
                continue
            total += sum(len(os.listdir(os.path.join(top, first, second))) for second in seconds)
            if total > COUNTED:
                return total * 256 // done
        return total
