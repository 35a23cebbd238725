"""The verdict on bricks and sessions: computed once, the worst first, each with a reason and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from engine.verdict import ORDER, Thresholds, brick_verdict, session_state, session_verdict

LIMITS = Thresholds(lag_warning=60, lag_critical=600, failures_warning=2, failures_critical=10)


def _brick(**changes: Any) -> dict[str, Any]:
    return {"status": "Active", "failures": 0, "lag_seconds": 1.0, "last_error": None, **changes}


def _judge(**changes: Any) -> tuple[str, list[str]]:
    verdict, reasons = brick_verdict(_brick(**changes), LIMITS, 1000.0)
    assert all(r["text"] for r in reasons)
    assert (verdict == "ok") == (not reasons)
    return verdict, [r["code"] for r in reasons]


@pytest.mark.parametrize(
    ("changes", "verdict", "codes"),
    [
        ({}, "ok", []),
        ({"status": "Passive", "lag_seconds": None}, "ok", []),
        ({"lag_seconds": 59.9}, "ok", []),
        ({"lag_seconds": 60}, "warning", ["lag"]),
        ({"lag_seconds": 600}, "critical", ["lag"]),
        ({"lag_seconds": None}, "unknown", ["lag-unknown"]),
        ({"failures": 1}, "ok", []),
        ({"failures": 2}, "warning", ["failures"]),
        ({"failures": 10}, "critical", ["failures"]),
        ({"status": "Stopped", "lag_seconds": None}, "critical", ["stopped"]),
        ({"status": "Paused", "paused": {"by": "anna"}}, "warning", ["paused"]),
        ({"status": "Initializing...", "lag_seconds": None}, "unknown", ["initializing"]),
        ({"status": "Held", "held": {"reason": "60 of 100"}}, "critical", ["held"]),
        ({"status": "Faulty", "lag_seconds": None, "last_error": {"code": "full", "text": "x"}}, "critical", ["full"]),
        ({"status": "Faulty", "lag_seconds": None, "failures": 3}, "critical", ["faulty", "failures"]),
        ({"status": "Paused", "lag_seconds": 700, "paused": {"by": "anna"}}, "critical", ["lag", "paused"]),
        ({"checkpoint_completed": True, "checkpoint_failures_before": 1}, "warning", ["checkpoint"]),
        ({"checkpoint_completed": False, "checkpoint_failures_before": 1}, "ok", []),
        ({"last_verify": {"different": 2}}, "warning", ["verify"]),
        ({"last_verify": {"different": 0}}, "ok", []),
        ({"first_copy": True, "lag_seconds": None}, "warning", ["first-copy"]),
        ({"first_copy": True, "lag_seconds": None, "status": "Faulty"}, "critical", ["faulty", "first-copy"]),
        ({"first_copy": True, "lag_seconds": None, "status": "Initializing..."}, "unknown", ["initializing"]),
        ({"recovering": True}, "unknown", ["recovering"]),
        ({"recovering": True, "failures": 2}, "unknown", ["recovering", "failures"]),
        ({"comparing": {"seen": 5, "total": None, "why": "restored"}, "first_copy": True, "lag_seconds": None}, "unknown", ["comparing"]),
        ({"recovering": True, "status": "Stopped", "lag_seconds": None}, "critical", ["stopped"]),
        ({"status": "Faulty", "lag_seconds": 70, "last_error": {"code": "ssh", "text": "x"}}, "critical", ["ssh", "lag"]),
    ],
)
def test_a_brick(changes: dict[str, Any], verdict: str, codes: list[str]) -> None:
    assert _judge(**changes) == (verdict, codes)


def test_faulty_says_when_it_tries_again() -> None:
    _, reasons = brick_verdict(
        _brick(status="Faulty", last_error={"code": "x", "text": "line gone", "hint": "wait", "retry_at": 1012.0}),
        LIMITS, 1000.0,
    )  # fmt: skip
    assert reasons[0] == {"code": "x", "text": "Faulty: line gone; tries again in 12 s", "hint": "wait"}


def _judged(**changes: Any) -> dict[str, Any]:
    brick = _brick(**changes)
    brick["verdict"], brick["reasons"] = brick_verdict(brick, LIMITS, 1000.0)
    return brick


def test_a_session_is_as_bad_as_its_worst_brick() -> None:
    verdict, reasons = session_verdict([_judged(), _judged(lag_seconds=70), _judged(status="Stopped")])
    assert verdict == "critical"
    assert [r["code"] for r in reasons] == ["stopped", "lag"]


def test_a_passive_brick_weighs_nothing() -> None:
    """ACT-1: of a replica set one is active; the other's state says nothing about the data."""
    assert session_verdict([_judged(), _judged(status="Passive", failures=50)])[0] == "ok"
    assert session_verdict([_judged(status="Passive")])[0] == "unknown"
    assert session_verdict([_judged(status="Passive", active_elsewhere="n1:/bricks/a")]) == ("ok", [])
    two = [_judged(status="Passive", active_elsewhere="n1:/bricks/a"), _judged(status="Passive", active_elsewhere=None)]
    assert session_verdict(two)[0] == "unknown", "of one set nobody is known to be active"
    assert session_verdict([])[0] == "unknown"


def test_the_same_reason_is_said_once() -> None:
    stopped = _judged(status="Stopped")
    assert len(session_verdict([stopped, stopped, stopped])[1]) == 1


def test_states() -> None:
    assert session_state([_brick(), _brick(status="Faulty"), _brick(status="Held")]) == "Faulty"
    assert session_state([_brick(), _brick(status="Passive")]) == "Active"
    assert session_state([_brick(status="Passive")]) == "Passive"
    assert session_state([]) == "Created"
    assert list(ORDER) == ["ok", "warning", "unknown", "critical"]
