"""Objects on a brick by gfid: handles, names below directories, what a brick's files and xattrs mean."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as _stat
import struct
from collections.abc import Iterable

from engine.model import ROOT, EntryChange, Gfid, Record, Slot, Stat, gfid_text, parse_gfid
from engine.volume.tree import stat_of

GFID = "trusted.gfid"
LINKTO = "trusted.glusterfs.dht.linkto"
MDATA = "trusted.glusterfs.mdata"
NAME_PREFIX = "trusted.gfid2path."

DEEPEST = 4096
"""Levels of directories: a path can have no more."""

INTERNAL = frozenset((b".glusterfs", b".trashcan", b".shard"))
"""Names in a brick's root that are the brick's own business."""

ANONYMOUS = b".glusterfs-anonymous-inode"
"""Where heals put aside what they remove; what follows is an id, and its gfid is another one in each volume."""

INTERNAL_GFIDS = {
    bytes.fromhex("be318638e8a04c6d977d7a937aa84806"),  # .shard
    bytes(15) + b"\x05",  # .trashcan
    bytes(15) + b"\x06",  # .trashcan/internal_op
    bytes(15) + b"\x07",  # .shard/.remove_me
    bytes(15) + b"\x08",  # .glusterfs-anonymous-inode
}  # fmt: skip
"""Directories that are the volumes' own business; those that were learnt are added."""

_MDATA = struct.Struct("!BQqqqqqq")
GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def internal(parent: Gfid, name: bytes) -> bool:
    """Is this slot the volume's own business?"""
    if parent in INTERNAL_GFIDS:
        return True
    return parent == ROOT and (name in INTERNAL or name.startswith(ANONYMOUS))


def learn_internal(brick: bytes) -> None:
    """Look up the gfids of a brick's own directories that are not the same everywhere. OSError."""
    for name in os.listdir(brick):
        if name.startswith(ANONYMOUS):
            with contextlib.suppress(OSError):  # gone just now, or not finished
                INTERNAL_GFIDS.add(os.getxattr(os.path.join(brick, name), GFID))


def learn_from(records: Iterable[Record]) -> None:
    """The same, of what is made while the brick is replicated."""
    for record in records:
        if isinstance(record, EntryChange) and record.slot.parent == ROOT and record.slot.name.startswith(ANONYMOUS):
            INTERNAL_GFIDS.add(record.gfid)


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


def below(brick: bytes, directory: Gfid, name: bytes = b".") -> tuple[bytes, os.stat_result]:
    """A path of a name in a directory (of the directory itself without one) and its lstat. OSError when it is not there.

    A directory's handle leads through one link for each level above it, and the kernel follows forty: deeper ones are
    reached by the names on the way.
    """
    path = handle(brick, directory) + b"/" + name
    try:
        return path, os.lstat(path)
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise
    path = _by_names(brick, directory) + b"/" + name
    return path, os.lstat(path)


def _by_names(brick: bytes, directory: Gfid) -> bytes:
    parts: list[bytes] = []
    while directory != ROOT:
        slot = directory_slot(handle(brick, directory))
        if slot is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        parts.append(slot.name)
        directory = slot.parent
        if len(parts) > DEEPEST:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return b"/".join((brick, *reversed(parts)))
