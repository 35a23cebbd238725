"""What counts work: rates over a moving window, the running batch, totals."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

WINDOW = 10.0
"""Seconds over which rates are measured."""


class Rate:
    """Events per second over the last WINDOW seconds."""

    def __init__(self) -> None:
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
        while self._events and self._events[0][0] < now - WINDOW:
            self._sum -= self._events.popleft()[1]

    def value(self, now: float) -> float:
        """The rate."""
        self._trim(now)
        return self._sum / WINDOW


@dataclass(slots=True)
class BatchProgress:
    """How far the running batch is."""

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

    def shown(self, now: float) -> dict[str, Any]:
        """As a snapshot has it: pairs of done and total, and what is left in seconds."""
        done, total = self.entries_done + self.files_done, self.entries + self.files
        spent = now - self.started
        eta = round(spent / done * (total - done), 1) if done and spent > 0.2 and total >= done else None
        return {
            "id": self.id, "phase": self.phase,
            "changelogs": [self.changelogs if self.phase == "commit" else 0, self.changelogs],
            "entries": [min(self.entries_done, self.entries), self.entries],
            "files": [min(self.files_done, self.files), self.files],
            "bytes": [self.bytes_done, self.bytes], "started": self.started, "eta_seconds": eta,
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
