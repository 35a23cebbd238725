"""The lab itself: volumes of the topologies that matter, their mounts, and that it all goes away again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.gluster.base import gluster
from tests.gluster.lab import TOPOLOGIES, Lab


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param(t, marks=() if t == "distribute 2" else pytest.mark.long)
        for t in TOPOLOGIES
    ],
)
def test_a_volume_of_each_topology_comes_and_goes(lab: Lab, topology: str) -> None:
    bricks, layout = TOPOLOGIES[topology]
    volume = lab.volume(bricks, layout)
    one, two = lab.mount(volume), lab.mount(volume)
    (one / "d").mkdir()
    (one / "d" / "f").write_bytes(b"content")
    assert (two / "d" / "f").read_bytes() == b"content"
    assert lab.equal(volume, volume) == []
    assert all(lab.brick_pid(volume, b) for b in volume.bricks)
    lab.remove(volume)
    assert volume.name not in gluster("volume", "list").split()
    assert str(one) not in Path("/proc/self/mounts").read_text()
    assert not any(b.exists() for b in volume.bricks)


def test_the_oracle_tells_volumes_apart(lab: Lab) -> None:
    """Names, content, modes, links, xattrs and ACLs of a volume are seen through its mount."""
    primary, secondary = lab.pair(2)
    one, two = lab.mount(primary), lab.mount(secondary)
    (one / "f").write_bytes(b"x")
    assert lab.equal(primary, secondary), "a file that is missing"
    (two / "f").write_bytes(b"y")
    for at in (one, two):
        os.utime(at / "f", ns=(1, 1))
        os.utime(at, ns=(1, 1))
    assert ["content" in d for d in lab.equal(primary, secondary)] == [True]
    (two / "f").write_bytes(b"x")
    os.utime(two / "f", ns=(1, 1))
    assert lab.equal(primary, secondary) == []
    os.setxattr(two / "f", "user.a", b"1")
    assert ["user.a" in d for d in lab.equal(primary, secondary)] == [True]
    os.removexattr(two / "f", "user.a")
    subprocess.run(["setfacl", "-m", "u:12345:r", two / "f"], check=True)
    assert any("posix_acl" in d for d in lab.equal(primary, secondary))
    subprocess.run(["setfacl", "-b", two / "f"], check=True)
    os.link(two / "f", two / "g")
    os.unlink(two / "g")
    os.utime(two, ns=(1, 1))
    assert lab.equal(primary, secondary) == []
    journal = primary.bricks[0] / ".glusterfs" / "changelogs"
    assert journal.is_dir(), "the primary's journal is on"
