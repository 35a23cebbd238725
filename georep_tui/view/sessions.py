"""Sessions as rows of the overview, and the head of a session's own page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from georep_tui.view import signs
from georep_tui.view.bricks import failures_role, lag_role, reason_lines, state_cell
from georep_tui.view.snapshot import Brick, Checkpoint, Session, Snapshot
from georep_tui.view.spark import sparkline
from georep_tui.view.status import standing_by
from georep_tui.view.table import Column, Row
from georep_tui.view.text import UNKNOWN, Cell, Line, cut, escape, width
from georep_tui.view.units import age, count, duration, moment, plural, rate
from georep_tui.view.verdict import Judged, Thresholds, judge_session

COLUMNS = (
    Column("state", "state", 12, drop=0),
    Column("name", "session", 8, flex=2, middle=True, drop=0),
    Column("kind", "kind", 7, since=150, drop=9),
    Column("route", "primary → secondary", 20, flex=3, middle=True, since=110, drop=8),
    Column("bricks", "bricks", 9, right=True, drop=4),
    Column("lag", "lag", 6, right=True, drop=0),
    Column("pending", "pending", 7, right=True, drop=3),
    Column("failures", "fail", 5, right=True, drop=2),
    Column("checkpoint", "checkpoint", 10, drop=6),
    Column("rate", "rate", 10, right=True, since=70, drop=5),
    Column("spark", "", 20, since=130, drop=9),
)


def session_row(
    session: Session, snapshot: Snapshot, now: float, limits: Thresholds, rates: Sequence[float | None] = ()
) -> Row:
    """The overview's row of a session; `rates` are its last bytes per second, oldest first."""
    judged = judge_session(session, snapshot, now, limits)
    role = "unknown" if judged.stale is not None else ""
    pending, moved = pending_of(session), bytes_rate(session)
    bad = sum(1 for brick in session.bricks if brick.status in ("Faulty", "Held"))
    bricks: Line = (Cell(f"{len(session.bricks)}", role),)
    if bad:
        bricks = (Cell(f"{bad}✖", "critical"), Cell(f" of {len(session.bricks)}", role))
    route = f"{session.primary} → {session.secondary}"
    cells: dict[str, Line] = {
        "state": state_cell(session.state, judged),
        "name": (Cell(escape(session.name), "strong"),),
        "kind": (Cell(escape(session.kind), "muted"),),
        "route": (Cell(escape(route), "muted"),),
        "bricks": bricks,
        "lag": (Cell(duration(session.lag), role or lag_role(session.lag, limits)),),
        "pending": (Cell(count(pending), role or ("" if pending else "muted")),),
        "failures": (Cell(count(session.failures), failures_role(session.failures, limits)),),
        "checkpoint": (checkpoint_cell(session.checkpoint),),
        "rate": (Cell(rate(moved), role or ("" if moved else "muted")),),
        "spark": (Cell(sparkline(rates, 20), "accent"),),
    }
    return Row(
        key=session.id,
        cells=cells,
        detail=reason_lines(judged)[:1],
        values={
            "state": session.state, "name": session.name, "kind": session.kind, "route": route,
            "bricks": float(len(session.bricks)), "lag": session.lag, "pending": pending,
            "failures": session.failures, "checkpoint": session.checkpoint.time, "rate": moved,
        },
        weight=(signs.rank(judged.verdict), bad, session.failures or 0),
        text=f"{escape(session.name)} {escape(route)} {session.state}",
        faulty=judged.verdict != "ok",
    )  # fmt: skip


def pending_of(session: Session) -> int | None:
    """Changes that wait in all bricks of which it is known; None if it is known of none."""
    known = [brick.pending for brick in session.bricks if brick.pending is not None]
    return sum(known) if known else None


def bytes_rate(session: Session) -> float | None:
    """Bytes per second of all bricks together; None if none says."""
    known = [brick.bytes_rate for brick in session.bricks if brick.bytes_rate is not None]
    return sum(known) if known else None


def checkpoint_cell(point: Checkpoint) -> Cell:
    """A checkpoint in ten columns; one with failures before it is never good."""
    if point.time is None:
        return Cell(UNKNOWN, "muted")
    if point.failures_before:
        return Cell(f"▲ {count(point.failures_before)} fail", "warning")
    if point.completed:
        return Cell("✔ done", "ok")
    eta = f" {duration(point.eta)}" if point.eta is not None else ""
    return Cell(f"◔{eta or ' pending'}", "busy")


def checkpoint_line(session: Session, now: float, zone: tzinfo | None = None, *, acting: bool = True) -> Line:
    """A checkpoint in a line: when, whether it is done, what holds it back; the key for it if one may act."""
    point = session.checkpoint
    if point.time is None:
        return (Cell("none set", "muted"), Cell(" (c sets one)" if acting else "", "muted"))
    cells = [Cell(moment(point.time, now, zone)), Cell(" ")]
    if point.completed:
        role = "warning" if point.failures_before else "ok"
        cells.append(Cell(f"✔ done {moment(point.completion_time, now, zone)}", role))
    else:
        cells.append(Cell("◔ pending", "busy"))
        if point.eta is not None:
            cells.append(Cell(f", about {duration(point.eta)}", "busy"))
        if point.held_by:
            brick = session.brick(point.held_by)
            cells.append(Cell(f", waits for {escape(brick.label if brick else point.held_by)}", "muted"))
    if point.failures_before:
        cells.append(Cell(f" ▲ {plural(point.failures_before, 'failure')} before it", "warning"))
    return tuple(cells)


def verdict_line(judged: Judged, what: str = "", columns: int = 0) -> Line:
    """The verdict as a person says it: `● OK  the replica is up to date`; with `columns` the reason is cut to fit."""
    sign = signs.verdict(judged.verdict)
    head = Cell(f"{sign.sign} {sign.word.upper()}", f"{sign.role}")
    if judged.reasons and judged.verdict != "ok":
        more = f"  (+{len(judged.reasons) - 1} more)" if len(judged.reasons) > 1 else ""
        text = escape(judged.reasons[0].text)
        room = columns - width(head.text) - width(more) - 4
        return (head, Cell(f"  {cut(text, max(10, room)) if columns else text}", sign.role), Cell(more, "muted"))
    return (head, Cell(f"  {what}" if what else ""))


def safe_text(state: str, lag: float | None, judged: Judged, bricks: Sequence[Brick] = ()) -> str:
    """What "ok" means right now, of a session or a brick, in words that the numbers bear out."""
    if judged.verdict != "ok":
        return ""
    if state == "Passive":
        return standing_by([brick.raw for brick in bricks])
    if lag is None:
        return "how far behind is not known"
    if lag <= 0:
        return "everything seen on the primary is on the secondary"
    return f"the secondary is {duration(lag)} behind"


def bricks_text(session: Session, *, stale: bool = False) -> Line:
    """How many bricks are in which state: `● 3 Active  ✖ 1 Faulty`, worst first; a state that is old is not shown as
    one that is."""
    counts: dict[str, int] = {}
    for brick in session.bricks:
        counts[brick.status] = counts.get(brick.status, 0) + 1
    order = ("Faulty", "Held", "Paused", "Initializing...", "Created", "Stopped", "Active", "Passive")
    names = sorted(counts, key=lambda name: order.index(name) if name in order else -1)
    cells: list[Cell] = []
    for name in names:
        sign = signs.state(name)
        if stale:
            sign = signs.Sign("?", sign.word, "unknown")
        cells.append(Cell(f"{'  ' if cells else ''}{sign.sign} {counts[name]} {sign.word}", sign.role))
    return tuple(cells) or (Cell("no bricks", "muted"),)


def stale_text(judged: Judged) -> str:
    """` (4 min old)` where numbers are old, else nothing."""
    return f" ({age(max(10.0, judged.stale))} old)" if judged.stale is not None else ""
