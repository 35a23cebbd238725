"""Real GlusterFS volumes on this one machine, of any topology, with their mounts; all of it removed at the end.

    with Lab(scratch) as lab:
        volume = lab.volume(bricks=4, layout="replica 2")
        mount = lab.mount(volume, "acl")
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.gluster.base import HOST, Base, GlusterError, gluster, run, wait_for
from tests.system.oracle import differences

TOPOLOGIES = {
    "distribute 2": (2, ""),
    "replica 2": (2, "replica 2"),
    "2 x 2 replica": (4, "replica 2"),
    "replica 3": (3, "replica 3"),
    "2 x 3 replica": (6, "replica 3"),
    "arbiter": (3, "replica 3 arbiter 1"),
    "2 x (2+1) arbiter": (6, "replica 3 arbiter 1"),
    "disperse": (3, "disperse 3 redundancy 1"),
    "2 x (2+1) disperse": (6, "disperse 3 redundancy 1"),
}
"""Bricks and words of `gluster volume create` for what GlusterFS's own tests use."""

JOURNAL = {
    "geo-replication.indexing": "on", "geo-replication.ignore-pid-check": "on", "changelog.changelog": "on",
}  # fmt: skip
"""What the start of a session switches on."""


@dataclass(frozen=True)
class Volume:
    """A volume: its name, the node, and where its bricks are on this machine."""

    name: str
    host: str
    layout: str
    bricks: tuple[Path, ...]

    @property
    def id(self) -> str:
        """The volume's uuid."""
        found = ElementTree.fromstring(gluster("volume", "info", self.name, "--xml")).findtext(".//volume/id")
        assert found is not None
        return found


@dataclass
class Lab:
    """Volumes below one directory (best on tmpfs). `close` removes them, their mounts, and what only they needed."""

    directory: Path
    volumes: list[Volume] = field(default_factory=list)
    _mounts: list[Path] = field(default_factory=list)
    _base: Base | None = None

    def __enter__(self) -> Lab:
        self._base = Base()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- volumes

    def volume(
        self, bricks: int = 2, layout: str = "", *, role: str = "v", options: dict[str, str] | None = None,
        at: Path | None = None, start: bool = True,
    ) -> Volume:  # fmt: skip
        """Make and start a volume with a name of its own; `layout` as gluster takes it, `at` where its bricks go."""
        name = f"{role}{secrets.token_hex(4)}"
        home = at or self.directory
        paths = tuple(home / f"{name}-{i}" for i in range(1, bricks + 1))
        gluster("volume", "create", name, *layout.split(), *(f"{HOST}:{p}" for p in paths), "force")
        volume = Volume(name, HOST, layout, paths)
        self.volumes.append(volume)
        for option, value in (options or {}).items():
            self.set(volume, option, value)
        if start:
            gluster("volume", "start", name)
        return volume

    def pair(self, bricks: int = 2, layout: str = "", rollover: int = 2) -> tuple[Volume, Volume]:
        """A primary with its journal switched on, rolled over every `rollover` seconds, and a secondary."""
        options = {**JOURNAL, "changelog.rollover-time": str(rollover)}
        return self.volume(bricks, layout, role="p", options=options), self.volume(bricks, layout, role="s")

    @staticmethod
    def set(volume: Volume, option: str, value: str) -> None:
        """`gluster volume set`. GlusterError."""
        gluster("volume", "set", volume.name, option, value)

    @staticmethod
    def heal(volume: Volume) -> None:
        """Have the replicas heal what they know of, now: by itself a heal that failed is tried again after ten minutes.

        One that cannot begin just now is no error.
        """
        with contextlib.suppress(GlusterError):
            gluster("volume", "heal", volume.name)

    def start(self, volume: Volume, force: bool = False) -> None:
        """Start it, or, with `force`, those bricks of it that are dead; returns when all bricks run."""

        def run() -> bool:
            # right after a brick's death glusterd may not know of it yet, and start nothing
            gluster("volume", "start", volume.name, *(["force"] if force else []))
            return all(self.brick_pid(volume, b) for b in volume.bricks)

        try:
            wait_for("all bricks", run)
        except AssertionError as e:
            pids = {b.name: self.brick_pid(volume, b) for b in volume.bricks}
            raise AssertionError(f"{e}: {pids}\n{gluster('volume', 'status', volume.name)}") from None

    @staticmethod
    def stop(volume: Volume) -> None:
        """Stop it, whoever uses it."""
        gluster("volume", "stop", volume.name, "force")

    def remove(self, volume: Volume) -> None:
        """Unmount, stop and delete it, with its bricks."""
        for mount in [m for m in self._mounts if m.name.startswith(volume.name)]:
            self.unmount(mount)
        with contextlib.suppress(GlusterError):  # stopped already
            self.stop(volume)
        gluster("volume", "delete", volume.name)
        for brick in volume.bricks:
            subprocess.run(["rm", "-rf", str(brick)], check=True)
        self.volumes.remove(volume)

    # ---- bricks

    @staticmethod
    def brick_pid(volume: Volume, brick: Path) -> int | None:
        """The process of a brick, None when it does not run."""
        name = str(brick).strip("/").replace("/", "-")
        file = Path(f"/var/run/gluster/vols/{volume.name}/{volume.host}-{name}.pid")
        try:
            pid = int(file.read_text())
            return pid if b"glusterfsd" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None

    def kill_brick(self, volume: Volume, brick: Path) -> None:
        """SIGKILL the process of one brick."""
        pid = self.brick_pid(volume, brick)
        assert pid is not None, f"{brick} does not run"
        os.kill(pid, signal.SIGKILL)
        wait_for("the brick's end", lambda: self.brick_pid(volume, brick) is None)

    # ---- the daemon

    def kill_glusterd(self) -> None:
        """SIGKILL glusterd; bricks and mounts go on. Skips where it is not the lab's own."""
        assert self._base is not None
        try:
            self._base.kill_daemon()
        except KeyError:
            pytest.skip("glusterd was running before: it is not the lab's to kill")

    def start_glusterd(self) -> None:
        """Start it again, unless it runs."""
        assert self._base is not None
        self._base.start_daemon()

    # ---- mounts

    def mount(self, volume: Volume, *options: str) -> Path:
        """Mount it, with ACLs; `options` as mount.glusterfs takes them (`aux-gfid-mount`, `ro`, …)."""
        at = self.directory / f"{volume.name}.{len(self._mounts)}.{secrets.token_hex(2)}"
        at.mkdir()
        run("mount", "-t", "glusterfs", "-o", ",".join(("acl", *options)), f"{volume.host}:/{volume.name}", str(at))
        self._mounts.append(at)
        wait_for("all subvolumes", lambda: self._whole(at))
        return at

    @staticmethod
    def _whole(mount: Path) -> bool:
        try:
            return os.getxattr(mount, "dht.subvol.status")[:1] == b"1"
        except OSError:
            return True  # one subvolume: there is nothing that distributes

    def unmount(self, mount: Path) -> None:
        """Unmount, whoever is in there."""
        run("umount", "-l", str(mount))
        self._mounts.remove(mount)
        mount.rmdir()

    def equal(self, primary: Volume, secondary: Volume, limit: int = 20) -> list[str]:
        """What differs between two volumes: names, types, content, modes, owners, times, links, xattrs, ACLs.

        Looked at through mounts of its own, that have nothing cached.
        """
        one, two = self.mount(primary), self.mount(secondary)
        try:
            return differences(os.fsencode(one), os.fsencode(two), limit=limit)
        finally:
            self.unmount(one)
            self.unmount(two)

    # ---- end

    def close(self) -> None:
        """Remove all of it."""
        if self._base is None:
            return
        try:
            for mount in list(self._mounts):
                self.unmount(mount)
            for volume in list(self.volumes):
                self.remove(volume)
        finally:
            self._base.close()
            self._base = None
