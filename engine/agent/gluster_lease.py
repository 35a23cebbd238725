"""One agent for each brick of a session, also where agents run on several nodes: a lease kept in the volume (SAFE-5)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
import time
from typing import Any, Optional

from engine.agent.state import CallError

LEASE = "trusted.georep.lease."
"""On the volume's root, then the id of session and brick."""

SECONDS = 20.0
"""A lease that has not changed for this long is nobody's. No clocks are compared: who waits looks how long it stays."""

_RENEW = 5.0
_STATE = "/run/georep-tui"


def read_xattr(fd: int, name: str) -> Optional[dict[str, Any]]:
    """A JSON object kept in an xattr of an open directory, None when there is none. OSError."""
    try:
        raw = os.getxattr(f"/proc/self/fd/{fd}", name)
    except OSError as e:
        if e.errno == errno.ENODATA:
            return None
        raise
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def write_xattr(fd: int, name: str, value: dict[str, Any]) -> None:
    """Keep a JSON object in an xattr of an open directory. OSError."""
    os.setxattr(f"/proc/self/fd/{fd}", name, json.dumps(value).encode())


class Lease:
    """Held from its making to `close`: on this node by a lock, which ends with the process, elsewhere by the lease."""

    def __init__(self, root_fd: int, volume: str, ident: str, node: str, wait: float) -> None:
        """`node` is this node's id, `wait` how many seconds to wait. Raises CallError `locked`; OSError."""
        self._root_fd = root_fd
        self._key = LEASE + ident
        self._turn = 0
        self._mine: dict[str, Any] = {"node": node, "name": os.uname().nodename, "pid": os.getpid(), "turn": 0,
                                      "token": secrets.token_hex(8)}  # fmt: skip
        self._lost = ""
        self._why = ""
        self._stop = threading.Event()
        until = time.monotonic() + wait
        os.makedirs(_STATE, 0o700, exist_ok=True)
        self._fd = os.open(f"{_STATE}/{volume}-{ident}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(until)
            self._wait_for_other_nodes(node, until)
            self._write()
        except BaseException:
            os.close(self._fd)
            raise
        self._thread = threading.Thread(target=self._renew, name="agent-lease", daemon=True)
        self._thread.start()

    def _lock(self, until: float) -> None:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    holder = os.pread(self._fd, 100, 0).decode("ascii", "replace").strip()
                    raise _locked(holder or "unknown") from None
                self._stop.wait(0.05)  # there is no lock call with a deadline
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"pid %d\n" % os.getpid(), 0)

    def _wait_for_other_nodes(self, node: str, until: float) -> None:
        """A lease of this node is a dead agent's, for we have its lock; another node's has to stand still first."""
        seen, since = None, time.monotonic()
        while True:
            found = read_xattr(self._root_fd, self._key)
            now = time.monotonic()
            if found is None or found.get("node") == node:
                return
            if found != seen:
                seen, since = found, now
            elif now - since >= SECONDS:
                return
            if now >= until:
                raise _locked(f"pid {found.get('pid')} on {found.get('name')}")
            self._stop.wait(0.5)  # nothing tells of a change

    def _write(self) -> None:
        self._turn += 1
        self._mine = {**self._mine, "turn": self._turn}
        write_xattr(self._root_fd, self._key, self._mine)
        self._renewed = time.monotonic()

    def _renew(self) -> None:
        while not self._stop.wait(_RENEW):
            try:
                found = read_xattr(self._root_fd, self._key)
                # one whose renewal failed on some of the bricks only may still show the turn before
                if found is None or any(found.get(k) != self._mine[k] for k in ("node", "pid", "token")):
                    self._lost = f"pid {(found or {}).get('pid')} on {(found or {}).get('name')} has taken it"
                    return
                self._write()
            except OSError as e:
                self._why = os.strerror(e.errno or errno.EIO)  # tried again; `check` says when it is too late

    def check(self) -> None:
        """Called before anything is changed. CallError `lease-lost` when another agent may write by now."""
        if self._lost:
            raise CallError(f"this agent is no longer the one of its brick: {self._lost}", "lease-lost", "", errno.EIO)
        if time.monotonic() - self._renewed > SECONDS - _RENEW:
            raise CallError(f"the lease could not be renewed in time ({self._why or 'the volume hangs'})", "lease-lost", "", errno.EIO)

    def close(self) -> None:
        """Give it up."""
        self._stop.set()
        self._thread.join()
        try:
            if not self._lost:
                os.removexattr(f"/proc/self/fd/{self._root_fd}", self._key)
        except OSError as e:
            if e.errno not in (errno.ENODATA, errno.ENOTCONN, errno.ESTALE, errno.EIO):
                raise
        finally:
            os.close(self._fd)


def _locked(holder: str) -> CallError:
    return CallError(
        f"the volume is held by another agent of this brick ({holder})", "locked",
        "stop the other engine, or wait until its line has timed out", errno.EWOULDBLOCK,
    )  # fmt: skip
