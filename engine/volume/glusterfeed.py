"""Closed slices of a GlusterFS brick: rollovers as they happen, history before them, hybrid crawls between (CRW-1…8)."""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from engine.backlog import Backlog, Counts, Slice, changes_in
from engine.crawl.hybrid import Hybrid, Piece
from engine.journal.history import Hole
from engine.journal.reader import Journal
from engine.model import NO_MARK, Changelog, EngineError, Gfid, Mark
from engine.turn import Turn
from engine.volume.base import Closed, Crawling, Found, first
from engine.volume.handles import inotify_add_watch, inotify_init

_MODIFY, _CREATE, _MOVED_TO, _ONESHOT, _DONT_FOLLOW = 0x2, 0x100, 0x80, 0x80000000, 0x02000000
_EVENT = struct.Struct("iIII")
PATIENCE = 60.0
"""Seconds without a rollover after which the volume is asked why, at first."""
GONE = 2.0
"""The same for a brick that has no open slice: between two there is none for a moment."""
RECORD = 90
"""Bytes a record counts for in a slice that is in memory only."""


class Rollovers:
    """A thread that hears when the brick closes a slice, and when the open one gets its first record.

    It watches the journal's index (and not the journal: a slice's own writes wake it once).
    """

    def __init__(self, journal: bytes, told: Callable[[], None]) -> None:
        self.journal = journal
        self.told = told
        self.first: float | None = None
        """Unix time at which the open slice was first written to, None while it is empty."""
        self.rolled: float | None = None
        """The same of slices that were closed since `swap`: they may not have been read yet."""
        self._fd = inotify_init()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._live = self._root = -1
        self._watched: set[bytes] = set()
        self._arm()
        self._thread = threading.Thread(target=self._run, name=f"rollovers {os.fsdecode(journal)}", daemon=True)
        self._thread.start()

    def _arm(self) -> None:
        htime = os.path.join(self.journal, b"htime")
        if self._root < 0:
            # a brick that begins anew opens a slice without a word in the index
            self._root = inotify_add_watch(self._fd, self.journal, _CREATE)
        if htime not in self._watched:
            inotify_add_watch(self._fd, htime, _CREATE | _MOVED_TO)
            self._watched.add(htime)
        for name in os.listdir(htime):
            path = os.path.join(htime, name)
            if path not in self._watched and name.startswith(b"HTIME."):
                inotify_add_watch(self._fd, path, _MODIFY)
                self._watched.add(path)
        self.first = None
        live = os.path.join(self.journal, b"CHANGELOG")
        try:
            self._live = inotify_add_watch(self._fd, live, _MODIFY | _ONESHOT)
            st = os.stat(live)
        except OSError:
            return  # between two slices; the next rollover tries again
        if st.st_size > 64:  # more than a header
            self.first = st.st_mtime

    def swap(self) -> None:
        """The journal is about to be read: what was closed until now is found there."""
        self.rolled = None

    @property
    def heard(self) -> float | None:
        """Unix time of the oldest change in the open slice, and in those that were closed and not read yet."""
        first, rolled = self.first, self.rolled  # in this order: a slice that is closed goes from one to the other
        return min((t for t in (first, rolled) if t is not None), default=None)

    def stop(self) -> None:
        """End the thread and join it."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._fd)
        os.close(self._stop)

    def _run(self) -> None:
        wait = select.poll()
        wait.register(self._fd, select.POLLIN)
        wait.register(self._stop, select.POLLIN)
        while True:
            ready = {fd for fd, _ in wait.poll()}
            if self._stop in ready:
                return
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                continue
            rolled = opened = False
            at = 0
            while at < len(data):
                watch, _, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                if watch == self._live:
                    self.first = self.first or time.time()
                elif watch == self._root:
                    opened = True
                else:
                    rolled = True
            if (rolled or opened) and self.first is not None:
                self.rolled = self.rolled or self.first
            if rolled or opened:
                with contextlib.suppress(FileNotFoundError):  # the journal was removed: the worker finds out
                    self._arm()
            if rolled:
                self.told()


class GlusterFeed:
    """Feeds one worker. `take`, `done`, `backlog` and crawls belong to its thread.

    `register` is the unix second at which the journal is known to run; `hybrid(began, compare, whole, resumed)` makes a
    crawl, of everything or of what changed since the mark. A first sync that was interrupted goes on: `resume` is when
    it began, and what happened since is in the journal. `life` says which process the brick is: after each start of it
    there may be a slice that no index has. `quiet(seconds)` is asked when no slice was closed for longer than
    `patience`: it gives a new patience, or raises why that is.
    """

    def __init__(
        self,
        journal: Journal,
        start: Mark,
        register: int,
        hybrid: Callable[[int, bool, bool, bool], Hybrid],
        remember: Callable[[dict[str, str] | None], None],
        *,
        life: Callable[[], object],
        quiet: Callable[[float], float],
        on_closed: Callable[[], None],
        log: Callable[[str, str], None],
    ) -> None:
        self.journal = journal
        self.register = register
        self.log = log
        self.turn = Turn()
        self.crawls_done: deque[tuple[float, float, int]] = deque(maxlen=20)
        self._hybrid = hybrid
        self._remember = remember
        self._on_closed = on_closed
        self._cursor = start
        """All slices up to it have been taken; of the second after it, those in `_taken` (name and inode)."""
        self._taken: set[tuple[bytes, int]] = set()
        self._life = life
        self._alive = life()
        self._began: float | None = time.time()
        """When the brick was seen to have begun anew; None once it has closed a slice since."""
        self._quiet = quiet
        self._patience = PATIENCE
        self._heard = time.monotonic()
        self._absent: float | None = None
        self._last = -1
        self._ready: deque[Closed] = deque()
        self._crawl: tuple[Hybrid, Iterator[Piece], int] | None = None
        self._pieces: deque[Piece | None] = deque()
        self._part = 0
        self._reason: str | None = None
        self._compare = True
        self._whole = True
        self._since: float | None = None
        self._history = True
        self._counts = Counts()
        self._found = Found(0, 0, False)
        self._closed = -1
        """The unix second at which the last crawl began: it has closed every hole that ended until then."""
        self._rolled = threading.Condition()
        self._stopped = False
        self._watch = Rollovers(journal.root, self._told)

    def _told(self) -> None:
        with self._rolled:
            self._rolled.notify_all()
        self._on_closed()

    def stop(self) -> None:
        """End the watching thread."""
        with self._rolled:
            self._stopped = True
            self._rolled.notify_all()
        self._watch.stop()

    # ---- crawls ----------------------------------------------------------------------------------------------

    def begin(self, reason: str, *, compare: bool, whole: bool = True, resume: int | None = None) -> None:
        """Begin with a hybrid crawl instead of history."""
        self._reason = reason
        self._compare = compare
        self._whole = whole
        self._cursor = NO_MARK
        self._begin(resume)

    def crawl(self, reason: str, *, clear: bool = False) -> None:
        """Ask for a hybrid crawl that compares both sides, after what is ready."""
        del clear  # a comparison always looks at both sides
        if self._crawl is None:
            self._reason = reason
            self._compare = self._whole = True
        self._on_closed()

    def _begin(self, resume: int | None) -> None:
        began = int(time.time()) if resume is None else resume
        self._since = time.time()
        self.log("info", f"hybrid crawl: {self._reason}{' (goes on)' if resume is not None else ''}")
        hybrid = self._hybrid(began, self._compare, self._whole, resume is not None)
        self._crawl = hybrid, hybrid.pieces(), began
        self._part = 0
        self._remember({"crawl": str(began), "compare": "yes" if self._compare else "no"})

    @property
    def crawling(self) -> bool:
        """Is a hybrid crawl wanted or under way?"""
        return self._reason is not None

    def crawl_now(self) -> Crawling:
        """What is shown as the crawl."""
        if self._crawl is not None:
            return Crawling("hybrid", self._since, self._crawl[0].seen)
        return Crawling("history" if self._history else "live")

    def _next_piece(self) -> None:
        assert self._crawl is not None
        _, pieces, began = self._crawl
        piece = next(pieces, None)
        self._part += 1
        if piece is not None:
            size = len(piece.records) * RECORD
            self._pieces.append(piece)
            records = list(piece.records)
            self._ready.append(Closed(Changelog(began, self._part, b"", size), False, None, 0.0, records, changes_in(records)))
            return
        # all is there that had happened when the crawl began: the journal goes on from then
        self._pieces.append(None)
        self._ready.append(Closed(Changelog(began, 0, b""), True, None, float(began)))

    def _crawled(self) -> None:
        assert self._crawl is not None
        hybrid, _, began = self._crawl
        now = time.time()
        self.crawls_done.append((self._since or now, now, hybrid.seen))
        self.log("info", f"hybrid crawl: walked {hybrid.seen} objects")
        self._crawl = None
        self._reason = None
        self._remember(None)
        self._cursor = max(self._cursor, Mark(began - 1, 0))
        self._closed = began

    # ---- slices ----------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        """What the brick has closed since."""
        if self._crawl is not None or self._ready:
            return
        self._watch.swap()
        found = self.journal.pending(self._cursor)
        if self._began_anew():
            found = self.journal.pending(self._cursor)
        self._listen()
        holes = [h for h in self.journal.holes(self._cursor) if h.end > self._closed]
        if holes:
            # nothing after a hole is applied before the crawl that closes it: the mark must not pass it
            found = [log for log in found if log.suffix <= min(h.start for h in holes)]
        new = [(log, mark) for log in found if (mark := identity(log)) not in self._taken or log.suffix > self._cursor.sec + 1]
        for log, _ in new:
            self._ready.append(Closed(log, True, self._before(log) if log.size else None, float(log.suffix)))
        if new:
            # a second may end more than one slice: the last one may not be over
            last = new[-1][0].suffix
            kept = self._taken if last == self._cursor.sec + 1 else set()
            self._taken = kept | {mark for log, mark in new if log.suffix == last}
            self._cursor = Mark(last - 1, 0)
        if holes and self._reason is None:
            self._reason = said(holes)
            self._compare, self._whole = True, False

    def _began_anew(self) -> bool:
        """Has the brick begun anew since the last look? Then slices without an index are looked for, until it rolls over."""
        # after the look at the index: what that has of the new life, is of a time when the old slice had its name
        now = self._life()
        anew = now != self._alive
        if anew:
            self._alive = now
            self._began = time.time()
        elif self._began is not None and self.journal.last > self._began + 1:
            self._began = None
        self.journal.rescan = self._began is not None
        return anew

    def _listen(self) -> None:
        """Does the brick still close slices? Raises what `quiet` says."""
        now = time.monotonic()
        if self.journal.last != self._last:
            self._last, self._heard, self._patience = self.journal.last, now, PATIENCE
        if os.path.exists(os.path.join(self.journal.root, b"CHANGELOG")):
            self._absent = None
        else:
            self._absent = self._absent or now
        if now - self._heard > self._patience:
            self._patience = self._quiet(now - self._heard)
        elif self._absent is not None and now - self._absent > GONE:
            self._quiet(0)

    def _before(self, log: Changelog) -> float:
        """When the oldest change in a slice may have been made: the second its predecessor ended."""
        before = self._ready[-1].changelog.suffix if self._ready else self._cursor.sec
        return float(before) if before > 0 else float(log.suffix)

    def take(self, most: int, most_bytes: int) -> list[Closed]:
        """The next closed slices for one batch. A crawl begins when nothing older waits."""
        if not self._ready:
            if self._crawl is None:
                self._poll()
            if not self._ready and self._reason is not None:
                if self._crawl is None:
                    self._begin(None)
                self._next_piece()
            elif not self._ready:
                self._history = False
        return first(self._ready, most, most_bytes)

    def done(self, count: int) -> None:
        """The first `count` slices have been synced."""
        for _ in range(count):
            closed = self._ready.popleft()
            if closed.changelog.suffix >= self.register:
                self._history = False
            if self._crawl is not None and self._pieces:
                piece = self._pieces.popleft()
                if piece is None:
                    self._crawled()
                else:
                    self._crawl[0].finish(piece)

    def backlog(self) -> Backlog:
        """What waits: the slices that were taken from the journal, the crawl's, and the open one if it has anything."""
        crawling = self.crawling
        self._poll()
        real = [c for c in list(self._ready) if c.changelog.size]
        oldest = self._watch.heard
        heard = [] if oldest is None else [oldest]
        changes, exact = self._counts.of([Slice(c.changelog, c.changes) for c in real])
        times = [c.since for c in real if c.since is not None] + heard
        return Backlog(
            len(real), sum(c.changelog.size for c in real), min(times) if times else None, changes + len(heard),
            exact and not (heard or crawling), dated=all(c.since is not None for c in real),
            crawling=crawling or self.crawling,
        )  # fmt: skip

    @property
    def heard(self) -> float | None:
        """Unix time of the oldest change that is in no slice of ours yet, None while there is none. Any thread may ask."""
        return self._watch.heard

    def found(self) -> Found:
        """Regular files that the walk of a first copy has found; what it found before a restart is not known again."""
        if self._crawl is None:
            return self._found
        hybrid, _, _ = self._crawl
        whole = bool(self._pieces) and self._pieces[-1] is None
        self._found = Found(hybrid.files, hybrid.bytes, whole)
        return self._found

    def close_now(self, timeout: float | None = None) -> bool:
        """Wait for the next rollover if the open slice holds anything: a brick closes its slices by itself."""
        if self._watch.first is None:
            return True
        with self._rolled:
            return self._rolled.wait(timeout) and not self._stopped

    def ask(self) -> int:
        """A brick's slices are its own."""
        return 0

    def unreadable(self) -> list[Gfid]:
        """Directories that could not be listed since the last call."""
        if self._crawl is None:
            return []
        out, self._crawl[0].unreadable = self._crawl[0].unreadable, []
        return out

    def rewalk(self, gfids: list[Gfid]) -> None:
        """What could not be listed is found by a crawl."""
        if gfids:
            self.crawl("a directory could not be listed")


def identity(log: Changelog) -> tuple[bytes, int]:
    """What tells a slice from another one that ended in the same second and took its name."""
    try:
        return log.path, os.stat(log.path).st_ino if log.path else log.suffix
    except FileNotFoundError:
        return log.path, 0


def said(holes: list[Hole]) -> str:
    """Why a crawl is needed."""
    first = holes[0]
    more = f", and {len(holes) - 1} more" if len(holes) > 1 else ""
    return f"history has a hole ({first.reason}, {max(0, first.end - first.start)} s{more})"


def wait_for_journal(root: bytes, timeout: float, stop: threading.Event) -> None:
    """Wait until the brick keeps a journal: it begins a moment after that is switched on. Raises EngineError."""
    deadline = time.monotonic() + timeout
    htime = os.path.join(root, b"htime")
    while not stop.is_set():
        try:
            if any(n.startswith(b"HTIME.") for n in os.listdir(htime)) and os.path.exists(os.path.join(root, b"CHANGELOG")):
                return
        except FileNotFoundError:
            pass
        if time.monotonic() > deadline:
            raise EngineError(f"{os.fsdecode(root)}: the brick keeps no journal", code="no-journal",
                              hint="is changelog.changelog on, and does the brick run? gluster volume status")  # fmt: skip
        stop.wait(0.1)
