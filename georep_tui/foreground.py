"""A process that can leave the terminal behind: what runs in it goes on, and the shell has its prompt back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from georep_tui.output import INTERNAL

_LEAVE = b"L"


class Leave:
    """In the process that does the work: the way out of the terminal."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def lost(self) -> None:
        """The terminal has gone: never touch it again."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)

    def now(self, words: str) -> None:
        """Give the terminal back: what waits in front says `words` and ends with exit code 0; this process goes on."""
        sys.stdout.write(words + "\n")
        sys.stdout.flush()
        self.lost()
        if os.getpid() != os.getsid(0):
            os.setsid()
        os.write(self._pipe, _LEAVE)


def detachable(work: Callable[[Leave], int]) -> int:
    """Run `work` in a process of its own in this terminal; returns its exit code, or 0 once it has left.

    Call it before any thread is started. SIGTERM is handed on.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    # a SIGTERM before the handler would end what waits in front, and leave the work without it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        os.close(read)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _child(work, write)
    os.close(write)
    return _wait(pid, read, before)


def _child(work: Callable[[Leave], int], pipe: int) -> None:
    """Never returns."""
    code = INTERNAL
    try:
        code = work(Leave(pipe))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, read: int, before: set[int | signal.Signals]) -> int:
    def hand_on(number: int, _frame: FrameType | None) -> None:
        os.kill(pid, number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if os.read(read, 1) == _LEAVE:
        return 0
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
