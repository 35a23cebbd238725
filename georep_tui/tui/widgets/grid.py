"""A table drawn line by line: rows know their keys, the cursor follows its row, and only what changed is redrawn.

Textual's DataTable repaints itself for one changed cell; with hundreds of rows that change twice a second this one costs a
tenth.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from georep_tui.tui.widgets.drawn import ROLE_CLASSES, Drawn
from georep_tui.view.table import Column, Order, Placed, Row, layout
from georep_tui.view.text import Cell, Line, cut, cut_middle, plain, width

_MARK = 2
"""Columns left of the first: the cursor's sign, and a gap."""


class Grid(Drawn, ScrollView, can_focus=True):
    """A table of rows with a cursor. Rows are handed over whole; what differs is found here."""

    COMPONENT_CLASSES = {*ROLE_CLASSES, "grid--header", "grid--cursor", "grid--hover"}  # noqa: RUF012
    DEFAULT_CSS = "Grid { height: 1fr; overflow-x: hidden; }"
    BINDINGS = [  # noqa: RUF012
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home", "end(-1)", "first", show=False),
        Binding("end", "end(1)", "last", show=False),
        Binding("enter", "choose", "open", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row now."""

        def __init__(self, grid: Grid) -> None:
            super().__init__()
            self.grid = grid

    class Chosen(Message):
        """Enter or a double click on the row `key`."""

        def __init__(self, grid: Grid, key: str) -> None:
            super().__init__()
            self.grid, self.key = grid, key

    class SortBy(Message):
        """A click on the head of column `key`."""

        def __init__(self, grid: Grid, key: str) -> None:
            super().__init__()
            self.grid, self.key = grid, key

    def __init__(self, columns: Sequence[Column], *, empty: str = "nothing", id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._rows: tuple[Row, ...] = ()
        self._at: dict[str, int] = {}
        self._starts: list[int] = [0]
        self._lines: list[tuple[int, int]] = []
        self._strips: dict[tuple[str, int], tuple[Row, tuple[int, bool, bool], Strip]] = {}
        self._placed: tuple[int, tuple[Placed, ...]] = (-1, ())
        self._cursor: str | None = None
        self._hover: str | None = None
        self.order = Order()
        self.empty = empty

    # -- content ----------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows as they stand."""
        return self._rows

    @property
    def cursor(self) -> str | None:
        """The key of the row the cursor is on; None without rows."""
        return self._cursor

    @property
    def keys(self) -> list[str]:
        """The keys of the rows in their order."""
        return [row.key for row in self._rows]

    def show(self, rows: Sequence[Row], order: Order | None = None) -> None:
        """Show these rows in this order. The cursor stays on its row; when that is gone, at its place."""
        if order is not None and order != self.order:
            self.order = order
            self.refresh(Region(0, 0, self.size.width, 1))
        new, old = tuple(rows), self._rows
        if new == old:
            return
        place = self._at.get(self._cursor, 0) if self._cursor is not None else 0
        offset = self._starts[place] - round(self.scroll_y) if place < len(old) else 0
        old_lines = self._lines
        self._rows = new
        self._at = {row.key: index for index, row in enumerate(new)}
        self._starts, self._lines = [], []
        for index, row in enumerate(new):
            self._starts.append(len(self._lines))
            self._lines.extend((index, sub) for sub in range(1 + len(row.detail)))
        self._starts.append(len(self._lines))
        for key in [key for key in self._strips if key[0] not in self._at]:
            del self._strips[key]
        before = self._cursor
        if self._cursor not in self._at:
            self._cursor = new[min(place, len(new) - 1)].key if new else None
        if len(self._lines) != len(old_lines):
            self.virtual_size = Size(self.size.width, len(self._lines) + 1)
        self._keep_in_view(offset)
        self._refresh_changed(old, old_lines)
        if self._cursor != before:
            self.post_message(self.Moved(self))

    def _refresh_changed(self, old: tuple[Row, ...], old_lines: list[tuple[int, int]]) -> None:
        top, height = round(self.scroll_y), max(0, self.size.height - 1)
        if not old or not self._rows:
            self.refresh()
            return
        for y in range(top, min(top + height, max(len(self._lines), len(old_lines)))):
            now = self._line_at(self._rows, self._lines, y)
            if now != self._line_at(old, old_lines, y):
                self.refresh(Region(0, y - top + 1, self.size.width, 1))

    @staticmethod
    def _line_at(rows: tuple[Row, ...], lines: list[tuple[int, int]], y: int) -> tuple[Row, int] | None:
        return (rows[lines[y][0]], lines[y][1]) if y < len(lines) else None

    def _keep_in_view(self, offset: int) -> None:
        """After rows moved the cursor's row stays where it was on the screen, as far as the ends allow."""
        if self._cursor is None or not self.size.height:
            return
        start = self._starts[self._at[self._cursor]]
        if not 0 <= start - round(self.scroll_y) < self.size.height - 1:
            self.scroll_to(y=max(0, start - max(0, offset)), animate=False, force=True)

    # -- cursor -----------------------------------------------------------------------------------------------------

    def go_to(self, key: str) -> bool:
        """Put the cursor on the row `key`; False if there is none."""
        if key not in self._at:
            return False
        if key != self._cursor:
            before, self._cursor = self._cursor, key
            self._refresh_row(before)
            self._refresh_row(key)
            self.post_message(self.Moved(self))
        start = self._starts[self._at[key]]
        end = self._starts[self._at[key] + 1]
        page = max(1, self.size.height - 1)
        if start < self.scroll_y:
            self.scroll_to(y=start, animate=False, force=True)
        elif end > self.scroll_y + page:
            self.scroll_to(y=min(start, end - page), animate=False, force=True)
        return True

    def _refresh_row(self, key: str | None) -> None:
        index = self._at.get(key) if key is not None else None
        if index is not None:
            start, end = self._starts[index], self._starts[index + 1]
            self.refresh(Region(0, start - round(self.scroll_y) + 1, self.size.width, end - start))

    def action_move(self, by: int) -> None:
        """The cursor up or down."""
        if self._rows and self._cursor is not None:
            index = max(0, min(len(self._rows) - 1, self._at[self._cursor] + by))
            self.go_to(self._rows[index].key)

    def action_page(self, by: int) -> None:
        """The cursor up or down by what the screen shows."""
        self.action_move(by * max(1, self.size.height - 2))

    def action_end(self, by: int) -> None:
        """The cursor to the first or last row."""
        self.action_move(by * len(self._rows))

    def action_choose(self) -> None:
        """Open the row."""
        if self._cursor is not None:
            self.post_message(self.Chosen(self, self._cursor))

    # -- mouse ------------------------------------------------------------------------------------------------------

    def _row_under(self, y: int) -> str | None:
        line = y - 1 + round(self.scroll_y)
        return self._rows[self._lines[line][0]].key if y > 0 and 0 <= line < len(self._lines) else None

    def on_click(self, event: events.Click) -> None:
        """One click moves the cursor or sorts, two open."""
        if event.y == 0:
            x = event.x - _MARK
            for placed in self._layout():
                if 0 <= x <= placed.width:
                    self.post_message(self.SortBy(self, placed.column.key))
                    return
                x -= placed.width + 1
            return
        key = self._row_under(event.y)
        if key is not None:
            self.go_to(key)
            if event.chain == 2:
                self.action_choose()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The row under the mouse is lit."""
        self._light(self._row_under(event.y))

    def on_leave(self) -> None:
        """No row is under the mouse."""
        self._light(None)

    def _light(self, key: str | None) -> None:
        if key != self._hover:
            before, self._hover = self._hover, key
            self._refresh_row(before)
            self._refresh_row(key)

    # -- drawing ----------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Throw away what was drawn."""
        self._strips.clear()

    def on_resize(self) -> None:
        """Columns are laid out anew."""
        self.forget()
        self.virtual_size = Size(self.size.width, len(self._lines) + 1)
        if self._cursor is not None:
            self.go_to(self._cursor)

    def on_focus(self) -> None:
        """The cursor's row is drawn as such."""
        self._refresh_row(self._cursor)

    def on_blur(self) -> None:
        """The cursor's row is drawn fainter."""
        self._refresh_row(self._cursor)

    def _layout(self) -> tuple[Placed, ...]:
        columns = self.size.width
        if self._placed[0] != columns:
            self._placed = (columns, tuple(layout(self._columns, max(1, columns - _MARK))))
        return self._placed[1]

    def render_line(self, y: int) -> Strip:
        """The header, or a line of a row."""
        columns, base = self.size.width, self.rich_style
        if y == 0:
            return self._header(columns)
        at = y - 1 + round(self.scroll_y)
        if at >= len(self._lines):
            text = self.empty if not self._rows and y == 2 else ""
            return self.strip((Cell("  "), Cell(text, "muted")), columns, base)
        index, sub = self._lines[at]
        row = self._rows[index]
        look = (columns, row.key == self._cursor, row.key == self._hover or self.has_focus)
        kept = self._strips.get((row.key, sub))
        if kept is not None and kept[0] is row and kept[1] == look:
            return kept[2]
        strip = self._draw(row, sub, columns, base)
        self._strips[(row.key, sub)] = (row, look, strip)
        return strip

    def _draw(self, row: Row, sub: int, columns: int, base: Style) -> Strip:
        under_cursor = row.key == self._cursor
        if under_cursor and self.has_focus:
            base = self.get_component_rich_style("grid--cursor")
        elif row.key == self._hover:
            base = self.get_component_rich_style("grid--hover")
        mark = Cell("▌ " if under_cursor else "  ", "mark")
        if sub:
            return self.strip((mark, *row.detail[sub - 1]), columns, base)
        segments = [Segment(mark.text[: max(0, columns)], base + self.role_style("mark"))]
        for number, placed in enumerate(self._layout()):
            if number:
                segments.append(Segment(" ", base))
            segments.extend(self._fit(row.cells.get(placed.column.key, ()), placed, base))
        return Strip(segments).adjust_cell_length(columns, base)

    def _fit(self, line: Line, placed: Placed, base: Style) -> list[Segment]:
        column, room = placed
        wide = sum(width(cell.text) for cell in line)
        if wide > room:
            if len(line) == 1:
                text = (cut_middle if column.middle else cut)(line[0].text, room)
                pad = " " * (room - width(text))
                return [Segment(text + pad, base + self.role_style(line[0].role))]
            return list(self.strip(line, room, base))
        out = [Segment(cell.text, base + self.role_style(cell.role)) for cell in line]
        if wide < room:
            gap = Segment(" " * (room - wide), base)
            out = [gap, *out] if column.right else [*out, gap]
        return out

    def _header(self, columns: int) -> Strip:
        style = self.get_component_rich_style("grid--header")
        segments = [Segment(" " * min(_MARK, columns), style)]
        for number, (column, room) in enumerate(self._layout()):
            if number:
                segments.append(Segment(" ", style))
            title = column.title
            if self.order.key == column.key:
                title = cut(title, room - 1) + ("▼" if self.order.backwards else "▲")
            title = cut(title, room)
            pad = " " * (room - width(title))
            segments.append(Segment(pad + title if column.right else title + pad, style))
        return Strip(segments).adjust_cell_length(columns, style)

    @property
    def text(self) -> str:
        """The row under the cursor as plain text, for copying."""
        if self._cursor is None:
            return ""
        row = self._rows[self._at[self._cursor]]
        cells = [plain(row.cells.get(placed.column.key, ())).strip() for placed in self._layout()]
        return "\n".join(["  ".join(cell for cell in cells if cell), *(plain(line) for line in row.detail)])
