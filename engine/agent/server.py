"""The agent's main loop: frames in, in order; replies out, some from the hashing thread."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import signal
import sqlite3
import sys
import threading
from typing import Any, Optional

from engine.agent import wire
from engine.agent.calls import Calls
from engine.agent.frames import MAX_PAYLOAD, Buffer, Frame, FrameError, FrameReader, FrameTimeout, Kind, write_frame
from engine.agent.handles import OpError
from engine.agent.hashing import Hashing
from engine.agent.pending import sqlite_errno
from engine.agent.state import CallError


class Terminated(Exception):
    """SIGTERM came."""


class _Ending:
    """SIGTERM: at once while waiting for input, else when the frame in hand is done."""

    def __init__(self) -> None:
        self.busy = False
        self.wanted = False

    def on_signal(self, _signal: int, _frame: Optional[object]) -> None:
        self.wanted = True
        if not self.busy:
            raise Terminated

    def check(self) -> None:
        if self.wanted:
            raise Terminated


class _Server:
    def __init__(self, root: bytes, stdin_fd: int, stdout_fd: int, ending: _Ending) -> None:
        self._ending = ending
        self._out = stdout_fd
        self._lock = threading.Lock()
        self._reader = FrameReader(stdin_fd)
        self._hashing = Hashing(self._send, self._send_json)
        self._calls = Calls(root, self._hashing)

    def run(self) -> int:
        """Until the input ends (0), nothing came for too long (75) or what came made no sense (76)."""
        code, clean = 0, True
        try:
            while True:
                self._ending.check()
                frame = self._reader.read(self._calls.timeout or None)
                if frame is None:
                    break
                self._ending.busy = True
                self._take(frame)
                self._ending.busy = False
        except Terminated:
            code = 143
        except FrameTimeout as e:
            code = _say(f"georep agent: {e}; leaving", 75)
        except FrameError as e:
            code = _say(f"georep agent: {e}", 76)
        except BrokenPipeError:
            pass  # the other side is gone; what was applied is kept
        except BaseException:
            clean = False
            raise
        finally:
            self._ending.busy = True
            self._hashing.close()
            try:
                self._calls.close(clean)
            except (sqlite3.Error, OSError) as e:
                code = _say(f"georep agent: at the end: {e}", 74)
        return code

    def _take(self, frame: Frame) -> None:
        try:
            if frame.kind == Kind.CALL:
                self._call(frame)
            else:
                self._work(frame)
        except CallError as e:
            self._error(frame, e.errno, e.text)
        except OpError as e:
            self._error(frame, e.errno, e.text)
        except wire.WireError as e:
            self._error(frame, errno.EBADMSG, str(e))
        except sqlite3.Error as e:
            held = self._calls.held
            if held is not None and ("malformed" in str(e) or "not a database" in str(e)):
                held.damaged()
            self._error(frame, sqlite_errno(e), f"the index: {e}")
        except BrokenPipeError:
            raise
        except OSError as e:
            self._error(frame, e.errno or errno.EIO, os.strerror(e.errno or errno.EIO))

    def _call(self, frame: Frame) -> None:
        try:
            request = json.loads(frame.payload)
        except ValueError as e:
            self._error(frame, errno.EBADMSG, f"a call that is no JSON: {e}")
            return
        answer = self._calls.answer(frame.id, request)
        if answer is not None:
            self._send_json(frame.id, answer)

    def _work(self, frame: Frame) -> None:
        kind, ident, payload = frame
        if kind not in _KNOWN:
            self._error(frame, errno.ENOSYS, f"a frame of unknown kind {kind}")
            return
        held = self._calls.held
        if held is None:
            if kind in _ANSWERED:
                raise CallError("begin comes first", "not-begun", "", errno.EPERM)
            return
        if kind == Kind.FILE_DATA:
            held.file_data(ident, payload)
            return
        if kind != Kind.SUMS:
            held.applying()
        if kind == Kind.ENTRIES:
            failures, made, sizes = held.entries(wire.decode_entries(payload))
            self._send(Kind.REPLY_ENTRIES, ident, wire.encode_entries_reply(failures, made, sizes))
        elif kind == Kind.PUT:
            self._send(Kind.REPLY_FILES, ident, wire.encode_files_reply(held.puts(wire.decode_puts(payload))))
        elif kind == Kind.META:
            failures = held.metas(wire.decode_metas(payload))
            self._send(Kind.REPLY_ENTRIES, ident, wire.encode_entries_reply(failures))
        elif kind == Kind.FILE_BEGIN:
            held.file_begin(ident, wire.decode_file_begin(payload))
        elif kind == Kind.FILE_HOLE:
            held.file_hole(ident, payload)
        elif kind == Kind.FILE_END:
            result = held.file_end(ident, *wire.decode_file_end(payload))
            self._send(Kind.REPLY_FILES, ident, wire.encode_files_reply([result]))
        elif kind == Kind.FILE_ABORT:
            held.file_abort(ident)
        elif kind == Kind.SUMS:
            request = wire.decode_sums_request(payload)
            self._hashing.sums(ident, held.open_file(request.gfid), request)

    # --- replies, from any thread

    def _send(self, kind: int, ident: int, payload: Buffer) -> None:
        with self._lock:
            write_frame(self._out, kind, ident, payload)

    def _send_json(self, ident: int, answer: dict[str, Any]) -> None:
        raw = json.dumps(answer).encode()
        if len(raw) > MAX_PAYLOAD:
            text = f"a reply of {len(raw)} bytes is too long; ask for less at once"
            raw = json.dumps({"error": {"text": text, "code": "too-long", "errno": errno.E2BIG, "hint": ""}}).encode()
        self._send(Kind.REPLY_JSON, ident, raw)

    def _error(self, frame: Frame, number: int, text: str) -> None:
        if frame.kind in _ANSWERED or frame.kind not in _KNOWN:
            self._send(Kind.ERROR, frame.id, wire.encode_error(number, text))


_KNOWN = frozenset(int(k) for k in Kind if k < Kind.REPLY_JSON)
_ANSWERED = frozenset((Kind.CALL, Kind.ENTRIES, Kind.PUT, Kind.FILE_END, Kind.META, Kind.SUMS))


def serve(root: bytes, stdin_fd: int, stdout_fd: int) -> int:
    """Serve one root over two descriptors until the input ends; the exit status of the process.

    Changes the process: umask 0, more open files, SIGPIPE ignored, `stdout_fd` for frames only.
    """
    os.umask(0)
    gc.set_threshold(100_000, 50, 100)  # many small values live for one frame; there are hardly any cycles
    ending = _Ending()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ctrl+c at the engine's terminal is the engine's to handle
        signal.signal(signal.SIGTERM, ending.on_signal)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < want:
        resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
    return _Server(os.path.abspath(root) if root else b"", stdin_fd, stdout_fd, ending).run()


def _say(text: str, code: int) -> int:
    sys.stderr.write(text + "\n")
    return code
