"""Giving one object of a tree the names that the primary has looked up: how every conflict ends (CON-1 to 5)."""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Container
from typing import NamedTuple, Optional

from engine.agent import make
from engine.agent.attributes import set_where
from engine.agent.handles import OpError, check_name
from engine.agent.heal import NOWHERE
from engine.agent.index import Row
from engine.agent.tree import Tree, Where
from engine.agent.types import LIMBO, Gfid, Slot, Stat
from engine.agent.wire import Xattrs


class Placed(NamedTuple):
    """What `place` did: `made` anew or adopted; `data`: the content is needed; size and mtime now; what failed.

    `nlink` counts the links of the object afterwards; `beyond` are names that it has and nobody spoke of.
    """

    made: bool
    data: bool
    size: int
    mtime_ns: int
    failed: Optional[OpError]
    nlink: int
    beyond: list[Slot]


def place(
    tree: Tree, gfid: Gfid, slots: list[Slot], drop: list[Slot], stat: Stat, link: Optional[bytes], xattrs: Xattrs,
    replace: bool,
) -> Placed:  # fmt: skip
    """Give this object all of `slots` (a directory: the first), and take from it those of `drop`.

    No other name is taken from it: those that it has beyond are told.

    What is in the way goes to limbo: known objects by their gfid, unknown ones (only with `replace`) under a foreign
    name. An unknown object that is equal is adopted. Placed from the root downwards, any tree converges.
    Raises OpError `parent` when a parent is missing, `foreign` without `replace`; OSError.
    """
    if not slots:
        raise OpError(errno.EINVAL, "refused: an object is not placed nowhere")
    for slot in (*slots, *drop):
        check_name(slot)
    directory = _stat.S_ISDIR(stat.mode)
    if directory:
        slots = slots[:1]
    where = tree.locate(gfid)
    if where is not None and _stat.S_IFMT(where.st.st_mode) != _stat.S_IFMT(stat.mode):
        _disown(tree, gfid)
        where = None
    if (
        where is not None
        and _stat.S_ISLNK(stat.mode)
        and link is not None
        and os.readlink(where.name, dir_fd=where.pfd) != link
    ):
        _disown(tree, gfid)
        where = None
    made = where is None
    failed: Optional[OpError] = None
    if where is None:
        where, failed = _find_or_make(tree, gfid, slots, stat, link, xattrs, replace)
    for slot in slots:
        where = _put_at(tree, gfid, slot, where, replace, stat)
    beyond = _drop(tree, gfid, set(slots), set(drop))
    tree.dirs.settle()
    found = tree.locate(gfid)
    assert found is not None
    regular = _stat.S_ISREG(stat.mode)
    same = (found.st.st_size, found.st.st_mtime_ns) == (stat.size, stat.mtime_ns)
    if same or not regular:
        tree.unsure.discard(gfid)
        tree.hollow.discard(gfid)
    try:
        set_where(found, stat, xattrs, times=same or not regular)
    except OpError as e:
        failed = failed or e
    return Placed(made, regular and not same, found.st.st_size, found.st.st_mtime_ns, failed, found.st.st_nlink, beyond)


def remove(tree: Tree, gfid: Gfid, slots: Optional[Container[Slot]] = None) -> tuple[int, list[Slot]]:
    """Take names (None: all) from an object, its last to limbo (CON-1). How many it had of them, and those beyond."""
    n = 0
    beyond: list[Slot] = []
    tree.locate(gfid)  # after a crash, this may find it again
    for row in tree.index.rows(gfid):
        if row.parent == LIMBO:
            continue
        if slots is not None and row.parent != NOWHERE and row.slot not in slots:
            beyond.append(row.slot)
        else:
            where = tree.at(row)
            if where is not None:
                tree.unname(where.pfd, Slot(row.parent, where.name), row, where.st)
                n += 1
        tree.dirs.settle()
    return n, beyond


def clear_slot(tree: Tree, slot: Slot, gfid: Optional[Gfid] = None) -> Optional[Gfid]:
    """Move what has this name to limbo; its gfid, b"" for something unknown, None when nothing was there.

    With `gfid`, only where it is that object (b"": something unknown). OpError EEXIST `occupied` with the one it is.
    """
    check_name(slot)
    try:
        pfd = tree.dirfd(slot.parent)
    except OpError as e:
        if e.text.startswith("parent"):
            return None
        raise
    row, st = tree.probe(pfd, slot)
    if st is None:
        return None
    there = b"" if row is None else row.gfid
    if gfid is not None and there != gfid:
        raise OpError(errno.EEXIST, "occupied: another object has this name by now", there)
    if row is None:
        tree.banish(pfd, slot.name)
        return b""
    tree.unname(pfd, slot, row, st)
    return row.gfid


def _disown(tree: Tree, gfid: Gfid) -> None:
    """What has this gfid cannot be it: another type, another text. It goes to limbo as something foreign."""
    remove(tree, gfid)
    where = tree.locate(gfid)
    if where is not None:
        tree.banish(where.pfd, where.name)
        if where.row is not None:
            tree.index.remove_slot(where.row.parent, where.row.name)
    tree.limbo.discard(gfid)


def _find_or_make(
    tree: Tree,
    gfid: Gfid,
    slots: list[Slot],
    stat: Stat,
    link: Optional[bytes],
    xattrs: Xattrs,
    replace: bool,
) -> tuple[Where, Optional[OpError]]:
    """An equal unknown object at one of the slots, else a new one at the first."""
    for slot in slots:
        pfd = tree.dirfd(slot.parent)
        row, st = tree.probe(pfd, slot)
        if row is not None or st is None or not make.same_object(pfd, slot.name, st, stat, link):
            continue
        if _owner(tree, st) is None:
            return Where(pfd, slot.name, st, tree.register(slot, gfid, st)), None
    slot = slots[0]
    pfd = tree.dirfd(slot.parent)
    row, st = tree.probe(pfd, slot)
    if st is None:
        made = make.create(tree, pfd, slot, gfid, stat, link, None, xattrs)
    else:
        if row is None and not replace:
            raise make.foreign(st)
        made = make.replace(tree, pfd, slot, gfid, stat, link, None, xattrs, row, st)
    row, st = tree.probe(pfd, slot)
    assert row is not None and st is not None
    return Where(pfd, slot.name, st, row), made.failed


def _owner(tree: Tree, st: os.stat_result) -> Optional[Row]:
    """Whose file is this, when it has several names and the index knows one of them?"""
    if st.st_nlink < 2 or _stat.S_ISDIR(st.st_mode):
        return None
    row = tree.index.by_ident(st.st_ino.to_bytes(8, "big"), _stat.S_IFMT(st.st_mode))
    return row if row is not None and tree.at(row) is not None else None


def _put_at(tree: Tree, gfid: Gfid, slot: Slot, where: Where, replace: bool, stat: Stat) -> Where:
    """Give the object this name; returns where it then is."""
    pfd = tree.dirfd(slot.parent)
    row, st = tree.probe(pfd, slot)
    if row is not None and row.gfid == gfid and st is not None:
        tree.unconfirmed.pop(slot, None)
        return Where(pfd, slot.name, st, row)
    if row is None and st is not None:
        if st.st_ino == where.st.st_ino:
            return Where(pfd, slot.name, st, tree.register(slot, gfid, st))
        if not replace and not (
            _stat.S_ISREG(st.st_mode) and (st.st_size, st.st_mtime_ns) == (stat.size, stat.mtime_ns)
        ):
            raise make.foreign(st)
    if where.row is None or where.in_limbo or _stat.S_ISDIR(where.st.st_mode):
        tree.move(where, gfid, pfd, slot, row, st)
    else:
        tree.link(where, gfid, pfd, slot, row, st)
    return Where(pfd, slot.name, where.st, tree.index.get(*slot))


def _drop(tree: Tree, gfid: Gfid, wanted: Container[Slot], drop: Container[Slot]) -> list[Slot]:
    """Take the names of `drop` from an object, and those that are none (limbo); those it has beyond what is `wanted`."""
    beyond: list[Slot] = []
    for row in tree.index.rows(gfid):
        if row.slot in wanted:
            continue
        if row.parent not in (LIMBO, NOWHERE) and row.slot not in drop:
            beyond.append(row.slot)
            continue
        where = tree.at(row)
        if where is None:
            continue
        if row.parent == LIMBO:
            os.unlink(row.name, dir_fd=tree.limbo_fd)
            tree.limbo.discard(gfid)
            tree.index.remove_slot(row.parent, row.name)
        else:
            tree.unname(where.pfd, Slot(row.parent, where.name), row, where.st)
    return beyond
