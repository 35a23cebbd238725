"""The loop over batches on one connection: take closed slices, apply, settle what failed, commit, move the mark."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from engine.apply import Applier, Problem, Result
from engine.batch import REMOVES, Plan, Source, plan
from engine.guard import Hold, hold_id
from engine.journal.format import JournalError
from engine.ledger import Failure
from engine.link import Link
from engine.model import NO_MARK, EngineError, Gfid, Mark
from engine.reconcile import Decision, Reconciler
from engine.sides import primary_state, secondary_states
from engine.transfer.base import Transfer
from engine.transfer.choose import parallel
from engine.transfer.jobs import Parallel
from engine.transfer.stream import Stream
from engine.verify import differing
from engine.volume.base import Closed, Feed, View

if TYPE_CHECKING:
    from engine.worker import Worker

WEIGHED = 256
"""Files in a batch up to which their sizes are summed up beforehand."""

RECENT = 20_000
"""Directories remembered for putting their times right when the brick is idle."""


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
        self.reconciler = Reconciler(view, link, self.applier, self.transfer, self._decided)
        self._recent: dict[Gfid, None] = {}
        """Directories touched since the brick was last idle: their times are put right once more then."""
        self._twice: dict[Gfid, None] = {}
        """Those whose times were put right at the last rest."""
        self._mark = worker.primary.marks.stime

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
        inline = self.options.sync_method == "stream" and not self.worker.adopting
        return Applier(self.view, self.link, self, inline=inline, xattrs=self.options.sync_xattrs)

    def _transfer(self) -> Transfer:
        """The engine that `sync_method` names."""
        worker, options = self.worker, self.options
        if options.sync_method == "stream":
            return Stream(
                self.view, self.link, self, delta_threshold=options.delta_threshold, xattrs=options.sync_xattrs
            )
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
            feed = worker.feed()
            if self.link.broken is not None:
                raise self.link.broken
            worker.forced_crawl()
            if worker.paused:
                self._show_backlog(feed)
                self.status.paused()
                worker.wake.wait(5)
                continue
            self._show(feed)
            self._close_for_checkpoint(feed)
            self._jobs()
            self._ledger(feed)
            self._unreadable(feed)
            closed = feed.take(self._most(), self.options.changelog_batch_size)
            if closed:
                if not self._batch(feed, closed):
                    worker.wake.wait(5)
                continue
            if worker.adopting and not feed.crawling:
                if not worker.adopted(self.link, self):
                    worker.wake.wait(5)
                    continue
                self.applier = self._applier()
                self.reconciler.applier = self.applier
            if worker.recovering is not None and not feed.crawling:
                # the agent is through with it when a mark passes its start
                if self._mark.sec >= worker.recovering:
                    worker.recovering = None
                else:
                    worker.stopping.wait(max(0.0, worker.recovering + 2 - time.time()))
                    feed.close_now(10)
                    continue
            self._directory_times()
            if not feed.crawling and worker.held() is None:
                worker.caught_up = True
                worker.on_idle()
            worker.wake.wait(min(5.0, self.worker.ledger.wait(time.time()), self._checkpoint_wait()))

    def _checkpoint_wait(self) -> float:
        """Seconds until the slice may be closed for a checkpoint: when its second is over; an hour without one."""
        point = self.status.checkpoint
        if not self.worker.flush_wanted or point.time is None or point.completed:
            return 3600.0
        return max(0.0, point.time + 1 - time.time())

    def _close_for_checkpoint(self, feed: Feed) -> None:
        """A mark reaches a checkpoint with a slice that ended after it: close it early on an idle brick (MRK-8)."""
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

    def _directory_times(self) -> None:
        """Idle: directories have the primary's times, also where a name came and went without a trace."""
        if self._recent or self._twice:
            # once more at the next rest: a directory may have been on the move, or changed as it was looked at
            recent, self._recent, self._twice = self._recent | self._twice, {}, self._recent
            self.applier.metas([g for g in recent if self.view.index.has(g)], Result())

    def _show_backlog(self, feed: Feed) -> None:
        count, nbytes, since = feed.backlog()
        self.status.backlog(count, nbytes, since)

    def _show(self, feed: Feed) -> None:
        self._show_backlog(feed)
        while feed.crawls_done:
            self.status.crawled(*feed.crawls_done.popleft())
        self.status.crawl(*feed.crawl_now())
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
        sources, broken = self._read(real)
        todo = plan(sources, marks.entry_stime if not feed.crawling else NO_MARK,
                    ignore_deletes=self.options.ignore_deletes, sync_xattrs=self.options.sync_xattrs)  # fmt: skip
        dead = self.view.dead(todo.removed)
        result = Result(problems=worker.primary.tidy(todo, dead))
        failures = list(broken)
        if not self._guard(todo, dead, failures):
            return False
        self.batch_id += 1
        self.status.batch_begin(
            self.batch_id, changelogs=len(real), entries=len(todo.entries), files=len(todo.data), metas=len(todo.meta),
            nbytes=self._bytes(todo), kinds=todo.kinds(),
        )  # fmt: skip
        started = time.monotonic()
        self._apply(feed, todo, result)
        failures += self._failures(result.problems)
        self.status.batch_phase("commit")
        self._advance(feed, closed, dead, failures)
        worker.guard.passed(time.time(), len([g for g in worker.guard.weighed(dead) if g not in todo.fresh]))
        worker.unmended = False
        worker.guard.found(len(todo.fresh.difference(todo.made)))
        worker.objects += len(todo.fresh) - len(dead)
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

    def _read(self, closed: list[Closed]) -> tuple[list[Source], list[Failure]]:
        """The slices' records; one that can't be read goes whole into the ledger, with its offset."""
        sources: list[Source] = []
        broken: list[Failure] = []
        for one in closed:
            if one.records is not None:
                sources.append(Source(one.changelog, one.records))
                continue
            try:
                decoded = self.worker.primary.read(one.changelog)
            except JournalError as e:
                if e.code == "changelog-missing":
                    self.worker.feed().crawl(e.text)
                    continue
                broken.append(Failure.of_changelog(one.changelog.path, f"{e.text} (offset {e.offset})", time.time()))
                self.worker.feed().crawl(f"{os.fsdecode(one.changelog.path)} cannot be read")
                continue
            if decoded.torn is not None:
                broken.append(Failure.of_changelog(one.changelog.path, f"torn at offset {decoded.torn.offset}: {decoded.torn.reason}", time.time()))
                self.worker.feed().crawl(f"{os.fsdecode(one.changelog.path)} is torn")
            sources.append(Source(one.changelog, list(decoded.records)))
        return sources, broken

    def _guard(self, todo: Plan, dead: list[Gfid], failures: list[Failure]) -> bool:
        """May these deletes pass? Rejected ones leave the plan and are kept in the ledger (SAFE-1)."""
        worker, now = self.worker, time.time()
        worker.guard.share = self.options.delete_guard_share
        worker.guard.window = self.options.delete_guard_window
        worker.guard.minimum = self.options.delete_guard_minimum
        worker.guard.made(todo.made, now)
        weighed = [g for g in worker.guard.weighed(dead) if g not in todo.fresh]
        if not worker.guard.exceeded(now, len(weighed), worker.objects):
            return True
        names = tuple(os.fsdecode(todo.removed[g].name) for g in weighed[:10])
        base = worker.guard.base
        reason = f"{worker.guard.counted() + len(weighed)} of {base} objects would be deleted"
        hold = Hold(hold_id(weighed), reason, len(weighed), base, names, now)
        if worker.permitted(hold):
            return True
        who = worker.rejected(hold)
        if who is None:
            return False
        self._keep(todo, dead, who, failures)
        dead.clear()
        return True

    def _keep(self, todo: Plan, dead: list[Gfid], who: str, failures: list[Failure]) -> None:
        """Leave rejected deletes out of the plan, and what would take their names; both are in the ledger then."""
        now = time.time()
        gone = set(dead)
        taken = {todo.removed[g] for g in dead}
        in_the_way = {e.gfid: e.dest or e.slot for e in todo.entries
                      if e.gfid not in gone and e.fop not in REMOVES and (e.dest or e.slot) in taken}  # fmt: skip
        failures += [Failure.rejected_delete(g, todo.removed[g].name, who, now) for g in dead]
        failures += [Failure.rejected_replacement(g, slot.name, who, now) for g, slot in in_the_way.items()]
        left_out = gone | in_the_way.keys()
        todo.entries = [e for e in todo.entries if e.gfid not in left_out]
        for gfid in left_out:
            todo.data.pop(gfid, None)
            todo.meta.pop(gfid, None)
            todo.check.pop(gfid, None)
            todo.fresh.discard(gfid)

    def _apply(self, feed: Feed, todo: Plan, result: Result) -> None:
        """Entries, then content, then attributes; what fails is settled with the primary's state of now."""
        self.link.rest = feed.turn.rest
        with feed.turn.batch():
            self.status.batch_phase("entry")
            self.applier.entries(todo, result)
            self.status.batch_phase("data")
            self._content(todo, result)
            self.status.batch_phase("meta")
            self._attributes(todo, result)
        failed: set[Gfid] = set()
        """Objects of which something failed: should they vanish, the secondary may have them where no record says."""
        for _ in range(self.options.max_rsync_retries):
            failed.update(p.gfid for p in result.problems)
            failed.update(p.found for p in result.problems if p.found)
            if not result.problems and not result.gone:
                return
            if result.gone:
                # not where the index had them: the next slice knows where they are
                feed.close_now(30)
            # what else is in the index no more has vanished: its removal is on its way (SYN-6)
            moved = [g for g in dict.fromkeys(result.gone) if g in failed or self.view.index.has(g)]
            again = [Problem(g, None, "DATA", 0, "moved") for g in moved]
            problems, result.problems, result.gone = result.problems + again, [], []
            self._foreign(problems)
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

    def _foreign(self, problems: list[Problem]) -> None:
        """On a secondary that is not ours yet, something else is in the way: hold until a person allows it (SAFE-1)."""
        foreign = [p for p in problems if p.text.startswith("foreign")]
        if not foreign or not self.worker.adopting:
            return
        sample = tuple(os.fsdecode(p.slot.name) if p.slot else p.gfid.hex() for p in foreign[:10])
        hold = Hold(hold_id([p.gfid for p in foreign]), f"{len(foreign)} objects on the secondary differ and would be "
                    "replaced (--adopt allows it)", len(foreign), self.worker.objects + len(foreign), sample, time.time())  # fmt: skip
        while not self.worker.permitted(hold):
            if self.worker.stopping.is_set():
                raise EngineError("stopping", code="stopping")
            if self.link.broken is not None:
                raise self.link.broken
            self.worker.wake.clear()
            self.worker.wake.wait(5)
        marks = self.worker.primary.marks
        marks.identify({**marks.identity, "replace": "yes"})
        self.link.call("adopt_begin", {"replace": True, "adopt": self.options.adopt, "clear": False})

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
        if len(self._recent) < RECENT:
            self._recent.update(dirs)

    # ---- commit ----------------------------------------------------------------------------------------------

    def _advance(
        self, feed: Feed, closed: list[Closed], dead: list[Gfid], failures: list[Failure] | None = None
    ) -> None:
        """MRK-6: the secondary's commit, then the ledger, then the mark, then the changelogs are done with."""
        marks = self.worker.primary.marks
        mark = self._mark
        for one in closed:
            if one.complete and not self.worker.adopting:
                mark = max(mark, Mark(min(one.changelog.suffix - 1, int(one.at)), 0))
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
        self.worker.primary.done(real)
        feed.done(len(closed))
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)

    def commit_now(self, *, purge_foreign: bool) -> None:
        """A commit between batches."""
        self.link.call("commit", {"purge": [], "purge_foreign": purge_foreign,
                                  "keep_deleted": self.options.keep_deleted, "mark": None})  # fmt: skip

    def recover_limbo(self) -> None:
        """What an earlier connection displaced and did not purge: gone on the primary, or wanted by a later slice."""
        waiting = self.link.call("limbo", {}).get("objects", [])
        feed = self.worker.feed()
        if feed.crawling or not waiting:
            return  # the crawl may find it elsewhere
        kept = self.worker.ledger.rejected()
        dead = [o["gfid"] for o in waiting
                if o.get("gfid") and o["gfid"] not in kept and not self.view.index.has(bytes.fromhex(o["gfid"]))]  # fmt: skip
        if dead:
            self.link.call("commit", {"purge": dead, "keep_deleted": self.options.keep_deleted, "mark": None})

    # ---- the ledger ------------------------------------------------------------------------------------------

    def _unreadable(self, feed: Feed) -> None:
        """What can't be listed can't be replicated: into the ledger, not into silence (CRW-6)."""
        found = feed.unreadable()
        if not found:
            return
        now = time.time()
        text = "primary: the directory may not be listed (permission denied)"
        there = secondary_states(self.link, list(found))
        self.worker.ledger.add_many([
            Failure.of_object(g, self.view.index.path(g) or b"?", "LIST", 13, text, now,
                              primary_state(self.view, g), there.get(g, "")) for g in found
        ])  # fmt: skip
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)

    def _failures(self, problems: list[Problem]) -> list[Failure]:
        """Problems as entries of the ledger, with what both sides have of each object now."""
        if not problems:
            return []
        there = secondary_states(self.link, list(dict.fromkeys(p.gfid for p in problems)))
        return [self._failure(p, there.get(p.gfid, "")) for p in problems]

    def _failure(self, problem: Problem, there: str) -> Failure:
        index = self.view.index
        path = index.path(problem.gfid)
        if path is None:
            path = problem.slot.name if problem.slot is not None else problem.gfid.hex().encode()
        self.worker.log("warning", f"{problem.operation} {os.fsdecode(path)!r}: {problem.text}")
        here = primary_state(self.view, problem.gfid)
        return Failure.of_object(
            problem.gfid, path, problem.operation, problem.errno, problem.text, time.time(), here, there
        )

    def _ledger(self, feed: Feed) -> None:
        """Retry what is due: the secondary is made to match the primary's state of now (ERR-3)."""
        due = self.worker.ledger.due(time.time())
        if not due:
            return
        feed.rewalk([bytes.fromhex(f.gfid) for f in due if f.operation == "LIST"])
        problems = [Problem(bytes.fromhex(f.gfid), None, "RETRY", f.errno, f.message) for f in due
                    if f.kind in ("object", "rejected-delete")]  # fmt: skip
        result = Result()
        left = {p.gfid: p for p in self.reconciler.settle(problems, result)}
        gone = set(result.gone)
        self.commit_now(purge_foreign=True)
        cleared = [f.id for f in due if f.kind in ("object", "rejected-delete") and bytes.fromhex(f.gfid) not in left
                   and bytes.fromhex(f.gfid) not in gone]  # fmt: skip
        if any(f.kind == "changelog" for f in due) and not feed.crawling:
            cleared += [f.id for f in due if f.kind == "changelog"]
        again = self._failures(list(left.values()))
        if again:
            self.worker.ledger.add_many(again)
        if cleared:
            self.worker.ledger.cleared(cleared)
            self.worker.event("failure cleared", {"count": len(cleared)})
        untried = [f.id for f in due if f.id not in cleared and bytes.fromhex(f.gfid or "") not in left]
        self.worker.ledger.postpone(untried)
        self.status.failures(self.worker.ledger.size, self.worker.ledger.oldest)
