"""One thread's view of a GlusterFS brick: objects by gfid, from the brick where it is current, else through a mount."""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from engine.model import ROOT, Gfid, Slot, Stat, gfid_text, parse_gfid
from engine.volume.base import Gone, Indirect, Known, Version
from engine.volume.bricknames import Around, BrickNames
from engine.volume.brickpath import GFID, GONE, below, handle, internal, is_directory, is_link_file, times_of
from engine.volume.mount import AuxMount
from engine.volume.tree import stat_of, xattrs_of

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Seen(NamedTuple):
    """An object and its stat of now."""

    gfid: Gfid
    stat: Stat


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
                return self._see_directory(gfid)
            if not is_link_file(path, st) and (not _stat.S_ISREG(st.st_mode) or self._current(gfid)):
                return Seen(gfid, times_of(path, st, False))
        except OSError as e:
            if e.errno not in GONE:
                raise
            found = self.index.find(gfid)
            if found is not None and _stat.S_ISDIR(found[1].st_mode):
                return Seen(gfid, times_of(*found))
        return self._see_mounted(gfid)

    def version(self, gfid: Gfid) -> Version | None:
        """Of which state a file's content is now, as the mount sees it."""
        st = self.index.mounted(gfid)
        return None if st is None else Version(st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    def names(self, gfid: Gfid) -> Known:
        """The names of an object, each looked up just now. Raises OSError, VolumeError."""
        return self.index.names(gfid)

    def holds(self, slot: Slot, gfid: Gfid) -> bool:
        """Does this name lead to that object now, on whichever brick? Raises OSError, VolumeError."""
        return self.index.holds(slot, gfid)

    def here(self, slot: Slot, gfid: Gfid) -> bool:
        """The same, asked of this brick alone."""
        return self.index.named_here(slot, gfid)

    def holding(self, slots: Iterable[Slot], gfid: Gfid) -> set[Slot]:
        """The same of many names at once: those that do."""
        return self.index.holding(slots, gfid)

    def search(self, gfids: Iterable[Gfid]) -> dict[Gfid, list[Slot]]:
        """All names of objects whose names nobody has noted, as far as their data is on a brick here."""
        return self.index.search(gfids)

    def orders(self, gfid: Gfid) -> bool:
        """Does this brick's journal have every record of the object's names, in their order? Its data is here, then."""
        return self.around.sole or self.index.here(gfid)

    def _see_directory(self, gfid: Gfid) -> Seen | None:
        """A directory has the latest time that any subvolume gives it."""
        if not self.around.whole or self.around.peers:
            return self._see_mounted(gfid)
        try:
            stat = times_of(*below(self.brick, gfid))
        except OSError as e:
            if e.errno not in GONE:
                raise
            return self._see_mounted(gfid)
        for brick in self.around.others:
            try:
                there = times_of(*below(brick, gfid))
            except OSError as e:
                if e.errno not in GONE:
                    raise
                continue
            stat = stat._replace(mtime_ns=max(stat.mtime_ns, there.mtime_ns), atime_ns=max(stat.atime_ns, there.atime_ns))
        return Seen(gfid, stat)

    def _see_mounted(self, gfid: Gfid) -> Seen | None:
        try:
            return Seen(gfid, stat_of(os.lstat(b".gfid/" + gfid_text(gfid).encode(), dir_fd=self.mount.fd)))
        except OSError as e:
            if e.errno in GONE:
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
                    if e.errno in GONE:
                        continue
                return False
        return True

    def look(self, parent: Gfid, name: bytes) -> Seen | None:
        """What a slot of this brick holds now; None when nothing does, or what does is the volume's own."""
        if internal(parent, name):
            return None
        try:
            path, st = below(self.brick, parent, name)
            if is_link_file(path, st):
                return None
            gfid = os.getxattr(path, GFID, follow_symlinks=False)
        except OSError as e:
            if e.errno in (*GONE, errno.ENODATA, errno.ENAMETOOLONG):
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
            if e.errno in GONE:
                raise Gone(gfid) from e
            raise

    def _xattr_path(self, gfid: Gfid, stat: Stat) -> bytes:
        path = handle(self.brick, gfid)
        if self.around.peers and not self._current(gfid):
            return self.mount.path(gfid)
        try:
            if stat.is_dir:
                return below(self.brick, gfid)[0]
            st = os.lstat(path)
        except OSError as e:
            if e.errno not in GONE:
                raise
            return self.mount.path(gfid)
        if is_link_file(path, st):
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
                if e.errno not in GONE:
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
            if e.errno in GONE:
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
            fd = os.open(below(self.brick, gfid)[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            if e.errno in GONE:
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
            if e.errno not in (*GONE, errno.EINVAL):
                raise
        try:
            return os.readlink(self.mount.path(gfid))
        except OSError as e:
            if e.errno in (*GONE, errno.EINVAL):
                raise Gone(slot) from e
            raise

    def list_dir(self, gfid: Gfid) -> list[bytes]:
        """The names in a directory of this brick, without what is the volume's own. Raises Gone; OSError."""
        out: list[bytes] = []
        try:
            with os.scandir(below(self.brick, gfid)[0]) as entries:
                for entry in entries:
                    if internal(gfid, entry.name):
                        continue
                    st = entry.stat(follow_symlinks=False)
                    if st.st_mode & _stat.S_ISVTX and is_link_file(entry.path, st):
                        continue
                    out.append(entry.name)
        except OSError as e:
            if e.errno in GONE:
                raise Gone(gfid) from e
            raise
        return out

    def below(self, gfid: Gfid) -> list[Gfid]:
        """What is in a directory, on whichever brick; nothing where it is gone. Raises OSError."""
        for last in (False, False, True):
            path = self.index.path(gfid)
            if path is None:
                return []
            try:
                return list(self._below(gfid, self.mount.base + path))  # `.gfid/…` cannot be listed
            except OSError as e:
                if e.errno not in GONE or last:
                    raise  # else it moved just now
        return []

    def _below(self, gfid: Gfid, path: bytes) -> Iterator[Gfid]:
        for name in os.listdir(path):
            if internal(gfid, name):
                continue
            try:
                text = os.getxattr(os.path.join(path, name), "glusterfs.gfid.string", follow_symlinks=False)
            except OSError as e:
                if e.errno not in GONE:
                    raise
                continue
            yield parse_gfid(text.rstrip(b"\0"))

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
        """The path of a file's handle. Raises Gone; Indirect where the brick does not have its content, or not surely."""
        del root
        path = handle(self.brick, gfid)
        try:
            st = os.lstat(path)
        except OSError as e:
            if e.errno not in GONE:
                raise
            if self.index.has(gfid):
                raise Indirect("it is on another brick") from e
            raise Gone(gfid) from e
        if is_link_file(path, st):
            raise Indirect("it is on another brick")
        if not self._current(gfid):
            raise Indirect("its content is not on this brick alone")
        yield path, st
