"""What events leave behind: dirty slots and objects, folded and bounded; and what a source of them is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from engine.model import EngineError, Gfid

DATA, META, ENTRY = 1, 2, 4
"""Flags: content, attributes, the name itself."""

MAX_DIRTY = 1_000_000
"""Slots and objects held at most; beyond, a hybrid crawl is cheaper than memory."""


class WatchLimit(EngineError):
    """The kernel gives no more inotify watches."""


@dataclass(slots=True)
class Dirty:
    """What has to be looked at when a slice closes.

    `slots` are (gfid of the directory, raw name) with flags; `objects` are gfids with flags; `handles` are the file
    handles of objects and directories as events named them (fanotify only). `overflow`: events were lost, a hybrid
    crawl must look everywhere. `first_time` is the unix time at which the oldest event was read. `root_lost`: the
    root was moved, deleted or unmounted.
    """

    slots: dict[tuple[Gfid, bytes], int] = field(default_factory=dict)
    objects: dict[Gfid, int] = field(default_factory=dict)
    handles: dict[Gfid, bytes] = field(default_factory=dict)
    overflow: bool = False
    root_lost: bool = False
    first_time: float | None = None

    def __len__(self) -> int:
        return len(self.slots) + len(self.objects)


class Fold:
    """Collects dirty things from one thread and hands them to another.

    Whoever adds holds `lock`, adds to `dirty` and calls `end`. `wake` is set by the first event after a `take`.
    """

    def __init__(self, most: int = MAX_DIRTY) -> None:
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.most = most
        self.dirty = Dirty()
        self.last = 0.0
        """When (monotonic) the latest event was added."""

    @property
    def first_time(self) -> float | None:
        """Unix time at which the oldest event not taken yet was read."""
        return self.dirty.first_time

    def end(self) -> None:
        """After adding: keep the bounds, wake who waits."""
        dirty = self.dirty
        self.last = time.monotonic()
        if dirty.overflow or len(dirty) > self.most:
            # what is known makes no difference any more: everything is looked at
            self.dirty = dirty = Dirty(overflow=True, root_lost=dirty.root_lost, first_time=dirty.first_time)
        if dirty.first_time is None and (len(dirty) or dirty.overflow or dirty.root_lost):
            dirty.first_time = time.time()
            self.wake.set()

    def take(self) -> Dirty:
        """What has been collected; a new set begins."""
        with self.lock:
            out, self.dirty = self.dirty, Dirty()
            self.wake.clear()
        return out


class Source(Protocol):
    """Where dirty slots come from: fanotify, inotify, or nothing but the clock (`periodic`).

    One thread settles, takes, watches and ignores: the recorder's. `wake` is set by the first event after a take.
    """

    name: str
    periodic: bool
    watches_objects: bool
    """Are files watched for themselves? Else `watch_object` is not called."""
    wake: threading.Event

    @property
    def first_time(self) -> float | None:
        """Unix time at which the oldest event not taken yet was read."""

    @property
    def last_event(self) -> float:
        """When (monotonic) the latest event was read; 0 before the first."""

    def start(self) -> None:
        """Begin to read. Events count from the making of the source on, not from here."""

    def stop(self) -> None:
        """End the reading, join its thread, release what the kernel holds."""

    def settle(self) -> None:
        """Fold all that the kernel has queued now (MRK-9). Raises OSError."""

    def take(self) -> Dirty:
        """What is dirty since the last take; a new set begins, atomically."""

    @property
    def each_file(self) -> bool:
        """Is each regular file to be watched for itself, not only those with several names?"""

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """Before a directory (`fd` is open on it) is listed: from here on its events are seen.

        Raises WatchLimit, OSError.
        """

    def watch_object(self, gfid: Gfid, fd: int, sure: bool) -> None:
        """Watch a file for itself: it may be written through a name outside the tree.

        `sure`: it has or had other names; else, that it gets one is to be heard. Raises WatchLimit, OSError.
        """

    def forget_directory(self, gfid: Gfid) -> None:
        """A directory (or a file that was watched for itself) is no longer of the tree."""

    def ignore(self, gfids: Iterable[Gfid]) -> None:
        """Directories on the tree's filesystem that are certainly not in it: their events are dropped.

        A directory made in one of them is ignored too; `watch_directory` takes it back. No object there may have
        another name in the tree.
        """
