"""Who may write to a volume, kept in the volume: one node for a session, one agent for each of its bricks (SAFE-5)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Optional

from engine.agent.gluster_mount import state_directory
from engine.agent.state import CallError

LEASE = "trusted.georep.lease."
"""On the volume's root, then the id of session and brick: which agent replicates that brick."""
NODE = "trusted.georep.node."
"""Then the id of the session: on which node its agents run."""

SECONDS = 20.0
"""A lease that has not changed for this long is nobody's. No clocks are compared: who waits looks how long it stays."""

_RENEW = 5.0
_SETTLE = 1.0
"""Two nodes may take a node's lease in one moment: after so long the one whose writing was the later one has it."""


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


class Lease(ABC):
    """An xattr of the volume's root that changes as long as its holder lives, and a lock on this node beside it.

    `lock`, `free`, `take`, in this order; then it is renewed by a thread of its own until `close`.
    """

    _who: tuple[str, ...] = ("node",)
    """What tells one holder from another."""
    _mode = fcntl.LOCK_SH
    _patient = True
    """Is one that another node renews while we look waited for?"""

    def __init__(self, root_fd: int, key: str, file: str, mine: dict[str, Any]) -> None:
        """`file` is the name of the lock on this node, `mine` says who we are: at least `node`, this node's id. OSError."""
        self._root_fd = root_fd
        self._key = key
        self._mine = mine
        self._turn = 0
        self._renewed = 0.0
        self._lost = ""
        self._why = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {key}", daemon=True)
        self._seen: Optional[dict[str, Any]] = None
        self._since: Optional[float] = None
        self._fd = os.open(f"{state_directory()}/{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    # --- taking it

    def lock(self, until: float) -> None:
        """Take the lock on this node. CallError `locked` when another agent has it until then (monotonic seconds)."""
        while True:
            try:
                fcntl.flock(self._fd, self._mode | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    holder = os.pread(self._fd, 100, 0).decode("ascii", "replace").strip()
                    raise _locked(holder or "unknown") from None
                self._stop.wait(0.05)  # there is no lock call with a deadline

    def free(self) -> bool:
        """May it be taken? A lease of this node may, for we have its lock; another node's has to stand still first.

        To be asked again and again. OSError; CallError when it will not be free.
        """
        found, now = read_xattr(self._root_fd, self._key), time.monotonic()
        if found is None or found.get("node") == self._mine["node"]:
            return True
        if self._since is None or found != self._seen:
            renewed = self._since is not None
            self._seen, self._since = found, now
            if renewed and not self._patient:
                raise self.refusal()
        return now - self._since >= SECONDS

    @abstractmethod
    def refusal(self) -> CallError:
        """It was not free in time."""

    def take(self) -> None:
        """Write it, and keep it. CallError when another node was faster; OSError."""
        self._write(read_xattr(self._root_fd, self._key))
        self._thread.start()

    # --- keeping it

    def _write(self, found: Optional[dict[str, Any]]) -> None:
        self._turn = max(self._turn, int((found or {}).get("turn") or 0)) + 1
        write_xattr(self._root_fd, self._key, {**self._mine, "turn": self._turn})
        self._renewed = time.monotonic()

    def _holds(self, found: Optional[dict[str, Any]]) -> bool:
        # one whose renewal failed on some of the bricks only may still show the turn before
        return found is not None and all(found.get(k) == self._mine[k] for k in self._who)

    def _renew(self) -> None:
        while not self._stop.wait(_RENEW):
            try:
                found = read_xattr(self._root_fd, self._key)
                if not self._holds(found):
                    self._lost = f"{_holder(found or {})} has taken it"
                    return
                self._write(found)
            except OSError as e:
                self._why = os.strerror(e.errno or errno.EIO)  # tried again; `check` says when it is too late

    def check(self) -> None:
        """Called before anything is changed. CallError `lease-lost` when another agent may write by now."""
        if self._lost:
            raise CallError(f"this agent may not write any more: {self._lost}", "lease-lost", "", errno.EIO)
        if time.monotonic() - self._renewed > SECONDS - _RENEW:
            raise CallError(f"the lease could not be renewed in time ({self._why or 'the volume hangs'})", "lease-lost", "", errno.EIO)

    def close(self) -> None:
        """Give it up: the last agent of this node removes it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if self._renewed and not self._lost and self._last():
                os.removexattr(f"/proc/self/fd/{self._root_fd}", self._key)
        except OSError as e:
            if e.errno not in (errno.ENODATA, errno.ENOTCONN, errno.ESTALE, errno.EIO):
                raise
        finally:
            os.close(self._fd)

    def _last(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class BrickLease(Lease):
    """One agent for each brick of a session."""

    _who = ("node", "pid", "token")
    _mode = fcntl.LOCK_EX

    def __init__(self, root_fd: int, volume: str, ident: str, node: str) -> None:
        """`ident` is the id of session and brick. OSError."""
        super().__init__(root_fd, LEASE + ident, f"{volume}-{ident}", {
            "node": node, "name": os.uname().nodename, "pid": os.getpid(), "token": secrets.token_hex(8),
        })  # fmt: skip

    def lock(self, until: float) -> None:
        super().lock(until)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"pid %d\n" % os.getpid(), 0)

    def refusal(self) -> CallError:
        return _locked(_holder(self._seen or {}))


class NodeLease(Lease):
    """One node for all agents of a session: what keeps operations of different bricks apart are locks of one node."""

    _patient = False

    def __init__(self, root_fd: int, volume: str, session: str, node: str) -> None:
        """`session` is the session's id. OSError."""
        super().__init__(root_fd, NODE + session, f"{volume}-{session}.node", {"node": node, "name": os.uname().nodename})

    def refusal(self) -> CallError:
        held = self._seen or {}
        return CallError(
            f"the agents of this session run on {held.get('name')}", "other-node",
            "they all have to be on one node; when it is down, its lease ends by itself", errno.EWOULDBLOCK,
            {"id": str(held.get("node") or ""), "host": str(held.get("name") or "")},
        )  # fmt: skip

    def take(self) -> None:
        found, began = read_xattr(self._root_fd, self._key), time.monotonic()
        if not self._holds(found):
            if found is not None and found != self._seen:
                self._seen = found
                raise self.refusal()
            self._write(found)
            self._settle(quick=time.monotonic() - began < _SETTLE / 2)
        super().take()

    def _settle(self, quick: bool) -> None:
        """Let another node's writing of the same moment come to light; of one that had the lease before, its end."""
        self._stop.wait(_SETTLE if quick else SECONDS)
        self._seen = read_xattr(self._root_fd, self._key)
        if not self._holds(self._seen):
            self._lost = f"{_holder(self._seen or {})} was faster"
            raise self.refusal()


class Leases:
    """Both leases of one agent, held from its making to `close`."""

    def __init__(self, root_fd: int, volume: str, session: str, ident: str, node: str, wait: float) -> None:
        """`ident` is the id of session and brick, `node` this node's, `wait` how many seconds to wait.

        Raises CallError `other-node`, `locked`; OSError.
        """
        until = time.monotonic() + wait
        self._held: list[Lease] = []
        try:
            self._held.append(NodeLease(root_fd, volume, session, node))
            self._held.append(BrickLease(root_fd, volume, ident, node))
            for lease in self._held:
                lease.lock(until)
            _await(self._held, until)
            for lease in self._held:
                lease.take()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Called before anything is changed. CallError `lease-lost`."""
        for lease in self._held:
            lease.check()

    def close(self) -> None:
        """Give both up."""
        while self._held:
            self._held.pop().close()


def _await(leases: Sequence[Lease], until: float) -> None:
    """Wait until all are free, which a dead node's are at one time."""
    pause = threading.Event()
    while taken := [lease for lease in leases if not lease.free()]:
        if time.monotonic() >= until:
            raise taken[0].refusal()
        pause.wait(0.5)  # nothing tells of a change


def _holder(found: dict[str, Any]) -> str:
    process = f"pid {found['pid']} on " if "pid" in found else ""
    return f"{process}{found.get('name')}"


def _locked(holder: str) -> CallError:
    return CallError(
        f"the volume is held by another agent of this brick ({holder})", "locked",
        "stop the other engine, or wait until its line has timed out", errno.EWOULDBLOCK,
    )  # fmt: skip
