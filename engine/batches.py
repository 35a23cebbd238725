"""The loop over batches on one connection: take closed slices, apply, settle what failed, commit, move the mark."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from engine.apply import Applier, Problem, Result
from engine.batch import REMOVES, Plan, Source, plan
from engine.brickplan import changed_since
from engine.failing import Failing
from engine.guard import Hold, hold_id
from engine.journal.format import JournalError
from engine.ledger import Failure
from engine.link import Link
from engine.model import LIMBO, NO_MARK, EngineError, Gfid
from engine.old_replica import WHY, BackgroundComparison, extras_of, problems_of, summary
from engine.problems import Decision
from engine.reconcile import Reconciler
from engine.sides import looked_up, primary_state, secondary_states
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

ASKED = 5_000
"""Gfids in one question to the agent."""

COMPARED_AFTER = 60.0
"""Seconds after which a comparison begins although changes still wait."""

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
        self.reconciler = Reconciler(view, link, self.applier, self.transfer, self._decided, worker.ledger.settling)
        self.failing = Failing(worker, link, view, self.reconciler)
        self._recent: dict[Gfid, None] = {}
        """Directories touched since the brick was last idle: their times are put right once more then."""
        self._mark = worker.primary.marks.stime
        self._asked = ""
        """The id of the deletes of which the secondary was asked whether it has them, and those it has."""
        self._found: set[Gfid] = set()
        self._comparison: BackgroundComparison | None = None
        self._compare_from = time.monotonic() + COMPARED_AFTER
        if worker.compare_once:
            self.status.comparing(0, None, WHY)
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
                self._show_backlog(feed)
                self.status.paused()
                worker.wake.wait(5)
                continue
            self._show(feed)
            self._close_for_checkpoint(feed)
            self._jobs()
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
            if not worker.adopted(self.link, self):
                worker.wake.wait(5)
                return False
            self.applier = self._applier()
            self.reconciler.applier = self.applier
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
        self._directory_times()
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
        self.status.compared()

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
        if self._recent:
            recent, self._recent = self._recent, {}
            result = Result()
            self.applier.metas([g for g in recent if self.view.index.has(g)], result)
            self.failing.note(self.failing.of(result.problems))

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
        worker.guard.made(todo.made, time.time())
        lost = worker.guard.lost(dead, todo.fresh)
        weighed = worker.guard.weighed(lost, todo.fresh)
        if not self._guard(todo, dead, weighed, failures):
            return False
        self.batch_id += 1
        self.status.batch_begin(
            self.batch_id, changelogs=len(real), entries=len(todo.entries), files=len(todo.data), metas=len(todo.meta),
            nbytes=self._bytes(todo), kinds=todo.kinds(),
        )  # fmt: skip
        started = time.monotonic()
        self._apply(feed, todo, dead, result)
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

    def _guard(self, todo: Plan, dead: list[Gfid], weighed: list[Gfid], failures: list[Failure]) -> bool:
        """May the deletes that count pass? Rejected, all leave the plan and are kept in the ledger (SAFE-1)."""
        worker, now = self.worker, time.time()
        worker.guard.share = self.options.delete_guard_share
        worker.guard.window = self.options.delete_guard_window
        worker.guard.minimum = self.options.delete_guard_minimum
        if not worker.guard.exceeded(now, len(weighed), lambda: self._replica(todo, weighed)):
            return True
        # what an earlier run did before its mark was written is no more to lose
        weighed[:] = self._there(weighed)
        if not worker.guard.exceeded(now, len(weighed), lambda: self._replica(todo, weighed)):
            return True
        names = tuple(os.fsdecode(todo.removed[g].name) for g in weighed[:10])
        base, count = worker.guard.base or 0, worker.guard.counted() + len(weighed)
        hold = Hold(hold_id(weighed), f"{count} of {base} objects would be deleted", len(weighed), base, names, now)
        if worker.permitted(hold):
            return True
        who = worker.rejected(hold)
        if who is None:
            return False
        self._keep(todo, dead, who, failures)
        dead.clear()
        return True

    def _replica(self, todo: Plan, weighed: list[Gfid]) -> int:
        """How many objects the replica of this brick has before this batch, without those made of late."""
        has = self.view.index.has
        young = sum(map(has, self.worker.guard.born.all())) + sum(map(has, todo.fresh.difference(todo.made)))
        return max(0, self.view.index.count() - young) + len(weighed)

    def _there(self, weighed: list[Gfid]) -> list[Gfid]:
        """Those of them that the secondary still has; asked once for the same ones, however long they are held."""
        asked = hold_id(weighed)
        if self._asked != asked:
            self._asked = asked
            self._found = {g for g, there in looked_up(self.link, weighed) if there is not None}
        return [g for g in weighed if g in self._found]

    def _keep(self, todo: Plan, dead: list[Gfid], who: str, failures: list[Failure]) -> None:
        """Leave rejected deletes out of the plan, and what would take their names; both are in the ledger then."""
        now = time.time()
        gone = set(dead)
        taken = {todo.removed[g] for g in dead}
        in_the_way = {e.gfid: e.dest or e.slot for e in todo.entries
                      if e.gfid not in gone and e.fop not in REMOVES and (e.dest or e.slot) in taken}  # fmt: skip
        there = secondary_states(self.link, list(dict.fromkeys([*in_the_way, *dead])))
        failures += [Failure.rejected_delete(g, todo.removed[g].name, who, now, there.get(g, "present")) for g in dead]
        failures += [Failure.rejected_replacement(g, slot.name, who, now, primary_state(self.view, g), there.get(g, "absent"))
                     for g, slot in in_the_way.items()]  # fmt: skip
        left_out = gone | in_the_way.keys()
        todo.entries = [e for e in todo.entries if e.gfid not in left_out]
        for gfid in left_out:
            todo.data.pop(gfid, None)
            todo.meta.pop(gfid, None)
            todo.check.pop(gfid, None)
            todo.fresh.discard(gfid)

    def _apply(self, feed: Feed, todo: Plan, dead: list[Gfid], result: Result) -> None:
        """Entries, then content, then attributes; what fails is settled with the primary's state of now."""
        self.link.rest = feed.turn.rest
        with feed.turn.batch():
            self.status.batch_phase("entry")
            if self.worker.seat.replaces and (alive := self.applier.replaced(todo)):
                self.worker.ledger.settling([(gfid, "RETRY") for gfid in alive])
            self.applier.entries(todo, result)
            self.status.batch_phase("data")
            self._content(todo, result)
            self.status.batch_phase("meta")
            self._attributes(todo, result)
        if self.worker.primary.kind == "gluster":
            result.problems += changed_since(todo, self.view.holds)
            self._beside_others(dead, result)
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
            result.nameless |= settled.nameless
            # what was settled may have changed the times of directories that were right before
            self.applier.metas([g for g in todo.touched if self.view.index.has(g)], result)
            if left and not result.gone:
                break
        for gfid in dict.fromkeys(result.gone):
            if self.view.index.has(gfid):
                result.problems.append(Problem(gfid, None, "DATA", 0, "could not be found on the primary"))
        result.gone = []
        self.failing.nameless(feed, result)

    def _beside_others(self, dead: list[Gfid], result: Result) -> None:
        """The workers of a volume's bricks are not equally far: what is dead may be there under a name of before."""
        for at in range(0, len(dead), ASKED):
            some = [gfid.hex() for gfid in dead[at : at + ASKED]]
            for text in self.link.call("here", {"gfids": some}).get("here", []):
                result.problems.append(Problem(bytes.fromhex(text), None, "UNLINK", 0, "gone, and still there"))

    def _foreign(self, problems: list[Problem]) -> None:
        """On a secondary that is not ours yet, something else is in the way: hold until a person allows it (SAFE-1)."""
        foreign = [p for p in problems if p.text.startswith("foreign")]
        if not foreign or not self.worker.adopting:
            return
        sample = tuple(os.fsdecode(p.slot.name) if p.slot else p.gfid.hex() for p in foreign[:10])
        hold = Hold(hold_id([p.gfid for p in foreign]), f"{len(foreign)} objects on the secondary differ and would be "
                    "replaced (--adopt allows it)", len(foreign), self.view.index.count() + len(foreign), sample, time.time())  # fmt: skip
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
        # nor the times of a file whose content did not come: nothing else would tell
        skip = result.sent | {p.gfid for p in result.problems if p.operation == "DATA"}
        metas = {g: None for g in (*todo.meta, *result.made) if g not in skip}
        dirs = {g: None for g in todo.touched}
        if self.worker.recovering is not None:
            # an agent that was killed may have put a file in place, and not its directory's times
            dirs.update((r.parent, None) for g in todo.data for r in self.view.index.rows(g) if r.parent != LIMBO)
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
                mark = max(mark, one.mark)
        real = [c.changelog for c in closed if c.changelog.size]
        moved = mark > marks.stime
        if real or moved:
            answer = self.link.call("commit", {
                "purge": [g.hex() for g in dead if not self.view.index.has(g)],
                "keep_deleted": self.options.keep_deleted,
                "mark": {"sec": mark.sec, "nsec": mark.nsec} if mark != NO_MARK else None,
            })  # fmt: skip
            self.status.secondary_free(answer.get("statfs"))
        self.failing.note(failures or [])
        self.worker.ledger.settled()
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
