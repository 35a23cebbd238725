"""What every volume of the tests stands on: a host name, an address, glusterd. Made once, removed by the last user."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HOST = "georep-test"
"""The name under which this machine is a GlusterFS node."""
ADDRESS = "127.0.0.2"

_HOSTS = Path("/etc/hosts")
_LOCK = Path("/run/georep-test-gluster.made")
_PID = Path("/run/georep-test-glusterd.pid")
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_ENV = {**os.environ, "PATH": _PATH, "LC_ALL": "C.UTF-8"}
_BUSY = ("Another transaction is in progress", "Locking failed", "Please try again")


class GlusterError(RuntimeError):
    """A command of GlusterFS failed; its own words."""


def missing() -> str | None:
    """Why no volume can be made here; None when it can."""
    if os.geteuid() != 0:
        return "GlusterFS volumes need root"
    for program, package in (
        ("glusterd", "glusterfs-server"), ("gluster", "glusterfs-server"), ("glusterfs", "glusterfs-client"),
        ("ip", "iproute2"), ("mount.glusterfs", "glusterfs-client"),
    ):  # fmt: skip
        if shutil.which(program, path=_PATH) is None:
            return f"{program} is not installed (package {package})"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    return None


def wait_for(what: str, found: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of `found`; AssertionError when there is none in time."""
    until = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def run(*command: str, timeout: float = 120.0) -> str:
    """Run a command; what it printed. GlusterError with its words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=_ENV, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise GlusterError(f"{' '.join(command)}: {(done.stderr.strip() or done.stdout.strip())}")
    return done.stdout


def gluster(*words: str, timeout: float = 120.0) -> str:
    """`gluster --mode=script WORDS`; again where another command holds the daemon just now. GlusterError."""
    until = time.monotonic() + timeout
    while True:
        try:
            return run("gluster", "--mode=script", *words, timeout=timeout)
        except GlusterError as e:
            if not any(b in str(e) for b in _BUSY) or time.monotonic() > until:
                raise
        time.sleep(0.1)


class Base:
    """The node itself. Several test runs may use it at once: it is removed when the last of them ends."""

    def __init__(self) -> None:
        self._users = os.open(f"{_LOCK}.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._alone() as fd:
            made = self._read(fd)
            self._name(made)
            self._address(made)
            self._daemon(made)
            self._write(fd, made)
            fcntl.flock(self._users, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """While something is made or removed; what was made is noted in the file."""
        fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    @staticmethod
    def _write(fd: int, made: dict[str, Any]) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(made).encode(), 0)

    @staticmethod
    def _read(fd: int) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            found = json.loads(os.pread(fd, 10_000, 0))
            if isinstance(found, dict):
                return found
        return {}

    @staticmethod
    def _name(made: dict[str, Any]) -> None:
        lines = _HOSTS.read_text().splitlines()
        if not any(HOST in line.split("#")[0].split()[1:] for line in lines):
            with _HOSTS.open("a") as f:  # no rename: in a container it is a mount of its own
                f.write(f"{ADDRESS} {HOST}\n")
            made["name"] = True

    @staticmethod
    def _address(made: dict[str, Any]) -> None:
        if f"{ADDRESS}/" not in run("ip", "addr", "show", "dev", "lo"):
            run("ip", "addr", "add", f"{ADDRESS}/8", "dev", "lo")
            made["address"] = True

    @staticmethod
    def _daemon(made: dict[str, Any]) -> None:
        if not _answers():
            _start_daemon(made)

    def kill_daemon(self) -> None:
        """SIGKILL glusterd; the volumes stay as they are. Only of a glusterd that was started here. KeyError else."""
        with self._alone() as fd:
            pid = self._read(fd)["glusterd"]
            os.kill(pid, signal.SIGKILL)
            wait_for("the end of glusterd", lambda: not os.path.exists(f"/proc/{pid}") or _zombie(pid))

    def start_daemon(self) -> None:
        """Start glusterd again, unless it runs."""
        with self._alone() as fd:
            made = self._read(fd)
            if not _answers():
                _start_daemon(made)
                self._write(fd, made)

    def close(self) -> None:
        """Let go; the last one removes what was made here."""
        with self._alone() as fd:
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(self._users)
            made = self._read(fd)
            if made and not gluster("volume", "list").strip():
                self._remove(made)
                self._write(fd, {})

    @staticmethod
    def _remove(made: dict[str, Any]) -> None:
        pid = made.get("glusterd")
        if pid and Path(f"/proc/{pid}/comm").exists() and Path(f"/proc/{pid}/comm").read_text().strip() == "glusterd":
            os.kill(pid, signal.SIGTERM)
            wait_for("the end of glusterd", lambda: not os.path.exists(f"/proc/{pid}") or _zombie(pid))
        if made.get("name"):
            lines = [x for x in _HOSTS.read_text().splitlines(True) if x.split() != [ADDRESS, HOST]]
            _HOSTS.write_text("".join(lines))
        if made.get("address"):
            subprocess.run(["ip", "addr", "del", f"{ADDRESS}/8", "dev", "lo"], check=False, capture_output=True, env=_ENV)


def _answers() -> bool:
    try:
        run("gluster", "pool", "list", timeout=20)
    except (GlusterError, subprocess.TimeoutExpired):
        return False
    return True


def _start_daemon(made: dict[str, Any]) -> None:
    run("glusterd", "-p", str(_PID))
    wait_for("glusterd", _answers)
    made["glusterd"] = int(_PID.read_text())


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
