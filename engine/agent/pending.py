"""The agent's index: changes are held in memory and reach SQLite many at a time, visible to lookups at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from engine.agent.index import Index, Row
from engine.agent.types import ROOT, Gfid, Slot

NEWEST = 64
"""Rows that are remembered as those written last."""

_FLUSH_AT = 2048  # few, so that a commit finds little left to do while the primary waits for it

RawRow = tuple[bytes, bytes, bytes, int, bytes, int, int, int]
"""A Row as a plain tuple, which is what the path of a new file can afford."""


class PendingIndex(Index):
    """An Index whose writes wait in memory. Used by one thread."""

    def __init__(self, path: str, cache_mib: int = 48) -> None:
        super().__init__(path, cache_mib)
        self._wait: dict[tuple[bytes, bytes], Optional[RawRow]] = {}
        self._slots: dict[Gfid, list[tuple[bytes, bytes]]] = {}
        self._has_idents: Optional[bool] = None  # an earlier process may have left the index by identity
        self._stats: dict[tuple[bytes, bytes], tuple[int, int, int]] = {}
        """Size, mtime and ctime of rows that stay as they are otherwise: cheaper than to write them anew."""
        self._newest: Optional[list[Slot]] = None
        self._remembers: Optional[bool] = None

    # --- writes

    def put_row(self, row: RawRow) -> None:
        """Insert or replace one row."""
        slot = (row[0], row[1])
        self._wait[slot] = row
        slots = self._slots
        if row[2] in slots:
            slots[row[2]].append(slot)
        else:
            slots[row[2]] = [slot]

    def remove_slot(self, parent: Gfid, name: bytes) -> None:
        """Remove one slot; a free one is no error."""
        self._wait[(parent, name)] = None

    def note(self, slot: tuple[bytes, bytes], size: int, mtime_ns: int, ctime_ns: int) -> None:
        """What is seen of an object whose row is there; lookups may show what was noted before until the commit."""
        row = self._wait.get(slot)
        if row is not None:
            self._wait[slot] = (*row[:5], size, mtime_ns, ctime_ns)
        else:
            self._stats[slot] = (size, mtime_ns, ctime_ns)

    def put(self, rows: Sequence[Row]) -> None:
        """Insert or replace rows, by slot."""
        for row in rows:
            self.put_row(row)

    def remove(self, slots: Iterable[Slot]) -> None:
        """Remove slots; a free slot is no error."""
        for parent, name in slots:
            self._wait[(parent, name)] = None

    def flush(self) -> None:
        """Hand what waits to SQLite (no commit)."""
        if self._stats:
            stats, self._stats = self._stats, {}
            self._db.executemany(
                "UPDATE entry SET size=?, mtime=?, ctime=? WHERE parent=? AND name=?",
                [(*seen, *slot) for slot, seen in stats.items()],
            )
            self.changed = True
            self._newest = [*self.newest(), *(Slot(*s) for s in list(stats)[-NEWEST:])][-NEWEST:]
        if not self._wait:
            return
        gone = [s for s, r in self._wait.items() if r is None]
        rows = [r for r in self._wait.values() if r is not None]
        if gone:
            super().remove([Slot(*s) for s in gone])
        if rows:
            super().put(rows)  # type: ignore[arg-type]
            self._newest = [*self.newest(), *(Slot(r[0], r[1]) for r in rows[-NEWEST:])][-NEWEST:]
        self._wait = {}
        self._slots = {}

    def relieve(self) -> None:
        """Flush when much waits; called between frames."""
        if len(self._wait) + len(self._stats) >= _FLUSH_AT:
            self.flush()

    # --- lookups

    def get(self, parent: Gfid, name: bytes) -> Optional[Row]:
        """The row of one slot, None when the slot is free."""
        slot = (parent, name)
        if slot in self._wait:
            row = self._wait[slot]
            return None if row is None else Row._make(row)
        return super().get(parent, name)

    def rows(self, gfid: Gfid) -> list[Row]:
        """All names of an object, none when it is unknown."""
        found = super().rows(gfid)
        if self._wait:
            wait = self._wait
            found = [r for r in found if (r[0], r[1]) not in wait]
            slots = self._slots.get(gfid)
            if slots is not None:
                for slot in slots if len(slots) == 1 else dict.fromkeys(slots):
                    row = wait[slot]
                    if row is not None and row[2] == gfid:
                        found.append(Row._make(row))
        return found

    def row(self, gfid: Gfid) -> Optional[Row]:
        """One of the names of an object."""
        rows = self.rows(gfid)
        return rows[0] if rows else None

    def has(self, gfid: Gfid) -> bool:
        """Is this object known? The root always is."""
        return gfid == ROOT or bool(self.rows(gfid))

    def maybe(self, gfids: list[Gfid]) -> set[Gfid]:
        """Those of the gfids that may be known: none that is known is missing."""
        found = super().maybe(gfids)
        if self._slots:
            found.update(g for g in gfids if g in self._slots)
        return found

    def by_ident(self, ident: bytes, kind: int) -> Optional[Row]:
        """A row of the object with this identity on disk. The first call makes a database index for it."""
        self.flush()
        if not self._has_idents:
            self._db.execute("CREATE INDEX IF NOT EXISTS entry_ident ON entry (ident)")
            self._has_idents = True
        r = self._db.execute(
            "SELECT parent, name, gfid, kind, ident, size, mtime, ctime FROM entry WHERE ident=? AND kind=? LIMIT 1",
            (ident, kind),
        ).fetchone()
        return Row._make(r) if r else None

    def forget_idents(self) -> None:
        """Drop the database index that by_ident made: it is only worth its cost in a recovery or an adoption."""
        if self._has_idents is not False:
            self._db.execute("DROP INDEX IF EXISTS entry_ident")
            self._has_idents = False

    def forget_tree(self, gfid: Gfid) -> None:
        """Remove all rows below a directory, however deep."""
        self.flush()
        todo = [gfid]
        while todo:
            parent = todo.pop()
            todo += [g for (g,) in self._db.execute("SELECT gfid FROM entry WHERE parent=? AND kind=16384", (parent,))]
            self._db.execute("DELETE FROM entry WHERE parent=?", (parent,))
            self.changed = True

    # --- what was committed, for telling later whether it is still so

    def newest(self) -> list[Slot]:
        """The names that were written last."""
        if self._newest is None:
            kept = self.fact("newest")
            known = json.loads(kept) if isinstance(kept, str) else []
            self._newest = [Slot(bytes.fromhex(p), bytes.fromhex(n)) for p, n in known]
        return self._newest

    def near(self, gfid: Gfid) -> Optional[Row]:
        """The row of the object with that gfid, or of the next one: a random gfid gives a random object."""
        self.flush()
        for at in (gfid, b""):
            r = self._db.execute(
                "SELECT parent, name, gfid, kind, ident, size, mtime, ctime FROM entry WHERE gfid>=? ORDER BY gfid LIMIT 1",
                (at,),
            ).fetchone()
            if r:
                return Row._make(r)
        return None

    def page(self, after: Slot, limit: int) -> list[Row]:
        """Up to `limit` rows after a slot, in the order of slots."""
        self.flush()
        found = self._db.execute(
            "SELECT parent, name, gfid, kind, ident, size, mtime, ctime FROM entry WHERE (parent, name)>(?,?) "
            "ORDER BY parent, name LIMIT ?", (after.parent, after.name, limit),
        )  # fmt: skip
        return [Row._make(r) for r in found]

    def remember(self, proven: bool) -> None:
        """Before `clear`: keep what was committed of files, for `proves`; nothing where it is not `proven`."""
        self.flush()
        self.forget_remembered()
        self._db.execute(
            "CREATE TABLE was (ident BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER) WITHOUT ROWID"
        )
        if proven:
            self._db.execute(
                "INSERT OR REPLACE INTO was SELECT ident, size, mtime, ctime FROM entry WHERE kind=32768 AND ctime<>0"
            )
        self.changed = True
        self._remembers = True

    def proves(self, ident: bytes, size: int, mtime_ns: int, ctime_ns: int) -> bool:
        """Is a file as it was committed? Only what `remember` kept can be."""
        if self._remembers is None:
            self._remembers = self._db.execute("SELECT 1 FROM sqlite_master WHERE name='was'").fetchone() is not None
        if not self._remembers:
            return False
        r = self._db.execute("SELECT size, mtime, ctime FROM was WHERE ident=?", (ident,)).fetchone()
        return r is not None and tuple(r) == (size, mtime_ns, ctime_ns)

    def forget_remembered(self) -> None:
        """The comparison is through."""
        self._db.execute("DROP TABLE IF EXISTS was")
        self._remembers = False
        self.changed = True

    # --- what needs everything in SQLite

    def commit(self, durable: bool = True) -> None:
        """Make all changes so far visible to later opens; with `durable`, safe from a power cut too (MRK-6)."""
        self.flush()
        if self._newest is not None:
            self.set_fact("newest", json.dumps([(s.parent.hex(), s.name.hex()) for s in self._newest]))
            self._newest = None
        super().commit(durable)

    def rollback(self) -> None:
        """Forget all changes since the last commit."""
        self._wait = {}
        self._stats = {}
        self._slots = {}
        super().rollback()

    def clear(self) -> None:
        """Forget every entry; facts stay."""
        self._wait = {}
        self._slots = {}
        self._stats = {}
        self._newest = []
        super().clear()

    def children(self, parent: Gfid) -> list[Row]:
        """The rows of one directory, by name."""
        self.flush()
        return super().children(parent)

    def children_names(self, parent: Gfid) -> list[tuple[bytes, Gfid]]:
        """Names and gfids of one directory, by name."""
        self.flush()
        return super().children_names(parent)

    def path(self, gfid: Gfid) -> Optional[bytes]:
        """One path of an object relative to the root (b"" for the root), None when it is unknown."""
        self.flush()
        return super().path(gfid)

    def count(self) -> int:
        """How many names there are."""
        self.flush()
        return super().count()

    def directories(self, after: Gfid = b"") -> Iterator[Gfid]:
        """The gfids of all directories that have children, ascending, beginning after `after`."""
        self.flush()
        return super().directories(after)

    def touch(self, gfid: Gfid, ident: bytes, size: int, mtime_ns: int, ctime_ns: int) -> None:
        """Renew identity, size and times in all names of an object."""
        self.flush()
        super().touch(gfid, ident, size, mtime_ns, ctime_ns)


def sqlite_errno(error: sqlite3.Error) -> int:
    """The errno behind a database error: ENOSPC, EROFS, else EIO."""
    text = str(error)
    if "full" in text:
        return 28
    if "readonly" in text:
        return 30
    return 5
