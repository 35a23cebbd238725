"""Case f: the secondary's disk is full, read-only, or refuses one file: errno and hint, the rest goes on (ERR-3)."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.places import Mounts
from tests.system.runner import converged, wait_until
from tests.system.settings import LOCAL, Maker, Way, write

WAYS = [
    pytest.param(LOCAL, id="stream"), pytest.param(Way("rsync", "local", "me"), id="rsync"),
    pytest.param(Way("tarssh", "local", "me"), id="tarssh"),
]  # fmt: skip


@pytest.mark.timeout(200)
@pytest.mark.parametrize("way", WAYS)
def test_the_disk_is_full(make: Maker, mounts: Mounts, way: Way) -> None:
    """ENOSPC holds the whole brick, with the mark unmoved; when there is room again it goes on by itself."""
    disk = mounts.tmpfs("small", "20m")
    setting = make(way, secondary=disk)
    product = setting.product
    write(setting.primary / "before", "fits")
    with product:
        product.start()
        product.active()
        converged(product, setting.primary, disk, since=time.monotonic())
        mark = product.brick()["last_synced"]
        for n in range(10):
            write(setting.primary / f"big{n}", os.urandom(4 << 20))
        error = product.faulty(errno=errno.ENOSPC)
        assert error["hint"], error
        assert "space" in (error["text"] + error["hint"]).lower(), error
        assert product.brick()["last_synced"] <= mark + 3, "the mark moved past what is not there"
        assert product.failures() == [], "a full disk is no failure of single files"
        write(setting.primary / "meanwhile", "later")
        attempt = error["attempt"]
        seen = set()

        def tried_again() -> bool:
            brick = product.brick()
            seen.add(brick["status"])
            return bool(brick["last_error"]) and brick["last_error"]["attempt"] >= attempt + 2

        wait_until(tried_again, 30, "two more attempts")
        assert seen == {"Faulty"}, "a disk that is full looked well between two attempts"
        mounts.resize(disk, "80m")
        since = time.monotonic()
        converged(product, setting.primary, disk, since=since, within=70, patience=90)
        product.active()


@pytest.mark.timeout(200)
def test_no_inodes_are_left(make: Maker, mounts: Mounts) -> None:
    disk = mounts.tmpfs("small", "50m,nr_inodes=200")
    setting = make(LOCAL, secondary=disk)
    product = setting.product
    with product:
        product.start()
        product.active()
        for n in range(400):
            write(setting.primary / f"f{n}", "x")
        assert product.faulty(errno=errno.ENOSPC)["hint"]
        mounts.remount(disk, "nr_inodes=5000")
        converged(product, setting.primary, disk, since=time.monotonic(), within=70, patience=90)


@pytest.mark.timeout(200)
def test_the_secondary_becomes_read_only(make: Maker, mounts: Mounts) -> None:
    """EROFS under a live session; writable again, it goes on by itself."""
    disk = mounts.ext4("disk", 64)
    (disk / "lost+found").rmdir()
    setting = make(LOCAL, secondary=disk)
    product = setting.product
    write(setting.primary / "before", "x")
    with product:
        product.start()
        product.active()
        converged(product, setting.primary, disk, since=time.monotonic())

        def read_only() -> bool:
            # the agent holds files open for writing: the kernel agrees only while there is none
            processes.kill(product.children("python"))
            return mounts.remount(disk, "ro")

        wait_until(read_only, 30, "remounted read-only", pause=0.01)
        write(setting.primary / "during", "y")
        error = product.faulty(errno=errno.EROFS)
        assert error["hint"], error
        assert product.failures() == []
        wait_until(lambda: mounts.remount(disk, "rw"), 10, "remounted")
        converged(product, setting.primary, disk, since=time.monotonic(), within=70, patience=90)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_immutable_there(make: Maker, mounts: Mounts, way: Way, tool: Callable[[str], str]) -> None:
    """EPERM of single objects goes to the ledger; everything else goes on; it clears itself (ERR-3)."""
    chattr = tool("chattr")
    disk = mounts.ext4("disk", 64)
    (disk / "lost+found").rmdir()
    setting = make(way, secondary=disk)
    product, tree = setting.product, setting.primary
    for name in ("content", "attributes", "deleted", "renamed"):
        write(tree / "fixed" / name, "before")
    with product:
        product.start()
        product.active()
        converged(product, tree, disk, since=time.monotonic())
        fixed = [str(p) for p in sorted((disk / "fixed").iterdir())]
        subprocess.run([chattr, "+i", *fixed], check=True)
        try:
            write(tree / "fixed/content", "after, and longer")
            (tree / "fixed/attributes").chmod(0o600)
            (tree / "fixed/deleted").unlink()
            (tree / "fixed/renamed").rename(tree / "fixed/new-name")
            write(tree / "other", "goes on")
            wait_until((disk / "other").exists, 15, "the rest goes on")
            ledger = wait_until(lambda: len(f := product.failures()) >= 4 and f, 20, "four in the ledger", pause=0.3)
            assert {f["errno"] for f in ledger} == {errno.EPERM}, ledger
            assert all(f["path"] and f["message"] for f in ledger), ledger
            assert product.brick()["status"] == "Active"
            assert product.brick()["failures"] == len(ledger)
            checked = product.command("status", product.name, "--check")
            assert checked.returncode in (1, 2), checked.stdout
            write(tree / "more", "still goes on")
            wait_until((disk / "more").exists, 15, "the rest goes on")
            # a failure outlives a restart
            assert product.stop() in (0, 1)
            product.start()
            product.active()
            assert len(product.failures()) == len(ledger)
        finally:
            subprocess.run([chattr, "-R", "-i", str(disk / "fixed")], check=True)
        # by itself, within the ledger's backoff; here asked for, so that the test need not wait it out
        assert product.command("failures", product.name, "--retry").returncode in (0, 1)
        converged(product, tree, disk, since=time.monotonic(), within=15, patience=60)


@pytest.mark.timeout(200)
def test_the_ledger_clears_itself(make: Maker, mounts: Mounts, tool: Callable[[str], str]) -> None:
    """Nobody asks for a retry: the backoff comes round to it."""
    chattr = tool("chattr")
    disk = mounts.ext4("disk", 32)
    (disk / "lost+found").rmdir()
    setting = make(LOCAL, secondary=disk)
    product, tree = setting.product, setting.primary
    write(tree / "file", "before")
    with product:
        product.start()
        product.active()
        converged(product, tree, disk, since=time.monotonic())
        subprocess.run([chattr, "+i", str(disk / "file")], check=True)
        try:
            write(tree / "file", "after")
            wait_until(product.failures, 20, "in the ledger", pause=0.3)
        finally:
            subprocess.run([chattr, "-i", str(disk / "file")], check=True)
        converged(product, tree, disk, since=time.monotonic(), within=70, patience=90)


def test_an_xattr_too_large_for_the_secondary(make: Maker, mounts: Mounts) -> None:
    """What the other filesystem cannot hold is a failure of one object; the rest goes on."""
    disk = mounts.ext4("disk", 32)
    (disk / "lost+found").rmdir()
    setting = make(LOCAL, secondary=disk)
    product, tree = setting.product, setting.primary
    # ext4 holds no xattr as large as tmpfs does
    write(tree / "file", "x")
    write(tree / "other", "x")
    try:
        os.setxattr(tree / "file", "user.large", bytes(60_000))
    except OSError:
        pytest.skip("this filesystem cannot hold it either")
    with product:
        product.start()
        wait_until((disk / "other").exists, 20, "the rest goes on")
        ledger = wait_until(product.failures, 30, "in the ledger", pause=0.3)
        assert [Path(os.fsdecode(f["path"])).name for f in ledger] == ["file"], ledger
        os.removexattr(tree / "file", "user.large")
        converged(product, tree, disk, since=time.monotonic(), within=15)


def test_the_secondary_is_moved_away(make: Maker) -> None:
    """What an agent holds open goes on existing elsewhere: it is not taken for the replica any more."""
    setting = make(LOCAL)
    product = setting.product
    write(setting.primary / "before", "x")
    with product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        away = setting.base / "away"
        setting.secondary.rename(away)
        write(setting.secondary, "something else is there")
        write(setting.primary / "after", "y")
        wait_until(lambda: product.brick().get("status") == "Faulty", 20, f"Faulty; {product.story()}")
        setting.secondary.unlink()
        away.rename(setting.secondary)
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=70, patience=90)
