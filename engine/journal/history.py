"""The index of a journal, `htime/HTIME.<ts>`, read robustly, whoever wrote it; and the history of a time range.

Upstream trusts record lengths, xattr counts and one index file. None of these hold on real bricks (upgrades change
the layout half-way, counts run past the end, journalling is switched off and on), so here only the records count.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.model import Changelog

COUNT_XATTR = "trusted.glusterfs.htime"
GRACE = 20
"""Seconds by which an index may lag behind the wanted end and still be complete: a rollover (15 s) and 5 s."""

INDEX_NAME = re.compile(rb"HTIME\.(\d{10})")
XSYNC_NAME = re.compile(rb"XSYNC-CHANGELOG\.(\d{10})\.(\d+)")
LOG_NAME = re.compile(rb"CHANGELOG\.(\d{10})")
INDEX_RECORD = re.compile(rb"(.*?)(?:/\d{4}/\d\d/\d\d)?/(CHANGELOG|changelog)\.(\d{10})", re.DOTALL)


class Hole(NamedTuple):
    """Changes after `start` and up to `end` (unix seconds) may be missing from the journal, and why (CRW-1, MRK-9)."""

    start: int
    end: int
    reason: str


class Entry(NamedTuple):
    """One record of an index: a slice that ended at `suffix`; `idle` when nothing changed in it and no file exists.

    `prefix` is the journal directory as the writer saw it.
    """

    suffix: int
    idle: bool
    prefix: bytes


@dataclass(slots=True)
class _File:
    """One HTIME file: what is known of it. `offset` is the first byte not read yet."""

    start: int
    inode: int
    offset: int = 0
    first: int = -1
    last: int = -1
    high: int = -1
    full: int = -1
    """The suffix of the last record that is not idle."""
    count: int = 0
    torn: bytes = b""
    entries: list[Entry] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The last second it covers."""
        return max(self.high, self.start)


class Htime:
    """All index files of the journal at `root`, read a piece at a time: `poll` takes in what is new.

    `ours` marks a journal written by `engine.journal.writer`, which continues in a new file by repeating the last
    record; with GlusterFS a new file always means that journalling was off in between. `since` (unix seconds) lets
    files of ours that end before it be skipped.
    """

    def __init__(self, root: bytes, *, ours: bool = False, since: int = 0) -> None:
        self.root = root
        self.ours = ours
        self.since = since
        self._files: dict[int, _File] = {}
        self._prefixes: set[bytes] = {root}
        self._layout = 0

    # ---- reading -------------------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Read what was added since the last time; whether anything was. A journal without an index is just empty."""
        try:
            names = os.listdir(os.path.join(self.root, b"htime"))
        except FileNotFoundError:
            names = []
        starts = sorted(int(m[1]) for m in map(INDEX_NAME.fullmatch, names) if m)
        changed = False
        for gone in self._files.keys() - set(starts):
            del self._files[gone]
            changed = True
        for i, start in enumerate(starts):
            if self.ours and i + 1 < len(starts) and starts[i + 1] <= self.since:
                continue
            changed |= self._read(start)
        return changed

    def _read(self, start: int) -> bool:
        path = os.path.join(self.root, b"htime", b"HTIME.%010d" % start)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._files.pop(start, None) is not None
        try:
            st = os.fstat(fd)
            known = self._files.get(start)
            if known is None or known.inode != st.st_ino or st.st_size < known.offset:
                known = self._files[start] = _File(start, st.st_ino)
            elif st.st_size == known.offset + len(known.torn):
                return False
            claimed = _claim(fd)  # before the records: a writer adds the record first, then counts it
            data = read_from(fd, known.offset)
        finally:
            os.close(fd)
        self._take(known, data)
        if claimed is not None and claimed[0] > known.end:
            known.warnings.append(f"the index says that it ends at {claimed[0]}, but its last record is {known.end}")
        return True

    def _take(self, file: _File, data: bytes) -> None:
        """Parse the complete records of `data`; what follows the last NUL may still be being written."""
        records = data.split(b"\0")
        file.torn = records.pop()
        file.offset += len(data) - len(file.torn)
        file.warnings = [w for w in file.warnings if not w.startswith("the index says")]
        lost = False
        for record in records:
            match = INDEX_RECORD.fullmatch(record)
            if match is None:
                lost = True
                file.warnings.append(f"record {file.count} is not one: {record[:100]!r}")
                continue
            prefix, word, digits = match[1], match[2], match[3]
            suffix = int(digits)
            if prefix not in self._prefixes:
                lost |= any(prefix.endswith(p) for p in self._prefixes)  # half a record, then a whole one
                self._prefixes.add(prefix)
            before = file.last if file.count else file.start
            if lost:
                file.holes.append(Hole(before, suffix, "a damaged record in the index"))
                lost = False
            if suffix < before and file.count:
                file.holes.append(Hole(suffix - 1, file.high + 1, "time stamps ran backwards"))
            elif suffix == file.full and word == b"CHANGELOG":
                # each rollover renames the open slice to the second it is: the second one of a second, over the first
                file.holes.append(Hole(suffix - 1, suffix, "two slices ended in one second: the first is overwritten"))
            if word == b"CHANGELOG":
                file.full = suffix
            file.count += 1
            if file.first < 0:
                file.first = suffix
            file.last = suffix
            file.high = max(file.high, suffix)
            file.entries.append(Entry(suffix, word == b"changelog", prefix))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """For each index file the seconds (from, to) it covers, in order."""
        return [(f.start, f.end) for f in self._sorted()]

    @property
    def last(self) -> int:
        """The latest suffix that is indexed, -1 when there is none."""
        return max((f.high for f in self._files.values()), default=-1)

    @property
    def warnings(self) -> list[str]:
        """What looked odd, without being a loss."""
        out: list[str] = []
        for f in self._sorted():
            out += (f"HTIME.{f.start}: {w}" for w in f.warnings)
            if f.torn:
                out.append(f"HTIME.{f.start}: the last record is torn: {f.torn[:100]!r}")
        return out

    def entries(self) -> list[Entry]:
        """All records, in order of their suffix, each once; of two with one suffix the one that has a file."""
        best: dict[int, Entry] = {}
        ordered = True
        high = -1
        for f in self._sorted():
            for entry in f.entries:
                if entry.suffix > high:
                    high = entry.suffix
                else:
                    ordered = False
                    known = best.get(entry.suffix)
                    if known is not None and not known.idle:
                        continue
                best[entry.suffix] = entry
        return list(best.values()) if ordered else [best[suffix] for suffix in sorted(best)]

    def holes(self) -> list[Hole]:
        """Where the index itself says, or shows, that changes may be missing."""
        out: list[Hole] = []
        before: _File | None = None
        for f in self._sorted():
            if before is not None:
                if f.first >= 0 and f.first < before.end:
                    out.append(Hole(f.first - 1, before.end + 1, "time stamps ran backwards between index files"))
                elif not (self.ours and f.first == before.last):
                    out.append(Hole(before.end, max(f.start, before.end + 1), "journalling was off"))
            out += f.holes
            before = f
        return sorted(out)

    def forget(self, before: int) -> None:
        """Let go of records and holes that end before this unix second."""
        for f in self._files.values():
            if f.entries and f.entries[0].suffix < before:
                f.entries = [e for e in f.entries if e.suffix >= before]
            f.holes = [h for h in f.holes if h.end >= before]

    def _sorted(self) -> list[_File]:
        return [self._files[start] for start in sorted(self._files)]

    # ---- files ---------------------------------------------------------------------------------------------------

    def locate(self, suffix: int) -> Changelog | None:
        """The changelog of a slice: dated (UTC, or a day off: local time) or flat; None when there is no file."""
        found = None
        for layout in (self._layout, *(n for n in range(4) if n != self._layout)):
            path = place(self.root, suffix, layout)
            try:
                size = os.stat(path).st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
            self._layout = layout
            found = Changelog(suffix, 0, path, size)
            break
        return found

    def resolve(self, entries: Iterable[Entry], previous: int) -> tuple[list[Changelog], list[Hole]]:
        """Entries as changelogs, idle ones as heartbeats; a file that is missing is left out, and a hole."""
        out: list[Changelog] = []
        holes: list[Hole] = []
        for entry in entries:
            log = None if entry.idle else self.locate(entry.suffix)
            if log is not None:
                out.append(log)
            elif entry.idle or self._lowered(entry.prefix):
                out.append(Changelog(entry.suffix, 0, b""))
            else:
                holes.append(Hole(previous, entry.suffix, "the changelog file is missing"))
            previous = entry.suffix
        return out, holes

    def _lowered(self, prefix: bytes) -> bool:
        """Did the writer lower the word in the brick's own path, instead of in the file's name, to say "idle"?"""
        return any(p != prefix and p.replace(b"CHANGELOG", b"changelog", 1) == prefix for p in self._prefixes)


    def loose(self, since: int, until: int) -> list[Changelog]:
        """Slices from `since` to `until` (unix seconds) that are there as files, but in no index.

        A brick that starts gives the slice that was open when it ended a name, and forgets to index it (seen in 10.3).
        """
        known = {e.suffix for f in self._files.values() for e in f.entries if not e.idle}
        out: dict[int, Changelog] = {}
        directories = {os.path.dirname(place(self.root, day)) for day in range(since - 86400, until + 2 * 86400, 86400)}
        for directory in (*sorted(directories), self.root):
            try:
                names = os.listdir(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for match in filter(None, map(LOG_NAME.fullmatch, names)):
                suffix = int(match[1])
                if since <= suffix <= until and suffix not in known and suffix not in out:
                    path = os.path.join(directory, match[0])
                    out[suffix] = Changelog(suffix, 0, path, os.stat(path).st_size)
        return [out[suffix] for suffix in sorted(out)]


def place(root: bytes, suffix: int, layout: int = 0) -> bytes:
    """The path of a slice's file: layout 0 is dated in UTC, 1 and 2 the day before and after, 3 flat."""
    name = b"CHANGELOG.%010d" % suffix
    if layout == 3:
        return os.path.join(root, name)
    day = time.gmtime(suffix + (0, -86400, 86400)[layout])
    return os.path.join(root, b"%04d/%02d/%02d" % (day.tm_year, day.tm_mon, day.tm_mday), name)


def read_from(fd: int, offset: int) -> bytes:
    """All bytes of a file from `offset` on."""
    chunks: list[bytes] = []
    while chunk := os.pread(fd, 1 << 22, offset):
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)


def _claim(fd: int) -> tuple[int, int] | None:
    """What the xattr says: last suffix and count; None where it has none, or we may not see it."""
    try:
        value = os.getxattr(fd, COUNT_XATTR)
    except OSError:
        return None
    last, colon, count = value.rstrip(b"\0").partition(b":")
    return (int(last), int(count)) if colon and last.isdigit() and count.isdigit() else None


# ---- history ------------------------------------------------------------------------------------------------------

COMPLETE, PARTIAL, UNAVAILABLE = "complete", "partial", "unavailable"


@dataclass(frozen=True, slots=True)
class History:
    """What the journal can say about a time range (CRW-4): slices in order, idle ones included as heartbeats.

    `covered_from` and `covered_to` are unix seconds; within them only what `holes` names may be missing. `status` is
    complete, partial (the end is not reached yet, or there are holes) or unavailable (nothing covers the start).
    """

    changelogs: list[Changelog]
    covered_from: int
    covered_to: int
    status: str
    holes: list[Hole]
    warnings: list[str]


def history(root: bytes | str, start: int, end: int, *, ours: bool = False, grace: int = GRACE) -> History:
    """The slices from `start` to `end` (unix seconds), both included, out of all index files.

    As upstream, the slice that contains `end` is the last one, and an index that ends up to `grace` seconds early is
    complete. A start inside a hole is served, and the hole reported: upstream gives up there.
    """
    index = Htime(os.fsencode(root), ours=ours)
    index.poll()
    spans = index.spans
    if not spans or start < spans[0][0]:
        return History([], 0, 0, UNAVAILABLE, [], index.warnings)
    entries = index.entries()
    chosen: list[Entry] = []
    previous = start
    for entry in entries:
        if entry.suffix < start:
            previous = entry.suffix
            continue
        chosen.append(entry)
        if entry.suffix >= end:
            break
    changelogs, missing = index.resolve(chosen, previous)
    if not ours:
        changelogs = sorted(changelogs + index.loose(start, chosen[-1].suffix if chosen else end))
    reached = max(stop for _, stop in spans)
    covered_to = chosen[-1].suffix if chosen else start
    holes = sorted([h for h in index.holes() if h.end > start and h.start < end] + missing)
    status = COMPLETE if not holes and end - grace <= reached else PARTIAL
    return History(changelogs, start, covered_to, status, holes, index.warnings)
