"""What a start would do, said by the planner that a start uses; nothing is changed on either side (SAFE-2)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engine.adoption import compare
from engine.gate import REMOVE, REPLACE
from engine.link import Link
from engine.model import NO_MARK, Mark
from engine.volume.primary import TreePrimary

if TYPE_CHECKING:
    from engine.worker import Worker

SHOWN = 10
"""Paths in the text for a person; JSON has all."""


def dry_run(worker: Worker, link: Link, hello: dict[str, Any], ours: bool) -> dict[str, Any]:
    """The plan of a start as JSON: `kind` is `continue` (changes of this session) or `compare` (both trees, by path).

    `asks` counts what would be held for a person, by kind. Raises EngineError, LinkError, OSError.
    """
    options, primary = worker.options(), worker.primary
    if not isinstance(primary, TreePrimary):
        return {"kind": "continue", **primary.would_do(options), "asks": {}}
    if ours and not _compares(worker, hello):
        plan = primary.would_do(options)
        weighed = int(plan["removed"])
        held = worker.guard.exceeded(time.time(), weighed, lambda: int(plan["objects"]))
        return {"kind": "continue", **plan, "asks": {"delete": weighed} if held else {}}
    seat = worker.seat
    plan = compare(link, primary.root, options, "dry", params={"root_name": seat.root_name}).shown()
    asks = {kind: plan[f"{kind}d"]["objects"] for kind in (REPLACE, REMOVE) if plan[f"{kind}d"]["objects"]}
    return {"kind": "compare", **plan, "asks": {} if worker.consents else asks}


def _compares(worker: Worker, hello: dict[str, Any]) -> bool:
    """Would a start compare both trees, though the secondary is this session's own?"""
    marks = worker.primary.marks
    mark = hello.get("mark")
    copy = Mark(int(mark["sec"]), int(mark["nsec"])) if isinstance(mark, dict) else NO_MARK
    return "adopting" in marks.identity or bool(hello.get("index_lost")) or copy < marks.stime or worker.primary.index_lost()


def described(plan: dict[str, Any]) -> list[str]:
    """A dry run for a person, in lines."""
    lines = []
    if plan["kind"] == "continue":
        numbers = {k: v for k, v in plan.items() if isinstance(v, int) and k != "objects"}
        lines.append("dry run, nothing was changed: " + ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in numbers.items()))
    else:
        parts = ", ".join(f"{k} {plan[k]['objects']:,} ({plan[k]['bytes']:,} bytes)"
                          for k in ("equal", "made", "replaced", "removed", "kept"))  # fmt: skip
        lines.append(f"dry run, nothing was changed: {parts}; {plan['bytes']:,} bytes to send")
    for what in ("replaced", "removed"):
        paths = plan[what]["paths"] if plan["kind"] == "compare" else plan.get("paths", {}).get(what, [])
        lines += [f"would be {what}: {one['path']}" for one in paths[:SHOWN]]
        if len(paths) > SHOWN:
            lines.append(f"would be {what}: and {len(paths) - SHOWN:,} more (--json has all)")
    if plan["asks"]:
        asked = " and ".join(f"{count:,} to {kind}" for kind, count in plan["asks"].items())
        lines.append(f"a start would ask before it goes on: {asked}")
    return lines
