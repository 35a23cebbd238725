"""An ordinary user to run the product as: this one, or one that root makes for the test and removes again."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.places import remove_tree, scratch_directory

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class OrdinaryUser:
    """`prefix` goes before a command to run it as this user; `python` and `project` are readable by it."""

    name: str
    uid: int
    gid: int
    python: str = sys.executable
    project: Path = PROJECT
    made: bool = False
    bound: list[Path] = field(default_factory=list)
    base: Path | None = None

    @classmethod
    def make(cls) -> OrdinaryUser:
        """This user if it is not root, else a new one, `georep-test-PID`."""
        if os.geteuid() != 0:
            return cls(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid())
        name = f"georep-test-{os.getpid()}"
        # "*" as the password: no login by password, but the account is not locked, so ssh keys work
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "-s", "/bin/sh", "-p", "*", name],
            check=True, env=_with_sbin(),
        )  # fmt: skip
        entry = pwd.getpwnam(name)
        user = cls(name, entry.pw_uid, entry.pw_gid, made=True)
        try:
            user._within_reach()
        except BaseException:
            user.remove()
            raise
        return user

    @property
    def prefix(self) -> list[str]:
        """Words to put before a command."""
        if not self.made:
            return []
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--"]

    def owns(self, path: Path) -> Path:
        """Hand a directory over to this user."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)
        return path

    def _within_reach(self) -> None:
        """Where this user cannot read the project or its python (a clone in /root), bind them to where it can."""
        probe = [*self.prefix, self.python, "-c", "import typer, engine"]
        env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
        if subprocess.run(probe, env=env, cwd="/", capture_output=True).returncode == 0:
            return
        self.base = scratch_directory("georepuser-")
        self.project = self._bind(PROJECT, "project")
        prefix = Path(sys.prefix)
        if prefix != Path(sys.base_prefix):
            self.python = str(self._bind(prefix, "venv") / "bin" / "python")
        env["PYTHONPATH"] = str(self.project)
        probe = [*self.prefix, self.python, "-c", "import typer, engine"]
        subprocess.run(probe, env=env, cwd="/", check=True)

    def _bind(self, what: Path, name: str) -> Path:
        assert self.base is not None
        at = self.base / name
        at.mkdir()
        subprocess.run(["mount", "--bind", str(what), str(at)], check=True, env=_with_sbin())
        self.bound.append(at)
        return at

    def remove(self) -> None:
        """Undo all that `make` did."""
        for at in reversed(self.bound):
            subprocess.run(["umount", "-l", str(at)], check=True, env=_with_sbin())
            at.rmdir()
        if self.base is not None:
            remove_tree(self.base)
        if self.made:
            subprocess.run(["userdel", self.name], check=True, env=_with_sbin(), capture_output=True)


def _with_sbin() -> dict[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


def have(program: str) -> bool:
    """Is a program installed?"""
    return shutil.which(program, path=_with_sbin()["PATH"]) is not None
