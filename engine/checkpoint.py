"""Checkpoints (STA-2): a time, complete on a brick when its stime reaches it. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.model import EngineError, Mark


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`time` in unix seconds (None: none is set); `completed` None without one; set at a time by a person."""

    time: int | None = None
    completed: bool | None = None
    completion_time: float | None = None
    set_at: float | None = None
    by: str = ""

    def set(self, time: int | None, by: str = "", now: float | None = None) -> Checkpoint:
        """A changed checkpoint starts afresh; the same one goes on."""
        if time == self.time:
            return self
        return Checkpoint(time, None if time is None else False, None, now, by)

    def reached(self, stime: Mark, now: float) -> Checkpoint:
        """After a mark moved: the completion is recorded once."""
        if self.time is None or self.completed or stime.sec < self.time:
            return self
        return replace(self, completed=True, completion_time=now)

    def shown(self) -> dict[str, Any]:
        """For JSON, and back with `of`."""
        return {"time": self.time, "set": self.set_at, "by": self.by, "completed": self.completed,
                "completion_time": self.completion_time}  # fmt: skip

    @classmethod
    def of(cls, doc: Mapping[str, Any]) -> Checkpoint:
        """What `shown` gave. Raises KeyError."""
        return cls(doc["time"], doc["completed"], doc["completion_time"], doc.get("set"), doc.get("by") or "")


_LAST = (1 << 32) - 1
"""The last second a mark can hold (MRK-1)."""


def merged(bricks: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The checkpoints of several bricks as the session's: complete when all are, then with the last one's time."""
    by_time: dict[int, list[Mapping[str, Any]]] = {}
    for checkpoints in bricks:
        seen: set[int] = set()
        for one in checkpoints:
            if one["time"] not in seen:  # set again later: the newest counts
                seen.add(one["time"])
                by_time.setdefault(one["time"], []).append(one)
    out: list[dict[str, Any]] = []
    for time, same in by_time.items():
        done = all(one["completed"] for one in same)
        out.append({
            "time": time, "set": max((one["set"] or 0.0 for one in same), default=0.0) or None, "by": same[0]["by"],
            "completed": done, "completion_time": max(one["completion_time"] or 0.0 for one in same) if done else None,
            "failures_before": sum(one["failures_before"] for one in same),
        })  # fmt: skip
    return sorted(out, key=lambda one: -(one["set"] or 0.0))


def of_bricks(bricks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A session's checkpoint is complete when every active brick's is; the one furthest behind holds it."""
    active = [b for b in bricks if b["status"] != "Passive"]
    times = [b["checkpoint_time"] for b in active if b["checkpoint_time"] is not None]
    if not times:
        return {"time": None, "completed": None, "completion_time": None, "failures_before": 0, "eta_seconds": None,
                "held_by": None}  # fmt: skip
    open_ = [b for b in active if not b["checkpoint_completed"]]
    worst = min(open_, key=lambda b: b["last_synced"] or 0, default=None)
    return {
        "time": max(times), "completed": not open_,
        "completion_time": None if open_ else max(b["checkpoint_completion_time"] or 0 for b in active),
        "failures_before": sum(b["checkpoint_failures_before"] for b in active),
        "eta_seconds": (worst["backlog"] or {}).get("eta_seconds") if worst else None,
        "held_by": worst["brick"] if worst else None,
    }  # fmt: skip


def parse_time(text: str | int | float, now: float) -> int | None:
    """`now`, unix seconds or ISO 8601 (local time where no zone is given) to unix seconds; `clear` is None.

    Raises EngineError for anything else, and for what no mark can reach.
    """
    if isinstance(text, str):
        word = text.strip()
        if word == "clear":
            return None
        found = now if word == "now" else _number(word)
    else:
        found = float(text)
    if found is None or not 0 <= found <= _LAST:
        raise EngineError(
            f"checkpoint {text!r} is no time", hint="now, unix seconds, or ISO 8601 as in 2026-11-22T14:30",
            code="usage",
        )  # fmt: skip
    return int(found)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        pass
    try:
        return dt.datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        return None
