"""The verdict on a brick and a session: ok, warning, critical or unknown, with reasons. Pure; the only place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine import causes

ORDER = {"ok": 0, "warning": 1, "unknown": 2, "critical": 3}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a number is worth a warning or worse: lag in seconds, failures as a count."""

    lag_warning: float = 60.0
    lag_critical: float = 600.0
    failures_warning: int = 1
    failures_critical: int = 100


Found = tuple[str, str, str, str]
"""Level, code, text, hint."""

_CONNECTED = ("Active", "Held", "Paused")
COUNTS = (*_CONNECTED, "Faulty", "Initializing...")
"""States in which what waits is counted: also while there is no line (STA-3)."""


def brick_verdict(brick: dict[str, Any], limits: Thresholds, now: float) -> tuple[str, list[dict[str, str]]]:
    """Verdict and reasons of one brick of a snapshot, the worst reason first.

    Ok is said only when a first full pass is through, nothing recovers, is compared, held or failed, and all that is
    known is applied within the limits.
    """
    reasons = [*_state(brick, now), *_doubts(brick), *_failures(brick, limits), *_lag(brick, limits, now)]
    before = brick.get("checkpoint_failures_before") or 0
    if brick.get("checkpoint_completed") and before:
        reasons.append(("warning", "checkpoint", f"the checkpoint was reached with {before} failures before it", ""))
    verify = brick.get("last_verify")
    if isinstance(verify, dict) and verify.get("different"):
        reasons.append(("warning", "verify", f"the last verify found {verify['different']} differences",
                        "georep-tui verify --repair"))  # fmt: skip
    reasons.sort(key=lambda r: -ORDER[r[0]])
    worst = reasons[0][0] if reasons else "ok"
    return worst, [{"code": c, "text": t, "hint": h} for _, c, t, h in reasons]


def _state(brick: dict[str, Any], now: float) -> list[Found]:
    """What the state alone says."""
    reasons: list[Found] = []
    status, error = brick["status"], brick.get("last_error") or {}
    if status == "Faulty":
        retry = error.get("retry_at")
        again = f"; tries again in {max(0, retry - now):.0f} s" if retry else ""
        reasons.append(("critical", error.get("code") or "faulty", f"Faulty: {error.get('text') or 'no reason known'}{again}",
                        error.get("hint") or ""))  # fmt: skip
    elif status == "Held":
        held = brick.get("held") or {}
        reasons.append(("critical", "held", f"Held: {held.get('reason', 'deletes')}",
                        "approve or reject: georep-tui held"))  # fmt: skip
    elif status == "Stopped":
        reasons.append(("critical", "stopped", "Stopped: nothing is replicated", "start it: georep-tui run"))
    elif status == "Paused":
        by = (brick.get("paused") or {}).get("by") or "?"
        many = causes.waiting(brick)
        reasons.append(("warning", "paused", f"Paused by {by}; changes are recorded, not applied" + (f": {many}" if many else ""),
                        "georep-tui resume"))  # fmt: skip
    elif status in ("Created", "Initializing..."):
        reasons.append(("unknown", "initializing", f"Initializing: not connected to {brick.get('secondary') or 'the secondary'} yet",
                        "if this lasts: georep-tui doctor"))  # fmt: skip
    return reasons


def _doubts(brick: dict[str, Any]) -> list[Found]:
    """Why the secondary's state is not certain, or not whole, whatever waits."""
    if brick["status"] not in COUNTS:
        return []
    reasons: list[Found] = []
    compared = brick.get("comparing")
    if compared is not None:
        reasons.append(("unknown", "comparing", causes.comparing(compared),
                        "what differs is put right; wait until it is through"))  # fmt: skip
    elif brick.get("first_copy") and brick["status"] in (*_CONNECTED, "Faulty"):
        reasons.append(("warning", "first-copy", causes.first_copy(brick), ""))
    if brick.get("recovering"):
        reasons.append(("unknown", "recovering", "recovering: what a crash left half done is repeated and compared", ""))
    return reasons


def _failures(brick: dict[str, Any], limits: Thresholds) -> list[Found]:
    failures = brick["failures"]
    if not failures or failures < limits.failures_warning:
        return []
    level = "critical" if failures >= limits.failures_critical else "warning"
    text = f"{failures} object{'s' if failures != 1 else ''} could not be brought over"
    return [(level, "failures", text, "see: georep-tui failures")]


def _lag(brick: dict[str, Any], limits: Thresholds, now: float) -> list[Found]:
    """How far behind, and the cause; that nobody knows is a reason only where nothing else says why."""
    status, lag = brick["status"], brick.get("lag_seconds")
    if status not in COUNTS:
        return []
    if lag is None:
        said = brick.get("first_copy") or brick.get("comparing") is not None
        return [("unknown", "lag-unknown", "how far behind is not known yet", "")] if status == "Active" and not said else []
    if lag < limits.lag_warning:
        return []
    level = "critical" if lag >= limits.lag_critical else "warning"
    cause, hint = causes.behind(brick, now)
    return [(level, "lag", f"{lag:.0f} s behind: {cause}", hint)]


def session_verdict(bricks: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """The worst of the active bricks, with their reasons (each once); a Passive brick weighs nothing.

    Where all are Passive, all is well as long as it is known for each who is active instead.
    """
    counted = [b for b in bricks if b["status"] != "Passive"]
    if not counted:
        if bricks and all(b.get("active_elsewhere") for b in bricks):
            return "ok", []
        return "unknown", [{"code": "no-brick", "text": "no brick is active here, and who is instead is not known",
                            "hint": "georep-tui status on the other nodes"}]  # fmt: skip
    worst = max((b["verdict"] for b in counted), key=ORDER.__getitem__)
    reasons: list[dict[str, str]] = []
    for b in sorted(counted, key=lambda b: -ORDER[b["verdict"]]):
        for r in b["reasons"]:
            if r not in reasons:
                reasons.append(r)
    return worst, reasons


def ended(picture: dict[str, Any], now: float) -> dict[str, Any]:
    """The last picture of an engine that ends: every brick is Stopped. What it has told of failures stays."""
    sessions = []
    for session in picture["sessions"]:
        bricks = [
            {**b, "status": "Stopped", "crawl_status": "N/A", "lag_seconds": None, "batch": None, "rate": None,
             "ended": True}
            for b in session["bricks"]
        ]  # fmt: skip
        for brick in bricks:
            brick["verdict"], brick["reasons"] = brick_verdict(brick, Thresholds(), now)
        verdict, reasons = session_verdict(bricks)
        sessions.append({**session, "state": "Stopped", "lag_seconds": None, "verdict": verdict, "reasons": reasons,
                         "bricks": bricks, "ended": True})  # fmt: skip
    return {**picture, "time": now, "sessions": sessions}


STATES = ("Faulty", "Held", "Stopped", "Paused", "Initializing...", "Created", "Active", "Passive")
"""States of bricks, the worst first: a session shows the first that any brick is in."""


def session_state(bricks: Sequence[dict[str, Any]]) -> str:
    """One word for all bricks."""
    present = {b["status"] for b in bricks}
    return next((s for s in STATES if s in present), "Created")
