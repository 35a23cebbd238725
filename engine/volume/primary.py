"""The primary side of one tree brick: its state directory, index, journal, marks and recorder."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from engine.agent.index import Index, IndexError_
from engine.apply import Problem
from engine.batch import Plan
from engine.filters import Filters
from engine.guard import Born
from engine.journal.differ import Differ
from engine.journal.format import Decoded
from engine.journal.reader import Journal
from engine.journal.recorder import Recorder, written
from engine.journal.sources import open_source
from engine.journal.writer import JournalWriter
from engine.marks import MarkFile
from engine.model import Changelog, DataChange, EngineError, EntryChange, Fop, Gfid, Mark, MetaChange
from engine.options import Options
from engine.volume.base import Closed, View
from engine.volume.handles import RootError, RootIdentity, can_open_by_handle
from engine.volume.tree import TreeView, open_root

Log = Callable[[str, str], None]

AT_RISK = 60
"""Seconds in which a filesystem has brought what was written to the disk."""


class TreePrimary:
    """One tree that is replicated. `open` before use; one recorder at a time."""

    kind = "tree"
    lasting = True

    def __init__(self, root: bytes, state: str, log: Log) -> None:
        self.root = root
        self.state = state
        self.log = log
        self.path = os.fsdecode(root)
        self.beside = os.path.dirname(os.path.dirname(os.path.abspath(state)))
        """The session's own directory, whose changes are of no interest."""
        os.makedirs(state, mode=0o700, exist_ok=True)
        self._facts = os.path.join(state, "brick.json")
        self.born = Born()
        self.marks = MarkFile(os.path.join(state, "marks.json"))
        self.feed: Recorder | None = None
        self.first_run = not os.path.exists(self._facts)
        self.brick_id = self._identify()
        self._suspect: int | None = None
        """Slices later than this second speak of suspects; None: there are none."""
        where = os.fsencode(os.path.join(state, "journal"))
        self.journal = Journal(where)
        self._sizes = Journal(where)  # asked by the recorder's thread

    def _identify(self) -> bytes:
        """The brick's own id, made once."""
        try:
            with open(self._facts, encoding="utf-8") as f:
                known = json.load(f)
            return uuid.UUID(known["id"]).bytes
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as e:
            raise EngineError(
                f"{self._facts}: damaged ({e})", code="state-damaged",
                hint="remove the brick's state directory and run with --adopt",
            ) from e  # fmt: skip
        fresh = uuid.uuid4()
        self._keep({"id": str(fresh), "root": self.path})
        return fresh.bytes

    def _keep(self, facts: dict[str, object]) -> None:
        temp = self._facts + ".new"
        with open(temp, "w", encoding="utf-8") as f:
            json.dump(facts, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temp, self._facts)
        fd = os.open(self.state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _known(self) -> dict[str, Any]:
        with open(self._facts, encoding="utf-8") as f:
            facts: dict[str, Any] = json.load(f)
        return facts

    def _running(self) -> None:
        """Note that it runs, durably; and where the last run did not end in order, from when on objects are suspect."""
        facts = self._known()
        if "running" in facts:
            begin = max(self.marks.stime.sec - AT_RISK, 0)
            facts["suspect"] = min(int(facts.get("suspect", begin)), begin)
        self._suspect = facts.get("suspect")
        self._keep({**facts, "running": True})

    def suspects(self) -> set[Gfid]:
        """Objects that the secondary may have newer than the primary does, after a power cut here: what is sent is the
        state of the moment, and that may not have been on the disk yet, nor in the journal (MRK-6). To be compared
        before `rechecked`."""
        return set() if self._suspect is None else self.journal.done_since(self._suspect)

    def rechecked(self) -> None:
        """The suspects are as they should be."""
        if self._suspect is not None:
            self._suspect = None
            self._keep({k: v for k, v in self._known().items() if k != "suspect"})

    def identity(self, adopt: bool) -> RootIdentity:
        """The root's identity, checked against the one of earlier runs (SAFE-1); `adopt` accepts another."""
        try:
            now = RootIdentity.of(self.path)
        except (RootError, OSError) as e:
            raise EngineError(
                f"primary {self.path}: {e.strerror if isinstance(e, OSError) else e}", code="primary-unreachable",
                hint="check the path and its mount; nothing is replicated until it is back",
            ) from e  # fmt: skip
        facts = self._known()
        if facts.get("identity") not in (None, now.text) and not adopt:
            raise EngineError(
                f"primary {self.path} is not the tree it was: another filesystem or directory is there now",
                code="primary-changed",
                hint="mount the right one; if this one is meant, run with --adopt",
            )
        if facts.get("identity") != now.text:
            self._keep({**facts, "identity": now.text})
        return now

    def paired(self, hello: dict[str, object], link: object) -> None:
        """A tree has nothing to learn of its secondary."""
        del hello, link

    def elected(self) -> bool:
        """A tree has no replicas beside it."""
        return True

    def stand_by(self) -> None:
        """Never passive."""

    @property
    def stranger(self) -> bool:
        """A tree need not know its secondary."""
        return False

    def permits(self, yes: bool) -> bool:
        """The agent keeps what is not ours from being replaced."""
        return yes

    def tidy(self, todo: Plan, dead: list[Gfid]) -> list[Problem]:
        """The differ's records hold as they are."""
        del todo, dead
        return []

    def excluded(self, view: View) -> Callable[[Gfid, bytes, bool], bool] | None:
        """Include and exclude patterns as a question about one name (CRW-10), None where there are none."""
        if self.feed is None or not isinstance(view, TreeView):
            return None
        return self.feed.differ.excluded_with(view.index)

    def read(self, changelog: Changelog) -> Decoded:
        """The records of a slice. Raises JournalError."""
        return self.journal.read(changelog)

    def done(self, changelogs: Iterable[Changelog]) -> None:
        """These are on the secondary: into the archive (CHG-11). Raises OSError."""
        self.journal.done_many(changelogs)

    def view(self, index: Index | None = None, root_fd: int | None = None) -> TreeView:
        """A view for one thread, with a connection to the index of its own."""
        fd = root_fd if root_fd is not None else open_root(self.root)
        return TreeView(fd, self.brick_id, index or self.open_index(16, reader=True), can_open_by_handle(fd))

    def open_index(self, cache_mib: int, *, reader: bool = False) -> Index:
        """A connection to the primary's index."""
        return Index(os.path.join(self.state, "index.db"), cache_mib, reader)

    def start(
        self,
        current: Callable[[], Options],
        *,
        adopt: bool,
        clear: bool,
        on_closed: Callable[[], None],
        on_error: Callable[[EngineError], None],
    ) -> Recorder:
        """Start to record, with the hybrid crawl that a start after downtime needs (CRW-1, CRW-8)."""
        options = current()
        identity = self.identity(adopt)
        index = self.open_index(64)
        view = self.view(index)
        writer = JournalWriter(os.path.join(self.state, "journal"), floor=max(0, self.marks.stime.sec + 1))
        source = open_source(options.recorder, self.root, self.brick_id, self.log, [os.fsencode(self.beside)])
        filters = Filters(list(options.include), list(options.exclude)) if options.include or options.exclude else None
        differ = Differ(view, index, filter_for=self._filter(filters))
        recorder = Recorder(
            self.root, view, index, differ, source, writer, identity,
            rollover=options.rollover_time,
            full=lambda: self.journal_size() > current().state_limit,
            scrub=lambda: (current().scrub_interval, current().scrub_rate),
            on_closed=on_closed, on_error=on_error, log=self.log,
            pending=lambda: self.journal.pending(self.marks.stime),
        )  # fmt: skip
        floor = index.fact("walk_since")
        stime = self.marks.stime
        whole = floor if isinstance(floor, int) else None
        left = [
            Closed(c, c.part == 0 and (whole is None or c.suffix < whole), None, written(c))
            for c in self.journal.pending(stime)
            if c.size
        ]
        if clear:
            # what is to be compared with the secondary anew needs no older slices
            self.journal.done_many([c.changelog for c in left])
            left = []
        recorder.prepend(left)
        self._running()
        source.start()
        if stime < Mark(0, 0) and index.count() == 0:
            reason = "first run"
        elif clear:
            reason = "the secondary is compared anew"
        else:
            reason = "changes while the engine was not running"
        recorder.start(reason, clear=clear)
        self.feed = recorder
        self.log("info", f"recording with {source.name}")
        return recorder

    def index_lost(self) -> bool:
        """Is the index damaged, or gone though there are marks? A damaged one is set aside; both sides are then
        compared anew."""
        path = os.path.join(self.state, "index.db")
        if not os.path.exists(path):
            return self.marks.stime > Mark(-1, 0)
        try:
            index = self.open_index(16)
            try:
                index.count()
            finally:
                index.close()
            return False
        except (IndexError_, sqlite3.DatabaseError) as e:
            self.log("warning", f"{path}: {e}: the index is made anew by a hybrid crawl")
        for end in ("", "-wal", "-shm"):
            try:
                os.replace(path + end, path + end + ".broken")
            except FileNotFoundError:
                pass
        return True

    def journal_size(self) -> int:
        """Bytes of the journal with its archives; old archives go first when the limit is near (SAFE-6)."""
        return self._sizes.size_bytes()

    def would_do(self, options: Options) -> dict[str, Any]:
        """What a start would do: counts of creations, renames, removals, changes, and bytes to send at most (SAFE-2);
        `paths` of what would be removed and replaced, `objects` known before.

        Nothing is kept: the walk's effect on the index is rolled back.
        """
        index = self.open_index(64)
        before = self.open_index(16, reader=True)
        """As it was: what is removed has its path there."""
        view = self.view(index)
        chosen = [*options.include, *options.exclude]
        filters = Filters(list(options.include), list(options.exclude)) if chosen else None
        differ = Differ(view, index, filter_for=self._filter(filters))
        out = {"made": 0, "renamed": 0, "removed": 0, "content": 0, "attributes": 0, "bytes": 0, "objects": index.count()}
        removed: dict[bytes, None] = {}
        replaced: dict[bytes, None] = {}
        try:
            differ.begin_walk()
            while differ.pending:
                for record in differ.slice({}, {}, {}):
                    sent = isinstance(record, DataChange)
                    if isinstance(record, EntryChange):
                        made = record.fop not in (Fop.RENAME, Fop.UNLINK, Fop.RMDIR)
                        sent = record.fop == Fop.CREATE
                        if record.fop in (Fop.UNLINK, Fop.RMDIR):
                            if options.ignore_deletes:
                                continue
                            above = before.path(record.slot.parent)
                            removed[record.path or (above + b"/" + record.slot.name if above else record.slot.name)] = None
                        out["made" if made else "renamed" if record.fop == Fop.RENAME else "removed"] += 1
                    elif isinstance(record, MetaChange):
                        out["attributes"] += 1
                    else:
                        out["content"] += 1
                        replaced[index.path(record.gfid) or b"?"] = None
                    if sent and (row := index.row(record.gfid)) is not None:
                        out["bytes"] += row.size
        finally:
            before.close()
            index.rollback()
            view.end()
        paths = {"removed": removed, "replaced": replaced}
        return {**out, "paths": {k: [{"path": p.decode("utf-8", "backslashreplace")} for p in v] for k, v in paths.items()}}

    def _filter(self, filters: Filters | None) -> Callable[[Index], Callable[[Gfid, bytes, bool], bool]] | None:
        """Include and exclude patterns as a question about one name (CRW-10)."""
        if filters is None:
            return None

        def filter_for(index: Index) -> Callable[[Gfid, bytes, bool], bool]:
            def excluded(parent: Gfid, name: bytes, is_dir: bool) -> bool:
                above = index.path(parent)
                return filters.excluded(above + b"/" + name if above else name, is_dir)

            return excluded

        return filter_for

    def stop(self) -> None:
        """Stop recording."""
        if self.feed is not None:
            self.feed.stop()
            if self.feed.error is None:
                with contextlib.suppress(OSError):  # then the next run compares what need not be
                    self._keep({k: v for k, v in self._known().items() if k != "running"})
            self.feed.view.end()
            self.feed = None
