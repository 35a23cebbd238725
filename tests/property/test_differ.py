"""The differ against random changes of a real tree: its records lead from the old state to the new one (MRK-9, CHG-*)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent.index import Index
from engine.journal.differ import Differ
from engine.journal.findings import DATA, ENTRY, META
from engine.model import LIMBO, ROOT, DataChange, EntryChange, Fop, Gfid, MetaChange, Record, Slot
from engine.volume.handles import can_open_by_handle, gfid_of, name_to_handle
from engine.volume.tree import Seen, TreeView

BRICK = bytes(range(16))


class Model:
    """A tree of names as the secondary would have it; refuses what a secondary could not do."""

    def __init__(self) -> None:
        self.names: dict[Slot, Gfid] = {}
        self.kinds: dict[Gfid, str] = {ROOT: "d", LIMBO: "d"}
        self.data: set[Gfid] = set()

    def apply(self, record: Record) -> None:
        if isinstance(record, DataChange):
            assert record.gfid in self.kinds
            self.data.add(record.gfid)
            return
        if isinstance(record, MetaChange):
            assert record.gfid in self.kinds
            return
        fop, gfid, slot = record.fop, record.gfid, record.slot
        if fop in (Fop.UNLINK, Fop.RMDIR):
            assert self.names.get(slot) == gfid, record
            if fop == Fop.RMDIR:
                assert self.kinds[gfid] == "d"
                assert not any(s.parent == gfid for s in self.names), "RMDIR of a directory that is not empty"
            else:
                assert self.kinds[gfid] != "d"
            del self.names[slot]
            if gfid not in self.names.values():
                del self.kinds[gfid]
            return
        if fop == Fop.RENAME:
            assert record.dest is not None
            assert self.names.get(slot) == gfid, record
            assert record.dest not in self.names, "RENAME onto a name that is taken"
            assert self.kinds.get(record.dest.parent) == "d"
            if self.kinds[gfid] == "d":
                at = record.dest.parent
                while at not in (ROOT, LIMBO):
                    assert at != gfid, "a directory moved below itself"
                    at = next(s.parent for s, g in self.names.items() if g == at)
            del self.names[slot]
            self.names[record.dest] = gfid
            return
        assert self.kinds.get(slot.parent) == "d", f"no parent for {record}"
        assert slot not in self.names, record
        if fop == Fop.LINK:
            assert self.kinds.get(gfid) not in (None, "d")
        else:
            assert gfid not in self.kinds, record
            self.kinds[gfid] = "d" if fop == Fop.MKDIR else "l" if fop == Fop.SYMLINK else "f"
            self.data.add(gfid)
        self.names[slot] = gfid


def disk(root: bytes) -> dict[Slot, Gfid]:
    """The names of a real tree."""
    out: dict[Slot, Gfid] = {}
    todo = [(ROOT, root)]
    while todo:
        gfid, path = todo.pop()
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for name in os.listdir(path):
            child = gfid_of(BRICK, name_to_handle(fd, name))
            out[Slot(gfid, name)] = child
            if stat.S_ISDIR(os.lstat(os.path.join(path, name)).st_mode):
                todo.append((child, os.path.join(path, name)))
        os.close(fd)
    return out


class Tree:
    """A real tree with a differ beside it."""

    def __init__(self, where: bytes, by_handle: bool) -> None:
        self.root = os.path.join(where, b"tree")
        os.mkdir(self.root)
        self.outside = os.path.join(where, b"outside")
        os.mkdir(self.outside)
        self.fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        self.index = Index(os.fsdecode(where) + "/index.db")
        self.view = TreeView(self.fd, BRICK, self.index, by_handle and can_open_by_handle(self.fd), fds=8)
        self.differ = Differ(self.view, self.index, budget=50)
        self.model = Model()
        self.before = disk(self.root)

    def close(self) -> None:
        self.view.close()
        self.index.close()
        os.close(self.fd)

    def paths(self, kind: str = "") -> list[bytes]:
        out = []
        for base, dirs, files in os.walk(self.root):
            out += [os.path.join(base, n) for n in (dirs if kind == "d" else files if kind == "f" else dirs + files)]
        return sorted(out)

    def change(self, rnd: random.Random) -> None:
        """One random operation; what the system refuses does nothing."""
        dirs = [self.root, *self.paths("d")]
        files, all_ = self.paths("f"), self.paths()
        new = os.path.join(rnd.choice(dirs), b"n%d" % rnd.randrange(12))
        what = rnd.randrange(12)
        try:
            if what <= 1:
                with open(new, "wb") as f:
                    f.write(rnd.randbytes(3))
            elif what == 2:
                os.mkdir(new)
                if rnd.random() < 0.5:
                    Path(os.fsdecode(new), "inside").touch()
            elif what in (3, 4, 5) and all_:
                os.rename(rnd.choice(all_), rnd.choice([new, rnd.choice(all_)]))
            elif what == 6 and files:
                os.link(rnd.choice(files), new, follow_symlinks=False)
            elif what == 7:
                os.symlink(b"x", new)
            elif what == 8 and files:
                os.unlink(rnd.choice(files))
            elif what == 9 and len(dirs) > 1:
                shutil.rmtree(rnd.choice(dirs[1:]))
            elif what == 10 and len(all_) > 1:  # a swap through a third name
                a, b = rnd.sample(all_, 2)
                os.rename(a, a + b"~")
                os.rename(b, a)
                os.rename(a + b"~", b)
            elif what == 11:
                away = os.path.join(self.outside, b"%d" % rnd.randrange(4))
                if os.path.lexists(away):
                    os.rename(away, new)
                elif all_:
                    os.rename(rnd.choice(all_), away)
        except OSError:
            pass

    def slices(self, crawl: bool, rnd: random.Random | None = None) -> int:
        """Let the differ look, apply its records, and hold the model against the disk.

        It is told all names, or (`rnd`) only those that hold something else now, as they come.
        """
        after = disk(self.root)
        told = [*{*self.before, *after}]
        if rnd is not None:
            told = sorted(s for s in told if self.before.get(s) != after.get(s))
            rnd.shuffle(told)
        slots = {} if crawl else {(s.parent, s.name): ENTRY for s in told}
        if crawl:
            self.differ.begin_walk()
        records = self.differ.slice(slots, {}, {})
        count = 0
        while True:
            for r in records:
                self.model.apply(r)
            count += sum(isinstance(r, EntryChange) for r in records)
            self.index.commit(durable=False)
            if not (self.differ.pending or self.differ.unsettled):
                break
            records = self.differ.slice({}, {}, {})
        assert self.model.names == after
        known = {}
        todo = [ROOT]
        while todo:
            for row in self.index.children(todo.pop()):
                known[row.slot] = row.gfid
                if stat.S_ISDIR(row.kind):
                    todo.append(row.gfid)
        assert known == after
        assert self.index.count() == len(after)
        self.before = after
        return count


@contextlib.contextmanager
def tree_of(by_handle: bool = True) -> Iterator[Tree]:
    """A tree in a directory of its own, gone afterwards."""
    where = tempfile.mkdtemp(dir="/dev/shm").encode()
    tree = Tree(where, by_handle)
    try:
        yield tree
    finally:
        tree.close()
        shutil.rmtree(where)


@pytest.mark.parametrize("by_handle", [True, False])
@pytest.mark.parametrize("crawl", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_MRK9_records_lead_from_the_index_to_the_disk(seed: int, crawl: bool, by_handle: bool) -> None:
    """Swaps, chains, renames over, links, moves out and in, in any order, seen only by where they happened."""
    rnd = random.Random(seed)
    with tree_of(by_handle) as tree:
        for _ in range(25):
            for _ in range(rnd.choice([1, 3, 10, 40])):
                tree.change(rnd)
            tree.slices(crawl if rnd.random() < 0.8 else not crawl)
        assert tree.slices(True) == 0, "a walk over what is known finds nothing"


@pytest.mark.parametrize("by_handle", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_MRK9_what_changed_is_enough(seed: int, by_handle: bool) -> None:
    """Only the names that changed are told, in no order: links below a directory that moved are found and kept."""
    rnd = random.Random(seed)
    with tree_of(by_handle) as tree:
        for _ in range(25):
            for _ in range(rnd.choice([1, 3, 10, 40])):
                tree.change(rnd)
                if files := tree.paths("f"):
                    with contextlib.suppress(OSError):
                        os.link(rnd.choice(files), os.path.join(rnd.choice([tree.root, *tree.paths("d")]), b"l%d" % rnd.randrange(12)))
            if rnd.random() < 0.5:
                tree.view.close()  # no directory is open: they are reached by their names as they were
            tree.slices(False, rnd)


class Touching:
    """Changes a tree and keeps what a kernel would tell of it: names, and objects that are not directories.

    `untold` are objects whose attributes changed and which no record has spoken of since.
    """

    def __init__(self, tree: Tree, rnd: random.Random) -> None:
        self.tree, self.rnd = tree, rnd
        self.slots: dict[Slot, int] = {}
        self.objects: dict[Gfid, int] = {}
        self.untold: set[Gfid] = set()

    def change(self) -> None:
        before = disk(self.tree.root)
        if before and self.rnd.random() < 0.3:
            self.touch(self.rnd.choice(sorted(before)), before)
            return
        self.tree.change(self.rnd)
        after = disk(self.tree.root)
        for slot in {*before, *after}:
            if before.get(slot) != after.get(slot):
                self.slots[slot] = self.slots.get(slot, 0) | ENTRY

    def touch(self, slot: Slot, names: dict[Slot, Gfid]) -> None:
        gfid, parts, at = names[slot], [slot.name], slot.parent
        above = {g: s for s, g in names.items()}
        while at != ROOT:
            parts.append(above[at].name)
            at = above[at].parent
        path = os.path.join(self.tree.root, *reversed(parts))
        os.utime(path, ns=(5, self.rnd.randrange(10**9)), follow_symlinks=False)
        self.slots[slot] = self.slots.get(slot, 0) | META
        if not os.path.isdir(path) or os.path.islink(path):
            self.objects[gfid] = META
        self.untold.add(gfid)

    def slice(self) -> None:
        """One slice of all that was told, in no order, and its records."""
        told = self.rnd.sample(sorted(self.slots.items()), len(self.slots))
        objects, self.slots, self.objects = self.objects, {}, {}
        for record in self.tree.differ.slice({(s.parent, s.name): flags for s, flags in told}, objects, {}):
            self.tree.model.apply(record)
            if not isinstance(record, EntryChange) or record.fop in (Fop.CREATE, Fop.MKDIR, Fop.SYMLINK):
                self.untold.discard(record.gfid)
        self.tree.index.commit(durable=False)


@pytest.mark.parametrize("by_handle", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_MRK9_changes_while_it_is_looked_at(seed: int, by_handle: bool) -> None:
    """Names seen at different times may be above one another; what changed meanwhile is told to the next slice."""
    rnd = random.Random(seed)
    with tree_of(by_handle) as tree:
        touching = Touching(tree, rnd)
        look, look_at, often = tree.view.look, tree.view.look_at, 0.0

        def then(seen: Seen | None) -> Seen | None:
            for _ in range(rnd.randrange(1, 4) if rnd.random() < often else 0):
                touching.change()
            return seen

        tree.view.look = lambda parent, name: then(look(parent, name))  # type: ignore[method-assign]
        tree.view.look_at = lambda fd, name: then(look_at(fd, name))  # type: ignore[method-assign]
        for step in range(26):
            for _ in range(rnd.choice([1, 3, 10, 40])):
                touching.change()
            often = rnd.choice([0, 0.02, 0.2]) if step < 25 else 0
            if rnd.random() < 0.2:
                tree.differ.begin_walk()
            touching.slice()
        while tree.differ.pending or tree.differ.unsettled:
            touching.slice()
        assert not touching.untold & {*disk(tree.root).values()}
        tree.before = disk(tree.root)
        tree.slices(False)


def test_CRW8_renamed_directory_is_one_record() -> None:
    """A subtree renamed while nobody looked is renamed, not sent again."""
    with tree_of() as tree:
        os.makedirs(tree.root + b"/a/b/c")
        for i in range(200):
            Path(os.fsdecode(tree.root) + f"/a/b/c/{i}").write_bytes(b"x")
        tree.slices(True)
        os.mkdir(tree.root + b"/z")
        os.rename(tree.root + b"/a/b", tree.root + b"/z/q")
        tree.differ.begin_walk()
        records = tree.differ.slice({}, {}, {})
        entries = [r for r in records if isinstance(r, EntryChange)]
        assert [r.fop for r in entries] == [Fop.MKDIR, Fop.RENAME]
        assert not any(isinstance(r, DataChange) for r in records)


def test_CHG1_writes_are_data() -> None:
    """A slot written through gives a data record for its object, also after it was renamed."""
    with tree_of() as tree:
        for n in (b"/a", b"/b"):
            Path(os.fsdecode(tree.root + n)).write_bytes(b"1")
        tree.slices(True)
        a = gfid_of(BRICK, name_to_handle(tree.fd, b"a"))
        st = os.stat(tree.root + b"/a")
        Path(os.fsdecode(tree.root + b"/a")).write_bytes(b"2")
        os.utime(tree.root + b"/a", ns=(st.st_atime_ns, st.st_mtime_ns))
        os.rename(tree.root + b"/a", tree.root + b"/c")
        records = tree.differ.slice({(ROOT, b"a"): DATA | ENTRY, (ROOT, b"c"): ENTRY}, {}, {})
        assert DataChange(a) in records


def test_CHG1_content_alone_is_a_change() -> None:
    """A slice in which nothing but an object is dirty, by its handle and no name, has its data record."""
    with tree_of() as tree:
        Path(os.fsdecode(tree.root + b"/a")).write_bytes(b"1")
        tree.slices(True)
        a = gfid_of(BRICK, name_to_handle(tree.fd, b"a"))
        Path(os.fsdecode(tree.root + b"/a")).write_bytes(b"2")
        assert DataChange(a) in tree.differ.slice({}, {a: DATA}, {})


def test_MRK9_links_below_a_directory_on_the_move_stay() -> None:
    """Names that can't be reached at first, and are found again in the same slice, are not taken for removed."""
    with tree_of(False) as tree:
        os.makedirs(tree.root + b"/p/d")
        Path(os.fsdecode(tree.root + b"/p/d/one")).touch()
        for n in (b"two", b"three"):
            os.link(tree.root + b"/p/d/one", tree.root + b"/p/d/" + n)
        tree.slices(True)
        tree.view.close()
        p = gfid_of(BRICK, name_to_handle(tree.fd, b"p"))
        os.link(tree.root + b"/p/d/one", tree.root + b"/new")
        os.rename(tree.root + b"/p/d", tree.root + b"/q")
        for record in tree.differ.slice({(ROOT, b"new"): ENTRY, (p, b"d"): ENTRY, (ROOT, b"q"): ENTRY}, {}, {}):
            tree.model.apply(record)
        assert tree.model.names == disk(tree.root)
