"""Directories that are still to be listed: a whole crawl, or what is newly in the tree. Listing goes on slice by slice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from engine.agent.index import Index
from engine.model import ROOT, Gfid
from engine.volume.tree import TreeView


class Walk:
    """The directories due, and the one that is open.

    `on_directory(gfid)` is called for each directory before it is listed: the place to watch it.
    """

    def __init__(self, view: TreeView, index: Index, on_directory: Callable[[Gfid], None] | None) -> None:
        self.view = view
        self.index = index
        self.on_directory = on_directory
        self.due: deque[Gfid] = deque()
        self.crawling = False
        """A whole walk is under way: what is missing may be found elsewhere, so nothing is deleted before its end."""
        self.seen = 0
        """Objects this crawl has looked at."""
        self.step = 2_000
        """Objects to look at in one slice."""
        self.unreadable: list[Gfid] = []
        """Directories that could not be listed; the owner takes them from here."""
        self.unreached: list[Gfid] = []
        """Directories that moved while they were to be listed: they are tried again when the move is known, as long as
        the index has them."""
        self._listing: tuple[Gfid, list[bytes]] | None = None

    def begin(self) -> None:
        """Walk the whole tree from the root: a hybrid crawl (CRW-5, CRW-8)."""
        self.due.clear()
        self._listing = None
        self.due.append(ROOT)
        self.crawling = True
        self.seen = 0

    def again(self) -> None:
        """A new slice: what could not be reached in the last one is due once more."""
        self.due.extend(self.unreached)
        self.unreached = []

    @property
    def walking(self) -> bool:
        """Is there a directory still to be listed? Then what is missing may be found in it."""
        return bool(self.due) or self._listing is not None

    @property
    def open(self) -> bool:
        """Is a directory listed of which names are left?"""
        return self._listing is not None

    def enter(self, gfid: Gfid) -> list[bytes] | None:
        """Open a directory: all its names, of which `some` gives the next; None when it may not be listed. Gone."""
        try:
            if self.on_directory is not None:
                self.on_directory(gfid)
            names = self.view.list_dir(gfid)
        except PermissionError:
            self.unreadable.append(gfid)
            return None
        self._listing = (gfid, names)
        return names

    def some(self, most: int) -> tuple[Gfid, list[bytes]]:
        """The next names of the open directory, `most` of them."""
        assert self._listing is not None
        gfid, names = self._listing
        self._listing = (gfid, names[most:]) if len(names) > most else None
        self.seen += min(most, len(names))
        return gfid, names[:most]

    def lost(self, gfid: Gfid) -> None:
        """The directory moved as it was listed."""
        self._listing = None
        self.unreached.append(gfid)
