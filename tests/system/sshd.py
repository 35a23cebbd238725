"""A private sshd: own port, host key and configuration in a scratch directory; and the client's side of it.

The product uses OpenSSH with the person's own configuration. So the tests give it one: a file for `ssh -F` with a host
`secondary`, handed over as `--set ssh_options="-F FILE"`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HOST = "secondary"
"""The alias of the private sshd in its client configuration."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Sshd:
    """One sshd instance. `path` replaces PATH for what runs in it (to hide python3, for example).

    `address` is where it listens; `before` are words that run it elsewhere (`nsenter …`).
    """

    def __init__(self, base: Path, path: str | None = None, *, address: str = "127.0.0.1", before: Sequence[str] = ()) -> None:
        self.address = address
        self.before = before
        self.base = base / "ssh"
        self.base.mkdir(mode=0o755)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._key("host_key")
        self._key("identity")
        shutil.copy(self.base / "identity.pub", self.base / "authorized_keys")
        (self.base / "authorized_keys").chmod(0o644)
        self.write_known_hosts("known_hosts", "host_key.pub")
        lines = [
            f"Port {self.port}", f"ListenAddress {address}", f"HostKey {self.base}/host_key", "PidFile none",
            f"AuthorizedKeysFile {self.base}/authorized_keys", "StrictModes no", "UsePAM no", "PermitRootLogin yes",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "MaxStartups 200", "MaxSessions 100",
            "LogLevel VERBOSE", "PermitUserEnvironment no",
        ]  # fmt: skip
        # A home of its own: bash, started by sshd, reads ~/.bashrc, which may set PATH again, and may hold a lock (pyenv's
        # rehash does) that a killed session leaves behind for every later one.
        found = f"PATH={path} " if path is not None else ""
        lines.append(f"SetEnv {found}HOME={self.base}")
        (self.base / "sshd_config").write_text("\n".join(lines) + "\n")

    def _key(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "georep-test", "-f", str(self.base / name)]
        subprocess.run(command, check=True)

    def write_known_hosts(self, name: str, key: str | None) -> Path:
        """A known_hosts file that has `key` (a file here) for this server; None: it knows no host."""
        text = f"[{self.address}]:{self.port} {(self.base / key).read_text()}" if key else ""
        (self.base / name).write_text(text)
        return self.base / name

    @property
    def pid(self) -> int:
        """Process id of the listening sshd; what it serves runs below it."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers. Raises RuntimeError with sshd's log when it does not."""
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if program is None:
            raise RuntimeError("sshd is not installed (Debian: openssh-server)")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = self.base / "sshd.log"
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                [*self.before, program, "-D", "-e", "-f", str(self.base / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection((self.address, self.port), timeout=5) as s:
                    if s.recv(4) == b"SSH-":
                        return
            except OSError:
                self._pause()
        self.stop()
        raise RuntimeError(f"sshd does not answer on port {self.port}:\n{log.read_text()}")

    def _pause(self) -> None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.05)

    def stop(self) -> None:
        """Stop it, with every connection it serves."""
        if self._process is None:
            return
        from tests.system.processes import below

        for pid in [*below(self._process.pid), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def client(
        self, *, port: int | None = None, uid: int | None = None, known_hosts: str = "known_hosts", name: str = "config",
        host: str = HOST,
    ) -> Path:  # fmt: skip
        """A configuration file for `ssh -F`, with the alias `host`.

        `port` leads through a line in front of the server; `uid` makes one that this user can read; `known_hosts`
        names another file here.
        """
        uid = os.geteuid() if uid is None else uid
        user = pwd.getpwuid(uid).pw_name
        identity = self.base / f"identity-{uid}"
        if not identity.exists():
            shutil.copyfile(self.base / "identity", identity)
            identity.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(identity, uid, -1)
        path = self.base / f"{name}-{uid}-{port or self.port}"
        path.write_text(
            f"Host {host}\n  HostName {self.address}\n  Port {port or self.port}\n  User {user}\n"
            f"  HostKeyAlias [{self.address}]:{self.port}\n  IdentityFile {identity}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.base / known_hosts}\n  GlobalKnownHostsFile none\n"
            "  StrictHostKeyChecking yes\n"
        )
        path.chmod(0o644)
        return path
