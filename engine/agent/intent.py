"""Files that are written in place: marked torn, durably, before their first byte and until they are whole."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Optional

from engine.agent.types import Gfid

FILE = b"torn"
LISTED = 64
"""Files that a volume's mark names: an xattr of ext4 takes 4 KiB."""


class Intent(ABC):
    """The files whose content may be neither the old nor the new one. Used by one thread.

    `begin` is durable when it returns. `done` is not: the mark must not go before the content is on the disk, so it
    goes with `settle`, which the commit calls after its sync.
    """

    def __init__(self, kept: Iterable[Gfid], hollow: set[Gfid]) -> None:
        self._kept = set(kept)
        self._now = set(self._kept)
        self.hollow = hollow
        """Files made without their content, which has not come yet: marked at the commit, should it not come by then."""

    def __contains__(self, gfid: object) -> bool:
        return gfid in self._now or gfid in self.hollow

    def begin(self, gfids: Iterable[Gfid]) -> None:
        """These are going to be written in place. OSError: none may be."""
        some = set(gfids)
        if new := some - self._kept:
            self._note(new)
            self._kept |= new
        self._now |= some

    def done(self, gfid: Gfid) -> None:
        """This one is whole, or gone."""
        self._now.discard(gfid)
        self.hollow.discard(gfid)

    def note_hollow(self, there: Callable[[Gfid], bool]) -> None:
        """Mark those whose content has not come, and that are still there. OSError."""
        self.begin([gfid for gfid in self.hollow if there(gfid)])
        self.hollow.clear()

    def torn(self) -> set[Gfid]:
        """Those that are not whole."""
        return set(self._now)

    def settle(self) -> None:
        """What is whole is on the disk: its mark goes. OSError."""
        if self._kept != self._now:
            self._write(self._now)
            self._kept = set(self._now)

    @abstractmethod
    def _note(self, new: set[Gfid]) -> None:
        """Add these durably."""

    @abstractmethod
    def _write(self, all_: set[Gfid]) -> None:
        """Make these all there are, durably."""


class TreeIntent(Intent):
    """Of a tree: a file in the state directory, a gfid in hex on each line. A last line cut short was not begun."""

    def __init__(self, state_fd: int, hollow: set[Gfid]) -> None:
        self._state_fd = state_fd
        super().__init__(read(state_fd), hollow)

    def _note(self, new: set[Gfid]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(FILE, flags, 0o600, dir_fd=self._state_fd)
        try:
            # a line of before may be cut short: begin a new one
            _write_all(fd, b"\n" + b"".join(g.hex().encode() + b"\n" for g in sorted(new)))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.fsync(self._state_fd)

    def _write(self, all_: set[Gfid]) -> None:
        if not all_:
            os.unlink(FILE, dir_fd=self._state_fd)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(FILE + b".new", flags, 0o600, dir_fd=self._state_fd)
        try:
            _write_all(fd, b"".join(g.hex().encode() + b"\n" for g in sorted(all_)))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(FILE + b".new", FILE, src_dir_fd=self._state_fd, dst_dir_fd=self._state_fd)
        os.fsync(self._state_fd)


def _write_all(fd: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])


def read(state_fd: int) -> set[Gfid]:
    """The files that are marked in a state directory."""
    try:
        fd = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=state_fd)
    except FileNotFoundError:
        return set()
    with open(fd, "rb") as f:
        lines = f.read().split(b"\n")[:-1]
    found: set[Gfid] = set()
    for line in lines:
        try:
            gfid = bytes.fromhex(line.decode("ascii"))
        except ValueError:
            continue
        if len(gfid) == 16:
            found.add(gfid)
    return found


class VolumeIntent(Intent):
    """Of one brick on a volume: an xattr of the volume's root, which lists up to LISTED files and counts the others.

    `load` and `save` are that xattr (None: remove it), `sync` makes it durable.
    """

    def __init__(
        self,
        load: Callable[[], Optional[dict[str, Any]]],
        save: Callable[[Optional[dict[str, Any]]], None],
        sync: Callable[[], None],
    ) -> None:
        found = load() or {}
        self._save, self._sync = save, sync
        self.others = int(found.get("others") or 0)
        """Files of an earlier agent's last batch that were marked and are not listed: that batch is repeated."""
        super().__init__((bytes.fromhex(str(g)) for g in found.get("gfids") or ()), set())

    def _note(self, new: set[Gfid]) -> None:
        self._write(self._kept | new)

    def _write(self, all_: set[Gfid]) -> None:
        listed = sorted(all_)[:LISTED]
        value = {"gfids": [g.hex() for g in listed], "others": len(all_) - len(listed)}
        self._save(value if all_ else None)
        self._sync()
        self.others = 0
