"""Events through fanotify: one mark on the whole filesystem, with file handles and names (root, Linux 5.17)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

from engine.journal.dirty import DATA, ENTRY, META, Dirty, Fold
from engine.journal.reading import QueueSource
from engine.model import ROOT, Gfid
from engine.volume.handles import (
    AT_FDCWD,
    fanotify_init,
    fanotify_mark,
    gfid_of,
    handle_as_reported,
    name_to_handle,
)

CLOEXEC, NONBLOCK, UNLIMITED_QUEUE, UNLIMITED_MARKS = 0x1, 0x2, 0x10, 0x20
REPORT_FID, REPORT_DIR_FID, REPORT_NAME, REPORT_TARGET_FID = 0x200, 0x400, 0x800, 0x1000
MODIFY, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
Q_OVERFLOW, RENAME, ONDIR = 0x4000, 0x10000000, 0x40000000
_MASK = MODIFY | ATTRIB | CREATE | DELETE | ONDIR
_MARK_ADD, _MARK_FILESYSTEM = 0x1, 0x100
_ENTRIES = CREATE | DELETE | RENAME | MOVED_FROM | MOVED_TO
_MOVES = RENAME | MOVED_FROM | MOVED_TO | DELETE
_FID, _DFID_NAME, _DFID, _OLD, _NEW = 1, 2, 3, 10, 12
_HEAD = 24
"""Bytes of `struct fanotify_event_metadata`; FIONREAD counts as many for each event."""

_unpack_head = struct.Struct("=I4xQ").unpack_from  # length of the event, mask
_unpack_info = struct.Struct("=BxH8xI").unpack_from  # kind, length of the record, (fsid), bytes of the handle
_KEPT_DIRECTORIES = 65_536
_KEPT_FOREIGN = 16_384
_FOREIGN = b""


class FanotifyUnavailable(Exception):
    """This process may not use fanotify here, or the kernel or the filesystem can't; the reason in words."""


class Fanotify(QueueSource):
    """See Source. `unlimited` False keeps the kernel's own queue length (16,384), which overflows.

    What an event says of the object counts for the object, by its handle and not by the name it came by: a write
    through a hard link outside the tree names only the outside, and one to a name that was moved may name the old.
    """

    name = "fanotify"

    def __init__(self, root: bytes, brick_id: bytes, fold: Fold | None = None, *, unlimited: bool = True) -> None:
        fd = _open(unlimited)
        try:
            handle = _mark(fd, root)
        except BaseException:
            os.close(fd)
            raise
        super().__init__(fd, fold or Fold(), os.fsdecode(root))
        self._brick_id = brick_id
        self._root = handle
        self._directories: dict[bytes, Gfid] = {handle: ROOT}
        """Gfids of directories by handle; `_FOREIGN` for those that are ignored."""
        self._ignored: dict[Gfid, None] = {}
        self._foreign: dict[bytes, None] = {}
        """Handles of objects last seen in an ignored directory: some events name nothing but the object."""

    def ignore(self, gfids: Iterable[Gfid]) -> None:
        """See Source; the latest 65,536 are kept."""
        with self.fold.lock:
            for gfid in gfids:
                self._ignored[gfid] = None
            while len(self._ignored) > _KEPT_DIRECTORIES:
                del self._ignored[next(iter(self._ignored))]
            self._directories = {self._root: ROOT}

    def watch_directory(self, gfid: Gfid, fd: int) -> None:  # noqa: ARG002 - the filesystem is watched as a whole
        """A directory is of the tree: it is not ignored any more."""
        if gfid in self._ignored:
            with self.fold.lock:
                del self._ignored[gfid]
                self._directories = {self._root: ROOT}
                self._foreign.clear()

    def fold_events(self, events: bytes, dirty: Dirty) -> int:
        """See QueueSource. First what is alike is put together, then each is taken apart once."""
        alike: dict[bytes, int] = {}
        at, end, count = 0, len(events), 0
        while at < end:
            length, mask = _unpack_head(events, at)
            info = events[at + _HEAD : at + length]
            alike[info] = alike.get(info, 0) | mask
            at += length
            count += 1
        for info, mask in alike.items():
            self._fold_one(info, mask, dirty)
        return count * _HEAD

    def _fold_one(self, info: bytes, mask: int, dirty: Dirty) -> None:
        """One event: records of directories with names, and of the object itself."""
        target = b""
        places: list[tuple[Gfid, bytes, bytes]] = []
        directories = self._directories
        outside = False
        at, end = 0, len(info)
        while at < end:
            kind, length, size = _unpack_info(info, at)
            stop = at + 20 + size
            handle = info[at + 16 : stop]
            if size == 0:
                dirty.overflow = True  # the filesystem had no room to say what this was about
                return
            if kind == _FID:
                target = handle
            else:
                known = directories.get(handle)
                gfid = self._directory(handle) if known is None else known
                name = info[stop : info.index(b"\0", stop, at + length)] if kind != _DFID else b"."
                if gfid == _FOREIGN:
                    outside = True
                elif name == b".":
                    target = handle
                else:
                    places.append((gfid, name, handle))
            at += length
        if mask & Q_OVERFLOW:
            dirty.overflow = True
        if outside and not places:
            self._leave_out(target, mask)
            return
        if target in self._foreign:
            if not places:
                return
            del self._foreign[target]
        handles = dirty.handles
        if mask & _ENTRIES:
            slots = dirty.slots
            for gfid, name, handle in places:
                key = (gfid, name)
                slots[key] = slots.get(key, 0) | ENTRY
                handles[gfid] = handle
        if target:
            if mask & ONDIR:
                known = directories.get(target)
                gfid = self._directory(target) if known is None else known
                if gfid == ROOT and mask & _MOVES:
                    dirty.root_lost = True
            elif not mask & (MODIFY | ATTRIB):
                return
            else:
                gfid = gfid_of(self._brick_id, target)
            # a file's times alone (touch -m) come as MODIFY, too
            flags = DATA | META if mask & MODIFY else META if mask & ATTRIB else 0
            if flags and gfid != _FOREIGN:
                dirty.objects[gfid] = dirty.objects.get(gfid, 0) | flags
                handles[gfid] = target

    def _directory(self, handle: bytes) -> Gfid:
        """The gfid of a directory, kept; `_FOREIGN` if it is ignored."""
        gfid = gfid_of(self._brick_id, handle)
        if gfid in self._ignored:
            gfid = _FOREIGN
        if len(self._directories) >= _KEPT_DIRECTORIES:
            self._directories.clear()
            self._directories[self._root] = ROOT
        self._directories[handle] = gfid
        return gfid

    def _leave_out(self, target: bytes, mask: int) -> None:
        """Something happened in an ignored directory alone."""
        if not target:
            return
        if mask & ONDIR:
            if mask & CREATE:
                self._ignored[gfid_of(self._brick_id, target)] = None
                self._directories.pop(target, None)
            return
        if target not in self._foreign:
            if len(self._foreign) >= _KEPT_FOREIGN:
                del self._foreign[next(iter(self._foreign))]
            self._foreign[target] = None


def _open(unlimited: bool) -> int:
    """A fanotify group that reports handles and names. Raises FanotifyUnavailable."""
    flags = CLOEXEC | NONBLOCK | UNLIMITED_MARKS | REPORT_FID | REPORT_DIR_FID | REPORT_NAME | REPORT_TARGET_FID
    try:
        return fanotify_init(flags | (UNLIMITED_QUEUE if unlimited else 0), os.O_RDONLY)
    except OSError as e:
        why = {
            errno.EPERM: "fanotify needs CAP_SYS_ADMIN (root)",
            errno.EINVAL: "fanotify needs Linux 5.17",
            errno.ENOSYS: "this kernel has no fanotify",
            errno.EMFILE: "fanotify: too many groups (fs.fanotify.max_user_groups)",
        }
        raise FanotifyUnavailable(why.get(e.errno or 0, str(e.strerror))) from e


def _mark(fd: int, root: bytes) -> bytes:
    """Mark the filesystem of a root; the root's handle. Raises FanotifyUnavailable."""
    try:
        try:
            fanotify_mark(fd, _MARK_ADD | _MARK_FILESYSTEM, _MASK | RENAME, AT_FDCWD, root)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            fanotify_mark(fd, _MARK_ADD | _MARK_FILESYSTEM, _MASK | MOVED_FROM | MOVED_TO, AT_FDCWD, root)
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle, reported = name_to_handle(top, b""), handle_as_reported(top)
        finally:
            os.close(top)
    except OSError as e:
        why = {
            errno.EXDEV: "fanotify cannot watch a part of this filesystem alone (a btrfs subvolume)",
            errno.ENODEV: "fanotify: this filesystem has no id",
            errno.EOPNOTSUPP: "fanotify: this filesystem has no file handles",
            errno.EPERM: "fanotify may not watch this filesystem",
        }
        raise FanotifyUnavailable(why.get(e.errno or 0, f"fanotify: {e.strerror}")) from e
    if handle != reported:
        raise FanotifyUnavailable("fanotify: this filesystem reports file handles that do not last")
    return handle
