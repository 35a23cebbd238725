"""How far a batch and a crawl are, and when they will be done, with what that is based on."""

from __future__ import annotations

from georep_tui.view.snapshot import Batch, Brick, Crawl
from georep_tui.view.spark import percent
from georep_tui.view.text import UNKNOWN
from georep_tui.view.units import count, duration

_CHUNK = 65536
"""Sending this many bytes counts as much as one operation."""

_PHASES = ("entry", "data", "meta", "commit")


def batch_fraction(batch: Batch | None) -> float | None:
    """How much of a batch is done, 0 to 1; None without one.

    Entries, files and each 64 KiB count alike; until the commit is through it is at most 0.99.
    """
    if batch is None:
        return None
    pairs = (batch.entries, batch.files, (batch.bytes[0] // _CHUNK, batch.bytes[1] // _CHUNK))
    done = sum(min(have, want) for have, want in pairs)
    total = sum(want for _, want in pairs)
    if batch.phase == "commit":
        return 0.99
    return min(0.99, done / total) if total else 0.0


def crawl_fraction(crawl: Crawl) -> float | None:
    """How much of a crawl is done, 0 to 1; None where its total is not known, and for the live one, which never ends."""
    if crawl.kind == "live" or crawl.seen is None or not crawl.total:
        return None
    return min(0.99, crawl.seen / crawl.total)


def brick_fraction(brick: Brick) -> float | None:
    """What a brick's bar shows: its crawl where that has an end, else its batch."""
    crawl = crawl_fraction(brick.crawl)
    return crawl if crawl is not None else batch_fraction(brick.batch)


def brick_eta(brick: Brick) -> float | None:
    """Seconds until what the bar shows is full; None when it cannot be told."""
    if brick.crawl.eta is not None:
        return brick.crawl.eta
    return brick.batch.eta if brick.batch else None


def crawl_text(crawl: Crawl) -> str:
    """`hybrid crawl · 1,204 of 20,000 (6%) · 3m20s left (by objects)`."""
    if not crawl.kind:
        return UNKNOWN
    name = {"live": "changelog crawl"}.get(crawl.kind, f"{crawl.kind} crawl")
    parts = [name]
    if crawl.seen is not None:
        what = "changelogs" if crawl.kind != "hybrid" else "objects"
        if crawl.total:
            parts.append(f"{count(crawl.seen)} of {count(crawl.total)} {what} ({percent(crawl_fraction(crawl))})")
        else:
            parts.append(f"{count(crawl.seen)} {what}")
    if crawl.eta is not None:
        basis = f" (by {crawl.eta_basis})" if crawl.eta_basis else ""
        parts.append(f"{duration(crawl.eta)} left{basis}")
    return " · ".join(parts)


def phase_text(batch: Batch | None) -> str:
    """`2/4 data`: the phase and its place among entry, data, meta, commit."""
    if batch is None:
        return UNKNOWN
    if batch.phase in _PHASES:
        return f"{_PHASES.index(batch.phase) + 1}/4 {batch.phase}"
    return batch.phase[:8]
