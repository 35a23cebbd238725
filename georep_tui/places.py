"""Where sessions keep their state, which ones are known there, and how one is begun from the words of a person."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.config import Config, SessionFile, read_session_file
from engine.model import EngineError
from engine.spec import SessionSpec, check_name, check_state, make_spec
from engine.volume.facts import Gluster, look


@dataclass(frozen=True, slots=True)
class Known:
    """A session that ran on this machine before: its name, its directory, what it replicates."""

    name: str
    directory: str
    primaries: tuple[str, ...]
    secondary: str
    id: str = ""
    kind: str = "tree"


@dataclass(frozen=True, slots=True)
class Begin:
    """A session ready to be begun: what it is, its configuration, its own state directory."""

    spec: SessionSpec
    config: Config
    state: str
    again: tuple[str, ...] = ()
    """The words after `run` that begin the same once more."""


def state_base(given: str = "") -> str:
    """The directory of all sessions' state: the one given, else $XDG_STATE_HOME's, /var/lib's (root), or the home's."""
    if given:
        return os.path.abspath(given)
    if os.environ.get("XDG_STATE_HOME"):
        return os.path.join(os.environ["XDG_STATE_HOME"], "georep-tui")
    if os.geteuid() == 0:
        return "/var/lib/georep-tui"
    return os.path.join(os.path.expanduser("~"), ".local", "state", "georep-tui")


def known_sessions(base: str) -> dict[str, Known]:
    """The sessions with state below `base`, by name; what cannot be read is left out."""
    found: dict[str, Known] = {}
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return found
    for name in names:
        one = known_session(base, name)
        if one is not None:
            found[name] = one
    return found


def known_session(base: str, name: str) -> Known | None:
    """One session with state below `base`; None where there is none, or nothing that makes sense."""
    return known_at(os.path.join(base, name))


def known_at(directory: str) -> Known | None:
    """The session whose state is in that directory; None where there is none, or nothing that makes sense."""
    try:
        with open(os.path.join(directory, "session.json"), encoding="utf-8") as f:
            facts: dict[str, Any] = json.load(f)
        primaries = tuple(f"{path}={brick}" if brick else str(path) for path, brick in facts["bricks"])
        kind = "gluster" if facts.get("kind") == "gluster" else "tree"
        return Known(os.path.basename(directory), directory, primaries, str(facts["secondary"]), str(facts["id"]), kind)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def session_file(word: str) -> SessionFile | None:
    """The session's file that this word names; None where it names none. Raises ConfigError, ConfigFileError."""
    if word.endswith(".toml") or (os.path.isfile(word) and "/" in word):
        return read_session_file(word)
    return None


def begin(
    words: Sequence[str],
    *,
    sets: Sequence[str] = (),
    name: str = "",
    state_dir: str = "",
    adopt: bool = False,
    dry_run: bool = False,
    once: bool = False,
    read_only: bool = False,
) -> Begin:
    """From `SESSION` (a file, or a name known here) or `PRIMARY… SECONDARY`. Raises EngineError; changes nothing."""
    base = state_base(state_dir)
    described: SessionFile | None = None
    if len(words) == 1:
        described = session_file(words[0])
        if described is not None:
            primaries, secondary = list(described.primaries), described.secondary
            name, adopt = name or described.name, adopt or described.adopt
        else:
            known = known_session(base, words[0]) if "/" not in words[0] else None
            if known is None:
                raise EngineError(
                    f"{words[0]} is no session's file, and no session of that name is known in {base}",
                    hint="georep-tui run PRIMARY… SECONDARY", code="usage",
                )  # fmt: skip
            primaries, secondary, name = list(known.primaries), known.secondary, name or known.name
    elif len(words) >= 2:
        primaries, secondary = list(words[:-1]), words[-1]
    else:
        raise EngineError("what is to be replicated?", hint="georep-tui run PRIMARY… SECONDARY", code="usage")
    spec = make_spec(
        primaries, secondary, name=name, adopt=adopt, dry_run=dry_run, once=once or dry_run, read_only=read_only
    )
    state = os.path.join(base, spec.name)
    check_state(state, spec.bricks, spec.secondary)
    config = Config(state, sets=sets, session_file=described)
    if spec.volume is not None:
        look(Gluster(config.options.gluster_command), spec.volume.volume)
    _make(state)
    again = [os.path.abspath(words[0]) if described is not None else spec.name]
    if described is not None and name and name != described.name:
        again += ["--name", name]
    if base != state_base():
        again += ["--state-dir", base]
    for one in sets:
        again += ["--set", one]
    if once:
        again.append("--once")
    return Begin(spec, config, state, tuple(again))


def _make(state: str) -> None:
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
    except OSError as e:
        raise EngineError(f"{state}: {e.strerror or e}", hint="choose another with --state-dir", code="usage") from e


def stopped_config(base: str, name: str) -> Config | None:
    """The configuration of a session that does not run; None where none of that name is known. Raises EngineError."""
    check_name(name)
    known = known_session(base, name)
    return None if known is None else Config(known.directory)
