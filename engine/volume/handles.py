"""File handles, birth times, file events and the identity of a root: the system calls Python does not have."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from engine.agent.system import punch_hole, syncfs

__all__ = [
    "RENAME_EXCHANGE", "RENAME_NOREPLACE", "RENAME_WHITEOUT", "RootError", "RootIdentity", "can_open_by_handle",
    "fanotify_init", "fanotify_mark", "filesystem_type", "gfid_of", "handle_as_reported", "inotify_add_watch",
    "inotify_init", "inotify_rm_watch", "name_to_handle", "open_by_handle", "punch_hole", "renameat2", "statx_birth",
    "syncfs",
]  # fmt: skip

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4

NO_HANDLE = b"\xff\xff\xff\xff"
"""Handle type of an object whose filesystem has no handles that last: inode number and birth time (ns) follow."""

_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH, _AT_HANDLE_FID = 0x100, 0x1000, 0x200
_MAX_HANDLE = 128
_STATX_INO, _STATX_BTIME = 0x100, 0x800

# The GIL is kept: the call takes a microsecond on a name that was just looked at, and giving the GIL away beside a
# busy thread costs up to 5 ms for each (measured: 1.8 against 1,370 µs).
_fast: Any = ctypes.PyDLL(None)
_libc: Any = ctypes.CDLL(None, use_errno=True)
_to_handle = getattr(_fast, "name_to_handle_at", None)


def _call(name: str, *argtypes: Any) -> Callable[..., int]:
    """A function of the C library that raises OSError where it returns -1."""
    function = getattr(_libc, name, None)
    if function is not None:
        function.argtypes = argtypes

    def call(*args: Any) -> int:
        if function is None:
            raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")
        result: int = function(*args)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return result

    call.__name__ = name
    return call


_int, _uint, _u64, _str, _ptr = ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p
_slow_to_handle = _call("name_to_handle_at", _int, _str, _ptr, _ptr, _int)
_open_by_handle = _call("open_by_handle_at", _int, _str, _int)
_statx = _call("statx", _int, _str, _int, _uint, _ptr)
_renameat2 = _call("renameat2", _int, _str, _int, _str, _uint)
_fanotify_init = _call("fanotify_init", _uint, _uint)
_fanotify_mark = _call("fanotify_mark", _int, _uint, _u64, _int, _str)
_inotify_init1 = _call("inotify_init1", _int)
_inotify_add_watch = _call("inotify_add_watch", _int, _str, ctypes.c_uint32)
_inotify_rm_watch = _call("inotify_rm_watch", _int, _int)


class _Room(threading.local):
    """One thread's `struct file_handle` (its two integers as `head`) and mount id, made once."""

    def __init__(self) -> None:
        buffer: Any = ctypes.create_string_buffer(8 + _MAX_HANDLE)
        mount = ctypes.c_int()
        head = memoryview(buffer).cast("B").cast("i")
        self.all = (buffer, head, mount, ctypes.byref(buffer), ctypes.byref(mount))


_room = _Room()
_FUSE = ("fuse", "fuseblk", "virtiofs")
_lasting: dict[int, bool] = {}
"""Mount ids seen: do the handles there last? Those of FUSE change whenever the kernel forgets an inode."""


def name_to_handle(dir_fd: int, name: bytes) -> bytes:
    """The handle of what `name` is in a directory, without following it; with b"", of what `dir_fd` itself is open on.

    The first 4 bytes are the handle type (native int). Where the filesystem has none: `NO_HANDLE`, inode number and
    birth time in ns, 8 bytes each. The caller has just looked at the name, so nothing here waits for a disk.
    Raises OSError.
    """
    buffer, head, mount, buffer_at, mount_at = _room.all
    head[0] = _MAX_HANDLE
    if _to_handle is not None and not _to_handle(dir_fd, name, buffer_at, mount_at, 0 if name else _AT_EMPTY_PATH):
        lasting = _lasting.get(mount.value)
        if lasting is None:
            lasting = _lasting[mount.value] = _mount_type(mount.value).partition(".")[0] not in _FUSE
        if lasting:
            found: bytes = buffer[4 : 8 + head[0]]
            return found
        return _without_handle(dir_fd, name)
    # the errno of a call that keeps the GIL is not kept for us: ask again
    try:
        return _ask(dir_fd, name, 0)
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EOVERFLOW):
            raise
    return _without_handle(dir_fd, name)


def handle_as_reported(fd: int) -> bytes:
    """The handle fanotify reports for what `fd` is open on: on a few filesystems not `name_to_handle`'s. OSError."""
    try:
        return _ask(fd, b"", _AT_HANDLE_FID)
    except OSError as e:
        if e.errno != errno.EINVAL:  # Linux < 6.5
            raise
    return _ask(fd, b"", 0)


def _ask(dir_fd: int, name: bytes, flags: int) -> bytes:
    buffer, head, _, buffer_at, mount_at = _room.all
    head[0] = _MAX_HANDLE
    _slow_to_handle(dir_fd, name, buffer_at, mount_at, flags if name else flags | _AT_EMPTY_PATH)
    found: bytes = buffer[4 : 8 + head[0]]
    return found


def _without_handle(dir_fd: int, name: bytes) -> bytes:
    return NO_HANDLE + struct.pack("=Qq", *statx_birth(dir_fd, name))


def statx_birth(dir_fd: int, name: bytes) -> tuple[int, int]:
    """Inode number and birth time in ns (0 if not known) of a name, or with b"" of `dir_fd`. Raises OSError."""
    out = ctypes.create_string_buffer(256)
    flags = _AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH
    try:
        _statx(dir_fd, name, flags, _STATX_INO | _STATX_BTIME, out)
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.EPERM):  # EPERM: some containers' filters
            raise
        return (os.lstat(name, dir_fd=dir_fd) if name else os.fstat(dir_fd)).st_ino, 0
    (mask,) = struct.unpack_from("=I", out, 0)
    (inode,) = struct.unpack_from("=Q", out, 32)
    seconds, nanoseconds = struct.unpack_from("=qI", out, 80)
    return inode, seconds * 1_000_000_000 + nanoseconds if mask & _STATX_BTIME else 0


def open_by_handle(mount_fd: int, handle: bytes, flags: int) -> int:
    """Open an object by its handle; `mount_fd` is any file open on the filesystem (not O_PATH).

    Raises OSError: ESTALE when the object is gone, EPERM without CAP_DAC_READ_SEARCH, EOPNOTSUPP for a `NO_HANDLE`.
    """
    if handle[:4] == NO_HANDLE:
        raise OSError(errno.EOPNOTSUPP, f"open_by_handle_at: {os.strerror(errno.EOPNOTSUPP)}")
    return _open_by_handle(mount_fd, struct.pack("=I", len(handle) - 4) + handle, flags | os.O_CLOEXEC)


def can_open_by_handle(root_fd: int) -> bool:
    """May this process open objects of that filesystem by handle (CAP_DAC_READ_SEARCH)?"""
    try:
        os.close(open_by_handle(root_fd, name_to_handle(root_fd, b""), os.O_PATH))
    except OSError:
        return False
    return True


def gfid_of(brick_id: bytes, handle: bytes) -> bytes:
    """The gfid of a tree's object: 128 bits of BLAKE2b over the brick's id and the handle with its type."""
    return blake2b(brick_id + handle, digest_size=16).digest()


def renameat2(from_fd: int, name: bytes, to_fd: int, new_name: bytes, flags: int) -> None:
    """Rename with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT. Raises OSError."""
    _renameat2(from_fd, name, to_fd, new_name, flags)


def fanotify_init(flags: int, event_flags: int) -> int:
    """A new fanotify group's descriptor. Raises OSError."""
    return _fanotify_init(flags, event_flags)


def fanotify_mark(fd: int, flags: int, mask: int, dir_fd: int, path: bytes | None) -> None:
    """Add or remove a mark; without a path, on what `dir_fd` is open on. Raises OSError."""
    _fanotify_mark(fd, flags, mask, dir_fd, path)


def inotify_init() -> int:
    """A new inotify instance's descriptor: not blocking, closed on exec. Raises OSError."""
    return _inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """Watch a path; its watch descriptor. Raises OSError (ENOSPC: too many watches)."""
    return _inotify_add_watch(fd, path, mask)


def inotify_rm_watch(fd: int, wd: int) -> None:
    """Remove a watch. Raises OSError (EINVAL: it has gone by itself)."""
    _inotify_rm_watch(fd, wd)


def filesystem_type(fd: int) -> str:
    """The type of the filesystem a descriptor is on, as mount prints it (`ext4`, `fuse.sshfs`); "" if unknown."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as f:
            mount = next((int(line.split()[1]) for line in f if line.startswith(b"mnt_id:")), -1)
    except OSError:
        return ""
    return _mount_type(mount)


def _mount_type(mount: int) -> str:
    try:
        with open("/proc/self/mountinfo", "rb") as f:
            for line in f:
                words = line.split()
                if int(words[0]) == mount:
                    return words[words.index(b"-", 6) + 1].decode("utf-8", "replace")
    except (OSError, ValueError):
        pass
    return ""


class RootError(Exception):
    """The root of a tree is not what it was (SAFE-1); the text says how."""


@dataclass(frozen=True, slots=True)
class RootIdentity:
    """What makes a directory the root it was: its filesystem and its handle (SAFE-1)."""

    path: str | bytes
    fsid: int
    handle: bytes
    text: str
    """The identity to be kept over restarts and compared with a later one's."""

    @classmethod
    def of(cls, path: str | bytes) -> RootIdentity:
        """The identity of the directory that is there now. Raises OSError when there is none."""
        _lasting.clear()  # mount ids are used again
        fd = os.open(path, _ROOT_FLAGS)
        try:
            fsid, handle = _identify(fd)
            return cls(path, fsid, handle, f"{_lasting_fsid(fd, fsid)}:{handle.hex()}")
        finally:
            os.close(fd)

    def check(self) -> None:
        """Raises RootError when another directory is at the path, or none: moved, deleted, unmounted, mounted over."""
        try:
            fd = os.open(self.path, _ROOT_FLAGS)
        except OSError as e:
            raise RootError(f"the directory is gone or out of reach: {e.strerror}") from e
        try:
            fsid, handle = _identify(fd)
        except OSError as e:
            raise RootError(f"the directory is out of reach: {e.strerror}") from e
        finally:
            os.close(fd)
        if fsid != self.fsid:
            raise RootError("another filesystem is there now: it was unmounted, or one was mounted over it")
        if handle != self.handle:
            raise RootError("another directory is there now")


_ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_XFS_GEOMETRY = 0x80705864
_XFS_UUID = slice(64, 80)


def _identify(fd: int) -> tuple[int, bytes]:
    return os.fstatvfs(fd).f_fsid, name_to_handle(fd, b"")


def _lasting_fsid(fd: int, fsid: int) -> str:
    """The filesystem's id where it outlasts a reboot, else ""; of XFS, whose id is the device's number, the UUID."""
    if fsid not in (0, os.fstat(fd).st_dev):
        return f"{fsid:x}"
    geometry = bytearray(112)
    try:
        fcntl.ioctl(fd, _XFS_GEOMETRY, geometry)
    except OSError:
        return ""
    return "xfs-" + geometry[_XFS_UUID].hex()
