"""What all our widgets share: lines of cells drawn as strips, in the styles the theme gives to roles."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from georep_tui.view.signs import ROLES
from georep_tui.view.text import Line, cut, width

ROLE_CLASSES = frozenset(f"role--{role}" for role in ROLES)


class Drawn(Widget):
    """A widget that draws lines of cells. Styles of roles come from the style sheet (`.role--ok` and so on)."""

    COMPONENT_CLASSES = set(ROLE_CLASSES)  # noqa: RUF012

    _role_styles: dict[str, Style] | None = None

    def role_style(self, role: str) -> Style:
        """The style of a role: colour and weight, without a background."""
        if self._role_styles is None:
            _, ground = self.background_colors
            self._role_styles = {}
            for name in ROLES:
                styles = self.get_component_styles(f"role--{name}")
                style = self.get_component_rich_style(f"role--{name}", partial=True).without_color
                if styles.has_rule("color"):
                    colour = ground.blend(styles.color, styles.color.a, 1.0)
                    style += Style(color=colour.rich_color)
                self._role_styles[name] = style
        return self._role_styles.get(role) or Style.null()

    def notify_style_update(self) -> None:
        """Forget styles, the theme may have changed."""
        super().notify_style_update()
        self._role_styles = None
        self.forget()

    def forget(self) -> None:
        """Throw away what was drawn."""

    def strip(self, line: Line, columns: int, base: Style) -> Strip:
        """A line in exactly `columns` columns; what is too long ends in "…"."""
        segments: list[Segment] = []
        left = columns
        for index, cell in enumerate(line):
            text = cell.text
            wide = width(text)
            last = index == len(line) - 1
            if wide > left or (wide == left and not last and any(more.text for more in line[index + 1 :])):
                text = cut(text if wide > left else text + "…", left)
                wide = width(text)
                segments.append(Segment(text, base + self.role_style(cell.role)))
                left -= wide
                break
            segments.append(Segment(text, base + self.role_style(cell.role)))
            left -= wide
        if left > 0:
            segments.append(Segment(" " * left, base))
        return Strip(segments, columns)
