"""Whether a session's engine runs, ended in order, or died: a file in its state directory, and the lock beside it."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FILE = "life.json"
LOCK = "lock"
BEAT = 5.0
"""Seconds between two signs of life: what a death leaves is as exact as that."""

ENDS = ("running", "stopped", "once", "failed")
"""What the file may say; a life that says it runs, and does not, has died."""

_GRACE = 0.5
"""Seconds a starting engine waits for the lock: who looks whether one runs has it for an instant."""


def take_lock(state: str) -> int | None:
    """The lock of a session's state directory, held as long as the descriptor is open; None where an engine has it."""
    fd = os.open(os.path.join(state, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until, pause = time.monotonic() + _GRACE, threading.Event()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
        pause.wait(0.02)  # there is no lock call with a deadline


def locked(state: str) -> bool:
    """Does an engine have the state directory now? Raises OSError where that cannot be asked."""
    try:
        fd = os.open(os.path.join(state, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of an engine's last life. Times are unix seconds.

    `how` is running, died, once (a run with --once that ended) or stopped; "" where no life was ever noted. `seen` is
    when it last gave a sign. `again` is the command that starts it; `bricks` are what it replicated, as `Who` has it,
    with the directory of each.
    """

    how: str
    seen: float | None
    since: float | None
    code: int
    again: str
    pid: int
    bricks: tuple[Mapping[str, Any], ...]


def look(state: str) -> Life:
    """The life of the session whose state is there. Raises OSError where it may not be read."""
    held = locked(state)
    doc, seen = _read(state)
    if not held and doc.get("how") == "running":
        held = locked(state)  # it may have begun between the two looks
        if not held:
            doc, seen = _read(state)  # or ended
    how = str(doc["how"]) if doc.get("how") in ENDS else ""
    if held:
        how = "running"
    elif how == "running":
        how = "died"
    bricks = doc.get("bricks")
    return Life(
        how, seen, _number(doc.get("since")), int(_number(doc.get("code")) or 0), str(doc.get("again") or ""),
        int(_number(doc.get("pid")) or 0), tuple(b for b in bricks if isinstance(b, dict)) if isinstance(bricks, list) else (),
    )  # fmt: skip


def _read(state: str) -> tuple[dict[str, Any], float | None]:
    path = os.path.join(state, FILE)
    try:
        with open(path, encoding="utf-8") as f:
            doc = json.load(f)
            seen = os.fstat(f.fileno()).st_mtime
    except FileNotFoundError:
        return {}, None
    except ValueError:
        return {}, None  # of another time: what is known is the lock
    return (doc if isinstance(doc, dict) else {}), seen


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


class Living:
    """Keeps the file while an engine runs, with a sign of life every few seconds, in a thread of its own."""

    def __init__(self, state: str, again: str, bricks: Sequence[Mapping[str, Any]]) -> None:
        self._state = state
        self._path = os.path.join(state, FILE)
        self._facts: dict[str, Any] = {"how": "running", "since": time.time(), "pid": os.getpid(), "again": again,
                                       "code": 0, "bricks": list(bricks)}  # fmt: skip
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"life {os.path.basename(state)}", daemon=True)

    def begin(self) -> None:
        """Note durably that it runs: whatever happens then without `end` is a death. Raises OSError."""
        self._keep()
        self._thread.start()

    def end(self, how: str, code: int) -> None:
        """Note durably that it ended in order."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._facts |= {"how": how, "code": code, "ended": time.time()}
        self._keep()

    def _keep(self) -> None:
        temp = self._path + ".new"
        with open(temp, "w", encoding="utf-8") as f:
            json.dump(self._facts, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temp, self._path)
        fd = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                os.utime(self._path)
            except OSError:
                continue  # a full or broken disk: the engine itself says so
