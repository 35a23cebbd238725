"""Sessions of GlusterFS's own gsyncd, as `gluster volume geo-replication status` tells of them; and its few commands."""

from __future__ import annotations

import calendar
import shlex
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.verdict import Thresholds, brick_verdict, session_state, session_verdict
from georep_tui.sources.base import Doc, SourceError

PACE = 5.0
"""Seconds between two questions to glusterd: each one starts a program on every node."""

TIMEOUT = 60.0

_STATUS = {"Created", "Initializing...", "Active", "Passive", "Faulty", "Paused", "Stopped"}
_CRAWLS = {"Hybrid Crawl": "hybrid", "History Crawl": "history", "Changelog Crawl": "live"}
_NO_CHECKPOINT: Doc = {
    "time": None, "completed": None, "completion_time": None, "failures_before": 0, "eta_seconds": None,
    "held_by": None,
}  # fmt: skip

Run = Callable[[Sequence[str]], tuple[int, str, str]]
"""Runs words; exit code, output, errors. Raises OSError, subprocess.TimeoutExpired."""


def run_words(words: Sequence[str]) -> tuple[int, str, str]:
    """Runs a program to its end."""
    done = subprocess.run(
        list(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="backslashreplace",
        timeout=TIMEOUT, start_new_session=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


class GsyncdSource:
    """What this node's glusterd knows. Our own commands beyond pause, resume, stop, checkpoint, config do not exist."""

    def __init__(self, command: str = "gluster", run: Run = run_words, clock: Callable[[], float] = time.time) -> None:
        self._command = shlex.split(command)
        self._run = run
        self._clock = clock
        self._document: Doc | None = None
        self._asked = 0.0
        self._pairs: dict[str, tuple[str, str]] = {}

    def snapshot(self) -> Doc:
        """The sessions; asked for anew every few seconds only. Raises SourceError."""
        if self._document is None or time.monotonic() - self._asked >= PACE:
            self._asked = time.monotonic()
            text = self._gluster("status", "--xml")
            self._document = parse_status(text, self._clock())
            self._pairs = {s["name"]: (s["primary"], s["secondary"]) for s in self._document["sessions"]}
            self._pairs |= {s["id"]: (s["primary"], s["secondary"]) for s in self._document["sessions"]}
        return self._document

    def events(self) -> list[Doc]:
        """gsyncd tells of none."""
        return []

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """pause, resume, stop, checkpoint, config_get, config_set, config_reset. Raises SourceError."""
        if method == "snapshot":
            return self.snapshot()
        if not self._pairs:
            self.snapshot()
        wanted = str(params.get("session") or "")
        if wanted not in self._pairs:
            raise SourceError(f"gsyncd has no session {wanted}", hint="georep-tui list --gsyncd", code="no-session")
        pair = self._pairs[wanted]
        self._asked = 0.0
        if method in ("pause", "resume", "stop"):
            if params.get("brick"):
                raise SourceError(f"gsyncd can {method} whole sessions only", hint="leave --brick out", code="usage")
            self._gluster(*pair, method)
            return {"bricks": [b["brick"] for s in self.snapshot()["sessions"] if wanted in (s["id"], s["name"])
                               for b in s["bricks"]]}  # fmt: skip
        if method == "checkpoint":
            at = params.get("time")
            self._gluster(*pair, "config", *(["!checkpoint"] if at is None else ["checkpoint", str(at)]))
            return {"time": int(self._clock()) if at == "now" else at}
        if method in ("config_get", "config_set", "config_reset"):
            return self._config(method, pair, params)
        raise SourceError(f"gsyncd has no {method}", hint="its sessions can be paused, resumed, stopped", code="usage")

    def _config(self, method: str, pair: tuple[str, str], params: Mapping[str, Any]) -> Doc:
        name = str(params.get("name") or "").replace("_", "-")
        if method == "config_get":
            found = parse_config(self._gluster(*pair, "config"))
            return {"options": [o for o in found if not name or o["name"] == name.replace("-", "_")]}
        value = str(params.get("value") or "")
        self._gluster(*pair, "config", *([name, value] if method == "config_set" else [f"!{name}"]))
        return {
            "name": name.replace("-", "_"),
            "value": value,
            "restarts": name not in ("checkpoint", "log-rsync-performance"),
        }

    def _gluster(self, *words: str) -> str:
        """What `gluster volume geo-replication …` says. Raises SourceError."""
        whole = [*self._command, "--mode=script", "volume", "geo-replication", *words]
        try:
            code, out, err = self._run(whole)
        except FileNotFoundError as e:
            raise SourceError(
                f"there is no {self._command[0]} here", hint="run this on a GlusterFS node", code="no-gluster"
            ) from e
        except OSError as e:
            raise SourceError(f"{self._command[0]}: {e.strerror}", code="no-gluster") from e
        except subprocess.TimeoutExpired as e:
            raise SourceError(
                f"{self._command[0]}: no answer within {TIMEOUT:g} s", hint="is glusterd well?", code="silent"
            ) from e
        if code:
            said = (err.strip() or out.strip() or f"exit {code}").splitlines()[0]
            raise SourceError(f"gluster: {said}", hint="is glusterd running?", code="gluster")
        return out

    def close(self) -> None:
        """Nothing is kept open."""


def parse_status(text: str, now: float) -> Doc:
    """`status --xml` as a snapshot; `now` in unix seconds. Raises SourceError.

    gsyncd's last_synced moves on an idle volume, too, with every slice: its age is the lag, at most a slice too much.
    Times in the XML are UTC; GlusterFS before 10 says master and slave.
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError as e:
        raise SourceError(f"gluster: its XML cannot be read: {e}", code="gluster") from e
    if _text(root, "opRet") not in ("", "0"):
        raise SourceError(f"gluster: {_text(root, 'opErrstr') or 'the command failed'}", code="gluster")
    sessions = [
        _session(_text(volume, "name"), session, now)
        for volume in root.iterfind("geoRep/volume")
        for session in volume.iterfind("sessions/session")
    ]
    names = [s["name"] for s in sessions]
    for session in sessions:
        if names.count(session["name"]) > 1:
            session["name"] += "_" + session["secondary"].replace("::", "_").replace("@", "_")
    nodes = sorted({b["node"] for s in sessions for b in s["bricks"]}) or ["gluster"]
    return {
        "version": 1, "time": now,
        "sources": [{"node": n, "connected": True, "data_time": now, "clock_offset_seconds": 0.0,
                     "engine_version": "gsyncd", "boot_id": None, "error": None} for n in nodes],
        "sessions": sessions,
    }  # fmt: skip


def _session(volume: str, session: ET.Element, now: float) -> Doc:
    ident = _text(session, "session_secondary", "session_slave")
    bricks = [_brick(pair, ident, now) for pair in session.iterfind("pair")]
    verdict, reasons = session_verdict(bricks)
    lags = [b["lag_seconds"] for b in bricks if b["status"] != "Passive"]
    user = bricks[0]["secondary_user"] if bricks else ""
    secondary = bricks[0]["secondary"] if bricks else ident
    return {
        "id": ident or volume, "name": volume, "kind": "gluster", "primary": volume,
        "secondary": secondary if user in ("", "root") else f"{user}@{secondary}",
        "state": session_state(bricks), "verdict": verdict, "reasons": reasons,
        "lag_seconds": None if not lags or None in lags else max(lags),
        "failures": sum(b["failures"] or 0 for b in bricks),
        "checkpoint": _checkpoint(bricks), "bricks": bricks,
    }  # fmt: skip


def _checkpoint(bricks: Sequence[Doc]) -> Doc:
    with_one = [b for b in bricks if b["checkpoint_time"] is not None]
    if not with_one:
        return dict(_NO_CHECKPOINT)
    open_ = [b for b in with_one if not b["checkpoint_completed"]]
    return _NO_CHECKPOINT | {
        "time": max(b["checkpoint_time"] for b in with_one), "completed": not open_,
        "completion_time": None if open_ else max(b["checkpoint_completion_time"] or 0 for b in with_one) or None,
        "failures_before": sum(b["failures"] or 0 for b in with_one), "held_by": open_[0]["id"] if open_ else None,
    }  # fmt: skip


def _brick(pair: ET.Element, session: str, now: float) -> Doc:
    node, path = _text(pair, "primary_node", "master_node"), _text(pair, "primary_brick", "master_brick")
    said = _text(pair, "status")
    status = said if said in _STATUS else "Faulty"
    active = status == "Active"
    crawl = _text(pair, "crawl_status")
    kind = _CRAWLS.get(crawl) if active else None
    synced = _time(_text(pair, "last_synced")) if active else None
    brick: Doc = {
        "id": f"{session}:{node}:{path}", "node": node, "brick": path,
        "secondary_user": _text(pair, "secondary_user", "slave_user"),
        "secondary": _text(pair, "secondary", "slave").removeprefix("ssh://"),
        "secondary_node": _text(pair, "secondary_node", "slave_node") or None,
        "status": status, "crawl_status": crawl if kind else "N/A", "verdict": "unknown", "reasons": [],
        "last_synced": synced, "lag_seconds": None if synced is None else round(max(0.0, now - synced), 3),
        "entry": _number(pair, "entry"), "data": _number(pair, "data"), "meta": _number(pair, "meta"),
        "failures": _number(pair, "failures") or 0,
        "checkpoint_time": _time(_text(pair, "checkpoint_time")),
        "checkpoint_completed": {"Yes": True, "No": False}.get(_text(pair, "checkpoint_completed")),
        "checkpoint_completion_time": _time(_text(pair, "checkpoint_completion_time")),
        "crawl": {"kind": kind, "since": None, "seen": None, "total": None, "eta_seconds": None, "eta_basis": None},
        "backlog": None, "batch": None, "rate": None, "totals": None, "paused": None, "held": None,
        "secondary_free": None, "last_verify": None, "last_error": None,
    }  # fmt: skip
    if status == "Faulty":
        brick["last_error"] = {
            "time": now, "code": "gsyncd", "errno": None, "text": f"gsyncd says {said or 'nothing'}",
            "hint": "its log is in /var/log/glusterfs/geo-replication", "attempt": None, "retry_at": None,
        }  # fmt: skip
    brick["verdict"], brick["reasons"] = brick_verdict(brick, Thresholds(), now)
    return brick


def parse_config(text: str) -> list[Doc]:
    """`config` (lines `name:value`) as options; gsyncd does not say where a value comes from."""
    found = []
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip():
            found.append({
                "name": name.strip().replace("-", "_"), "value": value, "text": value, "origin": "gsyncd", "default": None,
                "allowed": "", "live": False, "help": "", "kind": "text", "by": None,
            })  # fmt: skip
    return found


def _text(element: ET.Element, *names: str) -> str:
    for name in names:
        found = element.findtext(name)
        if found is not None:
            return found.strip()
    return ""


def _number(element: ET.Element, name: str) -> int | None:
    text = _text(element, name)
    return int(text) if text.isascii() and text.isdecimal() else None


def _time(text: str) -> float | None:
    """`YYYY-MM-DD HH:MM:SS`, UTC, to unix seconds; None for N/A and for gsyncd's never (1970)."""
    try:
        found = float(calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")))
    except ValueError:
        return None
    return found if found > 0 else None
