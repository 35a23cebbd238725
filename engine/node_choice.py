"""Which node of the secondary the agents run on: pure, but for what it is given of clocks and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.addresses import is_host
from engine.backoff import STEADY, pause

LINE = frozenset((
    "ssh-refused", "ssh-timeout", "ssh-route", "ssh-resolve", "link-lost", "link-slow", "link-silent", "link-timeout",
    "link-garbage",
))  # fmt: skip
"""Faults of the line: it could not be made, or broke."""

THERE = frozenset(("glusterd-down", "mount-failed", "volume-incomplete"))
"""What an agent says when the volume cannot be reached from its node."""

PERSON = frozenset((
    "ssh-denied", "host-key-changed", "host-key-unknown", "no-python", "python-old", "non-root", "no-gluster",
    "gluster-version", "no-fuse", "volume-unknown", "secondary-changed",
))  # fmt: skip
"""Faults of one node that only a person can mend; meanwhile another may do."""


Host = str | None
"""A name for ssh; None: this machine."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the secondary: its name for ssh, and what tells it from others, "" if unknown."""

    host: Host
    id: str = ""

    def is_it(self, host: str, ident: str) -> bool:
        """Is it the one that calls itself so?"""
        return self.id == ident if self.id and ident else self.host == host


@dataclass(frozen=True, slots=True)
class Health:
    """How often in a row a node failed, and until when (monotonic seconds) it is passed over for that."""

    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> Health:
        """Once more."""
        return Health(self.failures + 1, now + pause(self.failures))


WELL = Health()


def choose(hosts: Sequence[Host], current: Host, health: Mapping[Host, Health], now: float) -> Host:
    """The current one while it is well; else the next after it whose time has come; else the one whose comes first."""
    if health.get(current, WELL).failures == 0:
        return current
    at = hosts.index(current) + 1 if current in hosts else 0
    ring = [*hosts[at:], *hosts[:at]]
    due = [n for n in ring if health.get(n, WELL).until <= now]
    return due[0] if due else min(ring, key=lambda n: health.get(n, WELL).until)


def against(code: str, lived: float) -> bool:
    """Does this end of a line that stood for `lived` seconds speak against its node? One that stood long is made once
    more there first."""
    return code in THERE or code in PERSON or (code in LINE and lived < STEADY)


def learned(named: Node, told: object) -> list[Node]:
    """The named node, then the others of a volume, as an agent or a file has them; what makes no sense is left out."""
    nodes = [named]
    for one in _given(told):
        if is_host(one.host or "") and not any(n.host == one.host or n.is_it("", one.id) for n in nodes):
            nodes.append(one)
    return nodes


def kept(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """The same as it is kept in a file."""
    return [{"host": n.host, "id": n.id} for n in nodes]


def restored(host: Host, told: object) -> list[Node]:
    """What a file has; `host` is the name in the secondary's address."""
    return learned(next((one for one in _given(told) if one.host == host), Node(host)), told)


def _given(told: object) -> list[Node]:
    found = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    return [Node(str(one.get("host") or ""), str(one.get("id") or "")) for one in found]
