"""Making one object of a volume be exactly where the primary has it (CON-1 to 5); what is in the way is only reported."""

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
    objects: Objects, entries: GlusterEntries, gfid: Gfid, slots: list[Slot], stat: Stat, link: Optional[bytes],
    xattrs: Xattrs,
) -> Placed:  # fmt: skip
    """Make this object be at exactly these slots (a directory: the first).

    Raises OpError `parent` when a parent is missing, EEXIST `occupied` with the gfid that has one of the names.
    """
    if not slots:
        remove(objects, entries, gfid, ())
        return Placed(False, False, 0, 0, None)
    for slot in slots:
        check_name(slot)
    directory = _stat.S_ISDIR(stat.mode)
    if directory:
        slots = slots[:1]
    now = objects.exists(gfid)
    if now is not None and not _same(objects, gfid, now, stat, link):
        remove(objects, entries, gfid, ())
        now = None
    made = now is None
    fop = Fop.MKDIR if directory else Fop.LINK
    for slot in slots:
        out = Applied()
        with objects.held(slot):
            entries.place(0, EntryOp(fop, gfid, slot, None, stat, link, None, None), slot, out, move=True)
    if not directory:
        wanted = set(slots)
        for slot in objects.names(gfid, False):
            if slot not in wanted:
                _unlink(objects, slot, gfid)
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
        return Placed(made, regular and not same, st.st_size, st.st_mtime_ns, failed)
    finally:
        os.close(found.fd)


def _same(objects: Objects, gfid: Gfid, now: os.stat_result, stat: Stat, link: Optional[bytes]) -> bool:
    if _stat.S_IFMT(now.st_mode) != _stat.S_IFMT(stat.mode):
        return False
    if not _stat.S_ISLNK(stat.mode) or link is None:
        return True
    return os.readlink(objects.by_gfid(gfid), dir_fd=objects.root_fd) == link


def remove(objects: Objects, entries: GlusterEntries, gfid: Gfid, below: Container[Gfid]) -> int:
    """Take an object away with all its names, a directory with what is in it and in `below`. How many names there were.

    OpError ENOTEMPTY when a directory holds something else.
    """
    if gfid == ROOT:
        raise OpError(errno.EINVAL, "refused: the root is not removed")
    st = objects.exists(gfid)
    if st is None:
        return 0
    directory = _stat.S_ISDIR(st.st_mode)
    n = 0
    for slot in objects.names(gfid, directory):
        if directory:
            try:
                os.rmdir(slot.name, dir_fd=objects.directory(slot.parent))
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, *GONE):
                    raise
                if e.errno not in GONE:
                    entries.remove_tree(slot, gfid, below)
            objects.forget(gfid)
        else:
            _unlink(objects, slot, gfid)
        n += 1
    return n


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


def clear_slot(objects: Objects, slot: Slot) -> Optional[Gfid]:
    """Remove whatever has this name; its gfid, None when nothing was there. OpError ENOTEMPTY with a directory's gfid."""
    check_name(slot)
    try:
        st = objects.look(slot)
    except OpError as e:
        if e.text.startswith("parent"):
            return None
        raise
    if st is None:
        return None
    gfid = objects.gfid_at(slot)
    if not gfid:
        return None
    if _stat.S_ISDIR(st.st_mode):
        try:
            os.rmdir(slot.name, dir_fd=objects.directory(slot.parent))
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise OpError(errno.ENOTEMPTY, "not empty: the directory still holds something here", gfid) from e
        objects.forget(gfid)
    else:
        _unlink(objects, slot, gfid)
    return gfid


def _unlink(objects: Objects, slot: Slot, gfid: Gfid) -> None:
    with objects.held(slot):
        st = objects.look(slot)
        if st is not None and st.st_ino == inode_of(gfid):
            os.unlink(slot.name, dir_fd=objects.directory(slot.parent))
