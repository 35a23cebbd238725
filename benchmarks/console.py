"""What the console costs: 500 bricks in 20 sessions, a tenth changing with each tick, 50 events a second, in a terminal.

    python -m benchmarks.console [--seconds N] [--minutes N] [--size 120x40]…

Prints, for each size: key to screen (median, p95), the share of a core while everything changes and while nothing does,
and how resident memory grows. The console runs in a process of its own behind a pseudo-terminal; this one only presses
keys and reads.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import resource
import select
import signal
import statistics
import struct
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

SESSIONS, BRICKS = 20, 25
EVENTS_PER_SECOND = 50
CURSOR = re.compile(rb"\x1b\[(\d+);(\d+)H(?:\x1b\[[0-9;:]*m)*\xe2\x96\x8c")
LIMITS = {"120x40": 20.0, "200x60": 30.0}


class Busy:
    """A source in which a tenth of all bricks changes with each look, or nothing at all (`rest`)."""

    def __init__(self, rest: bool) -> None:
        self._rest = rest
        self._turn = 0
        self._told = time.monotonic()
        self._seq = 0
        self._sessions = [self._session(number) for number in range(SESSIONS)]

    def _session(self, number: int) -> dict[str, Any]:
        bricks = [self._brick(number * BRICKS + one, 0) for one in range(BRICKS)]
        return {
            "id": f"s{number}", "name": f"session-{number:02}", "kind": "gluster", "primary": f"m::vol{number}",
            "secondary": f"dr::vol{number}", "state": "Active", "verdict": "ok", "reasons": [], "lag_seconds": 1.0,
            "failures": 0, "checkpoint": {"time": None}, "bricks": bricks,
        }  # fmt: skip

    def _brick(self, number: int, turn: int) -> dict[str, Any]:
        done = (number * 7 + turn * 13) % 100
        faulty = number % 97 == 0
        reasons = [{"code": "ssh", "text": "Faulty: no route to host", "hint": "is it up?"}] if faulty else []
        return {
            "id": f"b{number}", "node": f"node{number % 40:02}", "brick": f"/bricks/volume/brick{number:03}",
            "secondary_user": "geo", "secondary": "dr::vol", "secondary_node": "dr", "status": "Faulty" if faulty else "Active",
            "crawl_status": "Changelog Crawl", "verdict": "critical" if faulty else "ok", "reasons": reasons,
            "last_synced": time.time() - 2, "lag_seconds": None if faulty else 0.5 + done / 50, "entry": done * 3,
            "data": done * 7, "meta": done, "failures": 0, "checkpoint_time": None, "checkpoint_completed": None,
            "checkpoint_completion_time": None,
            "crawl": {"kind": "live", "since": 1.0, "seen": turn, "total": None, "eta_seconds": None, "eta_basis": None},
            "backlog": {"changelogs": done % 5, "bytes": done * 90},
            "batch": {"id": turn, "phase": "data", "changelogs": [0, 1], "entries": [done, 100], "files": [done, 100],
                      "bytes": [done * 9000, 900000], "started": 1.0, "eta_seconds": (100 - done) / 10},
            "rate": {"entries_per_s": done * 8.0, "files_per_s": done * 6.0, "bytes_per_s": done * 52033.0},
            "totals": {"entries": turn, "files": turn, "bytes": turn, "crawls": 1, "turns": turn, "restarts": 0},
            "paused": None, "held": None, "secondary_free": {"bytes": 1 << 40, "inodes": 1 << 20}, "last_verify": None,
            "last_error": None,
        }  # fmt: skip

    def snapshot(self) -> Mapping[str, Any]:
        """The picture; a tenth of the bricks are others than the last time."""
        now = time.time()
        if not self._rest:
            self._turn += 1
            sessions = []
            for number, session in enumerate(self._sessions):
                bricks = [
                    self._brick(number * BRICKS + place, self._turn) if (place + self._turn) % 10 == 0 else brick
                    for place, brick in enumerate(session["bricks"])
                ]
                sessions.append({**session, "bricks": bricks, "lag_seconds": 1.0 + self._turn % 7 / 10})
            self._sessions = sessions
        sources = [{"node": f"node{one:02}", "connected": True, "data_time": now, "clock_offset_seconds": 0.0,
                    "engine_version": "0", "boot_id": "b", "error": None} for one in range(40)]  # fmt: skip
        return {"version": 1, "time": now, "sources": sources, "sessions": self._sessions}

    def events(self) -> Sequence[Mapping[str, Any]]:
        """As many as are due at 50 a second."""
        if self._rest:
            return []
        now = time.monotonic()
        due = int((now - self._told) * EVENTS_PER_SECOND)
        self._told += due / EVENTS_PER_SECOND
        events = []
        for _ in range(due):
            self._seq += 1
            number = self._seq % (SESSIONS * BRICKS)
            events.append({
                "event": "batch done", "seq": self._seq, "time": time.time(), "session": f"session-{number // BRICKS:02}",
                "brick": f"b{number}", "id": self._seq, "entries": 12, "files": 9, "bytes": 81233, "seconds": 0.4,
            })  # fmt: skip
        return events

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """Nothing to do."""
        del method, params
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


def child(rest: bool) -> None:
    """The console, in this process."""
    from georep_tui.settings import ConsoleConfig
    from georep_tui.tui.app import run_console

    run_console(Busy(rest), embedded=False, read_only=False, config=ConsoleConfig(mouse=False))


class Terminal:
    """A console behind a pseudo-terminal of a size; its output is read all the time."""

    def __init__(self, columns: int, lines: int, rest: bool) -> None:
        words = [sys.executable, "-m", "benchmarks.console", "--child", "rest" if rest else "busy"]
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            # The size is set by the parent before anything is drawn.
            time.sleep(0.2)
            os.execv(sys.executable, words)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._more = threading.Condition()
        self._rows: list[tuple[float, int]] = []
        self.bytes = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        while True:
            select.select([self._fd], [], [])
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                return
            if not data:
                return
            now = time.perf_counter()
            self.bytes += len(data)
            rest = (rest + data)[-(1 << 17) :]
            found = list(CURSOR.finditer(rest))
            with self._more:
                self._rows.extend((now, int(one.group(1))) for one in found)
                self._more.notify_all()
            rest = rest[found[-1].end() :] if found else rest[-64:]

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._fd, keys)

    def time_of_move(self, keys: bytes) -> tuple[float, int] | None:
        """Seconds from the key until the cursor is drawn in another row than it was; None within two seconds."""
        with self._more:
            before = self._rows[-1][1] if self._rows else -1
            self._rows.clear()
            began = time.perf_counter()
            self.press(keys)
            moved = self._more.wait_for(lambda: any(row != before for _, row in self._rows), 2.0)
            if not moved:
                return None
            when, row = next(one for one in self._rows if one[1] != before)
            self._rows[:] = [(when, row)]
            return when - began, row

    def cpu(self) -> float:
        """Seconds of processor time the console has used."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident MiB."""
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / (1 << 20)

    def end(self) -> None:
        """End the console."""
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)


def share(terminal: Terminal, seconds: float) -> float:
    """Percent of a core over so many seconds."""
    cpu, began = terminal.cpu(), time.monotonic()
    time.sleep(seconds)
    return 100 * (terminal.cpu() - cpu) / (time.monotonic() - began)


def measure(size: str, seconds: float, minutes: float) -> dict[str, Any]:
    """All numbers of one size."""
    columns, lines = (int(part) for part in size.split("x"))
    idle = Terminal(columns, lines, rest=True)
    time.sleep(4)
    resting = share(idle, seconds)
    idle.end()
    terminal = Terminal(columns, lines, rest=False)
    time.sleep(4)
    out: dict[str, Any] = {"size": size, "idle_percent": round(resting, 2)}
    out["overview_percent"] = round(share(terminal, seconds), 1)
    terminal.press(b"\r")
    time.sleep(1.5)
    out["dashboard_percent"] = round(share(terminal, seconds), 1)
    times, missed = [], 0
    down = False
    for turn in range(120):
        if turn % 5 == 0:
            down = not down
        moved = terminal.time_of_move(b"\x1b[B" if down else b"\x1b[A")
        if moved is None:
            missed += 1
        else:
            times.append(1000 * moved[0])
        time.sleep(0.137)
    times.sort()
    out |= {
        "key_ms_median": round(statistics.median(times), 1), "key_ms_p95": round(times[int(len(times) * 0.95) - 1], 1),
        "keys": len(times), "keys_without_effect": missed,
    }  # fmt: skip
    out["memory_mib"] = [round(terminal.memory(), 1)]
    for _ in range(int(minutes * 4)):
        time.sleep(15)
        out["memory_mib"].append(round(terminal.memory(), 1))
    out["output_mib"] = round(terminal.bytes / (1 << 20), 1)
    terminal.end()
    return out


def main() -> int:
    """Measure and print; exit code 1 when a limit is passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", choices=("busy", "rest"))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--minutes", type=float, default=0.0, help="how long memory is watched")
    parser.add_argument("--size", action="append")
    given = parser.parse_args()
    if given.child:
        child(given.child == "rest")
        return 0
    bad = False
    for size in given.size or ["120x40", "200x60"]:
        found = measure(size, given.seconds, given.minutes)
        print(json.dumps(found), flush=True)
        limit = LIMITS.get(size, 30.0)
        bad |= found["key_ms_p95"] > 100 or found["idle_percent"] > 1 or found["dashboard_percent"] > limit
        bad |= found["overview_percent"] > limit
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
