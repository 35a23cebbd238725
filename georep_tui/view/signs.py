"""A sign, a colour and a word for each state, so that it reads without colour as well as with."""

from __future__ import annotations

from typing import NamedTuple

ROLES = ("ok", "warning", "critical", "unknown", "muted", "accent", "title", "busy", "strong", "mark")
"""What a cell can be coloured as; a theme gives each a style."""

VERDICTS = ("ok", "warning", "unknown", "critical")
"""From best to worst."""


class Sign(NamedTuple):
    """`sign` is one column wide; `word` at most eight; `role` one of ROLES."""

    sign: str
    word: str
    role: str


_STATES = {
    "Active": Sign("●", "Active", "ok"),
    "Passive": Sign("○", "Passive", "muted"),
    "Initializing...": Sign("◌", "Starting", "busy"),
    "Created": Sign("◌", "Created", "muted"),
    "Faulty": Sign("✖", "Faulty", "critical"),
    "Held": Sign("⚑", "Held", "critical"),
    "Paused": Sign("‖", "Paused", "warning"),
    "Stopped": Sign("■", "Stopped", "muted"),
}
_VERDICT_SIGNS = {
    "ok": Sign("●", "OK", "ok"),
    "warning": Sign("▲", "Warning", "warning"),
    "unknown": Sign("?", "Unknown", "unknown"),
    "critical": Sign("✖", "Critical", "critical"),
}
_CRAWLS = {
    "Hybrid Crawl": ("H", "hybrid"),
    "History Crawl": ("Y", "history"),
    "Changelog Crawl": ("L", "changelog"),
    "N/A": ("–", "–"),
}


def state(status: str) -> Sign:
    """The sign of a brick's or session's status; an unknown one says its own word."""
    return _STATES.get(status) or Sign("?", status[:8], "unknown")


def verdict(name: str) -> Sign:
    """The sign of a verdict; what is not one counts as unknown."""
    return _VERDICT_SIGNS.get(name) or _VERDICT_SIGNS["unknown"]


def rank(name: str) -> int:
    """How bad a verdict is: 0 ok to 3 critical."""
    return VERDICTS.index(name) if name in VERDICTS else 2


def worst(*names: str) -> str:
    """The worst of some verdicts; ok if there is none."""
    return max((name if name in VERDICTS else "unknown" for name in names), key=rank, default="ok")


def crawl_letter(crawl_status: str) -> str:
    """H hybrid, Y history, L changelog (live), – none."""
    return _CRAWLS.get(crawl_status, ("?", ""))[0]


def crawl_word(crawl_status: str) -> str:
    """The crawl in at most nine columns."""
    return _CRAWLS.get(crawl_status, ("", crawl_status[:9]))[1]
