"""A slow pass of the agent over all that it committed: what was changed or restored below it is found (SAFE-3)."""

from __future__ import annotations

import time
from typing import Any

from engine.link import Link

EACH = 1.0
"""Seconds between two steps, at least."""

RATE = 2000
"""Rows a second at most, where `scrub_rate` sets no limit."""


class Inspection:
    """The passes on one connection, a step between two batches; where one has got is kept with the secondary's index."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._last = time.monotonic()
        self._rows = 0
        """Rows of the secondary's index, counted at the beginning of a pass."""

    def step(self, interval: float, rate: int) -> str:
        """Look at as many rows as a pass within `interval` seconds takes, at most `rate` a second; what differs, in words."""
        passed = time.monotonic() - self._last
        if interval <= 0 or passed < EACH:
            return ""
        self._last += passed
        share = self._rows * 1.25 / interval  # done a little before it is due
        limit = max(1, int(min(share, float(rate or RATE)) * min(passed, 10.0)))
        found = self._link.call("inspect", {"limit": limit, "count": self._rows == 0})
        self._rows = 0 if found.get("over") else int(found.get("count") or 0) or self._rows
        return told(found)


def told(found: dict[str, Any]) -> str:
    """What a look at the replica's rows found, in words; "" where all is as it was committed."""
    if not found.get("differ"):
        return ""
    words = [str(w) for w in found.get("words") or ()]
    return f"{found['differ']} of {found['rows']} objects looked at are not as they were committed ({'; '.join(words)})"
