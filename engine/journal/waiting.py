"""What waits in a journal, for any thread that asks, whether or not there is a line to the secondary."""

from __future__ import annotations

import os
import threading
import time

from engine.backlog import Backlog, Counts, Slice
from engine.journal.format import JournalError
from engine.journal.reader import Journal
from engine.model import Mark

PAUSE, SHARE = 2.0, 20.0
"""Seconds between two looks at the journal: at least so many, and so many times as long as a look takes."""

_HEADER = 64
"""Bytes up to which an open slice holds no record."""


class JournalBacklog:
    """Reads a journal with a reader of its own; `owned`: a tree's. A brick keeps its own also while nobody looks."""

    def __init__(self, root: bytes, *, owned: bool) -> None:
        self._journal = Journal(root, owned=owned, xsync=None if owned else os.path.join(root, b"none"))
        self._counts = Counts()
        self._lock = threading.Lock()
        self._due = 0.0
        self._of: Mark | None = None
        self._last: Backlog | None = None

    def after(self, mark: Mark, heard: float | None = None) -> Backlog | None:
        """What was closed after the mark, and what the open slice has (`heard`: since when, where that is known).

        None where there is no journal to read, or no mark to begin at.
        """
        if mark <= Mark(0, 0):
            return None
        with self._lock:
            began = time.monotonic()
            if self._of != mark or began >= self._due:
                self._last, self._of = self._look(mark, heard), mark
                self._due = time.monotonic() + max(PAUSE, SHARE * (time.monotonic() - began))
            return self._last

    def _look(self, mark: Mark, heard: float | None) -> Backlog | None:
        try:
            found = self._journal.pending(mark)
        except (OSError, JournalError):
            return None
        real = [c for c in found if c.size]
        since: list[float] = []
        for before, log in zip([None, *found], found, strict=False):
            if log.size:  # its oldest change may be as old as the end of the slice before
                since.append(float(before.suffix if before is not None else mark.sec))
                break
        if heard is None and self._open_has_records():
            heard = float(max(self._journal.last, mark.sec))
        open_ = [] if heard is None else [heard]
        changes, exact = self._counts.of([Slice(c, None) for c in real])
        times = since + open_
        return Backlog(len(real), sum(c.size for c in real), min(times) if times else None, changes + len(open_),
                       exact and not open_)  # fmt: skip

    def _open_has_records(self) -> bool:
        try:
            return os.stat(os.path.join(self._journal.root, b"CHANGELOG")).st_size > _HEADER
        except OSError:
            return False
