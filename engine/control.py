"""The control socket of a session: lets consoles and commands in by who they are, answers, and tells what changes."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine import __version__
from engine.model import EngineError
from engine.protocol import (
    PROTOCOL,
    READING,
    Doc,
    Engine,
    Lines,
    ProtocolError,
    changes,
    decode,
    encode,
    error_object,
    kept_for,
    own_directory,
    pieces,
    socket_path,
)
from engine.verdict import ended

PACE = 0.5
"""Seconds between two looks at the picture for a subscriber."""

TICK = 2.0
"""A subscriber hears something at least so often (seconds): else the line or the engine hangs."""

MOST_CONNECTIONS = 64
LAST_WORDS = 2.0
"""Seconds in which subscribers take the last picture."""

SEND_TIMEOUT = 30.0
"""A peer that takes nothing for so many seconds is let go."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, by the kernel's word, and what they may do: `control`, `read`, or "" (nothing)."""

    uid: int
    user: str
    access: str


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    peer: Peer
    sending: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    subscribed: bool = False
    streaming: threading.Thread | None = None
    """Started once the answer to its subscription is out."""

    def send(self, message: Doc) -> None:
        """One line, whole. Raises OSError, ProtocolError."""
        line = encode(message)
        with self.sending:
            self.sock.sendall(line)

    def close(self) -> None:
        """End it from any thread; its reader and its streamer wake up."""
        self.closed.set()
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError as e:
            if e.errno not in (errno.ENOTCONN, errno.EBADF):
                raise


class ControlServer:
    """Serves one engine on a unix socket until `stop`. `control_group` and `readonly_group` let more people in.

    `read_only` refuses every method that changes something. `log(level, text)` hears of what goes wrong here.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        directory: str | None = None,
        control_group: str = "",
        readonly_group: str = "",
        read_only: bool = False,
        log: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.engine = engine
        self.read_only = read_only
        self._log = log
        self._groups = _group(control_group), _group(readonly_group)
        self._directory = directory or own_directory()
        self.path = socket_path(self._directory, engine.name)
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=f"control {engine.name}", daemon=True)
        self._picture_lock = threading.Lock()
        self._picture: tuple[float, Doc] | None = None

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the socket and serve. Raises ProtocolError when another engine serves it, or it cannot be made."""
        shared = any(group is not None for group in self._groups)
        try:
            _make_directory(self._directory, shared)
            self._listener = self._bind(shared)
        except OSError as e:
            raise ProtocolError(f"{self.path}: {e.strerror or e}", code="socket",
                                hint="is XDG_RUNTIME_DIR yours to write to?") from e  # fmt: skip
        self._thread.start()

    def _bind(self, shared: bool) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if _alive(self.path):
                raise ProtocolError(
                    f"session {self.engine.name} already runs here ({self.path} is served)", code="running",
                    hint=f"see it: georep-tui attach {self.engine.name}",
                )  # fmt: skip
            # made under another name with its mode set, then moved into place: nobody finds it open for a moment
            temp = os.path.join(self._directory, f".{os.getpid()}")
            _unlink(temp)
            listener.bind(temp)
            os.chmod(temp, 0o666 if shared else 0o600)
            listener.listen(16)
            os.rename(temp, self.path)
            st = os.stat(self.path)
            self._identity = (st.st_dev, st.st_ino)
        except BaseException:
            listener.close()
            raise
        return listener

    @property
    def watched(self) -> bool:
        """Is anybody connected?"""
        with self._lock:
            return bool(self._connections)

    def stop(self) -> None:
        """Close all connections and remove the socket. May be called twice."""
        self._stopping.set()
        listener, self._listener = self._listener, None
        if listener is None:
            return
        try:
            listener.shutdown(socket.SHUT_RDWR)
        finally:
            self._thread.join(5)
            listener.close()
            self._remove()
        with self._lock:
            connections = list(self._connections)
        until = time.monotonic() + LAST_WORDS
        for connection in connections:
            for thread in connection.threads[1:]:  # the first one reads, until it is closed
                thread.join(max(0.0, until - time.monotonic()))
            connection.close()
        for connection in connections:
            for thread in connection.threads:
                if thread is not threading.current_thread():
                    thread.join(5)

    def _remove(self) -> None:
        """Remove the socket if it is still ours."""
        try:
            st = os.stat(self.path)
        except FileNotFoundError:
            return
        if (st.st_dev, st.st_ino) == self._identity:
            _unlink(self.path)

    # ---- connections -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        while not self._stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as e:
                if self._stopping.is_set():
                    return
                self._log("error", f"control socket: {e.strerror}")
                self._stopping.wait(1.0)
                continue
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.settimeout(SEND_TIMEOUT)
        connection = _Connection(sock, self.peer(sock))
        with self._lock:
            full = len(self._connections) >= MOST_CONNECTIONS
            if not full:
                self._connections.append(connection)
        if full:
            sock.close()
            self._log("warning", f"control socket: more than {MOST_CONNECTIONS} connections, one refused")
            return
        thread = threading.Thread(
            target=self._serve, args=(connection,), name=f"control {connection.peer.user}", daemon=True
        )
        connection.threads.append(thread)
        thread.start()

    def peer(self, sock: socket.socket) -> Peer:
        """Who is there, and what they may do: the engine's user and root all, members of the groups as these say."""
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", raw)
        user, groups = _who(uid, gid)
        if uid in (0, os.geteuid()):
            access = "control"
        else:
            control, readonly = self._groups
            access = "control" if control in groups else "read" if readonly in groups else ""
        if self.read_only and access:
            access = "read"
        return Peer(uid, user, access)

    def _serve(self, connection: _Connection) -> None:
        """Read requests until the peer leaves."""
        try:
            if not connection.peer.access:
                connection.send({"error": {
                    "code": "denied", "text": f"{connection.peer.user} may not look at this session",
                    "hint": "control_group and readonly_group let people in",
                }})  # fmt: skip
                return
            connection.send({"hello": self._hello(connection)})
            self._requests(connection)
        except (OSError, ProtocolError) as e:
            if not connection.closed.is_set() and not isinstance(e, ConnectionError):
                self._log("warning", f"control socket: {connection.peer.user}: {e}")
        finally:
            connection.close()
            for thread in connection.threads[1:]:
                thread.join(5)
            connection.sock.close()
            with self._lock:
                self._connections.remove(connection)

    def _hello(self, connection: _Connection) -> Doc:
        return {
            "protocol": PROTOCOL, "boot_id": self.engine.events.boot_id, "engine_version": __version__,
            "session": self.engine.name, "session_id": self.engine.id, "access": connection.peer.access,
            "user": connection.peer.user, "pid": os.getpid(),
        }  # fmt: skip

    def _requests(self, connection: _Connection) -> None:
        lines = Lines()
        while not connection.closed.is_set():
            try:
                data = connection.sock.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                return
            try:
                for line in lines.feed(data):
                    self._request(connection, line)
            except ProtocolError as e:
                connection.send({"id": None, "error": error_object(e)})
                return

    def _request(self, connection: _Connection, line: bytes) -> None:
        """Answer one request; what it did wrong is told, and the connection goes on."""
        ident: object = None
        try:
            request = decode(line)
            ident = request.get("id")
            answer: Doc = {"id": ident, "result": self._do(connection, request)}
        except EngineError as e:
            answer = {"id": ident, "error": error_object(e)}
        except Exception as e:  # noqa: BLE001 - the peer is told, the log has it, and the engine goes on
            self._log("error", f"control socket: internal error: {type(e).__name__}: {e}")
            answer = {"id": ident, "error": {"code": "internal", "text": f"internal error: {type(e).__name__}: {e}",
                                             "hint": "the engine's log says more"}}  # fmt: skip
        try:
            connection.send(answer)
        except ProtocolError as e:
            connection.send({"id": ident, "error": error_object(e)})
        if connection.streaming is not None:
            thread, connection.streaming = connection.streaming, None
            connection.threads.append(thread)
            thread.start()

    def _do(self, connection: _Connection, request: Doc) -> Doc:
        method, params = request.get("method"), request.get("params", {})
        if not isinstance(method, str) or not isinstance(params, dict):
            raise ProtocolError('a request is {"id", "method", "params"}', code="bad-request")
        wanted = params.pop("session", None)
        if wanted not in (None, self.engine.name, self.engine.id):
            raise ProtocolError(f"session {wanted} is not served here, but {self.engine.name}", code="usage")
        if method == "hello":
            return self._hello(connection)
        if method == "subscribe":
            return self._subscribe(connection, params)
        if method == "snapshot":
            return self.picture()
        if method not in READING and connection.peer.access != "control":
            why = "this engine runs read-only" if self.read_only else f"{connection.peer.user} may only look"
            raise ProtocolError(
                f"{method}: not allowed, {why}", code="denied", hint="ask for membership in control_group"
            )
        try:
            return self.engine.command(method, params, connection.peer.user)
        finally:
            if method not in READING:
                with self._picture_lock:
                    self._picture = None  # who changed something sees it in the next picture

    def picture(self) -> Doc:
        """The engine's snapshot, at most a quarter of a second old, never older than a command: all viewers share it."""
        with self._picture_lock:
            now = time.monotonic()
            if self._picture is None or now - self._picture[0] > PACE / 2:
                self._picture = (now, self.engine.snapshot())
            return self._picture[1]

    # ---- subscriptions ---------------------------------------------------------------------------------------

    def _subscribe(self, connection: _Connection, params: Doc) -> Doc:
        since = params.get("since")
        if since is not None and not isinstance(since, int):
            raise ProtocolError("since is an event's number or null", code="bad-request")
        recent = params.get("recent") or 0
        if not isinstance(recent, int) or recent < 0:
            raise ProtocolError("recent is a number of events", code="bad-request")
        if connection.subscribed:
            raise ProtocolError("already subscribed", code="bad-request")
        events = self.engine.events
        newest = events.seq
        same_life = params.get("boot_id") in (None, events.boot_id)
        start = max(newest - recent, events.oldest - 1) if since is None else since if same_life else -1
        connection.subscribed = True
        thread = threading.Thread(
            target=self._stream, args=(connection, start), name=f"stream {connection.peer.user}", daemon=True
        )
        connection.streaming = thread
        return {"boot_id": events.boot_id, "seq": newest}

    def _stream(self, connection: _Connection, seq: int) -> None:
        """The kept events after `seq` (-1: of another life), a picture, then changes, as fast as the peer reads."""
        try:
            self._follow(connection, seq)
        except (OSError, ProtocolError) as e:
            if not connection.closed.is_set() and not isinstance(e, ConnectionError):
                self._log("warning", f"control socket: {connection.peer.user}: {e}")
            connection.close()
        except Exception as e:  # noqa: BLE001 - a thread's last word; the peer connects again
            self._log("error", f"control socket: internal error: {type(e).__name__}: {e}")
            connection.close()

    def _follow(self, connection: _Connection, seq: int) -> None:
        events = self.engine.events
        shown: Doc | None = None
        looked = said = 0.0
        while not (connection.closed.is_set() or self._stopping.is_set()):
            found = events.since(seq) if seq >= 0 else None
            newest = events.seq
            if found is None:
                connection.send({"event": "gap", "seq": newest, "time": time.time(), "since": max(seq, 0)})
                seq, shown, said = newest, None, time.monotonic()
            else:
                for event in found:
                    connection.send(event)
                    seq, said = event["seq"], time.monotonic()
            now = time.monotonic()
            if shown is None or now - looked >= PACE:
                looked = now
                picture = self.picture()
                sent = self._difference(connection, shown, picture, seq)
                shown = picture if shown is None else kept_for(shown, picture, sent)
                said = now if sent is not None else said
            if now - said >= TICK:
                connection.send({"event": "tick", "seq": seq, "time": time.time()})
                said = now
            if not events.wait(seq, max(0.01, looked + PACE - time.monotonic())):
                continue
            # what happens in a burst goes out together
            connection.closed.wait(0.02)
        if not connection.closed.is_set():  # this end says goodbye: who looks on sees a session that is Stopped
            for event in (events.since(seq) if seq >= 0 else None) or ():
                connection.send(event)
                seq = event["seq"]
            self._difference(connection, shown, ended(self.engine.snapshot(), time.time()), seq)

    def _difference(self, connection: _Connection, shown: Doc | None, picture: Doc, seq: int) -> Doc | None:
        """Send the picture, or what changed in it; None when nothing did."""
        if shown is None:
            body: Doc | None = {"snapshot": picture}
        else:
            body = changes(shown, picture)
        if body is None:
            return None
        for piece in pieces("snapshot" if shown is None else "changed", body):
            connection.send({**piece, "seq": seq, "time": picture["time"]})
        return body


# ---- sockets and people ----------------------------------------------------------------------------------------


def _make_directory(directory: str, shared: bool) -> None:
    """The sockets' directory: ours, and nobody else writes to it. Raises OSError, ProtocolError."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    st = os.lstat(directory)
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or st.st_mode & 0o022:
        raise ProtocolError(
            f"{directory} is not a directory of ours that only we can write to", code="socket",
            hint="remove it, or set XDG_RUNTIME_DIR",
        )  # fmt: skip
    if shared and st.st_mode & 0o011 != 0o011:
        os.chmod(directory, stat.S_IMODE(st.st_mode) | 0o011)


def _alive(path: str) -> bool:
    """Does somebody serve this socket?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:
            return True  # its queue is full: it lives
        return True


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _group(name: str) -> int | None:
    """A group's number. Raises EngineError where there is none of that name."""
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as e:
        raise EngineError(f"there is no group {name!r}", code="config", hint="see getent group") from e


def _who(uid: int, gid: int) -> tuple[str, set[int]]:
    """A user's name (its number where it has none) and groups."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid), {gid}
    return name, {gid, *os.getgrouplist(name, gid)}
