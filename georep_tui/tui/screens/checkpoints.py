"""The checkpoint of a session, brick by brick, and those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.widget import Widget

from georep_tui.tui.messages import Fetched
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.panel import Panel
from georep_tui.view.checkpoints import COLUMNS, checkpoint_row, past_line
from georep_tui.view.sessions import checkpoint_line
from georep_tui.view.snapshot import Brick
from georep_tui.view.table import Column, arrange
from georep_tui.view.text import Cell

EVERY = 5.0


class CheckpointsScreen(ConsoleScreen):
    """The checkpoint."""

    NAME = "checkpoints"
    COLUMNS: ClassVar[Sequence[Column]] = COLUMNS

    def __init__(self, session_id: str, _brick_id: str = "") -> None:
        super().__init__(session_id)
        self._asked = 0.0

    def body(self) -> Iterator[Widget]:
        """The checkpoint, the bricks, what was before."""
        yield Board(id="head")
        grid = Grid(self.COLUMNS, empty="no bricks", id="table")
        grid.add_class("first")
        yield grid
        panel = Panel("checkpoints before", id="past")
        panel.roll.following = False
        yield panel

    @property
    def brick(self) -> Brick | None:
        """The brick under the cursor."""
        return self.console.picture.brick(self.session_id, self.query_one("#table", Grid).cursor or "")

    def draw(self, now: float) -> None:
        """Draw what changed."""
        picture, session = self.console.picture, self.session
        if session is None or picture.snapshot is None:
            return
        snapshot = picture.snapshot
        self.query_one("#head", Board).show(
            [
                (
                    Cell("checkpoint ", "muted"),
                    *checkpoint_line(
                        session, now, picture.zone, acting=not (self.console.read_only or self.console.replay)
                    ),
                )
            ]
        )
        grid = self.query_one("#table", Grid)
        limits = picture.limits_of(session)
        rows = [checkpoint_row(one, session, snapshot, now, limits, picture.zone) for one in session.bricks]
        grid.show(arrange(rows, keep=grid.keys if self.console.holding else ()))
        if now - self._asked >= EVERY and self.console.replay is None:
            self._asked = now
            self.console.orders.ask(f"checkpoints:{self.session_id}", "checkpoints", {"session": session.name})

    def fetched(self, message: Fetched) -> None:
        """The checkpoints of before, where the engine keeps them."""
        if message.name != f"checkpoints:{self.session_id}":
            return
        found = message.result.get("checkpoints") if isinstance(message.result, dict) else message.result
        now, zone = self.console.now(), self.console.picture.zone
        docs = [doc for doc in found if isinstance(doc, dict)] if isinstance(found, list) else []
        panel = self.query_one("#past", Panel)
        panel.roll.empty = "none before this one" if message.error is None else "this engine does not keep them"
        panel.show([past_line(doc, now, zone) for doc in reversed(docs)])
