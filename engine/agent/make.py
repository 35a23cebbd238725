"""Making new objects of every type, with their attributes, and taking over unknown ones that are equal (CRW-8)."""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import Optional

from engine.agent.attributes import has_xattrs, set_attributes, set_link_attributes
from engine.agent.content import finish, write_whole
from engine.agent.handles import OpError, kind_word
from engine.agent.heal import NOWHERE
from engine.agent.index import Row
from engine.agent.tree import Tree, Where
from engine.agent.types import Gfid, Slot, Stat
from engine.agent.wire import Xattrs

NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Made:
    """What came of making one object: is it complete; size and mtime where content was written; what failed."""

    __slots__ = ("failed", "seen", "whole")

    def __init__(self, whole: bool, seen: Optional[tuple[int, int]] = None, failed: Optional[OpError] = None) -> None:
        self.whole = whole
        self.seen = seen
        self.failed = failed


def create(
    tree: Tree,
    pfd: int,
    slot: Slot,
    gfid: Gfid,
    stat: Optional[Stat],
    link: Optional[bytes],
    data: Optional[bytes],
    xattrs: Xattrs,
) -> Made:
    """Make an object at a slot that is free, and its row; owner root first, then chown (SEC-13).

    Attributes that could not be set are in the result; what kept the object from being made is raised.
    """
    if stat is None:
        raise OpError(errno.ENOENT, "absent: the object is not here, and what it is was not sent")
    kind = _stat.S_IFMT(stat.mode)
    name = slot.name
    if kind == _stat.S_IFREG:
        return _create_file(tree, pfd, slot, gfid, stat, data, xattrs)
    if kind == _stat.S_IFLNK:
        if link is None:
            raise OpError(errno.ENOENT, "absent: the symlink is not here, and its text was not sent")
        os.symlink(link, name, dir_fd=pfd)
        st = os.stat(name, dir_fd=pfd, follow_symlinks=False)
        tree.register(slot, gfid, st)
        return Made(xattrs is not None, None, _attempt_link(pfd, name, st, stat))
    if kind == _stat.S_IFDIR:
        os.mkdir(name, stat.mode & 0o7777, dir_fd=pfd)
        tree.dirs.drop(gfid)  # one that is open is another, which somebody has removed
    else:
        os.mknod(name, stat.mode, stat.rdev, dir_fd=pfd)
    st = os.stat(name, dir_fd=pfd, follow_symlinks=False)
    tree.register(slot, gfid, st)
    fd = os.open(name, _PATH, dir_fd=pfd)
    failed: Optional[OpError] = None
    try:
        set_attributes(f"/proc/self/fd/{fd}", st, stat, xattrs if has_xattrs(kind) else None)
    except OpError as e:
        failed = e
    finally:
        os.close(fd)
    return Made(xattrs is not None, None, failed)


def _create_file(
    tree: Tree, pfd: int, slot: Slot, gfid: Gfid, stat: Stat, data: Optional[bytes], xattrs: Xattrs
) -> Made:
    fd = os.open(slot.name, NEW_FILE, stat.mode & 0o7777, dir_fd=pfd)
    try:
        tree.register(slot, gfid, os.fstat(fd))
        if data is None:
            tree.hollow.add(gfid)
            failed = _attempt(fd, stat, xattrs, times=False)
            return Made(False, None, failed)
        write_whole(fd, data)
        size, mtime, failed = finish(fd, stat, xattrs)
        return Made(xattrs is not None, (size, mtime), failed)
    finally:
        os.close(fd)


def replace(
    tree: Tree,
    pfd: int,
    slot: Slot,
    gfid: Gfid,
    stat: Optional[Stat],
    link: Optional[bytes],
    data: Optional[bytes],
    xattrs: Xattrs,
    row: Optional[Row],
    st: os.stat_result,
) -> Made:
    """Make an object in place of what is there, which goes to limbo; readers see the one or the other."""
    name = tree.foreign_name(b"new")
    try:
        made = create(tree, tree.limbo_fd, Slot(NOWHERE, name), gfid, stat, link, data, xattrs)
        new = os.stat(name, dir_fd=tree.limbo_fd, follow_symlinks=False)
        tree.move(Where(tree.limbo_fd, name, new, None), gfid, pfd, slot, row, st)
    except (OSError, OpError):
        try:
            os.unlink(name, dir_fd=tree.limbo_fd)
        except FileNotFoundError:
            pass
        except OSError:  # a directory
            os.rmdir(name, dir_fd=tree.limbo_fd)
        raise
    finally:
        tree.index.remove_slot(NOWHERE, name)
    return made


def same_object(
    pfd: int, name: bytes, st: os.stat_result, stat: Optional[Stat], link: Optional[bytes], checksum: bool = False
) -> bool:
    """Is what is on disk what the primary has? Directories by name, files by size and mtime (or size alone where
    the content is compared afterwards), symlinks by text, others by type and device number (CRW-8)."""
    if stat is None or _stat.S_IFMT(st.st_mode) != _stat.S_IFMT(stat.mode):
        return False
    if _stat.S_ISDIR(st.st_mode):
        return True
    if _stat.S_ISREG(st.st_mode):
        return st.st_size == stat.size and (checksum or st.st_mtime_ns == stat.mtime_ns)
    if _stat.S_ISLNK(st.st_mode):
        return link is not None and os.readlink(name, dir_fd=pfd) == link
    return st.st_rdev == stat.rdev


def adopt(tree: Tree, pfd: int, slot: Slot, gfid: Gfid, st: os.stat_result, stat: Stat, xattrs: Xattrs) -> Made:
    """Write the row of an equal object and put its other attributes right."""
    tree.register(slot, gfid, st)
    if _stat.S_ISLNK(st.st_mode):
        return Made(True, None, _attempt_link(pfd, slot.name, st, stat))
    if not _needs(st, stat) and xattrs is None:
        return Made(True)
    fd = os.open(slot.name, _PATH, dir_fd=pfd)
    try:
        at = f"/proc/self/fd/{fd}"
        set_attributes(at, os.fstat(fd), stat, xattrs if has_xattrs(st.st_mode) else None, _needs(st, stat))
    except OpError as e:
        return Made(True, None, e)
    finally:
        os.close(fd)
    return Made(True)


def _needs(st: os.stat_result, stat: Stat) -> bool:
    return (
        st.st_uid != stat.uid
        or st.st_gid != stat.gid
        or st.st_mode & 0o7777 != stat.mode & 0o7777
        or st.st_mtime_ns != stat.mtime_ns
    )


def _attempt(at: int, stat: Stat, xattrs: Xattrs, times: bool) -> Optional[OpError]:
    try:
        set_attributes(at, os.fstat(at), stat, xattrs, times)
    except OpError as e:
        return e
    return None


def _attempt_link(pfd: int, name: bytes, st: os.stat_result, stat: Stat) -> Optional[OpError]:
    try:
        set_link_attributes(pfd, name, st, stat)
    except OpError as e:
        return e
    return None


def foreign(st: os.stat_result) -> OpError:
    """Something unknown is in the way and must not be touched."""
    what = f"{kind_word(st.st_mode)} of {st.st_size} bytes"
    return OpError(errno.EEXIST, f"foreign: {what} is there, not from the primary")
