"""What events leave behind: dirty slots and objects, folded and bounded; and what a source of them is."""

from __future__ import annotations

import threading
import time
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
    handles of objects and directories as events named them. `overflow`: events were lost, a hybrid crawl must look
    everywhere. `first_time` is the unix time of the oldest event. `root_lost`: the root was moved, deleted, unmounted.
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
    """Collects dirty things from one thread and hands them to another."""

    def __init__(self, most: int = MAX_DIRTY) -> None:
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.most = most
        self._dirty = Dirty()

    @property
    def first_time(self) -> float | None:
        """Unix time of the oldest event not taken yet."""
        return self._dirty.first_time

    def begin(self) -> Dirty:
        """The running set; call with the lock held, and `end` when done."""
        return self._dirty

    def end(self) -> None:
        """After adding: keep the bounds, wake who waits."""
        dirty = self._dirty
        if len(dirty) > self.most:
            self._dirty = dirty = Dirty(overflow=True, root_lost=dirty.root_lost, first_time=dirty.first_time)
        if dirty.first_time is None and (len(dirty) or dirty.overflow or dirty.root_lost):
            dirty.first_time = time.time()
            self.wake.set()

    def take(self) -> Dirty:
        """What has been collected; a new set begins."""
        with self.lock:
            out, self._dirty = self._dirty, Dirty()
            self.wake.clear()
        return out


class Source(Protocol):
    """Where dirty slots come from: fanotify, inotify, or nothing but the clock (`periodic`)."""

    name: str
    periodic: bool
    wake: threading.Event

    @property
    def first_time(self) -> float | None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def settle(self) -> None: ...
    def take(self) -> Dirty: ...
    def watch_directory(self, gfid: Gfid, fd: int) -> None: ...
    def watch_object(self, gfid: Gfid, fd: int) -> None: ...
    def forget_directory(self, gfid: Gfid) -> None: ...
