"""Objects of a volume through its mount: directories by gfid, names checked against gfids, paths where they are needed.

A gfid's last 8 bytes are the inode number that a mount shows, so one look at a name tells whether it holds an object.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat as _stat
import struct
import threading
import uuid
from collections.abc import Iterator
from typing import NamedTuple, Optional

from engine.agent.attributes import set_attributes, set_link_attributes
from engine.agent.gluster_paths import GONE, gfid_of, inode_of, path_of_directory, slots_of, text_of, walk
from engine.agent.handles import DEFAULT_ACL, OpError, kind_word
from engine.agent.types import ROOT, Gfid, Slot, Stat
from engine.agent.wire import Xattrs

"""How a mount says that something is not there (any more)."""

_NEWFILE = "glusterfs.gfid.newfile"
_NOTE = "trusted.gfid2path."
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_REAL = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRS = 2048
_HINTS = 200_000
_ACL_AGE = 1.0
_HEAD = struct.Struct("!II37sI")
_FLOCK = struct.Struct("hhqqi4x")
_GATE = 7 << 60
_TREE = _GATE + 1
"""Bytes of the lock file, above those of names: see `Objects.alone`."""


class Found(NamedTuple):
    """An object seen through a descriptor (O_PATH, the receiver's to close)."""

    fd: int
    st: os.stat_result


def _start_of(slot: Slot) -> int:
    """Which byte of the lock file stands for a name; those of gfids are below."""
    digest = hashlib.blake2b(slot.parent + slot.name, digest_size=8).digest()
    return (1 << 62) + (int.from_bytes(digest, "big") >> 3)


def aside_name(gfid: Gfid) -> bytes:
    """The name of an object for a moment, while another one is to have its own; no other name in a volume is ours."""
    return b".georep-aside-" + gfid.hex().encode()


class Objects:
    """Finds objects on one mount. Used by several threads; `settle` only when none is at work."""

    def __init__(self, root_fd: int, bricks: Optional[list[bytes]], lock_fd: int) -> None:
        """`bricks`: all of the volume, when all are on this node, else None; `lock_fd`: see `lock`."""
        self.root_fd = root_fd
        self._bricks = bricks
        self._lock_fd = lock_fd
        self._at = b"/proc/self/fd/%d/" % root_fd
        self._dirs: dict[Gfid, int] = {}
        self._acl: dict[Gfid, bool] = {}
        self._out: list[int] = []
        self._lock = threading.Lock()
        self._slots: dict[Gfid, Slot] = {}
        self._together = threading.Lock()
        self._beside = 0

    # --- directories

    def directory(self, gfid: Gfid) -> int:
        """A descriptor (O_PATH) of a directory, good until `settle`. OpError ENOENT `parent` when it is not here.

        The real directory, reached by its path: below `.gfid/` a directory has another, virtual gfid, by which
        GlusterFS does not find what it has forgotten (ESTALE).
        """
        fd = self._dirs.get(gfid)
        if fd is not None:
            return fd
        fd = self._open_where_it_was(gfid)
        if fd is None:
            fd = self.open_real(gfid, _DIR)
        with self._lock:
            known = self._dirs.setdefault(gfid, fd)
            if known != fd:
                self._out.append(fd)
        return known

    def _open_where_it_was(self, gfid: Gfid) -> Optional[int]:
        slot = self._slots.get(gfid)
        if slot is None:
            return None
        try:
            fd = os.open(slot.name, _DIR, dir_fd=self.directory(slot.parent))
        except OpError:
            return None
        except OSError as e:
            if e.errno in (*GONE, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        if os.fstat(fd).st_ino == inode_of(gfid):
            return fd
        os.close(fd)
        return None

    def inherits(self, gfid: Gfid, fd: int) -> bool:
        """Has this directory a default ACL? Looked at once until the next `settle`."""
        known = self._acl.get(gfid)
        if known is None:
            try:
                os.getxattr(b"/proc/self/fd/%d" % fd, DEFAULT_ACL)
                known = True
            except OSError:
                known = False
            self._acl[gfid] = known
        return known

    def forget(self, gfid: Gfid) -> None:
        """A directory went, or turned out to be another."""
        with self._lock:
            fd = self._dirs.pop(gfid, None)
            if fd is not None:
                self._out.append(fd)
            self._slots.pop(gfid, None)

    def settle(self) -> None:
        """Close what is not needed; nothing may be under way."""
        out, self._out = self._out, []
        if len(self._dirs) > _OPEN_DIRS:
            out += self._dirs.values()
            self._dirs = {}
        self._acl = {}
        for fd in out:
            os.close(fd)
        if len(self._slots) > _HINTS:
            self._slots = {}

    def close(self) -> None:
        """Let all go."""
        self._out += self._dirs.values()
        self._dirs = {}
        self.settle()

    # --- names

    def remember(self, gfid: Gfid, slot: Slot) -> None:
        """Where an object was last: by that it is found with one call instead of one to each subvolume."""
        self._slots[gfid] = slot

    def look(self, slot: Slot) -> Optional[os.stat_result]:
        """What is at a slot, None when nothing. OpError `parent`."""
        try:
            return os.stat(slot.name, dir_fd=self.directory(slot.parent), follow_symlinks=False)
        except OSError as e:
            if e.errno in GONE:
                return None
            raise

    def gfid_at(self, slot: Slot) -> Gfid:
        """The gfid of what is at a slot, b"" when nothing is (any more). OSError."""
        at = b"/proc/self/fd/%d/%s" % (self.directory(slot.parent), slot.name)
        return gfid_of(at)

    def exists(self, gfid: Gfid) -> Optional[os.stat_result]:
        """The object, wherever it is; None when it is nowhere."""
        if gfid == ROOT:
            return os.fstat(self.root_fd)
        try:
            return os.stat(b".gfid/" + text_of(gfid).encode(), dir_fd=self.root_fd, follow_symlinks=False)
        except OSError as e:
            if e.errno in GONE:
                return None
            raise

    def absent(self, gfid: Gfid) -> bool:
        """Is it certain that no such object is anywhere? Where all bricks are here, they are asked themselves.

        Making an object whose gfid is on another subvolume would succeed, and leave two objects of one gfid.
        """
        if self._bricks is None:
            return self.exists(gfid) is None
        text = text_of(gfid)
        below = f"/.glusterfs/{text[:2]}/{text[2:4]}/{text}".encode()
        return not any(os.path.lexists(brick + below) for brick in self._bricks)

    def there(self, gfid: Gfid) -> bool:
        """Is this directory anywhere? Asked of the bricks themselves where all are here, by its handles.

        A mount may say that it is not while it is just being renamed; made again it would be there twice.
        """
        if self._bricks is None:
            return self.exists(gfid) is not None
        text = text_of(gfid)
        below = f"/.glusterfs/{text[:2]}/{text[2:4]}/{text}".encode()
        for brick in self._bricks:
            try:
                if os.getxattr(brick + below, "trusted.gfid") == gfid:
                    return True
            except OSError as e:
                if e.errno == errno.ELOOP:
                    return True  # too deep for the handle to be followed, and there it is
                if e.errno not in (*GONE, errno.ENOTDIR, errno.ENODATA):
                    raise
        return False

    def _flock(self, kind: int, start: int, wait: bool = True) -> None:
        fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK,
                    _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0))  # fmt: skip

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Beside other operations, also those of agents of other bricks, but not while one of them is `alone`."""
        with self._together:
            if not self._beside:
                self._flock(fcntl.F_RDLCK, _GATE)
                self._flock(fcntl.F_RDLCK, _TREE)
                self._flock(fcntl.F_UNLCK, _GATE)
            self._beside += 1
        try:
            yield
        finally:
            with self._together:
                self._beside -= 1
                if not self._beside:
                    self._flock(fcntl.F_UNLCK, _TREE)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else goes on in the volume, as far as agents on this node are concerned; not within `together`.

        A directory's rename has many steps, one brick after the other. Who looks at its names meanwhile makes GlusterFS
        heal what is half done, and the directory is there twice. Who comes next waits at the gate for those inside.
        """
        with self._together:
            self._flock(fcntl.F_WRLCK, _GATE)
            try:
                self._flock(fcntl.F_WRLCK, _TREE)
                try:
                    yield
                finally:
                    self._flock(fcntl.F_UNLCK, _TREE)
            finally:
                self._flock(fcntl.F_UNLCK, _GATE)

    @contextlib.contextmanager
    def lock(self, gfid: Gfid) -> Iterator[None]:
        """Keep agents of other bricks on this node from making the same object meanwhile."""
        start = inode_of(gfid) >> 2
        fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0))
        try:
            yield
        finally:
            fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, 1, 0))

    @contextlib.contextmanager
    def held(self, *slots: Optional[Slot]) -> Iterator[None]:
        """Keep agents of other bricks on this node from what these names lead to meanwhile: what was seen there is
        still there when it is renamed or removed, and what was free is not taken. To be taken before `lock`."""
        starts = sorted({_start_of(s) for s in slots if s is not None})
        taken: list[int] = []
        try:
            for start in starts:
                fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0))
                taken.append(start)
            yield
        finally:
            for start in taken:
                fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, 1, 0))

    def by_gfid(self, gfid: Gfid) -> bytes:
        """A path of an object below the root's descriptor."""
        return b".gfid/" + text_of(gfid).encode()

    def find(self, gfid: Gfid) -> Optional[Found]:
        """Open an object (O_PATH) where it was last, else wherever it is; None when it is nowhere."""
        slot = self._slots.get(gfid)
        if slot is not None:
            try:
                found = self._see(self.directory(slot.parent), slot.name)
            except OpError:
                found = None
            if found is not None:
                if found.st.st_ino == inode_of(gfid):
                    return found
                os.close(found.fd)
            self._slots.pop(gfid, None)
        if gfid == ROOT:
            return self._see(self.root_fd, b".")
        return self._see(self.root_fd, self.by_gfid(gfid))

    @staticmethod
    def _see(dir_fd: int, name: bytes) -> Optional[Found]:
        try:
            fd = os.open(name, _SEE, dir_fd=dir_fd)
        except OSError as e:
            if e.errno in GONE:
                return None
            raise
        return Found(fd, os.fstat(fd))

    # --- making

    def make(self, gfid: Gfid, slot: Slot, mode: int, link: Optional[bytes] = None, rdev: int = 0) -> None:
        """Make an object with its gfid, owned by root (SEC-13). OSError EEXIST or ENODATA when name or gfid is taken.

        A directory whose gfid exists must not be made: it would be there twice. OpError `parent`.
        """
        name = slot.name
        blob = _HEAD.pack(0, 0, text_of(gfid).encode(), mode) + name + b"\0"
        kind = _stat.S_IFMT(mode)
        if kind == _stat.S_IFLNK:
            blob += (link or b"") + b"\0"
        elif kind == _stat.S_IFDIR:
            blob += struct.pack("!II", mode & 0o7777, 0)
        else:
            blob += struct.pack("!III", mode & 0o7777, rdev, 0)
        try:
            os.setxattr(b"/proc/self/fd/%d" % self.directory(slot.parent), _NEWFILE, blob)
        except OSError as e:
            if e.errno in GONE:
                self.forget(slot.parent)
                raise OpError(errno.ENOENT, f"parent: directory {slot.parent.hex()} is not here", slot.parent) from e
            raise
        if kind == _stat.S_IFDIR:
            self.forget(gfid)  # one that is open is another, which somebody has removed
        self._slots[gfid] = slot

    # --- names of an object

    def names(self, gfid: Gfid, directory: bool) -> list[Slot]:
        """All names of an object, by the gfids of their directories; each was just seen to hold it."""
        if self._bricks is not None:
            slots = self._names_on_bricks(gfid, directory)
        else:
            slots = slots_of(self.root_fd, gfid, directory) if gfid != ROOT else []
        found: list[Slot] = []
        for slot in dict.fromkeys(slots):
            try:
                st = self.look(slot)
            except OpError:
                continue
            if st is not None and st.st_ino == inode_of(gfid):
                found.append(slot)
        return found

    def _names_on_bricks(self, gfid: Gfid, directory: bool) -> list[Slot]:
        """What the bricks themselves have noted: a directory's handle, a file's xattrs (which may be outdated)."""
        found: list[Slot] = []
        text = text_of(gfid)
        below = f"/.glusterfs/{text[:2]}/{text[2:4]}/{text}".encode()
        for brick in self._bricks or ():
            path = brick + below
            try:
                if directory:
                    notes = [b"/".join(os.readlink(path).rsplit(b"/", 2)[-2:])]
                else:
                    keys = os.listxattr(path, follow_symlinks=False)
                    notes = [os.getxattr(path, k, follow_symlinks=False) for k in keys if k.startswith(_NOTE)]
            except FileNotFoundError:
                continue
            for note in notes:
                parent, _, name = note.rstrip(b"\0").partition(b"/")
                found.append(Slot(uuid.UUID(parent.decode("ascii")).bytes, name))
        return found

    def open_real(self, gfid: Gfid, flags: int = _REAL) -> int:
        """Open a directory by its path. OpError ENOENT `parent`, ENOTDIR."""
        for _ in range(4):  # it may be renamed between the two steps
            parts = path_of_directory(self.root_fd, gfid)
            if parts is None:
                break
            try:
                fd = walk(self.root_fd, parts, flags)
            except OSError as e:
                if e.errno not in (*GONE, errno.ENOTDIR, errno.ELOOP):
                    raise
                continue
            if gfid == ROOT or os.fstat(fd).st_ino == inode_of(gfid):
                return fd
            os.close(fd)
        st = self.exists(gfid)
        if st is not None and not _stat.S_ISDIR(st.st_mode):
            raise OpError(errno.ENOTDIR, f"parent: {gfid.hex()} is {kind_word(st.st_mode)}", gfid)
        raise OpError(errno.ENOENT, f"parent: directory {gfid.hex()} is not here", gfid)


def set_found(objects: Objects, gfid: Gfid, found: Found, stat: Stat, xattrs: Xattrs, times: bool = True) -> None:
    """Attributes of an object, what differs only (SEC-14). OpError with the first failure."""
    st = found.st
    if _stat.S_ISLNK(st.st_mode):  # by its gfid: what has its name may be another one by now
        set_link_attributes(objects.root_fd, objects.by_gfid(gfid), st, stat, times and st.st_mtime_ns != stat.mtime_ns)
        return
    if _stat.S_IFMT(st.st_mode) != _stat.S_IFMT(stat.mode):
        raise OpError(errno.EINVAL, f"kind: it is {kind_word(st.st_mode)} here")
    set_attributes(f"/proc/self/fd/{found.fd}", st, stat, xattrs, times)
