"""Fixtures of the system tests: scratch space, a private sshd, an ordinary user, private mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.ordinary import OrdinaryUser, have
from tests.system.places import Mounts, made, remove_tree, scratch_directory
from tests.system.settings import Maker
from tests.system.sshd import Sshd
from tests.system.transfer_rig import LOCAL, Rig, ssh_target


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on tmpfs where there is one, with user xattrs; removed afterwards, however deep it got."""
    path = scratch_directory()
    try:
        yield path
    finally:
        remove_tree(path)


@pytest.fixture
def mounts(scratch: Path) -> Iterator[Mounts]:
    """Makes small filesystems below the scratch directory, and unmounts them all at the end. Root only."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    made = Mounts(scratch)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A private sshd on 127.0.0.1 that lets this user in with a key of its own."""
    for program in ("sshd", "ssh", "ssh-keygen"):
        if not have(program):
            pytest.skip(f"{program} is not installed")
    base = scratch_directory()
    server = Sshd(base)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        remove_tree(base)


@pytest.fixture(scope="session")
def ordinary() -> Iterator[OrdinaryUser]:
    """An ordinary user: this one, or, for root, one made for the purpose and removed again."""
    user = OrdinaryUser.make()
    try:
        yield user
    finally:
        user.remove()


@pytest.fixture
def make(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Makes settings: `make(way, option=value)`; what still runs at the end is killed."""
    maker = Maker(scratch, lambda: request.getfixturevalue("sshd"), lambda: request.getfixturevalue("ordinary"))
    try:
        yield maker
    finally:
        maker.close()


@pytest.fixture
def root() -> None:
    """Skips the test where it is not run by root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def tool() -> Callable[[str], str]:
    """The path of a program; skips the test where it is not installed."""

    def find(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test leaves the machine with the mounts it found."""
    before = _mounts()
    yield
    left = _mounts() - before
    for line in sorted(left, reverse=True):
        subprocess.run(["umount", "-l", line], check=False)
    assert not left, f"left mounted: {sorted(left)}"


def _mounts() -> set[str]:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {p for p in points if any(p.startswith(f"{base}/") for base in made)}


@pytest.fixture(params=("local", "ssh"))
def rig(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Rig]:
    """A tree, an agent and no worker, here and over ssh."""
    with closing(Rig(scratch, LOCAL if request.param == "local" else ssh_target(request.getfixturevalue("sshd")))) as made:
        yield made


@pytest.fixture
def here(scratch: Path) -> Iterator[Rig]:
    """The same with the agent beside."""
    with closing(Rig(scratch)) as made:
        yield made
