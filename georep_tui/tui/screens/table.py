"""What screens with a table share: filter, faults only, next fault, sort, and rows that hold still while a person acts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.widget import Widget

from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.screens.dialogs import Pick
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.search import Search
from georep_tui.view.table import Column, Order, Row, arrange
from georep_tui.view.text import Cell, escape


class TableScreen(ConsoleScreen):
    """A screen with one main table."""

    COLUMNS: ClassVar[Sequence[Column]] = ()
    EMPTY: ClassVar[str] = "nothing here"

    def __init__(self, session_id: str = "", brick_id: str = "") -> None:
        super().__init__(session_id, brick_id)
        self.order = Order()
        self.needle = ""
        self.faults_only = False

    def table(self) -> Iterator[Widget]:
        """The table, the line that says what is hidden, and the filter."""
        grid = Grid(self.COLUMNS, empty=self.EMPTY, id="table")
        grid.add_class("first")
        yield grid
        yield Board(id="narrowed")
        yield Search()

    @property
    def grid(self) -> Grid:
        """The main table."""
        return self.query_one("#table", Grid)

    def rows(self, now: float) -> list[Row]:
        """All rows, in any order."""
        raise NotImplementedError

    def draw_table(self, now: float) -> None:
        """Show the rows that are wanted, in their order, or in the one they have while a person acts."""
        grid, rows = self.grid, self.rows(now)
        held = grid.keys if self.console.holding else ()
        shown = arrange(rows, self.order, needle=self.needle, faults=self.faults_only, keep=held)
        grid.show(shown, self.order)
        said = []
        if self.faults_only:
            said += [Cell("! faults only  ", "warning")]
        if self.needle:
            said += [Cell(f"/ {escape(self.needle)}  ", "accent")]
        if said:
            said += [Cell(f"{len(shown)} of {len(rows)} shown", "muted")]
        self.query_one("#narrowed", Board).show([tuple(said)] if said else [])

    # -- actions ----------------------------------------------------------------------------------------------------

    def do_filter(self) -> None:
        """Type a filter."""
        self.query_one(Search).open()

    def on_search_typed(self, message: Search.Typed) -> None:
        """Filter as it is typed."""
        self.needle = message.text
        self.console.let_go()
        self.tick(self.console.now())

    def on_search_left(self) -> None:
        """Back to the rows."""
        self.grid.focus()

    def do_faults(self) -> None:
        """Only what is not OK, or all again."""
        self.faults_only = not self.faults_only
        self.console.let_go()
        self.tick(self.console.now())

    def do_next_fault(self) -> None:
        """The next row that is not OK, round and round."""
        grid = self.grid
        keys = grid.keys
        start = keys.index(grid.cursor) + 1 if grid.cursor in keys else 0
        order = [*range(start, len(keys)), *range(start)]
        for index in order:
            if grid.rows[index].faulty:
                grid.go_to(keys[index])
                grid.focus()
                return
        self.notify("everything here is OK", timeout=3)

    def do_sort(self) -> None:
        """Choose a column; the same one again turns the order round."""
        choices = [("attention", "attention (worst first)")]
        choices += [(one.key, one.title) for one in self.COLUMNS if one.title and one.key not in ("wide_bar", "c")]
        self.app.push_screen(Pick("Sort by", choices, self.order.key or "attention"), self._sorted)

    def _sorted(self, key: str | None) -> None:
        if key:
            self.sort_by("" if key == "attention" else key)

    def on_grid_sort_by(self, message: Grid.SortBy) -> None:
        """A click on a column's head."""
        self.sort_by(message.key)

    def sort_by(self, key: str) -> None:
        """Sort by a column ("" is by attention)."""
        self.order = Order(key, not self.order.backwards if key == self.order.key and key else False)
        self.console.let_go()
        self.tick(self.console.now())
