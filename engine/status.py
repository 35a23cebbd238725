"""The status of a brick (STA-1, STA-3): what the worker says, kept on disk, given out as the brick of a snapshot."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.backlog import Backlog
from engine.checkpoint import Checkpoint
from engine.crawls import Crawls
from engine.firstcopy import FirstCopy
from engine.guard import Hold
from engine.lag import backlog_shown, lag_of
from engine.model import NO_MARK, EngineError, Gfid, Mark
from engine.names import escaped
from engine.progress import BatchProgress, Rates, Totals
from engine.verdict import COUNTS, Thresholds, brick_verdict


@dataclass(frozen=True, slots=True)
class Who:
    """What the brick is, for its rows."""

    id: str
    node: str
    brick: str
    secondary_user: str
    secondary: str


class BrickStatus:
    """What is known of one brick; every method may be called from any thread. Unknown is None, never a guess."""

    def __init__(self, who: Who, path: str) -> None:
        self.who = who
        self._path = path
        self._lock = threading.Lock()
        self.status = "Created"
        self.secondary_node: str | None = None
        self.mark = NO_MARK
        self.checkpoint = Checkpoint()
        self.totals = Totals()
        self.failure_count = 0
        self.failure_oldest: float | None = None
        self._backlog: Backlog | None = None
        self._first = FirstCopy()
        self._as_of = 0.0
        self._down: float | None = None
        """Since when (unix time) it has been Faulty, or trying again."""
        self._recovering = False
        self._comparing: dict[str, Any] | None = None
        self._elsewhere: str | None = None
        self.ask: Callable[[bool], Backlog | None] = lambda _busy: None
        """What waits now, whoever asks: `Primary.waiting`. None: what the worker told last counts."""
        self.walked: Callable[[], tuple[int, int, bool] | None] = lambda: None
        """What the walk of a first copy has found by now: `Primary.walked`."""
        self.copied: Callable[[], bool] | None = None
        """Has a first full pass been applied (`Primary.copied`)? Without it the mark says so."""
        self.limited: Callable[[], tuple[int, bool]] = lambda: (0, False)
        """The bandwidth limit in bytes per second, 0 for none, and whether it is what holds up."""
        self._batch: BatchProgress | None = None
        self._history: deque[dict[str, Any]] = deque(maxlen=100)
        self._crawls = Crawls()
        self._rates = Rates()
        self._free: dict[str, int] | None = None
        self._error: dict[str, Any] | None = None
        self._hold: Hold | None = None
        self._paused: dict[str, Any] | None = None
        self.last_verify: dict[str, Any] | None = None
        self.by_slice = False
        """Is a checkpoint complete with a slice (`checkpoint_reached`), whatever the time of the mark?"""
        self.count_before: Callable[[float], int] | None = None
        """How many of the ledger's entries began at or before a unix time; without it all or none are counted."""
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _fields: None
        """Called, outside any lock, with what changed: active, crawl changed, checkpoint completed (STA-4)."""
        self._past: deque[dict[str, Any]] = deque(maxlen=50)
        self._saved = 0.0
        self._restarts: deque[dict[str, Any]] = deque(maxlen=50)
        self._load()

    # ---- kept on disk ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            with open(self._path, encoding="utf-8") as f:
                kept = json.load(f)
            self.totals = Totals(**{k: int(v) for k, v in kept["totals"].items()})
            self.checkpoint = Checkpoint.of(kept["checkpoint"])
            self.mark = Mark.parse(kept["mark"])
            self.last_verify = kept.get("last_verify")
            self._first = FirstCopy(kept.get("first"))
            known = kept.get("failures")
            if isinstance(known, list) and len(known) == 2:
                self.failure_count, self.failure_oldest = int(known[0]), known[1]
            self._paused = kept.get("paused")
            self._past.extend(kept.get("past") or ())
            self._restarts.extend(kept.get("restarts") or ())
            self._crawls.load(kept.get("crawls") or (), kept["time"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # only counters and dates are lost: the marks are kept elsewhere

    def save(self) -> None:
        """Keep totals, checkpoint, pause and dates, atomically."""
        with self._lock:
            kept = {
                "totals": {k: getattr(self.totals, k) for k in Totals.__dataclass_fields__},
                "time": time.time(), "checkpoint": self.checkpoint.shown(), "past": list(self._past),
                "mark": str(self.mark), "last_verify": self.last_verify, "paused": self._paused,
                "crawls": self._crawls.latest(), "restarts": list(self._restarts)[-10:],
                "first": self._first.kept(), "failures": [self.failure_count, self.failure_oldest],
            }  # fmt: skip
            temp = self._path + ".new"
            with open(temp, "w", encoding="utf-8") as f:
                json.dump(kept, f)
            os.replace(temp, self._path)
            self._saved = time.monotonic()

    # ---- the worker speaks -----------------------------------------------------------------------------------

    def initializing(self) -> None:
        """The worker starts, or starts again."""
        with self._lock:
            self.status = "Initializing..."
            self.totals.restarts += 1 if self._error else 0
            self._forget()

    def _forget(self) -> None:
        self._batch = None
        self._backlog = None
        self._recovering = False

    def connected(self, secondary_node: str) -> None:
        """The agent answered."""
        with self._lock:
            self.secondary_node = secondary_node

    def passive(self, elsewhere: str | None = None) -> bool:
        """Another brick of the replica set is replicated, `elsewhere` where that is known; True when it is a change
        (ACT-3)."""
        with self._lock:
            self._elsewhere = elsewhere
            changed = self.status != "Passive"
            self.status = "Passive"
            if changed:
                self._error = None
                self._forget()
                self._comparing = None
        if changed:
            self.on_event("passive", {})
        return changed

    def active(self) -> bool:
        """The worker replicates; True when that is a change."""
        with self._lock:
            changed = self.status != "Active" and self._hold is None
            self.status = "Held" if self._hold is not None else "Active"
            if changed:
                self._error = None
                self._down = None
        if changed:
            self.on_event("active", {})
        return changed

    def faulty(self, error: EngineError, attempt: int, retry_at: float) -> None:
        """The worker failed and will be started again (ERR-4)."""
        with self._lock:
            self.status = "Faulty"
            self._forget()
            self._down = self._down or error.time
            self._error = {"time": error.time, "code": error.code, "errno": error.errno, "text": error.text,
                           "hint": error.hint, "attempt": attempt, "retry_at": retry_at, "since": self._down}  # fmt: skip
            self._restarts.append({"time": error.time, "code": error.code, "text": error.text})

    def stopped(self) -> None:
        """The worker has ended."""
        with self._lock:
            self.status = "Stopped"
            self._forget()
            self._comparing = None
        self.save()

    def paused(self) -> None:
        """The worker does not apply, a person said so."""
        with self._lock:
            self.status = "Paused"
            self._batch = None

    def set_paused(self, by: str | None, now: float) -> None:
        """Who paused it (None: nobody); kept over a restart."""
        with self._lock:
            self._paused = None if by is None else {"by": by, "since": now}
        self.save()

    @property
    def paused_by(self) -> dict[str, Any] | None:
        """Who paused the brick and since when."""
        return self._paused

    def held(self, hold: Hold | None) -> None:
        """Deletes wait for a person, or no longer do."""
        with self._lock:
            self._hold = hold
            if hold is not None:
                self.status = "Held"

    def comparing(self, seen: int, total: int | None, why: str) -> None:
        """Both sides are being compared, so far so many objects: until `compared`, also while there is no line, nothing is
        known to be equal, and no checkpoint completes."""
        with self._lock:
            self._comparing = {"seen": seen, "total": total, "why": why}

    def compared(self) -> None:
        """No comparison runs or is due: a checkpoint that the mark has passed meanwhile is complete now."""
        with self._lock:
            through, self._comparing = self._comparing is not None, None
        if through:
            self._settled()

    def crawl(self, kind: str, since: float | None, seen: int | None, total: int | None) -> bool:
        """What kind of crawl runs; True when that changed."""
        with self._lock:
            old = self._crawls.kind or None
            changed = self._crawls.runs(kind, since, seen, total, time.time())
            self.totals.crawls += changed
        if changed:
            self.on_event("crawl changed", {"kind": kind, "old": old})
        return changed

    def crawled(self, since: float, until: float, seen: int) -> None:
        """A hybrid crawl ended: its whole numbers, also where it was over before anyone looked."""
        with self._lock:
            self.totals.crawls += self._crawls.ended(since, until, seen)

    def backlog(
        self, changelogs: int, nbytes: int, since: float | None, changes: int | None = None, exact: bool = False,
        dated: bool = True, crawling: bool = False,
    ) -> None:  # fmt: skip
        """What waits: see `Backlog`."""
        with self._lock:
            self._backlog = Backlog(changelogs, nbytes, since, changes, exact, dated, crawling)

    def found(self, files: int, nbytes: int, whole: bool) -> None:
        """What the walk of a first copy has found so far; `whole` once it has been everywhere."""
        with self._lock:
            self._first.found(files, nbytes, whole)

    def recovering(self, lasts: bool) -> None:
        """What a crash left half done is being repeated and compared: what the secondary has is not certain until then."""
        with self._lock:
            through, self._recovering = self._recovering and not lasts, lasts
        if through:
            self._settled()

    def proven(self, at: float) -> None:
        """Everything that changed before this unix time is on the secondary, or in the ledger."""
        with self._lock:
            self._as_of = max(self._as_of, at)

    def batch_begin(
        self, ident: int, changelogs: int, entries: int, files: int, metas: int = 0, nbytes: int | None = None,
        kinds: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """A batch starts, with so much to do; `nbytes` of content where that is known, `kinds` by operation."""
        with self._lock:
            self._batch = BatchProgress(ident, changelogs, entries, files, metas, nbytes, time.time(), kinds=kinds or {})

    def file_begins(self, key: Gfid, path: str, size: int, *, followed: bool) -> None:
        """A file of the batch sets out; `followed` where `file_at` will say how far it is."""
        with self._lock:
            if self._batch is not None:
                self._batch.begins(key, path, size, 0 if followed else None)

    def file_at(self, key: Gfid, at: int) -> None:
        """So many bytes into the file is its transfer."""
        with self._lock:
            if self._batch is not None:
                self._batch.moves(key, at)

    def file_ends(self, key: Gfid) -> None:
        """The file is acknowledged, or failed."""
        with self._lock:
            if self._batch is not None:
                self._batch.flight.pop(key, None)

    def batch_phase(self, phase: str) -> None:
        """entry, data, meta, commit."""
        with self._lock:
            if self._batch is not None:
                self._batch.phase = phase

    def batch_end(self, seconds: float, failures: int = 0) -> None:
        """The batch is committed; so many objects of it went into the ledger."""
        with self._lock:
            b, self._batch = self._batch, None
            if b is not None:
                self.totals.turns += 1
                self._history.append({"id": b.id, "started": b.started, "seconds": seconds, "entries": b.entries_done,
                                      "files": b.files_done, "bytes": b.bytes_done, "failures": failures})  # fmt: skip
        if time.monotonic() - self._saved > 10 or not self._copied():
            self.save()

    def entries_done(self, count: int) -> None:
        """Entry operations were acknowledged."""
        with self._lock:
            self.totals.entries += count
            self._rates.add("entries", count, time.monotonic())
            if self._batch is not None:
                self._batch.entries_done += count

    def files_done(self, count: int, nbytes: int) -> None:
        """Contents were acknowledged (files) and sent (bytes); bytes without a file are of one that `file_at` follows."""
        with self._lock:
            now = time.monotonic()
            self.totals.files += count
            self.totals.bytes += nbytes
            if not self._copied():
                self._first.sent(count, nbytes, time.time(), now)
            if count:
                self._rates.add("files", count, now)
            self._rates.add("bytes", nbytes, now)
            if self._batch is not None:
                self._batch.files_done += count
                self._batch.bytes_done += nbytes if count else 0

    def synced(self, mark: Mark) -> bool:
        """The mark moved, durably; True when that completed the checkpoint."""
        with self._lock:
            first = self.mark.sec <= 0 < mark.sec
            self.mark = mark
            before = self.checkpoint
            if self._certain() and not self.by_slice:
                self.checkpoint = before.reached(mark, time.time())
            done = bool(self.checkpoint.completed) and not before.completed
        if done:
            self._completed()
        elif first:
            self.save()
        return done

    def _certain(self) -> bool:
        """May a checkpoint complete? Not while the secondary is copied for the first time, compared, or repeats a batch."""
        return self._comparing is None and not self._recovering and self._copied()

    def _settled(self) -> None:
        """Nothing is in doubt any more: what the mark says counts."""
        if self.mark != NO_MARK:
            self.synced(self.mark)

    def checkpoint_reached(self) -> None:
        """The slice that the checkpoint is bound to is on the secondary, durably, with all before it."""
        with self._lock:
            before = self.checkpoint
            if before.time is None or before.completed or not self._certain():
                return
            self.checkpoint = before.reached(Mark(before.time, 0), time.time())
        self._completed()

    def set_checkpoint(self, at: int | None, by: str = "") -> None:
        """A person set or cleared the checkpoint; one that was passed already is complete at once."""
        failures = self._failures_before()
        with self._lock:
            before, now = self.checkpoint, time.time()
            self.checkpoint = before.set(at, by, now)
            if self._certain() and not self.by_slice:
                self.checkpoint = self.checkpoint.reached(self.mark, now)
            if before.time is not None and before.time != at:
                self._past.append({**before.shown(), "failures_before": failures})
            done = bool(self.checkpoint.completed) and self.checkpoint != before
        if done:
            self._completed()
        else:
            self.save()

    def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoint and those before it, the newest first."""
        failures = self._failures_before()
        with self._lock:
            now = [] if self.checkpoint.time is None else [{**self.checkpoint.shown(), "failures_before": failures}]
            return [*now, *reversed(self._past)]

    def _completed(self) -> None:
        """The checkpoint was reached: keep that, and tell it."""
        self.save()
        self.on_event("checkpoint completed", {
            "checkpoint": self.checkpoint.time, "completion_time": self.checkpoint.completion_time,
            "failures_before": self._failures_before(),
        })  # fmt: skip

    def failures(self, size: int, oldest: float | None) -> None:
        """The ledger's size and its oldest entry's time."""
        with self._lock:
            changed = size != self.failure_count
            self.failure_count = size
            self.failure_oldest = oldest
        if changed and self.status not in ("Created", "Stopped"):
            self.save()  # who asks after a crash is told of them

    def secondary_free(self, statfs: Any) -> None:
        """Free bytes and inodes there, as the agent says."""
        if isinstance(statfs, dict):
            with self._lock:
                self._free = {"bytes": int(statfs.get("bytes", 0)), "inodes": int(statfs.get("inodes", 0))}

    # ---- giving out ------------------------------------------------------------------------------------------

    def snapshot(self, now: float, limits: Thresholds) -> dict[str, Any]:
        """The brick object of the snapshot."""
        before = self._failures_before()
        asked = self.ask(self.status != "Active" or self._batch is not None) if self.status in COUNTS else None
        copied = self._copied()
        if not copied and (found := self.walked()) is not None:
            self.found(*found)
        limit, reached = self.limited()
        with self._lock:
            running = self.status in ("Active", "Held", "Paused")
            mono = time.monotonic()
            b = self._batch
            waiting = None if self.status not in COUNTS else asked or self._backlog
            sure = copied and self._comparing is None and not self._recovering
            out: dict[str, Any] = {
                "id": self.who.id, "node": self.who.node, "brick": self.who.brick,
                "secondary_user": self.who.secondary_user, "secondary": self.who.secondary,
                "secondary_node": self.secondary_node,
                "status": self.status,
                "crawl_status": self._crawls.words if running else "N/A",
                "verdict": "unknown", "reasons": [],
                "last_synced": float(self.mark.sec) if self.mark.sec > 0 else None,
                "lag_seconds": lag_of(now, waiting, self.failure_oldest, self.mark.sec, self._crawls.kind == "hybrid")
                if copied else None,
                "as_of": max(self._as_of, float(self.mark.sec)) if sure and self.mark.sec > 0 else None,
                "first_copy": not copied,
                "first_pass": None if copied else self._first.shown(mono, self.status == "Active"),
                "comparing": self._comparing, "recovering": self._recovering,
                "active_elsewhere": self._elsewhere if self.status == "Passive" else None,
                "bandwidth": {"limit": limit, "reached": reached} if limit else None,
                "entry": max(0, b.entries - b.entries_done) if b else 0,
                "data": max(0, b.files - b.files_done) if b else 0,
                "meta": b.metas if b and b.phase != "commit" else 0,
                "failures": self.failure_count, "failures_since": self.failure_oldest,
                "checkpoint_time": self.checkpoint.time, "checkpoint_completed": self.checkpoint.completed,
                "checkpoint_completion_time": self.checkpoint.completion_time,
                "checkpoint_failures_before": before,
                "crawl": self._crawls.shown(running, now),
                "backlog": backlog_shown(waiting, self._rates.records(mono)),
                "batch": b.shown(now) if b else None,
                "rate": self._rates.shown(mono) if running else None,
                "totals": {k: getattr(self.totals, k) for k in Totals.__dataclass_fields__},
                "paused": self._paused,
                "held": None if self._hold is None else self._hold.shown(),
                "secondary_free": self._free, "last_verify": self.last_verify, "last_error": self._error,
                "history": list(self._history)[-20:], "crawls": self._crawls.latest(),
                "restarts": list(self._restarts)[-10:],
            }  # fmt: skip
        out["verdict"], out["reasons"] = brick_verdict(out, limits, now)
        safe: dict[str, Any] = escaped(out)
        return safe

    def _copied(self) -> bool:
        return self.copied() if self.copied is not None else self.mark.sec > 0

    def _failures_before(self) -> int:
        """Failures that are still in the ledger and were there when the checkpoint completed, or are there until then.

        A change from before the checkpoint can fail after its time, so what counts is the moment of completion.
        """
        if self.checkpoint.time is None or not self.failure_count:
            return 0
        until = self.checkpoint.completion_time
        if until is None:
            return self.failure_count
        if self.count_before is not None:
            return self.count_before(until)
        return self.failure_count if self.failure_oldest is not None and self.failure_oldest <= until else 0
