"""The settings the cases run in: which transfer engine, over which way, as which user."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.system.line import Line
from tests.system.ordinary import OrdinaryUser
from tests.system.runner import Product
from tests.system.sshd import HOST, Sshd


class Way(NamedTuple):
    """A transfer engine, local or over ssh, as the user who runs the tests or as an ordinary one."""

    engine: str
    over: str
    who: str

    def __str__(self) -> str:
        return "-".join(w for w in self if w != "me")


DEFAULT_WAYS = [
    Way("stream", "local", "me"), Way("stream", "ssh", "me"), Way("rsync", "ssh", "me"), Way("tarssh", "ssh", "me"),
    Way("stream", "local", "ordinary"),
]  # fmt: skip
MORE_WAYS = [
    Way(engine, over, who)
    for who in ("me", "ordinary")
    for over in ("local", "ssh")
    for engine in ("stream", "rsync", "tarssh")
    if Way(engine, over, who) not in DEFAULT_WAYS
]
ALL_WAYS = [
    *(pytest.param(w, id=str(w)) for w in DEFAULT_WAYS),
    *(pytest.param(w, id=str(w), marks=pytest.mark.long) for w in MORE_WAYS),
]
"""Every combination; those outside the default run with --long."""

CALM: dict[str, Any] = {"delete_guard_share": "100%"}
"""For random changes, which may well delete half of a small tree: the guard has its own tests."""

LOCAL = Way("stream", "local", "me")
SSH = Way("stream", "ssh", "me")


@dataclass(frozen=True)
class Setting:
    """A session to test: both trees, and the product that is to keep them equal."""

    way: Way
    base: Path
    primary: Path
    secondary: Path
    product: Product
    user: OrdinaryUser | None

    @property
    def owners(self) -> bool:
        """Can owners be kept? An ordinary user cannot give files away."""
        return self.user is None or not self.user.made

    def hand_over(self) -> None:
        """Everything in the primary becomes the ordinary user's, where there is one."""
        if self.user and self.user.made:
            subprocess.run(["chown", "-hR", f"{self.user.uid}:{self.user.gid}", str(self.primary)], check=True)

    def through(self, line: Line, sshd: Sshd) -> Setting:
        """The same with the connection through a line."""
        config = sshd.client(port=line.port, uid=self.user.uid if self.user else None)
        options = self.product.options | {"ssh_options": f"-F {config}"}
        return replace(self, product=replace(self.product, options=options))


Make = Callable[..., Setting]
"""make(way, **options): a new setting with an empty primary and secondary."""


class Maker:
    """Makes settings below one scratch directory, and kills what still runs at the end."""

    def __init__(self, scratch: Path, sshd: Callable[[], Sshd], ordinary: Callable[[], OrdinaryUser]) -> None:
        self._scratch, self._sshd, self._ordinary = scratch, sshd, ordinary
        self._made: list[Setting] = []

    def __call__(
        self, way: Way, *, primary: Path | None = None, secondary: Path | None = None, **options: object
    ) -> Setting:
        """`options` go as `--set`; given trees are used as they are, others are made empty."""
        user = self._ordinary() if way.who == "ordinary" else None
        base = self._scratch / f"s{len(self._made)}"
        base.mkdir(mode=0o755)
        if user:
            user.owns(base)
        trees = []
        for name, given in (("primary", primary), ("secondary", secondary)):
            path = given or base / name
            if given is None:
                path.mkdir()
                if user:
                    user.owns(path)
            trees.append(path)
        target = str(trees[1])
        sets: dict[str, object] = {"sync_method": way.engine}
        if way.over == "ssh":
            config = self._sshd().client(uid=user.uid if user else None)
            target = f"{HOST}:{target}"
            sets["ssh_options"] = f"-F {config}"
        product = Product(base / "product", [str(trees[0])], target, sets | options, user=user)
        setting = Setting(way, base, trees[0], trees[1], product, user)
        self._made.append(setting)
        return setting

    def close(self) -> None:
        for setting in self._made:
            setting.product.kill()


def write(path: Path, data: bytes | str = b"x") -> Path:
    """Write a file, with the directories it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def untouched(tree: Path) -> dict[str, tuple[int, int]]:
    """Inode and ctime of every regular file: what changes when anything is written to one or puts it anew."""
    found = {}
    for folder, directories, files in os.walk(tree):
        if ".georep" in directories:
            directories.remove(".georep")
        for name in files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):
                found[path] = (info.st_ino, info.st_ctime_ns)
    return found
