"""Planning: what a set of changes makes the secondary do. Pure: no files, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.model import LIMBO, ROOT, Changelog, DataChange, EntryChange, Fop, Gfid, Mark, MetaChange, Record, Slot

_MAKES = frozenset((int(Fop.CREATE), int(Fop.MKNOD), int(Fop.MKDIR), int(Fop.SYMLINK), int(Fop.LINK)))
REMOVES = frozenset((int(Fop.UNLINK), int(Fop.RMDIR)))
_FILES = frozenset((int(Fop.CREATE), int(Fop.MKNOD)))

META_FOPS = frozenset((38, 39))
"""SETATTR, FSETATTR: attributes."""

XATTR_FOPS = frozenset((17, 36, 19, 45))
"""SETXATTR, FSETXATTR, REMOVEXATTR, FREMOVEXATTR: xattrs, ACLs (CHG-7)."""

CHECK_FOPS = frozenset((33, 34))
"""XATTROP, FXATTROP: attributes, and content that has to be compared."""


@dataclass(frozen=True, slots=True)
class Source:
    """The records of one changelog."""

    changelog: Changelog
    records: list[Record]


@dataclass(slots=True)
class Plan:
    """What a batch does, in order: `entries` one after the other; then `data` and `check` (content to send, content
    to compare) beside `meta`; then the times of the directories in `touched` (CHG-9)."""

    entries: list[EntryChange] = field(default_factory=list)
    data: dict[Gfid, None] = field(default_factory=dict)
    check: dict[Gfid, None] = field(default_factory=dict)
    meta: dict[Gfid, None] = field(default_factory=dict)
    touched: dict[Gfid, None] = field(default_factory=dict)
    removed: dict[Gfid, Slot] = field(default_factory=dict)
    """Objects a name of which is removed, and from where."""
    made: dict[Gfid, None] = field(default_factory=dict)
    """Objects made by live changes (not found by a crawl)."""
    fresh: set[Gfid] = field(default_factory=set)
    """Objects that the secondary does not have before: made by live changes or found by a crawl."""
    doubtful: dict[tuple[Gfid, Slot], bool] = field(default_factory=dict)
    """Names that this batch gives to an object (True) or takes from it, where another brick's journal may have later
    changes of them: looked at again after the batch."""
    skipped: int = 0
    """Entry operations that were done before (CHG-2)."""

    def kinds(self) -> dict[str, int]:
        """How many operations of each kind: `{"create": 40, "data": 40}`."""
        found = {Fop(fop).name.lower(): number for fop, number in Counter([e.fop for e in self.entries]).items()}
        for name, some in (("data", self.data), ("check", self.check), ("meta", self.meta)):
            if some:
                found[name] = len(some)
        return found


def plan(
    sources: Iterable[Source], entry_done: Mark, *, ignore_deletes: bool = False, sync_xattrs: bool = True
) -> Plan:
    """Turn changelogs into operations.

    Entry operations of a changelog whose suffix is not later than `entry_done` are skipped; its data and metadata are
    not (CHG-2). Each gfid is in `data` and `meta` once, however often it changed (CHG-8); metadata of what is in
    `data` is dropped, since the data carries it; what a later record removed keeps its place: whether it is gone is
    for the one who looks (CHG-6).
    """
    out = Plan()
    entries, data, meta, touched = out.entries, out.data, out.meta, out.touched
    for source in sources:
        done = source.changelog.part == 0 and Mark(source.changelog.suffix, 0) <= entry_done
        for record in source.records:
            if isinstance(record, EntryChange):
                fop = record.fop
                if fop in _MAKES and fop != Fop.LINK:
                    if source.changelog.part == 0:
                        out.made[record.gfid] = None
                    if record.gfid not in out.removed:
                        out.fresh.add(record.gfid)
                if fop in _FILES:
                    data[record.gfid] = None
                    if out.removed.pop(record.gfid, None) is not None or fop == Fop.MKNOD:
                        meta[record.gfid] = None
                elif fop in REMOVES:
                    if ignore_deletes:
                        continue
                    out.removed[record.gfid] = record.slot
                elif fop in _MAKES or fop == Fop.RENAME:
                    # what was taken away and comes back (it was out of the tree) comes with other attributes
                    if out.removed.pop(record.gfid, None) is not None or fop == Fop.SYMLINK:
                        meta[record.gfid] = None
                if done:
                    out.skipped += 1
                    continue
                entries.append(record)
                touched[record.slot.parent] = None
                if record.dest is not None:
                    touched[record.dest.parent] = None
            elif isinstance(record, DataChange):
                data[record.gfid] = None
            elif isinstance(record, MetaChange):
                if record.fop in CHECK_FOPS:
                    meta[record.gfid] = None
                    out.check[record.gfid] = None
                elif record.fop in META_FOPS or (sync_xattrs and record.fop in XATTR_FOPS):
                    meta[record.gfid] = None
    touched.pop(LIMBO, None)
    for gfid in data:
        out.check.pop(gfid, None)
    if ROOT in data:
        del data[ROOT]
    return out
