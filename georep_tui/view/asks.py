"""What questions say: which session, node and brick it is about, what it would cost, what is wrong with an answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo

from georep_tui.view.snapshot import Brick, Session
from georep_tui.view.text import Cell, Line, cut_middle, escape
from georep_tui.view.units import count, duration, plural, size

FUTURE = 366 * 86400
"""A checkpoint further ahead than a year is taken for a slip of the finger."""


CRAWL_BY_GSYNCD = (
    "gsyncd crawls when its change_detector is set to xsync, which restarts its workers.",
    "Until every active brick has crawled, deletes and renames are not replicated;",
    "then change_detector is set back, which restarts them again.",
)
"""What a forced crawl means where the engine is gsyncd."""


def where_lines(session: Session, bricks: Sequence[Brick] | None = None) -> list[Line]:
    """Session, nodes and bricks a question is about; of many bricks the first few."""
    chosen = session.bricks if bricks is None else bricks
    lines: list[Line] = [(Cell("session  ", "muted"), Cell(escape(session.name), "strong"))]
    for brick in chosen[:3]:
        lines.append(
            (Cell("brick    ", "muted"), Cell(cut_middle(escape(brick.label), 36)),
             Cell(f" → {cut_middle(escape(brick.secondary), 24)}", "muted"))
        )  # fmt: skip
    if len(chosen) > 3:
        nodes = len({brick.node for brick in chosen})
        lines.append((Cell(f"         and {len(chosen) - 3} more, on {plural(nodes, 'node')} in all", "muted"),))
    return lines


def crawl_cost(bricks: Sequence[Brick]) -> list[Line]:
    """What a forced crawl costs, from the last hybrid crawl's numbers; what is not known is said to be unknown."""
    seen = seconds = 0.0
    known = 0
    for brick in bricks:
        last = last_crawl(brick)
        if last is not None:
            known, seen, seconds = known + 1, seen + last[0], max(seconds, last[1])
    totals = sum(dict(brick.totals).get("bytes", 0) for brick in bricks)
    if not known:
        text = "how many objects there are is not known yet; every one is looked at on both sides"
        return [(Cell("cost     ", "muted"), Cell(text, "warning"))]
    partly = "" if known == len(bricks) else f" (of {known} of {len(bricks)} bricks)"
    lines: list[Line] = [(Cell("cost     ", "muted"), Cell(f"about {count(seen)} objects on each side{partly};"))]
    lines.append((Cell("         "), Cell(f"as the last hybrid crawl found, in {duration(seconds)}")))
    if totals:
        lines.append((Cell(f"         what is equal is not sent again ({size(totals)} sent so far)", "muted"),))
    return lines


def last_crawl(brick: Brick) -> tuple[float, float] | None:
    """(objects, seconds) of a brick's last finished hybrid crawl; None if there is none with numbers."""
    crawls = [doc for doc in brick.raw.get("crawls") or () if isinstance(doc, dict)]
    for index in range(len(crawls) - 1, -1, -1):
        crawl = crawls[index]
        if crawl.get("kind") != "hybrid" or not crawl.get("seen"):
            continue
        end = crawl.get("until") or (crawls[index + 1].get("since") if index + 1 < len(crawls) else None)
        if end is not None and crawl.get("since") is not None:
            return float(crawl["seen"]), max(0.0, float(end) - float(crawl["since"]))
    return None


def parse_checkpoint(text: str, now: float, zone: tzinfo | None = None) -> float:
    """`now`, unix seconds, `14:30[:15]` (the next such time), or ISO 8601, as unix seconds. Raises ValueError."""
    word = text.strip()
    if word.lower() == "now":
        return now
    try:
        return float(word)
    except ValueError:
        pass
    today = datetime.fromtimestamp(now, zone) if zone else datetime.fromtimestamp(now).astimezone()
    for form in ("%H:%M", "%H:%M:%S"):
        try:
            at = datetime.strptime(word, form)
        except ValueError:
            continue
        when = today.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=0)
        return (when if when.timestamp() > now else when + timedelta(days=1)).timestamp()
    when = datetime.fromisoformat(word)
    return (when.replace(tzinfo=zone) if zone and when.tzinfo is None else when).timestamp()


def checkpoint_wrong(text: str, now: float, zone: tzinfo | None = None) -> str | None:
    """What is wrong with a typed checkpoint; None if it is a time that makes sense."""
    if not text.strip():
        return "a time is needed: now, 14:30, 2026-11-22T14:30 or unix seconds"
    try:
        at = parse_checkpoint(text, now, zone)
    except (ValueError, OverflowError, OSError):
        return "not a time: now, 14:30, 2026-11-22T14:30 or unix seconds"
    if at < 0 or at > now + FUTURE:
        return "that is not within the next year"
    return None
