"""Pictures of several nodes as one: what is one session on many nodes, and what then holds for all of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.verdict import ORDER, STATES
from georep_tui.sources.base import Doc

Key = tuple[str, str, str, str]


def identity(session: Mapping[str, Any]) -> Key:
    """What makes sessions on several nodes one: their name, what they replicate to, and with which engine.

    Each node's engine has an id of its own, kept in its own state; the name is what a person gives them in common.
    """
    return str(session["name"]), str(session["kind"]), str(session["secondary"]), str(session.get("engine") or "")


def merged(documents: Sequence[Doc], ids: dict[Key, str] | None = None) -> Doc:
    """Several pictures as one. `ids` keeps the id under which a session was first shown; it stays that one's."""
    known = {} if ids is None else ids
    groups: dict[Key, list[Doc]] = {}
    for document in documents:
        for session in document["sessions"]:
            groups.setdefault(identity(session), []).append(session)
    return {
        "version": 1,
        "time": max((d["time"] for d in documents), default=0.0),
        "sources": _sources([s for d in documents for s in d["sources"]]),
        "sessions": [together(parts, known.setdefault(key, parts[0]["id"])) for key, parts in groups.items()],
    }


def _sources(every: Sequence[Doc]) -> list[Doc]:
    """One entry for each node: of two, the one that is connected, then the one with later data."""
    best: dict[str, Doc] = {}
    for source in every:
        known = best.get(source["node"])
        if known is None or _worth(source) > _worth(known):
            best[source["node"]] = source
    return list(best.values())


def _worth(source: Doc) -> tuple[bool, float]:
    return bool(source["connected"]), float(source["data_time"] or 0)


def renamed(document: Doc, node: str, place: str) -> Doc:
    """The same picture with a node called as it is reached: two machines may call themselves the same."""

    def other(one: Doc) -> Doc:
        return {**one, "node": place} if one["node"] == node else one

    return {
        **document, "sources": [other(s) for s in document["sources"]],
        "sessions": [{**s, "bricks": [other(b) for b in s["bricks"]]} for s in document["sessions"]],
    }  # fmt: skip


def together(parts: Sequence[Doc], ident: str) -> Doc:
    """One session from its parts on several nodes: all bricks, the worst state and verdict, the sum of failures."""
    if len(parts) == 1:
        return parts[0] if parts[0]["id"] == ident else {**parts[0], "id": ident}
    bricks = _bricks(parts)
    lags = [p["lag_seconds"] for p in parts if p["state"] != "Passive"]
    counts = [p["failures"] for p in parts]
    if all(p.get("engine") == "gsyncd" for p in parts):  # every node tells of all
        counts = [b["failures"] for b in bricks]
    worst = sorted(parts, key=lambda p: -ORDER.get(p["verdict"], 2))
    reasons: list[Doc] = []
    for part in worst:
        reasons += [r for r in part["reasons"] if r not in reasons]
    return {
        **parts[0],
        "id": ident,
        "primary": ", ".join(dict.fromkeys(p["primary"] for p in parts)),
        "state": next((s for s in STATES if any(p["state"] == s for p in parts)), parts[0]["state"]),
        "verdict": worst[0]["verdict"],
        "reasons": reasons,
        "lag_seconds": None if not lags or None in lags else max(lags),
        "failures": None if None in counts else sum(counts),
        "checkpoint": checkpoint([p["checkpoint"] for p in parts]),
        "bricks": bricks,
    }


def _bricks(parts: Sequence[Doc]) -> list[Doc]:
    """Every brick once: what its own node says of it counts more than what another one does."""
    found: dict[str, Doc] = {}
    for part in parts:
        for brick in part["bricks"]:
            known = found.get(brick["id"])
            if known is None or (brick.get("local") and not known.get("local")):
                found[brick["id"]] = brick
    return list(found.values())


def checkpoint(points: Sequence[Doc]) -> Doc:
    """The checkpoint of all: complete when every part's is; a part without one has not reached it."""
    set_ = [p for p in points if p["time"] is not None]
    if not set_:
        return dict(points[0])
    done = len(set_) == len(points) and all(p["completed"] for p in set_)
    etas = [p["eta_seconds"] for p in set_ if not p["completed"]]
    ends = [p["completion_time"] for p in set_]
    return {
        "time": max(p["time"] for p in set_), "completed": done,
        "completion_time": max(ends) if done and None not in ends else None,
        "failures_before": sum(p.get("failures_before") or 0 for p in set_),
        "eta_seconds": max(etas) if etas and None not in etas else None,
        "held_by": next((p["held_by"] for p in set_ if not p["completed"] and p["held_by"]), None),
    }  # fmt: skip


# ---- answers -----------------------------------------------------------------------------------------------------


def joined(answers: Sequence[tuple[str, Any]]) -> Any:
    """Answers of several nodes (node, answer) as one: lists behind each other, each item with its node, numbers added,
    times the latest, of the rest the first."""
    if len(answers) == 1:
        return answers[0][1]
    out: Doc = {}
    for node, answer in answers:
        for key, value in (answer if isinstance(answer, dict) else {}).items():
            known = out.get(key)
            if isinstance(value, list):
                out[key] = [*(known or ()), *(_of(node, item) for item in value)]
            elif key not in out or known is None:
                out[key] = value
            elif key == "time":
                out[key] = max(known, value) if value is not None else known
            elif isinstance(value, bool):
                out[key] = known or value
            elif isinstance(value, int) and isinstance(known, int):
                out[key] = known + value
    return out


def _of(node: str, item: Any) -> Any:
    if isinstance(item, dict):
        return {"node": node, **item}
    return f"{node}:{item}" if isinstance(item, str) else item


def options(answers: Sequence[tuple[str, Any]]) -> Doc:
    """Options of several nodes: one of each, and where nodes differ, who has which value."""
    every: dict[str, list[tuple[str, Doc]]] = {}
    for node, answer in answers:
        for option in answer["options"]:
            every.setdefault(option["name"], []).append((node, option))
    out = []
    for found in every.values():
        texts = [option["text"] for _, option in found]
        option = dict(found[0][1])
        if len(set(texts)) > 1:
            option["text"] = "; ".join(f"{node}: {one['text']}" for node, one in found)
            option["origin"] = "differs between nodes"
        out.append(option)
    return {"options": out}
