"""Where a node is, as a person says it and as their ssh configuration knows it (`ssh -G` does the reading)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from georep_tui.sources.base import SourceError

_PLACE = re.compile(
    r"(?:ssh://)?(?:([A-Za-z0-9_.][A-Za-z0-9_.@\\-]*)@)?"
    r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9_][A-Za-z0-9_.-]*))(?::(\d+))?/?"
)
READING = 20.0
"""Seconds `ssh -G` may take: a configuration may run programs (Match exec)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is: `host` as ssh's configuration may know it, user and port where given."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_place(text: str) -> Place:
    """`[USER@]HOST[:PORT]`. Raises SourceError."""
    found = _PLACE.fullmatch(text)
    if not found or (found[4] and not 1 <= int(found[4]) <= 65535):
        raise SourceError(f"--ssh {text!r} is no node", hint="[USER@]HOST[:PORT]", code="usage")
    return Place(found[2] or found[3], found[1], int(found[4]) if found[4] else None)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person's ssh would do for one host. Times in seconds; 0: not said."""

    name: str
    host: str
    port: int
    user: str
    identities: tuple[str, ...]
    identities_only: bool
    agent: str | None
    known_hosts: tuple[str, ...]
    global_known_hosts: tuple[str, ...]
    alias: str | None
    jumps: tuple[Place, ...]
    proxy: str | None
    strict: str
    hash_names: bool
    connect_timeout: float
    alive_interval: float
    alive_count: int

    @property
    def known_as(self) -> str:
        """The name under which known_hosts has the host: the alias, the host, or `[host]:port`."""
        if self.alias:
            return self.alias.lower()
        return (self.host if self.port == 22 else f"[{self.host}]:{self.port}").lower()


def resolve(place: Place, config: str = "") -> Settings:
    """What ssh says of a place; `config` takes the place of the person's own file. Raises SourceError."""
    words = ["ssh", *(["-F", config] if config else []), "-G"]
    words += ["-p", str(place.port)] if place.port else []
    words += ["-l", place.user] if place.user else []
    try:
        done = subprocess.run(
            [*words, "--", place.host], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=READING, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as e:
        raise SourceError("there is no ssh here, whose configuration is to be read", code="no-ssh",
                          hint="install OpenSSH's client") from e  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise SourceError(f"`ssh -G {place.host}` gives no answer", code="ssh-config",
                          hint="does a `Match exec` in ~/.ssh/config hang?") from e  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1]
        raise SourceError(f"ssh's configuration: {said}", hint="see `ssh -G` of that host", code="ssh-config")
    return read_settings(place.host, done.stdout)


def read_settings(name: str, text: str) -> Settings:
    """The output of `ssh -G NAME`. Raises SourceError where it makes no sense."""
    every: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        every.setdefault(key.lower(), []).append(value.strip())
    one: Mapping[str, str] = {key: values[0] for key, values in every.items()}
    try:
        port = int(one.get("port") or 22)
        host, user = one["hostname"], one["user"]
    except (KeyError, ValueError) as e:
        raise SourceError(f"`ssh -G {name}` says nothing that can be used", code="ssh-config") from e
    jump = _said(one, "proxyjump")
    settings = Settings(
        name=name, host=host, port=port, user=user,
        identities=tuple(os.path.expanduser(p) for p in every.get("identityfile", ()) if p.lower() != "none"),
        identities_only=one.get("identitiesonly") == "yes",
        agent=_agent(one.get("identityagent")),
        known_hosts=_files(one.get("userknownhostsfile")), global_known_hosts=_files(one.get("globalknownhostsfile")),
        alias=_said(one, "hostkeyalias"),
        jumps=tuple(_jump(word) for word in jump.split(",")) if jump else (),
        proxy=None, strict=one.get("stricthostkeychecking", "ask"),
        hash_names=one.get("hashknownhosts") == "yes",
        connect_timeout=_number(one.get("connecttimeout")), alive_interval=_number(one.get("serveraliveinterval")),
        alive_count=int(_number(one.get("serveralivecountmax"))) or 3,
    )  # fmt: skip
    proxy = _said(one, "proxycommand")
    return replace(settings, proxy=expanded(proxy, settings)) if proxy else settings


def expanded(command: str, settings: Settings) -> str:
    """A ProxyCommand with its %h, %n, %p, %r and %% filled in; another token stays as it is."""
    values = {"h": settings.host, "n": settings.name, "p": str(settings.port), "r": settings.user, "%": "%"}
    return re.sub(r"%(.)", lambda m: values.get(m[1], m[0]), command)


def _jump(word: str) -> Place:
    try:
        return parse_place(word.strip())
    except SourceError as e:
        raise SourceError(f"ProxyJump {word!r} is no host", hint="[USER@]HOST[:PORT]", code="ssh-config") from e


def _said(one: Mapping[str, str], key: str) -> str | None:
    value = one.get(key, "")
    return None if value.lower() in ("", "none") else value


def _agent(value: str | None) -> str | None:
    """The agent's socket; None where there is none, or none is to be asked."""
    if value is None or value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    if value.lower() == "none":
        return None
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}")) or None
    return os.path.expanduser(value)


def _files(value: str | None) -> tuple[str, ...]:
    words: Sequence[str] = (value or "").split()
    return tuple(os.path.expanduser(w) for w in words if w.lower() != "none")


def _number(value: str | None) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0  # "none"
