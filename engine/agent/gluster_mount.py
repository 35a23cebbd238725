"""A private mount of a volume that lives as long as a descriptor of its root: gone on every exit, SIGKILL included."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import tempfile
import threading
import time
from typing import Optional

from engine.agent import system
from engine.agent.gluster_info import program
from engine.agent.state import CallError

_STATE = "/run/georep-tui"
_BASE = _STATE + "/mounts"


def state_directory(path: str = _STATE) -> str:
    """Make the node's directory for locks, or one in it: ours, and nobody else may write to it. OSError."""
    if path != _STATE:
        state_directory()
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    st = os.lstat(path)
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it is not a directory of ours: remove it", path)
    if st.st_mode & 0o022:
        os.chmod(path, stat.S_IMODE(st.st_mode) & ~0o022)
    return path
_LOGS = "/var/log/glusterfs"
_PASS = ("io-threads", "write-behind", "md-cache", "quick-read", "open-behind", "read-ahead", "readdir-ahead",
         "io-cache", "nl-cache")  # fmt: skip
"""Client translators that are left out: the first costs a switch of threads for each call, the others keep back what
was written, or answer from a memory of how things were, while other agents change them."""

ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Mount:
    """A volume, mounted with gfid access; `fd` is its root, `path` where it can be seen (None: nowhere).

    Its directory is gone as soon as it is open (`hidden`), so the kernel unmounts it with the last descriptor.
    A visible one, for programs that know paths only, is unmounted by `close`, or by a guardian when this process
    dies. No negative client-pid: those have the least priority on the bricks, whose threads then spin (half the
    speed, twice the processor).
    """

    def __init__(self, volume: str, params: str = "", *, hidden: bool = True) -> None:
        self.fd = -1
        self.path: Optional[str] = None
        self._guardian: Optional[subprocess.Popen[bytes]] = None
        state_directory(_BASE)
        clear_stale()
        self._at = tempfile.mkdtemp(prefix=f"{os.getpid()}-{_started(os.getpid())}-", dir=_BASE)
        try:
            self._mount(volume, params)
            self.fd = os.open(self._at, ROOT_FLAGS)
            if hidden:
                self._detach()
            else:
                self._guard()
                self.path = self._at
        except BaseException:
            self.close()
            raise

    def _mount(self, volume: str, params: str) -> None:
        words = ["--" + w for w in params.split() if w not in ("aux-gfid-mount", "acl")]
        log = os.path.join(_LOGS if os.path.isdir(_LOGS) else "/tmp", f"georep-agent-{volume}.log")
        done = subprocess.run(
            [program("glusterfs") or "glusterfs", "--volfile-server=localhost", f"--volfile-id={volume}",
             "--aux-gfid-mount", "--acl", "--entry-timeout=0", f"--log-file={log}", "--log-level=WARNING",
             *(f"--xlator-option=*{x}.pass-through=on" for x in _PASS), *words, self._at],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, errors="backslashreplace",
        )  # fmt: skip
        if done.returncode != 0 or not is_mounted(self._at):
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise CallError(f"volume {volume} cannot be mounted{': ' + said[-1][:200] if said else ''}",
                            "mount-failed", f"see {log} there", errno.ENOTCONN)  # fmt: skip

    def _detach(self) -> None:
        system.detach(self._at)
        os.rmdir(self._at)

    def _guard(self) -> None:
        """A shell that unmounts the directory when our end of its pipe closes, whatever ends us."""
        script = 'read x; umount -l "$0"; rmdir "$0"'
        self._guardian = subprocess.Popen(["sh", "-c", script, self._at], stdin=subprocess.PIPE,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip

    def wait(self, seconds: float = 10.0) -> None:
        """Wait until all subvolumes are up. CallError `volume-incomplete`."""
        until = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            try:
                if os.getxattr(f"/proc/self/fd/{self.fd}", "dht.subvol.status")[:1] == b"1":
                    return
                what = "a subvolume is down"
            except OSError as e:
                if e.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                    return  # there is one subvolume only
                what = os.strerror(e.errno or errno.EIO)
            if time.monotonic() > until:
                raise CallError(f"not all of the volume can be reached: {what}", "volume-incomplete",
                                "see: gluster volume status; start dead bricks: gluster volume start VOLUME force",
                                errno.ENOTCONN)  # fmt: skip
            pause.wait(0.05)  # nothing tells when it comes up

    def close(self) -> None:
        """Unmount."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._guardian is not None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.close()
            self._guardian.wait(30)
            self._guardian = None
        elif os.path.isdir(self._at):
            if is_mounted(self._at):
                system.detach(self._at)
            os.rmdir(self._at)


def is_mounted(path: str) -> bool:
    """Is something mounted exactly here?"""
    with open("/proc/self/mountinfo", "rb") as f:
        wanted = os.fsencode(path)
        return any(line.split(b" ")[4] == wanted for line in f)


def clear_stale() -> None:
    """Unmount what processes that are no more have left, in the moment between mounting and hiding it."""
    for name in os.listdir(_BASE):
        pid, _, rest = name.partition("-")
        if pid.isdigit() and _started(int(pid)) != rest.partition("-")[0]:
            path = os.path.join(_BASE, name)
            try:
                if is_mounted(path):
                    system.detach(path)
                os.rmdir(path)
            except FileNotFoundError:
                pass  # another agent, or its guardian, was faster


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks; "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
