"""Bricks as rows of a session's table."""

from __future__ import annotations

from georep_tui.view import signs
from georep_tui.view.progress import batch_fraction, brick_eta, brick_fraction, phase_text
from georep_tui.view.snapshot import Brick, Snapshot
from georep_tui.view.spark import bar, percent
from georep_tui.view.table import Column, Row
from georep_tui.view.text import UNKNOWN, Cell, Line, escape
from georep_tui.view.units import age, count, duration, rate
from georep_tui.view.verdict import Judged, Thresholds, judge_brick

COLUMNS = (
    Column("state", "state", 12, drop=0),
    Column("brick", "brick", 10, flex=3, middle=True, drop=0),
    Column("to", "secondary", 12, flex=1, middle=True, since=150, drop=9),
    Column("c", "C", 1, until=109, drop=5),
    Column("crawl", "crawl", 9, since=110, drop=5),
    Column("synced", "synced", 7, right=True, since=110, drop=8),
    Column("lag", "lag", 6, right=True, drop=0),
    Column("pending", "pending", 7, right=True, drop=3),
    Column("entry", "entry", 6, right=True, since=110, drop=6),
    Column("data", "data", 6, right=True, since=110, drop=6),
    Column("meta", "meta", 6, right=True, since=110, drop=6),
    Column("failures", "fail", 5, right=True, drop=2),
    Column("rate", "rate", 10, right=True, since=130, drop=9),
    Column("backlog", "backlog", 7, right=True, since=150, drop=9),
    Column("phase", "phase", 8, since=150, drop=9),
    Column("bar", "batch", 10, until=109, drop=7),
    Column("wide_bar", "batch", 15, since=110, drop=7),
    Column("eta", "ETA", 6, right=True, drop=4),
)


def brick_row(brick: Brick, snapshot: Snapshot, now: float, limits: Thresholds) -> Row:
    """The row of `brick` at unix time `now`; a brick that is not well carries its reason beneath."""
    judged = judge_brick(brick, snapshot.source(brick.node), now, limits)
    role = _stale_role(judged)
    fraction = brick_fraction(brick)
    pending = brick.pending
    cells: dict[str, Line] = {
        "state": state_cell(brick.status, judged),
        "brick": (Cell(escape(brick.label), "strong" if judged.stale is None else "muted"),),
        "to": (Cell(escape(_secondary(brick)), "muted"),),
        "c": (Cell(signs.crawl_letter(brick.crawl_status), role or "accent"),),
        "crawl": (Cell(signs.crawl_word(brick.crawl_status), role or "accent"),),
        "synced": (Cell(_ago(brick.last_synced, now), role),),
        "lag": (Cell(duration(brick.lag), role or lag_role(brick.lag, limits)),),
        "pending": (Cell(count(pending), role or _quiet(pending)),),
        "entry": (Cell(count(brick.entry), role or _quiet(brick.entry)),),
        "data": (Cell(count(brick.data), role or _quiet(brick.data)),),
        "meta": (Cell(count(brick.meta), role or _quiet(brick.meta)),),
        "failures": (Cell(count(brick.failures), failures_role(brick.failures, limits)),),
        "rate": (Cell(rate(brick.bytes_rate), role or _quiet(brick.bytes_rate)),),
        "backlog": (Cell(count(brick.backlog_changelogs), role or _quiet(brick.backlog_changelogs)),),
        "phase": (Cell(phase_text(brick.batch), "muted"),),
        "bar": bar_cells(fraction, 10, role),
        "wide_bar": bar_cells(fraction, 10, role, with_percent=True),
        "eta": (Cell(duration(brick_eta(brick)), role or "muted"),),
    }
    return Row(
        key=brick.id,
        cells=cells,
        detail=reason_lines(judged, brick),
        values={
            "state": brick.status, "brick": brick.label, "to": brick.secondary, "c": brick.crawl_status,
            "crawl": brick.crawl_status, "synced": brick.last_synced, "lag": brick.lag, "pending": pending,
            "entry": brick.entry, "data": brick.data, "meta": brick.meta, "failures": brick.failures,
            "rate": brick.bytes_rate, "backlog": brick.backlog_changelogs, "phase": phase_text(brick.batch),
            "bar": fraction, "wide_bar": fraction, "eta": brick_eta(brick),
        },
        weight=(signs.rank(judged.verdict), _attention(brick.status), brick.failures or 0, _lag_weight(brick.lag)),
        text=f"{escape(brick.label)} {escape(brick.secondary)} {brick.status} {brick.crawl_status}",
        faulty=judged.verdict != "ok",
    )  # fmt: skip


def state_cell(status: str, judged: Judged) -> Line:
    """Sign and word of a status: the status's own where it is what is wrong, else the verdict's sign before it."""
    sign = signs.state(status)
    if judged.stale is not None:
        return (Cell("? ", "unknown"), Cell(f"{age(max(10.0, judged.stale))} old", "unknown"))
    if status == "Stopped" and judged.reasons and judged.reasons[0].code == "died":
        return (Cell("✖ ", "critical"), Cell("died", "critical"))
    if judged.verdict in ("warning", "critical") and sign.role not in ("critical", "warning"):
        raised = signs.verdict(judged.verdict)
        return (Cell(f"{raised.sign} ", raised.role), Cell(sign.word, raised.role))
    return (Cell(f"{sign.sign} ", sign.role), Cell(sign.word, sign.role))


def reason_lines(judged: Judged, brick: Brick | None = None) -> tuple[Line, ...]:
    """Beneath what is not well: its first reason, and what to do. A next try is given as a time of day."""
    if judged.verdict == "ok" or not judged.reasons:
        return ()
    reason = judged.reasons[0]
    role = signs.verdict(judged.verdict).role
    more = f" (+{len(judged.reasons) - 1} more)" if len(judged.reasons) > 1 else ""
    tries = f" (attempt {brick.fault.attempt})" if brick and brick.status == "Faulty" and brick.fault and brick.fault.attempt else ""
    lines: list[Line] = [(Cell("└ ", "muted"), Cell(escape(reason.text), role), Cell(tries + more, "muted"))]
    if reason.hint:
        lines.append((Cell("  → ", "muted"), Cell(escape(reason.hint), "muted")))
    return tuple(lines)


def bar_cells(fraction: float | None, columns: int, role: str, *, with_percent: bool = False) -> Line:
    """A bar, muted where there is nothing to do, and its percentage if wanted."""
    drawn = Cell(bar(fraction, columns), "muted" if fraction is None else role or "busy")
    return (drawn, Cell(f" {percent(fraction):>4}", role or "muted")) if with_percent else (drawn,)


def batch_bar(brick: Brick, columns: int) -> Line:
    """The bar of the batch alone, with its percentage."""
    fraction = batch_fraction(brick.batch)
    return (Cell(bar(fraction, columns), "muted" if fraction is None else "busy"), Cell(f" {percent(fraction):>4}"))


def lag_role(lag: float | None, limits: Thresholds) -> str:
    """The colour of a lag by the thresholds."""
    if lag is None:
        return "unknown"
    return "critical" if lag >= limits.lag_critical else "warning" if lag >= limits.lag_warning else ""


def failures_role(failures: int | None, limits: Thresholds) -> str:
    """The colour of a number of failures by the thresholds; none at all is quiet."""
    if failures is None:
        return "unknown"
    if failures >= limits.failures_critical:
        return "critical"
    return "warning" if failures >= limits.failures_warning else _quiet(failures)


def _quiet(number: float | None) -> str:
    return "" if number else "muted"


def _stale_role(judged: Judged) -> str:
    return "unknown" if judged.stale is not None else ""


def _ago(time: float | None, now: float) -> str:
    if time is None:
        return UNKNOWN
    return "never" if time <= 0 else age(max(0.0, now - time))


def _secondary(brick: Brick) -> str:
    return f"{brick.secondary_user}@{brick.secondary}" if brick.secondary_user else brick.secondary


def _attention(status: str) -> int:
    order = ("Passive", "Active", "Stopped", "Created", "Initializing...", "Paused", "Held", "Faulty")
    return order.index(status) if status in order else len(order)


def _lag_weight(lag: float | None) -> int:
    # Bands, not seconds: rows that differ by a breath keep their places.
    return 0 if not lag else max(0, int(lag).bit_length() - 5)
