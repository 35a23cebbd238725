"""What a brick says of itself (STA-1, STA-3), and that it fits the schema in every state."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.backlog import Backlog
from engine.bound import Binding
from engine.guard import Hold
from engine.ledger import Failure, Ledger
from engine.model import Changelog, EngineError, Mark
from engine.progress import WINDOW, Rate
from engine.status import BrickStatus, Who
from engine.verdict import Thresholds
from engine.volume.base import Closed

SCHEMA = json.loads((Path(engine.__file__).parent / "snapshot.schema.json").read_text())
LIMITS = Thresholds()
_BRICK = jsonschema.Draft202012Validator({"$ref": "#/$defs/brick", "$defs": SCHEMA["$defs"]})


def _status(path: Path, brick: str = "/srv/www") -> BrickStatus:
    return BrickStatus(Who("uuid", "m1", brick, "backup", "dr:/srv/www"), str(path / "status.json"))


def _seen(status: BrickStatus, now: float | None = None) -> dict[str, Any]:
    """The brick's object now; it is valid, and JSON keeps it."""
    found = status.snapshot(time.time() if now is None else now, LIMITS)
    _BRICK.validate(found)
    assert json.loads(json.dumps(found)) == found
    return found


def _live(status: BrickStatus, mark: int = 1000) -> None:
    status.initializing()
    status.connected("dr")
    status.synced(Mark(mark, 0))
    status.crawl("live", None, None, None)
    status.backlog(0, 0, None)
    status.active()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_sta_1_unknown_is_null(tmp_path: Path) -> None:
    """STA-1: before anything is known nothing is made up."""
    found = _seen(_status(tmp_path))
    assert found["status"] == "Created"
    assert found["crawl_status"] == "N/A"
    for key in ("last_synced", "lag_seconds", "secondary_node", "backlog", "batch", "rate", "checkpoint_time",
                "checkpoint_completed", "secondary_free", "last_verify", "last_error", "paused", "held"):  # fmt: skip
        assert found[key] is None, key
    assert (found["entry"], found["data"], found["meta"], found["failures"]) == (0, 0, 0, 0)
    assert found["verdict"] == "unknown"


def test_sta_1_active(tmp_path: Path) -> None:
    """STA-1: what a live brick shows."""
    status = _status(tmp_path)
    _live(status)
    found = _seen(status)
    assert (found["status"], found["crawl_status"], found["secondary_node"]) == ("Active", "Changelog Crawl", "dr")
    assert (found["last_synced"], found["lag_seconds"], found["verdict"]) == (1000.0, 0.0, "ok")


@pytest.mark.parametrize(
    ("kind", "word"), [("hybrid", "Hybrid Crawl"), ("history", "History Crawl"), ("live", "Changelog Crawl")]
)
def test_sta_1_crawl_status(tmp_path: Path, kind: str, word: str) -> None:
    """STA-1: the three crawls by their names; a change of crawl is said once."""
    status = _status(tmp_path)
    _live(status)
    status.crawl("none yet", None, None, None)
    assert status.crawl(kind, 5.0, 10, 20)
    assert not status.crawl(kind, 5.0, 11, 20)
    found = _seen(status)
    assert found["crawl_status"] == word
    assert (found["crawl"]["kind"], found["crawl"]["since"], found["crawl"]["seen"]) == (kind, 5.0, 11)


def test_sta_1_counters_rise_and_fall_and_never_below_zero(tmp_path: Path) -> None:
    """STA-1, CHG-9: entry, data and meta rise when work is queued and fall when it is done."""
    status = _status(tmp_path)
    _live(status)
    status.batch_begin(1, changelogs=2, entries=10, files=4, metas=3)
    status.entries_done(6)
    status.files_done(1, 500)
    found = _seen(status)
    assert (found["entry"], found["data"], found["meta"]) == (4, 3, 3)
    assert found["batch"]["entries"] == [6, 10]
    assert found["batch"]["files"] == [1, 4]
    assert found["batch"]["bytes"] == [500, None]
    status.entries_done(100)
    status.files_done(100, 1)
    status.batch_phase("commit")
    found = _seen(status)
    assert (found["entry"], found["data"], found["meta"]) == (0, 0, 0)
    assert found["batch"]["entries"] == [10, 10]
    status.batch_end(1.0)
    found = _seen(status)
    assert found["batch"] is None
    assert found["totals"]["turns"] == 1
    assert found["totals"]["entries"] == 106


def test_sta_1_survives_a_restart_without_running_work(tmp_path: Path) -> None:
    """STA-1: totals, dates, checkpoint and a pause are there again; counters of running work are not."""
    status = _status(tmp_path)
    _live(status, mark=2000)
    status.set_checkpoint(1500)
    status.set_paused("anna", 1234.5)
    status.batch_begin(1, changelogs=1, entries=10, files=10, metas=1)
    status.entries_done(3)
    status.save()
    again = _seen(_status(tmp_path))
    assert (again["entry"], again["data"], again["meta"], again["batch"]) == (0, 0, 0, None)
    assert again["totals"]["entries"] == 3
    assert again["last_synced"] == 2000.0
    assert (again["checkpoint_time"], again["checkpoint_completed"]) == (1500, True)
    assert again["paused"] == {"by": "anna", "since": 1234.5}
    assert again["status"] == "Created"


def test_sta_1_written_atomically(tmp_path: Path) -> None:
    """STA-1: a reader of the file never sees half of it, while threads save and count."""
    status = _status(tmp_path)
    _live(status)
    status.save()
    stop = threading.Event()

    def save() -> None:
        while not stop.is_set():
            status.entries_done(1)
            status.save()

    threads = [threading.Thread(target=save) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            json.loads((tmp_path / "status.json").read_text())
            _seen(status)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_torn_file_costs_counters_only(tmp_path: Path) -> None:
    """The marks are kept elsewhere: a status file that cannot be read is begun anew."""
    (tmp_path / "status.json").write_text('{"totals": {')
    assert _seen(_status(tmp_path))["status"] == "Created"


def test_sta_3_lag_is_the_age_of_the_oldest_change(tmp_path: Path) -> None:
    """STA-3: 0 only when none is known, failures included, null when it cannot be known."""
    status = _status(tmp_path)
    _live(status)
    status.backlog(3, 900, 5000.0)
    assert _seen(status, 5007.5)["lag_seconds"] == 7.5
    status.failures(2, 4000.0)
    assert _seen(status, 5007.5)["lag_seconds"] == 1007.5
    status.backlog(0, 0, None)
    assert _seen(status, 5007.5)["lag_seconds"] == 1007.5
    status.failures(0, None)
    assert _seen(status, 5007.5)["lag_seconds"] == 0.0
    assert _seen(status, 4999.0)["lag_seconds"] == 0.0, "a clock that was set back makes no negative lag"
    status.faulty(EngineError("line gone", code="link"), 1, 9999.0)
    assert _seen(status, 5007.5)["lag_seconds"] is None


def test_sta_3_lag_is_unknown_during_a_first_crawl(tmp_path: Path) -> None:
    """STA-3: what a first crawl will find is not known."""
    status = _status(tmp_path)
    status.initializing()
    status.crawl("hybrid", 1.0, 5, None)
    status.backlog(0, 0, None)
    status.active()
    found = _seen(status)
    assert found["lag_seconds"] is None
    assert (found["verdict"], [r["code"] for r in found["reasons"]]) == ("warning", ["first-copy"])


def test_as_of_is_the_proven_instant(tmp_path: Path) -> None:
    """It moves with what is proven, and there is none while anything is in doubt."""
    status = _status(tmp_path)
    assert _seen(status)["as_of"] is None
    _live(status, mark=1000)
    assert _seen(status)["as_of"] == 1000.0
    status.proven(1007.25)
    status.proven(1003.0)
    assert _seen(status)["as_of"] == 1007.25
    status.faulty(EngineError("line gone", code="link"), 1, 9999.0)
    assert _seen(status)["as_of"] == 1007.25, "what was proven stays so without a line"
    _live(status, mark=1010)
    status.recovering(True)
    found = _seen(status)
    assert (found["as_of"], found["verdict"], found["lag_seconds"]) == (None, "unknown", 0.0)
    status.recovering(False)
    status.comparing(3, None, "restored")
    found = _seen(status)
    assert (found["as_of"], found["verdict"], found["comparing"]["seen"]) == (None, "unknown", 3)
    status.compared()
    assert (_seen(status)["as_of"], _seen(status)["verdict"]) == (1010.0, "ok")


def test_no_checkpoint_completes_while_both_sides_are_compared(tmp_path: Path) -> None:
    status = _status(tmp_path)
    _live(status, mark=100)
    status.set_checkpoint(200)
    status.comparing(0, 10, "restored")
    assert not status.synced(Mark(300, 0))
    status.set_checkpoint(250)
    assert _seen(status)["checkpoint_completed"] is False
    status.compared()
    assert _seen(status)["checkpoint_completed"] is True


def test_what_waits_is_asked_for_also_without_a_line(tmp_path: Path) -> None:
    """Faulty and trying again: lag and number are those of now."""
    status = _status(tmp_path)
    _live(status)
    asked: list[bool] = []

    def waiting(busy: bool) -> Backlog:
        asked.append(busy)
        return Backlog(2, 180, 5000.0, 500, True)

    status.ask = waiting
    status.faulty(EngineError("line gone", code="link"), 1, 9999.0)
    found = _seen(status, 5007.5)
    assert (found["lag_seconds"], found["backlog"]["changes"], found["verdict"]) == (7.5, 500, "critical")
    status.initializing()
    assert _seen(status, 5008.5)["lag_seconds"] == 8.5
    assert found["last_error"]["since"] == _seen(status)["last_error"]["since"], "the first failure's time, over all attempts"
    status.stopped()
    assert _seen(status)["lag_seconds"] is None and asked == [True, True, True]


def test_a_first_copy_is_told_until_the_mark_moves(tmp_path: Path) -> None:
    """Its numbers survive a restart; and it is over, durably, with the first mark."""
    status = _status(tmp_path)
    status.initializing()
    status.crawl("hybrid", 1.0, 5, None)
    status.batch_begin(1, changelogs=1, entries=3, files=3)
    status.files_done(3, 300)
    status.batch_end(1.0)
    status.backlog(1, 90, 5000.0, 7, False, dated=False, crawling=True)
    status.found(10, 1000, True)
    status.active()
    found = _seen(status)
    assert (found["first_copy"], found["first_pass"]["files"], found["lag_seconds"]) == (True, [3, 10], None)
    again = _status(tmp_path)
    again.found(10, 1000, True)
    again.crawl("hybrid", 1.0, 5, None)
    again.active()
    assert _seen(again)["first_pass"]["files"] == [3, 10]
    again.synced(Mark(2000, 0))
    assert (_seen(again)["first_copy"], _seen(again)["first_pass"]) == (False, None)
    assert _seen(_status(tmp_path))["first_copy"] is False


def test_err_4_faulty_says_why_and_when_again(tmp_path: Path) -> None:
    """ERR-4: the cause, a hint, which try, and when the next; gone when it is active again, and counted."""
    status = _status(tmp_path)
    _live(status)
    status.batch_begin(1, changelogs=1, entries=5, files=0)
    status.faulty(EngineError("No space left on device", hint="make room", code="enospc", errno=28), 3, 77.0)
    found = _seen(status, 70.0)
    error = found["last_error"]
    assert (error["errno"], error["attempt"], error["retry_at"], error["hint"]) == (28, 3, 77.0, "make room")
    assert (found["status"], found["verdict"], found["entry"], found["batch"]) == ("Faulty", "critical", 0, None)
    assert found["reasons"][0]["code"] == "enospc"
    _live(status)
    found = _seen(status)
    assert (found["last_error"], found["status"], found["totals"]["restarts"]) == (None, "Active", 1)


def test_safe_1_held(tmp_path: Path) -> None:
    """SAFE-1: what is held, for whom to decide on; active again when it was answered."""
    status = _status(tmp_path)
    _live(status)
    status.held(Hold("abc", "60 of 100 objects would be deleted", 60, 100, ("a", os.fsdecode(b"\xff")), 5.0))
    found = _seen(status)
    assert (found["status"], found["verdict"], found["held"]["id"]) == ("Held", "critical", "abc")
    assert found["held"]["sample"] == ["a", "\\xff"]
    status.active()
    assert _seen(status)["status"] == "Held", "being connected does not answer for a person"
    status.held(None)
    status.active()
    assert _seen(status)["status"] == "Active"


def test_sta_2_a_checkpoint_with_failures_before_it(tmp_path: Path) -> None:
    """STA-2: complete, but never good while what failed before it is in the ledger; over a restart too."""
    ledger = Ledger(str(tmp_path / "failures.db"))
    status = _status(tmp_path)
    status.count_before = ledger.before
    _live(status, mark=100)
    status.set_checkpoint(200)
    assert _seen(status)["checkpoint_completed"] is False
    now = time.time()
    ledger.add_many([Failure.of_object(bytes(16), b"lost", "DATA", 1, "no", now - 1)])
    status.failures(ledger.size, ledger.oldest)
    assert status.synced(Mark(200, 0))
    assert not status.synced(Mark(201, 0)), "completed once"
    ledger.add_many([Failure.of_object(b"\x01" * 16, b"later", "DATA", 1, "no", time.time() + 10)])
    status.failures(ledger.size, ledger.oldest)
    found = _seen(status)
    assert (found["checkpoint_completed"], found["checkpoint_failures_before"]) == (True, 1)
    assert "checkpoint" in [r["code"] for r in found["reasons"]]
    again = _status(tmp_path)
    again.count_before = ledger.before
    again.failures(ledger.size, ledger.oldest)
    assert _seen(again)["checkpoint_failures_before"] == 1
    ledger.cleared([1])
    again.failures(ledger.size, ledger.oldest)
    assert _seen(again)["checkpoint_failures_before"] == 0
    ledger.close()


def test_sta_4_what_changed_is_told_once(tmp_path: Path) -> None:
    """STA-4: active, crawl changed, checkpoint completed."""
    status = _status(tmp_path)
    told: list[tuple[str, dict[str, Any]]] = []
    status.on_event = lambda name, fields: told.append((name, fields))
    _live(status)
    _live(status)
    assert [name for name, _ in told] == ["crawl changed", "active", "active"], "initializing lies between"
    assert told[0][1] == {"kind": "live", "old": None}
    status.set_checkpoint(2000)
    status.active()
    status.synced(Mark(1999, 0))
    assert len(told) == 3
    status.synced(Mark(2000, 0))
    status.synced(Mark(2001, 0))
    assert [name for name, _ in told[3:]] == ["checkpoint completed"]
    assert told[3][1]["checkpoint"] == 2000
    status.set_checkpoint(1500)
    status.set_checkpoint(1500)
    assert [fields["checkpoint"] for _, fields in told[4:]] == [1500], "passed already: complete at once, and once"
    status.crawl("hybrid", 5.0, 0, None)
    assert told[5] == ("crawl changed", {"kind": "hybrid", "old": "live"})


def test_sta_2_checkpoints_of_before_are_kept(tmp_path: Path) -> None:
    """STA-2: what was set by whom, and whether it was reached; over a restart."""
    status = _status(tmp_path)
    _live(status, mark=100)
    status.set_checkpoint(50, "anna")
    status.set_checkpoint(200, "bert")
    status.set_checkpoint(300, "anna")
    again = _status(tmp_path)
    found = again.checkpoints()
    assert [(c["time"], c["completed"], c["by"]) for c in found] == [
        (300, False, "anna"), (200, False, "bert"), (50, True, "anna")
    ]  # fmt: skip
    again.set_checkpoint(None)
    assert [c["time"] for c in again.checkpoints()] == [300, 200, 50]


def test_sta_3_crawls_with_their_ends(tmp_path: Path) -> None:
    """STA-3: what the last crawls saw and how long they took; one cut off by a crash has an end too."""
    status = _status(tmp_path)
    status.initializing()
    status.crawl("hybrid", None, 10, None)
    status.crawl("hybrid", None, 500, None)
    status.crawl("live", None, None, None)
    first, second = _seen(status)["crawls"]
    assert (first["kind"], first["seen"]) == ("hybrid", 500)
    assert first["until"] >= first["since"]
    assert (second["kind"], second["until"]) == ("live", None)
    status.save()
    crawls = _seen(_status(tmp_path))["crawls"]
    assert [c["kind"] for c in crawls] == ["hybrid", "live"]
    assert crawls[1]["until"] is not None


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    found = _seen(_status(tmp_path, os.fsdecode(b"/srv/\xff")))
    assert (found["brick"], found["brick_b64"]) == ("/srv/\\xff", "L3Nydi//")


def test_sta_3_a_rate_is_over_a_moving_window() -> None:
    """STA-3: what is older than the window no longer counts; an idle brick's rate is 0."""
    rate = Rate()
    for second in range(20):
        rate.add(50, float(second))
    assert rate.value(19.0) == pytest.approx(50, rel=0.15)
    assert rate.value(19.0 + WINDOW + 1) == 0.0
    many = Rate()
    for n in range(100_000):
        many.add(1, n / 100_000)
    assert len(many._events) < 10, "a busy second takes no memory"


_steps = st.lists(
    st.one_of(
        st.sampled_from(["initializing", "active", "paused", "stopped", "faulty", "batch_end", "hold", "release"]),
        st.tuples(st.just("entries"), st.integers(0, 50)),
        st.tuples(st.just("files"), st.integers(0, 50)),
        st.tuples(st.just("begin"), st.integers(0, 50)),
        st.tuples(st.just("phase"), st.sampled_from(["entry", "data", "meta", "commit"])),
        st.tuples(st.just("crawl"), st.sampled_from(["hybrid", "history", "live"])),
        st.tuples(st.just("backlog"), st.integers(0, 5)),
        st.tuples(st.just("failures"), st.integers(0, 5)),
        st.tuples(st.just("checkpoint"), st.none() | st.integers(1, 100)),
        st.tuples(st.just("synced"), st.integers(0, 100)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(_steps)
def test_sta_1_valid_in_every_order_of_things(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    """STA-1: whatever happens in whatever order, the object fits the schema and no counter is below zero."""
    status = _status(tmp_path_factory.mktemp("s"))
    for step in steps:
        _step(status, step)
        found = _seen(status)
        assert min(found["entry"], found["data"], found["meta"]) >= 0
        if found["verdict"] == "ok":
            assert found["reasons"] == []
        else:
            assert found["reasons"]


def _step(status: BrickStatus, step: Any) -> None:
    name, value = step if isinstance(step, tuple) else (step, None)
    match name:
        case "faulty":
            status.faulty(EngineError("broken"), 1, time.time() + 5)
        case "hold":
            status.held(Hold("h", "many", 5, 6, (), 1.0))
        case "release":
            status.held(None)
        case "batch_end":
            status.batch_end(0.1)
        case "entries":
            status.entries_done(value)
        case "files":
            status.files_done(value, value * 100)
        case "begin":
            status.batch_begin(1, changelogs=1, entries=value, files=value, metas=value)
        case "phase":
            status.batch_phase(value)
        case "crawl":
            status.crawl(value, None, value and 1, None)
        case "backlog":
            status.backlog(value, value * 90, 5.0 if value else None)
        case "failures":
            status.failures(value, 7.0 if value else None)
        case "checkpoint":
            status.set_checkpoint(value)
        case "synced":
            status.synced(Mark(value, 0))
        case _:
            assert re.fullmatch("initializing|active|paused|stopped", name)
            getattr(status, name)()


def test_no_checkpoint_completes_while_a_batch_is_repeated(tmp_path: Path) -> None:
    status = _status(tmp_path)
    _live(status, mark=100)
    status.recovering(True)
    status.set_checkpoint(50)
    assert not status.synced(Mark(300, 0)) and _seen(status)["checkpoint_completed"] is False
    status.recovering(False)
    assert _seen(status)["checkpoint_completed"] is True


def test_a_comparison_that_is_due_is_not_forgotten_without_a_line(tmp_path: Path) -> None:
    """Faulty and trying again, nothing is proven, and a checkpoint of before does not complete."""
    status = _status(tmp_path)
    _live(status, mark=1000)
    status.comparing(3, 10, "restored")
    status.faulty(EngineError("line gone", code="link"), 1, 9999.0)
    status.set_checkpoint(500)
    found = _seen(status)
    assert (found["comparing"]["seen"], found["as_of"], found["checkpoint_completed"]) == (3, None, False)
    status.initializing()
    assert _seen(status)["comparing"] is not None
    status.compared()  # the next connection found that none is due
    found = _seen(status)
    assert (found["comparing"], found["checkpoint_completed"]) == (None, True)
    status.comparing(0, None, "restored")
    status.stopped()
    assert _seen(status)["comparing"] is None


@pytest.mark.parametrize("doubt", ["comparing", "recovering", "first copy"])
def test_the_slice_of_a_checkpoint_waits_for_what_is_in_doubt(tmp_path: Path, doubt: str) -> None:
    """It may be over there sooner than all is certain: then the checkpoint completes with the end of that, once."""
    status = _status(tmp_path)
    _live(status, mark=1000)
    status.by_slice = True
    told: list[str] = []
    status.on_event = lambda name, _fields: told.append(name)
    copied = doubt != "first copy"
    status.copied = lambda: copied
    if doubt == "comparing":
        status.comparing(0, None, "restored")
    status.recovering(doubt == "recovering")
    status.set_checkpoint(900)
    binding = Binding(status)
    feed = SimpleNamespace(ask=lambda: 7)
    binding.ask(feed)
    binding.done([Closed(Changelog(1001, 0, b""), True, None, asked=6)])
    binding.done([Closed(Changelog(1002, 0, b""), True, None, asked=7)])
    binding.ask(feed)
    assert _seen(status)["checkpoint_completed"] is False and not told
    copied = True
    status.compared()
    status.recovering(False)
    assert _seen(status)["checkpoint_completed"] is False, "by its slice, not by the mark"
    binding.ask(feed)
    binding.ask(feed)
    assert _seen(status)["checkpoint_completed"] is True and told == ["checkpoint completed"]
