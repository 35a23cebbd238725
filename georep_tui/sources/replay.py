"""What a session said, kept in a file and shown again: `run --record FILE` and `replay FILE`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from engine.model import EngineError
from engine.names import escaped
from engine.protocol import Engine, apply, changes, grown, kept_for
from georep_tui.sources.base import Doc, SourceError

PACE = 0.5
"""Seconds between two looks at the session."""


class Recording:
    """Writes what a session says to a file, line by line, from a thread of its own. Raises EngineError."""

    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        try:
            self._file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        except OSError as e:
            raise EngineError(f"--record {path}: {e.strerror}", hint="the file must be new", code="usage") from e
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        self._file.close()

    def _run(self) -> None:
        shown: Doc | None = None
        seq = 0
        last = False
        while not last:
            last = self._stop.wait(PACE)
            now = time.time()
            for event in self._engine.events.since(seq) or ():
                seq = event["seq"]
                self._write({"event": event, "time": now})
            picture = self._engine.snapshot()
            if shown is None:
                shown = picture
                self._write({"snapshot": picture, "time": picture["time"]})
            elif (found := changes(shown, picture)) is not None:
                shown = kept_for(shown, picture, found)
                self._write({"changed": found, "time": picture["time"]})

    def _write(self, line: Doc) -> None:
        self._file.write(json.dumps(escaped(line), separators=(",", ":")) + "\n")
        self._file.flush()


class ReplaySource:
    """A recording as a source, `speed` times as fast as it was; at its end it stands still."""

    def __init__(self, path: str, speed: float = 1.0) -> None:
        self._path = path
        try:
            self._file = open(path, encoding="utf-8")  # noqa: SIM115 - closed by close
        except OSError as e:
            raise SourceError(f"{path}: {e.strerror}", code="usage") from e
        self._speed = speed
        self._document: Doc | None = None
        self._events: list[Doc] = []
        self._next = self._read()
        if self._next is None:
            raise SourceError(f"{path}: not a recording, or empty", code="usage")
        self._first = float(self._next["time"])
        self._began = time.monotonic()

    def _read(self) -> Doc | None:
        line = self._file.readline()
        if not line.endswith("\n"):
            return None  # the end; or a line that was cut when the engine ended
        try:
            found: Doc = json.loads(line)
            float(found["time"])
            return found
        except (ValueError, KeyError, TypeError) as e:
            raise SourceError(f"{self._path}: not a recording ({e})", code="usage") from e

    def _catch_up(self) -> float:
        now = self._first + (time.monotonic() - self._began) * self._speed
        while self._next is not None and (float(self._next["time"]) <= now or self._document is None):
            line = self._next
            if "snapshot" in line:
                self._document = line["snapshot"]
            elif "changed" in line and self._document is not None:
                shown = grown(self._document, float(line["time"]))
                self._document = apply(shown, {**line["changed"], "time": line["time"]})
            elif "event" in line:
                self._events.append(line["event"])
            self._next = self._read()
        return now

    def snapshot(self) -> Doc:
        """The picture of then; times are moved to now, so that ages are those of then."""
        then = self._catch_up()
        if self._document is None:
            raise SourceError(f"{self._path}: holds no picture", code="usage")
        shown = self._document if self._next is None else grown(self._document, then)
        sources = [{**s, "data_time": time.time()} for s in shown["sources"]]
        return {**shown, "sources": sources}

    def events(self) -> list[Doc]:
        """The events since the last call."""
        found, self._events = self._events, []
        return found

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """What is past cannot be changed."""
        del params
        raise SourceError(f"{method}: this is a recording", code="denied")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
