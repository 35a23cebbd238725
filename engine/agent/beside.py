"""New content beside the old file, put in its place when it is whole: a reader has the one or the other (SYN-4)."""

from __future__ import annotations

import errno
import os
import resource
import stat as _stat
from typing import Optional, Union

from engine.agent.attributes import read_xattrs, replicated, set_attributes
from engine.agent.handles import DEFAULT_ACL, OpError
from engine.agent.heal import NOWHERE
from engine.agent.tree import Tree, Where
from engine.agent.types import LIMBO, Gfid, Stat
from engine.agent.wire import Xattrs

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LARGE = 1 << 20
"""Bytes from which it is asked whether there is room for a second copy."""
_SPARE = 64 << 20
"""Bytes that are left free then."""
_HELD = 4096
_HELD_BYTES = 64 << 20
"""Replaced files that are held until the index is committed, and the bytes on the disk they may have."""
NOT_HERE = (errno.EACCES, errno.EPERM, errno.EXDEV)
"""Errors of a rename for which the old file may still be written over."""


class Beside:
    """Files under way in `.georep/new`, and those that were replaced. Used by one thread.

    A replaced file is held open until the index knows its successor: its inode number, by which the index recognises
    objects after a crash, must not become another file's before.
    """

    def __init__(self, tree: Tree, state_fd: int) -> None:
        self._tree = tree
        try:
            os.mkdir(b"new", 0o700, dir_fd=state_fd)
        except FileExistsError:
            pass
        self._fd = os.open(b"new", _DIR, dir_fd=state_fd)
        self._device = os.fstat(self._fd).st_dev
        for name in os.listdir(self._fd):  # what an agent left that was killed
            os.unlink(name, dir_fd=self._fd)
        try:
            os.removexattr(f"/proc/self/fd/{self._fd}", DEFAULT_ACL)  # what is made here would inherit it
        except OSError:
            pass
        self._labels = os.path.exists("/sys/fs/selinux/enforce")
        """Has a file a label of its own, which its successor must get?"""
        self._next = 0
        self._user = os.geteuid()
        self._held: list[int] = []
        self._bytes = 0
        self._most = max(16, min(_HELD, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._not_here: set[Gfid] = set()
        """Files whose directory did not take another: the next try goes in place."""

    # --- may it be

    def fits(self, gfid: Gfid, where: Where, size: int) -> bool:
        """Can this file be replaced by another? Not where it has several names, and not for want of space or rights."""
        row, st = where.row, where.st
        if row is None or row.parent == NOWHERE or st.st_nlink != 1 or st.st_dev != self._device:
            return False
        if gfid in self._not_here or not _stat.S_ISREG(st.st_mode):
            return False
        if self._user != 0 and not self._ours(where):
            return False
        if size >= _LARGE:
            free = os.fstatvfs(self._fd)
            return free.f_bavail * free.f_frsize >= size + _SPARE
        return True

    def _ours(self, where: Where) -> bool:
        """May we, who are not root, give the successor its owner, and its directory its times?"""
        own = where.st.st_uid == self._user == os.fstat(where.pfd).st_uid
        return own and os.access(b".", os.W_OK | os.X_OK, dir_fd=where.pfd)

    # --- a file under way

    def open(self, mode: int = 0o600) -> tuple[int, bytes]:
        """A new file, open for writing, and its name here. OSError."""
        self._next += 1
        name = b"%x" % self._next
        return os.open(name, _NEW, mode & 0o7777, dir_fd=self._fd), name

    def drop(self, name: bytes) -> None:
        """Give it up."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass

    def put(self, gfid: Gfid, where: Where, fd: int, name: bytes, stat: Optional[Stat], xattrs: Xattrs) -> tuple[int, int, Optional[OpError]]:
        """Give an open file of ours its attributes, then its place; size and mtime, and what attributes failed.

        Without `stat`, or `xattrs`, it has those of the old one. OpError ESTALE, OSError: the old one is where it was.
        """
        return self.put_from(self._fd, gfid, where, fd, name, stat, xattrs)

    def put_from(
        self, dir_fd: int, gfid: Gfid, where: Where, at: Union[int, str], name: bytes, stat: Optional[Stat], xattrs: Xattrs
    ) -> tuple[int, int, Optional[OpError]]:
        """The same for a file in another directory of the state, by descriptor or by its path under /proc/self/fd."""
        row, was = where.row, where.st
        assert row is not None
        old = os.open(where.name, _PATH, dir_fd=where.pfd)
        try:
            if os.fstat(old).st_ino != was.st_ino:
                raise OpError(errno.ESTALE, "system: it was replaced by something else just now")
            st, failed = self._dress(at, old, was, stat, xattrs, bare=dir_fd == self._fd)
            self._rename(gfid, where, dir_fd, name)
        except BaseException:
            os.close(old)
            raise
        # as Tree.register does it, for a file that has its place: this is what a rewritten file costs
        self._tree.index.put_row((row[0], row[1], gfid, 0o100000, st.st_ino.to_bytes(8, "big"), 0, 0, 0))
        if self._tree.unconfirmed:
            self._tree.unconfirmed.pop(row.slot, None)
        self._held.append(old)
        self._bytes += was.st_blocks * 512
        return st.st_size, st.st_mtime_ns, failed

    def _dress(
        self, at: Union[int, str], old: int, was: os.stat_result, stat: Optional[Stat], xattrs: Xattrs, bare: bool
    ) -> tuple[os.stat_result, Optional[OpError]]:
        """Give a new file the attributes that were sent, and the old one's where none were; what it then has, and what failed.

        `bare`: it has no xattrs yet.
        """
        if stat is None:
            stat = Stat(was.st_mode, was.st_uid, was.st_gid, was.st_size, was.st_mtime_ns, was.st_atime_ns, 0)
        if xattrs is None or self._labels:
            xattrs = _of_old(at, f"/proc/self/fd/{old}", xattrs)
        os.utime(at, ns=(stat.atime_ns, stat.mtime_ns))
        st = os.stat(at)
        if bare and not xattrs and st.st_mode == stat.mode and st.st_uid == stat.uid and st.st_gid == stat.gid:
            return st, None
        try:
            set_attributes(at, st, stat, xattrs)
        except OpError as e:
            return os.stat(at), e
        return os.stat(at), None

    def _rename(self, gfid: Gfid, where: Where, dir_fd: int, name: bytes) -> None:
        """Put it in its place. The directory keeps its times: on the primary nothing happened to it."""
        before = os.fstat(where.pfd)
        try:
            os.rename(name, where.name, src_dir_fd=dir_fd, dst_dir_fd=where.pfd)
        except OSError as e:
            if e.errno in NOT_HERE:
                self._not_here.add(gfid)
            raise
        if where.row is not None and where.row.parent != LIMBO:
            try:
                os.utime(b".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=where.pfd)
            except OSError:
                pass  # the file is in its place: its directory's times are put right when that is idle

    # --- what was replaced

    def relieve(self) -> None:
        """Let go of what was replaced, once the index is safe, where that has become much. Between two operations."""
        if len(self._held) >= self._most or self._bytes >= _HELD_BYTES:
            self._tree.index.commit(durable=True)
            self.release()

    def release(self) -> None:
        """The index was committed."""
        for fd in self._held:
            os.close(fd)
        self._held, self._bytes = [], 0

    def close(self) -> None:
        """Let go."""
        self.release()
        os.close(self._fd)


def _of_old(at: Union[int, str], old: str, xattrs: Xattrs) -> Xattrs:
    """Copy what is ours to keep on an old file (a label, say); its replicated xattrs, where none were sent."""
    try:
        names = os.listxattr(old)
    except OSError:
        return xattrs  # a filesystem without
    for name in names:
        if not replicated(name):
            _copy(old, at, name)
    return read_xattrs(old) if xattrs is None and names else xattrs


def _copy(old: str, at: Union[int, str], name: str) -> None:
    try:
        os.setxattr(at, name, os.getxattr(old, name))
    except OSError:
        pass  # a kind that we may not set
