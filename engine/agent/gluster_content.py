"""Content and attributes on a volume: small files whole, large ones in pieces, several at once (SYN-4, SYN-5, SEC-14)."""

from __future__ import annotations

import errno
import os
import stat as _stat
import threading
from typing import Callable, Optional

from engine.agent import system, wire
from engine.agent.content import OPEN_FILES, Gaps, file_result, finish, hole_of, piece_of, write_at, write_whole
from engine.agent.frames import Payload
from engine.agent.gluster_objects import Objects, set_found
from engine.agent.gluster_paths import inode_of
from engine.agent.gluster_pool import Needs, Pool
from engine.agent.handles import OpError, kind_word, system_error
from engine.agent.intent import Intent
from engine.agent.types import Gfid, MetaOp, Outcome, Stat
from engine.agent.wire import FileResult, Put, Xattrs

_UNDER_WAY = 32 << 20
"""Bytes that may wait to be written before the line is read on."""


def open_regular(objects: Objects, gfid: Gfid, flags: int) -> tuple[int, os.stat_result]:
    """Open a regular file by its gfid, checked. OpError ENOENT `absent`, `kind`; OSError."""
    found = objects.find(gfid)
    if found is None:
        raise OpError(errno.ENOENT, "absent: no such file here")
    try:
        if not _stat.S_ISREG(found.st.st_mode):
            raise OpError(errno.EINVAL, f"kind: it is {kind_word(found.st.st_mode)} here")
        # through the descriptor: the same inode, and no name is looked up again
        return os.open(b"/proc/self/fd/%d" % found.fd, flags | os.O_CLOEXEC | os.O_NONBLOCK), found.st
    finally:
        os.close(found.fd)


class _Open:
    """A file under way in pieces."""

    def __init__(self, gfid: Gfid, size: int, delta: bool) -> None:
        self.fd = -1
        self.gfid = gfid
        self.size = size
        self.delta = delta
        self.failed: Optional[OpError] = None
        self.gaps: Optional[Gaps] = None
        self.writing = 0
        self.changed = threading.Condition()


class GlusterContents:
    """Writes contents and attributes through one mount. Called by one thread; writes run in the pool."""

    def __init__(self, objects: Objects, pool: Pool, durable: Callable[[int], None], intent: Intent) -> None:
        """`durable` makes an open file durable where the commit cannot do it for all at once. On a volume every update is in
        place, and marked by `intent` until it is whole."""
        self._intent = intent
        self._objects = objects
        self._pool = pool
        self._durable = durable
        self._open: dict[int, _Open] = {}
        self._room = threading.Condition()
        self._bytes = 0

    # --- small files, attributes

    def puts(self, puts: list[Put]) -> list[FileResult]:
        """Replace the content of small files that exist."""
        results: list[Optional[FileResult]] = [None] * len(puts)

        def work(i: int) -> None:
            put = puts[i]
            size = mtime = 0
            failed: Optional[OpError] = None
            try:
                size, mtime, failed = self._put(put)
            except OpError as e:
                failed = e
            except OSError as e:
                failed = system_error(e, "content")
            results[i] = file_result(i, size, mtime, failed)

        self._intent.begin([p.gfid for p in puts])
        self._pool.run(work, [Needs((p.gfid,), (), False) for p in puts])
        done = [r for r in results if r is not None]
        for one in done:
            # attributes alone may have failed: then the size is told
            if not one.errno or one.size == len(puts[one.index].data) > 0:
                self._intent.done(puts[one.index].gfid)
        return done

    def _put(self, put: Put) -> tuple[int, int, Optional[OpError]]:
        fd, st = open_regular(self._objects, put.gfid, os.O_WRONLY)
        try:
            write_whole(fd, put.data)
            if st.st_size > len(put.data):
                os.ftruncate(fd, len(put.data))
            stat = put.stat
            if put.xattrs is None and (st.st_mode, st.st_uid, st.st_gid) == (stat.mode, stat.uid, stat.gid):
                os.utime(fd, ns=(stat.atime_ns, stat.mtime_ns))
                now = os.fstat(fd)
                seen: tuple[int, int, Optional[OpError]] = (now.st_size, now.st_mtime_ns, None)
            else:
                seen = finish(fd, stat, put.xattrs)
            self._durable(fd)
            return seen
        finally:
            os.close(fd)

    def metas(self, ops: list[MetaOp]) -> list[Outcome]:
        """Set attributes; the failures."""
        failures: list[Outcome] = []

        def work(i: int) -> None:
            op = ops[i]
            try:
                found = self._objects.find(op.gfid)
                if found is None:
                    raise OpError(errno.ENOENT, "absent: no such object here")
                try:
                    set_found(self._objects, op.gfid, found, op.stat, op.xattrs)
                finally:
                    os.close(found.fd)
            except OpError as e:
                failures.append(Outcome(i, e.errno, e.text, e.found))
            except OSError as e:
                e2 = system_error(e, "metadata")
                failures.append(Outcome(i, e2.errno, e2.text))

        self._pool.run(work, [Needs((op.gfid,), (), False) for op in ops])
        failures.sort()
        return failures

    # --- pieces

    def begin(self, ident: int, request: wire.FileBegin) -> None:
        """Open a file for pieces; what fails is told at its end."""
        self.abort(ident)
        one = _Open(request.gfid, request.size, request.delta)
        self._open[ident] = one
        try:
            if len(self._open) > OPEN_FILES:
                raise OpError(errno.EMFILE, f"refused: more than {OPEN_FILES} files at once")
            one.fd, st = open_regular(self._objects, request.gfid, os.O_WRONLY)
            self._intent.begin([request.gfid])
            if not request.delta and st.st_size:
                one.gaps = self._gaps(one, st.st_size)
        except OpError as e:
            one.failed = e
        except OSError as e:
            one.failed = system_error(e, "content")

    def data(self, ident: int, payload: Payload) -> None:
        """Write one piece, some time soon."""
        one = self._open.get(ident)
        if one is None or one.failed is not None:
            return
        try:
            offset, data = piece_of(payload, one.size)
        except OpError as e:
            one.failed = e
            return
        if one.gaps is not None:
            one.gaps.data(offset, data)
        else:
            self._soon(one, len(data), lambda: write_at(one.fd, data, offset))

    def _gaps(self, one: _Open, old_size: int) -> Gaps:
        return Gaps(
            old_size,
            lambda at, data: self._soon(one, len(data), lambda: write_at(one.fd, data, at)),
            lambda at, length: self._soon(one, 1, lambda: system.punch_hole(one.fd, at, length)),
        )

    def hole(self, ident: int, payload: Payload) -> None:
        """Make a range read as zeros; in a file written anew it is a hole already."""
        one = self._open.get(ident)
        if one is None or one.failed is not None:
            return
        try:
            offset, length = hole_of(payload, one.size)
        except OpError as e:
            one.failed = e
            return
        if one.delta and length:
            self._soon(one, length, lambda: system.punch_hole(one.fd, offset, length))

    def _soon(self, one: _Open, length: int, work: Callable[[], None]) -> None:
        weight = min(length, _UNDER_WAY)
        with self._room:
            while self._bytes and self._bytes + weight > _UNDER_WAY:
                self._room.wait()
            self._bytes += weight
        with one.changed:
            one.writing += 1

        def run() -> None:
            failed: Optional[OpError] = None
            try:
                work()
            except OSError as e:
                failed = system_error(e, "content")
            with self._room:
                self._bytes -= weight
                self._room.notify()
            with one.changed:
                one.failed = one.failed or failed
                one.writing -= 1
                one.changed.notify_all()

        self._pool.submit(run)

    def end(self, ident: int, stat: Stat, xattrs: Xattrs) -> FileResult:
        """Wait for its pieces, set the size to stat.size, then attributes; check that the object is there (SYN-5)."""
        one = self._open.pop(ident, None)
        if one is None:
            return FileResult(0, errno.EBADF, 0, 0, "refused: no file is under way under this id")
        size = mtime = 0
        if one.gaps is not None and one.failed is None:
            one.gaps.end(stat.size)
        self._written(one)
        failed = one.failed
        try:
            if failed is None:
                if os.fstat(one.fd).st_size != stat.size:
                    os.ftruncate(one.fd, stat.size)
                size, mtime, failed = finish(one.fd, stat, xattrs)
                self._durable(one.fd)
                found = self._objects.find(one.gfid)
                if found is None or found.st.st_ino != inode_of(one.gfid):
                    failed = OpError(errno.ESTALE, "system: the file was replaced while it was written")
                else:
                    self._intent.done(one.gfid)
                if found is not None:
                    os.close(found.fd)
        except OpError as e:
            failed = e
        except OSError as e:
            failed = system_error(e, "content")
        finally:
            if one.fd >= 0:
                os.close(one.fd)
        return file_result(0, size, mtime, failed)

    @staticmethod
    def _written(one: _Open) -> None:
        with one.changed:
            while one.writing:
                one.changed.wait()

    def abort(self, ident: int) -> None:
        """Give a file up."""
        one = self._open.pop(ident, None)
        if one is not None:
            self._written(one)
            if one.fd >= 0:
                os.close(one.fd)

    def close(self) -> None:
        """Give all files up."""
        for ident in list(self._open):
            self.abort(ident)
