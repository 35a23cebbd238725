"""Names in JSON: what is not UTF-8 comes escaped, with its bytes beside it."""

from __future__ import annotations

import base64
import os
from typing import Any


def shown(name: bytes) -> str:
    """A name for people: UTF-8, and each byte that is not as `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


def escaped(value: Any) -> Any:
    """A JSON document fit for any reader: the same object where there is nothing to escape.

    Texts with lone surrogates (bytes as `os.fsdecode` gives them) become escaped texts; an object gets
    `<key>_b64` beside such a text, or beside a list that holds one (then with one item for each).
    """
    if isinstance(value, dict):
        changes: dict[str, Any] = {}
        for key, inner in value.items():
            better = escaped(inner)
            if better is inner:
                continue
            changes[key] = better
            if isinstance(inner, str):
                changes[f"{key}_b64"] = _b64(inner)
            elif isinstance(inner, list | tuple) and all(isinstance(i, str) for i in inner):
                changes[f"{key}_b64"] = [_b64(i) for i in inner]
        return {**value, **changes} if changes else value
    if isinstance(value, list | tuple):
        better_ones = [escaped(inner) for inner in value]
        return better_ones if any(a is not b for a, b in zip(better_ones, value, strict=True)) else value
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        return shown(os.fsencode(value)) if _from_bytes(value) else value.encode("utf-8", "backslashreplace").decode()
    return value


def _from_bytes(text: str) -> bool:
    """Do its surrogates stand for bytes?"""
    return all(c < "\ud800" or "\udc80" <= c <= "\udcff" or c > "\udfff" for c in text)


def _b64(text: str) -> str:
    raw = os.fsencode(text) if _from_bytes(text) else text.encode("utf-8", "surrogatepass")
    return base64.b64encode(raw).decode()
