"""Is what a node says a snapshot? What comes from another machine is looked at before anything else believes it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

MOST_SESSIONS = 500
MOST_BRICKS = 20_000
LATEST = 32_503_680_000.0
"""Unix time of the year 3000: no clock tells a later one, and what shows times need not."""

TIMES = frozenset((
    "time", "data_time", "last_synced", "checkpoint_time", "checkpoint_completion_time", "completion_time", "since",
    "started", "retry_at", "first_time", "last_time", "as_of", "last_seen", "failures_since",
))  # fmt: skip
"""Keys whose numbers are unix times, wherever they are in a picture."""

_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


@cache
def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("engine").joinpath("snapshot.schema.json").read_text("utf-8"))
    return found


def wrong(document: Any) -> str | None:
    """What is wrong with a snapshot, in a few words; None where it is one."""
    if isinstance(document, dict) and document.get("version") != 1:
        return f"version {document.get('version')!r} of the snapshot, version 1 is understood here"
    found = _wrong(document, _schema(), "snapshot")
    if found is None and len(document["sessions"]) > MOST_SESSIONS:
        return f"more than {MOST_SESSIONS} sessions"
    if found is None and sum(len(s["bricks"]) for s in document["sessions"]) > MOST_BRICKS:
        return f"more than {MOST_BRICKS} bricks"
    return found


def wrong_changes(event: Mapping[str, Any]) -> str | None:
    """The same of an event `changed`."""
    defs = _schema()["$defs"]
    for key, kind in (("sources", "source"), ("sessions", "session"), ("bricks", "brick")):
        items = event.get(key) or ()
        if not isinstance(items, list | tuple):
            return f"{key} is not a list"
        for item in items:
            whole = {**item, "bricks": []} if key == "sessions" and isinstance(item, dict) else item
            if found := _wrong(whole, defs[kind], kind):
                return found
            if key == "bricks" and not isinstance(item.get("session"), str):
                return "a brick without its session"
    for item in event.get("gone") or ():
        if not isinstance(item, dict) or not isinstance(item.get("session"), str):
            return "gone names no session"
    return None


def _wrong(value: Any, schema: Mapping[str, Any], where: str, depth: int = 0) -> str | None:
    if depth > 30:
        return f"{where} is too deep"
    if "$ref" in schema:
        return _wrong(value, _schema()["$defs"][str(schema["$ref"]).rpartition("/")[2]], where, depth + 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            tries = [_wrong(value, one, where, depth + 1) for one in schema[key]]
            return None if None in tries else tries[0]
    if "const" in schema and value != schema["const"]:
        return f"{where} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is {str(value)[:40]!r}"
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return f"{where} is {type(value).__name__}"
    if isinstance(value, dict):
        return _wrong_object(value, schema, where, depth)
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", MOST_BRICKS) or len(value) < schema.get("minItems", 0):
            return f"{where} has {len(value)} items"
        first = schema.get("prefixItems") or ()
        for place, item in enumerate(value):
            each = first[place] if place < len(first) else schema.get("items") or {}
            if found := _wrong(item, each, where, depth + 1):
                return found
    if _is(value, "number") and value < schema.get("minimum", value):
        return f"{where} is {value}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} is no number"
    return None


def _wrong_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    for name in schema.get("required") or ():
        if name not in value:
            return f"{where} has no {name}"
    known = schema.get("properties") or {}
    for name, item in value.items():
        each = known.get(name) or schema.get("additionalProperties") or {}
        if found := _wrong(item, each, f"{where}.{name}"[:80], depth + 1):
            return found
        if name in TIMES and isinstance(item, int | float) and not 0 <= item <= LATEST:
            return f"{where}.{name} is no time"[:80]
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("number", "integer"):
        return False
    return isinstance(value, _KINDS.get(kind, (object,)))


def shifted(value: Any, seconds: float) -> Any:
    """The same with every time moved by so many seconds: from a node's clock to another's."""
    if not seconds:
        return value
    if isinstance(value, dict):
        return {
            k: v + seconds if k in TIMES and _is(v, "number") else shifted(v, seconds) for k, v in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [shifted(item, seconds) for item in value]
    return value
