"""The recorder of a tree brick: events mark slots dirty, a slice closes, the difference becomes a changelog."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable

from engine.agent.index import Index
from engine.backlog import Backlog, changes_in
from engine.journal.differ import Differ
from engine.journal.dirty import Source, WatchLimit
from engine.journal.ready import Ready
from engine.journal.watching import Watching
from engine.journal.writer import JournalWriter
from engine.model import Changelog, EngineError, Gfid, Record
from engine.turn import Turn
from engine.volume.base import Closed, Crawling, Found
from engine.volume.handles import RootError, RootIdentity
from engine.volume.tree import TreeView

HEARTBEAT = 10.0
"""Seconds after which an idle slice is closed, so that the mark advances (MRK-8)."""

QUIET = 0.2
"""Seconds without an event after which a burst is over."""

SCAN, SCAN_SHARE = 4.0, 20.0
"""Where there are no events at all (`recorder = scan`): the least seconds between walks, and how many times as long as
a walk took."""

STEP = 20_000
"""Most objects looked at in one slice of a walk, so that changes meanwhile do not wait for all of it."""

FIRST_STEP = 2_000
"""And fewest: a walk's first slices are short, for the secondary has nothing to do before the first of them is closed,
and those of a walk that has seen little are, for nothing is walked while the last of them is brought over."""


class Recorder:
    """Closes slices of one brick, in a thread of its own.

    The differ's index belongs to that thread. `on_closed` is called there after each closed slice, `on_error` once
    when recording has ended with an error (the root is gone or another, the journal cannot be written).
    `full()` says that the journal may not grow further (SAFE-6); it is asked every few seconds. `scrub()` gives the
    interval of scrubs in seconds (0: none) and their rate in objects per second (CRW-9). `pending()` lists what is on
    the disk and not synced; it is called by `take`.
    """

    def __init__(
        self,
        root: bytes,
        view: TreeView,
        index: Index,
        differ: Differ,
        source: Source,
        writer: JournalWriter,
        identity: RootIdentity,
        *,
        rollover: float,
        on_closed: Callable[[], None],
        on_error: Callable[[EngineError], None],
        log: Callable[[str, str], None],
        full: Callable[[], bool],
        scrub: Callable[[], tuple[float, int]],
        pending: Callable[[], list[Changelog]],
    ) -> None:
        self.root = root
        self.view = view
        self.index = index
        self.differ = differ
        self.source = source
        self.writer = writer
        self.identity = identity
        self.rollover = rollover
        self.on_closed = on_closed
        self.on_error = on_error
        self.log = log
        self.full = full
        self.scrub = scrub
        self.pending = pending
        self.stopped_full = False
        """The journal is at its limit: nothing is recorded until there is room, then a hybrid crawl closes the hole."""
        self._checked = 0.0
        self._scrubbing = False
        self._scrubbed = time.monotonic()
        self._walked = 0.0
        self._rewalk: set[Gfid] = set()
        self._watching = Watching(view, index, source, differ, log)
        self._unreadable: set[Gfid] = set()
        self._lock = threading.Lock()
        self._ready = Ready(self._lock, pending)
        self._stop = threading.Event()
        self._flush_wanted = 0
        self._flush_done = 0
        self._flushed = threading.Condition(self._lock)
        self._crawl_wanted: str | None = None
        self._written = 0.0
        self._clear_wanted = False
        self.token = ""
        """Names the comparison that the index is begun anew for, in the transaction that clears it."""
        self._asked_for = 0
        self.crawl_reason: str | None = None
        self.crawl_since: float | None = None
        self.crawls_done: deque[tuple[float, float, int]] = deque(maxlen=20)
        """Hybrid crawls that ended, until someone takes them: begin and end in unix time, objects seen."""
        self._step = 0.0
        self._scrub_began = 0.0
        self._first: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"recorder {os.fsdecode(root)}", daemon=True)
        self.error: EngineError | None = None
        self._unfinished = 0
        self.turn = Turn()
        """Who computes now: a walk, or a batch that is applied."""
        self.slices = 0
        differ.on_step = self.turn.offer

    # ---- for other threads -----------------------------------------------------------------------------------

    def start(self, reason: str | None, *, clear: bool = False) -> None:
        """Begin to record; with a reason, with a hybrid crawl (`clear`: the index is forgotten first)."""
        if reason is not None:
            self.crawl(reason, clear=clear)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and join it; what is dirty stays for the hybrid crawl of the next start."""
        self._stop.set()
        self.source.wake.set()
        self._ready.room.set()
        with self._lock:
            self._flushed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(30)
        self.source.stop()
        self.writer.close()

    def crawl(self, reason: str, *, clear: bool = False) -> None:
        """Ask for a hybrid crawl (CRW-7); `clear` compares with the secondary alone (MRK-7)."""
        with self._lock:
            self._crawl_wanted = reason
            self._clear_wanted = self._clear_wanted or clear
            self.crawl_reason = self.crawl_reason or reason
            self._flushed.notify_all()
        self.source.wake.set()

    def close_now(self, timeout: float | None = None) -> bool:
        """Close the running slice with all that the kernel has queued, and wait until it is in the journal.

        False when it took longer than `timeout` seconds or recording has ended.
        """
        with self._lock:
            self._flush_wanted += 1
            wanted = self._flush_wanted
            self.source.wake.set()
            self._flushed.notify_all()
            self._flushed.wait_for(
                lambda: self._flush_done >= wanted or self._stop.is_set() or self.error is not None, timeout
            )
            return self._flush_done >= wanted

    def ask(self) -> int:
        """Ask for a slice that holds what happened before this call; the number that it, or a later one, will have."""
        with self._lock:
            self._flush_wanted += 1
            self._flushed.notify_all()
            self.source.wake.set()
            return self._flush_wanted

    def unreadable(self) -> list[Gfid]:
        """Directories that could not be listed since the last call (CRW-6)."""
        with self._lock:
            out, self._unreadable = self._unreadable, set()
        return list(out)

    def rewalk(self, gfids: list[Gfid]) -> None:
        """List these directories again, with all below them that is new."""
        with self._lock:
            self._rewalk.update(gfids)
            self._flush_wanted += 1
            self._flushed.notify_all()
        self.source.wake.set()

    def take(self, most: int, most_bytes: int) -> list[Closed]:
        """The next closed slices, in order, for one batch; they stay until `done`."""
        return self._ready.take(most, most_bytes)

    def done(self, count: int) -> None:
        """The first `count` slices have been synced."""
        self._ready.done(count)

    def prepend(self, closed: list[Closed]) -> None:
        """Slices found on the disk, older than any of this run."""
        self._ready.prepend(closed)

    def backlog(self) -> Backlog:
        """What waits, at one instant: a change is heard of, or taken into the open slice, or in a closed one."""
        with self._lock:
            heard = [t for t in (self._first, self.source.first_time) if t is not None]
            crawling = self.crawl_reason is not None
            waiting = self._ready.waiting()
        return self._ready.backlog(waiting, heard, crawling=crawling, whole=not (crawling or self.stopped_full))

    def found(self) -> Found:
        """Regular files that have been made known to the secondary so far, or are to be."""
        emit = self.differ.emit
        return Found(emit.files, emit.bytes, not self.crawling)

    @property
    def crawling(self) -> bool:
        """Is a hybrid crawl wanted or under way?"""
        return self.crawl_reason is not None

    def crawl_now(self) -> Crawling:
        """What is shown as the crawl."""
        if self.crawling:
            return Crawling("hybrid", self.crawl_since, self.differ.walk.seen)
        return Crawling("live")

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wait()
                if self._stop.is_set():
                    break
                if self.differ.pending or self._crawl_wanted is not None:
                    with self.turn.walk():
                        self._close_slice()
                else:
                    self._close_slice()
        except RootError as e:
            self._end(EngineError(f"primary {os.fsdecode(self.root)}: {e}", code="primary-changed",
                                  hint="nothing is replicated until it is back as it was"))  # fmt: skip
        except WatchLimit as e:
            self._end(EngineError(str(e), code="watch-limit", hint="raise fs.inotify.max_user_watches"))
        except EngineError as e:
            self._end(e)
        except OSError as e:
            name = os.fsdecode(e.filename) + ": " if isinstance(e.filename, str | bytes) else ""
            self._end(EngineError(f"recorder: {name}{e.strerror}", code="recorder", errno=e.errno))
        except sqlite3.DatabaseError as e:
            damaged = "malformed" in str(e) or "not a database" in str(e)
            self._end(EngineError(f"the index of {os.fsdecode(self.root)}: {e}", code="index-damaged" if damaged else "index",
                                  hint="it is made anew, and both sides are compared" if damaged else ""))  # fmt: skip
        except Exception as e:  # noqa: BLE001 - the thread's last word: the worker becomes Faulty with it
            self._end(EngineError(f"recorder: {type(e).__name__}: {e}", code="internal"))

    def _end(self, error: EngineError) -> None:
        with self._lock:
            self.error = error
            self._flushed.notify_all()
        with contextlib.suppress(sqlite3.DatabaseError):
            self.index.rollback()
        self.on_error(error)

    def _wait(self) -> None:
        """Until there is something to close: a slice whose time is up, a request, a walk, a heartbeat."""
        deadline = time.monotonic() + HEARTBEAT
        while not self._stop.is_set():
            with self._lock:
                if self._asked():
                    return
            if self.differ.pending and not self._scrubbing:
                if self._ready.room.is_set():
                    return
                self._ready.room.wait(1.0)
                continue
            deadline = min(deadline, self._scrub_due())
            if self.differ.unsettled:
                deadline = min(deadline, self._step + self.rollover)
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if not self.source.wake.wait(left):
                continue
            with self._lock:
                if self._asked() or self._stop.is_set():
                    return
                self._first = self._first or time.time()
                self._gather()
            return

    def _gather(self) -> None:
        """Let a storm run its slice without a wake-up for each event; a burst that is over is closed at once, but no
        slice sooner after the last one than a slice is long. Called with the lock held."""
        end = time.monotonic() + self.rollover
        while (now := time.monotonic()) < end:
            due = min(end, max(self.source.last_event + QUIET, self._step + self.rollover))
            if due <= now or self._flushed.wait_for(lambda: self._asked() or self._stop.is_set(), due - now):
                return

    def _scrub_due(self) -> float:
        """When (monotonic) the next step of a scrub is due."""
        if self._scrubbing:
            return self._step + 1.0
        interval = max(SCAN, SCAN_SHARE * self._walked) if self.source.periodic else self.scrub()[0]
        return self._scrubbed + interval if interval > 0 else float("inf")

    def _scrub_begin(self) -> None:
        """Look at everything, slowly: what no event reported goes the normal way (CRW-9)."""
        self._scrub_began = time.monotonic()
        self._scrubbing = True
        self.differ.begin_walk()
        self.log("debug", "scrub begins")

    def _asked(self) -> bool:
        return self._crawl_wanted is not None or self._flush_wanted > self._flush_done

    def _close_slice(self) -> None:
        with self._lock:
            flush = self._flush_wanted
            crawl, self._crawl_wanted = self._crawl_wanted, None
            clear, self._clear_wanted = self._clear_wanted, False
        self._asked_for = flush
        self.identity.check()
        at = time.time()
        self.source.wake.clear()
        self.source.settle()
        with self._lock:  # whoever asks for the backlog finds a change in one of its places
            dirty = self.source.take()
            since = self._first = min((t for t in (self._first, dirty.first_time) if t is not None), default=None)
        if self._over_limit():
            with self._lock:
                self._flush_done = max(self._flush_done, flush)
                self._flushed.notify_all()
            return
        if dirty.root_lost:
            raise RootError("it was moved, deleted or unmounted")
        if dirty.overflow:
            crawl = crawl or "events were lost (the kernel's queue overflowed)"
            self.log("warning", "events were lost; a hybrid crawl closes the hole")
        began = crawl is not None
        if crawl is not None:
            self._begin_crawl(crawl, clear)
        elif not self.differ.pending and time.monotonic() >= self._scrub_due():
            self._scrub_begin()
        with self._lock:
            self.differ.walk.due.extend(self._rewalk)
            self._rewalk = set()
        for gfid, flags in self._watching.late().items():
            dirty.objects[gfid] = dirty.objects.get(gfid, 0) | flags
        rate = self.scrub()[1]
        walk = self.differ.walk
        scrub = self._scrubbing and not self.source.periodic and rate
        walk.step = max(100, rate) if scrub else min(STEP, max(FIRST_STEP, walk.seen // 8))
        self._step = time.monotonic()
        self._watching.each_file()
        walking = self.differ.pending and not self._scrubbing
        records = self.differ.slice(dirty.slots, dirty.objects, dirty.handles)
        self._watching.again()
        self.identity.check()
        if self.differ.walk.unreadable:
            with self._lock:
                self._unreadable.update(self.differ.walk.unreadable)
            self.differ.walk.unreadable.clear()
        pending = self.differ.pending
        if self._scrubbing:
            self._scrubbing = pending
            self._walked = time.monotonic() - self._scrub_began
            self._scrubbed = time.monotonic()
            pending = False
        crawl_ended = self.crawl_reason is not None and not pending and not began
        if began and not pending:
            crawl_ended = True
        now = time.time()
        self._fact("walk_since", self.writer.last if pending else None)
        if walking or pending or self._unfinished or began:
            if records:
                self._unfinished += 1
                changelog = self.writer.write_xsync(self.writer.last, self._unfinished, records)
                self._commit(Closed(changelog, False, since, at, self._kept(records),
                                    changes_in(records, walked=True)))  # fmt: skip
            else:
                self.index.commit(durable=True)
            if not pending:
                # an ordinary slice says that all up to its suffix is in the journal
                self._unfinished = 0
                self._written = now
                self._commit(Closed(self.writer.write([]), not self.differ.unsettled, None, at))
        elif records or flush > self._flush_done or now - self._written >= HEARTBEAT:
            self._written = now
            changelog = self.writer.write(records)
            # what could not be reached is in none of the slices yet
            self._commit(Closed(changelog, not self.differ.unsettled, since if records else None, at,
                                self._kept(records), changes_in(records)))  # fmt: skip
        with self._lock:
            # what could not be reached is still to come, and as old as the rest of its slice
            self._first = since if self.differ.unsettled else None
        if crawl_ended:
            with self._lock:
                self.crawl_reason = self._crawl_wanted  # another one may have been asked for meanwhile
            self.index.set_fact("crawling", None)
            self.index.commit(durable=True)
            self.crawls_done.append((self.crawl_since or now, now, self.differ.walk.seen))
            self.log("info", f"hybrid crawl: walked {self.differ.walk.seen} objects")
        with self._lock:
            self._flush_done = max(self._flush_done, flush)
            self._flushed.notify_all()
        self.slices += 1
        self.on_closed()

    def _kept(self, records: list[Record]) -> list[Record] | None:
        """The records, for a worker that keeps up."""
        return records if records and self._ready.few else None

    def _over_limit(self) -> bool:
        """Is the journal full? Then events are dropped, and a hybrid crawl is due when it no longer is (SAFE-6)."""
        now = time.monotonic()
        if now - self._checked < 5 and not self.stopped_full:
            return False
        self._checked = now
        full = self.full()
        if full and not self.stopped_full:
            self.log("error", "the state directory has reached its limit (state_limit): nothing is recorded until "
                              "there is room again; a hybrid crawl closes the hole then")  # fmt: skip
            self.index.set_fact("walk_since", self.writer.last)
            self.index.commit(durable=True)
        elif self.stopped_full and not full:
            self._crawl_wanted = self._crawl_wanted or "the state directory was full"
        self.stopped_full = full
        return full

    def _begin_crawl(self, reason: str, clear: bool) -> None:
        if self.writer.last == 0 or self._unfinished == 0:
            # the crawl's slices sort after everything before it
            self._commit(Closed(self.writer.write([]), False, None))
        self._scrubbing = False
        self.crawl_reason = reason
        self.crawl_since = time.time()
        self.log("info", f"hybrid crawl: {reason}")
        if clear:
            self.index.clear()
            self.index.set_fact("token", self.token)
            self.differ.emit.files = self.differ.emit.bytes = 0
        self.index.set_fact("crawling", reason)
        self.differ.begin_walk()

    def _fact(self, key: str, value: object) -> None:
        if self.index.fact(key) != value:
            self.index.set_fact(key, value)

    def _commit(self, closed: Closed) -> None:
        """The changelog and its line are durable: now the index may say so, and the worker may have it."""
        if closed.changelog.size and self.writer.place is not None:
            self.index.set_fact("at", self.writer.place.text)
        closed = closed._replace(asked=self._asked_for)
        if closed.changelog.size or self.index.changed:
            self.index.commit(durable=True)
        self._ready.add(closed)
