"""What the console knows: the last snapshot, the events kept, the last minutes of rates and lags. All bounded."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

from georep_tui.tui.feed import Frame
from georep_tui.view.events import Event, parse_event
from georep_tui.view.labels import short_labels
from georep_tui.view.sessions import bytes_rate
from georep_tui.view.snapshot import Brick, Session, Snapshot, parse, refreshed
from georep_tui.view.verdict import Thresholds, limits_of

EVENTS = 5000
POINTS = 240
STEP = 2.0
"""Seconds one point of a series stands for."""

class Series:
    """The last POINTS numbers, oldest first; None where one was not known. Takes the same memory from the start."""

    __slots__ = ("_count", "_values")

    def __init__(self) -> None:
        self._values = array("d", bytes(8 * POINTS))
        self._count = 0

    def append(self, value: float | None) -> None:
        """Add a number; the oldest goes where there are enough."""
        self._values[self._count % POINTS] = math.nan if value is None else value
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, POINTS)

    def __iter__(self) -> Iterator[float | None]:
        for place in range(self._count - len(self), self._count):
            value = self._values[place % POINTS]
            yield None if math.isnan(value) else value


@dataclass(slots=True)
class Trace:
    """Rates (bytes per second) and lags (seconds) of a session or brick, oldest first, one point every STEP seconds."""

    rates: Series
    lags: Series


class Picture:
    """Everything screens draw from. Only the console's own thread touches it."""

    def __init__(self, limits: Thresholds, zone: tzinfo | None = None) -> None:
        self.limits = limits
        self.zone = zone
        self.snapshot: Snapshot | None = None
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.event_count = 0
        self.error: str | None = None
        self.error_since: float | None = None
        self.traces: dict[str, Trace] = {}
        self._stepped = 0.0

    def take(self, frame: Frame) -> list[Event]:
        """Take a frame in; returns its events. A snapshot that makes no sense is an error to show, not to die of."""
        if frame.error != self.error:
            self.error_since = frame.time if frame.error else None
        self.error = frame.error
        if frame.error and self.snapshot is not None:
            # Nothing answers: whatever the last picture said of its sources, they are not connected now.
            lost = (replace(source, connected=False, error=frame.error) for source in self.snapshot.sources)
            self.snapshot = replace(self.snapshot, sources=tuple(lost))
        if frame.snapshot is not None:
            try:
                self.snapshot = parse(frame.snapshot, self.snapshot)
            except (ValueError, TypeError, KeyError, AttributeError) as e:
                self.error = f"the snapshot cannot be read: {e}"
        events = [parse_event(doc) for doc in frame.events]
        self.events.extend(events)
        self.event_count += len(events)
        return events

    def touch(self, doc: Mapping[str, Any] | None) -> None:
        """Take over the times of a snapshot in which nothing else is new, so that the data does not seem old."""
        if self.snapshot is None or doc is None or self.error or self.snapshot.time == doc.get("time"):
            return
        try:
            self.snapshot = refreshed(self.snapshot, doc)
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            self.error = f"the snapshot cannot be read: {e}"

    def step(self, now: float) -> bool:
        """Add a point to every series once per STEP seconds; True if one was added."""
        if self.snapshot is None or now - self._stepped < STEP:
            return False
        self._stepped = now
        alive = set()
        for session in self.snapshot.sessions:
            self._point(session.id, bytes_rate(session), session.lag)
            alive.add(session.id)
            for brick in session.bricks:
                self._point(brick.id, brick.bytes_rate, brick.lag)
                alive.add(brick.id)
        for gone in self.traces.keys() - alive:
            del self.traces[gone]
        return True

    def _point(self, key: str, rate: float | None, lag: float | None) -> None:
        trace = self.traces.get(key)
        if trace is None:
            trace = self.traces[key] = Trace(Series(), Series())
        trace.rates.append(rate)
        trace.lags.append(lag)

    def rates(self, key: str) -> list[float | None]:
        """The rates of a session or brick."""
        return list(self.traces[key].rates) if key in self.traces else []

    def lags(self, key: str) -> list[float | None]:
        """The lags of a session or brick."""
        return list(self.traces[key].lags) if key in self.traces else []

    def limits_of(self, session: Session) -> Thresholds:
        """The thresholds that count for a session."""
        return limits_of(session, self.limits)

    def session(self, session_id: str) -> Session | None:
        """The session of that id."""
        return self.snapshot.session(session_id) if self.snapshot else None

    def find(self, name: str) -> Session | None:
        """The session of that id or name, as events call it."""
        if self.snapshot is None:
            return None
        return next((one for one in self.snapshot.sessions if name in (one.id, one.name)), None)

    def brick(self, session_id: str, brick_id: str) -> Brick | None:
        """A brick of a session."""
        session = self.session(session_id)
        return session.brick(brick_id) if session else None

    def label(self, event: Event, *, with_session: bool) -> str:
        """Where an event happened: `web m1:/srv`."""
        session = self.find(event.session) if event.session else None
        where = [session.name if session else event.session] if with_session and event.session else []
        if session is not None and event.brick:
            where += [short_labels(session).get(event.brick, "")]
        return " ".join(part for part in where if part)
