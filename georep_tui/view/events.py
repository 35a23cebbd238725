"""Events of the engine as values and as lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from georep_tui.view.text import Cell, Line, cut_middle, escape
from georep_tui.view.units import clock, duration, plural, size

LEVELS = ("debug", "info", "warning", "error")
_ROLES = {"debug": "muted", "info": "", "warning": "warning", "error": "critical"}
_SIGNS = {"debug": "·", "info": "·", "warning": "▲", "error": "✖"}
_GOOD = frozenset({"active", "checkpoint_completed", "failure_cleared", "resume", "released", "recovered"})
_BAD = {
    "faulty": "error", "held": "error", "failure_added": "warning", "pause": "warning", "gap": "warning",
    "restart": "warning", "stop": "warning", "secondary_restored": "warning", "failure_dismissed": "warning",
}  # fmt: skip
_ENVELOPE = frozenset({"event", "seq", "time", "session", "brick", "level", "text", "hint", "node", "source"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `name` at unix time `time`; `session` and `brick` are ids or empty."""

    seq: int
    time: float
    name: str
    session: str
    brick: str
    level: str
    text: str
    hint: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def good(self) -> bool:
        """Is it good news: a recovery, a completed checkpoint?"""
        return self.name in _GOOD


def parse_event(doc: Mapping[str, Any]) -> Event:
    """An event's document as a value. What it does not say itself is put into words here."""
    name = str(doc.get("event") or "event").replace(" ", "_")
    fields = {key: value for key, value in doc.items() if key not in _ENVELOPE}
    level = str(doc.get("level") or _BAD.get(name, "info")).lower()
    return Event(
        seq=int(doc.get("seq") or 0),
        time=float(doc.get("time") or 0.0),
        name=name,
        session=str(doc.get("session") or ""),
        brick=str(doc.get("brick") or ""),
        level=level if level in LEVELS else "info",
        text=str(doc.get("text") or "") or _words(name, fields),
        hint=str(doc.get("hint") or ""),
        fields=fields,
    )


def event_line(event: Event, label: str = "", zone: tzinfo | None = None) -> Line:
    """`14:03:22 ✖ m1:/bricks/b1  ssh: connection refused`; `label` is the brick it is about."""
    role = "ok" if event.good else _ROLES[event.level]
    sign = "✔" if event.good else _SIGNS[event.level]
    where = f"{cut_middle(escape(label), 32)}  " if label else ""
    return (
        Cell(f"{clock(event.time, zone)} ", "muted"),
        Cell(f"{sign} ", role or "muted"),
        Cell(where, "accent"),
        Cell(escape(event.text), role),
    )


def _words(name: str, fields: Mapping[str, Any]) -> str:
    say = _SAY.get(name)
    if say is not None:
        return say(fields)
    known = ", ".join(f"{key} {value}" for key, value in fields.items() if isinstance(value, str | int | float))
    return f"{name.replace('_', ' ')}{': ' + known if known else ''}"


def _by(fields: Mapping[str, Any]) -> str:
    who = fields.get("who") or fields.get("by")
    return f" by {who}" if who else ""


def _objects(fields: Mapping[str, Any]) -> str:
    return plural(int(_last(fields.get("count")) or 1), "object")


def batch_words(fields: Mapping[str, Any]) -> str:
    """`batch 17: 40 entries, 37 files, 393 KiB in 1.2 s`."""
    entries, files = int(_last(fields.get("entries")) or 0), int(_last(fields.get("files")) or 0)
    parts = [plural(entries, "entry", "entries"), plural(files, "file")]
    parts.append(size(_last(fields.get("bytes"))))
    took = fields.get("duration_seconds", fields.get("seconds"))
    end = f" in {duration(took)}" if took is not None else ""
    return f"batch {fields.get('id', '?')}: {', '.join(parts)}{end}"


def _crawl(fields: Mapping[str, Any]) -> str:
    kind = str(fields.get("kind") or fields.get("new") or "?")
    return {"live": "changelog"}.get(kind, kind)


def _last(value: Any) -> float | None:
    if isinstance(value, list | tuple):
        value = value[-1] if value else None
    return value if isinstance(value, int | float) else None


_SAY: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "batch": batch_words,
    "batch_done": batch_words,
    "state": lambda f: f"{f.get('old', '?')} → {f.get('new', '?')}",
    "create": lambda _: "the session is made",
    "crawl": lambda f: f"{_crawl(f)} crawl begins",
    "crawl_changed": lambda f: f"{_crawl(f)} crawl begins",
    "active": lambda _: "active",
    "start": lambda _: "the engine starts",
    "stop": lambda _: "the engine stops",
    "pause": lambda f: f"paused{_by(f)}",
    "resume": lambda f: f"resumed{_by(f)}",
    "held": lambda f: f"held: {f.get('reason') or 'deletes'}",
    "failure_added": lambda f: f"{_objects(f)} could not be synced",
    "failure_cleared": lambda f: f"{_objects(f)} synced after all",
    "failure_dismissed": lambda f: f"{_objects(f)} dismissed{_by(f)}",
    "checkpoint_set": lambda f: f"checkpoint set{_by(f)}",
    "checkpoint_cleared": lambda f: f"checkpoint cleared{_by(f)}",
    "checkpoint_completed": lambda _: "checkpoint completed",
    "secondary_restored": lambda _: "the secondary is older than its mark: it was restored or replaced; crawling",
    "config": lambda f: f"{f.get('option', '?')} = {f.get('value', '?')}",
    "config_set": lambda f: f"{f.get('option', '?')} = {f.get('value', '?')}{_by(f)}",
    "operation": lambda f: f"{f.get('what', '?')}{_by(f)}: {f.get('result', '')}",
    "gap": lambda _: "some events are no longer kept; the picture is whole again from here",
}
