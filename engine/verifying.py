"""`verify`: both sides compared beside a running session, and what differs put right as far as a person says so (SAFE-3)."""

from __future__ import annotations

import base64
import os
import stat as _stat
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from engine.adoption import SWEPT, excluded_of, inventory
from engine.apply import Problem, Result
from engine.gate import REMOVE, Item, Question
from engine.model import EngineError
from engine.problems import Due
from engine.verify import Comparison, Difference, describe, stable_differences

if TYPE_CHECKING:
    from engine.batches import Batches
    from engine.session import Brick, Session

Params = dict[str, Any]
SHOWN = 1_000
"""Differences told of one brick."""

_jobs: dict[str, dict[str, Any]] = {}
_jobs_lock = threading.Lock()


def verify(session: Session, params: Params, who: str) -> Params:
    """Start a comparison in a thread of its own; `verify_status` follows it. Raises EngineError.

    `repair` puts right what the primary has; what only the secondary has goes only with `remove_extra`, too. `dry` says
    what both would do, and does nothing.
    """
    wish = {k: bool(params.get(k)) for k in ("content", "repair", "remove_extra", "dry")}
    if wish["remove_extra"] and not wish["repair"]:
        raise EngineError("--remove-extra is for --repair", code="usage", hint="verify --repair --remove-extra")
    if wish["remove_extra"] and session.config.options.ignore_deletes:
        raise EngineError("ignore_deletes is set: nothing is removed from the secondary", code="usage",
                          hint="verify --repair without --remove-extra; or set ignore_deletes to false")  # fmt: skip
    bricks = [b for b in session.chosen(params) if b.status.status != "Passive"]
    for brick in bricks:
        if brick.worker.link is None:
            raise EngineError(f"{os.fsdecode(brick.path)} is not connected to its secondary", code="not-connected",
                              hint="see: georep-tui status")  # fmt: skip
    job = uuid.uuid4().hex[:8]
    state: dict[str, Any] = {"job": job, "running": True, "checked": 0, "content": 0, "different": 0, "repaired": 0, "extra": 0,
                             "removed": 0, "dry": wish["dry"], "differences": [], "error": None, "since": time.time(),
                             "would": {k: {"objects": 0, "bytes": 0} for k in ("made", "replaced", "removed", "left")}}  # fmt: skip
    with _jobs_lock:
        _jobs[job] = state
    threading.Thread(
        target=_verify_all, args=(session, bricks, wish, who, state), name=f"verify {session.name}", daemon=True
    ).start()
    return {"job": job}


def verify_status(_session: Session, params: Params, _who: str) -> Params:
    """How far a comparison is, and what it found. Raises EngineError for one that is not known."""
    with _jobs_lock:
        state = _jobs.get(str(params.get("job")))
        if state is None:
            raise EngineError(f"no verify {params.get('job')!r}", code="usage")
        return dict(state)


def _verify_all(session: Session, bricks: list[Brick], wish: dict[str, bool], who: str, state: dict[str, Any]) -> None:
    try:
        for brick in bricks:
            _verify_brick(session, brick, wish, who, state)
    except EngineError as e:
        state["error"] = {"text": e.text, "hint": e.hint, "code": e.code}
    except OSError as e:
        state["error"] = {"text": f"verify: {e}", "hint": "", "code": "os"}
    finally:
        state["running"] = False


def _verify_brick(session: Session, brick: Brick, wish: dict[str, bool], who: str, state: dict[str, Any]) -> None:
    """Compare one brick with its replica; what still differs after the changes so far are synced is a difference."""
    worker = brick.worker
    link = worker.link
    if link is None:
        raise EngineError(f"{os.fsdecode(brick.path)} is not connected", code="not-connected")
    began = state["checked"]

    def progress(checked: int) -> None:
        state["checked"] = began + checked

    view = brick.primary.view()
    try:
        excluded = brick.primary.excluded(view)
        comparison = Comparison(view, link, content=wish["content"], xattrs=session.config.options.sync_xattrs,
                                stop=worker.stopping, progress=progress, excluded=excluded)  # fmt: skip
        report = comparison.run()
        found = stable_differences(worker.settle, lambda: brick.primary.marks.stime, brick.path, comparison,
                                   report.differences, worker.stopping)  # fmt: skip
    finally:
        view.end()
    repair = _Repair(brick, found, who, remove=wish["remove_extra"])
    state["content"] += report.content
    state["different"] += len(found)
    state["extra"] += len(repair.extra)
    for difference in found:
        act = repair.act(difference)
        counted = state["would"][act]
        counted["objects"] += 1
        counted["bytes"] += 0 if act == "left" else _size(difference, act)
        if len(state["differences"]) < SHOWN:
            shown = {**describe(difference), "brick": os.fsdecode(brick.path)}
            state["differences"].append({**shown, "act": act} if wish["repair"] else shown)
    left: list[str] = []
    if wish["repair"] and found and not wish["dry"]:
        worker.repair(repair.run)
        left = repair.left
        state["removed"] += repair.removed
        state["repaired"] += len(found) - len(repair.kept) - len(left)
        if left:
            text = f"{len(left)} could not be repaired: {left[0]}"
            state["error"] = {"text": text, "hint": "", "code": "repair"}
    done = len(found) - len(repair.kept) - len(left) if wish["repair"] and not wish["dry"] else 0
    brick.status.last_verify = {"time": time.time(), "checked": report.checked, "content": wish["content"],
                                "different": len(found) - done, "repaired": done}  # fmt: skip
    brick.status.save()


def _size(difference: Difference, act: str) -> int:
    """Bytes that go there, or away."""
    there = difference.there
    if act == "removed":
        return there.size if there is not None and there.kind == _stat.S_IFREG else 0
    return difference.size


class _Repair:
    """What a repair does with each difference of one brick, and what came of it."""

    def __init__(self, brick: Brick, found: list[Difference], who: str, *, remove: bool) -> None:
        self.brick = brick
        self.who = who
        self.remove = remove
        self.found = found
        self.extra = [d for d in found if d.gfid is None]
        self.kept = [d for d in found if self.act(d) == "left"]
        """Differences that only `remove_extra` puts right."""
        self.left: list[str] = []
        """What could not be put right, in words."""
        self.removed = 0

    def act(self, difference: Difference) -> str:
        """made, replaced, removed, or left."""
        if difference.gfid is None:
            return "removed" if self.remove else "left"
        there = difference.there
        if there is None:
            return "made"
        if there.kind == _stat.S_IFDIR and difference.what == "another type" and not self.remove:
            return "left"  # what is in it would go with it
        return "replaced"

    def run(self, batches: Batches) -> None:
        """Do it, in the worker's thread. Raises EngineError."""
        due = Due()
        if self.remove:
            self._extras(batches, due)
        problems = [Problem(d.gfid, d.slot, "RETRY", 0, d.what) for d in self.found
                    if d.gfid is not None and self.act(d) != "left"]  # fmt: skip
        problems += [Problem(gfid, None, "META", 0, "moved") for gfid in (*due.data, *due.meta, *due.below)]
        result = Result(gone=due.gone)
        # a person has seen these differences, and wants the primary's
        self.left += [p.text for p in batches.reconciler.settle(problems, result, replace=True)]

    def _extras(self, batches: Batches, due: Due) -> None:
        """Remove what only the secondary has: exactly what was listed, kept as a list with who wanted it."""
        tree = self.brick.primary.kind == "tree"
        excluded = excluded_of(self.brick.worker.options()) if tree else None
        listed: list[Item] = []
        closed: set[bytes] = set()
        for one in self.extra:
            assert one.there is not None
            listed.append(one.there)
            if not tree or one.there.kind != _stat.S_IFDIR:
                continue
            top = base64.b64encode(one.path).decode()
            for page in inventory(batches.link, "all", {"top": top}):
                for entry in page:
                    if excluded is not None and excluded(entry.path, entry.kind == _stat.S_IFDIR):
                        closed.add(one.path)
                    else:
                        listed.append(entry.item("in a directory that only the secondary has"))
        if not listed:
            return
        answer = self.brick.worker.gate.consent(
            Question(REMOVE, f"{len(listed)} objects that only the secondary has (verify --repair --remove-extra)", lambda: listed),
            self.who,
        )
        self.brick.worker.log("warning", f"{len(listed)} objects that only the secondary has are removed, asked by {self.who} "
                                         f"(list {self.brick.worker.gate.path(answer.id)})")  # fmt: skip
        if tree:
            ordered = sorted(listed, key=lambda i: i.path.split(b"/"), reverse=True)
            for at in range(0, len(ordered), SWEPT):
                some = [[base64.b64encode(i.path).decode(), i.ino, i.kind, i.size, i.mtime_ns] for i in ordered[at : at + SWEPT]]
                self.removed += int(batches.link.call("sweep", {"items": some})["moved"])
        for one in self.extra:
            if one.path in closed:
                self.left.append(f"{os.fsdecode(one.path)}: something in it is excluded")
            elif one.found is not None:
                batches.reconciler.clear(one.slot, due)
                self.removed += 1
        self.brick.worker.gate.used(REMOVE)
