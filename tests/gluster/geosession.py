"""GlusterFS's own geo-replication between two volumes of the lab: keys, sshd on port 22, create, start; removed again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

from tests.gluster.base import ADDRESS, GlusterError, gluster, run, wait_for
from tests.gluster.lab import Lab, Volume
from tests.system.processes import below

KEYS = Path("/var/lib/glusterd/geo-replication")


class GsyncdSession:
    """A session of gsyncd. It logs in as root on this machine, so an sshd must listen on the lab's address; one is
    started where none does, with the person's own authorized_keys put back at the end."""

    def __init__(self, lab: Lab, primary: Volume, secondary: Volume, base: Path) -> None:
        self.lab, self.primary, self.secondary = lab, primary, secondary
        self.pair = (primary.name, f"{secondary.host}::{secondary.name}")
        self._base = base
        self._sshd: subprocess.Popen[bytes] | None = None
        self._keys = Path.home() / ".ssh" / "authorized_keys"
        self._added: list[str] = []

    def __enter__(self) -> GsyncdSession:
        self.serve()
        run("gluster", "system::", "execute", "gsec_create")
        for line in (KEYS / "common_secret.pem.pub").read_text().splitlines():
            if not self._keys.exists() or line not in self._keys.read_text():
                self._keys.parent.mkdir(mode=0o700, exist_ok=True)
                with self._keys.open("a") as f:
                    f.write(line + "\n")
                self._keys.chmod(0o600)
                self._added.append(line)
        for name in ("secret", "tar_ssh"):  # gsyncd 10 wants the public halves beside them readable
            run("ssh-keygen", "-y", "-f", str(KEYS / f"{name}.pem"))
        gluster("volume", "geo-replication", *self.pair, "create", "no-verify", "force")
        self.command("config", "ssh-options", f"-oPasswordAuthentication=no -oStrictHostKeyChecking=no "
                     f"-oUserKnownHostsFile=/dev/null -i {KEYS}/secret.pem")  # fmt: skip
        self.command("config", "ssh-options-tar", f"-oPasswordAuthentication=no -oStrictHostKeyChecking=no "
                     f"-oUserKnownHostsFile=/dev/null -i {KEYS}/tar_ssh.pem")  # fmt: skip
        self.command("config", "sync-method", "tarssh")
        return self

    def serve(self) -> None:
        """sshd on port 22 of the lab's address, unless one is there."""
        probe = subprocess.run(["ssh-keyscan", "-T", "2", ADDRESS], capture_output=True, check=False)
        if probe.stdout.strip():
            return
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        host_key = self._base / "gsyncd_host_key"
        if not host_key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "sshd"
        self._sshd = subprocess.Popen(
            [program, "-D", "-f", "/dev/null", "-h", str(host_key), "-p", "22", "-o", f"ListenAddress={ADDRESS}",
             "-o", "PermitRootLogin=yes", "-o", "MaxStartups=100", "-o", "MaxSessions=100", "-o", "PidFile=none"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for("sshd", lambda: subprocess.run(["ssh-keyscan", "-T", "2", ADDRESS], capture_output=True).stdout.strip())

    def hang_up(self) -> bool:
        """End the sshd that was started here, with every connection it serves; False where it is another's."""
        if self._sshd is None:
            return False
        for pid in [*below(self._sshd.pid), self._sshd.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._sshd.wait()
        self._sshd = None
        return True

    def workers(self) -> dict[Path, int]:
        """The process of each brick's worker."""
        found: dict[Path, int] = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended
                words = [os.fsdecode(w) for w in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
                if "worker" in words and self.primary.name in words and "--local-path" in words:
                    found[Path(words[words.index("--local-path") + 1])] = int(pid)
        return found

    def works(self, mount: Path, there: Path, patience: float = 25.0) -> None:
        """Return when every worker takes what changes, and has done with it. After a start about half of them never do,
        while gluster calls them Active: libgfchangelog waits for ever for a notice that it missed (GlusterFS 10.3). The
        worker alone is ended then; its monitor starts another."""
        for attempt in range(12):
            wait_for("Active", lambda: {p["crawl_status"] for p in self.pairs()} == {"Changelog Crawl"}, 120)
            names = [f"works-{time.time_ns()}-{number}" for number in range(8)]  # on every brick
            for name in names:
                (mount / name).write_bytes(b"x")
                os.utime(mount / name, (1_700_000_000, 1_700_000_000))  # its tar keeps whole seconds
            try:
                wait_for("a change of every brick", lambda: all((there / name).exists() for name in names), patience)
                wait_for("the batches' ends", lambda: all(p[k] == "0" for p in self.pairs() for k in ("entry", "data", "meta")), 60)
                return
            except AssertionError:
                running = self.workers()
                missing = [name for name in names if not (there / name).exists()]
                stalled = [b for b in self.primary.bricks if any(_file(b / name) for name in missing)]
                print(f"attempt {attempt}: takes nothing: {[b.name for b in stalled]}")
                for brick in stalled:
                    os.kill(running[brick], signal.SIGKILL)
                wait_for("other workers", lambda: all(self.workers().get(b, running[b]) != running[b] for b in stalled), 60)
        raise AssertionError("there is always a worker that takes nothing")

    def command(self, *words: str) -> str:
        """`gluster volume geo-replication PRIMARY SECONDARY WORDS`."""
        return gluster("volume", "geo-replication", *self.pair, *words)

    def pairs(self) -> list[dict[str, str]]:
        """gluster's own `status detail`, brick by brick, in its own words."""
        root = ElementTree.fromstring(gluster("--xml", "volume", "geo-replication", *self.pair, "status", "detail"))
        return [{e.tag: (e.text or "").strip() for e in pair} for pair in root.iter("pair")]

    def states(self) -> set[str]:
        """The status of every brick."""
        return {p["status"] for p in self.pairs()}

    def __exit__(self, *_: object) -> None:
        try:
            for words in (("stop", "force"), ("delete",)):
                with contextlib.suppress(GlusterError):  # stopped already
                    self.command(*words)
        finally:  # whatever glusterd says, the person's keys are as they were
            if self._added and self._keys.exists():
                kept = [x for x in self._keys.read_text().splitlines() if x not in self._added]
                self._keys.write_text("".join(f"{x}\n" for x in kept))
            self.hang_up()


def _file(path: Path) -> bool:
    """Is it there on a brick, and not DHT's link to another brick?"""
    return path.exists() and path.stat().st_mode & 0o7777 != 0o1000
