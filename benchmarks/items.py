"""The measurements, one function each; every one gives rows for the table."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ground import Ground, emptied, patch
from tests.system import processes
from tests.system.runner import Product, wait_until
from tests.system.trees import many_files

MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """How much of everything: runs for the median, a scale on counts and bytes, seconds of live load."""

    runs: int
    scale: float
    seconds: float

    def count(self, full: int) -> int:
        return max(1, int(full * self.scale))


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, the figures by peer, and what is asked for."""

    item: str
    figures: dict[str, float]
    unit: str
    ratio: float | None
    """The first peer's time through ours: above 1 we are faster."""
    wanted: str
    met: bool
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The least and the most of each figure, where it is a median."""


def first_sync(g: Ground, s: Sizes) -> Iterator[Row]:
    """100,000 files of 1 KiB to an empty directory."""
    source, there = g.directory("source"), g.directory("there")
    files = s.count(100_000)
    many_files(source, max(1, files // 100), min(files, 100), 1024)
    took, cpu = _alternate(g, s, source, there)
    yield _against(f"first sync, {files} × 1 KiB", took, 1.0, "≥ 1 × rsync, aiming at 1.2")
    yield _against("processor time of that, both sides", cpu, 0.0, "no target")
    emptied(source)
    emptied(there)


def large_file(g: Ground, s: Sizes) -> Iterator[Row]:
    """One file of 2 GiB: sent, and sent again with 1 % of it changed."""
    source, there = g.directory("source"), g.directory("there")
    size = s.count(2048) * MIB
    _random_file(source / "large", size)
    took, _ = _alternate(g, s, source, there)
    yield _against(f"one file of {size // MIB} MiB", took, 1.0, "≥ 1 × rsync")
    emptied(there)
    other = g.directory("other")
    product = g.product(source, there)
    g.georep(product)
    g.rsync(source, other)
    delta: dict[str, list[float]] = {"georep": [], "rsync": []}
    for n in range(s.runs):
        patch(source / "large", 0.01, seed=n)
        delta["georep"].append(g.georep(product))
        delta["rsync"].append(g.rsync(source, other))
    yield _against(f"1 % of {size // MIB} MiB changed", delta, 0.9, "≥ 0.9 × rsync's delta")
    for path in (source, there, other):
        emptied(path)


def few_among_many(g: Ground, s: Sizes) -> Iterator[Row]:
    """1,000 changed files among 1,000,000 and among 200,000, live; and the memory all that takes."""
    ours: dict[int, float] = {}
    changes = s.count(1000)
    for full in (200_000, 1_000_000):
        files = s.count(full)
        source, there, other = g.directory("source"), g.directory("there"), g.directory("other")
        many_files(source, max(1, files // 1000), min(files, 1000), 0)
        g.rsync(source, other)
        product = g.product(source, there)
        took: dict[str, list[float]] = {"georep": [], "rsync": []}
        with _live(product), _peaks(g, product) as peaks:
            product.active(timeout=1800)
            for n in range(s.runs):
                wait_until(_caught_up(product), 120, "idle", pause=0.3)
                paths = _change(source, files, changes, n)
                took["georep"].append(_until_there(source, there, paths))
                took["rsync"].append(g.rsync(source, other))
            memory = {k: v / MIB for k, v in peaks().items()}
        ours[full] = statistics.median(took["georep"])
        if full == 1_000_000:
            yield _against(f"{changes} changed among {files}, live", took, 5.0, "≥ 5 × sooner than rsync")
            met = ours[full] <= ours[200_000] * 1.15 + 0.3
            figures = {"among few": ours[200_000], "among many": ours[full]}
            yield Row("the same among a fifth", figures, "s", ours[200_000] / ours[full], "no later than there", met)
            yield Row(f"peak memory, {files} files", memory, "MiB", None, "≤ 200", max(memory.values()) <= 200)
        for path in (source, there, other):
            emptied(path)


def live_lag(g: Ground, s: Sizes) -> Iterator[Row]:
    """200 changes a second: from the write on the primary to the same mtime on the secondary."""
    source, there = g.directory("source"), g.directory("there")
    many_files(source, 20, 500, 200)
    product = g.product(source, there)
    with _live(product):
        product.active(timeout=300)
        lags = sorted(_lags(source, there, rate=200, seconds=s.seconds))
    figures = {"p50": lags[len(lags) // 2], "p99": lags[math.ceil(len(lags) * 0.99) - 1], "max": lags[-1]}
    yield Row(f"live lag, 200 changes/s for {s.seconds:g} s", figures, "s", None, "p99 ≤ 2 s", figures["p99"] <= 2)
    emptied(source)
    emptied(there)


def idle(g: Ground, s: Sizes) -> Iterator[Row]:
    """Processor time of a live session in which nothing happens."""
    source, there = g.directory("source"), g.directory("there")
    many_files(source, s.count(1000), 100, 0)
    product = g.product(source, there)
    with _live(product):
        product.active(timeout=600)
        wait_until(_caught_up(product), 60, "idle", pause=0.3)
        pids = {"engine": [product.pid], "ssh": product.children("ssh"), "agent": g.agents()}
        before = {k: sum(map(processes.cpu_seconds, v)) for k, v in pids.items()}
        began = time.monotonic()
        time.sleep(s.seconds)
        took = time.monotonic() - began
        figures = {k: (sum(map(processes.cpu_seconds, v)) - before[k]) / took * 100 for k, v in pids.items()}
    yield Row("idle", figures, "% of a core", None, "< 1 %", sum(figures.values()) < 1)
    emptied(source)
    emptied(there)


ITEMS = {"first": first_sync, "large": large_file, "many": few_among_many, "lag": live_lag, "idle": idle}


# -- parts --------------------------------------------------------------------------------------------------------


Times = dict[str, list[float]]


def _alternate(g: Ground, s: Sizes, source: Path, there: Path) -> tuple[Times, Times]:
    """Each peer in turn to an empty directory, `runs` times: seconds of wall clock, and of processors."""
    peers: dict[str, Callable[[], float]] = {
        "georep": lambda: g.georep(g.product(source, there)),
        "rsync": lambda: g.rsync(source, there),
        "tar": lambda: g.tar(source, there),
    }
    took: Times = {peer: [] for peer in peers}
    cpu: Times = {peer: [] for peer in peers}
    for _ in range(s.runs):
        for peer, run in peers.items():
            emptied(there)
            before = g.cpu_seconds()
            took[peer].append(run())
            cpu[peer].append(g.cpu_seconds() - before)
    return took, cpu


def _against(item: str, took: Times, wanted: float, words: str) -> Row:
    medians = {peer: statistics.median(t) for peer, t in took.items()}
    ratio = medians["rsync"] / medians["georep"]
    spread = {peer: (min(t), max(t)) for peer, t in took.items()}
    return Row(item, medians, "s", ratio, words, ratio >= wanted, spread)


def _random_file(path: Path, size: int) -> None:
    piece = os.urandom(4 * MIB)
    with open(path, "wb") as f:
        for n in range(0, size, len(piece)):
            f.write(n.to_bytes(8, "big") + piece[8:])


@contextlib.contextmanager
def _live(product: Product) -> Iterator[None]:
    with product:
        product.start()
        yield
        product.stop()


def _caught_up(product: Product) -> Callable[[], bool]:
    def idle_now() -> bool:
        brick = product.brick()
        return bool(brick) and brick["batch"] is None and not brick["backlog"]["changelogs"]

    return idle_now


def _change(source: Path, files: int, changes: int, turn: int) -> list[str]:
    """Rewrite files all over the tree; returns their paths below it."""
    each = min(files, 1000)
    step = max(1, files // changes)
    paths = []
    for n in range(0, step * changes, step):
        path = f"d{n // each:05}/f{n % each:05}"
        with open(source / path, "wb") as f:
            f.write(b"%d %d" % (turn, n))
        paths.append(path)
    return paths


def _until_there(source: Path, there: Path, paths: list[str]) -> float:
    """Seconds until every path has the primary's size and mtime on the secondary."""
    began = time.monotonic()
    open_ = {p: (i.st_size, i.st_mtime_ns) for p in paths if (i := os.stat(source / p))}

    def all_there() -> bool:
        for path, wanted in list(open_.items()):
            info = os.stat(there / path)
            if (info.st_size, info.st_mtime_ns) != wanted:
                return False
            del open_[path]
        return True

    wait_until(all_there, 600, "the changes are there", pause=0.01)
    return time.monotonic() - began


def _lags(source: Path, there: Path, *, rate: int, seconds: float) -> list[float]:
    """Write at a rate, files new and old; seconds until each write shows, in a second thread's eyes."""
    pending: deque[tuple[float, str, int]] = deque()
    lags: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() or pending:
            if over.is_set() and time.monotonic() - pending[-1][0] > 60:
                raise RuntimeError(f"{len(pending)} writes never showed")
            for _ in range(len(pending)):
                when, path, mtime = pending.popleft()
                try:
                    shows = os.stat(there / path).st_mtime_ns >= mtime
                except FileNotFoundError:
                    shows = False
                if shows:
                    lags.append(time.monotonic() - when)
                else:
                    pending.append((when, path, mtime))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, name="watcher")
    watcher.start()
    began = time.monotonic()
    for n in range(int(rate * seconds)):
        path = f"d{n % 20:05}/" + (f"new{n}" if n % 2 else f"f{n // 20 % 500:05}")
        with open(source / path, "wb") as f:
            f.write(b"%d" % n * 20)
        pending.append((time.monotonic(), path, os.stat(source / path).st_mtime_ns))
        time.sleep(max(0.0, began + (n + 1) / rate - time.monotonic()))
    over.set()
    watcher.join()
    return lags


@contextlib.contextmanager
def _peaks(g: Ground, product: Product) -> Iterator[Callable[[], dict[str, int]]]:
    """The highest memory of engine and agent, in bytes, as the kernel counts it; looked at while they live."""
    seen: dict[str, int] = {"engine": 0, "agent": 0}
    stop = threading.Event()

    def look() -> dict[str, int]:
        if product.running():
            seen["engine"] = max(seen["engine"], processes.memory(product.pid, "VmHWM"))
        for pid in g.agents():
            seen["agent"] = max(seen["agent"], processes.memory(pid, "VmHWM"))
        return seen

    def watch() -> None:
        while not stop.wait(0.5):
            look()

    watcher = threading.Thread(target=watch, name="memory")
    watcher.start()
    try:
        yield look
    finally:
        stop.set()
        watcher.join()
