"""Runs the product with a worker that is slow at one moment: between finding nothing to do and asking whether a crawl goes on.

`python -m tests.system.late WORDS…`: a crawl ends in that moment, and has closed its last slices.
"""

from __future__ import annotations

import sys
import time

from engine.journal.recorder import Recorder
from engine.volume.base import Closed

_take = Recorder.take


def take(self: Recorder, most: int, most_bytes: int) -> list[Closed]:
    if not self.crawling:
        return _take(self, most, most_bytes)
    # nothing was closed as it looked; all is, as it goes on
    end = time.monotonic() + 30
    while self.crawling and time.monotonic() < end:
        time.sleep(0.005)
    sys.stderr.write("late\n")
    return []


if __name__ == "__main__":
    Recorder.take = take  # type: ignore[method-assign]
    from georep_tui.cli import main

    sys.argv = ["georep-tui", *sys.argv[1:]]
    sys.exit(main())
