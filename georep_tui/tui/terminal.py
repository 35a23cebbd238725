"""The terminal as a driver: a lost one ends the screen at once, a stuck one never blocks the process."""

from __future__ import annotations

import codecs
import os
import select
import signal
import threading
from collections import deque
from typing import IO, Any

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

AFTER_KEY, QUIET = 60, 300
"""Milliseconds between two looks at the keys: just after one, and when nobody types."""


class TerminalLost(Message):
    """End of input, or output failed: nobody is there any more."""


class Pen(threading.Thread):
    """Writes to the terminal in a thread of its own. `write` never waits; a terminal that fails is told once."""

    def __init__(self, file: IO[str], lost: threading.Event) -> None:
        super().__init__(daemon=True, name="console-output")
        self._file = file
        self._queue: deque[str | None] = deque()
        self._more = threading.Condition()
        self._lost = lost

    @property
    def behind(self) -> int:
        """Pieces not written yet: more than a few, and the terminal does not keep up."""
        return len(self._queue)

    def write(self, text: str) -> None:
        """Hand over a text."""
        with self._more:
            if not self._lost.is_set():
                self._queue.append(text)
            self._more.notify()

    def isatty(self) -> bool:
        """As the driver expects."""
        return True

    def fileno(self) -> int:
        """The terminal's file descriptor."""
        return self._file.fileno()

    def flush(self) -> None:
        """The thread flushes by itself."""

    def run(self) -> None:
        """Write until stopped."""
        while True:
            with self._more:
                self._more.wait_for(lambda: self._queue)
                pieces = list(self._queue)
                self._queue.clear()
            text = "".join(piece for piece in pieces if piece is not None)
            try:
                self._file.write(text)
                self._file.flush()
            except (OSError, ValueError):
                self._lost.set()
                return
            if None in pieces:
                return

    def stop(self) -> None:
        """Write what is left and end; a terminal that takes nothing for a second gets no more."""
        with self._more:
            self._queue.append(None)
            self._more.notify()
        self.join(1.0)


class TerminalDriver(LinuxDriver):
    """Textual's driver, with our pen, and with an end of input that is one."""

    def start_application_mode(self) -> None:
        """Enter application mode."""
        self._gone = threading.Event()
        super().start_application_mode()  # type: ignore[no-untyped-call]
        # Signals are the application's affair; job control with ctrl+z stays Textual's.
        signal.siginterrupt(signal.SIGWINCH, False)

    @property
    def behind(self) -> int:
        """Pieces of output the terminal has not taken yet."""
        pen: Any = self._writer_thread
        return pen.behind if isinstance(pen, Pen) else 0

    def write(self, data: str) -> None:
        """Write without ever waiting for the terminal."""
        pen: Any = self._writer_thread
        if pen is not None and not isinstance(pen, Pen):
            # The first write after the base class made its own thread: ours takes its place.
            pen.stop()
            assert self._file is not None
            self._writer_thread = pen = Pen(self._file, self._gone)  # type: ignore[assignment]
            pen.start()
        if pen is not None:
            pen.write(data)

    def run_input_thread(self) -> None:
        """Read keys until the end of input, which is reported."""
        parser = XTermParser(self._debug)
        poll = select.poll()
        poll.register(self.fileno, select.POLLIN)
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        lost, wait = False, QUIET
        while not self.exit_event.is_set():
            ready = poll.poll(wait)
            # After a key an escape sequence may wait for its end; else there is nothing to look after.
            wait = AFTER_KEY if ready else QUIET
            if self._gone.is_set():
                lost = True
                break
            if ready:
                try:
                    data = os.read(self.fileno, 4096)
                except BlockingIOError:
                    data = None
                except OSError:
                    data = b""
                if data == b"":
                    lost = True
                    break
                if data:
                    for event in parser.feed(decode(data)):
                        self.process_message(event)
            for event in parser.tick():
                self.process_message(event)
        if lost:
            self._gone.set()
            self.send_message(TerminalLost())
