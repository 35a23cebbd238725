"""Digests of blocks and of whole files, made by a thread so that the agent goes on meanwhile."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from typing import Any, Callable, Optional

from engine.agent import wire
from engine.agent.frames import Buffer, Kind

_BUFFER = 1 << 20
_DIGESTS = 2048  # at most this many block digests in one frame, so that the other side can begin early

Send = Callable[[int, int, Buffer], None]
"""Writes a reply frame: kind, id, payload. Called from this thread."""


class Hashing:
    """Takes open descriptors and answers with digests, in order; `close` drops what waits and joins the thread."""

    def __init__(self, send: Send, send_json: Callable[[int, dict[str, Any]], None]) -> None:
        self._send = send
        self._send_json = send_json
        self._queue: queue.SimpleQueue[Optional[tuple[int, Callable[[], None]]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._open: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="agent-hashing", daemon=True)
        self._thread.start()

    def sums(self, ident: int, fd: int, request: wire.SumsRequest) -> None:
        """Answer SUMS; the descriptor is closed here."""
        self._open.add(fd)
        self._queue.put((ident, lambda: self._sums(ident, fd, request)))

    def digests(self, ident: int, files: list[tuple[str, int]], failed: dict[str, Any], algorithm: str) -> None:
        """Answer the call `digest`: hex gfids with descriptors, which are closed here."""
        self._open.update(fd for _, fd in files)
        self._queue.put((ident, lambda: self._digests(ident, files, failed, algorithm)))

    def close(self) -> None:
        """Stop after the block in hand."""
        self._stop.set()
        self._queue.put(None)
        self._thread.join()
        for fd in self._open:
            os.close(fd)
        self._open.clear()

    def _run(self) -> None:
        while not self._stop.is_set():
            taken = self._queue.get()
            if taken is None:
                return
            ident, job = taken
            try:
                job()
            except BrokenPipeError:
                return  # nobody listens any more; the main thread sees the end of input
            except Exception as e:  # noqa: BLE001 - an answer is due, and the next job has done nothing wrong
                self._send(Kind.ERROR, ident, wire.encode_error(0, f"{type(e).__name__}: {e}"))

    def _done(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)

    def _sums(self, ident: int, fd: int, request: wire.SumsRequest) -> None:
        try:
            st = os.fstat(fd)
            end = min(st.st_size, request.offset + request.length)
            at = start = request.offset
            digests: list[bytes] = []
            per_read = max(1, _BUFFER // request.block) * request.block
            with memoryview(bytearray(per_read)) as buffer:
                while at < end and not self._stop.is_set():
                    n = _read_full(fd, buffer[: min(per_read, end - at)], at)
                    for i in range(0, n, request.block):
                        digests.append(wire.block_digest(buffer[i : min(i + request.block, n)]))
                    at += n
                    if n == 0 or n % request.block:
                        break
                    if len(digests) >= _DIGESTS and at < end:
                        self._reply(ident, start, st, False, digests)
                        start, digests = at, []
            self._reply(ident, start, st, True, digests)
        except OSError as e:
            if isinstance(e, BrokenPipeError):
                raise
            self._send(Kind.ERROR, ident, wire.encode_error(e.errno or 5, f"reading: {e.strerror}"))
        finally:
            self._done(fd)

    def _reply(self, ident: int, start: int, st: os.stat_result, last: bool, digests: list[bytes]) -> None:
        reply = wire.SumsReply(start, st.st_size, st.st_mtime_ns, last, b"".join(digests))
        self._send(Kind.REPLY_SUMS, ident, wire.encode_sums_reply(reply))

    def _digests(self, ident: int, files: list[tuple[str, int]], failed: dict[str, Any], algorithm: str) -> None:
        found = dict(failed)
        for key, fd in files:
            try:
                st = os.fstat(fd)
                found[key] = {
                    "digest": self._digest(fd, algorithm), "size": st.st_size, "mtime_ns": st.st_mtime_ns,
                }  # fmt: skip
            except OSError as e:
                found[key] = {"digest": None, "errno": e.errno, "text": e.strerror}
            finally:
                self._done(fd)
        self._send_json(ident, {"result": {"digests": found}})

    def _digest(self, fd: int, algorithm: str) -> str:
        digest = hashlib.new(algorithm)
        at = 0
        with memoryview(bytearray(_BUFFER)) as buffer:
            while not self._stop.is_set():
                n = os.preadv(fd, [buffer], at)
                if n == 0:
                    break
                digest.update(buffer[:n])
                at += n
        return digest.hexdigest()


def _read_full(fd: int, buffer: memoryview, at: int) -> int:
    done = 0
    while done < len(buffer):
        n = os.preadv(fd, [buffer[done:]], at + done)
        if n == 0:
            break
        done += n
    return done
