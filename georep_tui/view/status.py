"""The plain status and the line for a monitoring system: snapshot in, lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from georep_tui.view import signs
from georep_tui.view.text import UNKNOWN, cut, escape, fit, width
from georep_tui.view.units import count, duration, moment, plural, rate, size

Doc = Mapping[str, Any]

CHECK_WIDTH = 80
CHECK_CODES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
_HEAD = ("", "brick", "state", "crawl", "synced", "lag", "pending", "fail", "rate", "batch")
_RIGHT = {5, 6, 7, 8}
_UNSAID = ("died", "stopped")
"""Reasons whose hint is as much worth a monitoring system's line as they are: the command that starts it again."""


def status_lines(document: Doc) -> list[str]:
    """All sessions with their bricks, the worst first, each with its reasons."""
    now = float(document.get("time") or 0)
    sessions = sorted(document["sessions"], key=lambda s: (-signs.rank(s["verdict"]), s["name"]))
    lines: list[str] = []
    for session in sessions:
        if lines:
            lines.append("")
        lines += session_lines(session, now)
    for source in document.get("sources") or ():
        if not source.get("connected"):
            lines.append(
                f"! {escape(source['node'])} is not connected: {escape(source.get('error') or 'no reason known')}"
            )
    return lines


def session_lines(session: Doc, now: float) -> list[str]:
    """One session: what it is, how it is, its bricks as a table."""
    sign = signs.verdict(session["verdict"])
    known = session["failures"]
    failures = "failures unknown" if known is None else plural(known, "failure")
    lines = [
        f"{sign.sign} {escape(session['name'])}: {sign.word.upper()}, {_state(session)}, "
        f"lag {duration(session['lag_seconds'])}, {failures}",
        f"  {escape(session['primary'])} → {escape(session['secondary'])}",
    ]  # fmt: skip
    point = session["checkpoint"]
    if point.get("time") is not None:
        lines.append(f"  checkpoint {moment(point['time'], now)}: {_checkpoint(point, now)}")
    if session.get("arrival"):
        lines.append(f"  arrival {escape(str(session['arrival']))}")
    for reason in session["reasons"]:
        hint = f" ({escape(reason['hint'])})" if reason.get("hint") else ""
        lines.append(f"  └ {escape(reason['text'])}{hint}")
    if session["verdict"] == "ok" and session["state"] == "Passive":
        lines.append(f"  └ {escape(standing_by(session['bricks']))}")
    if not session["bricks"]:
        return lines
    return lines + ["  " + line for line in _table([_HEAD, *(_row(b, now) for b in session["bricks"])])]


def _state(session: Doc) -> str:
    """The state in a word; of one whose engine died, that."""
    died = any(r["code"] == "died" for r in session["reasons"])
    return "died" if died and session["state"] == "Stopped" else str(session["state"])


def standing_by(bricks: Sequence[Doc]) -> str:
    """`passive: n1:/bricks/a is active`, with every brick that is active for one of these, as far as known."""
    known = list(dict.fromkeys(b["active_elsewhere"] for b in bricks if b.get("active_elsewhere")))
    if not known:
        return "standing by: another replica is active"
    return f"passive: {', '.join(map(str, known))} {'is' if len(known) == 1 else 'are'} active"


def pending(brick: Doc) -> int | None:
    """All changes that are known and not on the secondary; None when nobody knows.

    Where an engine does not count them (gsyncd), the operations of its batch.
    """
    backlog = brick.get("backlog")
    if "as_of" in brick or (backlog and "changes" in backlog):
        changes: int | None = (backlog or {}).get("changes")
        return changes
    parts = (brick["entry"], brick["data"], brick["meta"])
    return None if None in parts else sum(parts)


def _checkpoint(point: Doc, now: float) -> str:
    before = f", {plural(point['failures_before'], 'failure')} before it" if point.get("failures_before") else ""
    if point.get("completed"):
        return f"completed {moment(point['completion_time'], now)}{before}"
    eta = f", about {duration(point['eta_seconds'])}" if point.get("eta_seconds") is not None else ""
    held = f", waits for {escape(str(point['held_by']))}" if point.get("held_by") else ""
    return f"pending{eta}{held}{before}"


def _row(brick: Doc, now: float) -> tuple[str, ...]:
    sign = signs.state(brick["status"])
    speed = (brick.get("rate") or {}).get("bytes_per_s")
    batch = brick.get("batch")
    done = UNKNOWN
    if batch:
        files = batch["files"]
        done = f"{batch['phase']} {count(files[0])}/{count(files[1])} {size(batch['bytes'][0])}"
    return (
        sign.sign, escape(f"{brick['node']}:{brick['brick']}"), brick["status"],
        signs.crawl_word(brick["crawl_status"]),
        moment(brick["last_synced"], now), duration(brick["lag_seconds"]), count(pending(brick)),
        count(brick["failures"]), rate(speed), done,
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    columns = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(fit(c, columns[i], right=i in _RIGHT) for i, c in enumerate(row)).rstrip() for row in rows]


def list_rows(document: Doc) -> list[tuple[str, ...]]:
    """A row for each session: name, state, verdict, lag, failures, primary, secondary."""
    return [
        (
            escape(s["name"]), _state(s), signs.verdict(s["verdict"]).word, duration(s["lag_seconds"]),
            count(s["failures"]), escape(s["primary"]), escape(s["secondary"]),
        )
        for s in document["sessions"]
    ]  # fmt: skip


def check(document: Doc) -> tuple[int, str]:
    """Exit code and line of `--check`: the worst verdict (0 ok, 1 warning, 2 critical, 3 unknown), why, numbers."""
    sessions = document["sessions"]
    if not sessions:
        return 3, "GEOREP UNKNOWN: no session is running here"
    worst = max(sessions, key=lambda s: signs.rank(s["verdict"]))
    verdict = worst["verdict"]
    lost = [s for s in document.get("sources") or () if not s.get("connected")]
    text = ""
    if lost and signs.rank(verdict) < signs.rank("unknown"):
        verdict, text = "unknown", f"{lost[0]['node']} is not connected"
    elif verdict != "ok":
        reason = worst["reasons"][0]["text"] if worst["reasons"] else worst["state"]
        text = f"{worst['name']}: {reason}"
        if worst["reasons"] and worst["reasons"][0]["code"] in _UNSAID and worst["reasons"][0]["hint"]:
            text += f"; {worst['reasons'][0]['hint'].removeprefix('start it again: ')}"
    elif len(sessions) == 1 and worst["state"] == "Passive":
        text = f"{worst['name']}: {standing_by(worst['bricks'])}"
    elif len(sessions) == 1:
        text = f"{worst['name']}: {worst['state']}, {duration(worst['lag_seconds'])} behind"
    else:
        lags = [s["lag_seconds"] for s in sessions if s["state"] != "Passive"] or [None]
        text = f"{len(sessions)} sessions, {duration(None if None in lags else max(lags))} behind"
    line = cut(escape(f"GEOREP {verdict.upper()}: {text}").replace("|", "/"), CHECK_WIDTH)
    data = " ".join(_performance(s, "" if len(sessions) == 1 else f"{s['name']} ") for s in sessions)
    return CHECK_CODES.get(verdict, 3), f"{line} | {data}"


def _performance(session: Doc, label: str) -> str:
    lag = "U" if session["lag_seconds"] is None else f"{session['lag_seconds']:g}s"
    failures = "U" if session["failures"] is None else str(session["failures"])
    counts = [pending(b) for b in session["bricks"] if b["status"] != "Passive"]
    known = [c for c in counts if c is not None]
    waiting = "U" if len(known) < len(counts) or session.get("ended") else str(sum(known))
    words = [("lag", f"{lag};;;0"), ("failures", f"{failures};;;0"), ("pending", f"{waiting};;;0")]
    return " ".join(f"'{label}{name}'={value}" for name, value in words)
