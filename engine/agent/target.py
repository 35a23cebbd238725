"""What the agent works on, as server and calls see it: the same verbs for a directory tree and a GlusterFS volume."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Optional, Protocol

from engine.agent import listing, repair, wire
from engine.agent.content import Contents, open_file
from engine.agent.entries import Entries
from engine.agent.frames import Payload
from engine.agent.listing import Listings
from engine.agent.stage import Stages
from engine.agent.state import Holding, free_space
from engine.agent.types import EntryOp, Gfid, MetaOp, Outcome, Slot, Stat
from engine.agent.wire import FileResult, Put, Xattrs

Result = dict[str, Any]


class Target(Protocol):
    """A replica that was begun. One thread calls; raises OpError for one operation, CallError, OSError."""

    def applying(self) -> None:
        """Called before anything is changed."""

    def settle(self) -> None:
        """Called when no operation is under way: descriptors that were pushed out may be closed."""

    def entries(self, ops: list[EntryOp]) -> tuple[list[Outcome], list[Gfid], list[tuple[int, int, int]]]:
        """Apply entry operations: failures, gfids newly made, (index, size, mtime_ns) of content written."""

    def puts(self, puts: list[Put]) -> list[FileResult]:
        """Replace the content of small files."""

    def metas(self, ops: list[MetaOp]) -> list[Outcome]:
        """Set attributes; the failures."""

    def file_begin(self, ident: int, request: wire.FileBegin) -> None:
        """Content in pieces follows under `ident`; what fails is told at its end."""

    def file_data(self, ident: int, payload: Payload) -> None:
        """One piece."""

    def file_hole(self, ident: int, payload: Payload) -> None:
        """A range that reads as zeros."""

    def file_end(self, ident: int, stat: Stat, xattrs: Xattrs) -> FileResult:
        """The end: size, attributes, and what is then seen."""

    def file_abort(self, ident: int) -> None:
        """The sender gives up."""

    def open_file(self, gfid: Gfid) -> int:
        """A descriptor for reading a regular file."""

    def lookup(self, gfid: Gfid) -> Optional[Result]:
        """Where an object is: names, limbo, sure, stat; None when it is nowhere."""

    def taken(self, slots: list[Slot]) -> list[Gfid]:
        """Whose these names are; b"" for nobody's."""

    def page(self, gfid: Gfid, after: bytes, limit: int, xattrs: bool) -> list[Result]:
        """Entries of a directory by name."""

    def place(self, gfid: Gfid, slots: list[Slot], drop: list[Slot], stat: Stat, link: Optional[bytes], xattrs: Xattrs,
              replace: bool) -> repair.Placed:  # fmt: skip
        """Give exactly this object all these slots, and take those of `drop` from it."""

    def remove(self, gfid: Gfid, slots: list[Slot], below: Container[Gfid]) -> tuple[int, list[Slot]]:
        """Take names from an object; how many it had of them, and those it has beyond. A volume's directory goes only with
        those in it that are in `below`."""

    def here(self, gfids: list[Gfid]) -> list[Gfid]:
        """Those of which there is something left, but for what waits in limbo."""

    def set_aside(self, gfid: Gfid, slots: list[Slot]) -> int:
        """Take those of these names that an object has from it, until it is placed; how many there were."""

    def clear_slot(self, slot: Slot, gfid: Gfid) -> bool:
        """Take this name from that object (b"": from something unknown); False when nothing has it. OpError EEXIST with
        the gfid of another one."""

    def torn(self) -> set[Gfid]:
        """Files whose content is half written, or has not come."""

    def stage(self, gfids: list[Gfid], sizes: list[int], basis: bool) -> Result:
        """Make files reachable by path for rsync and tar: `sizes` of what comes, with the old content as a `basis`, or
        without. Of a tree, what is written there is put in place by `arrived` and the attributes that follow."""

    def unwritten(self, token: str) -> list[Gfid]:
        """Those of a stage to which nothing has been written."""

    def arrived(self, token: str, gfids: list[Gfid]) -> None:
        """The content of these is whole, as far as the primary can tell."""

    def unstage(self, token: str) -> Result:
        """End that, with what is then seen of each file."""

    def statfs(self) -> dict[str, int]:
        """Free and total bytes and inodes."""

    def damaged(self) -> None:
        """What is kept about the replica turned out to be damaged."""

    def close(self, clean: bool) -> None:
        """Let go."""


class TreeTarget:
    """A directory tree with its index."""

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        self.tree = holding.tree
        self._entries = Entries(holding.tree, holding.writer)
        self._contents = Contents(holding.tree, holding.writer)
        self._stages = Stages(holding, self._contents.staged)
        self._listings = Listings(holding.tree, holding.intent)
        self._relieve = holding.writer.beside.relieve
        contents = self._contents
        self.file_begin, self.file_data, self.file_hole = contents.begin, contents.data, contents.hole
        self.file_abort = contents.abort
        self.applying, self.settle = holding.applying, holding.tree.dirs.settle
        self.page, self.damaged = self._listings.page, holding.damaged
        self.unwritten, self.arrived, self.unstage = self._stages.unwritten, self._stages.arrived, self._stages.unstage
        self.stage = self._stages.stage

    def entries(self, ops: list[EntryOp]) -> tuple[list[Outcome], list[Gfid], list[tuple[int, int, int]]]:
        applied = self._entries.apply(ops)
        self.tree.index.relieve()
        self._relieve()
        return applied.failures, list(applied.made), applied.sizes

    def puts(self, puts: list[Put]) -> list[FileResult]:
        results = self._contents.puts(puts)
        self._relieve()
        return results

    def metas(self, ops: list[MetaOp]) -> list[Outcome]:
        failures = self._contents.metas(ops)
        self._relieve()
        return failures

    def file_end(self, ident: int, stat: Stat, xattrs: Xattrs) -> FileResult:
        result = self._contents.end(ident, stat, xattrs)
        self._relieve()
        return result

    def torn(self) -> set[Gfid]:
        return self.holding.intent.torn()

    def open_file(self, gfid: Gfid) -> int:
        self.settle()
        return open_file(self.tree, gfid, 0)

    def lookup(self, gfid: Gfid) -> Optional[Result]:
        self.settle()
        return listing.lookup(self.tree, gfid, self.holding.intent)

    def taken(self, slots: list[Slot]) -> list[Gfid]:
        self.settle()
        return [listing.whose(self.tree, slot) for slot in slots]

    def place(self, gfid: Gfid, slots: list[Slot], drop: list[Slot], stat: Stat, link: Optional[bytes], xattrs: Xattrs,
              replace: bool) -> repair.Placed:  # fmt: skip
        return repair.place(self.tree, gfid, slots, drop, stat, link, xattrs, replace)

    def here(self, gfids: list[Gfid]) -> list[Gfid]:
        del gfids
        return []  # nobody else works here: what was removed is gone

    def remove(self, gfid: Gfid, slots: list[Slot], below: Container[Gfid]) -> tuple[int, list[Slot]]:
        del below  # nothing is destroyed before the commit (SEC-16)
        return repair.remove(self.tree, gfid, set(slots))

    def set_aside(self, gfid: Gfid, slots: list[Slot]) -> int:
        del gfid, slots
        return 0  # what is in the way of `place` goes to limbo

    def clear_slot(self, slot: Slot, gfid: Gfid) -> bool:
        return repair.clear_slot(self.tree, slot, gfid) is not None

    def statfs(self) -> dict[str, int]:
        return free_space(self.holding.root_fd)

    def close(self, clean: bool) -> None:
        self._contents.close()
        self.holding.close(clean)
