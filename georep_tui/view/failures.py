"""The ledger as a person reads it: grouped by reason, then each object with both sides' state."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from georep_tui.view.table import Column, Row
from georep_tui.view.text import Cell, Line, escape
from georep_tui.view.units import age, count, duration, moment, plural

COLUMNS = (
    Column("what", "reason / path", 20, flex=4, middle=True, drop=0),
    Column("count", "count", 6, right=True, drop=1),
    Column("operation", "operation", 9, drop=4),
    Column("errno", "errno", 12, drop=3),
    Column("tries", "tries", 5, right=True, drop=5),
    Column("next", "next try", 9, right=True, drop=2),
    Column("brick", "brick", 14, flex=1, middle=True, since=110, drop=9),
)
OPEN_AT_FIRST = 20
"""Up to so many failures in all, groups are open from the start."""


@dataclass(frozen=True, slots=True)
class Failed:
    """One object that could not be synced. Times are unix seconds; `next_try` None is: only on demand."""

    id: str
    brick: str
    gfid: str
    path: str
    operation: str
    errno: int
    message: str
    hint: str
    primary: str
    secondary: str
    first: float | None
    last: float | None
    tries: int
    next_try: float | None

    @property
    def group(self) -> str:
        """What it is grouped by: the error's name with its usual words, or the message without the path."""
        usual = os.strerror(self.errno) if self.errno else ""
        text = self.message.replace(self.path, "…") if self.path else self.message
        if usual and usual in text:
            return f"{errno_name(self.errno)}: {usual}"
        return f"{errno_name(self.errno)}: {text}" if self.errno else text


def errno_name(number: int) -> str:
    """`EPERM` for 1; the number itself where there is no such error."""
    return errnos.errorcode.get(number, str(number)) if number else "–"


def parse_failure(doc: Mapping[str, Any]) -> Failed:
    """An entry as the engine gives it."""
    return Failed(
        id=str(doc.get("id") or ""), brick=str(doc.get("brick") or ""), gfid=str(doc.get("gfid") or ""),
        path=str(doc.get("path") or ""), operation=str(doc.get("operation") or doc.get("kind") or ""),
        errno=int(doc.get("errno") or 0), message=str(doc.get("message") or ""), hint=str(doc.get("hint") or ""),
        primary=str(doc.get("primary_state") or ""), secondary=str(doc.get("secondary_state") or ""),
        first=doc.get("first_time"), last=doc.get("last_time"), tries=int(doc.get("tries") or 0),
        next_try=doc.get("next_try"),
    )  # fmt: skip


def failure_rows(failures: Sequence[Failed], opened: Collection[str], now: float, needle: str = "") -> list[Row]:
    """Groups, the largest first, each with its failures beneath where it is open or a filter is on."""
    wanted = [one for one in failures if not needle or needle.lower() in _text(one).lower()]
    groups: dict[str, list[Failed]] = {}
    for one in wanted:
        groups.setdefault(one.group, []).append(one)
    rows: list[Row] = []
    for name, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = name in opened or bool(needle)
        rows.append(_group_row(name, members, shown, now))
        if shown:
            rows.extend(_failure_row(one, now) for one in sorted(members, key=lambda one: (one.path, one.id)))
    return rows


def _group_row(name: str, members: Sequence[Failed], shown: bool, now: float) -> Row:
    due = [one.next_try for one in members if one.next_try is not None]
    operations = {one.operation for one in members}
    return Row(
        key=f"group:{name}",
        cells={
            "what": (Cell(f"{'▾' if shown else '▸'} {escape(name)}", "strong"),),
            "count": (Cell(count(len(members)), "warning"),),
            "operation": (Cell(escape(next(iter(operations))) if len(operations) == 1 else "several", "muted"),),
            "errno": (Cell(errno_name(members[0].errno), "muted"),),
            "next": (Cell(next_text(min(due), now) if due else "on demand", "muted"),),
        },
        text=name,
        faulty=True,
    )


def _failure_row(one: Failed, now: float) -> Row:
    return Row(
        key=one.id,
        cells={
            "what": (Cell("    "), Cell(escape(one.path) or escape(one.gfid) or "?")),
            "operation": (Cell(escape(one.operation)),),
            "errno": (Cell(errno_name(one.errno)),),
            "tries": (Cell(count(one.tries)),),
            "next": (Cell(next_text(one.next_try, now)),),
            "brick": (Cell(escape(one.brick), "muted"),),
        },
        text=_text(one),
        faulty=True,
    )


def next_text(time: float | None, now: float) -> str:
    """When it is tried again: `in 20 s`, `now`, `on demand`."""
    if time is None:
        return "on demand"
    left = time - now
    return "now" if left < 1 else f"in {duration(left if left < 9.5 else round(left / 5) * 5)}"


def failure_lines(one: Failed, now: float, zone: tzinfo | None = None) -> list[Line]:
    """Everything about one failure."""
    lines: list[Line] = [
        (_label("path"), Cell(escape(one.path) or "?", "strong")),
        (
            _label("error"),
            Cell(f"{escape(one.operation)} {errno_name(one.errno)} ", "critical"),
            Cell(escape(one.message)),
        ),
    ]
    if one.hint:
        lines.append((_label("→"), Cell(escape(one.hint), "strong")))
    lines += [
        (_label("primary"), Cell(escape(one.primary) or "not looked at")),
        (_label("secondary"), Cell(escape(one.secondary) or "not looked at")),
        (_label("tries"), Cell(f"{one.tries}, first {moment(one.first, now, zone)}, last {moment(one.last, now, zone)}, "),
         Cell("next "), Cell(next_text(one.next_try, now))),
        (_label("id"), Cell(f"{escape(one.id)}  gfid {escape(one.gfid) or '–'}  brick {escape(one.brick)}", "muted")),
    ]  # fmt: skip
    return lines


def group_lines(name: str, members: Sequence[Failed], now: float) -> list[Line]:
    """What is to be said about a group: how many, where, for how long, what to do."""
    bricks = sorted({one.brick for one in members})
    hints = sorted({one.hint for one in members if one.hint})
    oldest = min((one.first for one in members if one.first is not None), default=None)
    lines: list[Line] = [(_label("reason"), Cell(escape(name), "critical"))]
    lines += [(_label("→"), Cell(escape(hint), "strong")) for hint in hints[:2]]
    since = f", the oldest for {age(max(10.0, now - oldest))}" if oldest is not None else ""
    lines.append((_label("objects"), Cell(plural(len(members), "object") + since)))
    lines.append((_label("bricks"), Cell(escape(", ".join(bricks)))))
    return lines


def _label(text: str) -> Cell:
    return Cell(f"{text:<10}", "muted")


def _text(one: Failed) -> str:
    return f"{one.path} {one.operation} {errno_name(one.errno)} {one.message} {one.brick}"
