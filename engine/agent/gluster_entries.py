"""Entry operations on a volume: the rows SEC-1 to SEC-15, side by side where they do not depend on one another."""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Container
from typing import Callable, Optional

from engine.agent.attributes import set_attributes, set_link_attributes
from engine.agent.content import write_whole
from engine.agent.gluster_content import open_regular
from engine.agent.gluster_objects import Objects, aside_name
from engine.agent.gluster_paths import GONE, gfid_of, inode_of
from engine.agent.gluster_pool import Needs, Pool, Wait
from engine.agent.handles import OpError, check_name, kind_word, system_error
from engine.agent.types import LIMBO, EntryOp, Fop, Gfid, Outcome, Slot, Stat

_MKNOD, _MKDIR, _UNLINK, _RMDIR, _SYMLINK, _RENAME, _LINK, _CREATE = (
    int(Fop.MKNOD), int(Fop.MKDIR), int(Fop.UNLINK), int(Fop.RMDIR), int(Fop.SYMLINK), int(Fop.RENAME),
    int(Fop.LINK), int(Fop.CREATE),
)  # fmt: skip
_MAKING = (_CREATE, _MKNOD, _MKDIR, _SYMLINK, _LINK)
_TAKEN = (errno.EEXIST, errno.ENODATA, *GONE)
"""How `make` fails when a name or gfid is taken, also just now by an agent of another brick."""
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_SEE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Applied:
    """What a list of operations came to; lists are appended to by several threads."""

    def __init__(self) -> None:
        self.failures: list[Outcome] = []
        self.made: dict[Gfid, None] = {}
        self._sizes: dict[Gfid, tuple[int, int, int]] = {}

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """Index, size and mtime of what was written whole and is still that."""
        return sorted(self._sizes.values())

    def written(self, i: int, gfid: Gfid, st: os.stat_result) -> None:
        """This operation has written the whole content."""
        self._sizes[gfid] = (i, st.st_size, st.st_mtime_ns)

    def needs(self, gfid: Gfid) -> None:
        """It is made, maybe anew after an agent of another brick has removed it: what was written before is gone."""
        self.made[gfid] = None
        self._sizes.pop(gfid, None)


def needs_of(op: EntryOp) -> Needs:
    """What an operation touches: its names and its object alone, the directories it works in beside others."""
    if op.dest is None:
        return Needs((op.gfid, op.slot), (op.slot.parent,), False)
    directory = op.stat is None or _stat.S_ISDIR(op.stat.mode)
    return Needs((op.gfid, op.slot, op.dest), (op.slot.parent, op.dest.parent), directory)


class GlusterEntries:
    """Applies entry operations through one mount.

    `several`: the primary has more than one subvolume, so the order of records between them is not known: what is in
    the way of a RENAME is for the primary to decide about, not to be replaced (SEC-12). With one it is replaced, and
    reported: that the primary has replaced it as well is for the primary to say.
    """

    def __init__(self, objects: Objects, pool: Pool, several: bool, durable: Callable[[int], None]) -> None:
        self._objects = objects
        self._pool = pool
        self._several = several
        self._durable = durable

    def apply(self, ops: list[EntryOp]) -> Applied:
        """Apply operations; one that fails does not stop the next."""
        out = Applied()
        waited: set[int] = set()
        needs = [needs_of(op) for op in ops]

        def work(i: int) -> None:
            op = ops[i]
            objects = self._objects
            try:
                with objects.alone() if needs[i].alone else objects.together(), objects.held(op.slot, op.dest):
                    if op.fop == _RMDIR:
                        self._remove(op, patient=i in waited)
                    else:
                        self._one(i, op, out)
            except Wait:
                waited.add(i)
                raise
            except OpError as e:
                out.failures.append(Outcome(i, e.errno, e.text, e.found))
            except OSError as e:
                e2 = system_error(e)
                out.failures.append(Outcome(i, e2.errno, e2.text))
            except Exception as e:  # noqa: BLE001 - one operation must not take the agent and its batch down
                out.failures.append(Outcome(i, errno.EINVAL, f"system: {type(e).__name__}: {e}"))

        self._pool.run(work, needs)
        out.failures.sort()
        return out

    def _one(self, i: int, op: EntryOp, out: Applied) -> None:
        fop = op.fop
        if fop in _MAKING:
            check_name(op.slot)
            self.place(i, op, op.slot, out)
        elif fop == _RENAME:
            self._rename(i, op, out)
        elif fop == _UNLINK:
            self._remove(op, patient=True)
        else:
            raise OpError(errno.EINVAL, f"refused: operation {fop} is not known")

    # --- making

    def _write_new(self, i: int, op: EntryOp, slot: Slot, data: bytes, stat: Stat, out: Applied) -> None:
        objects = self._objects
        pfd = objects.directory(slot.parent)
        fd = os.open(slot.name, _WRITE, dir_fd=pfd)
        try:
            if os.fstat(fd).st_ino != inode_of(op.gfid):
                raise OpError(errno.ESTALE, "system: it was replaced by something else just now")
            if data:
                write_whole(fd, data)
            if stat.uid or stat.gid:
                os.fchown(fd, stat.uid, stat.gid)
            os.utime(fd, ns=(stat.atime_ns, stat.mtime_ns))
            st = os.fstat(fd)  # answered by the kernel, which has just been told by the brick
            if st.st_size != len(data):
                os.ftruncate(fd, len(data))
                os.utime(fd, ns=(stat.atime_ns, stat.mtime_ns))
                st = os.fstat(fd)
            out.written(i, op.gfid, st)
            xattrs = op.xattrs
            if st.st_mode != stat.mode or st.st_uid != stat.uid or st.st_gid != stat.gid or xattrs or (
                xattrs is not None and objects.inherits(slot.parent, pfd)
            ):  # fmt: skip
                set_attributes(fd, st, stat, xattrs)
            self._durable(fd)
        finally:
            os.close(fd)
        if op.xattrs is None:
            out.made[op.gfid] = None

    def place(self, i: int, op: EntryOp, slot: Slot, out: Applied, move: bool = False) -> None:
        """Make the object be at a slot, taken from where it is or made anew (SEC-4 to 8, 11).

        A directory that is elsewhere is only moved where `move` says so (and all else waits, see `Objects.alone`).
        """
        stat, gfid, objects = op.stat, op.gfid, self._objects
        if op.fop == _MKDIR or (stat is not None and _stat.S_ISDIR(stat.mode)):
            with objects.lock(gfid):  # agents of other bricks make the same directories
                self._place_directory(op, slot, out, move)
            return
        with objects.lock(gfid):  # and, after renames between subvolumes, the same files
            if stat is not None and objects.absent(gfid) and self._created(i, op, slot, out):
                return
            self._place_known(i, op, slot, out)

    def _created(self, i: int, op: EntryOp, slot: Slot, out: Applied) -> bool:
        """Make a new object without looking first; False when something turns out to be there."""
        try:
            self._create(i, op, slot, out)
        except OSError as e:
            if e.errno not in _TAKEN:
                raise
            return False
        return True

    def _place_known(self, i: int, op: EntryOp, slot: Slot, out: Applied) -> None:
        gfid, objects = op.gfid, self._objects
        for _ in range(3):
            here = objects.look(slot)
            own = objects.exists(gfid)
            if here is not None and here.st_ino == inode_of(gfid):
                self._present(i, op, slot, here, out)
                return
            if own is not None and op.fop == _CREATE:
                self._present(i, op, None, own, out)  # SEC-4: a later operation says where it goes
                return
            if here is not None:
                raise OpError(errno.EEXIST, "occupied: another object has this name", objects.gfid_at(slot))
            if own is None:
                if self._created(i, op, slot, out):
                    return
                continue
            try:
                self._link(gfid, slot)  # SEC-5
            except OSError as e:
                if e.errno not in _TAKEN:
                    raise
                continue
            self._present(i, op, slot, own, out)
            return
        raise OpError(errno.EEXIST, "occupied: the name is taken again and again")

    def _link(self, gfid: Gfid, slot: Slot) -> None:
        objects = self._objects
        os.link(objects.by_gfid(gfid), slot.name, src_dir_fd=objects.root_fd,
                dst_dir_fd=objects.directory(slot.parent), follow_symlinks=False)  # fmt: skip
        objects.remember(gfid, slot)

    def _create(self, i: int, op: EntryOp, slot: Slot, out: Applied) -> None:
        stat, objects = op.stat, self._objects
        if stat is None:
            raise OpError(errno.ENOENT, "absent: the object is not here, and what it is was not sent")
        kind = _stat.S_IFMT(stat.mode)
        if kind == _stat.S_IFLNK and op.link is None:
            raise OpError(errno.ENOENT, "absent: the symlink is not here, and its text was not sent")
        objects.make(op.gfid, slot, stat.mode, op.link, stat.rdev)
        if kind == _stat.S_IFREG and op.data is not None:
            self._write_new(i, op, slot, op.data, stat, out)
            return
        if kind == _stat.S_IFREG or op.xattrs is None:
            out.needs(op.gfid)
        self._attributes(slot, stat, op.xattrs, times=kind != _stat.S_IFREG)

    def _attributes(self, slot: Slot, stat: Stat, xattrs: Optional[dict[bytes, bytes]], times: bool) -> None:
        """Owner, mode and times of something just made; what differs only."""
        objects = self._objects
        pfd = objects.directory(slot.parent)
        if _stat.S_ISLNK(stat.mode):
            st = os.stat(slot.name, dir_fd=pfd, follow_symlinks=False)
            set_link_attributes(pfd, slot.name, st, stat, times)
            return
        if not times and not stat.uid and not stat.gid and not xattrs and not objects.inherits(slot.parent, pfd):
            return
        fd = os.open(slot.name, _SEE, dir_fd=pfd)
        try:
            st = os.fstat(fd)
            if not xattrs and not objects.inherits(slot.parent, pfd):
                xattrs = None
            set_attributes(f"/proc/self/fd/{fd}", st, stat, xattrs, times)
        finally:
            os.close(fd)

    def _place_directory(self, op: EntryOp, slot: Slot, out: Applied, move: bool = False) -> None:
        objects, gfid, stat = self._objects, op.gfid, op.stat
        here = objects.look(slot)
        if here is not None:
            if here.st_ino == inode_of(gfid):
                objects.remember(gfid, slot)  # bricks may have lost the handle by which a gfid is found
                if op.fop == _MKDIR and stat is not None and _differs(here, stat):
                    out.needs(gfid)  # it may have been made just now, by an operation that was cut off
                return
            raise OpError(errno.EEXIST, "occupied: another object has this name", objects.gfid_at(slot))
        if objects.there(gfid):
            # each brick's journal has each step of a directory's way: an agent that is behind must not take it back.
            # Where it belongs (SEC-6, SEC-11) is for the primary of now to say, see `gluster_repair.place`.
            if not move:
                raise OpError(errno.EEXIST, "elsewhere: the directory has another name here")
            names = objects.names(gfid, True)
            if not names:
                raise OpError(errno.ESTALE, "system: the directory is here, and none of its names is found")
            self._move(gfid, names[0], slot)
            return
        if stat is None:
            raise OpError(errno.ENOENT, "absent: the directory is not here, and what it is was not sent")
        if op.fop == _RENAME:  # neither is what is in it, of which no record tells: for the primary to settle (SEC-11)
            raise OpError(errno.ENOENT, "absent: the directory is not here")
        try:
            objects.make(gfid, slot, stat.mode)
        except OSError as e:
            if e.errno in _TAKEN:
                here = objects.look(slot)
                if here is not None and here.st_ino == inode_of(gfid):
                    return
                if here is not None:
                    raise OpError(errno.EEXIST, "occupied: another object has this name", objects.gfid_at(slot)) from e
            raise
        if op.xattrs is None:
            out.needs(gfid)
        self._attributes(slot, stat, op.xattrs, times=True)

    def _present(self, i: int, op: EntryOp, slot: Optional[Slot], st: os.stat_result, out: Applied) -> None:
        """The object is there: content that came along is written, so that a repeated operation ends the same."""
        stat = op.stat
        if slot is not None:
            self._objects.remember(op.gfid, slot)
        if op.fop == _RENAME or stat is None or not _stat.S_ISREG(st.st_mode) or not _stat.S_ISREG(stat.mode):
            return
        if op.data is None:
            if (st.st_size, st.st_mtime_ns) != (stat.size, stat.mtime_ns):
                out.needs(op.gfid)  # it may have been made just now, by an operation that was cut off
            return
        fd, before = open_regular(self._objects, op.gfid, os.O_WRONLY)
        try:
            write_whole(fd, op.data)
            if before.st_size > len(op.data):
                os.ftruncate(fd, len(op.data))
            set_attributes(fd, os.fstat(fd), stat, op.xattrs)
            self._durable(fd)
            out.written(i, op.gfid, os.fstat(fd))
        finally:
            os.close(fd)
        if op.xattrs is None:
            out.made[op.gfid] = None

    # --- removing

    def _remove(self, op: EntryOp, patient: bool) -> None:
        """UNLINK, RMDIR (SEC-1, 2, 3). Raises Wait where a directory is not empty and others may still be at work."""
        objects, slot = self._objects, op.slot
        if slot.parent == LIMBO:
            return
        check_name(slot)
        for _ in range(3):
            try:
                st = objects.look(slot)
            except OpError as e:
                if e.errno in (errno.ENOENT, errno.ENOTDIR):
                    return
                raise
            if st is None or st.st_ino != inode_of(op.gfid):
                if op.fop == _RMDIR and objects.there(op.gfid):
                    raise OpError(errno.EEXIST, "elsewhere: the directory has another name here")
                found = objects.gfid_at(slot) if st is not None else b""
                if not found:
                    return
                raise OpError(errno.EEXIST, "occupied: another object has this name; not removed", found)
            try:
                self._unname(slot, op.gfid, st, patient)
                return
            except OSError as e:
                if e.errno not in GONE:
                    raise
                error = e  # is it really gone?
        raise error

    def _unname(self, slot: Slot, gfid: Gfid, st: os.stat_result, patient: bool) -> None:
        objects = self._objects
        pfd = objects.directory(slot.parent)
        if not _stat.S_ISDIR(st.st_mode):
            os.unlink(slot.name, dir_fd=pfd)
            return
        try:
            os.rmdir(slot.name, dir_fd=pfd)
        except OSError as e:
            if e.errno not in _NOT_EMPTY:
                raise
            if not patient:
                raise Wait from e
            # agents of other bricks may be behind: what is in it may be alive, with another place on the primary
            raise OpError(errno.ENOTEMPTY, "not empty: the directory still holds something here") from e
        objects.forget(gfid)

    def remove_tree(self, slot: Slot, gfid: Gfid, below: Container[Gfid]) -> None:
        """Remove a directory with those objects in it that are in `below`, looking at each gfid before (SEC-3).

        OpError ENOTEMPTY with the gfid of something else that is in it; what could be removed has been.
        """
        objects = self._objects
        pfd = objects.directory(slot.parent)
        left = self._empty(pfd, slot.name, gfid, below)
        if left:
            raise OpError(errno.ENOTEMPTY, "not empty: something in it is not to be removed", left)
        os.rmdir(slot.name, dir_fd=pfd)
        objects.forget(gfid)

    def _empty(self, pfd: int, name: bytes, gfid: Gfid, below: Container[Gfid]) -> Gfid:
        """Empty this very directory, by its name: another one may have its gfid. What is left in it, b"" for nothing."""
        left = b""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pfd)
        try:
            if os.fstat(fd).st_ino != inode_of(gfid):
                raise OpError(errno.ESTALE, "system: it was replaced by something else just now")
            for child in map(os.fsencode, os.listdir(fd)):
                try:
                    st = os.stat(child, dir_fd=fd, follow_symlinks=False)
                except OSError as e:
                    if e.errno in GONE:
                        continue
                    raise
                one = gfid_of(b"/proc/self/fd/%d/%s" % (fd, child))
                if not one or one not in below or inode_of(one) != st.st_ino:
                    left = one or left or gfid
                elif not _stat.S_ISDIR(st.st_mode):
                    os.unlink(child, dir_fd=fd)
                elif deeper := self._empty(fd, child, one, below):
                    left = deeper
                else:
                    os.rmdir(child, dir_fd=fd)
                    self._objects.forget(one)
        finally:
            os.close(fd)
        return left

    # --- renaming

    def _rename(self, i: int, op: EntryOp, out: Applied) -> None:
        """RENAME (SEC-9 to 12)."""
        src, dest, objects = op.slot, op.dest, self._objects
        if dest is None:
            raise OpError(errno.EINVAL, "refused: a RENAME without a destination")
        check_name(src)
        check_name(dest)
        try:
            source = objects.look(src)
        except OpError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            source = None
        if source is not None and source.st_ino != inode_of(op.gfid):
            source = None
        try:
            there = objects.look(dest)
        except OpError as e:
            if op.stat is None and e.errno == errno.ENOENT and source is None and objects.exists(op.gfid) is None:
                return  # all of it is gone by now
            raise
        if there is not None and there.st_ino == inode_of(op.gfid):
            if source is not None and src != dest and not _stat.S_ISDIR(source.st_mode):
                os.unlink(src.name, dir_fd=objects.directory(src.parent))  # SEC-10
            self._present(i, op, dest, there, out)
            return
        if source is None:
            self._rename_from_elsewhere(i, op, dest, there, out)  # SEC-11
            return
        if there is not None and (
            self._several or _stat.S_ISDIR(there.st_mode) or _stat.S_ISDIR(there.st_mode) != _stat.S_ISDIR(source.st_mode)
        ):
            raise OpError(errno.EEXIST, f"occupied: {kind_word(there.st_mode)} has the new name", objects.gfid_at(dest))
        replaced = objects.gfid_at(dest) if there is not None else b""
        self._move(op.gfid, src, dest)
        if replaced:
            raise OpError(errno.EEXIST, "replaced: another object had the new name", replaced)

    def _rename_from_elsewhere(
        self, i: int, op: EntryOp, dest: Slot, there: Optional[os.stat_result], out: Applied
    ) -> None:
        objects = self._objects
        own = objects.exists(op.gfid)
        if op.stat is None and own is None:
            if there is None:
                return  # it is gone on both sides by now, and has displaced nothing here
            found = objects.gfid_at(dest)
            raise OpError(errno.ENOENT, "absent: the object is not here; another one has the name", found)
        if there is not None:
            raise OpError(errno.EEXIST, f"occupied: {kind_word(there.st_mode)} has the new name", objects.gfid_at(dest))
        if own is not None and _stat.S_ISDIR(own.st_mode):
            if op.stat is not None:
                raise OpError(errno.EEXIST, "elsewhere: the directory has another name here")
            return  # gone on the primary: it goes from here, too, wherever it is
        if own is not None:
            try:
                self._link(op.gfid, dest)
            except OSError as e:
                if e.errno != errno.EEXIST:
                    raise
                raise OpError(errno.EEXIST, "occupied: another object has the new name", objects.gfid_at(dest)) from e
            for slot in objects.names(op.gfid, False):
                if slot.name == aside_name(op.gfid):  # an agent that ended in between had set it aside
                    os.unlink(slot.name, dir_fd=objects.directory(slot.parent))
            self._present(i, op, dest, own, out)
        else:
            self.place(i, op, dest, out)

    def _move(self, gfid: Gfid, src: Slot, dest: Slot) -> None:
        objects = self._objects
        os.rename(src.name, dest.name, src_dir_fd=objects.directory(src.parent),
                  dst_dir_fd=objects.directory(dest.parent))  # fmt: skip
        objects.remember(gfid, dest)


def _differs(st: os.stat_result, stat: Stat) -> bool:
    return (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns) != (stat.mode, stat.uid, stat.gid, stat.mtime_ns)
