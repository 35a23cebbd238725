"""Which brick of a replica set is replicated: exactly one is active (ACT-1, ACT-2). Pure, but for the lock."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping
from typing import ClassVar

from engine.volume.facts import BrickFacts, VolumeFacts

DAMPING = 60.0
"""Seconds a brick that was down must be up before it is chosen again, so that roles do not flap (ACT-4)."""


class Election:
    """Chooses for each subvolume the first brick that runs; arbiters, which have no content, only when nothing else does.

    Every node sees the same volume and so comes to the same choice. A brick that was seen down waits DAMPING seconds
    after it is back while another can serve.
    """

    def __init__(self, facts: VolumeFacts) -> None:
        self.facts = facts
        self._down: dict[int, float | None] = {}
        """Bricks seen down: since when (monotonic) they are up again, None while they are down."""

    def choose(self, online: frozenset[tuple[str, bytes]], now: float) -> Mapping[int, int | None]:
        """The index of the active brick of each subvolume, None where none runs."""
        up: dict[int, float] = {}
        for brick in self.facts.bricks:
            if (brick.node, brick.path) not in online:
                self._down[brick.index] = None
                continue
            back = self._down.get(brick.index, now - DAMPING)
            if back is None:
                back = self._down[brick.index] = now
            up[brick.index] = back
        out: dict[int, int | None] = {}
        for subvolume in range(self.facts.subvolumes):
            ready = [b for b in self.facts.members(subvolume) if b.index in up]
            steady = [b for b in ready if now - up[b.index] >= DAMPING]
            best = min(steady or ready, key=_rank, default=None)
            out[subvolume] = None if best is None else best.index
        return out


def _rank(brick: BrickFacts) -> tuple[bool, int]:
    return brick.arbiter, brick.index


class SubvolumeLock:
    """The lock on the meta volume that makes a brick active: held until closed, lost with the process (ACT-1).

    Such a lock is the whole process's: bricks of one replica set in one process are told apart by `_held`.
    """

    _held: ClassVar[dict[str, SubvolumeLock]] = {}
    _among: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, mount: str, primary: str, secondary: str, subvolume: int) -> None:
        self.directory = os.path.join(mount, "geo-rep")
        self.path = os.path.join(self.directory, f"{primary}_{secondary}_subvol_{subvolume + 1}.lock")
        self.mount = mount
        self._fd = -1

    @property
    def there(self) -> bool:
        """Is the meta volume mounted (ACT-4)?"""
        return os.path.ismount(self.mount)

    def take(self) -> bool:
        """Try to hold it; does not wait. Raises OSError."""
        with self._among:
            if self.path not in self._held and self._lock():
                self._held[self.path] = self
            return self._held.get(self.path) is self

    def _lock(self) -> bool:
        os.makedirs(self.directory, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def close(self) -> None:
        """Let go of it."""
        with self._among:
            if self._held.get(self.path) is self:
                del self._held[self.path]
                os.close(self._fd)
                self._fd = -1
