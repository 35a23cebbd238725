"""What counts work: rates over a moving window, the running batch, totals."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.model import Gfid

WINDOW = 10.0
"""Seconds over which rates are measured."""


class Rate:
    """Events per second over the last `window` seconds."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._events: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, count: int, now: float) -> None:
        """So many more, at this (monotonic) time. What comes within a quarter of a second counts as one."""
        if self._events and now - self._events[-1][0] < 0.25:
            then, before = self._events[-1]
            self._events[-1] = (then, before + count)
        else:
            self._events.append((now, count))
        self._sum += count
        self._trim(now)

    def _trim(self, now: float) -> None:
        while self._events and self._events[0][0] < now - self._window:
            self._sum -= self._events.popleft()[1]

    def value(self, now: float) -> float:
        """The rate."""
        self._trim(now)
        return self._sum / self._window


class Rates:
    """Entry operations, files and bytes per second."""

    def __init__(self) -> None:
        self._rates = {k: Rate() for k in ("entries", "files", "bytes")}

    def add(self, what: str, count: int, now: float) -> None:
        """So many more of one of them, at this (monotonic) time."""
        self._rates[what].add(count, now)

    def records(self, now: float) -> float:
        """Records per second: entry operations and files."""
        return self._rates["entries"].value(now) + self._rates["files"].value(now)

    def shown(self, now: float) -> dict[str, float]:
        """As a snapshot has them."""
        return {f"{k}_per_s": round(r.value(now), 1) for k, r in self._rates.items()}


LISTED = 20
"""Files in flight that a snapshot names; the oldest first."""

UNIT = 65536
"""Bytes of content that weigh as much as one operation when the rest of a batch is estimated."""


@dataclass(slots=True)
class Flight:
    """A file on its way: `at` is how far into it the transfer is, in bytes; None where the transfer does not say."""

    path: str
    size: int
    since: float
    at: int | None = None
    sent: float | None = None
    """When its last byte was handed over: from then on its acknowledgement is awaited."""

    def shown(self, now: float) -> dict[str, Any]:
        """As a snapshot has it; the rate is that of the whole way so far."""
        spent = (self.sent or now) - self.since
        rate = round(self.at / spent, 1) if self.at is not None and spent > 0.05 else None
        return {"path": self.path, "bytes": [self.at, self.size], "bytes_per_s": rate, "since": self.since}


@dataclass(slots=True)
class BatchProgress:
    """How far the running batch is. `bytes` of content is known for batches of few files; `kinds` counts what is
    planned, by operation; `flight` has the files that are named while they are on their way."""

    id: int
    changelogs: int
    entries: int
    files: int
    metas: int
    bytes: int | None
    started: float
    phase: str = "entry"
    entries_done: int = 0
    files_done: int = 0
    bytes_done: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    flight: dict[Gfid, Flight] = field(default_factory=dict)

    def begins(self, key: Gfid, path: str, size: int, at: int | None) -> None:
        """A file sets out."""
        self.flight[key] = Flight(path, size, time.time(), at)

    def moves(self, key: Gfid, at: int) -> None:
        """So far is the transfer of a file now."""
        one = self.flight.get(key)
        if one is not None and one.at is not None and at > one.at:
            self.bytes_done += at - one.at
            one.at = at
            if at >= one.size:
                one.sent = time.time()

    def _eta(self, now: float) -> float | None:
        done, total = self.entries_done + self.files_done, self.entries + self.files
        if self.bytes:
            done, total = done + self.bytes_done // UNIT, total + self.bytes // UNIT
        spent = now - self.started
        return round(spent / done * (total - done), 1) if done and spent > 0.2 and total >= done else None

    def shown(self, now: float) -> dict[str, Any]:
        """As a snapshot has it: pairs of done and total, and what is left in seconds."""
        files = list(self.flight.values())
        return {
            "id": self.id, "phase": self.phase,
            "changelogs": [self.changelogs if self.phase == "commit" else 0, self.changelogs],
            "entries": [min(self.entries_done, self.entries), self.entries],
            "files": [min(self.files_done, self.files), self.files],
            "bytes": [self.bytes_done, None if self.bytes is None else max(self.bytes, self.bytes_done)],
            "started": self.started, "eta_seconds": self._eta(now), "kinds": dict(self.kinds),
            "in_flight": [one.shown(now) for one in files[:LISTED]], "in_flight_count": len(files),
        }  # fmt: skip


@dataclass(slots=True)
class Totals:
    """Counts since the session was made; they survive a restart."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    crawls: int = 0
    turns: int = 0
    restarts: int = 0
