"""What a person can ask of a running session: each method of the control socket, one function."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.checkpoint import merged, parse_time
from engine.ledger import Failure
from engine.model import EngineError
from engine.verifying import verify, verify_status

if TYPE_CHECKING:
    from engine.session import Brick, Session

Params = dict[str, Any]


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
    out = []
    for brick in session.chosen(params):
        for failure in brick.ledger.all(int(params.get("limit") or 1000)):
            out.append({**failure.shown(), "id": f"{_mark(brick)}{failure.id}", "brick": os.fsdecode(brick.path)})
    return {"failures": out, "total": sum(b.ledger.size for b in session.chosen(params))}


def _mark(brick: Brick) -> str:
    """Ids of failures name their brick."""
    return f"{brick.id[:4]}-"


def _by_brick(session: Session, ids: Any) -> list[tuple[Brick, list[int]]]:
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise EngineError("ids must be a list of failure ids", code="usage")
    out: list[tuple[Brick, list[int]]] = []
    for brick in session.bricks:
        mark = _mark(brick)
        known = {f.id for f in brick.ledger.all()}
        mine = [int(i[len(mark) :]) for i in ids if i.startswith(mark) and i[len(mark) :].isdigit()]
        mine = [i for i in mine if i in known]
        if mine:
            out.append((brick, mine))
    found = sum(len(m) for _, m in out)
    if found != len(ids):
        raise EngineError(f"{len(ids) - found} of the ids are not in the ledger", code="usage",
                          hint="see: georep-tui failures")  # fmt: skip
    return out


def _retry(session: Session, params: Params, _who: str) -> Params:
    if params.get("ids") is None:
        count = sum(b.ledger.retry_now() for b in session.bricks)
    else:
        count = sum(b.ledger.retry_now(ids) for b, ids in _by_brick(session, params["ids"]))
    for brick in session.bricks:
        brick.worker.wake.set()
    return {"retrying": count}


def _dismiss(session: Session, params: Params, who: str) -> Params:
    reason = str(params.get("reason") or "")
    if not reason:
        raise EngineError("dismissing needs a reason", code="usage", hint="--reason TEXT")
    count = 0
    for brick, ids in _by_brick(session, params.get("ids")):
        for failure in brick.ledger.all():
            if failure.id in ids:
                session.log.write("warning", f"dismissed by {who} ({reason}): {_words(failure)}", os.fsdecode(brick.path))
        count += brick.ledger.dismissed(ids)
        brick.status.failures(brick.ledger.size, brick.ledger.oldest)
        session.events.publish("failure dismissed", session=session.name, brick=brick.id, count=len(ids), who=who)
    return {"dismissed": count}


def _words(failure: Failure) -> str:
    return f"{failure.operation} {os.fsdecode(failure.path)!r}: {failure.message}"


def _held(session: Session, params: Params, _who: str) -> Params:
    return {"held": [{**hold.shown(), "brick": os.fsdecode(brick.path)}
                     for brick in session.chosen(params) for hold in brick.worker.gate.all_held()]}  # fmt: skip


def _held_list(session: Session, params: Params, _who: str) -> Params:
    """A part of a list, by its id: of what is held, or was answered."""
    wanted, offset = str(params.get("id") or ""), int(params.get("offset") or 0)
    limit = max(1, min(int(params.get("limit") or 1_000), 5_000))
    if not wanted.isalnum():
        raise EngineError(f"{wanted!r} is no id of a list", code="not-held", hint="see: georep-tui held")
    for brick in session.bricks:
        if os.path.exists(brick.worker.gate.path(wanted)):
            return {"id": wanted, "items": [i.shown() for i in brick.worker.gate.list_of(wanted, offset, limit)]}
    raise EngineError(f"there is no list {wanted!r}", code="not-held", hint="see: georep-tui held")


def _approve(session: Session, params: Params, who: str) -> Params:
    return _answer(session, params, who, True)


def _reject(session: Session, params: Params, who: str) -> Params:
    return _answer(session, params, who, False)


def _answer(session: Session, params: Params, who: str, approve: bool) -> Params:
    wanted = str(params.get("id") or "")
    found = False
    for brick in session.bricks:  # of a volume that is to be taken over, all ask the same
        hold = next((h for h in brick.worker.gate.all_held() if h.id == wanted), None)
        if hold is not None:
            brick.worker.answer(wanted, approve, who)
            session.log.write("warning", f"held {wanted} ({hold.reason}): {'approved' if approve else 'rejected'} by {who}")
            found = True
    if found:
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


METHODS: dict[str, Callable[[Any, Params, str], Params]] = {
    "ping": _ping, "snapshot": _snapshot, "pause": _pause, "resume": _resume, "stop": _stop, "xsync": _xsync,
    "checkpoint": _checkpoint, "checkpoints": _checkpoints, "failures": _failures, "retry": _retry,
    "dismiss": _dismiss, "held": _held, "held_list": _held_list,
    "approve": _approve, "reject": _reject, "logs": _logs, "operations": _operations, "decisions": _decisions,
    "config_get": _config_get, "config_set": _config_set, "config_reset": _config_reset, "verify": verify,
    "verify_status": verify_status,
}  # fmt: skip
