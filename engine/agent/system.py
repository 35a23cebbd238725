"""System calls that Python does not have: syncfs and hole punching, through ctypes where it is there."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any, Optional

_libc: Optional[Any]
try:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)
except (ImportError, OSError):  # a python built without libffi
    _libc = None

_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_MNT_DETACH = 2


def syncfs(fd: int) -> None:
    """Make everything on the filesystem of `fd` durable. OSError when the kernel reports a write error (MRK-6)."""
    call = getattr(_libc, "syncfs", None)
    if call is None:
        os.sync()
        return
    if call(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"syncfs: {os.strerror(number)}")


def detach(path: str) -> None:
    """Take a mount out of sight now; it goes when its last user does (umount -l). OSError."""
    call = getattr(_libc, "umount2", None)
    if call is None:
        subprocess.run(["umount", "-l", path], check=True, capture_output=True)
        return
    if call(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"umount {path}: {os.strerror(number)}")


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make a range read as zeros and free its blocks; where that cannot be done, zeros are written. OSError."""
    call = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        if call(fd, _KEEP_SIZE_PUNCH_HOLE, offset, length) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, f"fallocate: {os.strerror(number)}")
    length = min(length, max(0, os.fstat(fd).st_size - offset))
    zeros = bytes(min(length, 1 << 20))
    while length > 0:
        n = os.pwrite(fd, zeros[: min(length, len(zeros))], offset)
        offset += n
        length -= n
