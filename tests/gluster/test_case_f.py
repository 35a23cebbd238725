"""Case f: conflicts made on the secondary volume behind the engine's back: resolved as CON-1…6 say, and recorded."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
    Case("deleted-name-has-what-is-alive", "CON-2/3/4", lambda d: ((d / "a").unlink(), moved(d, "b a")),
         lambda d: (d / "a").unlink(), lambda d: tree(d, "a", "b")),
    Case("deleted-name-has-a-directory-that-is-alive", "CON-2/3/4", lambda d: ((d / "a").unlink(), moved(d, "b a")),
         lambda d: (d / "a").unlink(), lambda d: tree(d, "a", "b/", "b/x")),
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


class Moment(NamedTuple):
    """What somebody did on the secondary, what then happens on the primary, and when the agents are to die: `come` to that,
    while something is not yet as it should be (`half`). Both look at a directory on the secondary's bricks."""

    name: str
    bricks: int
    before: Step
    meddle: Step
    change: Step
    come: Callable[[list[Path]], bool]
    half: Callable[[list[Path]], bool]


def aside(there: list[Path]) -> bool:
    """Is something set aside?"""
    return any(name.startswith(".georep-aside-") for d in there for name in os.listdir(d))


def filled(*places: Path) -> int:
    """How many files with content there are in these directories."""
    return sum(e.stat().st_size > 0 for d in places if d.exists() for e in os.scandir(d))


MANY = [f"{name}/{i}" for name in ("a", "a/deep") for i in range(100)]
MOMENTS = [
    Moment("set-aside", 2, lambda d: tree(d, "a", "b"), lambda d: moved(d, "a t", "b a", "t b"),
           lambda d: moved(d, "a c", "c a"), aside, aside),
    Moment("replaced-what-is-alive", 1, lambda d: tree(d, "a", "b"), lambda d: moved(d, "b n"), lambda d: moved(d, "a n"),
           lambda there: not (there[0] / "a").exists(), lambda there: not (there[0] / "b").exists()),
    Moment("directory-made-anew", 2, lambda d: tree(d, "a/deep/", *MANY), lambda d: shutil.rmtree(d / "a"),
           lambda d: moved(d, "a b"), lambda there: any((d / "b").exists() for d in there),
           lambda there: filled(*(d / x for d in there for x in ("b", "b/deep"))) < len(MANY)),
    Moment("parent-made-anew", 2, lambda d: tree(d, "a/deep/", *MANY), lambda d: shutil.rmtree(d / "a"),
           lambda d: tree(d, "a/deep/x"), lambda there: any((d / "a" / "deep").exists() for d in there),
           lambda there: filled(*(d / x for d in there for x in ("a", "a/deep"))) < len(MANY)),
]  # fmt: skip


@pytest.mark.timeout(400)
@pytest.mark.parametrize("moment", MOMENTS, ids=[m.name for m in MOMENTS])
def test_agents_that_die_half_way(lab: Lab, scratch: Path, sshd: Sshd, moment: Moment) -> None:
    """What is about to be settled is known before: of what is half done, what repeats the batch may see nothing."""
    with Replication.make(lab, scratch, sshd, moment.bricks) as r:
        for i in range(TRIES):
            (r.p / f"d{i}").mkdir()
            moment.before(r.p / f"d{i}")
        r.product.start()
        r.settled(moment.bricks)
        r.equal()
        hit = 0
        for i in range(TRIES):
            agents = processes.named(sshd.pid, "python")
            there = [b / f"d{i}" for b in r.secondary.bricks]
            moment.meddle(r.s / f"d{i}")
            moment.change(r.p / f"d{i}")
            end = time.monotonic() + 20
            while not moment.come(there) and time.monotonic() < end:
                pass  # it passes within milliseconds
            processes.kill(agents)
            hit += moment.half(there)
            r.equal()
            if hit == 2:
                break
        assert hit, "no agent died in between"
        assert r.product.stop() == 0, r.product.tail()


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
