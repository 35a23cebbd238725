"""System calls the tests make that Python has no function for."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_AT_SYMLINK_FOLLOW = 0x400
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2


def _checked(result: int, path: bytes | int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def exchange(one: bytes, two: bytes) -> None:
    """Swap two names in one call (renameat2, RENAME_EXCHANGE)."""
    _checked(_libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE), one)


def link_unnamed(fd: int, path: bytes) -> None:
    """Give a file opened with O_TMPFILE its first name."""
    _checked(_libc.linkat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, _AT_FDCWD, path, _AT_SYMLINK_FOLLOW), path)


def punch(fd: int, offset: int, length: int) -> None:
    """Make a hole of `length` bytes; the size stays."""
    mode = _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE
    _checked(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)), fd)
