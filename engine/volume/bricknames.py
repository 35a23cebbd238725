"""Which names the objects of a volume have, as its bricks have noted them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as _stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine.agent.gluster_paths import gfid_of, inode_of, path_of_directory, slots_of, walk
from engine.agent.index import Row
from engine.model import ROOT, Gfid, Slot, gfid_text, parse_gfid
from engine.volume.base import Known
from engine.volume.brickpath import (
    GFID,
    GONE,
    NAME_PREFIX,
    below,
    directory_slot,
    handle,
    internal,
    is_directory,
    is_link_file,
)
from engine.volume.mount import AuxMount

COUNTED = 50_000
"""Objects counted one by one; more are estimated."""

MANY = 32
"""Names in one directory from which on the directory is listed instead of looking up each."""

HINTS = 50_000
"""Places remembered from the journal."""


@dataclass(slots=True)
class Around:
    """What a view knows of the volume around its brick.

    `direct`: content and stats on the brick are the volume's own (not dispersed, not sharded, not an arbiter).
    `peers`: the other bricks of the same replica set on this node.
    `others`: one running brick here of each other subvolume; `whole`: that, with this brick, is the whole volume.
    `single`: each subvolume is one brick, so what a brick has noted is what the volume has; of several copies only the
    mount knows which one is right. `sole`: there is one subvolume, so this brick's journal has every change in order.
    """

    direct: bool
    peers: list[bytes] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)
    whole: bool = True
    hints: dict[Gfid, Slot] = field(default_factory=dict)
    """Where the journal last had an object: bricks lose handles of directories now and then (seen in 10.3)."""
    single: bool = True
    sole: bool = False

    def hint(self, gfid: Gfid, slot: Slot) -> None:
        """The journal says that the object is there."""
        self.hints.pop(gfid, None)
        self.hints[gfid] = slot
        while len(self.hints) > HINTS:
            del self.hints[next(iter(self.hints))]


class BrickNames:
    """Which names objects have, from the handles and `gfid2path` xattrs of the bricks here, else from the mount."""

    def __init__(self, brick: bytes, around: Around, mount: AuxMount) -> None:
        self.brick = brick
        self.around = around
        self.mount = mount
        self._bricks = [brick, *around.others]

    def find(self, gfid: Gfid) -> tuple[bytes, os.stat_result] | None:
        """The handle of an object on a brick here and its lstat (a symlink with one name: a directory's)."""
        for brick in self._bricks:
            path = handle(brick, gfid)
            try:
                st = os.lstat(path)
            except OSError as e:
                if e.errno in GONE:
                    continue
                raise
            if not is_link_file(path, st):
                return path, st
        return self._hinted(gfid)

    def _hinted(self, gfid: Gfid) -> tuple[bytes, os.stat_result] | None:
        """A directory without a handle, where the journal last had it."""
        slot = self.around.hints.get(gfid)
        if slot is None:
            return None
        try:
            path, st = below(self.brick, slot.parent, slot.name)
            if _stat.S_ISDIR(st.st_mode) and os.getxattr(path, GFID, follow_symlinks=False) == gfid:
                return path, st
        except OSError:
            return None
        return None

    def here(self, gfid: Gfid) -> bool:
        """Is the data of this file or symlink on this very brick?"""
        path = handle(self.brick, gfid)
        try:
            return not is_link_file(path, os.lstat(path))
        except OSError as e:
            if e.errno in GONE:
                return False
            raise

    def has(self, gfid: Gfid) -> bool:
        """Is this object anywhere on the volume? It counts as gone after two looks over all bricks, or by the mount's answer:
        while a file moves between bricks, one look at one brick after the other may miss it on both.

        Raises OSError, VolumeError where that cannot be told.
        """
        if gfid == ROOT:
            return True
        for _ in range(2):
            found = self.find(gfid)
            if found is not None:
                return not self._set_aside(*found)
            if not self.around.whole:
                break
        else:
            if not any(os.path.lexists(handle(brick, gfid)) for brick in self._bricks):
                return False  # not even a link file is left
        return self.mounted(gfid) is not None

    @staticmethod
    def _set_aside(path: bytes, st: os.stat_result) -> bool:
        """Is this a directory that a heal put aside, to be removed?"""
        where = directory_slot(path) if is_directory(path, st) and _stat.S_ISLNK(st.st_mode) else None
        return where is not None and internal(*where)

    def mounted(self, gfid: Gfid) -> os.stat_result | None:
        """The object as the mount sees it, None when it is nowhere. Raises OSError, VolumeError."""
        try:
            return os.lstat(b".gfid/" + gfid_text(gfid).encode(), dir_fd=self.mount.fd)
        except OSError as e:
            if e.errno not in GONE:
                raise
            self.mount.complete()
            return None

    def names(self, gfid: Gfid) -> Known:
        """The names of an object, each looked up just now; none where it is gone. Raises OSError, VolumeError."""
        if self.around.single:
            found = self.find(gfid)
            if found is not None:
                path, st = found
                links = None if is_directory(path, st) else st.st_nlink - 1  # one is the brick's own
                return Known(self._found_rows(gfid, path, st), links)
            if self.around.whole:
                return Known([], None)
        status = self.mounted(gfid)
        if status is None:
            return Known([], None)
        directory = _stat.S_ISDIR(status.st_mode)
        slots = sorted(slots_of(self.mount.fd, gfid, directory))
        rows = [_row(slot, gfid, status) for slot in slots if not internal(*slot)]
        return Known(rows, None if directory else status.st_nlink)

    def holds(self, slot: Slot, gfid: Gfid) -> bool:
        """Does this name lead to that object now? Asked of all bricks, twice, where they are the volume; else of the mount.

        Raises OSError, VolumeError where that cannot be told.
        """
        if internal(*slot):
            return False
        if self.around.single:
            for _ in range(2):
                for brick in self._bricks:
                    there = self._gfid_at(brick, slot)
                    if there:
                        return there == gfid
                if not self.around.whole:
                    break
            else:
                return False
        return self._mounted_holds(slot, gfid)

    def named_here(self, slot: Slot, gfid: Gfid) -> bool:
        """Does this very brick have that name for the object?"""
        return self._gfid_at(self.brick, slot) == gfid

    def _open_directory(self, gfid: Gfid, flags: int = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC) -> int | None:
        """A descriptor of a directory on the mount, by its path; None where it is not under that just now."""
        parts = path_of_directory(self.mount.fd, gfid)
        if parts is None:
            return None
        try:
            fd = walk(self.mount.fd, parts, flags)
        except OSError as e:
            if e.errno in GONE:
                return None
            raise
        if gfid == ROOT or os.fstat(fd).st_ino == inode_of(gfid):
            return fd
        os.close(fd)
        return None

    def holding(self, slots: Iterable[Slot], gfid: Gfid) -> set[Slot]:
        """Those of these names that lead to that object now. Of many in one directory, the directory is listed: a name that
        a list has is one; a name that it has not is looked up by itself. Raises OSError, VolumeError."""
        out: set[Slot] = set()
        by_parent: dict[Gfid, list[Slot]] = {}
        for slot in slots:
            by_parent.setdefault(slot.parent, []).append(slot)
        for parent, some in by_parent.items():
            if len(some) >= MANY and not (self.around.single and self.around.whole):
                listed = self._listed(parent, gfid)
                out.update(slot for slot in some if slot.name in listed)
            out.update(slot for slot in some if slot not in out and self.holds(slot, gfid))
        return out

    def _listed(self, parent: Gfid, gfid: Gfid) -> set[bytes]:
        """The names in a directory of the volume that the list of it gives the inode number of that object."""
        fd = self._open_directory(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if fd is None:
            return set()
        try:
            with os.scandir(fd) as entries:
                return {os.fsencode(e.name) for e in entries if e.inode() == inode_of(gfid)}
        finally:
            os.close(fd)

    @staticmethod
    def _gfid_at(brick: bytes, slot: Slot) -> Gfid:
        """The gfid of what a brick has in a slot, b"" for nothing or a link file."""
        try:
            path, st = below(brick, slot.parent, slot.name)
            return b"" if is_link_file(path, st) else os.getxattr(path, GFID, follow_symlinks=False)
        except OSError as e:
            if e.errno in (*GONE, errno.ENODATA, errno.ENAMETOOLONG):
                return b""
            raise

    def _mounted_holds(self, slot: Slot, gfid: Gfid) -> bool:
        """The same, asked of the mount: by the gfid of the directory, and where that finds nothing, by its path."""
        wanted = inode_of(gfid)
        try:
            return os.lstat(self.mount.path(slot.parent) + b"/" + slot.name).st_ino == wanted
        except OSError as e:
            if e.errno == errno.ENAMETOOLONG:
                return False
            if e.errno not in GONE:
                raise
        for _ in range(3):  # the directory may be renamed between the two steps
            fd = self._open_directory(slot.parent)
            if fd is None:
                if self.mounted(slot.parent) is None:
                    return False
                continue
            try:
                return os.stat(slot.name, dir_fd=fd, follow_symlinks=False).st_ino == wanted
            except OSError as e:
                if e.errno not in GONE:
                    raise
                self.mount.complete()
                return False
            finally:
                os.close(fd)
        raise OSError(errno.ESTALE, "the directory of a name cannot be found")

    def rows(self, gfid: Gfid) -> list[Row]:
        """Names of an object, quickly found: one at least where any is known. Which are all, `names` tells."""
        found = self.find(gfid)
        if found is None:
            return [] if self.around.whole else self.names(gfid).rows
        return self._found_rows(gfid, *found)

    def _found_rows(self, gfid: Gfid, path: bytes, st: os.stat_result) -> list[Row]:
        """The names of what a brick here has under this handle."""
        if not is_directory(path, st):
            return [_row(s, gfid, st) for s in sorted(self._noted(path, st)) if not internal(*s)]
        where = directory_slot(path) if _stat.S_ISLNK(st.st_mode) else self.around.hints.get(gfid)
        if where is None or internal(*where):
            return []
        return [_row(where, gfid, st)._replace(kind=_stat.S_IFDIR)]

    def _noted(self, path: bytes, st: os.stat_result) -> list[Slot]:
        """The names that a file's xattrs give it, as far as they hold: a brick keeps the name of what a rename displaced
        (seen in 10.3)."""
        sure: list[Slot] = []
        unsure: list[Slot] = []
        try:
            for key in os.listxattr(path, follow_symlinks=False):
                if not key.startswith(NAME_PREFIX):
                    continue
                parent, slash, base = os.getxattr(path, key, follow_symlinks=False).partition(b"/")
                if not slash:
                    continue
                slot = Slot(parse_gfid(parent), base)
                holds = self._holds(path, slot, st)
                if holds:
                    sure.append(slot)
                elif holds is None:
                    unsure.append(slot)
        except OSError as e:
            if e.errno not in (*GONE, errno.ENODATA):
                raise
            return []
        # the links of the file say how many names it has, beside its handle
        return sure if st.st_nlink - 1 <= len(sure) else sure + unsure

    def _holds(self, path: bytes, slot: Slot, st: os.stat_result) -> bool | None:
        """Does that name really lead to the object? None where that cannot be told: its directory has no handle."""
        brick = path[: path.index(b"/.glusterfs/")]
        try:
            there = below(brick, slot.parent, slot.name)[1]
        except OSError as e:
            if e.errno not in GONE:
                raise
            return False if os.path.lexists(handle(brick, slot.parent)) else None
        return (there.st_ino, there.st_dev) == (st.st_ino, st.st_dev)

    def row(self, gfid: Gfid) -> Row | None:
        """One of the names of an object."""
        rows = self.rows(gfid)
        return rows[0] if rows else None

    def get(self, parent: Gfid, name: bytes) -> Row | None:
        """What a slot holds anywhere on the volume, None when it is free."""
        slot = Slot(parent, name)
        for brick in self._bricks:
            try:
                path, st = below(brick, parent, name)
                if is_link_file(path, st):
                    continue
                return _row(slot, os.getxattr(path, GFID, follow_symlinks=False), st)
            except OSError as e:
                if e.errno in (*GONE, errno.ENODATA, errno.ENAMETOOLONG):
                    continue
                raise
        if self.around.whole:
            return None
        path = self.mount.path(parent) + b"/" + name
        try:
            st = os.lstat(path)
            gfid = parse_gfid(os.getxattr(path, "glusterfs.gfid.string", follow_symlinks=False).rstrip(b"\0"))
        except OSError as e:
            if e.errno in (*GONE, errno.ENODATA, errno.ENAMETOOLONG):
                return None
            raise
        return _row(slot, gfid, st)

    def search(self, gfids: Iterable[Gfid]) -> dict[Gfid, list[Slot]]:
        """All names of files, found by a walk; for names that nobody has noted.

        Over a brick here that has the data, about a second for a million names; else over the mount, which is slower.
        """
        left = list(gfids)
        found: dict[Gfid, list[Slot]] = {}
        for brick in self._bricks:
            wanted: dict[int, Gfid] = {}
            for gfid in left:
                with contextlib.suppress(OSError):
                    st = os.lstat(path := handle(brick, gfid))
                    if not is_link_file(path, st) and not is_directory(path, st):
                        wanted[st.st_ino] = gfid
            if wanted:
                found |= _walked(brick, wanted, lambda path: os.getxattr(path, GFID))
                left = [gfid for gfid in left if gfid not in wanted.values()]
        if left:
            root = b"/proc/self/fd/%d" % self.mount.fd
            found |= _walked(root, {inode_of(gfid): gfid for gfid in left}, gfid_of)
        return found

    def kind(self, gfid: Gfid) -> int | None:
        """What kind of object it is (`S_IFREG` …), None when it is gone. Raises OSError, VolumeError."""
        found = self.find(gfid)
        if found is not None:
            return _stat.S_IFDIR if is_directory(*found) else _stat.S_IFMT(found[1].st_mode)
        st = None if self.around.whole else self.mounted(gfid)
        return None if st is None else _stat.S_IFMT(st.st_mode)

    def path(self, gfid: Gfid) -> bytes | None:
        """One path of an object relative to the root (b"" for the root), None when it is nowhere."""
        parts: list[bytes] = []
        while gfid != ROOT:
            row = self.row(gfid)
            if row is None or len(parts) > 10_000:
                return None
            parts.append(row.name)
            gfid = row.parent
        return b"/".join(reversed(parts))

    def count(self) -> int:
        """How many objects the brick has; of very many a part is counted: gfids are spread evenly."""
        total = 0
        top = self.brick + b"/.glusterfs"
        for done, first in enumerate((b"%02x" % i for i in range(256)), 1):
            try:
                seconds = os.listdir(os.path.join(top, first))
            except FileNotFoundError:
                continue
            total += sum(len(os.listdir(os.path.join(top, first, second))) for second in seconds)
            if total > COUNTED:
                return total * 256 // done
        return total


def _walked(top: bytes, wanted: dict[int, Gfid], gfid_at: Callable[[bytes], Gfid]) -> dict[Gfid, list[Slot]]:
    """The names of objects by their inode numbers, all over a brick or a mount; `gfid_at` tells a directory's gfid."""
    found: dict[Gfid, list[Slot]] = {}
    todo = [top]
    while todo:
        directory = todo.pop()
        try:
            with os.scandir(directory) as entries:
                some = list(entries)
            parent = ROOT if directory == top else gfid_at(directory)
        except OSError:
            continue  # it moved just now; a name that is not found leaves the count of links unmatched
        for entry in some:
            if internal(parent, entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            elif entry.inode() in wanted:
                found.setdefault(wanted[entry.inode()], []).append(Slot(parent, entry.name))
    return found


def _row(slot: Slot, gfid: Gfid, st: os.stat_result) -> Row:
    return Row(slot.parent, slot.name, gfid, _stat.S_IFMT(st.st_mode), b"", st.st_size, st.st_mtime_ns, 0)
