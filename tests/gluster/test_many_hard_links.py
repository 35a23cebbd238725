"""A file with more names than the secondary takes, and than GlusterFS keeps a record of (500): each name comes, and OK is not
said before."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.gluster.lab import TOPOLOGIES, Lab
from tests.gluster.session import Replication
from tests.system.sshd import Sshd

LIMIT = "storage.max-hardlinks"
"""100 by default, which the secondary has."""


def single_names(p: Path) -> None:
    """Rename, unlink and link again single names of the file with many, and let others' names come in between."""
    h, other = p / "h", p / "other"
    other.mkdir()
    (h / "l1").rename(h / "r1")
    (h / "l2").rename(other / "l2")
    (h / "l3").unlink()
    os.link(p / "one", h / "l3")
    (h / "l4").unlink()
    os.link(h / "l5", h / "l4")
    (h / "l5").unlink()
    (h / "new").write_text("another one")
    (h / "new").rename(h / "l6")
    (other / "over").write_text("goes")
    (h / "l7").rename(other / "over")
    os.rename(h / "l8", h / "l9")  # both are the same file: nothing happens
    (h / "l10").unlink()
    (h / "l10").symlink_to("l11")
    (h / "l12").unlink()
    (h / "l12").mkdir()
    os.link(h / "l13", h / "l12" / "below")
    (h / "l14").rename(h / "l14.tmp")
    (h / "l15").rename(h / "l14")
    (h / "l14.tmp").rename(h / "l15")
    (p / "one").unlink()
    (h / "l16").rename(p / "one")
    for i in range(20, 40):
        (h / f"l{i}").unlink()
        if i % 2:
            os.link(h / f"l{i + 20}", h / f"l{i}")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "topology, active, passive, links",
    [
        ("2 x 2 replica", 2, 2, 600),
        *(pytest.param(*rest, links, marks=pytest.mark.long)
          for rest in (("2 x 2 replica", 2, 2), ("replica 2", 1, 1), ("distribute 2", 2, 0), ("2 x (2+1) disperse", 2, 4))
          for links in (600, 3_000, 10_000) if (rest[0], links) != ("2 x 2 replica", 600)),
    ],
)  # fmt: skip
def test_every_name(
    lab: Lab, scratch: Path, sshd: Sshd, long: bool, topology: str, active: int, passive: int, links: int
) -> None:
    """Failures stay until the last name is there; then single names change; with --long, each brick's worker late in turn."""
    within = 120 + links / 5
    with Replication.make(lab, scratch, sshd, *TOPOLOGIES[topology], delete_guard_minimum=1_000_000) as r:
        lab.set(r.primary, LIMIT, "0")
        r.product.start()
        r.settled(active, passive)
        (r.p / "one").write_text("one")
        (r.p / "h").mkdir()
        for i in range(links):
            os.link(r.p / "one", r.p / "h" / f"l{i}")
        made = time.time()
        r.honest(made, within, until=lambda status: failed(status) and synced(status, made))

        lab.set(r.secondary, LIMIT, "300")  # some more, not all
        retry(r)
        r.honest(made, within, until=lambda status: failed(status) and names(r) > 250)

        lab.set(r.secondary, LIMIT, "0")
        retry(r)
        r.honest(made, within)
        r.checkpoint()

        single_names(r.p)
        r.honest(time.time(), within)
        for turn, brick in enumerate(r.active() if long else ()):
            with r.slow(brick):
                (r.p / f"turn{turn}").mkdir()
                for i in range(50 + 50 * turn, 90 + 50 * turn):
                    (r.p / "h" / f"l{i}").rename(r.p / f"turn{turn}" / f"l{i}")
                    os.link(r.p / f"turn{turn}" / f"l{i}", r.p / "h" / f"l{i}")
                    (r.p / f"turn{turn}" / f"l{i + i % 2}").unlink(missing_ok=True)
            r.honest(time.time(), within)
        r.checkpoint()
        assert r.product.stop() == 0, r.product.tail()


def retry(r: Replication) -> None:
    """Have all of the ledger tried again now."""
    done = r.product.command("failures", r.product.name, "--retry")
    assert done.returncode == 0, f"{done}; {r.story()}"


def names(r: Replication) -> int:
    """How many names the file has on the secondary's brick that has its data."""
    return max(os.stat(b / "one").st_nlink for b in r.secondary.bricks if (b / "one").exists())


def failed(status: dict[str, Any]) -> bool:
    """Has it failures?"""
    return any(b["failures"] for b in status.get("bricks") or [])


def synced(status: dict[str, Any], since: float) -> bool:
    """Are the marks of all Active bricks past that moment?"""
    return all((b["last_synced"] or 0) >= since for b in status.get("bricks") or [] if b["status"] == "Active")
