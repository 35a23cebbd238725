"""Lines of the engine's log as values and as lines to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from georep_tui.view.text import Cell, Line, escape, plain, width, wrap
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


NARROWEST = 48
"""Columns below which lines are cut, not broken."""

MOST_LINES = 12
"""Lines of the screen one line of the log may take when it is broken."""


def log_lines(line: LogLine, columns: int, *, label: str = "", zone: tzinfo | None = None) -> list[Line]:
    """A line of the log broken to `columns`: what does not fit goes on beneath its text, so that nothing is hidden."""
    *head, _where, said = log_line(line, label="", zone=zone)
    indent = width(plain(tuple(head)))
    if columns < NARROWEST:
        return [log_line(line, label=label, zone=zone)]
    where = f"{escape(label)}  " if label else ""
    parts = wrap(where + said.text, max(8, columns - indent), MOST_LINES) or [""]
    first: Line = (Cell(parts[0], said.role),)
    if where and parts[0].startswith(where):
        first = (Cell(where, "accent"), Cell(parts[0][len(where) :], said.role))
    return [(*head, *first), *((Cell(" " * indent), Cell(part, said.role)) for part in parts[1:])]


def log_line(line: LogLine, *, label: str | None = None, zone: tzinfo | None = None) -> Line:
    """`14:03:22 WARN  /srv/www  text`; a text of several lines is shown as one. `label` stands for the brick's path."""
    role = _ROLES[line.level]
    name = line.brick if label is None else label
    where = f"{escape(name)}  " if name else ""
    return (
        Cell(f"{clock(line.time, zone)} ", "muted"),
        Cell(f"{_WORDS[line.level]} ", role or "muted"),
        Cell(where, "accent"),
        Cell(escape(" ⏎ ".join(line.text.splitlines())), role),
    )
