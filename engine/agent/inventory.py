"""What is on disk before the first byte of an adoption is written, and what a person allowed of it (CRW-8, SAFE-1)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat as _stat
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from engine.agent.handles import ident_of
from engine.agent.tree import Tree
from engine.agent.types import ROOT, STATE_DIR, Gfid

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST = 1_000_000

NEW, EQUAL, KEEP, REPLACE, REMOVE = "new", "equal", "keep", "replace", "remove"
"""Verdicts on an object: not judged, or changed since; as the primary has it; not to be touched; approved for one of both."""
_CODES = {EQUAL: 1, KEEP: 2, REPLACE: 3, REMOVE: 4}
_WORDS = {code: word for word, code in _CODES.items()}


class Found(NamedTuple):
    """One object on disk. `gfid` is empty where the index does not know it; `closed`: a directory that may not be read."""

    path: tuple[bytes, ...]
    st: os.stat_result
    link: Optional[bytes]
    gfid: Gfid
    closed: bool = False

    @property
    def kind(self) -> int:
        return _stat.S_IFMT(self.st.st_mode)


def walk(root_fd: int, tree: Optional[Tree], top: tuple[bytes, ...] = ()) -> Iterator[Found]:
    """Everything below `top`, each directory before what is in it, names in order of their bytes. Without a tree nothing
    is known. Links are not followed."""
    todo: list[Found] = list(reversed(_children(root_fd, tree, top, ROOT if not top else b"") or []))
    while todo:
        one = todo.pop()
        if one.kind != _stat.S_IFDIR:
            yield one
            continue
        below = _children(root_fd, tree, one.path, one.gfid)
        yield one if below is not None else one._replace(closed=True)
        todo += reversed(below or [])


def _children(root_fd: int, tree: Optional[Tree], path: tuple[bytes, ...], gfid: Gfid) -> Optional[list[Found]]:
    """The entries of one directory in order; None where it may not be read, nothing where it is gone."""
    rows = {r.name: r for r in tree.index.children(gfid)} if tree is not None and gfid else {}
    out: list[Found] = []
    try:
        fd = _open(root_fd, path)
    except PermissionError:
        return None
    except (FileNotFoundError, NotADirectoryError):
        return out
    try:
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            if not path and name == STATE_DIR:
                continue
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                link = os.readlink(name, dir_fd=fd) if _stat.S_ISLNK(st.st_mode) else None
            except FileNotFoundError:
                continue
            row = rows.get(name)
            known = row is not None and row.ident == ident_of(st) and row.kind == _stat.S_IFMT(st.st_mode)
            out.append(Found((*path, name), st, link, row.gfid if row is not None and known else b""))
    finally:
        os.close(fd)
    return out


def _open(root_fd: int, path: tuple[bytes, ...]) -> int:
    """A directory by its components, without following links. OSError."""
    fd = os.open(b".", _DIR, dir_fd=root_fd)
    for name in path:
        try:
            new = os.open(name, _DIR, dir_fd=fd)
        finally:
            os.close(fd)
        fd = new
    return fd


def open_file(root_fd: int, path: bytes) -> int:
    """A descriptor for reading a regular file by its path. OSError."""
    parts = path.split(b"/")
    fd = _open(root_fd, tuple(parts[:-1]))
    try:
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


class Inventory:
    """The unknown objects of one tree by path, as they were when they were listed, each with the verdict on it.

    It lives as long as the connection; what it says holds only for an object that has kept inode, type, size and mtime
    (a directory: inode and type). Nothing is permitted before `judged`.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._walk: Iterator[Found] = iter(())
        self._noting = False
        self._judged = False
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a temporary file: it may be large
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE seen (path INTEGER PRIMARY KEY, ino, kind, size, mtime, verdict)")

    def begin(self, *, note: bool, top: tuple[bytes, ...] = ()) -> None:
        """Walk from the start. `note`: everything unknown is written down, to be judged."""
        self._noting = note
        if note:
            self._db.execute("DELETE FROM seen")
            self._judged = False
        self._walk = walk(self._tree.root_fd, self._tree, top)

    def page(self, limit: int) -> list[tuple[Found, str]]:
        """The next objects with the verdicts on them; none at the end."""
        out: list[tuple[Found, str]] = []
        for one in self._walk:
            verdict = NEW if self._noting or one.gfid else self.verdict(one.path, one.st)
            if self._judged and verdict == NEW and not one.gfid:
                self._note(one)  # so that it can be judged, as it is now
            out.append((one, verdict))
            if len(out) >= limit:
                break
        if self._noting:
            rows = [(_key(f.path), *_facts(f.st), 0) for f, _ in out if not f.gfid]
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?,?,?,?,?,?)", rows)
            self._db.execute("COMMIT")
        return out

    def judge(self, paths: list[bytes], verdict: str) -> None:
        """What is at these paths, as it was noted, gets this verdict. KeyError for a verdict that is none."""
        code = _CODES[verdict]
        self._db.execute("BEGIN")
        self._db.executemany("UPDATE seen SET verdict=? WHERE path=?", [(code, _key(tuple(p.split(b"/")))) for p in paths])
        self._db.execute("COMMIT")

    def judged(self) -> None:
        """Every difference has its verdict: all else is as the primary has it."""
        self._db.execute("UPDATE seen SET verdict=? WHERE verdict=0", (_CODES[EQUAL],))
        self._judged = True

    def _note(self, found: Found) -> None:
        row = (_key(found.path), *_facts(found.st), _CODES[KEEP])
        self._db.execute("INSERT OR REPLACE INTO seen VALUES (?,?,?,?,?,?)", row)

    def verdict(self, path: tuple[bytes, ...], st: os.stat_result) -> str:
        """The verdict on an object that is still as it was noted; NEW for any other."""
        if not self._judged:
            return NEW
        row = self._db.execute("SELECT ino, kind, size, mtime, verdict FROM seen WHERE path=?", (_key(path),)).fetchone()
        if row is None or not same(row[:4], st):
            return NEW
        return _WORDS.get(row[4], NEW)

    def permits(self, parent: Gfid, name: bytes, st: os.stat_result) -> bool:
        """May this unknown object give way to what the primary has there? A directory only with all that is in it."""
        above = self._tree.index.path(parent)
        if above is None:
            return False
        path = (*above.split(b"/"), name) if above else (name,)
        if self.verdict(path, st) not in (EQUAL, REPLACE):
            return False
        if not _stat.S_ISDIR(st.st_mode):
            return True
        return all(
            not f.gfid and not f.closed and self.verdict(f.path, f.st) in (REPLACE, REMOVE)
            for f in walk(self._tree.root_fd, self._tree, path)
        )


def _key(path: tuple[bytes, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(b"/".join(path), digest_size=8).digest(), "big", signed=True)


def _facts(st: os.stat_result) -> tuple[str, int, str, str]:
    # an inode number, a size or a time may be beyond what SQLite takes as an integer
    return str(st.st_ino), _stat.S_IFMT(st.st_mode), str(st.st_size), str(st.st_mtime_ns)


def same(facts: Any, st: os.stat_result) -> bool:
    """Is it still the object with these facts (ino, kind, size, mtime_ns as text and number)?"""
    now = _facts(st)
    return now[:2] == tuple(facts[:2]) and (_stat.S_ISDIR(st.st_mode) or now == tuple(facts))


class Item(NamedTuple):
    """One object that is to go, as it was when it was listed."""

    path: bytes
    ino: int
    kind: int
    size: int
    mtime_ns: int


def sweep(tree: Tree, items: list[Item]) -> tuple[int, list[bytes]]:
    """Move exactly these unknown objects to limbo, in this order; how many went, and the paths of those that did not.

    An object that the index knows by now, that changed since it was listed, or a directory that is not empty stays.
    Directories keep their times. OSError for what hits the whole tree.
    """
    moved = 0
    left: list[bytes] = []
    for item in items:
        parts = tuple(item.path.split(b"/"))
        if _sweep_one(tree, item, parts):
            moved += 1
        else:
            left.append(item.path)
        tree.dirs.settle()
    return moved, left


def _sweep_one(tree: Tree, item: Item, parts: tuple[bytes, ...]) -> bool:
    if parts[0] == STATE_DIR or b"" in parts or b"." in parts or b".." in parts:
        return False
    try:
        pfd = _open(tree.root_fd, parts[:-1])
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    name = parts[-1]
    try:
        st = os.stat(name, dir_fd=pfd, follow_symlinks=False)
        if not same((str(item.ino), item.kind, str(item.size), str(item.mtime_ns)), st):
            return False
        row = tree.index.by_ident(ident_of(st), _stat.S_IFMT(st.st_mode))
        if row is not None and (st.st_nlink < 2 or _stat.S_ISDIR(st.st_mode) or _known(tree, parts, st)):
            return False
        if _stat.S_ISDIR(st.st_mode):
            fd = os.open(name, _DIR, dir_fd=pfd)
            try:
                with os.scandir(fd) as entries:
                    if next(entries, None) is not None:
                        return False
            finally:
                os.close(fd)
        before = os.fstat(pfd)
        tree.banish(pfd, name, item.path)
        with contextlib.suppress(PermissionError):  # of someone else: they can't be set by anyone but root
            os.utime(f"/proc/self/fd/{pfd}", ns=(before.st_atime_ns, before.st_mtime_ns))
        return True
    except (FileNotFoundError, PermissionError):
        return False
    finally:
        os.close(pfd)


def _known(tree: Tree, parts: tuple[bytes, ...], st: os.stat_result) -> bool:
    """Is this very name of a file with several names one that the index has?"""
    gfid = ROOT
    for name in parts[:-1]:
        row = tree.index.get(gfid, name)
        if row is None:
            return False
        gfid = row.gfid
    row = tree.index.get(gfid, parts[-1])
    return row is not None and row.ident == ident_of(st)
