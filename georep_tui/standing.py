"""Sessions known here whose engine does not run, or does not answer: what their state directories tell of them."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.checkpoint import of_bricks
from engine.life import Life, look
from engine.protocol import SUFFIX, directories, trusted
from engine.status import BrickStatus, Who
from engine.verdict import ORDER, Thresholds
from georep_tui.places import Known, known_at, known_sessions, state_base
from georep_tui.sources.base import Doc
from georep_tui.view.units import moment

POINTER = ".state"
"""Beside the socket of a session whose state is elsewhere than usual: where that is."""


def point(socket_path: str, state: str) -> None:
    """Note beside a socket where the session's state is, where nobody would look for it. Raises OSError."""
    if os.path.dirname(state) != state_base():
        with open(_pointer(socket_path), "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(state)


def unpoint(socket_path: str) -> None:
    """The engine ended in order: whoever looks for the session says where its state is."""
    try:
        os.unlink(_pointer(socket_path))
    except FileNotFoundError:
        pass


def _pointer(socket_path: str) -> str:
    return socket_path.removesuffix(SUFFIX) + POINTER


def _pointed() -> Iterator[str]:
    for directory in directories():
        if not trusted(directory):
            continue
        with contextlib.suppress(OSError):  # another user's: not for us to see
            for name in sorted(os.listdir(directory)):
                if name.endswith(POINTER):
                    with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as f:
                        yield f.read()


def everyone(base: str) -> list[tuple[Known, Life]]:
    """The sessions with state below `base`, and those whose engines left word where theirs is, each with its life."""
    found = {known.directory: known for known in known_sessions(base).values()}
    for state in _pointed():
        known = known_at(state)
        if known is not None:
            found.setdefault(known.directory, known)
    out = []
    for known in found.values():
        try:
            out.append((known, look(known.directory)))
        except OSError:
            continue  # another user's, by now: not for us to see
    return out


def with_standing(document: Doc, sessions: Sequence[tuple[Known, Life]], only: str | None, now: float) -> Doc:
    """The picture with every session that is known here: those that run as they say, the others by their state."""
    shown = {s["id"]: s for s in document["sessions"]}
    for known, life in sessions:
        if only not in (None, known.name, known.id):
            continue
        seen = shown.get(known.id)
        if (life.how == "running" and seen is not None) or (seen is not None and seen.get("ended") and life.how != "died"):
            continue  # it speaks for itself, or has said that it ends
        shown[known.id] = session_of(known, life, now)
    told = {b["node"] for s in shown.values() if not s.get("ended") for b in s["bricks"]}
    sources = [s for s in document["sources"] if s["connected"] or s["node"] in told]
    node = socket.gethostname()
    if len(shown) > len(document["sessions"]) or len(sources) < len(document["sources"]):
        if all(s["node"] != node for s in sources):
            sources.append({"node": node, "connected": True, "data_time": now, "clock_offset_seconds": 0.0,
                            "engine_version": None, "boot_id": None, "error": None})  # fmt: skip
    return {**document, "time": max(float(document["time"]), now), "sources": sources, "sessions": list(shown.values())}


def session_of(known: Known, life: Life, now: float) -> Doc:
    """One session as of its state directory."""
    level, reason = _why(life, known.name, now)
    ended = life.how != "running"
    bricks = [_brick(known, dict(facts), level, reason, now) for facts in life.bricks] if ended else []
    return {
        "id": known.id or known.name, "name": known.name, "kind": known.kind, "primary": " ".join(known.primaries),
        "secondary": known.secondary, "state": "Stopped" if ended else "Initializing...", "verdict": level,
        "reasons": [reason], "lag_seconds": None, "failures": sum(b["failures"] for b in bricks) if bricks else None,
        "checkpoint": of_bricks(bricks), "bricks": bricks, **({"ended": True, "last_seen": life.seen} if ended else {}),
    }  # fmt: skip


def _brick(known: Known, facts: dict[str, Any], level: str, reason: Mapping[str, str], now: float) -> Doc:
    """A brick as its status was kept; what it is comes from the life."""
    state = os.path.join(known.directory, "bricks", os.path.basename(str(facts.pop("state", ""))))
    who = Who(**{k: str(facts.get(k) or "") for k in Who.__dataclass_fields__})
    status = BrickStatus(who, os.path.join(state, "status.json"))
    status.status = "Stopped"
    found = status.snapshot(now, Thresholds())
    others = [r for r in found["reasons"] if r["code"] not in ("stopped", reason["code"])]
    worst = max((level, found["verdict"] if others else "ok"), key=ORDER.__getitem__)
    return {**found, "verdict": worst if level == "critical" else level, "reasons": [dict(reason), *others], "ended": True}


def _why(life: Life, name: str, now: float) -> tuple[str, dict[str, str]]:
    """Verdict and reason."""
    again = life.again or f"georep-tui run {name}"
    start = f"start it again: {again}"
    when = moment(life.seen, now)
    if life.how == "running":
        return "unknown", {
            "code": "unreachable", "text": f"its engine runs (process {life.pid}), and no control socket of it answers here",
            "hint": "it may be starting; or it is another user's, or has another XDG_RUNTIME_DIR",
        }  # fmt: skip
    if life.how == "died":
        return "critical", {"code": "died", "text": f"died, last seen {when}", "hint": start}
    if life.how == "once":
        what = "caught up" if life.code == 0 else "did not bring all over"
        return "critical", {"code": "stopped", "text": f"Stopped: ran once and {what} {when}", "hint": start}
    if life.how == "failed":
        return "critical", {"code": "stopped", "text": f"Stopped: it could not be started {when}", "hint": start}
    since = f" since {when}" if life.seen is not None else ""
    return "critical", {"code": "stopped", "text": f"Stopped{since}: nothing is replicated", "hint": start}


def refreshed(state_dir: str, every: float = 1.0) -> Iterator[list[tuple[Known, Life]]]:
    """Everyone, again and again; looked for no more often than every so many seconds."""
    base = state_base(state_dir)
    looked, found = time.monotonic(), everyone(base)
    while True:
        if time.monotonic() - looked >= every:
            looked, found = time.monotonic(), everyone(base)
        yield found
