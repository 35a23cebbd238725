"""Bad input: one line with the remedy, nothing changed on either side."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from engine.volume.mount import AuxMount
from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.places import Mounts
from tests.system.runner import Product
from tests.system.sshd import HOST, Sshd


def refused(product: Product, *words: str) -> None:
    """`run` ends at once with exit 2 and one line that has these words, and has kept nothing."""
    done = product.once(timeout=60)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line, line
    assert not any((product.base / "state").iterdir())


@pytest.fixture
def product(scratch: Path) -> Product:
    return Product(scratch / "product", ["georep-test::none"], f"{HOST}::none")


def test_an_unknown_primary_names_those_there_are(lab: Lab, product: Product) -> None:
    volume = lab.volume(1, role="p")
    try:
        refused(product, "volume none does not exist", volume.name)
    finally:
        lab.remove(volume)


def test_a_stopped_primary(lab: Lab, product: Product) -> None:
    volume = lab.volume(1, role="p", start=False)
    try:
        product.primaries = [f"{volume.host}::{volume.name}"]
        refused(product, "is not started", f"gluster volume start {volume.name}")
    finally:
        lab.remove(volume)


def test_no_brick_runs_here(lab: Lab, product: Product) -> None:
    volume = lab.volume(1, role="p")
    try:
        lab.kill_brick(volume, volume.bricks[0])
        product.primaries = [f"{volume.host}::{volume.name}"]
        refused(product, "no brick", "start", "force")
    finally:
        lab.remove(volume)


def test_gluster_is_missing(lab: Lab, product: Product) -> None:
    product.options["gluster_command"] = "/nowhere/gluster"
    refused(product, "/nowhere/gluster is not installed", "glusterfs-server")


def test_too_old_a_version(lab: Lab, product: Product, scratch: Path) -> None:
    old = scratch / "gluster"
    old.write_text("#!/bin/sh\necho glusterfs 3.12.1\n")
    old.chmod(0o755)
    product.options["gluster_command"] = str(old)
    refused(product, "glusterfs 3.12 is too old")


def test_a_directory_cannot_go_to_a_volume_nor_a_volume_to_a_directory(scratch: Path) -> None:
    for primary, secondary in ((str(scratch), f"{HOST}::v"), ("h::v", str(scratch / "there"))):
        base = scratch / f"product-{len(secondary)}"
        refused(Product(base, [primary], secondary))


@pytest.mark.parametrize("what", ["unknown", "stopped"])
def test_a_secondary_that_is_not_there(lab: Lab, scratch: Path, sshd: Sshd, what: str) -> None:
    with Replication.make(lab, scratch, sshd, 1, mounted=False) as r:
        if what == "unknown":
            r.product.secondary = f"{HOST}::nosuch"
        else:
            lab.stop(r.secondary)
        done = r.product.once(timeout=90)
        assert done.returncode == 2, done
        (line,) = done.stderr.splitlines()
        assert ("nosuch" if what == "unknown" else r.secondary.name) in line
        assert r.stime(r.primary.bricks[0]) is None
        if what == "stopped":
            lab.start(r.secondary)


def test_vol_1_the_secondary_of_more_than_one_volume(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """gsyncd keeps its mark there through its own mount, and moves its time on: one is a cascade, two are an error."""
    names = [f"trusted.glusterfs.volume-mark.{uuid.uuid4()}" for _ in range(2)]
    with Replication.make(lab, scratch, sshd, 1) as r:
        (r.p / "f").write_text("x")
        mount = AuxMount("localhost", r.primary.name, "acl", str(scratch / "mount.log"), client_pid=-1)
        try:
            for name in names:
                os.setxattr(mount.base, name, struct.pack("!BB16sBIII", 1, 0, bytes(16), 0, 0, 0, int(time.time()) + 600))
            refused(r.product, "is the secondary of more than one volume", *(name[-36:] for name in names), "all but one")
            os.removexattr(r.primary.bricks[0], names[1])
        finally:
            mount.close()
        assert r.product.once(timeout=90).returncode == 0
        r.equal()


def test_options_are_switched_on_and_told(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """VOL-1: what a session needs is set at its start; no mount is left behind."""
    with Replication.make(lab, scratch, sshd, 1) as r:
        lab.set(r.primary, "changelog.changelog", "off")
        (r.p / "f").write_text("x")
        r.product.start()
        r.settled(1)
        assert "changelog.changelog was off, switched on" in r.product.tail(60)
        r.equal()
        assert r.product.stop() == 0
        mounts = subprocess.run(["findmnt", "-n"], capture_output=True, text=True).stdout
        assert "georep-mnt-" not in mounts
        assert os.path.exists(r.primary.bricks[0])


@pytest.mark.timeout(300)
def test_the_secondary_volume_becomes_read_only_or_full(lab: Lab, scratch: Path, sshd: Sshd, mounts: Mounts) -> None:
    """ERR-3: Faulty with one line and a remedy, the mark unmoved; it goes on by itself when there is room again."""
    small = mounts.tmpfs("small", "24m")
    with Replication.make(lab, scratch, sshd, 1) as r:
        lab.remove(r.secondary)
        r.secondary = lab.volume(1, role="s", at=small)
        lab.set(r.secondary, "storage.reserve", "0")
        r.s = lab.mount(r.secondary)
        r.product.secondary = f"{HOST}::{r.secondary.name}"
        r.product.start()
        r.settled(1)
        (r.p / "large").write_bytes(os.urandom(40 << 20))
        error = r.product.faulty(60, errno.ENOSPC)
        assert "space" in f"{error['text']} {error['hint']}" and "\n" not in error["text"], error
        mark = r.stime(r.primary.bricks[0])
        mounts.resize(small, "128m")
        r.equal()
        assert (r.stime(r.primary.bricks[0]) or (0, 0)) >= (mark or (0, 0))
        assert r.product.stop() == 0, r.product.tail()
        lab.set(r.secondary, "features.read-only", "on")
        (r.p / "small").write_text("x")
        done = r.product.once(timeout=90)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and "read-only" in line and "features.read-only off" in line, done
        lab.set(r.secondary, "features.read-only", "off")
        r.product.start()
        r.equal()
        assert r.product.stop() == 0, r.product.tail()
