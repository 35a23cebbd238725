"""The one node of all workers: who may be on it, when it is left, and what is told of that."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any, cast

import pytest

from engine.link import Link, LinkError, RemoteError
from engine.model import EngineError
from engine.nodes import Nodes, Stay

TOLD = [{"host": "a", "id": "1"}, {"host": "b", "id": "2"}]
REFUSED = LinkError("ssh to a: connection refused", code="ssh-refused", hint="is sshd running?")


class Line:
    """A line that can be cut."""

    broken: LinkError | None = None

    def cut(self, why: LinkError) -> None:
        self.broken = why


class Side:
    """Nodes a and b, what was kept and logged, and workers on them."""

    def __init__(self, known: object = TOLD) -> None:
        self.kept: list[list[dict[str, Any]]] = []
        self.log: list[tuple[str, str]] = []
        self.nodes = Nodes("a", known, self.kept.append, lambda level, text: self.log.append((level, text)))
        self.stopping = threading.Event()

    def stay(self, stack: ExitStack, settled: bool = True) -> tuple[Stay, Line]:
        """A worker that came to the node, and its line."""
        stay, line = stack.enter_context(self.nodes.stay(self.stopping)), Line()
        self.nodes.connected(stay, cast(Link, line))
        if settled:
            self.nodes.settled(stay)
        return stay, line

    def fails(self, error: EngineError) -> EngineError | None:
        """A worker comes, and its stay ends so."""
        with self.nodes.stay(self.stopping) as stay:
            return self.nodes.ended(stay, error)

    @property
    def host(self) -> str | None:
        """Where the next worker goes."""
        with self.nodes.stay(self.stopping) as stay:
            return stay.host


def test_it_moves_when_no_line_can_be_made_and_says_why() -> None:
    side = Side()
    assert side.fails(REFUSED) is None
    assert side.host == "b"
    assert side.log == [("warning", "the agents move from a to b: ssh to a: connection refused")]


def test_without_other_nodes_the_error_is_told_as_it_is() -> None:
    side = Side(None)
    assert side.fails(REFUSED) is REFUSED and side.host == "a" and side.log == []


def test_it_does_not_go_back_by_itself() -> None:
    side = Side()
    side.fails(REFUSED)
    with ExitStack() as stack:
        side.stay(stack)
    for _ in range(3):
        assert side.host == "b"


def test_when_no_node_can_be_used_all_reasons_are_told() -> None:
    side = Side()
    side.fails(REFUSED)
    told = side.fails(LinkError("ssh to b: no route", code="ssh-route", hint="check the network"))
    assert told is not None and (told.code, told.hint) == ("ssh-refused", "is sshd running?")
    assert told.text == "no node of the secondary can be used: ssh to a: connection refused; ssh to b: no route"


def test_what_only_a_person_can_mend_is_told_and_another_node_tried() -> None:
    side = Side()
    assert side.fails(LinkError("ssh to a: permission denied", code="ssh-denied", hint="make ssh a work")) is None
    assert side.host == "b"
    assert side.log[0] == ("error", "ssh to a: permission denied — make ssh a work")


@pytest.mark.parametrize("code", ["volume-stopped", "other-session", "locked", "remote"])
def test_what_is_no_fault_of_the_node_does_not_move_it(code: str) -> None:
    side = Side()
    error = RemoteError("no", code=code)
    assert side.fails(error) is error and side.host == "a"


def test_the_others_are_ended_before_anybody_begins_on_another_node() -> None:
    side = Side()
    begun, there = threading.Event(), []

    def worker() -> None:
        begun.set()
        with side.nodes.stay(side.stopping) as stay:
            there.append(stay.host)

    with ExitStack() as stack:
        other, line = side.stay(stack)
        assert side.fails(RemoteError("glusterd on a does not answer", code="glusterd-down")) is None
        assert line.broken is not None and line.broken.code == "node-moved"
        thread = threading.Thread(target=worker)
        thread.start()
        begun.wait(5)
        thread.join(0.3)
        assert there == [], "the other worker is still on the old one"
        assert side.nodes.ended(other, line.broken) is None, "it goes on at once"
    thread.join(5)
    assert there == ["b"]


def test_who_was_connecting_meanwhile_does_not_stay() -> None:
    side = Side()
    with side.nodes.stay(side.stopping) as late:
        side.fails(REFUSED)
        with pytest.raises(LinkError) as raised:
            side.nodes.connected(late, cast(Link, Line()))
        assert side.nodes.ended(late, raised.value) is None


def test_waiting_for_the_others_ends_with_the_engine() -> None:
    side = Side()
    with ExitStack() as stack:
        side.stay(stack)
        side.fails(RemoteError("glusterd on a does not answer", code="glusterd-down"))
        side.stopping.set()
        with pytest.raises(EngineError) as raised, side.nodes.stay(side.stopping):
            pass
        assert raised.value.code == "stopping"


def test_one_refused_login_does_not_end_the_lines_that_stand() -> None:
    side = Side()
    with ExitStack() as stack:
        _, line = side.stay(stack)
        assert side.fails(REFUSED) is REFUSED
        assert line.broken is None and side.host == "a"


def test_a_line_that_stood_long_is_made_once_more_on_the_same_node() -> None:
    side = Side()
    lost = LinkError("a: the agent ended", code="link-lost")
    with ExitStack() as stack:
        stay, line = side.stay(stack)
        assert stay.settled is not None
        stay.settled -= 3600
        line.broken = lost
        assert side.nodes.ended(stay, lost) is lost
    assert side.host == "a"
    assert side.fails(REFUSED) is None and side.host == "b"


def test_another_engine_s_agents_are_followed() -> None:
    side = Side()
    error = RemoteError("the agents of this session run on vm-2", code="other-node")
    error.node = {"id": "2", "host": "vm-2"}
    assert side.fails(error) is None and side.host == "b"
    back = RemoteError("the agents of this session run on a", code="other-node")
    back.node = {"id": "1", "host": "vm-1"}
    assert side.fails(back) is None and side.host == "a"


def test_a_node_that_is_not_known_or_down_is_not_followed() -> None:
    side = Side()
    error = RemoteError("the agents of this session run on x", code="other-node")
    error.node = {"id": "3", "host": "x"}
    assert side.fails(error) is error
    side.fails(REFUSED)
    back = RemoteError("the agents of this session run on a", code="other-node")
    back.node = {"id": "1", "host": "a"}
    assert side.fails(back) is back and side.host == "b"


def test_the_nodes_are_learned_once_and_kept() -> None:
    side = Side(None)
    hello = {"node_id": "1", "nodes": TOLD}
    with ExitStack() as stack:
        stay, _ = side.stay(stack)
        side.nodes.learn(stay, hello)
        side.nodes.learn(stay, hello)
    assert side.kept == [[{"host": "a", "id": "1"}, {"host": "b", "id": "2"}]]
    assert side.fails(REFUSED) is None and side.host == "b"
    with ExitStack() as stack:
        stay, _ = side.stay(stack)
        side.nodes.learn(stay, {"node_id": "2", "nodes": [*TOLD, {"host": "c", "id": "3"}]})
    assert [n["host"] for n in side.kept[-1]] == ["a", "b", "c"]
