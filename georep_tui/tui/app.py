"""The console's application: one feed in, one tick out, screens on top of each other, and a clean way out."""

from __future__ import annotations

import asyncio
import enum
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import tzinfo
from typing import Any, ClassVar

from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.screen import ModalScreen, Screen

from georep_tui.settings import ConsoleConfig
from georep_tui.ssh.asker import Questions
from georep_tui.tui import theme
from georep_tui.tui.acting import Acting
from georep_tui.tui.actions import ACTIONS, BY_ID, Context, possible, why_not
from georep_tui.tui.feed import Feed, Feedable
from georep_tui.tui.messages import Fetched, FrameReady, OrderDone
from georep_tui.tui.orders import Orders
from georep_tui.tui.palette import ActionProvider
from georep_tui.tui.picture import Picture
from georep_tui.tui.questions import Questioned
from georep_tui.tui.roaming import Roaming
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.screens.overview import OverviewScreen
from georep_tui.tui.terminal import TerminalDriver, TerminalLost
from georep_tui.view import signs
from georep_tui.view.notices import Notice, notices
from georep_tui.view.text import Cell, Line, escape
from georep_tui.view.units import age
from georep_tui.view.units import clock as clock_text
from georep_tui.view.verdict import judge_session, staleness

HOLD = 3.0
"""Seconds after a key in which no row moves."""

AGEING = 1.0
"""Seconds between looks at what ages by itself."""

STILL = 5.0
"""Seconds until what nothing changes is drawn again, for its ages."""

FLAPPING = 60.0
"""Seconds within which the same brick's next fault is no news."""

BEHIND = 4
"""Pieces of output a terminal may be behind before ticks are left out."""


class ExitChoice(enum.Enum):
    """How the console was left: the engine goes on (LEAVE), stops (STOP), the terminal went away (LOST: it goes on),
    or SIGTERM came (TERMINATED: it stops)."""

    LEAVE = "leave"
    STOP = "stop"
    LOST = "lost"
    TERMINATED = "terminated"


class ConsoleError(Exception):
    """The console cannot run, or broke; the text says why."""


class Console(Roaming, Acting, Questioned, App[ExitChoice]):
    """The application. `clock` gives unix time, `zone` the time zone of what is shown (None: the local one)."""

    CSS_PATH = "console.tcss"
    TITLE = "georep-tui"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS = {ActionProvider}  # noqa: RUF012
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(action.keys, f"do('{action.id}')", action.label, id=action.id, show=False)
        for action in ACTIONS
    ]  # fmt: skip

    def __init__(
        self, source: Feedable, *, embedded: bool = False, read_only: bool = False,
        config: ConsoleConfig = ConsoleConfig(), clock: Callable[[], float] = time.time, zone: tzinfo | None = None,
        can_leave: bool = True, driver_class: type[Driver] | None = None, questions: Questions | None = None,
    ) -> None:  # fmt: skip
        super().__init__(driver_class=driver_class)
        self.questions = questions
        self.source = source
        self.embedded = embedded
        self.read_only = read_only
        self.can_leave = can_leave
        self.config = config
        self.now: Callable[[], float] = getattr(source, "now", clock) if hasattr(source, "seek") else clock
        self.picture = Picture(replace(config.thresholds, acts=not read_only), zone)
        self.replay: Any = source if hasattr(source, "seek") else None
        self.feed = Feed(source, config.refresh, lambda: self.post_message(FrameReady()), clock)
        self.orders = Orders(source, self.post_message)
        self.hold = HOLD
        self._last_key = -HOLD
        self._ticked = 0.0
        self._title = ""
        self._faults_told: dict[str, float] = {}
        self._flapping: set[str] = set()
        for one in theme.OURS:
            self.register_theme(one)

    # -- life -------------------------------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[Any]:
        """An empty ground; the overview lies on it."""
        return Screen(id="ground")

    def on_mount(self) -> None:
        """Begin: theme, keys, signals, feed, screens."""
        self.theme = self.config.theme if self.config.theme in self.available_themes else theme.DARK.name
        self.set_keymap({name: keys for name, keys in self.config.keys.items() if name in BY_ID})
        self._catch_signals()
        self.push_screen(OverviewScreen())
        self.feed.start()
        self.orders.start()
        self.set_interval(AGEING, self._grow_older)
        self._say_title("\x1b[22;2t")

    def on_unmount(self) -> None:
        """End the threads."""
        self.feed.stop()
        self.orders.stop()

    def _catch_signals(self) -> None:
        if self.is_headless:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.leave, ExitChoice.LOST)
        loop.add_signal_handler(signal.SIGTERM, self.leave, ExitChoice.TERMINATED)
        loop.add_signal_handler(signal.SIGINT, self.do_quit)

    def leave(self, choice: ExitChoice) -> None:
        """End the console."""
        self._say_title("\x1b[23;2t")
        self.exit(choice)

    def on_terminal_lost(self, _message: TerminalLost) -> None:
        """Nobody is there any more."""
        self.leave(ExitChoice.LOST)

    def _print_error_renderables(self) -> None:
        # The console prints nothing; what broke it is raised by `run_console`.
        self._exit_renderables.clear()

    # -- the tick ---------------------------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """Remember when a person last did something."""
        if isinstance(event, events.Key | events.MouseDown | events.MouseScrollDown | events.MouseScrollUp):
            self._last_key = time.monotonic()
        await super().on_event(event)

    @property
    def holding(self) -> bool:
        """May no row move now: a key was pressed just now, or a dialog is open?"""
        return isinstance(self.screen, ModalScreen) or time.monotonic() - self._last_key < self.hold

    def let_go(self) -> None:
        """Rows may move: a person asked for another order."""
        self._last_key = -self.hold

    def on_frame_ready(self, _message: FrameReady) -> None:
        """Something is new: take it in and draw it."""
        frame = self.feed.take()
        if frame is None:
            return
        before = self.picture.snapshot
        self.picture.take(frame)
        self.picture.step(self.now())
        after = self.picture.snapshot
        if after is not None and after is not before:
            for notice in filter(self._worth_saying, notices(before, after)):
                self.notify(notice.text, title=notice.title, severity=notice.severity, markup=False)  # type: ignore[arg-type]
            if before is None and len(after.sessions) == 1 and isinstance(self.screen, OverviewScreen):
                self.open_session(after.sessions[0].id)
        self.tick()

    def _worth_saying(self, notice: Notice) -> bool:
        """A brick that fails again and again is said once a minute, and its recoveries with it; the events say all."""
        kind, _, where = notice.title.partition(": ")
        if kind == "✖ Faulty":
            told, now = self._faults_told.get(where), self.now()
            if told is not None and 0 <= now - told < FLAPPING:
                self._flapping.add(where)
                return False
            self._faults_told[where] = now
            self._flapping.discard(where)
        return not (kind == "● Active again" and where in self._flapping)

    def _grow_older(self) -> None:
        self.ask_next()
        self.picture.touch(self.feed.latest)
        self.picture.step(self.now())
        if time.monotonic() - self._ticked >= STILL or self.picture.snapshot is None:
            self.tick()

    def tick(self) -> None:
        """Draw the screen a person sees, unless the terminal is behind."""
        driver = self._driver
        if isinstance(driver, TerminalDriver) and driver.behind > BEHIND:
            return
        now, self._ticked = self.now(), time.monotonic()
        for screen in reversed(self.screen_stack):
            if isinstance(screen, ConsoleScreen):
                screen.tick(now)
                break
        self._show_title(now)

    # -- what the bars say ------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Does anything answer?"""
        snapshot = self.picture.snapshot
        if self.picture.error or snapshot is None:
            return False
        return not snapshot.sources or any(source.connected for source in snapshot.sources)

    def status_line(self, now: float) -> Line:
        """The right side of the bar above: what is odd about the picture, and the time."""
        cells: list[Cell] = []
        if self.replay is not None:
            cells += [Cell(f"{self.replay.status_text()}  ", "accent")]
        if self.read_only:
            cells += [Cell("read-only  ", "accent")]
        if self.pending:
            cells += [Cell(f"◌ {self.pending[0]}  ", "busy")]
        cells += self._freshness(now)
        return (*cells, Cell(clock_text(now, self.picture.zone)[:5], "muted"))

    def _freshness(self, now: float) -> list[Cell]:
        picture = self.picture
        if picture.error:
            silent = now - picture.error_since if picture.error_since is not None else 0.0
            since = f" for {age(silent)}" if silent >= 10 else ""
            return [Cell(f"? no answer{since}  ", "critical")]
        if picture.snapshot is None:
            return [Cell("◌ connecting  ", "busy")]
        sources = picture.snapshot.sources
        lost = [source for source in sources if staleness(source, now, picture.limits) is not None]
        if lost and self.replay is None:
            return [Cell(f"? {len(lost)} of {len(sources)} not answering  ", "critical")]
        return []

    def _show_title(self, now: float) -> None:
        snapshot = self.picture.snapshot
        if snapshot is None:
            return
        judged = {
            one.name: judge_session(one, snapshot, now, self.picture.limits_of(one)).verdict for one in snapshot.sessions
        }
        worst = signs.worst(*judged.values()) if judged else "unknown"
        if self.picture.error:
            worst = "unknown"
        bad = sum(1 for verdict in judged.values() if verdict == worst) if worst != "ok" else 0
        sign = signs.verdict(worst)
        names = next(iter(judged)) if len(judged) == 1 else f"{len(judged)} sessions"
        text = f"{sign.sign} {sign.word}{f' ({bad})' if bad > 1 else ''} · {escape(names)} · georep-tui"
        if text != self._title:
            self._title = text
            self._say_title(f"\x1b]2;{text}\x07")

    def _say_title(self, sequence: str) -> None:
        if isinstance(self._driver, TerminalDriver):
            self._driver.write(sequence)

    # -- actions ----------------------------------------------------------------------------------------------------

    @property
    def place(self) -> ConsoleScreen | None:
        """The screen a person is at, dialogs apart."""
        return next((one for one in reversed(self.screen_stack) if isinstance(one, ConsoleScreen)), None)

    def context(self) -> Context:
        """Where a person is."""
        place = self.place
        return place.context() if place else Context("", read_only=self.read_only, embedded=self.embedded)

    def action_do(self, name: str) -> None:
        """Do what a key or the palette says, if it is possible now; else say why not."""
        place = self.place
        if place is None or (isinstance(self.screen, ModalScreen) and name != "quit"):
            return
        context = place.context()
        action = BY_ID[name]
        if context.screen not in action.screens or (action.group == "replay" and not context.replay):
            # Another action may have this key here.
            same = [one for one in ACTIONS if one.id != name and set(one.keys.split(",")) & set(action.keys.split(","))]
            other = next((one for one in same if possible(one, context)), None)
            if other is None:
                return
            action = other
        why = why_not(action, context)
        if why:
            self.notify(why, title=f"not now: {action.label}", severity="warning", timeout=4, markup=False)
            return
        method = getattr(place, f"do_{action.id}", None) or getattr(self, f"do_{action.id}")
        method()

    # -- answers ----------------------------------------------------------------------------------------------------

    def on_order_done(self, message: OrderDone) -> None:
        """A command ended: say so, and look at once."""
        self.ended(message)
        self.tick()
        self.feed.hurry()

    def on_fetched(self, message: Fetched) -> None:
        """An answer came: to whoever asked."""
        for screen in self.screen_stack:
            if isinstance(screen, ConsoleScreen):
                screen.fetched(message)
        self.answered(message)


def run_console(
    source: Feedable, *, embedded: bool, read_only: bool, config: ConsoleConfig, can_leave: bool = True,
    questions: Questions | None = None,
) -> ExitChoice:  # fmt: skip
    """Show `source` in the terminal until a person leaves, the terminal goes away, or SIGTERM comes.

    `questions` are asked in dialogs. With `can_leave` False an embedded engine is not offered to go on without the screen.

    Raises ConsoleError off a terminal, or when the console breaks; the terminal is restored in any case. The source is
    not closed: whether the engine goes on is the caller's to do, as the answer says.
    """
    if not all(os.isatty(stream) for stream in (0, 1, 2)):
        raise ConsoleError("the console needs a terminal on stdin, stdout and stderr (use --no-ui, status or list)")
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT,
                                                              signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)}  # fmt: skip
    app = Console(source, embedded=embedded, read_only=read_only, config=config, can_leave=can_leave,
                  driver_class=TerminalDriver, questions=questions)
    try:
        choice = app.run(mouse=config.mouse)
    except OSError as e:
        raise ConsoleError(f"the terminal failed: {e}") from e
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        sys.stderr.flush()
    if app._exception is not None:
        raise ConsoleError(f"the console broke: {app._exception!r}") from app._exception
    return choice or ExitChoice.LEAVE
