"""Sessions of another node, over ssh: one connection, one `dial-stdio` there, every session a line of its own in it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import paramiko

from engine.protocol import MAX_WRAPPED, Lines, ProtocolError, decode
from georep_tui.sources.base import Doc, SourceError, cut_off, silent, unreachable
from georep_tui.sources.line import LineSource
from georep_tui.sources.schema import shifted
from georep_tui.ssh.asker import Asker, Nobody
from georep_tui.ssh.client import CONNECT, Connection, connect, explain
from georep_tui.ssh.keys import Keyring
from georep_tui.ssh.place import parse_place

PATIENCE = CONNECT + 10
"""Seconds a command waits for a node's first answer."""

RETRY, RETRY_MOST = 1.0, 30.0
"""Seconds until the next try after a connection was lost: doubled each time, up to the most."""

SILENT = 20.0
"""A node that says nothing for so long (seconds) is taken for lost: it says something every 2 s."""

SKEW = 2.0
"""Seconds by which a node's clock may differ before its times are moved: below, they are shown as they are."""

MOST_SESSIONS = 200
REMOTE = "georep-tui dial-stdio"


class _Branch:
    """One session of the node: its line, and what came over it."""

    def __init__(self, node: NodeSource, name: str) -> None:
        self.name = name
        self.inbox: queue.Queue[bytes] = queue.Queue()
        self.line = LineSource(
            lambda data: node.send(name, data), self.inbox.get, lambda: self.inbox.put(b""), f"session {name}",
            timeout=SILENT, checked=True,
        )  # fmt: skip


class NodeSource:
    """The sessions of one node; the connection is made again when it is lost, and what was seen last stays visible.

    `asker` is asked about host keys and passphrases, `keyring` keeps opened keys, `config` takes the place of the
    person's own ssh configuration. `patience` is how long (seconds) a picture waits for the first connection.
    """

    def __init__(
        self, place: str, command: str = "", *, asker: Asker | None = None, keyring: Keyring | None = None,
        config: str = "", patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self.node = place
        self._place = parse_place(place)
        self._command = command or os.environ.get("GEOREP_TUI_REMOTE") or REMOTE
        self._asker = asker or Nobody()
        self._keyring = keyring or Keyring()
        self._config = config
        self._patience = patience
        self._lock = threading.Condition()
        self._branches: dict[str, _Branch] = {}
        self._last: dict[str, Doc] = {}
        self._seen: dict[str, tuple[str | None, int | None]] = {}
        self._left: list[Doc] = []
        self._ready = self._closed = False
        self._error: SourceError | None = None
        self._offsets: deque[float] = deque(maxlen=30)
        self._shift = 0.0
        self._channel: paramiko.Channel | None = None
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"node {place}", daemon=True)
        self._thread.start()

    # ---- for everyone ----------------------------------------------------------------------------------------

    def snapshot(self) -> Doc:
        """All sessions of the node; while it is not reached, what was seen last. Raises SourceError if nothing was."""
        until = time.monotonic() + self._patience
        branches, error = self._wait()
        for name, branch in branches.items():
            if name not in self._last:
                branch.line.wait_picture(until - time.monotonic())
        pictures: dict[str, tuple[Doc, SourceError | None]] = {}
        for name in {**self._last, **branches}:
            found = self._picture(name, branches.get(name), error)
            if found is not None:
                pictures[name] = found
        if not pictures and error is not None:
            raise error
        wrong = [e for name in branches if name not in pictures and (e := branches[name].line.ended)]
        if not pictures and wrong:
            raise wrong[0]
        if not pictures:
            if not branches:
                return {"version": 1, "time": time.time(), "sources": [self._source()], "sessions": []}
            raise SourceError(f"{self.node}: its sessions do not answer", hint="do the engines hang?", code="silent")
        return self._whole(pictures, wrong)

    def _wait(self) -> tuple[dict[str, _Branch], SourceError | None]:
        """The sessions' lines, and why there are none; waits for the first answer."""
        with self._lock:
            self._lock.wait_for(lambda: self._ready or self._error is not None or self._closed, self._patience)
            error = self._error
            if not self._ready and error is None:
                waited = "connecting" if self._patience < PATIENCE else "no answer"
                error = SourceError(f"{self.node}: {waited}", code="connecting")
            return dict(self._branches), error

    def _picture(
        self, name: str, branch: _Branch | None, error: SourceError | None
    ) -> tuple[Doc, SourceError | None] | None:
        """A session's picture, and why it is not of now; None where it has none yet."""
        why = error
        if branch is not None:
            why = branch.line.ended
            if why is None and branch.line.wait_picture(0):
                try:
                    found = branch.line.snapshot()
                    self._last[name] = {**found, "sources": [dict(s) for s in found["sources"]]}
                except SourceError as e:
                    why = e
        if name not in self._last:
            return None
        if branch is None and why is None:
            why = SourceError(f"session {name} has ended", hint="start it there: georep-tui run", code="gone")
        return self._last[name], why

    def _whole(self, pictures: Mapping[str, tuple[Doc, SourceError | None]], wrong: list[SourceError]) -> Doc:
        """All pictures in one, by our clock. A node is connected while any of its sessions is."""
        alive = any(why is None for _, why in pictures.values())
        sources: dict[str, Doc] = {}
        sessions: list[Doc] = []
        for document, why in pictures.values():
            shown = document if why is None else cut_off(document, why)
            for source in shown["sources"]:
                known = sources.get(source["node"])
                if known is None or (source["connected"] and not known["connected"]):
                    sources[source["node"]] = source
            sessions += document["sessions"] if why is None else [silent(s, why) for s in document["sessions"]]
        offset = self.offset
        for source in sources.values():
            source["clock_offset_seconds"] = offset
            source["reached_as"] = self.node
            if wrong and alive:
                source["error"] = wrong[0].text
        now = max(d["time"] for d, _ in pictures.values())
        whole: Doc = {"version": 1, "time": now, "sources": list(sources.values()), "sessions": sessions}
        moved: Doc = shifted(whole, -self._shift)
        return moved

    @property
    def offset(self) -> float | None:
        """How many seconds the node's clock is ahead of ours; None while that is not known."""
        return round(max(self._offsets), 2) if self._offsets else None

    def _source(self) -> Doc:
        return {**unreachable(self.node, SourceError("")), "connected": True, "data_time": time.time(),
                "clock_offset_seconds": self.offset, "error": None}  # fmt: skip

    def events(self) -> list[Doc]:
        """New events of all sessions, by our clock."""
        with self._lock:
            branches = list(self._branches.values())
            found, self._left = self._left, []
        for branch in branches:
            found += branch.line.drained()[0]
        return [
            {**e, "time": e["time"] - self._shift} if self._shift and isinstance(e.get("time"), int | float) else e
            for e in found
        ]  # fmt: skip

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """To the session that `params["session"]` names. Times are by our clock. Raises SourceError."""
        branches, error = self._wait()
        if error is not None:
            raise error
        wanted = str(params.get("session") or "")
        for branch in branches.values():
            hello = branch.line.known
            if wanted == branch.name or (hello is not None and wanted == hello["session_id"]):
                asked = shifted(dict(params), self._shift) if method == "checkpoint" else params
                return shifted(branch.line.request(method, asked), -self._shift)
        raise SourceError(f"session {wanted} is not running on {self.node}", hint=f"georep-tui list --ssh {self.node}",
                          code="no-session")  # fmt: skip

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._closing.set()
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(EOFError, OSError):  # the other side was faster
                channel.close()
        self._thread.join(2)

    def send(self, name: str, data: bytes) -> None:
        """A line of a session, wrapped. Raises OSError."""
        channel = self._channel
        if channel is None:
            raise OSError(f"{self.node} is not connected")
        with self._sending:
            head = b'{"session":' + json.dumps(name).encode() + b',"line":'
            channel.sendall(head + data.rstrip(b"\n") + b"}\n")

    # ---- the connection --------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait = RETRY
        while not self._closing.is_set():
            try:
                self._once()
                error = SourceError(f"{self.node}: the connection was lost", code="ssh")
            except SourceError as e:
                error = e
            except (OSError, EOFError, paramiko.SSHException, KeyError, TypeError, ValueError) as e:
                error = explain(self._place.host, e)
            with self._lock:
                wait = RETRY if self._ready else min(RETRY_MOST, wait * 2)
                self._error, self._ready = error, False
                branches, self._branches = list(self._branches.values()), {}
                self._lock.notify_all()
            for branch in branches:
                self._retire(branch)
            self._closing.wait(wait * random.uniform(0.8, 1.2))

    def _retire(self, branch: _Branch) -> None:
        """Its line has ended: what it had heard is kept, and the next line goes on from there."""
        branch.line.close()
        left, seq = branch.line.drained()
        hello, last = branch.line.known, branch.line.last()
        with self._lock:
            if last is not None:
                self._last[branch.name] = last
            self._left += left
            if hello is not None and seq is not None:
                self._seen[branch.name] = (hello["boot_id"], seq)

    def _once(self) -> None:
        """One connection's life. Raises SourceError and what ssh raises."""
        connection = connect(self._place, self._asker, self._keyring, config=self._config)
        try:
            channel = connection.session()
            channel.settimeout(SILENT)
            channel.exec_command(self._command)
            self._channel = channel
            if self._closing.is_set():
                return
            lines = Lines(MAX_WRAPPED)
            while data := self._receive(channel):
                for line in lines.feed(data):
                    self._heard(decode(line), line)
            self._explain_end(channel, connection)
        except ProtocolError as e:
            raise SourceError(f"{self.node}: {e.text}", hint=f"does `{self._command}` print something else there?",
                              code="protocol") from e  # fmt: skip
        finally:
            self._channel = None
            connection.close()

    def _receive(self, channel: paramiko.Channel) -> bytes:
        """Bytes; b"" at the end. Raises SourceError when the node is silent for too long."""
        while channel.recv_stderr_ready() and not channel.recv_ready() and len(channel.in_stderr_buffer) > 1 << 16:
            channel.recv_stderr(1 << 15)  # never let what it complains fill the window
        try:
            return channel.recv(1 << 16)
        except TimeoutError as e:
            raise SourceError(f"{self.node}: no word for {SILENT:g} s", code="silent",
                              hint="is the network down, or does `dial-stdio` hang there?") from e  # fmt: skip

    def _explain_end(self, channel: paramiko.Channel, connection: Connection) -> None:
        """Why did it end? Raises SourceError."""
        if self._closing.is_set():
            return
        said = channel.recv_stderr(2000).decode("utf-8", "replace").strip().splitlines()
        code = channel.recv_exit_status() if channel.status_event.wait(1.0) else -1
        if code == 127:
            raise SourceError(f"{self.node} has no `{self._command.split()[0]}` in the PATH of a command over ssh",
                              hint="install georep-tui there, or say where it is: --ssh-command", code="no-command")  # fmt: skip
        if said and said[-1].startswith("sudo:"):
            raise SourceError(f"{self.node}: {said[-1]}", code="sudo",
                              hint="sudoers there: USER ALL=(root) NOPASSWD: /…/georep-tui dial-stdio")  # fmt: skip
        raise SourceError(f"{self.node}: {said[-1] if said else 'the connection was lost'}", code="ssh",
                          hint=f"logged in as {connection.settings.user}; ran `{self._command}`")  # fmt: skip

    def _heard(self, message: Doc, raw: bytes) -> None:
        if "alive" in message:
            self._alive(float(message["alive"]))
            return
        name = str(message["session"])
        fresh = None
        with self._lock:
            branch = self._branches.get(name)
            if message.get("up") and branch is None:
                if len(self._branches) >= MOST_SESSIONS:
                    raise ProtocolError(f"more than {MOST_SESSIONS} sessions")
                fresh = branch = self._branches[name] = _Branch(self, name)
                boot_id, since = self._seen.get(name, (None, None))
            elif message.get("up") is False and branch is not None:
                del self._branches[name]
        if branch is None:
            return
        if fresh is not None:
            fresh.line.follow(boot_id, since)
        elif "line" in message:
            branch.inbox.put(raw[raw.index(b'"line":') + 7 : -1] + b"\n")
        elif message.get("up") is False:
            self._retire(branch)

    def _alive(self, at: float) -> None:
        with self._lock:
            # what took long on its way seems older than it is: the largest of the last ones is nearest
            self._offsets.append(at - time.time())
            offset = max(self._offsets)
            if abs(offset - self._shift) >= SKEW:
                self._shift = float(round(offset)) if abs(offset) >= SKEW else 0.0
            self._ready, self._error = True, None
            self._lock.notify_all()
