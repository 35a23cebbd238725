"""How long something that failed is left alone: longer each time, up to a limit (ERR-4)."""

from __future__ import annotations

FIRST, MOST = 1.0, 60.0
"""Seconds: the first pause, and the longest."""

STEADY = 60.0
"""Seconds that something must have worked for its next fault to count as the first one."""


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row before this one."""
    return min(MOST, FIRST * 2.0 ** min(failures, 10))
