"""Files by gfid in a directory for tools that know paths only; what they made is checked and put in place (SYN-8)."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Optional

from engine.agent.content import open_file
from engine.agent.handles import OpError, hex_name
from engine.agent.state import CallError, Holding, clear_stage
from engine.agent.types import Gfid, MetaOp

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Staged(NamedTuple):
    """A staged file as it was before the tool came: what tells that it was written to, and which it is."""

    inode: int
    mtime_ns: int
    ctime_ns: int


def as_now(st: os.stat_result) -> Staged:
    """What a stat says of it."""
    return Staged(st.st_ino, st.st_mtime_ns, st.st_ctime_ns)


class Stage(NamedTuple):
    """One stage: what was staged, the inodes of the real files then, and of those that were put in place since."""

    was: dict[Gfid, Staged]
    real: dict[Gfid, int]
    put: dict[Gfid, int]


class Stages:
    """The stages of one agent. What a program writes there is put in the place of the real file when it is whole."""

    def __init__(self, holding: Holding, ready: dict[Gfid, Callable[[MetaOp], Optional[OpError]]]) -> None:
        """`ready` is called with the attributes that come for these."""
        self._holding = holding
        self._writer = holding.writer
        self._ready = ready
        self._stages: dict[str, Stage] = {}

    def stage(self, gfids: list[Gfid], sizes: list[int], basis: bool) -> dict[str, Any]:
        """Make a stage: hard links, which a program replaces by what it makes of them, or, without `basis`, empty files.

        Files that are not here, or are no regular files, are told as `absent`; those that can only be written in place
        as `in_place`. OSError.
        """
        token = secrets.token_hex(8)
        fd = self._make(token)
        stage = Stage({}, {}, {})
        told: dict[str, list[str]] = {"absent": [], "in_place": []}
        try:
            for gfid, size in zip(gfids, sizes):
                self._holding.tree.dirs.settle()
                where = self._holding.tree.locate(gfid)
                if where is None or where.st.st_mode & 0o170000 != 0o100000:
                    told["absent"].append(gfid.hex())
                    continue
                if not self._writer.beside.fits(gfid, where, size):
                    told["in_place"].append(gfid.hex())
                    continue
                if basis:
                    os.link(where.name, hex_name(gfid), src_dir_fd=where.pfd, dst_dir_fd=fd, follow_symlinks=False)
                else:
                    os.close(os.open(hex_name(gfid), _NEW, 0o600, dir_fd=fd))
                stage.was[gfid] = as_now(os.stat(hex_name(gfid), dir_fd=fd, follow_symlinks=False))
                stage.real[gfid] = where.st.st_ino
            path = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        self._stages[token] = stage
        return {"token": token, "path": path, **told}

    def _make(self, token: str) -> int:
        stage_fd = os.open(b"stage", _DIR, dir_fd=self._holding.state_fd)
        try:
            os.mkdir(token, 0o700, dir_fd=stage_fd)
            return os.open(token, _DIR, dir_fd=stage_fd)
        finally:
            os.close(stage_fd)

    def _open(self, token: str) -> tuple[Stage, int]:
        stage = self._stages.get(token)
        if stage is None:
            raise CallError(f"no stage {token}", "no-stage")
        stage_fd = os.open(b"stage", _DIR, dir_fd=self._holding.state_fd)
        try:
            return stage, os.open(token, _DIR, dir_fd=stage_fd)
        finally:
            os.close(stage_fd)

    def unwritten(self, token: str) -> list[Gfid]:
        """Staged files to which nothing has been written yet, whatever the tool says of them. CallError, OSError."""
        stage, fd = self._open(token)
        try:
            return [g for g, was in stage.was.items() if _now(fd, g) == was]
        finally:
            os.close(fd)

    def arrived(self, token: str, gfids: list[Gfid]) -> None:
        """These are whole: each is put in place with the attributes that come for it next. CallError."""
        stage = self._stages.get(token)
        if stage is None:
            raise CallError(f"no stage {token}", "no-stage")
        for gfid in gfids:
            if gfid in stage.was:
                self._ready[gfid] = partial(self._put, token)

    def _put(self, token: str, op: MetaOp) -> Optional[OpError]:
        """Put one in place; what attributes failed. OpError, OSError: the real file is as it was."""
        gfid, tree = op.gfid, self._holding.tree
        stage, stage_fd = self._open(token)
        try:
            fd = os.open(hex_name(gfid), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage_fd)
            try:
                st = os.fstat(fd)
                if st.st_mode & 0o170000 != 0o100000 or st.st_ino == stage.real[gfid] or st.st_nlink != 1:
                    raise OpError(errno.ESTALE, "system: what was written there is another file")
                if st.st_size != op.stat.size:
                    raise OpError(errno.ESTALE, f"system: {st.st_size} bytes came of {op.stat.size}")
                where = tree.locate(gfid)
                if where is None or where.st.st_ino != stage.real[gfid]:
                    raise OpError(errno.ESTALE, "system: the file was replaced while it was written")
                if not self._writer.beside.fits(gfid, where, 0):
                    raise OpError(errno.ESTALE, "system: it got another name while it was written")
                at = f"/proc/self/fd/{fd}"
                failed = self._writer.beside.put_from(stage_fd, gfid, where, at, hex_name(gfid), op.stat, op.xattrs)[2]
                stage.put[gfid] = st.st_ino
                self._writer.arrived(gfid)
                return failed
            finally:
                os.close(fd)
        finally:
            os.close(stage_fd)

    def unstage(self, token: str) -> dict[str, Any]:
        """End a stage: size and mtime of each real file, and is it, as `same`, the one that was written there?

        CallError when there is no such stage.
        """
        stage = self._stages.pop(token, None)
        if stage is None:
            raise CallError(f"no stage {token}", "no-stage")
        for gfid in stage.was:
            self._ready.pop(gfid, None)
        stage_fd = os.open(b"stage", _DIR, dir_fd=self._holding.state_fd)
        try:
            clear_stage(stage_fd, token.encode())
            assert self._holding.trash is not None
            self._holding.trash.take(stage_fd, token.encode())
        finally:
            os.close(stage_fd)
        return {"files": {gfid.hex(): self._check(gfid, stage.put.get(gfid)) for gfid in stage.was}}

    def _check(self, gfid: Gfid, put: Optional[int]) -> dict[str, Any]:
        self._holding.tree.dirs.settle()
        try:
            fd = open_file(self._holding.tree, gfid, os.O_RDONLY)
        except (OpError, OSError) as e:
            return {"same": False, "size": None, "mtime_ns": None, "text": str(e)}
        try:
            st = os.fstat(fd)
        finally:
            os.close(fd)
        return {"same": st.st_ino == put, "size": st.st_size, "mtime_ns": st.st_mtime_ns}


def _now(stage_fd: int, gfid: Gfid) -> Optional[Staged]:
    try:
        return as_now(os.stat(hex_name(gfid), dir_fd=stage_fd, follow_symlinks=False))
    except FileNotFoundError:
        return None
