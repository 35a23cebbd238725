"""The thread that reads a kernel queue into a fold, and settles it on demand."""

from __future__ import annotations

import os
import select
import threading
import time

from engine.journal.dirty import Dirty, Fold
from engine.model import Gfid

_READ = 1 << 18


class QueueSource:
    """A source that reads events from a descriptor in a thread of its own. Subclasses fold one buffer of them."""

    name = "queue"
    periodic = False

    def __init__(self, fd: int, fold: Fold, label: str) -> None:
        self.fd = fd
        self.fold = fold
        self.wake = fold.wake
        self._stop_r, self._stop_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._reading = threading.Lock()
        self._buffer = bytearray(_READ)
        self._thread = threading.Thread(target=self._run, name=f"{self.name} {label}", daemon=True)
        self._running = False

    @property
    def first_time(self) -> float | None:
        """Unix time of the oldest event not taken yet."""
        return self.fold.first_time

    def start(self) -> None:
        """Start the reading thread."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread, join it, close the queue."""
        os.write(self._stop_w, b"x")
        if self._running:
            self._thread.join()
        for fd in (self.fd, self._stop_r, self._stop_w):
            os.close(fd)

    def take(self) -> Dirty:
        """What is dirty since the last take."""
        return self.fold.take()

    def settle(self) -> None:
        """Fold all that the kernel had queued when this was called (MRK-9); a storm that goes on is not awaited."""
        deadline = time.monotonic() + 2.0
        while self._read_once() and time.monotonic() < deadline:
            pass

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self._stop_r, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop_r in ready:
                return
            self._read_once()

    def _read_once(self) -> bool:
        """Read and fold one buffer; False when the queue was empty."""
        with self._reading:
            try:
                n = os.readv(self.fd, [self._buffer])
            except BlockingIOError:
                return False
            if n == 0:
                return False
            with self.fold.lock:
                self.fold_events(memoryview(self._buffer)[:n], self.fold.begin())
                self.fold.end()
        return True

    def fold_events(self, events: memoryview, dirty: Dirty) -> None:
        """Add one buffer of events to the dirty set; called with the fold's lock held."""
        raise NotImplementedError

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """Begin to watch a directory, before it is listed."""

    def watch_object(self, gfid: Gfid, fd: int) -> None:
        """Begin to watch one file for itself."""

    def forget_directory(self, gfid: Gfid) -> None:
        """A directory is no longer of the tree."""
