"""Files by gfid in a directory, as hard links, for tools that know paths only; checked when they are done (SYN-8)."""

from __future__ import annotations

import os
import secrets
from typing import Any, NamedTuple, Optional

from engine.agent.content import open_file
from engine.agent.handles import OpError, hex_name
from engine.agent.state import CallError, Holding
from engine.agent.types import Gfid

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Staged(NamedTuple):
    """A staged file as it was before the tool came: what tells that it was written to, and which it is."""

    inode: int
    mtime_ns: int
    ctime_ns: int


def as_now(st: os.stat_result) -> Staged:
    """What a stat says of it."""
    return Staged(st.st_ino, st.st_mtime_ns, st.st_ctime_ns)


class Stages:
    """The stages of one agent."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._stages: dict[str, dict[Gfid, Staged]] = {}

    def stage(self, gfids: list[Gfid]) -> dict[str, Any]:
        """Make a stage. Files that are not here, or are no regular files, are told as `absent`. OSError."""
        token = secrets.token_hex(8)
        holding = self._holding
        stage_fd = os.open(b"stage", _DIR, dir_fd=holding.state_fd)
        try:
            os.mkdir(token, 0o700, dir_fd=stage_fd)
            fd = os.open(token, _DIR, dir_fd=stage_fd)
        finally:
            os.close(stage_fd)
        staged: dict[Gfid, Staged] = {}
        absent: list[str] = []
        try:
            for gfid in gfids:
                holding.tree.dirs.settle()
                where = holding.tree.locate(gfid)
                if where is None or where.st.st_mode & 0o170000 != 0o100000:
                    absent.append(gfid.hex())
                    continue
                holding.tree.touched.add(gfid)
                os.link(where.name, hex_name(gfid), src_dir_fd=where.pfd, dst_dir_fd=fd, follow_symlinks=False)
                staged[gfid] = as_now(os.stat(hex_name(gfid), dir_fd=fd, follow_symlinks=False))
            path = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        self._stages[token] = staged
        return {"token": token, "path": path, "absent": absent}

    def unwritten(self, token: str) -> list[Gfid]:
        """Staged files to which nothing has been written yet, whatever the tool says of them. CallError, OSError."""
        staged = self._stages.get(token)
        if staged is None:
            raise CallError(f"no stage {token}", "no-stage")
        stage_fd = os.open(b"stage", _DIR, dir_fd=self._holding.state_fd)
        try:
            fd = os.open(token, _DIR, dir_fd=stage_fd)
        finally:
            os.close(stage_fd)
        try:
            return [g for g, was in staged.items() if _now(fd, g) == was]
        finally:
            os.close(fd)

    def unstage(self, token: str) -> dict[str, Any]:
        """End a stage: for each file, size and mtime of the real one, and is it the same as before, staged name too?

        CallError when there is no such stage.
        """
        staged = self._stages.pop(token, None)
        if staged is None:
            raise CallError(f"no stage {token}", "no-stage")
        holding = self._holding
        files: dict[str, Any] = {}
        stage_fd = os.open(b"stage", _DIR, dir_fd=holding.state_fd)
        try:
            fd = os.open(token, _DIR, dir_fd=stage_fd)
            try:
                for gfid, was in staged.items():
                    files[gfid.hex()] = self._check(fd, gfid, was.inode)
                    holding.tree.touched.add(gfid)  # its staged name goes
            finally:
                os.close(fd)
            assert holding.trash is not None
            holding.trash.take(stage_fd, token.encode())
        finally:
            os.close(stage_fd)
        return {"files": files}

    def _check(self, stage_fd: int, gfid: Gfid, inode: int) -> dict[str, Any]:
        self._holding.tree.dirs.settle()
        try:
            fd = open_file(self._holding.tree, gfid, os.O_RDONLY)
        except (OpError, OSError) as e:
            return {"same": False, "size": None, "mtime_ns": None, "text": str(e)}
        try:
            st = os.fstat(fd)
        finally:
            os.close(fd)
        there = _now(stage_fd, gfid)
        return {"same": there is not None and st.st_ino == inode == there.inode, "size": st.st_size, "mtime_ns": st.st_mtime_ns}


def _now(stage_fd: int, gfid: Gfid) -> Optional[Staged]:
    try:
        return as_now(os.stat(hex_name(gfid), dir_fd=stage_fd, follow_symlinks=False))
    except FileNotFoundError:
        return None
