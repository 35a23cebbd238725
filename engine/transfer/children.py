"""The child processes of one transfer: run side by side, stderr drained, killed when nothing moves (ERR-6)."""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.model import EngineError, Gfid

TICK = 0.25
"""Seconds between two looks whether something moves, and whether to stop."""

STILL = 1.0
"""Seconds without movement after which, and each time again, it is asked whether a child waits in vain."""

PIECE = 32 * 1024
"""Bytes pumped at once, so that a slow limit lets them through often."""

_LAST_WORDS = 20
_GFID = re.compile(rb"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_GRACE = 1.0  # seconds for stderr after the exit: an ssh master that stays may hold it open for ever
_PIPE_SIZE = 1 << 20


class TransferError(EngineError):
    """A transfer failed as a whole: the reason is the program's own last words."""


class Pump:
    """Moves bytes from one pipe to another in a thread of its own, `throttle` having a say. Owns both descriptors.

    `throttle(nbytes)` may wait; an EngineError it raises ends the pump and the transfer.
    """

    def __init__(self, source: int, sink: int, throttle: Callable[[int], None], name: str) -> None:
        self.moved = 0
        self.throttled = False
        self.error: EngineError | None = None
        self._source, self._sink, self._throttle = source, sink, throttle
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the source has ended or the sink is gone."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while n := os.splice(self._source, self._sink, PIECE):
                self.moved += n
                self.throttled = True
                self._throttle(n)
                self.throttled = False
        except BrokenPipeError:
            pass  # who should read has ended: its exit says why
        except EngineError as e:
            self.error = e
        except OSError as e:
            self.error = TransferError(f"moving data: {e.strerror}", code="transfer", errno=e.errno)
        finally:
            self.throttled = False
            os.close(self._source)
            os.close(self._sink)


@dataclass
class Child:
    """One child: its name in messages, its process, its exit (negative: signal), its last lines on stderr."""

    label: str
    process: subprocess.Popen[bytes]
    watched: bool
    code: int | None = None
    in_vain: str = ""
    """Why it was ended: what it waited for would never come."""
    words: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_WORDS))
    named: set[Gfid] = field(default_factory=set)
    """Objects it has spoken of, by the names they have in a stage."""
    _rest: bytes = b""

    @property
    def said(self) -> str:
        """Its last words in one line; ours, where it was ended."""
        return self.in_vain or "; ".join(list(self.words)[-4:])

    def take(self, raw: bytes) -> None:
        """Keep what it wrote to stderr."""
        *lines, self._rest = (self._rest + raw).split(b"\n")
        if len(self._rest) > 4096:
            lines, self._rest = [*lines, self._rest], b""
        self.words.extend(text for line in lines if (text := line.decode("utf-8", "backslashreplace").strip()[:500]))
        for line in lines:
            self.named.update(bytes.fromhex(found.replace(b"-", b"").decode()) for found in _GFID.findall(line))

    def finish(self) -> None:
        """The last line may lack its end."""
        self.take(b"\n")

    def activity(self) -> tuple[int, ...]:
        """Figures that change as long as it does something: bytes read and written, processor time."""
        found: list[int] = []
        pid = self.process.pid
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                fields = f.read().rpartition(b")")[2].split()
            found += (int(fields[11]), int(fields[12]))
            with open(f"/proc/{pid}/io", "rb") as f:
                found += (int(line.split()[1]) for line in f if line[1:6] == b"char:")
        except (OSError, IndexError):
            pass  # it has ended, or this kernel does not count
        return tuple(found)


class Children:
    """The children and pumps of one transfer. Leaving the `with` kills what is left and joins everything.

    `timeout` is how many seconds nothing may move before all are killed, 0 for any time; `tick` is called several
    times a second and stops the transfer by raising. `in_vain` is asked when nothing moves: where it has a reason why
    what reads here waits in vain, that is ended alone, and the others see the end of what it sent.
    """

    def __init__(self, timeout: float, tick: Callable[[], None], in_vain: Callable[[], str] = str) -> None:
        self._timeout = timeout
        self._tick = tick
        self._in_vain = in_vain
        self._children: list[Child] = []
        self._pumps: list[Pump] = []
        self._fds: set[int] = set()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for child in self._children:
            child.process.wait()
            if child.process.stderr is not None:
                child.process.stderr.close()
        for fd in list(self._fds):
            self.close(fd)
        for end in self._sockets:
            end.close()
        for pump in self._pumps:
            pump.join()

    def pipe(self) -> tuple[int, int]:
        """A pipe with as large a buffer as we may have: read and write end. Closed with the rest."""
        ends = os.pipe()
        self._fds.update(ends)
        try:
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # over the user's limit for pipes: the usual size does too
        return ends

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets. Closed with the rest."""
        pair = socket.socketpair()
        self._sockets += pair
        return pair

    def text(self, data: bytes) -> int:
        """A descriptor from which `data` can be read, however long. Closed with the rest."""
        fd = os.memfd_create("georep-list")
        self._fds.add(fd)
        with open(fd, "wb", closefd=False) as f:
            f.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def close(self, *fds: int) -> None:
        """Close descriptors of `pipe` that only a child needs."""
        for fd in fds:
            self._fds.discard(fd)
            os.close(fd)

    def start(
        self, label: str, argv: Sequence[str | bytes], *, stdin: int, stdout: int, cwd: bytes | None = None,
        pass_fds: Sequence[int] = (), watched: bool = True, extra: Mapping[bytes, bytes] | None = None,
    ) -> Child:  # fmt: skip
        """Start a child in a session of its own. Raises TransferError when the program is not there.

        `watched` says whether what it does counts as moving: ssh keeps its line alive even when all hangs. `extra`
        goes into its environment.
        """
        try:
            process = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd,
                env={**environment(), **(extra or {})}, start_new_session=True, bufsize=0, pass_fds=pass_fds,
            )  # fmt: skip
        except OSError as e:
            raise TransferError(
                f"{label}: {e.strerror}: {os.fsdecode(e.filename or argv[0])}", code="transfer-program", errno=e.errno,
                hint=f"install {os.fsdecode(argv[0])}, or choose another sync_method",
            ) from e  # fmt: skip
        child = Child(label, process, watched)
        self._children.append(child)
        return child

    def pump(self, source: int, sink: int, throttle: Callable[[int], None], name: str) -> None:
        """Move bytes between two pipes as long as the transfer lasts; both descriptors are the pump's from now on."""
        self._fds -= {source, sink}
        self._pumps.append(Pump(source, sink, throttle, name))

    def run(self) -> None:
        """Wait until every child has ended. Raises TransferError when nothing moves; what `tick` or a pump raises."""
        with selectors.DefaultSelector() as selector:
            for child in self._children:
                assert child.process.stderr is not None
                os.set_blocking(child.process.stderr.fileno(), False)
                selector.register(child.process.stderr, selectors.EVENT_READ, child)
            endings = self._endings(selector)
            try:
                self._loop(selector)
            finally:
                for fd in endings:
                    os.close(fd)
        for pump in self._pumps:
            pump.join()
            if pump.error is not None:
                raise pump.error
        for child in self._children:
            child.finish()

    def _endings(self, selector: selectors.BaseSelector) -> list[int]:
        """Have the selector wake up when a child ends, where the kernel can tell (else the tick finds it)."""
        fds: list[int] = []
        for child in self._children:
            try:
                fd = os.pidfd_open(child.process.pid)
            except OSError:
                continue
            fds.append(fd)
            selector.register(fd, selectors.EVENT_READ, None)
        return fds

    def _loop(self, selector: selectors.BaseSelector) -> None:
        moved, since = self._moved(), time.monotonic()
        asked = since
        ended: float | None = None
        while True:
            for key, _ in selector.select(TICK):
                if key.data is None:
                    selector.unregister(key.fileobj)
                else:
                    self._drain(selector, key)
            now = time.monotonic()
            for child in self._children:
                if child.code is None:
                    child.code = child.process.poll()
            if all(c.code is not None for c in self._children):
                ended = ended or now
                if not any(k.data is not None for k in selector.get_map().values()) or now - ended > _GRACE:
                    return
                continue
            self._tick()
            if any(p.error is not None for p in self._pumps):
                self.kill()
            seen = self._moved()
            if seen != moved or any(p.throttled for p in self._pumps):
                moved, since, asked = seen, now, now
            elif now - asked > STILL and not any(c.in_vain for c in self._children):
                asked = now
                self._end_in_vain()
            elif 0 < self._timeout < now - since:
                self._stalled(now - since)

    def _drain(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        child: Child = key.data
        try:
            raw = os.read(key.fd, 65536)
        except BlockingIOError:
            return
        if raw:
            child.take(raw)
        else:
            selector.unregister(key.fileobj)

    def _moved(self) -> list[object]:
        running = (c.activity() for c in self._children if c.watched and c.code is None)
        return [*running, *(p.moved for p in self._pumps)]

    def _end_in_vain(self) -> None:
        if reason := self._in_vain():
            for child in self._children:
                if child.watched and child.process.poll() is None:
                    child.in_vain = reason
                    child.process.kill()

    def _stalled(self, seconds: float) -> None:
        running = [c for c in self._children if c.code is None]
        said = "; ".join(c.said for c in running if c.words)
        raise TransferError(
            f"{' and '.join(c.label for c in running)}: nothing moved for {seconds:.0f} s{': ' + said if said else ''}",
            code="transfer-stalled", hint="the secondary, its disk or the line to it hangs",
        )  # fmt: skip

    def kill(self) -> None:
        """End every child that still runs, with all it has started."""
        for child in self._children:
            if child.process.poll() is None:
                try:
                    os.killpg(child.process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


_MISLEADING = (b"TAR_OPTIONS", b"POSIXLY_CORRECT", b"TAPE", b"LANGUAGE")


def environment() -> dict[bytes, bytes]:
    """Our environment without what changes how rsync and tar work, messages in English."""
    kept = {k: v for k, v in os.environb.items() if not k.startswith(b"RSYNC_") and k not in _MISLEADING}
    return {**kept, b"LC_ALL": b"C"}
