"""A recording as a source: play, hold, step, seek, faster and slower, over the same picture as live."""

from __future__ import annotations

import json
import threading
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from engine.protocol import apply, grown
from georep_tui.sources.base import Doc, SourceError
from georep_tui.sources.recording import FORMAT, Recording

__all__ = ["Recording", "ReplaySource"]

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_BLOCK = 1 << 16


class Member(NamedTuple):
    """A part of the file that begins with a whole snapshot: where it begins, and its unix time."""

    offset: int
    time: float


class Moment(NamedTuple):
    """One line of a recording: the picture from `time` on, and what happened since the one before."""

    time: float
    document: Doc
    events: tuple[Doc, ...]


class ReplaySource:
    """Plays the recording at `path`. The console's thread may call the controls, another one the source's methods.

    Raises SourceError if it is no recording. A recording cut off in the middle ends where it was cut.
    """

    def __init__(self, path: str, speed: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._members = _index(path)
        if not self._members:
            raise SourceError(f"{path} is not a recording of georep-tui", code="usage")
        self.begin = self._members[0].time
        self._part = -1
        self._moments: list[Moment] = []
        self._load(len(self._members) - 1)
        self.end = self._moments[-1].time
        self._load(0)
        self._speed, self._playing = max(0.01, speed), True
        self._at, self._since = self.begin, clock()
        self._told = self.begin - 1.0
        self._pending: list[Doc] = []
        self.snapshot()

    # -- as a source --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Doc:
        """The picture at the position; its times are those of then."""
        with self._lock:
            now = self.position
            self._collect(now)
            moment = self._moment(now)
            sources = [{**source, "data_time": now} if source.get("connected") else source
                       for source in moment.document.get("sources") or ()]  # fmt: skip
            return {**moment.document, "time": now, "sources": sources}

    def events(self) -> list[Doc]:
        """What happened between the last look and the position."""
        with self._lock:
            pending, self._pending = self._pending, []
            return pending

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """A recording takes no commands. Always raises SourceError."""
        del params
        raise SourceError(f"this is a recording: {method} is not possible", code="replay")

    def close(self) -> None:
        """Nothing to let go of."""

    # -- controls -----------------------------------------------------------------------------------------------------

    @property
    def position(self) -> float:
        """The unix time that is shown."""
        with self._lock:
            moved = (self._clock() - self._since) * self._speed if self._playing else 0.0
            return min(self.end, self._at + moved)

    def now(self) -> float:
        """The clock of what is shown."""
        return self.position

    @property
    def playing(self) -> bool:
        """Does it go on by itself?"""
        return self._playing and self.position < self.end

    @property
    def speed(self) -> float:
        """How much faster than it was."""
        return self._speed

    def play(self, playing: bool) -> None:
        """Go on, or hold; at the end, begin anew."""
        with self._lock:
            at = self.position
            self._settle(self.begin if playing and at >= self.end else at)
            self._playing = playing

    def faster(self, by: int) -> None:
        """The next speed up (1) or down (-1)."""
        with self._lock:
            self._settle(self.position)
            others = [one for one in SPEEDS if (one > self._speed if by > 0 else one < self._speed)]
            if others:
                self._speed = others[0] if by > 0 else others[-1]

    def seek(self, by: float) -> None:
        """So many seconds on (or back)."""
        with self._lock:
            self._settle(max(self.begin, min(self.end, self.position + by)))

    def step(self, by: int) -> None:
        """Hold, and go to the next (1) or previous (-1) change."""
        with self._lock:
            at = self.position
            self._playing = False
            times = [moment.time for moment in self._part_at(at)]
            if by > 0:
                later = [one for one in times if one > at + 1e-6]
                following = self._members[self._part + 1].time if self._part + 1 < len(self._members) else self.end
                self._settle(later[0] if later else following)
            else:
                earlier = [one for one in times if one < at - 1e-6]
                if not earlier and self._part > 0:
                    self._load(self._part - 1)
                    earlier = [moment.time for moment in self._moments]
                self._settle(earlier[-1] if earlier else self.begin)

    def status_text(self) -> str:
        """`▶ 4× 37%`: for the bar above."""
        whole = self.end - self.begin
        part = (self.position - self.begin) / whole if whole > 0 else 1.0
        return f"{'▶' if self.playing else '❙❙'} {self._speed:g}× {part:.0%}"

    def _settle(self, at: float) -> None:
        if at < self._told:
            self._pending.clear()
            self._told = at if at > self.begin else at - 1.0
        self._at, self._since = at, self._clock()

    # -- the file -----------------------------------------------------------------------------------------------------

    def _part_at(self, at: float) -> list[Moment]:
        place = max(0, bisect_right([member.time for member in self._members], at) - 1)
        if place != self._part:
            self._load(place)
        return self._moments

    def _moment(self, at: float) -> Moment:
        moments = self._part_at(at)
        return moments[max(0, bisect_right([moment.time for moment in moments], at) - 1)]

    def _collect(self, now: float) -> None:
        """Events up to `now`; a jump over more than a member tells only the last one's."""
        if now <= self._told:
            return
        for moment in self._part_at(now):
            self._pending.extend(event for event in moment.events if self._told < float(event.get("time") or 0) <= now)
        self._told = now

    def _load(self, place: int) -> None:
        moments: list[Moment] = []
        document: Doc | None = None
        for line in _lines(self.path, self._members[place].offset):
            at = float(line.get("time") or 0.0)
            events: tuple[Doc, ...] = ()
            if "snapshot" in line:
                document = line["snapshot"]
            elif "changed" in line and document is not None:
                document = apply(grown(document, at), {**line["changed"], "time": at})
            elif "events" in line:
                events = tuple(line["events"])
            if document is not None:
                moments.append(Moment(max(at, moments[-1].time if moments else at), document, events))
        if not moments:
            raise SourceError(f"{self.path}: damaged at byte {self._members[place].offset}", code="damaged")
        self._part, self._moments = place, moments


def _index(path: str) -> list[Member]:
    """Where the members begin. Raises SourceError when the file cannot be read or is something else."""
    members: list[Member] = []
    try:
        with open(path, "rb") as file:
            offset, rest = 0, b""
            while True:
                reader, head, used = zlib.decompressobj(31), b"", 0
                while not reader.eof:
                    block = rest or file.read(_BLOCK)
                    rest = b""
                    if not block:
                        break
                    out = reader.decompress(block)
                    used += len(block) - len(reader.unused_data)
                    rest = reader.unused_data
                    if b"\n" not in head:
                        head += out
                if b"\n" in head:
                    first = json.loads(head.split(b"\n", 1)[0])
                    if first.get("format") != FORMAT:
                        raise SourceError(f"{path} is not a recording of georep-tui", code="usage")
                    members.append(Member(offset, float(first["time"])))
                if not reader.eof:
                    return members
                offset += used
    except OSError as e:
        raise SourceError(f"{path}: {e.strerror or e}", code="usage") from e
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as e:
        if members:
            return members
        raise SourceError(f"{path} is not a recording of georep-tui", code="usage") from e


def _lines(path: str, offset: int) -> Iterator[Doc]:
    """The lines of the member at `offset`, as far as they are whole."""
    with open(path, "rb") as file:
        file.seek(offset)
        reader, rest = zlib.decompressobj(31), b""
        while not reader.eof and (block := file.read(_BLOCK)):
            try:
                *whole, rest = (rest + reader.decompress(block)).split(b"\n")
            except zlib.error:
                return
            for line in whole:
                if line:
                    yield json.loads(line)
