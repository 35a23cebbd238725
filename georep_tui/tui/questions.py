"""What ssh asks a person while the console is on: host keys and passphrases, one dialog after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.widgets import Input

from georep_tui.ssh.asker import Question, Questions
from georep_tui.tui.screens.dialogs import Dialog, confirm
from georep_tui.tui.widgets.board import Board
from georep_tui.view.text import Cell, Line, escape

if TYPE_CHECKING:
    from georep_tui.tui.app import Console


class SecretDialog(Dialog[str]):
    """A line that is not shown; esc gives none."""

    NO = ""

    def answers(self) -> ComposeResult:
        """The line."""
        yield Input(password=True, compact=True)
        yield Board([(Cell("enter", "accent"), Cell(" gives it   "), Cell("esc", "accent"), Cell(" gives none"))])

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value)


class Questioned:
    """The part of the console that asks for ssh."""

    questions: Questions | None = None
    _asking: Question | None = None

    def ask_next(self) -> None:
        """Ask what waits, if no dialog is open for an earlier question; say what is to be said."""
        console, questions = cast("Console", self), self.questions
        if questions is None:
            return
        for text in questions.said():
            console.notify(escape(text), title="ssh", severity="warning", timeout=15, markup=False)
        if self._asking is not None:
            return
        question = self._asking = questions.next()
        if question is None:
            return
        lines: list[Line] = [(Cell(escape(line)),) for line in question.lines]
        title = escape(question.title)
        dialog = SecretDialog(title, lines) if question.secret else confirm(title, lines, "yes")
        console.push_screen(dialog, self._answered)

    def _answered(self, answer: str | None) -> None:
        question, self._asking = self._asking, None
        if question is not None:
            question.answer(answer)
            cast("Console", self).feed.hurry()
