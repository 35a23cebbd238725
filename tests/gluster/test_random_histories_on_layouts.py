"""Random histories on replicated and dispersed volumes, some with a worker that is late: OK means equal.

The same as a campaign that can be resumed: `python -m tests.gluster.campaign_names --help`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gluster.campaign_names import OPERATIONS, History, history
from tests.gluster.lab import Lab
from tests.system.sshd import Sshd

LAYOUTS = ("replica 2", "disperse 3 redundancy 1")
SMALL = 250
"""Operations of the small form."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "h",
    [
        *(History(layout, 0, operations=SMALL) for layout in LAYOUTS),
        *(pytest.param(History(layout, s, p, OPERATIONS), marks=pytest.mark.long)
          for layout in LAYOUTS for p, seeds in ((False, range(30)), (True, range(100, 110))) for s in seeds),
    ],
    ids=lambda h: f"{h.layout}-{h.seed}-{h.operations}{'-pauses' if h.pauses else ''}",
)  # fmt: skip
def test_ok_means_equal(lab: Lab, scratch: Path, sshd: Sshd, h: History) -> None:
    """The first time it says OK of all of the history, both sides are equal and the ledger is empty."""
    found = history(lab, scratch, sshd, h)
    assert found["done"], found
