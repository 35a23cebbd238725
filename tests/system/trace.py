"""Reads what strace saw: which call on which path, when it began and when it ended."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CALLS = "fsync,fdatasync,syncfs,rename,renameat,renameat2,write,pwrite64,writev,sendfile,copy_file_range,ftruncate"
_LINE = re.compile(r"^(\d+)\s+(\d+\.\d+) (?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$")
_FD = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>")
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
    names, folders = _TEXT.findall(rest), _FD.findall(rest)
    if len(folders) < 2:
        return names
    return [n if n.startswith("/") else f"{f}/{n}" for f, n in zip(folders, names, strict=False)]


def mark_order(events: list[Event], there: str, state: str) -> int:
    """Checks the order of MRK-6 at every step of the mark that follows data; returns how many there were.

    `there` is the secondary's root, `state` the primary's state directory. Raises AssertionError.
    """
    checked = 0
    own = there + "/.georep/"

    def last(before: int, what: Callable[[Event], bool]) -> Event | None:
        return next((e for e in reversed(events) if e.ended < before and what(e)), None)

    marks = [
        e for e in events if e.call.startswith("rename") and e.path.startswith(state) and "mark" in Path(e.path).name
    ]
    assert marks, "the primary's mark was never written by rename"
    previous = -1
    for mark in marks:
        data = last(mark.began, lambda e: _is_data(e, there, own))
        if data is not None and data.began > previous:
            copy = last(mark.began, lambda e: e.call.startswith("rename") and e.path.startswith(own + "mark"))
            assert copy is not None and copy.began > data.ended, f"no copy of the mark after {data}"
            synced = last(copy.began, lambda e: e.call == "syncfs" and e.path.startswith(there))
            assert synced is not None and synced.began > data.ended, f"no syncfs between {data} and {copy}"
            index = last(synced.began, lambda e: e.call in ("fsync", "fdatasync") and "index.db" in e.path)
            assert index is not None and index.began > data.ended, f"no index commit between {data} and {synced}"
            stable = last(copy.began, lambda e: e.call in ("fsync", "fdatasync") and e.path.startswith(own + "mark"))
            assert stable is not None and stable.began > synced.ended, f"the copy of the mark is not fsynced: {copy}"
            own_mark = last(mark.began, lambda e: e.call in ("fsync", "fdatasync") and e.path.startswith(state))
            assert own_mark is not None and own_mark.began > copy.ended, f"the mark is not fsynced: {mark}"
            checked += 1
        previous = mark.began
    return checked


def _is_data(event: Event, there: str, own: str) -> bool:
    """Does this call change the replica itself? A path in the stage is another name of a file in it."""
    inside = event.path.startswith(own + "stage/") or not event.path.startswith(own)
    return event.path.startswith(there + "/") and inside and "sync" not in event.call
