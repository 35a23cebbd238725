"""What a session's file said when the session last ran from it: kept in the state directory, so that a name is enough."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.model import EngineError
from engine.options import ConfigError, find, parse_value, value_text

FILE = "said.json"


@dataclass(frozen=True, slots=True)
class Said:
    """A session's file as it was: its absolute path, when it was read (unix time), what it described.

    `options` are checked values. A consent (`adopt`) is not kept: it is given anew each time.
    """

    path: str
    time: float
    name: str
    primaries: tuple[str, ...]
    secondary: str
    options: Mapping[str, Any]

    def same(self, other: Said) -> bool:
        """Does the file still describe the same, whatever else changed in it?"""
        mine = (self.name, self.primaries, self.secondary, dict(self.options))
        return mine == (other.name, other.primaries, other.secondary, dict(other.options))


def keep(state: str, said: Said) -> None:
    """Keep it durably. OSError."""
    data = {
        "version": 1, "path": said.path, "time": said.time, "name": said.name, "primaries": list(said.primaries),
        "secondary": said.secondary, "options": {k: value_text(v) for k, v in sorted(said.options.items())},
    }  # fmt: skip
    path = os.path.join(state, FILE)
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".new", path)
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def kept(state: str) -> Said | None:
    """What was kept; None where the session never ran from a file. Raises EngineError where that cannot be told."""
    path = os.path.join(state, FILE)
    try:
        with open(path, encoding="utf-8") as f:
            found: dict[str, Any] = json.load(f)
        options = {find(k).name: parse_value(k, v) for k, v in found["options"].items()}
        return Said(str(found["path"]), float(found["time"]), str(found["name"]), tuple(map(str, found["primaries"])),
                    str(found["secondary"]), options)  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as e:
        # to go on without its options could delete, or send, what they forbid
        raise EngineError(
            f"{path}: what the session's file said cannot be read ({e})", code="config",
            hint="run the session from its file again: georep-tui run FILE.toml",
        ) from e  # fmt: skip


def differs(said: Said, now: Said | EngineError) -> str:
    """In one line, that a file is no longer what it was, and what to do; "" where it says the same. `now` is how it reads."""
    if isinstance(now, EngineError):
        reason = now.text.removeprefix(f"{said.path}: ")
        return (f"{said.path}, from which this session ran, cannot be used now ({reason}): what it said on {_day(said.time)} "
                f"still holds; put it back, or run the session from another file")  # fmt: skip
    if said.same(now):
        return ""
    return (f"{said.path} was changed since this session last ran from it: what it said on {_day(said.time)} still holds; "
            f"for what it says now: georep-tui run {said.path}")  # fmt: skip


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
