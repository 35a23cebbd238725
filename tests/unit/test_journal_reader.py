"""The worker's view of a journal: what is pending, in which order, where it goes when it is done (CHG-11, MRK-8)."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path

import pytest

from engine.journal import archive as archive_module
from engine.journal.archive import Archive
from engine.journal.format import JournalError, decode
from engine.journal.history import Hole, place
from engine.journal.reader import Journal
from engine.journal.writer import JournalWriter
from engine.model import NO_MARK, Changelog, DataChange, Mark

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gluster-10.3" / "changelogs"
T = 1700000000


class Clock:
    """Unix time as a test wants it."""

    def __init__(self, now: float = T) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def change(n: int) -> DataChange:
    return DataChange(n.to_bytes(16, "big"))


class Pair:
    """A journal with its writer and its reader, on one clock."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.root = root
        self.writer = JournalWriter(os.fsencode(root), clock=self.clock)
        self.journal = Journal(os.fsencode(root), clock=self.clock)

    def write(self, second: int, *changes: DataChange) -> Changelog:
        self.clock.now = T + second
        return self.writer.write(changes)

    def archived(self, where: str = "") -> list[str]:
        out = []
        for path in sorted((self.root / where).glob("archive_*.tar")):
            with tarfile.open(path) as tar:
                out += tar.getnames()
        return out


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "journal")


def mark_of(log: Changelog) -> Mark:
    """The mark after a batch that ends with this slice (MRK-6)."""
    return Mark(log.suffix - 1, 0)


def test_pending_is_in_the_order_of_application(pair: Pair) -> None:
    first = pair.write(1, change(1))
    parts = [pair.writer.write_xsync(T + 1, n, [change(n)]) for n in (2, 10, 1, 9)]
    second = pair.write(2, change(2))
    found = pair.journal.pending(NO_MARK)
    assert found == sorted([first, *parts, second])
    assert [(log.suffix - T, log.part) for log in found] == [(1, 0), (1, 1), (1, 2), (1, 9), (1, 10), (2, 0)]
    assert [pair.journal.read(log).records for log in found][-1] == [change(2)]


def test_pending_begins_after_the_mark(pair: Pair) -> None:
    logs = [pair.write(n, change(n)) for n in range(1, 6)]
    assert pair.journal.pending(Mark(T + 3, 0)) == logs[3:]
    assert pair.journal.pending(Mark(T + 1, 0)) == logs[1:]
    assert pair.journal.pending(NO_MARK) == logs


def test_mrk_8_of_heartbeats_in_a_row_the_last_is_given(pair: Pair) -> None:
    for n in range(1, 10):
        pair.write(n, *([change(n)] if n in (3, 7) else []))
    found = pair.journal.pending(NO_MARK)
    assert [(log.suffix - T, bool(log.path)) for log in found] == [
        (2, False),
        (3, True),
        (6, False),
        (7, True),
        (9, False),
    ]
    heartbeat = pair.journal.read(found[-1])
    assert (heartbeat.records, heartbeat.torn) == ([], None)


def test_new_slices_appear_while_the_journal_is_read(pair: Pair) -> None:
    mark = NO_MARK
    for n in range(1, 6):
        log = pair.write(n, change(n))
        assert pair.journal.pending(mark) == [log]
        pair.journal.done(log)
        mark = mark_of(log)
    assert pair.journal.pending(mark) == []
    assert pair.journal.holes(mark) == []


def test_slices_of_a_hybrid_crawl_are_pending_until_they_are_done(pair: Pair) -> None:
    """CRW-8: a crawl is resumed where it was, whatever the mark says meanwhile."""
    log = pair.writer.write_xsync(T + 1, 1, [change(1)])
    assert pair.journal.pending(Mark(T + 500, 0)) == [log]
    pair.journal.done(log)
    assert pair.journal.pending(NO_MARK) == []
    assert pair.archived("xsync") == ["XSYNC-CHANGELOG.1700000001.1"]


def test_crw_1_a_slice_that_is_gone_undone_is_a_hole(pair: Pair) -> None:
    logs = [pair.write(n, change(n)) for n in (10, 20, 30)]
    os.unlink(logs[1].path)
    assert pair.journal.pending(NO_MARK) == [logs[0], logs[2]]
    assert pair.journal.holes(NO_MARK) == [Hole(T + 10, T + 20, "the changelog file is missing")]
    assert pair.journal.pending(Mark(T + 25, 0)) == [logs[2]]
    assert pair.journal.holes(Mark(T + 25, 0)) == []


def test_mrk_9_backwards_time_on_a_brick_is_a_hole_until_the_mark_is_past_it(tmp_path: Path) -> None:
    root = tmp_path / "changelogs"
    (root / "htime").mkdir(parents=True)
    index = root / "htime" / f"HTIME.{T}"
    index.write_bytes(b"".join(b"/b/changelog.%d\0" % (T + n) for n in (5, 10)))
    journal = Journal(os.fsencode(root), owned=False, xsync=os.fsencode(tmp_path / "xsync"))
    assert journal.pending(Mark(T + 9, 0))[-1].suffix == T + 10
    assert journal.holes(Mark(T + 9, 0)) == []
    with index.open("ab") as f:
        f.write(b"/b/changelog.%d\0" % (T + 7))
    journal.pending(Mark(T + 9, 0))
    assert journal.holes(Mark(T + 9, 0)) == [Hole(T + 6, T + 11, "time stamps ran backwards")]
    assert journal.holes(Mark(T + 11, 0)) == []


def test_a_bricks_own_journal_is_only_read(tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in FIXTURE.rglob("*")}
    journal = Journal(os.fsencode(FIXTURE), owned=False, xsync=os.fsencode(tmp_path / "xsync"))
    found = journal.pending(Mark(1795324986, 0))
    assert [log.suffix for log in found if log.path] == [1795324987, 1795324994, 1795325001, 1795325011]
    assert sum(len(journal.read(log).records) for log in found) == 4 * 31
    assert journal.holes(Mark(1795324986, 0)) == [Hole(1795325005, 1795325008, "journalling was off")]
    journal.done_many(found)
    assert journal.stale(Mark(1795326000, 0)) == []
    assert journal.prune(1.0, Mark(1795326000, 0)) == 0
    assert {p: p.stat().st_mtime_ns for p in FIXTURE.rglob("*")} == before


def test_a_journal_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path.joinpath("none").as_posix())
    assert journal.pending(NO_MARK) == []
    assert journal.holes(NO_MARK) == []
    assert journal.stale(Mark(T, 0)) == []
    assert journal.size_bytes() == 0
    assert journal.prune(1) == 0


def test_crw_3_slices_before_the_mark_are_archived_unread(pair: Pair) -> None:
    logs = [pair.write(n, change(n)) for n in range(1, 5)]
    stale = pair.journal.stale(Mark(T + 2, 0))
    assert stale == logs[:2]
    pair.journal.done_many(stale)
    assert pair.archived() == ["CHANGELOG.1700000001", "CHANGELOG.1700000002"]
    assert pair.journal.stale(Mark(T + 2, 0)) == []


# ---- damaged slices -------------------------------------------------------------------------------------------------


def test_err_3_a_torn_slice_gives_its_records_and_its_offset(pair: Pair) -> None:
    log = pair.write(1, change(1), change(2))
    os.truncate(log.path, log.size - 5)
    found = pair.journal.read(log)
    assert found.records == [change(1)]
    assert found.torn is not None
    assert found.torn.offset == 51 + 38
    kept = pair.journal.set_aside(log)
    assert decode(Path(os.fsdecode(kept)).read_bytes()).torn == found.torn
    assert pair.journal.pending(NO_MARK) == []


def test_err_3_a_foreign_slice_is_an_error_with_path_and_offset(pair: Pair) -> None:
    log = pair.write(1, change(1))
    Path(os.fsdecode(log.path)).write_bytes(b"\x7fELF...")
    with pytest.raises(JournalError) as caught:
        pair.journal.read(log)
    assert (caught.value.path, caught.value.offset, caught.value.code) == (log.path, 0, "journal")
    os.unlink(log.path)
    with pytest.raises(JournalError) as caught:
        pair.journal.read(log)
    assert caught.value.code == "changelog-missing"


def test_a_bricks_damaged_slice_is_copied(tmp_path: Path) -> None:
    journal = Journal(os.fsencode(FIXTURE), owned=False, xsync=os.fsencode(tmp_path / "xsync"))
    log = next(log for log in journal.pending(NO_MARK) if log.path)
    kept = Path(os.fsdecode(journal.set_aside(log)))
    assert kept.parent == tmp_path / "damaged"
    assert kept.read_bytes() == Path(os.fsdecode(log.path)).read_bytes()


# ---- archives -------------------------------------------------------------------------------------------------------


def test_chg_11_done_slices_go_to_the_archive_of_the_month(pair: Pair) -> None:
    logs = [pair.write(n, change(n)) for n in range(1, 4)]
    content = [Path(os.fsdecode(log.path)).read_bytes() for log in logs]
    pair.journal.done(logs[0])
    pair.journal.done_many(logs[1:])
    path = pair.root / "archive_202311.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        stored = []
        for member in members:
            f = tar.extractfile(member)
            assert f is not None
            stored.append(f.read())
    assert stored == content
    assert not any(os.path.exists(log.path) for log in logs)
    pair.clock.now = T + 30 * 86400
    pair.journal.done(pair.writer.write([change(9)]))
    assert sorted(p.name for p in pair.root.glob("*.tar")) == ["archive_202311.tar", "archive_202312.tar"]


def test_chg_11_a_missing_slice_is_skipped(pair: Pair) -> None:
    logs = [pair.write(n, change(n)) for n in range(1, 4)]
    os.unlink(logs[1].path)
    pair.journal.done_many(logs)
    assert pair.archived() == ["CHANGELOG.1700000001", "CHANGELOG.1700000003"]
    pair.journal.done_many(logs)
    assert len(pair.archived()) == 2


def test_chg_11_nothing_to_archive_makes_no_archive(pair: Pair) -> None:
    log = pair.write(1, change(1))
    os.unlink(log.path)
    pair.journal.done_many([log, pair.write(2)])
    assert not list(pair.root.glob("archive*"))


@pytest.mark.parametrize("damage", ["garbage", "cut", "zeros", "header"])
def test_chg_11_a_broken_archive_is_kept_aside_and_begun_anew(pair: Pair, damage: str) -> None:
    logs = [pair.write(n, change(n)) for n in range(1, 5)]
    pair.journal.done_many(logs[:3])
    path = pair.root / "archive_202311.tar"
    data = path.read_bytes()
    broken = {
        "garbage": b"not a tar file at all" * 100,
        "cut": data[: 1024 + 300],
        "zeros": data[:1024] + bytes(1024) + data[2048:],
        "header": data[:1024] + b"x" * 200 + data[1224:],
    }[damage]
    path.write_bytes(broken)
    again = Journal(os.fsencode(pair.root), clock=pair.clock)
    again.done(logs[3])
    assert path.with_suffix(".tar.broken").read_bytes() == broken
    assert pair.archived() == ["CHANGELOG.1700000004"]
    path.write_bytes(broken)
    Journal(os.fsencode(pair.root), clock=pair.clock).done(pair.write(9, change(9)))
    assert path.with_suffix(".tar.broken.1").read_bytes() == broken


def test_chg_11_an_archive_that_tar_itself_wrote_is_continued(pair: Pair) -> None:
    log = pair.write(1, change(1))
    (pair.root / "other").write_bytes(b"x" * 700)
    with tarfile.open(pair.root / "archive_202311.tar", "w") as tar:
        tar.add(pair.root / "other", "other")
    pair.journal.done(log)
    assert pair.archived() == ["other", "CHANGELOG.1700000001"]


def test_chg_11_a_full_disk_does_not_stay_full_of_done_slices(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [pair.write(n, change(n)) for n in range(1, 4)]
    archive = Archive(os.fsencode(pair.root), pair.clock)
    archive.append([logs[0].path])
    write = archive_module._write

    def full(fd: int, data: bytes, at: int) -> None:
        write(fd, data[:100], at)
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(archive_module, "_write", full)
    archive.append([log.path for log in logs[1:]])
    assert archive.dropped == 2
    assert not any(os.path.exists(log.path) for log in logs)
    monkeypatch.undo()
    archive.append([pair.write(7, change(7)).path])
    assert pair.archived() == ["CHANGELOG.1700000001", "CHANGELOG.1700000007"]


def test_days_that_are_over_and_done_leave_no_directory(pair: Pair) -> None:
    logs = [pair.write(1 + n * 86400, change(n)) for n in range(3)]
    pair.journal.done_many(logs[:2])
    assert [p.name for p in (pair.root / "2023" / "11").iterdir()] == ["16"]
    pair.journal.done(logs[2])
    assert (pair.root / "2023" / "11" / "16").is_dir()
    assert pair.journal.read(pair.write(2 * 86400 + 2, change(7))).records == [change(7)]


# ---- room -----------------------------------------------------------------------------------------------------------


def disk_size(root: Path) -> int:
    return sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


def test_safe_6_the_size_of_the_journal_is_known_at_any_time(pair: Pair) -> None:
    for n in range(1, 30):
        log = pair.write(n * 3600, *(change(k) for k in range(n)))
        assert pair.journal.size_bytes() == disk_size(pair.root)
        if n % 5 == 0:
            pair.journal.done(log)
            assert pair.journal.size_bytes() == disk_size(pair.root)
        if n % 7 == 0:
            pair.writer.write_xsync(log.suffix, n, [change(n)] * n)
    pair.journal.done_many(pair.journal.pending(NO_MARK))
    assert pair.journal.size_bytes() == disk_size(pair.root)


def test_safe_6_directories_of_earlier_days_are_not_listed_again(pair: Pair) -> None:
    for n in range(3):
        pair.write(1 + n * 86400, change(n))
    old = pair.root / "2023" / "11" / "14"
    os.utime(old, (T, T))
    size = pair.journal.size_bytes()
    assert size == disk_size(pair.root)
    (old / f"CHANGELOG.{T + 9}").write_bytes(b"unseen")
    os.utime(old, (T, T))
    assert pair.journal.size_bytes() == size
    os.utime(old, (T, T + 1))
    assert pair.journal.size_bytes() == size + 6


def test_safe_6_archives_are_pruned_by_age(pair: Pair) -> None:
    pair.journal.done(pair.write(1, change(1)))
    pair.writer.write_xsync(T + 1, 1, [change(1)])
    pair.journal.done_many(pair.journal.pending(Mark(T, 0)))
    (pair.root / "archive_202310.tar.broken").write_bytes(b"old")
    (pair.root / "archive_keep.tar").write_bytes(b"a person's own")
    for path in [*pair.root.glob("archive_2*"), *(pair.root / "xsync").glob("archive_2*")]:
        os.utime(path, (T, T))
    pair.clock.now = T + 30 * 86400
    assert pair.journal.prune(0) == 0
    assert pair.journal.prune(30 * 86400) == 0
    expected = disk_size(pair.root) - disk_size(pair.root / "htime") - len(b"a person's own")
    expected -= (pair.root / "chain").stat().st_size
    pair.clock.now += 1
    assert pair.journal.prune(30 * 86400) == expected
    assert [p.name for p in pair.root.glob("archive*")] == ["archive_keep.tar"]


def test_safe_6_index_files_are_pruned_when_the_mark_and_the_time_are_past(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.journal.writer.ROTATE", 200)
    for n in range(1, 20):
        pair.write(n)
    files = len(list((pair.root / "htime").iterdir()))
    pair.clock.now = T + 1000
    assert pair.journal.prune(100, Mark(T, 0)) == 0
    assert pair.journal.prune(5000, Mark(T + 19, 0)) == 0
    assert pair.journal.prune(100, Mark(T + 10, 0)) > 0
    assert 1 < len(list((pair.root / "htime").iterdir())) < files
    assert [log.suffix for log in pair.journal.pending(Mark(T + 10, 0))] == [T + 19]
    assert pair.journal.holes(Mark(T + 10, 0)) == []


def test_slices_of_a_brick_that_no_index_has_are_looked_for_when_asked(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    (tmp_path / "htime").mkdir()
    (tmp_path / "htime" / f"HTIME.{T}").write_bytes(place(root, T + 9).lower() + b"\0")
    path = place(root, T + 7)
    os.makedirs(os.path.dirname(path))
    Path(os.fsdecode(path)).write_bytes(b"x" * 100)
    journal = Journal(root, owned=False, clock=Clock(T + 20))
    assert [c.suffix for c in journal.pending(Mark(T, 0))] == [T + 7, T + 9]
    assert [c.suffix for c in journal.pending(Mark(T + 7, 0))] == [T + 9]
    journal.rescan = False
    late = place(root, T + 12)
    Path(os.fsdecode(late)).write_bytes(b"x" * 100)
    assert T + 12 not in [c.suffix for c in journal.pending(Mark(T, 0))]
    journal.rescan = True
    assert T + 12 in [c.suffix for c in journal.pending(Mark(T, 0))]
