"""What a brick's own changelog means: its records are events, not differences as a tree's are (CHG-4, CHG-6, CHG-9). Pure."""

from __future__ import annotations

import stat as _stat
from collections.abc import Callable, Iterable

from engine.apply import Problem
from engine.batch import Plan
from engine.model import DataChange, EntryChange, Fop, Gfid, MetaChange, Record, Slot

_SETATTR = 38


def meant(records: Iterable[Record], internal: Callable[[Gfid, bytes], bool]) -> list[Record]:
    """Records as the planner takes them.

    MKNOD with the sticky bit is what a heal or a rebalance leaves: a link, with content (CHG-4). RENAME and LINK of a
    file add its content and attributes: they may stand in another brick's journal than the file's making (CHG-9).
    What is the volume's own business is left out.
    """
    out: list[Record] = []
    for record in records:
        if not isinstance(record, EntryChange):
            if not internal(record.gfid, b""):
                out.append(record)
            continue
        ours = not internal(*record.slot)
        dest = record.dest is not None and not internal(*record.dest)
        if record.dest is not None and ours != dest:
            # out of the volume's own directories or into them: made or removed, as clients see it
            if dest:
                out += [record._replace(fop=int(Fop.LINK), slot=record.dest, dest=None), DataChange(record.gfid)]
            else:
                out.append(record._replace(fop=int(Fop.UNLINK), dest=None))
            continue
        if not ours:
            continue
        if record.fop == Fop.MKNOD and record.mode & _stat.S_ISVTX:
            record = record._replace(fop=int(Fop.LINK), mode=0, uid=0, gid=0)
        out.append(record)
        if record.fop in (Fop.LINK, Fop.RENAME):
            out += [DataChange(record.gfid), MetaChange(record.gfid, _SETATTR)]
    return out


def tidied(
    todo: Plan, dead: Iterable[Gfid], taken: Callable[[Slot], bool], orders: Callable[[Gfid], bool],
    holds: Callable[[Slot, Gfid], bool], *, sole: bool = False,
) -> list[Problem]:  # fmt: skip
    """Leave out what no longer holds, knowing which objects are gone; `taken` says whether a slot is in use now.

    RMDIR of a directory that is there counts for nothing (CHG-6). An object that is gone may have displaced another on
    its way: where it was last seen is cleared (they come back as problems to be settled), unless it is in use now.

    `orders` says whether this brick has an object's data: then its journal has all that gives or takes the object's names,
    in order, but for one thing: what a RENAME of another object displaces stands in no journal. So each name that is given
    is `doubtful`. Of other objects, a name is removed only where it does not hold the object any more (`holds`; else the
    record is stale, CON-2), and is doubtful, too. None is where the volume has one journal (`sole`).
    """
    gone = set(dead)
    kept: list[EntryChange] = []
    passed: dict[Slot, Gfid] = {}
    for e in todo.entries:
        if e.gfid in gone:
            if e.dest is not None:
                passed[e.dest] = e.gfid
            elif e.fop == Fop.UNLINK:
                passed.pop(e.slot, None)
        elif e.fop == Fop.RMDIR:
            continue
        elif not sole and e.fop != Fop.MKDIR:
            given = e.dest or (None if e.fop == Fop.UNLINK else e.slot)
            if e.fop in (Fop.UNLINK, Fop.RENAME):
                if orders(e.gfid):
                    todo.doubtful.pop((e.gfid, e.slot), None)
                elif e.fop == Fop.UNLINK and holds(e.slot, e.gfid):
                    continue
                else:
                    todo.doubtful[e.gfid, e.slot] = False
            if given is not None:
                todo.doubtful[e.gfid, given] = True
        kept.append(e)
    todo.entries = kept
    return [Problem(gfid, slot, "RENAME", 0, "gone since") for slot, gfid in passed.items() if not taken(slot)]


def changed_since(
    todo: Plan, here: Callable[[Slot, Gfid], bool], holds: Callable[[Slot, Gfid], bool]
) -> list[Problem]:
    """Names that were given or taken by a worker that does not have all of their changes, and are otherwise now: a change
    that another worker had already applied may have been undone.

    `here` asks this brick alone, which is quick: where it has the name for the object, nobody else is asked.
    """
    return [
        Problem(gfid, slot, "RENAME", 0, "another brick's journal has a later change")
        for (gfid, slot), given in todo.doubtful.items()
        if not (given and here(slot, gfid)) and holds(slot, gfid) != given
    ]
