"""The stream engine (SYN-4): content over the one open line; small files many to a frame, large ones in chunks."""

from __future__ import annotations

import errno
import os
import queue
import stat as _stat
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from engine.agent import wire
from engine.agent.frames import Frame, Kind
from engine.apply import BRICK_ERRNOS, FRAME, INLINE, WINDOW, Problem, Result, Watch, brick_fault, owner_only
from engine.link import Link, Pending, RemoteError
from engine.model import Gfid
from engine.volume.base import Gone, View

CHUNK = 1 << 20
"""Bytes of a large file in one frame."""

BLOCK = 128 * 1024
"""Bytes whose digests are compared when a file that exists there is sent by difference."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What was sent of one file, for comparing with what the secondary then sees."""

    gfid: Gfid
    size: int
    mtime_ns: int
    large: bool = False
    """Its bytes were told as they went."""


class Stream:
    """Sends content over the link of the brick. Used by one thread."""

    def __init__(
        self, view: View, link: Link, watch: Watch, *, delta_threshold: int, xattrs: bool = True
    ) -> None:
        self.view = view
        self.link = link
        self.watch = watch
        self.delta_threshold = delta_threshold
        self.with_xattrs = xattrs

    def send(self, gfids: Iterable[Gfid], made: Collection[Gfid], result: Result) -> None:
        """See Transfer.send."""
        flight: deque[tuple[Pending, list[_Sent]]] = deque()
        puts: list[bytes] = []
        sent: list[_Sent] = []
        size = 0

        def flush() -> None:
            nonlocal puts, sent, size
            if puts:
                self.watch.throttle(size)
                flight.append((self.link.request(Kind.PUT, *puts), sent))
                puts, sent, size = [], [], 0
            while len(flight) > WINDOW or (flight and flight[0][0].done.is_set()):
                self._done(*flight.popleft(), result)

        for gfid in gfids:
            try:
                fd = self.view.open_file(gfid)
            except Gone:
                if self.view.index.has(gfid):
                    result.gone.append(gfid)
                continue
            except OSError as e:
                result.problems.append(Problem(gfid, None, "DATA", e.errno or 0, f"primary: {e.strerror}"))
                continue
            try:
                st = os.fstat(fd)
                if not _stat.S_ISREG(st.st_mode):
                    continue
                if st.st_size <= INLINE and st.st_blocks * 512 >= st.st_size:
                    data = os.read(fd, st.st_size + 1) if st.st_size else b""
                    if len(data) != st.st_size:  # it changes as we look, or cannot be read on
                        data, st = _to_its_end(fd)
                    stat = self.view.stat_of(st, fd)._replace(size=len(data))
                    puts.append(wire.encode_put(wire.Put(gfid, stat, self._xattrs(fd), data)))
                    sent.append(_Sent(gfid, len(data), stat.mtime_ns))
                    size += len(puts[-1])
                    if size >= FRAME or len(puts) >= 400:
                        flush()
                else:
                    flush()
                    delta = gfid not in made and st.st_size >= self.delta_threshold
                    flight.append(self._large(gfid, fd, st, delta))
            except OSError as e:
                self.watch.ends(gfid)
                result.problems.append(Problem(gfid, None, "DATA", e.errno or 0, f"primary: {e.strerror}"))
            finally:
                os.close(fd)
        flush()
        while flight:
            self._done(*flight.popleft(), result)

    def _xattrs(self, fd: int) -> dict[bytes, bytes] | None:
        return self.view.xattrs_of(fd) if self.with_xattrs else None

    def _done(self, pending: Pending, sent: list[_Sent], result: Result) -> None:
        try:
            answers = wire.decode_files_reply(pending.wait().payload)
        except RemoteError as e:
            if e.errno in BRICK_ERRNOS:
                raise brick_fault(self.link.where, e.errno or 0, e.text) from e
            for one in sent:
                result.problems.append(Problem(one.gfid, None, "DATA", e.errno or errno.EREMOTEIO, e.text))
            return
        finally:
            for one in sent:
                if one.large:
                    self.watch.ends(one.gfid)
        by_index = {a.index: a for a in answers}
        files = nbytes = small = 0
        for at, one in enumerate(sent):
            answer = by_index.get(at)
            if answer is None:
                problem = Problem(one.gfid, None, "DATA", errno.EREMOTEIO, "the secondary did not acknowledge it")
            elif answer.errno in BRICK_ERRNOS:
                raise brick_fault(self.link.where, answer.errno, answer.text)
            elif answer.errno and not owner_only(self.link, answer.text):
                problem = Problem(one.gfid, None, "DATA", answer.errno, answer.text)
            elif answer.size != one.size or answer.mtime_ns != one.mtime_ns:
                problem = Problem(
                    one.gfid, None, "DATA", errno.EREMOTEIO,
                    f"sent {one.size} bytes, the secondary sees {answer.size} (mtime {answer.mtime_ns})",
                )  # fmt: skip
            else:
                result.sent.add(one.gfid)
                files += 1
                nbytes += one.size
                small += 0 if one.large else one.size
                continue
            result.problems.append(problem)
        result.files += files
        result.bytes += nbytes
        self.watch.files(files, small)

    # ---- large files -----------------------------------------------------------------------------------------

    def _large(self, gfid: Gfid, fd: int, st: os.stat_result, delta: bool) -> tuple[Pending, list[_Sent]]:
        link = self.link
        ident = link.new_id()
        self.watch.begins(gfid, self.view.index.path(gfid), st.st_size, followed=True)
        try:
            if delta:
                size = self._changed_blocks(ident, gfid, fd, st)
            else:
                link.post(Kind.FILE_BEGIN, ident, wire.encode_file_begin(wire.FileBegin(gfid, st.st_size, False)))
                size = self._segments(ident, gfid, fd, st.st_size)
            stat = self.view.stat_of(st, fd)._replace(size=size)
            end = wire.encode_file_end(stat, self._xattrs(fd))
        except OSError:
            link.post(Kind.FILE_ABORT, ident)
            raise
        pending = link.expect(ident)
        link.post(Kind.FILE_END, ident, end)
        return pending, [_Sent(gfid, size, stat.mtime_ns, large=True)]

    def _segments(self, ident: int, gfid: Gfid, fd: int, size: int) -> int:
        """Send what is not a hole; the size to be set in the end. OSError where it cannot be read to its end."""
        at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
                end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            except OSError as e:
                if e.errno == errno.ENXIO:
                    break
                if e.errno != errno.EINVAL:
                    raise
                start, end = at, size
            at = start
            while at < end:
                length = min(CHUNK, end - at)
                self.watch.throttle(length)
                n = self.link.post_file(Kind.FILE_DATA, ident, wire.FILE_OFFSET.pack(at), fd, at, length)
                self.watch.files(0, n)
                if n < length:
                    raise _shorter()
                at += n
                self.watch.at(gfid, at)
        self.watch.at(gfid, size)
        return min(size, os.fstat(fd).st_size)

    def _data(self, ident: int, at: int, data: memoryview) -> None:
        self.watch.throttle(len(data))
        self.link.post(Kind.FILE_DATA, ident, wire.FILE_OFFSET.pack(at), data)
        self.watch.files(0, len(data))

    def _with_holes(self, ident: int, fd: int, at: int, data: memoryview, equal: bool) -> None:
        """Send a block of a sparse file: its data as data, its holes as holes; these also where the bytes are `equal`,
        for zeros may be on the disk there."""
        start, end = at, at + len(data)
        while at < end:
            try:
                found = min(os.lseek(fd, at, os.SEEK_DATA), end)
                stop = min(os.lseek(fd, found, os.SEEK_HOLE), end) if found < end else end
            except OSError as e:
                if e.errno not in (errno.ENXIO, errno.EINVAL):
                    raise
                found, stop = (end, end) if e.errno == errno.ENXIO else (at, end)
            if found > at:
                self.link.post(Kind.FILE_HOLE, ident, wire.FILE_HOLE.pack(at, found - at))
            if stop > found and not equal:
                self._data(ident, found, data[found - start : stop - start])
            at = stop

    def _changed_blocks(self, ident: int, gfid: Gfid, fd: int, st: os.stat_result) -> int:
        """Send the blocks whose digests differ there; both sides hash at the same time."""
        parts: queue.SimpleQueue[wire.SumsReply | None] = queue.SimpleQueue()

        def part(frame: Frame) -> bool:
            reply = wire.decode_sums_reply(frame.payload)
            parts.put(reply)
            return reply.last

        size = st.st_size
        sparse = st.st_blocks * 512 < size
        request = wire.SumsRequest(gfid, BLOCK, 0, size)
        pending = self.link.request(Kind.SUMS, wire.encode_sums_request(request), on_frame=part)
        self.link.post(Kind.FILE_BEGIN, ident, wire.encode_file_begin(wire.FileBegin(gfid, size, True)))
        view = memoryview(bytearray(BLOCK))
        there = 0
        digests, first, last = b"", 0, False
        at = 0
        while at < size:
            while not last and at >= first + len(digests) // wire.DIGEST_SIZE * BLOCK:
                try:
                    reply = parts.get(timeout=0.5)
                except queue.Empty:
                    if pending.done.is_set() and parts.empty():
                        self._no_sums(pending)
                        last = True
                    continue
                assert reply is not None
                digests, first, there, last = reply.digests, reply.offset, reply.size, reply.last
            n = os.preadv(fd, [view[: min(BLOCK, size - at)]], at)
            if n == 0:
                raise _shorter()
            offset = (at - first) // BLOCK * wire.DIGEST_SIZE
            theirs = digests[offset : offset + wire.DIGEST_SIZE] if offset >= 0 else b""
            equal = theirs == wire.block_digest(view[:n]) and min(BLOCK, there - at) == n
            if sparse:
                self._with_holes(ident, fd, at, view[:n], equal)
            elif not equal:
                self._data(ident, at, view[:n])
            at += n
            self.watch.at(gfid, at)
        return min(size, os.fstat(fd).st_size)

    def _no_sums(self, pending: Pending) -> None:
        """Digests end early: where that is about the one file, all its blocks differ, and its end says what is wrong."""
        try:
            pending.wait()
        except RemoteError as e:
            if e.errno in BRICK_ERRNOS:
                raise brick_fault(self.link.where, e.errno or 0, e.text) from e


def _shorter() -> OSError:
    """The file ends before it should: what was sent of it is no state that it ever had."""
    return OSError(errno.EAGAIN, "it was cut shorter while it was read")


def _to_its_end(fd: int) -> tuple[bytes, os.stat_result]:
    """A small file as it is now, read until it says that it ends. OSError: a short read may hide an error behind it."""
    data = b""
    while more := os.pread(fd, INLINE + 1, len(data)):
        data += more
        if len(data) > 4 * INLINE:
            raise OSError(errno.EAGAIN, "it grows faster than it is read")
    return data, os.fstat(fd)
