"""From what a slice found to records: directories from the top, then files, then changes; removals come last."""

from __future__ import annotations

import stat as _stat
from collections.abc import Callable

from engine.agent.index import Index, Row
from engine.journal.findings import DATA, ENTRY, META, RACY_NS, Findings, limbo_slot
from engine.journal.walk import Walk
from engine.model import LIMBO, ROOT, DataChange, EntryChange, Fop, Gfid, MetaChange, Record, Slot
from engine.volume.tree import Seen, TreeView

SETATTR, CHECK = 38, 33
"""Fops of M records: attributes; attributes and perhaps content (XATTROP: the content is compared, CHG-7)."""

_FMT = _stat.S_IFMT
_new = tuple.__new__
"""Makes a named tuple of many without the cost of its own constructor."""
_CREATE, _MKDIR, _MKNOD, _SYMLINK = int(Fop.CREATE), int(Fop.MKDIR), int(Fop.MKNOD), int(Fop.SYMLINK)


class Emitter:
    """Writes findings down as records, and changes the index as they say.

    `on_shared(gfid, sure)` is called for files that have or may have had several names; with `each_file` for each
    one newly in the tree (`sure` False: it has one name, as far as can be seen). `on_gone` is called for
    each directory that left the tree.
    """

    def __init__(
        self, view: TreeView, index: Index, walk: Walk, budget: int, on_shared: Callable[[Gfid, bool], None] | None
    ) -> None:
        self.view = view
        self.index = index
        self.walk = walk
        self.budget = budget
        self.on_shared = on_shared
        self.each_file = False
        self.on_gone: Callable[[Gfid], None] | None = None
        self.records: list[Record] = []
        self.later: dict[Gfid, int] = {}
        """Objects that were on the move when their change was to be written: they are looked at again."""
        self.again: list[Slot] = []
        """Names that may be others by now: the differ looks at them again."""
        self._shared: dict[Gfid, bool] = {}
        self._found = Findings(0)
        self.files = self.bytes = 0
        """Regular files that were made known so far, and their bytes then."""

    @property
    def full(self) -> bool:
        """Has this slice as many records as one may have?"""
        return len(self.records) >= self.budget

    def begin(self, found: Findings) -> None:
        """A new slice."""
        self._found = found
        self.records = []

    def postpone(self, gfid: Gfid, flags: int) -> None:
        """An object that is on the move: it is looked at again in the next slice."""
        self.later[gfid] = self.later.get(gfid, 0) | flags

    def settle(self) -> None:
        """Emit what has been found so far: directories from the top, then files, then changes; removals come last."""
        found = self._found
        if found.added:
            dirs = [s for s, seen in found.added.items() if _stat.S_ISDIR(seen.st.st_mode)]
            for slot in dirs:
                self._place_dir(slot)
            for slot, seen in found.added.items():
                if not _stat.S_ISDIR(seen.st.st_mode):
                    self._place(slot, seen)
        if found.objects:
            self._emit_changes()
        if self._shared:
            if self.on_shared is not None:
                for gfid, sure in self._shared.items():
                    self.on_shared(gfid, sure)
            self._shared = {}
        found.settled()

    def _place_dir(self, slot: Slot) -> None:
        """Put a directory in its place, after the directories above it that also move."""
        found = self._found
        chain: list[Slot] = []
        at: Slot | None = slot
        while at is not None and at in found.added and at not in chain:
            row = self.index.get(at.parent, at.name)
            if row is not None and row.gfid == found.added[at].gfid:
                break
            chain.append(at)
            at = found.places.get(at.parent)
        for place in reversed(chain):
            seen = found.added[place]
            if self._inside(place.parent, seen.gfid):
                self._look_again(place, seen.gfid)
            else:
                self._place(place, seen)

    def _inside(self, gfid: Gfid, top: Gfid) -> bool:
        """Is a directory, as the index has it, `top` itself or below it?"""
        above = {ROOT, LIMBO}
        while gfid not in above and gfid != top:
            above.add(gfid)
            row = self.index.row(gfid)
            if row is None:
                return False
            gfid = row.parent
        return gfid == top

    def _look_again(self, slot: Slot, gfid: Gfid) -> None:
        """A directory was seen below what the index still has below it: one of the two has moved on since it was looked
        at. It stays where it was, and its names of then and now are looked at again."""
        found = self._found
        del found.added[slot]
        found.places.pop(gfid, None)
        for stale in (slot, *(row.slot for row in self.index.rows(gfid))):
            found.removed.pop(stale, None)
            found.looked.discard(stale)
            self.again.append(stale)

    def _place(self, slot: Slot, seen: Seen) -> None:
        found = self._found
        index = self.index
        gfid, st = seen.gfid, seen.st
        occupant = index.get(slot.parent, slot.name)
        if occupant is not None:
            if occupant.gfid == gfid:
                return
            self._vacate(slot, occupant)
        rows = index.rows(gfid)
        mode = st.st_mode
        if not rows:
            index.put((self.create(slot, seen),))
            return
        source = None
        for old in rows:
            if old.parent == LIMBO or old.slot in found.removed or _stat.S_ISDIR(mode):
                source = old
                break
        if source is None:
            self.records.append(EntryChange(gfid, Fop.LINK, slot))
            self._shared[gfid] = True
        else:
            found.removed.pop(source.slot, None)
            index.remove((source.slot,))
            if not _stat.S_ISDIR(mode):
                self._shared[gfid] = True  # a link and an unlink look like this too, and may have left it open
            self.records.append(EntryChange(gfid, Fop.RENAME, source.slot, slot))
            self.view.forget(gfid)
        # size and times stay the index's own until the change itself is emitted
        index.put((rows[0]._replace(parent=slot.parent, name=slot.name),))
        found.stats[gfid] = seen
        found.objects.setdefault(gfid, 0)
        if source is not None and found.suspect and _stat.S_ISREG(mode):
            found.objects[gfid] |= DATA
        if _stat.S_ISDIR(mode) and self.walk.crawling:
            self.walk.due.append(gfid)

    def create(self, slot: Slot, seen: Seen) -> Row:
        """Emit the making of an object never seen before; its row is the caller's to put."""
        found = self._found
        gfid, handle, st = seen
        mode = st.st_mode
        kind = _FMT(mode)
        ctime = st.st_ctime_ns
        if ctime > found.now_ns - RACY_NS:
            ctime = 0
        if kind == _stat.S_IFREG:
            self.files += 1
            self.bytes += st.st_size
            self.records.append(_new(EntryChange, (gfid, _CREATE, slot, None, mode, st.st_uid, st.st_gid, None, ctime)))
        elif kind == _stat.S_IFLNK:
            self.records.append(EntryChange(gfid, _SYMLINK, slot))
        else:
            fop = _MKDIR if kind == _stat.S_IFDIR else _MKNOD
            self.records.append(EntryChange(gfid, fop, slot, None, mode, st.st_uid, st.st_gid))
        if found.objects:
            found.objects.pop(gfid, None)
        if kind == _stat.S_IFDIR:
            self.walk.due.append(gfid)
        elif st.st_nlink > 1:
            self._shared[gfid] = True
        elif self.each_file:
            self._shared[gfid] = found.passing
        return _new(Row, (*slot, gfid, kind, handle, st.st_size, st.st_mtime_ns, ctime))

    def _vacate(self, slot: Slot, occupant: Row) -> None:
        """Free a slot that is wanted: its object waits in limbo unless it is certain to be gone or has other names."""
        found = self._found
        found.removed.pop(slot, None)
        rows = self.index.rows(occupant.gfid)
        is_dir = _stat.S_ISDIR(occupant.kind)
        gone = not self.walk.crawling and not self.walk.walking and occupant.gfid not in found.places
        if not is_dir and (len(rows) > 1 or gone):
            self.records.append(EntryChange(occupant.gfid, Fop.UNLINK, slot))
            self.index.remove((slot,))
            return
        waiting = limbo_slot(occupant.gfid)
        self.records.append(EntryChange(occupant.gfid, Fop.RENAME, slot, waiting))
        self.index.remove((slot,))
        self.index.put((occupant._replace(parent=waiting.parent, name=waiting.name),))
        if is_dir:
            self.view.forget(occupant.gfid)

    def empty_limbo(self) -> None:
        """Delete what was displaced and is wanted nowhere."""
        while not self.full:
            rows = self.index.some_children(LIMBO, 64)
            if not rows:
                return
            for row in rows:
                self._delete(row)

    def removals(self, unreached: set[Slot]) -> None:
        """Emit the removal of what was found nowhere; while directories are still to be listed, only remember it."""
        found = self._found
        removed = {slot: row for slot, row in found.removed.items() if slot not in unreached}
        found.removed = {}
        if self.walk.crawling or self.walk.walking:
            alone = []
            for slot, row in removed.items():
                if len(self.index.rows(row.gfid)) > 1:
                    self._unlink(slot, row)  # another name holds the object: this one can go now
                else:
                    alone.append(slot)
            self.index.defer(alone)
            return
        for slot, row in removed.items():
            now = self.index.get(slot.parent, slot.name)
            if now is None or now.gfid != row.gfid:
                continue
            if _stat.S_ISDIR(row.kind):
                self._delete(now)
            else:
                self._unlink(slot, row)

    def _unlink(self, slot: Slot, row: Row) -> None:
        now = self.index.get(slot.parent, slot.name)
        if now is None or now.gfid != row.gfid:
            return
        self.records.append(EntryChange(row.gfid, Fop.UNLINK, slot))
        self.index.remove((slot,))

    def _delete(self, top: Row) -> None:
        """Delete an object with all below it, the deepest first; a tree too large for the slice goes to limbo first."""
        if not _stat.S_ISDIR(top.kind):
            self._unlink(top.slot, top)
            return
        if top.parent != LIMBO and self._larger_than(top.gfid, self.budget):
            self._vacate(top.slot, top)
            return
        room = max(self.budget, self.budget - len(self.records))
        stack: list[Row] = [top]
        while stack:
            row = stack[-1]
            children = self.index.some_children(row.gfid, 512)
            below = [c for c in children if _stat.S_ISDIR(c.kind)]
            for child in children:
                if not _stat.S_ISDIR(child.kind):
                    self.records.append(EntryChange(child.gfid, Fop.UNLINK, child.slot))
                    self.index.remove((child.slot,))
                    room -= 1
            if below:
                stack.append(below[0])
                continue
            if children:
                if room <= 0 and top.parent == LIMBO:
                    return
                continue
            self.records.append(EntryChange(row.gfid, Fop.RMDIR, row.slot))
            self.index.remove((row.slot,))
            self.view.forget(row.gfid)
            if self.on_gone is not None:
                self.on_gone(row.gfid)
            room -= 1
            stack.pop()

    def _larger_than(self, gfid: Gfid, limit: int) -> bool:
        """Are there more than `limit` names below a directory of the index?"""
        todo, number = [gfid], 0
        while todo and number <= limit:
            rows = self.index.some_children(todo.pop(), limit + 1)
            number += len(rows)
            todo.extend(r.gfid for r in rows if _stat.S_ISDIR(r.kind))
        return number > limit

    def _emit_changes(self) -> None:
        found = self._found
        for gfid, flags in found.objects.items():
            seen = found.stats.get(gfid) or self.view.see(gfid)
            if seen is None:
                if not self.view.by_handle:  # on the move: it is looked at again
                    self.postpone(gfid, flags & (DATA | META))
                continue
            st = seen.st
            if gfid == ROOT:
                self.records.append(MetaChange(gfid, SETATTR))
                continue
            rows = self.index.rows(gfid)
            if not rows:
                continue
            if _stat.S_ISREG(st.st_mode):
                if flags & DATA:
                    self.records.append(DataChange(gfid))
                if flags & META or flags & DATA:
                    self.records.append(MetaChange(gfid, CHECK if flags & ENTRY and not flags & DATA else SETATTR))
                if st.st_nlink > 1:
                    self._shared[gfid] = True
            elif flags & META or st.st_mtime_ns != rows[0].mtime_ns:
                self.records.append(MetaChange(gfid, SETATTR))
            racy = st.st_ctime_ns > found.now_ns - RACY_NS
            self.index.touch(gfid, seen.handle, st.st_size, st.st_mtime_ns, 0 if racy else st.st_ctime_ns)
