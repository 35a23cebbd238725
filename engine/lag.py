"""How far behind a brick is, and what of that is a guess: the pure arithmetic of its status (STA-3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.backlog import Backlog
from engine.progress import WINDOW

RECORD = 90
"""Bytes a record takes in a changelog, about."""


def lag_of(now: float, backlog: Backlog | None, failures_since: float | None, mark: int, hybrid: bool) -> float | None:
    """Seconds: the age of the oldest change that is not on the secondary; 0 when none is known, None when nobody knows.

    While it is not known what else there is (a crawl runs, slices without times wait), that is as old as the mark.
    """
    if backlog is None:
        return None
    times = [t for t in (backlog.since, failures_since) if t is not None]
    if hybrid or backlog.crawling or not backlog.dated or (backlog.changelogs and backlog.since is None):
        if mark <= 0:
            return None
        times.append(float(mark))
    return round(max(0.0, now - min(times)), 3) if times else 0.0


def backlog_shown(backlog: Backlog | None, per_second: float) -> dict[str, Any] | None:
    """As a snapshot has it; `per_second` is how many records are done."""
    if backlog is None:
        return None
    eta = basis = None
    if backlog.changelogs and per_second > 0:
        eta = round(backlog.bytes / RECORD / per_second, 1)
        basis = f"{per_second:.0f} records/s over the last {WINDOW:.0f} s"
    return {"changelogs": backlog.changelogs, "bytes": backlog.bytes, "changes": backlog.changes,
            "exact": backlog.exact, "since": backlog.since, "eta_seconds": eta, "eta_basis": basis}  # fmt: skip


def crawl_shown(crawl: Mapping[str, Any], crawls: Iterable[Mapping[str, Any]], now: float) -> dict[str, Any]:
    """The crawl with what is left of it, by what the last whole hybrid crawl saw; `crawls` are the latest first."""
    eta, basis = None, None
    if crawl["kind"] == "hybrid" and crawl["seen"] and crawl["since"] is not None and now > crawl["since"]:
        last = next((c["seen"] for c in crawls if c["kind"] == "hybrid" and c["until"] and c["seen"]), 0)
        if last > crawl["seen"]:
            rate = crawl["seen"] / (now - crawl["since"])
            eta, basis = round((last - crawl["seen"]) / rate, 1), f"the last one saw {last:,} objects"
    return {**crawl, "eta_seconds": eta, "eta_basis": basis}
