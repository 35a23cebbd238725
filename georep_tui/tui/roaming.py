"""Where a person goes and what they look at: screens, copying, themes, reports, and the controls of a recording."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from textual.message import Message

from georep_tui.tui import theme
from georep_tui.tui.bundle import write_bundle
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.screens.brick import BrickScreen
from georep_tui.tui.screens.checkpoints import CheckpointsScreen
from georep_tui.tui.screens.dashboard import DashboardScreen
from georep_tui.tui.screens.failures import FailuresScreen
from georep_tui.tui.screens.held import HeldScreen
from georep_tui.tui.screens.help import HelpScreen
from georep_tui.tui.screens.log import LogScreen
from georep_tui.tui.screens.operations import OperationsScreen
from georep_tui.tui.screens.options import OptionsScreen
from georep_tui.view.text import escape

if TYPE_CHECKING:
    from georep_tui.tui.app import Console


class BundleWritten(Message):
    """An incident bundle is there, or is not."""

    def __init__(self, path: str, error: str | None) -> None:
        super().__init__()
        self.path, self.error = path, error


class Roaming:
    """The looking half of the console."""

    @property
    def _roamer(self) -> Console:
        return cast("Console", self)

    def open_session(self, session_id: str) -> None:
        """The page of a session."""
        self._roamer.push_screen(DashboardScreen(session_id))

    def open_brick(self, session_id: str, brick_id: str) -> None:
        """The page of a brick."""
        self._roamer.push_screen(BrickScreen(session_id, brick_id))

    def _go(self, screen: type[ConsoleScreen]) -> None:
        """To a screen about the selected session; from one of its kind, there and not on top of it."""
        console = self._roamer
        context, place = console.context(), console.place
        if context.session is None or isinstance(place, screen):
            return
        brick = place.brick_id if place is not None and place.NAME == "brick" else ""
        if screen is HeldScreen and context.brick is not None:
            brick = context.brick.id
        target = screen(context.session.id, brick)
        if place is not None and place.NAME not in ("overview", "dashboard", "brick"):
            console.switch_screen(target)
        else:
            console.push_screen(target)

    def do_failures(self) -> None:
        """What could not be synced."""
        self._go(FailuresScreen)

    def do_held(self) -> None:
        """What the guard holds."""
        self._go(HeldScreen)

    def do_checkpoints(self) -> None:
        """The checkpoint, brick by brick."""
        self._go(CheckpointsScreen)

    def do_log(self) -> None:
        """The engine's log."""
        self._go(LogScreen)

    def do_operations(self) -> None:
        """What people did."""
        self._go(OperationsScreen)

    def do_options(self) -> None:
        """The options."""
        self._go(OptionsScreen)

    def do_help(self) -> None:
        """All keys here and now."""
        console, place = self._roamer, self._roamer.place
        if place is not None:
            console.push_screen(HelpScreen(place.context(), place.session_id, place.brick_id))

    def do_palette(self) -> None:
        """The command palette."""
        self._roamer.action_command_palette()

    def do_copy(self) -> None:
        """Copy what is selected, through the terminal (OSC 52)."""
        console, place = self._roamer, self._roamer.place
        text = place.copy_text() if place is not None else ""
        if text:
            console.copy_to_clipboard(text)
            console.notify(escape(text.splitlines()[0])[:60], title="copied", timeout=3, markup=False)
        else:
            console.notify("nothing is selected", timeout=3)

    def do_theme(self) -> None:
        """The next of our themes."""
        console = self._roamer
        names = [one.name for one in theme.OURS]
        place = names.index(console.theme) + 1 if console.theme in names else 0
        console.theme = names[place % len(names)]
        console.notify(console.theme, title="theme", timeout=2)

    # -- reports ----------------------------------------------------------------------------------------------------

    def do_export(self) -> None:
        """Write an incident bundle in a thread; where it is comes as a toast."""
        console = self._roamer
        session, snapshot = console.context().session, console.picture.snapshot
        if session is None or snapshot is None:
            return
        events = [{"seq": one.seq, "time": one.time, "event": one.name, "session": one.session, "brick": one.brick,
                   "level": one.level, "text": one.text, **one.fields} for one in console.picture.events]  # fmt: skip
        raw, now, source = snapshot.raw, console.now(), console.source
        console.notify("…", title=f"incident bundle of {escape(session.name)}", timeout=2, markup=False)

        def write() -> None:
            try:
                path = write_bundle(source, session.name, raw, events, now)
            except OSError as e:
                console.post_message(BundleWritten("", str(e)))
            else:
                console.post_message(BundleWritten(path, None))

        threading.Thread(target=write, name="console-bundle", daemon=True).start()

    def on_bundle_written(self, message: BundleWritten) -> None:
        """Say where it is."""
        if message.error:
            self._roamer.notify(escape(message.error), title="✖ incident bundle", severity="error", markup=False)
        else:
            self._roamer.notify(escape(message.path), title="✔ incident bundle", timeout=15, markup=False)

    # -- recordings -------------------------------------------------------------------------------------------------

    def _player(self) -> Any:
        return self._roamer.replay

    def _moved(self) -> None:
        console = self._roamer
        console.feed.hurry()
        console.tick()

    def do_play(self) -> None:
        """Play or hold."""
        self._player().play(not self._player().playing)
        self._moved()

    def do_step_on(self) -> None:
        """To the next change."""
        self._player().step(1)
        self._moved()

    def do_step_back(self) -> None:
        """To the change before."""
        self._player().step(-1)
        self._moved()

    def do_seek_on(self) -> None:
        """A minute on."""
        self._player().seek(60.0)
        self._moved()

    def do_seek_back(self) -> None:
        """A minute back."""
        self._player().seek(-60.0)
        self._moved()

    def do_faster(self) -> None:
        """Twice as fast."""
        self._player().faster(1)
        self._moved()

    def do_slower(self) -> None:
        """Half as fast."""
        self._player().faster(-1)
        self._moved()
