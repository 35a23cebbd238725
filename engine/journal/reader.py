"""A journal as the worker sees it: what is to be done after a mark, its records, and where it goes when it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from itertools import pairwise

from engine.journal.archive import Archive
from engine.journal.format import Decoded, JournalError, decode, encode_header
from engine.journal.history import INDEX_NAME, LOG_NAME, XSYNC_NAME, Hole, Htime
from engine.model import Changelog, EntryChange, Gfid, Mark


class Journal:
    """The journal at `root`, used by one thread; another may write it meanwhile.

    `owned` says that it is ours, a tree's: what is done is archived and removed. A brick's own journal is never
    changed; then `xsync` is the directory where our hybrid crawls put their slices, by default `xsync` in `root`.
    """

    def __init__(
        self,
        root: bytes | str,
        *,
        owned: bool = True,
        xsync: bytes | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = os.path.abspath(os.fsencode(root))
        self.owned = owned
        self.xsync = os.path.join(self.root, b"xsync") if xsync is None else os.path.abspath(os.fsencode(xsync))
        self.clock = clock
        self._index: Htime | None = None
        self._since = 0
        self._missing: list[Hole] = []
        self.rescan = not owned
        """Look for slices that no index has, too: the brick began anew, or may have before we looked (`Htime.loose`)."""
        self._loose: dict[int, Changelog] = {}
        self._archives = {d: Archive(d, clock) for d in {self.root, self.xsync}}
        self._sizes: dict[bytes, dict[bytes, int]] = {}
        self._times: dict[bytes, int] = {}

    # ---- what is to be done --------------------------------------------------------------------------------------

    def pending(self, after: Mark) -> list[Changelog]:
        """All slices later than the mark, and all of hybrid crawls, in the order in which they must be applied.

        Of heartbeats in a row only the last is given (MRK-8). Slices of a hybrid crawl are done when they are gone,
        whatever the mark says. Call `holes` afterwards: a file that is indexed but missing is one.
        """
        index = self._poll(after.sec)
        entries = [e for e in index.entries() if e.suffix > after.sec]
        logs: list[Changelog] = []
        self._missing = []
        previous = max(after.sec, 0)
        kept, holes = index.resolve(entries, previous)
        for hole in holes:
            # a file of ours that is gone just after the mark was done and archived: the mark is its suffix − 1
            if not (self.owned and hole.end <= after.sec + 1):
                self._missing.append(hole)
        kept = sorted(kept + self._unindexed(index, after.sec))
        for i, log in enumerate(kept):
            if log.path or i + 1 == len(kept) or kept[i + 1].path:
                logs.append(log)
        return sorted(logs + self._crawled())

    def _unindexed(self, index: Htime, after: int) -> list[Changelog]:
        if self.rescan:
            now = int(self.clock())
            # a mark of 0 or less has no use for history: a crawl comes first
            self._loose = {c.suffix: c for c in index.loose(after + 1 if after > 0 else now, now + 1)}
        indexed = {e.suffix for e in index.entries() if not e.idle}
        return [c for suffix, c in self._loose.items() if suffix > after and suffix not in indexed]

    @property
    def last(self) -> int:
        """The latest suffix that is indexed, as of the last look; -1 when there is none."""
        return -1 if self._index is None else self._index.last

    def holes(self, after: Mark) -> list[Hole]:
        """Where changes later than the mark may be missing: each needs a hybrid crawl (CRW-1, MRK-9)."""
        index = self._poll(after.sec)
        return sorted({h for h in [*index.holes(), *self._missing] if h.end > after.sec})

    @property
    def first(self) -> int | None:
        """The first second the index covers, after a look at it; None where there is no index."""
        spans = self._index.spans if self._index is not None else []
        return spans[0][0] if spans else None

    def stale(self, after: Mark) -> list[Changelog]:
        """Slices not later than the mark that are still there, for `done_many`: they need not be read (CRW-3)."""
        if not self.owned:
            return []
        out: list[Changelog] = []
        for day in self._days():
            for name in os.listdir(day):
                if LOG_NAME.fullmatch(name) and int(name[-10:]) <= after.sec:
                    path = os.path.join(day, name)
                    out.append(Changelog(int(name[-10:]), 0, path, os.stat(path).st_size))
        return sorted(out)

    def _poll(self, since: int) -> Htime:
        if self._index is None or since < self._since:
            self._index = Htime(self.root, ours=self.owned, since=since)
        self._since = since
        self._index.since = since
        self._index.poll()
        self._index.forget(since)
        return self._index

    def _crawled(self) -> list[Changelog]:
        out = []
        try:
            with os.scandir(self.xsync) as entries:
                for entry in entries:
                    match = XSYNC_NAME.fullmatch(entry.name)
                    if match:
                        size = entry.stat(follow_symlinks=False).st_size
                        out.append(Changelog(int(match[1]), int(match[2]), entry.path, size))
        except FileNotFoundError:
            pass
        return out

    # ---- one slice -----------------------------------------------------------------------------------------------

    def read(self, changelog: Changelog) -> Decoded:
        """The records of a slice; a heartbeat has none. `Decoded.torn` says where a damaged one stops making sense.

        Raises JournalError, with the path and the offset, when it is no changelog at all, and with code
        "changelog-missing" when it is gone.
        """
        if not changelog.path:
            return decode(encode_header())
        try:
            with open(changelog.path, "rb") as f:
                data = f.read()
        except FileNotFoundError as e:
            text = f"{os.fsdecode(changelog.path)} is gone"
            raise JournalError(
                text, path=changelog.path, code="changelog-missing", hint="a hybrid crawl closes the hole"
            ) from e
        return decode(data, changelog.path)

    def done(self, changelog: Changelog) -> None:
        """The slice is on the secondary: into the archive (CHG-11). Raises OSError."""
        self.done_many([changelog])

    def done_many(self, changelogs: Iterable[Changelog]) -> None:
        """As `done`, with each archive opened once. A missing file is skipped; a brick's own journal is left alone."""
        own: list[bytes] = []
        crawled: list[bytes] = []
        for log in changelogs:
            if log.path and os.path.dirname(log.path) == self.xsync:
                crawled.append(log.path)
            elif log.path and self.owned:
                own.append(log.path)
        if own:
            self._archives[self.root].append(own)
            self._remove_days(own)
        if crawled:
            self._archives[self.xsync].append(crawled)

    def done_since(self, second: int) -> set[Gfid]:
        """The objects, and the directories of names, that slices later than that second speak of which are done."""
        found: set[Gfid] = set()
        for data in (d for a in self._archives.values() if os.path.isdir(a.directory) for d in a.since(second)):
            try:
                records = decode(data).records
            except JournalError:
                continue
            for record in records:
                found.add(record.gfid)
                if isinstance(record, EntryChange):
                    found.update(slot.parent for slot in (record.slot, record.dest) if slot is not None)
        return found

    def set_aside(self, changelog: Changelog) -> bytes:
        """Keep a damaged slice for a person: into `damaged/` of our directory. Where it is now; a brick's is copied."""
        directory = os.path.join(self.root if self.owned else os.path.dirname(self.xsync), b"damaged")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        kept = os.path.join(directory, os.path.basename(changelog.path))
        if self.owned or os.path.dirname(changelog.path) == self.xsync:
            os.rename(changelog.path, kept)
        else:
            with open(changelog.path, "rb") as source, open(kept, "wb") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
        return kept

    def _days(self) -> list[bytes]:
        found = [self.root]
        for digits in (4, 2, 2):
            below = []
            for parent in found:
                try:
                    names = os.listdir(parent)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                below += [os.path.join(parent, n) for n in names if len(n) == digits and n.isdigit()]
            found = below
        return sorted(found)

    def _remove_days(self, paths: list[bytes]) -> None:
        """Remove directories of days that are over and empty (the writer makes one anew if it still needs it)."""
        today = time.strftime("/%Y/%m/%d", time.gmtime(self.clock())).encode()
        for day in {os.path.dirname(p) for p in paths}:
            if day.endswith(today) or day == self.root:
                continue
            try:
                for _ in range(3):
                    os.rmdir(day)
                    day = os.path.dirname(day)
            except OSError:
                continue  # not empty: there is more of that day, month or year

    # ---- room ----------------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Bytes of all files in the journal directory (SAFE-6); only what changed since the last time is looked at."""
        total = 0
        seen: set[bytes] = set()
        below = [self.root]
        if os.path.dirname(self.xsync) != self.root:
            below.append(self.xsync)
        while below:
            directory = below.pop()
            seen.add(directory)
            total += self._size(directory, below)
        for gone in self._sizes.keys() - seen:
            del self._sizes[gone]
            self._times.pop(gone, None)
        return total

    def _size(self, directory: bytes, below: list[bytes]) -> int:
        """The bytes of the files in one directory; its subdirectories are added to `below`.

        Changelogs never change once they have their name, so a directory that holds nothing else needs only a stat.
        """
        try:
            time_ns = os.stat(directory).st_mtime_ns
            if self._times.get(directory) == time_ns:
                return sum(self._sizes[directory].values())
            known = self._sizes.get(directory, {})
            sizes: dict[bytes, int] = {}
            lasting = True
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                        lasting = False
                        continue
                    size = known.get(entry.name)
                    if size is None or not (LOG_NAME.fullmatch(entry.name) or XSYNC_NAME.fullmatch(entry.name)):
                        try:
                            size = entry.stat(follow_symlinks=False).st_size
                        except FileNotFoundError:
                            continue
                    lasting = lasting and LOG_NAME.fullmatch(entry.name) is not None
                    sizes[entry.name] = size
        except FileNotFoundError:
            return 0
        self._sizes[directory] = sizes
        if lasting and time_ns < time.time_ns() - 2_000_000_000:
            self._times[directory] = time_ns
        else:
            self._times.pop(directory, None)
        return sum(sizes.values())

    def prune(self, archive_retention: float, after: Mark | None = None) -> int:
        """Remove archives not written to for `archive_retention` seconds (0: keep all); the bytes that freed.

        With the mark given, index files of ours go too when they end before both the mark and that time.
        """
        freed = sum(archive.prune(archive_retention) for d, archive in self._archives.items() if os.path.isdir(d))
        if self.owned and after is not None and archive_retention > 0:
            before = min(after.sec, int(self.clock() - archive_retention))
            directory = os.path.join(self.root, b"htime")
            starts = sorted(int(m[1]) for m in map(INDEX_NAME.fullmatch, os.listdir(directory)) if m)
            for start, following in pairwise(starts):
                if following < before:
                    path = os.path.join(directory, b"HTIME.%010d" % start)
                    freed += os.stat(path).st_size
                    os.unlink(path)
        return freed
