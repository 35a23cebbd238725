"""Options of a session: seen, and changed while it runs."""

from __future__ import annotations

from collections.abc import Iterator

from textual.widget import Widget

from georep_tui.tui.messages import Fetched
from georep_tui.tui.screens.dialogs import Typed
from georep_tui.tui.screens.table import TableScreen
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.view.asks import where_lines
from georep_tui.view.options import COLUMNS, Setting, parse_setting, setting_lines, setting_row
from georep_tui.view.table import Row
from georep_tui.view.text import Cell, escape

EVERY = 5.0


class OptionsScreen(TableScreen):
    """The options."""

    NAME = "options"
    COLUMNS = COLUMNS
    EMPTY = "asking the engine…"

    def __init__(self, session_id: str, _brick_id: str = "") -> None:
        super().__init__(session_id)
        self.settings: dict[str, Setting] = {}
        self._asked = 0.0

    def body(self) -> Iterator[Widget]:
        """The options, and the one selected."""
        yield Board(id="head")
        yield from self.table()
        yield Board(id="detail", classes="detail")

    @property
    def item(self) -> str | None:
        """The option under the cursor."""
        return self.grid.cursor

    def rows(self, _now: float) -> list[Row]:
        """A row for each option."""
        return [setting_row(one, place) for place, one in enumerate(self.settings.values())]

    def draw(self, now: float) -> None:
        """Ask, and draw."""
        session = self.session
        if session is not None and now - self._asked >= EVERY and self.console.replay is None:
            self._asked = now
            self.console.orders.ask(f"options:{self.session_id}", "config_get", {"session": session.name})
        self.draw_table(now)
        self.query_one("#head", Board).show([(Cell("what is not at its default stands out", "muted"),)])
        self._draw_detail()

    def _draw_detail(self) -> None:
        one = self.settings.get(self.grid.cursor or "")
        self.query_one("#detail", Board).show(setting_lines(one) if one else [])

    def on_grid_moved(self) -> None:
        """Another one is selected."""
        super().on_grid_moved()
        self._draw_detail()

    def fetched(self, message: Fetched) -> None:
        """The options."""
        if message.name != f"options:{self.session_id}":
            return
        if isinstance(message.result, dict):
            settings = [parse_setting(doc) for doc in message.result.get("options") or ()]
            self.settings = {one.name: one for one in settings}
        elif message.error:
            self.grid.empty = f"no answer: {escape(message.error)}"
        if self.is_current:
            self.tick(self.console.now())

    def on_grid_chosen(self, _message: Grid.Chosen) -> None:
        """Change the option."""
        self.console.action_do("set_option")

    def do_set_option(self) -> None:
        """Ask for a value and set it."""
        session, one = self.session, self.settings.get(self.grid.cursor or "")
        if session is None or one is None:
            return
        effect = "takes effect at once" if one.live else "restarts the workers; nothing is lost"
        lines = [*where_lines(session, ()), (), *setting_lines(one), (Cell(effect, "" if one.live else "warning"),)]
        ask = Typed(f"Set {escape(one.name)}", lines, value=one.value, placeholder=one.allowed)
        self.app.push_screen(ask, lambda value: self._set(one, value))

    def _set(self, one: Setting, value: str | None) -> None:
        session = self.session
        if session is not None and value and value != one.value:
            self.console.order(session, "config_set", f"set {escape(one.name)} = {escape(value)}", name=one.name,
                               value=value)  # fmt: skip
            self._asked = 0.0
