"""Every screen and state at a frozen instant, at each size, compared with the image kept in `images/`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tui import scenes
from tests.tui.scenes import NOW, Stage, session, snapshot
from tests.tui.stand import compare, console, fed, image_of, press, run

SIZES = {"80x24": (80, 24), "120x40": (120, 40), "200x60": (200, 60)}


def mixed() -> Stage:
    """Sessions of which some are well and some are not."""
    web = session("web", [scenes.faulty(1), scenes.brick(2), scenes.hybrid(3), scenes.held(6), scenes.paused(7)])
    mail = session("mail", [scenes.quiet(4)], checkpoint={
        "time": NOW - 60, "completed": True, "completion_time": NOW - 30, "failures_before": 0, "eta_seconds": None,
        "held_by": None,
    })  # fmt: skip
    home = session("home", [scenes.ledgered(5)], checkpoint={
        "time": NOW - 60, "completed": True, "completion_time": NOW - 30, "failures_before": 3, "eta_seconds": None,
        "held_by": None,
    })  # fmt: skip
    stage = Stage(snapshot(web, mail, home))
    stage.answers = {
        "failures": scenes.FAILURES, "logs": scenes.LOG, "operations": scenes.OPERATIONS, "config_get": scenes.OPTIONS,
        "checkpoints": scenes.CHECKPOINTS,
    }  # fmt: skip
    stage.happen("active", session="web", brick="b2")
    stage.happen("batch done", session="web", brick="b2", id=17, entries=40, files=40, bytes=402113, seconds=1.4)
    stage.happen("failure added", session="home", brick="b5", count=3)
    stage.happen("faulty", session="web", brick="b1", text="ssh: connect to host dr port 22: Connection refused")
    stage.happen("checkpoint completed", session="mail", brick="b4")
    return stage


SCREENS = {
    "overview": (),
    "dashboard": ("enter",),
    "brick": ("enter", "end", "enter"),
    "brick-faulty": ("enter", "enter"),
    "failures": ("end", "up", "f"),
    "failure": ("end", "up", "f", "down", "down"),
    "held": ("enter", "h"),
    "checkpoints": ("enter", "k"),
    "log": ("enter", "l"),
    "operations": ("enter", "o"),
    "options": ("enter", "O"),
    "help": ("enter", "question_mark"),
    "palette": ("enter", "ctrl+p"),
    "ask-xsync": ("enter", "end", "x"),
    "ask-checkpoint": ("enter", "c"),
    "ask-stop": ("enter", "S"),
    "ask-verify": ("enter", "v"),
    "ask-approve": ("enter", "h", "a"),
    "ask-dismiss": ("end", "up", "f", "d"),
    "ask-sort": ("enter", "s"),
    "ask-reject": ("enter", "h", "r"),
    "ask-clear": ("enter", "k", "d"),
    "ask-pause-all": ("enter", "P"),
    "ask-option": ("enter", "O", "enter"),
    "ask-log-brick": ("enter", "l", "b"),
    "ask-leave": ("enter", "q"),
    "searched": ("enter", "l", "slash", "l", "i", "n", "e", "space", "4", "7", "enter"),
    "filtered": ("enter", "slash", "w", "e", "b", "3", "enter"),
    "faults": ("exclamation_mark",),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen: str, size: str) -> None:
    """Each screen and each question, at each size."""
    if size == "200x60" and screen.startswith(("ask", "palette", "filtered", "faults", "help", "searched")):
        pytest.skip("a question looks the same on a larger terminal")

    async def play() -> None:
        async with console(mixed(), SIZES[size], embedded=True) as (app, pilot):
            await press(app, pilot, *SCREENS[screen])
            compare(f"{screen}-{size}", image_of(app))

    run(play)


STATES: dict[str, Callable[[], scenes.Doc]] = {
    "initializing": scenes.initializing,
    "live": scenes.brick,
    "idle": scenes.quiet,
    "history": scenes.history,
    "hybrid": scenes.hybrid,
    "passive": scenes.passive,
    "faulty": scenes.faulty,
    "paused": scenes.paused,
    "stopped": scenes.stopped,
    "held": scenes.held,
    "failures": scenes.ledgered,
}


@pytest.mark.parametrize("size", ["80x24", "120x40"])
@pytest.mark.parametrize("state", STATES)
def test_state(state: str, size: str) -> None:
    """A session with one brick in each state, and that brick."""

    async def play() -> None:
        async with console(Stage(snapshot(session("web", [STATES[state]()]))), SIZES[size]) as (app, pilot):
            compare(f"state-{state}-session-{size}", image_of(app))
            await press(app, pilot, "enter")
            compare(f"state-{state}-brick-{size}", image_of(app))

    run(play)


@pytest.mark.parametrize("size", ["80x24", "120x40"])
def test_state_checkpoint_pending(size: str) -> None:
    """A checkpoint that waits: its ETA, and the brick that holds it back, on the session's page and its own."""

    async def play() -> None:
        point = {"time": NOW - 60, "completed": False, "completion_time": None, "failures_before": 0, "eta_seconds": 210.0,
                 "held_by": "/bricks/web3"}  # fmt: skip
        each: scenes.Doc = {"checkpoint_time": NOW - 60, "checkpoint_completed": False}
        done: scenes.Doc = {**each, "checkpoint_completed": True, "checkpoint_completion_time": NOW - 20}
        web = session("web", [scenes.quiet(1, **done), scenes.brick(2, **each, last_synced=NOW - 90),
                              scenes.brick(3, **each, last_synced=NOW - 400)], checkpoint=point)  # fmt: skip
        stage = Stage(snapshot(web))
        stage.answers = {"checkpoints": scenes.CHECKPOINTS}
        async with console(stage, SIZES[size]) as (app, pilot):
            compare(f"state-checkpoint-session-{size}", image_of(app))
            await press(app, pilot, "k")
            compare(f"state-checkpoint-page-{size}", image_of(app))

    run(play)


def test_state_read_only() -> None:
    """Nothing that changes anything is offered, and the bar says why."""

    async def play() -> None:
        async with console(mixed(), read_only=True) as (app, pilot):
            await press(app, pilot, "enter")
            compare("state-read-only", image_of(app))

    run(play)


def test_state_disconnected() -> None:
    """A source that is gone: everything it said carries its age, nothing looks good."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(1), scenes.quiet(2)])))
        async with console(stage) as (app, pilot):
            stage.show(session("web", [scenes.brick(1), scenes.quiet(2)]), connected=False, data_time=NOW - 240)
            await fed(app, pilot)
            compare("state-disconnected-session", image_of(app))
            await press(app, pilot, "enter")
            compare("state-disconnected-brick", image_of(app))
            await press(app, pilot, "escape", "escape")
            compare("state-disconnected-overview", image_of(app))

    run(play)


def test_state_nothing_there() -> None:
    """No session at all: the console says how to begin."""

    async def play() -> None:
        async with console(Stage(snapshot())) as (app, _pilot):
            compare("state-no-session", image_of(app))

    run(play)


def test_state_no_answer() -> None:
    """A source that has never answered says why."""

    async def play() -> None:
        stage = Stage()
        stage.broken = ConnectionRefusedError("web is not running here")
        async with console(stage) as (app, _pilot):
            compare("state-no-answer", image_of(app))

    run(play)


@pytest.mark.parametrize("theme", ["georep-light", "georep-contrast"])
def test_theme(theme: str) -> None:
    """Our other themes."""
    from georep_tui.settings import ConsoleConfig

    async def play() -> None:
        async with console(mixed(), config=ConsoleConfig(theme=theme, refresh=0.2)) as (app, pilot):
            await press(app, pilot, "enter")
            compare(f"theme-{theme}", image_of(app))

    run(play)


@pytest.mark.parametrize("screen", ["overview", "dashboard", "brick", "failures", "held", "log"])
def test_tiny(screen: str) -> None:
    """20 columns and 5 lines: nothing breaks, and what is cut ends in an ellipsis."""

    async def play() -> None:
        async with console(mixed(), (20, 5)) as (app, pilot):
            await press(app, pilot, *SCREENS[screen])
            compare(f"tiny-{screen}", image_of(app))

    run(play)
