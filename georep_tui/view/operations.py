"""What people did: who, when, with which result, as values and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from types import MappingProxyType
from typing import Any

from georep_tui.view.table import Column, Row
from georep_tui.view.text import Cell, escape
from georep_tui.view.units import moment

COLUMNS = (
    Column("sign", "", 1, drop=0),
    Column("time", "when", 12, drop=0),
    Column("who", "who", 14, middle=True, drop=3),
    Column("what", "what", 20, flex=2, drop=0),
    Column("result", "result", 14, flex=2, drop=0),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One command a person gave: at unix time `time`, by `who`, in words, and what came of it."""

    time: float
    who: str
    what: str
    result: str
    good: bool


def parse_operation(doc: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> Operation:
    """An operation as the engine keeps it; `names` are labels of bricks by their ids."""
    params = doc.get("params") if isinstance(doc.get("params"), Mapping) else {}
    shown = " ".join(f"{key}={_short(names.get(str(value), value))}" for key, value in (params or {}).items()
                     if key != "session" and value is not None)  # fmt: skip
    result = str(doc.get("result") or "")
    what = str(doc.get("what") or doc.get("method") or "?")
    return Operation(float(doc.get("time") or 0.0), str(doc.get("who") or "?"), f"{what} {shown}".strip(), result,
                     result == "done")  # fmt: skip


def operation_row(operation: Operation, index: int, now: float, zone: tzinfo | None = None) -> Row:
    """The row of an operation; the newest comes first."""
    role = "ok" if operation.good else "critical"
    return Row(
        key=str(index),
        cells={
            "sign": (Cell("✔" if operation.good else "✖", role),),
            "time": (Cell(moment(operation.time, now, zone), "muted"),),
            "who": (Cell(escape(operation.who), "accent"),),
            "what": (Cell(escape(operation.what)),),
            "result": (Cell(escape(operation.result), "" if operation.good else "critical"),),
        },
        values={"time": operation.time, "who": operation.who, "what": operation.what, "result": operation.result},
        weight=(operation.time,),
        text=f"{operation.who} {operation.what} {operation.result}",
        faulty=not operation.good,
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"
