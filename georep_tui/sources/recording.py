"""`run --record FILE`: a timeline of snapshots and events as gzip'd JSON lines, bounded.

A file is a row of gzip members. Each begins with a whole snapshot, then come changes and events, so a reader can jump to
any member, and a file cut off by a crash loses no more than its last seconds.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from engine.model import EngineError
from engine.names import escaped
from engine.protocol import Engine, changes, kept_for

FORMAT = "georep-tui recording"
VERSION = 1
KEYFRAME = 60.0
"""Seconds between two whole snapshots."""

FLUSH = 5.0
"""Seconds a crash can cost."""

PACE = 0.5
"""Seconds between two looks at the engine."""

LIMIT = 64 << 20
"""Bytes of the file; when it is full, its older half goes."""

Doc = Mapping[str, Any]


class Recorder:
    """Writes a recording to a new file, at most about `limit` bytes. Any thread may call it. Raises OSError."""

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._members: list[int] = []
        self._zip: Any = None
        self._base: dict[str, Any] | None = None
        self._key_time = self._flushed = 0.0

    def snapshot(self, doc: Doc) -> None:
        """Keep a snapshot: whole now and then, else what changed."""
        with self._lock:
            if self._file.closed:
                return
            document = dict(doc)
            now = float(document.get("time") or 0.0)
            if self._base is None or now - self._key_time >= KEYFRAME or now < self._key_time:
                self._begin(document, now)
            else:
                changed = changes(self._base, document)
                if changed is not None:
                    self._line({"time": now, "changed": changed})
                    self._base = kept_for(self._base, document, changed)
            if now - self._flushed >= FLUSH:
                self._flush(now)

    def events(self, docs: Sequence[Doc]) -> None:
        """Keep events; those before the first snapshot are kept with it."""
        with self._lock:
            if docs and self._base is not None and not self._file.closed:
                self._line({"time": float(docs[-1].get("time") or self._key_time), "events": [dict(doc) for doc in docs]})

    def close(self) -> None:
        """Finish the file."""
        with self._lock:
            if not self._file.closed:
                self._end()
                self._file.close()

    def give_up(self) -> None:
        """Leave the file as it is: it could not be written to."""
        with self._lock:
            try:
                self._file.close()
            except OSError:
                pass  # what it still held is lost with the disk

    def _begin(self, document: dict[str, Any], now: float) -> None:
        self._end()
        if self._file.tell() > self._limit:
            self._shed()
        self._members.append(self._file.tell())
        self._zip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._base, self._key_time = document, now
        self._line({"format": FORMAT, "version": VERSION, "time": now, "snapshot": document})

    def _line(self, body: Doc) -> None:
        self._file.write(self._zip.compress(json.dumps(escaped(body), separators=(",", ":")).encode() + b"\n"))

    def _flush(self, now: float) -> None:
        self._flushed = now
        self._file.write(self._zip.flush(zlib.Z_SYNC_FLUSH))
        self._file.flush()

    def _end(self) -> None:
        if self._zip is not None:
            self._file.write(self._zip.flush())
            self._file.flush()
            self._zip = None

    def _shed(self) -> None:
        """Keep the newer half, as a new file under the same name."""
        size = self._file.tell()
        keep = next((at for at in self._members if size - at <= self._limit // 2), size)
        temp = self.path + ".new"
        with open(self.path, "rb") as old, open(temp, "wb") as new:
            os.chmod(temp, 0o600)
            old.seek(keep)
            while block := old.read(1 << 20):
                new.write(block)
        self._file.close()
        os.replace(temp, self.path)
        self._file = open(self.path, "ab")  # noqa: SIM115
        self._members = [at - keep for at in self._members if at >= keep]


class Recording:
    """Records what an engine says, from a thread of its own, for as long as it is entered. Raises EngineError."""

    def __init__(self, engine: Engine, path: str, limit: int = LIMIT) -> None:
        self._engine = engine
        try:
            self._recorder = Recorder(path, limit)
        except FileExistsError as e:
            raise EngineError(f"--record {path}: it exists", hint="the file must be new", code="usage") from e
        except OSError as e:
            raise EngineError(f"--record {path}: {e.strerror or e}", code="usage") from e
        self._stop = threading.Event()
        self._seq = 0
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        last = False
        try:
            while not last:
                last = self._stop.wait(PACE)
                self._recorder.snapshot(self._engine.snapshot())
                found = self._engine.events.since(self._seq)
                events: list[dict[str, Any]] = [{"event": "gap", "seq": self._engine.events.seq}] if found is None else found
                if events:
                    self._seq = events[-1]["seq"]
                    self._recorder.events(events)
            self._recorder.close()
        except OSError:
            # A full disk ends the recording, not the replication; what is written stays readable.
            self._recorder.give_up()
