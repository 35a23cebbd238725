"""The engine's log: follow it, search it, by brick and level."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from textual.widget import Widget

from georep_tui.tui.messages import Fetched
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.screens.dialogs import Pick
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.roll import Roll
from georep_tui.tui.widgets.search import Search
from georep_tui.view.labels import short_labels
from georep_tui.view.logs import LEVELS, LogLine, log_line, log_lines, parse_log_line
from georep_tui.view.text import Cell, Line, escape
from georep_tui.view.units import plural

KEPT = 5000
EVERY = 0.9


class LogScreen(ConsoleScreen):
    """The log of a session."""

    NAME = "log"

    def __init__(self, session_id: str, brick_id: str = "") -> None:
        super().__init__(session_id, brick_id)
        self.lines: deque[LogLine] = deque(maxlen=KEPT)
        self.level = "debug"
        self.only = ""
        self.needle = ""
        self.wrapped = True
        self._width = 0
        self._asked = 0.0
        self._last = 0
        self._error = ""
        self._began = False

    def body(self) -> Iterator[Widget]:
        """What is shown, the lines, the search."""
        yield Board(id="head")
        roll = Roll(bound=KEPT, empty="asking the engine…", id="lines")
        roll.add_class("first")
        yield roll
        yield Search("search")

    @property
    def roll(self) -> Roll:
        """The lines."""
        return self.query_one("#lines", Roll)

    def draw(self, now: float) -> None:
        """Ask for what is new, and say what is shown."""
        session = self.session
        if not self._began and self.brick is not None:
            self.only = self.brick.brick
        self._began = True
        if self.wrapped and self.lines and self._width != self.size.width:
            self._show_again()
        if session is not None and now - self._asked >= EVERY and self.console.replay is None:
            self._asked = now
            self.console.orders.ask(f"log:{self.session_id}", "logs", {
                "session": session.name, "since": self._last, "limit": 1000,
            })  # fmt: skip
        self._say()

    def _say(self) -> None:
        roll = self.roll
        cells = [Cell("following" if roll.following else "held here", "ok" if roll.following else "warning")]
        cells.append(Cell(f"  level {self.level} and worse" if self.level != "debug" else "  all levels", "muted"))
        cells.append(Cell(f"  brick {escape(self.only)}" if self.only else "  all bricks", "muted"))
        cells.append(Cell(f"  {plural(sum(map(self._wanted, self.lines)), 'line')}", "muted"))
        if not self.wrapped:
            cells.append(Cell("  long lines are cut", "muted"))
        if self.needle:
            cells.append(Cell(f"  / {escape(self.needle)} (n next, N previous)", "accent"))
        if self._error:
            cells.append(Cell(f"  ✖ {escape(self._error)}", "critical"))
        if self.console.replay is not None:
            cells.append(Cell("  a recording does not hold the log", "warning"))
        self.query_one("#head", Board).show([tuple(cells)])

    def fetched(self, message: Fetched) -> None:
        """The next lines."""
        if message.name != f"log:{self.session_id}":
            return
        self._error = message.error or ""
        if isinstance(message.result, dict):
            lines = [parse_log_line(doc) for doc in message.result.get("lines") or ()]
            new = [line for line in lines if line.number > self._last]
            if lines and lines[-1].number < self._last:
                # The engine was started anew and counts from one.
                new, self._last = lines, 0
            if new:
                self._last = new[-1].number
                self.lines.extend(new)
                self.roll.add(self._drawn(new))
            self.roll.empty = "no lines"
        if self.is_current:
            self._say()

    def _wanted(self, line: LogLine) -> bool:
        return LEVELS.index(line.level) >= LEVELS.index(self.level) and self.only in ("", line.brick)

    def _show_again(self) -> None:
        self._width = self.size.width
        self.roll.show(self._drawn(self.lines))
        self._say()

    def _drawn(self, lines: Iterable[LogLine]) -> Iterator[Line]:
        session, zone = self.session, self.console.picture.zone
        short = short_labels(session) if session else {}
        labels = {brick.brick: short.get(brick.id, "") for brick in session.bricks} if session and not self.only else {}
        for line in lines:
            if self._wanted(line):
                label = "" if self.only else labels.get(line.brick, line.brick)
                if self.wrapped:
                    yield from log_lines(line, self.size.width - 3, label=label, zone=zone)
                else:
                    yield log_line(line, label=label, zone=zone)

    def on_roll_followed(self) -> None:
        """Following or not."""
        self._say()

    # -- actions ----------------------------------------------------------------------------------------------------

    def do_search(self) -> None:
        """Type what to search for."""
        self.query_one(Search).open()

    def on_search_typed(self, message: Search.Typed) -> None:
        """Go to the newest match as it is typed."""
        self.needle = message.text
        if self.needle:
            self.roll.find(self.needle, -1)
        self._say()

    def on_search_left(self) -> None:
        """Back to the lines."""
        self.roll.focus()

    def do_next_match(self) -> None:
        """The next match."""
        self._search(1)

    def do_previous(self) -> None:
        """The match before."""
        self._search(-1)

    def _search(self, step: int) -> None:
        if not self.needle:
            self.do_search()
        elif not self.roll.find(self.needle, step):
            self.notify(f"no line has {self.needle!r}", timeout=3, markup=False)

    def do_wrap(self) -> None:
        """Long lines whole, or cut."""
        self.wrapped = not self.wrapped
        self._show_again()

    def do_level(self) -> None:
        """The next level."""
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self._show_again()

    def do_log_brick(self) -> None:
        """Choose a brick."""
        session = self.session
        bricks = session.bricks if session else ()
        choices = [("*", "all bricks"), *((brick.brick, escape(brick.label)) for brick in bricks)]
        self.app.push_screen(Pick("Lines of", choices, self.only or "*"), self._chosen)

    def _chosen(self, path: str | None) -> None:
        if path:
            self.only = "" if path == "*" else path
            self._show_again()

    def do_follow(self) -> None:
        """Stay at the newest line, or here."""
        self.roll.following = not self.roll.following
        self._say()
