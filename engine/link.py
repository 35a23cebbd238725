"""The connection to one agent: a local child or ssh. Sends the agent over, pipelines requests, matches replies."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import __version__
from engine.agent import wire
from engine.agent.frames import (
    HEADER,
    PROTOCOL,
    Buffer,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    SourceError,
    write_frame,
    write_frame_of,
)  # fmt: skip
from engine.agent.wire import WireError
from engine.model import EngineError

GREETING_LOADER = b"georep-loader 1\n"
GREETING_AGENT = b"georep-agent 1\n"
_PIPE = 1 << 20  # bytes a pipe to an agent holds
_NOISE = 65536  # bytes a remote shell may print before the greeting

# Runs on the secondary under `python3 -c`: takes the agent's modules from stdin and serves. Old pythons are told so.
_LOADER = """
import sys
if sys.version_info < (3, 9):
    sys.stderr.write('georep: python %d.%d is too old, 3.9 is needed\\n' % sys.version_info[:2]); sys.exit(97)
import os, json, zlib, types, importlib.abc, importlib.util
os.write(1, b'georep-loader 1\\n')
def r(n):
    b = b''
    while len(b) < n:
        c = os.read(0, n - len(b))
        if not c: sys.exit(1)
        b += c
    return b
d = json.loads(zlib.decompress(r(int.from_bytes(r(4), 'big'))).decode())
class F(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in d['modules']:
            return importlib.util.spec_from_loader(name, self, is_package=name in d['packages'])
    def exec_module(self, m):
        exec(compile(d['modules'][m.__name__], '<agent>/' + m.__name__, 'exec'), m.__dict__)
sys.meta_path.insert(0, F())
import base64
from engine.agent.server import serve
sys.exit(serve(base64.b64decode(d['root']), 0, 1))
"""


class LinkError(EngineError):
    """The line to the secondary is gone, or cannot be made."""


class RemoteError(EngineError):
    """The agent refused or failed a request; the line itself is well. `found` is the gfid of what was in the way, `node`
    ({"id", "host"}) the node whose agents would not refuse it."""

    found: bytes = b""
    node: dict[str, str] | None = None


@dataclass(frozen=True)
class SshTarget:
    """Where an agent runs: `host` None means this machine. `options` are words for ssh, from the configuration."""

    host: str | None
    user: str | None = None
    port: int | None = None
    command: str = "ssh"
    options: tuple[str, ...] = ()
    connect_timeout: int = 60

    def argv(self, remote: str) -> list[str]:
        """The command line that runs `remote` (text for the remote shell, never made from names) on the host."""
        assert self.host is not None
        argv = [
            *shlex.split(self.command), *self.options, "-T", "-oBatchMode=yes",
            f"-oConnectTimeout={self.connect_timeout}", "-oServerAliveInterval=15", "-oServerAliveCountMax=4",
        ]  # fmt: skip
        if self.port is not None:
            argv += ["-p", str(self.port)]
        if self.user is not None:
            argv += ["-l", self.user]
        return [*argv, "--", self.host, remote]


def agent_bundle(root: bytes) -> bytes:
    """The agent's modules and the root it is to serve, packed for the loader."""
    here = Path(__file__).parent / "agent"
    modules = {"engine": "", **{_module(p): p.read_text("utf-8") for p in sorted(here.glob("*.py"))}}
    blob = zlib.compress(
        json.dumps(
            {"modules": modules, "packages": ["engine", "engine.agent"], "root": base64.b64encode(root).decode()}
        ).encode(),
        6,
    )
    return len(blob).to_bytes(4, "big") + blob


def _module(path: Path) -> str:
    return "engine.agent" if path.stem == "__init__" else f"engine.agent.{path.stem}"


@dataclass
class Pending:
    """A request under way. `wait` gives the reply's frame or raises LinkError, RemoteError."""

    link: Link
    ident: int
    on_frame: Callable[[Frame], bool] | None = None
    """Called by the reading thread with each frame of a reply in parts; says whether it was the last."""
    frame: Frame | None = None
    error: EngineError | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> Frame:
        """The reply. Raises LinkError (line gone, or no reply within `timeout` seconds), RemoteError."""
        if not self.done.is_set():
            with self.link.rest():
                self.done.wait(timeout)
        if not self.done.is_set():
            raise LinkError(f"no reply from {self.link.where} within {timeout:g} s", code="link-timeout")
        if self.error is not None:
            raise self.error
        assert self.frame is not None
        return self.frame


class Link:
    """One agent and the line to it.

    Requests may be sent from several threads; replies are matched by id. `idle_timeout` (seconds) is how long the
    line may stay silent while an answer is awaited before it counts as dead; it is kept alive at a third of that.
    """

    def __init__(self, target: SshTarget, root: bytes, idle_timeout: float = 120.0) -> None:
        self.target = target
        self.root = root
        self.where = ":".join(word for word in (target.host, os.fsdecode(root)) if word)
        self._idle = idle_timeout
        self._lock = threading.Lock()
        self._write = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._next = 1
        self._stderr: deque[str] = deque(maxlen=20)
        self._error: LinkError | None = None
        self._closing = threading.Event()
        self.agent_uid: int | None = None
        """Who the agent runs as, once it has said so; only root (0) can keep owners."""
        self.rest: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered by a thread while it waits for the line or for a reply."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self._heard = time.monotonic()
        self._child = self._spawn()
        assert self._child.stdin is not None and self._child.stdout is not None
        self._in = self._child.stdin.fileno()
        self._out = self._child.stdout.fileno()
        self._threads = [threading.Thread(target=self._drain_stderr, name=f"link-stderr {self.where}", daemon=True)]
        self._threads[0].start()
        try:
            self._greet()
        except BaseException:
            self.close()
            raise
        for run, name in ((self._read, "link-read"), (self._pulse, "link-pulse")):
            thread = threading.Thread(target=run, name=f"{name} {self.where}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def pid(self) -> int:
        """Process id of the child: ssh, or the agent itself."""
        return self._child.pid

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self.target.host is None:
            return _start([[sys.executable, "-c", _LOADER], ["python3", "-c", _LOADER]], "set PATH so that python3 is found")
        remote = "exec python3 -c " + shlex.quote(_LOADER)
        return _start([self.target.argv(remote)], "install OpenSSH's client, or set ssh_command")

    def _greet(self) -> None:
        limit = self.target.connect_timeout + 5
        deadline = time.monotonic() + limit
        timer = threading.Timer(limit, self._child.kill)
        timer.daemon = True
        timer.start()
        try:
            line, noise = b"", 0
            while line not in (GREETING_LOADER, GREETING_AGENT):
                line = b""
                while not line.endswith(b"\n"):
                    c = os.read(self._out, 1)
                    noise += 1
                    if not c and time.monotonic() >= deadline:
                        raise LinkError(
                            f"{self.where}: no agent within {limit} s", code="link-slow",
                            hint="is this machine very busy?" if self.target.host is None else "the line is slow, or the login "
                                 f"there waits for something in its shell's start files; see: time ssh {self.target.host} true",
                        )  # fmt: skip
                    if not c or noise > _NOISE:
                        raise self._failure("no agent answered")
                    line += c
            if line == GREETING_LOADER:
                try:
                    _write_all(self._in, agent_bundle(self.root))
                except OSError as e:
                    raise self._failure(f"sending the agent: {e.strerror}") from e
        finally:
            timer.cancel()

    def _failure(self, what: str) -> LinkError:
        """What went wrong with the child, from its exit and its last words."""
        try:
            code: int | None = self._child.wait(2)
        except subprocess.TimeoutExpired:
            code = None
        self._threads[0].join(1)
        words = [w for w in self._stderr if w]
        return explain(self.target.host, code, words, what)

    def _drain_stderr(self) -> None:
        assert self._child.stderr is not None
        for raw in self._child.stderr:
            self._stderr.append(raw.decode("utf-8", "backslashreplace").strip()[:500])

    # ---- requests --------------------------------------------------------------------------------------------

    def new_id(self) -> int:
        """An id for a request of several frames."""
        with self._lock:
            self._next = self._next % 0xFFFFFFF0 + 1
            return self._next

    def expect(self, ident: int, on_frame: Callable[[Frame], bool] | None = None) -> Pending:
        """Await a reply under an id whose frames `post` sends."""
        pending = Pending(self, ident, on_frame)
        with self._lock:
            if self._error is not None:
                raise self._error
            self._pending[ident] = pending
        return pending

    def post(self, kind: int, ident: int, *buffers: Buffer) -> None:
        """Send a frame without awaiting anything. Raises LinkError."""
        try:
            with self.rest(), self._write:
                self.bytes_sent += write_frame(self._in, kind, ident, *buffers)
        except (OSError, ValueError) as e:
            raise self._broke(e) from e

    def post_file(self, kind: int, ident: int, head: bytes, source: int, offset: int, length: int) -> int:
        """Send a frame of `head` and that part of an open file without awaiting anything; how many bytes the file had
        there: fewer than `length` where it ends (zeros went in their place). Raises LinkError, SourceError."""
        try:
            with self.rest(), self._write:
                done = write_frame_of(self._in, kind, ident, head, source, offset, length)
                self.bytes_sent += HEADER.size + len(head) + length
                return done
        except SourceError:
            raise
        except (OSError, ValueError) as e:
            raise self._broke(e) from e

    def _broke(self, why: Exception) -> LinkError:
        self._fail(self._error or self._failure(f"the line broke ({why})"))
        return self._error or LinkError("the line is closed", code="link-closed")

    def request(
        self, kind: int, *buffers: Buffer, on_frame: Callable[[Frame], bool] | None = None
    ) -> Pending:
        """Send one frame and return at once; the reply is awaited with `Pending.wait`. Raises LinkError."""
        ident = self.new_id()
        pending = self.expect(ident, on_frame)
        self.post(kind, ident, *buffers)
        return pending

    def call(self, method: str, params: dict[str, Any] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """A control call: JSON there and back. Raises LinkError, RemoteError."""
        return self.call_later(method, params)(timeout)

    def call_later(
        self, method: str, params: dict[str, Any] | None = None
    ) -> Callable[[float | None], dict[str, Any]]:
        """Send a control call; the returned function waits (seconds, None = for ever) for its result."""
        raw = json.dumps({"method": method, "params": params or {}}).encode()
        pending = self.request(Kind.CALL, raw)

        def result(timeout: float | None = None) -> dict[str, Any]:
            frame = pending.wait(timeout)
            try:
                answer = json.loads(frame.payload)
                error = answer.get("error")
                if error:
                    refused = RemoteError(
                        f"{self.where}: {error.get('text', 'refused')}", hint=str(error.get("hint", "")),
                        code=str(error.get("code", "remote")), errno=error.get("errno") or None,
                    )  # fmt: skip
                    refused.found = bytes.fromhex(str(error.get("found") or ""))
                    node = error.get("node")
                    refused.node = {k: str(v) for k, v in node.items()} if isinstance(node, dict) else None
                    raise refused
                found = answer["result"]
            except (ValueError, KeyError, AttributeError, TypeError) as e:
                raise LinkError(f"{self.where}: an answer that makes no sense to {method}", code="link-garbage") from e
            if not isinstance(found, dict):
                raise LinkError(f"{self.where}: an answer that makes no sense to {method}", code="link-garbage")
            return found

        return result

    # ---- the reading side ------------------------------------------------------------------------------------

    def _read(self) -> None:
        reader = FrameReader(self._out)
        error: LinkError | None = None
        try:
            while (frame := reader.read()) is not None:
                self._heard = time.monotonic()
                self.bytes_received += len(frame.payload) + 9
                self._take(frame)
        except (FrameError, WireError) as e:
            error = LinkError(f"{self.where}: {e}", code="link-garbage", hint="is the agent of another version?")
        except OSError as e:
            error = LinkError(f"{self.where}: {e.strerror}", code="link-lost")
        self._fail(error or self._failure("the agent ended"))

    def _take(self, frame: Frame) -> None:
        with self._lock:
            pending = self._pending.get(frame.id)
        if pending is None:
            return
        if frame.kind == Kind.ERROR:
            errno, text = wire.decode_error(frame.payload)
            pending.error = RemoteError(f"{self.where}: {text}", errno=errno or None, code="remote")
        elif pending.on_frame is not None and not pending.on_frame(frame):
            return
        pending.frame = frame
        with self._lock:
            self._pending.pop(frame.id, None)
        pending.done.set()

    def _fail(self, error: LinkError) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            waiting = list(self._pending.values())
            self._pending.clear()
        for pending in waiting:
            pending.error = self._error
            pending.done.set()

    def _pulse(self) -> None:
        """Keep an idle line alive, and end one that is silent though an answer is due (VOL-2, ERR-6)."""
        while not self._closing.wait(self._idle / 6):
            if self._error is not None:
                return
            silent = time.monotonic() - self._heard
            with self._lock:
                awaited = bool(self._pending)
            if silent > self._idle and awaited:
                self.cut(LinkError(f"{self.where}: silent for {silent:.0f} s", code="link-silent",
                                   hint="the secondary or the line to it hangs"))  # fmt: skip
                return
            if silent > self._idle / 3 and not awaited:
                try:
                    self.call_later("keepalive")
                except EngineError:
                    return

    def cut(self, why: LinkError) -> None:
        """End the line at once, from any thread; the one that uses it is told `why`, and closes it."""
        self._fail(why)
        self._child.kill()

    @property
    def broken(self) -> LinkError | None:
        """Why the line is gone, None while it stands."""
        return self._error

    def close(self) -> None:
        """End the agent and join the threads; nothing is awaited."""
        self._closing.set()
        self._fail(LinkError(f"{self.where}: closed", code="link-closed"))
        child = self._child
        if child.stdin is not None:
            try:
                child.stdin.close()
            except OSError:
                pass
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _start(commands: list[list[str]], hint: str) -> subprocess.Popen[bytes]:
    """Start the first of these commands that can be started, in a process session of its own. Raises LinkError."""
    failed: OSError | None = None
    for argv in commands:
        try:
            return subprocess.Popen(
                argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True, pipesize=_PIPE,
            )  # fmt: skip
        except OSError as e:
            failed = failed or e
    assert failed is not None
    raise LinkError(f"{commands[0][0]}: {failed.strerror}", hint=hint, code="no-program") from failed


def connect(target: SshTarget, root: bytes, idle_timeout: float, hello: dict[str, Any]) -> tuple[Link, dict[str, Any]]:
    """Start an agent and shake hands with it (`hello` names session and brick). Raises LinkError, RemoteError."""
    link = Link(target, root, idle_timeout)
    try:
        answer = link.call("hello", {"protocol": PROTOCOL, "version": __version__, **hello}, target.connect_timeout)
        uid = answer.get("uid")
        link.agent_uid = uid if isinstance(uid, int) else None
    except BaseException:
        link.close()
        raise
    return link, answer


def explain(host: str | None, code: int | None, words: list[str], what: str) -> LinkError:
    """An ssh or agent failure in one line with its remedy."""
    said = "; ".join(w for w in words[-4:] if not w.startswith("@@@"))
    all_words = " ".join(words)
    where = host or "local agent"
    table = (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host-key-changed",
         f"the host key of {host} has changed", f"if that is right: ssh-keygen -R {host}, then connect once by hand"),
        ("Host key verification failed", "host-key-unknown",
         f"the host key of {host} is not known", f"connect once by hand: ssh {host}"),
        ("Permission denied", "ssh-denied", f"ssh to {host}: permission denied",
         f"make `ssh {host} true` work without a password (a key, or an agent)"),
        ("Could not resolve hostname", "ssh-resolve", f"host {host} is not known to the resolver", "check the name"),
        ("Connection refused", "ssh-refused", f"ssh to {host}: connection refused", "is sshd running, is the port right?"),
        ("timed out", "ssh-timeout", f"ssh to {host}: timed out", "check the network and the firewall"),
        ("No route to host", "ssh-route", f"ssh to {host}: no route", "check the network"),
        ("is too old", "python-old", f"{where}: {said}", "install python3 3.9 or newer there"),
        ("python3: not found", "no-python", f"{where} has no python3", "install python3 3.9 or newer there"),
        ("python3: command not found", "no-python", f"{where} has no python3", "install python3 3.9 or newer there"),
        ("No such file or directory: 'python3'", "no-python", f"{where} has no python3", "install python3 there"),
    )  # fmt: skip
    for sign, name, text, hint in table:
        if sign in all_words:
            return LinkError(text, hint=hint, code=name)
    if code == 127:
        return LinkError(f"{where} has no python3", hint="install python3 3.9 or newer there", code="no-python")
    ended = f" (exit {code})" if code is not None and code >= 0 else f" (signal {-code})" if code is not None else ""
    return LinkError(f"{where}: {what}{ended}{': ' + said if said else ''}", code="link-lost",
                     hint="it is tried again by itself; if it stays so, see the network, and sshd's log there")  # fmt: skip


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
