"""Case d: gsyncd syncs half and is stopped, the product goes on from its marks; then the reverse."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gluster import datasets
from tests.gluster.base import wait_for
from tests.gluster.geosession import GsyncdSession
from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.oracle import differences
from tests.system.sshd import Sshd

MANY = 40


def files(p: Path, prefix: str) -> None:
    """So many small files in a directory, with times of whole seconds: gsyncd's tar keeps no more."""
    (p / prefix).mkdir()
    for i in range(MANY):
        (p / prefix / f"{i}").write_bytes(b"x" * (1000 + i))
        os.utime(p / prefix / f"{i}", (1_700_000_000 + i, 1_700_000_000 + i))


def arrived(s: Path, prefix: str) -> bool:
    """Are they there, with their content?"""
    try:
        return sorted(f.stat().st_size for f in (s / prefix).iterdir()) == list(range(1000, 1000 + MANY))
    except OSError:
        return False


def changed(r: Replication, prefix: str) -> dict[str, int]:
    """When each file's inode on the secondary's bricks was last touched (ns): what is sent again is touched again."""
    found: dict[str, int] = {}
    for brick in r.secondary.bricks:
        for path in (brick / prefix).iterdir():
            st = path.stat()
            if not (st.st_mode & 0o1000 and st.st_size == 0):  # not DHT's link files
                found[path.name] = st.st_ctime_ns
    assert len(found) == MANY
    return found


def next_second() -> float:
    """A moment whose second is over: gsyncd's mark is one second less than the name of the last slice it synced."""
    moment = time.time()
    wait_for("the next second", lambda: time.time() >= int(moment) + 1)
    return moment


def marked(r: Replication, moment: float) -> Callable[[], bool]:
    """Have the marks of all bricks reached that second?"""
    return lambda: all((r.stime(b) or (0, 0))[0] >= int(moment) for b in r.primary.bricks)


def differing(r: Replication) -> list[str]:
    """What differs, but for times of directories: gsyncd does not bring them over."""
    found = differences(os.fsencode(r.p), os.fsencode(r.s), limit=200)
    return [line for line in found if not ("mtime" in line and "(directory)" in line)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_gsyncd_and_back(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """MRK-7: no full crawl on either way, and nothing sent twice that was before the last batch."""
    with Replication.make(lab, scratch, sshd, 2) as r, GsyncdSession(lab, r.primary, r.secondary, scratch) as gsyncd:
        files(r.p, "first")
        gsyncd.command("start")
        wait_for("gsyncd's half", lambda: arrived(r.s, "first"), 120)
        gsyncd.works(r.p, r.s)
        moment = next_second()
        files(r.p, "last")  # may be sent again
        wait_for("gsyncd's last batch", lambda: arrived(r.s, "last"), 120)
        wait_for("gsyncd's mark", marked(r, moment), 120)
        gsyncd.command("stop")
        marks = [r.stime(b) for b in r.primary.bricks]
        before = changed(r, "first")

        files(r.p, "second")
        datasets.basic(r.p, "second")
        (r.p / "first" / "0").unlink()
        r.product.start()
        r.settled(2)
        try:
            wait_for("what gsyncd had not done", lambda: not differing(r), 90)
        except AssertionError as e:
            raise AssertionError(f"{e}: {differing(r)[:8]}; {r.story()}") from None
        assert not r.product.failures()
        crawls = [c["kind"] for b in r.bricks() for c in b["crawls"]]
        assert "hybrid" not in crawls, (marks, r.product.tail(40))
        del before["0"]
        after = {p.name: p.stat().st_ctime_ns for b in r.secondary.bricks for p in (b / "first").iterdir()
                 if p.name in before and not (p.stat().st_mode & 0o1000 and p.stat().st_size == 0)}  # fmt: skip
        assert after == before
        r.synced_to(time.time())
        assert r.product.stop() == 0, r.product.tail()
        assert all((r.stime(b) or (0, 0)) > (m or (0, 0)) for b, m in zip(r.primary.bricks, marks, strict=True))

        before = changed(r, "second")
        moment = next_second()
        files(r.p, "third")
        gsyncd.command("start")
        gsyncd.works(r.p, r.s)
        wait_for("gsyncd going on", lambda: arrived(r.s, "third"), 120)
        wait_for("gsyncd's mark", marked(r, moment), 120)
        wait_for("all of what gsyncd has to do", lambda: not differing(r), 120)
        gsyncd.command("stop")
        assert changed(r, "second") == before
