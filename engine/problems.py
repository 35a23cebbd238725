"""What has to be settled: the problems of each object as one, and what settling them leaves to be done. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.apply import Problem
from engine.ledger import TREE
from engine.model import Gfid, Slot
from engine.volume.base import Version

CONTENT = ("DATA", "META", "RETRY")
"""Operations of problems that are only settled when the content has been sent."""


@dataclass(slots=True)
class Due:
    """What settling leaves to be done: content to send, attributes to set, objects to be settled as well (they are in
    directories that had to be made), and objects that are not where the index has them."""

    data: dict[Gfid, Version | None] = field(default_factory=dict)
    """With what was seen before, of a file whose records another brick's journal has."""
    meta: dict[Gfid, None] = field(default_factory=dict)
    below: list[Gfid] = field(default_factory=list)
    gone: list[Gfid] = field(default_factory=list)
    again: list[Problem] = field(default_factory=list)
    """What changed on the primary while it was settled by a worker that does not have all of its records."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of one object, and why (CON-6: every decision can be shown)."""

    gfid: Gfid
    row: str
    text: str


def gathered(problems: Iterable[Problem]) -> tuple[dict[Gfid, Problem], dict[Gfid, list[Slot]]]:
    """One problem of each object, what was in the way included, and the slots that all of its problems speak of, but for
    those that another object has.

    One that needs content goes before one that does not: times may be right already where the content is not.
    """
    todo: dict[Gfid, Problem] = {}
    slots: dict[Gfid, list[Slot]] = {}
    for p in problems:
        known = todo.get(p.gfid)
        if known is None or (_reach(p) > _reach(known)):
            todo[p.gfid] = p
        if p.slot is not None and not p.found:
            slots.setdefault(p.gfid, []).append(p.slot)
        if p.found and p.found not in todo:
            todo[p.found] = p
    return todo, slots


def claimed(problems: Iterable[Problem]) -> dict[Gfid, dict[Slot, None]]:
    """All names that the problems of each object are about: perhaps its own, whether a brick has noted them or not."""
    out: dict[Gfid, dict[Slot, None]] = {}
    for p in problems:
        mine = out.setdefault(p.gfid, {})
        mine.update(dict.fromkeys(p.slots))
        if p.slot is not None:
            mine[p.slot] = None
    return out


def _reach(problem: Problem) -> int:
    """How much settling it takes."""
    return 2 if problem.operation == TREE else int(problem.operation in CONTENT)
