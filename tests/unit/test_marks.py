"""Marks: what they are (MRK-1, MRK-2), and that they only move forward and are durable before they are told (MRK-6)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.marks import MarkError, MarkFile
from engine.model import EVERYTHING, NO_MARK, Mark

REPO = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marks.json"


def test_mrk_1_and_2_no_file_is_no_mark(path: Path) -> None:
    marks = MarkFile(path.as_posix())
    assert (marks.stime, marks.entry_stime, marks.written_by_us, marks.identity) == (NO_MARK, NO_MARK, None, {})
    assert not path.exists()
    assert NO_MARK < EVERYTHING < Mark(1, 0) < Mark(1, 1) < Mark(2, 0)


def test_mrk_2_marks_are_sec_nsec_text(path: Path) -> None:
    marks = MarkFile(path.as_posix())
    marks.advance(Mark(1700000000, 5), Mark(1700000001, 999_999_999))
    stored = json.loads(path.read_text())
    assert (stored["stime"], stored["entry_stime"]) == ("1700000000.5", "1700000001.999999999")
    again = MarkFile(os.fsencode(path))
    assert (again.stime, again.entry_stime) == (Mark(1700000000, 5), Mark(1700000001, 999_999_999))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mark", [NO_MARK, EVERYTHING, Mark(2**32 - 1, 0), Mark(7, 999_999_999)])
def test_mrk_2_every_mark_survives(path: Path, mark: Mark) -> None:
    MarkFile(path.as_posix()).reset(mark)
    assert MarkFile(path.as_posix()).stime == mark
    assert Mark.parse(str(mark)) == mark


@pytest.mark.parametrize("mark", [Mark(-2, 0), Mark(2**32, 0), Mark(0, 10**9), Mark(5, -1), Mark(-1, 1)])
def test_mrk_1_what_is_no_pair_of_u32_is_refused(path: Path, mark: Mark) -> None:
    marks = MarkFile(path.as_posix())
    with pytest.raises(ValueError, match="not a mark"):
        marks.advance(mark)
    with pytest.raises(ValueError, match="not a mark"):
        marks.reset(mark)
    assert not path.exists()


def test_mrk_6_marks_only_move_forward(path: Path) -> None:
    marks = MarkFile(path.as_posix())
    assert marks.advance(Mark(10, 0))
    before = path.stat().st_ino
    assert not marks.advance(Mark(9, 999))
    assert not marks.advance(Mark(10, 0), Mark(-1, 0))
    assert path.stat().st_ino == before
    assert marks.advance(Mark(5, 0), Mark(12, 0))
    assert (marks.stime, marks.entry_stime) == (Mark(10, 0), Mark(12, 0))
    assert MarkFile(path.as_posix()).stime == Mark(10, 0)


def test_mrk_2_back_only_by_an_explicit_reset(path: Path) -> None:
    marks = MarkFile(path.as_posix())
    marks.advance(Mark(10, 0), Mark(12, 0))
    marks.reset(EVERYTHING)
    assert (marks.stime, marks.entry_stime, marks.written_by_us) == (EVERYTHING, EVERYTHING, EVERYTHING)
    marks.reset()
    assert MarkFile(path.as_posix()).stime == NO_MARK


def test_mrk_7_what_we_wrote_last_is_known(path: Path) -> None:
    marks = MarkFile(path.as_posix())
    marks.advance(entry_stime=Mark(3, 0))
    assert json.loads(path.read_text())["written_by_us"] is None
    marks.advance(Mark(10, 0))
    assert (marks.written_by_us, marks.moved_by_other) == (Mark(10, 0), False)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "stime": "25.0"}))
    marks = MarkFile(path.as_posix())
    assert (marks.stime, marks.written_by_us, marks.moved_by_other) == (Mark(25, 0), Mark(10, 0), True)
    marks.adopt(marks.stime)
    assert not MarkFile(path.as_posix()).moved_by_other


def test_the_identity_is_kept_with_the_marks(path: Path) -> None:
    marks = MarkFile(path.as_posix())
    marks.identify({"session": "5f0c", "secondary": "dr:/srv/ü"})
    marks.advance(Mark(1, 0))
    assert MarkFile(path.as_posix()).identity == {"session": "5f0c", "secondary": "dr:/srv/ü"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 200, b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b'{"format": 2, "stime": "1.0"}',
        b'{"format": 1, "stime": "1", "entry_stime": "1.0", "written_by_us": null, "identity": {}}',
        b'{"format": 1, "stime": "1.0", "entry_stime": 7, "written_by_us": null, "identity": {}}',
        b'{"format": 1, "stime": "1.0", "entry_stime": "-9.0", "written_by_us": null, "identity": {}}',
        b'{"format": 1, "stime": "1.0", "entry_stime": "1.0", "written_by_us": null, "identity": []}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_a_clear_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(MarkError, match=r"marks\.json: the marks are damaged") as caught:
        MarkFile(path.as_posix())
    assert caught.value.code == "mark"
    assert "hybrid crawl" in caught.value.hint
    assert path.read_bytes() == content


def test_mrk_6_a_mark_that_cannot_be_written_has_not_moved(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    marks = MarkFile((directory / "marks.json").as_posix())
    marks.advance(Mark(1, 0))
    (directory / "marks.json").unlink()
    directory.rmdir()
    with pytest.raises(MarkError, match="cannot be written"):
        marks.advance(Mark(2, 0))
    assert marks.stime == Mark(1, 0)


# ---- the order of system calls, and death at each of them -----------------------------------------------------------

SCRIPT = """
import os, sys
from engine.marks import MarkFile
from engine.model import Mark
marks = MarkFile(sys.argv[1])
for n in (1, 2, 3):
    marks.advance(Mark(n, 0))
    os.write(1, b"reported %d\\n" % n)
"""


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")


def traced(options: list[str], trace: Path, path: Path) -> subprocess.CompletedProcess[bytes]:
    command = ["strace", "-f", "-y", "-o", str(trace), *options, sys.executable, "-S", "-c", SCRIPT, str(path)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, timeout=60)


@needs_strace
def test_mrk_6_a_mark_is_durable_before_it_is_reported(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    done = traced(["-e", "trace=write,fsync,fdatasync,rename,renameat,renameat2"], trace, path)
    assert done.returncode == 0, done.stderr
    steps = []
    for line in trace.read_text().splitlines():
        if "marks.json.new>" in line and "write(" in line:
            steps.append("write")
        elif "marks.json.new>" in line and "sync(" in line:
            steps.append("sync file")
        elif "rename" in line and "marks.json.new" in line:
            steps.append("rename")
        elif re.search(rf"sync\(\d+<{re.escape(str(tmp_path))}>", line):
            steps.append("sync directory")
        elif "reported" in line:
            steps.append("report")
    assert steps == ["write", "sync file", "rename", "sync directory", "report"] * 3


@needs_strace
@pytest.mark.parametrize("call", ["write", "fsync", "rename,renameat"])
def test_mrk_6_killed_at_any_step_no_reported_mark_is_lost(path: Path, tmp_path: Path, call: str) -> None:
    for step in range(1, 10):
        path.unlink(missing_ok=True)
        options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={step}"]
        done = traced(options, tmp_path / "trace", path)
        reported = [int(line.split()[1]) for line in done.stdout.splitlines()]
        found = MarkFile(path.as_posix()).stime
        assert found.sec >= (reported[-1] if reported else -1)
        assert found in (NO_MARK, Mark(1, 0), Mark(2, 0), Mark(3, 0))
        if done.returncode == 0:
            break
    assert step > 3
