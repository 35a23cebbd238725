"""Choosing where events come from: fanotify where it may be, inotify where not, else the clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from engine.journal.dirty import Dirty, Fold, Source
from engine.journal.fanotify import Fanotify, FanotifyUnavailable
from engine.journal.inotify import Inotify
from engine.model import EngineError, Gfid


class Scan:
    """A source without events: the recorder walks the tree from time to time."""

    name = "scan"
    periodic = True

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.first_time: float | None = None

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def settle(self) -> None:
        """Nothing is queued."""

    def take(self) -> Dirty:
        """Nothing is dirty."""
        self.wake.clear()
        return Dirty()

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """Not needed."""

    def watch_object(self, gfid: Gfid, fd: int) -> None:
        """Not needed."""

    def forget_directory(self, gfid: Gfid) -> None:
        """Not needed."""


def open_source(kind: str, root: bytes, brick_id: bytes, log: Callable[[str, str], None]) -> Source:
    """The best source there is (`auto`), or the one that is asked for. Raises EngineError when that can't be had."""
    if kind in ("auto", "fanotify"):
        try:
            return Fanotify(root, brick_id, Fold())
        except FanotifyUnavailable as e:
            if kind == "fanotify":
                raise EngineError(
                    f"recorder = fanotify: {e}", code="fanotify", hint="run as root on Linux 5.17, or recorder = inotify"
                ) from e
            if os.geteuid() == 0:
                log("warning", f"{e}: recording with inotify")
    if kind in ("auto", "inotify"):
        return Inotify(os.fsdecode(root), Fold())
    return Scan()
