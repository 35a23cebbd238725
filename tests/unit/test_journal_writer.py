"""The journal of a tree: suffixes that never run backwards (MRK-9), slices that are whole and safe, crashes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.journal.format import JournalError, decode
from engine.journal.history import COMPLETE, Hole, Htime, history
from engine.journal.reader import Journal
from engine.journal.writer import JournalWriter
from engine.model import NO_MARK, DataChange, Mark

REPO = Path(__file__).parent.parent.parent
T = 1700000000


class Clock:
    """Unix time as a test wants it."""

    def __init__(self, now: float = T) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def change(n: int) -> DataChange:
    return DataChange(n.to_bytes(16, "big"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "journal")


def test_mrk_9_suffixes_follow_the_clock_but_never_run_backwards(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 10.9
    taken = [writer.write([change(1)]).suffix, writer.write([change(2)]).suffix, writer.idle().suffix]
    clock.now = T - 5000
    taken += [writer.write([change(3)]).suffix, writer.write([change(4)], now=T + 20.0).suffix]
    writer.close()
    assert taken == [T + 10, T + 11, T + 12, T + 13, T + 20]


def test_mrk_9_the_last_suffix_survives_a_restart_with_the_clock_set_back(root: bytes, clock: Clock) -> None:
    clock.now = T + 100
    writer = JournalWriter(root, clock=clock)
    writer.write([change(1)])
    heartbeat = writer.idle().suffix
    writer.close()
    clock.now = T - 9999
    writer = JournalWriter(root, clock=clock)
    assert writer.last == heartbeat
    crawl = writer.write_xsync(heartbeat + 7, 1, [change(2)])
    writer.close()
    writer = JournalWriter(root, clock=clock)
    assert writer.last == crawl.suffix
    writer.close()
    writer = JournalWriter(root, clock=clock, floor=T + 5000)
    assert writer.write([change(3)]).suffix == T + 5001
    writer.close()


def test_slices_are_found_where_glusterfs_would_put_them(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    log = writer.write([change(1), change(2)])
    writer.idle()
    writer.close()
    assert log.path == root + b"/2023/11/14/CHANGELOG.1700000001"
    data = Path(os.fsdecode(log.path)).read_bytes()
    assert (log.size, log.part) == (len(data), 0)
    assert decode(data).records == [change(1), change(2)]
    index = Path(os.fsdecode(root)) / "htime" / f"HTIME.{T}"
    assert index.read_bytes() == log.path + b"\0" + root + b"/2023/11/14/changelog.1700000002\0"


def test_the_history_of_our_own_journal_is_complete(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    for n in range(1, 9):
        clock.now = T + n
        writer.write([change(n)] if n % 3 else [])
    writer.close()
    for start in (T, T + 1, T + 4):
        found = history(root, start, T + 8, ours=True)
        assert (found.status, found.holes, found.covered_to) == (COMPLETE, [], T + 8)


def test_glusterfs_xattrs_are_kept_where_they_may_be(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    writer.write([change(1)])
    writer.idle()
    if not writer.counted:
        writer.close()
        pytest.skip("no trusted xattrs here")
    writer.close()
    assert os.getxattr(root + b"/htime/HTIME.%d" % T, "trusted.glusterfs.htime") == b"%d:2" % (T + 2)
    assert os.getxattr(root + b"/htime", "trusted.glusterfs.current_htime") == b"HTIME.%d" % T


def test_the_index_goes_on_in_a_new_file_without_a_hole(
    root: bytes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.journal.writer.ROTATE", 300)
    writer = JournalWriter(root, clock=clock)
    taken = []
    for n in range(1, 30):
        clock.now = T + n
        taken.append(writer.write([change(n)] if n % 2 else []).suffix)
    writer.close()
    assert len(os.listdir(root + b"/htime")) > 3
    found = history(root, T, T + 29, ours=True)
    assert ([log.suffix for log in found.changelogs], found.holes) == (taken, [])
    assert [log.suffix for log in found.changelogs if log.path] == taken[::2]
    reader = Htime(root, ours=True, since=T + 20)
    reader.poll()
    assert 0 < len(reader.entries()) < 29
    assert reader.last == T + 29
    assert not reader.holes()


def test_a_crash_while_the_index_is_continued_leaves_no_hole(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    last = writer.write([change(1)]).suffix
    writer.close()
    Path(os.fsdecode(root), "htime", f"HTIME.{last}").touch()
    writer = JournalWriter(root, clock=clock)
    writer.write([change(2)])
    writer.close()
    assert not history(root, T, T + 2, ours=True).holes


def test_crw_1_what_was_missed_is_a_hole_in_the_history(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    writer.write([change(1)])
    clock.now = T + 50
    writer.hole()
    writer.write([change(2)])
    writer.close()
    clock.now = T + 200
    writer = JournalWriter(root, clock=clock, continues=False)
    writer.write([change(3)])
    writer.close()
    holes = Journal(root).holes(NO_MARK)
    assert holes == [Hole(T + 1, T + 50, "journalling was off"), Hole(T + 51, T + 200, "journalling was off")]
    assert Journal(root).holes(Mark(T + 50, 0)) == holes[1:]


@pytest.mark.parametrize("left", [b"/2023/11/14/CHANG", b"\0" * 300, b"half\0" + b"\0" * 50 + b"/2023"])
def test_what_a_crash_left_at_the_end_of_the_index_is_cut_off(root: bytes, clock: Clock, left: bytes) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    writer.write([change(1)])
    writer.close()
    with Path(os.fsdecode(root), "htime", f"HTIME.{T}").open("ab") as f:
        f.write(left)
    writer = JournalWriter(root, clock=clock)
    writer.write([change(2)])
    writer.close()
    found = history(root, T, T + 2, ours=True)
    assert ([log.suffix for log in found.changelogs], found.holes) == ([T + 1, T + 2], [])


def test_a_slice_that_a_crash_left_unindexed_is_indexed(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    writer.write([change(1)])
    size = os.path.getsize(root + b"/htime/HTIME.%d" % T)
    clock.now = T + 2
    log = writer.write([change(2)])
    writer.close()
    os.truncate(root + b"/htime/HTIME.%d" % T, size)
    Path(os.fsdecode(os.path.dirname(log.path)), ".tmp-CHANGELOG.1700000009").write_bytes(b"half")
    writer = JournalWriter(root, clock=clock)
    assert writer.last == T + 2
    writer.close()
    assert [log.suffix for log in Journal(root).pending(NO_MARK)] == [T + 1, T + 2]
    assert not [n for n in os.listdir(os.path.dirname(log.path)) if n.startswith(b".tmp")]


def test_an_index_that_is_none_is_refused(root: bytes) -> None:
    os.makedirs(root + b"/htime")
    Path(os.fsdecode(root), "htime", f"HTIME.{T}").write_bytes(b"something else\0")
    with pytest.raises(JournalError, match=r"HTIME\.1700000000"):
        JournalWriter(root)


def test_the_directory_of_the_day_may_vanish(root: bytes, clock: Clock) -> None:
    writer = JournalWriter(root, clock=clock)
    clock.now = T + 1
    log = writer.write([change(1)])
    os.unlink(log.path)
    os.removedirs(os.path.dirname(log.path))
    log = writer.write([change(2)])
    writer.close()
    assert decode(Path(os.fsdecode(log.path)).read_bytes()).records == [change(2)]


def test_xsync_parts_count_from_one(root: bytes) -> None:
    writer = JournalWriter(root)
    log = writer.write_xsync(T, 1, [change(1)], durable=False)
    assert log.path == root + b"/xsync/XSYNC-CHANGELOG.1700000000.1"
    with pytest.raises(ValueError, match="part 0"):
        writer.write_xsync(T, 0, [change(1)])
    writer.close()


# ---- the order of system calls, and death at each of them -----------------------------------------------------------

SCRIPT = """
import os, sys
from engine.journal.writer import JournalWriter
from engine.model import DataChange
now = int(sys.argv[2])
w = JournalWriter(sys.argv[1], clock=lambda: now)
for n in range(2):
    now += 1
    log = w.write([DataChange(bytes(16))])
    os.write(1, b"%d.%d\\n" % (log.suffix, log.part))
    log = w.write_xsync(w.last, 1, [DataChange(bytes(16))])
    os.write(1, b"%d.%d\\n" % (log.suffix, log.part))
    w.idle()
w.close()
"""
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")
SYNCS = "fsync,fdatasync,rename,renameat,renameat2,mkdir"


def traced(options: list[str], log: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["strace", "-f", "-y", "-o", str(log), *options, sys.executable, "-S", "-c", SCRIPT, *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, timeout=60)


@needs_strace
def test_mrk_6_a_slice_is_durable_before_it_is_reported(tmp_path: Path) -> None:
    """File, then its name, then the index, each synced before the worker hears of the slice."""
    trace = tmp_path / "trace"
    done = traced(["-e", f"trace=write,{SYNCS}"], trace, str(tmp_path / "j"), str(T))
    assert done.returncode == 0, done.stderr
    calls = trace.read_text().splitlines()
    reports = [i for i, line in enumerate(calls) if re.search(r'write\(1<[^>]*>, "17', line)]
    assert len(reports) == 4
    before = 0
    for report in reports:
        steps = calls[before:report]
        kinds = []
        for line in steps:
            if "sync(" in line and "/.tmp-" in line:
                kinds.append("sync file")
            elif "rename" in line:
                kinds.append("rename")
            elif "write(" in line and "/htime/HTIME" in line:
                kinds.append("index")
            elif "sync(" in line and "/htime/HTIME" in line:
                kinds.append("sync index")
            elif "sync(" in line and re.search(r"<[^>]*/(\d\d|xsync)>", line):
                kinds.append("sync directory")
        kinds = kinds[kinds.index("sync file") :]
        assert kinds[:2] == ["sync file", "rename"], kinds
        if "XSYNC" in " ".join(steps):
            assert kinds[2:] == ["sync directory"], kinds
        else:
            assert kinds[2:] == ["index", "sync directory", "sync index"], kinds
        before = report + 1


@needs_strace
@pytest.mark.parametrize(
    ("call", "least"), [("write", 11), ("fsync", 9), ("fdatasync", 7), ("rename,renameat", 4), ("mkdir", 5)]
)
def test_killed_at_any_step_every_reported_slice_is_there(tmp_path: Path, call: str, least: int) -> None:
    """ERR-3 for the journal itself: what was reported is found whole afterwards, and the writer starts again."""
    died = 0
    for step in range(1, 100):
        root = tmp_path / str(step)
        options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={step}"]
        done = traced(options, tmp_path / "trace", str(root), str(T))
        reported = {tuple(map(int, line.split(b"."))) for line in done.stdout.split()}
        JournalWriter(os.fsencode(root), clock=lambda: T).close()
        journal = Journal(os.fsencode(root))
        found = journal.pending(NO_MARK)
        assert reported <= {(log.suffix, log.part) for log in found}, f"killed at call {step}"
        assert all(journal.read(log).torn is None for log in found)
        assert not journal.holes(NO_MARK)
        if done.returncode == 0:
            break
        died += 1
    assert died >= least
