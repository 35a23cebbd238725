"""GlusterFS volumes: georep-tui against gsyncd (tarssh) on the same lab, one after the other, bricks on tmpfs.

    python benchmarks/gluster.py [--files 10000] [--scale 1.0] [--items backlog,first,mib,delta,line] [--json FILE]

Each item makes new volumes (distribute 2) for each engine, and counts from the start of the session until the
secondary has everything, seen on its bricks; ours is then compared through new mounts. `line` is `backlog` through a line of 50 ms round trip. gsyncd is set up
as its own commands do it: keys of root, an sshd of ours on port 22 of the lab's address; tarssh, since its rsync mode
leaves files empty with rsync 3.5. Run it as root, on a machine that has nothing else to do.
Where the time goes is printed as well: seconds of processor by kind of process, of those that still run at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import Ground
from benchmarks.gsyncd import Gsyncd
from tests.gluster.lab import Lab, Volume
from tests.system.runner import Product
from tests.system.sshd import HOST

DELAY = 0.025
"""Seconds each way on the long line."""


@dataclass(frozen=True)
class Row:
    """One item: seconds of each engine (how often the other's the first took is the ratio), and files a second."""

    item: str
    ours: float
    gsyncd: float
    files: int

    @property
    def ratio(self) -> float:
        """How many times as fast as gsyncd."""
        return self.gsyncd / self.ours

    @property
    def line(self) -> str:
        """As a row of the table."""
        speed = f"{self.files / self.ours:.0f} against {self.files / self.gsyncd:.0f} files/s" if self.files > 10 else ""
        return f"| {self.item} | {self.ours:.1f} s | {self.gsyncd:.1f} s | {self.ratio:.2f} × | {speed} |"


def small(root: Path, count: int) -> None:
    """So many files of 1 KiB, 500 to a directory."""
    for i in range(count):
        d = root / f"d{i // 500}"
        if i % 500 == 0:
            d.mkdir()
        (d / f"file-{i}").write_bytes(os.urandom(1024))


def one_large(root: Path, size: int) -> None:
    """One file."""
    with open(root / "large", "wb") as f:
        for _ in range(size >> 20):
            f.write(os.urandom(1 << 20))


def patched(root: Path, size: int) -> None:
    """1 % of it changed, in pieces of 64 KiB all over it."""
    pieces = max(1, size // 100 >> 16)
    with open(root / "large", "r+b") as f:
        for i in range(pieces):
            f.seek(i * (size // pieces))
            f.write(os.urandom(1 << 16))


def there(volume: Volume) -> tuple[int, int]:
    """Files with content on a volume's bricks, and their bytes."""
    count = size = 0
    for brick in volume.bricks:
        todo = [os.fspath(brick)]
        while todo:
            with os.scandir(todo.pop()) as entries:
                for e in entries:
                    if e.name == ".glusterfs":
                        continue
                    if e.is_dir(follow_symlinks=False):
                        todo.append(e.path)
                    elif n := e.stat(follow_symlinks=False).st_size:
                        count, size = count + 1, size + n
    return count, size


def reached(primary: Volume, secondary: Volume, since: float, settled: Callable[[], bool]) -> float:
    """Seconds from `since` until the secondary has as much as the primary, and `settled` says so."""
    wanted = there(primary)
    deadline = since + 3600
    while there(secondary) != wanted or not settled():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{there(secondary)} of {wanted} after an hour")
        time.sleep(0.2)
    return time.monotonic() - since


def processor() -> dict[str, float]:
    """Seconds of processor that each kind of process on this machine has used until now, those that run."""
    spent: dict[str, float] = defaultdict(float)
    tick = os.sysconf("SC_CLK_TCK")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        name = os.path.basename(words[0]).decode(errors="replace")
        if name.startswith("python"):
            name = "python, agents" if b"-c" in words[1:3] else "python" if int(pid) != os.getpid() else "benchmark"
        elif name == "glusterfs":
            name = "mount"
        spent[name.split(":")[0]] += (int(fields[11]) + int(fields[12])) / tick
    return spent


class Bench:
    """Runs items on a lab."""

    def __init__(self, ground: Ground, lab: Lab, gsyncd: Gsyncd, files: int, scale: float) -> None:
        self.ground, self.lab, self.gsyncd = ground, lab, gsyncd
        self.files, self.scale = files, scale

    def item(self, name: str) -> Row:
        """Run one item with both engines."""
        size = int(1024 * self.scale) << 20
        mib = int(500 * self.scale)
        if name == "first":
            return self._both("first sync, 1 KiB", self.files, lambda p: small(p, self.files), None, None)
        if name == "mib":
            def fill(p: Path) -> None:
                for i in range(mib):
                    (p / f"m{i}").write_bytes(os.urandom(1 << 20))

            return self._both(f"{mib} × 1 MiB", mib, None, fill, None)
        if name == "delta":
            return self._both(f"{size >> 20} MiB, 1 % changed", 1, lambda p: one_large(p, size), lambda p: patched(p, size), None)
        return self._both("backlog, 1 KiB" + (", 50 ms" if name == "line" else ""), self.files, None,
                          lambda p: small(p, self.files), DELAY if name == "line" else None)  # fmt: skip

    def _both(
        self, item: str, files: int, before: Callable[[Path], None] | None, while_stopped: Callable[[Path], None] | None,
        delay: float | None,
    ) -> Row:  # fmt: skip
        """`before` is there before the session; `while_stopped` (a backlog) is made while a synced one is stopped."""
        seconds = [self._one(engine, before, while_stopped, delay) for engine in ("ours", "gsyncd")]
        return Row(item, seconds[0], seconds[1], files)

    def _one(
        self, engine: str, before: Callable[[Path], None] | None, while_stopped: Callable[[Path], None] | None,
        delay: float | None,
    ) -> float:  # fmt: skip
        primary, secondary = self.lab.pair(2, "", 2)
        mount = self.lab.mount(primary)
        session = (self._ours if engine == "ours" else self.gsyncd.session)(primary, secondary, delay)
        try:
            (mount / "first").write_text("x")
            if before is not None:
                before(mount)
            used, began = processor(), time.monotonic()
            session.start()
            took = reached(primary, secondary, began, lambda: True)
            if while_stopped is not None:
                session.settled()
                session.stop()
                while_stopped(mount)
                subprocess.run(["sync", "-f", str(mount)], check=True)
                time.sleep(5)  # two rollovers: the backlog is closed before either engine starts
                used, began = processor(), time.monotonic()
                session.start()
                changed = self._probe(primary)
                took = reached(primary, secondary, began, lambda: self._same(changed, secondary))
            spent = sorted(((now - used.get(name, 0), name) for name, now in processor().items()), reverse=True)
            parts = ", ".join(f"{name} {seconds:.1f}" for seconds, name in spent if seconds >= 0.1)
            print(f"{engine}: {took:.1f} s; of processor: {parts}", file=sys.stderr, flush=True)
            session.stop()
            if engine == "ours" and (found := self.lab.equal(primary, secondary)):
                raise RuntimeError(f"not equal: {found}")
            return took
        finally:
            session.close()
            self.lab.remove(primary)
            self.lab.remove(secondary)

    @staticmethod
    def _probe(primary: Volume) -> tuple[str, bytes] | None:
        """Of one large file, the last changed piece: its size alone does not tell."""
        for brick in primary.bricks:
            path = brick / "large"
            if path.exists() and path.stat().st_size:
                return "large", path.read_bytes()
        return None

    @staticmethod
    def _same(wanted: tuple[str, bytes] | None, secondary: Volume) -> bool:
        if wanted is None:
            return True
        return any((b / wanted[0]).exists() and (b / wanted[0]).read_bytes() == wanted[1] for b in secondary.bricks)

    def _ours(self, primary: Volume, secondary: Volume, delay: float | None) -> Ours:
        port = self.gsyncd.line(self.ground.sshd.port, delay) if delay else None
        config = self.ground.sshd.client(port=port)
        product = Product(
            self.ground.directory("product"), [f"{primary.host}::{primary.name}"], f"{HOST}::{secondary.name}",
            {"ssh_options": f"-F {config}"},
        )  # fmt: skip
        return Ours(product)


@dataclass
class Ours:
    """A session of georep-tui."""

    product: Product

    def start(self) -> None:
        """Start it."""
        self.product.start()

    def settled(self) -> None:
        """Wait until it follows live changes."""
        self.product.active()

    def stop(self) -> None:
        """Stop it cleanly."""
        if self.product.stop(120) != 0:
            raise RuntimeError(self.product.tail())

    def close(self) -> None:
        """End what is left."""
        self.product.kill()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="small files")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the large sizes")
    parser.add_argument("--items", default="backlog,first,mib,delta,line")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    print("| what | georep-tui | gsyncd | ratio | |\n|---|---|---|---|---|", flush=True)
    with Ground() as ground, Lab(ground.directory("lab")) as lab, Gsyncd() as gsyncd:
        bench = Bench(ground, lab, gsyncd, options.files, options.scale)
        for name in options.items.split(","):
            rows.append(bench.item(name))
            print(rows[-1].line, flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    return 0 if all(r.ratio >= 1 for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
