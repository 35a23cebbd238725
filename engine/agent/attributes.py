"""Owner, mode, xattrs, ACLs and times of one object (SEC-13, SEC-14)."""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import Optional, Union

from engine.agent.handles import OpError, ident_of, system_error
from engine.agent.tree import Where
from engine.agent.types import Stat

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ACCESS = "system.posix_acl_access"
_ACLS = (_ACCESS, "system.posix_acl_default")
_ROOM = 1 << 20
"""Bytes free from which on a disk is not full."""
_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENOSYS)


def replicated(name: Union[str, bytes]) -> bool:
    """Is this xattr one of those that are replicated: user.* and the ACLs?"""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return name.startswith("user.") or name in _ACLS


def read_xattrs(at: Union[int, str]) -> dict[bytes, bytes]:
    """The replicated xattrs of an open file, or of a path under /proc/self/fd."""
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(at)
    except OSError as e:
        if e.errno in _NO_XATTRS:
            return found
        raise
    for name in names:
        if replicated(name):
            try:
                found[os.fsencode(name)] = os.getxattr(at, name)
            except OSError as e:
                if e.errno != errno.ENODATA:
                    raise
    return found


def set_xattrs(at: Union[int, str], wanted: dict[bytes, bytes]) -> bool:
    """Make these the whole set of replicated xattrs; True when an ACL changed (which changes the mode). OSError."""
    now = read_xattrs(at)
    if now == wanted:
        return False
    acl = False
    for name in now:
        if name not in wanted:
            os.removexattr(at, name)
            acl = acl or name == b"system.posix_acl_access"
    # an ACL may close the object to its owner: last
    for name, value in sorted(wanted.items(), reverse=True):
        if now.get(name) != value and replicated(name):
            os.setxattr(at, name, value)
            acl = acl or name == b"system.posix_acl_access"
    return acl


def _set_xattrs_of_ours(at: Union[int, str], wanted: dict[bytes, bytes]) -> bool:
    """The same, also where the mode keeps its owner out, as user.* xattrs need; True when the mode was changed.

    OpError E2BIG where there is room, but not for xattrs of this size: ext4 calls that ENOSPC.
    """
    try:
        return set_xattrs(at, wanted)
    except OSError as e:
        if e.errno == errno.ENOSPC and _has_room(at):
            size = sum(map(len, wanted.values()))
            raise OpError(errno.E2BIG, f"xattrs: {size} bytes are more than the filesystem there takes") from e
        if e.errno != errno.EACCES:
            raise
    os.chmod(at, 0o700 if _stat.S_ISDIR(os.stat(at).st_mode) else 0o600)
    set_xattrs(at, wanted)
    return True


def _has_room(at: Union[int, str]) -> bool:
    free = os.statvfs(at)
    return free.f_bavail * free.f_frsize > _ROOM


def set_attributes(
    at: Union[int, str], seen: os.stat_result, stat: Stat, xattrs: Optional[dict[bytes, bytes]], times: bool = True
) -> None:
    """Give an object (open, or by its path under /proc/self/fd; no symlink) its attributes; what differs only.

    Order: chown, chmod, xattrs, times. What fails does not stop the rest. Raises OpError with the first failure.
    """
    failed: Optional[OpError] = None
    mode = stat.mode & 0o7777
    chowned = False
    if seen.st_uid != stat.uid or seen.st_gid != stat.gid:
        try:
            os.chown(at, stat.uid, stat.gid)
            chowned = True
        except OSError as e:
            failed = _owner_error(e, stat)
    if chowned or seen.st_mode & 0o7777 != mode:
        try:
            os.chmod(at, mode)
        except OSError as e:
            failed = failed or system_error(e, "chmod")
    if xattrs is not None:
        try:
            if _set_xattrs_of_ours(at, xattrs) and os.stat(at).st_mode & 0o7777 != mode:
                os.chmod(at, mode)
        except OpError as e:
            failed = failed or e
        except OSError as e:
            failed = failed or system_error(e, "xattrs")
    if times:
        try:
            os.utime(at, ns=(stat.atime_ns, stat.mtime_ns))
        except OSError as e:
            failed = failed or system_error(e, "times")
    if failed is not None:
        raise failed


def set_link_attributes(pfd: int, name: bytes, seen: os.stat_result, stat: Stat, times: bool = True) -> None:
    """The same for a symlink: owner and times; its mode and xattrs are none. Raises OpError."""
    failed: Optional[OpError] = None
    if seen.st_uid != stat.uid or seen.st_gid != stat.gid:
        try:
            os.chown(name, stat.uid, stat.gid, dir_fd=pfd, follow_symlinks=False)
        except OSError as e:
            failed = _owner_error(e, stat)
    if times:
        try:
            os.utime(name, ns=(stat.atime_ns, stat.mtime_ns), dir_fd=pfd, follow_symlinks=False)
        except OSError as e:
            failed = failed or system_error(e, "times")
    if failed is not None:
        raise failed


def set_where(where: Where, stat: Stat, xattrs: Optional[dict[bytes, bytes]], times: bool = True) -> None:
    """Attributes of an object found on disk, whatever its type (SEC-14). Raises OpError; ESTALE when it changed."""
    if _stat.S_ISLNK(where.st.st_mode):
        set_link_attributes(where.pfd, where.name, where.st, stat, times)
        return
    fd = os.open(where.name, _PATH, dir_fd=where.pfd)
    try:
        now = os.fstat(fd)
        if ident_of(now) != ident_of(where.st):
            raise OpError(errno.ESTALE, "system: it was replaced by something else just now")
        set_attributes(f"/proc/self/fd/{fd}", now, stat, xattrs if has_xattrs(now.st_mode) else None, times)
    finally:
        os.close(fd)


def has_xattrs(mode: int) -> bool:
    """Can this type of object carry the xattrs we replicate?"""
    return not _stat.S_ISLNK(mode)


def _owner_error(error: OSError, stat: Stat) -> OpError:
    if error.errno == errno.EPERM:
        return OpError(
            errno.EPERM,
            f"owner: cannot give it to {stat.uid}:{stat.gid}; the agent runs as uid {os.geteuid()}, not as root",
        )
    return system_error(error, "chown")
