"""The values both sides of the line speak of: gfids, slots, stats, entry operations. No I/O."""

from __future__ import annotations

import stat as _stat
from enum import IntEnum
from typing import NamedTuple, Optional

Gfid = bytes
"""16 raw bytes: the identity of an object, stable over renames."""

ROOT: Gfid = bytes(15) + b"\x01"
"""The root directory of a volume."""

LIMBO: Gfid = bytes(15) + b"\x0e"
"""The virtual directory `.georep/limbo` of a tree: where displaced objects wait, named by their gfid in hex (SEC-16)."""

STATE_DIR = b".georep"
"""Name of our own directory in the root of a tree replica; never replicated (SAFE-7)."""


class Fop(IntEnum):
    """File operation numbers of GlusterFS that occur in entry records."""

    MKNOD = 3
    MKDIR = 4
    UNLINK = 5
    RMDIR = 6
    SYMLINK = 7
    RENAME = 8
    LINK = 9
    CREATE = 23


class Slot(NamedTuple):
    """A place for a name: the gfid of the parent directory and the raw name."""

    parent: Gfid
    name: bytes


class Stat(NamedTuple):
    """What the primary knew of an object when an operation was planned. Times in nanoseconds, size in bytes."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    atime_ns: int
    rdev: int = 0

    @property
    def is_dir(self) -> bool:
        return _stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return _stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return _stat.S_ISLNK(self.mode)


class EntryOp(NamedTuple):
    """One entry operation for the secondary (SEC-1…14).

    `slot` is where it happens (for RENAME the source), `dest` the destination of a RENAME,
    `stat` the object's state on the primary (None for UNLINK and RMDIR), `link` the text of a symlink,
    `data` the whole content of a new regular file that travels with its creation (None: data comes later),
    `xattrs` what travels with it likewise.
    """

    fop: int
    gfid: Gfid
    slot: Slot
    dest: Optional[Slot] = None
    stat: Optional[Stat] = None
    link: Optional[bytes] = None
    data: Optional[bytes] = None
    xattrs: Optional[dict[bytes, bytes]] = None


class MetaOp(NamedTuple):
    """Owner, mode, times, and all `user.*` xattrs and ACLs of an object, as they are on the primary (SEC-14).

    `xattrs` None leaves them alone; a dictionary replaces the whole set.
    """

    gfid: Gfid
    stat: Stat
    xattrs: Optional[dict[bytes, bytes]] = None


class Outcome(NamedTuple):
    """What the secondary says of one operation: errno (0 = done) and what it found there."""

    index: int  # type: ignore[assignment]
    errno: int
    text: str
    found: Gfid = b""
