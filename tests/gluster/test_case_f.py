"""Case f: conflicts made on the secondary volume behind the engine's back: resolved as CON-1…6 say, and recorded."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system import processes
from tests.system.sshd import Sshd
from tests.system.test_status import Ear

Step = Callable[[Path], object]

TRIES = 8
"""How often an agent is killed at a moment that may pass unseen."""


def nothing(d: Path) -> None:
    """A step that is not needed."""


def tree(d: Path, *names: str) -> None:
    """Directories (names that end in /) and files whose content is their own name."""
    for name in names:
        (d / name).mkdir(parents=True) if name.endswith("/") else (d / name).write_text(name)


def moved(d: Path, *pairs: str) -> None:
    """Rename in order: "a b" makes b of a."""
    for pair in pairs:
        old, new = pair.split()
        (d / old).rename(d / new)


@dataclass(frozen=True)
class Case:
    """What both sides had, what somebody did on the secondary, what then happened on the primary, and the decision."""

    name: str
    row: str
    meddle: Step
    change: Step
    before: Step = nothing


CASES = [
    Case("file-in-the-way", "CON-1", lambda d: (d / "n").write_text("foreign"), lambda d: (d / "n").write_text("ours")),
    Case("directory-in-the-way", "CON-1", lambda d: tree(d, "n/", "n/x"), lambda d: tree(d, "n")),
    Case("directory-for-directory", "CON-1", lambda d: tree(d, "n/", "n/x"), lambda d: tree(d, "n/", "n/y")),
    Case("symlink-in-the-way", "CON-1", lambda d: (d / "n").symlink_to("/etc"), lambda d: tree(d, "n")),
    Case("file-for-a-link", "CON-1", lambda d: tree(d, "l"), lambda d: os.link(d / "a", d / "l"),
         lambda d: tree(d, "a")),
    Case("stale", "", lambda d: moved(d, "a b"),
         lambda d: (tree(d, "b"), (d / "b").unlink(), moved(d, "a b")), lambda d: tree(d, "a")),
    Case("directory-that-moved", "CON-2/3/4", lambda d: moved(d, "a b"), lambda d: tree(d, "b/", "b/y"),
         lambda d: tree(d, "a/", "a/x")),
    Case("file-with-another-name", "CON-2/3/4", lambda d: moved(d, "a b"), lambda d: tree(d, "b"),
         lambda d: tree(d, "a")),
    Case("parent-missing", "CON-5", lambda d: shutil.rmtree(d / "sub"), lambda d: tree(d, "sub/deep/x"),
         lambda d: tree(d, "sub/deep/")),
    Case("parent-missing-on-both", "", lambda d: shutil.rmtree(d / "sub"),
         lambda d: (tree(d, "sub/x"), shutil.rmtree(d / "sub")), lambda d: tree(d, "sub/")),
    Case("directory-renamed-there", "", lambda d: moved(d, "a z"), lambda d: moved(d, "a f"),
         lambda d: tree(d, "a/", "a/x")),
    Case("exchanged", "CON-2/3/4", lambda d: moved(d, "a t", "b a", "t b"), lambda d: moved(d, "a c", "c a"),
         lambda d: tree(d, "a", "b")),
    Case("exchanged-directories", "CON-2/3/4", lambda d: moved(d, "a t", "b a", "t b"), lambda d: moved(d, "a c", "c a"),
         lambda d: tree(d, "a/", "b/", "a/x", "b/y")),
    Case("exchanged-in-a-circle", "", lambda d: moved(d, "a t", "b a", "c b", "t c"),
         lambda d: moved(d, "a z", "z a", "b z", "z b", "c z", "z c"), lambda d: tree(d, "a", "b", "c")),
    Case("renamed-file-missing", "", lambda d: (d / "a").unlink(), lambda d: moved(d, "a b"), lambda d: tree(d, "a")),
    Case("renamed-directory-missing", "", lambda d: shutil.rmtree(d / "a"), lambda d: moved(d, "a b"),
         lambda d: tree(d, "a/deep/", "a/x", "a/deep/y")),
    Case("renamed-over-a-directory", "CON-1", lambda d: ((d / "b").unlink(), tree(d, "b/", "b/x")),
         lambda d: moved(d, "a b"), lambda d: tree(d, "a", "b")),
    Case("deleted-name-has-another", "CON-1", lambda d: ((d / "a").unlink(), tree(d, "a")),
         lambda d: (d / "a").unlink(), lambda d: tree(d, "a")),
    Case("attributes-of-what-is-missing", "CON-2/3/4", lambda d: (d / "a").unlink(), lambda d: (d / "a").chmod(0o600),
         lambda d: tree(d, "a")),
    Case("content-of-what-is-missing", "CON-2/3/4", lambda d: (d / "a").unlink(),
         lambda d: (d / "a").write_text("more"), lambda d: tree(d, "a")),
]  # fmt: skip


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bricks", [2, pytest.param(1, marks=pytest.mark.long)])
def test_con_1_to_6(lab: Lab, scratch: Path, sshd: Sshd, bricks: int) -> None:
    """All at once, each in a directory of its own: equal at the end, the ledger empty, and every decision told."""
    with Replication.make(lab, scratch, sshd, bricks) as r:
        for case in CASES:
            (r.p / case.name).mkdir()
            case.before(r.p / case.name)
        r.product.start()
        r.settled(bricks)
        r.equal()
        for case in CASES:
            case.meddle(r.s / case.name)
        for case in CASES:
            case.change(r.p / case.name)
        r.equal()
        told = decisions(r)
        for case in CASES:
            if case.row:
                mine = gfids(r.p / case.name)
                assert any(d["row"] == case.row and (d["gfid"] in mine or case.row == "CON-1") for d in told), (case, told)
        assert r.product.stop() == 0, r.product.tail()


@pytest.mark.timeout(400)
def test_con_3_agents_that_die_while_a_name_is_set_aside(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """What gives way for a moment is in the ledger before: it gets its name back, whoever dies in between."""
    with Replication.make(lab, scratch, sshd, 2) as r:
        for i in range(TRIES):
            (r.p / f"d{i}").mkdir()
            tree(r.p / f"d{i}", "a", "b")
        r.product.start()
        r.settled(2)
        r.equal()
        hit = 0
        for i in range(TRIES):
            agents = processes.named(sshd.pid, "python")
            moved(r.s / f"d{i}", "a t", "b a", "t b")
            moved(r.p / f"d{i}", "a c", "c a")
            if aside(r, f"d{i}"):
                processes.kill(agents)
                hit += bool(aside(r, f"d{i}", 0))
            r.equal()
            if hit == 2:
                break
        assert hit, "no agent died in between"
        assert r.product.stop() == 0, r.product.tail()


@pytest.mark.timeout(400)
def test_sec_12_agents_that_die_after_a_rename_replaced_what_is_alive(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """What a rename is to replace, and what is alive here, is in the ledger before: it comes back, whoever dies."""
    with Replication.make(lab, scratch, sshd, 1) as r:
        for i in range(TRIES):
            (r.p / f"d{i}").mkdir()
            tree(r.p / f"d{i}", "a", "b")
        r.product.start()
        r.settled(1)
        r.equal()
        hit = 0
        for i in range(TRIES):
            agents = processes.named(sshd.pid, "python")
            there = r.secondary.bricks[0] / f"d{i}"
            wanted = (there / "a").stat().st_ino
            moved(r.s / f"d{i}", "b n")
            moved(r.p / f"d{i}", "a n")
            end = time.monotonic() + 20
            while (there / "n").stat().st_ino != wanted and time.monotonic() < end:
                pass
            processes.kill(agents)
            hit += not (there / "b").exists()
            r.equal()
            if hit == 2:
                break
        assert hit, "no agent died in between"
        assert r.product.stop() == 0, r.product.tail()


def aside(r: Replication, name: str, within: float = 20) -> list[str]:
    """What is set aside in a directory on the secondary's bricks, as soon as something is."""
    end = time.monotonic() + within
    while True:
        found = [n for b in r.secondary.bricks for n in os.listdir(b / name) if n.startswith(".georep-aside-")]
        if found or time.monotonic() > end:
            return found


def gfids(d: Path) -> set[str]:
    """The gfids of a directory and all below it."""
    return {os.getxattr(p, "glusterfs.gfid.string", follow_symlinks=False).rstrip(b"\0").decode().replace("-", "")
            for p in (d, *d.rglob("*"))}  # fmt: skip


def decisions(r: Replication) -> list[dict[str, str]]:
    """What the engine says it decided."""
    ear = Ear(r.product)
    try:
        found: list[dict[str, str]] = ear.ask("decisions")["decisions"]
        return found
    finally:
        ear.close()
