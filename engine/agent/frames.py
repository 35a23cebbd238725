"""Frames on the line between primary and agent: a header of length, kind and id, then the payload."""

from __future__ import annotations

import errno
import os
import select
import struct
from enum import IntEnum
from typing import NamedTuple, Optional, Union

PROTOCOL = 2
"""Version of frames and their payloads; both sides must have the same (checked by the call `hello`)."""

MAX_PAYLOAD = 4 << 20
"""Most bytes of payload in one frame; what is longer is refused on both sides."""

HEADER = struct.Struct("!IBI")
"""Payload length in bytes, kind, id."""

_READ = 1 << 20
_IOV = 512

Payload = Union[bytes, bytearray]
Buffer = Union[bytes, bytearray, memoryview]


class Kind(IntEnum):
    """What a frame is. Every request is answered under its id, in order except SUMS and the call `digest`."""

    CALL = 1
    """JSON {"method", "params"} → REPLY_JSON."""
    ENTRIES = 2
    """wire.encode_entries → REPLY_ENTRIES."""
    PUT = 3
    """wire.encode_puts: whole contents of small files that exist → REPLY_FILES, one per file."""
    FILE_BEGIN = 4
    """wire.FileBegin: the content of one file follows under this id; no reply."""
    FILE_DATA = 5
    """wire.FILE_OFFSET, then bytes; no reply."""
    FILE_HOLE = 6
    """wire.FILE_HOLE: this range reads as zeros, without blocks; no reply."""
    FILE_END = 7
    """wire.encode_file_end: attributes to set → REPLY_FILES of one."""
    FILE_ABORT = 8
    """Empty: the sender gives up this file; the old one stays, or, written in place, what it has, marked; no reply."""
    META = 9
    """wire.encode_metas → REPLY_ENTRIES with failures only."""
    SUMS = 10
    """wire.SumsRequest → one or more REPLY_SUMS, the last one marked."""

    REPLY_JSON = 64
    REPLY_ENTRIES = 65
    REPLY_FILES = 66
    REPLY_SUMS = 67
    ERROR = 68
    """wire.encode_error: the whole request failed."""


class Frame(NamedTuple):
    """One frame as read. `kind` is a number: it may be one that this version does not know."""

    kind: int
    id: int
    payload: Payload


class FrameError(Exception):
    """What came is not a frame: too long, or the input ended inside it."""


class FrameTimeout(Exception):
    """Nothing came within the time given to FrameReader.read."""


class SourceError(OSError):
    """A file whose bytes were to be sent could not be read; the line itself is well."""


class FrameReader:
    """Reads frames from a blocking descriptor through one large buffer; used by one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray(_READ)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """The next frame; None at end of input between two frames.

        `timeout` in seconds (None or 0: wait for ever) holds for each wait for more input; when it passes,
        FrameTimeout is raised. FrameError on an oversized frame or an end of input inside one; OSError as
        read gives it.
        """
        need = HEADER.size
        while self._end - self._start < need:
            if self._end == self._start:
                self._start = self._end = 0
            elif len(self._buffer) - self._start < need:
                rest = bytes(self._view[self._start : self._end])
                self._buffer[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            n = self._fill(self._view[self._end :], timeout)
            if n == 0:
                if self._end == self._start:
                    return None
                raise FrameError("the input ended inside the header of a frame")
            self._end += n
        length, kind, ident = HEADER.unpack_from(self._buffer, self._start)
        if length > MAX_PAYLOAD:
            raise FrameError(f"a frame of {length} bytes (kind {kind}); the limit is {MAX_PAYLOAD}")
        self._start += need
        have = self._end - self._start
        if have >= length:
            payload: Payload = bytes(self._view[self._start : self._start + length])
            self._start += length
            return Frame(kind, ident, payload)
        payload = bytearray(length)
        with memoryview(payload) as view:
            view[:have] = self._view[self._start : self._end]
            self._start = self._end = 0
            while length - have >= _READ // 2:
                have += self._more(view[have:], timeout, kind)
            while have < length:
                self._end = self._more(self._view, timeout, kind)
                take = min(self._end, length - have)
                view[have : have + take] = self._view[:take]
                have += take
                self._start = take
        return Frame(kind, ident, payload)

    def _more(self, view: memoryview, timeout: Optional[float], kind: int) -> int:
        n = self._fill(view, timeout)
        if n == 0:
            raise FrameError(f"the input ended inside a frame of kind {kind}")
        return n

    def _fill(self, view: memoryview, timeout: Optional[float]) -> int:
        if timeout and not self._poll.poll(timeout * 1000):
            raise FrameTimeout(f"nothing came for {timeout:g} s")
        return os.readv(self._fd, [view])


def header(kind: int, ident: int, length: int) -> bytes:
    """The bytes of a frame's header. Raises FrameError when the payload is too long."""
    if length > MAX_PAYLOAD:
        raise FrameError(f"a frame of {length} bytes (kind {kind}); the limit is {MAX_PAYLOAD}")
    return HEADER.pack(length, kind, ident)


def write_frame(fd: int, kind: int, ident: int, *buffers: Buffer) -> int:
    """Write one frame whose payload is the buffers one after the other; returns the bytes written.

    The descriptor must be blocking; partial writes are continued. Several threads need a lock of their own.
    """
    length = sum([len(b) if not isinstance(b, memoryview) else b.nbytes for b in buffers])
    head = header(kind, ident, length)
    total = len(head) + length
    if total <= 65536:
        write_all(fd, [b"".join((head, *buffers))])
    else:
        write_all(fd, [head, *buffers])
    return total


def write_frame_of(fd: int, kind: int, ident: int, head: bytes, source: int, offset: int, length: int) -> int:
    """Write one frame whose payload is `head` and `length` bytes of the open file `source`; the file's bytes in it.

    The kernel moves them from its cache into a pipe without copying them. Where the file ends before that, or cannot be
    read (SourceError), zeros make up the frame, so that the line stays in step. The descriptor must be blocking.
    """
    write_all(fd, [header(kind, ident, len(head) + length) + head])
    done = 0
    try:
        while done < length:
            n = _send_some(fd, source, offset + done, length - done)
            if n == 0:
                break
            done += n
    finally:
        if done < length:
            write_all(fd, [bytes(length - done)])
    return done


def _send_some(fd: int, source: int, offset: int, length: int) -> int:
    """Some bytes of a file at least, 0 at its end. SourceError; OSError of the line."""
    try:
        return os.sendfile(fd, source, offset, length)
    except BrokenPipeError:
        raise
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOSYS):
            raise SourceError(e.errno, e.strerror) from e
    try:  # this file, or this line, cannot do that
        data = os.pread(source, min(length, _READ), offset)
    except OSError as e:
        raise SourceError(e.errno, e.strerror) from e
    write_all(fd, [data])
    return len(data)


def write_all(fd: int, buffers: list[Buffer]) -> None:
    """Write all buffers to a blocking descriptor, however little each write takes."""
    at = 0
    while at < len(buffers):
        part = buffers[at : at + _IOV]
        n = os.writev(fd, part)
        for b in part:
            size = b.nbytes if isinstance(b, memoryview) else len(b)
            if n < size:
                if n:
                    buffers[at] = memoryview(b).cast("B")[n:]
                break
            n -= size
            at += 1
