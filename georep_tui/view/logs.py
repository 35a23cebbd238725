"""Lines of the engine's log as values and as lines to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from georep_tui.view.text import Cell, Line, escape
from georep_tui.view.units import clock

LEVELS = ("debug", "info", "warning", "error")
_ROLES = {"debug": "muted", "info": "", "warning": "warning", "error": "critical"}
_WORDS = {"debug": "debug", "info": "info ", "warning": "WARN ", "error": "ERROR"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: its number (0 where it has none), unix time, level, the brick's path or "", and the text."""

    number: int
    time: float
    level: str
    brick: str
    text: str


def parse_log_line(doc: Mapping[str, Any]) -> LogLine:
    """A line as the engine gives it."""
    level = str(doc.get("level") or "info").lower()
    return LogLine(
        int(doc.get("n") or 0), float(doc.get("time") or 0.0), level if level in LEVELS else "info",
        str(doc.get("brick") or ""), str(doc.get("text") or ""),
    )  # fmt: skip


def log_line(line: LogLine, *, with_brick: bool = True, zone: tzinfo | None = None) -> Line:
    """`14:03:22 WARN  /srv/www  text`; a text of several lines is shown as one."""
    role = _ROLES[line.level]
    where = f"{escape(line.brick)}  " if line.brick and with_brick else ""
    return (
        Cell(f"{clock(line.time, zone)} ", "muted"),
        Cell(f"{_WORDS[line.level]} ", role or "muted"),
        Cell(where, "accent"),
        Cell(escape(" ⏎ ".join(line.text.splitlines())), role),
    )
