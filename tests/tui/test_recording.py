"""Recordings: what was seen is seen again; bounded; readable after a crash; played, held, stepped and sought."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from engine.events import EventLog
from engine.model import EngineError
from georep_tui.sources.base import SourceError
from georep_tui.sources.recording import Recorder, Recording
from georep_tui.sources.replay import ReplaySource
from tests.tui import scenes
from tests.tui.scenes import NOW, Doc, session, snapshot
from tests.tui.stand import console, press, run, settled, text_of, until


def picture(step: int) -> Doc:
    """The picture at second `step`."""
    docs = [scenes.brick(1, data=step, lag_seconds=None), scenes.quiet(2)]
    return snapshot(session("web", docs), now=NOW + step)


def recorded(path: Path, steps: int = 200, limit: int = 1 << 20) -> None:
    """A recording of so many seconds, with an event each ten."""
    recorder = Recorder(str(path), limit)
    for step in range(steps):
        recorder.snapshot(picture(step))
        if step % 10 == 0:
            recorder.events([{"event": "batch done", "seq": step, "time": NOW + step, "session": "web", "id": step}])
    recorder.close()


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_what_was_seen_is_seen_again(tmp_path: Path) -> None:
    """At each second the same document but for its times, and each event once."""
    recorded(tmp_path / "r")
    hand = Hand()
    source = ReplaySource(str(tmp_path / "r"), clock=hand)
    events: list[Any] = []
    for step in range(200):
        hand.time = step + 0.01
        shown = source.snapshot()
        assert shown["sessions"] == picture(step)["sessions"]
        assert shown["time"] == pytest.approx(min(NOW + step + 0.01, NOW + 199))
        events += source.events()
    assert [event["id"] for event in events] == list(range(0, 200, 10))


def test_seeking_stepping_and_speed(tmp_path: Path) -> None:
    """Back and forth over the members of the file; a step goes to the next change."""
    recorded(tmp_path / "r")
    hand = Hand()
    source = ReplaySource(str(tmp_path / "r"), clock=hand)
    data = lambda: source.snapshot()["sessions"][0]["bricks"][0]["data"]  # noqa: E731
    source.seek(150)
    assert data() == 150
    source.seek(-100)
    assert data() == 50
    source.seek(-1000)
    assert data() == 0
    source.step(1)
    assert data() == 1 and not source.playing
    source.seek(62)
    source.step(-1)
    assert data() == 62
    source.step(1)
    assert data() == 63
    source.play(True)
    source.faster(1)
    source.faster(1)
    assert source.speed == 4.0
    hand.time += 10
    assert data() == 103
    source.faster(-1)
    assert source.speed == 2.0
    source.seek(1000)
    assert data() == 199 and not source.playing and "100%" in source.status_text()
    source.play(True)
    assert data() == 0, "from the end it begins anew"
    with pytest.raises(SourceError, match="recording"):
        source.command("pause", {})


def test_it_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    """Full, its older half goes; what is left is a recording."""
    path = tmp_path / "r"
    recorder = Recorder(str(path), 60_000)
    for step in range(0, 60_000, 20):
        doc = picture(step)
        doc["sessions"][0]["bricks"][0]["last_error"] = {"text": os.urandom(600).hex()}
        recorder.snapshot(doc)
    recorder.close()
    assert path.stat().st_size < 3 * 60_000
    source = ReplaySource(str(path))
    assert source.begin > NOW and source.end == NOW + 59_980


def test_a_recording_cut_off_anywhere_is_readable_or_refused_in_words(tmp_path: Path) -> None:
    """A crash loses the last seconds, never the whole."""
    recorded(tmp_path / "r")
    whole = (tmp_path / "r").read_bytes()
    ends = []
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "cut").write_bytes(whole[:size])
        try:
            source = ReplaySource(str(tmp_path / "cut"))
        except SourceError as e:
            assert "recording" in str(e) or "damaged" in str(e)
            continue
        source.seek(1e6)
        source.snapshot()
        ends.append(source.end)
    assert ends == sorted(ends) and len(ends) > 20


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b" + b"x" * 50, b"{}"])
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    """In words, not with a traceback."""
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(SourceError, match="recording"):
        ReplaySource(str(tmp_path / "r"))
    with pytest.raises(SourceError, match="No such file"):
        ReplaySource(str(tmp_path / "none"))


class Engine:
    """As much of an engine as a recording looks at."""

    name, id = "web", "s-web"

    def __init__(self) -> None:
        self.events = EventLog()

    def snapshot(self) -> Doc:
        """A picture that changes."""
        return snapshot(session("web", [scenes.brick(1, data=self.events.seq)]), now=time.time())

    def command(self, method: str, params: Doc, who: str) -> Doc:
        """Nothing."""
        del method, params, who
        return {}


def test_an_engine_is_recorded_in_a_thread(tmp_path: Path) -> None:
    """`run --record FILE`: the file must be new, nobody else may read it, the last moment is in it."""
    path = tmp_path / "r"
    engine = Engine()
    with Recording(engine, str(path)):
        end = time.monotonic() + 10
        while path.stat().st_size < 100 and time.monotonic() < end:
            engine.events.publish("batch done", session="web", id=1)
            time.sleep(0.05)
        engine.events.publish("stop", session="web")
    assert path.stat().st_mode & 0o777 == 0o600
    source = ReplaySource(str(path))
    source.seek(1e9)
    assert source.snapshot()["sessions"][0]["bricks"][0]["data"] == engine.events.seq
    assert source.events()[-1]["event"] == "stop"
    with pytest.raises(EngineError, match="exists"):
        Recording(engine, str(path))


def test_the_console_plays_a_recording(tmp_path: Path) -> None:
    """Held, stepped, sought with keys; what would change something says that it is a recording."""
    recorded(tmp_path / "r")

    async def play() -> None:
        source = ReplaySource(str(tmp_path / "r"))
        async with console(source, (120, 40), read_only=False, toasts=True) as (app, pilot):  # type: ignore[arg-type]
            await press(app, pilot, "space")
            assert not source.playing and "❙❙" in text_of(app)
            source.seek(-1e6)
            await press(app, pilot, "full_stop", "full_stop", "full_stop")
            await until(lambda: app.picture.snapshot is not None and app.picture.snapshot.sessions[0].bricks[0].data == 3)
            await settled(app, pilot)
            await press(app, pilot, "shift+right")
            await until(lambda: app.picture.snapshot is not None and app.picture.snapshot.sessions[0].bricks[0].data == 63)
            await press(app, pilot, "comma")
            await until(lambda: app.picture.snapshot is not None and app.picture.snapshot.sessions[0].bricks[0].data == 62)
            await press(app, pilot, "plus", "p")
            assert "this is a recording" in text_of(app) and "2×" in text_of(app)

    run(play)
