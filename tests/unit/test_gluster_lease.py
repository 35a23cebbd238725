"""The leases in a volume's root: on directories that stand for it, one process for agents of several nodes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.agent import gluster_lease
from engine.agent.gluster_lease import Leases, read_xattr, write_xattr
from engine.agent.state import CallError
from tests.system.places import remove_tree, scratch_directory

KEY = "user.georep.node.s"
BRICK = "user.georep.lease.b"


class Place:
    """A volume's root, and a directory for locks on each node."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = base
        self.monkeypatch = monkeypatch
        self.root = base / "root"
        self.root.mkdir()
        self.fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)

    def agent(self, node: str, brick: str = "b", wait: float = 0.0) -> Leases:
        """An agent on a node."""
        (self.base / node).mkdir(exist_ok=True)
        self.monkeypatch.setattr(gluster_lease, "state_directory", lambda: str(self.base / node))
        return Leases(self.fd, "v", "s", brick, node, wait)

    def holder(self) -> object:
        """Whose the session's agents are."""
        return (read_xattr(self.fd, KEY) or {}).get("node")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    base = scratch_directory("georep-lease-")
    for name, value in (("LEASE", "user.georep.lease."), ("NODE", "user.georep.node."), ("SECONDS", 1.5), ("_RENEW", 0.1),
                        ("_SETTLE", 0.2)):  # fmt: skip
        monkeypatch.setattr(gluster_lease, name, value)
    made = Place(base, monkeypatch)
    try:
        yield made
    finally:
        os.close(made.fd)
        remove_tree(base)


def refused(make: Callable[[], Leases]) -> CallError:
    with pytest.raises(CallError) as raised:
        make()
    return raised.value


def test_agents_of_one_node_share_it_and_the_last_one_removes_it(place: Place) -> None:
    first, second = place.agent("n1"), place.agent("n1", "c")
    first.close()
    assert place.holder() == "n1"
    second.check()
    second.close()
    assert os.listxattr(place.root) == []


def test_another_node_is_refused_and_told_where(place: Place) -> None:
    first = place.agent("n1")
    error = refused(lambda: place.agent("n2", "c", wait=5))
    assert (error.code, error.node) == ("other-node", {"id": "n1", "host": os.uname().nodename})
    assert os.uname().nodename in error.text
    first.check()
    first.close()
    other = place.agent("n2", "c")
    assert place.holder() == "n2"
    other.close()


def test_a_dead_node_s_leases_stand_still_first_both_at_one_time(place: Place) -> None:
    write_xattr(place.fd, KEY, {"node": "n1", "name": "one", "turn": 7})
    write_xattr(place.fd, BRICK, {"node": "n1", "name": "one", "pid": 1, "token": "x", "turn": 9})
    began = time.monotonic()
    agent = place.agent("n2", wait=10)
    took = time.monotonic() - began
    assert gluster_lease.SECONDS <= took < 2 * gluster_lease.SECONDS
    found = read_xattr(place.fd, KEY)
    assert found is not None and found["node"] == "n2" and found["turn"] > 7
    agent.close()


def test_it_is_not_waited_for_longer_than_asked(place: Place) -> None:
    write_xattr(place.fd, KEY, {"node": "n1", "name": "one", "turn": 7})
    assert refused(lambda: place.agent("n2", wait=0.2)).code == "other-node"
    os.removexattr(place.root, KEY)
    write_xattr(place.fd, BRICK, {"node": "n1", "name": "one", "pid": 17, "token": "x", "turn": 9})
    error = refused(lambda: place.agent("n2", wait=0.2))
    assert error.code == "locked" and "pid 17 on one" in error.text
    assert read_xattr(place.fd, KEY) is None, "nothing was taken"


def test_one_agent_of_a_brick_on_one_node(place: Place) -> None:
    first = place.agent("n1")
    error = refused(lambda: place.agent("n1"))
    assert error.code == "locked" and f"pid {os.getpid()}" in error.text
    first.check()
    first.close()


def test_who_lost_it_writes_no_more_and_leaves_the_other_s(place: Place) -> None:
    agent = place.agent("n1")
    write_xattr(place.fd, KEY, {"node": "n2", "name": "two", "turn": 1})
    until = time.monotonic() + 5
    with pytest.raises(CallError) as raised:
        while time.monotonic() < until:
            agent.check()
            time.sleep(0.02)
    assert raised.value.code == "lease-lost" and "two" in raised.value.text
    agent.close()
    assert place.holder() == "n2"


def test_of_two_nodes_in_one_moment_one_has_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes after we have looked, and before we write: the later writing holds."""
    write = gluster_lease.write_xattr
    done: list[bool] = []

    def late(fd: int, name: str, value: dict[str, object]) -> None:
        write(fd, name, value)
        if name == KEY and not done:
            done.append(True)
            threading.Timer(0.05, write, (fd, name, {"node": "n2", "name": "two", "turn": 1})).start()

    monkeypatch.setattr(gluster_lease, "write_xattr", late)
    error = refused(lambda: place.agent("n1", wait=5))
    assert error.code == "other-node" and "two" in error.text
    assert place.holder() == "n2" and BRICK not in os.listxattr(place.root)
