"""The one node of the secondary that all agents of this engine run on: shared by the workers, moved when it is down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine.link import Link, LinkError, RemoteError
from engine.model import EngineError
from engine.node_choice import LINE, PERSON, WELL, Health, Host, Node, against, choose, kept, learned, restored


class Stay:
    """A worker's time on a node, from before its line is made until after its end."""

    def __init__(self, host: Host, move: int) -> None:
        self.host = host
        self.move = move
        """How often the agents had moved when it began."""
        self.link: Link | None = None
        self.settled: float | None = None
        """Since when (monotonic) the agent works."""

    def lived(self, now: float) -> float:
        """For how many seconds the agent has worked."""
        return 0.0 if self.settled is None else now - self.settled

    @property
    def well(self) -> bool:
        """Does an agent work here, and its line stand?"""
        return self.settled is not None and self.link is not None and self.link.broken is None


class Nodes:
    """Chooses the node, and sees to it that no agent begins on it before those on another one were ended.

    A tree's secondary has one node, which is never left. Every method may be called from any thread.
    """

    def __init__(
        self, host: Host, known: object, keep: Callable[[list[dict[str, Any]]], None], log: Callable[[str, str], None]
    ) -> None:
        """`host` is the one that the address names; `known` the nodes `keep` was last called with."""
        self._keep = keep
        self._log = log
        self._nodes = restored(host, known)
        self._current = host
        self._health: dict[Host, Health] = {}
        self._errors: dict[Host, EngineError] = {}
        self._stays: list[Stay] = []
        self._moves = 0
        self._changed = threading.Condition()

    @contextmanager
    def stay(self, stopping: threading.Event) -> Iterator[Stay]:
        """A worker's time on the node of now; begins when nobody is on another one. Raises EngineError `stopping`."""
        with self._changed:
            host = choose(self._hosts, self._current, self._health, time.monotonic())
            if host != self._current:
                self._move(host, self._errors[self._current])
            while any(s.move != self._moves for s in self._stays):
                if stopping.is_set():
                    raise EngineError("stopping", code="stopping")
                self._changed.wait(0.5)
            stay = Stay(self._current, self._moves)
            self._stays.append(stay)
        try:
            yield stay
        finally:
            with self._changed:
                self._stays.remove(stay)
                self._changed.notify_all()

    def connected(self, stay: Stay, link: Link) -> None:
        """The line is made: from now on it is cut when the agents move. Raises LinkError when they have."""
        with self._changed:
            if stay.move != self._moves:
                raise self._moved()
            stay.link = link

    def learn(self, stay: Stay, hello: dict[str, Any]) -> None:
        """Keep what an agent says of the volume's nodes. OSError."""
        with self._changed:
            named = self._nodes[0]
            if stay.host == named.host:
                named = Node(named.host, str(hello.get("node_id") or ""))
            nodes = learned(named, hello.get("nodes"))
            if nodes != self._nodes:
                self._nodes = nodes
                self._keep(kept(nodes))

    def settled(self, stay: Stay) -> None:
        """The agent works: its node is well."""
        with self._changed:
            stay.settled = time.monotonic()
            self._health.pop(stay.host, None)
            self._errors.pop(stay.host, None)

    def ended(self, stay: Stay, error: EngineError) -> EngineError | None:
        """A worker's stay ended with this error: what to tell of it, None when there is a node to go on with at once."""
        with self._changed:
            if stay.move != self._moves:
                return None
            now = time.monotonic()
            if isinstance(error, RemoteError) and error.node is not None:
                named = self._known(error.node)
                if named is None or named.host == stay.host or not self._due(named.host, now):
                    return error
                self._move(named.host, error)
                return None
            others = any(s.well for s in self._stays if s is not stay)
            if not against(error.code, stay.lived(now)) or (others and error.code in LINE):
                return error
            if error.code in PERSON and len(self._nodes) > 1:
                self._log("error", f"{error.text}{' — ' + error.hint if error.hint else ''}")
            self._health[stay.host] = self._health.get(stay.host, WELL).failed(now)
            self._errors[stay.host] = error
            target = choose(self._hosts, stay.host, self._health, now)
            if not self._due(target, now):
                return self._nowhere(error)
            self._move(target, error)
            return None

    @property
    def _hosts(self) -> list[Host]:
        return [n.host for n in self._nodes]

    def _due(self, host: Host, now: float) -> bool:
        return self._health.get(host, WELL).until <= now

    def _known(self, node: dict[str, str]) -> Node | None:
        return next((n for n in self._nodes if n.is_it(str(node.get("host")), str(node.get("id")))), None)

    def _nowhere(self, error: EngineError) -> EngineError:
        """No node can be used: all reasons in one; what to do, and how much it matters, by that of the named one."""
        if len(self._nodes) == 1:
            return error
        first = self._errors.get(self._nodes[0].host, error)
        reasons = dict.fromkeys(self._errors[host].text for host in self._hosts if host in self._errors)
        return LinkError(f"no node of the secondary can be used: {'; '.join(reasons)}", hint=first.hint, code=first.code,
                         errno=first.errno)  # fmt: skip

    def _move(self, host: Host, why: EngineError) -> None:
        """To another node: what is left on the old one is ended."""
        self._log("warning", f"the agents move from {self._current} to {host}: {why.text}")
        self._current = host
        self._moves += 1
        for stay in self._stays:
            if stay.link is not None:
                stay.link.cut(self._moved())

    def _moved(self) -> LinkError:
        return LinkError(f"the agents move to {self._current}", code="node-moved")
