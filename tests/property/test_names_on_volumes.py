"""The secondary has exactly the primary's names, in whatever order the workers of two subvolumes look (CON-1 to 6).

Every history of four operations over few names and two objects, and for each every order in which the two workers take
slices of their journals, cut at each place. Hard-linked files have link files on the other brick; GlusterFS's answers are
as incomplete as they are (`volume_model`). Without `--long` a fixed part of them.
"""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.model import ROOT, Gfid, Slot
from tests.property.volume_model import SIDES, Model, Op, hashed

SCRATCH = Path("/dev/shm")


def _noting() -> bool:
    """May this process keep xattrs as a brick does?"""
    probe = SCRATCH / f"georep-model-{os.getpid()}"
    try:
        probe.mkdir()
        os.setxattr(probe, "trusted.georep", b"")
    except OSError:
        return False
    finally:
        if probe.exists():
            probe.rmdir()
    return True


pytestmark = pytest.mark.skipif(not _noting(), reason="bricks need root, and a tmpfs with xattrs")

Event = int | tuple[int, int]
"""An operation, by its number; or a look: subvolume, and how many records its slice has."""

OBJECTS = [bytes([0xAA]) + bytes(14) + bytes([n]) for n in range(1, 40)]
X, Y = OBJECTS[:2]
LETTERS = dict(zip(OBJECTS, ("X", "Y", "Z", *(f"Z{n}" for n in range(1, 40))), strict=False))
FOUR = 4
SAID = 10
"""Lines of the session's log that are shown of a history that went wrong."""
FRAMES = 7
"""Frames of one look to the agent, ahead of which something may happen."""

BEFORE: list[tuple[Op, ...]] = [
    (),
    (("create", X, b"a"),),
    (("create", X, b"a"), ("rename", b"a", b"b")),
    (("create", X, b"a"), ("link", X, b"b")),
    (("create", X, b"a"), ("create", Y, b"b")),
    (("create", X, b"a"), ("rename", b"a", b"b"), ("create", Y, b"a")),
    (("create", X, b"a"), ("create", Y, b"b"), ("rename", b"a", b"c"), ("rename", b"b", b"a"), ("rename", b"c", b"b")),
]
"""What both sides have at first: where names and data lie, all that differ by more than the names of A and B, X and Y."""


class Case(NamedTuple):
    """A history: what there is at first, operations, and when each is done and each worker looks.

    `during` is the number of a look, `at` of its frames to the agent, ahead of which the events up to the next look of
    that worker are done: between what it saw and what it does.
    """

    before: tuple[Op, ...]
    ops: tuple[Op, ...]
    events: tuple[Event, ...]
    during: int = -1
    at: int = 0

    def told(self) -> str:
        """In words."""
        steps = []
        for n, event in enumerate(self.events):
            inside = f" (the next ones ahead of its frame {self.at})" if n == self.during else ""
            steps.append(
                words(self.ops[event]) if isinstance(event, int) else f"{SIDES[event[0]]} takes {event[1]}{inside}"
            )
        return f"[{'; '.join(map(words, self.before))}] then " + "; ".join(steps)


def words(op: Op) -> str:
    """One operation, with X, Y, Z, Z1 … for the objects."""
    return " ".join(w if isinstance(w, str) else LETTERS.get(w) or os.fsdecode(w) for w in op)


class State(NamedTuple):
    """Which name is whose, where the data of each object lies, and how many there have been."""

    names: dict[bytes, Gfid]
    homes: dict[Gfid, int]

    def after(self, op: Op) -> tuple[State, tuple[int, int]]:
        """The next state, and how many records each brick writes."""
        names, homes = dict(self.names), dict(self.homes)
        what, *args = op
        count = [0, 0]
        if what in ("create", "symlink"):
            gfid, name = args
            names[name], homes[gfid] = gfid, hashed(Slot(ROOT, name))
            count[homes[gfid]] = 1 if what == "symlink" else 2
        elif what == "link":
            gfid, name = args
            names[name] = gfid
            count[homes[gfid]] = 1
        elif what == "unlink":
            gfid = names.pop(args[0])
            for side in {homes[gfid], hashed(Slot(ROOT, args[0]))}:
                count[side] = 1
        else:
            src, dest = args
            gfid = names[dest] = names.pop(src)
            count[homes[gfid]] = 1
        return State(names, homes), (count[0], count[1])

    def moves(self, among: tuple[bytes, ...], make: str) -> Iterator[Op]:
        """What a client may do now with these names; objects are made in their order, and there are two at most."""
        alive = sorted(set(self.names.values()))
        for name in among:
            if name in self.names:
                yield ("unlink", name)
                for dest in among:
                    if self.names.get(dest) != self.names[name]:
                        yield ("rename", name, dest)
                continue
            if len(self.homes) < 2:
                yield (make, OBJECTS[len(self.homes)], name)
            for gfid in alive:
                yield ("link", gfid, name)


def histories(
    start: State, among: tuple[bytes, ...], length: int, make: str
) -> Iterator[tuple[list[Op], list[tuple[int, int]]]]:
    """All of that many operations, and what each writes into the two journals."""
    if not length:
        yield [], []
        return
    for op in start.moves(among, make):
        then, count = start.after(op)
        for ops, counts in histories(then, among, length - 1, make):
            yield [op, *ops], [count, *counts]


Counts = tuple[tuple[int, int], ...]


def turns(counts: Counts, waiting: tuple[int, int]) -> Iterator[tuple[tuple[int, int] | None, Counts, tuple[int, int]]]:
    """What may be next: the next operation (None), or a look; and what is left then of operations and records.

    `counts` is how many records each operation that is left writes into the two journals, `waiting` how many there are
    that no slice holds: slices are cut at each.
    """
    if counts:
        yield None, counts[1:], (waiting[0] + counts[0][0], waiting[1] + counts[0][1])
    for side in range(2):
        for take in range(1, waiting[side] + 1):
            yield (side, take), counts, (waiting[0] - take * (side == 0), waiting[1] - take * (side == 1))


@functools.cache
def orders(counts: Counts, waiting: tuple[int, int] = (0, 0)) -> int:
    """In how many orders these operations may be done, and the two workers look until nothing is left."""
    if not counts and not any(waiting):
        return 1
    return sum(orders(left, then) for _, left, then in turns(counts, waiting))


def order(counts: Counts, number: int) -> tuple[Event, ...]:
    """One of these orders."""
    out: list[Event] = []
    left, waiting, done = counts, (0, 0), 0
    while left or any(waiting):
        for event, then_left, then_waiting in turns(left, waiting):
            some = orders(then_left, then_waiting)
            if number < some:
                out.append(done if event is None else event)
                done += event is None
                left, waiting = then_left, then_waiting
                break
            number -= some
    return tuple(out)


def cases(
    among: tuple[bytes, ...], stride: int, *, part: int = 0, parts: int = 1, make: str = "create"
) -> Iterator[Case]:
    """Each `stride`th of all histories in all orders, of these the `part`th of `parts`."""
    step = stride * parts
    number = part * stride
    for before in BEFORE:
        before = tuple((make, *op[1:]) if op[0] == "create" else op for op in before)
        start = State({}, {})
        for op in before:
            start = start.after(op)[0]
        for ops, counts in histories(start, among, FOUR, make):
            some = orders(tuple(counts))
            while number < some:
                yield Case(before, tuple(ops), order(tuple(counts), number))
                number += step
            number -= some


def interrupted(some: Iterator[Case]) -> Iterator[Case]:
    """Each with something that happens while a worker is at work: at its first, second … frame to the agent, by turns."""
    turn = 0
    for case in some:
        looks = [
            n
            for n, (one, then) in enumerate(zip(case.events, case.events[1:], strict=False))
            if isinstance(one, tuple) and (isinstance(then, int) or then[0] != one[0])
        ]
        if looks:
            turn += 1
            yield case._replace(during=looks[turn % len(looks)], at=turn % FRAMES + 1)


def play(model: Model, case: Case) -> list[str]:
    """Do it; what is wrong at the end."""
    model.begin(case.before)
    left = list(enumerate(case.events))

    def step() -> None:
        number, event = left.pop(0)
        if isinstance(event, int):
            model.primary.do(case.ops[event])
            return
        side, take = event
        site = model.sites[side]
        if number == case.during:
            frames = 0

            def before() -> None:
                nonlocal frames
                frames += 1
                if frames == case.at:
                    while left and not (isinstance(left[0][1], tuple) and left[0][1][0] == side):
                        step()

            site.link.before = before
            site.look(take)
            site.link.before = lambda: None
        else:
            site.look(take)

    while left:
        step()
    return wrong(model)


def wrong(model: Model) -> list[str]:
    """What is not as it must be once both workers have taken everything."""
    out: list[str] = []
    if not model.failures() and not model.pending() and not any(s.primary.feed.crawling for s in model.sites):
        out += [f"while no failure is known: {d}" for d in model.differences()]
    model.finish()
    out += [f"at the end: {d}" for d in model.differences()]
    for site in model.sites:
        out += [
            f"still failing on {SIDES[site.side]}: {f.operation} {f.path!r}: {f.message}" for f in site.ledger.all()
        ]
    return out


def judge(model: Model, some: Iterator[Case]) -> None:
    """Play them all; say how many went wrong, and how the first ones did."""
    count, bad, shown = 0, 0, []
    with model:
        for case in some:
            count += 1
            found = play(model, case)
            if found:
                bad += 1
                if len(shown) < 5:
                    shown.append("\n  ".join([case.told(), *found, *(f"[{line}]" for line in model.said[:SAID])]))
    assert count
    assert not bad, f"{bad} of {count} histories went wrong; the first:\n" + "\n".join(shown)


LAYOUTS = {
    "distribute": (1, 500),
    "replica": (2, 500),
    "replica, one name noted": (2, 1),
    "distribute, one name noted": (1, 1),
}
"""Bricks of a subvolume, and names that are noted."""


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Model]]:
    """One model for each layout, on tmpfs: each history begins anew."""
    with ExitStack() as stack:
        found: dict[str, Model] = {}
        for name, (width, noted) in LAYOUTS.items():
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="georep-model-", dir=SCRATCH)))
            found[name] = Model(scratch, width, noted)
            stack.callback(found[name].close)
        yield found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_names_of_files(models: dict[str, Model], layout: str, part: int, long: bool) -> None:
    """Two names, one on each subvolume: 468 histories in 247,498 orders."""
    judge(models[layout], cases((b"a", b"b"), 1 if long else 557, part=part, parts=2))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", ["distribute", "replica"])
def test_two_names_of_symlinks(models: dict[str, Model], layout: str, long: bool) -> None:
    """A symlink's link file is a file. Settling one always places it."""
    judge(models[layout], cases((b"a", b"b"), 7 if long else 797, make="symlink"))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "among",
    [(b"a", b"b", b"c"), (b"a", b"b", b"d"), (b"a", b"b", b"a1")],
    ids=["two on A", "two on B", "one begins another"],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_names_of_files(models: dict[str, Model], layout: str, among: tuple[bytes, ...], long: bool) -> None:
    """A third name, on either subvolume; and one that another begins with, which GlusterFS's answers mix up."""
    judge(models[layout], cases(among, 211 if long else 14009))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_happens_while_a_worker_is_at_work(models: dict[str, Model], layout: str, long: bool) -> None:
    """The primary changes, or the other worker acts, between what a worker has seen and what its agent does."""
    judge(models[layout], interrupted(cases((b"a", b"b"), 5 if long else 797)))


def many_links(seed: int, length: int = 24) -> Case:
    """One file with more names than are noted; single names of it are removed, renamed, replaced and given again."""
    rng = random.Random(seed)
    among = [side + b"%d" % n for side in (b"a", b"b") for n in range(4)]
    rng.shuffle(among)
    before: list[Op] = [("create", X, among[0]), *(("link", X, name) for name in among[1:6])]
    state = State({}, {})
    for op in before:
        state = state.after(op)[0]
    ops: list[Op] = []
    events: list[Event] = []
    waiting = [0, 0]
    for _ in range(length):
        free = [n for n in among if n not in state.names]
        mine = [n for n in among if state.names.get(n) == X]
        others = [n for n in among if state.names.get(n, X) != X]
        choices: list[Op] = [("unlink", n) for n in mine[1:]] + [("unlink", n) for n in others]
        choices += [
            ("rename", rng.choice(mine), rng.choice(free or others or mine)) for _ in range(3) if free or others
        ]
        choices += [("rename", n, rng.choice(mine[1:])) for n in others if mine[1:]]
        choices += [("link", X, n) for n in free] + [("create", OBJECTS[len(state.homes)], n) for n in free[:2]]
        op = rng.choice(choices)
        state, count = state.after(op)
        events.append(len(ops))
        ops.append(op)
        waiting = [waiting[0] + count[0], waiting[1] + count[1]]
        for side in range(2):
            if waiting[side] and rng.random() < 0.3:
                take = rng.randint(1, waiting[side])
                events.append((side, take))
                waiting[side] -= take
    for side in rng.sample(range(2), 2):
        if waiting[side]:
            events.append((side, waiting[side]))
    return Case(tuple(before), tuple(ops), tuple(events))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("noted", [3, 500])
@pytest.mark.parametrize("width", [1, 2])
def test_a_file_with_more_links_than_are_noted(width: int, noted: int, long: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="georep-model-", dir=SCRATCH) as scratch:
        model = Model(Path(scratch), width, noted)
        try:
            judge(model, map(many_links, range(1000 if long else 20)))
        finally:
            model.close()
