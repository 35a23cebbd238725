"""The failure ledger (ERR-3): kept through kills, merged by object, retried with growing pauses, never dropped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from engine.ledger import FIRST_RETRY, LAST_RETRY, TREE, Failure, Ledger, LedgerError, backoff
from engine.model import EngineError

NOW = 1_795_325_087.0
PROJECT = Path(__file__).resolve().parents[2]


def _gfid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _failure(number: int, *, at: float = NOW, path: bytes = b"", errno: int = 1) -> Failure:
    return Failure.of_object(_gfid(number), path or b"dir/%d" % number, "DATA", errno, "Operation not permitted", at)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "failures.db")


def test_err_3_kept_over_a_restart(path: str) -> None:
    """ERR-3: everything of an entry is there again, in the order of adding."""
    ledger = Ledger(path)
    ledger.add_many([_failure(1), _failure(2, errno=36, path=b"\xff\xfename")])
    before = ledger.all()
    ledger.close()
    again = Ledger(path)
    assert again.all() == before
    assert [f.gfid for f in before] == [_gfid(1).hex(), _gfid(2).hex()]
    assert before[1].path == b"\xff\xfename"
    assert before[1].hint == "the secondary's filesystem does not take names that long"
    assert (again.size, again.oldest) == (2, NOW)
    again.close()


def test_err_3_one_entry_for_an_object(path: str) -> None:
    """ERR-3: another failure of the same object, under another name too, is another try of the same entry."""
    ledger = Ledger(path)
    ledger.add_many([_failure(1, at=NOW)])
    ledger.add_many([_failure(1, at=NOW + 10, path=b"elsewhere", errno=13)])
    (found,) = ledger.all()
    assert (found.tries, found.first_time, found.last_time) == (2, NOW, NOW + 10)
    assert (found.path, found.errno) == (b"elsewhere", 13)
    assert found.next_try == NOW + 10 + backoff(2)
    assert found.id == 1, "its id stays, so that a person's command still means it"
    ledger.close()


def test_err_3_backoff_doubles_up_to_an_hour() -> None:
    """ERR-3: retried with backoff."""
    pauses = [backoff(tries) for tries in range(1, 40)]
    assert pauses[0] == FIRST_RETRY
    assert all(b in (a * 2, LAST_RETRY) for a, b in pairwise(pauses))
    assert pauses[-1] == LAST_RETRY


def test_err_3_due_when_its_time_has_come(path: str) -> None:
    """ERR-3: nothing is due early; the wait ends when the first is."""
    ledger = Ledger(path)
    assert ledger.wait(NOW) == 3600.0
    ledger.add_many([_failure(1), _failure(2, at=NOW + 100)])
    assert ledger.due(NOW) == []
    assert ledger.wait(NOW) == pytest.approx(FIRST_RETRY)
    assert [f.gfid for f in ledger.due(NOW + FIRST_RETRY)] == [_gfid(1).hex()]
    ledger.close()


def test_err_3_postponed_like_another_try(path: str) -> None:
    """ERR-3: an entry that was tried in vain waits longer each time."""
    ledger = Ledger(path)
    ledger.add_many([_failure(1)])
    waits = []
    for _ in range(4):
        asked = time.time()
        ledger.postpone([1])
        waits.append(ledger.all()[0].next_try - asked)
    assert ledger.all()[0].tries == 5
    assert waits == pytest.approx([FIRST_RETRY * 2, FIRST_RETRY * 4, FIRST_RETRY * 8, FIRST_RETRY * 16], abs=1)
    ledger.close()


def test_err_3_retry_on_demand_and_after_a_restart(path: str) -> None:
    """ERR-3: retried on demand, and all of it after a restart; what a person rejected only when named."""
    ledger = Ledger(path)
    ledger.add_many([_failure(1, at=NOW + 1e6), Failure.rejected_delete(_gfid(2), b"kept", "anna", NOW)])
    assert ledger.due(NOW) == []
    assert ledger.retry_now() == 1
    assert [f.gfid for f in ledger.due(NOW)] == [_gfid(1).hex()]
    assert ledger.retry_now([2]) == 1
    assert len(ledger.due(NOW)) == 2
    ledger.cleared([2])
    ledger.postpone([1])
    ledger.retry_all()
    assert len(ledger.due(NOW)) == 1
    ledger.close()


def test_err_3_leaves_only_cleared_or_dismissed(path: str) -> None:
    """ERR-3: an entry leaves when both sides agree or a person dismisses it, and no other with it."""
    ledger = Ledger(path)
    ledger.add_many(_failure(n) for n in range(1, 6))
    assert ledger.cleared([1, 99]) == 1
    assert ledger.dismissed([3]) == 1
    assert [f.id for f in ledger.all()] == [2, 4, 5]
    ledger.add_many([_failure(9)])
    assert ledger.all()[-1].id == 6, "ids are never used again"
    ledger.close()


def test_sta_2_failures_before_a_time(path: str) -> None:
    """STA-2: how many of today's failures were there when a checkpoint completed."""
    ledger = Ledger(path)
    ledger.add_many([_failure(1), _failure(2, at=NOW + 50)])
    assert [ledger.before(NOW - 1), ledger.before(NOW), ledger.before(NOW + 60)] == [0, 1, 2]
    ledger.close()


def test_err_3_a_changelog_has_an_entry_of_its_own(path: str) -> None:
    """ERR-3: entries without an object are told apart by their path."""
    ledger = Ledger(path)
    ledger.add_many(Failure.of_changelog(b"CHANGELOG.%d" % n, "torn", NOW) for n in (1, 2))
    ledger.add_many([Failure.of_changelog(b"CHANGELOG.1", "torn at offset 7", NOW + 1)])
    assert [(f.path, f.tries) for f in ledger.all()] == [(b"CHANGELOG.1", 2), (b"CHANGELOG.2", 1)]
    ledger.close()


def test_shown_in_json() -> None:
    """A name that is not UTF-8 comes escaped, its bytes beside it; what is only on demand has no next try."""
    shown = _failure(1, path=b"a\xff").shown()
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["path"], shown["path_b64"]) == ("a\\xff", "Yf8=")
    assert "path_b64" not in _failure(2, path="é".encode()).shown()
    assert Failure.rejected_delete(_gfid(1), b"x", "anna", NOW).shown()["next_try"] is None


def test_a_damaged_file_is_said_not_forgotten(tmp_path: Path) -> None:
    """ERR-3: nothing is dropped, not even by making a new ledger over a damaged one."""
    path = tmp_path / "failures.db"
    path.write_bytes(b"GIF89a" * 1000)
    with pytest.raises(LedgerError, match=r"failures\.db: the failure ledger cannot be used"):
        Ledger(str(path))
    assert path.read_bytes() == b"GIF89a" * 1000


def test_a_refused_write_leaves_the_ledger_usable(path: str) -> None:
    """ERR-3: a write that fails is an error, not a loss; the next one works."""
    ledger = Ledger(path)
    ledger.add_many([_failure(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON failure BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.add_many([_failure(2), _failure(3)])
    assert ledger.size == 1
    other.execute("DROP TRIGGER full")
    other.close()
    ledger.add_many([_failure(2)])
    assert [f.id for f in ledger.all()] == [1, 2]
    ledger.close()


def test_only_its_owner_reads_it(path: str) -> None:
    Ledger(path).close()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_many_threads(path: str) -> None:
    """A console retries while a worker adds: nothing is lost, nothing raised."""
    ledger = Ledger(path)
    faults: list[Exception] = []

    def add(base: int) -> None:
        try:
            for n in range(20):
                ledger.add_many([_failure(base + n)])
                ledger.retry_now()
                ledger.due(NOW)
        except (EngineError, sqlite3.Error) as e:
            faults.append(e)

    threads = [threading.Thread(target=add, args=(base,)) for base in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert ledger.size == 60
    ledger.close()


_WRITER = """
import sys, time
from engine.ledger import Failure, Ledger
ledger = Ledger(sys.argv[1])
n = int(sys.argv[2])
while True:
    some = [Failure.of_object((n + i).to_bytes(16, "big"), b"p%d" % (n + i), "DATA", 1, "no", 1.0) for i in range(7)]
    ledger.add_many(some)
    n += 7
    sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
"""


def test_err_3_what_was_kept_survives_a_kill_at_any_point(path: str, long: bool) -> None:
    """ERR-3: what `add_many` returned for is there after kill -9; a batch of failures is there whole or not at all."""
    kept = 1
    for turn in range(60 if long else 8):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_WRITER), path, str(kept)], stdout=subprocess.PIPE, text=True,
            cwd=PROJECT,
        )  # fmt: skip
        assert child.stdout is not None
        for _ in range(1 + turn % 5):
            assert child.stdout.readline(), "the writer ended by itself"
        child.send_signal(signal.SIGKILL)
        told = [int(line) for line in child.stdout.read().split("\n")[:-1]]
        child.wait()
        child.stdout.close()
        ledger = Ledger(path)
        known = sorted(int(f.gfid, 16) for f in ledger.all(1_000_000))
        assert known == list(range(1, len(known) + 1))
        assert len(known) % 7 == 0
        if told:
            assert len(known) + 1 >= told[-1]
        assert len(known) + 1 >= kept + 7 * (1 + turn % 5)
        kept = len(known) + 1
        ledger.close()


def test_what_is_being_settled_is_kept_over_a_restart(path: str) -> None:
    """CON-6: known until it is said to be settled, and not counted among the failures; the larger task stays."""
    ledger = Ledger(path)
    ledger.settling([(_gfid(1), "RETRY"), (_gfid(2), TREE)])
    ledger.settling([(_gfid(1), TREE), (_gfid(2), "RETRY"), (_gfid(3), "RETRY")])
    ledger.close()
    again = Ledger(path)
    assert dict(again.unsettled()) == {_gfid(1): TREE, _gfid(2): TREE, _gfid(3): "RETRY"}
    assert again.size == 0
    again.settled()
    again.close()
    last = Ledger(path)
    assert last.unsettled() == []
    last.close()


def test_a_directory_with_all_in_it_stays_that(path: str) -> None:
    """A later failure of another operation does not make less of it."""
    ledger = Ledger(path)
    ledger.add_many([replace(_failure(1), operation=TREE)])
    ledger.add_many([_failure(1)])
    assert [f.operation for f in ledger.all()] == [TREE]
    ledger.close()
