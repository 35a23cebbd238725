"""Why a brick is behind, and what its first copy has come to: sentences from the facts of a snapshot. Pure."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

Doc = Mapping[str, Any]

LARGE = 64 << 20
"""Bytes from which one file on its way is worth its name."""

_BRICK = {errno.ENOSPC: "the secondary is full", errno.EDQUOT: "the secondary's quota is used up",
          errno.EROFS: "the secondary is read-only"}  # fmt: skip

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(nbytes: float) -> str:
    """Bytes in powers of 1024: `812 B`, `1.2 GiB`."""
    value = float(nbytes)
    for unit in _UNITS:
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 9.95 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def about(seconds: float) -> str:
    """A duration as one says it: `40 s`, `6 min`, `3 h`, `2 d`."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{max(1, round(seconds / length))} {unit}"
    return f"{round(seconds / 86400)} d"


def waiting(brick: Doc) -> str:
    """What waits: `500 changes wait`, `at least 12,000 changes wait`; "" where nothing is known to."""
    backlog = brick.get("backlog") or {}
    changes = backlog.get("changes")
    if not changes:
        return ""
    least = "" if backlog.get("exact") else "at least "
    return f"{least}{changes:,} {'change waits' if changes == 1 else 'changes wait'} ({size(backlog.get('bytes') or 0)} of journal)"


def first_copy(brick: Doc) -> str:
    """`first copy: 6,376 of 30,000 files, 21 %, 1.2 of 5.8 GiB, 12 MiB/s, about 6 min left (at the rate of the last
    minute)`, as far as it is known."""
    done = brick.get("first_pass") or {}
    files, nbytes = done.get("files") or [0, None], done.get("bytes") or [0, None]
    if files[1] is None:
        found = done.get("found") or [files[0], nbytes[0]]
        least = f" of at least {found[0]:,}" if found[0] > files[0] else ""
        parts = [f"{files[0]:,}{least} files", size(nbytes[0]), "how many there are is not known yet"]
    else:
        percent = int((done.get("fraction") or 0.0) * 100)
        parts = [f"{files[0]:,} of {files[1]:,} files", f"{percent} %", _of(nbytes[0], nbytes[1] or 0)]
    if brick.get("status") == "Active" and done.get("bytes_per_s"):
        parts.append(f"{size(done['bytes_per_s'])}/s")
    if done.get("eta_seconds") is not None:
        parts.append(f"about {about(done['eta_seconds'])} left ({done.get('eta_basis')})")
    return f"first copy: {', '.join(parts)}"


def _of(done: float, total: float) -> str:
    """Two sizes in the unit of the second: `1.2 of 5.8 GiB`."""
    whole = size(total)
    unit = whole.partition(" ")[2]
    here = done / 1024 ** _UNITS.index(unit)
    return f"{here:.0f} of {whole}" if unit == "B" or here >= 9.95 else f"{here:.1f} of {whole}"


def comparing(what: Doc) -> str:
    """`comparing 120 of 3,000: the secondary was restored`."""
    total = what.get("total")
    of = f" of {total:,}" if total is not None else " objects so far"
    return f"comparing {what['seen']:,}{of}: {what['why']}"


def behind(brick: Doc, now: float) -> tuple[str, str]:
    """Why the oldest change is not over there yet (the end of a sentence), and what to do."""
    status = brick.get("status")
    many = waiting(brick)
    if status == "Paused":
        return f"paused; {many}" if many else "paused", "georep-tui resume"
    if status == "Held":
        return f"held, nothing is applied; {many}" if many else "held, nothing is applied", "approve or reject: georep-tui held"
    if status in ("Faulty", "Initializing..."):
        error = brick.get("last_error") or {}
        what = _BRICK.get(error.get("errno") or 0, "nothing gets through")
        down = f"{what} for {about(max(0.0, now - error['since']))}" if error.get("since") else "not connected yet"
        return f"{down}; {many}" if many else down, ""
    oldest, failed = (brick.get("backlog") or {}).get("since"), brick.get("failures_since")
    if failed is not None and brick.get("failures") and (oldest is None or failed <= oldest):
        rest = f"all else is {about(max(0.0, now - oldest))} behind" if oldest is not None and many else "all else is there"
        return f"so old is the oldest failure; {rest}", "see: georep-tui failures"
    return _busy(brick, many)


def _busy(brick: Doc, many: str) -> tuple[str, str]:
    """The same of a brick that is applying."""
    limit = brick.get("bandwidth") or {}
    if limit.get("reached"):
        return f"bandwidth_limit of {size(limit['limit'])}/s is reached; {many}", "raise it: georep-tui config … bandwidth_limit"
    batch = brick.get("batch") or {}
    flights = [f for f in batch.get("in_flight") or () if (f["bytes"][1] or 0) >= LARGE]
    if flights:
        largest = max(flights, key=lambda f: f["bytes"][1])
        at = _of(largest["bytes"][0], largest["bytes"][1]) if largest["bytes"][0] is not None else size(largest["bytes"][1])
        speed = f", {size(largest['bytes_per_s'])}/s" if largest.get("bytes_per_s") else ""
        return f"copying {largest['path']}: {at}{speed}; {many}", ""
    if brick.get("crawl_status") == "Hybrid Crawl":
        seen = (brick.get("crawl") or {}).get("seen")
        walked = f" ({seen:,} objects so far)" if seen else ""
        return f"a crawl looks for what has changed since{walked}", ""
    if batch:
        done = [batch["entries"][0] + batch["files"][0], batch["entries"][1] + batch["files"][1]]
        return f"a batch is at {done[0]:,} of {done[1]:,} operations; {many}", "is the line or the secondary too slow?"
    return (many or "what waits is not counted yet"), "if this lasts: georep-tui logs"
