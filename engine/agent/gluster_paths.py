"""Paths of objects through a mount with access by gfid: GlusterFS's answers, parsed, and each path seen to lead to the object.

GlusterFS knows the names of a file as far as the brick with its data has noted them: at most 500 of many hard links, and
none where `storage.gfid2path` was off when they were made. So an answer may lack names; it never proves that one is gone.
"""

from __future__ import annotations

import errno
import os
import uuid
from typing import Optional

from engine.agent.types import ROOT, Gfid, Slot

GONE = (errno.ENOENT, errno.ESTALE)
_GFID = "glusterfs.gfid.string"
_PATHS = "glusterfs.gfidtopath"
_PATH_OF_DIRECTORY = "glusterfs.gfid2path"
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def text_of(gfid: Gfid) -> str:
    """A gfid as GlusterFS writes it."""
    return str(uuid.UUID(bytes=gfid))


def inode_of(gfid: Gfid) -> int:
    """The inode number a mount shows for a gfid."""
    return int.from_bytes(gfid[8:], "big")


def gfid_of(path: bytes) -> Gfid:
    """The gfid of what is at a path, b"" when nothing is. OSError."""
    try:
        return uuid.UUID(os.getxattr(path, _GFID, follow_symlinks=False).decode("ascii").rstrip("\0")).bytes
    except OSError as e:
        if e.errno in GONE:
            return b""
        raise


def walk(root_fd: int, parts: list[bytes], flags: int = _DIR) -> int:
    """Open a directory by its path, component by component, through no link. OSError."""
    fd = os.open(b".", flags if not parts else _DIR, dir_fd=root_fd)
    try:
        for i, part in enumerate(parts):
            new = os.open(part, flags if i == len(parts) - 1 else _DIR, dir_fd=fd)
            os.close(fd)
            fd = new
    except BaseException:
        os.close(fd)
        raise
    return fd


def path_of_directory(root_fd: int, gfid: Gfid) -> Optional[list[bytes]]:
    """The path of a directory, as components below the root, unchecked; None when it is nowhere. OSError."""
    if gfid == ROOT:
        return []
    raw = _answer(root_fd, gfid, _PATH_OF_DIRECTORY)
    return None if raw is None else raw.split(b"/")[1:]


def slots_of(root_fd: int, gfid: Gfid, directory: bool) -> list[Slot]:
    """The names of an object that are noted, a file's each seen to hold it just now; [] when it is nowhere. OSError."""
    with _Directories(root_fd) as directories:
        if directory:
            parts = path_of_directory(root_fd, gfid)
            found = [parts] if parts else []
        else:
            raw = _answer(root_fd, gfid, _PATHS)
            found = [] if raw is None else _split(directories, raw, gfid)
        slots = (directories.slot(parts) for parts in found)
        return list(dict.fromkeys(slot for slot in slots if slot is not None))


def _answer(root_fd: int, gfid: Gfid, key: str) -> Optional[bytes]:
    at = b"/proc/self/fd/%d/.gfid/%s" % (root_fd, text_of(gfid).encode())
    try:
        return os.getxattr(at, key, follow_symlinks=False).rstrip(b"\0")
    except OSError as e:
        if e.errno in (*GONE, errno.ENODATA):
            return None
        raise


class _Directories:
    """Directories on the way to names, opened once each: of a file with many names most are in the same ones."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._open: dict[tuple[bytes, ...], Optional[int]] = {}
        self._gfids: dict[tuple[bytes, ...], Gfid] = {}

    def __enter__(self) -> _Directories:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            if fd is not None:
                os.close(fd)

    def fd(self, parts: list[bytes]) -> Optional[int]:
        """A descriptor of this directory, None when there is no such."""
        key = tuple(parts)
        if key not in self._open:
            try:
                self._open[key] = walk(self._root_fd, parts)
            except OSError:
                self._open[key] = None
        return self._open[key]

    def holds(self, parts: list[bytes], gfid: Gfid) -> bool:
        """Does this path lead to that object now?"""
        fd = self.fd(parts[:-1])
        if fd is None:
            return False
        try:
            return os.stat(parts[-1], dir_fd=fd, follow_symlinks=False).st_ino == inode_of(gfid)
        except OSError:
            return False

    def slot(self, parts: list[bytes]) -> Optional[Slot]:
        """A path as a name in a directory; None where the way to it is gone."""
        above = tuple(parts[:-1])
        if not above:
            return Slot(ROOT, parts[0])
        if above not in self._gfids:
            fd = self.fd(parts[:-2])
            self._gfids[above] = b"" if fd is None else gfid_of(b"/proc/self/fd/%d/%s" % (fd, above[-1]))
        parent = self._gfids[above]
        return Slot(parent, parts[-1]) if parent else None


def _split(directories: _Directories, raw: bytes, gfid: Gfid) -> list[list[bytes]]:
    """Paths that are joined by ":", which names may hold too, so a path is what leads to the object.

    GlusterFS 10 writes each last name over the one before it: of a longer one, the end stays behind it.
    """
    pieces = raw.split(b":/")
    pieces[0] = pieces[0][1:]
    found: dict[tuple[bytes, ...], None] = {}
    before, at = b"", 0
    while at < len(pieces):
        for end in range(at + 1, len(pieces) + 1):
            *above, last = b":/".join(pieces[at:end]).split(b"/")
            lengths = [len(last), *(n for n in range(len(last) - 1, 0, -1) if last[n:] == before[n:])]
            # each is another name: where a name begins with another one, both lead to the object
            paths = ((*above, last[:n]) for n in lengths)
            whole = next((p for p in paths if p not in found and directories.holds(list(p), gfid)), None)
            if whole is not None:
                found[whole] = None
                before, at = last, end - 1
                break
            if directories.fd([*above, last + b":"]) is None:
                break  # nothing longer can be a path either
        if whole is None:
            before = pieces[at].rpartition(b"/")[2]  # a name that is outdated is written over like any other
        at += 1
    return [list(parts) for parts in found]
