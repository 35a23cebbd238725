"""Help: every key of the screen one came from, what is not possible now and why, and the words of the field."""

from __future__ import annotations

from collections.abc import Iterator

from textual.widget import Widget

from georep_tui.tui.actions import ACTIONS, GROUPS, Context, possible, shown_keys, why_not
from georep_tui.tui.screens.base import ConsoleScreen
from georep_tui.tui.widgets.roll import Roll
from georep_tui.view import signs
from georep_tui.view.glossary import STATES, TERMS
from georep_tui.view.text import Cell, Line, fit


class HelpScreen(ConsoleScreen):
    """All keys here and now."""

    NAME = "help"

    def __init__(self, about: Context, session_id: str = "", brick_id: str = "") -> None:
        super().__init__(session_id, brick_id)
        self.about = about
        self._width = 0

    def body(self) -> Iterator[Widget]:
        """One long page."""
        roll = Roll(id="page")
        roll.following = False
        roll.add_class("first")
        yield roll

    def draw(self, _now: float) -> None:
        """The page, laid out for the width."""
        if self._width != self.size.width:
            self._width = self.size.width
            self.query_one("#page", Roll).show(help_lines(self.about, self.console.config.keys, self.size.width - 3))


def help_lines(about: Context, keys: dict[str, str] | object, columns: int) -> list[Line]:
    """The help for a context, in lines of `columns` columns."""
    known = keys if isinstance(keys, dict) else {}
    lines: list[Line] = [(Cell(f"Keys of this screen ({about.screen})", "title"),)]
    for group, title in GROUPS.items():
        actions = [one for one in ACTIONS if one.group == group and possible(one, about)]
        if not actions:
            continue
        lines += [(), (Cell(title, "strong"),)]
        for action in actions:
            why = why_not(action, about)
            shown = shown_keys(action, known, all_of_them=True)
            lines += _wrapped(shown, 15, action.help, f" (not now: {why})" if why else "", columns)
    if about.read_only:
        lines += [(), (Cell("Read-only: whatever changes something is not offered.", "warning"),)]
    lines += [
        (),
        (Cell("Arrows, page up and down, home, end move; the mouse selects, two clicks open, a head sorts.", "muted"),),
    ]
    lines += [(), (Cell("Signs", "title"),)]
    for status, text in STATES:
        sign = signs.state(status)
        lines.append((Cell(f"  {sign.sign} ", sign.role), Cell(fit(status, 16), sign.role), Cell(text)))
    for verdict, text in (("warning", "needs a look"), ("critical", "the replica is not safe"),
                          ("unknown", "cannot be told, or too old to be believed")):  # fmt: skip
        sign = signs.verdict(verdict)
        lines.append((Cell(f"  {sign.sign} ", sign.role), Cell(fit(sign.word, 16), sign.role), Cell(text)))
    lines += [(), (Cell("Words", "title"),)]
    for term, text in TERMS:
        lines += _wrapped(term, 21, text, "", columns)
    return lines


def _wrapped(head: str, room: int, text: str, aside: str, columns: int) -> list[Line]:
    from georep_tui.view.text import wrap

    rest = max(20, columns - room - 2)
    lines: list[Line] = []
    for index, part in enumerate(wrap(text + aside, rest, 6)):
        label = Cell("  " + fit(head if not index else "", room), "accent")
        if aside and part.endswith(aside.strip()) and len(part) > len(aside):
            cut = len(part) - len(aside.strip())
            lines.append((label, Cell(part[:cut]), Cell(part[cut:], "muted")))
        else:
            lines.append((label, Cell(part)))
    return lines
