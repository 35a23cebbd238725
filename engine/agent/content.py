"""Content of regular files, whole or in pieces, acknowledged by what fstat then says (SYN-4, SYN-5)."""

from __future__ import annotations

import errno
import os
import stat as _stat
from dataclasses import dataclass
from typing import Optional

from engine.agent import committed, system, wire
from engine.agent.attributes import set_attributes, set_where
from engine.agent.frames import Payload
from engine.agent.handles import OpError, ident_of, kind_word, system_error
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


def rewrite(where: Where, data: bytes, stat: Optional[Stat], xattrs: Xattrs) -> tuple[os.stat_result, Optional[OpError]]:
    """Replace the content of a file; what fstat then says, and what attributes failed."""
    fd = open_where(where, os.O_WRONLY)
    try:
        os.ftruncate(fd, 0)
        write_whole(fd, data)
        return finished(fd, stat, xattrs)
    finally:
        os.close(fd)


def finish(fd: int, stat: Optional[Stat], xattrs: Xattrs) -> tuple[int, int, Optional[OpError]]:
    """Attributes after content; size, mtime_ns as seen then, and the failure to set some of them."""
    st, failed = finished(fd, stat, xattrs)
    return st.st_size, st.st_mtime_ns, failed


def finished(fd: int, stat: Optional[Stat], xattrs: Xattrs) -> tuple[os.stat_result, Optional[OpError]]:
    """The same with all that fstat then says."""
    failed: Optional[OpError] = None
    if stat is not None:
        try:
            set_attributes(fd, os.fstat(fd), stat, xattrs)
        except OpError as e:
            failed = e
    return os.fstat(fd), failed


@dataclass
class _Open:
    """A file under way in pieces."""

    fd: int
    gfid: Gfid
    size: int
    delta: bool
    failed: Optional[OpError] = None


class Contents:
    """Writes contents. Used by one thread."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: dict[int, _Open] = {}

    def puts(self, puts: list[Put]) -> list[FileResult]:
        """Replace the content of small files that exist."""
        results: list[FileResult] = []
        for index, put in enumerate(puts):
            self._tree.dirs.settle()
            size = mtime = 0
            failed: Optional[OpError]
            try:
                where = self._tree.locate(put.gfid)
                if where is None:
                    raise OpError(errno.ENOENT, "absent: no such file here")
                self._tree.touched.add(put.gfid)
                st, failed = rewrite(where, put.data, put.stat, put.xattrs)
                size, mtime = st.st_size, st.st_mtime_ns
                self._tree.unsure.discard(put.gfid)
                committed.seen(self._tree, where, put.gfid, st)
            except OpError as e:
                failed = e
            except OSError as e:
                failed = system_error(e, "content")
            results.append(file_result(index, size, mtime, failed))
        return results

    def begin(self, ident: int, request: wire.FileBegin) -> None:
        """Open a file for pieces; what fails is told at its end."""
        self.abort(ident)
        one = _Open(-1, request.gfid, request.size, request.delta)
        self._open[ident] = one
        try:
            if len(self._open) > OPEN_FILES:
                raise OpError(errno.EMFILE, f"refused: more than {OPEN_FILES} files at once")
            self._tree.dirs.settle()
            self._tree.touched.add(request.gfid)
            one.fd = open_file(self._tree, request.gfid, os.O_WRONLY)
            if not request.delta:
                os.ftruncate(one.fd, 0)
                os.ftruncate(one.fd, request.size)
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
                now = os.fstat(one.fd)
                if now.st_size != stat.size:
                    os.ftruncate(one.fd, stat.size)
                size, mtime, failed = finish(one.fd, stat, xattrs)
                self._tree.dirs.settle()
                where = self._tree.locate(one.gfid)
                if where is None or where.st.st_ino != now.st_ino:
                    failed = OpError(errno.ESTALE, "system: the file was replaced while it was written")
                else:
                    self._tree.unsure.discard(one.gfid)
                    committed.seen(self._tree, where, one.gfid)
        except OpError as e:
            failed = e
        except OSError as e:
            failed = system_error(e, "content")
        finally:
            if one.fd >= 0:
                os.close(one.fd)
        return file_result(0, size, mtime, failed)

    def abort(self, ident: int) -> None:
        """Give a file up."""
        one = self._open.pop(ident, None)
        if one is not None and one.fd >= 0:
            os.close(one.fd)

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
                where = self._tree.locate(op.gfid)
                if where is None:
                    raise OpError(errno.ENOENT, "absent: no such object here")
                if where.st.st_mode & 0o170000 != op.stat.mode & 0o170000:
                    raise OpError(errno.EINVAL, f"kind: it is {kind_word(where.st.st_mode)} here")
                self._tree.touched.add(op.gfid)
                set_where(where, op.stat, op.xattrs)
                committed.seen(self._tree, where, op.gfid)
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
