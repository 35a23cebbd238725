"""One thread's view of a primary tree: look at slots, open objects by gfid, never follow a link out of it."""

from __future__ import annotations

import errno
import os
import stat as _stat
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from engine.agent.index import Index, Row
from engine.model import LIMBO, ROOT, STATE_DIR, EngineError, Gfid, Slot, Stat
from engine.volume.base import Gone, Known, Version
from engine.volume.handles import gfid_of, name_to_handle, open_by_handle

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLD_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_ENCODING = sys.getfilesystemencoding()
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV)
_new = tuple.__new__
_XATTR_PREFIXES = (b"user.",)
_XATTR_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


class Seen(NamedTuple):
    """What the disk holds in a slot."""

    gfid: Gfid
    handle: bytes
    st: os.stat_result

    @property
    def stat(self) -> Stat:
        """The part of it that travels."""
        return stat_of(self.st)


def stat_of(st: os.stat_result) -> Stat:
    """The part of a stat that travels to the secondary."""
    return _new(Stat, (st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_atime_ns, st.st_rdev))


def xattrs_of(path: int | bytes) -> dict[bytes, bytes]:
    """The `user.*` xattrs and POSIX ACLs of an open file or a path (symlinks have none). Unsupported: none."""
    try:
        names = os.listxattr(path)
    except OSError as e:
        if e.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            return {}
        raise
    if not names:
        return {}
    out: dict[bytes, bytes] = {}
    for name in map(os.fsencode, names):
        if name.startswith(_XATTR_PREFIXES) or name in _XATTR_ACLS:
            try:
                out[name] = os.getxattr(path, name)
            except OSError as e:
                if e.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise
    return out


class TreeView:
    """Looks at the tree below `root_fd` through an index of it.

    Not shared between threads: each has its own view and its own connection to the index. `by_handle` says whether
    objects may be opened by their handle (CAP_DAC_READ_SEARCH); without, they are reached by their indexed name and
    recognised by their handle.
    """

    dashed = False

    def __init__(self, root_fd: int, brick_id: bytes, index: Index, by_handle: bool, fds: int = 256) -> None:
        self.root_fd = root_fd
        self.brick_id = brick_id
        self.index = index
        self.by_handle = by_handle
        self._fds: OrderedDict[Gfid, int] = OrderedDict()
        self._most = fds
        self._directories: dict[Gfid, bytes | None] = {}
        self.device = os.fstat(root_fd).st_dev

    def close(self) -> None:
        """Close every directory kept open (not the root)."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def forget(self, gfid: Gfid) -> None:
        """Close a directory that is no longer of interest."""
        fd = self._fds.pop(gfid, None)
        if fd is not None:
            os.close(fd)

    def dir_fd(self, gfid: Gfid) -> int:
        """A descriptor of a directory of the tree, owned by the view. Raises Gone."""
        if gfid == ROOT:
            return self.root_fd
        fd = self._fds.get(gfid)
        if fd is not None:
            self._fds.move_to_end(gfid)
            return fd
        if self.by_handle:
            row = self.index.row(gfid)
            if row is None:
                raise Gone(gfid)
            try:
                return self._keep(gfid, open_by_handle(self.root_fd, row.ident, _DIR_FLAGS))
            except OSError as e:
                if e.errno in _GONE:
                    raise Gone(gfid) from e
                raise
        chain: dict[Gfid, Row] = {}
        while gfid != ROOT and gfid not in self._fds:
            row = self.index.row(gfid)
            if row is None or gfid in chain:  # rows of different times may make a circle
                raise Gone(gfid)
            chain[gfid] = row
            gfid = row.parent
        fd = self.root_fd if gfid == ROOT else self._fds[gfid]
        for row in reversed(chain.values()):
            try:
                below = os.open(row.name, _DIR_FLAGS, dir_fd=fd)
            except OSError as e:
                if e.errno in _GONE:
                    raise Gone(row.gfid) from e
                raise
            if gfid_of(self.brick_id, name_to_handle(below, b"")) != row.gfid:
                os.close(below)
                raise Gone(row.gfid)
            fd = self._keep(row.gfid, below)
        return fd

    def _keep(self, gfid: Gfid, fd: int) -> int:
        self._fds[gfid] = fd
        if len(self._fds) > self._most:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def look(self, parent: Gfid, name: bytes) -> Seen | None:
        """What the slot holds now; None when nothing does, or what does is not ours (another filesystem, `.georep`).

        Raises Gone when the directory itself can't be reached.
        """
        if parent == ROOT and name == STATE_DIR:
            return None
        return self.look_at(self.dir_fd(parent), name)

    def look_at(self, fd: int, name: bytes) -> Seen | None:
        """The same, by the directory's descriptor."""
        try:
            st = os.lstat(name, dir_fd=fd)
            if st.st_dev != self.device:
                return None
            handle = name_to_handle(fd, name)
        except OSError as e:
            if e.errno in _GONE or e.errno == errno.ENAMETOOLONG:
                return None
            raise
        return _new(Seen, (gfid_of(self.brick_id, handle), handle, st))

    def unchanged(self, fd: int, row: Row) -> os.stat_result | None:
        """The stat of an indexed name if size, mtime and ctime say that it is the same object, unchanged."""
        try:
            st = os.lstat(row.name, dir_fd=fd)
        except OSError:
            return None
        same = (
            st.st_ctime_ns == row.ctime_ns
            and st.st_mtime_ns == row.mtime_ns
            and st.st_size == row.size
            and _stat.S_IFMT(st.st_mode) == row.kind
            and st.st_dev == self.device
        )
        return st if same else None

    def see(self, gfid: Gfid, handle: bytes | None = None) -> Seen | None:
        """The object itself, by handle or by one of its indexed names; None when it can't be reached so."""
        if gfid == ROOT:
            return Seen(ROOT, b"", os.fstat(self.root_fd))
        rows = self.index.rows(gfid)
        if self.by_handle and (handle or rows):
            handle = handle or rows[0].ident
            try:
                fd = open_by_handle(self.root_fd, handle, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as e:
                if e.errno in _GONE:
                    return None
                raise
            try:
                return Seen(gfid, handle, os.fstat(fd))
            finally:
                os.close(fd)
        for row in rows:
            try:
                seen = self.look(row.parent, row.name)
            except Gone:
                continue
            if seen is not None and seen.gfid == gfid:
                return seen
        return None

    def open_slot(self, slot: Slot, gfid: Gfid, ctime_ns: int = 0, flags: int = _FILE_FLAGS) -> int:
        """Open a regular file for reading by its slot and make sure it is that object. Raises Gone; OSError.

        With the ctime at which the object was seen there (not 0, not racy), an unchanged one says that it still is. Other
        `flags` than those for reading open any kind.
        """
        try:
            fd = os.open(slot.name, flags, dir_fd=self.dir_fd(slot.parent))
        except OSError as e:
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise
        try:
            same = ctime_ns != 0 and os.fstat(fd).st_ctime_ns == ctime_ns
            same = same or gfid_of(self.brick_id, name_to_handle(fd, b"")) == gfid
        except OSError:
            os.close(fd)
            raise
        if not same:
            os.close(fd)
            raise Gone(gfid)
        return fd

    def open_file(self, gfid: Gfid) -> int:
        """Open a regular file of the tree for reading, wherever it is now. Raises Gone; OSError."""
        return self._open(gfid, _FILE_FLAGS)

    def hold(self, gfid: Gfid) -> int:
        """A descriptor of an object of the tree, of any kind, only to be watched and looked at. Raises Gone; OSError."""
        return self._open(gfid, _HOLD_FLAGS)

    def _open(self, gfid: Gfid, flags: int) -> int:
        rows = self.index.rows(gfid)
        for row in rows:
            try:
                return self.open_slot(row.slot, gfid, flags=flags)
            except Gone:
                continue
        if rows and self.by_handle:
            try:
                return open_by_handle(self.root_fd, rows[0].ident, flags)
            except OSError as e:
                if e.errno in _GONE:
                    raise Gone(gfid) from e
                raise
        raise Gone(gfid)

    def meta(self, gfid: Gfid) -> tuple[Stat, dict[bytes, bytes] | None]:
        """Stat and xattrs of an object as they are now (xattrs None where it can have none). Raises Gone; OSError."""
        if gfid == ROOT:
            return stat_of(os.fstat(self.root_fd)), xattrs_of(self.root_fd)
        seen = self.see(gfid)
        if seen is None:
            raise Gone(gfid)
        stat = stat_of(seen.st)
        if stat.is_symlink:
            return stat, None
        try:
            if not (_stat.S_ISREG(stat.mode) or _stat.S_ISDIR(stat.mode)):
                return self._special(gfid)
            if stat.is_dir:
                fd = self.dir_fd(gfid)
                return stat_of(os.fstat(fd)), xattrs_of(fd)
            fd = self.open_file(gfid)
        except PermissionError:
            return stat, None
        try:
            return stat_of(os.fstat(fd)), xattrs_of(fd)
        finally:
            os.close(fd)

    def _special(self, gfid: Gfid) -> tuple[Stat, dict[bytes, bytes] | None]:
        """Fifos, sockets and devices have ACLs too, but must not be opened for it."""
        for row in self.index.rows(gfid):
            try:
                flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(row.name, flags, dir_fd=self.dir_fd(row.parent))
            except (Gone, FileNotFoundError):
                continue
            try:
                if gfid_of(self.brick_id, name_to_handle(fd, b"")) == gfid:
                    return stat_of(os.fstat(fd)), xattrs_of(b"/proc/self/fd/%d" % fd)
            finally:
                os.close(fd)
        raise Gone(gfid)

    def stat_of(self, st: os.stat_result, fd: int | bytes) -> Stat:
        """What travels of the stat of a file."""
        del fd
        return stat_of(st)

    def xattrs_of(self, fd: int) -> dict[bytes, bytes]:
        """What travels of the xattrs of an open file or directory."""
        return xattrs_of(fd)

    def names(self, gfid: Gfid) -> Known:
        """All names of an object that are replicated: the index has them."""
        return Known([r for r in self.index.rows(gfid) if r.parent != LIMBO])

    def holds(self, slot: Slot, gfid: Gfid) -> bool:
        """Is this name the object's, by the index? Names on the disk that it does not have are filtered, or come later."""
        row = self.index.get(*slot)
        return row is not None and row.gfid == gfid

    def here(self, slot: Slot, gfid: Gfid) -> bool:
        """A tree is one brick."""
        return self.holds(slot, gfid)

    def holding(self, slots: Iterable[Slot], gfid: Gfid) -> set[Slot]:
        """Those of these names that are the object's."""
        return {slot for slot in slots if self.holds(slot, gfid)}

    def version(self, gfid: Gfid) -> Version | None:
        """Of which state a file's content is now."""
        seen = self.see(gfid)
        return None if seen is None else Version(seen.st.st_size, seen.st.st_mtime_ns, seen.st.st_ctime_ns)

    def search(self, gfids: Iterable[Gfid]) -> dict[Gfid, list[Slot]]:
        """A tree's index has all names."""
        del gfids
        return {}

    def orders(self, gfid: Gfid) -> bool:
        """A tree has one journal."""
        del gfid
        return True

    def elsewhere(self, slot: Slot) -> bool:
        """A tree is one brick: nothing is elsewhere."""
        del slot
        return False

    def dead(self, gfids: Iterable[Gfid]) -> list[Gfid]:
        """Those objects that are not in the index any more."""
        return [g for g in gfids if not self.index.has(g)]

    def end(self) -> None:
        """Close every directory, the index and the root."""
        self.close()
        self.index.close()
        os.close(self.root_fd)

    def moved(self, root: bytes) -> bool:
        """Is another directory than this view's at that path now?"""
        self._directories.clear()
        here, ours = os.stat(root), os.fstat(self.root_fd)
        return (here.st_dev, here.st_ino) != (ours.st_dev, ours.st_ino)

    def paths(self, gfid: Gfid, root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """The paths below `root` that lead to an object now, with what was seen there; see `moved`."""
        for row in self.index.rows(gfid):
            try:
                seen = self.look(row.parent, row.name)
            except Gone:
                continue
            directory = self._directory(row.parent, root)
            if seen is not None and seen.gfid == gfid and directory is not None:
                yield os.path.join(directory, row.name), seen.st

    def _directory(self, gfid: Gfid, root: bytes) -> bytes | None:
        """The absolute path of a directory by the index, None when it is not known."""
        if gfid == ROOT:
            return root
        if gfid not in self._directories:
            row = self.index.row(gfid)
            above = None if row is None else self._directory(row.parent, root)
            self._directories[gfid] = None if row is None or above is None else os.path.join(above, row.name)
        return self._directories[gfid]

    def link_text(self, slot: Slot, gfid: Gfid) -> bytes:
        """The text of that symlink, expected in that slot. Raises Gone where another object has the name by now."""
        try:
            fd = os.open(slot.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.dir_fd(slot.parent))
            try:
                if gfid_of(self.brick_id, name_to_handle(fd, b"")) != gfid:
                    raise Gone(slot)
                return os.readlink(b"", dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as e:
            if e.errno in (*_GONE, errno.EINVAL):
                raise Gone(slot) from e
            raise

    def below(self, gfid: Gfid) -> list[Gfid]:
        """What is in a directory, by the index."""
        return [child for _, child in self.index.children_names(gfid)]

    def list_dir(self, gfid: Gfid) -> list[bytes]:
        """The names in a directory, in no order; `.georep` in the root left out (SAFE-7). Raises Gone; OSError."""
        fd = self.dir_fd(gfid)
        try:
            again = os.open(b".", _DIR_FLAGS, dir_fd=fd)
        except OSError as e:
            self.forget(gfid)
            if e.errno in _GONE:
                raise Gone(gfid) from e
            raise
        try:
            names = [n.encode(_ENCODING, "surrogateescape") for n in os.listdir(again)]  # fsencode, at a third of its cost
        finally:
            os.close(again)
        if gfid == ROOT and STATE_DIR in names:
            names.remove(STATE_DIR)
        return names


def open_root(path: bytes) -> int:
    """Open the root of a tree. Raises EngineError with the reason and what to do."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise EngineError(
            f"primary {os.fsdecode(path)}: {e.strerror}",
            hint="check the path, its mount and its permissions",
            code="primary-unreachable",
            errno=e.errno,
        ) from e
