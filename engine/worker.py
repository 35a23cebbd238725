"""The worker of one brick, from register to live: takes closed slices, has them applied, moves the marks."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.apply import Applier, Problem, Result
from engine.batch import Plan, Source, plan
from engine.guard import DeleteGuard, Hold, hold_id
from engine.journal.format import JournalError
from engine.journal.recorder import Closed, Recorder
from engine.ledger import Failure, Ledger
from engine.link import Link, SshTarget, connect
from engine.model import NO_MARK, EngineError, Gfid, Mark, Slot
from engine.options import Options
from engine.reconcile import Decision, Reconciler, slot_params
from engine.status import BrickStatus
from engine.transfer.base import Transfer
from engine.transfer.choose import parallel
from engine.transfer.jobs import Parallel
from engine.transfer.limit import Bandwidth
from engine.transfer.stream import Stream
from engine.verify import differing
from engine.volume.primary import TreePrimary
from engine.volume.tree import TreeView

FATAL = frozenset((
    "host-key-changed", "host-key-unknown", "ssh-denied", "ssh-resolve", "no-python", "python-old", "other-session",
    "other-protocol", "other-filesystem", "missing", "primary-unreachable", "primary-changed", "state-damaged", "fanotify", "locked",
))  # fmt: skip
"""Faults that, at the very first try of a run, are for the person who started it, not for patience."""

BACKOFF_FIRST, BACKOFF_MOST, STEADY = 1.0, 60.0, 60.0
"""Seconds: first pause after a fault, the longest, and how long a worker must be up for the first to hold again."""


@dataclass(frozen=True)
class Seat:
    """Where a brick goes and whose it is. `root_name` is the brick's name in the secondary, "" for its root."""

    session: str
    brick: str
    primary_text: str
    node: str
    target: SshTarget
    root: bytes
    root_name: str
    adopt: bool
    dry_run: bool


class _Job:
    """Something another thread wants done between two batches."""

    def __init__(self, run: Callable[[_Batches], None]) -> None:
        self.run = run
        self.done = threading.Event()
        self.error: EngineError | None = None


class Worker:
    """Replicates one tree brick in a thread of its own until stopped; a fault is shown and retried (ERR-4).

    `options` gives the configuration of now; `log(level, text)` and `event(name, fields)` publish. `on_idle` is called
    when all that is recorded is on the secondary.
    """

    def __init__(
        self,
        seat: Seat,
        primary: TreePrimary,
        options: Callable[[], Options],
        status: BrickStatus,
        ledger: Ledger,
        bandwidth: Bandwidth,
        log: Callable[[str, str], None],
        event: Callable[[str, dict[str, Any]], None],
        on_idle: Callable[[], None],
        on_fatal: Callable[[EngineError], None],
    ) -> None:
        self.seat = seat
        self.primary = primary
        self.options = options
        self.status = status
        self.ledger = ledger
        self.bandwidth = bandwidth
        self.log = log
        self.event = event
        self.on_idle = on_idle
        self.on_fatal = on_fatal
        self.ever_connected = False
        self.recovering: float | None = None
        """Since when (unix time) the agent is repeating what a crash left between its disk and its index."""
        first = options()
        self.guard = DeleteGuard(first.delete_guard_share, first.delete_guard_window, first.delete_guard_minimum)
        self.stopping = threading.Event()
        self.wake = threading.Event()
        self.paused = False
        self.link: Link | None = None
        self.caught_up = False
        self._lock = threading.Lock()
        self._approved: set[str] = set()
        self._rejected: dict[str, str] = {}
        self._held: Hold | None = None
        self._adopting = False
        self._objects = 0
        self._recorder_error: EngineError | None = None
        self._forced: str | None = None
        self._checkpoint_flush = False
        self.decisions: list[Decision] = []
        self.dry: dict[str, int] | None = None
        """What a dry run counted."""
        self._jobs: list[_Job] = []
        self.thread = threading.Thread(target=self._run, name=f"worker {seat.primary_text}", daemon=True)

    # ---- for other threads -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker's thread."""
        self.thread.start()

    def stop(self) -> None:
        """End the batch at the next safe place, stop recording, and join the thread."""
        self.stopping.set()
        self.wake.set()
        self.bandwidth.wake()
        link = self.link
        self.thread.join(10)
        if self.thread.is_alive() and link is not None:
            link.close()
            self.thread.join(20)

    def pause(self, paused: bool) -> None:
        """Stop or go on applying; recording goes on (SAFE-6)."""
        self.paused = paused
        self.wake.set()

    def xsync(self, reason: str) -> None:
        """Ask for a hybrid crawl (CRW-7)."""
        with self._lock:
            self._forced = reason
        self.wake.set()

    def flush(self) -> None:
        """Close the running slice soon, so that a checkpoint of now can complete on an idle brick (MRK-8)."""
        self._checkpoint_flush = True
        self.wake.set()

    def held(self) -> Hold | None:
        """Deletes that wait for a person."""
        return self._held

    def answer(self, hold: str, approve: bool, who: str) -> None:
        """Approve or reject held deletes by their id. Raises EngineError when the id is not (or no longer) held."""
        with self._lock:
            if self._held is None or self._held.id != hold:
                raise EngineError(f"nothing is held under {hold}", hint="look at `held`: a changed batch asks anew",
                                  code="not-held")  # fmt: skip
            if approve:
                self._approved.add(hold)
            else:
                self._rejected[hold] = who
        self.wake.set()

    def do(self, job: Callable[[_Batches], None], timeout: float) -> None:
        """Have a job done by the worker between two batches. Raises EngineError (its own, or when it takes too long)."""
        box = _Job(job)
        with self._lock:
            self._jobs.append(box)
        self.wake.set()
        if not box.done.wait(timeout):
            raise EngineError("the brick is busy", code="busy", hint="try again later")
        if box.error is not None:
            raise box.error

    def settle(self, timeout: float) -> bool:
        """Wait until the changes so far are on the secondary; False when that took longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        recorder = self.recorder()
        recorder.close_now(timeout)
        while time.monotonic() < deadline and not self.stopping.is_set():
            if recorder.backlog()[0] == 0:
                return True
            self.stopping.wait(0.05)
        return False

    def repair(self, problems: list[Problem], extra: list[Slot], result: Result) -> list[Problem]:
        """Make these objects agree, and remove what only the secondary has at these slots (SAFE-3)."""
        left: list[Problem] = []

        def job(batches: _Batches) -> None:
            for slot in extra:
                batches.link.call("clear_slot", slot_params(slot))
            left.extend(batches.reconciler.settle(problems, result))
            batches.commit_now(purge_foreign=True)

        self.do(job, 600)
        return left

    # ---- life ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = BACKOFF_FIRST
        attempt = 0
        try:
            while not self.stopping.is_set():
                began = time.monotonic()
                try:
                    self._live()
                    return
                except EngineError as e:
                    if self.stopping.is_set():
                        return
                    error = e
                except OSError as e:
                    error = EngineError(f"{e.strerror}: {os.fsdecode(e.filename or b'')}", code="os", errno=e.errno)
                except Exception as e:  # noqa: BLE001 - a worker's last word: shown as the cause of Faulty
                    error = EngineError(f"internal error: {type(e).__name__}: {e}", code="internal")
                    self.log("error", _trace(e))
                if not self.ever_connected and error.code in FATAL:
                    self.status.faulty(error, attempt=1, retry_at=time.time())
                    self.on_fatal(error)
                    return
                self.ever_connected = True
                if time.monotonic() - began > STEADY:
                    pause, attempt = BACKOFF_FIRST, 0
                attempt += 1
                wait = pause * random.uniform(0.8, 1.2)
                pause = min(pause * 2, BACKOFF_MOST)
                self.status.faulty(error, attempt=attempt, retry_at=time.time() + wait)
                self.event("faulty", {"code": error.code, "text": error.text, "hint": error.hint})
                self.log("error", f"{error.text}{' — ' + error.hint if error.hint else ''}")
                self.stopping.wait(wait)
        finally:
            self.primary.stop()
            self.status.stopped()

    def _live(self) -> None:
        """One connection's life."""
        options = self.options()
        self.status.initializing()
        self._check_recorder()
        link, hello = connect(
            self.seat.target, self.seat.root, options.secondary_timeout or 120,
            {"root_name": self.seat.root_name, "session": self.seat.session, "brick": self.seat.brick,
             "primary": self.seat.primary_text, "node": self.seat.node},
        )  # fmt: skip
        self.link = link
        view: TreeView | None = None
        try:
            if self.seat.dry_run:
                self._dry_run(hello)
                return
            self._register(link, hello)
            self.ever_connected = True
            view = self.primary.view()
            batch = _Batches(self, link, view)
            try:
                batch.recover_limbo()
                batch.run()
            finally:
                batch.close()
        finally:
            self.link = None
            link.close()
            if view is not None:
                view.close()
                view.index.close()
                os.close(view.root_fd)

    def _dry_run(self, hello: dict[str, Any]) -> None:
        """Count what a start would do, changing nothing on either side (SAFE-2)."""
        self._check_owner(hello)
        self.dry = self.primary.would_do(self.options())
        self.caught_up = True
        self.on_idle()

    def _check_owner(self, hello: dict[str, Any]) -> bool:
        """Is the secondary ours? Raises EngineError when it is another's and is not to be taken over (SAFE-5)."""
        theirs = hello.get("session")
        ours = theirs == self.seat.session and hello.get("brick") == self.seat.brick
        if theirs is not None and not ours and not self.seat.adopt:
            where = os.fsdecode(self.seat.root)
            raise EngineError(
                f"{where} belongs to another session (primary {hello.get('primary') or '?'}, id {theirs})",
                code="other-session", hint="choose another secondary, or take it over with --adopt",
            )  # fmt: skip
        return ours

    def _check_recorder(self) -> None:
        """A recorder that ended takes the brick down with its reason; the next round makes a new one."""
        if self._recorder_error is not None:
            error, self._recorder_error = self._recorder_error, None
            self.primary.stop()
            raise error

    def _recorder_failed(self, error: EngineError) -> None:
        self._recorder_error = error
        self.wake.set()

    def recorder(self) -> Recorder:
        """The running recorder. Raises what ended it."""
        self._check_recorder()
        assert self.primary.recorder is not None
        return self.primary.recorder

    # ---- register --------------------------------------------------------------------------------------------

    def _register(self, link: Link, hello: dict[str, Any]) -> None:
        """Agree with the secondary on whose it is, and start recording with the crawl that this calls for."""
        seat, marks = self.seat, self.primary.marks
        options = self.options()
        ours = self._check_owner(hello)
        fresh, empty = bool(hello.get("fresh")), bool(hello.get("empty"))
        clear = False
        self._adopting = "adopting" in marks.identity
        if not ours and not (fresh and empty):
            clear = self._adopting = True
            self.log("info", f"{link.where} holds {hello.get('objects') or 'some'} objects: adopting what is equal")
        begun = link.call(
            "begin",
            {"root_name": seat.root_name, "session": seat.session, "brick": seat.brick,
             "primary": seat.primary_text, "take_over": not ours,
             "create": True, "timeout": options.secondary_timeout, "wait": 30},
            timeout=90,
        )  # fmt: skip
        if ours:
            mark = hello.get("mark")
            copy = Mark(int(mark["sec"]), int(mark["nsec"])) if isinstance(mark, dict) else NO_MARK
            if begun.get("index_lost") or copy < marks.stime:
                self.log("warning", f"{link.where} was restored or replaced (its mark is {copy}, ours {marks.stime}): "
                                    "comparing it anew")  # fmt: skip
                self.event("secondary restored", {"mark": str(copy), "ours": str(marks.stime)})
                clear = self._adopting = True
        elif not (fresh and empty) or marks.stime != NO_MARK:
            clear = True
        if not ours and fresh and empty and marks.stime != NO_MARK:
            self.log("warning", f"{link.where} is empty though it was replicated to before: everything is sent again")
        if clear:
            marks.reset()
            if self._adopting:
                marks.identify({**marks.identity, "adopting": "yes"})
        if self._adopting:
            link.call("adopt_begin", {"replace": seat.adopt or ours or "replace" in marks.identity,
                                      "adopt": options.adopt, "clear": clear})  # fmt: skip
        self.recovering = time.time() if begun.get("recovering") else None
        self._objects = int(begun.get("objects") or hello.get("objects") or 0)
        self.status.connected(secondary_node=str(hello.get("node") or seat.target.host or seat.node))
        self.status.secondary_free(hello.get("statfs"))
        recorder = self.primary.recorder
        if recorder is None:
            self.primary.start(
                self.options, adopt=seat.adopt, clear=clear, on_closed=self.wake.set, on_error=self._recorder_failed,
            )  # fmt: skip
        elif clear:
            recorder.crawl("the secondary is compared anew", clear=True)

    def adopted(self, link: Link, batches: _Batches) -> bool:
        """The adoption crawl is through: remove what the primary does not have, then live as usual (CRW-8).

        False while that waits for a person.
        """
        extra = link.call("foreign", {"limit": 20})
        total = int(extra.get("total") or 0)
        if total:
            sample = tuple(str(e) for e in extra.get("sample", [])[:10])
            may = self.seat.adopt or "replace" in self.primary.marks.identity
            objects = self._objects or total
            hold = Hold(hold_id([f"{total}", *sample]), f"{total} objects on the secondary that the primary does not have",
                        total, objects, sample, time.time())  # fmt: skip
            if not may and not self.permitted(hold):
                return False
            link.call("sweep", {})
        link.call("adopt_end", {})
        self._adopting = False
        marks = self.primary.marks
        marks.identify({k: v for k, v in marks.identity.items() if k not in ("adopting", "replace")})
        batches.commit_now(purge_foreign=bool(total))
        return True

    # ---- holding ---------------------------------------------------------------------------------------------

    def permitted(self, hold: Hold) -> bool:
        """Has a person approved this? Else show it as held, and wait until the state changes."""
        with self._lock:
            if hold.id in self._approved:
                self._approved.discard(hold.id)
                self._held = None
                self.guard.approve()
                self.status.held(None)
                return True
            if hold.id in self._rejected:
                return False
            if self._held is None or self._held.id != hold.id:
                self._held = hold
                self.event("held", {"id": hold.id, "reason": hold.reason, "deletes": hold.deletes})
                self.log("warning", f"held: {hold.reason} (id {hold.id})")
        self.status.held(hold)
        return False

    def rejected(self, hold: Hold) -> str | None:
        """Who rejected this, None when nobody has."""
        with self._lock:
            who = self._rejected.pop(hold.id, None)
            if who is not None:
                self._held = None
                self.status.held(None)
            return who

    def _forced_crawl(self) -> None:
        with self._lock:
            reason, self._forced = self._forced, None
        if reason is not None:
            self.recorder().crawl(reason)

    @property
    def adopting(self) -> bool:
        """Is the secondary being compared with the primary for the first time, or anew?"""
        return self._adopting


class _Batches:
    """The loop over batches on one connection."""

    def __init__(self, worker: Worker, link: Link, view: TreeView) -> None:
        self.worker = worker
        self.link = link
        self.view = view
        self.status = worker.status
        self.options = worker.options()
        self.batch_id = 0
        self._jobs_of: Parallel | None = None
        self.transfer = self._transfer()
        self.applier = self._applier()
        self.reconciler = Reconciler(view, link, self.applier, self.transfer, self._decided)
        self._settled = False
        self._mark = worker.primary.marks.stime

    # told by applier and transfer
    def entries(self, done: int) -> None:
        self.status.entries_done(done)

    def files(self, done: int, nbytes: int) -> None:
        self.status.files_done(done, nbytes)

    def throttle(self, nbytes: int) -> None:
        self.worker.bandwidth.take(nbytes)
        if self.worker.stopping.is_set():
            raise EngineError("stopping", code="stopping")

    def _applier(self) -> Applier:
        inline = self.options.sync_method == "stream" and not self.worker.adopting
        return Applier(self.view, self.link, self, inline=inline, xattrs=self.options.sync_xattrs)

    def _transfer(self) -> Transfer:
        """The engine that `sync_method` names."""
        worker, options = self.worker, self.options
        if options.sync_method == "stream":
            return Stream(self.view, self.link, self, delta_threshold=options.delta_threshold, xattrs=options.sync_xattrs)
        self._jobs_of = parallel(
            worker.options, worker.primary.view, self.link, self, root=os.path.abspath(worker.primary.root),
            state=worker.primary.state, target=worker.seat.target, log=worker.log, name=worker.seat.primary_text,
        )  # fmt: skip
        return self._jobs_of

    def close(self) -> None:
        """End the transfer jobs."""
        if self._jobs_of is not None:
            self._jobs_of.close(30)

    def _decided(self, decision: Decision) -> None:
        self.worker.log("info", f"{decision.row}: {decision.text}")
        self.worker.decisions.append(decision)
        del self.worker.decisions[:-1000]

    # ---- the loop --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until stopped or an error: take what is closed, apply, commit; else wait."""
        worker = self.worker
        while not worker.stopping.is_set():
            worker.wake.clear()
            recorder = worker.recorder()
            if self.link.broken is not None:
                raise self.link.broken
            worker._forced_crawl()
            if worker.paused:
                self._show_backlog(recorder)
                self.status.paused()
                worker.wake.wait(5)
                continue
            self._show(recorder)
            if worker._checkpoint_flush:
                worker._checkpoint_flush = False
                recorder.close_now(10)
            self._jobs()
            self._ledger(recorder)
            self._unreadable(recorder)
            if recorder.spilled and not recorder.take(1, 1):
                recorder.refill(lambda: worker.primary.journal.pending(worker.primary.marks.stime))
            closed = recorder.take(self._most(), self.options.changelog_batch_size)
            if closed:
                if not self._batch(recorder, closed):
                    worker.wake.wait(5)
                continue
            if worker.adopting and not recorder.crawling:
                if not worker.adopted(self.link, self):
                    worker.wake.wait(5)
                    continue
                self.applier = self._applier()
                self.reconciler.applier = self.applier
            if worker.recovering is not None and not recorder.crawling:
                # the agent is through with it when a mark passes its start
                if self._mark.sec >= worker.recovering:
                    worker.recovering = None
                else:
                    worker.stopping.wait(max(0.0, worker.recovering + 2 - time.time()))
                    recorder.close_now(10)
                    continue
            if not recorder.crawling and worker.held() is None:
                worker.caught_up = True
                worker.on_idle()
            worker.wake.wait(min(5.0, self.worker.ledger.wait(time.time())))

    def _jobs(self) -> None:
        """Do what other threads asked for."""
        with self.worker._lock:
            jobs, self.worker._jobs = self.worker._jobs, []
        for box in jobs:
            try:
                box.run(self)
            except EngineError as e:
                box.error = e
                raise
            finally:
                box.done.set()

    def _most(self) -> int:
        return max(1, min(self.options.max_history_changelogs_in_batch, self.options.max_data_changelogs_in_batch))

    def _show_backlog(self, recorder: Recorder) -> None:
        count, nbytes, since = recorder.backlog()
        self.status.backlog(count, nbytes, since)

    def _show(self, recorder: Recorder) -> None:
        self._show_backlog(recorder)
        if recorder.crawling:
            self.status.crawl("hybrid", recorder.crawl_since, recorder.differ.seen_objects, None)
        else:
            self.status.crawl("live", None, None, None)
        self.status.active()

    # ---- one batch -------------------------------------------------------------------------------------------

    def _batch(self, recorder: Recorder, closed: list[Closed]) -> bool:
        """Apply these slices; False when they are held."""
        worker, marks = self.worker, self.worker.primary.marks
        self.options = worker.options()
        real = [c for c in closed if c.changelog.size]
        if not real:
            self._advance(recorder, closed, [])
            return True
        worker.caught_up = False
        sources, broken = self._read(real)
        todo = plan(sources, marks.entry_stime if not recorder.crawling else NO_MARK,
                    ignore_deletes=self.options.ignore_deletes, sync_xattrs=self.options.sync_xattrs)  # fmt: skip
        dead = [g for g in todo.removed if not self.view.index.has(g)]
        failures = list(broken)
        if not self._guard(todo, dead, failures):
            return False
        self.batch_id += 1
        self.status.batch_begin(
            self.batch_id, changelogs=len(real), entries=len(todo.entries), files=len(todo.data), metas=len(todo.meta)
        )
        result = Result()
        started = time.monotonic()
        self._apply(recorder, todo, result)
        for problem in result.problems:
            failures.append(self._failure(problem))
        self.status.batch_phase("commit")
        self._advance(recorder, closed, dead, failures)
        worker.guard.passed(time.time(), len(dead))
        self.status.batch_end(time.monotonic() - started)
        worker.event("batch done", {"id": self.batch_id, "entries": len(todo.entries), "files": result.files,
                                    "bytes": result.bytes, "seconds": round(time.monotonic() - started, 3)})  # fmt: skip
        return True

    def _read(self, closed: list[Closed]) -> tuple[list[Source], list[Failure]]:
        """The slices' records; one that can't be read goes whole into the ledger, with its offset."""
        sources: list[Source] = []
        broken: list[Failure] = []
        for one in closed:
            if one.records is not None:
                sources.append(Source(one.changelog, one.records))
                continue
            try:
                decoded = self.worker.primary.journal.read(one.changelog)
            except JournalError as e:
                if e.code == "changelog-missing":
                    self.worker.recorder().crawl(e.text)
                    continue
                broken.append(Failure.of_changelog(one.changelog.path, e.text, time.time()))
                self.worker.recorder().crawl(f"{os.fsdecode(one.changelog.path)} cannot be read")
                continue
            if decoded.torn is not None:
                broken.append(Failure.of_changelog(one.changelog.path, str(decoded.torn), time.time()))
                self.worker.recorder().crawl(f"{os.fsdecode(one.changelog.path)} is torn")
            sources.append(Source(one.changelog, list(decoded.records)))
        return sources, broken

    def _guard(self, todo: Plan, dead: list[Gfid], failures: list[Failure]) -> bool:
        """May these deletes pass? Rejected ones leave the plan and are kept in the ledger (SAFE-1)."""
        worker, now = self.worker, time.time()
        worker.guard.share = self.options.delete_guard_share
        worker.guard.window = self.options.delete_guard_window
        worker.guard.minimum = self.options.delete_guard_minimum
        objects = max(worker._objects, self.view.index.count() + len(dead) if dead else 0)
        if not worker.guard.exceeded(now, len(dead), objects):
            return True
        names = tuple(os.fsdecode(todo.removed[g].name) for g in dead[:10])
        hold = Hold(hold_id(dead), f"{worker.guard.counted() + len(dead)} of {worker.guard.base} objects would be deleted",
                    len(dead), worker.guard.base, names, now)  # fmt: skip
        if worker.permitted(hold):
            return True
        who = worker.rejected(hold)
        if who is None:
            return False
        gone = set(dead)
        for gfid in dead:
            failures.append(Failure.rejected_delete(gfid, todo.removed[gfid].name, who, now))
        todo.entries = [e for e in todo.entries if e.gfid not in gone]
        dead.clear()
        return True

    def _apply(self, recorder: Recorder, todo: Plan, result: Result) -> None:
        """Entries, then content, then attributes; what fails is settled with the primary's state of now."""
        with recorder.turn:
            self.status.batch_phase("entry")
            self.applier.entries(todo, result)
            self.status.batch_phase("data")
            self._content(todo, result)
            self.status.batch_phase("meta")
            self._attributes(todo, result)
        for _ in range(self.options.max_rsync_retries):
            if not result.problems and not result.gone:
                return
            if result.gone:
                # not where the index had them: the next slice knows where they are
                recorder.close_now(30)
            # what is in the index no more has vanished: its removal is on its way (SYN-6)
            moved = [g for g in dict.fromkeys(result.gone) if self.view.index.has(g)]
            again = [Problem(g, None, "DATA", 0, "moved") for g in moved]
            problems, result.problems, result.gone = result.problems + again, [], []
            if self._foreign(problems):
                raise EngineError("held", code="held")
            settled = Result()
            left = self.reconciler.settle(problems, settled)
            result.files += settled.files
            result.bytes += settled.bytes
            result.gone = settled.gone
            result.problems = left
            # what was settled may have changed the times of directories that were right before
            self.applier.metas([g for g in todo.touched if self.view.index.has(g)], Result())
            if left and not result.gone:
                break
        for gfid in dict.fromkeys(result.gone):
            if self.view.index.has(gfid):
                result.problems.append(Problem(gfid, None, "DATA", 0, "could not be found on the primary"))
        result.gone = []

    def _foreign(self, problems: list[Problem]) -> bool:
        """On a secondary that is not ours yet, something else is in the way: hold until --adopt (SAFE-1)."""
        foreign = [p for p in problems if p.text.startswith("foreign")]
        if not foreign or not self.worker.adopting:
            return False
        sample = tuple(os.fsdecode(p.slot.name) if p.slot else p.gfid.hex() for p in foreign[:10])
        hold = Hold(hold_id([p.gfid for p in foreign]), f"{len(foreign)} objects on the secondary differ and would be "
                    "replaced (--adopt allows it)", len(foreign), self.worker._objects, sample, time.time())  # fmt: skip
        if self.worker.permitted(hold):
            marks = self.worker.primary.marks
            marks.identify({**marks.identity, "replace": "yes"})
            self.link.call("adopt_begin", {"replace": True, "adopt": self.options.adopt, "clear": False})
            return False
        return True

    def _content(self, todo: Plan, result: Result) -> None:
        files = [g for g in todo.data if g not in result.sent and self._is_file(g)]
        if todo.check:
            files += self._differing([g for g in todo.check if self.view.index.has(g)])
        more = [g for g in result.made if g not in result.sent and g not in todo.data and self._is_file(g)]
        files += more
        if self.worker.adopting:
            # what was adopted as equal is not in `made`
            files = [g for g in files if g in result.made]
        if files:
            self.transfer.send(files, result.made, result)

    def _is_file(self, gfid: Gfid) -> bool:
        row = self.view.index.row(gfid)
        return row is not None and row.kind == 0o100000

    def _differing(self, gfids: list[Gfid]) -> list[Gfid]:
        """Those whose content is not the same on both sides (CHG-7: perhaps changed)."""
        return differing(self.view, self.link, gfids)

    def _attributes(self, todo: Plan, result: Result) -> None:
        skip = result.sent
        metas = {g: None for g in (*todo.meta, *result.made) if g not in skip}
        dirs = {g: None for g in todo.touched}
        for gfid in list(metas):
            row = self.view.index.row(gfid)
            if row is not None and row.kind == 0o040000:
                del metas[gfid]
                dirs[gfid] = None
        self.applier.metas(metas, result)
        self.applier.metas(dirs, result)

    # ---- commit ----------------------------------------------------------------------------------------------

    def _advance(
        self, recorder: Recorder, closed: list[Closed], dead: list[Gfid], failures: list[Failure] | None = None
    ) -> None:
        """MRK-6: the secondary's commit, then the ledger, then the mark, then the changelogs are done with."""
        marks = self.worker.primary.marks
        mark = self._mark
        for one in closed:
            if one.complete and not self.worker.adopting:
                mark = max(mark, Mark(one.changelog.suffix - 1, 0))
        real = [c.changelog for c in closed if c.changelog.size]
        moved = mark > marks.stime
        if real or moved:
            answer = self.link.call("commit", {
                "purge": [g.hex() for g in dead if not self.view.index.has(g)],
                "keep_deleted": self.options.keep_deleted,
                "mark": {"sec": mark.sec, "nsec": mark.nsec} if mark != NO_MARK else None,
            })  # fmt: skip
            self.status.secondary_free(answer.get("statfs"))
        if failures:
            self.worker.ledger.add_many(failures)
            self.worker.event("failure added", {"count": len(failures)})
        if moved:
            marks.advance(mark, mark)
            self._mark = mark
            self.status.synced(mark)
        self.worker.primary.journal.done_many(real)
        recorder.done(len(closed))
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)

    def commit_now(self, *, purge_foreign: bool) -> None:
        """A commit between batches."""
        self.link.call("commit", {"purge": [], "purge_foreign": purge_foreign,
                                  "keep_deleted": self.options.keep_deleted, "mark": None})  # fmt: skip

    def recover_limbo(self) -> None:
        """What an earlier connection displaced and did not purge: gone on the primary, or wanted by a later slice."""
        waiting = self.link.call("limbo", {}).get("objects", [])
        recorder = self.worker.recorder()
        if recorder.crawling or not waiting:
            return  # the crawl may find it elsewhere
        dead = [o["gfid"] for o in waiting if o.get("gfid") and not self.view.index.has(bytes.fromhex(o["gfid"]))]
        if dead:
            self.link.call("commit", {"purge": dead, "keep_deleted": self.options.keep_deleted, "mark": None})

    # ---- the ledger ------------------------------------------------------------------------------------------

    def _unreadable(self, recorder: Recorder) -> None:
        """What can't be listed can't be replicated: into the ledger, not into silence (CRW-6)."""
        found = recorder.unreadable()
        if not found:
            return
        now = time.time()
        text = "primary: the directory may not be listed (permission denied)"
        self.worker.ledger.add_many(
            [Failure.of_object(g, self.view.index.path(g) or b"?", "LIST", 13, text, now) for g in found]
        )
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)

    def _failure(self, problem: Problem) -> Failure:
        index = self.view.index
        path = index.path(problem.gfid)
        if path is None:
            path = problem.slot.name if problem.slot is not None else problem.gfid.hex().encode()
        self.worker.log("warning", f"{problem.operation} {os.fsdecode(path)!r}: {problem.text}")
        return Failure.of_object(problem.gfid, path, problem.operation, problem.errno, problem.text, time.time())

    def _ledger(self, recorder: Recorder) -> None:
        """Retry what is due: the secondary is made to match the primary's state of now (ERR-3)."""
        due = self.worker.ledger.due(time.time())
        if not due:
            return
        recorder.rewalk([bytes.fromhex(f.gfid) for f in due if f.operation == "LIST"])
        problems = [Problem(bytes.fromhex(f.gfid), None, "RETRY", f.errno, f.message) for f in due
                    if f.kind in ("object", "rejected-delete")]  # fmt: skip
        result = Result()
        left = {p.gfid: p for p in self.reconciler.settle(problems, result)}
        gone = set(result.gone)
        self.commit_now(purge_foreign=True)
        cleared = [f.id for f in due if f.kind in ("object", "rejected-delete") and bytes.fromhex(f.gfid) not in left
                   and bytes.fromhex(f.gfid) not in gone]  # fmt: skip
        if any(f.kind == "changelog" for f in due) and not recorder.crawling:
            cleared += [f.id for f in due if f.kind == "changelog"]
        again = [self._failure(p) for p in left.values()]
        if again:
            self.worker.ledger.add_many(again)
        if cleared:
            self.worker.ledger.cleared(cleared)
            self.worker.event("failure cleared", {"count": len(cleared)})
        self.worker.ledger.postpone([f.id for f in due if f.id not in cleared and bytes.fromhex(f.gfid or "") not in left])
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip()
