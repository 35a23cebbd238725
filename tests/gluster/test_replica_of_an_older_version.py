"""A replica that an older version made may lack names: the new one compares both sides once, says so, and mends what is
missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.gluster.test_names_of_slow_workers import STEPS
from tests.system import processes
from tests.system.runner import PROJECT, Product, let_pass, wait_until
from tests.system.sshd import Sshd
from tests.system.test_status import Ear

OLD = "42cbb0d"
"""The last revision that lost names under OK."""

OWNER = "trusted.georep.session"
"""On the secondary's root: whose it is, with the version of the engine that began the session (2: names are never lost)."""

MARKS = "trusted.georep.mark."
"""Each brick's copy of its mark, which says too that both sides were compared since."""

COMPARED = ("names", "compared")
COMPARING = "comparing "
TOLD = re.compile(r"comparing ([\d,]+) of ([\d,]+) ")


def made(p: Path, directories: int = 100) -> None:
    """Make what is to be compared: files, files with two names, symlinks with two names, in many directories."""
    for n in range(directories):
        d = p / f"d{n}"
        d.mkdir()
        (d / "file").write_text(f"{n}")
        (d / "one").write_text(f"one {n}")
        os.link(d / "one", d / "two")
        (d / "link").symlink_to("one")
        os.link(d / "link", d / "link2", follow_symlinks=False)


def lost(s: Path) -> None:
    """Take away on the secondary what the old version might have: 29 files, names of others, a whole directory."""
    for n in range(29):
        (s / f"d{n}" / "file").unlink()
    for n in range(20, 40):
        (s / f"d{n}" / "two").unlink()
        (s / f"d{n}" / "link2").unlink()
    shutil.rmtree(s / "d50")
    for name in ("one", "two"):
        (s / "d60" / name).unlink()


def aged(s: Path) -> None:
    """Make the session's notes on the secondary those of version 1."""
    for name in os.listxattr(s):
        if name == OWNER or name.startswith(MARKS):
            noted = json.loads(os.getxattr(s, name))
            if name == OWNER:
                noted["version"] = 1
            os.setxattr(s, name, json.dumps({k: v for k, v in noted.items() if k not in COMPARED}).encode())
    assert json.loads(os.getxattr(s, OWNER))["version"] == 1


@dataclass
class Watch:
    """What the session says from its start on, through its socket.

    OK, or that a checkpoint completed without a failure, is never said of what differs; no checkpoint completes while both
    sides are compared.
    """

    r: Replication
    ear: Ear

    def look(self) -> dict[str, Any]:
        """Its status now."""
        status: dict[str, Any] = self.ear.ask("snapshot")["sessions"][0]
        point, reasons = status["checkpoint"], texts(status)
        assert not (point["completed"] and any(t.startswith(COMPARING) for t in reasons)), f"{point} beside {reasons}"
        if status["verdict"] == "ok" or (point["completed"] and not point["failures_before"]):
            found = self.r.unequal()
            assert not found, "\n".join([f"{status['verdict']}, {point}, but:", *found, self.r.story()])
        return status

    def reasons(self) -> list[str]:
        """Why it does not say OK now."""
        return texts(self.look())


def texts(status: dict[str, Any]) -> list[str]:
    """The reasons of a session's verdict."""
    return [r["text"] for r in status["reasons"]]


@contextmanager
def watched(r: Replication) -> Iterator[Watch]:
    """Start the engine, set a checkpoint at once, and watch."""
    r.product.start()

    def answers() -> Ear | None:
        try:
            return Ear(r.product)
        except (OSError, ValueError):  # a killed engine's socket is still there, or none is yet
            return None

    with closing(wait_until(answers, 30, "the session's socket")) as ear:
        ear.ask("checkpoint", session=r.product.name, time="now")
        yield Watch(r, ear)


def told(watch: Watch, sshd: Sshd) -> None:
    """Wait until it is in the middle of comparing; it says how far it is, is not OK, and no checkpoint completes."""
    r, heard = watch.r, [""]

    def begun() -> bool:
        heard[:] = watch.reasons()
        return any(t.startswith(COMPARING) for t in heard)

    wait_until(begun, 30, f"it says that it compares; {heard}; {r.story()}", pause=0.02)

    # the agents are stopped most of the time, so that it lasts
    agents = processes.named(sshd.pid, "python")
    deadline = time.monotonic() + 30
    try:
        while True:
            processes.kill(agents, signal.SIGSTOP)
            let_pass(0.3)  # a picture may be that old
            heard[:] = watch.reasons()
            found = [m for t in heard if (m := TOLD.search(t))]
            if any(int(m[1].replace(",", "")) < int(m[2].replace(",", "")) for m in found):
                break
            assert time.monotonic() < deadline, f"it never said how far it is: {heard}; {r.story()}"
            processes.kill(agents, signal.SIGCONT)
            let_pass(0.04)
        shown = r.product.command("status", r.product.name).stdout
        assert TOLD.search(" ".join(shown.split())), shown
        assert r.product.command("status", r.product.name, "--check").returncode != 0
        assert not watch.look()["checkpoint"]["completed"]
    finally:
        processes.kill(agents, signal.SIGCONT)


def mended(watch: Watch) -> None:
    """It finds what is missing, and then is OK; nothing is left in the ledger, and the checkpoint completes."""
    r = watch.r
    deadline = time.monotonic() + 120
    while True:
        status = watch.look()
        if status["verdict"] == "ok" and status["checkpoint"]["completed"]:
            return
        assert r.product.running(), r.product.tail()
        if time.monotonic() > deadline:
            raise AssertionError("\n".join(["not mended within 120 s:", *texts(status), *r.unequal(), r.story()]))
        time.sleep(0.1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("crash", [False, pytest.param(True, marks=pytest.mark.long)], ids=["", "crash"])
@pytest.mark.parametrize(
    "bricks, layout, active", [(4, "replica 2", 2), pytest.param(2, "", 2, marks=pytest.mark.long)], ids=["replica", "distribute"]
)
def test_what_is_missing_is_found(
    lab: Lab, scratch: Path, sshd: Sshd, bricks: int, layout: str, active: int, crash: bool
) -> None:
    """The notes of an older version, and names missing on the secondary; also where the engine is killed half way."""
    with Replication.make(lab, scratch, sshd, bricks, layout, delete_guard_minimum=1_000_000) as r:
        made(r.p)
        r.product.start()
        r.settled(active, bricks - active)
        r.honest(time.time())
        assert r.product.stop() == 0, r.product.tail()
        lost(r.s)
        aged(r.s)
        with watched(r) as watch:
            told(watch, sshd)
            if not crash:
                mended(watch)
        if crash:
            r.product.crash()
            with watched(r) as watch:
                mended(watch)
        assert r.product.stop() == 0, r.product.tail()

        with watched(r) as watch:  # once is enough
            heard: set[str] = set()
            wait_until(lambda: heard.update(watch.reasons()) or watch.look()["verdict"] == "ok", 60, f"OK: {heard}", pause=0.02)
        assert not [t for t in heard if t.startswith(COMPARING)], heard
        assert r.product.stop() == 0, r.product.tail()


def test_a_new_session_has_nothing_to_compare(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """Not at its beginning, and not after a restart."""
    with Replication.make(lab, scratch, sshd, 1) as r:
        made(r.p, 3)
        heard: set[str] = set()
        for _ in range(2):
            with watched(r) as watch:
                wait_until(lambda: heard.update(watch.reasons()) or watch.look()["verdict"] == "ok", 60, f"OK: {heard}", pause=0.02)
            r.honest(time.time())
            assert r.product.stop() == 0, r.product.tail()
        assert not [t for t in heard if t.startswith(COMPARING)], heard


class Older(Product):
    """The product as it was at an older revision, in `base/older`."""

    def environment(self) -> dict[str, str]:
        """The same, with the code of then."""
        return super().environment() | {"PYTHONPATH": str(self.base / "older")}

    def check_out(self, revision: str) -> None:
        """Take its code from this repository. Skips where the revision is not there."""
        git = ["git", "-c", f"safe.directory={PROJECT}", "-C", str(PROJECT)]
        there = shutil.which("git") and subprocess.run([*git, "cat-file", "-e", f"{revision}^{{commit}}"], capture_output=True)
        if not there or there.returncode != 0:
            pytest.skip(f"revision {revision} is not in this clone (git fetch --unshallow)")
        (self.base / "older").mkdir()
        taken = subprocess.run([*git, "archive", revision, "engine", "georep_tui"], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(self.base / "older")], input=taken, check=True)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bricks, layout", [(4, "replica 2"), (6, "disperse 3 redundancy 1")], ids=["replica", "disperse"])
def test_what_the_old_version_lost_is_found(lab: Lab, scratch: Path, sshd: Sshd, bricks: int, layout: str) -> None:
    """The old version loses names where one worker is late; the new one goes on from its state and mends that."""
    with Replication.make(lab, scratch, sshd, bricks, layout, delete_guard_minimum=1_000_000) as r:
        new = r.product
        old = Older(new.base, new.primaries, new.secondary, new.options)
        old.check_out(OLD)
        r.product = old
        old.start()
        r.settled(2, bricks - 2)
        (r.p / "d").mkdir()
        r.equal()
        with r.slow(r.active()[0]):
            for i in range(100):
                STEPS[0](r.p / "d", i)
        made(r.p)
        r.synced_to(time.time())
        assert old.stop() == 0, old.tail()
        missing = [d for d in lab.equal(r.primary, r.secondary, limit=1000) if "missing" in d]
        assert len(missing) > 5, missing

        new.runs = old.runs
        r.product = new
        with watched(r) as watch:
            told(watch, sshd)
            mended(watch)
        assert new.stop() == 0, new.tail()
