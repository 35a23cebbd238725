"""A session's engine runs, ended in order, or died: by its file and its lock."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine import life
from engine.life import Living, locked, look, take_lock


def test_a_life_and_its_end(tmp_path: Path) -> None:
    state = str(tmp_path)
    assert look(state).how == "" and not locked(state)
    fd = take_lock(state)
    assert fd is not None and take_lock(state) is None
    living = Living(state, "georep-tui run web", [{"id": "b", "state": "1-root"}])
    living.begin()
    found = look(state)
    assert (found.how, found.again, found.pid, found.bricks[0]["id"]) == ("running", "georep-tui run web", os.getpid(), "b")
    living.end("once", 1)
    os.close(fd)
    found = look(state)
    assert (found.how, found.code) == ("once", 1)


def test_a_killed_process_has_died_and_says_when(tmp_path: Path) -> None:
    """The process is killed with the lock held and its life noted: nothing of it could tidy up."""
    code = """
import sys, time
from engine import life
life.BEAT = 0.05
fd = life.take_lock(sys.argv[1])
life.Living(sys.argv[1], "again", []).begin()
print("up", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        began = look(str(tmp_path))
        assert began.how == "running"
        beating = threading.Event()
        while (look(str(tmp_path)).seen or 0) <= (began.seen or 0):
            beating.wait(0.01)
        assert look(str(tmp_path)).seen is not None
    finally:
        process.kill()
        process.wait()
    found = look(str(tmp_path))
    assert found.how == "died" and found.again == "again"
    assert found.seen is not None and began.seen is not None and found.seen > began.seen


def test_who_looks_does_not_keep_an_engine_from_starting(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, (fd,))
    timer.start()
    mine = take_lock(str(tmp_path))
    timer.join()
    assert mine is not None
    os.close(mine)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"how": 5, "bricks": "x", "code": "y", "pid": []}'])
def test_a_damaged_file_is_no_life(tmp_path: Path, text: str) -> None:
    (tmp_path / life.FILE).write_text(text)
    assert look(str(tmp_path)).how == "" and look(str(tmp_path)).bricks == ()
