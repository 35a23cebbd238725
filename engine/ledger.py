"""The failure ledger (ERR-3): what could not be brought over, durably, until both sides agree or a person lets go."""

from __future__ import annotations

import base64
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from engine.model import EngineError, Gfid, Slot

FIRST_RETRY, LAST_RETRY = 2.0, 3600.0
"""Seconds until the first retry, and the longest pause; each doubles the one before."""

TREE = "TREE"
"""The operation of a directory that is to be settled with all that is in it."""


def retried(operation: str) -> str:
    """The operation of a retry: nobody remembers what was tried first, but how far it has to reach."""
    return TREE if operation == TREE else "RETRY"


_HINTS = {
    5: "the primary's disk cannot read it (see dmesg there); until it can, the secondary keeps what it has",
    1: "immutable there (chattr -i), or the agent may not (run it as root)",
    13: "permission denied: check who the agent or the engine runs as",
    7: "the secondary's filesystem does not take xattrs that large",
    36: "the secondary's filesystem does not take names that long",
    95: "the secondary's filesystem does not support this (xattrs, ACLs?)",
    17: "something else is in the way on the secondary",
    31: "the secondary takes no more names of one file (GlusterFS: raise storage.max-hardlinks there)",
}


class LedgerError(EngineError):
    """The ledger cannot be read or written: nothing may go on as if a failure were kept."""

    def __init__(self, path: str, what: object, hint: str = "is there room, and may it be written?") -> None:
        super().__init__(f"{path}: {what}", hint=hint, code="ledger")


@dataclass(frozen=True, slots=True)
class Failure:
    """One entry. `kind`: object, changelog, rejected-delete. `gfid` is 32 hex digits, "" for a changelog.

    Times are unix seconds; `next_try` 0 means: only on demand. `slots` are the names that it is about, for `add_many`; an
    entry that was read has none: `Ledger.slots`.
    """

    id: int
    kind: str
    gfid: str
    path: bytes
    operation: str
    errno: int
    message: str
    hint: str
    primary_state: str
    secondary_state: str
    first_time: float
    last_time: float
    tries: int
    next_try: float
    slots: tuple[Slot, ...] = ()

    @classmethod
    def of_object(
        cls, gfid: Gfid, path: bytes, operation: str, errno: int, message: str, now: float, primary_state: str = "",
        secondary_state: str = "", slots: tuple[Slot, ...] = (),
    ) -> Failure:  # fmt: skip
        """An object that could not be brought over."""
        return cls(0, "object", gfid.hex(), path, operation, errno, message, _HINTS.get(errno, ""),
                   primary_state, secondary_state, now, now, 1, now + FIRST_RETRY, slots)  # fmt: skip

    @classmethod
    def of_changelog(cls, path: bytes, message: str, now: float) -> Failure:
        """A changelog that cannot be read; a hybrid crawl makes up for it."""
        return cls(0, "changelog", "", path, "READ", 0, message, "a hybrid crawl finds what it held", "", "",
                   now, now, 1, now + FIRST_RETRY)  # fmt: skip

    @classmethod
    def only_there(cls, gfid: Gfid, path: bytes, now: float) -> Failure:
        """A name that a comparison found on the secondary only: it is not removed before a person says so."""
        return cls(0, "object", gfid.hex(), path, "EXTRA", 0, "only the secondary has this name",
                   "retry removes it there; dismiss keeps it", "absent", "present", now, now, 1, 0.0)  # fmt: skip

    @classmethod
    def rejected_delete(cls, gfid: Gfid, path: bytes, who: str, now: float, there: str = "present") -> Failure:
        """A delete that a person rejected: the object stays on the secondary; `there` is what it is."""
        return cls(0, "rejected-delete", gfid.hex(), path, "DELETE", 125, f"delete rejected by {who}",
                   "retry deletes it there; dismiss keeps it", "absent", there, now, now, 1, 0.0)  # fmt: skip

    @classmethod
    def rejected_replacement(
        cls, gfid: Gfid, path: bytes, who: str, now: float, here: str = "present", there: str = "absent"
    ) -> Failure:
        """An object whose name on the secondary belongs to one whose delete a person rejected: it is not made there."""
        return cls(0, "rejected-delete", gfid.hex(), path, "REPLACE", 125, f"replacing rejected by {who}",
                   "retry replaces it there; dismiss leaves it", here, there, now, now, 1, 0.0)  # fmt: skip

    def shown(self) -> dict[str, Any]:
        """For JSON: the path as text, its bytes beside it where it is not UTF-8."""
        out: dict[str, Any] = {f: getattr(self, f) for f in ("id", *_FIELDS)}
        try:
            out["path"] = self.path.decode("utf-8")
        except UnicodeDecodeError:
            out["path"] = self.path.decode("utf-8", "backslashreplace")
            out["path_b64"] = base64.b64encode(self.path).decode()
        out["next_try"] = self.next_try or None
        return out


_FIELDS = tuple(Failure.__dataclass_fields__)[1:-1]


def backoff(tries: int) -> float:
    """Seconds until the next retry after so many tries."""
    return min(FIRST_RETRY * float(1 << (min(tries, 20) - 1)), LAST_RETRY)


class Ledger:
    """The ledger of one brick, in a SQLite file; every change is durable when the call returns.

    Any thread may call. Raises LedgerError where the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS failure (id INTEGER PRIMARY KEY AUTOINCREMENT, "
                + ", ".join(_FIELDS) + ", UNIQUE (kind, gfid, path))"
            )  # fmt: skip
            self._db.execute("CREATE TABLE IF NOT EXISTS settling (gfid TEXT PRIMARY KEY, operation TEXT)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS slot (gfid TEXT, parent BLOB, name BLOB, PRIMARY KEY (gfid, parent, name)) WITHOUT ROWID"
            )
            os.chmod(path, 0o600)
            self._count()
        except sqlite3.DatabaseError as e:
            hint = "move it aside: a verify with --repair finds again what it held"
            raise LedgerError(path, f"the failure ledger cannot be used ({e})", hint) from e

    def _count(self) -> None:
        row = self._db.execute(
            "SELECT count(*), min(first_time), min(CASE WHEN next_try>0 THEN next_try END) FROM failure"
        )
        self.size, self.oldest, self._next = row.fetchone()
        self._settling = bool(self._db.execute("SELECT EXISTS (SELECT 1 FROM settling)").fetchone()[0])

    @contextmanager
    def _change_all(self) -> Iterator[None]:
        """One transaction: durable at its end, or nothing of it."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                self._count()
            except sqlite3.DatabaseError as e:
                raise LedgerError(self.path, f"the failure ledger cannot be written ({e})") from e

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def add_many(self, failures: Iterable[Failure]) -> None:
        """Add entries; one that is there already counts another try and waits twice as long."""
        with self._change_all():
            for f in failures:
                # one entry for an object, wherever it was last seen
                old = self._db.execute(
                    "SELECT * FROM failure WHERE kind=? AND gfid=? AND (gfid<>'' OR path=?)", (f.kind, f.gfid, f.path)
                ).fetchone()
                if old is not None:
                    known = Failure(*old)
                    tries = known.tries + 1
                    tried = known.operation if f.operation == "RETRY" or known.operation == TREE else f.operation
                    f = replace(f, id=known.id, first_time=known.first_time, tries=tries, operation=tried,
                                next_try=f.last_time + backoff(tries) if f.next_try else 0.0)  # fmt: skip
                    self._db.execute("DELETE FROM failure WHERE id=?", (known.id,))
                values = [getattr(f, n) for n in _FIELDS]
                marks = ",".join("?" * (len(_FIELDS) + 1))
                self._db.execute(f"INSERT OR REPLACE INTO failure VALUES ({marks})", (f.id or None, *values))
                self._db.executemany("INSERT OR IGNORE INTO slot VALUES (?, ?, ?)", [(f.gfid, *slot) for slot in f.slots])

    def slots(self, gfid: str) -> tuple[Slot, ...]:
        """The names that the entries of an object (32 hex digits) are about."""
        return tuple(Slot(*row) for row in self._rows("SELECT parent, name FROM slot WHERE gfid=?", gfid))

    def settling(self, objects: Iterable[tuple[Gfid, str]]) -> None:
        """These are about to be settled (with the operation of a retry): should all end in between, `unsettled` has them.

        What repeats the batch then may find nothing wrong: half of it is done.
        """
        with self._change_all():
            self._db.executemany(
                "INSERT INTO settling VALUES (?, ?) ON CONFLICT (gfid) DO UPDATE SET operation=excluded.operation "
                "WHERE operation<>?", [(gfid.hex(), operation, TREE) for gfid, operation in objects],
            )  # fmt: skip

    def settled(self) -> None:
        """What was about to be settled is, or has its entry."""
        if self._settling:
            with self._change_all():
                self._db.execute("DELETE FROM settling")

    def unsettled(self) -> list[tuple[Gfid, str]]:
        """What was about to be settled when an earlier run or connection ended."""
        return [(bytes.fromhex(g), o) for g, o in self._rows("SELECT gfid, operation FROM settling")]

    def all(self, limit: int | None = None, after: int = 0) -> list[Failure]:
        """The entries beyond the id `after`, oldest first; `limit` None: all of them."""
        return self._read("SELECT * FROM failure WHERE id>? ORDER BY id LIMIT ?", after, -1 if limit is None else limit)

    def some(self, ids: Iterable[int]) -> list[Failure]:
        """Those of these entries that are there."""
        return [f for one in dict.fromkeys(ids) for f in self._read("SELECT * FROM failure WHERE id=?", one)]

    def due(self, now: float, limit: int = 500) -> list[Failure]:
        """The entries whose retry is due."""
        if self._next is None or self._next > now:
            return []
        query = "SELECT * FROM failure WHERE next_try>0 AND next_try<=? ORDER BY next_try LIMIT ?"
        return self._read(query, now, limit)

    def rejected(self) -> set[str]:
        """The gfids (hex) of what a person wanted kept."""
        return {f.gfid for f in self._read("SELECT * FROM failure WHERE kind='rejected-delete'")}

    def before(self, time: float) -> int:
        """How many entries began at or before this time (unix seconds)."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM failure WHERE first_time<=?", (time,)).fetchone()[0])

    def _read(self, query: str, *values: float | str) -> list[Failure]:
        return [Failure(*row) for row in self._rows(query, *values)]

    def _rows(self, query: str, *values: float | str) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.DatabaseError as e:
                raise LedgerError(self.path, f"the failure ledger cannot be read ({e})") from e

    def wait(self, now: float) -> float:
        """Seconds until the next retry is due, at least 0.05; an hour when there is none."""
        return 3600.0 if self._next is None else max(0.05, self._next - now)

    def retry_now(self, ids: Iterable[int] | None = None) -> int:
        """Make entries (None: all) due at once; rejected deletes only when named. How many."""
        return self._change(
            "UPDATE failure SET next_try=1", ids, "" if ids is not None else " AND kind<>'rejected-delete'"
        )

    def retry_all(self) -> None:
        """After a restart or a recovery everything is worth a try (ERR-3)."""
        self._change("UPDATE failure SET next_try=1", None, " AND next_try>0")

    def cleared(self, ids: Iterable[int]) -> int:
        """Both sides agree: these entries leave. How many there were."""
        return self._remove(ids)

    def dismissed(self, ids: Iterable[int]) -> int:
        """A person dismissed these entries; who and why belongs into the operations log. How many there were."""
        return self._remove(ids)

    def _remove(self, ids: Iterable[int]) -> int:
        """Remove entries, with the names of objects that have none any more; how many there were."""
        count = 0
        with self._change_all():
            for one in ids:
                count += self._db.execute("DELETE FROM failure WHERE id=?", (one,)).rowcount
            self._db.execute("DELETE FROM slot WHERE gfid NOT IN (SELECT gfid FROM failure)")
        return count

    def postpone(self, ids: Iterable[int]) -> None:
        """These could not be tried: wait as after another try."""
        now = time.time()
        with self._change_all():
            for one in ids:
                self._db.execute(
                    "UPDATE failure SET tries=tries+1, last_time=?, next_try=?+min(?, ?*(1<<min(tries, 12)))"
                    " WHERE id=?",
                    (now, now, LAST_RETRY, FIRST_RETRY, one),
                )

    def _change(self, statement: str, ids: Iterable[int] | None, extra: str) -> int:
        count = 0
        with self._change_all():
            if ids is None:
                count = self._db.execute(f"{statement} WHERE 1=1{extra}").rowcount
            else:
                for one in ids:
                    count += self._db.execute(f"{statement} WHERE id=?{extra}", (one,)).rowcount
        return count
