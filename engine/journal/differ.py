"""The incremental differ: what leads from the index of a tree to what is on its disk, as an ordered set of records.

Events are not replayed: they only say where to look. Every dirty slot is compared with the index, and the records are
derived from the difference, so that merged, doubled and misordered events do no harm (MRK-9, CHG-*).
"""

from __future__ import annotations

import os
import stat as _stat
import time
from collections import deque
from collections.abc import Callable

from engine.agent.index import Index, Row
from engine.model import LIMBO, ROOT, DataChange, EntryChange, Fop, Gfid, MetaChange, Record, Slot
from engine.volume.base import Gone
from engine.volume.tree import Seen, TreeView

DATA, META, ENTRY = 1, 2, 4
"""Flags of a dirty slot or object: content, attributes, the name itself."""

SETATTR, CHECK = 38, 33
"""Fops of M records: attributes; attributes and perhaps content (XATTROP: the content is compared, CHG-7)."""

RACY_NS = 20_000_000
"""A file changed less than this before it was looked at may change again without its times showing it."""

_FMT = _stat.S_IFMT
_new = tuple.__new__
"""Makes a named tuple of many without the cost of its own constructor."""
_CREATE, _MKDIR, _MKNOD, _SYMLINK = int(Fop.CREATE), int(Fop.MKDIR), int(Fop.MKNOD), int(Fop.SYMLINK)


def limbo_slot(gfid: Gfid) -> Slot:
    """Where a displaced object waits under a temporary name."""
    return Slot(LIMBO, gfid.hex().encode())


class Differ:
    """Compares dirty slots and objects with the index and writes the difference down as records.

    The index is changed as the records are emitted, inside its open transaction: the owner makes the records durable
    first and commits the index then. `filter_for(index)` gives `excluded(parent, name, is_dir)`, which hides a name
    (CRW-10). `on_directory(gfid)` is
    called for each directory newly in the tree, before it is listed: the place to watch it. `budget` is the number
    of records at which a slice is full and walking goes on in the next one.
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
        self.on_directory = on_directory
        self.on_shared = on_shared
        self.each_file = False
        """`on_shared(gfid, sure)` is called for each regular file newly in the tree (`sure` False: it has one name, as
        far as can be seen), not only for those that have or may have had several names."""
        self.on_gone: Callable[[Gfid], None] | None = None
        """Called for each directory that left the tree."""
        self.on_step: Callable[[], None] | None = None
        """Called between two pieces of a walk: a moment to let others run."""
        self.budget = budget
        self.walk: deque[Gfid] = deque()
        """Directories still to be walked: the rest of a hybrid crawl, or of a directory newly in the tree."""
        self.seen_objects = 0
        """Objects a walk has looked at."""
        self.step = 20_000
        """Objects looked at by a walk in one slice."""
        self.unreadable: list[Gfid] = []
        """Directories that could not be listed; the owner takes them from here."""
        self._carried: dict[Slot, int] = {}
        self._carried_objects: dict[Gfid, int] = {}
        """What could not be reached in this slice, for the next one."""
        self._unreached: list[Gfid] = []
        """Directories that moved while they were to be listed: they are tried again when the move is known, as long as
        the index has them."""
        self.crawling = False
        """A whole walk is under way: what is missing may be found elsewhere, so nothing is deleted before its end."""
        self._listing: tuple[Gfid, list[bytes]] | None = None
        self._now_ns = 0
        self._root_due = False
        self._reset()

    def _reset(self) -> None:
        self.records: list[Record] = []
        self._added: dict[Slot, Seen] = {}
        self._removed: dict[Slot, Row] = {}
        self._places: dict[Gfid, Slot] = {}
        self._objects: dict[Gfid, int] = {}
        self._stats: dict[Gfid, Seen] = {}
        self._looked: set[Slot] = set()
        self._shared: dict[Gfid, bool] = {}
        """Files to be watched for themselves."""
        self._passing = False
        """A name came and went in this slice: it may have been one of a file's, and still be written through."""
        self._again: list[tuple[Slot, int]] = []
        self._suspect = self._passing = False

    def excluded_with(self, index: Index) -> Callable[[Gfid, bytes, bool], bool] | None:
        """The same filter for another thread, with that thread's own connection to the index."""
        return self.filter_for(index) if self.filter_for is not None else None

    # ---- one slice -------------------------------------------------------------------------------------------

    def slice(
        self, slots: dict[tuple[bytes, bytes], int], objects: dict[Gfid, int], handles: dict[Gfid, bytes]
    ) -> list[Record]:
        """The records of one slice, in order. Afterwards `pending` says whether more is to be walked."""
        self._reset()
        self._now_ns = time.time_ns()
        self.walk.extend(self._unreached)
        self._unreached = []
        if self._root_due:
            self._root_due = False
            self.records.append(MetaChange(ROOT, SETATTR))
        due = [(Slot(parent, name), flags) for (parent, name), flags in slots.items()]
        due += self._carried.items()
        self._carried = {}
        objects = {**objects, **{g: f | objects.get(g, 0) for g, f in self._carried_objects.items()}}
        self._carried_objects = {}
        stuck = False
        while due or objects:
            # what lies below a directory that moved can be looked at only after the move is in the index
            later = [(slot, flags) for slot, flags in due if not self._look(slot, flags)]
            for gfid, flags in objects.items():
                self._see(gfid, flags, handles.get(gfid))
            objects = {}
            self._settle()
            later += self._again
            self._again = []
            if later and len(later) >= len(due):
                if stuck:
                    # its directory is on the move: the event that says where to comes with a later slice
                    for slot, flags in later:
                        self._carried[slot] = self._carried.get(slot, 0) | flags
                    break
                for slot, _ in later:
                    self._look_above(slot.parent)
                self._settle()
                stuck = True
            due = later
        self._times_of({parent for (parent, _), flags in slots.items() if flags & ENTRY})
        self._continue_walk()
        self._removals()
        if not self._walking and len(self.records) < self.budget:
            self._end_of_walk()
        if not self._walking and not self.crawling and len(self.records) < self.budget:
            self._empty_limbo()
        for slot, flags in self._again:
            self._carried[slot] = self._carried.get(slot, 0) | flags
        return self.records

    @property
    def _walking(self) -> bool:
        """Is there a directory still to be listed? Then what is missing may be found in it."""
        return bool(self.walk) or self._listing is not None

    @property
    def unsettled(self) -> bool:
        """Could something not be reached, so that the next slice has to look at it again?"""
        return bool(self._unreached or self._carried or self._carried_objects)

    @property
    def pending(self) -> bool:
        """Is anything left to be walked or removed in a further slice?"""
        return (
            self._walking
            or self.crawling
            or bool(self.index.some_children(LIMBO, 1))
            or bool(self.index.deferred(1))
        )

    def begin_walk(self) -> None:
        """Walk the whole tree from the root: a hybrid crawl (CRW-5, CRW-8)."""
        self.walk.clear()
        self._listing = None
        self.walk.append(ROOT)
        self.crawling = True
        self._root_due = True
        self.seen_objects = 0

    # ---- looking ---------------------------------------------------------------------------------------------

    def _look(self, slot: Slot, flags: int = ENTRY) -> bool:
        """Compare one slot with the index. False when its directory can't be reached yet."""
        change = flags & (DATA | META)
        if slot in self._looked:
            if change:
                self._flag(slot, change)
            return True
        if slot.parent == LIMBO or (slot.parent != ROOT and not self.index.has(slot.parent)):
            return True  # outside, or new: then the walk will list it
        try:
            seen = self.view.look(slot.parent, slot.name)
        except Gone:
            return False
        self._looked.add(slot)
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
                self.records.append(MetaChange(ROOT, SETATTR))
                continue
            row = self.index.row(gfid)
            if row is None or row.parent == LIMBO:
                continue
            try:
                st = os.fstat(self.view.dir_fd(gfid))
            except Gone:
                self._carried_objects[gfid] = self._carried_objects.get(gfid, 0) | META
                continue
            if st.st_mtime_ns != row.mtime_ns or st.st_ctime_ns != row.ctime_ns:
                self.records.append(MetaChange(gfid, SETATTR))
                self.index.touch(gfid, row.ident, st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    def _look_above(self, gfid: Gfid) -> None:
        """Look at the names of a directory that can't be reached and of those above it: one of them has moved."""
        while gfid not in (ROOT, LIMBO):
            row = self.index.row(gfid)
            if row is None:
                return
            self._look(row.slot)
            gfid = row.parent

    def _flag(self, slot: Slot, change: int) -> None:
        """A name was written through that has been looked at already: its object, or what it was, has changed."""
        seen = self._added.get(slot)
        gfid = seen.gfid if seen is not None else None
        if gfid is None:
            row = self._removed.get(slot) or self.index.get(slot.parent, slot.name)
            gfid = row.gfid if row is not None else None
        if gfid is None:
            self._suspect = True
        else:
            self._objects[gfid] = self._objects.get(gfid, 0) | change

    def _compare(self, slot: Slot, before: Row | None, seen: Seen | None, change: int) -> None:
        if before is not None and seen is not None and before.gfid == seen.gfid:
            self._changed(before, seen, change)
            return
        if change:
            # written through this name, which holds another object now: whatever it held has changed
            if before is not None:
                self._objects[before.gfid] = self._objects.get(before.gfid, 0) | change
            else:
                self._suspect = True
        if before is not None:
            self._removed[slot] = before
        elif seen is None:
            self._passing = True
        if seen is not None:
            self._add(slot, seen)
            if change:
                self._objects[seen.gfid] = self._objects.get(seen.gfid, 0) | change

    def _add(self, slot: Slot, seen: Seen) -> None:
        self._added[slot] = seen
        self._places.setdefault(seen.gfid, slot)
        # where it was known to be: gone from there (a rename), or still there (a link)?
        for row in self.index.rows(seen.gfid):
            if row.parent != LIMBO:
                if row.slot not in self._looked and not self._look_or_later(row.slot):
                    self._removed[row.slot] = row
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
            elif not same_ctime and not flags & DATA and (self.crawling or before.ctime_ns == 0):
                flags |= META | ENTRY  # content may have changed and its time been set back: to be compared
        elif not same_ctime and (self.crawling or not _stat.S_ISDIR(st.st_mode)):
            flags |= META
        if flags:
            self._objects[seen.gfid] = self._objects.get(seen.gfid, 0) | flags
            self._stats[seen.gfid] = seen

    def _see(self, gfid: Gfid, flags: int, handle: bytes | None) -> None:
        """An object whose content or attributes changed; unknown ones are not in the tree."""
        rows = self.index.rows(gfid)
        if not rows and gfid != ROOT:
            return
        place = self._places.get(gfid)
        seen = self._added[place] if place is not None else self.view.see(gfid, handle)
        if seen is None:
            for row in rows:
                self._look_or_later(row.slot)
            if not self.view.by_handle:
                self._carried_objects[gfid] = self._carried_objects.get(gfid, 0) | flags
            return
        flags &= DATA | META
        if rows and _stat.S_ISREG(seen.st.st_mode):
            if (seen.st.st_size, seen.st.st_mtime_ns) != (rows[0].size, rows[0].mtime_ns):
                flags |= DATA  # written too, though nothing but its attributes was told
        self._objects[gfid] = self._objects.get(gfid, 0) | flags
        self._stats[gfid] = seen

    # ---- walking ---------------------------------------------------------------------------------------------

    def _continue_walk(self) -> None:
        """List directories that are due, as long as the slice has room; each listing is settled at once."""
        limit = self.seen_objects + self.step
        while len(self.records) < self.budget and self.seen_objects < limit and self._walking:
            if self._listing is None:
                gfid = self.walk.popleft()
                if gfid != ROOT and not self.index.has(gfid):
                    continue
                try:
                    if self.on_directory is not None:
                        self.on_directory(gfid)
                    names = self.view.list_dir(gfid)
                except Gone:
                    row = self.index.row(gfid)
                    if row is not None:
                        self._looked.discard(row.slot)
                        self._look_or_later(row.slot)
                        self._settle()
                        self._unreached.append(gfid)
                    continue
                except PermissionError:
                    self.unreadable.append(gfid)
                    continue
                self._listing = (gfid, names)
                self._missing(gfid, names)
            gfid, names = self._listing
            room = min(max(256, self.budget - len(self.records)), max(1, limit - self.seen_objects))
            try:
                self._list_some(gfid, names[:room])
            except Gone:
                self._unreached.append(gfid)
                names = []
            self._listing = (gfid, names[room:]) if len(names) > room else None
            self._settle()
            if self.on_step is not None:
                self.on_step()

    def _list_some(self, gfid: Gfid, names: list[bytes]) -> None:
        """Compare some names of a directory; those of objects never seen are emitted at once."""
        view, looked, crawling = self.view, self._looked, self.crawling
        fd = view.dir_fd(gfid)
        before: dict[bytes, Row] = {}
        if self.index.some_children(gfid, 1):
            before = {r.name: r for r in self.index.children(gfid)} if len(names) < 65536 else {}
            one_by_one = len(names) >= 65536
        else:
            one_by_one = False
        fresh: list[tuple[Slot, Seen]] = []
        self.seen_objects += len(names)
        for name in names:
            slot = _new(Slot, (gfid, name))
            if slot in looked:
                if crawling:
                    row = self.index.get(gfid, name)
                    if row is not None and _stat.S_ISDIR(row.kind):
                        self.walk.append(row.gfid)
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
                    self.walk.append(seen.gfid)
            self._compare(slot, row, seen, 0)
        if fresh:
            known = self.index.maybe([seen.gfid for _, seen in fresh])
            rows: list[Row] = []
            for slot, seen in fresh:
                if seen.gfid in known or seen.gfid in self._places:
                    self._add(slot, seen)
                else:
                    if seen.st.st_nlink > 1:
                        known.add(seen.gfid)
                    rows.append(self._create(slot, seen))
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
        while len(self.records) < self.budget and not self._walking:
            slots = self.index.deferred(1024)
            if not slots:
                self.crawling = False
                return
            self.index.undefer(slots)
            for slot in slots:
                self._looked.discard(slot)
                self._look_or_later(slot)
            self._settle()
            crawling, self.crawling = self.crawling, False
            self._removals()
            self.crawling = crawling

    def _empty_limbo(self) -> None:
        """Delete what was displaced and is wanted nowhere."""
        while len(self.records) < self.budget:
            rows = self.index.some_children(LIMBO, 64)
            if not rows:
                return
            for row in rows:
                self._delete(row)

    # ---- emitting --------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Emit what has been found so far: directories from the top, then files, then changes; removals come last."""
        if self._added:
            dirs = [s for s, seen in self._added.items() if _stat.S_ISDIR(seen.st.st_mode)]
            for slot in dirs:
                self._place_dir(slot)
            for slot, seen in self._added.items():
                if not _stat.S_ISDIR(seen.st.st_mode):
                    self._place(slot, seen)
        if self._objects:
            self._emit_changes()
        if self._shared and self.on_shared is not None:
            for gfid, sure in self._shared.items():
                self.on_shared(gfid, sure)
            self._shared = {}
        self._added = {}
        self._places = {}
        self._objects = {}
        self._stats = {}

    def _place_dir(self, slot: Slot) -> None:
        """Put a directory in its place, after the directories above it that also move."""
        chain: list[Slot] = []
        at: Slot | None = slot
        while at is not None and at in self._added and at not in chain:
            row = self.index.get(at.parent, at.name)
            if row is not None and row.gfid == self._added[at].gfid:
                break
            chain.append(at)
            at = self._places.get(at.parent)
        for place in reversed(chain):
            self._place(place, self._added[place])

    def _place(self, slot: Slot, seen: Seen) -> None:
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
            index.put((self._create(slot, seen),))
            return
        source = None
        for old in rows:
            if old.parent == LIMBO or old.slot in self._removed or _stat.S_ISDIR(mode):
                source = old
                break
        if source is None:
            self.records.append(EntryChange(gfid, Fop.LINK, slot))
            self._shared[gfid] = True
        else:
            self._removed.pop(source.slot, None)
            index.remove((source.slot,))
            if _stat.S_ISREG(mode):
                self._shared[gfid] = True  # a link and an unlink look like this too, and may have left it open
            self.records.append(EntryChange(gfid, Fop.RENAME, source.slot, slot))
            self.view.forget(gfid)
        # size and times stay the index's own until the change itself is emitted
        index.put((rows[0]._replace(parent=slot.parent, name=slot.name),))
        self._stats[gfid] = seen
        self._objects.setdefault(gfid, 0)
        if source is not None and self._suspect and _stat.S_ISREG(mode):
            self._objects[gfid] |= DATA
        if _stat.S_ISDIR(mode) and self.crawling:
            self.walk.append(gfid)

    def _create(self, slot: Slot, seen: Seen) -> Row:
        """Emit the making of an object never seen before; its row is the caller's to put."""
        gfid, handle, st = seen
        mode = st.st_mode
        kind = _FMT(mode)
        ctime = st.st_ctime_ns
        if ctime > self._now_ns - RACY_NS:
            ctime = 0
        if kind == _stat.S_IFREG:
            self.records.append(
                _new(EntryChange, (gfid, _CREATE, slot, None, mode, st.st_uid, st.st_gid, None, ctime))
            )
        elif kind == _stat.S_IFLNK:
            self.records.append(EntryChange(gfid, _SYMLINK, slot))
        else:
            fop = _MKDIR if kind == _stat.S_IFDIR else _MKNOD
            self.records.append(EntryChange(gfid, fop, slot, None, mode, st.st_uid, st.st_gid))
        if self._objects:
            self._objects.pop(gfid, None)
        if kind == _stat.S_IFDIR:
            self.walk.append(gfid)
        elif st.st_nlink > 1:
            self._shared[gfid] = True
        elif self.each_file and kind == _stat.S_IFREG:
            self._shared[gfid] = self._passing
        return _new(Row, (*slot, gfid, kind, handle, st.st_size, st.st_mtime_ns, ctime))

    def _vacate(self, slot: Slot, occupant: Row) -> None:
        """Free a slot that is wanted: its object waits in limbo unless it is certain to be gone or has other names."""
        self._removed.pop(slot, None)
        rows = self.index.rows(occupant.gfid)
        is_dir = _stat.S_ISDIR(occupant.kind)
        gone = not self.crawling and not self._walking and occupant.gfid not in self._places
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

    def _removals(self) -> None:
        """Emit the removal of what was found nowhere; while directories are still to be listed, only remember it."""
        removed, self._removed = self._removed, {}
        if self.crawling or self._walking:
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
        todo, found = [gfid], 0
        while todo and found <= limit:
            rows = self.index.some_children(todo.pop(), limit + 1)
            found += len(rows)
            todo.extend(r.gfid for r in rows if _stat.S_ISDIR(r.kind))
        return found > limit

    def _emit_changes(self) -> None:
        for gfid, flags in self._objects.items():
            seen = self._stats.get(gfid) or self.view.see(gfid)
            if seen is None:
                if not self.view.by_handle:  # on the move: it is looked at again
                    self._carried_objects[gfid] = self._carried_objects.get(gfid, 0) | (flags & (DATA | META))
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
            racy = st.st_ctime_ns > self._now_ns - RACY_NS
            self.index.touch(gfid, seen.handle, st.st_size, st.st_mtime_ns, 0 if racy else st.st_ctime_ns)
