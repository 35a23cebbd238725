"""Open directories by gfid, names that may be used, and why an operation fails."""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import Optional

from engine.agent.types import LIMBO, ROOT, STATE_DIR, Gfid, Slot

DIR_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEFAULT_ACL = "system.posix_acl_default"


class OpError(Exception):
    """One operation failed: errno, a text that begins with a word for the program, the gfid that was in the way.

    Words: `unknown` and `foreign` (something the index does not know is there), `occupied` (another gfid is there),
    `parent` (the parent directory is not here), `absent` (the object is nowhere and cannot be made), `refused`
    (a name that must not be used), `kind`, `owner`, `system`.
    """

    def __init__(self, number: int, text: str, found: Gfid = b"") -> None:
        super().__init__(text)
        self.errno = number
        self.text = text
        self.found = found


def system_error(error: OSError, what: str = "") -> OpError:
    """An OSError as the failure of one operation."""
    number = error.errno or errno.EIO
    return OpError(number, f"system: {what + ': ' if what else ''}{os.strerror(number)}")


def check_name(slot: Slot) -> None:
    """Refuse names that are no names or lead elsewhere (SEC-15, SAFE-7). Raises OpError."""
    parent, name = slot
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OpError(errno.EINVAL, f"refused: {name!r} is not a name")
    if name == STATE_DIR and parent == ROOT:
        raise OpError(errno.EINVAL, "refused: .georep in the root is ours and never replicated")
    if parent == LIMBO:
        raise OpError(errno.EINVAL, "refused: only RENAME goes to or comes from limbo")


def ident_of(st: os.stat_result) -> bytes:
    """What recognises an object on the secondary: its inode number, as 8 bytes."""
    return st.st_ino.to_bytes(8, "big")


def hex_name(gfid: Gfid) -> bytes:
    """The name of an object in limbo."""
    return gfid.hex().encode()


def kind_word(mode: int) -> str:
    """A word for the type in a mode."""
    kinds = {
        _stat.S_IFREG: "a file",
        _stat.S_IFDIR: "a directory",
        _stat.S_IFLNK: "a symlink",
        _stat.S_IFIFO: "a fifo",
        _stat.S_IFSOCK: "a socket",
    }
    return kinds.get(_stat.S_IFMT(mode), "a device")


class OpenDirs:
    """Descriptors (O_PATH) of directories by gfid; the least recently used are closed when there are many.

    A descriptor given out stays open until the next `settle`, even when it was pushed out meanwhile.
    """

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._fds: dict[Gfid, int] = {}
        self._fixed: dict[Gfid, int] = {}
        self._out: list[int] = []
        self.with_acl: set[int] = set()
        """Descriptors of directories with a default ACL: what is made in them inherits it."""

    def fix(self, gfid: Gfid, fd: int) -> None:
        """Give a directory whose descriptor belongs to someone else and never goes."""
        self._fixed[gfid] = fd

    def get(self, gfid: Gfid) -> Optional[int]:
        """The descriptor of a directory that is open here, else None."""
        fd = self._fixed.get(gfid)
        if fd is not None:
            return fd
        fds = self._fds
        fd = fds.get(gfid)
        if fd is not None and len(fds) > self._limit // 2:
            del fds[gfid]
            fds[gfid] = fd  # the youngest again
        return fd

    def add(self, gfid: Gfid, fd: int) -> None:
        """Keep a descriptor; it is ours from now on."""
        old = self._fds.pop(gfid, None)
        if old is not None:
            self._out.append(old)
        elif len(self._fds) >= self._limit:
            self._out.append(self._fds.pop(next(iter(self._fds))))
        self._fds[gfid] = fd
        if has_default_acl(fd):
            self.with_acl.add(fd)

    def lend(self, fd: int) -> None:
        """Close this descriptor, too, at the next `settle`."""
        self._out.append(fd)

    def drop(self, gfid: Gfid) -> None:
        """Forget one directory."""
        fd = self._fds.pop(gfid, None)
        if fd is not None:
            self._out.append(fd)

    def settle(self) -> None:
        """Close what was pushed out. Called when no operation holds a descriptor."""
        out = self._out
        while out:
            fd = out.pop()
            self.with_acl.discard(fd)
            os.close(fd)

    def clear(self) -> None:
        """Close all but the fixed ones."""
        self._out += self._fds.values()
        self._fds.clear()
        self.settle()


def has_default_acl(fd: int) -> bool:
    """Has the directory behind a descriptor a default ACL?"""
    try:
        os.getxattr(f"/proc/self/fd/{fd}", DEFAULT_ACL)
    except OSError:
        return False
    return True
