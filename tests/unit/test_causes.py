"""The reason is the cause: what is said of a brick that is behind, and of its first copy."""

from __future__ import annotations

from typing import Any

import pytest

from engine import causes
from engine.verdict import Thresholds, brick_verdict

NOW = 10_000.0
SLOW = "too slow"


def _lag(**facts: Any) -> tuple[str, str]:
    """Text and hint of the reason for a lag of 100 s."""
    brick = {"status": "Active", "failures": 0, "lag_seconds": 100.0, "last_error": None,
             "backlog": {"changelogs": 3, "bytes": 900, "changes": 500, "exact": True, "since": NOW - 100}, **facts}  # fmt: skip
    _, reasons = brick_verdict(brick, Thresholds(failures_warning=1000), NOW)
    (found,) = [r for r in reasons if r["code"] == "lag"]
    assert found["text"].startswith("100 s behind: ")
    return found["text"].partition(": ")[2], found["hint"]


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"status": "Paused", "paused": {"by": "anna"}}, "paused; 500 changes wait (900 B of journal)"),
        ({"status": "Held", "held": {"reason": "60 of 100"}}, "held, nothing is applied; 500 changes wait"),
        ({"status": "Faulty", "last_error": {"code": "ssh", "text": "gone", "since": NOW - 200}}, "nothing gets through for 3 min; 500"),
        ({"status": "Faulty", "last_error": {"errno": 28, "text": "x", "since": NOW - 50}}, "the secondary is full for 50 s; 500"),
        ({"status": "Initializing..."}, "not connected yet; 500 changes wait"),
        ({"failures": 1, "failures_since": NOW - 100, "backlog": None}, "so old is the oldest failure; all else is there"),
        ({"failures": 1, "failures_since": NOW - 100, "backlog": {"changes": 2, "since": NOW - 3}}, "so old is the oldest failure; all else is 3 s"),
        ({"bandwidth": {"limit": 2 << 20, "reached": True}}, "bandwidth_limit of 2.0 MiB/s is reached; 500 changes wait"),
        ({"batch": {"entries": [0, 0], "files": [0, 1], "in_flight": [
            {"path": "d/large", "bytes": [3 << 30, 24 << 30], "bytes_per_s": 12 << 20, "since": 1.0}]}},
         "copying d/large: 3.0 of 24 GiB, 12 MiB/s; 500"),
        ({"crawl_status": "Hybrid Crawl", "crawl": {"seen": 1200}}, "a crawl looks for what has changed since (1,200 objects so far)"),
    ],
)  # fmt: skip
def test_the_cause_of_a_lag(facts: dict[str, Any], cause: str) -> None:
    text, hint = _lag(**facts)
    assert text.startswith(cause)
    assert SLOW not in hint


def test_only_what_flows_may_be_too_slow() -> None:
    text, hint = _lag(batch={"entries": [10, 40], "files": [5, 40], "in_flight": []})
    assert text == "a batch is at 15 of 80 operations; 500 changes wait (900 B of journal)" and SLOW in hint
    text, hint = _lag()
    assert text == "500 changes wait (900 B of journal)" and SLOW not in hint
    assert _lag(failures=3, failures_since=NOW - 5)[0].startswith("500 changes wait"), "the failures are younger"
    assert _lag(bandwidth={"limit": 5, "reached": False})[0].startswith("500 changes wait")


def test_a_lower_bound_is_called_one() -> None:
    assert causes.waiting({"backlog": {"changes": 12_000, "exact": False, "bytes": 2048}}) == (
        "at least 12,000 changes wait (2.0 KiB of journal)")  # fmt: skip
    assert causes.waiting({"backlog": {"changes": 1, "exact": True, "bytes": 90}}) == "1 change waits (90 B of journal)"
    assert causes.waiting({"backlog": None}) == causes.waiting({"backlog": {"changes": None}}) == ""


def test_a_first_copy_in_words() -> None:
    whole = {"files": [6376, 30000], "bytes": [1288490188, 6227702579], "found": [30000, 6227702579], "fraction": 0.213,
             "bytes_per_s": 12 << 20, "eta_seconds": 372.0, "eta_basis": "at the rate of the last minute"}  # fmt: skip
    assert causes.first_copy({"status": "Active", "first_pass": whole}) == (
        "first copy: 6,376 of 30,000 files, 21 %, 1.2 of 5.8 GiB, 12 MiB/s, about 6 min left (at the rate of the last minute)"
    )
    part = {**whole, "files": [10, None], "bytes": [4096, None], "found": [40, 1 << 20], "fraction": None, "eta_seconds": None}
    assert causes.first_copy({"status": "Paused", "first_pass": part}) == (
        "first copy: 10 of at least 40 files, 4.0 KiB, how many there are is not known yet"
    )
    assert causes.first_copy({"status": "Faulty", "first_pass": None}).startswith("first copy: 0 files, 0 B, how many")


def test_a_comparison_in_words() -> None:
    assert causes.comparing({"seen": 1200, "total": 30000, "why": "restored"}) == "comparing 1,200 of 30,000: restored"
    assert causes.comparing({"seen": 7, "total": None, "why": "restored"}) == "comparing 7 objects so far: restored"
