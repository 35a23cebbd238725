"""Options of a session as rows: value, default, where it comes from, and whether it changes while running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from georep_tui.view.table import Column, Row
from georep_tui.view.text import Cell, Line, escape

COLUMNS = (
    Column("name", "option", 24, flex=1, drop=0),
    Column("value", "value", 14, flex=1, drop=0),
    Column("default", "default", 14, drop=3),
    Column("origin", "from", 16, flex=1, middle=True, drop=2),
    Column("live", "takes effect", 12, drop=1),
)
FIRST = ("sync_jobs", "bandwidth_limit", "log_level")
"""What is changed most often comes first."""

_SECRET = ("password", "secret", "token", "key_data")


@dataclass(frozen=True, slots=True)
class Setting:
    """One option: its value and default as text, where the value is from, what is allowed."""

    name: str
    value: str
    default: str
    origin: str
    allowed: str
    live: bool
    help: str


def parse_setting(doc: Mapping[str, Any]) -> Setting:
    """An option as the engine describes it."""
    default = doc.get("default")
    return Setting(
        name=str(doc.get("name") or ""), value=str(doc["text"] if doc.get("text") is not None else doc.get("value")),
        default=_plain(default), origin=str(doc.get("origin") or "default"), allowed=str(doc.get("allowed") or ""),
        live=bool(doc.get("live")), help=str(doc.get("help") or ""),
    )  # fmt: skip


def setting_row(one: Setting, place: int) -> Row:
    """An option as a row; what is not at its default stands out."""
    changed = one.origin != "default"
    return Row(
        key=one.name,
        cells={
            "name": (Cell(escape(one.name), "strong" if changed else ""),),
            "value": (Cell(escape(one.value) or '""', "accent" if changed else ""),),
            "default": (Cell(escape(one.default), "muted"),),
            "origin": (Cell(escape(one.origin), "" if changed else "muted"),),
            "live": (Cell("at once", "ok") if one.live else Cell("restarts", "muted"),),
        },
        values={"name": one.name, "value": one.value, "origin": one.origin},
        weight=(len(FIRST) - FIRST.index(one.name) if one.name in FIRST else 0, one.live, -place),
        text=f"{one.name} {one.value} {one.help}",
    )


def setting_lines(one: Setting) -> list[Line]:
    """What an option is for and what it takes."""
    return [
        (Cell(escape(one.help)),),
        (Cell("allowed  ", "muted"), Cell(escape(one.allowed))),
        (
            Cell("now      ", "muted"),
            Cell(escape(one.value) or '""', "strong"),
            Cell(f"  from {escape(one.origin)}", "muted"),
        ),
    ]


def without_secrets(docs: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Options for a report: values that may hold a secret are left out."""
    return [
        {**doc, **({"value": "(left out)", "text": "(left out)"} if _secret(str(doc.get("name") or "")) else {})}
        for doc in docs
    ]


def _secret(name: str) -> bool:
    return any(word in name for word in _SECRET)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(str(part) for part in value) or '""'
    return '""' if value == "" else f"{value:.10g}" if isinstance(value, float) else str(value)
