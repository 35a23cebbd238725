"""A replica that an older version made is compared once, in the background: that version could lose names without a word.

Until it is through, nothing says that both sides are equal, and no checkpoint completes.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from engine.apply import Problem
from engine.ledger import Failure
from engine.link import Link
from engine.model import EngineError
from engine.verify import Comparison, Difference, stable_differences

if TYPE_CHECKING:
    from engine.worker import Worker

WHY = "it was made by an older version, which could lose names of files"


class BackgroundComparison:
    """Compares one brick with its replica in a thread of its own, on one connection; its owner takes what it found.

    `stop` ends it before its connection does. What could not be compared is said by `outcome`, which raises it.
    """

    def __init__(self, worker: Worker, link: Link) -> None:
        self._worker = worker
        self._link = link
        self._stop = threading.Event()
        self._found: list[Difference] = []
        self._error: EngineError | None = None
        self._through = False
        self._thread = threading.Thread(target=self._run, name=f"comparing {worker.seat.primary_text}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._worker.status.comparing(0, None, WHY)
        self._worker.log("info", f"comparing both sides once: {WHY}")
        self._thread.start()

    def stop(self) -> None:
        """End the thread and join it."""
        self._stop.set()
        self._thread.join()

    @property
    def finished(self) -> bool:
        """Is it through, or has it failed?"""
        return not self._thread.is_alive()

    def outcome(self) -> list[Difference]:
        """The differences that hold after the changes so far have been synced. Raises EngineError."""
        if self._error is not None:
            raise self._error
        if not self._through:
            raise EngineError("the comparison of both sides broke off", code="comparing", hint="it begins anew")
        return self._found

    def _run(self) -> None:
        worker = self._worker
        try:
            view = worker.primary.view()
            try:
                total = view.index.count()
                comparison = Comparison(
                    view, self._link, content=False, xattrs=worker.options().sync_xattrs, stop=self._stop,
                    progress=lambda seen: worker.status.comparing(seen, max(total, seen), WHY),
                )  # fmt: skip
                report = comparison.run()
                self._found = stable_differences(
                    worker.settle, lambda: worker.primary.marks.stime, worker.primary.root, comparison,
                    report.differences, self._stop,
                )  # fmt: skip
                self._through = True
            finally:
                view.end()
        except EngineError as e:
            self._error = e
        except OSError as e:
            self._error = EngineError(f"comparing: {e.strerror or e}", errno=e.errno)
        finally:
            worker.wake.set()


def problems_of(found: list[Difference]) -> list[Problem]:
    """What has to be put right of what the primary has."""
    return [Problem(d.gfid, d.slot, "RETRY", 0, d.what) for d in found if d.gfid is not None]


def extras_of(found: list[Difference], now: float) -> list[Failure]:
    """What only the secondary has: it is not removed unasked, and it is not passed over in silence."""
    return [Failure.only_there(d.found, d.path, now) for d in found if d.gfid is None and d.found is not None]


def summary(found: list[Difference]) -> str:
    """What was found, for the log."""
    missing = sum(d.what == "missing on the secondary" for d in found)
    extra = sum(d.gfid is None for d in found)
    other = len(found) - missing - extra
    sample = ", ".join(repr(os.fsdecode(d.path)) for d in found[:3])
    return (f"compared both sides: {missing:,} missing on the secondary, {other:,} otherwise different, {extra:,} only there"
            + (f" ({sample}{', …' if len(found) > 3 else ''})" if found else ""))  # fmt: skip
