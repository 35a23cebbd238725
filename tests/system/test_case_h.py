"""Case h: odd names, very deep directories, every kind of object."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.system.oracle import differences
from tests.system.runner import converged
from tests.system.settings import ALL_WAYS, LOCAL, SSH, Maker, Way, write
from tests.system.trees import deep, every_kind, open_deep
from tests.system.workload import ODD_NAMES

DEEP = 300


def _odd(top: Path) -> None:
    """Every odd name as a file, a directory, a symlink and its text, and an xattr's holder."""
    for kind in ("f", "d", "l"):
        (top / kind).mkdir(parents=True)
    for name in ODD_NAMES:
        text = os.fsdecode(name)
        write(top / "f" / text, name)
        os.setxattr(top / "f" / text, "user.name", name)
        write(top / "d" / text / text, name)
        os.symlink(name, os.fsencode(top / "l") + b"/" + name)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_odd_names(make: Maker, way: Way) -> None:
    setting = make(way)
    _odd(setting.primary / "t")
    done = setting.product.once()
    assert done.returncode == 0, done.stderr
    found = differences(os.fsencode(setting.primary), os.fsencode(setting.secondary), owners=setting.owners)
    assert found == []


@pytest.mark.parametrize("way", [pytest.param(LOCAL, id="once"), pytest.param(SSH, id="live")])
@pytest.mark.parametrize("name", [b"d", b"n" * 255], ids=["short", "255 bytes"])
def test_three_hundred_directories_deep(make: Maker, way: Way, name: bytes) -> None:
    """Once from nothing, and live: made, changed at the bottom, renamed at the top, deleted."""
    setting = make(way)
    product = setting.product
    if way == LOCAL:
        deep(setting.primary, DEEP, name)
        done = product.once()
        assert done.returncode == 0, done.stderr
        assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []
        return
    with product:
        product.start()
        product.active()
        deep(setting.primary, DEEP, name)
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=20)
        fd = open_deep(setting.primary, DEEP, name)
        os.rename("bottom", "renamed", src_dir_fd=fd, dst_dir_fd=fd)
        new = os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(new, b"at the bottom")
        os.close(new)
        os.close(fd)
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        os.rename(os.fsencode(setting.primary) + b"/" + name, setting.primary / "top")
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


@pytest.mark.parametrize("way", ALL_WAYS)
def test_every_kind_of_object(make: Maker, way: Way) -> None:
    """Files, directories, symlinks, fifos, sockets, devices, holes, hard links, xattrs, ACLs."""
    setting = make(way)
    tree = setting.primary / "t"
    every_kind(tree)
    if setting.user and setting.user.made:
        # only root can make devices
        for name in ("node", "block"):
            (tree / name).unlink()
    setting.hand_over()
    done = setting.product.once()
    assert done.returncode == 0, done.stderr
    found = differences(os.fsencode(setting.primary), os.fsencode(setting.secondary), owners=setting.owners)
    assert found == []
    done = setting.product.once()
    assert done.returncode == 0, done.stderr
