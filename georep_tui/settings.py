"""What a person set for the console: `config.toml`, checked, as one frozen object. Imports no textual."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from engine.model import EngineError
from engine.options import duration, parse_value
from georep_tui.view.verdict import Thresholds

THEMES = ("georep-dark", "georep-light", "georep-contrast")
"""Our own; any theme of Textual's may be named as well."""

REFRESH = (0.2, 10.0)
"""Least and most seconds between two looks."""


class ConsoleConfigError(Exception):
    """A setting that does not exist or has a wrong value; the text says which, where and what is allowed."""


@dataclass(frozen=True, slots=True)
class ConsoleConfig:
    """Settings of the console. `refresh` is in seconds; `keys` maps actions to keys, several with commas between."""

    theme: str = "georep-dark"
    refresh: float = 0.5
    mouse: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)


def config_path(environ: Mapping[str, str] = os.environ) -> str:
    """Where the settings are: `$XDG_CONFIG_HOME/georep-tui/config.toml`, else below `~/.config`."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return os.path.join(home, "georep-tui", "config.toml")


def load_config(path: str | None = None) -> ConsoleConfig:
    """The settings in `path` (None: the usual place); without a file, the defaults.

    Reads the tables `[console]` (theme, refresh, mouse), `[keys]` and `[thresholds]`; the thresholds of `[options]`
    count where `[thresholds]` does not say otherwise. Raises ConsoleConfigError.
    """
    path = path or config_path()
    try:
        with open(path, "rb") as file:
            doc = tomllib.load(file)
    except FileNotFoundError:
        return ConsoleConfig()
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise ConsoleConfigError(f"{path}: {e}") from e
    try:
        return parse_config(doc)
    except ConsoleConfigError as e:
        raise ConsoleConfigError(f"{path}: {e}") from e


def parse_config(doc: Mapping[str, Any]) -> ConsoleConfig:
    """The settings in a TOML document. Raises ConsoleConfigError."""
    console = _table(doc, "console")
    config = ConsoleConfig()
    for name, value in console.items():
        if name == "theme":
            config = replace(config, theme=_of(name, value, str))
        elif name == "mouse":
            config = replace(config, mouse=_of(name, value, bool))
        elif name == "refresh":
            seconds = float(_of(name, value, int | float))
            if not REFRESH[0] <= seconds <= REFRESH[1]:
                raise ConsoleConfigError(f"console.refresh = {value}: from {REFRESH[0]} to {REFRESH[1]} seconds")
            config = replace(config, refresh=seconds)
        else:
            raise ConsoleConfigError(f"console.{name} is not known; there are theme, refresh, mouse")
    keys = {name: _of(f"keys.{name}", value, str) for name, value in _table(doc, "keys").items()}
    return replace(config, keys=keys, thresholds=_thresholds(doc))


def _thresholds(doc: Mapping[str, Any]) -> Thresholds:
    known = {one.name: one for one in fields(Thresholds) if one.name != "chosen"}
    values: dict[str, Any] = {}
    for table in ("options", "thresholds"):
        for name, value in _table(doc, table).items():
            if name not in known:
                if table == "options":
                    continue
                raise ConsoleConfigError(f"thresholds.{name} is not known; there are {', '.join(known)}")
            try:
                values[name] = float(duration(value)) if name == "stale" else parse_value(name, value)
            except (ValueError, EngineError) as e:
                raise ConsoleConfigError(f"{table}.{name} = {value!r}: {e}") from e
    return Thresholds(**values, chosen=frozenset(values))


def _table(doc: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = doc.get(name, {})
    if not isinstance(table, Mapping):
        raise ConsoleConfigError(f"{name} = {table!r}: a table is needed, [{name}]")
    return table


def _of(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "number")
        raise ConsoleConfigError(f"{name} = {value!r}: a {wanted} is needed")
    return value
