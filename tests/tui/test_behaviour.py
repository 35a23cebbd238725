"""How the console behaves while things change: rows hold still, numbers are the snapshot's, nothing lies, nothing breaks."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from georep_tui.tui.actions import ACTIONS
from georep_tui.tui.screens.dialogs import Choose, Typed
from georep_tui.tui.widgets.grid import Grid
from georep_tui.view.units import count, duration, rate
from tests.tui import scenes
from tests.tui.scenes import NOW, Stage, session, snapshot
from tests.tui.stand import console, fed, image_of, press, run, settled, text_of, until
from tests.tui.test_images import mixed


def test_read_only_offers_nothing_that_changes_and_refuses_it_by_any_way() -> None:
    """No key, no footer, no help, no palette; and an order given all the same goes nowhere."""

    async def play() -> None:
        stage = mixed()
        async with console(stage, (160, 100), read_only=True, toasts=True) as (app, pilot):
            await press(app, pilot, "enter")
            changing = [one for one in ACTIONS if one.changes]
            for action in changing:
                for key in action.keys.split(","):
                    if key != "enter":
                        await press(app, pilot, key)
                        assert not isinstance(app.screen, Choose | Typed), key
            asked = {method for method, _ in stage.told} - {"failures", "logs", "operations", "config_get", "checkpoints"}
            assert not asked
        async with console(stage, (160, 100), read_only=True, toasts=True) as (app, pilot):
            await press(app, pilot, "enter", "question_mark")
            shown = text_of(app)
            assert "read-only" in shown
            assert not any(action.help in shown for action in changing)
            await press(app, pilot, "escape", "colon")
            await pilot.press(*"hybrid")
            await settled(app, pilot)
            assert "xsync" not in text_of(app)
            await press(app, pilot, "escape")
            for action in changing:
                app.action_do(action.id)
            target = app.picture.find("web")
            assert target is not None
            app.order(target, "pause", "pause web")
            await settled(app, pilot)
            assert "pause" not in {method for method, _ in stage.told}
            assert not isinstance(app.screen, Choose)

    run(play)


def test_no_row_moves_within_three_seconds_of_a_key_or_under_a_dialog() -> None:
    """A brick that turns Faulty stays where it is while a person acts, and rises after."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(1), scenes.brick(2), scenes.brick(3)])))
        async with console(stage) as (app, pilot):
            grid = app.screen.query_one("#table", Grid)
            await press(app, pilot, "down")
            assert app.holding
            stage.show(session("web", [scenes.brick(1), scenes.brick(2), scenes.faulty(3)]))
            await fed(app, pilot)
            assert grid.keys == ["b1", "b2", "b3"] and grid.cursor == "b2"
            assert "Faulty" in text_of(app), "its cells are of now all the same"
            await press(app, pilot, "x")
            app.let_go()
            assert app.holding, "a dialog is open"
            await fed(app, pilot)
            assert grid.keys == ["b1", "b2", "b3"]
            await press(app, pilot, "escape")
            app.let_go()
            app.tick()
            assert grid.keys == ["b3", "b1", "b2"] and grid.cursor == "b2", "the cursor is on its row"

    run(play)


def test_the_hold_ends_by_itself() -> None:
    """Three seconds after the last key, or what `hold` says."""

    async def play() -> None:
        async with console(Stage()) as (app, pilot):
            assert app.hold == 3.0
            app.hold = 0.2
            await press(app, pilot, "down")
            await until(lambda: not app.holding)

    run(play)


def test_the_cursor_stays_at_its_place_when_its_row_goes() -> None:
    """And the rows above and below it keep their keys."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(n) for n in range(1, 6)])))
        async with console(stage) as (app, pilot):
            grid = app.screen.query_one("#table", Grid)
            await press(app, pilot, "down", "down")
            assert grid.cursor == "b3"
            stage.show(session("web", [scenes.brick(n) for n in (1, 2, 4, 5)]))
            await fed(app, pilot)
            assert grid.cursor == "b4"
            stage.show(session("web", []))
            stage.shown["sessions"][0]["bricks"] = []
            await fed(app, pilot)
            assert grid.cursor is None
            await press(app, pilot, "up", "enter", "p", "x", "n")

    run(play)


def test_each_number_is_the_snapshots() -> None:
    """STA-3: what stands on the screen is what `status --json` says at that instant, in the units of the view."""

    async def play() -> None:
        doc = scenes.brick(1, entry=1234, data=567, meta=89, failures=0, lag_seconds=42.0)
        stage = Stage(snapshot(session("web", [doc])))
        async with console(stage, (200, 60)) as (app, _pilot):
            grid = app.screen.query_one("#table", Grid)
            (row,) = grid.rows
            shown = {key: "".join(cell.text for cell in cells).strip() for key, cells in row.cells.items()}
            assert shown["entry"] == count(doc["entry"]) == "1,234"
            assert shown["data"] == "567" and shown["meta"] == "89" and shown["pending"] == count(1890)
            assert shown["lag"] == duration(doc["lag_seconds"]) == "42 s"
            assert shown["rate"] == rate(doc["rate"]["bytes_per_s"])
            assert shown["backlog"] == "1" and shown["failures"] == "0"
            assert shown["eta"] == duration(doc["batch"]["eta_seconds"])
            for text in ("1,234", "567", "89", "42 s", "5.0 MiB/s"):
                assert text in text_of(app)

    run(play)


@pytest.mark.parametrize("doc", [scenes.faulty(1), scenes.initializing(1), scenes.stopped(1)])
def test_unknown_is_never_a_number(doc: scenes.Doc) -> None:
    """A lag that cannot be known is shown as –."""

    async def play() -> None:
        async with console(Stage(snapshot(session("web", [doc])))) as (app, _pilot):
            (row,) = app.screen.query_one("#table", Grid).rows
            assert row.cells["lag"][0].text == "–"

    run(play)


@pytest.mark.parametrize("what", ["failures", "checkpoint", "stale", "silent"])
def test_what_is_not_good_never_looks_good(what: str) -> None:
    """ERR-3, STA-2: though the engine's verdict said ok, failures, a checkpoint with failures before it, and old data
    are not green."""

    async def play() -> None:
        doc, how = scenes.quiet(1), {}
        point: dict[str, Any] = {}
        if what == "failures":
            doc["failures"] = 1
        elif what == "checkpoint":
            point = {"time": NOW - 9, "completed": True, "completion_time": NOW - 5, "failures_before": 1}
        elif what == "stale":
            how = {"connected": False, "data_time": NOW - 20}
        else:
            how = {"data_time": NOW - 20}
        changes = {"checkpoint": {**session()["checkpoint"], **point}} if point else {}
        stage = Stage(snapshot(session("web", [doc], **changes), **how))
        async with console(stage) as (app, pilot):
            shown = text_of(app)
            assert "● OK" not in shown
            assert "WARNING" in shown or "UNKNOWN" in shown
            if what in ("stale", "silent"):
                assert "20 s old" in shown and "● 1 Active" not in shown
            if what == "checkpoint":
                line = next(line for line in image_of(app).split("\n") if line.startswith(" checkpoint"))
                assert "1 failure before it" in line
            await press(app, pilot, "escape")
            assert "● 1 OK" not in text_of(app)

    run(play)


def test_names_cannot_reach_the_terminal() -> None:
    """Escape sequences, control characters, marks of direction: shown as what they are."""

    async def play() -> None:
        evil = "a\x1b]0;own\x07\x9b31m\u202egnp.exe\r\n\x00[bold]red[/]"
        doc = scenes.brick(1, brick=f"/b/{evil}", node=evil, secondary=evil)
        web = session(evil, [doc, scenes.faulty(2)], primary=evil, secondary=evil)
        web["bricks"][1]["reasons"] = [{"code": "x", "text": evil, "hint": evil}]
        stage = Stage(snapshot(web))
        stage.answers["failures"] = {"failures": [{**scenes.FAILURES["failures"][0], "path": evil, "message": evil}], "total": 1}
        stage.answers["logs"] = {"lines": [{"n": 1, "time": NOW, "level": "info", "brick": evil, "text": evil}]}
        stage.answers["operations"] = {"operations": [{"time": NOW, "who": evil, "what": evil, "params": {}, "result": evil}]}
        stage.happen("faulty", session=evil, brick="b1", text=evil, hint=evil)
        async with console(stage, (120, 40), toasts=True) as (app, pilot):
            for keys in ((), ("enter",), ("escape",), ("f",), ("escape", "l"), ("escape", "o"), ("escape", "x"), ("escape", "S"),
                         ("escape", "question_mark"), ("escape", "p"), ("escape",), ("question_mark",)):  # fmt: skip
                await press(app, pilot, *keys)
                shown = text_of(app)
                assert not any((ord(char) < 32 and char != "\n") or 0x7F <= ord(char) < 0xA0 or char == "\u202e" for char in shown)

    run(play)


@pytest.mark.parametrize("size", [(20, 5), (1, 1), (40, 10), (300, 100)])
def test_any_size_is_survived(size: tuple[int, int]) -> None:
    """A terminal is made smaller and larger while screens and dialogs are open."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            for keys in (("enter",), ("x",), ("escape", "enter"), ("l",), ("escape", "f"), ("escape", "escape", "h")):
                await press(app, pilot, *keys)
                await pilot.resize_terminal(*size)
                await settled(app, pilot)
                assert len(text_of(app).split("\n")) == size[1]
                await pilot.resize_terminal(80, 24)
                await settled(app, pilot)
            assert "deletes" in text_of(app)

    run(play)


def test_an_engine_that_stops_answering_is_said_and_blocks_nothing() -> None:
    """The picture ages, keys go on, commands wait; when it answers again all is well."""

    async def play() -> None:
        stage = mixed()
        gate = threading.Event()
        before = stage.snapshot
        hangs = threading.Event()

        def slow() -> Any:
            if hangs.is_set():
                gate.wait(20)
            return before()

        stage.snapshot = slow  # type: ignore[method-assign]
        now = [NOW]
        async with console(stage, clock=lambda: now[0]) as (app, pilot):
            await press(app, pilot, "enter")
            hangs.set()
            app.feed.hurry()
            now[0] += 30
            app.tick()
            began = time.monotonic()
            await pilot.press("down", "down")
            await pilot.pause()
            assert time.monotonic() - began < 5
            assert "30 s old" in text_of(app) and "not answering" in text_of(app)
            stage.show(session("web", [scenes.brick(1)]), now=now[0])
            gate.set()
            await fed(app, pilot)
            assert "old" not in text_of(app)

    run(play)


def test_a_source_that_fails_and_comes_back() -> None:
    """Its words are shown, what was known stays, marked; then all is well again."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            stage.broken = ConnectionResetError("the engine has gone")
            await fed(app, pilot)
            shown = text_of(app)
            assert "no answer" in shown and "the engine has gone" in shown and "● Active" not in shown
            stage.broken = None
            await fed(app, pilot)
            app._grow_older()
            app.tick()
            assert "no answer" not in text_of(app) and "● 1 OK" in text_of(app)

    run(play)


def test_a_snapshot_that_makes_no_sense_is_an_error_not_an_end() -> None:
    """Another version, lists where objects should be."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            for nonsense in ({"version": 2, "sessions": []}, {"version": 1, "sessions": [1, 2]}, {"version": 1, "time": "x",
                             "sessions": [], "sources": 7}):  # fmt: skip
                stage.shown = nonsense
                await fed(app, pilot)
                assert "cannot be read" in text_of(app) or "no answer" in text_of(app)

    run(play)


def test_commands_give_feedback_and_results_and_are_kept() -> None:
    """The result as a toast; an error with what to do; both in the operations."""

    async def play() -> None:
        stage = mixed()
        stage.answers["operations"] = {}
        error = RuntimeError("the brick is gone")
        error.hint = "look for it"  # type: ignore[attr-defined]
        async with console(stage, (120, 40), toasts=True) as (app, pilot):
            stage.answers["pause"] = {"bricks": ["/bricks/web2"], "paused": True}
            await press(app, pilot, "enter", "end", "p")
            assert "✔ pause m2:/bricks/web2 of web" in text_of(app) and "1 brick paused" in text_of(app)
            stage.answers["pause"] = error
            await press(app, pilot, "p")
            assert "the brick is gone" in text_of(app) and "look for it" in text_of(app)
            assert [one.good for one in app.given] == [True, False]

    run(play)


def test_faults_recoveries_and_checkpoints_are_toasts_once() -> None:
    """Not at the first look; a flood becomes one toast."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(n) for n in range(1, 9)])))
        async with console(stage, (120, 40), toasts=True) as (app, pilot):
            assert "Faulty" not in text_of(app)
            stage.show(session("web", [scenes.faulty(1), *(scenes.brick(n) for n in range(2, 9))]))
            await fed(app, pilot)
            assert "✖ Faulty: web m1:/bricks/web1" in text_of(app)
            stage.show(session("web", [scenes.brick(n) for n in range(1, 9)]))
            await fed(app, pilot)
            assert "● Active again: web m1:/bricks/web1" in text_of(app)
            toasts = len(app._notifications)
            stage.show(session("web", [scenes.faulty(n) for n in range(1, 9)]))
            await fed(app, pilot)
            assert "6 more changes" in text_of(app)
            assert len(app._notifications) - toasts <= 3

    run(play)


def test_a_brick_that_fails_again_and_again_is_said_once_a_minute() -> None:
    """A full disk: every attempt fails; the first one is a toast, the next after a minute."""

    async def play() -> None:
        well, ill = session("web", [scenes.brick(1)]), session("web", [scenes.faulty(1)])
        stage, now = Stage(snapshot(well)), [NOW]
        async with console(stage, (120, 40), toasts=True, clock=lambda: now[0]) as (app, pilot):
            said: list[str] = []
            app.notify = lambda *_words, title="", **_how: said.append(title)  # type: ignore[method-assign]
            for step in range(6):
                now[0] = NOW + 2 * step
                stage.show(ill if step % 2 == 0 else well, now=now[0])
                await fed(app, pilot)
            assert [title.split(":")[0] for title in said] == ["✖ Faulty", "● Active again"]
            now[0] = NOW + 70
            stage.show(ill, now=now[0])
            await fed(app, pilot)
            assert len(said) == 3

    run(play)


def test_a_ledger_that_is_not_known_is_not_an_empty_one() -> None:
    """ERR-3: an engine that does not answer, a recording: what the picture counts, and why there is no list."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.ledgered(1)])))
        stage.answers["failures"] = RuntimeError("the engine has gone")
        async with console(stage) as (app, pilot):
            await press(app, pilot, "f")
            shown = text_of(app)
            assert "3 failures" in shown and "the engine has gone" in shown and "0 failures" not in shown

    run(play)


def test_nothing_is_drawn_when_nothing_changed() -> None:
    """No frame, no tick: the feed says nothing when only the time went on."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            ticks = []
            tick = app.tick
            app.tick = lambda: (ticks.append(1), tick())[1]  # type: ignore[method-assign]
            stage.shown = {**stage.shown, "time": NOW + 1,
                           "sources": [{**one, "data_time": NOW + 1} for one in stage.shown["sources"]]}  # fmt: skip
            looks = app.feed.looks
            for _ in range(5):
                app.feed.hurry()
                await until(lambda looks=looks: app.feed.looks > looks)  # type: ignore[misc]
                looks = app.feed.looks
            await pilot.pause()
            assert not ticks

    run(play)


def test_memory_of_events_series_and_operations_is_bounded() -> None:
    """10,000 events leave what a roll and the picture may keep."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            for number in range(10_000):
                stage.happen("batch done", session="web", brick="b2", id=number)
            await fed(app, pilot)
            assert len(app.picture.events) <= 5000
            for step in range(600):
                app.picture.step(NOW + 10 * step)
            assert max(len(trace.rates) for trace in app.picture.traces.values()) <= 240

    run(play)


@pytest.mark.parametrize("size", [(120, 40), (200, 60)])
def test_a_file_in_flight_has_its_bytes_and_rate_however_wide_the_screen_is(size: tuple[int, int]) -> None:
    """Side by side, a panel has half of the columns."""
    file = {"path": "films/" + "long" * 30 + ".mkv", "bytes": [1 << 20, 4 << 20], "bytes_per_s": 51200.0}
    batch = {**scenes.brick(1)["batch"], "in_flight": [file]}

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(1, batch=batch)])))
        async with console(stage, size) as (app, pilot):
            await press(app, pilot, "enter", "enter")
            shown = next(line for line in text_of(app).split("\n") if ".mkv" in line)
            assert "25%" in shown and "1.0 MiB/4.0 MiB" in shown and "50 KiB/s" in shown, shown

    run(play)
