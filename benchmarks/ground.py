"""Where the benchmarks run: a private sshd on this machine, trees on tmpfs, and the peers' command lines."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.system import processes
from tests.system.places import Mounts, remove_tree, scratch_directory
from tests.system.runner import Product, wait_until
from tests.system.sshd import HOST, Sshd


class Ground:
    """Scratch space with an sshd of its own. Use as a context; everything is removed at the end.

    As root each tree gets a tmpfs of its own: a replica is on another machine, and its writes are not heard by who
    watches the primary's filesystem. `apart` says whether that is so.
    """

    def __init__(self) -> None:
        self.base = scratch_directory()
        self.sshd = Sshd(self.base)
        self.apart = os.geteuid() == 0
        self._mounts = Mounts(self.base)
        self._made = 0

    def __enter__(self) -> Self:
        self.sshd.start()
        self.config = self.sshd.client()
        return self

    def __exit__(self, *_: object) -> None:
        self.sshd.stop()
        self._mounts.close()
        remove_tree(self.base)

    def directory(self, name: str) -> Path:
        """A new empty directory."""
        self._made += 1
        name = f"{name}-{self._made}"
        if self.apart:
            return self._mounts.tmpfs(name, "70%")
        path = self.base / name
        path.mkdir()
        return path

    def product(self, primary: Path, secondary: Path, **options: object) -> Product:
        """A session from `primary` to `secondary` over ssh, with a state directory of its own."""
        sets = {"ssh_options": f"-F {self.config}"} | options
        return Product(self.directory("product"), [str(primary)], f"{HOST}:{secondary}", sets)

    # -- the peers ----------------------------------------------------------------------------------------------

    def rsync(self, one: Path, two: Path) -> float:
        """Seconds that `rsync -a` takes."""
        return timed(lambda: run(["rsync", "-a", "-e", f"ssh -F {self.config}", f"{one}/", f"{HOST}:{two}/"]))

    def tar(self, one: Path, two: Path) -> float:
        """Seconds that tar takes through ssh into tar."""

        def both() -> None:
            with subprocess.Popen(["tar", "-C", str(one), "-cf", "-", "."], stdout=subprocess.PIPE) as source:
                run(["ssh", "-F", str(self.config), HOST, f"tar -C {two} -xf -"], stdin=source.stdout)
            if source.returncode != 0:
                raise RuntimeError(f"tar ended with {source.returncode}")

        return timed(both)

    def georep(self, product: Product) -> float:
        """Seconds that `run --once` takes."""

        def once() -> None:
            done = product.once(timeout=3600)
            if done.returncode != 0:
                raise RuntimeError(f"georep-tui ended with {done.returncode}: {done.stderr[-2000:]}")

        return timed(once)

    def cpu_seconds(self) -> float:
        """Processor time, user and system, of all that has ended so far: our children, and what the sshd served."""
        wait_until(lambda: not processes.below(self.sshd.pid), 10, "the sshd has nothing left to serve")
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ours.ru_utime + ours.ru_stime + processes.cpu_seconds(self.sshd.pid)

    def agents(self) -> list[int]:
        """Process ids of the agents the sshd serves now."""
        return processes.named(self.sshd.pid, "python")


def run(words: list[str], stdin: object = subprocess.DEVNULL) -> None:
    """Run a peer; RuntimeError with its last words when it fails."""
    done = subprocess.run(words, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr[-1000:]}")


def timed(what: Callable[[], None]) -> float:
    """Seconds of wall clock."""
    began = time.monotonic()
    what()
    return time.monotonic() - began


def emptied(path: Path) -> Path:
    """The same directory, without what was in it."""
    for one in path.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()
    return path


def patch(path: Path, share: float, piece: int = 65536, seed: int = 0) -> None:
    """Change `share` of a file, in pieces at random places; the size stays."""
    chance = random.Random(seed)
    size = path.stat().st_size
    with open(path, "r+b") as f:
        for _ in range(max(1, int(size * share / piece))):
            f.seek(chance.randrange(max(1, size - piece)))
            f.write(chance.randbytes(piece))
        os.fsync(f.fileno())
