"""A titled roll. On a narrow screen it is one line with a note, and opens when it has the focus."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import Vertical

from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.roll import Roll
from georep_tui.view.text import Cell, Line, escape


class Panel(Vertical):
    """A title with a note, and lines beneath."""

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__(id=id, classes="panel")
        self.panel_title = title
        self.roll = Roll(id=f"{id}-roll", bound=500)
        self._head = Board([(Cell(title, "title"),)], classes="panel-title")
        self._note = ""

    def compose(self) -> ComposeResult:
        """Title, then lines."""
        yield self._head
        yield self.roll

    def say(self, note: str) -> None:
        """What the title says beside its name."""
        if note != self._note:
            self._note = note
            self._head.show([(Cell(f"{self.panel_title}  ", "title"), Cell(escape(note), "muted"))])

    def show(self, lines: Iterable[Line]) -> None:
        """Show these lines instead, if they differ."""
        new = list(lines)
        if new != self.roll.lines:
            self.roll.show(new)

    def add(self, lines: Iterable[Line]) -> None:
        """Append lines."""
        self.roll.add(lines)
