"""Election by a lock on a meta volume, as gsyncd does it (ACT-1, ACT-4): one active brick, among processes, too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gluster import datasets
from tests.gluster.lab import Lab, Volume
from tests.gluster.session import Replication
from tests.system.runner import wait_until
from tests.system.sshd import Sshd

_HOLD = """
import fcntl, sys
f = open(sys.argv[1], "r+")
fcntl.lockf(f, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def mounted(volume: Volume, at: Path) -> None:
    """Mount a volume at a place of our choice."""
    subprocess.run(["mount", "-t", "glusterfs", f"{volume.host}:/{volume.name}", str(at)], check=True)


@contextmanager
def held_by_another(lock: Path) -> Iterator[None]:
    """Another process, as another node's would, waits for the lock and has it until the end."""
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(lock)], stdin=-1, stdout=-1, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            yield
        finally:
            other.kill()


@pytest.mark.timeout(400)
def test_act_1_and_act_4_with_a_meta_volume(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """Takeover when the active brick dies; passive while another process has the lock; a missing mount is a fault that
    says so, and ends by itself."""
    meta = lab.volume(1, role="m")
    at = scratch / "meta"
    at.mkdir()
    mounted(meta, at)
    try:
        with Replication.make(
            lab, scratch, sshd, 2, "replica 2", use_meta_volume="true", meta_volume_mnt=at, replica_failover_interval=1
        ) as r:
            datasets.basic(r.p, "one")
            r.product.start()
            r.settled(1, 1)
            r.equal()
            lock = at / "geo-rep" / f"{r.primary.id}_{r.secondary.id}_subvol_1.lock"
            assert list((at / "geo-rep").iterdir()) == [lock]

            active = next(b for b in r.bricks() if b["status"] == "Active")
            lab.kill_brick(r.primary, Path(active["brick"]))
            datasets.basic(r.p, "two")
            taken = {active["brick"]: "Faulty"}
            wait_until(lambda: {b["brick"]: b["status"] for b in r.bricks() if b["status"] != "Active"} == taken, 60,
                       f"the other one is Active; {r.story()}", pause=0.2)  # fmt: skip
            r.equal()
            lab.start(r.primary, force=True)
            r.settled(1, 1)

            assert r.product.stop() == 0, r.product.tail()
            with held_by_another(lock):
                r.product.start()
                r.settled(0, 2)
                datasets.basic(r.p, "three")
            r.settled(1, 1)
            r.equal()

            subprocess.run(["umount", "-l", str(at)], check=True)
            error = r.product.faulty(60)
            assert "meta volume" in str(error) and "use_meta_volume" in str(error), error
            datasets.basic(r.p, "four")
            mounted(meta, at)
            r.settled(1, 1)
            r.equal()
            assert r.product.stop() == 0, r.product.tail()
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False)
        lab.remove(meta)
