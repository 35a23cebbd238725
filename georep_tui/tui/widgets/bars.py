"""The bars above and below every screen: where one is, how old the picture is, and the keys that work here and now."""

from __future__ import annotations

from collections.abc import Mapping

from georep_tui.tui.actions import ALWAYS, BY_ID, FOOTER, REPLAY, Context, possible, shown_keys, why_not
from georep_tui.tui.widgets.board import Board
from georep_tui.view.text import Cell, Line, cut, width

_LAST = ("help", "palette", "quit")


class TopBar(Board):
    """`georep-tui › web › m1:/srv` on the left, state of the connection and time on the right."""

    DEFAULT_CSS = "TopBar { height: 1; dock: top; }"

    def show_place(self, crumbs: list[str], right: Line) -> None:
        """Show where one is; the right side stays whole, the left is cut."""
        room = max(0, self.size.width - sum(width(cell.text) for cell in right) - 2)
        path = cut(" › ".join(crumbs), room)
        gap = " " * max(0, self.size.width - width(path) - sum(width(cell.text) for cell in right) - 1)
        self.show([(Cell(path, "title"), Cell(gap), *right)])


class KeyBar(Board):
    """The keys of the screen, the most useful first, as many as fit; what is not possible now is dim."""

    DEFAULT_CSS = "KeyBar { height: 1; dock: bottom; }"

    def show_keys(self, context: Context, keys: Mapping[str, str]) -> None:
        """Show the keys for a context."""
        replay = REPLAY if context.replay else ()
        wanted = [BY_ID[name] for name in (*ALWAYS, *replay, *FOOTER.get(context.screen, ()))]
        room, chosen = self.size.width, []
        # What is always there comes first into the room, and stands last in the line.
        for action in wanted:
            need = width(shown_keys(action, keys)) + 1 + width(action.label) + 2
            if possible(action, context) and need <= room + 2:
                chosen.append(action)
                room -= need
        chosen.sort(key=lambda action: _LAST.index(action.id) if action.id in _LAST else -1)
        line: list[Cell] = []
        for action in chosen:
            dim = why_not(action, context) is not None
            line.append(Cell(f"{'  ' if line else ''}{shown_keys(action, keys)} ", "muted" if dim else "accent"))
            line.append(Cell(action.label, "muted" if dim else ""))
        self.show([tuple(line)])
