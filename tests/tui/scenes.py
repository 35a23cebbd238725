"""Scenes for the console: snapshots of sessions in each state at one frozen instant, and a source that plays them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

NOW = 1795325087.0
"""2026-11-22 05:11:27 UTC."""

ZONE = UTC
Doc = dict[str, Any]


def brick(number: int = 1, **changes: Any) -> Doc:
    """A brick that is well; `changes` go over it."""
    doc: Doc = {
        "id": f"b{number}", "node": f"m{number}", "brick": f"/bricks/web{number}", "secondary_user": "backup",
        "secondary": "dr:/srv/replica", "secondary_node": "dr", "status": "Active", "crawl_status": "Changelog Crawl",
        "verdict": "ok", "reasons": [], "last_synced": NOW - 2, "lag_seconds": 1.2, "entry": 0, "data": 3, "meta": 0,
        "failures": 0, "checkpoint_time": None, "checkpoint_completed": None, "checkpoint_completion_time": None,
        "crawl": {"kind": "live", "since": NOW - 5000, "seen": 120, "total": None, "eta_seconds": None, "eta_basis": None},
        "backlog": {"changelogs": 1, "bytes": 2040},
        "batch": {"id": 17, "phase": "data", "changelogs": [1, 2], "entries": [40, 40], "files": [37, 40],
                  "bytes": [301244, 402113], "started": NOW - 1, "eta_seconds": 0.3},
        "rate": {"entries_per_s": 812.0, "files_per_s": 640.0, "bytes_per_s": 5203344.0},
        "totals": {"entries": 10412, "files": 9120, "bytes": 880123441, "crawls": 12, "turns": 17, "restarts": 0},
        "paused": None, "held": None, "secondary_free": {"bytes": 812345678, "inodes": 1234567}, "last_verify": None,
        "last_error": None,
        "history": [{"id": n, "started": NOW - 60 * (17 - n), "seconds": 0.5 * n, "entries": n * 40, "files": n * 37,
                     "bytes": n * 40213} for n in range(12, 17)],
        "crawls": [{"kind": "hybrid", "since": NOW - 9000, "seen": 20412}, {"kind": "history", "since": NOW - 8000},
                   {"kind": "live", "since": NOW - 5000}],
        "restarts": [],
    }  # fmt: skip
    return {**doc, **changes}


def quiet(number: int = 1, **changes: Any) -> Doc:
    """A brick with nothing to do."""
    return brick(number, **{
        "lag_seconds": 0.0, "data": 0, "batch": None, "backlog": {"changelogs": 0, "bytes": 0},
        "rate": {"entries_per_s": 0.0, "files_per_s": 0.0, "bytes_per_s": 0.0}, **changes,
    })  # fmt: skip


UNREACHABLE = {"code": "ssh", "text": "ssh: connect to host dr port 22: Connection refused",
               "hint": "is sshd running on dr? try: ssh backup@dr true"}  # fmt: skip


def initializing(number: int = 1) -> Doc:
    """A brick whose worker connects."""
    return brick(number, status="Initializing...", crawl_status="N/A", verdict="unknown", lag_seconds=None, batch=None,
                 reasons=[{"code": "initializing", "text": "Initializing: not connected yet", "hint": ""}], backlog=None,
                 rate=None, crawl={}, last_synced=None)  # fmt: skip


def hybrid(number: int = 1) -> Doc:
    """A brick in a hybrid crawl."""
    return brick(number, crawl_status="Hybrid Crawl", lag_seconds=1000.0, verdict="critical", data=812, entry=4096,
                 reasons=[{"code": "lag", "text": "1000 s behind", "hint": "is the line or the secondary too slow?"}],
                 crawl={"kind": "hybrid", "since": NOW - 100, "seen": 6200, "total": 20412, "eta_seconds": 230.0,
                        "eta_basis": "objects"})  # fmt: skip


def history(number: int = 1) -> Doc:
    """A brick in a history crawl."""
    return brick(number, crawl_status="History Crawl", lag_seconds=45.0,
                 crawl={"kind": "history", "since": NOW - 20, "seen": 40, "total": 90, "eta_seconds": 25.0,
                        "eta_basis": "changelogs"})  # fmt: skip


def passive(number: int = 1) -> Doc:
    """A brick whose replica is active instead."""
    return quiet(number, status="Passive", crawl_status="N/A", crawl={}, rate=None, backlog=None, batch=None)


def faulty(number: int = 1) -> Doc:
    """A brick whose secondary cannot be reached."""
    return brick(
        number, status="Faulty", crawl_status="N/A", verdict="critical", lag_seconds=None, batch=None, rate=None, crawl={},
        reasons=[{**UNREACHABLE, "text": f"Faulty: {UNREACHABLE['text']}"}],
        last_error={"time": NOW - 12, **UNREACHABLE, "errno": 111, "attempt": 4, "retry_at": NOW + 20},
        restarts=[{"time": NOW - 12, **UNREACHABLE}], backlog=None,
    )  # fmt: skip


def paused(number: int = 1) -> Doc:
    """A brick a person paused."""
    return quiet(number, status="Paused", verdict="warning", lag_seconds=130.0,
                 paused={"by": "anna", "since": NOW - 140},
                 reasons=[{"code": "paused", "text": "Paused by anna; changes are recorded, not applied",
                           "hint": "georep-tui resume"}])  # fmt: skip


def stopped(number: int = 1) -> Doc:
    """A brick that does not run."""
    return quiet(number, status="Stopped", verdict="critical", lag_seconds=None, crawl_status="N/A", crawl={}, rate=None,
                 backlog=None,
                 reasons=[{"code": "stopped", "text": "Stopped: nothing is replicated",
                           "hint": "start it: georep-tui run"}])  # fmt: skip


def first_copy(number: int = 1) -> Doc:
    """A brick whose first full pass is under way."""
    done = {"files": [6376, 30000], "bytes": [1288490188, 6227702579], "found": [30000, 6227702579], "since": NOW - 100,
            "fraction": 0.2069, "eta_seconds": 372.0, "eta_basis": "at the rate of the last minute", "files_per_s": 63.0,
            "bytes_per_s": 12582912.0}  # fmt: skip
    text = ("first copy: 6,376 of 30,000 files, 20 %, 1.2 of 5.8 GiB, 12 MiB/s, about 6 min left "
            "(at the rate of the last minute)")  # fmt: skip
    return brick(number, crawl_status="Hybrid Crawl", lag_seconds=None, verdict="warning", last_synced=None, as_of=None,
                 first_copy=True, first_pass=done, reasons=[{"code": "first-copy", "text": text, "hint": ""}],
                 backlog={"changelogs": 6, "bytes": 2126160, "changes": 23624, "exact": True, "since": None})  # fmt: skip


def died(number: int = 1) -> Doc:
    """A brick of a session whose engine was killed, as its state directory tells of it."""
    return stopped(number) | {
        "ended": True, "as_of": None, "reasons": [{"code": "died", "text": "died, last seen 05:20:11",
                                                   "hint": "start it again: georep-tui run web --no-ui"}],
    }  # fmt: skip


def held(number: int = 1) -> Doc:
    """A brick whose deletes the guard holds."""
    return quiet(
        number, status="Held", verdict="critical", lag_seconds=65.0,
        held={"id": "h-7f3a", "reason": "5,120 of 8,000 objects would be deleted within an hour", "deletes": 5120,
              "of": 8000, "bytes": 912345678, "sample": ["photos/2019", "photos/2020", "mail/\x1b[31mred"], "since": NOW - 60},
        reasons=[{"code": "held", "text": "Held: 5,120 of 8,000 objects would be deleted within an hour",
                  "hint": "approve or reject: georep-tui held"}],
    )  # fmt: skip


def ledgered(number: int = 1) -> Doc:
    """A brick with failures in its ledger."""
    return brick(number, failures=3, verdict="warning", lag_seconds=400.0,
                 reasons=[{"code": "failures", "text": "3 objects could not be brought over",
                           "hint": "see: georep-tui failures"}])  # fmt: skip


def session(name: str = "web", bricks: Sequence[Doc] = (), **changes: Any) -> Doc:
    """A session of `bricks`; its verdict and state are those of the worst."""
    bricks = list(bricks) or [brick(1)]
    rank = ["ok", "warning", "unknown", "critical"]
    worst = max((one["verdict"] for one in bricks), key=rank.index)
    states = ("Faulty", "Held", "Stopped", "Paused", "Initializing...", "Created", "Active", "Passive")
    present = {one["status"] for one in bricks}
    lags = [one["lag_seconds"] for one in bricks if one["status"] != "Passive"]
    doc: Doc = {
        "id": f"s-{name}", "name": name, "kind": "tree", "primary": f"/srv/{name}", "secondary": f"backup@dr:/srv/{name}",
        "state": next(state for state in states if state in present), "verdict": worst,
        "reasons": [reason for one in bricks for reason in one["reasons"]],
        "lag_seconds": None if None in lags or not lags else max(lags),
        "failures": sum(one["failures"] for one in bricks),
        "checkpoint": {"time": None, "completed": None, "completion_time": None, "failures_before": 0,
                       "eta_seconds": None, "held_by": None},
        "bricks": bricks,
    }  # fmt: skip
    return {**doc, **changes}


def snapshot(*sessions: Doc, now: float = NOW, connected: bool = True, data_time: float | None = None) -> Doc:
    """A snapshot of sessions, each node seen from a source of its own."""
    nodes = sorted({one["node"] for each in sessions for one in each["bricks"]}) or ["m1"]
    sources = [
        {"node": node, "connected": connected, "data_time": now if data_time is None else data_time,
         "clock_offset_seconds": 0.0, "engine_version": "0.1.0", "boot_id": "boot",
         "error": None if connected else "connection lost"}
        for node in nodes
    ]  # fmt: skip
    return {"version": 1, "time": now, "sources": sources, "sessions": list(sessions)}


class Stage:
    """A source that shows what a test puts on it, and writes down what it is told to do."""

    def __init__(self, first: Doc | None = None) -> None:
        self.shown = first if first is not None else snapshot(session())
        self.coming: list[Mapping[str, Any]] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        self.broken: Exception | None = None
        self._seq = 0

    def show(self, *sessions: Doc, **how: Any) -> None:
        """Show other sessions from now on."""
        self.shown = snapshot(*sessions, **how)

    def happen(self, event: str, **fields: Any) -> None:
        """Let an event happen."""
        self._seq += 1
        self.coming.append({"event": event, "seq": self._seq, "time": NOW, **fields})

    def snapshot(self) -> Mapping[str, Any]:
        """What is shown."""
        if self.broken:
            raise self.broken
        return copy.deepcopy(self.shown)

    def events(self) -> Sequence[Mapping[str, Any]]:
        """What happened since the last call."""
        coming, self.coming = self.coming, []
        return coming

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """Write it down and answer what the test set for it."""
        self.told.append((method, dict(params)))
        answer = self.answers.get(method, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Nothing to let go of."""


def _failure(number: int, **changes: Any) -> Doc:
    return {
        "id": f"b5-{number}", "kind": "object", "brick": "/bricks/web5", "gfid": f"{number:032x}",
        "path": f"projects/report {number}.odt", "operation": "SETATTR", "errno": 1, "message": "Operation not permitted",
        "hint": "immutable there (chattr -i), or the agent may not (run it as root)", "primary_state": "file, 12,801 bytes",
        "secondary_state": "file, 12,100 bytes", "first_time": NOW - 400, "last_time": NOW - 20, "tries": 4,
        "next_try": NOW + 33, **changes,
    }  # fmt: skip


FAILURES: Doc = {
    "failures": [
        *(_failure(number) for number in range(1, 4)),
        _failure(9, path="a\x1b[31m name\x07 of evil", operation="CREATE", errno=36, message="File name too long", hint="",
                 tries=1, next_try=None, secondary_state="absent"),
    ],
    "total": 4,
}  # fmt: skip
LOG: Doc = {
    "lines": [
        {"n": number, "time": NOW - 100 + number, "level": ("info", "debug", "warning", "error")[number % 4],
         "brick": f"/bricks/web{1 + number % 2}", "text": f"line {number}: something happened to photos/{number}.jpg"}
        for number in range(1, 60)
    ]
}  # fmt: skip
OPERATIONS: Doc = {
    "operations": [
        {"time": NOW - 90, "who": "anna", "what": "pause", "params": {"brick": "b7"}, "result": "done"},
        {"time": NOW - 30, "who": "berta", "what": "xsync", "params": {}, "result": "brick b1 is Faulty"},
        {"time": NOW - 86500, "who": "anna", "what": "checkpoint", "params": {"time": "now"}, "result": "done"},
    ]
}
OPTIONS: Doc = {
    "options": [
        {"name": "sync_method", "value": "stream", "origin": "default", "default": "stream", "allowed": "stream, rsync, tarssh",
         "live": False, "help": "How contents are sent.", "text": "stream"},
        {"name": "sync_jobs", "value": 3, "origin": "default", "default": 3, "allowed": "1 to 64", "live": True,
         "help": "Transfers that run side by side.", "text": "3"},
        {"name": "bandwidth_limit", "value": 1048576, "origin": "config", "default": 0, "allowed": "bytes per second, 0 is off",
         "live": True, "help": "What all transfers together may send.", "text": "1048576"},
    ]
}  # fmt: skip
CHECKPOINTS: Doc = {
    "checkpoints": [
        {"time": NOW - 200000, "completed": True, "completion_time": NOW - 199990, "failures_before": 0, "by": "anna"},
        {"time": NOW - 100000, "completed": True, "completion_time": NOW - 99990, "failures_before": 2, "by": "berta"},
    ]
}
