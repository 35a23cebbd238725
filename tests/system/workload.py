"""Changes a tree at random, as processes on a busy server do: one seed per process, several processes on one tree.

    python -m tests.system.workload TREE --outside DIR --seed N --operations N [--rate OPS_PER_SECOND] [--objects N]

Prints one line of JSON when done: how many operations were done, how many found their object gone or in the way (other
processes work here too), and how often each kind was done. Alone on a tree, the same seed makes the same names,
contents and attributes. `--outside` is a directory on the same filesystem: things are moved and linked there.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import stat
import sys
import time
from collections import Counter

from tests.system.operations import GROWING, OPERATIONS, SHRINKING, create_huge

RACES = frozenset({
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.ELOOP, errno.EPERM,
    errno.ENAMETOOLONG, errno.EACCES, errno.ENXIO, errno.EBUSY, errno.EXDEV, errno.EMLINK, errno.ESTALE, errno.ENOTSUP,
    errno.ENODATA, errno.ENODEV, errno.ENOTCONN,
})  # fmt: skip
"""What an operation may meet where several processes work on one tree (EXDEV: over a mount in the tree; ENOTCONN: a replicated
volume says so of a rename of a directory into itself)."""

ODD_NAMES = [
    b"new\nline", b"100%", b"%41%0A", b"cr\r", b"\xff\xfe", b"-rf", b"--delete", b"n" * 255, b" ", b"  two ", b"*",
    b"back\\slash", b"tab\t", b"'quote\"", b"\x01\x7f", b".hidden", b"~", b"#1#", b"caf\xc3\xa9", b"cafe\xcc\x81",
    b"$(x)", b"?[a]", b"a->b", b"{}", b"...", b"\xc3", b"m" * 254 + b"\n",
]  # fmt: skip


class Workload:
    """One seeded stream of operations on a tree."""

    def __init__(self, tree: bytes, outside: bytes, seed: int, objects: int) -> None:
        self.tree, self.objects, self.seed = tree, objects, seed
        self.random = random.Random(seed)
        self.outside = os.path.join(outside, b"of-%d" % seed)
        os.makedirs(self.outside, exist_ok=True)
        self.root = os.geteuid() == 0
        self.open_files: list[int] = []
        self.made = 0
        self.full = False
        self.done: Counter[str] = Counter()
        self.met: Counter[str] = Counter()

    # -- choosing -----------------------------------------------------------------------------------------------

    def name(self) -> bytes:
        """A name: mostly from a small set, so that names come back, sometimes an odd one."""
        if self.random.random() < 0.06:
            return self.random.choice(ODD_NAMES)
        return b"%s%d" % (self.random.choice([b"f", b"d", b"x", b"name-"]), self.random.randrange(40))

    def fresh(self) -> bytes:
        """A name nobody else uses."""
        self.made += 1
        return b"t%d-%d" % (self.seed, self.made)

    def directory(self, deep: float = 0.75) -> bytes:
        """A directory of the tree, by a random walk down."""
        path = self.tree
        for _ in range(12):
            if self.random.random() > deep:
                break
            below = [e.name for e in self.entries(path) if e.is_dir(follow_symlinks=False)]
            if not below:
                break
            path = os.path.join(path, self.random.choice(sorted(below)))
        return path

    def any(self, kinds: str = "fdlo") -> bytes:
        """Something of a kind: f file, d directory, l symlink, o other. Raises FileNotFoundError when none is met."""
        for _ in range(6):
            where = self.directory()
            found = sorted(e.name for e in self.entries(where) if self._kind(e) in kinds)
            if found:
                return os.path.join(where, self.random.choice(found))
        raise FileNotFoundError(errno.ENOENT, "nothing of that kind met")

    def free(self) -> bytes:
        """A place for something new, in a directory that is not too full."""
        return os.path.join(self.directory(), self.name())

    def content(self, most: int = 16384) -> bytes:
        return self.random.randbytes(int(most * self.random.random() ** 3))

    @staticmethod
    def entries(path: bytes) -> list[os.DirEntry[bytes]]:
        with os.scandir(path) as found:
            return list(found)

    @staticmethod
    def _kind(entry: os.DirEntry[bytes]) -> str:
        if entry.is_symlink():
            return "l"
        if entry.is_dir(follow_symlinks=False):
            return "d"
        return "f" if entry.is_file(follow_symlinks=False) else "o"

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, operations: int, rate: float) -> None:
        """`operations` tries, at most `rate` a second (0: as fast as it goes)."""
        began = time.monotonic()
        kinds = list(OPERATIONS)
        weights = [OPERATIONS[k][1] for k in kinds]
        for n in range(operations):
            if n % 250 == 0:
                self.full = self._count() > self.objects
            (kind,) = self.random.choices(kinds, weights)
            if self.full and kind in GROWING and self.random.random() < 0.8:
                kind = self.random.choice(SHRINKING)
            try:
                OPERATIONS[kind][0](self)
                self.done[kind] += 1
            except OSError as e:
                if e.errno not in RACES:
                    raise
                self.met[kind] += 1
            if rate and (ahead := (n + 1) / rate - (time.monotonic() - began)) > 0.002:
                time.sleep(ahead)
        for fd in self.open_files:
            with contextlib.suppress(OSError):  # a replicated volume may say that it is not connected
                os.close(fd)

    def _count(self) -> int:
        total = 0
        for _, directories, files in os.walk(self.tree):
            total += len(directories) + len(files)
        return total

    def regular(self, path: bytes, flags: int) -> int:
        """Open a regular file, never a fifo or device someone put in its place."""
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "no regular file any more", path)
        return fd

    def write(self, path: bytes, data: bytes, flags: int = 0, offset: int | None = None) -> None:
        """Write into an existing regular file."""
        fd = self.regular(path, os.O_WRONLY | flags)
        try:
            if offset is None:
                os.write(fd, data)
            else:
                os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def new(self, path: bytes, data: bytes) -> None:
        """Make a new regular file."""
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def put(self, path: bytes, data: bytes) -> None:
        """Make a regular file, or write over the one that is there."""
        try:
            self.new(path, data)
        except FileExistsError:
            self.write(path, data, os.O_TRUNC)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=os.fsencode)
    parser.add_argument("--outside", type=os.fsencode, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--huge", action="store_true", help="now and then files of 9 MiB, which go by delta")
    parser.add_argument("--without", action="append", default=[], help="a kind of operation to leave out")
    options = parser.parse_args(arguments)
    if options.huge:
        OPERATIONS["create_huge"] = (create_huge, 2)
    for kind in options.without:
        del OPERATIONS[kind]
    os.umask(0o022)
    w = Workload(options.tree, options.outside, options.seed, options.objects)
    w.run(options.operations, options.rate)
    print(json.dumps({"done": w.done.total(), "met": w.met.total(), "kinds": dict(sorted(w.done.items()))}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
