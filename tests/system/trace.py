"""Reads what strace saw: which call on which path, when it began and when it ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CALLS = "fsync,fdatasync,syncfs,rename,renameat,renameat2,write,pwrite64,writev,sendfile,copy_file_range,ftruncate"
_LINE = re.compile(r"^(\d+)\s+(\d+\.\d+) (?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$")
_FD = re.compile(r"\d+<([^>]*)>")
_TEXT = re.compile(r'"([^"]*)"')


def strace(output: Path) -> list[str]:
    """Words before a command that trace it and all its children into a file."""
    return ["strace", "-f", "-ttt", "-y", "-s", "200", "-e", f"trace={CALLS}", "-o", str(output)]


@dataclass
class Event:
    """One system call: `paths` of descriptors and arguments in order, `began` and `ended` as line numbers."""

    call: str
    paths: list[str]
    began: int
    ended: int
    result: str = ""

    @property
    def path(self) -> str:
        """The path it was about: for a rename the new name."""
        return self.paths[-1] if self.call.startswith("rename") else self.paths[0] if self.paths else ""


def read(output: Path) -> list[Event]:
    """All calls that succeeded, in the order in which they began."""
    events: list[Event] = []
    waiting: dict[tuple[str, str], Event] = {}
    for number, line in enumerate(output.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if not found:
            continue
        pid, _, call, rest, resumed, tail = found.groups()
        if resumed:
            event = waiting.pop((pid, resumed), None)
            if event is not None:
                event.ended, event.result = number, _result(tail)
            continue
        event = Event(call, _paths(call, rest), number, number)
        events.append(event)
        if rest.endswith("<unfinished ...>"):
            waiting[pid, call] = event
        else:
            event.result = _result(rest)
    return [e for e in events if not e.result.startswith("-1")]


def _result(text: str) -> str:
    return text.rsplit(" = ", 1)[-1].strip()


def _paths(call: str, rest: str) -> list[str]:
    if not call.startswith("rename"):
        first = _FD.match(rest)
        return [first.group(1)] if first else []
    names = _TEXT.findall(rest)
    folders = _FD.findall(rest.split('", ', 1)[0]) + _FD.findall(rest.split('", ', 1)[-1])
    return [
        name if name.startswith("/") or len(folders) < 2 else f"{folder}/{name}"
        for folder, name in zip(folders if len(folders) == 2 else ["", ""], names, strict=False)
    ]
