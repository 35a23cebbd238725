"""Where synced changelogs go: `archive_<%Y%m>.tar` beside them, appended to without reading it again (CHG-11)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator

BLOCK = 512
_END = bytes(2 * BLOCK)
_NAME = re.compile(rb"archive_\d{6}\.tar(\.broken(\.\d+)?)?")


class Archive:
    """The archives in `directory`, one per month (UTC). `clock` gives unix seconds."""

    def __init__(self, directory: bytes, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self.clock = clock
        self.dropped = 0
        """Files removed without being archived, for want of room."""
        self._ends: dict[bytes, int] = {}

    def append(self, paths: Iterable[bytes]) -> int:
        """Move files to this month's archive: written, made durable, then removed; missing ones are skipped. How many.

        A broken archive is put aside and a new one begun. Where the disk is full they are removed all the same, and
        counted in `dropped`: to keep them would keep it full. Raises OSError for any other fault; then all stay.
        """
        paths = list(paths)
        name = os.path.join(self.directory, time.strftime("archive_%Y%m.tar", time.gmtime(self.clock())).encode())
        fd, end = self._open(name)
        moved: list[bytes] = []
        try:
            self._ends.pop(name, None)  # not known again until it is whole again
            at = end
            for path in paths:
                size = _add(fd, at, path)
                if size:
                    at += size
                    moved.append(path)
            if moved:
                _write(fd, _END, at)
                os.ftruncate(fd, at + len(_END))
                os.fdatasync(fd)
                self._ends[name] = at
        except OSError as e:
            os.ftruncate(fd, end)
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.dropped += len(paths)
            moved = paths
        finally:
            os.close(fd)
        if end == 0 and not self._ends.get(name):
            os.unlink(name)
        for path in moved:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        return len(moved)

    def _open(self, name: bytes) -> tuple[int, int]:
        """The descriptor of an archive that can be appended to, and where."""
        for _ in range(2):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            end = self._end(name, fd)
            if end >= 0:
                return fd, end
            os.close(fd)
            _put_aside(name)
        raise OSError(errno.EIO, "a new archive cannot be read back", os.fsdecode(name))

    def _end(self, name: bytes, fd: int) -> int:
        """Where the next member goes; -1 when the archive is broken. Walked once, then known."""
        size = os.fstat(fd).st_size
        known = self._ends.get(name)
        if known is not None and size in (known, known + len(_END)):
            return known
        return find_end(fd, size)

    def prune(self, retention: float) -> int:
        """Remove archives last written to more than `retention` seconds ago; the bytes that freed. 0 keeps all."""
        freed = 0
        if retention <= 0:
            return 0
        for entry in self.archives():
            path = os.path.join(self.directory, entry)
            st = os.stat(path)
            if st.st_mtime < self.clock() - retention:
                os.unlink(path)
                self._ends.pop(path, None)
                freed += st.st_size
        return freed

    def since(self, second: int) -> Iterator[bytes]:
        """The contents of archived slices whose suffix is later than that second; what cannot be read is passed over."""
        for entry in [a for a in self.archives() if a.endswith(b".tar")][-2:]:
            with open(os.path.join(self.directory, entry), "rb") as f, contextlib.suppress(tarfile.HeaderError):
                for at, member in _members(f.fileno(), os.fstat(f.fileno()).st_size):
                    suffix = member.name.partition("CHANGELOG.")[2].partition(".")[0]
                    if suffix.isdigit() and int(suffix) > second:
                        yield os.pread(f.fileno(), member.size, at + BLOCK)

    def archives(self) -> list[bytes]:
        """The names of the archives, oldest month first."""
        return sorted(name for name in os.listdir(self.directory) if _NAME.fullmatch(name))


def find_end(fd: int, size: int) -> int:
    """Where the members of a tar file end; -1 when a header is damaged or a member is cut off."""
    end = 0
    try:
        for at, member in _members(fd, size):
            end = at + BLOCK + _padded(member.size)
    except tarfile.HeaderError:
        return end if size - end >= BLOCK and _only_zeros(fd, end, size) else -1
    return end if end == size else -1


def _members(fd: int, size: int) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Where each header is, and what it says. tarfile.HeaderError at the first that is none: zeros at the end, or damage."""
    at = 0
    while at < size:
        member = tarfile.TarInfo.frombuf(os.pread(fd, BLOCK, at), "utf-8", "surrogateescape")
        yield at, member
        at += BLOCK + _padded(member.size)


def _only_zeros(fd: int, at: int, size: int) -> bool:
    """A crash can leave a run of zeros in the middle: only the end of an archive may be zeros."""
    while at < size:
        chunk = os.pread(fd, 1 << 20, at)
        if not chunk or chunk.count(0) != len(chunk):
            return False
        at += len(chunk)
    return True


def _add(fd: int, at: int, path: bytes) -> int:
    """Write one member; its length in bytes, 0 when the file is missing."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        st = os.fstat(source)
        info = tarfile.TarInfo(os.fsdecode(os.path.basename(path)))
        info.size = st.st_size
        info.mtime = int(st.st_mtime)
        info.mode = 0o600
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        _write(fd, header, at)
        done = 0
        while done < st.st_size:
            chunk = os.pread(source, min(1 << 20, st.st_size - done), done)
            if not chunk:
                raise OSError(f"{os.fsdecode(path)} became shorter while it was archived")
            _write(fd, chunk, at + len(header) + done)
            done += len(chunk)
        padded = _padded(st.st_size)
        _write(fd, bytes(padded - done), at + len(header) + done)
        return len(header) + padded
    finally:
        os.close(source)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n


def _put_aside(name: bytes) -> None:
    """Rename a broken archive to a free name ending in .broken."""
    free = name + b".broken"
    number = 1
    while os.path.exists(free):
        free = b"%b.broken.%d" % (name, number)
        number += 1
    os.rename(name, free)
