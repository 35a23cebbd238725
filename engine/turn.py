"""Whose turn it is to compute: a brick's walk and its batches share one interpreter, and take turns at it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turn:
    """A lock that two kinds of threads hand to each other: batches go first, a walk uses what they leave.

    Two busy threads in one interpreter take its lock from each other at every system call and are half as fast
    together as one. So whoever computes for long holds the turn, gives it up while it only waits (`rest`), and a walk
    offers it to a waiting batch now and then (`offer`). Not to be taken twice by one thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: int | None = None
        self._batches = 0
        """Batches that wait for their turn."""
        self._kind = False

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """The turn for a batch: the next one there is."""
        self._take(True)
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def walk(self) -> Iterator[None]:
        """The turn for a piece of a walk: when no batch wants it."""
        self._take(False)
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def rest(self) -> Iterator[None]:
        """Give the turn up for as long as the body waits for something; nothing for threads that do not hold it."""
        if self._holder != threading.get_ident():
            yield
            return
        batch = self._kind
        self._give()
        try:
            yield
        finally:
            self._take(batch)

    def offer(self) -> None:
        """Let a batch that waits have its turn now. Called by a walk at a moment that suits it."""
        if self._batches and self._holder == threading.get_ident():
            self._give()
            self._take(False)

    def _take(self, batch: bool) -> None:
        with self._changed:
            if batch:
                self._batches += 1
                self._changed.wait_for(lambda: self._holder is None)
                self._batches -= 1
            else:
                self._changed.wait_for(lambda: self._holder is None and not self._batches)
            self._holder, self._kind = threading.get_ident(), batch

    def _give(self) -> None:
        with self._changed:
            self._holder = None
            self._changed.notify_all()
