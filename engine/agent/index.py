"""The index of a tree, gfid ↔ (parent, name), in SQLite: the recorder's base on the primary, the map on the secondary."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from engine.agent.types import LIMBO, ROOT, Gfid, Slot

FORMAT = 2
"""1 had no place (fact `at`) and, on a secondary, no sizes and times: whoever knows only that one begins a new index."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
  parent BLOB NOT NULL, name BLOB NOT NULL, gfid BLOB NOT NULL, kind INTEGER NOT NULL,
  ident BLOB NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
  PRIMARY KEY (parent, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_gfid ON entry (gfid);
CREATE TABLE IF NOT EXISTS later (
  parent BLOB NOT NULL, name BLOB NOT NULL, PRIMARY KEY (parent, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_COLUMNS = "parent, name, gfid, kind, ident, size, mtime, ctime"
_CHUNK = 500
_REMEMBER = 200_000  # gfids of a first synchronisation that are kept in memory to answer `maybe`


class Row(NamedTuple):
    """One name of one object. `kind` is the file type bits of the mode (S_IFMT); times in ns.

    `ident` is what recognises the object on its own side: the file handle on a primary (type as 4 bytes, then the
    handle), 8 bytes of inode number on a secondary. `ctime` is 0 where the entry was changed so close to being
    looked at that a later change might not show ("racy"): it then differs from any real one. On a secondary, size and
    times are those of the last commit, and a ctime of 0 says that they are not known.
    """

    parent: Gfid
    name: bytes
    gfid: Gfid
    kind: int
    ident: bytes
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def slot(self) -> Slot:
        return Slot(self.parent, self.name)


class IndexError_(Exception):
    """The index file cannot be used: damaged or of another format."""


class Index:
    """The index of one tree. One connection, used by one thread at a time; nothing is durable before `commit`.

    With `reader` it only looks, at what was last committed by whoever writes. Raises IndexError_ when the file is
    damaged or of another format.
    """

    def __init__(self, path: str, cache_mib: int = 48, reader: bool = False) -> None:
        self.file = path
        self.changed = False
        self._reader = reader
        self._all: Optional[set[Gfid]] = None
        """Every gfid put, as long as the index began empty and they are few; None when that is not so."""
        try:
            if reader:
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
                self._db.execute("PRAGMA query_only=1")
                self._db.execute(f"PRAGMA cache_size=-{cache_mib * 1024}")
                return
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA page_size=8192")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA cache_size=-{cache_mib * 1024}")
            self._db.execute("PRAGMA wal_autocheckpoint=4000")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN")
            found = self.fact("format")
            if found is None or found == 1:
                self.set_fact("format", FORMAT)
            elif found != FORMAT:
                raise IndexError_(f"{path}: index format {found}, this version knows {FORMAT}")
            self._note_empty()
        except sqlite3.DatabaseError as e:
            raise IndexError_(f"{path}: {e}") from e

    def _note_empty(self) -> None:
        self._all = set() if self._db.execute("SELECT 1 FROM entry LIMIT 1").fetchone() is None else None

    def close(self) -> None:
        """Close without committing what is pending."""
        self._db.close()

    def commit(self, durable: bool = True) -> None:
        """Make all changes so far visible to later opens; with `durable`, safe from a power cut too (MRK-6)."""
        self._db.execute("COMMIT")
        if durable:
            # in WAL mode, synchronous=NORMAL leaves the log unsynced: sync it here, once per batch
            wal = self.file + "-wal"
            for path in (wal, self.file):
                try:
                    fd = os.open(path, os.O_RDONLY)
                except FileNotFoundError:
                    continue
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
        self._db.execute("BEGIN")
        self.changed = False

    def rollback(self) -> None:
        """Forget all changes since the last commit."""
        self._db.execute("ROLLBACK")
        self._db.execute("BEGIN")
        self.changed = False
        self._all = None

    def get(self, parent: Gfid, name: bytes) -> Optional[Row]:
        """The row of one slot, None when the slot is free."""
        r = self._db.execute(
            f"SELECT {_COLUMNS} FROM entry WHERE parent=? AND name=?", (parent, name)
        ).fetchone()
        return Row._make(r) if r else None

    def rows(self, gfid: Gfid) -> list[Row]:
        """All names of an object, none when it is unknown."""
        return [
            Row._make(r)
            for r in self._db.execute(f"SELECT {_COLUMNS} FROM entry WHERE gfid=? ORDER BY parent, name", (gfid,))
        ]

    def row(self, gfid: Gfid) -> Optional[Row]:
        """One of the names of an object."""
        r = self._db.execute(f"SELECT {_COLUMNS} FROM entry WHERE gfid=? LIMIT 1", (gfid,)).fetchone()
        return Row._make(r) if r else None

    def kind(self, gfid: Gfid) -> Optional[int]:
        """What kind of object it is (`S_IFREG` …), None for one that is not known."""
        row = self.row(gfid)
        return None if row is None else row.kind

    def has(self, gfid: Gfid) -> bool:
        """Is this object known? The root always is."""
        return (
            gfid == ROOT
            or gfid == LIMBO
            or self._db.execute("SELECT 1 FROM entry WHERE gfid=? LIMIT 1", (gfid,)).fetchone() is not None
        )

    def maybe(self, gfids: list[Gfid]) -> set[Gfid]:
        """Those of the gfids that may be known: none that is known is missing."""
        if self._all is not None:
            return self._all.intersection(gfids)
        found: set[Gfid] = set()
        for i in range(0, len(gfids), _CHUNK):
            some = gfids[i : i + _CHUNK]
            marks = ",".join("?" * len(some))
            found.update(g for (g,) in self._db.execute(f"SELECT gfid FROM entry WHERE gfid IN ({marks})", some))
        return found

    def children(self, parent: Gfid) -> list[Row]:
        """The rows of one directory, by name."""
        return [
            Row._make(r)
            for r in self._db.execute(f"SELECT {_COLUMNS} FROM entry WHERE parent=? ORDER BY name", (parent,))
        ]

    def some_children(self, parent: Gfid, limit: int, after: bytes = b"") -> list[Row]:
        """Up to `limit` rows of one directory with names after `after`, by name."""
        return [
            Row._make(r)
            for r in self._db.execute(
                f"SELECT {_COLUMNS} FROM entry WHERE parent=? AND name>? ORDER BY name LIMIT ?", (parent, after, limit)
            )
        ]

    def children_names(self, parent: Gfid) -> list[tuple[bytes, Gfid]]:
        """Names and gfids of one directory, by name."""
        return list(self._db.execute("SELECT name, gfid FROM entry WHERE parent=? ORDER BY name", (parent,)))

    def put(self, rows: Sequence[Row]) -> None:
        """Insert or replace rows, by slot."""
        if self._all is not None:
            self._all.update([r[2] for r in rows])
            if len(self._all) > _REMEMBER:
                self._all = None
        self._db.executemany("INSERT OR REPLACE INTO entry VALUES (?,?,?,?,?,?,?,?)", rows)
        self.changed = True

    def remove(self, slots: Iterable[Slot]) -> None:
        """Remove slots; a free slot is no error."""
        self._db.executemany("DELETE FROM entry WHERE parent=? AND name=?", slots)
        self.changed = True

    def touch(self, gfid: Gfid, ident: bytes, size: int, mtime_ns: int, ctime_ns: int) -> None:
        """Renew identity, size and times in all names of an object."""
        self._db.execute(
            "UPDATE entry SET ident=?, size=?, mtime=?, ctime=? WHERE gfid=?",
            (ident, size, mtime_ns, ctime_ns, gfid),
        )
        self.changed = True

    def path(self, gfid: Gfid) -> Optional[bytes]:
        """One path of an object relative to the root (b"" for the root), None when it is unknown."""
        parts: list[bytes] = []
        above = set()
        while gfid != ROOT:
            if gfid == LIMBO:
                parts.append(b".georep/limbo")
                break
            if gfid in above:  # rows of different times may make a circle
                return None
            above.add(gfid)
            row = self._db.execute("SELECT parent, name FROM entry WHERE gfid=? LIMIT 1", (gfid,)).fetchone()
            if row is None:
                return None
            parts.append(row[1])
            gfid = row[0]
        return b"/".join(reversed(parts))

    def files(self) -> tuple[int, int]:
        """How many names of regular files there are, and their bytes."""
        row = self._db.execute("SELECT count(*), total(size) FROM entry WHERE kind=?", (0o100000,)).fetchone()
        return int(row[0]), int(row[1])

    def count(self) -> int:
        """How many names there are."""
        return int(self._db.execute("SELECT count(*) FROM entry").fetchone()[0])

    def directories(self, after: Gfid = b"") -> Iterator[Gfid]:
        """The gfids of all directories that have children, ascending, beginning after `after`."""
        while True:
            r = self._db.execute("SELECT parent FROM entry WHERE parent>? ORDER BY parent LIMIT 1", (after,)).fetchone()
            if r is None:
                return
            after = r[0]
            yield after

    def clear(self) -> None:
        """Forget every entry; facts stay."""
        self._db.execute("DELETE FROM entry")
        self.changed = True
        self._note_empty()

    def defer(self, slots: Iterable[Slot]) -> None:
        """Remember slots to be looked at again when a walk has ended."""
        self._db.executemany("INSERT OR IGNORE INTO later VALUES (?,?)", slots)
        self.changed = True

    def deferred(self, limit: int) -> list[Slot]:
        """Some of the remembered slots."""
        return [Slot(*r) for r in self._db.execute("SELECT parent, name FROM later LIMIT ?", (limit,))]

    def undefer(self, slots: Iterable[Slot]) -> None:
        """Forget remembered slots."""
        self._db.executemany("DELETE FROM later WHERE parent=? AND name=?", slots)
        self.changed = True

    def fact(self, key: str) -> object:
        """A named value kept with the index, None when unset."""
        r = self._db.execute("SELECT value FROM fact WHERE key=?", (key,)).fetchone()
        return r[0] if r else None

    def set_fact(self, key: str, value: object) -> None:
        """Keep a named value (text, int, bytes); None removes it."""
        if value is None:
            self._db.execute("DELETE FROM fact WHERE key=?", (key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO fact VALUES (?,?)", (key, value))
        self.changed = True
