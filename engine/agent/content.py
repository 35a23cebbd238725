"""Content of regular files, whole or in pieces, acknowledged by what fstat then says (SYN-4, SYN-5)."""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

from engine.agent import system, wire
from engine.agent.attributes import set_attributes, set_where
from engine.agent.beside import NOT_HERE, Beside
from engine.agent.frames import Payload
from engine.agent.handles import OpError, ident_of, kind_word, system_error
from engine.agent.intent import Intent
from engine.agent.tree import Tree, Where
from engine.agent.types import Gfid, MetaOp, Outcome, Stat
from engine.agent.wire import FileResult, Put, Xattrs

OPEN_FILES = 256
"""How many files may be under way in pieces at once."""

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_file(tree: Tree, gfid: Gfid, flags: int) -> int:
    """Open a regular file by its gfid, checked. OpError ENOENT `absent`, `kind`; OSError."""
    where = tree.locate(gfid)
    if where is None:
        raise OpError(errno.ENOENT, "absent: no such file here")
    return open_where(where, flags)


def open_where(where: Where, flags: int) -> int:
    """Open a regular file that was found, checked; one that we own but may not write is made writable first."""
    if not _stat.S_ISREG(where.st.st_mode):
        raise OpError(errno.EINVAL, f"kind: it is {kind_word(where.st.st_mode)} here")
    try:
        fd = os.open(where.name, flags | _FLAGS, dir_fd=where.pfd)
    except PermissionError:
        if os.geteuid() == 0 or where.st.st_uid != os.geteuid():
            raise
        mode = where.st.st_mode & 0o7777 | 0o600
        _chmod(where, mode)
        fd = os.open(where.name, flags | _FLAGS, dir_fd=where.pfd)
    st = os.fstat(fd)
    if ident_of(st) != ident_of(where.st) or not _stat.S_ISREG(st.st_mode):
        os.close(fd)
        raise OpError(errno.ESTALE, "system: it was replaced by something else just now")
    return fd


def _chmod(where: Where, mode: int) -> None:
    fd = os.open(where.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where.pfd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def write_whole(fd: int, data: bytes) -> None:
    """Write all from the current position. OSError."""
    n = os.write(fd, data) if data else 0
    while n < len(data):
        n += os.write(fd, memoryview(data)[n:])


def rewrite(fd: int, data: bytes, stat: Optional[Stat], xattrs: Xattrs) -> tuple[int, int, Optional[OpError]]:
    """Replace the content of an open file in place; size and mtime as fstat then has them, and what attributes failed."""
    write_whole(fd, data)
    if os.fstat(fd).st_size > len(data):
        os.ftruncate(fd, len(data))
    return finish(fd, stat, xattrs)


def finish(fd: int, stat: Optional[Stat], xattrs: Xattrs) -> tuple[int, int, Optional[OpError]]:
    """Attributes after content; size, mtime_ns as seen then, and the failure to set some of them."""
    failed: Optional[OpError] = None
    if stat is not None:
        try:
            set_attributes(fd, os.fstat(fd), stat, xattrs)
        except OpError as e:
            failed = e
    st = os.fstat(fd)
    return st.st_size, st.st_mtime_ns, failed


class Writer:
    """Content of files that exist: beside them where that can be, else in place, marked (see `intent`). For one thread."""

    def __init__(self, tree: Tree, beside: Beside, intent: Intent) -> None:
        self.tree, self.beside, self.intent = tree, beside, intent

    def whole(self, gfid: Gfid, data: bytes, stat: Optional[Stat], xattrs: Xattrs) -> tuple[int, int, Optional[OpError]]:
        """Replace the content of one file. OpError, OSError."""
        seen = self.replace(gfid, data, stat, xattrs)
        if seen is None:
            self.intent.begin([gfid])
            seen = self.in_place(gfid, data, stat, xattrs)
        return seen

    def replace(
        self, gfid: Gfid, data: bytes, stat: Optional[Stat], xattrs: Xattrs
    ) -> Optional[tuple[int, int, Optional[OpError]]]:
        """Put a file of this content in its place; None where it has to be written in place. OpError, OSError."""
        where = self.tree.locate(gfid)
        if where is None:
            raise OpError(errno.ENOENT, "absent: no such file here")
        if not self.beside.fits(gfid, where, len(data)):
            return None
        try:
            fd, name = self.beside.open(where.st.st_mode if stat is None else stat.mode)
            try:
                write_whole(fd, data)
                seen = self.beside.put(gfid, where, fd, name, stat, xattrs)
            except BaseException:
                self.beside.drop(name)
                raise
            finally:
                os.close(fd)
        except OSError as e:
            # on a full disk, what has its blocks already may be written over, and nothing larger begun
            full = e.errno in (errno.ENOSPC, errno.EDQUOT) and where.st.st_blocks * 512 >= len(data)
            if full or e.errno in NOT_HERE:
                return None
            raise
        self.arrived(gfid)
        return seen

    def in_place(
        self, gfid: Gfid, data: bytes, stat: Optional[Stat], xattrs: Xattrs
    ) -> tuple[int, int, Optional[OpError]]:
        """Write over a file that was marked. OpError, OSError."""
        fd = open_file(self.tree, gfid, os.O_WRONLY)
        try:
            seen = rewrite(fd, data, stat, xattrs)
        finally:
            os.close(fd)
        self.arrived(gfid)
        return seen

    def arrived(self, gfid: Gfid) -> None:
        """It is whole."""
        self.tree.unsure.discard(gfid)
        self.intent.done(gfid)


class Gaps:
    """A file written over in place, in order, without being cut first: what comes with nothing sent for it is a hole.

    The last piece waits until the next word: one that could not be read is followed by the sender's giving up, and the
    file keeps what it has there. `write(offset, data)` and `punch(offset, length)` do it.
    """

    def __init__(
        self, old_size: int, write: Callable[[int, memoryview], None], punch: Callable[[int, int], None]
    ) -> None:
        self._old, self._write, self._punch = old_size, write, punch
        self._at = 0
        self._waiting: Optional[tuple[int, memoryview]] = None

    def data(self, offset: int, data: memoryview) -> None:
        """A piece."""
        self.flush()
        self._waiting = (offset, data)

    def flush(self) -> None:
        """The last piece was good."""
        if self._waiting is not None:
            (offset, data), self._waiting = self._waiting, None
            self._hole(offset)
            self._write(offset, data)
            self._at = max(self._at, offset + len(data))

    def end(self, size: int) -> None:
        """All was good."""
        self.flush()
        self._hole(size)

    def _hole(self, until: int) -> None:
        until = min(until, self._old)
        if until > self._at:
            self._punch(self._at, until - self._at)


@dataclass
class _Open:
    """A file under way in pieces: beside the old one under `name`, or in place."""

    fd: int
    gfid: Gfid
    size: int
    delta: bool
    failed: Optional[OpError] = None
    name: bytes = b""
    inode: int = 0
    gaps: Optional[Gaps] = None


class Contents:
    """Writes contents. Used by one thread."""

    def __init__(self, tree: Tree, writer: Writer) -> None:
        self._tree = tree
        self._writer = writer
        self._open: dict[int, _Open] = {}
        self.staged: dict[Gfid, Callable[[MetaOp], Optional[OpError]]] = {}
        """Content that rsync or tar has brought: put in its place with the attributes that come for it."""

    def puts(self, puts: list[Put]) -> list[FileResult]:
        """Replace the content of small files that exist."""
        writer = self._writer
        results: dict[int, FileResult] = {}
        in_place: list[int] = []

        def attempt(index: int, write: Callable[..., Optional[tuple[int, int, Optional[OpError]]]]) -> None:
            put = puts[index]
            self._tree.dirs.settle()
            size = mtime = 0
            failed: Optional[OpError]
            try:
                seen = write(put.gfid, put.data, put.stat, put.xattrs)
                if seen is None:
                    in_place.append(index)
                    return
                size, mtime, failed = seen
            except OpError as e:
                failed = e
            except OSError as e:
                failed = system_error(e, "content")
            results[index] = file_result(index, size, mtime, failed)

        for index in range(len(puts)):
            attempt(index, writer.replace)
        if in_place:
            try:
                writer.intent.begin([puts[i].gfid for i in in_place])
            except OSError as e:
                unmarked = system_error(e, "content")
                results.update((i, file_result(i, 0, 0, unmarked)) for i in in_place)
                in_place = []
            for index in list(in_place):
                attempt(index, writer.in_place)
        return [results[i] for i in range(len(puts))]

    def begin(self, ident: int, request: wire.FileBegin) -> None:
        """Open a file for pieces; what fails is told at its end."""
        self.abort(ident)
        one = _Open(-1, request.gfid, request.size, request.delta)
        self._open[ident] = one
        try:
            if len(self._open) > OPEN_FILES:
                raise OpError(errno.EMFILE, f"refused: more than {OPEN_FILES} files at once")
            self._tree.dirs.settle()
            where = self._tree.locate(request.gfid)
            if where is None:
                raise OpError(errno.ENOENT, "absent: no such file here")
            one.inode = where.st.st_ino
            if not request.delta and self._writer.beside.fits(request.gfid, where, request.size):
                one.fd, one.name = self._writer.beside.open()
                os.ftruncate(one.fd, request.size)
                return
            one.fd = fd = open_where(where, os.O_WRONLY)
            self._writer.intent.begin([request.gfid])
            if not request.delta:
                one.gaps = Gaps(
                    where.st.st_size, lambda at, data: write_at(fd, data, at),
                    lambda at, length: system.punch_hole(fd, at, length),
                )  # fmt: skip
        except OpError as e:
            one.failed = e
        except OSError as e:
            one.failed = system_error(e, "content")

    def data(self, ident: int, payload: Payload) -> None:
        """Write one piece."""
        one = self._open.get(ident)
        if one is None or one.failed is not None:
            return
        try:
            offset, data = piece_of(payload, one.size)
            if one.gaps is not None:
                one.gaps.data(offset, data)
                return
            with data:
                write_at(one.fd, data, offset)
        except OpError as e:
            one.failed = e
        except OSError as e:
            one.failed = system_error(e, "content")

    def hole(self, ident: int, payload: Payload) -> None:
        """Make a range read as zeros; in a file written anew it is a hole already."""
        one = self._open.get(ident)
        if one is None or one.failed is not None:
            return
        try:
            offset, length = hole_of(payload, one.size)
            if one.delta and length:
                system.punch_hole(one.fd, offset, length)
        except OpError as e:
            one.failed = e
        except OSError as e:
            one.failed = system_error(e, "content")

    def end(self, ident: int, stat: Stat, xattrs: Xattrs) -> FileResult:
        """Set the size to stat.size, then attributes; check that the object is still in its place (SYN-5)."""
        one = self._open.pop(ident, None)
        if one is None:
            return FileResult(0, errno.EBADF, 0, 0, "refused: no file is under way under this id")
        size = mtime = 0
        failed = one.failed
        try:
            if failed is None:
                size, mtime, failed = self._end(one, stat, xattrs)
        except OpError as e:
            failed = e
        except OSError as e:
            failed = system_error(e, "content")
        finally:
            self._let_go(one)
        return file_result(0, size, mtime, failed)

    def _end(self, one: _Open, stat: Stat, xattrs: Xattrs) -> tuple[int, int, Optional[OpError]]:
        if one.gaps is not None:
            one.gaps.end(stat.size)
        if os.fstat(one.fd).st_size != stat.size:
            os.ftruncate(one.fd, stat.size)
        seen = None if one.name else finish(one.fd, stat, xattrs)
        self._tree.dirs.settle()
        where = self._tree.locate(one.gfid)
        if where is None or where.st.st_ino != one.inode:
            raise OpError(errno.ESTALE, "system: the file was replaced while it was written")
        if seen is None:
            seen = self._writer.beside.put(one.gfid, where, one.fd, one.name, stat, xattrs)
            one.name = b""
        self._writer.arrived(one.gfid)
        return seen

    def _let_go(self, one: _Open) -> None:
        if one.fd >= 0:
            os.close(one.fd)
        if one.name:
            self._writer.beside.drop(one.name)

    def abort(self, ident: int) -> None:
        """Give a file up: the old one is where it was, or, written in place, keeps what it has, and its mark."""
        one = self._open.pop(ident, None)
        if one is not None:
            self._let_go(one)

    def close(self) -> None:
        """Give all files up."""
        for ident in list(self._open):
            self.abort(ident)

    def metas(self, ops: list[MetaOp]) -> list[Outcome]:
        """Set attributes; the failures."""
        failures: list[Outcome] = []
        for index, op in enumerate(ops):
            self._tree.dirs.settle()
            try:
                put = self.staged.pop(op.gfid, None) if self.staged else None
                if put is not None:
                    if failed := put(op):
                        raise failed
                    continue
                where = self._tree.locate(op.gfid)
                if where is None:
                    raise OpError(errno.ENOENT, "absent: no such object here")
                if where.st.st_mode & 0o170000 != op.stat.mode & 0o170000:
                    raise OpError(errno.EINVAL, f"kind: it is {kind_word(where.st.st_mode)} here")
                set_where(where, op.stat, op.xattrs)
            except OpError as e:
                failures.append(Outcome(index, e.errno, e.text, e.found))
            except OSError as e:
                e2 = system_error(e, "metadata")
                failures.append(Outcome(index, e2.errno, e2.text))
        return failures


def piece_of(payload: Payload, size: int) -> tuple[int, memoryview]:
    """Offset and bytes of a piece of a file of `size` bytes. OpError EBADMSG, EFBIG."""
    if len(payload) < wire.FILE_OFFSET.size:
        raise OpError(errno.EBADMSG, "refused: a piece without an offset")
    (offset,) = wire.FILE_OFFSET.unpack_from(payload, 0)
    data = memoryview(payload)[wire.FILE_OFFSET.size :]
    _check_range(offset, len(data), size)
    return offset, data


def hole_of(payload: Payload, size: int) -> tuple[int, int]:
    """Offset and length of a hole in a file of `size` bytes. OpError EBADMSG, EFBIG."""
    if len(payload) != wire.FILE_HOLE.size:
        raise OpError(errno.EBADMSG, "refused: a hole without a range")
    offset, length = wire.FILE_HOLE.unpack(payload)
    _check_range(offset, length, size)
    return offset, length


def _check_range(offset: int, length: int, size: int) -> None:
    if offset + length > size:
        raise OpError(errno.EFBIG, f"refused: bytes {offset}+{length} of a file of {size}")


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of it there."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def file_result(index: int, size: int, mtime: int, failed: Optional[OpError]) -> FileResult:
    """What came of one file, with the size in bytes and the mtime in nanoseconds as they are seen now."""
    if failed is None:
        return FileResult(index, 0, size, mtime, "")
    return FileResult(index, failed.errno, size, mtime, failed.text)
