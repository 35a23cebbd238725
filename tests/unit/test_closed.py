"""How far a slice brings the mark (MRK-6, MRK-9, STA-2)."""

from __future__ import annotations

import pytest

from engine.model import Changelog, Mark
from engine.volume.base import Closed


@pytest.mark.parametrize(
    ("suffix", "at", "second"),
    [
        (101, 101.0, 100),
        (101, 101.9, 100),
        # suffixes run ahead of the clock: the second 100 is not over
        (102, 100.9, 99),
        # the clock went on while the slice was written
        (101, 107.2, 100),
        (5, 0.0, 0),
    ],
)  # fmt: skip
def test_sta_2_a_second_is_marked_when_it_is_over(suffix: int, at: float, second: int) -> None:
    assert Closed(Changelog(suffix, 0, b""), True, None, at).mark == Mark(second, 0)
