"""The engine's value types: marks, changes, batches' parts. Frozen, without I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from engine.agent.types import (
    LIMBO,
    ROOT,
    STATE_DIR,
    EntryOp,
    Fop,
    Gfid,
    MetaOp,
    Outcome,
    Slot,
    Stat,
)

__all__ = [
    "EVERYTHING", "LIMBO", "NO_MARK", "ROOT", "STATE_DIR", "Changelog", "DataChange", "EngineError",
    "EntryChange", "EntryOp", "Fop", "Gfid", "Mark", "MetaChange", "MetaOp", "Outcome", "Record", "Slot", "Stat",
    "gfid_text", "parse_gfid",
]  # fmt: skip


class Mark(NamedTuple):
    """How far something got: seconds and nanoseconds of unix time (MRK-1, MRK-2). Orders as a tuple."""

    sec: int
    nsec: int

    def __str__(self) -> str:
        return f"{self.sec}.{self.nsec}"

    @classmethod
    def parse(cls, text: str) -> Mark:
        """`sec.nsec` back to a mark. Raises ValueError on anything else."""
        sec, dot, nsec = text.partition(".")
        if not dot:
            raise ValueError(f"not a mark: {text!r} (expected SEC.NSEC)")
        return cls(int(sec), int(nsec))


NO_MARK = Mark(-1, 0)
"""No mark at all: before everything."""

EVERYTHING = Mark(0, 0)
"""Everything must be synced again."""


class EntryChange(NamedTuple):
    """An E record. `slot` is the name it is about (the source of a RENAME); `dest` only with RENAME.

    `mode`, `uid`, `gid` only with CREATE, MKNOD, MKDIR, else 0. `path` is the deleted path of an UNLINK or RMDIR
    where the journal has one. `ctime_ns` is the ctime of a new file as the differ saw it, 0 where that is not known,
    as in all that was read from a journal.
    """

    gfid: Gfid
    fop: int
    slot: Slot
    dest: Slot | None = None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    path: bytes | None = None
    ctime_ns: int = 0


class DataChange(NamedTuple):
    """A D record: the content of `gfid` changed."""

    gfid: Gfid


class MetaChange(NamedTuple):
    """An M record: attributes or xattrs of `gfid` changed; `fop` is the first of its class in the slice."""

    gfid: Gfid
    fop: int


Record = EntryChange | DataChange | MetaChange


@dataclass(frozen=True, slots=True, order=True)
class Changelog:
    """A closed slice in a journal: where it is and what it covers.

    `suffix` is the unix second of its end; `part` is 0 for a live slice and counts 1, 2, … for the slices of a hybrid
    crawl that began at `suffix`. Files sort in the order in which they must be applied. `size` is in bytes, 0 for
    the heartbeat of an idle slice, which has no file (`path` is then b"").
    """

    suffix: int
    part: int
    path: bytes
    size: int = 0


class EngineError(Exception):
    """A fault the engine explains: what and where in `args[0]`, what to do in `hint`, a stable `code`."""

    def __init__(self, text: str, *, hint: str = "", code: str = "error", errno: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.code = code
        self.errno = errno
        self.time = time.time()


def gfid_text(gfid: Gfid) -> str:
    """A gfid as GlusterFS prints it: 36 characters of a UUID."""
    h = gfid.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def parse_gfid(text: str | bytes) -> Gfid:
    """36 characters of a UUID to 16 bytes. Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode("ascii")
    if len(text) != 36 or text[8] != "-" or text[13] != "-" or text[18] != "-" or text[23] != "-":
        raise ValueError(f"not a gfid: {text!r}")
    return bytes.fromhex(text.replace("-", ""))
