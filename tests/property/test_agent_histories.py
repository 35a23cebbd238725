"""Random histories against a model: whatever is repeated, and wherever it crashes, the replica converges.

SEC-1 to SEC-16, CON-1 to CON-5, MRK-6, ERR-3: an operation repeated after a crash either does no harm or fails, and
what failed is put right by `place`, `remove` and `clear_slot`.
"""

from __future__ import annotations

import base64
import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.agent import foreign, wire
from engine.agent.handles import OpError
from engine.agent.heal import NOWHERE
from engine.agent.repair import clear_slot, place, remove
from engine.agent.types import EntryOp, Fop, Slot, Stat
from tests.agent_side import LIMBO, ROOT, T0, Agent, Local, gfid, hexname, slot_params, tree_of
from tests.system.runner import wait_until

Key = tuple[bytes, bytes]
NAMES = [b"a", b"b", b"c", b"d"]


@dataclass
class Thing:
    """An object of the primary."""

    kind: int
    data: bytes = b""
    text: bytes | None = None
    mtime: int = T0

    @property
    def stat(self) -> Stat:
        mode = {stat.S_IFREG: 0o644, stat.S_IFDIR: 0o755, stat.S_IFLNK: 0o777, stat.S_IFIFO: 0o600}[self.kind]
        size = len(self.data) if self.kind == stat.S_IFREG else 0
        return Stat(self.kind | mode, os.getuid(), os.getgid(), size, self.mtime, self.mtime, 0)


@dataclass
class Change:
    """A record of the journal: what happened, without the object's state."""

    fop: int
    gfid: bytes
    slot: Key
    dest: Key | None = None


@dataclass
class World:
    """The primary: objects, names, and the journal of what changed."""

    rnd: random.Random
    things: dict[bytes, Thing] = field(default_factory=dict)
    names: dict[Key, bytes] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    written: set[bytes] = field(default_factory=set)
    gone: set[bytes] = field(default_factory=set)
    _next: int = 0
    _time: int = 0

    def directories(self) -> list[bytes]:
        return [ROOT, *(g for g, t in self.things.items() if t.kind == stat.S_IFDIR)]

    def names_of(self, g: bytes) -> list[Key]:
        return [s for s, h in self.names.items() if h == g]

    def below(self, g: bytes, top: bytes) -> bool:
        while g != ROOT:
            if g == top:
                return True
            g = self.names_of(g)[0][0]
        return False

    def path(self, g: bytes) -> str:
        return "" if g == ROOT else self.path_of(self.names_of(g)[0])

    def path_of(self, s: Key) -> str:
        return os.path.join(self.path(s[0]), s[1].decode())

    def depth(self, g: bytes) -> int:
        return 0 if g == ROOT or not self.names_of(g) else 1 + self.depth(self.names_of(g)[0][0])

    def step(self) -> None:
        rnd = self.rnd
        slot = (rnd.choice(self.directories()), rnd.choice(NAMES))
        there = self.names.get(slot)
        what = rnd.random()
        if there is None:
            if what < 0.5:
                self._make(slot)
            elif what < 0.6 and (files := [g for g, t in self.things.items() if t.kind != stat.S_IFDIR]):
                g = rnd.choice(files)
                self.names[slot] = g
                self._log(Fop.LINK, g, slot)
            elif self.names:
                self._rename(rnd.choice(list(self.names)), slot)
        elif what < 0.3:
            self._remove(slot)
        elif what < 0.4:
            other = rnd.choice(list(self.names))
            self._swap(slot, other)
        elif what < 0.5 and self.things[there].kind == stat.S_IFREG:
            self._write(there)
        elif what < 0.6 and self.things[there].kind != stat.S_IFDIR and self.rnd.random() < 0.5:
            self._remove(slot)
            self._make(slot)
        else:
            self._rename(rnd.choice(list(self.names)), slot)

    def _log(self, fop: int, g: bytes, slot: Key, dest: Key | None = None) -> None:
        self.changes.append(Change(fop, g, slot, dest))

    def _stamp(self) -> int:
        self._time += 1
        return T0 + self._time

    def _make(self, slot: Key) -> None:
        self._next += 1
        g = gfid(self._next)
        kind = self.rnd.choice([stat.S_IFREG] * 4 + [stat.S_IFDIR] * 3 + [stat.S_IFLNK, stat.S_IFIFO])
        thing = Thing(kind, mtime=self._stamp())
        if kind == stat.S_IFREG:
            thing.data = b"%d" % self._next if self.rnd.random() < 0.8 else b""
        elif kind == stat.S_IFLNK:
            thing.text = b"to %d" % self._next
        self.things[g] = thing
        self.names[slot] = g
        fop = {stat.S_IFREG: Fop.CREATE, stat.S_IFDIR: Fop.MKDIR, stat.S_IFLNK: Fop.SYMLINK}.get(kind, Fop.MKNOD)
        self._log(fop, g, slot)

    def _write(self, g: bytes) -> None:
        self.things[g].data += b"+"
        self.things[g].mtime = self._stamp()
        self.written.add(g)

    def _remove(self, slot: Key) -> None:
        g = self.names[slot]
        if self.things[g].kind == stat.S_IFDIR:
            for s in [s for s in self.names if s[0] == g]:
                self._remove(s)
            self._log(Fop.RMDIR, g, slot)
        else:
            self._log(Fop.UNLINK, g, slot)
        self._lose(slot)

    def _lose(self, slot: Key) -> None:
        g = self.names.pop(slot)
        if not self.names_of(g):
            del self.things[g]
            self.gone.add(g)

    def _rename(self, src: Key, dest: Key) -> None:
        g, h = self.names[src], self.names.get(dest)
        if src == dest or g == h or self.below(dest[0], g):
            return
        if h is not None:
            both = self.things[g].kind == stat.S_IFDIR, self.things[h].kind == stat.S_IFDIR
            if both[0] != both[1] or (both[1] and any(s[0] == h for s in self.names)):
                return
            if self.rnd.random() < 0.5:
                self._log(Fop.RMDIR if both[1] else Fop.UNLINK, h, dest)
            self._lose(dest)
        self._log(Fop.RENAME, g, src, dest)
        self.names[dest] = self.names.pop(src)

    def _swap(self, one: Key, two: Key) -> None:
        g, h = self.names[one], self.names[two]
        if g == h or self.below(one[0], h) or self.below(two[0], g):
            return
        aside = (LIMBO, hexname(g))
        self._log(Fop.RENAME, g, one, aside)
        self._log(Fop.RENAME, h, two, one)
        self._log(Fop.RENAME, g, aside, two)
        self.names[one], self.names[two] = h, g

    def plan(self, changes: list[Change], inline: bool) -> list[EntryOp]:
        """Operations with the objects' state of now; of what has vanished only removals and renames go out."""
        ops: list[EntryOp] = []
        for c in changes:
            thing = self.things.get(c.gfid)
            slot, dest = Slot(*c.slot), None if c.dest is None else Slot(*c.dest)
            if c.fop in (Fop.UNLINK, Fop.RMDIR) or (thing is None and c.fop == Fop.RENAME):
                ops.append(EntryOp(c.fop, c.gfid, slot, dest))
            elif thing is not None:
                whole = inline and c.fop == Fop.CREATE
                data = thing.data if whole else None
                ops.append(EntryOp(c.fop, c.gfid, slot, dest, thing.stat, thing.text, data, {} if whole else None))
        return ops

    def expected(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for s, g in self.names.items():
            thing = self.things[g]
            mode = oct(thing.stat.mode)
            if thing.kind == stat.S_IFREG:
                group = sorted(self.path_of(n) for n in self.names_of(g))
                found[self.path_of(s)] = ("file", mode, thing.data, group if len(group) > 1 else [], thing.mtime)
            elif thing.kind == stat.S_IFLNK:
                assert thing.text is not None
                found[self.path_of(s)] = ("link", thing.text, thing.mtime)
            elif thing.kind == stat.S_IFDIR:
                found[self.path_of(s)] = (thing.kind, mode)
            else:
                found[self.path_of(s)] = (thing.kind, mode, thing.mtime)
        return found


def actual(root: Path) -> dict[str, tuple[object, ...]]:
    """The replica in the model's terms."""
    found = tree_of(root, times=True)
    groups: dict[str, list[str]] = {}
    for path, value in found.items():
        if value[0] == "file" and value[3]:
            groups.setdefault(value[3], []).append(path)
    return {
        path: (*v[:3], sorted(groups[v[3]]) if v[3] else [], *v[4:]) if v[0] == "file" else v
        for path, v in found.items()
    }  # fmt: skip


class Primary:
    """What the engine does around the operations: data for what was made, and reconciliation of what failed."""

    def __init__(self, world: World, side: Local) -> None:
        self.world = world
        self.side = side

    def apply(self, changes: list[Change], *, inline: bool, frame: int) -> set[bytes]:
        """Apply changes in frames; gfids whose data is still wanted."""
        ops = self.world.plan(changes, inline)
        wanted: set[bytes] = set()
        failed: list[tuple[bytes, Slot, bytes]] = []
        for i in range(0, len(ops), frame):
            part = ops[i : i + frame]
            done = self.side.apply(*part)
            wanted.update(done.made)
            for f in done.failures:
                op = part[f.index]
                failed.append((op.gfid, op.dest or op.slot, f.found))
        self.settle(failed, wanted)
        return wanted

    def settle(self, failed: list[tuple[bytes, Slot, bytes]], wanted: set[bytes]) -> None:
        world, tree = self.world, self.side.tree
        todo: dict[bytes, Slot | None] = {}
        for g, slot, found in failed:
            todo.setdefault(g, slot)
            if found:
                todo.setdefault(found, None)
        for g in sorted(todo, key=world.depth):
            tree.dirs.settle()
            if g in (ROOT, LIMBO):
                continue
            if g in world.things:
                self.put(g, wanted)
                continue
            remove(tree, g)
            slot = todo[g]
            if slot is not None and tuple(slot) not in world.names and slot.parent in (ROOT, *world.things):
                tree.dirs.settle()
                clear_slot(tree, slot)

    def put(self, g: bytes, wanted: set[bytes]) -> None:
        world, tree = self.world, self.side.tree
        thing = world.things[g]
        slots = [Slot(*s) for s in world.names_of(g)]
        for parent, _ in slots:
            try:
                tree.dirfd(parent)
            except OpError:
                self.put(parent, wanted)
            else:
                where = tree.locate(parent)
                if parent != ROOT and where is not None and where.in_limbo:
                    self.put(parent, wanted)
        tree.dirs.settle()
        drop = [r.slot for r in tree.index.rows(g) if r.slot not in slots and r.parent not in (LIMBO, NOWHERE)]
        placed = place(tree, g, slots, drop, thing.stat, thing.text, {}, True)
        assert placed.failed is None
        if placed.data:
            wanted.add(g)

    def finish(self, wanted: set[bytes], written: set[bytes]) -> None:
        """Data of what was made or written, metadata of the rest, commit with the purge of what is gone."""
        world = self.world
        todo = [g for g in wanted | written if g in world.things]
        files = [g for g in todo if world.things[g].kind == stat.S_IFREG]
        puts = [wire.Put(g, world.things[g].stat, {}, world.things[g].data) for g in files]
        results = self.side.contents.puts(puts)
        assert all(r.errno == 0 for r in results), results
        for r, p in zip(results, puts, strict=True):
            assert (r.size, r.mtime_ns) == (len(p.data), p.stat.mtime_ns)
        from engine.agent.types import MetaOp

        metas = [MetaOp(g, world.things[g].stat, {}) for g in todo if g not in files]
        assert self.side.contents.metas(metas) == []

    def commit(self, mark: int) -> None:
        self.side.commit(*self.world.gone, mark=mark, foreign=True)

    def check(self) -> None:
        assert actual(self.side.path) == self.world.expected()
        tree = self.side.tree
        rows = {tuple(r.slot): r.gfid for g in (*self.world.directories(), LIMBO) for r in tree.index.children(g)}
        assert rows == self.world.names
        assert list(foreign.walk(tree)) == [] and self.side.limbo() == set()


@pytest.fixture
def count(long: bool) -> int:
    return 400 if long else 40


def world_of(seed: int, steps: int) -> World:
    world = World(random.Random(seed))
    for _ in range(steps):
        world.step()
    return world


@pytest.mark.parametrize("block", range(5))
def test_histories_applied_once_fail_nowhere_and_equal_the_model(tmp_path: Path, block: int, count: int) -> None:
    for seed in range(block * 1000, block * 1000 + count):
        world = World(random.Random(seed))
        side = Local(tmp_path / str(seed))
        primary = Primary(world, side)
        for batch in range(3):
            before = len(world.changes)
            world.written = set()
            for _ in range(20):
                world.step()
                done = side.apply(*world.plan(world.changes[before:], inline=seed % 2 == 0))
                before = len(world.changes)
                assert not done.failures, (seed, done.failures)
                primary.finish(set(done.made), world.written & set(world.things))
            primary.commit(batch)
            primary.check()
        side.close()


@pytest.mark.parametrize("block", range(5))
def test_repeating_any_part_of_a_history_converges(tmp_path: Path, block: int, count: int) -> None:
    """A power cut between the secondary's commit and the primary's mark: operations come again, wholly or in part."""
    for seed in range(block * 1000, block * 1000 + count):
        world = world_of(seed, 30)
        side = Local(tmp_path / str(seed))
        primary = Primary(world, side)
        wanted = primary.apply(world.changes, inline=seed % 2 == 0, frame=7)
        primary.finish(wanted, world.written)
        if seed % 3:
            primary.commit(1)
        for _ in range(3):
            start = world.rnd.randrange(len(world.changes) + 1)
            if world.rnd.random() < 0.5:
                for _ in range(5):
                    world.step()
            wanted = primary.apply(world.changes[start:], inline=True, frame=world.rnd.choice([1, 3, 100]))
            primary.finish(wanted, world.written)
        primary.commit(2)
        try:
            primary.check()
        except AssertionError as e:
            raise AssertionError(f"seed {seed}") from e
        side.close()


def crash(tmp_path: Path, seed: int) -> None:
    """The index falls back to the last commit, the disk does not; all since then is repeated."""
    world = world_of(seed, 25)
    side = Local(tmp_path / str(seed))
    primary = Primary(world, side)
    wanted = primary.apply(world.changes, inline=seed % 2 == 0, frame=7)
    primary.finish(wanted, world.written)
    primary.commit(1)
    start = len(world.changes)
    world.written = set()
    for _ in range(world.rnd.choice([1, 1, 2])):
        for _ in range(20):
            world.step()
        ops = world.plan(world.changes[start:], seed % 2 == 0)
        for op in ops[: world.rnd.randrange(len(ops) + 1)]:
            side.apply(op)
        if world.rnd.random() < 0.3:
            for _ in range(4):
                world.step()
        side.again()
    wanted = primary.apply(world.changes[start:], inline=seed % 2 == 0, frame=world.rnd.choice([1, 5, 100]))
    primary.finish(wanted, world.written)
    primary.commit(2_000_000_000)
    try:
        primary.check()
    except AssertionError as e:
        raise AssertionError(f"seed {seed}") from e
    side.close()


@pytest.mark.parametrize("block", range(5))
def test_a_crash_between_commits_converges(tmp_path: Path, block: int, count: int) -> None:
    for seed in range(block * 1000, block * 1000 + count):
        crash(tmp_path, seed)


@pytest.mark.parametrize("seed", [90, 106, 303, 349, 550, 633, 713, 732, 748, 1902, 2662, 2977, 4020, 5486, 5821, 6495])
def test_crashes_that_once_did_not_converge(tmp_path: Path, seed: int) -> None:
    crash(tmp_path, seed)


class RemotePrimary:
    """The same over a line to a real agent, which may be killed at any moment."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.root = root
        self.agent = Agent(root)
        self.begun = self.agent.begin()

    def again(self) -> None:
        self.agent = Agent(self.root)
        self.begun = self.agent.begin()

    def shoot(self, changes: list[Change]) -> None:
        """Send operations without waiting, and kill the agent somewhere in them."""
        ops = self.world.plan(changes, inline=True)
        part = ops[: self.world.rnd.randrange(len(ops) + 1)]
        frame = self.world.rnd.choice([1, 2, 10])
        for i in range(0, len(part), frame):
            self.agent.send(2, wire.encode_entries(part[i : i + frame]))
        for _ in range(self.world.rnd.randrange(len(part) // frame + 1)):
            self.agent.read()
        self.agent.kill()

    def apply(self, changes: list[Change]) -> None:
        world, agent = self.world, self.agent
        ops = world.plan(changes, inline=True)
        reply = agent.entries(*ops)
        wanted = set(reply.made)
        todo: dict[bytes, set[Slot]] = {}
        for f in reply.failures:
            op = ops[f.index]
            todo.setdefault(op.gfid, set()).add(op.dest or op.slot)
            if f.found:
                todo.setdefault(f.found, set())
        for g in sorted(todo, key=world.depth):
            if g in world.things:
                self.put(g, wanted)
            elif g not in (ROOT, LIMBO):
                names = agent.call("lookup", gfids=[g.hex()])["objects"].get(g.hex(), {}).get("names", [])
                agent.call("remove", gfid=g.hex(), slots=names)
                for slot in todo[g]:
                    if tuple(slot) not in world.names and slot.parent in (ROOT, *world.things):
                        has = agent.call("taken", slots=[slot_params(*slot)])["taken"][0]
                        agent.call("clear_slot", **slot_params(*slot), gfid=has)
        files = [
            g for g in wanted | world.written if g in world.things and world.things[g].kind == stat.S_IFREG
        ]  # fmt: skip
        results = agent.puts(*(wire.Put(g, world.things[g].stat, {}, world.things[g].data) for g in files))
        assert all(r.errno == 0 for r in results), results

    def put(self, g: bytes, wanted: set[bytes]) -> None:
        thing = self.world.things[g]
        for parent, _ in self.world.names_of(g):
            if parent == ROOT:
                continue
            found = self.agent.call("lookup", gfids=[parent.hex()])["objects"]
            if not found.get(parent.hex(), {}).get("names"):
                self.put(parent, wanted)
        text = None if thing.text is None else base64.b64encode(thing.text).decode()
        slots = [slot_params(*s) for s in self.world.names_of(g)]
        there = self.agent.call("lookup", gfids=[g.hex()])["objects"].get(g.hex(), {}).get("names", [])
        placed = self.agent.call(
            "place", gfid=g.hex(), slots=slots, drop=[s for s in there if s not in slots], stat=list(thing.stat),
            link=text, xattrs={}, replace=True,
        )  # fmt: skip
        assert placed["errno"] == 0
        if placed["data"]:
            wanted.add(g)

    def commit(self, mark: int) -> None:
        self.agent.call(
            "commit", purge=[g.hex() for g in self.world.gone], purge_foreign=True, keep_deleted=0,
            mark={"sec": mark, "nsec": 0},
        )  # fmt: skip


def test_agents_killed_in_the_middle_of_frames_converge(tmp_path: Path, count: int) -> None:
    for seed in range(count // 2):
        world = world_of(seed, 25)
        primary = RemotePrimary(world, tmp_path / str(seed))
        primary.apply(world.changes)
        primary.commit(1)
        start = len(world.changes)
        world.written = set()
        for _ in range(world.rnd.choice([1, 2])):
            for _ in range(25):
                world.step()
            primary.shoot(world.changes[start:])
            primary.again()
        primary.apply(world.changes[start:])
        primary.commit(2_000_000_000)
        trash = primary.root / ".georep/trash"
        wait_until(lambda: not trash.exists() or not any(trash.iterdir()), 20, "the trash is emptied")  # it counts as a link
        assert actual(primary.root) == world.expected(), f"seed {seed}"
        assert primary.agent.call("foreign")["total"] == 0
        assert primary.agent.close() == 0
