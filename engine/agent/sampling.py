"""Is the replica as it was committed? Rows of the index held against the disk: some of them, or all, a step at a time.

A restore of files gives them other inodes or other ctimes, whatever else it brings back. Nothing is changed here.
"""

from __future__ import annotations

import os
import secrets
import stat as _stat
from typing import NamedTuple, Optional

from engine.agent.handles import OpError, ident_of
from engine.agent.heal import NOWHERE
from engine.agent.index import Row
from engine.agent.pending import NEWEST
from engine.agent.tree import Tree
from engine.agent.types import LIMBO, Slot

RANDOM = 64
"""Rows looked at beside the newest."""

SHOWN = 5
"""Differences told in words."""


class Looked(NamedTuple):
    """How many rows were looked at, how many are otherwise there, and some of those in words."""

    rows: int
    differ: int
    words: list[str]


def sample(tree: Tree) -> Looked:
    """Look at the rows that were written last and at some random ones."""
    rows: dict[Slot, Row] = {}
    for slot in tree.index.newest()[-NEWEST:]:
        row = tree.index.get(slot.parent, slot.name)
        if row is not None:
            rows[slot] = row
    for _ in range(RANDOM):
        row = tree.index.near(secrets.token_bytes(16))
        if row is None:
            break
        rows[row.slot] = row
    return _looked(tree, list(rows.values()))


def step(tree: Tree, limit: int) -> tuple[Looked, bool]:
    """Look at the next rows of a pass through all of them; was that the end of the pass? Only between commits, when the
    index says what is on the disk."""
    kept = tree.index.fact("inspected")
    parent, _, name = str(kept or ":").partition(":")
    rows = tree.index.page(Slot(bytes.fromhex(parent), bytes.fromhex(name)), limit)
    over = len(rows) < limit
    last = None if over else f"{rows[-1].parent.hex()}:{rows[-1].name.hex()}"
    tree.index.set_fact("inspected", last)
    return _looked(tree, rows), over


def _looked(tree: Tree, rows: list[Row]) -> Looked:
    words: list[str] = []
    differ = looked = 0
    for row in rows:
        if row.parent in (LIMBO, NOWHERE):
            continue
        looked += 1
        what = _different(tree, row)
        if what:
            differ += 1
            if len(words) < SHOWN:
                path = tree.index.path(row.parent)
                name = (path + b"/" if path else b"") + row.name
                words.append(f"{name.decode('utf-8', 'backslashreplace')} {what}")
    tree.dirs.settle()
    return Looked(looked, differ, words)


def _different(tree: Tree, row: Row) -> Optional[str]:
    """How an object differs from its row, in words; None where it does not."""
    try:
        st = os.stat(row.name, dir_fd=tree.dirfd(row.parent), follow_symlinks=False)
    except (OpError, FileNotFoundError, NotADirectoryError):
        return "is gone"
    except PermissionError:
        return None  # it cannot be looked at: nothing is known
    if ident_of(st) != row.ident or _stat.S_IFMT(st.st_mode) != row.kind:
        return "is another object"
    if row.kind == _stat.S_IFDIR or not row.ctime_ns:
        return None
    if st.st_size != row.size:
        return f"has {st.st_size} bytes instead of {row.size}"
    if st.st_mtime_ns != row.mtime_ns or st.st_ctime_ns != row.ctime_ns:
        return "was changed or restored"
    return None
