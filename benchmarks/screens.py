"""What a screen costs the engine: the same burst of changes headless, attached to, and with the console embedded.

    python -m benchmarks.screens [--runs 15] [--files 30000] [--size 2048]

Two sessions run all the time, one headless, one with the console embedded. In each round a tree of many small files is
moved into one of them three times: into the headless one while nobody looks, into the same one with a console attached,
and into the other. The three take turns, another one first each round; the same process works with and without an
attached console, so what differs from process to process does not count. Taken are the time from the first batch until
the last is committed, by the engine's own clock, and the processor time of engine and agent together (with the console
in it where it is embedded). Prints medians with their spread, and the medians of the ratios to the headless burst of
the same round.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

WAYS = ("headless", "attached", "embedded")
LIMITS = {"attached": 1.05, "embedded": 1.15}
COMMAND = [sys.executable, "-m", "georep_tui"]


class Figures(NamedTuple):
    """Seconds: of wall clock, of the engine's processor time, and of the agent's."""

    wall: float
    engine: float
    agent: float


class Place:
    """Directories for one comparison, and a session between two of them."""

    def __init__(self, base: Path, files: int, size: int) -> None:
        self.base = base
        self.primary, self.secondary, self.burst = base / "primary", base / "secondary", base / "burst"
        for directory in (self.primary, self.secondary, base / "run", base / "state", base / "config"):
            directory.mkdir(parents=True)
        self.files, self.size = files, size
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GEOREP_")},
            "XDG_RUNTIME_DIR": str(base / "run"), "XDG_STATE_HOME": str(base / "state"),
            "XDG_CONFIG_HOME": str(base / "config"), "TERM": "xterm-256color", "COLORTERM": "truecolor",
        }  # fmt: skip
        self.run = [*COMMAND, "run", str(self.primary), str(self.secondary), "--name", "burst", "--set",
                    "delete_guard_minimum=10000000"]  # fmt: skip

    def make_burst(self) -> None:
        """The tree that is to be moved in."""
        data = os.urandom(self.size)
        for number in range(self.files):
            directory = self.burst / f"d{number // 200}"
            if number % 200 == 0:
                directory.mkdir(parents=True)
            (directory / f"f{number}").write_bytes(data)

    def snapshot(self) -> dict[str, Any]:
        """The brick, or nothing while there is none."""
        done = subprocess.run([*COMMAND, "status", "burst", "--json"], env=self.env, capture_output=True, text=True, check=False)
        return json.loads(done.stdout)["sessions"][0]["bricks"][0] if done.returncode == 0 else {}  # type: ignore[no-any-return]

    @contextmanager
    def screen(self, words: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], threading.Event]]:
        """A command in a terminal of 120×40 of its own, which is closed at the end; the event: a brick is shown active."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        process = subprocess.Popen(words, env=self.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        drawn = threading.Event()
        threading.Thread(target=_drain, args=(master, drawn), daemon=True).start()
        try:
            yield process, drawn
        finally:
            process.terminate()
            process.wait(60)
            os.close(master)

    @contextmanager
    def engine(self, embedded: bool) -> Iterator[int]:
        """The session's engine, with the console in it or without; gives its process id."""
        with ExitStack() as stack:
            if embedded:
                engine, _ = stack.enter_context(self.screen(self.run))
            else:
                engine = subprocess.Popen([*self.run, "--no-ui"], env=self.env, stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
                stack.callback(engine.wait, 60)
            stack.callback(subprocess.run, [*COMMAND, "stop", "burst"], env=self.env, capture_output=True, check=False)
            self.until(lambda: self.snapshot().get("lag_seconds") == 0, "the session is active")
            yield _working(engine.pid)

    @staticmethod
    def until(true: Any, what: str, seconds: float = 300) -> None:
        """Wait until it is so."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise SystemExit(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.2)

    def measure(self, pid: int, attached: bool = False) -> Figures:
        """One burst, with a console attached or without."""
        self.make_burst()
        with self.screen([*COMMAND, "attach", "burst"]) if attached else nullcontext() as screen:
            if screen and not screen[1].wait(60):
                raise SystemExit("not within 60 s: the attached console shows the session")
            agent = next(iter(_children(pid)), 0)
            before = _cpu(pid), _cpu(agent)
            began = time.time()
            os.rename(self.burst, self.primary / "burst")
            # nobody asks the engine while it works: the secondary's own count says when it is nearly through
            last = self.secondary / "burst" / f"d{(self.files - 1) // 200}" / f"f{self.files - 1}"
            self.until(lambda: _count(self.secondary / "burst") >= self.files and last.exists(), "the burst is there")
            self.until(lambda: not (brick := self.snapshot())["batch"] and brick["lag_seconds"] == 0, "all is committed")
            after = _cpu(pid), _cpu(agent)
        batches = [one for one in self.snapshot()["history"] if one["files"] and one["started"] >= began]
        ended = max(one["started"] + one["seconds"] for one in batches)
        shutil.rmtree(self.primary / "burst")
        self.until(lambda: not (self.secondary / "burst").exists(), "the burst is gone again")
        self.until(lambda: self.snapshot()["lag_seconds"] == 0, "that is committed")
        # the second until the slice closes is the same for all
        return Figures(ended - batches[0]["started"], after[0] - before[0], after[1] - before[1])


def _drain(master: int, drawn: threading.Event) -> None:
    """Read what is drawn, as a terminal does."""
    before = b""
    while True:
        try:
            read = os.read(master, 1 << 16)
        except OSError:
            return
        if not read:
            return
        if not drawn.is_set():
            if b"Active" in before + read:
                drawn.set()
            before = read[-8:]


def _count(directory: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(directory))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        found += [int(one) for one in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def _working(pid: int) -> int:
    """The process that has the engine: the console runs in a child, so that it can be left."""
    while True:
        deeper = [one for one in _children(pid) if b"georep_tui\0" in Path(f"/proc/{one}/cmdline").read_bytes()]
        if not deeper:
            return pid
        pid = deeper[0]


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> int:
    """Measure and print; exit code 1 when a screen costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=2048)
    given = parser.parse_args()
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="georep-screens-") as directory, ExitStack() as stack:
        bare, console = (Place(Path(directory) / name, given.files, given.size) for name in ("bare", "console"))
        alone, embedded = stack.enter_context(bare.engine(False)), stack.enter_context(console.engine(True))
        for turn in range(given.runs):
            for step in range(len(WAYS)):
                way = WAYS[(turn + step) % len(WAYS)]
                one = console.measure(embedded) if way == "embedded" else bare.measure(alone, way == "attached")
                found[way].append(one)
                print(turn + 1, way, *(f"{value:.2f}" for value in one), flush=True)
    print("| way | seconds | engine CPU | agent CPU | ratio of seconds | ratio of CPU | allowed |\n|---|---|---|---|---|---|---|")
    bad = False
    for way in WAYS:
        wall, engine, agent = ([one[at] for one in found[way]] for at in range(3))
        ratios = [one.wall / other.wall for one, other in zip(found[way], found["headless"], strict=True)]
        pairs = zip(found[way], found["headless"], strict=True)
        work = [(one.engine + one.agent) / (other.engine + other.agent) for one, other in pairs]
        limit = LIMITS.get(way)
        bad |= limit is not None and statistics.median(ratios) > limit
        print(f"| {way} | {_spread(wall)} | {_spread(engine)} | {_spread(agent)} | {_spread(ratios)} | {_spread(work)} | {limit or ''} |")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
