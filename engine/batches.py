"""The loop over batches on one connection: take closed slices, apply, settle what failed, commit, move the mark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.apply import Applier, Result
from engine.applying import Applying
from engine.batch import Plan, plan
from engine.bound import Binding
from engine.failing import Failing
from engine.inspection import Inspection
from engine.ledger import Failure
from engine.link import Link
from engine.model import NO_MARK, EngineError, Gfid
from engine.old_replica import BackgroundComparison, extras_of, problems_of, summary
from engine.problems import Decision
from engine.reading import Reading
from engine.reconcile import Reconciler
from engine.register import end_comparison, why_compared
from engine.transfer.base import Transfer
from engine.transfer.choose import parallel
from engine.transfer.jobs import Parallel
from engine.transfer.stream import Stream
from engine.volume.base import Closed, Feed, View
from engine.weighing import Weighing

if TYPE_CHECKING:
    from engine.worker import Worker

WEIGHED = 256
"""Files in a batch up to which their sizes are summed up beforehand."""

COMPARED_AFTER = 60.0
"""Seconds after which a comparison begins although changes still wait."""


class Batches:
    """The loop over batches on one connection."""

    def __init__(self, worker: Worker, link: Link, view: View) -> None:
        self.worker = worker
        self.link = link
        self.view = view
        self.status = worker.status
        self.options = worker.options()
        self.batch_id = 0
        self._jobs_of: Parallel | None = None
        self.transfer = self._transfer()
        self.applier = self._applier()
        self.reconciler = Reconciler(view, link, self.applier, self.transfer, self._decided, worker.ledger.settling)
        self.failing = Failing(worker, link, view, self.reconciler)
        self._applying = Applying(worker, link, view, self.applier, self.transfer, self.reconciler, self.failing)
        self._weighing = Weighing(worker, link, view)
        self._reading = Reading(worker, self.failing)
        self._mark = worker.primary.marks.stime
        self.binding = Binding(self.status)
        self.inspection = Inspection(link)
        self._repeats = worker.recovering is not None
        """The agent has not said yet that it is through with what a crash left."""
        self._comparison: BackgroundComparison | None = None
        self._compare_from = time.monotonic() + COMPARED_AFTER
        self._leftover = True
        """What earlier connections set aside has not been looked at yet."""

    # told by applier and transfer
    def entries(self, done: int) -> None:
        self.status.entries_done(done)

    def files(self, done: int, nbytes: int) -> None:
        self.status.files_done(done, nbytes)

    def begins(self, gfid: Gfid, path: bytes | None, size: int, *, followed: bool) -> None:
        self.status.file_begins(gfid, os.fsdecode(path) if path else gfid.hex(), size, followed=followed)

    def at(self, gfid: Gfid, nbytes: int) -> None:
        self.status.file_at(gfid, nbytes)

    def ends(self, gfid: Gfid) -> None:
        self.status.file_ends(gfid)

    def throttle(self, nbytes: int) -> None:
        self.worker.bandwidth.take(nbytes)
        if self.worker.stopping.is_set():
            raise EngineError("stopping", code="stopping")

    def _applier(self) -> Applier:
        adopting = self.worker.adopting
        inline = self.options.sync_method == "stream" and not adopting
        return Applier(
            self.view, self.link, self, inline=inline, xattrs=self.options.sync_xattrs, adopting=adopting
        )

    def _transfer(self) -> Transfer:
        """The engine that `sync_method` names."""
        worker, options = self.worker, self.options
        if options.sync_method == "stream":
            return Stream(
                self.view, self.link, self, delta_threshold=options.delta_threshold, xattrs=options.sync_xattrs
            )
        self._jobs_of = parallel(
            worker.options, worker.primary.view, self.link, self, root=os.path.abspath(worker.primary.root),
            state=worker.primary.state, target=self.link.target, log=worker.log, name=worker.seat.primary_text,
        )  # fmt: skip
        return self._jobs_of

    def close(self) -> None:
        """End what runs beside the loop."""
        if self._comparison is not None:
            self._comparison.stop()
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
        self.failing.unsettled()
        while not worker.stopping.is_set():
            worker.wake.clear()
            feed = worker.feed()
            if self.link.broken is not None:
                raise self.link.broken
            worker.forced_crawl()
            if worker.paused:
                self._show_now(feed)
                self.status.paused()
                worker.wake.wait(5)
                continue
            self._show(feed)
            self._close_for_checkpoint(feed)
            self._jobs()
            self._inspect()
            self._compare(feed)
            self.failing.retry(feed, lambda: self.commit_now(purge_foreign=True))
            self.failing.unreadable(feed)
            # asked before: a crawl that ends after this may have closed its last slice after the take
            crawling = feed.crawling
            closed = feed.take(self._most(), self.options.changelog_batch_size)
            if closed:
                if not self._batch(feed, closed):
                    worker.wake.wait(5)
                continue
            if not crawling and not self._at_rest(feed):
                continue
            worker.wake.wait(min(5.0, self.worker.ledger.wait(time.time()), self._checkpoint_wait()))

    def _at_rest(self, feed: Feed) -> bool:
        """Nothing is left to be done, and no crawl finds more: end what waited for that. False: look again."""
        worker = self.worker
        if worker.adopting:
            if not end_comparison(worker, self.link, self):
                worker.wake.wait(5)
                return False
            self.applier = self._applier()
            self.reconciler.applier = self._applying.applier = self.applier
        if worker.recovering is not None:
            # the agent is through with it when a mark passes its start
            if self._mark.sec < worker.recovering:
                worker.stopping.wait(max(0.0, worker.recovering + 2 - time.time()))
                feed.close_now(10)
                return False
            worker.recovering = None
        if self._leftover:
            self._leftover = False
            self.failing.set_aside(self.options.keep_deleted)
        self.failing.recheck(lambda: self.commit_now(purge_foreign=False))
        self._applying.directory_times()
        self._show_doubts()
        worker.guard.idle()
        self._compare_from = 0.0
        if worker.compare_once:
            return True
        if worker.held() is None:
            worker.caught_up = True
            worker.on_idle()
        return True

    def _compare(self, feed: Feed) -> None:
        """Compare a replica that an older version made, beside the batches, once those that waited are done."""
        worker, running = self.worker, self._comparison
        if running is None:
            if worker.compare_once and not feed.crawling and time.monotonic() >= self._compare_from:
                self._comparison = BackgroundComparison(worker, self.link)
                self._comparison.start()
            return
        if not running.finished:
            return
        running.stop()
        self._comparison = None
        found = running.outcome()
        worker.log("warning" if found else "info", summary(found))
        worker.event("compared", {"different": len(found)})
        self.failing.mend(problems_of(found), extras_of(found, time.time()))
        mark = worker.primary.marks.stime
        self.link.call("commit", {"purge": [], "keep_deleted": self.options.keep_deleted, "names": True,
                                  "mark": {"sec": mark.sec, "nsec": mark.nsec}})  # fmt: skip
        worker.ledger.settled()
        worker.compare_once = False
        worker.primary.compared_once()
        self.status.compared()

    def _checkpoint_wait(self) -> float:
        """Seconds until the slice may be closed for a checkpoint: when its second is over; an hour without one."""
        if self.status.by_slice:
            return self.binding.wait()
        point = self.status.checkpoint
        if not self.worker.flush_wanted or point.time is None or point.completed:
            return 3600.0
        return max(0.0, point.time + 1 - time.time())

    def _inspect(self) -> None:
        """Someone may have changed or restored what is on the secondary: then both sides are compared."""
        worker, options = self.worker, self.options
        if worker.primary.kind != "tree" or worker.adopting or worker.recovering is not None:
            return
        if differs := self.inspection.step(options.scrub_interval, options.scrub_rate):
            worker.compare(f"the secondary was changed by someone else: {differs}", ask=True)

    def _close_for_checkpoint(self, feed: Feed) -> None:
        """A mark reaches a checkpoint with a slice that ended after it: close it early on an idle brick (MRK-8)."""
        if self.status.by_slice:
            self.binding.ask(feed)
            return
        if self._checkpoint_wait() == 0.0:
            self.worker.flush_wanted = False
            feed.close_now(10)

    def _jobs(self) -> None:
        """Do what other threads asked for."""
        for box in self.worker.take_jobs():
            try:
                box.run(self)
            except EngineError as e:
                box.error = e
                raise
            finally:
                box.done.set()

    def _most(self) -> int:
        return max(1, min(self.options.max_history_changelogs_in_batch, self.options.max_data_changelogs_in_batch))

    def _show_doubts(self) -> None:
        """What keeps the secondary from being certain, though nothing may wait."""
        worker = self.worker
        self.status.recovering(worker.recovering is not None or self._repeats or worker.primary.unchecked)

    def _show_now(self, feed: Feed) -> None:
        """What waits, and how; before a state in which that is believed."""
        self._show_doubts()
        crawl = feed.crawl_now()  # first: what a crawl that ends now has closed is in the backlog then
        if self.worker.adopting:
            seen = self._applying.compared = crawl.seen or self._applying.compared
            self.status.comparing(seen, crawl.total, why_compared(self.worker))
        self.status.backlog(*feed.backlog())
        if not self.worker.primary.copied:
            self.status.found(*feed.found())
        while feed.crawls_done:
            self.status.crawled(*feed.crawls_done.popleft())
        self.status.crawl(*crawl)

    def _show(self, feed: Feed) -> None:
        self._show_now(feed)
        if self.worker.unmended and feed.take(1, 1):
            return  # Faulty until a batch has gone through
        self.worker.unmended = False
        self.status.active()

    # ---- one batch -------------------------------------------------------------------------------------------

    def _batch(self, feed: Feed, closed: list[Closed]) -> bool:
        """Apply these slices; False when they are held."""
        worker, marks = self.worker, self.worker.primary.marks
        self.options = worker.options()
        real = [c for c in closed if c.changelog.size]
        if not real:
            self._advance(feed, closed, [])
            return True
        worker.caught_up = False
        sources, broken = self._reading.read(real)
        todo = plan(sources, marks.entry_stime if not feed.crawling else NO_MARK,
                    ignore_deletes=self.options.ignore_deletes, sync_xattrs=self.options.sync_xattrs)  # fmt: skip
        dead = self.view.dead(todo.removed)
        result = Result(problems=worker.primary.tidy(todo, dead))
        failures = list(broken)
        worker.guard.made(todo.made, time.time())
        lost = worker.guard.lost(dead, todo.fresh)
        weighed = worker.guard.weighed(lost, todo.fresh)
        if not self._weighing.passes(self.options, todo, dead, weighed, failures):
            return False
        self.batch_id += 1
        self.status.batch_begin(
            self.batch_id, changelogs=len(real), entries=len(todo.entries), files=len(todo.data), metas=len(todo.meta),
            nbytes=self._bytes(todo), kinds=todo.kinds(),
        )  # fmt: skip
        started = time.monotonic()
        noted = self._intend(real[-1])
        self._applying.apply(feed, todo, dead, result, self.options.max_rsync_retries)
        noted()
        failures += self.failing.of(result.problems)
        self.status.batch_phase("commit")
        self._advance(feed, closed, dead, failures)
        if dead:  # not rejected
            worker.guard.passed(time.time(), lost, len(weighed))
        worker.unmended = False
        self.status.batch_end(time.monotonic() - started, len(failures))
        seconds = round(time.monotonic() - started, 3)
        done = {"id": self.batch_id, "entries": len(todo.entries), "files": result.files, "bytes": result.bytes}
        worker.event("batch done", {**done, "seconds": seconds})
        return True

    def _bytes(self, todo: Plan) -> int | None:
        """Bytes of content to send, by the index; None where that would be a long look."""
        if len(todo.data) > WEIGHED:
            return None
        rows = (self.view.index.row(gfid) for gfid in todo.data)
        return sum(row.size or 0 for row in rows if row is not None and row.kind == 0o100000)

    def _intend(self, last: Closed) -> Callable[[], None]:
        """Have the agent note, before the first frame, where this batch leads; what comes back waits for that."""
        if self.worker.primary.kind != "tree":
            return lambda: None
        later = self.link.call_later("intend", {"at": self.worker.primary.place(last.changelog) or None})

        def wait() -> None:
            later(None)

        return wait

    # ---- commit ----------------------------------------------------------------------------------------------

    def _advance(
        self, feed: Feed, closed: list[Closed], dead: list[Gfid], failures: list[Failure] | None = None
    ) -> None:
        """MRK-6: the secondary's commit, then the ledger, then the mark, then the changelogs are done with."""
        marks = self.worker.primary.marks
        mark = self._mark
        for one in closed:
            if one.complete and not self.worker.adopting:
                mark = max(mark, one.mark)
        real = [c.changelog for c in closed if c.changelog.size]
        moved = mark > marks.stime
        at = (self.worker.primary.place(real[-1]) if real else "") or marks.at
        if real or moved:
            answer = self.link.call("commit", {
                "purge": [g.hex() for g in dead if not self.view.index.has(g)],
                "keep_deleted": self.options.keep_deleted,
                "mark": {"sec": mark.sec, "nsec": mark.nsec} if mark != NO_MARK else None,
                "at": at or None, "epoch": marks.epoch,
            })  # fmt: skip
            self.status.secondary_free(answer.get("statfs"))
            self._repeats = bool(answer.get("recovering")) and self._repeats
        self.failing.note(failures or [])
        self.worker.ledger.settled()
        if moved:
            marks.advance(mark, mark, at)
            self._mark = mark
            self.status.synced(mark)
        else:
            marks.advance(at=at)
        self.worker.primary.done(real)
        # failures first: nothing may look done that is neither there nor in the ledger
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)
        if not self.worker.adopting:
            self.status.proven(max((c.at for c in closed if c.complete), default=0.0))
        feed.done(len(closed))
        if self.status.by_slice and not self.worker.adopting:
            self.binding.done(closed)

    def commit_now(self, *, purge_foreign: bool) -> None:
        """A commit between batches."""
        self.link.call("commit", {"purge": [], "purge_foreign": purge_foreign,
                                  "keep_deleted": self.options.keep_deleted, "mark": None})  # fmt: skip
