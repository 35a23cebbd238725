"""Looking at processes: what runs below one, who is an agent or an ssh, how much memory and time they take."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path


def _parents() -> dict[int, int]:
    """Process id → parent's, of all processes now."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{name}/stat").read_text()
                found[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
    return found


def below(pid: int) -> list[int]:
    """All processes below one, nearest first."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for child, parent in _parents().items():
        children[parent].append(child)
    found, at = list(children[pid]), 0
    while at < len(found):
        found += children[found[at]]
        at += 1
    return found


def command(pid: int) -> list[str]:
    """The command line of a process, empty when it is gone."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []


def program(pid: int) -> str:
    """The base name of what a process runs, empty when it is gone."""
    words = command(pid)
    return os.path.basename(words[0]) if words else ""


def named(pid: int, prefix: str) -> list[int]:
    """The processes below `pid` whose program's name begins so: `ssh`, `python`, `rsync`."""
    return [p for p in below(pid) if program(p).startswith(prefix) and not program(p).startswith("sshd")]


def kill(pids: list[int], number: int = signal.SIGKILL) -> int:
    """Send a signal to each process that is still there; returns to how many."""
    told = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            told += 1
    return told


def memory(pid: int, what: str = "VmRSS") -> int:
    """Bytes of memory a process holds now (`VmHWM`: at its highest), 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def cpu_seconds(pid: int) -> float:
    """Processor seconds a process has used so far, its finished children included."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
