"""Fixtures of the tests on real volumes: the lab, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gluster.base import missing
from tests.gluster.lab import Lab
from tests.system.conftest import make, mounts, nothing_left_behind, ordinary, scratch, sshd
from tests.system.places import remove_tree, scratch_directory

__all__ = ["make", "mounts", "nothing_left_behind", "ordinary", "scratch", "sshd"]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A GlusterFS of our own on this machine; skips where it cannot be."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    base = scratch_directory("georep-lab-")
    try:
        with Lab(base) as made:
            yield made
    finally:
        remove_tree(base)


@pytest.fixture(scope="module")
def lab_directory(lab: Lab) -> Path:
    """Where the lab's bricks and mounts are."""
    return lab.directory
