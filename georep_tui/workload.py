"""What people do all day to a few directories, for the demonstration: `python -m georep_tui.workload DIR…`."""

from __future__ import annotations

import os
import random
import select
import shutil
import sys
import time
from collections.abc import Callable

MOST = 3000
"""Objects in one tree after which more is removed than made."""

LARGE = 8
"""Large files in one tree, after which the oldest makes room: a demonstration may run all day."""

_WORDS = (
    "invoice", "report", "minutes", "draft", "plan", "budget", "letter", "photo", "scan", "offer", "contract", "notes",
    "summary", "protocol", "agenda", "survey", "map", "sketch", "index", "cover",
)  # fmt: skip
_KINDS = (".txt", ".md", ".csv", ".jpg", ".pdf", ".eml", ".odt")


class Office:
    """Makes, writes, renames, links and removes in one tree; what is gone meanwhile is passed over."""

    def __init__(self, root: str, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.directories = [root]
        self.files: list[str] = []
        self.done = 0
        self._deeds: list[tuple[int, Callable[[], None]]] = [
            (30, self.write), (18, self.append), (10, self.rewrite), (8, self.rename), (6, self.remove),
            (5, self.folder), (5, self.attributes), (3, self.link), (3, self.symlink), (2, self.move_folder),
            (1, self.remove_folder), (1, self.large),
        ]  # fmt: skip

    def begin(self, objects: int) -> None:
        """What is there before the first session."""
        for _ in range(objects // 15):
            self._try(self.folder)
        for _ in range(objects):
            self._try(self.write)

    def step(self) -> None:
        """One deed."""
        if len(self.files) > MOST:
            self._try(self.remove_folder)
        deeds = [deed for weight, deed in self._deeds for _ in range(weight)]
        self._try(self.random.choice(deeds))

    def _try(self, deed: Callable[[], None]) -> None:
        try:
            deed()
            self.done += 1
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, OSError):
            self.files = [f for f in self.files if os.path.lexists(f)]
            self.directories = [d for d in self.directories if os.path.isdir(d)] or [self.root]

    # ---- deeds -----------------------------------------------------------------------------------------------

    def _name(self, kind: str | None = None) -> str:
        word = self.random.choice(_WORDS)
        ending = self.random.choice(_KINDS) if kind is None else kind
        return os.path.join(self.random.choice(self.directories), f"{word}-{self.random.randrange(10_000):04d}{ending}")

    def _file(self) -> str:
        return self.random.choice(self.files) if self.files else self._name()

    def write(self) -> None:
        """A new file, written beside and renamed as editors do, or in place."""
        path = self._name()
        size = min(int(self.random.lognormvariate(8, 1.6)), 4 << 20)
        temporary = path + ".tmp" if self.random.random() < 0.4 else path
        with open(temporary, "wb") as f:
            f.write(self.random.randbytes(size))
        if temporary != path:
            os.rename(temporary, path)
        self.files.append(path)

    def append(self) -> None:
        """A line more."""
        with open(self._file(), "ab") as f:
            f.write(self.random.randbytes(self.random.randrange(20, 2000)))

    def rewrite(self) -> None:
        """Some bytes in the middle."""
        with open(self._file(), "r+b") as f:
            f.seek(self.random.randrange(4096))
            f.write(self.random.randbytes(200))

    def large(self) -> None:
        """A film or a disk image."""
        path = self._name(".iso")
        images = [f for f in self.files if f.endswith(".iso")]
        if len(images) >= LARGE:
            os.unlink(images[0])
            self.files.remove(images[0])
        with open(path, "wb") as f:
            for _ in range(self.random.randrange(4, 16)):
                f.write(self.random.randbytes(1 << 20))
        self.files.append(path)

    def rename(self) -> None:
        """Another name or place."""
        old, new = self._file(), self._name()
        os.rename(old, new)
        self.files = [new if f == old else f for f in self.files]

    def remove(self) -> None:
        """Gone."""
        path = self._file()
        os.unlink(path)
        self.files.remove(path)

    def folder(self) -> None:
        """A new directory."""
        path = self._name("")
        os.mkdir(path)
        self.directories.append(path)

    def move_folder(self) -> None:
        """A directory with all that is in it."""
        old = self.random.choice(self.directories)
        if old == self.root:
            return
        new = self._name("")
        os.rename(old, new)
        self.directories = [new + d[len(old) :] if (d + "/").startswith(old + "/") else d for d in self.directories]
        self.files = [new + f[len(old) :] if f.startswith(old + "/") else f for f in self.files]

    def remove_folder(self) -> None:
        """A directory with all that is in it, but never much at once."""
        path = self.random.choice(self.directories)
        inside = [f for f in self.files if f.startswith(path + "/")]
        if path == self.root or len(inside) > 60:
            return
        shutil.rmtree(path)
        self.files = [f for f in self.files if not f.startswith(path + "/")]
        self.directories = [d for d in self.directories if d != path and not d.startswith(path + "/")]

    def attributes(self) -> None:
        """Mode and time."""
        path = self._file()
        os.chmod(path, self.random.choice((0o600, 0o640, 0o644, 0o664)))
        os.utime(path, (time.time(), time.time() - self.random.randrange(10_000_000)))

    def link(self) -> None:
        """A second name."""
        new = self._name()
        os.link(self._file(), new, follow_symlinks=False)
        self.files.append(new)

    def symlink(self) -> None:
        """A shortcut."""
        new = self._name(".lnk")
        os.symlink(os.path.relpath(self._file(), os.path.dirname(new)), new)
        self.files.append(new)


def main(arguments: list[str]) -> int:
    """Work in each DIR until the end of input; prints how many deeds were done."""
    offices = [Office(root, seed) for seed, root in enumerate(arguments)]
    for office in offices:
        office.begin(300)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    pace = random.Random(7)
    busy = 20
    while True:
        # people work in bursts: the pace changes now and then
        if pace.random() < 0.02:
            busy = pace.choice((3, 10, 20, 40, 120))
        if select.select([0], [], [], pace.expovariate(busy))[0] and not os.read(0, 4096):
            break
        pace.choice(offices).step()
    sys.stdout.write(f"{sum(o.done for o in offices)}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
