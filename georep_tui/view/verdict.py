"""Is it safe? The engine's verdict, raised by a person's thresholds and by how old the data is. Never lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from georep_tui.view import signs
from georep_tui.view.snapshot import Brick, Reason, Session, Snapshot, Source, parse
from georep_tui.view.units import age, duration, plural


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a number becomes a warning or critical: lag in seconds, failures as a count, age of data in seconds.

    `chosen` names those a person set; the others are the engine's where it says which it has. `acts`: may this console
    act? Else no hint names a key that does.
    """

    lag_warning: float = 60.0
    lag_critical: float = 600.0
    failures_warning: int = 1
    failures_critical: int = 100
    stale: float = 10.0
    chosen: frozenset[str] = frozenset()
    acts: bool = True


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with all its reasons, worst first; `stale` is the age of the data in seconds, None if it is fresh."""

    verdict: str
    reasons: tuple[Reason, ...]
    stale: float | None = None


FRESH = Judged("ok", ())


def staleness(source: Source | None, now: float, limits: Thresholds) -> float | None:
    """Age in seconds of what `source` says if it is too old to be believed, else None."""
    if source is None:
        return None
    old = max(0.0, now - source.data_time) if source.data_time is not None else 0.0
    return old if not source.connected or old > limits.stale else None


def limits_of(session: Session, limits: Thresholds) -> Thresholds:
    """The thresholds that count for a session: its engine's, and a person's own where those are lower."""
    theirs = session.raw.get("thresholds")
    if not isinstance(theirs, dict):
        return limits
    values = {}
    for name in _NAMES:
        known = theirs.get(name)
        if isinstance(known, int | float):
            values[name] = min(known, getattr(limits, name)) if name in limits.chosen else known
    return replace(limits, **values)  # type: ignore[arg-type]


_NAMES = ("lag_warning", "lag_critical", "failures_warning", "failures_critical")

_KEYS = {
    "held": "h shows them: approve or reject",
    "failures": "f shows them; r there tries them again",
    "paused": "p resumes it",
    "verify": "v compares again, and repairs if asked",
}
"""What to do, as the console's keys, where the engine names a command."""

_LOOKING = {"held": "h shows them", "failures": "f shows them", "paused": "", "verify": ""}
"""The same where this console may not act."""


def _keyed(reasons: tuple[Reason, ...], lag: float | None, limits: Thresholds) -> tuple[Reason, ...]:
    """The engine's reasons with this console's keys, and the lag in the units of everything else here."""
    if not any(reason.code in _KEYS or reason.code == "lag" for reason in reasons):
        return reasons
    return tuple(_put(one, lag, _KEYS if limits.acts else _LOOKING) for one in reasons)


def _put(one: Reason, lag: float | None, keys: dict[str, str]) -> Reason:
    if one.code == "lag" and lag is not None:
        return replace(one, text=f"{duration(lag)} behind")
    return replace(one, hint=keys[one.code]) if one.code in keys else one


def judge_brick(brick: Brick, source: Source | None, now: float, limits: Thresholds) -> Judged:
    """The verdict on a brick as a person sees it at unix time `now`."""
    stale = None if brick.raw.get("ended") else staleness(source, now, limits)
    if stale is None and not _over(brick.lag, brick.failures, limits):
        return Judged(brick.verdict, _keyed(brick.reasons, brick.lag, limits))
    said = _keyed(brick.reasons, brick.lag, limits)
    if stale is not None:  # our own words for it have the age
        said = tuple(reason for reason in said if reason.code != "stale")
    found = [(brick.verdict, reason) for reason in said]
    codes = {reason.code for reason in said}
    verdict = brick.verdict
    for level, reason in (*_limits(brick.lag, brick.failures, limits), *_stale(source, stale)):
        verdict = signs.worst(verdict, level)
        if reason.code not in codes:
            found.append((level, reason))
    found.sort(key=lambda item: -signs.rank(item[0]))
    return Judged(verdict, tuple(reason for _, reason in found), stale)


def judge_session(session: Session, snapshot: Snapshot, now: float, limits: Thresholds) -> Judged:
    """The verdict on a session: its own, its thresholds', its checkpoint's, and the worst of its bricks."""
    verdict, found, stale = session.verdict, [(session.verdict, reason) for reason in _keyed(session.reasons, session.lag, limits)], None
    codes = {reason.code for reason in session.reasons}
    for level, reason in (*_limits(session.lag, session.failures, limits), *_checkpoint(session, limits)):
        verdict = signs.worst(verdict, level)
        if reason.code not in codes:
            found.append((level, reason))
            codes.add(reason.code)
    sources = {brick.node: snapshot.source(brick.node) for brick in session.bricks}
    if any(staleness(source, now, limits) is not None for source in sources.values()):
        found, codes = [one for one in found if one[1].code != "stale"], codes - {"stale"}
    for brick in session.bricks:
        judged = judge_brick(brick, sources[brick.node], now, limits)
        verdict = signs.worst(verdict, judged.verdict)
        if judged.stale is not None:
            stale = max(stale or 0.0, judged.stale)
        if judged.verdict == "ok":
            continue
        for reason in judged.reasons[:1]:
            if reason.code not in codes:
                codes.add(reason.code)
                found.append((judged.verdict, reason))
    if not session.bricks and snapshot.sources and len(snapshot.sources) == 1:
        stale = staleness(snapshot.sources[0], now, limits)
        for level, reason in _stale(snapshot.sources[0], stale):
            verdict = signs.worst(verdict, level)
            found.append((level, reason))
    found.sort(key=lambda item: -signs.rank(item[0]))
    return Judged(verdict, tuple(reason for _, reason in found), stale)


def judged(document: Mapping[str, Any], limits: Thresholds) -> dict[str, Any]:
    """A snapshot's document with its verdicts raised by a person's thresholds, for the plain status and `--check`."""
    if not limits.chosen:
        return dict(document)
    snapshot = parse(document)
    sessions = []
    for doc, session in zip(document["sessions"], snapshot.sessions, strict=True):
        theirs = limits_of(session, limits)
        level, found = session.verdict, [(session.verdict, reason) for reason in session.reasons]
        for worse, reason in _limits(session.lag, session.failures, theirs):
            if reason.code not in {known.code for _, known in found}:
                found.append((worse, replace(reason, hint="a threshold of this console's own configuration")))
            level = signs.worst(level, worse)
        found.sort(key=lambda item: -signs.rank(item[0]))
        reasons = [{"code": one.code, "text": one.text, "hint": one.hint} for _, one in found]
        sessions.append({**doc, "verdict": level, "reasons": reasons})
    return {**document, "sessions": sessions}


def _over(lag: float | None, failures: int | None, limits: Thresholds) -> bool:
    return (lag or 0.0) >= limits.lag_warning or (failures or 0) >= limits.failures_warning


def _limits(lag: float | None, failures: int | None, limits: Thresholds) -> list[tuple[str, Reason]]:
    found = []
    if lag is not None and lag >= limits.lag_warning:
        found.append((
            "critical" if lag >= limits.lag_critical else "warning",
            Reason("lag", f"{duration(lag)} behind", "look at the rate and what the bricks are doing"),
        ))  # fmt: skip
    if failures is not None and failures >= limits.failures_warning:
        found.append((
            "critical" if failures >= limits.failures_critical else "warning",
            Reason("failures", f"{plural(failures, 'object')} could not be synced",
                   (_KEYS if limits.acts else _LOOKING)["failures"]),
        ))  # fmt: skip
    return found


def _stale(source: Source | None, stale: float | None) -> list[tuple[str, Reason]]:
    if source is None or stale is None:
        return []
    what = "disconnected" if not source.connected else "silent"
    cause = f": {source.error}" if source.error else ""
    text = f"{source.node or 'engine'} {what}{cause}; what is shown is {age(max(stale, 10.0))} old"
    return [("unknown", Reason("stale", text, "see whether the engine runs and the node can be reached"))]


def _checkpoint(session: Session, limits: Thresholds) -> list[tuple[str, Reason]]:
    point = session.checkpoint
    if point.time is None or not point.failures_before:
        return []
    text = f"checkpoint has {plural(point.failures_before, 'failure')} before it"
    return [("warning", Reason("checkpoint_failures", text, "f shows them; retry or dismiss them" if limits.acts else "f shows them"))]
