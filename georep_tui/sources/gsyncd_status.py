"""What glusterd, a brick's status file, its config and its log say of a gsyncd session, as a snapshot. Pure."""

from __future__ import annotations

import calendar
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from engine.verdict import ORDER, Thresholds, brick_verdict, session_state, session_verdict
from georep_tui.sources.base import Doc, SourceError
from georep_tui.sources.gsyncd_log import BrickLog, LogFacts, Record, cause

_STATUS = {"Created", "Initializing...", "Active", "Passive", "Faulty", "Paused", "Stopped"}
_CRAWLS = {"Hybrid Crawl": "hybrid", "History Crawl": "history", "Changelog Crawl": "live"}
_NO_CHECKPOINT: Doc = {
    "time": None, "completed": None, "completion_time": None, "failures_before": 0, "eta_seconds": None,
    "held_by": None,
}  # fmt: skip
EMPTYING_RSYNC = (3, 5)
"""From this rsync on gsyncd's transfers are known to move nothing and to report success (SYN-5)."""

SILENT_MANY = 3

STALLED_AFTER = 60.0
"""Seconds after which a changelog that an idle worker has not taken means that it takes none."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What a brick's journal holds after the brick's mark. Times in unix seconds, 0 where there is none.

    `oldest` is the first slice that was looked at, `begin` when the first slice that waits began, `waiting` how many
    slices wait that hold something, `last` the end of the last slice, `written` whether the open one holds something.
    """

    oldest: int
    begin: int
    waiting: int
    last: int
    written: bool

    def since(self, mark: float) -> float | None:
        """Since when the oldest change waits, at most a slice too early; None when none does."""
        if self.waiting:
            return float(self.begin) if self.oldest <= mark else mark
        return float(self.last) if self.written and self.last else None


@dataclass(slots=True)
class Beside:
    """What is known of a session beside its status: its log, options, the bricks' own status files and journals (by
    path), and the version of rsync on that node."""

    log: LogFacts = field(default_factory=LogFacts)
    options: dict[str, str] = field(default_factory=dict)
    files: dict[str, Doc] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    rsync: str = ""


def parse_status(text: str, now: float, beside: Mapping[str, Beside] | None = None, node_uuid: str = "") -> Doc:
    """`status --xml` as a snapshot; `now` in unix seconds of that node's clock. Raises SourceError.

    `beside` is what the node itself keeps, by the session's `slug`; it is believed for the bricks of the node with
    `node_uuid` only. gsyncd's last_synced stands still while nothing changes, so its age is no lag: that is told by the
    brick's journal, and unknown where the journal is not seen. Times in the XML are UTC; GlusterFS before 10 says
    master and slave.
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError as e:
        raise SourceError(f"gluster: its XML cannot be read: {e}", code="gluster") from e
    if _text(root, "opRet") not in ("", "0"):
        raise SourceError(f"gluster: {_text(root, 'opErrstr') or 'the command failed'}", code="gluster")
    sessions = [
        _session(_text(volume, "name"), session, now, beside or {}, node_uuid)
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


def slug(volume: str, secondary: str) -> str:
    """What the session's directories are called: `mvol_gnode1_svol`."""
    host, _, name = secondary.rpartition("@")[2].partition("::")
    return f"{volume}_{host}_{name}"


def _session(volume: str, session: ET.Element, now: float, beside: Mapping[str, Beside], node_uuid: str) -> Doc:
    # `<uuid of a node>:ssh://host::volume:<uuid of the secondary volume>`: the first differs from node to node
    told = _text(session, "session_secondary", "session_slave")
    ident = f"{volume}:{told.partition(':')[2] or told}"
    pairs = list(session.iterfind("pair"))
    where = _text(pairs[0], "secondary", "slave").removeprefix("ssh://") if pairs else told
    known = beside.get(slug(volume, where))
    bricks = [_brick(pair, ident, now, known, node_uuid) for pair in pairs]
    verdict, reasons = session_verdict(bricks)
    more = _session_reasons(known)
    for level, reason in more:
        verdict = max(verdict, level, key=ORDER.__getitem__)
        reasons = [*reasons, reason]
    lags = [b["lag_seconds"] for b in bricks if b["status"] != "Passive"]
    counts = [b["failures"] for b in bricks]
    user = bricks[0]["secondary_user"] if bricks else ""
    return {
        "id": ident, "name": volume, "kind": "gluster", "engine": "gsyncd", "primary": volume,
        "secondary": where if user in ("", "root") else f"{user}@{where}",
        "state": session_state(bricks), "verdict": verdict, "reasons": reasons,
        "lag_seconds": None if not lags or None in lags else max(lags),
        "failures": None if None in counts else sum(counts),
        "checkpoint": _checkpoint(bricks), "bricks": bricks, "arrival": _arrival(known),
    }  # fmt: skip


def _arrival(known: Beside | None) -> str:
    """Is it looked at whether what gsyncd sent has arrived (SYN-5)? Only rsync's own numbers in the log tell."""
    if known is None or not known.options:
        return "not checked: its options are not known"
    if known.options.get("sync_method") != "rsync":
        return "not checked: tar says no sizes"
    if known.options.get("log_rsync_performance") != "true":
        return "not checked: log_rsync_performance is off"
    return "checked by rsync's numbers in gsyncd's log"


def _session_reasons(known: Beside | None) -> list[tuple[str, Doc]]:
    """What a session's options and log say that no brick does."""
    if known is None:
        return []
    found = []
    if known.options.get("change_detector") == "xsync":
        found.append(("warning", {
            "code": "change-detector", "text": "change_detector is xsync: deletes and renames are not replicated",
            "hint": "xsync SESSION --gsyncd --yes (X in the console) crawls once more and sets changelog back",
        }))  # fmt: skip
    if _unwatched(known):
        found.append(("warning", {
            "code": "unwatched-transfers",
            "text": f"gsyncd with rsync {known.rsync} is known to leave files empty, and its log does not tell here",
            "hint": "config SESSION log_rsync_performance true shows it; sync_method tarssh avoids it",
        }))  # fmt: skip
    return found


def _unwatched(known: Beside) -> bool:
    number = re.match(r"(\d+)\.(\d+)", known.rsync)
    return (
        number is not None and (int(number[1]), int(number[2])) >= EMPTYING_RSYNC
        and known.options.get("sync_method") == "rsync" and known.options.get("log_rsync_performance") != "true"
    )  # fmt: skip


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


def _brick(pair: ET.Element, session: str, now: float, known: Beside | None, node_uuid: str) -> Doc:
    node, path = _text(pair, "primary_node", "master_node"), _text(pair, "primary_brick", "master_brick")
    said = _text(pair, "status")
    status = said if said in _STATUS else "Faulty"
    active = status == "Active"
    crawl = _text(pair, "crawl_status")
    kind = _CRAWLS.get(crawl) if active else None
    synced = _time(_text(pair, "last_synced")) if active else None
    uuid = _text(pair, "primary_node_uuid", "master_node_uuid")
    local = not node_uuid or node_uuid == uuid
    log = known.log.bricks.get(path) if known is not None and local else None
    brick: Doc = {
        "id": f"{session}:{node}:{path}", "node": node, "brick": path, "local": local,
        "secondary_user": _text(pair, "secondary_user", "slave_user"),
        "secondary": _text(pair, "secondary", "slave").removeprefix("ssh://"),
        "secondary_node": _text(pair, "secondary_node", "slave_node") or None,
        "status": status, "crawl_status": crawl if kind else "N/A", "verdict": "unknown", "reasons": [],
        "last_synced": synced, "lag_seconds": None,
        "entry": _number(pair, "entry"), "data": _number(pair, "data"), "meta": _number(pair, "meta"),
        "failures": _number(pair, "failures"),
        "checkpoint_time": _time(_text(pair, "checkpoint_time")),
        "checkpoint_completed": {"Yes": True, "No": False}.get(_text(pair, "checkpoint_completed")),
        "checkpoint_completion_time": _time(_text(pair, "checkpoint_completion_time")),
        "crawl": {"kind": kind, "since": log.crawl_since if log and kind and log.crawl == kind else None, "seen": None,
                  "total": None, "eta_seconds": None, "eta_basis": None},
        "backlog": None, "batch": None, "rate": None, "totals": None, "paused": None, "held": None,
        "secondary_free": None, "last_verify": None, "last_error": None,
    }  # fmt: skip
    if known is not None and local:
        _from_node(brick, known, log, now)
    if status == "Faulty":
        brick["last_error"] = _fault(said, known if local else None, log, now)
    ended = known.log.ended() if status == "Stopped" and known is not None and local else []
    if ended:
        brick["last_error"] = _error(ended, None, now)
    brick["verdict"], brick["reasons"] = brick_verdict(brick, Thresholds(), now)
    for reason in brick["reasons"]:
        if reason["code"] == "stopped":
            reason["hint"] = "start it: georep-tui start SESSION --gsyncd"
            if ended:
                reason |= {"text": f"Stopped by itself: {brick['last_error']['text']}",
                           "hint": f"{brick['last_error']['hint']}; then {reason['hint']}"}  # fmt: skip
        if status == "Created" and reason["code"] == "initializing":
            reason |= {"text": "Created: it was never started", "hint": "start it: georep-tui start SESSION --gsyncd"}
        if reason["code"] == "paused":
            reason["text"] = "Paused; changes wait in the bricks' journals"
        if reason["code"] == "lag-unknown" and synced is not None and not local:
            reason |= {"text": f"how far behind is told by the journal on {node} alone", "hint": f"--ssh {node} as well"}
    if log is not None:
        _alarm(brick, log)
        _stall(brick, known, log, now)
    return brick


def _from_node(brick: Doc, known: Beside, log: BrickLog | None, now: float) -> None:
    """What only the brick's own node can tell."""
    entry_mark = known.files.get(brick["brick"], {}).get("last_synced_entry")
    brick["last_synced_entry"] = float(entry_mark) if isinstance(entry_mark, int | float) and entry_mark > 0 else None
    journal = known.journals.get(brick["brick"])
    if journal is not None and brick["status"] == "Active" and brick["last_synced"] is not None:
        since = journal.since(brick["last_synced"])
        brick["lag_seconds"] = 0.0 if since is None else round(max(0.0, now - since), 3)
        brick["backlog"] = {"changelogs": journal.waiting, "bytes": None}
    if log is None or brick["status"] != "Active":
        return
    begin = known.log.since
    if begin is not None:
        brick["rate"] = log.rates(now, begin)
    if log.batches:
        last = log.batches[-1]
        brick["last_batch"] = {
            "time": last.time, "mode": last.mode, "seconds": last.seconds, "changelogs": last.changelogs,
            "entries": last.entries, "files": last.files,
        }  # fmt: skip


def _fault(said: str, known: Beside | None, log: BrickLog | None, now: float) -> Doc:
    errors = (log.recent_errors() if log else []) or (known.log.monitor_errors() if known else [])
    if not errors:
        where = "its node's log is not seen from here" if known is None else "its log has no error"
        return {"time": now, "code": "gsyncd", "errno": None, "text": f"gsyncd says {said or 'nothing'}; {where}",
                "hint": "see /var/log/glusterfs/geo-replication on that node", "attempt": None, "retry_at": None,
                "lines": []}  # fmt: skip
    found = _error(errors, log.starts if log and log.starts else None, now)
    return found if said == "Faulty" else {**found, "text": f"gsyncd says {said or 'nothing'}: {found['text']}"}


def _error(errors: Sequence[Record], attempt: int | None, now: float) -> Doc:
    code, words, hint = cause(errors)
    return {"time": errors[-1].time or now, "code": code, "errno": None, "text": words, "hint": hint, "attempt": attempt,
            "retry_at": None, "lines": [r.raw for r in errors[-3:]]}  # fmt: skip


def _alarm(brick: Doc, log: BrickLog) -> None:
    """SYN-5: success was reported, and nothing was moved."""
    found = log.silent()
    if found is None:
        return
    count, files = found
    level = "critical" if count >= SILENT_MANY or files >= SILENT_MANY else "warning"
    reason = {
        "code": "silent-transfers",
        "text": f"{count} transfer{'s' if count != 1 else ''} of {files} file{'s' if files != 1 else ''} reported success "
                "and moved 0 bytes: those files are likely empty on the secondary",
        "hint": "config SESSION sync_method tarssh --gsyncd, then xsync; compare sizes on both sides",
    }  # fmt: skip
    brick["verdict"] = max(brick["verdict"], level, key=ORDER.__getitem__)
    brick["reasons"] = [reason, *brick["reasons"]]


def _stall(brick: Doc, known: Beside | None, log: BrickLog, now: float) -> None:
    """An idle worker that takes no changelogs: libgfchangelog waits for ever for a notice that it has missed."""
    journal = known.journals.get(brick["brick"]) if known is not None else None
    lag = brick["lag_seconds"]
    if journal is None or not journal.waiting or lag is None or brick["crawl"]["kind"] != "live":
        return
    if lag < STALLED_AFTER or brick["entry"] or brick["data"] or brick["meta"]:
        return
    if any(done[-1].time > now - STALLED_AFTER for done in (log.transfers, log.batches) if done):
        return
    count = journal.waiting
    brick["verdict"] = "critical"
    brick["reasons"] = [{
        "code": "stalled",
        "text": f"gsyncd says Active, and has taken none of {count} changelog{'s' if count != 1 else ''} for {lag:.0f} s: "
                "its worker hangs",
        "hint": "stop and start the session: it then goes on from its mark",
    }, *(r for r in brick["reasons"] if r["code"] != "lag")]  # fmt: skip


# ---- the smaller formats -------------------------------------------------------------------------------------------


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


def parse_brick_files(text: str) -> dict[str, Doc]:
    """Lines `brick_%2Fbricks%2Fm1.status {…}`: the bricks' own status files, by the brick's path."""
    found: dict[str, Doc] = {}
    for line in text.splitlines():
        name, _, content = line.partition(" ")
        try:
            value = json.loads(content)
        except ValueError:
            continue  # it is being written just now; the next look has it
        if isinstance(value, dict):
            found[unquote(name.removeprefix("brick_").removesuffix(".status"))] = value
    return found


def parse_journals(text: str) -> dict[str, Journal]:
    """Lines `OLDEST BEGIN WAITING LAST BYTES PATH`, by the brick's path."""
    found = {}
    for line in text.splitlines():
        *numbers, path = line.split(" ", 5)
        if len(numbers) == 5 and all(n.lstrip("-").isdecimal() for n in numbers):
            oldest, begin, waiting, last, written = map(int, numbers)
            found[path] = Journal(oldest, begin, waiting, last, written > 0)
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


def option_values(options: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names and values of `parse_config`'s options."""
    return {str(o["name"]): str(o["value"]) for o in options}
