"""gsyncd's own log, line by line: batches, transfers, crawls, errors; and what they say of each brick. Pure."""

from __future__ import annotations

import calendar
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

_LINE = re.compile(
    r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{1,6})\] ([A-Z]) \[([^\](]*)\(([^)]*)\):(\d+):([^\]]*)\] ([^:]*): (.*)", re.DOTALL
)
_FIELDS = re.compile(r"(.*?)\s*\[(\{.*\})\]$", re.DOTALL)

WINDOW = 60.0
"""Seconds over which rates are counted."""

KEPT = 400
KEPT_ERRORS = 12
LEVELS = {"D": "debug", "T": "debug", "I": "info", "W": "warning", "E": "error", "C": "error"}
_CRAWLS = {"Hybrid Crawl": "hybrid", "History Crawl": "history", "Changelog Crawl": "live"}
_ENTRIES = ("UNL", "RMD", "CRE", "MKN", "MKD", "REN", "LIN", "SYM")


@dataclass(frozen=True, slots=True)
class Record:
    """One line, with those that go on from it. `time` in unix seconds (gsyncd writes UTC), `brick` "" where it is of
    none; `raw` is the whole text, as it was."""

    time: float
    level: str
    role: str
    function: str
    message: str
    fields: Mapping[str, str]
    raw: str

    @property
    def brick(self) -> str:
        """The brick whose worker wrote it, or that the monitor says it is about."""
        if self.role.startswith("worker "):
            return self.role.removeprefix("worker ")
        return self.fields.get("brick", "")


def parse(text: str) -> Iterator[Record]:
    """The lines of a log. A line that begins none (a traceback) belongs to the one before; at the very beginning it is
    a record of its own, without a time."""
    last: Record | None = None
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            if last is None:
                last = Record(0.0, "I", "", "", line, {}, line)
            else:
                last = replace(last, message=f"{last.message}\n{line}", raw=f"{last.raw}\n{line}")
            continue
        if last is not None:
            yield last
        stamp, micro, level, _module, role, _number, function, _name, rest = found.groups()
        # gsyncd does not fill up its microseconds with zeros
        when = calendar.timegm(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) + int(micro) / 1e6
        message, fields = _split(rest)
        last = Record(when, level, role, function, message, fields, line)
    if last is not None:
        yield last


def _split(rest: str) -> tuple[str, dict[str, str]]:
    found = _FIELDS.fullmatch(rest)
    if found is None:
        return rest, {}
    fields: dict[str, str] = {}
    for item in found[2][1:-1].split("}, {"):
        key, equals, value = item.partition("=")
        if equals:
            fields[key] = value
    return found[1], fields


# ---- what it says --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transfer:
    """A run of rsync or tar: when it ended, files, exit code, seconds."""

    time: float
    files: int
    code: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Moved:
    """What rsync says it did: regular files it was given, files it sent, and the bytes of both."""

    time: float
    given: int
    sent: int
    given_bytes: int
    sent_bytes: int

    @property
    def silent(self) -> bool:
        """Nothing was sent of something."""
        return self.given > 0 and self.given_bytes > 0 and self.sent == 0 and self.sent_bytes == 0


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A batch: when it was completed, xsync, history_changelog or live_changelog, seconds, changelogs, entry
    operations and files in it, and the mark after it."""

    time: float
    mode: str
    seconds: float
    changelogs: int
    entries: int
    files: int
    stime: int | None


@dataclass(slots=True)
class BrickLog:
    """What the log says of one brick."""

    started: float | None = None
    starts: int = 0
    status: str = ""
    crawl: str | None = None
    crawl_since: float | None = None
    hybrid_finished: float | None = None
    batches: deque[BatchDone] = field(default_factory=lambda: deque(maxlen=KEPT))
    transfers: deque[Transfer] = field(default_factory=lambda: deque(maxlen=KEPT))
    moved: deque[Moved] = field(default_factory=lambda: deque(maxlen=KEPT))
    errors: deque[Record] = field(default_factory=lambda: deque(maxlen=KEPT_ERRORS))
    failed: deque[Record] = field(default_factory=lambda: deque(maxlen=KEPT))
    _entries: int = 0
    _files: int = 0

    def take(self, record: Record) -> str | None:
        """Believe a line; returns the event it means, if any: active, faulty, crawl_changed, batch_done, error."""
        said, fields = record.message, record.fields
        if said == "starting gsyncd worker":
            self.started, self.starts, self.status = record.time, self.starts + 1, "Initializing..."
            self.moved.clear()
            return None
        if said == "Worker Status Change":
            before, self.status = self.status, fields.get("status", "")
            return {"Active": "active", "Passive": "passive", "Faulty": "faulty"}.get(self.status) if before != self.status else None
        if said == "Crawl Status Change":
            self.crawl, self.crawl_since = _CRAWLS.get(fields.get("status", "")), record.time
            return "crawl_changed"
        if said == "finished hybrid crawl":
            self.hybrid_finished = record.time
        elif said == "Sync Time Taken":
            self.transfers.append(Transfer(record.time, _int(fields, "num_files"), _int(fields, "return_code"),
                                           _float(fields, "duration")))  # fmt: skip
        elif said == "Entry Time Taken":
            self._entries = sum(_int(fields, key) for key in _ENTRIES)
        elif said == "Data/Metadata Time Taken":
            self._files = _int(fields, "DATA")
        elif said == "rsync performance":
            self.moved.append(_moved(record))
        elif said == "Batch Completed":
            self.batches.append(BatchDone(
                record.time, fields.get("mode", ""), _float(fields, "duration"), _int(fields, "num_changelogs"),
                self._entries, self._files, _stime(fields.get("stime", "")),
            ))  # fmt: skip
            self._entries = self._files = 0
            return "batch_done"
        elif "FAILED" in said or said.startswith("SYNC FAILED"):
            self.failed.append(record)
            return "error"
        if record.level in "EC":
            self.errors.append(record)
            return "error"
        return None

    def recent_errors(self) -> list[Record]:
        """The errors of the worker's last life, or the one before: what a Faulty brick is about."""
        return list(self.errors)[-5:]

    def rates(self, now: float, since: float) -> dict[str, float | None]:
        """Entries, files and bytes per second over the last minute; None where the log does not tell: it is only known
        from `since` on, and bytes only where rsync says them."""
        if now - since < 1:
            return {"entries_per_s": None, "files_per_s": None, "bytes_per_s": None}
        window = min(WINDOW, now - since)
        begin = now - window
        transfers = [t for t in self.transfers if t.time >= begin and t.code == 0]
        moved = [m for m in self.moved if m.time >= begin]
        entries = sum(b.entries for b in self.batches if b.time >= begin)
        told = not transfers or len(moved) >= len(transfers)
        return {
            "entries_per_s": round(entries / window, 3),
            "files_per_s": round(sum(t.files for t in transfers) / window, 3),
            "bytes_per_s": round(sum(m.sent_bytes for m in moved) / window, 3) if told else None,
        }

    def silent(self) -> tuple[int, int] | None:
        """(transfers, files) since the worker's start that reported success and moved nothing, where none moved
        anything; None where there is nothing odd (SYN-5)."""
        silent = [m for m in self.moved if m.silent]
        return (len(silent), sum(m.given for m in silent)) if silent and not any(m.sent for m in self.moved) else None


class LogFacts:
    """A log as it is read on: what it says of every brick, the lines, and the events they mean."""

    def __init__(self) -> None:
        self.bricks: dict[str, BrickLog] = {}
        self.lines: deque[tuple[int, Record]] = deque(maxlen=5000)
        self.since: float | None = None
        self._number = 0
        self._torn = ""

    def feed(self, text: str) -> list[tuple[str, Record]]:
        """More of the log; the events it means. A line that is not whole yet waits for its end."""
        whole, _, self._torn = (self._torn + text).rpartition("\n")
        return self.take(parse(whole)) if whole else []

    def take(self, records: Iterable[Record]) -> list[tuple[str, Record]]:
        """Lines that are read already."""
        events = []
        for record in records:
            self._number += 1
            self.lines.append((self._number, record))
            if record.time and self.since is None:
                self.since = record.time
            brick = record.brick
            if brick:
                known = self.bricks.setdefault(brick, BrickLog())
                event = known.take(record)
                if event is not None:
                    events.append((event, record))
            elif record.level in "EC":
                events.append(("error", record))
        return events

    def monitor_errors(self) -> list[Record]:
        """The last errors that are of no brick: the monitor's own."""
        return [r for _, r in self.lines if not r.brick and r.level in "EC"][-5:]

    def ended(self) -> list[Record]:
        """The monitor's errors since a person started or stopped the session: what ended it where it is Stopped."""
        found: list[Record] = []
        for _, record in self.lines:
            if record.message in ("Monitor Status Change", "starting gsyncd worker"):
                found.clear()
            elif not record.brick and record.role.startswith("monitor") and record.level in "EC":
                found.append(record)
        return found[-5:]


def _moved(record: Record) -> Moved:
    """`Number of files: 2 (reg: 1, dir: 1), Number of regular files transferred: 0, Total file size: 6 bytes, …`"""
    text = record.fields.get("data", "")

    def number(pattern: str) -> int:
        found = re.search(pattern + r"([\d,]+)", text)
        return int(found[1].replace(",", "")) if found else 0

    return Moved(
        record.time, number(r"reg: "), number(r"(?:regular )?files transferred: "), number(r"Total file size: "),
        number(r"Total transferred file size: "),
    )  # fmt: skip


def _int(fields: Mapping[str, str], key: str) -> int:
    try:
        return int(fields.get(key, "0"))
    except ValueError:
        return 0


def _float(fields: Mapping[str, str], key: str) -> float:
    try:
        return float(fields.get(key, "0"))
    except ValueError:
        return 0.0


def _stime(text: str) -> int | None:
    found = re.match(r"\((\d+)", text)
    return int(found[1]) if found else None


# ---- what to do about it -------------------------------------------------------------------------------------------

_CAUSES = (
    (r"Permission denied \(publickey", "ssh-denied", "the session's key is not let in there",
     "gluster system:: execute gsec_create; then: gluster volume geo-replication VOL HOST::VOL create push-pem force"),
    (r"Host key verification failed", "host-key", "the host key of the secondary has changed",
     "as root on this node: ssh-keygen -R HOST, then ssh HOST once"),
    (r"Connection refused", "ssh-refused", "no sshd answers there", "is sshd running there, is ssh_port right?"),
    (r"timed out|No route to host|Could not resolve hostname", "unreachable", "the secondary cannot be reached",
     "check the name, the network and the firewall"),
    (r"/nonexistent/gsyncd|error=127|gsyncd: (?:command )?not found", "no-gsyncd",
     "gsyncd is not found on the secondary",
     "gluster volume geo-replication VOL HOST::VOL config remote-gsyncd /usr/libexec/glusterfs/gsyncd (or where it is there)"),
    (r"No space left on device|ENOSPC", "no-space", "the secondary is full", "make room there"),
    (r"Disk quota exceeded|EDQUOT", "quota", "the quota there is used up", "raise it there"),
    (r"Read-only file system|EROFS", "read-only", "the secondary is read-only", "gluster volume set SVOL features.read-only off"),
    (r"Transport endpoint is not connected|ENOTCONN", "not-connected", "a mount has lost its bricks",
     "gluster volume status, on both sides"),
    (r"[Cc]hangelog register failed|changelog.*not.*enabled|Changelog not available", "no-changelog",
     "the brick keeps no changelog", "gluster volume set VOL changelog.changelog on"),
    (r"rsync.*not found|tar.*not found|No such file or directory: '(?:rsync|tar)'", "no-program",
     "rsync or tar is missing", "install it on both sides"),
    (r"mismatch", "gfid-mismatch", "a name has another gfid on the secondary",
     "gluster … config gfid-conflict-resolution true, or remove that name there"),
    (r"lock|meta.?volume|shared_storage", "meta-volume", "the meta volume is not there",
     "gluster volume set all cluster.enable-shared-storage enable"),
    (r"unable to get.*volinfo|volume info|Volume .* does not exist|not started", "no-volume",
     "the secondary volume is not told of", "is it started there: gluster volume info SVOL"),
    (r"connection to peer is broken", "peer-gone", "gsyncd on the secondary has ended",
     "its log there: /var/log/glusterfs/geo-replication-secondaries"),
)  # fmt: skip


def cause(errors: Iterable[Record]) -> tuple[str, str, str]:
    """(code, sentence, hint) of the best-known cause among some errors; the last line itself where none is known."""
    last = ""
    texts = []
    for record in errors:
        last = record.message.splitlines()[-1] if record.message else last
        texts.append(record.raw)
    whole = "\n".join(texts)
    for pattern, code, words, hint in _CAUSES:
        if re.search(pattern, whole):
            return code, words, hint
    return "gsyncd", last, "its log is in /var/log/glusterfs/geo-replication"
