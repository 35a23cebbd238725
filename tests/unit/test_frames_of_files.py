"""Frames whose payload the kernel takes from a file: what the file had, and a line that stays in step whatever happens."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.agent.frames import FrameReader, SourceError, write_frame, write_frame_of

MIB = 1 << 20


def sent(way: Callable[[], tuple[int, int]], source: int, offset: int, length: int) -> tuple[bytes, int | OSError]:
    """The payload that arrived, and how much of it was the file's (or the error); another frame came well behind it."""
    r, w = way()
    said: list[int | OSError] = []

    def write() -> None:
        try:
            said.append(write_frame_of(w, 5, 7, b"head", source, offset, length))
        except SourceError as e:
            said.append(e)
        write_frame(w, 6, 8, b"behind")
        os.close(w)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reader = FrameReader(r)
        frame, behind = reader.read(20), reader.read(20)
        assert frame is not None and (frame.kind, frame.id) == (5, 7) and frame.payload[:4] == b"head"
        assert behind is not None and bytes(behind.payload) == b"behind"
        assert reader.read(20) is None
        return bytes(frame.payload[4:]), said[0]
    finally:
        writer.join()
        os.close(r)


def sockets() -> tuple[int, int]:
    a, b = socket.socketpair()
    return a.detach(), b.detach()


@pytest.fixture
def content(tmp_path: Path) -> tuple[bytes, int]:
    data = os.urandom(MIB + 12345)
    (tmp_path / "f").write_bytes(data)
    return data, os.open(tmp_path / "f", os.O_RDONLY)


@pytest.mark.parametrize("way", [os.pipe, sockets], ids=["pipe", "socket"])
def test_a_part_of_a_file(way: Callable[[], tuple[int, int]], content: tuple[bytes, int]) -> None:
    data, fd = content
    assert sent(way, fd, 4000, MIB) == (data[4000 : 4000 + MIB], MIB)


def test_zeros_stand_where_the_file_ends(content: tuple[bytes, int]) -> None:
    data, fd = content
    got, said = sent(os.pipe, fd, MIB, 20_000)
    assert got == data[MIB:] + bytes(20_000 - 12345) and said == 12345


def test_a_file_that_cannot_be_read_does_not_end_the_line(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    got, said = sent(os.pipe, directory, 0, 100)
    assert got == bytes(100) and isinstance(said, SourceError)
    os.close(directory)


def test_what_the_kernel_cannot_send_is_copied() -> None:
    # /proc makes its files as they are read
    fd = os.open("/proc/self/status", os.O_RDONLY)
    got, said = sent(os.pipe, fd, 0, 20)
    assert got == os.pread(fd, 20, 0) and said == 20
    os.close(fd)
