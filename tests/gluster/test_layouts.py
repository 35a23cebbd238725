"""Volumes of other shapes than case a has: directories deeper than a handle can be followed, files in shards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.sshd import Sshd

DEPTH = 60
"""Levels: a directory's handle on a brick leads through one link for each, and the kernel follows forty."""


@pytest.mark.timeout(300)
def test_deeper_than_forty_levels(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """Hybrid, live, history and comparing crawls reach what is there, and remove none of it."""
    with Replication.make(lab, scratch, sshd, 2) as r:
        p, product = r.p, r.product
        deep = p / "/".join(f"d{i}" for i in range(DEPTH))
        os.makedirs(deep)
        for i in range(6):
            (deep / f"before{i}").write_text(str(i))
        for way in (deep, *deep.parents[: DEPTH - 1]):
            os.utime(way, ns=(1_000_000_001, 2_000_000_002))  # now and then bricks note a making at different times
        product.start()
        r.settled(2)
        r.equal()

        for i in range(6):
            (deep / f"live{i}").write_text(str(i))
            os.link(deep / f"live{i}", deep / f"link{i}")
        os.symlink("x", deep / "symlink")
        (deep / "below").mkdir()
        (deep / "below" / "file").write_text("f")
        (deep / "below").rename(deep / "moved")
        (deep / "before0").rename(deep.parent / "up")
        (deep / "before1").unlink()
        os.setxattr(deep, "user.deep", b"1")
        os.chmod(deep, 0o750)
        r.equal()

        assert product.stop() == 0, product.tail()
        (deep / "history").write_text("h")
        (deep.parent.parent / f"d{DEPTH - 2}").rename(deep.parent.parent / "renamed")
        product.start()
        r.settled(2)
        r.equal()

        began = time.time()
        assert product.command("xsync", product.name).returncode == 0
        r.settled(2)
        (p / "last").write_text("x")
        r.synced_to(began)
        r.equal()
        assert product.stop() == 0, product.tail()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("both", [True, False], ids=["both sides", "primary only"])
def test_files_in_shards(lab: Lab, scratch: Path, sshd: Sshd, both: bool) -> None:
    """A file is what clients see, not its first shard."""
    with Replication.make(lab, scratch, sshd, 2, mounted=False) as r:
        for volume in (r.primary, r.secondary) if both else (r.primary,):
            lab.set(volume, "features.shard", "on")
            lab.set(volume, "features.shard-block-size", "4MB")
        r.p, r.s = lab.mount(r.primary), lab.mount(r.secondary)
        p, product = r.p, r.product
        (p / "large").write_bytes(os.urandom(10 << 20))
        (p / "small").write_bytes(b"s")
        product.start()
        r.settled(2)
        r.equal()
        with open(p / "large", "r+b") as f:
            f.seek(9 << 20)
            f.write(b"changed")
            f.seek(13 << 20)
            f.write(b"longer")
        (p / "more").write_bytes(os.urandom(6 << 20))
        os.truncate(p / "small", 5 << 20)
        r.equal()
        (p / "large").rename(p / "renamed")
        os.truncate(p / "renamed", 1 << 20)
        (p / "more").unlink()
        r.equal()
        assert product.stop() == 0, product.tail()
