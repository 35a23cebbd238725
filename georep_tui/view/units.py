"""Numbers as people read them: durations, ages, sizes, rates, counts, times of day."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from georep_tui.view.text import UNKNOWN

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def duration(seconds: float | None) -> str:
    """Seconds as `0 s`, `30 ms`, `1.2 s`, `42 s`, `3m20s`, `2h05m`, `3d04h`; unknown as –. At most six columns to 99 days."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.0005:
        return "0 s"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def age(seconds: float | None) -> str:
    """How long ago, coarse enough not to change with every look: `now`, `25 s`, `4 min`, `3 h`, `5 d`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return "now"
    if seconds < 60:
        return f"{int(seconds) // 5 * 5} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min"
    if seconds < 48 * 3600:
        return f"{int(seconds) // 3600} h"
    return f"{int(seconds) // 86400} d"


def size(count: float | None) -> str:
    """Bytes as `812 B`, `1.2 MiB`, `40 GiB`."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in _SIZES:
        if abs(value) < 999.5 or unit == _SIZES[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 9.95 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def rate(per_second: float | None) -> str:
    """Bytes per second as `5.0 MiB/s`; unknown as –."""
    return UNKNOWN if per_second is None else f"{size(per_second)}/s"


def count(number: float | None) -> str:
    """A count with thousands apart up to 99,999, then as `1.2M`: at most six columns."""
    if number is None:
        return UNKNOWN
    if abs(number) < 99_999.5:
        return f"{number:,.0f}"
    for unit, scale in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        value = number / scale
        if abs(value) < 999.5:
            return f"{value:.0f}{unit}" if abs(value) >= 99.5 else f"{value:.1f}{unit}"
    return f"{number / 1e12:.1f}T"


def plural(number: int, one: str, many: str = "") -> str:
    """`1 brick`, `3 bricks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def clock(time: float | None, zone: tzinfo | None = None) -> str:
    """The time of day `14:03:22` in `zone` (None: the local one) of a unix time."""
    return UNKNOWN if time is None else _at(time, zone).strftime("%H:%M:%S")


def moment(time: float | None, now: float, zone: tzinfo | None = None) -> str:
    """A unix time as the time of day, with the date where it is not today's; 0 or less is "never"."""
    if time is None:
        return UNKNOWN
    if time <= 0:
        return "never"
    when, today = _at(time, zone), _at(now, zone)
    if when.date() == today.date():
        return when.strftime("%H:%M:%S")
    if when.year == today.year:
        return when.strftime("%d %b %H:%M")
    return when.strftime("%Y-%m-%d %H:%M")


def stamp(time: float, zone: tzinfo | None = None) -> str:
    """The whole date and time with its offset, as ISO 8601 has it: for copies and reports."""
    return _at(time, zone).isoformat(sep=" ", timespec="seconds")


def _at(time: float, zone: tzinfo | None) -> datetime:
    try:
        return datetime.fromtimestamp(time, zone) if zone else datetime.fromtimestamp(time).astimezone()
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)
