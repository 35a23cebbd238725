"""File handles: what recognises an object of a tree for ever, and the system calls around them, through ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from hashlib import blake2b

Handle = bytes
"""4 bytes handle type (native int), then the handle as the filesystem made it."""

NO_HANDLE_TYPE = -1
"""Type of what stands for a handle where the filesystem has none: inode and birth time, 8 bytes each."""

_libc = ctypes.CDLL(None, use_errno=True)
_fast = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock: for calls too short to give it up

_AT_EMPTY_PATH = 0x1000
_MOST = 128
_name_to_handle_at = _fast.name_to_handle_at
_open_by_handle_at = _libc.open_by_handle_at
_header = struct.Struct("Ii")


class RootError(Exception):
    """The root of a tree is not what it was: another filesystem, another directory, or gone (SAFE-1)."""


class _Room(threading.local):
    """Each thread's own room for name_to_handle_at: calls of two threads may interleave."""

    def __init__(self) -> None:
        self.raw = ctypes.create_string_buffer(8 + _MOST)
        self.mount = ctypes.byref(ctypes.c_int())


_room = _Room()
_name_to_handle_at.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]


def name_to_handle(dir_fd: int, name: bytes) -> Handle:
    """The handle of a name in a directory, links not followed; with b"" that of the descriptor itself. OSError."""
    room = _room
    raw = room.raw
    _header.pack_into(raw, 0, _MOST, 0)
    if _name_to_handle_at(dir_fd, name, raw, room.mount, 0 if name else _AT_EMPTY_PATH) == 0:
        found: bytes = raw.raw
        return found[4 : 8 + _header.unpack_from(found)[0]]
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return _stand_in(dir_fd, name)
    raise OSError(number, os.strerror(number), name)


def _stand_in(dir_fd: int, name: bytes) -> Handle:
    """Inode and birth time, where there are no handles."""
    st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False) if name else os.fstat(dir_fd)
    return struct.pack("=iQq", NO_HANDLE_TYPE, st.st_ino, birth_ns(dir_fd, name))


def birth_ns(dir_fd: int, name: bytes) -> int:
    """Birth time in ns, 0 where the filesystem has none. OSError."""
    raw = ctypes.create_string_buffer(256)
    if _libc.statx(dir_fd, name, 0x100 | (0 if name else _AT_EMPTY_PATH), 0x800, raw) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    mask, seconds, nanos = struct.unpack_from("=I", raw, 0)[0], *struct.unpack_from("=qI", raw, 0x50)
    return int(seconds * 1_000_000_000 + nanos) if mask & 0x800 else 0


def open_by_handle(mount_fd: int, handle: Handle, flags: int) -> int:
    """Open an object by its handle on the filesystem of `mount_fd`. OSError: ESTALE when it is gone, EPERM."""
    length = len(handle) - 4
    raw = ctypes.create_string_buffer(struct.pack("I", length) + handle, 8 + max(length, 1))
    fd = _open_by_handle_at(mount_fd, raw, flags)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(fd)


def can_open_by_handle(root_fd: int) -> bool:
    """May this process open objects by handle there (CAP_DAC_READ_SEARCH, and a filesystem that can)?"""
    try:
        os.close(open_by_handle(root_fd, name_to_handle(root_fd, b""), os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def gfid_of(brick_id: bytes, handle: Handle) -> bytes:
    """The gfid of an object of a tree: 16 bytes that no other object of any brick has."""
    return blake2b(brick_id + handle, digest_size=16).digest()


class RootIdentity:
    """What the root of a tree is: its filesystem and its handle. `text` is for keeping."""

    def __init__(self, path: bytes, device: int, handle: Handle) -> None:
        self.path = path
        self.device = device
        self.handle = handle

    @property
    def text(self) -> str:
        """The part that stays the same over a reboot (device numbers do not)."""
        return self.handle.hex()

    @classmethod
    def of(cls, path: bytes | str) -> RootIdentity:
        """The identity of what is at a path now. OSError, RootError."""
        raw = os.fsencode(path)
        fd = os.open(raw, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return cls(raw, os.fstat(fd).st_dev, name_to_handle(fd, b""))
        finally:
            os.close(fd)

    def check(self) -> None:
        """Raises RootError when something else, or nothing, is at the path now."""
        try:
            now = RootIdentity.of(self.path)
        except OSError as e:
            raise RootError(e.strerror or str(e)) from e
        if now.device != self.device:
            raise RootError("another filesystem is mounted there, or it was unmounted")
        if now.handle != self.handle:
            raise RootError("another directory is there now")
