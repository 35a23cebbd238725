"""`dial-stdio`: stdin and stdout as a line to the control sockets of this node, for consoles that come over ssh.

With a session's name the line is that socket's own. Without, all sockets share it: every line of theirs comes as
`{"session": NAME, "line": …}`, every line for one goes the same way; `{"session": NAME, "up": true}` says that one has
come, `{"session": NAME, "up": false}` that it has gone, `{"alive": TIME}` that all that is here has been named.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

from engine.protocol import MAX_WRAPPED, Lines, ProtocolError, decode, encode, find_sockets
from georep_tui.output import DONE
from georep_tui.sources.base import SourceError

LOOK = 2.0
"""Seconds between two looks for sessions that have come."""


@dataclass(slots=True)
class _Peer:
    name: str
    sock: socket.socket
    lines: Lines = field(default_factory=Lines)


def dial(session: str = "") -> int:
    """Until stdin ends or the session has gone. Raises SourceError when the named one does not run."""
    with contextlib.suppress(BrokenPipeError):
        if session:
            _one(session)
        else:
            _Switchboard().run()
    return DONE


def _connect(path: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
        return sock
    except OSError:
        sock.close()
        return None  # dead, or not for us: another look comes


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _one(session: str) -> None:
    path = find_sockets().get(session)
    sock = _connect(path) if path else None
    if sock is None:
        raise SourceError(f"session {session} is not running here", hint="georep-tui list", code="no-session")
    with sock, selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    data = os.read(0, 1 << 16)
                    if not data:
                        return
                    sock.sendall(data)
                else:
                    data = sock.recv(1 << 16)
                    if not data:
                        return
                    _write(data)


class _Switchboard:
    """All sessions on one line."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._peers: dict[str, _Peer] = {}
        self._lines = Lines(MAX_WRAPPED)

    def run(self) -> None:
        """Until stdin ends."""
        self._selector.register(0, selectors.EVENT_READ)
        looked = 0.0
        while True:
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                self._look()
            for key, _ in self._selector.select(LOOK):
                if key.fd == 0:
                    data = os.read(0, 1 << 16)
                    if not data:
                        return
                    self._from_outside(data)
                else:
                    self._from_inside(key.data)

    def _look(self) -> None:
        for name, path in find_sockets().items():
            if name in self._peers:
                continue
            sock = _connect(path)
            if sock is not None:
                peer = self._peers[name] = _Peer(name, sock)
                self._selector.register(sock, selectors.EVENT_READ, peer)
                _write(encode({"session": name, "up": True}))
        _write(encode({"alive": time.time()}))

    def _from_inside(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(1 << 16)
            lines = list(peer.lines.feed(data)) if data else []
        except (OSError, ProtocolError):
            data, lines = b"", []
        head = encode({"session": peer.name})[:-2]
        for line in lines:
            _write(head + b',"line":' + line + b"}\n")
        if not data:
            self._hang_up(peer)

    def _from_outside(self, data: bytes) -> None:
        for raw in self._lines.feed(data):
            message = decode(raw)
            peer = self._peers.get(str(message.get("session")))
            line = message.get("line")
            if peer is None or not isinstance(line, dict):
                sys.stderr.write(f"no session {message.get('session')!r} here\n")
                continue
            try:
                peer.sock.sendall(encode(line))
            except OSError:
                self._hang_up(peer)

    def _hang_up(self, peer: _Peer) -> None:
        self._selector.unregister(peer.sock)
        peer.sock.close()
        del self._peers[peer.name]
        _write(encode({"session": peer.name, "up": False}))
