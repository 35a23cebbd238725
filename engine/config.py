"""The configuration of a session: values from many places in order of precedence, each with where it comes from."""

from __future__ import annotations

import json
import os
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import said
from engine.model import EngineError
from engine.options import (
    OPTIONS,
    ConfigError,
    Options,
    find,
    parse_value,
    split_assignment,
    value_text,
)

SYSTEM_FILE = "/etc/georep-tui/config.toml"
KEPT = "config.json"
ENVIRONMENT = "GEOREP_"


class ConfigFileError(EngineError):
    """A configuration file that cannot be read, with the place."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}", hint="see docs/configuration.md", code="config")
        self.path = path


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place: `origin` says which, as `config` shows it."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SessionFile:
    """A session described in TOML: `[session]`, `[primary]`, `[secondary]`, `[options]`."""

    path: str
    name: str
    primaries: tuple[str, ...]
    secondary: str
    options: Mapping[str, Any]
    adopt: bool = False

    def said(self) -> said.Said:
        """What of it a session remembers."""
        path = os.path.abspath(self.path)
        return said.Said(path, time.time(), self.name, self.primaries, self.secondary, self.options)


class Config:
    """All options of one session as they are now; `set` and `reset` keep a value in the session's state directory.

    Precedence: --set, environment, kept, session file, the user's file, the system's file, default. Without a session
    file, what the one said that the session last ran from. Safe from any thread. Raises ConfigError for a value that is
    wrong, ConfigFileError for a file that is, EngineError where what a file said cannot be read.
    """

    note = ""
    """That the session's file is gone or was changed, in one line; "" where it is as it was."""

    def __init__(
        self,
        state: str | None = None,
        *,
        sets: Sequence[str] = (),
        session_file: SessionFile | None = None,
        environment: Mapping[str, str] | None = None,
        system_file: str = SYSTEM_FILE,
    ) -> None:
        env = os.environ if environment is None else environment
        self._lock = threading.Lock()
        self._kept_path = None if state is None else os.path.join(state, KEPT)
        above = [Layer("--set", _assigned(sets)), Layer("environment", _from_environment(env))]
        below = []
        self._state, self._said = state, None if session_file is None else session_file.said()
        if session_file is not None:
            below.append(Layer(session_file.path, session_file.options))
        elif state is not None and (before := said.kept(state)) is not None:
            self.note = said.differs(before, _reads(before.path))
            below.append(Layer(before.path + (" (as it was)" if self.note else ""), before.options))
        below += [Layer(path, values) for path in (user_file(env), system_file) if (values := read_options(path))]
        self._above, self._below = above, below
        self._kept: dict[str, Any] = self._read_kept()
        self._who: dict[str, str] = {}
        self._options = self._merge()

    # ---- reading ---------------------------------------------------------------------------------------------

    @property
    def options(self) -> Options:
        """The values of now."""
        return self._options

    def describe(self) -> list[dict[str, Any]]:
        """Every option: name, value, origin, default, allowed, live, help, as `config` shows them."""
        with self._lock:
            return [
                {
                    "name": o.name, "value": _plain(getattr(self._options, o.name)), "origin": self._origin(o.name),
                    "default": _plain(o.default), "allowed": o.allowed, "live": o.live, "help": o.help,
                    "kind": o.kind, "by": self._who.get(o.name), "text": value_text(getattr(self._options, o.name)),
                }
                for o in OPTIONS.values()
            ]  # fmt: skip

    def _layers(self) -> list[Layer]:
        return [*self._above, Layer("config", self._kept), *self._below]

    def _origin(self, name: str) -> str:
        return next((layer.origin for layer in self._layers() if name in layer.values), "default")

    def _merge(self) -> Options:
        merged: dict[str, Any] = {}
        for layer in reversed(self._layers()):
            merged.update(layer.values)
        return Options(**merged)

    def remember(self) -> None:
        """Keep what the session's file says for runs that are given its name only. OSError."""
        if self._state is not None and self._said is not None:
            said.keep(self._state, self._said)

    # ---- writing ---------------------------------------------------------------------------------------------

    def set(self, name: str, value: object, who: str = "") -> bool:
        """Keep a value for this session; True when it takes effect at once, False when workers must start again.

        Raises ConfigError also where `--set` or the environment would win anyway.
        """
        option = find(name)
        parsed = parse_value(option.name, value)
        with self._lock:
            self._not_overridden(option.name, value)
            self._keep({**self._kept, option.name: parsed})
            self._who[option.name] = who
        return option.live

    def reset(self, name: str) -> bool:
        """Drop the kept value; True when that takes effect at once. Raises ConfigError."""
        option = find(name)
        with self._lock:
            self._keep({k: v for k, v in self._kept.items() if k != option.name})
            self._who.pop(option.name, None)
        return option.live

    def _not_overridden(self, name: str, value: object) -> None:
        for layer in self._above:
            if name in layer.values:
                raise ConfigError(
                    name, value, f"change it where it is given: {layer.origin}",
                    text=f"{name} is fixed by {layer.origin} while this session runs",
                )  # fmt: skip

    def _keep(self, kept: dict[str, Any]) -> None:
        if self._kept_path is not None:
            data = json.dumps({k: value_text(v) for k, v in sorted(kept.items())}, indent=1)
            temp = self._kept_path + ".new"
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temp, self._kept_path)
        self._kept = kept
        self._options = self._merge()

    def _read_kept(self) -> dict[str, Any]:
        if self._kept_path is None:
            return {}
        try:
            with open(self._kept_path, encoding="utf-8") as f:
                found = json.load(f)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            raise ConfigFileError(self._kept_path, f"cannot be read: {e}") from e
        if not isinstance(found, dict):
            raise ConfigFileError(self._kept_path, "is not a JSON object")
        return _checked(found, self._kept_path)


# ---- files and the environment ---------------------------------------------------------------------------------


def user_file(environment: Mapping[str, str] | None = None) -> str:
    """The user's configuration file."""
    env = os.environ if environment is None else environment
    base = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "georep-tui", "config.toml")


def read_toml(path: str) -> dict[str, Any] | None:
    """A TOML file; None when there is none. Raises ConfigFileError with the line."""
    try:
        with open(path, "rb") as f:
            return tomllib.load(f)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ConfigFileError(path, e.strerror or str(e)) from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigFileError(path, f"is not TOML: {e}") from e


def read_options(path: str) -> dict[str, Any]:
    """The `[options]` of a configuration file (the other tables are the console's); empty when there is none.

    Raises ConfigError, ConfigFileError.
    """
    found = read_toml(path)
    if found is None:
        return {}
    _only(found, ("options", "console", "keys", "thresholds"), path)
    return _checked(_table(found, "options", path), path)


def read_session_file(path: str) -> SessionFile:
    """A session's TOML file. Raises ConfigError, ConfigFileError.

    `[session]` has `name`, `adopt`; `[primary]` has `path` (one, or a list of `DIR=NAME`), `volume`, or
    `[primary.bricks]` with NAME = DIR; `[secondary]` has `address`, or `host`, `user`, `port`, and `path` or `volume`.
    """
    found = read_toml(path)
    if found is None:
        raise ConfigFileError(path, "no such file")
    _only(found, ("session", "primary", "secondary", "options"), path)
    session = _table(found, "session", path)
    _only(session, ("name", "adopt"), f"{path}: [session]")
    adopt = session.get("adopt", False)
    if not isinstance(adopt, bool):
        raise ConfigFileError(path, "[session] adopt must be true or false")
    options = _checked(_table(found, "options", path), path)
    return SessionFile(
        path, _word(session, "name", path, Path(path).stem), _primaries(_table(found, "primary", path), path),
        _secondary(_table(found, "secondary", path), path), options, adopt,
    )  # fmt: skip


def _reads(path: str) -> said.Said | EngineError:
    """How a session's file reads now."""
    try:
        return read_session_file(path).said()
    except EngineError as e:
        return e


def _primaries(table: Mapping[str, Any], path: str) -> tuple[str, ...]:
    where = f"{path}: [primary]"
    _only(table, ("path", "paths", "bricks", "volume"), where)
    if len(table) != 1:
        raise ConfigFileError(path, "[primary] needs one of path, bricks, volume")
    name, value = next(iter(table.items()))
    if name == "bricks":
        if not isinstance(value, dict) or not value or not all(isinstance(v, str) for v in value.values()):
            raise ConfigFileError(path, "[primary.bricks] holds NAME = DIR")
        return tuple(f"{directory}={brick}" for brick, directory in value.items())
    if isinstance(value, str) and value:
        return (value,)
    if name != "volume" and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise ConfigFileError(path, f"[primary] {name} is no text")


def _secondary(table: Mapping[str, Any], path: str) -> str:
    where = f"{path}: [secondary]"
    _only(table, ("address", "host", "user", "port", "path", "volume"), where)
    if "address" in table:
        if len(table) > 1:
            raise ConfigFileError(path, "[secondary] address stands alone")
        return _word(table, "address", path)
    host, user = _word(table, "host", path, ""), _word(table, "user", path, "")
    if ("path" in table) == ("volume" in table):
        raise ConfigFileError(path, "[secondary] needs address, path or volume")
    at = f"{user}@" if user else ""
    shown = f"[{host}]" if ":" in host else host
    if "volume" in table:
        if not host:
            raise ConfigFileError(path, "[secondary] volume needs host")
        return f"{at}{shown}::{_word(table, 'volume', path)}"
    directory = _word(table, "path", path)
    if not host:
        return directory
    if "port" in table:
        if not isinstance(table["port"], int):
            raise ConfigFileError(path, "[secondary] port is no number")
        quoted = directory.replace("%", "%25")
        return f"ssh://{at}{shown}:{table['port']}{'' if quoted.startswith('/') else '/~/'}{quoted}"
    return f"{at}{shown}:{directory}"


def _table(found: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    value = found.get(name, {})
    if not isinstance(value, dict):
        raise ConfigFileError(path, f"[{name}] must be a table")
    return value


def _word(table: Mapping[str, Any], name: str, path: str, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise ConfigFileError(path, f"{name} must be a text")
    return value


def _only(found: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for name in found:
        if name not in allowed:
            raise ConfigFileError(where, f"unknown {name!r} (allowed: {', '.join(allowed)})")


def _checked(values: Mapping[str, object], where: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        try:
            out[find(name).name] = parse_value(name, value)
        except ConfigError as e:
            raise ConfigError(e.name, e.value, e.allowed, text=f"{where}: {e.text}") from e
    return out


def _assigned(sets: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for words in sets:
        name, value = split_assignment(words)
        out[find(name).name] = parse_value(name, value)
    return out


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {
        name[len(ENVIRONMENT) :].lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT) and not name.startswith("GEOREP_TUI")
    }
    return _checked(found, "environment")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
