"""What waits, and how far behind that is: counted from slices, never made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import backlog
from engine.backlog import Backlog, Counts, Slice, changes_in, changes_of
from engine.firstcopy import FirstCopy
from engine.journal.format import encode
from engine.lag import lag_of
from engine.model import ROOT, Changelog, DataChange, EntryChange, Fop, MetaChange, Record, Slot

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
MAKE = EntryChange(A, int(Fop.CREATE), Slot(B, b"a"), None, 0o100644, 0, 0)


@pytest.mark.parametrize(
    ("records", "count"),
    [
        ([], 0),
        ([MAKE, DataChange(A), MetaChange(A, 38)], 1),
        ([MAKE, MetaChange(B, 38)], 1),  # the directory's times belong to the name that came
        ([MetaChange(B, 38)], 1),
        ([EntryChange(A, int(Fop.RENAME), Slot(B, b"a"), Slot(C, b"a")), MetaChange(B, 38), MetaChange(C, 38)], 1),
        ([DataChange(A), DataChange(B)], 2),
    ],
)
def test_objects_are_counted_not_records(records: list[Record], count: int) -> None:
    assert changes_in(records) == count


def test_the_roots_times_that_every_walk_brings_are_no_change() -> None:
    assert changes_in([MetaChange(ROOT, 38)]) == 1
    assert changes_in([MetaChange(ROOT, 38)], walked=True) == 0
    assert changes_in([MetaChange(ROOT, 38), MAKE], walked=True) == 1


def test_slices_that_only_the_disk_has_are_counted_once_each(tmp_path: Path) -> None:
    looked: list[int] = []
    clock = [0.0]

    def count(changelog: Changelog) -> int:
        looked.append(changelog.suffix)
        clock[0] += backlog.BUDGET * 0.6
        return 10

    counts = Counts(count, lambda: clock[0])
    waiting = [Slice(Changelog(n, 0, b"", 90), None) for n in range(4)]
    assert counts.of(waiting) == (2 * 10 + 2, False), "what is not counted yet is something at least"
    assert counts.of(waiting) == (40, True) and looked == [0, 1, 2, 3]
    assert counts.of([*waiting[2:], Slice(Changelog(9, 0, b"", 90), 500)]) == (520, True) and looked == [0, 1, 2, 3]
    (tmp_path / "slice").write_bytes(encode([MAKE, DataChange(C)]))
    assert changes_of(Changelog(1, 0, bytes(tmp_path / "slice"), 90)) == 2
    assert changes_of(Changelog(1, 0, bytes(tmp_path / "gone"), 90)) == 0
    (tmp_path / "slice").write_bytes(b"no changelog")
    assert changes_of(Changelog(1, 0, bytes(tmp_path / "slice"), 90)) == 1


@pytest.mark.parametrize(
    ("waits", "failures", "mark", "hybrid", "lag"),
    [
        (None, None, 900, False, None),
        (Backlog(0, 0, None), None, 900, False, 0.0),
        (Backlog(2, 180, 970.0), None, 900, False, 30.0),
        (Backlog(2, 180, 970.0), 950.0, 900, False, 50.0),
        (Backlog(0, 0, 999.5, crawling=True), None, 900, False, 100.0),  # what the crawl finds may be older
        (Backlog(0, 0, 999.5), None, 900, True, 100.0),
        (Backlog(2, 180, 999.5, dated=False), None, 900, False, 100.0),
        (Backlog(2, 180, None), None, 900, False, 100.0),
        (Backlog(2, 180, 999.5, dated=False), None, -1, False, None),
        (Backlog(0, 0, 1001.0), None, 900, False, 0.0),  # a clock that was set back
    ],
)
def test_sta_3_lag(waits: Backlog | None, failures: float | None, mark: int, hybrid: bool, lag: float | None) -> None:
    """STA-3: the oldest thing that may not be there; as old as the mark while it is not known what there is."""
    assert lag_of(1000.0, waits, failures, mark, hybrid) == lag


def test_a_first_copy_makes_no_number_up() -> None:
    first = FirstCopy()
    assert first.shown(5.0, True)["files"] == [0, None]
    first.sent(10, 1000, 100.0, 5.0)
    first.found(40, 4000, False)
    shown = first.shown(6.0, True)
    assert (shown["files"], shown["bytes"], shown["found"]) == ([10, None], [1000, None], [40, 4000])
    assert (shown["fraction"], shown["eta_seconds"], shown["eta_basis"]) == (None, None, None)
    first.found(40, 4000, True)
    shown = first.shown(7.0, True)
    assert (shown["files"], shown["bytes"], shown["fraction"]) == ([10, 40], [1000, 4000], 0.25)
    assert shown["eta_seconds"] == pytest.approx(6.0, rel=0.1) and "last minute" in shown["eta_basis"]
    assert first.shown(7.0, False)["eta_seconds"] is None, "paused, nobody knows when"
    again = FirstCopy(first.kept())
    again.found(40, 4000, True)
    assert again.shown(1.0, True)["files"] == [10, 40], "an earlier run's part is not forgotten"
    assert again.shown(1.0, True)["eta_seconds"] is None, "and is no rate of this one"
    first.sent(90, 90_000, 101.0, 8.0)
    shown = first.shown(9.0, True)
    assert (shown["files"], shown["fraction"]) == ([40, 40], 0.99), "what was sent twice is not more than all"
    assert FirstCopy({"files": "x", "bytes": -1, "since": "y"}).kept() == FirstCopy().kept()
