"""The delete guard on a volume (SAFE-1): measured by what the replica has, and not startled by what came and went."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.runner import wait_until
from tests.system.sshd import Sshd


@pytest.mark.timeout(300)
def test_what_the_guard_measures_by(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    """Files that were renamed between subvolumes are deleted on both, and were made on one: no reason to hold.

    After a restart the share is one of all that the replica has.
    """
    options = {"delete_guard_share": "50%", "delete_guard_minimum": 3}
    with Replication.make(lab, scratch, sshd, 2, **options) as r:
        p, product = r.p, r.product
        product.start()
        r.settled(2)
        for i in range(60):
            (p / f"kept{i}").write_text("k")
            (p / f"part{i}.tmp").write_text("x")
            (p / f"part{i}.tmp").rename(p / f"whole{i}")
        r.equal()
        for i in range(60):
            (p / f"whole{i}").unlink()
        r.equal()
        assert product.stop() == 0, product.tail()

        product.start()
        r.settled(2)
        for i in range(15):
            (p / f"kept{i}").unlink()
        r.equal()
        for i in range(15, 60):
            (p / f"kept{i}").unlink()
        held = wait_until(product.held, 60, "held", pause=0.2)
        assert held[0]["of"] >= 15, held
        assert any((r.s / f"kept{i}").exists() for i in range(15, 60))
        assert product.stop() == 0, product.tail()
