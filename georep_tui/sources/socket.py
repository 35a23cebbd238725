"""Sessions on this machine: each at its control socket; connections are made anew when an engine comes back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engine.protocol import find_sockets
from georep_tui.sources.base import Doc, SourceError, cut_off
from georep_tui.sources.line import LineSource
from georep_tui.sources.several import Several

if TYPE_CHECKING:
    from engine.life import Life
    from georep_tui import places

    Known = list[tuple[places.Known, Life]]

RETRY = 2.0
"""Seconds between two tries to reach an engine that has gone."""

RECENT = 500
"""Events of before that one is told of when one comes to an engine."""


def dial(path: str, name: str, timeout: float = 30.0) -> LineSource:
    """A connection to the engine at this socket. Raises SourceError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(5.0)
        sock.connect(path)
        sock.settimeout(None)
    except (FileNotFoundError, ConnectionRefusedError) as e:
        sock.close()
        raise SourceError(f"session {name} is not running here", hint="georep-tui list", code="no-session") from e
    except OSError as e:
        sock.close()
        hint = "its owner can let you in: control_group, readonly_group" if isinstance(e, PermissionError) else ""
        raise SourceError(f"{path}: {e.strerror or e}", hint=hint, code="denied") from e

    def hang_up() -> None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster

    return LineSource(sock.sendall, lambda: sock.recv(1 << 16), hang_up, f"session {name}", timeout=timeout)


class SocketSource:
    """One session, followed over restarts of its engine: while it is gone its last picture is shown as such."""

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self._lock = threading.Lock()
        self._line: LineSource | None = None
        self._last: Doc | None = None
        self._boot_id: str | None = None
        self._since: int | None = None
        self._left: list[Doc] = []
        self._tried = 0.0
        self._error: SourceError | None = None

    def _connected(self) -> LineSource:
        with self._lock:
            line = self._line
            if line is not None and line.ended is None:
                return line
            if line is not None:
                line.close()
                left, seq = line.drained()
                self._left += left
                self._since = self._since if seq is None else seq
                self._last = line.last() or self._last
                self._line = None
            if self._error is not None and time.monotonic() - self._tried < RETRY:
                raise self._error
            self._tried = time.monotonic()
            try:
                line = dial(self.path, self.name)
                boot_id = line.hello["boot_id"]
                line.subscribe(self._boot_id or boot_id, self._since, RECENT)
            except SourceError as e:
                self._error = e
                raise
            self._boot_id, self._line, self._error = boot_id, line, None
            return line

    def snapshot(self) -> Doc:
        """The picture; the last one, marked as not connected, while the engine is gone."""
        try:
            self._last = self._connected().snapshot()
            return self._last
        except SourceError as e:
            if self._last is None:
                raise
            return cut_off(self._last, e)

    def events(self) -> list[Doc]:
        """New events; none while the engine is gone."""
        with self._lock:
            found, self._left = self._left, []
            line = self._line
        if line is None:
            return found
        try:
            return found + line.events()
        except SourceError:
            return found  # the picture says that it is gone

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """A request."""
        return self._connected().request(method, params)

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            if self._line is not None:
                self._line.close()
                self._line = None


class Local(Several):
    """All sessions of this machine that we may see; those that start later appear.

    `known` gives, each time anew, all sessions that are known here: those that do not run are in the picture, too.
    """

    def __init__(self, only: str | None = None, known: Iterator[Known] | None = None) -> None:
        super().__init__([])
        self._only = only
        self._standing = known
        self._known: dict[str, SocketSource] = {}
        self._looked = 0.0

    def _look(self) -> None:
        if self._known and time.monotonic() - self._looked < RETRY:
            return
        self._looked = time.monotonic()
        for name, path in find_sockets().items():
            if name not in self._known and self._only in (None, name):
                self._known[name] = SocketSource(path, name)
        self.sources = list(self._known.values())

    def snapshot(self) -> Doc:
        """All pictures in one; empty where nothing runs. Raises SourceError when the one asked for is not there."""
        if self._standing is None:
            return self._running()
        from georep_tui.standing import with_standing

        known = next(self._standing)
        missing: SourceError | None = None
        try:
            found = self._running()
        except SourceError as e:
            if e.code not in ("no-session", "gone", "closed"):
                raise
            missing, found = e, {"version": 1, "time": time.time(), "sources": [], "sessions": []}
        whole = with_standing(found, known, self._only, time.time())
        if missing is not None and not whole["sessions"]:
            raise missing
        return whole

    def _running(self) -> Doc:
        """The sessions whose engines run, or ran when they were last seen."""
        self._look()
        if not self.sources and self._only is not None:
            raise SourceError(f"session {self._only} is not running here", hint="georep-tui list", code="no-session")
        try:
            return super().snapshot()
        except SourceError as e:
            if self._only is not None or e.code != "no-session":
                raise
            return {"version": 1, "time": time.time(), "sources": [], "sessions": []}
