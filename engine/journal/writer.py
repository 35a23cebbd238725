"""Writes the journal of a tree: closed slices, heartbeats of idle ones, and the slices of a hybrid crawl."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable

from engine.journal.chain import Chain, Place
from engine.journal.format import encode
from engine.journal.history import INDEX_NAME, XSYNC_NAME, place
from engine.journal.htime import HtimeWriter
from engine.model import Changelog, Record

ROTATE = 1 << 20
"""Bytes after which an index file of ours is continued in a new one, so that old ones can be skipped and pruned."""

IDLE_SYNC = 10
"""Seconds between syncs of the index while only heartbeats are written."""

_LOG = re.compile(rb"CHANGELOG\.(\d{10})")


class JournalWriter:
    """The one writer of the journal at `root`; used by one thread.

    Suffixes never run backwards (MRK-9): each is the later of the clock and the last one + 1, where the last is what
    the journal on disk holds, or `floor` (pass the brick's mark + 1: then a suffix that was reported but not
    durable is not used again). `continues` False says that changes may have been missed since the last slice: a
    new index file is begun, and the history has a hole there until a hybrid crawl closes it. Each slice with content
    has a line in the chain, durable when its write returns. `clock` gives unix seconds. Raises JournalError when the index cannot be read, OSError (ENOSPC, …) when the disk refuses.
    """

    def __init__(
        self,
        root: bytes | str,
        *,
        clock: Callable[[], float] = time.time,
        floor: int = 0,
        continues: bool = True,
    ) -> None:
        self.root = os.path.abspath(os.fsencode(root))
        self.clock = clock
        self._day: tuple[bytes, int] | None = None
        self._xsync = -1
        self._synced = 0.0
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        os.makedirs(os.path.join(self.root, b"htime"), mode=0o700, exist_ok=True)
        os.makedirs(os.path.join(self.root, b"xsync"), mode=0o700, exist_ok=True)
        self.last = floor
        self._chain = Chain(self.root)
        self._htime = self._open_index(continues)
        try:
            self._find_last()
            self._chain_orphans()
            for directory in (self.root, os.path.dirname(self.root), os.path.join(self.root, b"htime")):
                _sync_directory(directory)
        except BaseException:
            self._htime.close()
            self._chain.close()
            raise

    @property
    def place(self) -> Place | None:
        """The place of the last slice with content in the journal's history."""
        return self._chain.last

    @property
    def origin(self) -> str:
        """What names that history."""
        return self._chain.origin

    @property
    def counted(self) -> bool:
        """Are GlusterFS's own xattrs kept too? See `HtimeWriter`."""
        return self._htime.counted

    # ---- opening -------------------------------------------------------------------------------------------------

    def _open_index(self, continues: bool) -> HtimeWriter:
        names = os.listdir(os.path.join(self.root, b"htime"))
        starts = sorted(int(m[1]) for m in map(INDEX_NAME.fullmatch, names) if m)
        if not starts:
            fresh = HtimeWriter(self.root, max(int(self.clock()), self.last))
            self.last = fresh.start
            return fresh
        current = HtimeWriter(self.root, starts[-1])
        if current.count == 0 and len(starts) > 1:
            before = HtimeWriter(self.root, starts[-2])
            if before.last == current.start:  # a crash while the index was being continued in a new file
                os.unlink(current.path)
                current.close()
                current = before
            else:
                before.close()
        self.last = max(self.last, current.last, current.start)
        if continues:
            return current
        current.close()
        return HtimeWriter(self.root, self.next_suffix())

    def _find_last(self) -> None:
        """Index what a crash left unindexed, and remove what it left half written."""
        orphans: set[int] = set()
        for day in self._last_days():
            for name in os.listdir(day):
                if name.startswith(b".tmp-"):
                    os.unlink(os.path.join(day, name))
                elif (m := _LOG.fullmatch(name)) and int(m[1]) > max(self._htime.last, self._htime.start):
                    orphans.add(int(m[1]))
        for suffix in sorted(orphans):
            self._htime.append(suffix)
        xsync = os.path.join(self.root, b"xsync")
        for name in os.listdir(xsync):
            if name.startswith(b".tmp-"):
                os.unlink(os.path.join(xsync, name))
            elif m := XSYNC_NAME.fullmatch(name):
                self.last = max(self.last, int(m[1]))
        self.last = max(self.last, self._htime.last, self._chain.last.suffix if self._chain.last is not None else 0)
        self._htime.sync()

    def _chain_orphans(self) -> None:
        """Chain what a crash left unchained: the last slice, or all of a journal that an older version wrote."""
        done = self._chain.last.key if self._chain.last is not None else (-1, 0)
        found: list[tuple[int, int, bytes]] = []
        for day in self._last_days() if done[0] >= 0 else self._all_days():
            found += [(int(m[1]), 0, os.path.join(day, n)) for n in os.listdir(day) if (m := _LOG.fullmatch(n))]
        xsync = os.path.join(self.root, b"xsync")
        found += [
            (int(m[1]), int(m[2]), os.path.join(xsync, n)) for n in os.listdir(xsync) if (m := XSYNC_NAME.fullmatch(n))
        ]
        for suffix, part, path in sorted(found):
            if (suffix, part) > done:
                with open(path, "rb") as f:
                    self._chain.append(suffix, part, f.read())

    def prune_chain(self, before: int) -> int:
        """Forget the chain's lines of slices not later than that second; how many."""
        return self._chain.prune(before)

    def _last_days(self) -> list[bytes]:
        """The two latest directories YYYY/MM/DD."""
        return sorted(self._all_days(2))[-2:]

    def _all_days(self, most: int = 0) -> list[bytes]:
        """The directories YYYY/MM/DD; with `most` only so many of the latest in each."""
        found = [self.root]
        for digits in (4, 2, 2):
            below = []
            for parent in found:
                names = [n for n in os.listdir(parent) if len(n) == digits and n.isdigit()]
                below += [os.path.join(parent, n) for n in sorted(names)[-most:]]
            found = below
        return found

    # ---- slices --------------------------------------------------------------------------------------------------

    def next_suffix(self, now: float | None = None) -> int:
        """Take the suffix of the next slice, or of a hybrid crawl; `now` is the clock's unless given."""
        self.last = max(int(self.clock() if now is None else now), self.last + 1)
        return self.last

    def write(self, records: Iterable[Record], now: float | None = None) -> Changelog:
        """Close a slice: its file and its index record are durable when this returns. No records: a heartbeat."""
        records = list(records)
        if not records:
            return self.idle(now)
        data = encode(records)
        suffix = self.next_suffix(now)
        path = place(self.root, suffix)
        fd = self._put_dated(path, data)
        self._index(suffix, idle=False)
        os.fsync(fd)  # the index was written before: on most filesystems one commit takes both
        self._chain.append(suffix, 0, data)  # a line without its slice would say that one is gone
        self._sync_index()
        return Changelog(suffix, 0, path, len(data))

    def idle(self, now: float | None = None) -> Changelog:
        """The heartbeat of a slice in which nothing changed: it lets the mark advance (MRK-8).

        Synced only every 10 s: what is lost with the power is at most that heartbeat.
        """
        suffix = self.next_suffix(now)
        self._index(suffix, idle=True)
        if abs(self.clock() - self._synced) >= IDLE_SYNC:
            self._sync_index()
        return Changelog(suffix, 0, b"")

    def write_xsync(self, suffix: int, part: int, records: Iterable[Record], *, durable: bool = True) -> Changelog:
        """One slice (`part` 1, 2, …) of the hybrid crawl that began at `suffix`.

        Without `durable` it appears whole or not at all to readers, but may be lost, or empty, after a power cut.
        """
        if part < 1:
            raise ValueError(f"part {part} of a hybrid crawl: parts count from 1")
        data = encode(records)
        self.last = max(self.last, suffix)
        directory = os.path.join(self.root, b"xsync")
        if self._xsync < 0:
            self._xsync = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        name = b"XSYNC-CHANGELOG.%010d.%d" % (suffix, part)
        _put(self._xsync, name, data, durable)
        if durable:
            os.fsync(self._xsync)
        self._chain.append(suffix, part, data)
        return Changelog(suffix, part, os.path.join(directory, name), len(data))

    def hole(self) -> None:
        """Changes may have been missed (an overflow, a lost watch): begin a new index file, which shows it (CRW-1)."""
        self._renew(self.next_suffix())
        self._sync_index()

    def close(self) -> None:
        """Make the index durable and let go of it."""
        self._htime.sync()
        self._htime.close()
        self._chain.close()
        self._close_day()
        if self._xsync >= 0:
            os.close(self._xsync)
            self._xsync = -1

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _put_dated(self, path: bytes, data: bytes) -> int:
        """Write the file of a slice; the descriptor of its directory."""
        day, _, name = path.rpartition(b"/")
        fd = self._open_day(day)
        try:
            _put(fd, name, data, durable=True)
        except FileNotFoundError:  # the reader removed the directory, which was empty
            self._close_day()
            fd = self._open_day(day)
            _put(fd, name, data, durable=True)
        return fd

    def _open_day(self, day: bytes) -> int:
        if self._day is not None and self._day[0] == day:
            return self._day[1]
        self._close_day()
        _make_directories(day, self.root)
        fd = os.open(day, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._day = (day, fd)
        return fd

    def _close_day(self) -> None:
        if self._day is not None:
            os.close(self._day[1])
            self._day = None

    def _index(self, suffix: int, idle: bool) -> None:
        if self._htime.size >= ROTATE:
            last, was_idle = self._htime.last, self._htime.last_idle
            self._renew(last)
            self._htime.repeat(last, was_idle)
        self._htime.append(suffix, idle)

    def _renew(self, start: int) -> None:
        self._htime.sync()
        self._htime.close()
        self._htime = HtimeWriter(self.root, start)
        _sync_directory(os.path.join(self.root, b"htime"))

    def _sync_index(self) -> None:
        self._htime.sync()
        self._synced = self.clock()


def _put(directory: int, name: bytes, data: bytes, durable: bool) -> None:
    """Write a file that appears under its name only when it is whole (and, if `durable`, safe)."""
    temporary = b".tmp-" + name
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fdatasync(fd)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def _make_directories(path: bytes, top: bytes) -> None:
    """Make a directory below `top` and its parents, each made durable in its own parent."""
    if path == top or os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_directories(parent, top)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    _sync_directory(parent)


def _sync_directory(path: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
