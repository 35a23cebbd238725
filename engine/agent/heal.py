"""After a crash the disk is ahead of the index: one walk that sets the rows of known objects by their inodes."""

from __future__ import annotations

import os
import stat as _stat
from collections.abc import Iterator
from typing import NamedTuple

from engine.agent.index import Row
from engine.agent.pending import PendingIndex
from engine.agent.types import LIMBO, ROOT, STATE_DIR, Gfid, Slot

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


NOWHERE: Gfid = bytes(16)
"""The parent in the rows of objects that have no slot now: still being made, or strays (named by their gfid in hex)."""


class Stray(NamedTuple):
    """A known object below a directory that the index does not know: names from the nearest known directory."""

    parent: Gfid
    path: tuple[bytes, ...]
    ident: bytes
    kind: int


def entry_kind(entry: os.DirEntry[str]) -> int:
    """The type bits of a directory entry, from readdir for the common ones."""
    if entry.is_symlink():
        return _stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return _stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return _stat.S_IFREG
    return _stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def read_dir(top_fd: int, path: tuple[bytes, ...], expected: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, identity and type of all entries of a directory, walked to by components without following links.

    Where readdir's inode number is not the one in `expected`, stat is asked too: filesystems in layers give different
    ones. A directory that is gone, or may not be read, gives nothing.
    """
    fd = os.open(b".", _DIR, dir_fd=top_fd)
    try:
        for name in path:
            new = os.open(name, _DIR, dir_fd=fd)
            os.close(fd)
            fd = new
        with os.scandir(fd) as entries:
            for e in entries:
                name = os.fsencode(e.name)
                try:
                    ident = e.inode().to_bytes(8, "big")
                    if expected.get(name) != ident:
                        ident = e.stat(follow_symlinks=False).st_ino.to_bytes(8, "big")
                    yield name, ident, entry_kind(e)
                except FileNotFoundError:
                    continue
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    finally:
        os.close(fd)


class Scanned(NamedTuple):
    """What cannot be set; the slots that were, with their objects; files whose content was replaced by another inode."""

    strays: dict[Gfid, Stray]
    found: dict[Slot, Gfid]
    rewritten: list[Gfid]


def scan(root_fd: int, limbo_fd: int, index: PendingIndex) -> Scanned:
    """Compare every name on disk with the index by inode and set what differs."""
    strays: dict[Gfid, Stray] = {}
    gone: list[Slot] = []
    found: list[Row] = []  # written at the end: each row may be the only trace of an object met later
    unknown: list[Row] = []  # files where the index has others: perhaps new content of those
    # top descriptor, path from there, gfid or b"", nearest known directory and path from it
    todo: list[tuple[int, tuple[bytes, ...], Gfid, Gfid, tuple[bytes, ...]]] = [
        (limbo_fd, (), LIMBO, LIMBO, ()),
        (root_fd, (), ROOT, ROOT, ()),
    ]
    while todo:
        top, path, gfid, near, below = todo.pop()
        rows = {r.name: r for r in index.children(gfid)} if gfid else {}
        for name, ident, kind in list(read_dir(top, path, {n: r.ident for n, r in rows.items()})):
            if gfid == ROOT and name == STATE_DIR:
                continue
            row = rows.get(name)
            known = b""
            if row is not None and row.ident == ident and row.kind == kind:
                known = row.gfid
            else:
                other = index.by_ident(ident, kind)
                if other is not None:
                    known = other.gfid
                    if kind == _stat.S_IFDIR and other.parent != NOWHERE:
                        gone.append(other.slot)
                    if gfid and (gfid != LIMBO or name == known.hex().encode()):
                        found.append(Row(gfid, name, known, kind, ident, 0, 0, 0))
                    elif known not in strays:
                        strays[known] = Stray(near, (*below, name), ident, kind)
                        found.append(Row(NOWHERE, known.hex().encode(), known, kind, ident, 0, 0, 0))
                elif row is not None and gfid != LIMBO and kind == row.kind == _stat.S_IFREG:
                    unknown.append(row._replace(ident=ident))
            if kind == _stat.S_IFDIR:
                start = (known, ()) if known else (near, (*below, name))
                todo.append((top, (*path, name), known, *start))
    gone += [r.slot for r in index.children(NOWHERE) if r.gfid not in strays]
    index.remove(gone)
    index.put(found)
    return Scanned(strays, {r.slot: r.gfid for r in found if r.parent not in (NOWHERE, LIMBO)}, _rewritten(index, unknown, found))


def _rewritten(index: PendingIndex, unknown: list[Row], found: list[Row]) -> list[Gfid]:
    """Give files that are nowhere else, under a name that was theirs, their new inode: content put in place since.

    Should another object have been made under that name, the operations that are repeated say so.
    """
    elsewhere = {r.gfid for r in found}
    rows = [r for r in unknown if r.gfid not in elsewhere and len(index.rows(r.gfid)) == 1]
    index.put(rows)
    return [r.gfid for r in rows]


def tidy(root_fd: int, limbo_fd: int, index: PendingIndex) -> int:
    """Remove rows whose objects are not on disk where they say; how many directories are known."""
    todo: list[tuple[int, tuple[bytes, ...], Gfid]] = [(limbo_fd, (), LIMBO), (root_fd, (), ROOT)]
    known = {LIMBO, ROOT}
    while todo:
        top, path, gfid = todo.pop()
        rows = {r.name: r for r in index.children(gfid)}
        for name, ident, kind in list(read_dir(top, path, {n: r.ident for n, r in rows.items()})):
            row = rows.get(name)
            if row is not None and row.ident == ident and row.kind == kind:
                del rows[name]
                if kind == _stat.S_IFDIR:
                    known.add(row.gfid)
                    todo.append((top, (*path, name), row.gfid))
        index.remove([r.slot for r in rows.values()])
    for parent in [g for g in index.directories() if g not in known]:
        index.remove([r.slot for r in index.children(parent)])
    return len(known)
