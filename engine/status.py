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

from engine.checkpoint import Checkpoint
from engine.guard import Hold
from engine.model import NO_MARK, EngineError, Gfid, Mark
from engine.names import escaped
from engine.progress import WINDOW, BatchProgress, Rate, Totals
from engine.verdict import Thresholds, brick_verdict

CRAWLS = {"hybrid": "Hybrid Crawl", "history": "History Crawl", "live": "Changelog Crawl"}


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
        self._crawl: dict[str, Any] = {"kind": None, "since": None, "seen": None, "total": None}
        self._backlog: tuple[int, int] | None = None
        self._pending_since: float | None = None
        self._pending_known = False
        self._batch: BatchProgress | None = None
        self._history: deque[dict[str, Any]] = deque(maxlen=100)
        self._crawls: deque[dict[str, Any]] = deque(maxlen=100)
        self._rates = {k: Rate() for k in ("entries", "files", "bytes")}
        self._free: dict[str, int] | None = None
        self._error: dict[str, Any] | None = None
        self._hold: Hold | None = None
        self._comparing: dict[str, Any] | None = None
        self._paused: dict[str, Any] | None = None
        self.last_verify: dict[str, Any] | None = None
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
            self._paused = kept.get("paused")
            self._past.extend(kept.get("past") or ())
            self._restarts.extend(kept.get("restarts") or ())
            for crawl in kept.get("crawls") or ():
                self._crawls.append({**crawl, "until": crawl["until"] or kept["time"]})
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            pass  # only counters and dates are lost: the marks are kept elsewhere

    def save(self) -> None:
        """Keep totals, checkpoint, pause and dates, atomically."""
        with self._lock:
            kept = {
                "totals": {k: getattr(self.totals, k) for k in Totals.__dataclass_fields__},
                "time": time.time(), "checkpoint": self.checkpoint.shown(), "past": list(self._past),
                "mark": str(self.mark), "last_verify": self.last_verify, "paused": self._paused,
                "crawls": list(self._crawls)[-20:], "restarts": list(self._restarts)[-10:],
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
        self._pending_known = False
        self._pending_since = None

    def connected(self, secondary_node: str) -> None:
        """The agent answered."""
        with self._lock:
            self.secondary_node = secondary_node

    def passive(self) -> bool:
        """Another brick of the replica set is replicated; True when that is a change (ACT-3)."""
        with self._lock:
            changed = self.status != "Passive"
            self.status = "Passive"
            if changed:
                self._error = None
                self._forget()
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
        if changed:
            self.on_event("active", {})
        return changed

    def faulty(self, error: EngineError, attempt: int, retry_at: float) -> None:
        """The worker failed and will be started again (ERR-4)."""
        with self._lock:
            self.status = "Faulty"
            self._forget()
            self._error = {"time": error.time, "code": error.code, "errno": error.errno, "text": error.text,
                           "hint": error.hint, "attempt": attempt, "retry_at": retry_at}  # fmt: skip
            self._restarts.append({"time": error.time, "code": error.code, "text": error.text})

    def stopped(self) -> None:
        """The worker has ended."""
        with self._lock:
            self.status = "Stopped"
            self._forget()
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
        """Both sides are being compared, so far so many objects: until `compared`, nothing is known to be equal, and no
        checkpoint completes."""
        with self._lock:
            self._comparing = {"seen": seen, "total": total, "why": why}

    def compared(self) -> None:
        """The comparison is through: a checkpoint that the mark has passed meanwhile is complete now."""
        with self._lock:
            self._comparing = None
            mark = self.mark
        if mark != NO_MARK:
            self.synced(mark)

    def crawl(self, kind: str, since: float | None, seen: int | None, total: int | None) -> bool:
        """What kind of crawl runs; True when that changed."""
        with self._lock:
            changed: bool = self._crawl["kind"] != kind
            now = time.time()
            if changed:
                self.totals.crawls += 1
                if self._crawls and self._crawls[-1]["until"] is None:
                    self._crawls[-1]["until"] = now
                self._crawls.append({"kind": kind, "since": since or now, "until": None, "seen": seen})
            elif self._crawls and seen is not None:
                self._crawls[-1]["seen"] = seen
            since = since or (now if changed else self._crawl["since"])
            before, self._crawl = self._crawl, {"kind": kind, "since": since, "seen": seen, "total": total}
        if changed:
            self.on_event("crawl changed", {"kind": kind, "old": before["kind"]})
        return changed

    def crawled(self, since: float, until: float, seen: int) -> None:
        """A hybrid crawl ended: its whole numbers, also where it was over before anyone looked."""
        with self._lock:
            # of a brick's hybrid crawls no two overlap: what does is this one, seen while it ran
            known = next(
                (c for c in reversed(self._crawls) if c["kind"] == "hybrid" and (c["until"] or until) >= since), None
            )
            if known is not None:
                known.update(since=since, until=until, seen=seen)
                return
            self.totals.crawls += 1
            running = self._crawls[-1] if self._crawls and self._crawls[-1]["until"] is None else None
            self._crawls.append({"kind": "hybrid", "since": since, "until": until, "seen": seen})
            if running is not None:  # it broke off for this one, and goes on
                self._crawls.append({**running, "since": until})
                running["until"] = since
                self._crawl = {**self._crawl, "since": until}

    def backlog(self, changelogs: int, nbytes: int, since: float | None) -> None:
        """Closed slices that wait, and the unix time of the oldest change not on the secondary."""
        with self._lock:
            self._backlog = (changelogs, nbytes)
            self._pending_since = since
            self._pending_known = True

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
        if time.monotonic() - self._saved > 10:
            self.save()

    def entries_done(self, count: int) -> None:
        """Entry operations were acknowledged."""
        with self._lock:
            self.totals.entries += count
            self._rates["entries"].add(count, time.monotonic())
            if self._batch is not None:
                self._batch.entries_done += count

    def files_done(self, count: int, nbytes: int) -> None:
        """Contents were acknowledged (files) and sent (bytes); bytes without a file are of one that `file_at` follows."""
        with self._lock:
            now = time.monotonic()
            self.totals.files += count
            self.totals.bytes += nbytes
            if count:
                self._rates["files"].add(count, now)
            self._rates["bytes"].add(nbytes, now)
            if self._batch is not None:
                self._batch.files_done += count
                self._batch.bytes_done += nbytes if count else 0

    def synced(self, mark: Mark) -> bool:
        """The mark moved, durably; True when that completed the checkpoint."""
        with self._lock:
            self.mark = mark
            before = self.checkpoint
            if self._comparing is None:
                self.checkpoint = before.reached(mark, time.time())
            done = bool(self.checkpoint.completed) and not before.completed
        if done:
            self._completed()
        return done

    def set_checkpoint(self, at: int | None, by: str = "") -> None:
        """A person set or cleared the checkpoint; one that was passed already is complete at once."""
        failures = self._failures_before()
        with self._lock:
            before, now = self.checkpoint, time.time()
            self.checkpoint = before.set(at, by, now)
            if self._comparing is None:
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
            self.failure_count = size
            self.failure_oldest = oldest

    def secondary_free(self, statfs: Any) -> None:
        """Free bytes and inodes there, as the agent says."""
        if isinstance(statfs, dict):
            with self._lock:
                self._free = {"bytes": int(statfs.get("bytes", 0)), "inodes": int(statfs.get("inodes", 0))}

    # ---- giving out ------------------------------------------------------------------------------------------

    def snapshot(self, now: float, limits: Thresholds) -> dict[str, Any]:
        """The brick object of the snapshot."""
        before = self._failures_before()
        with self._lock:
            running = self.status in ("Active", "Held", "Paused")
            mono = time.monotonic()
            lag = self._lag(now) if running else None
            b = self._batch
            crawl = self._crawl
            eta, basis = self._eta(mono)
            out: dict[str, Any] = {
                "id": self.who.id, "node": self.who.node, "brick": self.who.brick,
                "secondary_user": self.who.secondary_user, "secondary": self.who.secondary,
                "secondary_node": self.secondary_node,
                "status": self.status,
                "crawl_status": CRAWLS.get(crawl["kind"] or "", "N/A") if running else "N/A",
                "verdict": "unknown", "reasons": [],
                "last_synced": float(self.mark.sec) if self.mark.sec > 0 else None,
                "lag_seconds": lag,
                "entry": max(0, b.entries - b.entries_done) if b else 0,
                "data": max(0, b.files - b.files_done) if b else 0,
                "meta": b.metas if b and b.phase != "commit" else 0,
                "failures": self.failure_count,
                "checkpoint_time": self.checkpoint.time, "checkpoint_completed": self.checkpoint.completed,
                "checkpoint_completion_time": self.checkpoint.completion_time,
                "checkpoint_failures_before": before,
                "crawl": self._crawl_shown(now) if running
                else {"kind": None, "since": None, "seen": None, "total": None, "eta_seconds": None, "eta_basis": None},
                "backlog": None if self._backlog is None
                else {"changelogs": self._backlog[0], "bytes": self._backlog[1],
                      "eta_seconds": eta, "eta_basis": basis},
                "batch": b.shown(now) if b else None,
                "rate": {
                    "entries_per_s": round(self._rates["entries"].value(mono), 1),
                    "files_per_s": round(self._rates["files"].value(mono), 1),
                    "bytes_per_s": round(self._rates["bytes"].value(mono), 1),
                } if running else None,
                "totals": {k: getattr(self.totals, k) for k in Totals.__dataclass_fields__},
                "paused": self._paused, "comparing": self._comparing,
                "held": None if self._hold is None else self._hold.shown(),
                "secondary_free": self._free, "last_verify": self.last_verify, "last_error": self._error,
                "history": list(self._history)[-20:], "crawls": [dict(c) for c in list(self._crawls)[-20:]],
                "restarts": list(self._restarts)[-10:],
            }  # fmt: skip
        out["verdict"], out["reasons"] = brick_verdict(out, limits, now)
        safe: dict[str, Any] = escaped(out)
        return safe

    def _crawl_shown(self, now: float) -> dict[str, Any]:
        """The crawl with what is left of it, by what the last whole hybrid crawl saw: nobody counts a tree beforehand."""
        crawl, eta, basis = self._crawl, None, None
        if crawl["kind"] == "hybrid" and crawl["seen"] and crawl["since"] is not None and now > crawl["since"]:
            last = next((c["seen"] for c in reversed(self._crawls) if c["kind"] == "hybrid" and c["until"] and c["seen"]), 0)
            if last > crawl["seen"]:
                rate = crawl["seen"] / (now - crawl["since"])
                eta, basis = round((last - crawl["seen"]) / rate, 1), f"the last one saw {last:,} objects"
        return {**crawl, "eta_seconds": eta, "eta_basis": basis}

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

    def _lag(self, now: float) -> float | None:
        if not self._pending_known:
            return None
        since = [t for t in (self._pending_since, self.failure_oldest) if t is not None]
        if since:
            return round(max(0.0, now - min(since)), 3)
        if self._crawl["kind"] == "hybrid":
            # what the crawl will find is not known; what was synced before is
            return round(now - self.mark.sec, 3) if self.mark.sec > 0 else None
        if self._backlog and self._backlog[0]:
            return round(now - self.mark.sec, 3) if self.mark.sec > 0 else None
        return 0.0

    def _eta(self, mono: float) -> tuple[float | None, str | None]:
        if not self._backlog or not self._backlog[0]:
            return None, None
        rate = self._rates["entries"].value(mono) + self._rates["files"].value(mono)
        if rate <= 0:
            return None, None
        records = self._backlog[1] / 90  # bytes a record takes in a changelog, about
        return round(records / rate, 1), f"{rate:.0f} records/s over the last {WINDOW:.0f} s"


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a session is, for its row."""

    id: str
    name: str
    kind: str
    primary: str
    secondary: str
