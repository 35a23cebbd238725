"""Questions: yes or no, a line of text, a choice. All begin at the harmless answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList
from textual.widgets.option_list import Option

from georep_tui.tui.widgets.board import Board
from georep_tui.view.text import Cell, Line

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer], Generic[Answer]):
    """A box over the screen; esc is the harmless answer."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "harmless", "cancel", show=False)]
    NO: Answer

    def __init__(self, title: str, lines: Sequence[Line] = ()) -> None:
        super().__init__()
        self.box_title = title
        self.box_lines = list(lines)

    def compose(self) -> ComposeResult:
        """A title, what it is about, what can be answered."""
        with Vertical(classes="box"):
            yield Board([(Cell(self.box_title, "title"),), ()], classes="box-title")
            yield Board(self.box_lines, classes="box-text")
            yield from self.answers()

    def answers(self) -> ComposeResult:
        """What can be answered."""
        yield from ()

    def action_harmless(self) -> None:
        """Esc."""
        self.dismiss(self.NO)


class Choose(Dialog[str]):
    """A few buttons; the first is the harmless one and has the focus. Each answers with its key, too."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
    ]
    NO = ""

    def __init__(self, title: str, lines: Sequence[Line], choices: Sequence[tuple[str, str, str]]) -> None:
        """`choices` are (answer, label, variant); the first is the harmless one."""
        super().__init__(title, lines)
        self.choices = list(choices)

    def answers(self) -> ComposeResult:
        """The buttons."""
        with Horizontal(classes="answers"):
            for index, (answer, label, variant) in enumerate(self.choices):
                button = Button(label, id=f"answer-{answer or 'no'}", compact=True)
                button.add_class(f"-{variant}" if variant else "-plain")
                if not index:
                    button.add_class("first")
                yield button

    def on_mount(self) -> None:
        """The focus is on the harmless answer."""
        self.query_one(".first", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answered."""
        event.stop()
        chosen = (event.button.id or "").removeprefix("answer-")
        self.dismiss("" if chosen == "no" else chosen)


def confirm(title: str, lines: Sequence[Line], yes: str = "yes", *, dangerous: bool = False) -> Choose:
    """A question with "no" first; the answer is "yes" or ""."""
    return Choose(title, lines, [("", "no", ""), ("yes", yes, "danger" if dangerous else "go")])


class Typed(Dialog[str]):
    """A line of text; `check` says what is wrong with it (None: nothing). Esc answers ""."""

    NO = ""

    def __init__(
        self, title: str, lines: Sequence[Line], *, value: str = "", placeholder: str = "",
        check: Callable[[str], str | None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(title, lines)
        self.value, self.placeholder, self.check = value, placeholder, check

    def answers(self) -> ComposeResult:
        """The line, and below it what is wrong with it."""
        yield Input(self.value, placeholder=self.placeholder, compact=True)
        yield Board([()], id="wrong")
        yield Board([(Cell("enter", "accent"), Cell(" does it   "), Cell("esc", "accent"), Cell(" leaves it"))])

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        self._say(self.check(event.value) if self.check and event.value else None)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        wrong = self.check(event.value) if self.check else None if event.value.strip() else "nothing typed"
        if wrong:
            self._say(wrong)
        else:
            self.dismiss(event.value.strip())

    def _say(self, wrong: str | None) -> None:
        self.query_one("#wrong", Board).show([(Cell(wrong, "critical"),) if wrong else ()])


class Pick(Dialog[str]):
    """One of a list; the answer is its id, "" for none."""

    NO = ""

    def __init__(
        self, title: str, choices: Sequence[tuple[str, str]], current: str = "", lines: Sequence[Line] = ()
    ) -> None:
        """`choices` are (answer, text)."""
        super().__init__(title, lines)
        self.choices, self.current = list(choices), current

    def answers(self) -> ComposeResult:
        """The list."""
        yield OptionList(
            *[Option(Text(text), id=f"pick-{i}") for i, (_, text) in enumerate(self.choices)], compact=True
        )

    def on_mount(self) -> None:
        """On the one that holds now."""
        options = self.query_one(OptionList)
        options.focus()
        options.highlighted = next((i for i, (answer, _) in enumerate(self.choices) if answer == self.current), 0)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Picked."""
        event.stop()
        self.dismiss(self.choices[event.option_index][0])
