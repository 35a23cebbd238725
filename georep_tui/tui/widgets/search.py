"""The line a filter or a search is typed into; there only while it is used."""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.widgets import Input


class Search(Input):
    """One line at the bottom. Enter keeps the text and goes back to the rows, esc clears it."""

    DEFAULT_CSS = """
    Search { dock: bottom; height: 1; border: none; padding: 0 1; display: none; margin-bottom: 1; }
    Search.-open { display: block; }
    """

    class Typed(Message):
        """The text is another now."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """A person is done typing."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, placeholder: str = "filter") -> None:
        super().__init__(
            placeholder=f"{placeholder} (enter keeps it, esc clears it)", select_on_focus=False, compact=True
        )

    def open(self) -> None:
        """Show it and type into it."""
        self.add_class("-open")
        self.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass it on as it is typed."""
        event.stop()
        self.post_message(self.Typed(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        event.stop()
        self._leave()

    def on_key(self, event: events.Key) -> None:
        """Esc clears."""
        if event.key == "escape":
            event.stop()
            event.prevent_default()
            self.value = ""
            self._leave()
        elif event.key in ("up", "down", "tab"):
            event.stop()
            event.prevent_default()
            self._leave()

    def _leave(self) -> None:
        self.remove_class("-open")
        self.post_message(self.Left(self.value))
