"""The control protocol: lines of JSON, where sockets are, how a picture becomes changes and back. Without threads."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from engine.model import EngineError
from engine.names import escaped

PROTOCOL = 1
MAX_LINE = 1 << 20
"""Bytes of a line, its end included."""

MAX_WRAPPED = MAX_LINE + 4096
"""Bytes of a line that carries another one with its session's name (`dial-stdio`)."""

SUFFIX = ".sock"
_SUN_PATH = 107
"""Bytes a path may have to fit into a socket's address on Linux."""

LAG_SLACK = 0.5
"""Seconds a lag may differ from its own growth before it is sent anew."""

READING = frozenset((
    "hello", "ping", "subscribe", "snapshot", "failures", "held", "held_list", "logs", "operations", "config_get", "verify_status",
    "decisions", "checkpoints",
))  # fmt: skip
"""Methods that change nothing: all that a reader may call."""

Doc = dict[str, Any]


class ProtocolError(EngineError):
    """A line or a socket that does not follow the protocol."""

    def __init__(self, text: str, *, hint: str = "", code: str = "protocol") -> None:
        super().__init__(text, hint=hint, code=code)


class Events(Protocol):
    """An engine's events: numbered from 1 within one life (`boot_id`), the latest kept."""

    boot_id: str

    @property
    def seq(self) -> int:
        """The newest event's number, 0 before the first."""

    @property
    def oldest(self) -> int:
        """The number of the oldest event kept; one more than `seq` where none is."""

    def since(self, seq: int) -> list[Doc] | None:
        """The events after `seq`; None when some of them are no longer kept."""

    def wait(self, seq: int, timeout: float) -> bool:
        """Wait for an event after `seq`; False after `timeout` seconds."""


class Engine(Protocol):
    """What a control socket needs of an engine."""

    @property
    def name(self) -> str:
        """The session's name."""

    @property
    def id(self) -> str:
        """The session's UUID."""

    @property
    def events(self) -> Events:
        """What happened."""

    def snapshot(self) -> Doc:
        """The whole picture."""

    def command(self, method: str, params: Doc, who: str) -> Doc:
        """Do what a person asked. Raises EngineError."""


# ---- lines -----------------------------------------------------------------------------------------------------


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Names that are not UTF-8 are escaped (see `engine.names`). Raises ProtocolError when it is too long."""
    line = json.dumps(escaped(message), separators=(",", ":"), default=_plain).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a message of {len(line)} bytes is too long", code="too-long", hint="ask for less (limit)")
    return line


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not fit for JSON")


def decode(line: bytes) -> Doc:
    """The object on a line. Raises ProtocolError."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"not JSON: {e}", code="bad-request") from e
    if not isinstance(found, dict):
        raise ProtocolError("not a JSON object", code="bad-request")
    return found


class Lines:
    """Bytes in, whole lines out; a line that is too long raises ProtocolError as soon as that is known."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that end in `data`, without their ends; empty ones are left out."""
        whole = self._rest + data
        begin = 0
        while (end := whole.find(b"\n", begin)) >= 0:
            if end - begin >= self._limit:
                break
            line = whole[begin:end].strip()
            begin = end + 1
            self._rest = whole[begin:]
            if line:
                yield line
        self._rest = whole[begin:]
        if len(self._rest) >= self._limit:
            raise ProtocolError(f"a line longer than {self._limit} bytes", code="too-long")


def error_object(error: EngineError) -> Doc:
    """An error for a reply."""
    return {"code": error.code, "text": error.text, "hint": error.hint}


# ---- where sockets are -----------------------------------------------------------------------------------------


def own_directory(environment: Mapping[str, str] | None = None) -> str:
    """Where this user's engines make their sockets."""
    env = os.environ if environment is None else environment
    if env.get("XDG_RUNTIME_DIR"):
        return os.path.join(env["XDG_RUNTIME_DIR"], "georep-tui")
    uid = os.geteuid()
    if uid == 0:
        return "/run/georep-tui"
    if os.path.isdir(f"/run/user/{uid}"):
        return f"/run/user/{uid}/georep-tui"
    return f"/tmp/georep-tui-{uid}"


def directories(environment: Mapping[str, str] | None = None) -> list[str]:
    """Where commands look for sockets, in order."""
    own = own_directory(environment)
    return [own] if own == "/run/georep-tui" else [own, "/run/georep-tui"]


def socket_path(directory: str, name: str) -> str:
    """A session's socket. Raises ProtocolError where the path does not fit into an address."""
    path = os.path.join(directory, name + SUFFIX)
    if len(os.fsencode(path)) > _SUN_PATH:
        raise ProtocolError(
            f"{path}: too long for a socket ({len(os.fsencode(path))} bytes, {_SUN_PATH} fit)",
            hint="a shorter --name, or a shorter XDG_RUNTIME_DIR", code="socket-too-long",
        )  # fmt: skip
    return path


def find_sockets(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The sockets there are: session's name to path. Dead ones are among them; a directory of another's is not read."""
    found: dict[str, str] = {}
    for directory in directories(environment):
        if not trusted(directory):
            continue
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue  # none there, or none we may see
        for name in names:
            if name.endswith(SUFFIX):
                found.setdefault(name[: -len(SUFFIX)], os.path.join(directory, name))
    return found


def trusted(directory: str) -> bool:
    """Is it a real directory, ours or root's, that others cannot write to?"""
    try:
        st = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid in (0, os.geteuid()) and not st.st_mode & 0o022


# ---- pictures and changes --------------------------------------------------------------------------------------


def changes(before: Doc, after: Doc) -> Doc | None:
    """What to send so that a viewer of `before` sees `after`: whole sources, sessions (without bricks) and bricks that
    changed, and what is gone. None when nothing did. A lag that grew with the time, and times of data, are no change.
    """
    elapsed = float(after.get("time") or 0) - float(before.get("time") or 0)
    old_bricks, new_bricks = _bricks(before), _bricks(after)
    old_sessions, new_sessions = _sessions(before), _sessions(after)
    out: Doc = {
        "sources": [
            s for s in after.get("sources") or ()
            if _source(s) not in [_source(o) for o in before.get("sources") or ()]
        ],
        "sessions": [
            _without_bricks(s) for i, s in new_sessions.items()
            if not _same(_without_bricks(old_sessions.get(i)), _without_bricks(s), elapsed)
        ],
        "bricks": [
            {**b, "session": key[0]} for key, b in new_bricks.items()
            if not _same(old_bricks.get(key), b, elapsed)
        ],
        "gone": [
            *({"session": i} for i in old_sessions if i not in new_sessions),
            *({"session": s, "brick": b} for s, b in old_bricks if s in new_sessions and (s, b) not in new_bricks),
        ],
    }  # fmt: skip
    return out if any(out.values()) else None


def kept_for(before: Doc, after: Doc, sent: Doc | None) -> Doc:
    """What a viewer sees once `sent` was applied to `before`, as the base of the next `changes`."""
    return apply(grown(before, float(after.get("time") or 0)), {**sent, "time": after.get("time")}) if sent else before


def apply(document: Doc, event: Doc) -> Doc:
    """A picture with changes applied; `document` is left as it is, and what did not change is shared with it."""
    gone = {(g["session"], g.get("brick")) for g in event.get("gone") or ()}
    sessions = {i: s for i, s in _sessions(document).items() if (i, None) not in gone}
    for session in event.get("sessions") or ():
        known = sessions.get(session["id"]) or {}
        sessions[session["id"]] = {**session, "bricks": known.get("bricks") or []}
    by_session: dict[str, dict[str, Doc]] = {}
    for brick in event.get("bricks") or ():
        by_session.setdefault(brick["session"], {})[brick["id"]] = {k: v for k, v in brick.items() if k != "session"}
    for ident, session in sessions.items():
        new = by_session.get(ident, {})
        if not new and not any(s == ident for s, _ in gone):
            continue
        bricks = {b["id"]: b for b in session.get("bricks") or () if (ident, b["id"]) not in gone} | new
        sessions[ident] = {**session, "bricks": list(bricks.values())}
    sources = {s["node"]: s for s in document.get("sources") or ()} | {s["node"]: s for s in event.get("sources") or ()}
    time = event.get("time") or document.get("time")
    return {**document, "time": time, "sources": list(sources.values()), "sessions": list(sessions.values())}


def grown(document: Doc, time: float) -> Doc:
    """The same picture at a later `time` of the engine's clock: lags that were not 0 have grown, data is of then."""
    elapsed = time - float(document.get("time") or time)
    if elapsed <= 0:
        return document
    return {
        **document,
        "time": time,
        "sources": [{**s, "data_time": time} if s.get("connected") else s for s in document.get("sources") or ()],
        "sessions": [
            {**_grown(s, elapsed), "bricks": [_grown(b, elapsed) for b in s.get("bricks") or ()]}
            for s in document.get("sessions") or ()
        ],
    }


def _grown(thing: Doc, elapsed: float) -> Doc:
    lag = thing.get("lag_seconds")
    return {**thing, "lag_seconds": round(lag + elapsed, 3)} if lag else thing


def _same(old: Doc | None, new: Doc | None, elapsed: float) -> bool:
    if old is None or new is None:
        return old is new
    if old == new:
        return not new.get("lag_seconds") or elapsed < LAG_SLACK
    before, now = old.get("lag_seconds"), new.get("lag_seconds")
    if before and now and abs(now - before - max(0.0, elapsed)) <= LAG_SLACK:
        return {**old, "lag_seconds": None} == {**new, "lag_seconds": None}
    return False


def _source(source: Doc) -> Doc:
    return {k: v for k, v in source.items() if k not in ("data_time", "clock_offset_seconds")}


def _sessions(document: Doc) -> dict[str, Doc]:
    return {s["id"]: s for s in document.get("sessions") or ()}


def _bricks(document: Doc) -> dict[tuple[str, str], Doc]:
    return {(s["id"], b["id"]): b for s in document.get("sessions") or () for b in s.get("bricks") or ()}


def _without_bricks(session: Doc | None) -> Doc | None:
    return None if session is None else {k: v for k, v in session.items() if k != "bricks"}


def pieces(name: str, body: Doc) -> Sequence[Doc]:
    """One event (without seq) as as many as its size needs: a picture or changes with very many bricks."""
    whole = {"event": name, **body}
    if len(json.dumps(escaped(whole), default=_plain)) < MAX_LINE - 4096:
        return [whole]
    if name == "snapshot":
        document = body["snapshot"]
        head = {**document, "sessions": [{**s, "bricks": []} for s in document.get("sessions") or ()]}
        bricks = [{**b, "session": i} for (i, _), b in _bricks(document).items()]
        out: list[Doc] = [{"event": "snapshot", "snapshot": head}]
    else:
        bricks = body["bricks"]
        out = [{"event": name, **body, "bricks": []}]
    out += [
        {"event": "changed", "sources": [], "sessions": [], "bricks": bricks[i : i + 50], "gone": []}
        for i in range(0, len(bricks), 50)
    ]
    return out
