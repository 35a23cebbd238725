"""What a brick did: files in flight, batches with their durations, crawls on a time line, restarts and their causes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from georep_tui.view.snapshot import Brick, InFlight
from georep_tui.view.spark import bar, percent
from georep_tui.view.text import Cell, Line, cut_middle, escape, fit
from georep_tui.view.units import age, clock, count, duration, moment, plural, rate, size

_CRAWL_MARKS = {"hybrid": "█", "history": "▒", "live": "─"}
_CRAWL_ROLES = {"hybrid": "warning", "history": "busy", "live": "ok"}
HOURS = 6
"""Hours the time line of crawls covers."""

Doc = Mapping[str, Any]


def flight_lines(brick: Brick, columns: int) -> list[Line]:
    """Each file on its way with its bar, bytes and rate."""
    if brick.batch is None:
        return []
    room = max(12, columns - 60)
    lines: list[Line] = []
    for item in brick.batch.in_flight:
        part = item.done / item.total if item.done is not None and item.total else None
        lines.append((
            Cell(fit(cut_middle(escape(item.path), room), room)), Cell(" "), Cell(bar(part, 8), "busy"),
            Cell(f" {percent(part):>4} ", "muted"),
            Cell(f"{size(item.done)}/{size(item.total)}" if item.done is not None else size(item.total)),
            Cell(_pace(item), "muted"),
        ))  # fmt: skip
    return lines


def _pace(item: InFlight) -> str:
    if item.done is None:
        return "  how far is not told"
    end = ", to be confirmed" if item.total and item.done >= item.total else ""
    return f"  {rate(item.rate)}{end}"


def flight_note(brick: Brick) -> str:
    """How many files are on their way."""
    if brick.batch is None:
        return "no batch is running"
    if brick.batch.in_flight:
        number, named = max(brick.batch.in_flight_count, len(brick.batch.in_flight)), len(brick.batch.in_flight)
        return plural(number, "file") + (f", the {named} oldest are named" if number > named else "")
    return f"{count(brick.batch.files[0])} of {count(brick.batch.files[1])} files done"


def batch_history(brick: Brick, zone: tzinfo | None = None) -> list[Line]:
    """The last batches, the newest first: when, how long, how much."""
    docs = _docs(brick, "history")
    longest = max((_number(doc, "seconds") for doc in docs), default=0.0)
    lines: list[Line] = []
    for doc in reversed(docs):
        seconds = _number(doc, "seconds")
        failed = int(_number(doc, "failures"))
        lines.append((
            Cell(f"{clock(_number(doc, 'started'), zone)} ", "muted"), Cell(fit(f"batch {doc.get('id', '?')}", 11)),
            Cell(fit(duration(seconds), 7, right=True)), Cell(" "),
            Cell(fit(bar(seconds / longest if longest else 0.0, 8).replace("░", " "), 9), "busy"),
            *_counted(_number(doc, "entries"), "entry", "entries"), *_counted(_number(doc, "files"), "file", "files"),
            Cell(size(_number(doc, "bytes"))),
            Cell(f"  ▲ {plural(failed, 'failure')}" if failed else "", "warning"),
        ))  # fmt: skip
    return lines


def _counted(number: float, one: str, many: str) -> tuple[Cell, Cell]:
    word = one if number == 1 else many
    return Cell(fit(count(number), 6, right=True)), Cell(f" {word:<{len(many)}} ", "muted")


def batches_note(brick: Brick) -> str:
    """How many batches, and how long the last took."""
    docs, turns = _docs(brick, "history"), dict(brick.totals).get("turns")
    if not docs:
        return "none yet"
    return f"{count(turns if turns is not None else len(docs))} in all, the last took {duration(_number(docs[-1], 'seconds'))}"


def crawl_history(brick: Brick, now: float, columns: int, zone: tzinfo | None = None) -> list[Line]:
    """A time line of the last hours, then the crawls, the newest first."""
    spans = _spans(brick, now)
    if not spans:
        return []
    room = max(10, min(72, columns - 16))
    begin = max(now - HOURS * 3600, min(60 * (spans[0][0] // 60), now - 600))
    cells: list[Cell] = []
    for column in range(room):
        at = begin + (now - begin) * (column + 1) / room
        kind = _kind_at(spans, begin + (now - begin) * column / room, at)
        mark, role = (_CRAWL_MARKS.get(kind, "·"), _CRAWL_ROLES.get(kind, "muted")) if kind else (" ", "")
        if cells and cells[-1].role == role:
            cells[-1] = Cell(cells[-1].text + mark, role)
        else:
            cells.append(Cell(mark, role))
    head = clock(begin, zone)[:5]
    lines: list[Line] = [(Cell(f"{head} ", "muted"), *cells, Cell(" now", "muted"))]
    lines.append((
        Cell("      ", "muted"), Cell("█ hybrid  ", "warning"), Cell("▒ history  ", "busy"),
        Cell("─ changelog (live)", "ok"),
    ))  # fmt: skip
    for since, until, kind, doc in reversed(spans):
        took = duration((until if until is not None else now) - since)
        seen = f"  {count(_number(doc, 'seen'))} seen" if doc.get("seen") is not None else ""
        end = "  going on" if until is None else ""
        lines.append((
            Cell(f"{moment(since, now, zone)} ", "muted"),
            Cell(fit(kind, 8), _CRAWL_ROLES.get(kind, "")), Cell(f" {took}{seen}"), Cell(end, "muted"),
        ))  # fmt: skip
    return lines


def crawls_note(brick: Brick, now: float) -> str:
    """Which crawl goes on, and since when."""
    if not brick.crawl.kind:
        return "none is going on"
    since = (
        f" for {age(now - brick.crawl.since)}"
        if brick.crawl.since is not None and now - brick.crawl.since >= 10
        else ""
    )
    return f"{'changelog' if brick.crawl.kind == 'live' else brick.crawl.kind}{since}"


def restart_history(brick: Brick, now: float, zone: tzinfo | None = None) -> list[Line]:
    """Each restart of the worker and its cause, the newest first."""
    return [
        (Cell(f"{moment(_number(doc, 'time'), now, zone)} ", "muted"), Cell("✖ ", "critical"),
         Cell(escape(str(doc.get("text") or doc.get("cause") or doc.get("code") or "no cause known"))))
        for doc in reversed(_docs(brick, "restarts"))
    ]  # fmt: skip


def restarts_note(brick: Brick) -> str:
    """How many restarts, and the last one's cause."""
    docs, number = _docs(brick, "restarts"), dict(brick.totals).get("restarts") or 0
    if not docs:
        return f"{number} in all" if number else "none"
    return f"{max(number, len(docs))} in all, the last: {docs[-1].get('text') or docs[-1].get('code') or '?'}"


def _docs(brick: Brick, key: str) -> list[Doc]:
    docs = brick.raw.get(key)
    return [doc for doc in docs if isinstance(doc, Mapping)] if isinstance(docs, list) else []


def _spans(brick: Brick, now: float) -> list[tuple[float, float | None, str, Doc]]:
    docs = sorted(_docs(brick, "crawls"), key=lambda doc: _number(doc, "since"))
    spans: list[tuple[float, float | None, str, Doc]] = []
    for index, doc in enumerate(docs):
        until = doc.get("until")
        if until is None and index + 1 < len(docs):
            until = _number(docs[index + 1], "since")
        if until is None and brick.crawl.kind is None:
            until = now
        spans.append((_number(doc, "since"), until, str(doc.get("kind") or "?"), doc))
    return spans


def _kind_at(spans: list[tuple[float, float | None, str, Doc]], begin: float, end: float) -> str:
    # A short hybrid crawl must not vanish between two columns: what is rarer wins.
    kinds = {kind for since, until, kind, _ in spans if since < end and (until is None or until > begin)}
    return next((kind for kind in ("hybrid", "history", "live", *kinds) if kind in kinds), "")


def _number(doc: Doc, key: str) -> float:
    value = doc.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
