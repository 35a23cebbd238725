"""The thread that looks at the source of sessions, so that the console never waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

KEPT = 20_000
"""Events that wait for a console that does not look; older ones are dropped with a gap said."""


class Feedable(Protocol):
    """What the console needs of a source. Called from threads only; may wait, may raise an Exception with a text."""

    def snapshot(self) -> Mapping[str, Any]:
        """The whole picture."""

    def events(self) -> Sequence[Mapping[str, Any]]:
        """What happened since the last call."""

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """Do something; raises with what is wrong and, as `hint`, what to do."""

    def close(self) -> None:
        """Let go of the engine; it goes on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One look at the source: the snapshot if it changed, the events since the last look, or why there is none."""

    time: float
    snapshot: Mapping[str, Any] | None
    events: Sequence[Mapping[str, Any]] = ()
    error: str | None = None


class Feed:
    """Looks at `source` every `interval` seconds and says `ready()` when something changed.

    `ready` is called from the feed's thread; `take` from the console's. A frame not taken is merged with the next one.
    `latest` is the last snapshot seen, changed or not: its times are the newest. `looks` counts.
    """

    def __init__(
        self, source: Feedable, interval: float, ready: Callable[[], object], clock: Callable[[], float] = time.time
    ) -> None:
        self.interval = interval
        self._source = source
        self._ready = ready
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshot: Mapping[str, Any] | None = None
        self._events: deque[Mapping[str, Any]] = deque(maxlen=KEPT)
        self._error: str | None = None
        self._news = False
        self._last: Mapping[str, Any] | None = None
        self.latest: Mapping[str, Any] | None = None
        self.looks = 0
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-feed", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; a source that hangs is left behind."""
        self._stop.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def hurry(self) -> None:
        """Look now: something was just done."""
        self._now.set()

    @property
    def news(self) -> bool:
        """Is there something to take?"""
        return self._news

    def take(self) -> Frame | None:
        """What is new since the last take; None if nothing."""
        with self._lock:
            if not self._news:
                return None
            frame = Frame(self._clock(), self._snapshot, tuple(self._events), self._error)
            self._snapshot, self._news = None, False
            self._events.clear()
            return frame

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._look()
            spent = time.monotonic() - began
            # A source that is slow is asked less often, so that looking never takes more than a third of the time.
            self._now.wait(max(self.interval - spent, 2 * spent, 0.02))
            self._now.clear()

    def _look(self) -> None:
        snapshot: Mapping[str, Any] | None = None
        events: Sequence[Mapping[str, Any]] = ()
        error, same = None, True
        try:
            snapshot = self._source.snapshot()
            events = self._source.events()
            # After an error the picture is taken anew, whatever it says: the old one is marked as lost.
            same = self._error is None and _same(snapshot, self._last)
        except Exception as e:  # noqa: BLE001 - whatever a source raises is shown, and looked at again
            error = str(e) or type(e).__name__
        with self._lock:
            self.latest = snapshot if snapshot is not None else self.latest
            changed = snapshot is not None and not same
            if changed:
                self._snapshot = self._last = snapshot
            self._events.extend(events)
            news = changed or bool(events) or error != self._error
            self._error = error
            self._news = self._news or news
        if news:
            self._ready()
        self.looks += 1


def _same(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> bool:
    """Is nothing different but the time it is of?"""
    if old is None or new is old:
        return old is new
    if new.get("sessions") != old.get("sessions"):
        return False
    return [_timeless(source) for source in new.get("sources") or ()] == [
        _timeless(source) for source in old.get("sources") or ()
    ]


def _timeless(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key not in ("data_time", "clock_offset_seconds")}
