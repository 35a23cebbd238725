"""A secondary that is itself replicated further: what our agent writes there stands in its journal (VOL-1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gluster import datasets
from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.runner import Product
from tests.system.sshd import HOST, Sshd


@pytest.mark.long
@pytest.mark.timeout(400)
def test_vol_1_from_one_volume_to_the_next_and_on(lab: Lab, scratch: Path, sshd: Sshd) -> None:
    last = lab.volume(2, role="t")
    try:
        with Replication.make(lab, scratch, sshd, 2) as r:
            onward = Product(scratch / "onward", [f"{r.secondary.host}::{r.secondary.name}"], f"{HOST}::{last.name}",
                             dict(r.product.options))  # fmt: skip
            chain = Replication(lab, r.secondary, last, onward, r.s, lab.mount(last))
            datasets.basic(r.p, "before")
            r.product.start()
            r.settled(2)
            r.equal()
            onward.start()
            try:
                chain.settled(2)
                chain.equal()
                for step in (datasets.basic, datasets.metadata, datasets.removed):
                    step(r.p, "before" if step is datasets.removed else "live")
                r.equal()
                chain.equal()
                assert r.product.stop() == 0, r.product.tail()
                assert onward.stop() == 0, onward.tail()
            finally:
                onward.kill()
    finally:
        lab.remove(last)
