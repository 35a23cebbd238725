"""A brick: its numbers, the batch going on with every file in flight, and what it did over the last hours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.containers import Container
from textual.widget import Widget

from georep_tui.tui.messages import Fetched
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.widgets.board import Board
from georep_tui.tui.widgets.panel import Panel
from georep_tui.view import chronicle
from georep_tui.view.head import batch_lines, brick_head
from georep_tui.view.logs import log_lines, parse_log_line
from georep_tui.view.text import Cell, Line
from georep_tui.view.verdict import judge_brick

LOG_EVERY = 2.0
LOG_LINES = 200


class BrickScreen(ConsoleScreen):
    """One brick. Narrow terminals open one panel at a time, wide ones all."""

    NAME = "brick"
    PANELS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("flight", "in flight"), ("batches", "batches"), ("crawls", "crawls"), ("restarts", "restarts"), ("tail", "log"),
    )  # fmt: skip

    def __init__(self, session_id: str, brick_id: str) -> None:
        super().__init__(session_id, brick_id)
        self._asked = 0.0
        self._last_line = 0

    def body(self) -> Iterator[Widget]:
        """The head, the batch, the panels."""
        yield Board(id="head")
        yield Board(id="batch")
        with Container(id="panels"):
            for name, title in self.PANELS:
                panel = Panel(title, id=name)
                panel.roll.following = name == "tail"
                if name == "tail":
                    panel.roll.add_class("first")
                else:
                    panel.roll.empty = ""  # the title says it
                yield panel

    def draw(self, now: float) -> None:
        """Draw what changed."""
        picture, brick = self.console.picture, self.brick
        if brick is None or picture.snapshot is None:
            self.query_one("#head", Board).show([(Cell("this brick is no longer there (esc goes back)", "warning"),)])
            return
        columns, session = self.size.width, self.session
        limits = picture.limits_of(session) if session else picture.limits
        judged = judge_brick(brick, picture.snapshot.source(brick.node), now, limits)
        reasons = 1 if self.size.height < 30 else 4
        self.query_one("#head", Board).show(brick_head(
            brick, judged, now, limits, rates=picture.rates(brick.id), lags=picture.lags(brick.id),
            columns=columns, zone=picture.zone, reasons=reasons,
        ))  # fmt: skip
        self.query_one("#batch", Board).show(batch_lines(brick, columns, stale=judged.stale is not None))
        self._fill("flight", chronicle.flight_lines(brick, self._room("flight")), chronicle.flight_note(brick))
        self._fill("batches", chronicle.batch_history(brick, picture.zone), chronicle.batches_note(brick))
        self._fill(
            "crawls", chronicle.crawl_history(brick, now, self._room("crawls"), picture.zone), chronicle.crawls_note(brick, now)
        )
        self._fill("restarts", chronicle.restart_history(brick, now, picture.zone), chronicle.restarts_note(brick))
        if now - self._asked >= LOG_EVERY and not self.console.picture.error:
            self._asked = now
            self.console.orders.ask(f"tail:{self.brick_id}", "logs", {
                "session": session.name if session else "", "brick": brick.brick, "since": self._last_line,
                "limit": LOG_LINES,
            })  # fmt: skip

    def _room(self, name: str) -> int:
        """Columns of a panel: half of a wide screen's, where they stand side by side."""
        return self.query_one(f"#{name}", Panel).size.width or self.size.width

    def _fill(self, name: str, lines: list[Line], note: str) -> None:
        panel = self.query_one(f"#{name}", Panel)
        panel.show(lines)
        panel.say(note)

    def fetched(self, message: Fetched) -> None:
        """The log's next lines."""
        if message.name != f"tail:{self.brick_id}" or not isinstance(message.result, dict):
            return
        zone = self.console.picture.zone
        lines = [parse_log_line(doc) for doc in message.result.get("lines") or ()]
        new = [line for line in lines if line.number > self._last_line]
        if new:
            self._last_line = new[-1].number
            panel = self.query_one("#tail", Panel)
            panel.add(part for line in new for part in log_lines(line, self._room("tail") - 3, zone=zone))
            panel.say(new[-1].text)
