"""The crawls of a brick: the one that runs, and those before it, each with what it saw."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from engine.lag import crawl_shown

SHOWN = 20
"""Crawls that are kept on disk, and given out."""

_NONE: Mapping[str, Any] = {"kind": None, "since": None, "seen": None, "total": None}


class Crawls:
    """Calls come under the lock of the status."""

    def __init__(self) -> None:
        self._now: Mapping[str, Any] = _NONE
        self._all: deque[dict[str, Any]] = deque(maxlen=100)

    @property
    def kind(self) -> str:
        """hybrid, history or live; "" before the first one."""
        return self._now["kind"] or ""

    @property
    def words(self) -> str:
        """The same as gsyncd calls it."""
        return {"hybrid": "Hybrid Crawl", "history": "History Crawl", "live": "Changelog Crawl"}.get(self.kind, "N/A")

    def load(self, kept: Iterable[dict[str, Any]], saved: float) -> None:
        """Those of earlier runs, with what `latest` gave; one that was not over then ended with that run."""
        for crawl in kept:
            self._all.append({**crawl, "until": crawl["until"] or saved})

    def latest(self) -> list[dict[str, Any]]:
        """The last of them, the newest at the end."""
        return [dict(c) for c in list(self._all)[-SHOWN:]]

    def shown(self, running: bool, now: float) -> dict[str, Any]:
        """The crawl of a snapshot; nothing where the brick does not run."""
        return crawl_shown(self._now, reversed(self._all), now) if running else crawl_shown(_NONE, (), now)

    def runs(self, kind: str, since: float | None, seen: int | None, total: int | None, now: float) -> bool:
        """This one runs; True when it is another one than before."""
        changed: bool = self._now["kind"] != kind
        if changed:
            if self._all and self._all[-1]["until"] is None:
                self._all[-1]["until"] = now
            self._all.append({"kind": kind, "since": since or now, "until": None, "seen": seen})
        elif self._all and seen is not None:
            self._all[-1]["seen"] = seen
        since = since or (now if changed else self._now["since"])
        self._now = {"kind": kind, "since": since, "seen": seen, "total": total}
        return changed

    def ended(self, since: float, until: float, seen: int) -> bool:
        """A hybrid crawl ended: its whole numbers. False when it was seen while it ran."""
        # of a brick's hybrid crawls no two overlap: what does is this one
        known = next((c for c in reversed(self._all) if c["kind"] == "hybrid" and (c["until"] or until) >= since), None)
        if known is not None:
            known.update(since=since, until=until, seen=seen)
            return False
        running = self._all[-1] if self._all and self._all[-1]["until"] is None else None
        self._all.append({"kind": "hybrid", "since": since, "until": until, "seen": seen})
        if running is not None:  # it broke off for this one, and goes on
            self._all.append({**running, "since": until})
            running["until"] = since
            self._now = {**self._now, "since": until}
        return True
