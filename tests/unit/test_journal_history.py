"""The index of a journal as real bricks have it, with its hazards, and the history of a time range (CRW-4, MRK-9)."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from engine.journal.format import encode
from engine.journal.history import COMPLETE, PARTIAL, UNAVAILABLE, Hole, Htime, history, place
from engine.model import Changelog, DataChange

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gluster-10.3" / "changelogs"
T = 1700000000
"""2023-11-14 22:13:20 UTC"""


class Brick:
    """A journal directory to build by hand, as some brick might have left it."""

    def __init__(self, root: Path, prefix: bytes | None = None) -> None:
        self.root = os.fsencode(root)
        self.prefix = prefix if prefix is not None else self.root
        (root / "htime").mkdir(parents=True)

    def file(self, suffix: int, layout: int = 0) -> bytes:
        path = place(self.root, suffix, layout)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(encode([DataChange(suffix.to_bytes(16, "big"))]))
        return path

    def record(self, suffix: int, idle: bool = False, layout: int = 0) -> bytes:
        path = place(self.prefix, suffix, layout)
        if idle:  # as the brick does it: the first occurrence in the whole path
            path = path.replace(b"CHANGELOG", b"changelog", 1)
        return path + b"\0"

    def index(self, start: int, *records: bytes) -> Path:
        path = Path(os.fsdecode(self.root)) / "htime" / f"HTIME.{start}"
        with path.open("ab") as f:
            f.write(b"".join(records))
        return path

    def read(self) -> Htime:
        found = Htime(self.root)
        found.poll()
        return found


@pytest.fixture
def brick(tmp_path: Path) -> Brick:
    return Brick(tmp_path / "changelogs")


def suffixes(logs: list[Changelog]) -> list[int]:
    return [log.suffix for log in logs]


def real(logs: list[Changelog]) -> list[int]:
    return [log.suffix for log in logs if log.path]


def test_crw_1_the_real_journal_has_its_slices_and_its_hole() -> None:
    found = history(os.fsencode(FIXTURE), 1795324985, 1795325030)
    assert suffixes(found.changelogs) == [*range(1795324985, 1795325006), *range(1795325009, 1795325031)]
    assert real(found.changelogs) == [1795324987, 1795324994, 1795325001, 1795325011]
    assert [log.size for log in found.changelogs if log.path] == [2617, 2693, 1616, 2645]
    assert found.holes == [Hole(1795325005, 1795325008, "journalling was off")]
    assert found.status == PARTIAL
    assert (found.covered_from, found.covered_to) == (1795324985, 1795325030)


def test_crw_4_both_sides_of_the_real_hole_are_complete_history() -> None:
    before = history(os.fsencode(FIXTURE), 1795324985, 1795325005)
    assert (before.status, real(before.changelogs)) == (COMPLETE, [1795324987, 1795324994, 1795325001])
    after = history(os.fsencode(FIXTURE), 1795325008, 1795325020)
    assert (after.status, real(after.changelogs)) == (COMPLETE, [1795325011])
    assert after.covered_to == 1795325020


def test_crw_4_history_ends_with_the_slice_that_contains_the_end(brick: Brick) -> None:
    for n in (T + 10, T + 25, T + 40):
        brick.file(n)
    brick.index(T, *(brick.record(n) for n in (T + 10, T + 25, T + 40)))
    assert suffixes(history(brick.root, T + 5, T + 12).changelogs) == [T + 10, T + 25]
    assert suffixes(history(brick.root, T + 10, T + 25).changelogs) == [T + 10, T + 25]
    assert suffixes(history(brick.root, T + 26, T + 100).changelogs) == [T + 40]


@pytest.mark.parametrize(("late", "status"), [(0, COMPLETE), (20, COMPLETE), (21, PARTIAL), (500, PARTIAL)])
def test_crw_4_an_index_may_lag_by_a_rollover_and_five_seconds(brick: Brick, late: int, status: str) -> None:
    brick.file(T + 15)
    brick.index(T, brick.record(T + 15))
    found = history(brick.root, T, T + 15 + late)
    assert (found.status, found.covered_to) == (status, T + 15)


def test_crw_4_no_history_before_the_first_index_or_without_one(brick: Brick) -> None:
    assert history(brick.root, T, T + 5).status == UNAVAILABLE
    brick.index(T, brick.record(T + 15, idle=True))
    assert history(brick.root, T - 1, T + 15).status == UNAVAILABLE
    assert history(brick.root, T, T + 15).status == COMPLETE
    assert history(brick.root + b"/nowhere", T, T + 15).status == UNAVAILABLE


def test_crw_4_history_later_than_the_last_slice_is_empty_and_complete(brick: Brick) -> None:
    brick.index(T, brick.record(T + 15, idle=True))
    found = history(brick.root, T + 16, T + 20)
    assert (found.changelogs, found.status, found.covered_to) == ([], COMPLETE, T + 16)


def test_all_index_files_serve_one_request(brick: Brick) -> None:
    for n in (T + 10, T + 110):
        brick.file(n)
    brick.index(T, brick.record(T + 10))
    brick.index(T + 100, brick.record(T + 110))
    found = history(brick.root, T, T + 110)
    assert suffixes(found.changelogs) == [T + 10, T + 110]
    assert found.holes == [Hole(T + 10, T + 100, "journalling was off")]


def test_flat_dated_and_local_time_layouts_in_one_index(brick: Brick) -> None:
    """An upgrade from v7 leaves records of two lengths, and its script places files by local time."""
    days = {T: 0, T + 1: 3, T + 2: 1, T + 3: 2}
    paths = {n: brick.file(n, layout) for n, layout in days.items()}
    brick.index(T - 5, *(brick.record(n, layout=3 if n < T + 2 else 0) for n in days))
    found = history(brick.root, T, T + 3)
    assert {log.suffix: log.path for log in found.changelogs} == paths
    assert not found.holes


def test_backup_files_beside_the_index_are_no_index(brick: Brick) -> None:
    brick.index(T, brick.record(T + 1, idle=True))
    path = Path(os.fsdecode(brick.root)) / "htime"
    shutil.copy(path / f"HTIME.{T}", path / f"HTIME.{T - 50}.bak")
    assert brick.read().spans == [(T, T + 1)]


def test_a_brick_path_with_the_word_in_it(tmp_path: Path) -> None:
    """The brick lowers the first occurrence in the whole path: an idle slice keeps its base name in capitals."""
    brick = Brick(tmp_path / "CHANGELOG-brick" / "changelogs")
    brick.file(T + 1)
    brick.index(T, brick.record(T + 1), brick.record(T + 2, idle=True), brick.record(T + 3, idle=True))
    found = history(brick.root, T, T + 3)
    assert [(log.suffix, bool(log.path)) for log in found.changelogs] == [(T + 1, True), (T + 2, False), (T + 3, False)]
    assert found.status == COMPLETE


def test_a_brick_path_with_the_word_in_it_seen_from_elsewhere(tmp_path: Path) -> None:
    brick = Brick(tmp_path / "copy", prefix=b"/bricks/CHANGELOG.d/b1/.glusterfs/changelogs")
    brick.file(T + 1)
    brick.index(T, brick.record(T + 1), brick.record(T + 2, idle=True))
    assert history(brick.root, T, T + 2).status == COMPLETE


def test_crw_1_a_missing_file_is_a_hole(brick: Brick) -> None:
    brick.file(T + 10)
    brick.file(T + 30)
    brick.index(T, *(brick.record(n) for n in (T + 10, T + 20, T + 30)))
    found = history(brick.root, T, T + 30)
    assert real(found.changelogs) == [T + 10, T + 30]
    assert found.holes == [Hole(T + 10, T + 20, "the changelog file is missing")]
    assert found.status == PARTIAL


def test_mrk_9_time_that_runs_backwards_is_a_hole(brick: Brick) -> None:
    for n in (T + 10, T + 100, T + 40, T + 50):
        brick.file(n)
    brick.index(T, *(brick.record(n) for n in (T + 10, T + 100, T + 40, T + 50)))
    found = history(brick.root, T, T + 100)
    assert suffixes(found.changelogs) == [T + 10, T + 40, T + 50, T + 100]
    assert found.holes == [Hole(T + 39, T + 101, "time stamps ran backwards")]
    # and a mark in the time that came twice still sees it, also the one of the last slice before
    assert history(brick.root, T + 99, T + 100).holes


def test_mrk_9_overlapping_index_files_are_a_hole(brick: Brick) -> None:
    brick.index(T, brick.record(T + 500, idle=True))
    brick.index(T + 100, brick.record(T + 110, idle=True), brick.record(T + 600, idle=True))
    holes = history(brick.root, T, T + 600).holes
    assert holes == [Hole(T + 109, T + 501, "time stamps ran backwards between index files")]


def test_duplicates_are_given_once_and_prefer_the_one_with_a_file(brick: Brick) -> None:
    brick.file(T + 5)
    brick.index(T, brick.record(T + 5), brick.record(T + 5, idle=True), brick.record(T + 6, idle=True))
    found = history(brick.root, T, T + 6)
    assert [(log.suffix, bool(log.path)) for log in found.changelogs] == [(T + 5, True), (T + 6, False)]
    assert not found.holes


def test_a_torn_last_record_waits_for_its_end(brick: Brick) -> None:
    whole = brick.record(T + 2, idle=True)
    path = brick.index(T, brick.record(T + 1, idle=True), whole[:-12])
    index = brick.read()
    assert index.last == T + 1
    assert any("torn" in w for w in index.warnings)
    with path.open("ab") as f:
        f.write(whole[-12:])
    assert index.poll()
    assert index.last == T + 2
    assert not index.warnings
    assert not index.poll()


def test_half_a_record_before_a_whole_one_is_a_hole(brick: Brick) -> None:
    half = brick.record(T + 2)[:-15]
    brick.index(T, brick.record(T + 1, idle=True), half, brick.record(T + 3, idle=True))
    found = history(brick.root, T, T + 3)
    assert suffixes(found.changelogs) == [T + 1, T + 3]
    assert found.holes == [Hole(T + 1, T + 3, "a damaged record in the index")]


@pytest.mark.parametrize("damage", [b"\0" * 70, b"not a record\0", b"/b/CHANGELOG.17\0"])
def test_damage_in_the_index_is_a_hole(brick: Brick, damage: bytes) -> None:
    brick.index(T, brick.record(T + 1, idle=True), damage, brick.record(T + 90, idle=True))
    found = history(brick.root, T, T + 90)
    assert suffixes(found.changelogs) == [T + 1, T + 90]
    assert found.holes == [Hole(T + 1, T + 90, "a damaged record in the index")]
    assert found.warnings


def test_the_xattr_is_only_a_cross_check(brick: Brick) -> None:
    path = brick.index(T, brick.record(T + 1, idle=True), brick.record(T + 2, idle=True))
    try:
        os.setxattr(path, "trusted.glusterfs.htime", b"%d:99" % (T + 2))
    except OSError as e:
        pytest.skip(f"no trusted xattrs here: {e}")
    found = history(brick.root, T, T + 2)
    assert (suffixes(found.changelogs), found.status, found.warnings) == ([T + 1, T + 2], COMPLETE, [])
    os.setxattr(path, "trusted.glusterfs.htime", b"%d:2" % (T + 50))
    assert any("its last record" in w for w in brick.read().warnings)


def test_an_index_that_is_replaced_is_read_anew(brick: Brick) -> None:
    path = brick.index(T, brick.record(T + 1, idle=True), brick.record(T + 2, idle=True))
    index = brick.read()
    path.rename(path.with_suffix(".bak"))
    brick.index(T, brick.record(T + 7, idle=True))
    assert index.poll()
    assert [e.suffix for e in index.entries()] == [T + 7]


def test_places_are_by_utc() -> None:
    assert place(b"/b1/.glusterfs/changelogs", T) == b"/b1/.glusterfs/changelogs/2023/11/14/CHANGELOG.1700000000"
    assert time.gmtime(T).tm_mday == 14


def test_mrk_9_a_second_that_ended_two_slices_is_a_hole(brick: Brick) -> None:
    """The brick renames the open slice to its second: the second one of a second goes over the first."""
    brick.file(T + 5)
    brick.index(T, brick.record(T + 5), brick.record(T + 5), brick.record(T + 6, idle=True))
    (hole,) = brick.read().holes()
    assert (hole.start, hole.end) == (T + 4, T + 5) and "overwritten" in hole.reason


@pytest.mark.parametrize("first_idle", [True, False])
def test_an_idle_slice_and_a_full_one_of_one_second_are_none(brick: Brick, first_idle: bool) -> None:
    brick.file(T + 5)
    brick.index(T, brick.record(T + 5, idle=first_idle), brick.record(T + 5, idle=not first_idle))
    found = brick.read()
    assert not found.holes()
    assert [(e.suffix, e.idle) for e in found.entries()] == [(T + 5, False)]


@pytest.mark.parametrize("layout", [0, 3])
def test_crw_1_a_slice_that_no_index_has_is_served(brick: Brick, layout: int) -> None:
    """What was open when the brick ended gets a name at its next start, and no record in the index."""
    path = brick.file(T + 7, layout)
    brick.file(T + 5)
    brick.index(T, brick.record(T + 5), brick.record(T + 9, idle=True))
    found = brick.read()
    assert [(c.suffix, c.path) for c in found.loose(T + 1, T + 20)] == [(T + 7, path)]
    assert found.loose(T + 8, T + 20) == []
    assert real(history(brick.root, T + 1, T + 9).changelogs) == [T + 5, T + 7]
