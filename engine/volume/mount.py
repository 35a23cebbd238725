"""A private mount of a volume by gfid: reached through a descriptor only, so it ends with the process, whatever ends it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence

from engine.model import Gfid, gfid_text
from engine.volume.facts import VolumeError

_PREFIX = "georep-mnt-"
_WAIT = 60
_PASS = ("md-cache", "nl-cache", "quick-read", "io-cache")
"""Client translators that are left out: they answer from a memory of how names and files were up to a second before.

Nobody tells the kernel then that its pages of a file are outdated (seen: content of before, with the size and time of now),
so files are read past its cache.
"""


class AuxMount:
    """The volume `name` of `server`, mounted with `aux-gfid-mount`.

    The mount point is unmounted lazily and removed as soon as its root is open: what is left is the descriptor. When
    that is closed, or the process is killed, the kernel ends the mount and its daemon leaves by itself. Objects are
    reached relative to `fd`, or below `base` where a call takes only paths. `options` are translators' options, each
    `TRANSLATOR.OPTION=VALUE`. Only a mount with `client_pid` -1, gsyncd's,
    shows the volume's marks; but bricks serve it last and one call at a time.
    """

    def __init__(
        self, server: str, name: str, params: str, log_file: str, client_pid: int | None = None,
        options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name = name
        self.log_file = log_file
        if shutil.which("glusterfs") is None:
            raise VolumeError("glusterfs is not installed here", code="no-gluster",
                              hint="install glusterfs-client")  # fmt: skip
        if not os.path.exists("/dev/fuse"):
            raise VolumeError("there is no /dev/fuse here", code="no-fuse",
                              hint="load the fuse module; in a container, allow /dev/fuse")  # fmt: skip
        clean_stale()
        point = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        try:
            self.fd = self._mount(server, point, params, client_pid, options)
        finally:
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)
            os.rmdir(point)
        self.base = b"/proc/self/fd/%d/" % self.fd

    def _mount(self, server: str, point: str, params: str, client_pid: int | None, options: Sequence[str]) -> int:
        words = [f"--{w}" for w in params.replace(",", " ").split()]
        if "--aux-gfid-mount" not in words:
            words.append("--aux-gfid-mount")
        argv = [
            "glusterfs", *words, f"--volfile-server={server}", f"--volfile-id={self.name}",
            *(f"--xlator-option=*{x}.pass-through=on" for x in _PASS), *(f"--xlator-option={o}" for o in options),
            *([] if client_pid is None else [f"--client-pid={client_pid}"]), "--attribute-timeout=0", "--entry-timeout=0", "--direct-io-mode=enable", f"--log-file={self.log_file}", "--log-level=WARNING", point,
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, timeout=_WAIT, stdin=subprocess.DEVNULL, check=False)
        deadline = time.monotonic() + _WAIT
        while done.returncode == 0 and time.monotonic() < deadline:
            try:
                if os.stat(point).st_ino == 1:
                    return os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                break
            time.sleep(0.05)  # the daemon answers when its graph is up: there is nothing to wait on
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise VolumeError(f"volume {self.name} could not be mounted{': ' + said[-1] if said else ''}", code="mount",
                          hint=f"see {self.log_file}")  # fmt: skip

    def path(self, gfid: Gfid) -> bytes:
        """The object's path for calls that take only paths."""
        return self.base + b".gfid/" + gfid_text(gfid).encode()

    @property
    def healthy(self) -> bool:
        """Does its daemon still answer?"""
        try:
            os.fstat(self.fd)
            os.stat(self.base)
        except OSError:
            return False
        return True

    def complete(self) -> None:
        """Are all subvolumes there? Asked before "not seen" is taken for "gone". Raises VolumeError."""
        try:
            if os.getxattr(self.base, "dht.subvol.status")[:1] == b"1":
                return
            what = "a part of it is down"
        except OSError as e:
            if e.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return  # there is one subvolume only
            what = os.strerror(e.errno or errno.EIO)
        raise VolumeError(f"not all of volume {self.name} can be reached: {what}", code="volume-incomplete",
                          hint=f"gluster volume status {self.name}; start dead bricks: "
                               f"gluster volume start {self.name} force")  # fmt: skip

    def close(self) -> None:
        """End the mount."""
        os.close(self.fd)


def clean_stale() -> int:
    """Unmount what processes that are gone left of their mount points (killed between mount and unmount). How many."""
    count = 0
    directory = tempfile.gettempdir()
    for name in os.listdir(directory):
        pid = name[len(_PREFIX) :].partition("-")[0] if name.startswith(_PREFIX) else ""
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            point = os.path.join(directory, name)
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)
            try:
                os.rmdir(point)
            except OSError:
                continue
            count += 1
    return count
