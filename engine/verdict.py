"""The verdict on a brick and a session: ok, warning, critical or unknown, with reasons. Pure; the only place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ORDER = {"ok": 0, "warning": 1, "unknown": 2, "critical": 3}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a number is worth a warning or worse: lag in seconds, failures as a count."""

    lag_warning: float = 60.0
    lag_critical: float = 600.0
    failures_warning: int = 1
    failures_critical: int = 100


def brick_verdict(brick: dict[str, Any], limits: Thresholds, now: float) -> tuple[str, list[dict[str, str]]]:
    """Verdict and reasons of one brick of a snapshot, the worst reason first."""
    reasons: list[tuple[str, str, str, str]] = []
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
        reasons.append(("warning", "paused", f"Paused by {by}; changes are recorded, not applied", "georep-tui resume"))
    elif status in ("Created", "Initializing..."):
        reasons.append(("unknown", "initializing", f"Initializing: not connected to {brick.get('secondary') or 'the secondary'} yet",
                        "if this lasts: georep-tui doctor"))  # fmt: skip
    comparing = brick.get("comparing")
    if comparing and status in ("Active", "Held", "Paused", "Initializing..."):
        of = f" of {comparing['total']:,}" if comparing["total"] is not None else ""
        reasons.append(("unknown", "comparing", f"comparing {comparing['seen']:,}{of} objects of both sides: {comparing['why']}",
                        "what differs is put right; wait until it is through"))  # fmt: skip
    failures = brick["failures"]
    if failures and failures >= limits.failures_warning:
        level = "critical" if failures >= limits.failures_critical else "warning"
        reasons.append((level, "failures", f"{failures} object{'s' if failures != 1 else ''} could not be brought over",
                        "see: georep-tui failures"))  # fmt: skip
    lag = brick.get("lag_seconds")
    if lag is not None and status in ("Active", "Held", "Paused"):
        if lag >= limits.lag_critical:
            reasons.append(("critical", "lag", f"{lag:.0f} s behind", "is the line or the secondary too slow?"))
        elif lag >= limits.lag_warning:
            reasons.append(("warning", "lag", f"{lag:.0f} s behind", "is the line or the secondary too slow?"))
    if status == "Active" and lag is None:
        reasons.append(("unknown", "lag-unknown", "how far behind is not known yet", ""))
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


def session_verdict(bricks: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """The worst of the active bricks, with their reasons (each once); a Passive brick weighs nothing."""
    counted = [b for b in bricks if b["status"] != "Passive"]
    if not counted:
        return "unknown", [{"code": "no-brick", "text": "no brick is active here", "hint": ""}]
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
