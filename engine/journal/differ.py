"""The incremental differ: what leads from the index of a tree to what is on its disk, as an ordered set of records.

Events are not replayed: they only say where to look. Every dirty slot is compared with the index, and the records are
derived from the difference, so that merged, doubled and misordered events do no harm (MRK-9, CHG-*).
"""

from __future__ import annotations

import os
import stat as _stat
import time
from collections.abc import Callable, Iterable

from engine.agent.index import Index, Row
from engine.journal.emit import SETATTR, Emitter
from engine.journal.findings import DATA, ENTRY, META, Findings
from engine.journal.walk import Walk
from engine.model import LIMBO, ROOT, Gfid, MetaChange, Record, Slot
from engine.volume.base import Gone
from engine.volume.tree import Seen, TreeView

ROUNDS = 100
"""Looks at what could not be reached, in one slice: as deep as directories that moved into each other are resolved."""

_new = tuple.__new__
"""Makes a named tuple of many without the cost of its own constructor."""


class Differ:
    """Compares dirty slots and objects with the index and writes the difference down as records.

    The index is changed as the records are emitted, inside its open transaction: the owner makes the records durable
    first and commits the index then. `filter_for(index)` gives `excluded(parent, name, is_dir)`, which hides a name
    (CRW-10). `budget` is the number of records at which a slice is full and walking goes on in the next one. `walk`
    has what is still to be listed, `emit` writes down what was found.
    """

    def __init__(
        self,
        view: TreeView,
        index: Index,
        filter_for: Callable[[Index], Callable[[Gfid, bytes, bool], bool]] | None = None,
        on_directory: Callable[[Gfid], None] | None = None,
        on_shared: Callable[[Gfid, bool], None] | None = None,
        budget: int = 8192,
    ) -> None:
        self.view = view
        self.index = index
        self.filter_for = filter_for
        self.excluded = filter_for(index) if filter_for is not None else None
        self.walk = Walk(view, index, on_directory)
        self.emit = Emitter(view, index, self.walk, budget, on_shared)
        self.on_step: Callable[[], None] | None = None
        """Called between two pieces of a walk: a moment to let others run."""
        self._found = Findings(0)
        self._carried: dict[Slot, int] = {}
        """Names that could not be reached in this slice, for the next one."""
        self._again: list[tuple[Slot, int]] = []
        """Names that could not be reached just now, for later in this slice."""
        self._root_due = False

    def excluded_with(self, index: Index) -> Callable[[Gfid, bytes, bool], bool] | None:
        """The same filter for another thread, with that thread's own connection to the index."""
        return self.filter_for(index) if self.filter_for is not None else None

    # ---- one slice -------------------------------------------------------------------------------------------

    def slice(
        self, slots: dict[tuple[bytes, bytes], int], objects: dict[Gfid, int], handles: dict[Gfid, bytes]
    ) -> list[Record]:
        """The records of one slice, in order. Afterwards `pending` says whether more is to be walked."""
        found, emit, walk = Findings(time.time_ns()), self.emit, self.walk
        self._found = found
        self._again = []
        emit.begin(found)
        walk.again()
        if self._root_due:
            self._root_due = False
            emit.records.append(MetaChange(ROOT, SETATTR))
        due = [(Slot(parent, name), flags) for (parent, name), flags in slots.items()]
        due += self._carried.items()
        self._carried = {}
        objects = {**objects, **{g: f | objects.get(g, 0) for g, f in emit.later.items()}}
        emit.later = {}
        self._look_at(due, objects, handles)
        self._times_of({parent for (parent, _), flags in slots.items() if flags & ENTRY})
        self._continue_walk()
        emit.removals(self._unreached)
        if not walk.walking and not emit.full:
            self._end_of_walk()
        if not walk.walking and not walk.crawling and not emit.full:
            emit.empty_limbo()
        self._carried = _merged([*self._carried.items(), *self._again])
        return emit.records

    def _look_at(self, due: list[tuple[Slot, int]], objects: dict[Gfid, int], handles: dict[Gfid, bytes]) -> None:
        """Look at what is dirty; what lies below a directory that moved only after the move is in the index."""
        waiting = _merged(due)
        stuck = False
        for _ in range(ROUNDS):
            left = self._reach(waiting)
            for gfid, flags in objects.items():
                self._see(gfid, flags, handles.get(gfid))
            objects = {}
            self._settle()
            left = _merged([*left.items(), *self._again])
            self._again = []
            if not left:
                return
            if len(left) >= len(waiting):
                if stuck:
                    break
                for parent in {slot.parent for slot in left}:
                    self._look_above(parent)
                self._settle()
                stuck = True
            waiting = left
        # their directories are on the move: the events that say where to come with a later slice
        self._carried = _merged([*self._carried.items(), *left.items()])

    def _settle(self) -> None:
        """Write down what has been found."""
        self.emit.settle()
        self._again += [(slot, ENTRY) for slot in self.emit.again]
        self.emit.again = []

    def _reach(self, waiting: dict[Slot, int]) -> dict[Slot, int]:
        """Look at these; those whose directory can't be reached yet come back. Each such directory is tried once."""
        left: dict[Slot, int] = {}
        away: set[Gfid] = set()
        for slot, flags in waiting.items():
            if slot.parent in away and slot not in self._found.looked:
                left[slot] = flags
            elif not self._look(slot, flags):
                away.add(slot.parent)
                left[slot] = flags
        return left

    @property
    def _unreached(self) -> set[Slot]:
        """Names of which it is not known what they hold: they are looked at again, and not removed before."""
        return {slot for slot, _ in self._again} | self._carried.keys()

    @property
    def unsettled(self) -> bool:
        """Could something not be reached, so that the next slice has to look at it again?"""
        return bool(self.walk.unreached or self._carried or self.emit.later)

    @property
    def pending(self) -> bool:
        """Is anything left to be walked or removed in a further slice?"""
        walk, index = self.walk, self.index
        return walk.walking or walk.crawling or bool(index.some_children(LIMBO, 1)) or bool(index.deferred(1))

    def begin_walk(self) -> None:
        """Walk the whole tree from the root: a hybrid crawl (CRW-5, CRW-8)."""
        self.walk.begin()
        self._root_due = True

    # ---- looking ---------------------------------------------------------------------------------------------

    def _look(self, slot: Slot, flags: int = ENTRY) -> bool:
        """Compare one slot with the index. False when its directory can't be reached yet."""
        change = flags & (DATA | META)
        if slot in self._found.looked:
            if change:
                self._flag(slot, change)
            return True
        if slot.parent == LIMBO or (slot.parent != ROOT and not self.index.has(slot.parent)):
            return True  # outside, or new: then the walk will list it
        try:
            seen = self.view.look(slot.parent, slot.name)
        except Gone:
            return False
        self._found.looked.add(slot)
        before = self.index.get(slot.parent, slot.name)
        if seen is not None and self.excluded is not None:
            if self.excluded(slot.parent, slot.name, _stat.S_ISDIR(seen.st.st_mode)):
                seen = None
        self._compare(slot, before, seen, change)
        return True

    def _look_or_later(self, slot: Slot) -> bool:
        """The same; a slot that can't be reached yet is looked at again, in this slice or the next."""
        if self._look(slot):
            return True
        self._again.append((slot, ENTRY))
        return False

    def _times_of(self, parents: set[Gfid]) -> None:
        """Directories whose names came and went have other times, even where nothing else is left of it."""
        for gfid in parents:
            if gfid == ROOT:
                self.emit.records.append(MetaChange(ROOT, SETATTR))
                continue
            row = self.index.row(gfid)
            if row is None or row.parent == LIMBO:
                continue
            try:
                st = os.fstat(self.view.dir_fd(gfid))
            except Gone:
                self.emit.postpone(gfid, META)
                continue
            if st.st_mtime_ns != row.mtime_ns or st.st_ctime_ns != row.ctime_ns:
                self.emit.records.append(MetaChange(gfid, SETATTR))
                self.index.touch(gfid, row.ident, st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    def _look_above(self, gfid: Gfid) -> None:
        """Look at the names of a directory that can't be reached and of those above it: one of them has moved."""
        above = {ROOT, LIMBO}  # those that were seen at different times may also be above one another
        while gfid not in above:
            above.add(gfid)
            row = self.index.row(gfid)
            if row is None:
                return
            self._look(row.slot)
            gfid = row.parent

    def _flag(self, slot: Slot, change: int) -> None:
        """A name was written through that has been looked at already: its object, or what it was, has changed."""
        seen = self._found.added.get(slot)
        gfid = seen.gfid if seen is not None else None
        if gfid is None:
            row = self._found.removed.get(slot) or self.index.get(slot.parent, slot.name)
            gfid = row.gfid if row is not None else None
        if gfid is None:
            self._found.suspect = True
        else:
            self._found.flag(gfid, change)

    def _compare(self, slot: Slot, before: Row | None, seen: Seen | None, change: int) -> None:
        if before is not None and seen is not None and before.gfid == seen.gfid:
            self._found.removed.pop(slot, None)  # it could not be reached at first
            self._changed(before, seen, change)
            return
        if change:
            # written through this name, which holds another object now: whatever it held has changed
            if before is not None:
                self._found.flag(before.gfid, change)
            else:
                self._found.suspect = True
        if before is not None:
            self._found.removed[slot] = before
        elif seen is None:
            self._found.passing = True
        if seen is not None:
            self._add(slot, seen)
            if change:
                self._found.flag(seen.gfid, change)

    def _add(self, slot: Slot, seen: Seen) -> None:
        self._found.added[slot] = seen
        self._found.places.setdefault(seen.gfid, slot)
        # where it was known to be: gone from there (a rename), or still there (a link)?
        for row in self.index.rows(seen.gfid):
            if row.parent != LIMBO:
                if row.slot not in self._found.looked and not self._look_or_later(row.slot):
                    self._found.removed[row.slot] = row
            self._changed(row, seen, 0)

    def _changed(self, before: Row, seen: Seen, flags: int) -> None:
        """Note what the stat alone says has changed, beyond what events said (`flags`)."""
        st = seen.st
        same_ctime = st.st_ctime_ns == before.ctime_ns
        if flags == 0 and same_ctime and st.st_mtime_ns == before.mtime_ns and st.st_size == before.size:
            return
        if _stat.S_ISREG(st.st_mode):
            if st.st_size != before.size or st.st_mtime_ns != before.mtime_ns:
                flags |= DATA | META
            elif not same_ctime and not flags & DATA and (self.walk.crawling or before.ctime_ns == 0):
                flags |= META | ENTRY  # content may have changed and its time been set back: to be compared
        elif not same_ctime and (self.walk.crawling or not _stat.S_ISDIR(st.st_mode)):
            flags |= META
        if flags:
            self._found.flag(seen.gfid, flags)
            self._found.stats[seen.gfid] = seen

    def _see(self, gfid: Gfid, flags: int, handle: bytes | None) -> None:
        """An object whose content or attributes changed; unknown ones are not in the tree."""
        rows = self.index.rows(gfid)
        if not rows and gfid != ROOT:
            return
        place = self._found.places.get(gfid)
        seen = self._found.added[place] if place is not None else self.view.see(gfid, handle)
        if seen is None:
            for row in rows:
                self._look_or_later(row.slot)
            if not self.view.by_handle:
                self.emit.postpone(gfid, flags)
            return
        flags &= DATA | META
        if rows and _stat.S_ISREG(seen.st.st_mode):
            if (seen.st.st_size, seen.st.st_mtime_ns) != (rows[0].size, rows[0].mtime_ns):
                flags |= DATA  # written too, though nothing but its attributes was told
        self._found.flag(gfid, flags)
        self._found.stats[gfid] = seen

    # ---- walking ---------------------------------------------------------------------------------------------

    def _continue_walk(self) -> None:
        """List directories that are due, as long as the slice has room; each listing is settled at once."""
        walk, emit = self.walk, self.emit
        limit = walk.seen + walk.step
        while not emit.full and walk.seen < limit and walk.walking:
            if not walk.open and not self._next_directory():
                continue
            gfid, names = walk.some(min(max(256, emit.budget - len(emit.records)), max(1, limit - walk.seen)))
            try:
                self._list_some(gfid, names)
            except Gone:
                walk.lost(gfid)
            self._settle()
            if self.on_step is not None:
                self.on_step()

    def _next_directory(self) -> bool:
        """Open the next directory that is due; False when it is none, moved, or may not be listed."""
        walk = self.walk
        gfid = walk.due.popleft()
        if gfid != ROOT and not self.index.has(gfid):
            return False
        try:
            names = walk.enter(gfid)
        except Gone:
            row = self.index.row(gfid)
            if row is not None:
                self._found.looked.discard(row.slot)
                self._look_or_later(row.slot)
                self._settle()
                walk.lost(gfid)
            return False
        if names is None:
            return False
        self._missing(gfid, names)
        return True

    def _list_some(self, gfid: Gfid, names: list[bytes]) -> None:
        """Compare some names of a directory; those of objects never seen are emitted at once."""
        found, walk = self._found, self.walk
        view, looked, crawling = self.view, found.looked, walk.crawling
        fd = view.dir_fd(gfid)
        before: dict[bytes, Row] = {}
        if self.index.some_children(gfid, 1):
            before = {r.name: r for r in self.index.children(gfid)} if len(names) < 65536 else {}
            one_by_one = len(names) >= 65536
        else:
            one_by_one = False
        fresh: list[tuple[Slot, Seen]] = []
        for name in names:
            slot = _new(Slot, (gfid, name))
            if slot in looked:
                if crawling:
                    row = self.index.get(gfid, name)
                    if row is not None and _stat.S_ISDIR(row.kind):
                        walk.due.append(row.gfid)
                continue
            looked.add(slot)
            row = self.index.get(gfid, name) if one_by_one else before.get(name)
            if row is not None and (st := view.unchanged(fd, row)) is not None:
                seen: Seen | None = Seen(row.gfid, row.ident, st)
            else:
                seen = view.look_at(fd, name)
            if seen is not None:
                is_dir = _stat.S_ISDIR(seen.st.st_mode)
                if self.excluded is not None and self.excluded(gfid, name, is_dir):
                    seen = None
                elif row is None:
                    fresh.append((slot, seen))
                    continue
                elif is_dir and crawling and row.gfid == seen.gfid:
                    walk.due.append(seen.gfid)
            self._compare(slot, row, seen, 0)
        if fresh:
            known = self.index.maybe([seen.gfid for _, seen in fresh])
            rows: list[Row] = []
            for slot, seen in fresh:
                if seen.gfid in known or seen.gfid in found.places:
                    self._add(slot, seen)
                else:
                    known.add(seen.gfid)  # a name further on may be another of it, or it has moved there meanwhile
                    rows.append(self.emit.create(slot, seen))
            self.index.put(rows)

    def _missing(self, gfid: Gfid, names: list[bytes]) -> None:
        """Indexed names of a listed directory that are not on the disk."""
        after, there = b"", None
        while rows := self.index.some_children(gfid, 4096, after):
            if there is None:
                there = set(names)
            after = rows[-1].name
            for row in rows:
                if row.name not in there:
                    self._look_or_later(row.slot)

    def _end_of_walk(self) -> None:
        """Everything has been seen: what was missing and was found nowhere is gone."""
        walk = self.walk
        while not self.emit.full and not walk.walking:
            slots = self.index.deferred(1024)
            if not slots:
                walk.crawling = False
                return
            self.index.undefer(slots)
            for slot in slots:
                self._found.looked.discard(slot)
                self._look_or_later(slot)
            self._settle()
            crawling, walk.crawling = walk.crawling, False
            self.emit.removals(self._unreached)
            walk.crawling = crawling


def _merged(due: Iterable[tuple[Slot, int]]) -> dict[Slot, int]:
    """Each name once, with all that is to be looked at for it."""
    out: dict[Slot, int] = {}
    for slot, flags in due:
        out[slot] = out.get(slot, 0) | flags
    return out
