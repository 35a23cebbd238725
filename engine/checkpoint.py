"""Checkpoints (STA-2): a time, complete on a brick when its stime reaches it. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from engine.model import EngineError, Mark


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`time` in unix seconds (None: none is set); `completed` None without one; times in unix seconds."""

    time: int | None = None
    completed: bool | None = None
    completion_time: float | None = None

    def set(self, time: int | None) -> Checkpoint:
        """A changed checkpoint starts afresh; the same one goes on."""
        if time == self.time:
            return self
        return Checkpoint(time, None if time is None else False)

    def reached(self, stime: Mark, now: float) -> Checkpoint:
        """After a mark moved: the completion is recorded once."""
        if self.time is None or self.completed or stime.sec < self.time:
            return self
        return replace(self, completed=True, completion_time=now)


_LAST = (1 << 32) - 1
"""The last second a mark can hold (MRK-1)."""


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
