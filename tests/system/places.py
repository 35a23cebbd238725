"""Places for tests: scratch directories, small filesystems of their own, and the removal of all of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.system.oracle import _many_descriptors

made: list[Path] = []
"""The scratch directories of the tests of this process, for the check that nothing stays mounted there."""


def scratch_directory(prefix: str = "georep-") -> Path:
    """A new directory that takes user xattrs, on tmpfs where possible (`GEOREP_TEST_DIR` overrides)."""
    for base in (os.environ.get("GEOREP_TEST_DIR"), "/dev/shm", "/var/tmp", tempfile.gettempdir()):
        if not base or not os.access(base, os.W_OK | os.X_OK):
            continue
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        try:
            os.setxattr(path, "user.georep-test", b"1")
            os.removexattr(path, "user.georep-test")
        except OSError:
            path.rmdir()
            continue
        path.chmod(0o755)
        if prefix == "georep-":
            made.append(path)
        return path
    raise RuntimeError("no place for scratch files that takes user xattrs; set GEOREP_TEST_DIR to one")


def remove_tree(path: Path) -> None:
    """Remove a tree of any depth; what is immutable is made mutable first."""
    _many_descriptors()
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        subprocess.run(["chattr", "-R", "-i", str(path)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", str(path)], check=True)


class Mounts:
    """Small filesystems below one directory. `close` unmounts them, whatever still uses them."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._made: list[Path] = []

    def tmpfs(self, name: str, size: str) -> Path:
        """A tmpfs of `size` (as mount takes it: `20m`) at `name`, which is made where it is missing."""
        at = self._base / name
        at.mkdir(exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "georep-test", str(at))
        self._made.append(at)
        return at

    def resize(self, at: Path, size: str) -> None:
        """Give a tmpfs another size."""
        self._run("mount", "-o", f"remount,size={size}", str(at))

    def ext4(self, name: str, mib: int, *, image: Path | None = None, options: str = "") -> Path:
        """An ext4 of `mib` MiB in a file at `name`; with `image`, that file as it is, without making one."""
        at = self._base / name
        at.mkdir(exist_ok=True)
        if image is None:
            image = self._base / f"{name}.img"
            with open(image, "wb") as f:
                f.truncate(mib << 20)
            self._run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        self._run("mount", "-o", "loop" + ("," + options if options else ""), str(image), str(at))
        self._made.append(at)
        return at

    def remount(self, at: Path, options: str) -> bool:
        """Remount with options (`ro`, `rw`); False where the kernel says it is in use."""
        return subprocess.run(["mount", "-o", f"remount,{options}", str(at)], capture_output=True).returncode == 0

    def unmount(self, at: Path) -> None:
        """Detach a filesystem now, whoever still uses it."""
        self._run("umount", "-l", str(at))
        self._made.remove(at)

    def close(self) -> None:
        while self._made:
            self.unmount(self._made[-1])

    def _run(self, *command: str) -> None:
        env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class PowerCut:
    """A disk of its own whose power can be cut: what remains is what had reached it, without a sync."""

    def __init__(self, mounts: Mounts, scratch: Path) -> None:
        self.mounts, self.scratch, self.cuts = mounts, scratch, 0
        # nothing is written back by itself for five minutes: what is on the disk was asked for
        self.options = "commit=300,data=ordered"
        self.disk = mounts.ext4("disk", 192, options=self.options)
        (self.disk / "lost+found").rmdir()
        self.image = scratch / "disk.img"

    def snapshot(self) -> Path:
        """A copy of the disk's blocks now, as a power cut would leave them."""
        self.cuts += 1
        copy = self.scratch / f"cut{self.cuts}.img"
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
        return copy

    def put_back(self, copy: Path) -> None:
        """The machine is on again: the disk is what the snapshot has, under the same path."""
        self.mounts.unmount(self.disk)
        self.image = copy
        self.mounts.ext4("disk", 0, image=copy, options=self.options)
