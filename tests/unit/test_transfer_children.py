"""ERR-6: children of a transfer are drained, watched and ended; SYN-7: the limit holds for what they pass on."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from engine.model import EngineError
from engine.transfer.children import Child, Children, TransferError, environment


def nothing() -> None:
    """A tick that never stops anything."""


def start(children: Children, script: str, **more: object) -> Child:
    arguments = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **more}
    return children.start("child", ["sh", "-c", script], **arguments)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    """Does this process run (a zombie does not)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_err6_exit_and_last_words() -> None:
    with Children(10, nothing) as children:
        good, bad = start(children, "exit 0"), start(children, "echo one >&2; printf two >&2; exit 23")
        children.run()
    assert (good.code, good.said, bad.code, bad.said) == (0, "", 23, "one; two")


def test_err6_a_flood_on_stderr_blocks_nobody() -> None:
    with Children(10, nothing) as children:
        child = start(children, "i=0; while [ $i -lt 20000 ]; do echo vanished: file $i >&2; i=$((i+1)); done; exit 24")
        children.run()
    assert child.code == 24
    assert child.words[-1] == "vanished: file 19999" and len(child.words) == 20


def test_err6_a_hung_child_is_killed_with_what_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    pids = tmp_path / "pids"
    with pytest.raises(TransferError, match=r"nothing moved for .*: waiting") as e, Children(1, nothing) as children:
        start(children, f"sleep 1000 & echo $! $$ > {pids}; echo waiting >&2; wait")
        children.run()
    assert e.value.code == "transfer-stalled"
    assert 0.9 < time.monotonic() - began < 10
    until = time.monotonic() + 10
    while any(alive(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < until, "a grandchild is left"


def test_err6_a_child_that_works_in_silence_is_let_be() -> None:
    with Children(0.6, nothing) as children:
        child = start(children, "end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done")
        children.run()
    assert child.code == 0


def test_err6_someone_who_keeps_stderr_open_is_not_awaited() -> None:
    """An ssh master that stays behind holds the pipe."""
    began = time.monotonic()
    with Children(30, nothing) as children:
        child = start(children, "setsid sleep 5 & exit 0")
        children.run()
    assert child.code == 0
    assert time.monotonic() - began < 4


def test_err6_the_tick_stops_it() -> None:
    def stop() -> None:
        raise EngineError("stopping", code="stopping")

    with pytest.raises(EngineError, match="stopping"), Children(30, stop) as children:
        child = start(children, "sleep 1000")
        children.run()
    assert not alive(child.process.pid)


def test_err6_no_such_program() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TransferError, match=r"x: No such file.*: no-such-program"), Children(1, nothing) as children:
        children.pipe()
        children.text(b"list")
        start(children, "sleep 1000")
        children.start("x", ["no-such-program"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert len(os.listdir("/proc/self/fd")) == before


def test_syn7_the_pump_moves_everything_and_asks_for_each_byte(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "in").write_bytes(data)
    asked: list[int] = []
    with Children(10, nothing) as children:
        a, b = children.pipe()
        c, d = children.pipe()
        with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as sink:
            first = children.start("first", ["cat"], stdin=source.fileno(), stdout=b)
            last = children.start("last", ["cat"], stdin=c, stdout=sink.fileno())
        children.close(b, c)
        children.pump(a, d, asked.append, "pump")
        children.run()
    assert (first.code, last.code) == (0, 0)
    assert (tmp_path / "out").read_bytes() == data
    assert sum(asked) == len(data)


def test_err6_a_reader_that_ends_ends_the_writer() -> None:
    with Children(10, nothing) as children:
        a, b = children.pipe()
        c, d = children.pipe()
        writer = children.start("writer", ["cat", "/dev/zero"], stdin=subprocess.DEVNULL, stdout=b)
        reader = children.start("reader", ["sh", "-c", "exit 9"], stdin=c, stdout=subprocess.DEVNULL)
        children.close(b, c)
        children.pump(a, d, lambda _: None, "pump")
        children.run()
    assert reader.code == 9
    assert writer.code in (-13, 1)


def test_err6_what_the_limit_raises_stops_the_children() -> None:
    def refuse(_: int) -> None:
        raise EngineError("stopping", code="stopping")

    with pytest.raises(EngineError, match="stopping"), Children(30, nothing) as children:
        a, b = children.pipe()
        c, d = children.pipe()
        children.start("writer", ["cat", "/dev/zero"], stdin=subprocess.DEVNULL, stdout=b)
        children.start("reader", ["cat"], stdin=c, stdout=subprocess.DEVNULL)
        children.close(b, c)
        children.pump(a, d, refuse, "pump")
        children.run()


def test_syn7_waiting_for_the_limit_is_not_hanging() -> None:
    pause = iter((True,))

    def slow(_: int) -> None:
        if next(pause, False):
            time.sleep(1.5)  # what is measured: a limit that lets nothing through for this long

    with Children(0.5, nothing) as children:
        a, b = children.pipe()
        c, d = children.pipe()
        writer = children.start("writer", ["head", "-c", "100000", "/dev/zero"], stdin=subprocess.DEVNULL, stdout=b)
        reader = children.start("reader", ["cat"], stdin=c, stdout=subprocess.DEVNULL)
        children.close(b, c)
        children.pump(a, d, slow, "pump")
        children.run()
    assert (writer.code, reader.code) == (0, 0)


def test_syn2_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RSYNC_RSH", "RSYNC_PROTECT_ARGS", "TAR_OPTIONS", "LANGUAGE", "LC_ALL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    found = environment()
    assert found[b"LC_ALL"] == b"C" and found[b"SSH_AUTH_SOCK"] == b"/agent"
    assert not {b"RSYNC_RSH", b"RSYNC_PROTECT_ARGS", b"TAR_OPTIONS", b"LANGUAGE"} & set(found)
