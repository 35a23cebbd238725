"""The bandwidth limit: one token bucket that all jobs and bricks of a session draw from (SYN-7)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST = 0.05
"""Seconds of the rate that may be saved up while nobody sends."""


class Bandwidth:
    """Lets through `limit` bytes per second in all, whoever asks; 0 is no limit. Safe to use from any thread (SYN-7).

    What is taken is promised in the order of asking: small takers are not overtaken by large ones. `clock` gives
    seconds that only grow.
    """

    def __init__(self, limit: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._rate = 0.0
        self._at = clock()
        self._earned = 0.0
        self._promised = 0.0
        self._wakes = 0
        self._waited: float | None = None
        self.set(limit)

    @property
    def limit(self) -> int:
        """Bytes per second of now, 0 for none."""
        return int(self._rate)

    def reached(self, within: float = 5.0) -> bool:
        """Did somebody have to wait for the limit in the last seconds?"""
        return bool(self._rate) and self._waited is not None and self._clock() - self._waited <= within

    def set(self, limit: int) -> None:
        """Change the limit (bytes per second, 0 = none); who waits now waits by the new one. Raises ValueError."""
        if limit < 0:
            raise ValueError(f"a bandwidth limit of {limit} bytes/s (0 is none)")
        with self._changed:
            self._earn()
            if not limit or not self._rate:
                self._promised = self._earned
            self._rate = float(limit)
            self._changed.notify_all()

    def take(self, nbytes: int, stop: threading.Event | None = None) -> bool:
        """Wait until `nbytes` more may be sent. False when woken before, by `wake` with or without `stop` set.

        Those bytes count as sent also then, so waking somebody does not let more through in the long run.
        """
        if nbytes <= 0 or not self._rate:
            return True
        with self._changed:
            wakes = self._wakes
            self._earn()
            mine = self._promised = max(self._promised, self._earned - BURST * self._rate) + nbytes
            while self._rate and mine > self._earned:
                if self._wakes != wakes or (stop is not None and stop.is_set()):
                    return False
                self._waited = self._clock()
                self._changed.wait(min((mine - self._earned) / self._rate, threading.TIMEOUT_MAX))
                self._earn()
                self._waited = self._clock()
            return True

    def wake(self) -> None:
        """Let everybody who waits return at once, to look whether it is to stop."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def _earn(self) -> None:
        now = self._clock()
        self._earned += (now - self._at) * self._rate
        self._at = now
