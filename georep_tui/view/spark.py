"""Sparklines and bars from numbers."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def sparkline(values: Sequence[float | None], columns: int, top: float | None = None) -> str:
    """The last values in at most `columns` columns, scaled from 0 to their maximum (or `top`); None is a gap.

    More values than columns are folded: each column shows the largest of its share, so a peak is never lost.
    """
    if columns <= 0 or not values:
        return ""
    folded = _fold(values, columns)
    highest = max([value for value in folded if value is not None], default=0.0)
    ceiling = max(highest, top or 0.0)
    return "".join(_step(value, ceiling) for value in folded)


def _fold(values: Sequence[float | None], columns: int) -> list[float | None]:
    share = -(-len(values) // columns)
    if share <= 1:
        return list(values)
    # Groups are counted from the newest value, so a column moves as one and does not flicker.
    out: list[float | None] = []
    for end in range(len(values), 0, -share):
        known = [value for value in values[max(0, end - share) : end] if value is not None]
        out.append(max(known) if known else None)
    return out[::-1]


def _step(value: float | None, ceiling: float) -> str:
    if value is None:
        return " "
    if value <= 0 or ceiling <= 0:
        return _STEPS[0]
    return _STEPS[min(7, 1 + int(value / ceiling * 6.999))]


def bar(fraction: float | None, columns: int) -> str:
    """A bar of `columns` columns filled to `fraction` (0 to 1); None is an empty line of dots.

    It is full only at 1 and empty only at 0, so it never promises more than is done.
    """
    if fraction is None:
        return "·" * columns
    eighths = int(max(0.0, min(1.0, fraction)) * columns * 8)
    if fraction < 1:
        eighths = min(eighths, columns * 8 - 1)
    if fraction > 0:
        eighths = max(eighths, 1)
    full, part = divmod(eighths, 8)
    text = "█" * full + (_EIGHTHS[part] if part else "")
    return text + "░" * (columns - len(text))


def percent(fraction: float | None) -> str:
    """`37%`; 100 only when all is done."""
    if fraction is None:
        return ""
    return "100%" if fraction >= 1 else f"{min(99, int(fraction * 100))}%"
