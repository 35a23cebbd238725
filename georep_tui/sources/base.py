"""What every origin of sessions looks like to commands and to the console."""

from __future__ import annotations

from collections.abc import Mapping
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


def unreachable(node: str, error: SourceError) -> Doc:
    """A node that has never answered, as one of a picture's sources."""
    return {"node": node, "connected": False, "data_time": None, "clock_offset_seconds": None, "engine_version": None,
            "boot_id": None, "error": error.text}  # fmt: skip


def cut_off(document: Doc, error: SourceError) -> Doc:
    """The last picture of what is not reached any more: no lag is known, and nothing in it is believed to be well."""
    return {
        **document,
        "sources": [{**s, "connected": False, "error": error.text} for s in document["sources"]],
        "sessions": [silent(s, error) for s in document["sessions"]],
    }


def silent(session: Doc, error: SourceError) -> Doc:
    """A session of which nothing is heard any more."""
    return {**_silent(session, error), "bricks": [_silent(b, error) for b in session["bricks"]]}


def _silent(one: Doc, error: SourceError) -> Doc:
    if one.get("ended"):
        return {**one}  # it said so itself, and that is why nothing is heard
    reason = {"code": "stale", "text": error.text, "hint": error.hint}
    known, reasons = one.get("verdict"), one.get("reasons") or ()
    return {
        **one, "lag_seconds": None, "verdict": known if known == "critical" else "unknown",
        "reasons": [*reasons, reason] if known == "critical" else [reason, *reasons],
    }  # fmt: skip
