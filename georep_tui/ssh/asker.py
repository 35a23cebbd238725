"""Whom to ask when ssh needs a person: at a terminal, in a console's dialog, or nobody."""

from __future__ import annotations

import getpass
import os
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from georep_tui import output
from georep_tui.view.text import escape


class Asker(Protocol):
    """Somebody who can be asked, from any thread. What is secret is handed on and kept nowhere."""

    def confirm(self, title: str, lines: Sequence[str]) -> bool:
        """Yes or no; no where nobody is there."""

    def secret(self, title: str) -> str | None:
        """A passphrase; None where nobody is there or none is given."""

    def say(self, text: str) -> None:
        """Something a person should know."""


class Nobody:
    """Commands without a terminal: nothing is asked; what is to be said goes to stderr."""

    def confirm(self, title: str, lines: Sequence[str]) -> bool:
        """No."""
        del title, lines
        return False

    def secret(self, title: str) -> str | None:
        """None."""
        del title
        return None

    def say(self, text: str) -> None:
        """A line on stderr."""
        output.error(text)


class AtTerminal(Nobody):
    """A person at the terminal of this process: questions on it, one at a time, whatever stdout is."""

    def __init__(self) -> None:
        self._one = threading.Lock()

    def confirm(self, title: str, lines: Sequence[str]) -> bool:
        """Anything but "yes" is no."""
        with self._one:
            for line in lines:
                sys.stderr.write(escape(line) + "\n")
            sys.stderr.write(f"{escape(title)} (yes/no) ")
            sys.stderr.flush()
            return sys.stdin.readline().strip().lower() == "yes"

    def secret(self, title: str) -> str | None:
        """Without an echo."""
        with self._one:
            try:
                return getpass.getpass(f"{escape(title)}: ") or None
            except EOFError:
                return None


def whoever_is_there() -> Asker:
    """The person at the terminal, or nobody: never where stdin or stderr is none."""
    return AtTerminal() if os.isatty(0) and os.isatty(2) else Nobody()


@dataclass(slots=True)
class Question:
    """What a console is to ask; `answer` once, with "" or None for no."""

    title: str
    lines: tuple[str, ...] = ()
    secret: bool = False
    _answers: queue.Queue[str | None] = field(default_factory=lambda: queue.Queue(1), repr=False)

    def answer(self, text: str | None) -> None:
        """The person's answer; a second one is not heard."""
        if self._answers.empty():
            self._answers.put_nowait(text)

    def wait(self, stop: threading.Event) -> str | None:
        """The answer; None when there is none any more."""
        while not stop.is_set():
            try:
                return self._answers.get(timeout=0.2)
            except queue.Empty:
                continue
        return None


class Questions:
    """Questions that wait for a console: it takes them one after the other."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Question] = queue.Queue()
        self._said: queue.Queue[str] = queue.Queue()
        self._stop = threading.Event()

    def next(self) -> Question | None:
        """The next one to ask, if there is one."""
        try:
            return self._waiting.get_nowait()
        except queue.Empty:
            return None

    def said(self) -> list[str]:
        """What was said since the last call."""
        found = []
        while not self._said.empty():
            found.append(self._said.get_nowait())
        return found

    def stop(self) -> None:
        """Nobody answers any more."""
        self._stop.set()

    def confirm(self, title: str, lines: Sequence[str]) -> bool:
        """Waits for the console."""
        return self._ask(Question(title, tuple(lines))) == "yes"

    def secret(self, title: str) -> str | None:
        """Waits for the console."""
        return self._ask(Question(title, secret=True)) or None

    def say(self, text: str) -> None:
        """For the console."""
        self._said.put(text)

    def _ask(self, question: Question) -> str | None:
        self._waiting.put(question)
        return question.wait(self._stop)
