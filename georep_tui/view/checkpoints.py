"""A checkpoint brick by brick: who has reached it, who holds it back, and when it will be done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from georep_tui.view.bricks import failures_role, state_cell
from georep_tui.view.snapshot import Brick, Session, Snapshot
from georep_tui.view.table import Column, Row
from georep_tui.view.text import UNKNOWN, Cell, Line, escape
from georep_tui.view.units import count, duration, moment
from georep_tui.view.verdict import Thresholds, judge_brick

COLUMNS = (
    Column("state", "state", 10, drop=0),
    Column("brick", "brick", 12, flex=2, middle=True, drop=0),
    Column("point", "checkpoint", 12, drop=2),
    Column("reached", "reached", 18, drop=0),
    Column("behind", "to go", 7, right=True, drop=3),
    Column("synced", "synced to", 12, drop=4),
    Column("failures", "fail before", 11, right=True, drop=1),
)


def checkpoint_row(
    brick: Brick, session: Session, snapshot: Snapshot, now: float, limits: Thresholds, zone: tzinfo | None = None
) -> Row:
    """A brick and its part of the checkpoint; a Passive one is not waited for."""
    judged = judge_brick(brick, snapshot.source(brick.node), now, limits)
    before = _before(brick)
    holds = session.checkpoint.held_by is not None and session.checkpoint.held_by in (brick.id, brick.brick)
    if brick.checkpoint_time is None:
        reached: Line = (Cell("none set", "muted"),)
    elif brick.status == "Passive":
        reached = (Cell("○ not waited for", "muted"),)
    elif brick.checkpoint_completed:
        done = f"✔ {moment(brick.checkpoint_completion_time, now, zone)}"
        reached = (Cell(done, "warning" if before else "ok"),)
    else:
        reached = (Cell("◔ holds it back", "warning"),) if holds else (Cell("◔ pending", "busy"),)
    to_go = None
    if brick.checkpoint_time is not None and brick.last_synced is not None and not brick.checkpoint_completed:
        to_go = max(0.0, brick.checkpoint_time - brick.last_synced)
    return Row(
        key=brick.id,
        cells={
            "state": state_cell(brick.status, judged),
            "brick": (Cell(escape(brick.label), "strong"),),
            "point": (Cell(moment(brick.checkpoint_time, now, zone)),),
            "reached": reached,
            "behind": (Cell(duration(to_go) if to_go is not None else ""),),
            "synced": (Cell(moment(brick.last_synced, now, zone)),),
            "failures": (Cell(count(before) if brick.checkpoint_time is not None else UNKNOWN,
                              failures_role(before, limits)),),
        },
        weight=(bool(holds), not brick.checkpoint_completed, to_go or 0.0),
        text=escape(brick.label),
        faulty=judged.verdict != "ok",
    )  # fmt: skip


def _before(brick: Brick) -> int:
    value = brick.raw.get("checkpoint_failures_before")
    return int(value) if isinstance(value, int) else 0


def past_line(doc: Mapping[str, Any], now: float, zone: tzinfo | None = None) -> Line:
    """A checkpoint of before: its time, whether it was reached, who set it."""
    done, before = doc.get("completed"), int(doc.get("failures_before") or 0)
    cells = [Cell(f"{moment(doc.get('time'), now, zone)}  ", "strong")]
    if done:
        cells.append(Cell(f"✔ reached {moment(doc.get('completion_time'), now, zone)}", "warning" if before else "ok"))
    else:
        cells.append(Cell("◔ not reached", "muted"))
    if before:
        cells.append(Cell(f"  ▲ {before} failures before it", "warning"))
    if doc.get("by"):
        cells.append(Cell(f"  set by {escape(str(doc['by']))}", "muted"))
    return tuple(cells)
