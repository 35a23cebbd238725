"""One thread's view of a GlusterFS brick: objects by gfid, from the brick where it is current, else through a mount."""

from __future__ import annotations

import errno
import os
import stat as _stat
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.agent.index import Row
from engine.model import ROOT, Gfid, Slot, Stat, gfid_text, parse_gfid
from engine.volume.base import Gone
from engine.volume.mount import AuxMount
from engine.volume.tree import stat_of, xattrs_of

GFID = "trusted.gfid"
LINKTO = "trusted.glusterfs.dht.linkto"
MDATA = "trusted.glusterfs.mdata"
NAME_PREFIX = "trusted.gfid2path."

INTERNAL = frozenset((b".glusterfs", b".trashcan", b".shard", b".glusterfs-anonymous-inode"))
"""Names in a brick's root that are the brick's own business; what follows the last is the volume's id."""

HINTS = 50_000
"""Places remembered from the journal."""

INTERNAL_GFIDS = frozenset((
    bytes.fromhex("be318638e8a04c6d977d7a937aa84806"),  # .shard
    bytes(15) + b"\x05",  # .trashcan
    bytes(15) + b"\x06",  # .trashcan/internal_op
    bytes(15) + b"\x07",  # .shard/.remove_me
    bytes(15) + b"\x08",  # .glusterfs-anonymous-inode
))  # fmt: skip

_MDATA = struct.Struct("!BQqqqqqq")
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_LINK_MODE = _stat.S_IFREG | _stat.S_ISVTX


class Seen(NamedTuple):
    """An object and its stat of now."""

    gfid: Gfid
    stat: Stat


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


def internal(parent: Gfid, name: bytes) -> bool:
    """Is this slot the volume's own business?"""
    if parent in INTERNAL_GFIDS:
        return True
    return parent == ROOT and (name in INTERNAL or name.startswith(b".glusterfs-anonymous-inode"))


def handle(brick: bytes, gfid: Gfid) -> bytes:
    """Where a brick has an object under its gfid: a hard link, or for a directory a symlink that leads to it."""
    text = gfid_text(gfid).encode()
    return b"%b/.glusterfs/%b/%b/%b" % (brick, text[:2], text[2:4], text)


def is_link_file(path: bytes | int, st: os.stat_result) -> bool:
    """Is this only a pointer to the subvolume that has the file?"""
    if _stat.S_IFMT(st.st_mode) != _stat.S_IFREG or not st.st_mode & _stat.S_ISVTX or st.st_mode & 0o777:
        return False
    try:
        os.getxattr(path, LINKTO, follow_symlinks=False) if isinstance(path, bytes) else os.getxattr(path, LINKTO)
    except OSError:
        return False
    return True


def times_of(path: bytes | int, st: os.stat_result, follow: bool = True) -> Stat:
    """The stat with the times that clients see: the volume keeps its own (`trusted.glusterfs.mdata`)."""
    stat = stat_of(st)
    try:
        value = os.getxattr(path, MDATA) if isinstance(path, int) else os.getxattr(path, MDATA, follow_symlinks=follow)
        if len(value) < _MDATA.size:
            return stat
        _, _, _, _, mtime, mtime_ns, atime, atime_ns = _MDATA.unpack_from(value)
    except OSError:
        return stat
    return stat._replace(mtime_ns=mtime * 1_000_000_000 + mtime_ns, atime_ns=atime * 1_000_000_000 + atime_ns)


class BrickNames:
    """Which names objects have, from the handles and `gfid2path` xattrs of the bricks here, else from the mount."""

    def __init__(self, brick: bytes, around: Around, mount: AuxMount) -> None:
        self.brick = brick
        self.around = around
        self.mount = mount
        self._bricks = [brick, *around.others]
        self._count: int | None = None

    def find(self, gfid: Gfid) -> tuple[bytes, os.stat_result] | None:
        """The handle of an object on a brick here and its lstat (a symlink with one name: a directory's)."""
        for brick in self._bricks:
            path = handle(brick, gfid)
            try:
                st = os.lstat(path)
            except OSError as e:
                if e.errno in _GONE:
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
        path = handle(self.brick, slot.parent) + b"/" + slot.name
        try:
            st = os.lstat(path)
            if _stat.S_ISDIR(st.st_mode) and os.getxattr(path, GFID, follow_symlinks=False) == gfid:
                return path, st
        except OSError:
            return None
        return None

    def has(self, gfid: Gfid) -> bool:
        """Is this object anywhere on the volume?"""
        if gfid == ROOT or self.find(gfid) is not None:
            return True
        return not self.around.whole and self._mounted(gfid) is not None

    def _mounted(self, gfid: Gfid) -> os.stat_result | None:
        try:
            return os.lstat(b".gfid/" + gfid_text(gfid).encode(), dir_fd=self.mount.fd)
        except OSError as e:
            if e.errno in _GONE:
                return None
            raise

    def rows(self, gfid: Gfid) -> list[Row]:
        """All names of an object that are known: none too for one that is there, where a brick lost track of it."""
        found = self.find(gfid)
        if found is None:
            return [] if self.around.whole else self._mounted_rows(gfid)
        path, st = found
        slots: list[Slot] = []
        kind = _stat.S_IFMT(st.st_mode)
        if is_directory(path, st):
            kind = _stat.S_IFDIR
            slot = directory_slot(path) if _stat.S_ISLNK(st.st_mode) else self.around.hints.get(gfid)
            slots = [slot] if slot is not None else []
        else:
            try:
                names = [n for n in os.listxattr(path, follow_symlinks=False) if n.startswith(NAME_PREFIX)]
                for name in names:
                    parent, slash, base = os.getxattr(path, name, follow_symlinks=False).partition(b"/")
                    if slash and self._holds(path, Slot(parse_gfid(parent), base), st):
                        slots.append(Slot(parse_gfid(parent), base))
            except OSError as e:
                if e.errno not in (*_GONE, errno.ENODATA):
                    raise
                return []
        return [Row(s.parent, s.name, gfid, kind, b"", st.st_size, st.st_mtime_ns, 0) for s in sorted(slots)]

    @staticmethod
    def _holds(path: bytes, slot: Slot, st: os.stat_result) -> bool:
        """Does that name really lead to the object? A brick keeps the name of what a rename displaced (seen in 10.3)."""
        brick = path[: path.index(b"/.glusterfs/")]
        above = handle(brick, slot.parent)
        try:
            there = os.lstat(above + b"/" + slot.name)
        except OSError:
            return not os.path.lexists(above)  # without its directory's handle it cannot be told
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
            if e.errno in (*_GONE, errno.ENODATA):
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
            path = handle(brick, parent) + b"/" + name
            try:
                st = os.lstat(path)
                if is_link_file(path, st):
                    continue
                gfid = os.getxattr(path, GFID, follow_symlinks=False)
            except OSError as e:
                if e.errno in (*_GONE, errno.ENODATA, errno.ENAMETOOLONG):
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
            if e.errno in (*_GONE, errno.ENODATA, errno.ENAMETOOLONG):
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
        """How many objects the brick has; counted once (a walk over its handles)."""
        if self._count is None:
            total = 0
            top = self.brick + b"/.glusterfs"
            for first in os.listdir(top):
                if len(first) != 2:
                    continue
                for second in os.listdir(os.path.join(top, first)):
                    total += len(os.listdir(os.path.join(top, first, second)))
            self._count = total
        return self._count


def is_directory(path: bytes, st: os.stat_result) -> bool:
    """Does this handle lead to a directory? (A symlink's handle is the symlink itself, with a name at least.)"""
    if not _stat.S_ISLNK(st.st_mode):
        return _stat.S_ISDIR(st.st_mode)
    if st.st_nlink > 1:
        return False
    try:
        os.getxattr(path, GFID, follow_symlinks=False)
    except OSError:
        return True
    return False


def directory_slot(path: bytes) -> Slot | None:
    """Where a directory is, from its handle; None for the root, or when the handle is gone."""
    try:
        text = os.readlink(path)
    except OSError:
        return None
    parts = text.split(b"/", 5)
    if len(parts) != 6 or parts[:2] != [b"..", b".."]:
        return None
    return Slot(parse_gfid(parts[4]), parts[5])


class GlusterView:
    """Looks at one brick and the volume around it. Not shared between threads; the mount is its owner's."""

    dashed = True

    def __init__(self, brick: bytes, around: Around, mount: AuxMount, fds: int = 128) -> None:
        self.brick = brick
        self.around = around
        self.mount = mount
        self.index = BrickNames(brick, around, mount)
        self._device = os.stat(brick).st_dev
        self._fds: OrderedDict[Gfid, int] = OrderedDict()
        self._most = fds

    def end(self) -> None:
        """Close every directory kept open."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    # ---- looking ---------------------------------------------------------------------------------------------

    def see(self, gfid: Gfid) -> Seen | None:
        """The object as it is now, None when it is nowhere."""
        path = handle(self.brick, gfid)
        try:
            st = os.lstat(path)
            if gfid == ROOT or is_directory(path, st):
                return self._see_directory(gfid, path)
            if not is_link_file(path, st) and (not _stat.S_ISREG(st.st_mode) or self._current(gfid)):
                return Seen(gfid, times_of(path, st, False))
        except OSError as e:
            if e.errno not in _GONE:
                raise
            found = self.index.find(gfid)
            if found is not None and _stat.S_ISDIR(found[1].st_mode):
                return Seen(gfid, times_of(*found))
        return self._see_mounted(gfid)

    def _see_directory(self, gfid: Gfid, path: bytes) -> Seen | None:
        """A directory has the latest time that any subvolume gives it."""
        if not self.around.whole or self.around.peers:
            return self._see_mounted(gfid)
        stat = times_of(path, os.stat(path))
        for brick in self.around.others:
            other = handle(brick, gfid)
            try:
                there = times_of(other, os.stat(other))
            except OSError as e:
                if e.errno not in _GONE:
                    raise
                continue
            stat = stat._replace(mtime_ns=max(stat.mtime_ns, there.mtime_ns), atime_ns=max(stat.atime_ns, there.atime_ns))
        return Seen(gfid, stat)

    def _see_mounted(self, gfid: Gfid) -> Seen | None:
        try:
            return Seen(gfid, stat_of(os.lstat(b".gfid/" + gfid_text(gfid).encode(), dir_fd=self.mount.fd)))
        except OSError as e:
            if e.errno in _GONE:
                return None
            raise

    def _current(self, gfid: Gfid) -> bool:
        """Is this brick's copy of a file provably the volume's? No replica knows of a heal it needs."""
        if not self.around.direct:
            return False
        text = gfid_text(gfid).encode()
        for peer in (self.brick, *self.around.peers) if self.around.peers else ():
            for kind in (b"xattrop", b"dirty"):
                try:
                    os.lstat(b"%b/.glusterfs/indices/%b/%b" % (peer, kind, text))
                except OSError as e:
                    if e.errno in _GONE:
                        continue
                return False
        return True

    def look(self, parent: Gfid, name: bytes) -> Seen | None:
        """What a slot of this brick holds now; None when nothing does, or what does is the volume's own."""
        if internal(parent, name):
            return None
        path = handle(self.brick, parent) + b"/" + name
        try:
            st = os.lstat(path)
            if is_link_file(path, st):
                return None
            gfid = os.getxattr(path, GFID, follow_symlinks=False)
        except OSError as e:
            if e.errno in (*_GONE, errno.ENODATA, errno.ENAMETOOLONG):
                return None
            raise
        if _stat.S_ISDIR(st.st_mode) or (_stat.S_ISREG(st.st_mode) and not self._current(gfid)):
            return self.see(gfid)
        return Seen(gfid, times_of(path, st, False))

    def meta(self, gfid: Gfid) -> tuple[Stat, dict[bytes, bytes] | None]:
        """Stat and xattrs of an object as they are now (xattrs None: a symlink has none). Raises Gone; OSError."""
        seen = self.see(gfid)
        if seen is None:
            raise Gone(gfid)
        if seen.stat.is_symlink:
            return seen.stat, None
        try:
            return seen.stat, xattrs_of(self._xattr_path(gfid, seen.stat))
        except OSError as e:
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise

    def _xattr_path(self, gfid: Gfid, stat: Stat) -> bytes:
        path = handle(self.brick, gfid)
        if self.around.peers and not self._current(gfid):
            return self.mount.path(gfid)
        try:
            st = os.lstat(path)
        except OSError as e:
            if e.errno not in _GONE:
                raise
            return self.mount.path(gfid)
        if not stat.is_dir and is_link_file(path, st):
            return self.mount.path(gfid)
        return path

    # ---- content ---------------------------------------------------------------------------------------------

    def open_slot(self, slot: Slot, gfid: Gfid, ctime_ns: int = 0) -> int:
        """Open a regular file for reading; its name does not matter. Raises Gone; OSError."""
        del slot, ctime_ns
        return self.open_file(gfid)

    def open_file(self, gfid: Gfid) -> int:
        """Open a regular file for reading, wherever it is. Raises Gone; OSError."""
        if self._current(gfid):
            try:
                fd = os.open(handle(self.brick, gfid), _FILE_FLAGS)
            except OSError as e:
                if e.errno not in _GONE:
                    raise
                if self.around.whole and not self.around.others:
                    raise Gone(gfid) from e
            else:
                if not is_link_file(fd, os.fstat(fd)):
                    return fd
                os.close(fd)
        try:
            return os.open(b".gfid/" + gfid_text(gfid).encode(), _FILE_FLAGS, dir_fd=self.mount.fd)
        except OSError as e:
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise

    def stat_of(self, st: os.stat_result, fd: int | bytes) -> Stat:
        """What travels of the stat of a file, open or by its handle."""
        return times_of(fd, st) if st.st_dev == self._device else stat_of(st)

    def xattrs_of(self, fd: int) -> dict[bytes, bytes]:
        """What travels of the xattrs of an open file or directory."""
        return xattrs_of(fd)

    def dir_fd(self, gfid: Gfid) -> int:
        """A descriptor of a directory of the brick, owned by the view. Raises Gone."""
        fd = self._fds.get(gfid)
        if fd is not None:
            self._fds.move_to_end(gfid)
            return fd
        try:
            fd = os.open(handle(self.brick, gfid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise
        self._fds[gfid] = fd
        if len(self._fds) > self._most:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def link_text(self, slot: Slot, gfid: Gfid) -> bytes:
        """The text of that symlink, wherever it is. Raises Gone."""
        try:
            return os.readlink(handle(self.brick, gfid))
        except OSError as e:
            if e.errno not in (*_GONE, errno.EINVAL):
                raise
        try:
            return os.readlink(self.mount.path(gfid))
        except OSError as e:
            if e.errno in (*_GONE, errno.EINVAL):
                raise Gone(slot) from e
            raise

    def list_dir(self, gfid: Gfid) -> list[bytes]:
        """The names in a directory of this brick, without what is the volume's own. Raises Gone; OSError."""
        out: list[bytes] = []
        try:
            with os.scandir(handle(self.brick, gfid)) as entries:
                for entry in entries:
                    if internal(gfid, entry.name):
                        continue
                    st = entry.stat(follow_symlinks=False)
                    if st.st_mode & _stat.S_ISVTX and is_link_file(entry.path, st):
                        continue
                    out.append(entry.name)
        except OSError as e:
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise
        return out

    def elsewhere(self, slot: Slot) -> bool:
        """Does any brick of the volume have something in that slot?"""
        return self.index.get(slot.parent, slot.name) is not None

    def dead(self, gfids: Iterable[Gfid]) -> list[Gfid]:
        """Those objects that are gone from the volume."""
        return [g for g in gfids if not self.index.has(g)]

    def moved(self, root: bytes) -> bool:
        """A brick is where the volume says."""
        del root
        return False

    def paths(self, gfid: Gfid, root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """The path of a file's handle, where its content on the brick is current."""
        del root
        if not self._current(gfid):
            return
        path = handle(self.brick, gfid)
        try:
            st = os.lstat(path)
        except OSError as e:
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise
        if not is_link_file(path, st):
            yield path, st
