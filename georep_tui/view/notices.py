"""What deserves a toast between two snapshots: faults, recoveries, held deletes, completed checkpoints."""

from __future__ import annotations

from typing import NamedTuple

from georep_tui.view.holds import what
from georep_tui.view.snapshot import Brick, Session, Snapshot
from georep_tui.view.text import escape
from georep_tui.view.units import plural

MOST = 3
"""More notices than this at once become one that counts them."""


class Notice(NamedTuple):
    """`severity` is information, warning or error, as toasts know it."""

    title: str
    text: str
    severity: str


def notices(before: Snapshot | None, after: Snapshot) -> list[Notice]:
    """The notices that lead from `before` to `after`, the worst first; none for a first look."""
    if before is None:
        return []
    found: list[Notice] = []
    for session in after.sessions:
        old = before.session(session.id)
        if old is None or old is session:
            continue
        known = {brick.id: brick for brick in old.bricks}
        for brick in session.bricks:
            was = known.get(brick.id)
            if was is not None and was is not brick:
                found.extend(_brick(session, was, brick))
        found.extend(_checkpoint(old, session))
    order = ("error", "warning", "information")
    found.sort(key=lambda notice: order.index(notice.severity))
    if len(found) > MOST:
        rest = len(found) - MOST + 1
        return [
            *found[: MOST - 1],
            Notice("and more", f"{rest} more changes: see the events", found[MOST - 1].severity),
        ]
    return found


def _brick(session: Session, was: Brick, now: Brick) -> list[Notice]:
    where = f"{escape(session.name)} {escape(now.label)}"
    if now.status != was.status:
        reason = escape(now.reasons[0].text) if now.reasons else ""
        if now.status == "Faulty":
            return [Notice(f"✖ Faulty: {where}", reason, "error")]
        if now.status == "Held":
            text = f"{what(now.held)} wait for an answer (h)" if now.held else reason
            return [Notice(f"⚑ Held: {where}", text, "error")]
        if now.status in ("Active", "Passive") and was.status in ("Faulty", "Held"):
            return [Notice(f"● {now.status} again: {where}", f"it was {was.status}", "information")]
        if now.status == "Stopped" and was.status not in ("Created", "Stopped"):
            return [Notice(f"■ Stopped: {where}", reason, "warning")]
    more = (now.failures or 0) - (was.failures or 0)
    if more > 0 and was.failures is not None:
        return [Notice(f"▲ {plural(more, 'new failure')}: {where}", "f shows them", "warning")]
    return []


def _checkpoint(was: Session, now: Session) -> list[Notice]:
    point, old = now.checkpoint, was.checkpoint
    if not point.completed or point.time is None or (old.completed and old.time == point.time):
        return []
    name = escape(now.name)
    if point.failures_before:
        text = f"but {plural(point.failures_before, 'failure')} lie before it"
        return [Notice(f"▲ Checkpoint of {name} reached", text, "warning")]
    return [Notice(f"✔ Checkpoint of {name} completed", "everything before it is on the secondary", "information")]
