"""A session: is it safe, how far behind, what goes on, its bricks, and what just happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.widget import Widget

from georep_tui.tui.screens.table import TableScreen
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.roll import Roll
from georep_tui.view.bricks import COLUMNS, brick_row
from georep_tui.view.events import event_line
from georep_tui.view.head import session_head
from georep_tui.view.snapshot import Brick
from georep_tui.view.table import Row
from georep_tui.view.text import Cell, Line
from georep_tui.view.verdict import judge_session


class DashboardScreen(TableScreen):
    """One session."""

    NAME = "dashboard"
    COLUMNS = COLUMNS
    EMPTY: ClassVar[str] = "no bricks"

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self._shown_events = 0

    def body(self) -> Iterator[Widget]:
        """The head, the bricks, the events."""
        yield Board(id="head")
        yield from self.table()
        yield Board([(Cell("events", "title"),)], id="events-title", classes="panel-title")
        yield Roll(id="events", empty="nothing has happened since the console began")

    @property
    def brick(self) -> Brick | None:
        """The brick under the cursor."""
        return self.console.picture.brick(self.session_id, self.grid.cursor or "")

    def rows(self, now: float) -> list[Row]:
        """A row for each brick."""
        picture, session = self.console.picture, self.session
        if session is None or picture.snapshot is None:
            return []
        limits = picture.limits_of(session)
        return [brick_row(brick, picture.snapshot, now, limits) for brick in session.bricks]

    def draw(self, now: float) -> None:
        """Draw what changed."""
        self.draw_table(now)
        self.query_one("#head", Board).show(self._head(now))
        self._add_events()

    def _head(self, now: float) -> list[Line]:
        picture, session = self.console.picture, self.session
        if session is None or picture.snapshot is None:
            return [(Cell("this session is no longer there (esc goes back)", "warning"),)]
        limits = picture.limits_of(session)
        return session_head(
            session, judge_session(session, picture.snapshot, now, limits), now, limits,
            rates=picture.rates(session.id), lags=picture.lags(session.id), columns=self.size.width, zone=picture.zone,
            reasons=1 if self.size.height < 30 else 4,
            acting=not (self.console.read_only or self.console.replay),
        )  # fmt: skip

    def _add_events(self) -> None:
        picture, session = self.console.picture, self.session
        new = picture.event_count - self._shown_events
        if not new or session is None:
            return
        self._shown_events = picture.event_count
        self.query_one("#events", Roll).add(
            event_line(event, picture.label(event, with_session=False), picture.zone)
            for event in list(picture.events)[-new:]
            if not event.session or event.session in (session.id, session.name)
        )

    def on_grid_chosen(self, message: Grid.Chosen) -> None:
        """Open the brick."""
        self.console.open_brick(self.session_id, message.key)

    def do_open(self) -> None:
        """Open the brick under the cursor."""
        if self.grid.cursor:
            self.console.open_brick(self.session_id, self.grid.cursor)
