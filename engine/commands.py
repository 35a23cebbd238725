"""What a person can ask of a running session: each method of the control socket, one function."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.apply import Problem, Result
from engine.checkpoint import merged, parse_time
from engine.ledger import Failure
from engine.model import EngineError
from engine.verify import Comparison, describe, stable_differences

if TYPE_CHECKING:
    from engine.session import Brick, Session

Params = dict[str, Any]
PAGE = 600_000
"""Bytes of entries of the ledger in one answer: a line of the socket takes 1 MiB."""

_jobs: dict[str, dict[str, Any]] = {}
_jobs_lock = threading.Lock()


def run(session: Session, method: str, params: Params, who: str) -> Params:
    """Run one method. Raises EngineError for an unknown one and for what can't be done now."""
    command = METHODS.get(method)
    if command is None:
        raise EngineError(f"unknown method {method!r}", code="usage", hint=f"known: {', '.join(sorted(METHODS))}")
    return command(session, params, who)


def _ping(session: Session, _params: Params, _who: str) -> Params:
    return {"session": session.name}


def _snapshot(session: Session, _params: Params, _who: str) -> Params:
    return session.snapshot()


def _pause(session: Session, params: Params, who: str) -> Params:
    return _set_paused(session, params, who, True)


def _resume(session: Session, params: Params, who: str) -> Params:
    return _set_paused(session, params, who, False)


def _set_paused(session: Session, params: Params, who: str, paused: bool) -> Params:
    bricks = session.chosen(params)
    for brick in bricks:
        if (brick.status.paused_by is not None) != paused:
            brick.status.set_paused(who if paused else None, time.time())
            session.events.publish("pause" if paused else "resume", session=session.name, brick=brick.id, who=who)
        brick.worker.pause(paused)
    return {"bricks": [os.fsdecode(b.path) for b in bricks], "paused": paused}


def _stop(session: Session, _params: Params, who: str) -> Params:
    session.log.write("info", f"stop asked by {who}")
    session.finished.set()
    return {"stopping": True}


def _xsync(session: Session, params: Params, who: str) -> Params:
    bricks = session.chosen(params)
    for brick in bricks:
        brick.worker.xsync(f"asked by {who}")
    return {"bricks": [os.fsdecode(b.path) for b in bricks]}


def _checkpoint(session: Session, params: Params, who: str) -> Params:
    value = params.get("time")
    at = None if value is None else parse_time(value, time.time())
    for brick in session.bricks:
        brick.status.set_checkpoint(at, who)
        if at is not None:
            brick.worker.flush()
    session.events.publish("checkpoint set" if at is not None else "checkpoint cleared", session=session.name, at=at)
    return {"time": at}


def _checkpoints(session: Session, params: Params, _who: str) -> Params:
    return {"checkpoints": merged(b.status.checkpoints() for b in session.chosen(params))}


def _failures(session: Session, params: Params, _who: str) -> Params:
    """The ledger: those of `ids`, or a page from behind `after` on; `next` is the id that the next page is behind."""
    bricks = session.chosen(params)
    total = sum(b.ledger.size for b in bricks)
    if params.get("ids") is not None:
        return {"failures": [_shown(b, f) for b, f in _named(session, params["ids"])], "total": total, "next": None}
    limit, after = int(params.get("limit") or 1000), str(params.get("after") or "")
    marks = [_mark(b) for b in bricks]
    start, last = next(((i, after[len(m) :]) for i, m in enumerate(marks) if after.startswith(m)), (0, "0"))
    out: list[Params] = []
    room = PAGE
    for brick in bricks[start:]:
        for failure in brick.ledger.all(limit - len(out) + 1, int(last) if last.isdigit() else 0):
            shown = _shown(brick, failure)
            room -= len(json.dumps(shown))
            if len(out) == limit or (out and room < 0):
                return {"failures": out, "total": total, "next": out[-1]["id"]}
            out.append(shown)
        last = "0"
    return {"failures": out, "total": total, "next": None}


def _shown(brick: Brick, failure: Failure) -> Params:
    return {**failure.shown(), "id": f"{_mark(brick)}{failure.id}", "brick": os.fsdecode(brick.path)}


def _named(session: Session, ids: Any) -> list[tuple[Brick, Failure]]:
    """The entries that have these ids; those that are not there are left out."""
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise EngineError("ids must be a list of failure ids", code="usage")
    out: list[tuple[Brick, Failure]] = []
    for brick in session.bricks:
        mark = _mark(brick)
        mine = [int(i[len(mark) :]) for i in ids if i.startswith(mark) and i[len(mark) :].isdigit()]
        out += [(brick, f) for f in brick.ledger.some(mine)]
    return out


def _mark(brick: Brick) -> str:
    """Ids of failures name their brick."""
    return f"{brick.id[:4]}-"


def _by_brick(session: Session, ids: Any) -> list[tuple[Brick, list[Failure]]]:
    """The entries of these ids, by brick. Raises EngineError where one of them is not there."""
    found = _named(session, ids)
    missing = len(set(ids)) - len(found)
    if missing:
        raise EngineError(f"{missing} of the ids are not in the ledger", code="usage", hint="see: georep-tui failures")
    return [(b, mine) for b in session.bricks if (mine := [f for of, f in found if of is b])]


def _retry(session: Session, params: Params, _who: str) -> Params:
    if params.get("ids") is None:
        count = sum(b.ledger.retry_now() for b in session.bricks)
    else:
        count = sum(b.ledger.retry_now([f.id for f in some]) for b, some in _by_brick(session, params["ids"]))
    for brick in session.bricks:
        brick.worker.wake.set()
    return {"retrying": count}


def _dismiss(session: Session, params: Params, who: str) -> Params:
    reason = str(params.get("reason") or "")
    if not reason:
        raise EngineError("dismissing needs a reason", code="usage", hint="--reason TEXT")
    ids = params.get("ids")
    chosen = [(b, b.ledger.all()) for b in session.chosen(params)] if ids is None else _by_brick(session, ids)
    count = 0
    for brick, some in chosen:
        for failure in some:
            session.log.write("warning", f"dismissed by {who} ({reason}): {_words(failure)}", os.fsdecode(brick.path))
        gone = brick.ledger.dismissed([f.id for f in some])
        count += gone
        brick.status.failures(brick.ledger.size, brick.ledger.oldest)
        if gone:
            session.events.publish("failure dismissed", session=session.name, brick=brick.id, count=gone, who=who)
    return {"dismissed": count}


def _words(failure: Failure) -> str:
    return f"{failure.operation} {os.fsdecode(failure.path)!r}: {failure.message}"


def _held(session: Session, params: Params, _who: str) -> Params:
    out = []
    for brick in session.chosen(params):
        hold = brick.worker.held()
        if hold is not None:
            out.append({"id": hold.id, "brick": os.fsdecode(brick.path), "reason": hold.reason, "deletes": hold.deletes,
                        "of": hold.of, "bytes": hold.bytes, "sample": list(hold.sample), "since": hold.since})  # fmt: skip
    return {"held": out}


def _approve(session: Session, params: Params, who: str) -> Params:
    return _answer(session, params, who, True)


def _reject(session: Session, params: Params, who: str) -> Params:
    return _answer(session, params, who, False)


def _answer(session: Session, params: Params, who: str, approve: bool) -> Params:
    wanted = str(params.get("id") or "")
    for brick in session.bricks:
        hold = brick.worker.held()
        if hold is not None and hold.id == wanted:
            brick.worker.answer(wanted, approve, who)
            session.log.write("warning", f"held deletes {wanted} {'approved' if approve else 'rejected'} by {who}")
            return {"id": wanted, "approved": approve}
    raise EngineError(f"nothing is held under {wanted!r}", code="not-held", hint="see: georep-tui held")


def _logs(session: Session, params: Params, _who: str) -> Params:
    lines = session.log.lines(
        int(params.get("since") or 0), int(params.get("limit") or 200), str(params.get("level") or "debug"),
        str(params.get("brick") or ""),
    )  # fmt: skip
    return {"lines": lines}


def _operations(session: Session, params: Params, _who: str) -> Params:
    try:
        with open(os.path.join(session.state, "operations.log"), encoding="utf-8") as f:
            lines = f.readlines()[-int(params.get("limit") or 200) :]
    except FileNotFoundError:
        lines = []
    return {"operations": [json.loads(line) for line in lines]}


def _decisions(session: Session, params: Params, _who: str) -> Params:
    out = []
    for brick in session.chosen(params):
        out += [{"brick": os.fsdecode(brick.path), "gfid": d.gfid.hex(), "row": d.row, "text": d.text}
                for d in brick.worker.decisions[-200:]]  # fmt: skip
    return {"decisions": out}


def _config_get(session: Session, params: Params, _who: str) -> Params:
    known = session.config.describe()
    name = params.get("name")
    if name is not None:
        known = [o for o in known if o["name"] == str(name).replace("-", "_")]
        if not known:
            raise EngineError(f"unknown option {name!r}", code="usage", hint="georep-tui config SESSION lists them")
    return {"options": known}


def _config_set(session: Session, params: Params, who: str) -> Params:
    name = str(params.get("name") or "").replace("-", "_")
    live = session.config.set(name, params.get("value"), who)
    return _changed(session, name, bool(live))


def _config_reset(session: Session, params: Params, _who: str) -> Params:
    name = str(params.get("name") or "").replace("-", "_")
    live = session.config.reset(name)
    return _changed(session, name, bool(live))


def _changed(session: Session, name: str, live: bool) -> Params:
    options = session.config.options
    session.bandwidth.set(options.bandwidth_limit)
    session.log.set_level(options.log_level)
    session.events.publish("config set", session=session.name, option=name, value=repr(getattr(options, name)))
    if name == "checkpoint":
        _checkpoint(session, {"time": options.checkpoint or None}, "config")
    if not live:
        for brick in session.bricks:
            brick.worker.restart(session.target())
    return {"name": name, "value": getattr(options, name), "restarts": not live}


def _verify(session: Session, params: Params, _who: str) -> Params:
    """Start a comparison in a thread of its own; `verify_status` follows it (SAFE-3)."""
    bricks = [b for b in session.chosen(params) if b.status.status != "Passive"]
    for brick in bricks:
        if brick.worker.link is None:
            raise EngineError(f"{os.fsdecode(brick.path)} is not connected to its secondary", code="not-connected",
                              hint="see: georep-tui status")  # fmt: skip
    job = uuid.uuid4().hex[:8]
    state: dict[str, Any] = {"job": job, "running": True, "checked": 0, "content": 0, "different": 0, "repaired": 0,
                             "differences": [], "error": None, "since": time.time()}  # fmt: skip
    with _jobs_lock:
        _jobs[job] = state
    content, repair = bool(params.get("content")), bool(params.get("repair"))
    threading.Thread(
        target=_verify_all, args=(session, bricks, content, repair, state), name=f"verify {session.name}", daemon=True
    ).start()
    return {"job": job}


def _verify_status(_session: Session, params: Params, _who: str) -> Params:
    with _jobs_lock:
        state = _jobs.get(str(params.get("job")))
        if state is None:
            raise EngineError(f"no verify {params.get('job')!r}", code="usage")
        return dict(state)


def _verify_all(session: Session, bricks: list[Brick], content: bool, repair: bool, state: dict[str, Any]) -> None:
    try:
        for brick in bricks:
            verify_brick(session, brick, content, repair, state)
    except EngineError as e:
        state["error"] = {"text": e.text, "hint": e.hint, "code": e.code}
    except OSError as e:
        state["error"] = {"text": f"verify: {e}", "hint": "", "code": "os"}
    finally:
        state["running"] = False


def verify_brick(session: Session, brick: Brick, content: bool, repair: bool, state: dict[str, Any]) -> None:
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
        comparison = Comparison(view, link, content=content, xattrs=session.config.options.sync_xattrs,
                                stop=worker.stopping, progress=progress, excluded=excluded)  # fmt: skip
        report = comparison.run()
        found = stable_differences(worker.settle, lambda: brick.primary.marks.stime, brick.path, comparison,
                                   report.differences, worker.stopping)  # fmt: skip
        state["content"] += report.content
        state["different"] += len(found)
        state["differences"] += [{**describe(d), "brick": os.fsdecode(brick.path)} for d in found[:1000]]
        if repair and found:
            problems = []
            for d in found:
                if d.gfid is not None:
                    problems.append(Problem(d.gfid, d.slot, "RETRY", 0, d.what))
            extra = [d.slot for d in found if d.gfid is None]
            result = Result()
            left = worker.repair(problems, extra, result)
            state["repaired"] += len(found) - len(left)
            if left:
                state["error"] = {"text": f"{len(left)} could not be repaired: {left[0].text}", "hint": "", "code": "repair"}
        brick.status.last_verify = {"time": time.time(), "checked": report.checked, "content": content,
                                    "different": len(found), "repaired": state["repaired"]}  # fmt: skip
        if repair:
            brick.status.last_verify["different"] = len(found) - state["repaired"]
        brick.status.save()
    finally:
        view.end()


METHODS: dict[str, Callable[[Any, Params, str], Params]] = {
    "ping": _ping, "snapshot": _snapshot, "pause": _pause, "resume": _resume, "stop": _stop, "xsync": _xsync,
    "checkpoint": _checkpoint, "checkpoints": _checkpoints, "failures": _failures, "retry": _retry,
    "dismiss": _dismiss, "held": _held,
    "approve": _approve, "reject": _reject, "logs": _logs, "operations": _operations, "decisions": _decisions,
    "config_get": _config_get, "config_set": _config_set, "config_reset": _config_reset, "verify": _verify,
    "verify_status": _verify_status,
}  # fmt: skip
