"""The worker of one brick, from register to live: takes closed slices, has them applied, moves the marks."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from engine import backoff
from engine.apply import BRICK_ERRNOS, BRICK_HINTS
from engine.batches import Batches
from engine.dryrun import dry_run
from engine.gate import REMOVE, REPLACE, Gate
from engine.guard import DeleteGuard, Hold
from engine.ledger import Ledger
from engine.link import Link, SshTarget, connect
from engine.model import NO_MARK, EngineError, Mark
from engine.nodes import Nodes, Stay
from engine.options import Options
from engine.problems import Decision
from engine.register import register_volume
from engine.status import BrickStatus
from engine.transfer.limit import Bandwidth
from engine.volume.base import Feed, Primary, View

FATAL = frozenset((
    "host-key-changed", "host-key-unknown", "ssh-denied", "ssh-resolve", "no-python", "python-old", "other-session",
    "other-protocol", "other-filesystem", "non-root", "volume-unknown", "volume-stopped", "no-gluster", "no-glusterd",
    "no-fuse", "gluster-version", "volume-readonly", "secondary-changed", "missing", "primary-unreachable", "primary-changed", "state-damaged",
    "fanotify", "locked",
))  # fmt: skip
"""Faults that, at the very first try of a run, are for the person who started it, not for patience."""


class Restart(EngineError):
    """The options were changed, or the node of the secondary: the worker begins anew."""

    def __init__(self) -> None:
        super().__init__("the worker begins anew", code="restart")


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
    volume: dict[str, str] | None = None
    """The secondary volume as the agent takes it: host, name, params. Then `root` and `root_name` are empty."""

    @property
    def replaces(self) -> bool:
        """Does a RENAME replace what has its new name there, at once (SEC-12: a volume, and one subvolume here)?"""
        return self.volume is not None and self.volume["subvolumes"] == "1"


class Job:
    """Something another thread wants done between two batches."""

    def __init__(self, run: Callable[[Batches], None]) -> None:
        self.run = run
        self.done = threading.Event()
        self.error: EngineError | None = None


class Worker:
    """Replicates one brick in a thread of its own until stopped; a fault is shown and retried (ERR-4).

    `nodes` has the node that its agent runs on, with those of the other workers.
    `options` gives the configuration of now; `log(level, text)` and `event(name, fields)` publish. `on_idle` is called
    when all that is recorded is on the secondary.
    """

    def __init__(
        self,
        seat: Seat,
        primary: Primary,
        nodes: Nodes,
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
        self.nodes = nodes
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
        self.guard = DeleteGuard(first.delete_guard_share, first.delete_guard_window, first.delete_guard_minimum,
                                 born=primary.born)  # fmt: skip
        self.stopping = threading.Event()
        self.wake = threading.Event()
        self.paused = False
        self.link: Link | None = None
        self.caught_up = False
        self._lock = threading.Lock()
        self.gate = Gate(primary.state, status.held, self._told)
        self.consents = "--adopt" if seat.adopt else ""
        """Who has agreed beforehand to what the first comparison of this start lists."""
        self._adopting = False
        self.adopting_anew = False
        """The comparison begins with this connection: everything comes by the crawl."""
        self.unmended = False
        """The last fault was of the secondary's whole brick (full, read-only): it is over when a batch goes through."""
        self._recorder_error: EngineError | None = None
        self._forced: str | None = None
        self._target: SshTarget | None = None
        self.flush_wanted = False
        self.compare_once = False
        """An older version made the replica: both sides are compared, once."""
        self.decisions: list[Decision] = []
        self.dry: dict[str, Any] | None = None
        """What a dry run found."""
        self._jobs: list[Job] = []
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

    def restart(self, target: SshTarget) -> None:
        """Options that are not live were changed: when the batch is done, line and recorder begin anew with them."""
        with self._lock:
            self._target = target
        self.wake.set()

    def flush(self) -> None:
        """Close the running slice soon, so that a checkpoint of now can complete on an idle brick (MRK-8)."""
        self.flush_wanted = True
        self.wake.set()

    def held(self) -> Hold | None:
        """What waits for a person first."""
        return self.gate.held()

    def answer(self, hold: str, approve: bool, who: str) -> None:
        """Approve or reject a list by its id. Raises EngineError when the id is not (or no longer) held."""
        self.gate.answer(hold, approve, who)
        self.wake.set()

    def _told(self, hold: Hold) -> None:
        self.event("held", {"id": hold.id, "reason": hold.reason, "deletes": hold.deletes})
        self.log("warning", f"held: {hold.reason} (id {hold.id})")

    def await_answer(self, link: Link) -> None:
        """Wait a while for a person. Raises EngineError when the worker stops or the line breaks."""
        self.on_idle()
        if self.stopping.is_set():
            raise EngineError("stopping", code="stopping")
        if link.broken is not None:
            raise link.broken
        self.wake.clear()
        self.wake.wait(5)

    def do(self, job: Callable[[Batches], None], timeout: float) -> None:
        """Have a job done by the worker between two batches. Raises EngineError: the job's, or that it takes too long."""
        box = Job(job)
        with self._lock:
            self._jobs.append(box)
        self.wake.set()
        if not box.done.wait(timeout):
            raise EngineError("the brick is busy", code="busy", hint="try again later")
        if box.error is not None:
            raise box.error

    def take_jobs(self) -> list[Job]:
        """The jobs that wait, for the one who does them."""
        with self._lock:
            jobs, self._jobs = self._jobs, []
        return jobs

    def settle(self, timeout: float) -> bool:
        """Wait until the changes so far are on the secondary; False when that took longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        feed = self.feed()
        feed.close_now(timeout)
        while time.monotonic() < deadline and not self.stopping.is_set():
            if feed.backlog()[0] == 0:
                return True
            self.stopping.wait(0.05)
        return False

    def repair(self, job: Callable[[Batches], None]) -> None:
        """Have a repair done and committed between two batches (SAFE-3)."""

        def committed(batches: Batches) -> None:
            job(batches)
            batches.commit_now(purge_foreign=True)
            self.ledger.settled()

        self.do(committed, 600)

    # ---- life ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        attempt = 0
        try:
            while not self.stopping.is_set():
                began = time.monotonic()
                self._take_options()
                try:
                    self._live()
                    return
                except Restart:
                    continue
                except EngineError as e:
                    if self.stopping.is_set():
                        return
                    error = e
                except OSError as e:
                    error = EngineError(f"{e.strerror}: {os.fsdecode(e.filename or b'')}", code="os", errno=e.errno)
                except Exception as e:  # noqa: BLE001 - a worker's last word: shown as the cause of Faulty
                    error = EngineError(f"internal error: {type(e).__name__}: {e}", code="internal")
                    self.log("error", _trace(e))
                error.hint = error.hint or BRICK_HINTS.get(error.errno or 0, "")
                self.unmended = error.errno in BRICK_ERRNOS
                if not self.ever_connected and error.code in FATAL:
                    self.status.faulty(error, attempt=1, retry_at=time.time())
                    self.on_fatal(error)
                    return
                self.ever_connected = True
                if time.monotonic() - began > backoff.STEADY:
                    attempt = 0
                wait = backoff.pause(attempt) * random.uniform(0.8, 1.2)
                attempt += 1
                self.status.faulty(error, attempt=attempt, retry_at=time.time() + wait)
                self.event("faulty", {"code": error.code, "text": error.text, "hint": error.hint})
                self.log("error", f"{error.text}{' — ' + error.hint if error.hint else ''}")
                self.stopping.wait(wait)
        finally:
            self.primary.stop()
            self.status.stopped()

    def _take_options(self) -> None:
        """Before a new connection: what `restart` asked for."""
        with self._lock:
            target, self._target = self._target, None
        if target is not None:
            self.seat = replace(self.seat, target=target)
            self.primary.stop()

    def _live(self) -> None:
        """One connection's life."""
        options = self.options()
        if not self.unmended:
            self.status.initializing()
        self._check_recorder()
        if not self.primary.stranger and not self._await_turn():
            return
        with self.nodes.stay(self.stopping) as stay:
            try:
                self._replicate(stay, options)
            except Restart:
                raise
            except EngineError as e:
                told = self.nodes.ended(stay, e)
                if told is e:
                    raise
                raise told or Restart() from e

    def _replicate(self, stay: Stay, options: Options) -> None:
        """The same on one node."""
        link, hello = connect(
            replace(self.seat.target, host=stay.host), self.seat.root, options.secondary_timeout or 120,
            {"root_name": self.seat.root_name, "session": self.seat.session, "brick": self.seat.brick,
             "primary": self.seat.primary_text, "node": self.seat.node, "volume": self.seat.volume},
        )  # fmt: skip
        self.link = link
        view: View | None = None
        try:
            self.nodes.connected(stay, link)
            if self.seat.dry_run:
                self._dry_run(link, hello)
                return
            self.primary.paired(hello, link)
            self.nodes.learn(stay, hello)
            if not self.primary.elected():
                raise Restart()
            self._register(link, hello)
            self.nodes.settled(stay)
            self.ever_connected = True
            view = self.primary.view()
            batch = Batches(self, link, view)
            try:
                batch.run()
            finally:
                batch.close()
        finally:
            self.link = None
            link.close()
            if not self.primary.lasting:
                self.primary.stop()
            if view is not None:
                view.end()

    def _await_turn(self) -> bool:
        """Passive until this brick is the one of its replica set; False when stopped meanwhile (ACT-1, ACT-2)."""
        while not self.primary.elected():
            self.primary.stand_by()
            self.status.passive()
            for box in self.take_jobs():
                box.error = EngineError(f"{self.primary.path} is passive", code="passive")
                box.done.set()
            self.caught_up = True
            self.on_idle()
            if self.stopping.wait(self.options().replica_failover_interval):
                return False
        return True

    def _dry_run(self, link: Link, hello: dict[str, Any]) -> None:
        """Say what a start would do, changing nothing on either side (SAFE-2)."""
        self.dry = dry_run(self, link, hello, self._check_owner(hello) if self.seat.volume is None else True)
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

    def feed_failed(self, error: EngineError) -> None:
        self._recorder_error = error
        self.wake.set()

    def feed(self) -> Feed:
        """The running feed. Raises what ended it, or Restart."""
        if self._target is not None:
            raise Restart()
        self._check_recorder()
        if not self.primary.elected():
            raise Restart()
        assert self.primary.feed is not None
        return self.primary.feed

    # ---- register --------------------------------------------------------------------------------------------

    def _register(self, link: Link, hello: dict[str, Any]) -> None:
        """Agree with the secondary on whose it is, and start recording with the crawl that this calls for."""
        if self.seat.volume is not None:
            register_volume(self, link, hello)
            return
        seat, marks = self.seat, self.primary.marks
        options = self.options()
        ours = self._check_owner(hello)
        fresh, empty = bool(hello.get("fresh")), bool(hello.get("empty"))
        clear = False
        self._adopting = "adopting" in marks.identity
        if not ours and not (fresh and empty):
            clear = self._adopting = True
            self.log("info", f"{link.where} is not empty: adopting what is equal")
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
            elif self.primary.feed is None and self.primary.index_lost():
                clear = self._adopting = True
        elif not (fresh and empty) or marks.stime != NO_MARK:
            clear = True
        if not ours and fresh and empty and marks.stime != NO_MARK:
            self.log("warning", f"{link.where} is empty though it was replicated to before: everything is sent again")
        if clear:
            marks.reset()
            if self._adopting:
                marks.identify({**marks.identity, "adopting": "yes"})
                self.gate.used(REPLACE, REMOVE)  # what was approved for an earlier one
        if self._adopting:
            self.adopting_anew = clear
            link.call("adopt_begin", {"adopt": options.adopt, "clear": clear, "keep": options.keep_unproven > 0})
        self.recovering = time.time() if begun.get("recovering") else None
        self.status.connected(secondary_node=str(hello.get("node") or link.target.host or seat.node))
        self.status.secondary_free(hello.get("statfs"))
        feed = self.primary.feed
        if feed is None:
            self.primary.start(
                self.options, adopt=seat.adopt, clear=clear, on_closed=self.wake.set, on_error=self.feed_failed,
            )  # fmt: skip
        elif clear:
            feed.crawl("the secondary is compared anew", clear=True)

    def adopted(self) -> None:
        """Both sides are one now: live as usual. What was approved for it allows nothing more."""
        self._adopting = self.adopting_anew = False
        marks = self.primary.marks
        marks.identify({k: v for k, v in marks.identity.items() if k not in ("adopting", "replace")})
        self.gate.used(REPLACE, REMOVE)
        self.gate.withdraw(REPLACE, REMOVE)

    def readopt(self) -> None:
        """Compare both sides anew and ask again, with the next connection."""
        marks = self.primary.marks
        marks.identify({**marks.identity, "adopting": "yes"})
        raise Restart()

    def forced_crawl(self) -> None:
        with self._lock:
            reason, self._forced = self._forced, None
        if reason is not None:
            self.feed().crawl(reason)

    @property
    def adopting(self) -> bool:
        """Is the secondary being compared with the primary for the first time, or anew?"""
        return self._adopting


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip()
