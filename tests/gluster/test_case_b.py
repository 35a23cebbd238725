"""Case b: random operations through the mount while the session runs, renames between subvolumes included; then equal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.runner import PROJECT
from tests.system.sshd import Sshd

SILENT = ("punch",)
"""What GlusterFS keeps no record of, so that only a full comparison finds it (docs/gluster.md, Limits)."""


def churn(mount: Path, operations: int, seed: int, rate: float = 0) -> int:
    """Do so many random operations, at most `rate` a second (0: unlimited); returns how many were really done."""
    (mount / "tree").mkdir()
    (mount / "outside").mkdir()
    without = [word for kind in SILENT for word in ("--without", kind)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.workload", str(mount / "tree"), "--outside", str(mount / "outside"),
         "--seed", str(seed), "--operations", str(operations), "--objects", "600", "--rate", str(rate), *without],
        cwd=PROJECT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return int(json.loads(done.stdout)["done"])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "bricks, operations, seed",
    [(2, 400, 1), *((bricks, 5000, seed) for bricks in (2, 4) for seed in range(10))],
)
def test_random_operations(lab: Lab, scratch: Path, sshd: Sshd, bricks: int, operations: int, seed: int) -> None:
    """Equal, the ledger empty; and nothing but the journal was needed."""
    with Replication.make(lab, scratch, sshd, bricks, delete_guard_minimum=1_000_000) as r:
        r.product.start()
        r.settled(bricks)
        assert churn(r.p, operations, seed) > operations // 2
        r.equal(within=180)
        assert r.product.stop() == 0, r.product.tail()
