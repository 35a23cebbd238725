"""Random histories on a real volume, compared with a model: repeated batches, killed agents, conflicts settled.

The test is a small primary: it sends operations with the state of now, repeats a batch as after a crash, and settles
what fails by placing or removing single objects, as the engine does (CON-1 to 6).
"""

from __future__ import annotations

import base64
import os
import random
from pathlib import Path
from typing import Any

import pytest

from engine.agent.types import EntryOp, Fop, MetaOp, Slot, Stat
from engine.agent.wire import Put
from tests.agent_side import ROOT, T0, create, directory, link, mkdir, regular, rename, rmdir, sym, symlink, unlink
from tests.gluster.agent_volume import VolumeAgent, elsewhere, gfid_at, view
from tests.gluster.lab import TOPOLOGIES, Lab

Key = tuple[bytes, bytes]


class Model:
    """A tree of objects and names, and operations that change it."""

    def __init__(self, rng: random.Random, tag: int) -> None:
        self.rng = rng
        self.objects: dict[bytes, tuple[str, bytes]] = {ROOT: ("dir", b"")}
        self.slots: dict[Key, bytes] = {}
        self._next = tag << 40

    def new(self) -> bytes:
        self._next += 1
        return self._next.to_bytes(8, "big") + self.rng.getrandbits(63).to_bytes(8, "big")

    def names(self, gfid: bytes) -> list[Key]:
        return [k for k, g in self.slots.items() if g == gfid]

    def _dirs(self) -> list[bytes]:
        return [g for g, (kind, _) in self.objects.items() if kind == "dir"]

    def _below(self, gfid: bytes, top: bytes) -> bool:
        while gfid != top and gfid != ROOT:
            ((gfid, _),) = self.names(gfid)
        return gfid == top

    def stat(self, gfid: bytes) -> Stat:
        kind, content = self.objects[gfid]
        return {"dir": directory(), "link": symlink(), "file": regular(len(content))}[kind]

    def step(self) -> list[EntryOp]:
        """One random change, as the journal's records say it."""
        rng = self.rng
        slot = (rng.choice(self._dirs()), b"n%d" % rng.randrange(5))
        there = self.slots.get(slot)
        files = [g for g, (kind, _) in self.objects.items() if kind != "dir"]
        what = rng.choices(("file", "mkdir", "sym", "link", "remove", "rename"), (5, 3, 1, 2, 4, 6))[0]
        if what == "remove":
            return [] if there is None else self._remove(slot)
        if what == "rename" and self.slots:
            return self._rename(rng.choice(sorted(self.slots)), slot)
        if there is not None:
            return []
        if what == "link" and files:
            gfid = rng.choice(files)
            self.slots[slot] = gfid
            return [link(gfid, *slot, self.stat(gfid), self.objects[gfid][1])]
        gfid = self.new()
        self.slots[slot] = gfid
        content = b"%d" % rng.randrange(10**6) * rng.randrange(1, 40)
        if what == "file":
            self.objects[gfid] = ("file", content)
            return [create(gfid, *slot, content, fop=rng.choice((Fop.CREATE, Fop.MKNOD)))]
        if what == "sym":
            self.objects[gfid] = ("link", content)
            return [sym(gfid, *slot, content)]
        self.objects[gfid] = ("dir", b"")
        return [mkdir(gfid, *slot)]

    def _remove(self, slot: Key) -> list[EntryOp]:
        gfid = self.slots[slot]
        if self.objects[gfid][0] == "dir":
            if any(p == gfid for p, _ in self.slots):
                return []
            del self.slots[slot], self.objects[gfid]
            return [rmdir(gfid, *slot)]
        self._drop(slot)
        return [unlink(gfid, *slot)]

    def _drop(self, slot: Key) -> None:
        gfid = self.slots.pop(slot)
        if not self.names(gfid):
            del self.objects[gfid]

    def _rename(self, src: Key, dest: Key) -> list[EntryOp]:
        gfid, there = self.slots[src], self.slots.get(dest)
        is_dir = self.objects[gfid][0] == "dir"
        if gfid == there or (is_dir and (self._below(dest[0], gfid) or there is not None)):
            return []
        if there is not None:
            if self.objects[there][0] == "dir":
                return []
            self._drop(dest)
        op = rename(gfid, src, dest, self.stat(gfid), self.objects[gfid][1] if self.objects[gfid][0] == "link" else None)
        del self.slots[src]
        self.slots[dest] = gfid
        return [op]


class Primary:
    """Sends batches of a model's operations to an agent and settles what fails."""

    def __init__(self, model: Model, agent: VolumeAgent) -> None:
        self.model, self.agent = model, agent
        self.seen: set[bytes] = set()

    def send(self, ops: list[EntryOp]) -> None:
        self.seen.update(op.gfid for op in ops)
        reply = self.agent.entries(*[self._now(op) for op in ops])
        todo: dict[bytes, None] = dict.fromkeys(reply.made)
        for failure in reply.failures:
            assert failure.errno in (2, 17, 20, 39), failure
            todo[ops[failure.index].gfid] = None
            if failure.found:
                todo[failure.found] = None
            # a name may be held by what the primary has elsewhere
            for slot in (ops[failure.index].slot, ops[failure.index].dest):
                if slot is not None and (slot.parent, slot.name) in self.model.slots:
                    todo[self.model.slots[slot.parent, slot.name]] = None
        for _ in range(10):
            todo = self._round(todo)
            if not todo:
                return
        raise AssertionError(f"no progress with {len(todo)} objects")

    def _now(self, op: EntryOp) -> EntryOp:
        """The operation with the object's state of now; that of a vanished object has none."""
        if op.fop in (Fop.UNLINK, Fop.RMDIR) or op.gfid in self.model.objects:
            return op
        return op._replace(stat=None, data=None) if op.fop == Fop.RENAME else op

    def _depth(self, gfid: bytes) -> int:
        n = 0
        while gfid != ROOT:
            names = self.model.names(gfid)
            if not names:
                return 0
            gfid = names[0][0]
            n += 1
        return n

    def _round(self, todo: dict[bytes, None]) -> dict[bytes, None]:
        model, left = self.model, dict[bytes, None]()
        puts: list[Put] = []
        for gfid in sorted(todo, key=self._depth):
            names = model.names(gfid)
            if gfid == ROOT:
                continue
            if not names:
                below = [g.hex() for g in self.seen - set(model.objects)]
                answer = self.agent.ask("remove", gfid=gfid.hex(), slots=self._there(gfid), below=below)
                error = answer.get("error")
                if error is not None:  # something alive is in it: that is put right first
                    assert error["errno"] == 39, error
                    left[gfid] = left[bytes.fromhex(error["found"])] = None
                continue
            kind, content = model.objects[gfid]
            answer = self._place(gfid, names, content if kind == "link" else None)
            error = answer.get("error")
            if error is not None:
                assert error["errno"] in (2, 17, 20), error
                left[gfid] = None
                if error.get("found"):
                    left[bytes.fromhex(error["found"])] = None
                for parent, _ in names:
                    left[parent] = None
            elif kind == "file":
                puts.append(Put(gfid, regular(len(content)), {}, content))
        for result in self.agent.puts(*puts) if puts else []:
            assert (result.errno, result.size) == (0, len(puts[result.index].data)), result
        return left

    def _place(self, gfid: bytes, names: list[Key], text: bytes | None) -> dict[str, Any]:
        slots = [{"parent": p.hex(), "name": base64.b64encode(n).decode()} for p, n in names]
        drop = [slot for slot in self._there(gfid) if slot not in slots]
        return self.agent.ask("place", gfid=gfid.hex(), slots=slots, drop=drop, stat=list(self.model.stat(gfid)),
                              replace=True, link=None if text is None else base64.b64encode(text).decode())  # fmt: skip

    def _there(self, gfid: bytes) -> list[dict[str, str]]:
        """The names of an object on the volume."""
        found: list[dict[str, str]] = self.agent.call("lookup", gfids=[gfid.hex()])["objects"].get(gfid.hex(), {}).get("names", [])
        return found


def assert_equal(model: Model, mount: Path) -> None:
    """Names, kinds, gfids, content, links and times of the volume are those of the model, and nothing else is there."""
    found: set[tuple[bytes, bytes]] = set()
    todo = [(ROOT, mount)]
    while todo:
        top, path = todo.pop()
        for name in os.listdir(os.fsencode(path)):
            at = path / os.fsdecode(name)
            gfid = gfid_at(at)
            assert model.slots.get((top, name)) == gfid, (at, gfid.hex())
            found.add((top, name))
            kind, content = model.objects[gfid]
            st = os.lstat(at)
            if kind == "dir":
                todo.append((gfid, at))
                continue
            assert st.st_nlink == len(model.names(gfid)), at
            assert st.st_mtime_ns == T0, at
            assert (os.fsencode(os.readlink(at)) if kind == "link" else at.read_bytes()) == content, at
    assert found == set(model.slots), set(model.slots) - found


def history(
    lab: Lab, seed: int, batches: int, topology: str = "distribute 2", params: dict[str, Any] | None = None
) -> None:
    rng = random.Random(seed)
    volume = lab.volume(*TOPOLOGIES[topology])
    mount = view(lab, volume)
    model = Model(rng, seed + 1)
    agent = VolumeAgent(volume, **params or {})
    try:
        agent.begin(wait=20)
        primary = Primary(model, agent)
        for _ in range(batches):
            ops = [op for _ in range(rng.randrange(5, 60)) for op in model.step()]
            crashed = rng.random() < 0.4
            if crashed:
                agent.entries(*ops[: rng.randrange(len(ops) + 1)])
                if rng.random() < 0.5:
                    agent.kill()
                    agent = VolumeAgent(volume, **params or {})
                    agent.begin(wait=20)
            primary.agent = agent
            primary.send(ops)
            agent.call("commit", mark={"sec": 1, "nsec": 0})
        assert_equal(model, mount)
    finally:
        if agent.child.poll() is None:
            agent.close()
    lab.remove(volume)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in range(1, 20))])
def test_any_history_ends_as_the_primary(lab: Lab, seed: int) -> None:
    history(lab, seed, 12)


@pytest.mark.long
@pytest.mark.parametrize("topology", ["arbiter", "disperse", "2 x 2 replica", "2 x (2+1) disperse"])
def test_any_history_on_other_topologies(lab: Lab, topology: str) -> None:
    history(lab, 100, 6, topology)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_any_history_with_one_subvolume_on_the_primary(lab: Lab, seed: int) -> None:
    """SEC-12: then a RENAME replaces what has its new name."""
    history(lab, 200 + seed, 10, params={"subvolumes": 1})


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_any_history_from_a_node_without_bricks(lab: Lab, seed: int, tmp_path: Path) -> None:
    """Then nothing can be asked of the bricks themselves."""
    history(lab, 300 + seed, 8, params={"python": elsewhere(tmp_path)})
