"""Events through inotify: a watch on every directory, for those who may not use fanotify."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from engine.journal.dirty import DATA, ENTRY, META, Dirty, Fold, WatchLimit
from engine.journal.reading import QueueSource
from engine.model import ROOT, Gfid

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")
MODIFY, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, UNMOUNT, Q_OVERFLOW, IGNORED, ISDIR = 0x400, 0x800, 0x2000, 0x4000, 0x8000, 0x40000000
ONLYDIR, DONT_FOLLOW = 0x1000000, 0x2000000
_ENTRIES = CREATE | DELETE | MOVED_FROM | MOVED_TO
_DIRECTORY = MODIFY | ATTRIB | _ENTRIES | DELETE_SELF | MOVE_SELF | ONLYDIR
_OBJECT = MODIFY | ATTRIB


class Inotify(QueueSource):
    """See Source. Directories are watched by descriptor, so that long paths and renames do no harm."""

    name = "inotify"

    def __init__(self, label: str, fold: Fold | None = None) -> None:
        fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            number = ctypes.get_errno()
            raise WatchLimit(f"inotify: {os.strerror(number)}", code="watch-limit", errno=number,
                             hint="raise fs.inotify.max_user_instances")  # fmt: skip
        super().__init__(fd, fold or Fold(), label)
        self._dirs: dict[int, Gfid] = {}
        self._wds: dict[Gfid, int] = {}
        self._objects: dict[int, Gfid] = {}

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """Watch a directory by a descriptor of it. Raises WatchLimit, OSError."""
        wd = self._add(fd, _DIRECTORY)
        with self.fold.lock:
            self._dirs[wd] = gfid
            self._wds[gfid] = wd

    def watch_object(self, gfid: Gfid, fd: int) -> None:
        """Watch a file that has names outside the tree, or may get them. Raises WatchLimit, OSError."""
        wd = self._add(fd, _OBJECT)
        with self.fold.lock:
            self._objects[wd] = gfid

    def forget_directory(self, gfid: Gfid) -> None:
        """Take the watch away."""
        with self.fold.lock:
            wd = self._wds.pop(gfid, None)
            if wd is not None:
                self._dirs.pop(wd, None)
        if wd is not None:
            _libc.inotify_rm_watch(self.fd, wd)

    def _add(self, fd: int, mask: int) -> int:
        wd = _libc.inotify_add_watch(self.fd, f"/proc/self/fd/{fd}".encode(), mask)
        if wd >= 0:
            return int(wd)
        number = ctypes.get_errno()
        if number == errno.ENOSPC:
            with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as f:
                most = f.read().strip()
            raise WatchLimit(
                f"inotify: no more watches (fs.inotify.max_user_watches is {most}, {len(self._wds)} are in use here)",
                code="watch-limit", errno=number, hint="sysctl fs.inotify.max_user_watches=… (or run as root)",
            )  # fmt: skip
        raise OSError(number, os.strerror(number))

    def fold_events(self, events: memoryview, dirty: Dirty) -> None:
        """See QueueSource."""
        at, end = 0, len(events)
        slots, objects = dirty.slots, dirty.objects
        while at < end:
            wd, mask, _, length = _EVENT.unpack_from(events, at)
            at += 16
            name = bytes(events[at : at + length]).rstrip(b"\0") if length else b""
            at += length
            if mask & Q_OVERFLOW:
                dirty.overflow = True
                continue
            gfid = self._dirs.get(wd)
            if gfid is None:
                gfid = self._objects.get(wd)
                if gfid is not None:
                    if mask & IGNORED:
                        del self._objects[wd]
                    else:
                        objects[gfid] = objects.get(gfid, 0) | (DATA | META if mask & MODIFY else META)
                continue
            if mask & (IGNORED | UNMOUNT):
                if gfid == ROOT:
                    dirty.root_lost = True
                del self._dirs[wd]
                if self._wds.get(gfid) == wd:
                    del self._wds[gfid]
                continue
            if mask & (MOVE_SELF | DELETE_SELF):
                if gfid == ROOT:
                    dirty.root_lost = True
                continue
            if not name:
                if mask & ATTRIB:
                    objects[gfid] = objects.get(gfid, 0) | META
                continue
            key = (gfid, name)
            flags = ENTRY if mask & _ENTRIES else 0
            if mask & MODIFY:
                flags |= DATA | META
            if mask & ATTRIB:
                flags |= META
            slots[key] = slots.get(key, 0) | flags
