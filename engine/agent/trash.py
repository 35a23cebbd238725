"""Removing for good: what the commit gives up is renamed out of reach, then deleted by a thread, however large."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Optional

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 64  # deeper directories are moved up first, so that descriptors stay few


class Trash:
    """The directory `trash` of the state directory and the thread that empties it; `close` joins it."""

    def __init__(self, state_fd: int) -> None:
        self._state_fd = state_fd
        self._fd = _subdirectory(state_fd, b"trash")
        self._next = time.time_ns()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._failed: dict[bytes, str] = {}
        self._thread = threading.Thread(target=self._run, name="agent-trash", daemon=True)
        self._thread.start()
        self._wake.set()

    def take(self, dir_fd: int, name: bytes) -> None:
        """Take an object away at once; it is deleted soon. OSError."""
        self._next += 1
        os.rename(name, b"%x" % self._next, src_dir_fd=dir_fd, dst_dir_fd=self._fd)
        self._idle.clear()
        self._wake.set()

    def keep(self, dir_fd: int, name: bytes, path: Optional[bytes], now: float) -> None:
        """Put an object into `deleted/<unix time>/` and note there where it was (SEC-16: undelete). OSError."""
        deleted = _subdirectory(self._state_fd, b"deleted")
        try:
            day = _subdirectory(deleted, b"%d" % now)
            try:
                os.rename(name, name, src_dir_fd=dir_fd, dst_dir_fd=day)
                if path is not None:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                    fd = os.open(b"paths", flags, 0o600, dir_fd=day)
                    try:
                        os.write(fd, name + b" " + path + b"\0")
                    finally:
                        os.close(fd)
            finally:
                os.close(day)
        finally:
            os.close(deleted)

    def keep_unknown(
        self, dir_fd: int, names: list[bytes], origins: dict[bytes, bytes], now: float, keep: bool
    ) -> list[str]:
        """Give up objects that no index knows: into `deleted/<unix time>.unproven/` under the paths that they had
        (`origins`), so that a copy back is their undelete; without `keep` they are deleted. What failed, in words."""
        failed: list[str] = []
        # a directory before what was in it: that is put back into it
        paths = {n: origins.get(n, n).split(b"/") for n in names}
        for name in sorted(names, key=paths.__getitem__):
            try:
                if not keep:
                    self.take(dir_fd, name)
                    continue
                try:
                    self._keep_at(dir_fd, name, paths[name], now)
                except FileNotFoundError:
                    raise
                except OSError:  # another thing has the path of its directory, or that one may not be written
                    self._keep_at(dir_fd, name, [name], now)
            except FileNotFoundError:
                continue
            except OSError as e:
                failed.append(f"{os.fsdecode(name)}: {e.strerror}")
        return failed

    def _keep_at(self, dir_fd: int, name: bytes, path: list[bytes], now: float) -> None:
        fd = _subdirectory(self._state_fd, b"deleted")
        try:
            for part in (b"%d.unproven" % now, *path[:-1]):
                new = _subdirectory(fd, part)
                os.close(fd)
                fd = new
            for n in range(100):
                there = path[-1] if not n else b"%s.%d" % (path[-1][:250], n)
                try:
                    os.stat(there, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    os.rename(name, there, src_dir_fd=dir_fd, dst_dir_fd=fd)
                    return
            self.take(dir_fd, name)
        finally:
            os.close(fd)

    def prune_unknown(self, older_than: float) -> None:
        """Delete what of this was kept before this unix time."""
        self._prune(older_than, ".unproven")

    def prune(self, older_than: float) -> None:
        """Delete what was kept before this unix time."""
        self._prune(older_than, "")

    def _prune(self, older_than: float, ending: str) -> None:
        try:
            deleted = os.open(b"deleted", _DIR, dir_fd=self._state_fd)
        except FileNotFoundError:
            return
        try:
            for name in os.listdir(deleted):
                day, dot, rest = name.partition(".")
                if day.isdigit() and dot + rest == ending and int(day) < older_than:
                    self.take(deleted, os.fsencode(name))
        finally:
            os.close(deleted)

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left to delete, at most `seconds`."""
        return self._idle.wait(seconds)

    def close(self) -> None:
        """Stop, leaving the rest for the next start, and join the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._idle.clear()
            while not self._stop.is_set():
                names = [n for n in map(os.fsencode, os.listdir(self._fd)) if n not in self._failed]
                if not names:
                    break
                for name in names:
                    if self._stop.is_set():
                        break
                    try:
                        self._delete(self._fd, name, 0)
                    except OSError as e:
                        self._failed[name] = str(e)  # immutable, say: tried again at the next start
            if self._stop.is_set():
                return
            if not self._wake.is_set():
                self._idle.set()

    def _delete(self, dir_fd: int, name: bytes, depth: int) -> None:
        try:
            os.unlink(name, dir_fd=dir_fd)
            return
        except FileNotFoundError:
            return
        except OSError as e:
            if e.errno not in (errno.EISDIR, errno.EPERM):
                raise
        try:
            fd = os.open(name, _DIR, dir_fd=dir_fd)
        except NotADirectoryError:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None
        try:
            if os.geteuid() != 0:
                os.fchmod(fd, 0o700)
            children = [os.fsencode(n) for n in os.listdir(fd)]
            for child in children:
                if self._stop.is_set():
                    return
                if depth >= _DEPTH:
                    self.take(fd, child)
                else:
                    self._delete(fd, child, depth + 1)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=dir_fd)


def _subdirectory(dir_fd: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        pass
    return os.open(name, _DIR, dir_fd=dir_fd)
