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
_HEAD = ("", "brick", "state", "crawl", "synced", "lag", "entry", "data", "meta", "fail", "rate", "batch")
_RIGHT = {5, 6, 7, 8, 9, 10}


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
        f"{sign.sign} {escape(session['name'])}: {sign.word.upper()}, {session['state']}, "
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
    return lines + ["  " + line for line in _table([_HEAD, *(_row(b, now) for b in session["bricks"])])]


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
        moment(brick["last_synced"], now), duration(brick["lag_seconds"]), count(brick["entry"]), count(brick["data"]),
        count(brick["meta"]), count(brick["failures"]), rate(speed), done,
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    columns = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(fit(c, columns[i], right=i in _RIGHT) for i, c in enumerate(row)).rstrip() for row in rows]


def list_rows(document: Doc) -> list[tuple[str, ...]]:
    """A row for each session: name, state, verdict, lag, failures, primary, secondary."""
    return [
        (
            escape(s["name"]), s["state"], signs.verdict(s["verdict"]).word, duration(s["lag_seconds"]),
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
    elif len(sessions) == 1:
        text = f"{worst['name']}: {worst['state']}, {duration(worst['lag_seconds'])} behind"
    else:
        lags = [s["lag_seconds"] for s in sessions]
        text = f"{len(sessions)} sessions, {duration(None if None in lags else max(lags))} behind"
    line = cut(escape(f"GEOREP {verdict.upper()}: {text}").replace("|", "/"), CHECK_WIDTH)
    data = " ".join(_performance(s, "" if len(sessions) == 1 else f"{s['name']} ") for s in sessions)
    return CHECK_CODES.get(verdict, 3), f"{line} | {data}"


def _performance(session: Doc, label: str) -> str:
    lag = "U" if session["lag_seconds"] is None else f"{session['lag_seconds']:g}s"
    failures = "U" if session["failures"] is None else str(session["failures"])
    pending = [
        b["entry"] + b["data"] + b["meta"] for b in session["bricks"] if None not in (b["entry"], b["data"], b["meta"])
    ]
    words = [("lag", f"{lag};;;0"), ("failures", f"{failures};;;0"), ("pending", f"{sum(pending)};;;0")]
    return " ".join(f"'{label}{name}'={value}" for name, value in words)
