"""Both trees by path, side by side, before the first byte is written: what is equal, missing, and what would go."""

from __future__ import annotations

import base64
import os
import stat as _stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.gate import Item
from engine.model import STATE_DIR

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Excluded = Callable[[bytes, bool], bool]
"""Is this path (of a directory) left out by the filters?"""

Parts = tuple[bytes, ...]


class Entry(NamedTuple):
    """One object of either side. `known`: the secondary's index has it, so it is this session's own; `closed`: what is
    below a directory cannot be seen, or is none of ours."""

    parts: Parts
    ino: int
    kind: int
    size: int
    mtime_ns: int
    link: bytes | None
    rdev: int
    known: bool = False
    closed: bool = False
    verdict: str = ""

    @property
    def path(self) -> bytes:
        return b"/".join(self.parts)

    def item(self, why: str) -> Item:
        """As a list has it."""
        return Item(self.path, self.kind, self.size, self.mtime_ns, self.ino, "", why)


class Pair(NamedTuple):
    """One name on both sides, or on one. `kept`: it is not to be touched there, whatever is here."""

    mine: Entry | None
    theirs: Entry | None
    kept: bool = False


def there(entries: Iterable[list[Any]]) -> Iterator[Entry]:
    """The agent's answer as entries."""
    for path, ino, kind, size, mtime_ns, link, rdev, gfid, readable, verdict in entries:
        text = None if link is None else base64.b64decode(link)
        yield Entry(tuple(base64.b64decode(path).split(b"/")), int(ino), int(kind), int(size), int(mtime_ns), text, int(rdev),
                    bool(gfid), not readable, str(verdict))  # fmt: skip


def here(root: bytes, excluded: Excluded | None) -> Iterator[Entry]:
    """Everything in the primary's tree, each directory before what is in it, names in order of their bytes.

    Another filesystem and a directory that may not be read are closed: nothing follows from what is not seen there.
    Raises OSError where the root cannot be read.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(root_fd).st_dev
        todo = list(reversed(_children(root_fd, (), device, excluded)))
        while todo:
            one = todo.pop()
            if one.kind != _stat.S_IFDIR or one.closed:
                yield one
                continue
            try:
                below = _children(root_fd, one.parts, device, excluded)
            except PermissionError:
                yield one._replace(closed=True)
                continue
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went as we looked: the recorder says what became of it
            yield one
            todo += reversed(below)
    finally:
        os.close(root_fd)


def _children(root_fd: int, parts: Parts, device: int, excluded: Excluded | None) -> list[Entry]:
    out: list[Entry] = []
    fd = os.open(b".", _DIR, dir_fd=root_fd)
    try:
        for name in parts:
            below = os.open(name, _DIR, dir_fd=fd)
            os.close(fd)
            fd = below
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            if not parts and name == STATE_DIR:
                continue
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                link = os.readlink(name, dir_fd=fd) if _stat.S_ISLNK(st.st_mode) else None
            except FileNotFoundError:
                continue
            path = (*parts, name)
            if excluded is not None and excluded(b"/".join(path), _stat.S_ISDIR(st.st_mode)):
                continue
            out.append(Entry(path, st.st_ino, _stat.S_IFMT(st.st_mode), st.st_size, st.st_mtime_ns, link, st.st_rdev,
                             closed=st.st_dev != device))  # fmt: skip
    finally:
        os.close(fd)
    return out


def paired(mine: Iterable[Entry], theirs: Iterable[Entry], excluded: Excluded | None) -> Iterator[Pair]:
    """Both sides merged by path; each must come in order. Pure."""
    left, right = iter(mine), iter(theirs)
    a, b = next(left, None), next(right, None)
    closed: Parts | None = None
    """Below this nothing is known of the primary."""
    while a is not None or b is not None:
        if closed is not None and b is not None and b.parts[: len(closed)] == closed:
            yield Pair(None, b, kept=True)
            b = next(right, None)
            continue
        if b is None or (a is not None and a.parts < b.parts):
            assert a is not None
            closed = a.parts if a.closed else closed
            yield Pair(None if a.closed else a, None)
            a = next(left, None)
        elif a is None or b.parts < a.parts:
            yield Pair(None, b, kept=excluded is not None and excluded(b.path, b.kind == _stat.S_IFDIR))
            b = next(right, None)
        else:
            closed = a.parts if a.closed else closed
            yield Pair(a, b, kept=a.closed)
            a, b = next(left, None), next(right, None)


def equal(mine: Entry, theirs: Entry, checksum: bool) -> bool | None:
    """Is it the same on both sides (CRW-8)? None where only the content can tell."""
    if mine.kind != theirs.kind:
        return False
    if mine.kind == _stat.S_IFDIR:
        return True
    if mine.kind == _stat.S_IFREG:
        if mine.size != theirs.size:
            return False
        return None if checksum and mine.size else checksum or mine.mtime_ns == theirs.mtime_ns
    if mine.kind == _stat.S_IFLNK:
        return mine.link == theirs.link
    return mine.rdev == theirs.rdev


@dataclass(slots=True)
class Counted:
    """Objects, and bytes of the content of files among them."""

    objects: int = 0
    bytes: int = 0

    def add(self, kind: int, size: int) -> None:
        """One more."""
        self.objects += 1
        self.bytes += size if kind == _stat.S_IFREG else 0


@dataclass(slots=True)
class Plan:
    """What taking over a tree comes to. `kept` is left alone: by the filters, by `ignore_deletes`, or because what the
    primary has there cannot be seen. `replaced` counts what is there now."""

    equal: Counted = field(default_factory=Counted)
    missing: Counted = field(default_factory=Counted)
    kept: Counted = field(default_factory=Counted)
    replaced: list[Item] = field(default_factory=list)
    removed: list[Item] = field(default_factory=list)
    lacking: list[bytes] = field(default_factory=list)
    """Paths that are missing there; only where that was asked for."""
    sent: int = 0
    """Bytes of content that are sent."""

    def shown(self) -> dict[str, Any]:
        """For JSON."""
        replaced, removed = _sum(self.replaced), _sum(self.removed)
        return {
            "equal": _json(self.equal), "made": _json(self.missing), "kept": _json(self.kept),
            "replaced": {**_json(replaced), "paths": [i.shown() for i in self.replaced]},
            "removed": {**_json(removed), "paths": [i.shown() for i in self.removed]},
            "bytes": self.sent,
        }  # fmt: skip


def _sum(items: list[Item]) -> Counted:
    out = Counted()
    for one in items:
        out.add(one.kind, one.size)
    return out


def _json(counted: Counted) -> dict[str, int]:
    return {"objects": counted.objects, "bytes": counted.bytes}


class Planner:
    """Turns pairs into a plan, and into verdicts for the agent on all that is not equal.

    `same_content(pairs)` compares files of one size and says which are the same; with None size and time decide.
    """

    def __init__(
        self, *, ignore_deletes: bool, same_content: Callable[[list[tuple[Entry, Entry]]], list[bool]] | None,
        lacking: bool = False,
    ) -> None:  # fmt: skip
        self.plan = Plan()
        self._ignore = ignore_deletes
        self._same = same_content
        self._lacking = lacking
        self._doubt: list[tuple[Entry, Entry]] = []
        self._other: list[bytes] = []

    def take(self, pair: Pair) -> None:
        """One more pair."""
        mine, theirs, kept = pair
        plan = self.plan
        if theirs is not None and theirs.known:
            return  # this session has put it there, in this same comparison
        if theirs is None:
            if mine is not None:
                self._missing(mine)
        elif kept:
            plan.kept.add(theirs.kind, theirs.size)
            self._other.append(theirs.path)
        elif mine is None:
            self._removed(theirs)
        else:
            self._both(mine, theirs)
        if len(self._doubt) >= 200:
            self._settle()

    def _missing(self, mine: Entry) -> None:
        self.plan.missing.add(mine.kind, mine.size)
        self._sends(mine)
        if self._lacking:
            self.plan.lacking.append(mine.path)

    def _sends(self, mine: Entry) -> None:
        self.plan.sent += mine.size if mine.kind == _stat.S_IFREG else 0

    def _removed(self, theirs: Entry) -> None:
        self._other.append(theirs.path)
        if self._ignore:
            self.plan.kept.add(theirs.kind, theirs.size)
        else:
            self.plan.removed.append(theirs.item("the primary does not have it"))

    def _both(self, mine: Entry, theirs: Entry) -> None:
        same = equal(mine, theirs, self._same is not None)
        if same is None:
            self._doubt.append((mine, theirs))
        else:
            self._decided(mine, theirs, same)

    def _decided(self, mine: Entry, theirs: Entry, same: bool) -> None:
        if same:
            self.plan.equal.add(theirs.kind, theirs.size)
            return
        self._other.append(theirs.path)
        if self._ignore and theirs.kind == _stat.S_IFDIR:
            self.plan.kept.add(theirs.kind, theirs.size)  # what is in it would be removed
            return
        self.plan.replaced.append(theirs.item(_why(mine, theirs)))
        self._sends(mine)

    def _settle(self) -> None:
        doubt, self._doubt = self._doubt, []
        assert self._same is not None
        for (mine, theirs), same in zip(doubt, self._same(doubt), strict=True):
            self._decided(mine, theirs, same)

    def verdicts(self) -> list[bytes]:
        """Paths of what is not equal, since the last call: they are not to be touched until a person says so."""
        if self._doubt:
            self._settle()
        out, self._other = self._other, []
        return out


def _why(mine: Entry, theirs: Entry) -> str:
    """How they differ, in words."""
    if mine.kind != theirs.kind:
        return "another type"
    if mine.kind == _stat.S_IFREG:
        return f"size {theirs.size} for {mine.size}" if mine.size != theirs.size else "mtime or content"
    return "link text" if mine.kind == _stat.S_IFLNK else "device number"
