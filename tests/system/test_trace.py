"""The reader of traces sees the right order on disk, and every wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import trace

STEPS = {
    "data": "put(there + '/file', 'data')",
    "index": "put(own + '/index.db-wal', 'row', sync=os.fdatasync)",
    "syncfs": "d = os.open(there, os.O_RDONLY); libc.syncfs(d)",
    "copy": "put(own + '/mark.json.new', 'mark', sync=os.fsync)",
    "copy renamed": "os.rename(own + '/mark.json.new', own + '/mark.json')",
    "mark": "put(state + '/marks.json.new', 'mark', sync=os.fsync)",
    "mark renamed": "os.rename(state + '/marks.json.new', state + '/marks.json')",
}
HEAD = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
there, state = sys.argv[1:]
own = there + '/.georep'
def put(path, text, sync=None):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(fd, text.encode())
    if sync: sync(fd)
    os.close(fd)
"""


def _run(scratch: Path, order: list[str]) -> int:
    there, state = scratch / "there", scratch / "state"
    (there / ".georep").mkdir(parents=True)
    state.mkdir()
    code = HEAD + "\n".join(STEPS[s] for s in order)
    command = [*trace.strace(scratch / "trace"), sys.executable, "-c", code, str(there), str(state)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    return trace.mark_order(trace.read(scratch / "trace"), str(there), str(state))


def test_the_right_order(scratch: Path, tool: Callable[[str], str]) -> None:
    tool("strace")
    assert _run(scratch, list(STEPS)) == 1


@pytest.mark.parametrize(
    "order",
    [
        ["index", "data", "syncfs", "copy", "copy renamed", "mark", "mark renamed"],
        ["data", "syncfs", "index", "copy", "copy renamed", "mark", "mark renamed"],
        ["data", "index", "copy", "syncfs", "copy renamed", "mark", "mark renamed"],
        ["data", "index", "syncfs", "mark", "mark renamed", "copy", "copy renamed"],
        ["data", "index", "syncfs", "copy", "mark", "copy renamed", "mark renamed"],
        ["data", "index", "copy", "copy renamed", "mark", "mark renamed"],
        ["data", "syncfs", "copy", "copy renamed", "mark", "mark renamed"],
    ],
    ids=" ".join,
)
def test_a_wrong_order(scratch: Path, tool: Callable[[str], str], order: list[str]) -> None:
    tool("strace")
    with pytest.raises(AssertionError, match=r"no |not fsynced"):
        _run(scratch, order)
