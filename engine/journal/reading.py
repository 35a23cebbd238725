"""The thread that reads a kernel queue into a fold, and settles it on demand."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import threading
from collections.abc import Iterable

from engine.journal.dirty import Dirty, Fold
from engine.model import Gfid

_READ = 1 << 18


class QueueSource:
    """A source that reads events from a descriptor in a thread of its own. Subclasses fold one buffer of them.

    Between two looks at the queue the thread pauses: the kernel merges what is alike meanwhile, and a storm costs a
    few wake-ups a second and not one for each event. `reading` cleared keeps the thread (not `settle`) from reading.
    """

    name = "queue"
    periodic = False
    watches_objects = False
    pause = 0.02
    """Seconds between two looks at the queue."""

    def __init__(self, fd: int, fold: Fold, label: str) -> None:
        self.fd = fd
        self.fold = fold
        self.wake = fold.wake
        self.reading = threading.Event()
        self.reading.set()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = threading.Event()
        self._wanted = False
        self._thread = threading.Thread(target=self._run, name=f"{self.name} {label}", daemon=True)

    @property
    def first_time(self) -> float | None:
        """Unix time at which the oldest event not taken yet was read."""
        return self.fold.first_time

    @property
    def last_event(self) -> float:
        """When (monotonic) the latest event was read."""
        return self.fold.last

    def start(self) -> None:
        """Start the reading thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, join it, close the queue. A second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        os.eventfd_write(self._stop_fd, 1)
        self.reading.set()
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self.fd)
        os.close(self._stop_fd)

    def take(self) -> Dirty:
        """What is dirty since the last take."""
        self._wanted = True
        out = self.fold.take()
        self._wanted = False
        return out

    def settle(self) -> None:
        """Fold all that the kernel had queued when this was called (MRK-9); a storm that goes on is not awaited.

        Raises OSError.
        """
        self._wanted = True  # the thread gives the lock up after the buffer it is at
        with self.fold.lock:
            self._wanted = False
            self._drain(polite=False)

    def _run(self) -> None:
        events, stop = select.poll(), select.poll()
        events.register(self.fd, select.POLLIN)
        events.register(self._stop_fd, select.POLLIN)
        stop.register(self._stop_fd, select.POLLIN)
        pause = self.pause * 1000
        while True:
            events.poll()
            self.reading.wait()
            if self._stop.is_set():
                return
            with self.fold.lock:
                try:
                    self._drain(polite=True)
                except OSError:
                    # events are lost from here on; the next settle meets the error and raises it
                    self.fold.dirty.overflow = True
                    self.fold.end()
                    return
            if stop.poll(pause):
                return

    def _drain(self, *, polite: bool) -> None:
        """Read what the queue holds now, with the fold's lock held; if polite, less when someone wants the lock."""
        left = self._queued()
        while left > 0 and not (polite and self._wanted):
            events = self._read()
            if not events:
                return
            left -= self.fold_events(events, self.fold.dirty)
            self.fold.end()

    def _queued(self) -> int:
        """The length of the queue, as the kernel counts it: inotify in bytes, fanotify in 24 for each event."""
        out = array.array("i", [0])
        fcntl.ioctl(self.fd, termios.FIONREAD, out)
        return out[0]

    def _read(self) -> bytes:
        """A buffer of events; b"" when there are none."""
        try:
            return os.read(self.fd, _READ)
        except BlockingIOError:
            return b""

    def fold_events(self, events: bytes, dirty: Dirty) -> int:
        """Add one buffer of events to the dirty set, with the lock held; how much shorter the queue is by them."""
        raise NotImplementedError

    @property
    def each_file(self) -> bool:
        """Is each regular file to be watched for itself?"""
        return False

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """Begin to watch a directory, before it is listed."""

    def watch_object(self, gfid: Gfid, fd: int, sure: bool) -> None:
        """Begin to watch one file for itself."""

    def forget_directory(self, gfid: Gfid) -> None:
        """A directory is no longer of the tree."""

    def ignore(self, gfids: Iterable[Gfid]) -> None:
        """Directories whose events are of no interest."""
