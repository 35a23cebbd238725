"""What is on disk but not in the index: counted, shown, and swept into limbo when an adoption ends (CRW-8)."""

from __future__ import annotations

import contextlib
import os
import stat as _stat
from collections.abc import Iterator
from typing import NamedTuple, Optional

from engine.agent.heal import read_dir
from engine.agent.tree import Tree
from engine.agent.types import ROOT, STATE_DIR, Gfid


class Foreign(NamedTuple):
    """One unknown object; `top`: its parent directory is known. `parent` is that of the topmost unknown above it."""

    path: tuple[bytes, ...]
    parent: Gfid
    kind: int
    top: bool


def walk(tree: Tree) -> Iterator[Foreign]:
    """Everything unknown in the tree, what is inside unknown directories included. Nothing may change meanwhile."""
    todo: list[tuple[tuple[bytes, ...], Gfid, Gfid]] = [((), ROOT, ROOT)]
    while todo:
        path, gfid, near = todo.pop()
        rows = {r.name: r for r in tree.index.children(gfid)} if gfid else {}
        expected = {n: r.ident for n, r in rows.items()}
        for name, ident, kind in list(read_dir(tree.root_fd, path, expected)):
            if gfid == ROOT and name == STATE_DIR:
                continue
            row = rows.get(name)
            known = row is not None and row.ident == ident and row.kind == kind
            if not known:
                yield Foreign((*path, name), near, kind, bool(gfid))
            if kind == _stat.S_IFDIR:
                if row is not None and known:
                    todo.append(((*path, name), row.gfid, row.gfid))
                else:
                    todo.append(((*path, name), b"", near))


def stat_of(tree: Tree, path: tuple[bytes, ...]) -> Optional[os.stat_result]:
    """lstat of something found by `walk`; None when it is gone."""
    fd = os.dup(tree.root_fd)
    try:
        for name in path[:-1]:
            new = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = new
        return os.stat(path[-1], dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        os.close(fd)


def sweep(tree: Tree, since_ns: int = 0) -> int:
    """Move what is unknown to limbo; how many objects, those inside of directories included. Directories keep their times.

    With `since_ns` only what was made or changed since then (ctime, unix time in nanoseconds): after a crash that is
    what the interrupted operations made and nothing later accounted for.
    """
    tops: list[Foreign] = []
    n = 0
    for f in walk(tree):
        n += 1
        if f.top:
            tops.append(f)
    for f in tops:
        if since_ns:
            st = stat_of(tree, f.path)
            if st is None or st.st_ctime_ns < since_ns:
                continue
        name = f.path[-1]
        pfd = tree.dirfd(f.parent)
        before = os.fstat(pfd)
        tree.banish(pfd, name, b"/".join(f.path))
        with contextlib.suppress(PermissionError):  # of someone else: they can't be set by anyone but root
            os.utime(f"/proc/self/fd/{pfd}", ns=(before.st_atime_ns, before.st_mtime_ns))
        if tree.index.get(f.parent, name) is not None:
            tree.index.remove_slot(f.parent, name)
        tree.dirs.settle()
    return n


class Waiting(NamedTuple):
    """One thing in limbo, counted recursively; sizes in bytes."""

    name: bytes
    kind: int
    objects: int
    size: int


def in_limbo(tree: Tree) -> list[Waiting]:
    """All that is in limbo."""
    found: list[Waiting] = []
    for name in sorted(map(os.fsencode, os.listdir(tree.limbo_fd))):
        try:
            st = os.stat(name, dir_fd=tree.limbo_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        objects, size = 1, 0 if _stat.S_ISDIR(st.st_mode) else st.st_size
        todo: list[tuple[bytes, ...]] = [(name,)] if _stat.S_ISDIR(st.st_mode) else []
        while todo:
            path = todo.pop()
            for child, _, kind in list(read_dir(tree.limbo_fd, path, {})):
                objects += 1
                if kind == _stat.S_IFDIR:
                    todo.append((*path, child))
        found.append(Waiting(name, _stat.S_IFMT(st.st_mode), objects, size))
    return found
