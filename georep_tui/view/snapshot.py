"""The snapshot document as typed, frozen values. What is not in a document is None, never a made-up number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Doc = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a verdict is not ok: a stable `code`, a sentence, and what to do."""

    code: str
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where bricks are seen from: one node's engine. `data_time` is the unix time its data is of."""

    node: str
    connected: bool
    data_time: float | None
    clock_offset: float
    engine_version: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A session's checkpoint; `time` None is none set. `held_by` names the brick that holds it back."""

    time: float | None = None
    completed: bool | None = None
    completion_time: float | None = None
    failures_before: int = 0
    eta: float | None = None
    held_by: str | None = None


@dataclass(frozen=True, slots=True)
class Crawl:
    """The crawl going on: `kind` is hybrid, history or live; `seen` and `total` count objects or changelogs."""

    kind: str | None = None
    since: float | None = None
    seen: int | None = None
    total: int | None = None
    eta: float | None = None
    eta_basis: str | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """One file on its way: its path, bytes (done, total), bytes per second, and when it began."""

    path: str
    done: int | None
    total: int | None
    rate: float | None
    since: float | None


Done = tuple[int, int]
"""(done, total)"""


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch going on; `kinds` counts what was planned by operation."""

    id: int
    phase: str
    changelogs: Done
    entries: Done
    files: Done
    bytes: Done
    started: float | None
    eta: float | None
    kinds: tuple[tuple[str, int], ...] = ()
    in_flight: tuple[InFlight, ...] = ()
    in_flight_count: int = 0
    """Files on their way in all; not all of many are named."""


@dataclass(frozen=True, slots=True)
class Held:
    """What waits for a person: `deletes` of `of` objects, `bytes` in all, some names, and since when. `kind` is what would be
    done with them; `directories` are those with the most, each with objects and bytes."""

    id: str
    reason: str
    deletes: int
    of: int | None
    bytes: int | None
    sample: tuple[str, ...]
    since: float | None
    kind: str = "delete"
    directories: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """The last error of a brick: what, what to do, which try it was, and when the next comes (unix time)."""

    time: float | None
    code: str
    text: str
    hint: str
    attempt: int | None
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class Brick:
    """One brick of a session. Times are unix seconds; `raw` is its document."""

    id: str
    node: str
    brick: str
    secondary: str
    secondary_user: str
    secondary_node: str
    status: str
    crawl_status: str
    verdict: str
    reasons: tuple[Reason, ...]
    last_synced: float | None
    lag: float | None
    entry: int | None
    data: int | None
    meta: int | None
    failures: int | None
    checkpoint_time: float | None
    checkpoint_completed: bool | None
    checkpoint_completion_time: float | None
    crawl: Crawl
    backlog_changelogs: int | None
    backlog_bytes: int | None
    batch: Batch | None
    entries_rate: float | None
    files_rate: float | None
    bytes_rate: float | None
    totals: tuple[tuple[str, int], ...]
    paused_by: str | None
    paused_since: float | None
    held: Held | None
    free_bytes: int | None
    free_inodes: int | None
    last_verify: Doc | None
    fault: Fault | None
    raw: Doc = field(compare=False, repr=False)

    @property
    def pending(self) -> int | None:
        """Entry, data and meta operations queued; None when any is unknown."""
        if self.entry is None or self.data is None or self.meta is None:
            return None
        return self.entry + self.data + self.meta

    @property
    def label(self) -> str:
        """`node:/brick`."""
        return f"{self.node}:{self.brick}" if self.node else self.brick


@dataclass(frozen=True, slots=True)
class Session:
    """One replication: its bricks and what holds for all of them."""

    id: str
    name: str
    kind: str
    primary: str
    secondary: str
    state: str
    verdict: str
    reasons: tuple[Reason, ...]
    lag: float | None
    failures: int | None
    checkpoint: Checkpoint
    bricks: tuple[Brick, ...]
    raw: Doc = field(compare=False, repr=False)

    def brick(self, brick_id: str) -> Brick | None:
        """The brick of that id."""
        return next((brick for brick in self.bricks if brick.id == brick_id), None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything seen at `time`."""

    time: float
    sources: tuple[Source, ...]
    sessions: tuple[Session, ...]
    raw: Doc = field(compare=False, repr=False)

    def session(self, session_id: str) -> Session | None:
        """The session of that id."""
        return next((session for session in self.sessions if session.id == session_id), None)

    def source(self, node: str) -> Source | None:
        """Where bricks of `node` are seen from; the only source serves every node."""
        found = next((source for source in self.sources if source.node == node), None)
        return found or (self.sources[0] if len(self.sources) == 1 else None)


def parse(doc: Doc, before: Snapshot | None = None) -> Snapshot:
    """A document as values. Objects whose document is the same as in `before` are taken over from there.

    Raises ValueError if the document is of another version or has no sessions.
    """
    if doc.get("version") != 1 or not isinstance(doc.get("sessions"), list):
        raise ValueError(f"not a snapshot of version 1 (version {doc.get('version')!r})")
    known = {session.id: session for session in before.sessions} if before else {}
    return Snapshot(
        time=float(doc.get("time") or 0.0),
        sources=tuple(_source(source) for source in doc.get("sources") or ()),
        sessions=tuple(_session(session, known.get(_text(session, "id"))) for session in doc["sessions"]),
        raw=doc,
    )


def refreshed(snapshot: Snapshot, doc: Doc) -> Snapshot:
    """`snapshot` with the times and sources of `doc`, in which nothing else is new."""
    sources = tuple(_source(source) for source in doc.get("sources") or ())
    return replace(snapshot, time=float(doc.get("time") or 0.0), sources=sources)


def _source(doc: Doc) -> Source:
    return Source(
        node=_text(doc, "node"),
        connected=bool(doc.get("connected")),
        data_time=doc.get("data_time"),
        clock_offset=doc.get("clock_offset_seconds") or 0.0,
        engine_version=_text(doc, "engine_version"),
        error=doc.get("error"),
    )


def _session(doc: Doc, before: Session | None) -> Session:
    if before is not None and (before.raw is doc or before.raw == doc):
        return before
    known = {brick.id: brick for brick in before.bricks} if before else {}
    point = doc.get("checkpoint") or {}
    return Session(
        id=_text(doc, "id"),
        name=_text(doc, "name"),
        kind=_text(doc, "kind"),
        primary=_text(doc, "primary"),
        secondary=_text(doc, "secondary"),
        state=_text(doc, "state"),
        verdict=_text(doc, "verdict"),
        reasons=_reasons(doc.get("reasons")),
        lag=doc.get("lag_seconds"),
        failures=doc.get("failures"),
        checkpoint=Checkpoint(
            time=point.get("time"),
            completed=_flag(point.get("completed")),
            completion_time=point.get("completion_time"),
            failures_before=point.get("failures_before") or 0,
            eta=point.get("eta_seconds"),
            held_by=point.get("held_by"),
        ),
        bricks=tuple(_brick(brick, known.get(_text(brick, "id"))) for brick in doc.get("bricks") or ()),
        raw=doc,
    )


def _brick(doc: Doc, before: Brick | None) -> Brick:
    if before is not None and (before.raw is doc or before.raw == doc):
        return before
    crawl, rate, backlog = doc.get("crawl") or {}, doc.get("rate") or {}, doc.get("backlog") or {}
    paused, free, error = doc.get("paused") or {}, doc.get("secondary_free") or {}, doc.get("last_error")
    return Brick(
        id=_text(doc, "id"),
        node=_text(doc, "node"),
        brick=_text(doc, "brick"),
        secondary=_text(doc, "secondary"),
        secondary_user=_text(doc, "secondary_user"),
        secondary_node=_text(doc, "secondary_node"),
        status=_text(doc, "status"),
        crawl_status=_text(doc, "crawl_status"),
        verdict=_text(doc, "verdict"),
        reasons=_reasons(doc.get("reasons")),
        last_synced=doc.get("last_synced"),
        lag=doc.get("lag_seconds"),
        entry=doc.get("entry"),
        data=doc.get("data"),
        meta=doc.get("meta"),
        failures=doc.get("failures"),
        checkpoint_time=doc.get("checkpoint_time"),
        checkpoint_completed=_flag(doc.get("checkpoint_completed")),
        checkpoint_completion_time=doc.get("checkpoint_completion_time"),
        crawl=Crawl(
            crawl.get("kind"), crawl.get("since"), crawl.get("seen"), crawl.get("total"),
            crawl.get("eta_seconds"), crawl.get("eta_basis"),
        ),
        backlog_changelogs=backlog.get("changelogs"),
        backlog_bytes=backlog.get("bytes"),
        batch=_batch(doc.get("batch")),
        entries_rate=rate.get("entries_per_s"),
        files_rate=rate.get("files_per_s"),
        bytes_rate=rate.get("bytes_per_s"),
        totals=tuple((doc.get("totals") or {}).items()),
        paused_by=paused.get("by"),
        paused_since=paused.get("since"),
        held=_held(doc.get("held")),
        free_bytes=free.get("bytes"),
        free_inodes=free.get("inodes"),
        last_verify=doc.get("last_verify"),
        fault=_fault(error) if error else None,
        raw=doc,
    )  # fmt: skip


def _batch(doc: Doc | None) -> Batch | None:
    if not doc:
        return None
    return Batch(
        id=doc.get("id") or 0,
        phase=_text(doc, "phase"),
        changelogs=_done(doc.get("changelogs")),
        entries=_done(doc.get("entries")),
        files=_done(doc.get("files")),
        bytes=_done(doc.get("bytes")),
        started=doc.get("started"),
        eta=doc.get("eta_seconds"),
        kinds=tuple((doc.get("kinds") or {}).items()),
        in_flight=tuple(_in_flight(item) for item in doc.get("in_flight") or ()),
        in_flight_count=int(doc.get("in_flight_count") or len(doc.get("in_flight") or ())),
    )


def _in_flight(doc: Doc) -> InFlight:
    done, total = (*(doc.get("bytes") or ()), None, None)[:2]
    return InFlight(_text(doc, "path"), done, total, doc.get("bytes_per_s"), doc.get("since"))


def _held(doc: Doc | None) -> Held | None:
    if not doc:
        return None
    return Held(
        id=str(doc.get("id") or ""),
        reason=_text(doc, "reason"),
        deletes=doc.get("deletes") or 0,
        of=doc.get("of"),
        bytes=doc.get("bytes"),
        sample=tuple(str(name) for name in doc.get("sample") or ()),
        since=doc.get("since"),
        kind=str(doc.get("kind") or "delete"),
        directories=tuple((str(d["directory"]), int(d["count"]), int(d["bytes"])) for d in doc.get("by_directory") or ()),
    )


def _fault(doc: Doc) -> Fault:
    return Fault(
        doc.get("time"), _text(doc, "code"), _text(doc, "text"), _text(doc, "hint"),
        doc.get("attempt"), doc.get("retry_at"),
    )  # fmt: skip


def _reasons(docs: Iterable[Doc] | None) -> tuple[Reason, ...]:
    return tuple(Reason(_text(doc, "code"), _text(doc, "text"), _text(doc, "hint")) for doc in docs or ())


def _done(pair: Any) -> Done:
    # What is not known (the bytes of a batch of many files) is 0 here; nothing is divided by it or shown as a total.
    return (int(pair[0] or 0), int(pair[1] or 0)) if isinstance(pair, list | tuple) and len(pair) == 2 else (0, 0)


def _flag(value: Any) -> bool | None:
    """GlusterFS says Yes, No and N/A where we say true, false and null."""
    return {"Yes": True, "No": False}.get(value) if isinstance(value, str) else value


def _text(doc: Doc, key: str) -> str:
    value = doc.get(key)
    return "" if value is None else str(value)
