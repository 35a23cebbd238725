"""GlusterFS's own geo-replication, set up as its commands do it, for comparison; and a long line in front of a port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.gluster.base import ADDRESS, HOST, GlusterError, gluster
from tests.gluster.lab import Volume
from tests.system.runner import PROJECT, wait_until

KEYS = Path("/var/lib/glusterd/geo-replication")


class Gsyncd:
    """An sshd for gsyncd on the lab's address, and its keys with root's; put back at the end."""

    def __enter__(self) -> Self:
        self.base = Path(tempfile.mkdtemp())
        self._lines: list[subprocess.Popen[bytes]] = []
        self._authorized = Path("~/.ssh/authorized_keys").expanduser()
        self._authorized.parent.mkdir(mode=0o700, exist_ok=True)
        self._before = self._authorized.read_bytes() if self._authorized.exists() else None
        for name in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / name)], check=True)
        (self.base / "sshd_config").write_text(
            f"Port 22\nListenAddress {ADDRESS}\nHostKey {self.base}/host\nPidFile none\nPermitRootLogin yes\n"
            "StrictModes no\nUsePAM no\nMaxStartups 200\nMaxSessions 100\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") or "sshd"
        self._sshd = subprocess.Popen([program, "-D", "-f", str(self.base / "sshd_config")], start_new_session=True)
        self._known = Path("~/.ssh/known_hosts").expanduser()
        self._known_before = self._known.read_bytes() if self._known.exists() else None
        key = (self.base / "host.pub").read_text()
        with self._known.open("a") as f:
            f.write(f"{HOST},{ADDRESS} {key}")
        self._authorize((self.base / "id.pub").read_text())
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.kill()
            line.wait()
        os.killpg(self._sshd.pid, signal.SIGKILL)
        self._sshd.wait()
        for path, before in ((self._authorized, self._before), (self._known, self._known_before)):
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)
        shutil.rmtree(self.base)

    def _authorize(self, lines: str) -> None:
        with self._authorized.open("a") as f:
            f.write(lines.rstrip("\n") + "\n")
        self._authorized.chmod(0o600)

    def line(self, target: int, delay: float, host: str = "127.0.0.1") -> int:
        """A port that leads to `target` with that many seconds each way."""
        line = subprocess.Popen(
            ["python3", "-m", "benchmarks.longline", str(target), str(delay), host], cwd=PROJECT, stdout=subprocess.PIPE
        )
        self._lines.append(line)
        assert line.stdout is not None
        return int(line.stdout.readline())

    def session(self, primary: Volume, secondary: Volume, delay: float | None) -> GsyncdSession:
        """A session that is created, not started."""
        gluster("system::", "execute", "gsec_create")
        words = ("volume", "geo-replication", primary.name, f"{HOST}::{secondary.name}")
        for name in ("secret", "tar_ssh"):
            wait_until((KEYS / f"{name}.pem").exists, 30, f"{name}.pem")
        gluster(*words, "create", "no-verify", "force")  # the keys are where they belong already
        self._authorize((KEYS / "common_secret.pem.pub").read_text())
        gluster(*words, "config", "sync-method", "tarssh")
        gluster(*words, "config", "log-level", "WARNING")
        options = f"-oPasswordAuthentication=no -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null -i {KEYS}"
        gluster(*words, "config", "ssh-options", f"{options}/secret.pem")
        gluster(*words, "config", "ssh-options-tar", f"{options}/tar_ssh.pem")
        if delay is not None:
            gluster(*words, "config", "ssh-port", str(self.line(22, delay, ADDRESS)))
        return GsyncdSession(words)


@dataclass
class GsyncdSession:
    """One session of gsyncd."""

    words: tuple[str, ...]

    def start(self) -> None:
        """Start it."""
        gluster(*self.words, "start")

    def settled(self) -> None:
        """Wait until every brick follows live changes."""

        def live() -> bool:
            found = gluster(*self.words, "status")
            rows = [r for r in found.splitlines() if HOST in r]
            return bool(rows) and all("Changelog Crawl" in r for r in rows)

        wait_until(live, 120, "Changelog Crawl", pause=0.5)

    def stop(self) -> None:
        """Stop it."""
        gluster(*self.words, "stop", "force")

    def close(self) -> None:
        """Remove it."""
        with contextlib.suppress(GlusterError):
            self.stop()
        for _ in range(5):
            try:
                gluster(*self.words, "delete")
                return
            except GlusterError:
                time.sleep(1)


