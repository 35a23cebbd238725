"""A roll of lines that grows at its end: events and logs. Bounded; follows its end until a person scrolls up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rich.style import Style
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from georep_tui.tui.widgets.drawn import ROLE_CLASSES, Drawn
from georep_tui.view.text import Cell, Line, plain


class Roll(Drawn, ScrollView, can_focus=True):
    """Lines, the newest last; at most `bound` are kept."""

    COMPONENT_CLASSES = {*ROLE_CLASSES, "roll--found"}  # noqa: RUF012
    DEFAULT_CSS = "Roll { height: 1fr; overflow-x: hidden; }"
    BINDINGS = [  # noqa: RUF012
        Binding("up", "roll(-1)", "up", show=False),
        Binding("down", "roll(1)", "down", show=False),
        Binding("pageup", "page_roll(-1)", "page up", show=False),
        Binding("pagedown", "page_roll(1)", "page down", show=False),
        Binding("home", "to_end(False)", "oldest", show=False),
        Binding("end", "to_end(True)", "newest", show=False),
    ]

    class Followed(Message):
        """Following was switched on or off."""

        def __init__(self, roll: Roll) -> None:
            super().__init__()
            self.roll = roll

    def __init__(self, *, bound: int = 2000, empty: str = "nothing yet", id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: deque[Line] = deque(maxlen=bound)
        self._follow = True
        self._found: int | None = None
        self.empty = empty

    @property
    def following(self) -> bool:
        """Does it stay at its newest line?"""
        return self._follow

    @following.setter
    def following(self, follow: bool) -> None:
        if follow != self._follow:
            self._follow = follow
            self.post_message(self.Followed(self))
        if follow:
            self.scroll_to(y=self._bottom(), animate=False, force=True)

    @property
    def lines(self) -> list[Line]:
        """All lines kept."""
        return list(self._lines)

    @property
    def text(self) -> str:
        """The lines in view as plain text, for copying."""
        top = round(self.scroll_y)
        return "\n".join(plain(line).rstrip() for line in list(self._lines)[top : top + self.size.height])

    def add(self, lines: Iterable[Line]) -> None:
        """Append lines."""
        new = list(lines)
        if not new:
            return
        dropped = max(0, len(self._lines) + len(new) - (self._lines.maxlen or 0))
        self._lines.extend(new)
        self._grown(dropped)

    def show(self, lines: Iterable[Line]) -> None:
        """Show these lines instead."""
        self._lines.clear()
        self._lines.extend(lines)
        self._found = None
        self._grown(0)

    def _grown(self, dropped: int) -> None:
        self.virtual_size = Size(self.size.width, len(self._lines))
        if self._follow:
            self.scroll_to(y=self._bottom(), animate=False, force=True)
        elif dropped:
            self.scroll_to(y=max(0, self.scroll_y - dropped), animate=False, force=True)
        self.refresh()

    def _bottom(self) -> int:
        return max(0, len(self._lines) - self.size.height)

    def on_resize(self) -> None:
        """Stay at the end if following."""
        self.virtual_size = Size(self.size.width, len(self._lines))
        if self._follow:
            self.scroll_to(y=self._bottom(), animate=False, force=True)

    def find(self, needle: str, step: int) -> bool:
        """Go to the next (1) or previous (-1) line with `needle` in it, from the one found last; False if none."""
        texts = [plain(line).lower() for line in self._lines]
        if not needle or not texts:
            return False
        start = self._found if self._found is not None else (round(self.scroll_y) if step > 0 else len(texts))
        for distance in range(1, len(texts) + 1):
            at = (start + distance * step) % len(texts)
            if needle.lower() in texts[at]:
                self._found = at
                self.following = False
                self.scroll_to(y=max(0, at - self.size.height // 2), animate=False, force=True)
                self.refresh()
                return True
        return False

    def action_roll(self, by: int) -> None:
        """Scroll by lines; at the end it follows again."""
        self._roll_to(round(self.scroll_y) + by)

    def action_page_roll(self, by: int) -> None:
        """Scroll by what the screen shows."""
        self._roll_to(round(self.scroll_y) + by * max(1, self.size.height - 1))

    def action_to_end(self, newest: bool) -> None:
        """To the newest line, or the oldest."""
        self._roll_to(self._bottom() if newest else 0)

    def _roll_to(self, y: int) -> None:
        y = max(0, min(self._bottom(), y))
        self.following = y >= self._bottom()
        self.scroll_to(y=y, animate=False, force=True)

    def on_mouse_scroll_up(self) -> None:
        """Scrolling up ends following."""
        self.following = self._bottom() == 0

    def render_line(self, y: int) -> Strip:
        """One line."""
        base: Style = self.rich_style
        at = y + round(self.scroll_y)
        if at >= len(self._lines):
            text = self.empty if not self._lines and y == 0 else ""
            return self.strip((Cell(text, "muted"),), self.size.width, base)
        if at == self._found:
            base = self.get_component_rich_style("roll--found")
        return self.strip(self._lines[at], self.size.width, base)
