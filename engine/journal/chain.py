"""The chain over a tree's slices: what makes a place in its history, so that one state can be told to follow another.

`journal/chain` has a line for each slice with content, durable with it: its suffix, its part, and a hash over the line
before and the slice's own bytes. A place names the line and the chain. Two sides that name places of one chain know
which of them is ahead; a place that the chain does not have is of another history, or of a future that was rolled back.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

NAME = b"chain"
_HEADER = b"georep-chain 1 "
_ORIGIN = 8
_HASH = 16
_LINE = 10 + 1 + 6 + 1 + 2 * _HASH + 1
"""Bytes of a line: all have the same length, so that one is found without reading the file."""


class Place(NamedTuple):
    """A place in a history: the line of one slice. `origin` names the chain, all hashes are in hex."""

    origin: str
    suffix: int
    part: int
    hash: str

    @property
    def key(self) -> tuple[int, int]:
        """What orders the places of one chain."""
        return self.suffix, self.part

    @property
    def text(self) -> str:
        """For files, indexes and the line."""
        return f"{self.origin}.{self.suffix}.{self.part}.{self.hash}"

    @classmethod
    def parse(cls, text: object) -> Self | None:
        """What `text` gave; None for anything else."""
        words = text.split(".") if isinstance(text, str) else []
        if len(words) != 4 or not (words[1].isdigit() and words[2].isdigit()):
            return None
        return cls(words[0], int(words[1]), int(words[2]), words[3])


def follow(before: str, suffix: int, part: int, data: bytes) -> str:
    """The hash of the slice with these bytes after the line with the hash `before`."""
    head = b"%b %d %d " % (before.encode(), suffix, part)
    own = hashlib.blake2b(data, digest_size=_HASH).digest()
    return hashlib.blake2b(head + own, digest_size=_HASH).hexdigest()


class History:
    """The chain of the journal at `root` as one who reads it sees it; another thread may write it meanwhile.

    A missing file, or one that is no chain, is `origin` None: there is no history. Raises OSError.
    """

    def __init__(self, root: bytes) -> None:
        self.path = os.path.join(root, NAME)
        self.origin: str | None = None
        self.count = 0
        self._fd = -1
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        head = os.pread(self._fd, _LINE, 0)
        if len(head) == _LINE and head.startswith(_HEADER):
            self.origin = head[len(_HEADER) :].decode("ascii", "replace").split()[0]
            self.count = max(0, os.fstat(self._fd).st_size // _LINE - 1)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self, number: int) -> Place | None:
        """The line with that number, from 0; None when it is not there or damaged."""
        if self.origin is None or not 0 <= number < self.count:
            return None
        raw = os.pread(self._fd, _LINE, (number + 1) * _LINE)
        words = raw.split()
        if len(raw) != _LINE or len(words) != 3 or not (words[0].isdigit() and words[1].isdigit()):
            return None
        return Place(self.origin, int(words[0]), int(words[1]), words[2].decode("ascii", "replace"))

    @property
    def first(self) -> Place | None:
        """The oldest line that is kept."""
        return self.line(0)

    @property
    def last(self) -> Place | None:
        """The line of the last slice."""
        return self.line(self.count - 1)

    def _number(self, key: tuple[int, int]) -> int:
        """The number of the first line that is not before that slice."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            found = self.line(middle)
            if found is not None and found.key < key:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, suffix: int, part: int) -> Place | None:
        """The line of that slice; None where the chain has none."""
        found = self.line(self._number((suffix, part)))
        return found if found is not None and found.key == (suffix, part) else None

    def has(self, place: Place) -> bool:
        """Is this a place of this chain?"""
        return place.origin == self.origin and self.find(place.suffix, place.part) == place

    def before(self, place: Place) -> Place | None:
        """The line before that one; None for the first that is kept."""
        return self.line(self._number(place.key) - 1)

    def after(self, key: tuple[int, int]) -> Iterator[Place]:
        """The lines of slices later than that one; a damaged line ends them."""
        number = self._number((key[0], key[1] + 1))
        while (found := self.line(number)) is not None:
            yield found
            number += 1

    def proves(self, suffix: int, part: int, data: bytes) -> bool:
        """Are these the bytes of that slice? Also where nothing is left to prove it by: its line is the first kept."""
        place = self.find(suffix, part)
        if place is None or self.origin is None:
            return False
        number = self._number(place.key)
        if number == 0:
            return not self._whole or follow(self.origin, suffix, part, data) == place.hash
        before = self.line(number - 1)
        return before is not None and follow(before.hash, suffix, part, data) == place.hash

    @property
    def _whole(self) -> bool:
        """Does the file still begin with the chain's first line? Its header says when lines were pruned."""
        return not os.pread(self._fd, _LINE, 0).rstrip().endswith(b" pruned")


class Chain:
    """The one writer of the chain, used by the thread of the journal's writer. Raises OSError.

    A file that is missing or no chain is begun anew, with an origin of its own: `begun`.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._path = os.path.join(root, NAME)
        with History(root) as known:
            self.begun = known.origin is None
            self.origin = known.origin or secrets.token_hex(_ORIGIN)
            self.last = known.last
            end = (known.count + 1) * _LINE
        if self.begun:
            self._replace([_header(self.origin, pruned=False)])
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if not self.begun and os.fstat(self._fd).st_size != end:
            os.ftruncate(self._fd, end)  # a crash while a line was written: its slice is chained again

    def append(self, suffix: int, part: int, data: bytes) -> Place:
        """Add the line of a slice that is durable; the line is durable when this returns."""
        before = self.last.hash if self.last is not None else self.origin
        place = Place(self.origin, suffix, part, follow(before, suffix, part, data))
        raw = b"%010d %06d %b\n" % (suffix, part, place.hash.encode())
        if os.write(self._fd, raw) != len(raw):
            raise OSError(28, os.strerror(28), os.fsdecode(self._path))
        os.fdatasync(self._fd)
        self.last = place
        return place

    def prune(self, before: int) -> int:
        """Forget lines of slices not later than that second, but for the last and one from which on to prove; how many."""
        with History(self._root) as known:
            first = max(0, min(known._number((before + 1, 0)), known.count) - 1)
            if first == 0:
                return 0
            kept = [known.line(n) for n in range(first, known.count)]
        lines = [b"%010d %06d %b\n" % (p.suffix, p.part, p.hash.encode()) for p in kept if p is not None]
        self._replace([_header(self.origin, pruned=True), *lines])
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        return first

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _replace(self, lines: list[bytes]) -> None:
        new = self._path + b".new"
        with open(new, "wb", opener=_private) as f:
            f.writelines(lines)
            f.flush()
            os.fsync(f.fileno())
        os.rename(new, self._path)
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def unproven(root: bytes, slices: list[tuple[int, int, bytes]], done: tuple[int, int],
             log: Callable[[str], None] = lambda _: None) -> str:  # fmt: skip
    """What is wrong with slices that are not done yet (suffix, part, path), in words; "" where all are as they were
    written and none is missing. `done` is the last slice that is. One slice that has no line yet is what a crash leaves
    between the two.
    """
    with History(root) as known:
        wanted = {p.key for p in known.after(done)}
        unchained = 0
        for suffix, part, path in sorted(slices):
            name = os.fsdecode(os.path.basename(path))
            wanted.discard((suffix, part))
            if known.find(suffix, part) is None:
                unchained += 1
                if (known.last is not None and (suffix, part) < known.last.key) or unchained > 1:
                    return f"{name} is not of this journal"
                continue
            try:
                with open(path, "rb") as f:
                    data = f.read()
            except FileNotFoundError:
                return f"{name} is gone"
            if not known.proves(suffix, part, data):
                log(f"{os.fsdecode(path)}: not as it was written ({len(data)} bytes)")
                return f"{name} is not as it was written"
        if wanted:
            first = min(wanted)
            return f"{len(wanted)} changelogs are gone, the first is {first[0]}" + (f".{first[1]}" if first[1] else "")
    return ""


def _header(origin: str, *, pruned: bool) -> bytes:
    text = _HEADER + origin.encode() + (b" pruned" if pruned else b"")
    return text.ljust(_LINE - 1) + b"\n"


def _private(path: str | bytes, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
