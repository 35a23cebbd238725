"""What the worker needs of a primary, whatever it is: a view of its objects, closed slices, marks (protocols only)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.agent.index import Row
from engine.guard import Born
from engine.journal.format import Decoded
from engine.model import Changelog, EngineError, Gfid, Mark, Record, Slot, Stat
from engine.options import Options
from engine.turn import Turn

if TYPE_CHECKING:
    from engine.apply import Problem
    from engine.batch import Plan


class Gone(Exception):
    """The object is not where it was known to be, or nowhere: look again at the next slice."""


class Indirect(Exception):
    """The file is there, but under no path that holds its content; says why."""


class Closed(NamedTuple):
    """A closed slice. `complete`: with it, everything up to its suffix is in the journal (no walk is pending).

    `since` is the unix time of its oldest change, None where that is not known (a walk, a heartbeat).
    """

    changelog: Changelog
    complete: bool
    since: float | None = None
    at: float = 0.0
    """Unix time before which every change is in this slice or an earlier one; suffixes may run ahead of the clock."""
    records: list[Record] | None = None
    """What was written, for a worker that keeps up; None where it has to be read from the file."""

    @property
    def mark(self) -> Mark:
        """How far a complete slice brings the mark: the last second that was over when it was closed (MRK-6). A change
        of that second is then surely done, so a checkpoint of now holds what it promises (STA-2)."""
        return Mark(max(0, min(self.changelog.suffix, int(self.at)) - 1), 0)


def first(ready: Iterable[Closed], most: int, most_bytes: int) -> list[Closed]:
    """The first slices that make one batch: at most `most` and `most_bytes` of them, but at least one (CRW-3)."""
    out: list[Closed] = []
    size = 0
    for closed in ready:
        size += closed.changelog.size
        if out and (len(out) >= most or size > most_bytes):
            break
        out.append(closed)
    return out


class Known(NamedTuple):
    """The names of an object, as far as they are known; each was just looked up and holds it.

    `links` is how many a file has by its count of links; None where that is not asked (a directory has one name, and a
    tree's index knows all that are replicated). A name that is not in `rows` may hold the object all the same, for a
    brick notes at most 500 names of a file, and none where `storage.gfid2path` was off: `View.holds` tells.
    """

    rows: list[Row]
    links: int | None = None

    @property
    def complete(self) -> bool:
        """Are these all names of the object?"""
        return bool(self.rows) and (self.links is None or self.links <= len(self.rows))


class Crawling(NamedTuple):
    """The crawl that runs: `kind` is hybrid, history or live; `seen` objects of `total`, None where not known."""

    kind: str
    since: float | None = None
    seen: int | None = None
    total: int | None = None


class Object(Protocol):
    """An object as it was seen on the primary."""

    @property
    def gfid(self) -> Gfid: ...
    @property
    def stat(self) -> Stat: ...


class Names(Protocol):
    """Which names the primary's objects have."""

    def has(self, gfid: Gfid) -> bool: ...
    def rows(self, gfid: Gfid) -> list[Row]: ...
    def row(self, gfid: Gfid) -> Row | None: ...
    def get(self, parent: Gfid, name: bytes) -> Row | None: ...
    def path(self, gfid: Gfid) -> bytes | None: ...
    def count(self) -> int: ...


class View(Protocol):
    """One thread's view of the primary. What is not where it was known to be raises Gone; the disk's errors OSError."""

    dashed: bool
    """Are objects named by the 36 characters of their gfids where they are staged?"""

    @property
    def index(self) -> Names: ...

    def see(self, gfid: Gfid) -> Object | None:
        """The object as it is now, None when it can't be reached."""

    def orders(self, gfid: Gfid) -> bool:
        """Does this brick's journal have every change of the object, in order? Then no other worker acts on it."""

    def names(self, gfid: Gfid) -> Known:
        """The names of an object as they are now, as well as they can be told."""

    def holds(self, slot: Slot, gfid: Gfid) -> bool:
        """Does this name lead to that object now? Looked up on the primary itself: only a name that does not may be taken
        from the object on the secondary. Raises OSError where that cannot be told."""

    def holding(self, slots: Iterable[Slot], gfid: Gfid) -> set[Slot]:
        """The same of many names at once: those that do."""

    def look(self, parent: Gfid, name: bytes) -> Object | None:
        """What a slot holds now, None when nothing of ours does."""

    def meta(self, gfid: Gfid) -> tuple[Stat, dict[bytes, bytes] | None]:
        """Stat and xattrs as they are now; xattrs None where there can be none."""

    def open_slot(self, slot: Slot, gfid: Gfid, ctime_ns: int = 0) -> int:
        """Open a regular file for reading, expected in that slot; `ctime_ns`: when it was last seen there, 0 unknown."""

    def open_file(self, gfid: Gfid) -> int:
        """Open a regular file for reading, wherever it is."""

    def dir_fd(self, gfid: Gfid) -> int:
        """A descriptor of a directory; the view's own."""

    def stat_of(self, st: os.stat_result, fd: int | bytes) -> Stat:
        """What travels of the stat of a file, open or by a path of `paths`."""

    def xattrs_of(self, fd: int) -> dict[bytes, bytes]:
        """What travels of the xattrs of an open file or directory."""

    def link_text(self, slot: Slot, gfid: Gfid) -> bytes:
        """The text of that symlink, which was last seen in that slot."""

    def list_dir(self, gfid: Gfid) -> list[bytes]:
        """The names in a directory, those of this brick."""

    def below(self, gfid: Gfid) -> list[Gfid]:
        """What is in a directory that had to be made anew there, and that no record of its own will bring (SEC-11)."""

    def moved(self, root: bytes) -> bool:
        """Is another directory than this view's at that path now?"""

    def paths(self, gfid: Gfid, root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Absolute paths that lead to an object now, with what was seen there; `root` is the brick's path. May raise
        Indirect."""

    def elsewhere(self, slot: Slot) -> bool:
        """Does another brick of the volume have what this one has not in that slot?"""

    def dead(self, gfids: Iterable[Gfid]) -> list[Gfid]:
        """Those objects that are gone from this brick."""

    def end(self) -> None:
        """Let go of all the view holds."""


class Marks(Protocol):
    """How far the brick's secondary has got; see `engine.marks.MarkFile`."""

    stime: Mark
    entry_stime: Mark
    identity: dict[str, str]

    @property
    def moved_by_other(self) -> bool: ...
    def advance(self, stime: Mark | None = None, entry_stime: Mark | None = None) -> bool: ...
    def reset(self, stime: Mark = ..., entry_stime: Mark | None = None) -> None: ...
    def adopt(self, stime: Mark) -> None: ...
    def identify(self, identity: dict[str, str]) -> None: ...


class Feed(Protocol):
    """Closed slices of one brick, as they come."""

    @property
    def turn(self) -> Turn: ...
    @property
    def crawling(self) -> bool:
        """Is a hybrid crawl wanted or under way?"""

    def crawl_now(self) -> Crawling:
        """What is shown as the crawl."""

    @property
    def crawls_done(self) -> deque[tuple[float, float, int]]:
        """Hybrid crawls that ended, until someone takes them: begin and end in unix time, objects seen."""

    def take(self, most: int, most_bytes: int) -> list[Closed]:
        """The next closed slices, in order, for one batch; they stay until `done`."""

    def done(self, count: int) -> None:
        """The first `count` slices have been synced."""

    def backlog(self) -> tuple[int, int, float | None]:
        """Slices with content that wait, their bytes, and the unix time of the oldest change not synced."""

    def crawl(self, reason: str, *, clear: bool = False) -> None:
        """Ask for a hybrid crawl (CRW-7); `clear` compares with the secondary alone (MRK-7)."""

    def close_now(self, timeout: float | None = None) -> bool:
        """Wait until what happened before this call is in a closed slice; False after `timeout` seconds."""

    def unreadable(self) -> list[Gfid]:
        """Directories that could not be listed since the last call (CRW-6)."""

    def rewalk(self, gfids: list[Gfid]) -> None:
        """List these directories again."""


class Primary(Protocol):
    """One brick that is replicated."""

    kind: str
    lasting: bool
    """Does the feed go on while there is no line to the secondary?"""
    path: str
    root: bytes
    state: str
    born: Born
    """Objects made of late; the bricks of one volume share it."""

    @property
    def marks(self) -> Marks: ...
    @property
    def feed(self) -> Feed | None: ...

    def paired(self, hello: dict[str, Any], link: Any) -> None:
        """The agent's answer to hello: what the brick has to know of its secondary. Before `marks` is used."""

    def elected(self) -> bool:
        """Is this brick the one of its replica set that is replicated (ACT-1)? Raises EngineError when it is down."""

    def stand_by(self) -> None:
        """Not elected: keep the marks up with those of the volume (ACT-2)."""

    @property
    def stranger(self) -> bool:
        """Must the agent be asked who the secondary is, before anything else?"""

    def permits(self, yes: bool) -> bool:
        """May what differs on a secondary that was not ours be replaced? `yes` allows it for good."""

    def suspects(self) -> set[Gfid]:
        """Objects that the secondary may have newer than the primary does, after a crash here."""

    def rechecked(self) -> None:
        """The suspects are as they should be."""

    def tidy(self, todo: Plan, dead: list[Gfid]) -> list[Problem]:
        """Leave out of a plan what no longer holds; what has to be settled for it comes back."""

    def view(self) -> View:
        """A view for one thread."""

    def excluded(self, view: View) -> Callable[[Gfid, bytes, bool], bool] | None:
        """Include and exclude patterns as a question about one name (CRW-10), None where there are none."""

    def read(self, changelog: Changelog) -> Decoded:
        """The records of a slice. Raises JournalError."""

    def done(self, changelogs: Iterable[Changelog]) -> None:
        """These are on the secondary: away with what is ours of them (CHG-11)."""

    def start(
        self, current: Callable[[], Options], *, adopt: bool, clear: bool, on_closed: Callable[[], None],
        on_error: Callable[[EngineError], None],
    ) -> Feed:  # fmt: skip
        """Begin to feed, with the crawl that the marks call for (CRW-1)."""

    def stop(self) -> None:
        """Stop feeding."""

    def index_lost(self) -> bool:
        """Is what the brick knew of its objects gone, so that both sides must be compared?"""

    def would_do(self, options: Options) -> dict[str, Any]:
        """What a start would do, in counts and bytes (SAFE-2)."""
