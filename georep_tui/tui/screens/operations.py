"""What people did with a session: who, when, with which result."""

from __future__ import annotations

from collections.abc import Iterator

from textual.widget import Widget

from georep_tui.tui.messages import Fetched
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.search import Search
from georep_tui.view.operations import COLUMNS, Operation, operation_row, parse_operation
from georep_tui.view.table import arrange
from georep_tui.view.text import Cell, escape
from georep_tui.view.units import plural

EVERY = 2.0


class OperationsScreen(ConsoleScreen):
    """The operations log. Commands of this console that the engine never got are listed too."""

    NAME = "operations"

    def __init__(self, session_id: str, _brick_id: str = "") -> None:
        super().__init__(session_id)
        self.known: list[Operation] = []
        self.needle = ""
        self._asked = 0.0
        self._error = ""

    def body(self) -> Iterator[Widget]:
        """The operations, the newest first."""
        yield Board(id="head")
        grid = Grid(COLUMNS, empty="nobody has done anything here yet", id="table")
        grid.add_class("first")
        yield grid
        yield Search()

    def draw(self, now: float) -> None:
        """Ask, and draw."""
        session, console = self.session, self.console
        if session is not None and now - self._asked >= EVERY and console.replay is None:
            self._asked = now
            console.orders.ask(f"operations:{self.session_id}", "operations", {"session": session.name, "limit": 500})
        ours = [one for one in console.given if not self.known or not one.good]
        merged = sorted([*self.known, *ours], key=lambda one: one.time)
        rows = [operation_row(one, index, now, console.picture.zone) for index, one in enumerate(merged)]
        self.query_one("#table", Grid).show(arrange(rows, needle=self.needle))
        cells = [Cell(plural(len(rows), "operation"), "strong"), Cell(", the newest first", "muted")]
        if self._error:
            cells.append(Cell(f"  ✖ {escape(self._error)}; only this console's are shown", "critical"))
        self.query_one("#head", Board).show([tuple(cells)])

    def fetched(self, message: Fetched) -> None:
        """The engine's list."""
        if message.name != f"operations:{self.session_id}":
            return
        self._error = message.error or ""
        if isinstance(message.result, dict):
            session = self.session
            names = {brick.id: brick.label for brick in session.bricks} if session else {}
            self.known = [parse_operation(doc, names) for doc in message.result.get("operations") or ()]
        if self.is_current:
            self.tick(self.console.now())

    def do_filter(self) -> None:
        """Type a filter."""
        self.query_one(Search).open()

    def on_search_typed(self, message: Search.Typed) -> None:
        """Filter as it is typed."""
        self.needle = message.text
        self.tick(self.console.now())

    def on_search_left(self) -> None:
        """Back to the rows."""
        self.query_one("#table", Grid).focus()
