"""What the recorder has its source watch, as walk and differ come upon it: directories, and files with names elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from engine.agent.index import Index
from engine.journal.differ import Differ
from engine.journal.dirty import DATA, META, Source
from engine.model import Gfid
from engine.volume.base import Gone
from engine.volume.tree import TreeView


class Watching:
    """Watches for one recorder, in its thread."""

    def __init__(
        self, view: TreeView, index: Index, source: Source, differ: Differ, log: Callable[[str, str], None]
    ) -> None:
        self._view = view
        self._index = index
        self._source = source
        self._differ = differ
        self._log = log
        self._late: dict[Gfid, int] = {}
        self._unwatched: dict[Gfid, bool] = {}
        """Files to be watched for themselves that were not where the index had them, and how sure that is."""
        differ.walk.on_directory = self._directory
        differ.emit.on_shared = self._shared if source.watches_objects else None
        differ.emit.on_gone = source.forget_directory

    def late(self) -> dict[Gfid, int]:
        """What changed between its being looked at and being watched, since the last call: flags by object."""
        late, self._late = self._late, {}
        return late

    def again(self) -> None:
        """Watch what was on the move."""
        unwatched, self._unwatched = self._unwatched, {}
        for gfid, sure in unwatched.items():
            self._shared(gfid, sure)

    def each_file(self) -> None:
        """Is each file watched for itself, or have they become too many?"""
        each = self._source.each_file
        if self._differ.emit.each_file and not each:
            self._log("warning", "more files than inotify may watch: what is written to them through hard links made "
                                 "outside the tree is found by the scrub")  # fmt: skip
        self._differ.emit.each_file = each

    def _directory(self, gfid: Gfid) -> None:
        fd = self._view.dir_fd(gfid)
        self._source.watch_directory(gfid, fd)

    def _shared(self, gfid: Gfid, sure: bool) -> None:
        """An object that has or may get names that are not watched: only the object itself can be."""
        row = self._index.row(gfid)
        if row is None or row.kind == stat.S_IFDIR:
            return
        try:
            fd = self._view.hold(gfid)
        except Gone:
            self._unwatched[gfid] = sure  # on the move: the next slice knows where it is
            self._source.wake.set()
            return
        except OSError:
            return
        try:
            self._source.watch_object(gfid, fd, sure)
            st = os.fstat(fd)
            flags = 0
            if (st.st_size, st.st_mtime_ns) != (row.size, row.mtime_ns):
                flags = DATA | META
            elif sure and st.st_ctime_ns != row.ctime_ns:
                flags = META
            if flags:
                self._late[gfid] = flags
                self._source.wake.set()
        except PermissionError:
            pass  # nor may it be read: the scrub says so (CRW-9)
        finally:
            os.close(fd)
