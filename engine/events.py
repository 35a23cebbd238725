"""Events with sequence numbers, kept for a while, and the engine's own log: a file, and lines for consoles."""

from __future__ import annotations

import json
import logging
import logging.handlers
import threading
import time
import uuid
from collections import deque
from typing import Any

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

    def publish(self, event: str, **fields: Any) -> None:
        """Add an event; fields must be fit for JSON."""
        with self._more:
            self._seq += 1
            self._events.append({"event": event, "seq": self._seq, "time": time.time(), **fields})
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


class Log:
    """The engine's log of one session: a rotating file, one line of text or JSON each, and the last lines in memory."""

    def __init__(self, path: str, level: str = "INFO", as_json: bool = False) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=KEPT_LINES)
        self._lock = threading.Lock()
        self._number = 0
        self._json = as_json
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace"
        )
        self.level = LEVELS.get(level.lower(), 20)
        self.listeners: list[Any] = []

    def set_level(self, level: str) -> None:
        """Change what is written, live."""
        self.level = LEVELS.get(level.lower(), 20)

    def write(self, level: str, text: str, brick: str = "") -> None:
        """One line; control characters are escaped."""
        if LEVELS.get(level, 20) < self.level:
            return
        now = time.time()
        with self._lock:
            self._number += 1
            line = {"n": self._number, "time": now, "level": level, "brick": brick, "text": text}
            self._lines.append(line)
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}"
            shown = text.encode("utf-8", "backslashreplace").decode()
            shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if c != "\n" else "\n    " for c in shown)
            if self._json:
                out = json.dumps({**line, "text": shown})
            else:
                out = f"{stamp} {level.upper():7} {brick + ': ' if brick else ''}{shown}"
            self._handler.emit(logging.makeLogRecord({"msg": out, "levelno": 20}))
        for listener in list(self.listeners):
            listener(line)

    def lines(self, since: int = 0, limit: int = 1000, level: str = "debug", brick: str = "") -> list[dict[str, Any]]:
        """The kept lines with a number above `since`, the newest `limit` of them."""
        lowest = LEVELS.get(level.lower(), 0)
        with self._lock:
            found = [
                line for line in self._lines
                if line["n"] > since and LEVELS[line["level"]] >= lowest and (not brick or line["brick"] == brick)
            ]  # fmt: skip
        return found[-limit:]

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
