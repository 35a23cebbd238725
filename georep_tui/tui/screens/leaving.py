"""The question before an embedded engine loses its screen: let it run headless, stop it, or stay."""

from __future__ import annotations

from georep_tui.tui.screens.dialogs import Choose
from georep_tui.view.snapshot import Snapshot
from georep_tui.view.text import Cell, Line, escape


class LeaveDialog(Choose):
    """Answers "leave" (the default), "stop", or "" for stay."""

    def __init__(self, snapshot: Snapshot | None, can_leave: bool = True) -> None:
        sessions = snapshot.sessions if snapshot else ()
        names = ", ".join(session.name for session in sessions) or "the session"
        one = sessions[0].name if sessions else "SESSION"
        if not can_leave:
            lines: list[Line] = [
                (Cell("The engine of "), Cell(escape(names), "strong"), Cell(" ends with this console.")),
                (),
                (Cell("stop", "strong"), Cell("  ends it and removes what it made")),
                (Cell("stay", "strong"), Cell("  goes back to the console")),
            ]
            super().__init__("Leave the console?", lines, [("", "stay", ""), ("stop", "stop it", "danger")])
            return
        lines = [
            (Cell("The engine of "), Cell(escape(names), "strong"), Cell(" runs inside this console.")),
            (),
            (Cell("leave", "strong"), Cell(" closes the screen; replication goes on")),
            (Cell("      come back: ", "muted"), Cell(f"georep-tui attach {escape(one)}", "accent")),
            (Cell("stop", "strong"), Cell("  ends replication; the secondary falls behind")),
            (Cell("stay", "strong"), Cell("  goes back to the console")),
        ]
        choices = [("leave", "leave it running", "go"), ("stop", "stop it", "danger"), ("", "stay", "")]
        super().__init__("Leave the console?", lines, choices)
