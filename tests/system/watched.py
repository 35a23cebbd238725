"""A tree with an event source on it, as the recorder uses one: watched, settled, taken."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from engine.journal.dirty import DATA, ENTRY, META, Dirty, Fold
from engine.journal.fanotify import Fanotify
from engine.journal.inotify import Inotify
from engine.model import ROOT
from engine.volume.handles import gfid_of, name_to_handle

BRICK = b"brick-for-tests!"


class Watched:
    """A source of `kind` on a directory. Whatever is made later in it is watched with `watch` or `watch_all`."""

    def __init__(self, kind: str, root: Path, *, most: int = 1_000_000, unlimited: bool = True, start: bool = True):
        self.kind = kind
        self.root = root
        self.source: Fanotify | Inotify
        if kind == "fanotify":
            self.source = Fanotify(os.fsencode(root), BRICK, Fold(most), unlimited=unlimited)
        else:
            self.source = Inotify(str(root), Fold(most))
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._root_handle = name_to_handle(self.root_fd, b"")
        self.watch_all()
        if start:
            self.source.start()

    def close(self) -> None:
        self.source.stop()
        os.close(self.root_fd)

    def gfid(self, path: str) -> bytes:
        """The gfid of a path below the root ("" is the root)."""
        if not path:
            return ROOT
        return gfid_of(BRICK, name_to_handle(self.root_fd, os.fsencode(path)))

    def watch(self, path: str) -> None:
        """As the recorder does before it lists a directory."""
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.root_fd)
        self.source.watch_directory(self.gfid(path), fd)
        os.close(fd)

    def watch_all(self) -> None:
        """All directories there are."""
        for top, _, _ in os.walk(self.root):
            self.watch("" if Path(top) == self.root else str(Path(top).relative_to(self.root)))

    def watch_file(self, path: str) -> None:
        """As the recorder does with a file that has several names."""
        with open(self.root / path, "rb") as f:
            self.source.watch_object(self.gfid(path), f.fileno(), True)

    def taken(self) -> Dirty:
        """What a closing slice gets."""
        self.source.settle()
        return self.source.take()

    def slot(self, path: str) -> tuple[bytes, bytes]:
        """The slot of a name whose directory is there."""
        above, _, name = path.rpartition("/")
        return self.gfid(above), os.fsencode(name)


def entries(dirty: Dirty) -> set[tuple[bytes, bytes]]:
    """The slots whose names changed."""
    return {slot for slot, flags in dirty.slots.items() if flags & ENTRY}


def changed(dirty: Dirty, gfid: bytes, slots: Iterable[tuple[bytes, bytes]], flag: int) -> bool:
    """Is the object, or one of its names, marked with DATA or META?"""
    assert flag in (DATA, META)
    return bool(dirty.objects.get(gfid, 0) & flag) or any(dirty.slots.get(slot, 0) & flag for slot in slots)
