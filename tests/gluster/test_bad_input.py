"""Bad input: one line with the remedy, nothing changed on either side."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.gluster.lab import Lab
from tests.gluster.session import Replication
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
