"""Progress of a run without a console, on a terminal: one line for each brick, kept below the log."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from georep_tui.view import signs, spark, units
from georep_tui.view.text import cut_middle, escape

SHOWN = 12
"""Bricks with a line of their own; the others are counted."""


class Progress:
    """Draws on a terminal; redrawn only when there is something new."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._before: Any = None

    def update(self, document: dict[str, Any]) -> None:
        """Show this snapshot."""
        bricks = [b for s in document["sessions"] for b in s["bricks"]]
        rows = [row(b, self._console.width) for b in bricks[:SHOWN]]
        if rows != self._before:
            self._before = rows
            table = Table.grid(padding=(0, 2))
            for cells in rows:
                table.add_row(*(Text(c, no_wrap=True) for c in cells))
            if len(bricks) > SHOWN:
                table.add_row(Text(f"and {units.plural(len(bricks) - SHOWN, 'brick')} more"))
            self._live.update(table, refresh=True)

    def line(self, text: str) -> None:
        """Put a line above the progress."""
        self._console.print(Text(escape(text)), soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was; may be called again."""
        self._live.stop()


def row(brick: dict[str, Any], width: int) -> list[str]:
    """State, brick, bar, files, bytes, rate and ETA of one brick, for a terminal so wide."""
    state = signs.state(brick["status"])
    batch, rate = brick["batch"], brick["rate"] or {}
    name = cut_middle(escape(brick["brick"]), max(8, width - 62))
    if batch is None:
        lag = brick["lag_seconds"]
        fault = (brick["last_error"] or {}).get("text") if brick["status"] == "Faulty" else None
        held = (brick["held"] or {}).get("reason")
        words = escape(fault or held or ("" if lag is None else f"{units.duration(lag)} behind" if lag else "in step"))
        return [f"{state.sign} {state.word}", name, words]
    done = batch["entries"][0] + batch["files"][0]
    total = batch["entries"][1] + batch["files"][1]
    part = done / total if total else None
    eta = batch["eta_seconds"]
    return [
        f"{state.sign} {state.word}", name, f"{spark.bar(part, 12)} {spark.percent(part)}",
        f"{units.count(batch['files'][0])}/{units.count(batch['files'][1])}", units.size(batch["bytes"][0]),
        units.rate(rate.get("bytes_per_s")), "" if eta is None else f"ETA {units.duration(eta)}",
    ]  # fmt: skip
