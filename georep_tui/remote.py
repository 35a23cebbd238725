"""Sessions of another node, over ssh: one connection, one `dial-stdio` there, every session a line of its own in it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import shlex
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import paramiko

from engine.protocol import MAX_WRAPPED, Lines, ProtocolError, decode
from georep_tui.sources.base import Doc, SourceError
from georep_tui.sources.line import LineSource

CONNECT = 15.0
"""Seconds a connection may take."""

RETRY = 3.0
"""Seconds until the next try after a connection was lost."""

SILENT = 20.0
"""A node that says nothing for so long (seconds) is taken for lost: it says something every 2 s."""

REMOTE = "georep-tui dial-stdio"
_PLACE = re.compile(
    r"(?:([A-Za-z0-9_.][A-Za-z0-9_.@\\-]*)@)?(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9_][A-Za-z0-9_.-]*))(?::(\d+))?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is: `host` as ssh's configuration may know it, user and port where given."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_place(text: str) -> Place:
    """`[USER@]HOST[:PORT]`. Raises SourceError."""
    found = _PLACE.fullmatch(text)
    if not found or (found[4] and not 1 <= int(found[4]) <= 65535):
        raise SourceError(f"--ssh {text!r} is no node", hint="[USER@]HOST[:PORT]", code="usage")
    return Place(found[2] or found[3], found[1], int(found[4]) if found[4] else None)


def connect(place: Place) -> paramiko.SSHClient:
    """An ssh connection as the person's ssh would make it, without ever asking. Raises SourceError."""
    logger = logging.getLogger("paramiko")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    known = _configured(place.host)
    host = str(known.get("hostname") or place.host)
    port = place.port or int(known.get("port") or 22)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.load_system_host_keys()
        for path in str(known.get("userknownhostsfile") or "").split():
            if os.path.exists(os.path.expanduser(path)):
                client.load_host_keys(os.path.expanduser(path))
        line = _line(known, host, port)
        alias = known.get("hostkeyalias")
        if alias and line is None:
            line = socket.create_connection((host, port), CONNECT)
        client.connect(
            str(alias or host), 22 if alias else port, place.user or known.get("user"),
            key_filename=known.get("identityfile"), timeout=CONNECT, banner_timeout=CONNECT, auth_timeout=CONNECT,
            sock=line,
        )  # fmt: skip
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(15)
        return client
    except (OSError, EOFError, paramiko.SSHException) as e:
        client.close()
        raise explain(place.host, e) from e


def _line(known: paramiko.SSHConfigDict, host: str, port: int) -> paramiko.ProxyCommand | socket.socket | None:
    """The way through a proxy, where the person's configuration has one."""
    if known.get("proxycommand"):
        return paramiko.ProxyCommand(str(known["proxycommand"]))
    if str(known.get("proxyjump") or "none") != "none":
        first, _, last = str(known["proxyjump"]).rpartition(",")
        jump = shlex.join(["ssh", "-oBatchMode=yes", *(["-J", first] if first else []), "-W", f"[{host}]:{port}", last])
        return paramiko.ProxyCommand(jump)
    return None


def _configured(host: str) -> paramiko.SSHConfigDict:
    """What ~/.ssh/config says of a host."""
    config = paramiko.SSHConfig()
    try:
        with open(os.path.expanduser("~/.ssh/config"), encoding="utf-8") as f:
            config.parse(f)
        return config.lookup(host)
    except FileNotFoundError:
        return paramiko.SSHConfigDict()
    except (OSError, UnicodeDecodeError, paramiko.ConfigParseError) as e:
        raise SourceError(f"~/.ssh/config: {e}", code="ssh") from e


def explain(host: str, error: BaseException) -> SourceError:
    """What went wrong with ssh in one line with its remedy."""
    text = str(error)
    if isinstance(error, paramiko.BadHostKeyException):
        return SourceError(f"the host key of {host} has changed", code="host-key-changed",
                           hint=f"if that is right: ssh-keygen -R {host}, then connect once by hand")  # fmt: skip
    if "not found in known_hosts" in text:
        return SourceError(f"the host key of {host} is not known", hint=f"connect once by hand: ssh {host}",
                           code="host-key-unknown")  # fmt: skip
    if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in text:
        return SourceError(f"ssh to {host}: permission denied", code="ssh-denied",
                           hint=f"make `ssh {host} true` work without a password (a key, or an agent)")  # fmt: skip
    if isinstance(error, socket.gaierror):
        return SourceError(f"host {host} is not known to the resolver", hint="check the name", code="ssh-resolve")
    if isinstance(error, TimeoutError):
        return SourceError(f"ssh to {host}: timed out", hint="check the network and the firewall", code="ssh-timeout")
    if isinstance(error, ConnectionRefusedError | paramiko.ssh_exception.NoValidConnectionsError):
        return SourceError(f"ssh to {host}: connection refused", hint="is sshd running, is the port right?",
                           code="ssh-refused")  # fmt: skip
    return SourceError(f"ssh to {host}: {text or type(error).__name__}", hint="check the network", code="ssh")


class _Branch:
    """One session of the node: its line, and the last picture it gave."""

    def __init__(self, node: NodeSource, name: str) -> None:
        self.name = name
        self.inbox: queue.Queue[bytes] = queue.Queue()
        self.line = LineSource(
            lambda data: node.send(name, data), self.inbox.get, lambda: self.inbox.put(b""), f"session {name}"
        )


class NodeSource:
    """The sessions of one node; the connection is made again when it is lost, and what was seen last stays visible."""

    def __init__(self, place: str, command: str = "") -> None:
        self.node = place
        self._place = parse_place(place)
        self._command = command or os.environ.get("GEOREP_TUI_REMOTE") or REMOTE
        self._lock = threading.Condition()
        self._branches: dict[str, _Branch] = {}
        self._last: dict[str, Doc] = {}
        self._seen: dict[str, tuple[str, int | None]] = {}
        self._ready = self._closed = False
        self._error: SourceError | None = None
        self._offset = 0.0
        self._channel: paramiko.Channel | None = None
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"node {place}", daemon=True)
        self._thread.start()

    # ---- for everyone ----------------------------------------------------------------------------------------

    def snapshot(self) -> Doc:
        """All sessions of the node; while it is not reached, what was seen last. Raises SourceError if nothing was."""
        with self._lock:
            self._lock.wait_for(lambda: self._ready or self._error is not None or self._closed, CONNECT + 10)
            branches, error = dict(self._branches), self._error
            if not self._ready and error is None:
                error = SourceError(f"{self.node}: no answer", code="silent")
        for name, branch in branches.items():
            try:
                self._last[name] = self._picture(branch)
            except SourceError as e:
                error = error or e
        if not self._last and error is not None:
            raise error
        documents = [
            d if name in branches and branches[name].line.ended is None else _lost(d, error or _ended(name))
            for name, d in self._last.items()
        ]
        if not documents:
            return {"version": 1, "time": time.time() + self._offset, "sources": [self._source()], "sessions": []}
        sources = {s["node"]: s for d in documents for s in d["sources"]}
        for source in sources.values():
            source["clock_offset_seconds"] = round(self._offset, 3)
        return {
            "version": 1, "time": max(d["time"] for d in documents), "sources": list(sources.values()),
            "sessions": [s for d in documents for s in d["sessions"]],
        }  # fmt: skip

    def _picture(self, branch: _Branch) -> Doc:
        boot_id, since = self._seen.get(branch.name, (None, None))
        branch.line.subscribe(boot_id, since)
        found = branch.line.snapshot()
        self._seen[branch.name] = (branch.line.hello["boot_id"], branch.line.seq)
        return {**found, "sources": [dict(s) for s in found["sources"]]}

    def _source(self) -> Doc:
        return {"node": self.node, "connected": True, "data_time": time.time() + self._offset,
                "clock_offset_seconds": round(self._offset, 3), "engine_version": None, "boot_id": None,
                "error": None}  # fmt: skip

    def events(self) -> list[Doc]:
        """New events of all sessions."""
        with self._lock:
            branches = list(self._branches.values())
        found: list[Doc] = []
        for branch in branches:
            try:
                found += branch.line.events()
            except SourceError:
                continue  # the picture says that it has gone
        return found

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """To the session that `params["session"]` names. Raises SourceError."""
        with self._lock:
            self._lock.wait_for(lambda: self._ready or self._error is not None or self._closed, CONNECT + 10)
            branches, error = dict(self._branches), self._error
        if error is not None:
            raise error
        wanted = str(params.get("session") or "")
        for branch in branches.values():
            if wanted == branch.name or (branch.line.ended is None and wanted == branch.line.hello["session_id"]):
                return branch.line.request(method, params)
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
        while not self._closing.is_set():
            try:
                self._once()
                error = SourceError(f"{self.node}: the connection was lost", code="ssh")
            except SourceError as e:
                error = e
            except (OSError, EOFError, paramiko.SSHException, KeyError, TypeError, ValueError) as e:
                error = explain(self._place.host, e)
            with self._lock:
                self._error, self._ready = error, False
                branches, self._branches = list(self._branches.values()), {}
                self._lock.notify_all()
            for branch in branches:
                branch.line.close()
            self._closing.wait(RETRY)

    def _once(self) -> None:
        """One connection's life. Raises SourceError and what ssh raises."""
        client = connect(self._place)
        try:
            transport = client.get_transport()
            assert transport is not None
            channel = transport.open_session(timeout=CONNECT)
            channel.settimeout(SILENT)
            channel.exec_command(self._command)
            self._channel = channel
            if self._closing.is_set():
                return
            lines = Lines(MAX_WRAPPED)
            while data := channel.recv(1 << 16):
                for line in lines.feed(data):
                    self._heard(decode(line), line)
            self._explain_end(channel)
        except ProtocolError as e:
            raise SourceError(f"{self.node}: {e.text}", hint=f"does `{self._command}` print something else there?",
                              code="protocol") from e  # fmt: skip
        finally:
            self._channel = None
            client.close()

    def _explain_end(self, channel: paramiko.Channel) -> None:
        """Why did it end? Raises SourceError."""
        if self._closing.is_set():
            return
        said = channel.recv_stderr(2000).decode("utf-8", "replace").strip().splitlines()
        code = channel.recv_exit_status() if channel.exit_status_ready() else -1
        if code == 127:
            raise SourceError(f"{self.node} has no `{self._command.split()[0]}` in the PATH of a command over ssh",
                              hint="install georep-tui there, or set GEOREP_TUI_REMOTE", code="no-command")  # fmt: skip
        raise SourceError(f"{self.node}: {said[-1] if said else 'the connection was lost'}", code="ssh")

    def _heard(self, message: Doc, raw: bytes) -> None:
        if "alive" in message:
            with self._lock:
                self._offset = float(message["alive"]) - time.time()
                self._ready, self._error = True, None
                self._lock.notify_all()
            return
        name = str(message["session"])
        with self._lock:
            branch = self._branches.get(name)
            if message.get("up") and branch is None:
                branch = self._branches[name] = _Branch(self, name)
            elif message.get("up") is False and branch is not None:
                del self._branches[name]
        if branch is None:
            return
        if "line" in message:
            branch.inbox.put(raw[raw.index(b'"line":') + 7 : -1] + b"\n")
        elif message.get("up") is False:
            branch.inbox.put(b"")


def _lost(document: Doc, error: SourceError) -> Doc:
    return {**document, "sources": [{**s, "connected": False, "error": error.text} for s in document["sources"]]}


def _ended(name: str) -> SourceError:
    return SourceError(f"session {name} has ended", code="gone")
