"""Deletes the guard holds: seen whole before they are answered; the answer is bound to what was seen."""

from __future__ import annotations

from collections.abc import Iterator

from textual.widget import Widget

from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.screens.dialogs import Typed, confirm
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.roll import Roll
from georep_tui.view.asks import where_lines
from georep_tui.view.holds import COLUMNS, count_wrong, done, held_lines, held_row, what
from georep_tui.view.snapshot import Brick
from georep_tui.view.table import arrange
from georep_tui.view.text import Cell, escape
from georep_tui.view.units import count, size

_LISTED = (Cell("One failure says so, with the list; retrying it asks again. Everything else goes on.", "muted"),)
STAYS = {
    "replace": ((Cell("They stay on the secondary as they are, other than the primary's."),), _LISTED),
    "remove": ((Cell("They stay on the secondary, though the primary does not have them."),), _LISTED),
    "take-over": ((Cell("The secondary stays as it is, and nothing is replicated there."),),),
}
"""What becomes of what is rejected, by kind; deletes are in the dialog itself."""


class HeldScreen(ConsoleScreen):
    """What is held."""

    NAME = "held"

    def __init__(self, session_id: str, brick_id: str = "") -> None:
        super().__init__(session_id)
        self._first = brick_id

    def body(self) -> Iterator[Widget]:
        """The bricks with something held, and what it is."""
        grid = Grid(COLUMNS, empty="nothing is held", id="table")
        grid.add_class("first")
        yield grid
        roll = Roll(empty="", id="sample")
        roll.following = False
        yield roll

    @property
    def brick(self) -> Brick | None:
        """The brick under the cursor."""
        return self.console.picture.brick(self.session_id, self.query_one("#table", Grid).cursor or "")

    def draw(self, now: float) -> None:
        """Draw what is held."""
        session = self.session
        grid = self.query_one("#table", Grid)
        bricks = session.bricks if session else ()
        rows = [held_row(brick, brick.held, now) for brick in bricks if brick.held is not None]
        grid.show(arrange(rows, keep=grid.keys if self.console.holding else ()))
        if self._first and grid.go_to(self._first):
            self._first = ""
        self._draw_sample(now)

    def _draw_sample(self, now: float) -> None:
        brick, roll = self.brick, self.query_one("#sample", Roll)
        lines = held_lines(brick, brick.held, now, self.console.picture.zone) if brick and brick.held else []
        if lines != roll.lines:
            roll.show(lines)

    def on_grid_moved(self) -> None:
        """Another one is selected."""
        super().on_grid_moved()
        self._draw_sample(self.console.now())

    # -- actions ----------------------------------------------------------------------------------------------------

    def do_approve(self) -> None:
        """Let the deletes happen, if their count is typed."""
        session, brick = self.session, self.brick
        if session is None or brick is None or brick.held is None:
            return
        held = brick.held
        lines = [
            *where_lines(session, [brick]), (),
            (Cell(f"{count(held.deletes)} objects ({size(held.bytes)}) will be {done(held)} on the secondary.", "critical"),),
            (Cell(f"Type {held.deletes} to let this happen. If the batch changes, it asks anew.", "muted"),),
        ]  # fmt: skip
        ask = Typed(f"Approve {what(held)}?", lines, placeholder="the number of deletes",
                    check=lambda text: count_wrong(text, held))  # fmt: skip
        self.app.push_screen(ask, lambda typed: self._answer("approve", brick, held.id) if typed else None)

    def do_reject(self) -> None:
        """Keep what would be deleted, after asking."""
        session, brick = self.session, self.brick
        if session is None or brick is None or brick.held is None:
            return
        held = brick.held
        lines = [
            *where_lines(session, [brick]), (),
            *STAYS.get(held.kind, (
                (Cell(f"{count(held.deletes)} objects stay on the secondary though the primary no longer has them."),),
                (Cell("They are listed as failures; there each can still be deleted (retry) or kept (dismiss).", "muted"),),
            )),
        ]  # fmt: skip
        ask = confirm(f"Reject {what(held)}?", lines, "reject them")
        self.app.push_screen(ask, lambda yes: self._answer("reject", brick, held.id) if yes else None)

    def _answer(self, method: str, brick: Brick, ident: str) -> None:
        session = self.session
        if session is not None:
            self.console.order(session, method, f"{method} held deletes {escape(ident)} of {escape(brick.label)}",
                               brick=brick.id, id=ident)  # fmt: skip
