"""Case c: what is killed recovers by itself; a passive brick takes over with all data; no mount stays behind."""

from __future__ import annotations

import signal
import subprocess
import os
from pathlib import Path

import pytest

from tests.gluster import datasets
from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system import processes
from tests.system.runner import wait_until
from tests.system.sshd import Sshd


@pytest.mark.timeout(400)
def test_act_2_a_passive_brick_takes_over(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """S-37: the active brick dies; the other one goes on from the volume's mark, without a full crawl."""
    with Replication.make(lab, scratch, sshd, 2, "replica 2") as r:
        datasets.basic(r.p, "before")
        r.product.start()
        r.settled(1, 1)
        r.equal()
        active = next(b for b in r.bricks() if b["status"] == "Active")
        lab.kill_brick(r.primary, Path(active["brick"]))
        datasets.basic(r.p, "without")

        def taken() -> bool:
            roles = {b["brick"]: b["status"] for b in r.bricks()}
            return roles.pop(active["brick"], "") == "Faulty" and list(roles.values()) == ["Active"]

        wait_until(taken, 60, f"the other one is Active; {r.story()}")
        r.equal()
        other = next(b for b in r.bricks() if b["status"] == "Active")
        assert "hybrid" not in {c["kind"] for c in other["crawls"]}, other["crawls"]
        lab.start(r.primary, force=True)
        datasets.basic(r.p, "again")
        r.equal(ledger=False)
        assert r.product.stop() == 0, r.product.tail()


def test_killed_parts_recover_and_leave_no_mount(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """SIGKILL of ssh, of an agent, and of the engine itself."""
    with Replication.make(lab, scratch, sshd, 2) as r:
        r.product.start()
        r.settled(2)
        datasets.basic(r.p, "one")
        os.kill(r.product.children("ssh")[0], signal.SIGKILL)
        r.equal()
        datasets.basic(r.p, "two")
        processes.kill(processes.named(sshd.pid, "python")[:1])
        r.equal()
        datasets.basic(r.p, "three")
        r.product.crash()
        datasets.removed(r.p, "one")
        r.product.start()
        r.settled(2)
        r.equal()
        assert r.product.stop() == 0, r.product.tail()
        mounts = subprocess.run(["findmnt", "-n", "-o", "TARGET"], capture_output=True, text=True).stdout
        assert "georep-mnt-" not in mounts


def test_g_a_checkpoint_completes_on_a_busy_and_on_an_idle_volume(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """Case g: without touching the volume (MRK-8)."""
    with Replication.make(lab, scratch, sshd, 2) as r:
        r.product.start()
        r.settled(2)
        datasets.basic(r.p, "busy")
        for _ in range(2):  # the second time, nothing has happened
            done = r.product.command("checkpoint", r.product.name, "now", "--wait", timeout=90)
            assert done.returncode == 0, done
        r.equal()
        assert r.product.stop() == 0, r.product.tail()
