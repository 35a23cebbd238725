"""Programs of a GlusterFS node, run here or over ssh: short scripts for sh, so nothing need be installed there."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from georep_tui.sources.base import SourceError

if TYPE_CHECKING:
    from georep_tui.ssh.asker import Asker
    from georep_tui.ssh.client import Connection
    from georep_tui.ssh.keys import Keyring

TIMEOUT = 60.0
"""Seconds one script may take: gluster asks every node of the pool."""

RETRY, RETRY_MOST = 1.0, 30.0


class Runner(Protocol):
    """Somewhere to run a script of sh. Raises SourceError."""

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, errors; `arguments` are $1, $2, …"""

    def close(self) -> None:
        """Let go."""


class Here:
    """This machine."""

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        """In a session of its own, so that nothing prompts under a screen."""
        try:
            child = subprocess.Popen(
                ["sh", "-c", script, "sh", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, errors="backslashreplace", start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            raise SourceError(f"sh: {e.strerror or e}", code="no-gluster") from e
        with child:
            try:
                out, err = child.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired as e:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # with all that it started
                raise SourceError(f"gluster: no answer within {TIMEOUT:g} s", hint="is glusterd well?",
                                  code="silent") from e  # fmt: skip
        return child.returncode, out, err

    def close(self) -> None:
        """Nothing is open."""


class Far:
    """A node over ssh; `before` are words that run the script as somebody else, such as `sudo -n`.

    The connection is made at the first use, and again after it was lost: not before a while, longer each time.
    """

    def __init__(
        self, place: str, *, asker: Asker, keyring: Keyring, config: str = "", before: Sequence[str] = ()
    ) -> None:
        self.place = place
        self._asker, self._keyring, self._config = asker, keyring, config
        self._before = list(before)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._failed: tuple[float, SourceError] | None = None
        self._wait = RETRY

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        """Over a channel of its own."""
        return self.execute(shlex.join([*self._before, "sh", "-c", script, "sh", *arguments]), TIMEOUT)

    def execute(self, command: str, timeout: float) -> tuple[int, str, str]:
        """A whole command; exit code, output, errors. Raises SourceError, also after `timeout` seconds."""
        import paramiko

        from georep_tui.ssh.client import explain
        from georep_tui.ssh.place import parse_place

        connection = self._connected()
        try:
            code, out, err = connection.run(command, timeout)
        except (OSError, EOFError, paramiko.SSHException) as e:
            self._lost(connection)
            raise explain(parse_place(self.place).host, e) from e
        return code, out.decode("utf-8", "backslashreplace"), err.decode("utf-8", "backslashreplace")

    def _connected(self) -> Connection:
        from georep_tui.ssh.client import connect
        from georep_tui.ssh.place import parse_place

        with self._lock:
            if self._connection is not None and self._connection.transport.is_active():
                return self._connection
            if self._failed is not None and time.monotonic() - self._failed[0] < self._wait:
                raise self._failed[1]
            try:
                self._connection = connect(parse_place(self.place), self._asker, self._keyring, config=self._config)
            except SourceError as e:
                self._wait = min(RETRY_MOST, self._wait * 2)
                self._failed = time.monotonic(), e
                raise
            self._failed, self._wait = None, RETRY
            return self._connection

    def _lost(self, connection: Connection) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None
        connection.close()

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def words(*parts: str) -> str:
    """A command for a script, quoted."""
    return shlex.join(parts)
