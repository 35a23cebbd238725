"""Real GlusterFS nodes on this one machine, each with a network, processes and daemons of its own: they can be killed.

    with Nodes(scratch) as nodes:
        volume = nodes.volume()     # replica over all of them
        nodes.all[0].kill()         # as by its power switch
        nodes.all[0].boot()
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.gluster.base import GlusterError, run, wait_for
from tests.gluster.lab import Volume
from tests.system import processes
from tests.system.sshd import Sshd

_NET = "10.213.77"
_INIT = """
set -e
mount --make-rprivate /
hostname "$1"
mount --bind "$2/lib" /var/lib/glusterd
mount --bind "$2/log" /var/log/glusterfs
mount -t tmpfs none /run
mkdir -m 755 /run/gluster /run/sshd
echo ready
while sleep 1; do :; done
"""
"""The first process of a node: what it has of the machine's directories are its own. It reaps what is left to it."""


class Node:
    """One node: a network that stays, and processes that `kill` ends all at once, with their mounts."""

    def __init__(self, base: Path, name: str, address: str, bridge: str) -> None:
        """`bridge` is the network it is plugged into. GlusterError where there are no namespaces."""
        self.name = name
        self.address = address
        self.base = base / name
        self._first: subprocess.Popen[bytes] | None = None
        for part in ("", "lib", "log", "brick"):
            (self.base / part).mkdir()
        end = f"{name}-x"
        run("ip", "netns", "add", name)
        try:
            run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", end, "master", bridge, "up")
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            self._begin()
            self.sshd = Sshd(self.base, address=address)
        except BaseException:
            self.remove()
            raise

    def _begin(self) -> None:
        words = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "-m", "-p", "-u", "-f", "--mount-proc",
                 "--kill-child=KILL", "sh", "-c", _INIT, "init", self.name, str(self.base)]  # fmt: skip
        self._first = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._first.stdout is not None and self._first.stderr is not None
        if self._first.stdout.readline() != b"ready\n":
            raise GlusterError(f"no namespaces: {self._first.stderr.read().decode()}")

    @property
    def inside(self) -> list[str]:
        """Words that run a program on the node."""
        assert self._first is not None
        init = processes.below(self._first.pid)[0]
        return ["nsenter", "-t", str(init), "-n", "-m", "-p", "-u"]

    def gluster(self, *words: str) -> str:
        """`gluster WORDS` on the node. GlusterError."""
        return run(*self.inside, "gluster", "--mode=script", *words)

    def boot(self) -> None:
        """Start what a node runs: glusterd, which starts the bricks, and sshd."""
        if self._first is None:
            self._begin()
        run(*self.inside, "glusterd")
        wait_for(f"glusterd on {self.name}", self._answers)
        self.sshd.before = self.inside
        self.sshd.start()

    def _answers(self) -> bool:
        try:
            self.gluster("pool", "list")
        except GlusterError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL all that runs on it; what was mounted there is gone, bricks and glusterd's files stay."""
        if self._first is None:
            return
        for pid in processes.below(self._first.pid)[:1]:
            os.kill(pid, signal.SIGKILL)
        self._first.wait()
        self._first = None

    def remove(self) -> None:
        """Kill it, and take its network away."""
        self.kill()
        if hasattr(self, "sshd"):
            self.sshd.stop()
        run("ip", "netns", "del", self.name)


class Nodes:
    """Some nodes of one pool on a network of their own, which this machine is on too."""

    def __init__(self, base: Path, count: int = 2) -> None:
        """Skips the test where there can be none."""
        self._bridge = f"gr{secrets.token_hex(3)}"
        self.all: list[Node] = []
        try:
            run("ip", "link", "add", self._bridge, "type", "bridge")
        except GlusterError as e:
            pytest.skip(f"no network of its own: {e}")
        try:
            run("ip", "addr", "add", f"{_NET}.1/24", "dev", self._bridge)
            run("ip", "link", "set", self._bridge, "up")
            for i in range(1, count + 1):
                self.all.append(Node(base, f"{self._bridge}n{i}", f"{_NET}.{10 + i}", self._bridge))
        except GlusterError as e:
            self.close()
            pytest.skip(f"no nodes of their own: {e}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        try:
            for node in self.all:
                node.boot()
            for other in self.all[1:]:
                self.all[0].gluster("peer", "probe", other.address)
            wait_for("the pool", lambda: all(self._joined(n) for n in self.all))
        except BaseException:
            self.close()
            raise
        return self

    def _joined(self, node: Node) -> bool:
        return node.gluster("pool", "list").count("Connected") == len(self.all)

    def __exit__(self, *_: object) -> None:
        self.close()

    def volume(self, options: Sequence[tuple[str, str]] = ()) -> Volume:
        """A started volume with a replica on each node, that serves when one of them is left."""
        first, name = self.all[0], f"s{secrets.token_hex(4)}"
        bricks = [f"{n.address}:{n.base}/brick/b" for n in self.all]
        first.gluster("volume", "create", name, "replica", str(len(self.all)), *bricks, "force")
        for option, value in (("network.ping-timeout", "5"), ("cluster.quorum-type", "none"), *options):
            first.gluster("volume", "set", name, option, value)
        first.gluster("volume", "start", name)
        return Volume(name, self.all[-1].address, f"replica {len(self.all)}", tuple(n.base / "brick/b" for n in self.all))

    def client(self, base: Path) -> Path:
        """A configuration for `ssh -F` with all of them, under their addresses."""
        file = base / "nodes-config"
        file.write_text("".join(n.sshd.client(host=n.address).read_text() for n in self.all))
        return file

    def close(self) -> None:
        """Remove all of it."""
        for node in self.all:
            node.remove()
        self.all = []
        subprocess.run(["ip", "link", "del", self._bridge], check=False)


def connected(volume: Volume, node: Node) -> bool:
    """Are all bricks of the volume reached from this node?"""
    return node.gluster("volume", "heal", volume.name, "info").count("Status: Connected") == len(volume.bricks)
