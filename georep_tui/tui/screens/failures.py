"""Failures of a session: grouped by reason, each with both sides' state; tried again or struck off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.widget import Widget

from georep_tui.tui.messages import Fetched
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.screens.dialogs import Typed
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.search import Search
from georep_tui.view.asks import where_lines
from georep_tui.view.failures import (
    COLUMNS,
    OPEN_AT_FIRST,
    Failed,
    failure_lines,
    failure_rows,
    group_lines,
    parse_failure,
)
from georep_tui.view.text import Cell, Line, escape
from georep_tui.view.units import plural

EVERY = 3.0
MOST = 1000


class FailuresScreen(ConsoleScreen):
    """The ledger."""

    NAME = "failures"
    EMPTY: ClassVar[str] = "no failures: everything that could be synced is synced"

    def __init__(self, session_id: str, brick_id: str = "") -> None:
        super().__init__(session_id, brick_id)
        self.failures: list[Failed] = []
        self.total = 0
        self.needle = ""
        self._opened: set[str] | None = None
        self._asked = 0.0
        self._error = ""
        self._count: int | None = None
        self._known = False

    def body(self) -> Iterator[Widget]:
        """What it is, the groups, the one selected."""
        yield Board(id="head")
        grid = Grid(COLUMNS, empty="asking the engine…", id="table")
        grid.add_class("first")
        yield grid
        yield Board(id="detail", classes="detail")
        yield Search()

    @property
    def grid(self) -> Grid:
        """The groups and failures."""
        return self.query_one("#table", Grid)

    @property
    def item(self) -> str | None:
        """The failure or group under the cursor."""
        return self.grid.cursor

    def draw(self, now: float) -> None:
        """Ask if something may have changed, and draw."""
        session = self.session
        if session is not None and (now - self._asked >= EVERY or session.failures != self._count):
            self._asked, self._count = now, session.failures
            self.ask()
        grid = self.grid
        if self._known:
            grid.empty = f"no answer: {escape(self._error)}" if self._error else self.EMPTY
        rows = failure_rows(self.failures, self._opened or (), now, self.needle)
        grid.show(rows)
        self.query_one("#head", Board).show([self._head()])
        self._draw_detail(now)

    def ask(self) -> None:
        """Ask for the ledger; a recording has none."""
        session = self.session
        if session is not None and self.console.replay is None:
            brick = {"brick": self.brick_id} if self.brick_id else {}
            name = f"failures:{self.session_id}:{self.brick_id}"
            self.console.orders.ask(name, "failures", {"session": session.name, "limit": MOST, **brick})
        elif session is not None:
            self._known, self._error = True, "a recording does not hold the ledger"

    def fetched(self, message: Fetched) -> None:
        """The ledger."""
        if message.name != f"failures:{self.session_id}:{self.brick_id}":
            return
        self._known, self._error = True, message.error or ""
        if isinstance(message.result, dict):
            self.failures = [parse_failure(doc) for doc in message.result.get("failures") or ()]
            self.total = int(message.result.get("total") or len(self.failures))
            if self._opened is None:
                few = len(self.failures) <= OPEN_AT_FIRST
                self._opened = {one.group for one in self.failures} if few else set()
        if self.is_current:
            self.tick(self.console.now())

    def _head(self) -> Line:
        if not self._known:
            return (Cell("looking into the ledger…", "muted"),)
        if self._error:
            # What the picture counts is still true; the list beneath is not the ledger.
            known = self.session.failures if self.session else None
            number = "an unknown number of failures" if known is None else plural(known, "failure")
            return (Cell(number, "unknown" if not known else "warning"), Cell(f"  ✖ {escape(self._error)}", "critical"))
        cells = [Cell(plural(self.total, "failure"), "warning" if self.total else "ok")]
        cells.append(Cell(f" in {plural(len({one.group for one in self.failures}), 'group')}", "muted"))
        if self.total > len(self.failures):
            cells.append(Cell(f" (the oldest {len(self.failures)} are shown)", "muted"))
        if self.needle:
            cells.append(Cell(f"  / {escape(self.needle)}", "accent"))
        return tuple(cells)

    def _draw_detail(self, now: float) -> None:
        key, zone = self.grid.cursor, self.console.picture.zone
        lines: list[Line] = []
        if key is not None and key.startswith("group:"):
            members = self.chosen()
            lines = group_lines(key.removeprefix("group:"), members, now)
        elif key is not None:
            lines = next((failure_lines(one, now, zone) for one in self.failures if one.id == key), [])
        self.query_one("#detail", Board).show(lines)

    def on_grid_moved(self) -> None:
        """Another one is selected."""
        super().on_grid_moved()
        self._draw_detail(self.console.now())

    def chosen(self) -> list[Failed]:
        """The failure under the cursor, or all of its group."""
        key = self.grid.cursor
        if key is None:
            return []
        if key.startswith("group:"):
            return [one for one in self.failures if one.group == key.removeprefix("group:")]
        return [one for one in self.failures if one.id == key]

    def copy_text(self) -> str:
        """All that is known of the selected ones."""
        return "\n".join(
            "\t".join((one.id, one.brick, one.path, one.operation, str(one.errno), one.message))
            for one in self.chosen()
        )

    # -- actions ----------------------------------------------------------------------------------------------------

    def on_grid_chosen(self, message: Grid.Chosen) -> None:
        """Open or close a group."""
        self.toggle(message.key)

    def do_open(self) -> None:
        """Open or close the group under the cursor."""
        if self.grid.cursor:
            self.toggle(self.grid.cursor)

    def toggle(self, key: str) -> None:
        """Open or close a group."""
        if key.startswith("group:"):
            self._opened = (self._opened or set()) ^ {key.removeprefix("group:")}
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
        self.grid.focus()

    def do_retry(self) -> None:
        """Try the selected ones again."""
        session, chosen = self.session, self.chosen()
        if session and chosen:
            words = f"retry {escape(chosen[0].path)}" if len(chosen) == 1 else f"retry {len(chosen)} failures"
            self.console.order(session, "retry", words, ids=[one.id for one in chosen])
            self._asked = 0.0

    def do_retry_all(self) -> None:
        """Try all again."""
        session = self.session
        if session:
            self.console.order(session, "retry", f"retry all failures of {escape(session.name)}", ids=None)
            self._asked = 0.0

    def do_dismiss(self) -> None:
        """Strike the selected ones off, with a reason."""
        session, chosen = self.session, self.chosen()
        if not session or not chosen:
            return
        what = plural(len(chosen), "failure")
        bricks = [brick for brick in session.bricks if brick.brick in {one.brick for one in chosen}]
        lines = [
            *where_lines(session, bricks or None), (),
            (Cell(f"{escape(chosen[0].path)}{f' and {len(chosen) - 1} more' if len(chosen) > 1 else ''}", "strong"),),
            (Cell("They stay different on the secondary and no longer count as failures.", "warning"),),
            (Cell("Why? The reason is logged with your name.", "muted"),),
        ]  # fmt: skip
        ids = [one.id for one in chosen]
        ask = Typed(f"Dismiss {what}?", lines, placeholder="reason")
        self.app.push_screen(ask, lambda reason: self._dismissed(ids, reason))

    def _dismissed(self, ids: list[str], reason: str | None) -> None:
        session = self.session
        if session and reason:
            self.console.order(session, "dismiss", f"dismiss {plural(len(ids), 'failure')}: {escape(reason)}",
                               ids=ids, reason=reason)  # fmt: skip
            self._asked = 0.0
