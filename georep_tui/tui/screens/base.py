"""What every screen of the console has: bars, a tick, its place in the breadcrumbs, and what is selected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget

from georep_tui.tui.actions import Context
from georep_tui.tui.widgets.bars import KeyBar, TopBar
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.roll import Roll
from georep_tui.view.snapshot import Brick, Session
from georep_tui.view.text import escape

if TYPE_CHECKING:
    from georep_tui.tui.app import Console
    from georep_tui.tui.messages import Fetched


class ConsoleScreen(Screen[None]):
    """A screen about everything, one session (`session_id`), or one brick (`brick_id`)."""

    NAME: ClassVar[str] = ""
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-narrow"), (110, "-normal"), (160, "-wide"),
    ]  # fmt: skip
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (14, "-low"), (32, "-high")]  # noqa: RUF012
    AUTO_FOCUS: ClassVar[str | None] = ".first"

    def __init__(self, session_id: str = "", brick_id: str = "") -> None:
        super().__init__()
        self.session_id = session_id
        self.brick_id = brick_id
        self._there = False

    @property
    def console(self) -> Console:
        """The application."""
        return cast("Console", self.app)

    def compose(self) -> ComposeResult:
        """Bars above and below, the body between."""
        yield TopBar()
        yield from self.body()
        yield KeyBar()

    def body(self) -> Iterator[Widget]:
        """The widgets of this screen."""
        yield from ()

    # -- what it is about -------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The session this screen is about, or the selected one."""
        return self.console.picture.session(self.session_id)

    @property
    def brick(self) -> Brick | None:
        """The brick this screen is about, or the selected one."""
        session = self.session
        return session.brick(self.brick_id) if session else None

    @property
    def item(self) -> str | None:
        """What else is selected: a failure, an option."""
        return None

    def crumbs(self) -> list[str]:
        """The way from the overview to here."""
        session = self.console.picture.session(self.session_id) if self.session_id else None
        brick = session.brick(self.brick_id) if session and self.brick_id else None
        parts = ["georep-tui", *([escape(session.name)] if session else []), *([escape(brick.label)] if brick else [])]
        return parts if self.NAME in ("overview", "dashboard", "brick") else [*parts, self.NAME]

    def context(self) -> Context:
        """Where a person is, for the actions."""
        console = self.console
        return Context(
            screen=self.NAME,
            session=self.session,
            brick=self.brick,
            item=self.item,
            read_only=console.read_only,
            embedded=console.embedded,
            connected=console.connected,
            replay=console.replay is not None,
        )

    # -- drawing ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Draw what changed, at unix time `now`; nothing before there is something to draw on."""
        if not self._there:
            return
        self.query_one(TopBar).show_place(self.crumbs(), self.console.status_line(now))
        self.query_one(KeyBar).show_keys(self.context(), self.console.config.keys)
        self.draw(now)

    def draw(self, now: float) -> None:
        """Draw the body."""

    def fetched(self, message: Fetched) -> None:
        """An answer this screen asked for has come."""

    def on_mount(self) -> None:
        """The widgets are there."""
        self._there = True

    def on_screen_resume(self) -> None:
        """Shown again: draw at once, the tick may be half a second away."""
        self.call_after_refresh(self._draw_now)

    def on_resize(self) -> None:
        """The size changed: widths did too."""
        self.call_after_refresh(self._draw_now)

    def _draw_now(self) -> None:
        if self.is_attached and self.is_current:
            self.tick(self.console.now())

    def on_grid_moved(self) -> None:
        """Another row: other things are possible."""
        if self.is_current and self._there:
            self.query_one(KeyBar).show_keys(self.context(), self.console.config.keys)

    def copy_text(self) -> str:
        """What `y` copies."""
        focused = self.focused
        return focused.text if isinstance(focused, Grid | Roll) else ""

    # -- actions all screens share ----------------------------------------------------------------------------------

    def do_back(self) -> None:
        """Back to where one came from."""
        if len(self.app.screen_stack) > 2:
            self.dismiss()

    def do_next_panel(self) -> None:
        """The next panel."""
        self.focus_next()
