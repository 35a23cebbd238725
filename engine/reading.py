"""What the slices of a batch say; one that cannot be read goes whole into the ledger, and what it would have said is found."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from engine.batch import Source
from engine.failing import Failing
from engine.journal.format import JournalError
from engine.ledger import Failure
from engine.volume.base import Closed

if TYPE_CHECKING:
    from engine.worker import Worker


class Reading:
    """Reads slices, on one connection."""

    def __init__(self, worker: Worker, failing: Failing) -> None:
        self._worker = worker
        self._failing = failing

    def read(self, closed: list[Closed]) -> tuple[list[Source], list[Failure]]:
        """The slices' records; one that can't be read goes whole into the ledger, with its offset."""
        sources: list[Source] = []
        broken: list[Failure] = []
        for one in closed:
            if one.records is not None:
                sources.append(Source(one.changelog, one.records))
                continue
            try:
                decoded = self._worker.primary.read(one.changelog)
            except JournalError as e:
                self._doubt(one, e.text)
                if e.code == "changelog-missing":
                    self._worker.feed().crawl(e.text)
                    continue
                broken.append(Failure.of_changelog(one.changelog.path, f"{e.text} (offset {e.offset})", time.time()))
                self._worker.feed().crawl(f"{os.fsdecode(one.changelog.path)} cannot be read")
                continue
            if decoded.torn is not None:
                self._doubt(one, f"torn at offset {decoded.torn.offset}: {decoded.torn.reason}")
                broken.append(Failure.of_changelog(one.changelog.path, f"torn at offset {decoded.torn.offset}: {decoded.torn.reason}", time.time()))
                self._worker.feed().crawl(f"{os.fsdecode(one.changelog.path)} is torn")
            sources.append(Source(one.changelog, list(decoded.records)))
        return sources, broken

    def _doubt(self, one: Closed, why: str) -> None:
        """A slice of a tree is gone or damaged: its index is ahead of the secondary, so a crawl would find nothing. Into
        the ledger, and both sides are compared."""
        if self._worker.primary.kind != "tree":
            return
        self._failing.note([Failure.of_changelog(one.changelog.path, why, time.time())])
        self._worker.compare(f"the journal of the primary is damaged: {os.path.basename(os.fsdecode(one.changelog.path))}",
                            ask=False)  # fmt: skip
