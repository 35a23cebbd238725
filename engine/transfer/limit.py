"""The bandwidth limit (SYN-7): one bucket for all jobs of a session, changeable while they run."""

from __future__ import annotations

import threading
import time


class Bandwidth:
    """`limit` bytes per second, 0 for none. `take` waits until so many bytes may be sent."""

    def __init__(self, limit: int = 0) -> None:
        self._changed = threading.Condition()
        self._limit = limit
        self._next = 0.0
        self._woken = False

    @property
    def limit(self) -> int:
        """Bytes per second, 0 for none."""
        return self._limit

    def set(self, limit: int) -> None:
        """Change the limit; who waits is reckoned anew."""
        with self._changed:
            self._limit = limit
            self._next = 0.0
            self._changed.notify_all()

    def wake(self) -> None:
        """Let everybody go: the session stops."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, nbytes: int) -> None:
        """Wait until `nbytes` may be sent. Bursts of up to a quarter of a second pass at once."""
        if not self._limit:
            return
        with self._changed:
            while self._limit and not self._woken:
                now = time.monotonic()
                if self._next <= now + 0.25:
                    self._next = max(self._next, now) + nbytes / self._limit
                    return
                self._changed.wait(self._next - now - 0.25)
