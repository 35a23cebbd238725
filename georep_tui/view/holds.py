"""Deletes the guard holds: how many, of how many, which, since when."""

from __future__ import annotations

from datetime import tzinfo

from georep_tui.view.snapshot import Brick, Held
from georep_tui.view.table import Column, Row
from georep_tui.view.text import UNKNOWN, Cell, Line, escape
from georep_tui.view.units import age, count, moment, plural, size

COLUMNS = (
    Column("brick", "brick", 14, flex=2, middle=True, drop=0),
    Column("deletes", "deletes", 9, right=True, drop=0),
    Column("of", "of", 9, right=True, drop=2),
    Column("share", "share", 6, right=True, drop=1),
    Column("bytes", "size", 9, right=True, drop=3),
    Column("since", "since", 9, right=True, drop=4),
    Column("id", "id", 12, drop=5),
)


def held_row(brick: Brick, held: Held, now: float) -> Row:
    """A held batch as a row."""
    share = f"{held.deletes / held.of:.0%}" if held.of else ""
    return Row(
        key=brick.id,
        cells={
            "brick": (Cell("⚑ ", "critical"), Cell(escape(brick.label), "strong")),
            "deletes": (Cell(count(held.deletes), "critical"),),
            "of": (Cell(count(held.of) if held.of else UNKNOWN),),
            "share": (Cell(share, "critical"),),
            "bytes": (Cell(size(held.bytes)),),
            "since": (Cell(age(max(10.0, now - held.since)) if held.since is not None else "–"),),
            "id": (Cell(escape(held.id), "muted"),),
        },
        weight=(held.deletes,),
        text=escape(brick.label),
        faulty=True,
    )


def held_lines(brick: Brick, held: Held, now: float, zone: tzinfo | None = None) -> list[Line]:
    """What a person must know before an answer, and the names known."""
    since = f" since {moment(held.since, now, zone)}" if held.since is not None else ""
    lines: list[Line] = [
        (Cell("why        ", "muted"), Cell(escape(held.reason), "critical")),
        (Cell("where      ", "muted"), Cell(escape(brick.label), "strong"),
         Cell(f" → {escape(brick.secondary)}{since}", "muted")),
        (Cell("a approve  ", "accent"), Cell(f"{plural(held.deletes, 'object')} will be {done(held)} on the secondary", "warning")),
        (Cell("r reject   ", "accent"), Cell("they stay there, listed as failures; everything else goes on")),
        (),
        (Cell(f"some of them ({len(held.sample)} of {count(held.deletes)})", "title"),),
    ]  # fmt: skip
    lines += [(Cell("  "), Cell(escape(name))) for name in held.sample]
    if held.deletes > len(held.sample):
        lines.append((Cell(f"  … and {count(held.deletes - len(held.sample))} more", "muted"),))
    if held.kind != "delete" and held.directories:
        lines += [(), (Cell("by directory", "title"),)]
        lines += [
            (Cell(f"  {escape(name)}/"), Cell(f"  {plural(number, 'object')}, {size(nbytes)}", "muted"))
            for name, number, nbytes in held.directories
        ]
    return lines


def done(held: Held) -> str:
    """What would be done with them."""
    return {"replace": "replaced", "remove": "removed", "take-over": "replaced or removed"}.get(held.kind, "deleted")


def what(held: Held) -> str:
    """How many of what, for a question."""
    nouns = {"replace": "replacement", "remove": "removal", "take-over": "object"}
    return plural(held.deletes, nouns.get(held.kind, "delete"))


def count_wrong(typed: str, held: Held) -> str | None:
    """What is wrong with a typed count; None if it is the number of deletes."""
    number = typed.replace(",", "").replace(" ", "").strip()
    return None if number == str(held.deletes) else f"type {held.deletes} to let them happen"
