"""The marks of a brick where gsyncd has them: xattrs on the brick's root (MRK-1), so that either can go on."""

from __future__ import annotations

import errno
import os
import struct

from engine.marks import MarkError, MarkFile
from engine.model import NO_MARK, Mark

_WORDS = struct.Struct("!II")


def stime_names(primary: str, secondary: str) -> tuple[str, str]:
    """The xattrs of stime and entry_stime for this pair of volume ids (uuids as text)."""
    stem = f"trusted.glusterfs.{primary}.{secondary}."
    return stem + "stime", stem + "entry_stime"


def read_mark(path: bytes | int, name: str) -> Mark:
    """A mark from an xattr, NO_MARK where there is none. Raises MarkError."""
    try:
        value = os.getxattr(path, name)
    except OSError as e:
        if e.errno == errno.ENODATA:
            return NO_MARK
        raise MarkError(f"{_shown(path)}: {name}: {e.strerror}", errno=e.errno) from e
    if len(value) != _WORDS.size:
        raise MarkError(f"{_shown(path)}: {name} has {len(value)} bytes, not 8",
                        hint="remove it with setfattr -x: everything is compared then")  # fmt: skip
    return Mark(*_WORDS.unpack(value))


def write_mark(path: bytes | int, name: str, mark: Mark) -> None:
    """Keep a mark in an xattr; NO_MARK removes it. Raises MarkError."""
    try:
        if mark == NO_MARK:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, _WORDS.pack(*mark))
    except OSError as e:
        if mark == NO_MARK and e.errno == errno.ENODATA:
            return
        raise MarkError(f"{_shown(path)}: {name}: {e.strerror}", errno=e.errno) from e


def _shown(path: bytes | int) -> str:
    return f"descriptor {path}" if isinstance(path, int) else os.fsdecode(path)


class BrickMarks(MarkFile):
    """The marks of one brick: their truth is in the xattrs, the file beside keeps what the session wants to remember.

    `take` reads the xattrs again: another may have moved them (MRK-7). The xattr is written first, then the file: a
    crash in between looks as if someone else had moved the mark, which is taken as it is.
    """

    def __init__(self, path: bytes | str, brick: bytes, primary: str, secondary: str) -> None:
        self.brick = brick
        self.names = stime_names(primary, secondary)
        super().__init__(path)
        self.take()

    @property
    def moved_by_other(self) -> bool:
        """Is there a mark that is not the one we wrote last (MRK-7)? gsyncd's, where we never wrote one."""
        return self.stime != NO_MARK and self.written_by_us != self.stime

    def take(self) -> None:
        """Read the marks from the brick. Raises MarkError."""
        self.stime, self.entry_stime = (read_mark(self.brick, name) for name in self.names)

    def follow(self, stime: Mark) -> None:
        """Another replica has got that far (ACT-2): its mark, not ours, so the secondary's copy says nothing of it."""
        self._save(stime, max(self.entry_stime, stime), self.written_by_us, self.identity)

    def _save(
        self, stime: Mark, entry_stime: Mark, written: Mark | None, identity: dict[str, str], at: str | None = None
    ) -> None:
        if (stime, entry_stime) != (self.stime, self.entry_stime):
            # entry_stime is never behind: gsyncd takes the later of the two
            for name, mark in zip(self.names[::-1], (entry_stime, stime), strict=True):
                write_mark(self.brick, name, mark)
            try:
                fd = os.open(self.brick, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as e:
                raise MarkError(f"{os.fsdecode(self.brick)}: {e.strerror}", errno=e.errno) from e
        super()._save(stime, entry_stime, written, identity, at)
