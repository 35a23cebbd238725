"""Case c: what is killed recovers by itself; a passive brick takes over with all data; no mount stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gluster import datasets
from tests.gluster.lab import Lab, Volume
from tests.gluster.session import Replication
from tests.system import processes
from tests.system.oracle import differences
from tests.system.runner import let_pass, wait_until
from tests.system.sshd import Sshd

ROOT_GFID = "00000000-0000-0000-0000-000000000001"


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


def nothing_mounted() -> None:
    """No mount of the engine's or of an agent's is left, and none of their daemons."""
    found = subprocess.run(["findmnt", "-n", "-o", "TARGET"], capture_output=True, text=True).stdout
    assert not [m for m in found.splitlines() if "georep-mnt-" in m or "/georep-tui/mounts/" in m], found

    def left() -> list[str]:
        words = [" ".join(processes.command(int(p))) for p in os.listdir("/proc") if p.isdigit()]
        return [w for w in words if "glusterfs" in w and ("georep-agent-" in w or "georep-mnt-" in w)]

    wait_until(lambda: not left(), 20, f"the end of the mounts' daemons: {left()}")


def test_glusterd_and_a_brick_there_are_killed(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """Without glusterd what runs goes on; what must begin anew says why it cannot, and does when it can."""
    with Replication.make(lab, scratch, sshd, 2) as r:
        r.product.start()
        r.settled(2)
        lab.kill_glusterd()
        try:
            datasets.basic(r.p, "without")
            seen = differences_end(r)
            assert not seen, f"{seen}; {r.story()}"
            processes.kill(processes.named(sshd.pid, "python"))
            datasets.basic(r.p, "queued")
            wait_until(lambda: "glusterd" in str(r.product.faulty(60)), 60, "a fault that names glusterd", pause=0.2)
        finally:
            lab.start_glusterd()
        r.equal()
        lab.kill_brick(r.secondary, r.secondary.bricks[0])
        for i in range(20):  # some of them on that brick
            (r.p / f"down-{i}").write_text("x")
        error = r.product.faulty(60)
        assert error["hint"], error
        lab.start(r.secondary, force=True)
        r.equal()
        r.settled(2)
        assert r.product.stop() == 0, r.product.tail()
        nothing_mounted()


def differences_end(r: Replication, within: float = 60) -> list[str]:
    """Wait until the mounts that are there show the same (new ones need glusterd); what differs at last."""
    found: list[str] = []

    def same() -> bool:
        found[:] = differences(os.fsencode(r.p), os.fsencode(r.s), limit=10)
        return not found

    try:
        wait_until(same, within, "equality", pause=0.2)
    except AssertionError:
        pass
    return found


class Traffic(threading.Thread):
    """Changes on the primary until stopped; what a brick that is down refuses is left out."""

    def __init__(self, p: Path) -> None:
        super().__init__(name="traffic")
        self.p = p
        self.stopping = threading.Event()
        self.done = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            for step in (datasets.basic, datasets.metadata, datasets.removed):
                try:
                    step(self.p, f"t{self.done if step is not datasets.removed else self.done - 3}")
                except OSError:
                    continue
            self.done += 1


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(4))
def test_random_kills(lab: Lab, scratch: Path, sshd: Sshd, seed: int) -> None:
    """Twenty kills of anything at random moments under traffic, two replicas each; then equal, by itself."""
    rnd = random.Random(seed)
    with Replication.make(lab, scratch, sshd, 2, "replica 2") as r:
        lab.set(r.primary, "cluster.self-heal-daemon", "on")

        def crash() -> None:
            r.product.crash()
            r.product.start()

        def brick(volume: Volume, which: int) -> Callable[[], None]:
            def kill() -> None:
                lab.start_glusterd()
                if lab.brick_pid(volume, volume.bricks[which]) is not None and healed(volume):
                    lab.kill_brick(volume, volume.bricks[which])
                    let_pass(rnd.uniform(0, 3))
                    lab.start(volume, force=True)

            return kill

        def daemon() -> None:
            lab.kill_glusterd()
            let_pass(rnd.uniform(0, 3))
            lab.start_glusterd()

        kinds: list[Callable[[], object]] = [
            crash, daemon, brick(r.primary, 0), brick(r.primary, 1), brick(r.secondary, 0), brick(r.secondary, 1),
            lambda: processes.kill(r.product.children("ssh")[:1]),
            lambda: processes.kill(processes.named(sshd.pid, "python")[:1]),
            lambda: processes.kill(processes.named(sshd.pid, "glusterfs")[:1]),
        ]  # fmt: skip
        r.product.start()
        traffic = Traffic(r.p)
        traffic.start()
        try:
            for _ in range(20):
                let_pass(rnd.uniform(0.2, 4))
                rnd.choice(kinds)()
        finally:
            traffic.stopping.set()
            traffic.join()
            lab.start_glusterd()
        assert traffic.done > 3
        for volume in (r.primary, r.secondary):
            lab.start(volume, force=True)
            wait_until(lambda v=volume: healed(v, but_symlinks=True) or lab.heal(v), 120, f"{volume.name} healed", pause=2)
        r.settled(1, 1, timeout=150)
        r.equal(within=240)
        assert r.product.stop() == 0, r.product.tail()
        nothing_mounted()


def healed(volume: Volume, but_symlinks: bool = False) -> bool:
    """Does no replica of it know of a heal that another one needs?

    `but_symlinks`: of those, and of the root they are in, it may: GlusterFS 10 does not heal a symlink that a brick lacks
    (its daemon tries to link to an inode that is not there). The mount shows them all the same.
    """
    waiting = {(b, n) for b in volume.bricks for n in os.listdir(b / ".glusterfs/indices/xattrop") if not n.startswith("xattrop-")}
    return not {n for b, n in waiting if not (but_symlinks and (n == ROOT_GFID or _is_symlink(b, n)))}


def _is_symlink(brick: Path, gfid: str) -> bool:
    handle = brick / ".glusterfs" / gfid[:2] / gfid[2:4] / gfid
    return handle.is_symlink() and handle.lstat().st_nlink > 1  # a directory's handle has one name


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
        nothing_mounted()


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
