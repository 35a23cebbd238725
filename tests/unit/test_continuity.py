"""Whether each side continues the other: every stored fact put back, gone or another's, alone and in pairs (MRK-4, MRK-7)."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from engine.continuity import Kind, Mine, Outcome, Theirs, continuity
from engine.journal.chain import Chain, History, Place, unproven
from engine.model import NO_MARK, Mark

T = 1_790_000_000
LAST = 300
"""Slices of the history, one a second."""


@dataclass
class Lines:
    """A chain in memory."""

    origin: str | None = "aa"
    places: list[Place] = field(default_factory=list)

    @property
    def first(self) -> Place | None:
        return self.places[0] if self.places else None

    @property
    def last(self) -> Place | None:
        return self.places[-1] if self.places else None

    def has(self, place: Place) -> bool:
        return place in self.places

    def before(self, place: Place) -> Place | None:
        at = self.places.index(place)
        return self.places[at - 1] if at else None


def lines(count: int = LAST, origin: str = "aa", salt: str = "") -> Lines:
    return Lines(origin, [Place(origin, T + n, 0, f"{salt}{n:x}") for n in range(count)])


HISTORY = lines()
OTHERS = lines(origin="bb")
PLACES = HISTORY.places


def mark(n: int) -> Mark:
    return Mark(T + n - 1, 0)


MINE = Mine(HISTORY, True, PLACES[-1], False, PLACES[-1], mark(LAST - 1), T + LAST)
THEIRS = Theirs(PLACES[-1], False, mark(LAST - 1), PLACES[-1], False)
BACK = {"one batch older": LAST - 2, "100 older": LAST - 101}


def _with(mine: Mine, theirs: Theirs, fact: str, how: str) -> tuple[Mine, Theirs]:
    """Both sides with one stored thing put back, gone or of another session."""
    n = BACK.get(how)
    place = PLACES[n] if n is not None else None if how == "gone" else OTHERS.places[LAST // 2]
    moment = mark(n) if n is not None else NO_MARK if how == "gone" else Mark(T + LAST // 2, 0)
    if fact == "chain":
        known = lines(n + 1) if n is not None else Lines(None) if how == "gone" else OTHERS
        return replace(mine, chain=known), theirs
    if fact == "primary's index":
        return replace(mine, index_at=place, index_lost=how == "gone"), theirs
    if fact == "place in marks.json":
        return replace(mine, at=place), theirs
    if fact == "stime":
        return replace(mine, stime=moment), theirs
    if fact == "journal":
        return replace(mine, journal="CHANGELOG.1 is not as it was written"), theirs
    if fact == "secondary's index":
        return mine, replace(theirs, index_at=place, index_lost=how == "gone")
    if fact == "copy of the mark":
        return mine, replace(theirs, mark=moment)
    if fact == "place beside the mark":
        return mine, replace(theirs, at=place)
    assert fact == "content"
    return mine, replace(theirs, differs="3 of 128 objects looked at are not as they were committed")


FACTS = ("chain", "primary's index", "place in marks.json", "stime", "journal", "secondary's index", "copy of the mark",
         "place beside the mark", "content")  # fmt: skip
HOWS = ("one batch older", "100 older", "gone", "another session's")
SAME = {
    # what a crash between two writes leaves: nothing to compare, at most a batch to repeat
    ("place in marks.json", "one batch older"), ("stime", "one batch older"),
    # the mark is behind the secondary's, whose place this history has: what is between is repeated
    ("place in marks.json", "100 older"), ("stime", "100 older"), ("stime", "gone"), ("stime", "another session's"),
    # the secondary's place is in this history: it says how far it is
    ("place in marks.json", "gone"),
}  # fmt: skip


def test_both_as_they_were_left() -> None:
    assert continuity(MINE, THEIRS) == Outcome(Kind.GOES_ON)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("fact", FACTS)
def test_one_stored_thing_is_not_what_it_was(fact: str, how: str) -> None:
    found = continuity(*_with(MINE, THEIRS, fact, how))
    if (fact, how) in SAME:
        assert found.kind in (Kind.GOES_ON, Kind.REPEATS), found
    else:
        assert found.kind is Kind.COMPARES and found.why, found


@pytest.mark.parametrize("first, second", list(itertools.combinations(FACTS, 2)))
def test_two_stored_things_are_not_what_they_were(first: str, second: str) -> None:
    """No second fault hides a first one; but two that were put back to one moment may be a whole side of that moment."""
    for how, other in itertools.product(HOWS, HOWS):
        mine, theirs = _with(*_with(MINE, THEIRS, first, how), second, other)
        found = continuity(mine, theirs)
        # marks only say from where to look: with the places as they were, older ones cost a repetition
        marks = {first, second} == {"stime", "copy of the mark"} and theirs.mark >= mine.stime
        if marks or ((first, how) in SAME and (second, other) in SAME):
            assert found.kind in (Kind.GOES_ON, Kind.REPEATS), (how, other, found)
        else:
            assert found.kind in (Kind.COMPARES, Kind.REFUSES) and found.why, (how, other, found)


@pytest.mark.parametrize("back", [1, 100])
def test_the_whole_primary_was_put_back(back: int) -> None:
    """State directory and tree of an earlier moment: all is of one piece there, and only the secondary knows better."""
    n = LAST - 1 - back
    old = Mine(lines(n + 1), True, PLACES[n], False, PLACES[n], mark(n), T + n + 1)
    found = continuity(old, THEIRS)
    assert found.kind is Kind.COMPARES and found.ask and not found.proven
    assert "this primary is of" in found.why and "the replica has changes until" in found.why
    # and also when it has gone on by itself since then, past the secondary's last second
    on = lines(n + 1)
    on.places += [Place("aa", T + m, 0, f"new{m:x}") for m in range(n + 1, LAST + 50)]
    found = continuity(replace(old, chain=on, index_at=on.last), THEIRS)
    assert found.kind is Kind.COMPARES and found.ask


@pytest.mark.parametrize("back", [1, 100])
def test_mrk_7_the_whole_secondary_was_put_back(back: int) -> None:
    n = LAST - 1 - back
    found = continuity(MINE, Theirs(PLACES[n], False, mark(n), PLACES[n], False))
    assert found.kind is Kind.COMPARES and found.proven and not found.ask
    assert "restored" in found.why


def test_mrk_7_a_secondary_older_than_what_is_kept_of_the_chain() -> None:
    kept = Lines("aa", PLACES[100:])
    found = continuity(replace(MINE, chain=kept), Theirs(PLACES[50], False, mark(50), PLACES[50], False))
    assert found.kind is Kind.COMPARES and not found.ask and "restored" in found.why


def test_the_secondary_of_another_history() -> None:
    other = OTHERS.places[-1]
    found = continuity(MINE, Theirs(other, False, mark(LAST - 1), other, False))
    assert found.kind is Kind.COMPARES and found.ask and not found.proven and "another history" in found.why


CRASHES = {
    "between a slice's line and the primary's index":
        (replace(MINE, index_at=PLACES[-2], at=PLACES[-2], stime=mark(LAST - 2)),
         replace(THEIRS, index_at=PLACES[-2], at=PLACES[-2], mark=mark(LAST - 2)), Kind.GOES_ON),
    "between the secondary's index and its mark":
        (replace(MINE, at=PLACES[-2], stime=mark(LAST - 2)),
         replace(THEIRS, at=PLACES[-2], mark=mark(LAST - 2), intent=True), Kind.REPEATS),
    "between the secondary's mark and the primary's":
        (replace(MINE, at=PLACES[-2], stime=mark(LAST - 2)), THEIRS, Kind.REPEATS),
    "in a batch": (replace(MINE, at=PLACES[-2], stime=mark(LAST - 2)),
                   Theirs(PLACES[-2], False, mark(LAST - 2), PLACES[-2], True), Kind.GOES_ON),
}  # fmt: skip


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_is_no_roll_back(where: str) -> None:
    mine, theirs, expected = CRASHES[where]
    assert continuity(mine, theirs).kind is expected


def test_the_first_slices_before_any_commit() -> None:
    new = Mine(lines(2), True, PLACES[1], False, None, NO_MARK, T + 2)
    assert continuity(new, Theirs(None, False, NO_MARK, None, True)).kind is Kind.GOES_ON


def test_an_index_behind_its_journal_when_the_slice_is_done() -> None:
    """One slice behind is only what a crash leaves while nobody has that slice yet."""
    found = continuity(replace(MINE, index_at=PLACES[-2]), THEIRS)
    assert found.kind is Kind.COMPARES and "the index of the primary" in found.why


def test_mrk_4_a_mark_of_tomorrow() -> None:
    late = Mark(T + LAST + 86_400, 0)
    found = continuity(replace(MINE, stime=late), replace(THEIRS, mark=late))
    assert found.kind is Kind.REFUSES and "later than the last change" in found.why
    found = continuity(MINE, replace(THEIRS, mark=late))
    assert found.kind is Kind.REFUSES and "the mark of the secondary" in found.why


def test_states_of_an_older_version_go_on() -> None:
    """No chain on both sides: what the marks say counts once more."""
    mine = Mine(Lines(None), False, None, False, None, mark(200), T + 200)
    theirs = Theirs(None, False, mark(200), None, False)
    assert continuity(mine, theirs).kind is Kind.GOES_ON
    assert continuity(mine, replace(theirs, mark=mark(100))).kind is Kind.COMPARES
    assert continuity(mine, replace(theirs, index_lost=True)).kind is Kind.COMPARES
    # the secondary knows of a chain: this state is from before it
    assert continuity(mine, THEIRS).ask


def test_while_it_is_recorded_only_the_other_side_can_have_changed() -> None:
    running = replace(MINE, running=True, index_at=PLACES[-3])
    assert continuity(running, THEIRS).kind is Kind.GOES_ON
    assert continuity(running, replace(THEIRS, at=PLACES[5], index_at=PLACES[5])).kind is Kind.COMPARES


# ---- the chain on disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


def test_a_chain_is_found_again_line_by_line(root: bytes) -> None:
    chain = Chain(root)
    assert chain.begun and chain.last is None
    made = [chain.append(T + n, n % 3, b"slice %d" % n) for n in range(50)]
    chain.close()
    chain = Chain(root)
    assert not chain.begun and chain.last == made[-1] == Place.parse(made[-1].text)
    chain.close()
    with History(root) as known:
        assert known.first == made[0] and known.last == made[-1] and known.count == 50
        assert [known.find(p.suffix, p.part) for p in made] == made
        assert known.find(T + 3, 9) is None and known.before(made[7]) == made[6] and known.before(made[0]) is None
        assert list(known.after(made[40].key)) == made[41:]
        assert known.proves(T + 9, 0, b"slice 9") and not known.proves(T + 9, 0, b"slice 8") and known.proves(T, 0, b"slice 0")
        assert not known.proves(T, 0, b"")


def test_two_chains_with_the_same_slices_have_no_place_in_common(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        where = tmp_path / name
        where.mkdir()
        chain = Chain(os.fsencode(where))
        found.append(chain.append(T, 0, b"x"))
        chain.close()
    assert found[0].hash != found[1].hash and found[0].origin != found[1].origin


@pytest.mark.parametrize("cut", [1, 25, 50])
def test_a_line_that_a_crash_cut_off_is_not_there(root: bytes, cut: int) -> None:
    chain = Chain(root)
    first, _ = chain.append(T, 0, b"1"), chain.append(T + 1, 0, b"2")
    chain.close()
    path = os.path.join(root, b"chain")
    os.truncate(path, os.path.getsize(path) - cut)
    with History(root) as known:
        assert known.last == first
    chain = Chain(root)
    again = chain.append(T + 1, 0, b"2")
    chain.close()
    with History(root) as known:
        assert list(known.after((0, 0))) == [first, again]


def test_pruned_it_still_proves_what_is_kept(root: bytes) -> None:
    chain = Chain(root)
    made = [chain.append(T + n, 0, b"%d" % n) for n in range(20)]
    assert chain.prune(T + 9) == 9
    assert chain.prune(T + 9) == 0
    after = chain.append(T + 20, 0, b"20")
    chain.close()
    with History(root) as known:
        assert known.first == made[9] and known.last == after and known.origin == made[0].origin
        assert known.proves(T + 10, 0, b"10") and not known.proves(T + 10, 0, b"9")
    chain = Chain(root)
    assert chain.prune(T + 500) == 11
    assert chain.last == after
    chain.close()


def test_what_is_no_chain_is_begun_anew(root: bytes) -> None:
    Path(os.fsdecode(root), "chain").write_bytes(b"something else")
    with History(root) as known:
        assert known.origin is None and known.last is None
    chain = Chain(root)
    assert chain.begun
    chain.close()


@pytest.mark.parametrize("how", ["torn", "emptied", "gone", "changed", "a stranger", "two strangers"])
def test_slices_that_wait_are_as_they_were_written(root: bytes, how: str) -> None:
    chain = Chain(root)
    slices = []
    for n in range(4):
        path = os.path.join(root, b"CHANGELOG.%d" % (T + n))
        Path(os.fsdecode(path)).write_bytes(b"content %d" % n)
        chain.append(T + n, 0, b"content %d" % n)
        slices.append((T + n, 0, path))
    chain.close()
    waiting, done = slices[1:], (T, 0)
    assert unproven(root, waiting, done) == ""
    last = Path(os.fsdecode(slices[3][2]))
    if how == "torn":
        os.truncate(last, 3)
    elif how == "emptied":
        os.truncate(last, 0)
    elif how == "gone":
        waiting = waiting[:-1]
    elif how == "changed":
        last.write_bytes(b"content X")
    else:
        for n in range(4, 5 if how == "a stranger" else 6):
            path = os.path.join(root, b"CHANGELOG.%d" % (T + n))
            Path(os.fsdecode(path)).write_bytes(b"content %d" % n)
            waiting.append((T + n, 0, path))
    found = unproven(root, waiting, done)
    assert (found == "") == (how == "a stranger"), found  # one without a line is what a crash leaves
