"""Both halves of one change may be in the journals of two bricks, whose workers are seconds apart: no name is lost by it.

One worker waits while things happen and the others go on; then it comes late to all of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gluster.lab import TOPOLOGIES, Lab
from tests.gluster.session import Replication
from tests.system.sshd import Sshd

ROLES = {
    "distribute 2": (2, 0), "2 x 2 replica": (2, 2), "replica 3": (1, 2), "2 x 3 replica": (2, 4), "2 x (2+1) arbiter": (2, 4),
    "disperse": (1, 2), "2 x (2+1) disperse": (2, 4),
}  # fmt: skip
"""Topologies, with how many bricks are Active and Passive."""


def put_in_place(d: Path, i: int) -> None:
    """Put a temporary file in place and remove it; make the name anew, with a second one."""
    new, name, more = d / f"tmp{i}", d / f"n{i}", d / f"m{i}"
    new.write_text("X")
    new.rename(name)
    name.unlink()
    name.write_text(f"Y{i}")
    os.link(name, more)


def symlinks(d: Path, i: int) -> None:
    """Give a symlink a second name, rename that, and put another symlink in the place of the first."""
    first, second, third, new = d / f"s{i}", d / f"t{i}", d / f"u{i}", d / f".s{i}.new"
    first.symlink_to("one")
    os.link(first, second, follow_symlinks=False)
    second.rename(third)
    new.symlink_to("two")
    new.rename(first)
    os.link(third, second, follow_symlinks=False)


def renamed_over(d: Path, i: int) -> None:
    """Rename files over each other's names; each object goes on under another one."""
    a, b, c, kept = d / f"a{i}", d / f"b{i}", d / f"c{i}", d / f"kept{i}"
    a.write_text(f"A{i}")
    b.write_text(f"B{i}!")
    os.link(a, kept)
    b.rename(a)
    os.link(a, c)
    kept.rename(c)


def linked_again(d: Path, i: int) -> None:
    """Unlink one of two names and link it again, in turns."""
    one, two = d / f"o{i}", d / f"w{i}"
    one.write_text(f"L{i}")
    os.link(one, two)
    for gone, other in ((one, two), (two, one), (one, two)):
        gone.unlink()
        os.link(other, gone)


def with_their_directory(d: Path, i: int) -> None:
    """Rename a directory with a file in it that has a name outside too, which then gets another one."""
    old, new, out = d / f"old{i}", d / f"new{i}", d / f"out{i}"
    old.mkdir()
    (old / "in").write_text(f"D{i}")
    os.link(old / "in", out)
    old.rename(new)
    out.rename(d / f"far{i}")
    os.link(new / "in", out)
    (new / "in").unlink()


STEPS: tuple[Callable[[Path, int], None], ...] = (put_in_place, symlinks, renamed_over, linked_again, with_their_directory)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "topology, count",
    [
        ("2 x 2 replica", 15),
        ("2 x (2+1) disperse", 5),
        *(pytest.param(t, 100, marks=pytest.mark.long, id=f"{t}-all") for t in ROLES),
    ],
)
def test_each_brick_in_turn_is_the_slow_one(lab: Lab, scratch: Path, sshd: Sshd, topology: str, count: int) -> None:
    """OK is said when both sides are equal; the ledger is empty, and a checkpoint completes."""
    with Replication.make(lab, scratch, sshd, *TOPOLOGIES[topology], delete_guard_minimum=1_000_000) as r:
        r.product.start()
        r.settled(*ROLES[topology])
        active = r.active()
        for turn in range(len(active)):
            for step in STEPS:
                (r.p / f"{turn}" / step.__name__).mkdir(parents=True)
        r.honest(time.time())
        for turn, brick in enumerate(active):
            with r.slow(brick):
                for step in STEPS:
                    for i in range(count):
                        step(r.p / f"{turn}" / step.__name__, i)
            r.honest(time.time())
        r.checkpoint()
        assert not (found := r.unequal()), "\n".join([*found, r.story()])
        assert r.product.stop() == 0, r.product.tail()
