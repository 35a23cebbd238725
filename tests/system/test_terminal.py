"""`run` in a terminal: leaving the console, losing the terminal, SIGTERM, and a stop from elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.runner import Product, wait_until

pytest.importorskip("textual")


class Terminal:
    """A process in a terminal of its own, 120×40; what it writes is kept."""

    def __init__(self, product: Product, words: list[str]) -> None:
        env = product.environment() | {"TERM": "xterm-256color"}
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.execve(words[0], words, env)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.output = b""
        self.code: int | None = None

    def read(self, seconds: float) -> None:
        """Take what it writes, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._master >= 0:
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.output += os.read(self._master, 1 << 16)
                except OSError:
                    return

    def until(self, condition: Any, what: str) -> Any:
        """Read on until it is so."""

        def reached() -> Any:
            self.read(0.2)
            return condition()

        return wait_until(reached, 60, what)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def hang_up(self) -> None:
        os.close(self._master)
        self._master = -1

    def ended(self) -> bool:
        """Has it ended? Its exit code is in `code` then."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def close(self) -> None:
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._master >= 0:
            self.hang_up()


@pytest.fixture
def product(scratch: Path) -> Product:
    for name in ("primary", "secondary"):
        (scratch / name).mkdir()
    (scratch / "primary" / "file").write_text("x")
    return Product(scratch / "product", [str(scratch / "primary")], str(scratch / "secondary"))


@pytest.fixture
def terminal(product: Product) -> Iterator[Terminal]:
    words = [w for w in product.run_words() if w != "--no-ui"]
    opened = Terminal(product, words)
    try:
        opened.until(lambda: product.session().get("state") == "Active", "Active")
        opened.until(lambda: b"\x1b[?1049h" in opened.output, "a console")
        opened.read(1.0)
        yield opened
    finally:
        product.command("stop", product.name)
        opened.close()


def restored(terminal: Terminal) -> bool:
    """Are the alternate screen and the mouse off, the cursor on?"""
    tail = terminal.output[terminal.output.rindex(b"\x1b[?1049l") :]
    return all(code in terminal.output for code in (b"\x1b[?1000l", b"\x1b[?25h")) and b"\x1b[?1049h" not in tail


def test_leaving_lets_the_engine_go_on_and_gives_the_terminal_back(product: Product, terminal: Terminal) -> None:
    """`q`, and the default answer."""
    terminal.type("q")
    terminal.read(1.5)
    terminal.type("\r")
    terminal.until(terminal.ended, "the shell's prompt")
    assert terminal.code == 0
    terminal.read(0.5)
    assert restored(terminal)
    assert b"goes on without a screen" in terminal.output
    (Path(product.primaries[0]) / "after").write_text("still replicated")
    wait_until((Path(product.secondary) / "after").exists, 20, "goes on")
    assert product.command("stop", product.name).returncode == 0


def test_a_lost_terminal_ends_the_screen_alone(product: Product, terminal: Terminal) -> None:
    terminal.hang_up()
    (Path(product.primaries[0]) / "after").write_text("still replicated")
    wait_until((Path(product.secondary) / "after").exists, 20, "goes on")
    assert not terminal.ended()
    assert product.session()["state"] == "Active"
    assert product.command("stop", product.name).returncode == 0
    wait_until(terminal.ended, 20, "the end")
    assert terminal.code == 0


def test_sigterm_stops_cleanly(product: Product, terminal: Terminal) -> None:
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.until(terminal.ended, "the end")
    assert terminal.code == 0
    terminal.read(0.5)
    assert restored(terminal)
    assert product.command("status", product.name).returncode == 2


def test_a_stop_from_elsewhere_ends_the_console(product: Product, terminal: Terminal) -> None:
    assert product.command("pause", product.name).returncode == 0
    assert product.command("stop", product.name).returncode == 0
    terminal.until(terminal.ended, "the end")
    assert terminal.code == 0
    terminal.read(0.5)
    assert restored(terminal)
