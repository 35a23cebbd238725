"""What a table is: columns with widths, rows with cells and lines beneath, their order. Drawn by a widget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from georep_tui.view.text import Line

SortValue = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column. It shows on tables `since` to `until` columns wide; where the width does not suffice all the same,
    those with the highest `drop` go first (0 never goes). `flex` columns share what is left, at least `width`."""

    key: str
    title: str
    width: int
    right: bool = False
    flex: int = 0
    middle: bool = False
    since: int = 0
    until: int = 10_000
    drop: int = 1


class Row(NamedTuple):
    """A row: `cells` by column key, `detail` lines beneath it, `values` it can be sorted by.

    `weight` says how much it wants attention (most first), `text` is what a filter looks into.
    """

    key: str
    cells: Mapping[str, Line]
    detail: tuple[Line, ...] = ()
    values: Mapping[str, SortValue] = {}
    weight: tuple[float, ...] = ()
    text: str = ""
    faulty: bool = False


class Placed(NamedTuple):
    """A column with the width it got."""

    column: Column
    width: int


def layout(columns: Sequence[Column], total: int, gap: int = 1) -> list[Placed]:
    """The columns that fit in `total` screen columns, with their widths; `gap` stays free between two."""
    shown = [column for column in columns if column.since <= total <= column.until]
    while len(shown) > 1 and _needed(shown, gap) > total:
        goes = max(shown, key=lambda column: column.drop)
        if not goes.drop:
            break
        shown.remove(goes)
    spare = total - _needed(shown, gap)
    shares = sum(column.flex for column in shown)
    placed = []
    for column in shown:
        extra = spare * column.flex // shares if shares and spare > 0 else 0
        spare, shares = spare - extra, shares - column.flex
        placed.append(Placed(column, column.width + extra))
    return placed


def _needed(columns: Sequence[Column], gap: int) -> int:
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


@dataclass(frozen=True, slots=True)
class Order:
    """How rows are sorted: by a column (`key` "" is by attention, worst first), and whether the other way round."""

    key: str = ""
    backwards: bool = False


def arrange(
    rows: Sequence[Row],
    order: Order = Order(),
    *,
    needle: str = "",
    faults: bool = False,
    keep: Sequence[str] = (),
) -> list[Row]:
    """Rows filtered by `needle` (case-insensitive) and `faults`, and sorted.

    `keep` holds the order: while a person is acting no row may move, so rows named there stay in that order, and new
    ones come after them.
    """
    wanted = [row for row in rows if (not faults or row.faulty) and (not needle or needle.lower() in row.text.lower())]
    wanted.sort(key=lambda row: row.text)
    if order.key:
        known = [row for row in wanted if row.values.get(order.key) is not None]
        unknown = [row for row in wanted if row.values.get(order.key) is None]
        known.sort(key=lambda row: _sortable(row.values[order.key]), reverse=order.backwards)
        wanted = known + unknown
    else:
        wanted.sort(key=lambda row: row.weight, reverse=not order.backwards)
    if not keep:
        return wanted
    place = {key: index for index, key in enumerate(keep)}
    return sorted(wanted, key=lambda row: place.get(row.key, len(place)))


def _sortable(value: SortValue) -> tuple[int, float, str]:
    return (1, 0.0, value) if isinstance(value, str) else (0, value or 0.0, "")
