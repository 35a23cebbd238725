"""Several nodes of the secondary volume: the agents run on one, and go on on another when that is down."""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gluster import datasets
from tests.gluster.agent_volume import VolumeAgent
from tests.gluster.lab import JOURNAL, Lab
from tests.gluster.nodes import Node, Nodes, connected
from tests.gluster.session import Replication
from tests.system.runner import Product, wait_until


def on(r: Replication, name: str, timeout: float = 120.0) -> None:
    """Wait until all bricks are Active, with their agents on that node."""

    def there() -> bool:
        assert r.product.running(), r.product.tail()
        return [(b["status"], b["secondary_node"]) for b in r.bricks()] == [("Active", name)] * len(r.primary.bricks)

    try:
        wait_until(there, timeout, f"all agents on {name}", pause=0.2)
    except AssertionError as e:
        raise AssertionError(f"{e}; {r.story()}") from None


@contextmanager
def replication(lab: Lab, scratch: Path, nodes: Nodes) -> Iterator[Replication]:
    """A primary of the lab's, replicated to a volume of the nodes; the address names the first one."""
    secondary = nodes.volume()
    primary = lab.volume(2, role="p", options={**JOURNAL, "changelog.rollover-time": "2"})
    options = {"ssh_options": f"-F {nodes.client(scratch)}", "delete_guard_share": "100%", "connection_timeout": 10}
    product = Product(scratch / "product", [f"{primary.host}::{primary.name}"],
                      f"{nodes.all[0].address}::{secondary.name}", options)  # fmt: skip
    r = Replication(lab, primary, secondary, product, lab.mount(primary), lab.mount(secondary))
    try:
        yield r
    finally:
        product.kill()
        lab.unmount(r.s)
        lab.remove(primary)


def moved(r: Replication, old: Node, new: Node) -> str:
    """Why, by the log."""
    log = r.product.tail(500)
    words = f"the agents move from {old.address} to {new.address}: "
    assert words in log, log
    return log.partition(words)[2].partition("\n")[0]


def leases(r: Replication) -> list[str]:
    """The leases that are in the secondary volume."""
    return [x for x in os.listxattr(r.secondary.bricks[1]) if x.startswith(("trusted.georep.node.", "trusted.georep.lease."))]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_agents_move_to_another_node(lab: Lab, scratch: Path) -> None:
    """The node that the address names dies; the session goes on by the other one, also after a crash of the engine, and
    stays there when the first one is back."""
    with Nodes(scratch) as nodes, replication(lab, scratch, nodes) as r:
        first, second = nodes.all
        datasets.basic(r.p, "before")
        r.product.start()
        on(r, first.name)
        r.equal()
        first.kill()
        datasets.basic(r.p, "without")
        on(r, second.name)
        r.equal()
        assert first.address in moved(r, first, second)
        r.product.crash()
        datasets.basic(r.p, "crashed")
        r.product.start()
        on(r, second.name)
        r.equal()
        first.boot()
        wait_until(lambda: connected(r.secondary, second), 60, "the first node's brick", pause=0.5)
        datasets.basic(r.p, "back")
        r.equal()
        on(r, second.name, 1)
        assert r.product.stop() == 0, r.product.tail()
        assert leases(r) == [], "they are given up"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_agents_follow_those_of_another_engine(lab: Lab, scratch: Path) -> None:
    """An engine on another node of the primary has its agents on the second node: ours go there too, and are not Faulty."""
    with Nodes(scratch) as nodes, replication(lab, scratch, nodes) as r:
        first, second = nodes.all
        python = scratch / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.join([*second.inside, sys.executable])} "$@"\n')
        python.chmod(0o755)
        session = str(uuid.uuid5(uuid.UUID(r.primary.id), f"{r.product.name}:{r.secondary.name}"))
        with VolumeAgent(r.secondary, str(python)) as other:
            other.begin(session=session, brick="another")
            datasets.basic(r.p, "before")
            r.product.start()
            on(r, second.name)
            r.equal()
            assert moved(r, first, second) == f"{first.address}: the agents of this session run on {second.name}"
            assert all(not b["restarts"] and b["last_error"] is None for b in r.bricks()), r.bricks()
        assert [x for x in leases(r) if ".node." in x], "ours go on there"
        assert r.product.stop() == 0, r.product.tail()
        assert leases(r) == [], "they are given up"
