"""Events with sequence numbers, kept for a while, and the engine's own log: a file, and lines for consoles."""

from __future__ import annotations

import json
import logging
import logging.handlers
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from engine.names import escaped

KEPT_EVENTS = 5000
KEPT_LINES = 5000
LOG_BYTES, LOG_FILES = 8 << 20, 4
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class EventLog:
    """What happened, numbered from 1 within one life of the engine (`boot_id`); the last ones are kept (STA-4)."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self.boot_id = uuid.uuid4().hex
        self._events: deque[dict[str, Any]] = deque(maxlen=kept)
        self._more = threading.Condition()
        self._seq = 0

    @property
    def seq(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._seq

    @property
    def oldest(self) -> int:
        """The number of the oldest event kept; one more than `seq` where none is."""
        with self._more:
            return int(self._events[0]["seq"]) if self._events else self._seq + 1

    def publish(self, event: str, **fields: Any) -> None:
        """Add an event, its words with `_` between; fields must be fit for JSON."""
        with self._more:
            self._seq += 1
            name = event.replace(" ", "_")
            self._events.append({"event": name, "seq": self._seq, "time": time.time(), **fields})
            self._more.notify_all()

    def since(self, seq: int) -> list[dict[str, Any]] | None:
        """The events after `seq`; None when some of them are no longer kept."""
        with self._more:
            if seq > self._seq or (self._events and seq < self._events[0]["seq"] - 1):
                return None
            return [e for e in self._events if e["seq"] > seq]

    def wait(self, seq: int, timeout: float) -> bool:
        """Wait until there is an event after `seq`; False after `timeout` seconds."""
        with self._more:
            return self._more.wait_for(lambda: self._seq > seq, timeout)


class _File(logging.handlers.RotatingFileHandler):
    """A rotating file that counts what it could not write, and prints nothing."""

    lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's own interface
        """The disk is full, or the file is gone: the next line tries a fresh one."""
        self.lost += 1
        stream, self.stream = self.stream, None
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass  # counted above: it is the same bytes that could not be written


class Log:
    """The engine's log of one session: a rotating file, one line of text or JSON each, and the last lines in memory.

    Times are unix seconds in JSON, UTC in text. `listeners` are called with each line, in the thread that wrote it.
    """

    def __init__(self, path: str, level: str = "INFO", as_json: bool = False) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=KEPT_LINES)
        self._lock = threading.Lock()
        self._number = 0
        self._json = as_json
        self._file = _File(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace")
        self.level = LEVELS.get(level.lower(), 20)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    @property
    def lost(self) -> int:
        """Lines that could not be written to the file (they are kept in memory for a while)."""
        return self._file.lost

    def set_level(self, level: str) -> None:
        """Change what is written, live."""
        self.level = LEVELS.get(level.lower(), 20)

    def write(self, level: str, text: str, brick: str = "") -> None:
        """One line, of a brick where it is about one; control characters are escaped."""
        if LEVELS.get(level, 20) < self.level:
            return
        now = time.time()
        with self._lock:
            self._number += 1
            line: dict[str, Any] = escaped(
                {"n": self._number, "time": now, "level": level, "brick": brick, "text": text}
            )
            self._lines.append(line)
            out = json.dumps(line, ensure_ascii=False) if self._json else line_text(line)
            self._file.emit(logging.makeLogRecord({"msg": out, "levelno": 20}))
        for listener in list(self.listeners):
            listener(line)

    def lines(self, since: int = 0, limit: int = 1000, level: str = "debug", brick: str = "") -> list[dict[str, Any]]:
        """The kept lines with a number above `since`, the newest `limit` of them."""
        lowest = LEVELS.get(level.lower(), 0)
        with self._lock:
            found = [
                line for line in self._lines
                if line["n"] > since and LEVELS.get(line["level"], 20) >= lowest
                and (not brick or line["brick"] == brick)
            ]  # fmt: skip
        return found[-limit:] if limit > 0 else []

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def line_text(line: dict[str, Any]) -> str:
    """A line of the log as text: time (UTC), level, brick, words. Only line ends of its own can break it."""
    now = line["time"]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    brick = f"{line['brick']}: " if line["brick"] else ""
    words = "".join(_shown(c) for c in f"{brick}{line['text']}")
    return f"{stamp} {line['level'].upper():7} {words}"


def _shown(char: str) -> str:
    if char == "\n":
        return "\n    "
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
