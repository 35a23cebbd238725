"""A block of lines without a cursor: heads of screens, summaries, the bars above and below."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region, Size
from textual.strip import Strip

from georep_tui.tui.widgets.drawn import Drawn
from georep_tui.view.text import Line, plain, width


class Board(Drawn):
    """Lines from the top, as many as its height shows. Only lines that changed are drawn again."""

    DEFAULT_CSS = "Board { height: auto; width: 1fr; }"

    def __init__(self, lines: Sequence[Line] = (), *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: tuple[Line, ...] = tuple(lines)
        self._strips: dict[tuple[int, int], tuple[Line, Strip]] = {}

    @property
    def lines(self) -> tuple[Line, ...]:
        """What is shown."""
        return self._lines

    @property
    def text(self) -> str:
        """What is shown, as plain text."""
        return "\n".join(plain(line) for line in self._lines)

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines from now on."""
        new, old = tuple(lines), self._lines
        if new == old:
            return
        self._lines = new
        wide = self.styles.width
        if wide is not None and wide.is_auto and _widest(new) != _widest(old):
            self._strips.clear()
            self.refresh(layout=True)
            return
        if len(new) != len(old):
            self._strips.clear()
            self.refresh(layout=self.styles.height is not None and self.styles.height.is_auto)
            return
        for y, (line, before) in enumerate(zip(new, old, strict=True)):
            if line != before:
                self.refresh(Region(0, y, self.size.width, 1))

    def forget(self) -> None:
        """Throw away what was drawn."""
        self._strips.clear()

    def get_content_width(self, container: Size, viewport: Size) -> int:  # noqa: ARG002
        """As wide as its widest line."""
        return _widest(self._lines)

    def get_content_height(self, _container: Size, _viewport: Size, _width: int) -> int:
        """As high as it has lines."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One line."""
        columns, base = self.size.width, self.rich_style
        if y >= len(self._lines):
            return Strip.blank(columns, base)
        line = self._lines[y]
        kept = self._strips.get((y, columns))
        if kept is not None and kept[0] == line:
            return kept[1]
        strip = self.strip(line, columns, base)
        self._strips[(y, columns)] = (line, strip)
        return strip


def _widest(lines: Sequence[Line]) -> int:
    return max((sum(width(cell.text) for cell in line) for line in lines), default=0)
