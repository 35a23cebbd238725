"""Events through inotify: a watch on every directory, for those who may not use fanotify."""

from __future__ import annotations

import errno
import os
import select
import stat
import struct
import time

from engine.journal.dirty import DATA, ENTRY, META, Dirty, Fold, WatchLimit
from engine.journal.reading import QueueSource
from engine.model import ROOT, Gfid
from engine.volume.handles import inotify_add_watch, inotify_init, inotify_rm_watch

MODIFY, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, UNMOUNT, Q_OVERFLOW, IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
ONLYDIR = 0x1000000
_ENTRIES = CREATE | DELETE | MOVED_FROM | MOVED_TO
_DIRECTORY = MODIFY | ATTRIB | _ENTRIES | DELETE_SELF | MOVE_SELF | ONLYDIR
_OBJECT = MODIFY | ATTRIB
# a file's times alone (touch -m) come as MODIFY, too
_FLAGS = {MODIFY: DATA | META, ATTRIB: META, MOVED_FROM: ENTRY, MOVED_TO: ENTRY, CREATE: ENTRY, DELETE: ENTRY}
_KIND = 0xFFFF
_unpack = struct.Struct("=iIII").unpack_from
_LIMITS = "/proc/sys/fs/inotify/"
_PAIR = 0.01
"""Seconds the second half of a rename may be behind the first: two CPUs queue their events in turn."""


MOST_FILES = 250_000
"""Files with one name that are watched at most: about 40 MB here, and 1 KiB each in the kernel."""


class Inotify(QueueSource):
    """See Source. Directories are watched by descriptor, so that long paths and renames do no harm.

    Slots carry what was written through a name. That a file got another name outside the tree, and what is written
    through that, is told only to who watches the file itself: so each file is, as long as `each_file` says so.
    Beyond, the scrub finds such writes (CRW-9).
    """

    name = "inotify"
    watches_objects = True
    pause = 0.002
    """Seconds; the queue is short (fs.inotify.max_queued_events, 16,384)."""

    def __init__(self, label: str, fold: Fold | None = None) -> None:
        try:
            fd = inotify_init()
        except OSError as e:
            raise _limit(e, "instances", "max_user_instances") from e
        super().__init__(fd, fold or Fold(), label)
        self._gfids: dict[int, Gfid] = {}
        self._wds: dict[Gfid, int] = {}
        self._shared: set[Gfid] = set()
        """Files with several names: what is written to them is heard by the file itself."""
        self._single: dict[Gfid, int] = {}
        """Watches on files with one name, which hear when they get another."""
        self._most = min(MOST_FILES, _limit_value("max_user_watches") // 2)
        self._halves: dict[int, float] = {}
        """Renames of which only the first half has come: cookie, and monotonic time."""

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """See Source."""
        self._add(gfid, fd, _DIRECTORY)

    @property
    def each_file(self) -> bool:
        """See Source: there is room to watch files that have one name only."""
        return len(self._single) < self._most

    def watch_object(self, gfid: Gfid, fd: int, sure: bool) -> None:
        """See Source."""
        if gfid in self._shared:
            return
        if sure or os.fstat(fd).st_nlink > 1:
            # what goes through a fifo is no change of it
            self._add(gfid, fd, _OBJECT if stat.S_ISREG(os.fstat(fd).st_mode) else ATTRIB)
            self._shared.add(gfid)
            self._single.pop(gfid, None)
        elif self.each_file and gfid not in self._single:
            try:
                self._single[gfid] = self._add(gfid, fd, ATTRIB)
            except WatchLimit:
                self._most = 0  # what is left is for directories

    def _make_room(self) -> bool:
        """Give up the watches of files with one name, for those of directories. Were there any?"""
        self._most = 0
        given, self._single = self._single, {}
        for gfid, wd in given.items():
            self._wds.pop(gfid, None)
            self._gfids.pop(wd, None)
            self._remove(wd)
        return bool(given)

    def forget_directory(self, gfid: Gfid) -> None:
        """See Source."""
        self._wanted = True
        with self.fold.lock:
            self._wanted = False
            wd = self._wds.pop(gfid, None)
            if wd is None:
                return
            self._gfids.pop(wd, None)
            self._forget_file(gfid)
            self._remove(wd)

    def _forget_file(self, gfid: Gfid) -> None:
        self._shared.discard(gfid)
        self._single.pop(gfid, None)

    def _remove(self, wd: int) -> None:
        try:
            inotify_rm_watch(self.fd, wd)
        except OSError as e:
            if e.errno != errno.EINVAL:  # it went with its directory
                raise

    def _add(self, gfid: Gfid, fd: int, mask: int) -> int:
        path = b"/proc/self/fd/%d" % fd
        self._wanted = True
        with self.fold.lock:  # should it go at once, the event that says so must find it here
            self._wanted = False
            try:
                wd = self._add_watch(path, mask)
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                raise _limit(e, f"watches ({len(self._wds)} are in use here)", "max_user_watches") from e
            self._gfids[wd] = gfid
            self._wds[gfid] = wd
        return wd

    def _add_watch(self, path: bytes, mask: int) -> int:
        try:
            return inotify_add_watch(self.fd, path, mask)
        except OSError as e:
            if e.errno != errno.ENOSPC or not mask & ONLYDIR or not self._make_room():
                raise
        return inotify_add_watch(self.fd, path, mask)

    def settle(self) -> None:
        """See Source. Of a rename, the second half is waited for, up to 10 ms: it may be a move out of the tree."""
        super().settle()
        while self._halves:
            left = max(self._halves.values()) + _PAIR - time.monotonic()
            if left <= 0:
                break
            poll = select.poll()
            poll.register(self.fd, select.POLLIN)
            if poll.poll(left * 1000):
                super().settle()
        self._halves = {}

    def fold_events(self, events: bytes, dirty: Dirty) -> int:
        """See QueueSource."""
        at, end = 0, len(events)
        slots, gfids = dirty.slots, self._gfids
        while at < end:
            wd, mask, cookie, length = _unpack(events, at)
            at += 16
            if not length:
                self._fold_self(wd, mask, dirty)
                continue
            name = events[at : at + length].rstrip(b"\0")
            at += length
            gfid = gfids.get(wd)
            if gfid is None:
                continue  # forgotten, with this still in the queue
            key = (gfid, name)
            slots[key] = slots.get(key, 0) | _FLAGS.get(mask & _KIND, ENTRY)
            if cookie:
                if mask & MOVED_FROM:
                    if len(self._halves) > 1000:
                        self._halves.clear()  # long since moved out of the tree
                    self._halves[cookie] = time.monotonic()
                else:
                    self._halves.pop(cookie, None)
        return end

    def _fold_self(self, wd: int, mask: int, dirty: Dirty) -> None:
        """An event of a watched directory or object itself, or of the queue."""
        if mask & Q_OVERFLOW:
            dirty.overflow = True
            return
        gfid = self._gfids.get(wd)
        if gfid is None:
            return
        if (gfid == ROOT and mask & (MOVE_SELF | DELETE_SELF | IGNORED)) or mask & UNMOUNT:
            dirty.root_lost = True
        if mask & IGNORED:
            del self._gfids[wd]
            if self._wds.get(gfid) == wd:
                del self._wds[gfid]
                self._forget_file(gfid)
        flags = _FLAGS.get(mask & (MODIFY | ATTRIB), 0)
        if flags:
            dirty.objects[gfid] = dirty.objects.get(gfid, 0) | flags


def _limit(error: OSError, what: str, name: str) -> WatchLimit | OSError:
    """An error of inotify's that a limit explains, with the limit's value; else the error itself."""
    if error.errno not in (errno.ENOSPC, errno.EMFILE):
        return error
    return WatchLimit(
        f"inotify: no more {what}: fs.inotify.{name} is {_limit_value(name) or '?'}",
        code="watch-limit", errno=error.errno, hint=f"raise fs.inotify.{name} (sysctl), or run as root for fanotify",
    )  # fmt: skip


def _limit_value(name: str) -> int:
    """A limit of the kernel's, 0 where it is not told."""
    try:
        with open(_LIMITS + name, encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0
