"""The overview: all sessions, worst first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.widget import Widget

from georep_tui.tui.screens.table import TableScreen
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.roll import Roll
from georep_tui.view import signs
from georep_tui.view.events import event_line
from georep_tui.view.sessions import COLUMNS, session_row
from georep_tui.view.snapshot import Session
from georep_tui.view.table import Row
from georep_tui.view.text import Cell, Line, escape
from georep_tui.view.units import plural
from georep_tui.view.verdict import judge_session


class OverviewScreen(TableScreen):
    """All sessions and the last events of all of them."""

    NAME = "overview"
    COLUMNS = COLUMNS
    EMPTY: ClassVar[str] = "no session is running here; begin one: georep-tui run PRIMARY SECONDARY"

    def __init__(self) -> None:
        super().__init__()
        self._shown_events = 0

    def body(self) -> Iterator[Widget]:
        """A verdict on everything, the table, the events."""
        yield Board(id="head")
        yield from self.table()
        yield Board([(Cell("events", "title"),)], id="events-title", classes="panel-title")
        yield Roll(id="events", empty="nothing has happened since the console began")

    @property
    def session(self) -> Session | None:
        """The session under the cursor."""
        return self.console.picture.session(self.grid.cursor or "")

    def rows(self, now: float) -> list[Row]:
        """A row for each session."""
        picture = self.console.picture
        if picture.snapshot is None:
            return []
        return [
            session_row(one, picture.snapshot, now, picture.limits_of(one), picture.rates(one.id))
            for one in picture.snapshot.sessions
        ]

    def draw(self, now: float) -> None:
        """Draw what changed."""
        self.grid.empty = self.EMPTY if self.console.picture.snapshot is not None else ""
        self.draw_table(now)
        self.query_one("#head", Board).show(self._head(now))
        self.add_events()

    def _head(self, now: float) -> list[Line]:
        picture = self.console.picture
        if picture.snapshot is None:
            text = escape(picture.error) if picture.error else "looking for sessions…"
            return [(Cell(text, "critical" if picture.error else "muted"),)]
        verdicts = [
            judge_session(one, picture.snapshot, now, picture.limits_of(one)).verdict for one in picture.snapshot.sessions
        ]
        cells = [Cell(f"{plural(len(verdicts), 'session')}  ", "strong")]
        for verdict in reversed(signs.VERDICTS):
            number = verdicts.count(verdict)
            if number:
                sign = signs.verdict(verdict)
                cells.append(Cell(f"{sign.sign} {number} {sign.word}  ", sign.role))
        return [tuple(cells)]

    def add_events(self) -> None:
        """Append the events that came since the last tick."""
        picture = self.console.picture
        new = picture.event_count - self._shown_events
        if new:
            self._shown_events = picture.event_count
            events = list(picture.events)[-new:]
            self.query_one("#events", Roll).add(
                event_line(event, picture.label(event, with_session=True), picture.zone) for event in events
            )

    def on_grid_chosen(self, message: Grid.Chosen) -> None:
        """Open the session."""
        self.console.open_session(message.key)

    def do_open(self) -> None:
        """Open the session under the cursor."""
        if self.grid.cursor:
            self.console.open_session(self.grid.cursor)
