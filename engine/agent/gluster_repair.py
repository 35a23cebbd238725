"""Giving one object of a volume the names that the primary has looked up (CON-1 to 5).

A name is removed only where the caller names it and it holds the object that the caller expects. What else is found,
in the way or beyond, is reported: whether it is right, the primary must be asked.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Container
from typing import Optional

from engine.agent.gluster_entries import Applied, GlusterEntries
from engine.agent.gluster_objects import Objects, aside_name, set_found
from engine.agent.gluster_paths import GONE, inode_of
from engine.agent.handles import OpError, check_name
from engine.agent.repair import Placed
from engine.agent.types import ROOT, EntryOp, Fop, Gfid, Slot, Stat
from engine.agent.wire import Xattrs


def place(
    objects: Objects, entries: GlusterEntries, gfid: Gfid, slots: list[Slot], drop: list[Slot], stat: Stat,
    link: Optional[bytes], xattrs: Xattrs,
) -> Placed:  # fmt: skip
    """Give an object all of `slots` (a directory: the first), and take from it those of `drop`.

    Nothing else is removed: other names that it has are told in `beyond`. Raises OpError `parent` when a parent is
    missing, EEXIST `occupied` with the gfid that has one of the names, EEXIST `other-kind` when an object of this gfid
    has another type or text than the one wanted.
    """
    if not slots:
        raise OpError(errno.EINVAL, "refused: an object is not placed nowhere")
    for slot in (*slots, *drop):
        check_name(slot)
    directory = _stat.S_ISDIR(stat.mode)
    if directory:
        slots = slots[:1]
    now = objects.exists(gfid)
    if now is not None and not _same(objects, gfid, now, stat, link):
        now = _make_way(objects, entries, gfid, [*slots, *drop])
    made = now is None
    fop = Fop.MKDIR if directory else Fop.LINK
    for i, slot in enumerate(slots):
        out = Applied()
        with objects.held(slot):
            if not directory and (i or not made) and _link(objects, gfid, slot):
                continue
            entries.place(0, EntryOp(fop, gfid, slot, None, stat, link, None, None), slot, out, move=True)
    beyond: list[Slot] = []
    if not directory:
        beyond = _drop(objects, gfid, set(slots), drop)
    found = objects.find(gfid)
    if found is None:
        raise OpError(errno.ESTALE, "system: it went away just now")
    try:
        st = found.st
        regular = _stat.S_ISREG(stat.mode)
        same = (st.st_size, st.st_mtime_ns) == (stat.size, stat.mtime_ns)
        failed: Optional[OpError] = None
        try:
            set_found(objects, gfid, found, stat, xattrs, times=same or not regular)
        except OpError as e:
            failed = e
        return Placed(made, regular and not same, st.st_size, st.st_mtime_ns, failed, st.st_nlink, beyond)
    finally:
        os.close(found.fd)


def _link(objects: Objects, gfid: Gfid, slot: Slot) -> bool:
    """Give a file that is here one more name, without a look before; False where the name is taken, or anything else
    has to be looked at."""
    try:
        os.link(objects.by_gfid(gfid), slot.name, src_dir_fd=objects.root_fd, dst_dir_fd=objects.directory(slot.parent),
                follow_symlinks=False)  # fmt: skip
    except OSError as e:
        if e.errno not in (errno.EEXIST, *GONE):
            raise
        return False
    return True


def _make_way(objects: Objects, entries: GlusterEntries, gfid: Gfid, slots: list[Slot]) -> Optional[os.stat_result]:
    """What has this gfid is not that object (another type, another text): it gives up these names, which are all it has.

    What is left of it, None when nothing is. OpError EEXIST where it has others.
    """
    _, beyond, _ = remove(objects, entries, gfid, slots, ())
    if beyond:
        raise OpError(errno.EEXIST, "other-kind: another object has this gfid, with names of its own", gfid)
    return objects.exists(gfid)


def _drop(objects: Objects, gfid: Gfid, wanted: Container[Slot], drop: list[Slot]) -> list[Slot]:
    """Take names from an object, and the one it had while it was set aside; those it has beyond what is `wanted`."""
    for slot in drop:
        if slot not in wanted:
            _unlink(objects, slot, gfid)
    beyond: list[Slot] = []
    for slot in objects.names(gfid, False):
        if slot.name == aside_name(gfid):
            _unlink(objects, slot, gfid)
        elif slot not in wanted:
            beyond.append(slot)
    return beyond


def _same(objects: Objects, gfid: Gfid, now: os.stat_result, stat: Stat, link: Optional[bytes]) -> bool:
    if _stat.S_IFMT(now.st_mode) != _stat.S_IFMT(stat.mode):
        return False
    if not _stat.S_ISLNK(stat.mode) or link is None:
        return True
    return os.readlink(objects.by_gfid(gfid), dir_fd=objects.root_fd) == link


def remove(
    objects: Objects, entries: GlusterEntries, gfid: Gfid, slots: list[Slot], below: Container[Gfid]
) -> tuple[int, list[Slot], int]:
    """Take these names from an object, a directory with what is in it and in `below`.

    How many it had of them, the names that it has beyond them, and how many links it has then (0: it is gone). OpError
    ENOTEMPTY when a directory holds something else.
    """
    if gfid == ROOT:
        raise OpError(errno.EINVAL, "refused: the root is not removed")
    for slot in slots:
        check_name(slot)
    st = objects.exists(gfid)
    if st is None:
        return 0, [], 0
    directory = _stat.S_ISDIR(st.st_mode)
    n = 0
    for slot in slots:
        if not directory:
            n += _unlink(objects, slot, gfid)
            continue
        with objects.held(slot):
            there = _look(objects, slot)
            if there is None or there.st_ino != inode_of(gfid):
                continue
            try:
                os.rmdir(slot.name, dir_fd=objects.directory(slot.parent))
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, *GONE):
                    raise
                if e.errno not in GONE:
                    entries.remove_tree(slot, gfid, below)
            objects.forget(gfid)
        n += 1
    st = objects.exists(gfid)
    return (n, [], 0) if st is None else (n, objects.names(gfid, directory), st.st_nlink)


def set_aside(objects: Objects, gfid: Gfid, slots: list[Slot]) -> int:
    """Take those of these names that an object has from it: it gets one beside them that nobody uses, until it is placed.

    So objects that have each other's names come apart, and none is without a name meanwhile. How many names there were.
    """
    n = 0
    for slot in slots:
        check_name(slot)
        beside = Slot(slot.parent, aside_name(gfid))
        with objects.held(slot, beside), objects.lock(gfid):
            st = objects.look(slot)
            if st is None or st.st_ino != inode_of(gfid):
                continue
            pfd = objects.directory(slot.parent)
            taken = objects.look(beside)
            if taken is None:
                os.rename(slot.name, beside.name, src_dir_fd=pfd, dst_dir_fd=pfd)
                objects.remember(gfid, beside)
            elif taken.st_ino == st.st_ino and not _stat.S_ISDIR(st.st_mode):
                os.unlink(slot.name, dir_fd=pfd)
            else:
                raise OpError(errno.EEXIST, "occupied: the name beside it is another object's", objects.gfid_at(beside))
            n += 1
    return n


def clear_slot(objects: Objects, slot: Slot, gfid: Gfid) -> bool:
    """Remove this name, which is expected to hold that object; False when nothing has the name.

    OpError EEXIST `occupied` with the gfid of another object that has it, ENOTEMPTY for a directory that holds something.
    """
    check_name(slot)
    with objects.held(slot):
        st = _look(objects, slot)
        if st is None:
            return False
        if st.st_ino != inode_of(gfid):
            raise OpError(errno.EEXIST, "occupied: another object has this name by now", objects.gfid_at(slot))
        pfd = objects.directory(slot.parent)
        if not _stat.S_ISDIR(st.st_mode):
            os.unlink(slot.name, dir_fd=pfd)
            return True
        try:
            os.rmdir(slot.name, dir_fd=pfd)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise OpError(errno.ENOTEMPTY, "not empty: the directory still holds something here", gfid) from e
        objects.forget(gfid)
        return True


def _unlink(objects: Objects, slot: Slot, gfid: Gfid) -> bool:
    """Remove a name of a file where it holds that object; did it?"""
    with objects.held(slot):
        st = _look(objects, slot)
        if st is None or st.st_ino != inode_of(gfid):
            return False
        os.unlink(slot.name, dir_fd=objects.directory(slot.parent))
        return True


def _look(objects: Objects, slot: Slot) -> Optional[os.stat_result]:
    """What has this name, None when nothing has, or can have: its directory is not here."""
    try:
        return objects.look(slot)
    except OpError as e:
        if e.text.startswith("parent"):
            return None
        raise
