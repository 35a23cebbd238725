"""What every origin of sessions looks like to commands and to the console, and several of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Doc = dict[str, Any]


class SourceError(Exception):
    """Why a source has no answer: a sentence, what to do in `hint`, a stable `code`."""

    def __init__(self, text: str, *, hint: str = "", code: str = "source") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.code = code


class Source(Protocol):
    """Sessions from somewhere. Every method may wait and raise SourceError: call none from a screen's thread."""

    def snapshot(self) -> Doc:
        """The whole picture of now; an origin that cannot be reached says so in `sources`."""

    def events(self) -> list[Doc]:
        """What happened since the last call."""

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """Do something in the session that `params["session"]` names. Raises SourceError."""

    def close(self) -> None:
        """Let go; the engines go on."""


class Embedded:
    """The session that runs in this process."""

    def __init__(self, engine: Any, who: str) -> None:
        self._engine = engine
        self._who = who
        self._seq = 0

    def snapshot(self) -> Doc:
        """The engine's own picture."""
        found: Doc = self._engine.snapshot()
        return found

    def events(self) -> list[Doc]:
        """New events; a `gap` in the place of those no longer kept."""
        found = self._engine.events.since(self._seq)
        if found is None:
            newest = self._engine.events.seq
            found = [{"event": "gap", "seq": newest, "since": self._seq}]
            self._seq = newest
        elif found:
            self._seq = found[-1]["seq"]
        return list(found)

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """Straight to the engine, in its words and errors."""
        from engine.model import EngineError

        rest = {k: v for k, v in params.items() if k != "session"}
        wanted = params.get("session")
        if wanted not in (None, self._engine.name, self._engine.id):
            raise SourceError(f"session {wanted} does not run here", code="usage")
        try:
            return self._engine.command(method, rest, self._who)
        except EngineError as e:
            raise SourceError(e.text, hint=e.hint, code=e.code) from e

    def close(self) -> None:
        """Nothing to let go of."""


class Several:
    """Sources shown as one: their sessions side by side; a session seen from several nodes is put together."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self._owners: dict[str, list[Source]] = {}

    def snapshot(self) -> Doc:
        """All pictures in one. Raises SourceError only when no source has an answer."""
        documents: list[Doc] = []
        lost: list[Doc] = []
        owners: dict[str, list[Source]] = {}
        error: SourceError | None = None
        for source in self.sources:
            try:
                document = source.snapshot()
            except SourceError as e:
                error = e
                if node := getattr(source, "node", ""):
                    lost.append(unreachable(node, e))
                continue
            documents.append(document)
            for session in document["sessions"]:
                for word in {session["id"], session["name"]}:
                    owners.setdefault(word, []).append(source)
        if error is not None and not documents:
            raise error
        self._owners = owners
        document = merged(documents)
        return {**document, "sources": [*document["sources"], *lost]} if lost else document

    def events(self) -> list[Doc]:
        """Everything new, in order of time."""
        found = [event for source in self.sources for event in source.events()]
        return sorted(found, key=lambda event: float(event.get("time") or 0))

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """To whom the session belongs; to all of them where several nodes have bricks of it and none is named."""
        wanted = str(params.get("session") or "")
        owners = self._owners.get(wanted)
        if owners is None:
            self.snapshot()
            owners = self._owners.get(wanted)
        if not owners:
            raise SourceError(f"no session {wanted!r} is running", hint="georep-tui list", code="no-session")
        if len(owners) == 1:
            return owners[0].command(method, params)
        return self._to_all(owners, method, params)

    def _to_all(self, owners: Sequence[Source], method: str, params: Mapping[str, Any]) -> Any:
        results: list[Any] = []
        errors: list[SourceError] = []
        for owner in owners:
            try:
                results.append(owner.command(method, params))
            except SourceError as e:
                errors.append(e)
        about_one = any(key in params for key in ("brick", "ids", "id", "job"))
        if errors and (not about_one or not results):
            raise errors[0]
        return joined(results)

    def close(self) -> None:
        """Let go of all."""
        for source in self.sources:
            source.close()


def unreachable(node: str, error: SourceError) -> Doc:
    """A node that has never answered, as one of a picture's sources."""
    return {"node": node, "connected": False, "data_time": None, "clock_offset_seconds": 0.0, "engine_version": None,
            "boot_id": None, "error": error.text}  # fmt: skip


def joined(results: Sequence[Any]) -> Any:
    """Answers of several nodes as one: lists one after the other, numbers added, of the rest the first."""
    if len(results) == 1:
        return results[0]
    out: Doc = {}
    for result in results:
        for key, value in (result if isinstance(result, dict) else {}).items():
            known = out.get(key)
            if isinstance(value, list) and isinstance(known, list):
                out[key] = [*known, *value]
            elif isinstance(value, int) and isinstance(known, int) and not isinstance(value, bool):
                out[key] = known + value
            else:
                out.setdefault(key, value)
    return out


_ORDER = {"ok": 0, "warning": 1, "unknown": 2, "critical": 3}
_STATES = ("Faulty", "Held", "Stopped", "Paused", "Initializing...", "Created", "Active", "Passive")


def merged(documents: Sequence[Doc]) -> Doc:
    """Several pictures as one; sessions of one id get the bricks of all, and the worst of their verdicts."""
    if len(documents) == 1:
        return documents[0]
    sessions: dict[str, Doc] = {}
    for document in documents:
        for session in document["sessions"]:
            known = sessions.get(session["id"])
            sessions[session["id"]] = session if known is None else _together(known, session)
    return {
        "version": 1,
        "time": max((d["time"] for d in documents), default=0.0),
        "sources": [s for d in documents for s in d["sources"]],
        "sessions": list(sessions.values()),
    }


def _together(one: Doc, other: Doc) -> Doc:
    lags = [one["lag_seconds"], other["lag_seconds"]]
    counts = [one["failures"], other["failures"]]
    points = sorted(
        (one["checkpoint"], other["checkpoint"]), key=lambda c: (c["completed"] is not False, c["time"] or 0)
    )
    return {
        **one,
        "state": min(one["state"], other["state"], key=lambda s: _STATES.index(s) if s in _STATES else 0),
        "verdict": max(one["verdict"], other["verdict"], key=lambda v: _ORDER.get(v, 2)),
        "reasons": [*one["reasons"], *(r for r in other["reasons"] if r not in one["reasons"])],
        "lag_seconds": None if None in lags else max(lags),
        "failures": None if None in counts else sum(counts),
        "checkpoint": {
            **points[0], "failures_before": sum(p.get("failures_before") or 0 for p in points),
        },
        "bricks": [*one["bricks"], *other["bricks"]],
    }  # fmt: skip
