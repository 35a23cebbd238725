"""Does each side continue the other? Decided from what both have stored, before the first byte is written. Pure.

A line of the chain is durable before the index says so, before the worker has the slice, and before it is sent. So a
primary that nobody put back knows every place that its secondary can be at. The crashes between two writes leave four
states (below: *crash*); every other combination is a copy from elsewhere or a roll-back, and both trees are compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from engine.journal.chain import Place
from engine.model import NO_MARK, Mark

SLACK = 60
"""Seconds by which a mark may be later than the last slice that is on the disk: heartbeats are not synced each."""


class Lines(Protocol):
    """The primary's chain; see `engine.journal.chain.History`."""

    origin: str | None

    @property
    def first(self) -> Place | None: ...
    @property
    def last(self) -> Place | None: ...
    def has(self, place: Place) -> bool: ...
    def before(self, place: Place) -> Place | None: ...


@dataclass(frozen=True, slots=True)
class Mine:
    """What the primary has stored, as found at a start; `index_lost`, `journal` only matter there."""

    chain: Lines
    known: bool
    """Was a chain begun here before? Not in a state of an older version."""
    index_at: Place | None
    index_lost: bool
    at: Place | None
    """The last slice that was committed over there, by marks.json."""
    stime: Mark
    last: int
    """The latest suffix that the journal knows; 0 where it knows none."""
    journal: str = ""
    """What is wrong with the slices that are not done yet, in words."""
    running: bool = False
    """Is it recorded already? Then its own state was checked at the start."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """What the secondary has stored; it is ours."""

    index_at: Place | None
    index_lost: bool
    mark: Mark
    at: Place | None
    """The place beside the copy of the mark."""
    intent: bool
    """Was a batch begun that no commit ended?"""
    differs: str = ""
    """What a sample of its rows found otherwise than it was committed, in words."""


class Kind(Enum):
    """What is to be done."""

    GOES_ON = "goes on"
    REPEATS = "repeats one batch"
    COMPARES = "compares both trees"
    REFUSES = "a person has to say"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be done, and why in words. `ask`: what a comparison would replace or remove on the secondary needs a
    person's word. `proven`: what the secondary's index says of an object was committed in this history, so an object
    that is still so needs no look at its content."""

    kind: Kind
    why: str = ""
    ask: bool = False
    proven: bool = True


def continuity(mine: Mine, theirs: Theirs) -> Outcome:
    """What the two sides are to each other (MRK-4, MRK-7)."""
    future = _future(mine, theirs)
    if future is not None:
        return future
    proven = _proven(mine, theirs)
    own = "" if mine.running else _own(mine, theirs)
    if own:
        # a journal that is gone cannot tell who is ahead
        ask = mine.chain.origin is None and not _index_knows(mine, theirs)
        return Outcome(Kind.COMPARES, own, ask=ask, proven=proven)
    tomorrow = _tomorrow(mine, theirs)
    if tomorrow:
        return Outcome(Kind.REFUSES, tomorrow, proven=proven)
    behind = _behind(mine, theirs)
    if behind:
        return Outcome(Kind.COMPARES, behind, proven=proven)
    if theirs.differs:
        return Outcome(Kind.COMPARES, f"the secondary was changed by someone else: {theirs.differs}", ask=True, proven=proven)
    if theirs.index_at != theirs.at or (mine.at is not None and theirs.at is not None and theirs.at.key > mine.at.key):
        return Outcome(Kind.REPEATS)  # crash: after the secondary's index or mark, before the primary's mark
    return Outcome(Kind.GOES_ON)


# ---- who is ahead --------------------------------------------------------------------------------------------------


def _known(chain: Lines, place: Place) -> bool:
    """Is this place in the chain, or older than what is kept of it?"""
    if chain.has(place):
        return True
    first = chain.first
    return first is not None and place.origin == chain.origin and place.key < first.key


def _future(mine: Mine, theirs: Theirs) -> Outcome | None:
    """The secondary is at a place that this primary's history does not have: the primary was put back."""
    places = [p for p in (theirs.index_at, theirs.at) if p is not None]
    if not places or (mine.known and mine.chain.origin is None):
        return None  # the journal is gone: that says more
    strange = [p for p in places if not _known(mine.chain, p)]
    if not strange:
        return None
    latest = max(strange, key=lambda p: p.key)
    own = mine.chain.last.suffix if mine.chain.last is not None else max(mine.last, mine.stime.sec)
    if latest.origin == mine.chain.origin or not mine.known:
        why = f"this primary is of {shown(own)}, the replica has changes until {shown(latest.suffix)}"
    else:
        why = (f"the replica continues another history than this primary's: it has changes until {shown(latest.suffix)}, "
               f"this primary is of {shown(own)}")
    return Outcome(Kind.COMPARES, why, ask=True, proven=False)


def _behind(mine: Mine, theirs: Theirs) -> str:
    """Was the secondary, or a part of what it stores, put back or lost?"""
    until = f"ours is {shown(mine.at.suffix if mine.at else mine.stime.sec)}"
    if theirs.index_lost:
        return "the secondary's index is lost or another's: it was restored or replaced"
    if theirs.mark < mine.stime:
        return f"the secondary was restored or replaced: its mark is {shown(theirs.mark.sec)}, {until}"
    if mine.at is not None:
        if theirs.at is None:
            return f"the secondary was restored or replaced: its place in the history is lost, {until}"
        if theirs.at.key < mine.at.key:
            return f"the secondary was restored: it is of {shown(theirs.at.suffix)}, {until}"
    if theirs.index_at != theirs.at:
        ahead = theirs.index_at is not None and (theirs.at is None or theirs.index_at.key > theirs.at.key)
        if not (ahead and theirs.intent):  # crash: between the secondary's index and its mark
            at = "lost" if theirs.index_at is None else f"of {shown(theirs.index_at.suffix)}"
            return f"the secondary's index is {at}, its mark of {shown(theirs.at.suffix if theirs.at else 0)}: one was restored"
    return ""


# ---- the primary's own state ---------------------------------------------------------------------------------------


def _own(mine: Mine, theirs: Theirs) -> str:
    """What is wrong with what the primary stores; "" where it is of one piece."""
    if mine.index_lost:
        return "the index of the primary is lost"
    if mine.known and mine.chain.origin is None:
        return "the journal of the primary is gone"
    if mine.journal:
        return f"the journal of the primary is damaged: {mine.journal}"
    if not mine.known:
        return ""  # a state of an older version: its chain begins with this run
    at, last = mine.index_at, mine.chain.last
    if at != last:
        # crash: between the chain's line and the index; the slice is repeated, for nobody has it yet
        had = [p for p in (mine.at, theirs.at, theirs.index_at) if p is not None]
        repeated = last is not None and at == mine.chain.before(last) and all(p.key < last.key for p in had)
        if not repeated:
            there = "of nothing" if at is None else f"of {shown(at.suffix)}"
            return f"the index of the primary is {there}, its journal of {shown(last.suffix if last else 0)}: one was restored"
    if mine.at is not None and not _known(mine.chain, mine.at):
        return f"the mark of the primary, of {shown(mine.at.suffix)}, is of another history than its journal"
    return ""


def _tomorrow(mine: Mine, theirs: Theirs) -> str:
    """A mark that is later than all that was ever recorded (MRK-4)."""
    last = max(mine.last, mine.chain.last.suffix if mine.chain.last is not None else 0)
    if mine.running or last == 0:
        return ""
    if mine.stime.sec > last + SLACK:
        return f"the mark of the primary is {shown(mine.stime.sec)}, later than the last change that it recorded ({shown(last)})"
    if theirs.mark.sec > last + SLACK:
        return f"the mark of the secondary is {shown(theirs.mark.sec)}, later than the last change recorded here ({shown(last)})"
    return ""


def _index_knows(mine: Mine, theirs: Theirs) -> bool:
    """Without a journal: does the primary's index show that it was there when the secondary's last slice was made?"""
    if theirs.at is None:
        return theirs.mark == NO_MARK or theirs.mark <= mine.stime
    mark = mine.index_at
    return mark is not None and mark.origin == theirs.at.origin and mark.key >= theirs.at.key


def _proven(mine: Mine, theirs: Theirs) -> bool:
    """Is what the secondary's index says of its objects a state of this history?"""
    place = theirs.index_at
    if theirs.index_lost or place is None:
        return False
    if mine.chain.origin is None:
        return _index_knows(mine, theirs) and theirs.at is not None
    return _known(mine.chain, place)


def shown(second: int) -> str:
    """A second for a person."""
    return time.strftime("%F %T UTC", time.gmtime(second)) if second > 0 else "none"
