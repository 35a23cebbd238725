"""Sessions of GlusterFS's own gsyncd, as seen from one node: looked at by a thread, controlled through gluster."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from georep_tui.sources.base import Doc, SourceError, cut_off
from georep_tui.sources.gluster import Here, Runner, words
from georep_tui.sources.gsyncd_log import LEVELS, Record
from georep_tui.sources.gsyncd_status import (
    Beside,
    option_values,
    parse_brick_files,
    parse_config,
    parse_journals,
    parse_status,
    slug,
)
from georep_tui.sources.schema import shifted

PACE = 5.0
"""Seconds between two questions to glusterd: each one starts a program on every node."""

CONFIG_PACE = 60.0
LOG_FIRST = 1 << 19
"""Bytes of a log that are read at first, and the most at once."""

WITHIN = 30.0
"""Seconds in which a command must show in gluster's own status."""

CRAWL_WITHIN = 24 * 3600.0
PATIENCE = 70.0
SKEW = 2.0

_SURVEY = """
date +%s.%N; printf '%s\\n' "$1"
sed -n 's/^UUID=//p' /var/lib/glusterd/glusterd.info 2>/dev/null; printf '%s\\n' "$1"
"""
_BESIDE = """
log="/var/log/glusterfs/geo-replication/$2/gsyncd.log" inode=$3 from=$4 most=$5
if s=$(stat -c '%i %s' "$log" 2>/dev/null); then
  size=${s#* }
  [ "${s% *}" = "$inode" ] && [ "$size" -ge "$from" ] || from=0
  [ $((size - from)) -gt "$most" ] && from=$((size - most))
  printf '%s %s\\n%s\\n' "$s" "$from" "$1"
  tail -c "+$((from + 1))" "$log" | head -c $((size - from))
  printf '\\n%s\\n' "$1"
else printf '0 0 0\\n%s\\n\\n%s\\n' "$1" "$1"; fi
for f in "/var/lib/glusterd/geo-replication/$2"/brick_*.status; do
  [ -f "$f" ] && printf '%s %s\\n' "${f##*/}" "$(cat "$f")"
done
printf '%s\\n' "$1"; shift 5
# what of each brick's journal lies after its mark: slices are listed in HTIME files, the empty ones in small letters
while [ $# -ge 2 ]; do
  before= htime=
  for f in "$1"/.glusterfs/changelogs/htime/HTIME.*; do [ -f "$f" ] && before=$htime htime=$f; done
  if [ -n "$htime" ]; then
    for most in 65536 4194304; do
      said=$({ [ "$most" = 65536 ] || [ -z "$before" ] || tail -c "$most" "$before"; tail -c "$most" "$htime"; } | tr '\\0' '\\n' |
        awk -v s="$2" 'match($0, /[Cc][Hh][Aa][Nn][Gg][Ee][Ll][Oo][Gg][.][0-9]+$/) {
          t = substr($0, RSTART + 10) + 0; if (!o) o = t
          if (substr($0, RSTART, 1) == "C" && t > s + 1) { c++; if (!f) f = p ? p : t }
          p = t } END { printf "%.0f %.0f %.0f %.0f\\n", o, f, c, p }')
      [ "${said%% *}" -le "$2" ] && break
    done
    size=$(stat -c %s "$1/.glusterfs/changelogs/CHANGELOG" 2>/dev/null) || size=0
    head=$(head -n 1 "$1/.glusterfs/changelogs/CHANGELOG" 2>/dev/null | wc -c)
    printf '%s %s %s\\n' "$said" $((size - head)) "$1"
  fi
  shift 2
done
:
"""


class GsyncdSource:
    """What one node's glusterd knows, with what lies on that node. Commands beyond gsyncd's own do not exist.

    `runner` is where: here, or a node over ssh, which `node` then names. Its clock's times are shown by ours.
    """

    cluster_wide = True

    def __init__(
        self, runner: Runner | None = None, *, node: str = "", command: str = "gluster", patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        if node:
            self.node = node
        self._where = node or "here"
        self._runner = runner or Here()
        self._command = command
        self._patience = patience
        self._clock = clock
        self._lock = threading.Condition()
        self._document: Doc | None = None
        self._error: SourceError | None = None
        self._looks = 0
        self._pairs: dict[str, tuple[str, str]] = {}
        self._beside: dict[str, Beside] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._configured: dict[str, float] = {}
        self._events: deque[Doc] = deque(maxlen=20_000)
        self._seq = 0
        self._offset = 0.0
        self._crawls: dict[str, Doc] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gsyncd {self._where}", daemon=True)
        self._thread.start()

    # ---- for everyone ----------------------------------------------------------------------------------------------

    @property
    def reachable(self) -> bool:
        """Did the last look succeed?"""
        return self._error is None and self._document is not None

    def snapshot(self) -> Doc:
        """The sessions as last looked at. Raises SourceError when nothing was ever seen."""
        with self._lock:
            self._lock.wait_for(lambda: self._looks > 0 or self._closing.is_set(), self._patience)
            document, error = self._document, self._error
        if document is None:
            raise error or SourceError(f"{self._where}: connecting", code="connecting")
        if error is not None:
            document = cut_off(document, error)
        shift = float(round(self._offset)) if abs(self._offset) >= SKEW else 0.0
        for source in document["sources"]:
            source["clock_offset_seconds"] = round(self._offset, 2)
        moved: Doc = shifted(document, -shift)
        return moved

    def events(self) -> list[Doc]:
        """What the log told since the last call."""
        with self._lock:
            found = list(self._events)
            self._events.clear()
        return found

    def close(self) -> None:
        """Let go; a crawl that was begun goes on there, and the picture says so to whoever looks next."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            self._lock.notify_all()
        self._runner.close()
        self._thread.join(2)

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """pause, resume, start, stop, checkpoint, xsync, config_…, failures, logs. Raises SourceError."""
        if method == "snapshot":
            return self.snapshot()
        wanted = str(params.get("session") or "")
        self.snapshot()
        pair = self._pairs.get(wanted)
        if pair is None:
            raise SourceError(f"gsyncd has no session {wanted}", hint="georep-tui list --gsyncd", code="no-session")
        if method in ("pause", "resume", "start", "stop", "xsync") and params.get("brick"):
            raise SourceError(f"gsyncd can {method} whole sessions only", hint="P in the console, no --brick in a command",
                              code="usage")  # fmt: skip
        if method in ("pause", "resume", "start", "stop"):
            return self._switch(pair, method)
        commands: Mapping[str, Callable[[tuple[str, str], Mapping[str, Any]], Any]] = {
            "checkpoint": self._checkpoint, "xsync": self._xsync, "config_get": self._config_get,
            "config_set": self._config_set, "config_reset": self._config_set, "failures": self._failures,
            "logs": self._logs, "ping": lambda _p, _q: {"session": wanted}, "held": lambda _p, _q: {"held": []},
            "operations": lambda _p, _q: {"operations": []}, "checkpoints": lambda _p, _q: {"checkpoints": []},
        }  # fmt: skip
        if method not in commands:
            raise SourceError(f"gsyncd has no {method}", code="usage",
                              hint="its sessions can be paused, resumed, started, stopped, crawled")  # fmt: skip
        return commands[method](pair, {**params, "method": method})

    # ---- looking ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            try:
                document, error = self._look(), None
            except SourceError as e:
                document, error = None, e
            with self._lock:
                self._document, self._error = document or self._document, error
                self._looks += 1
                self._lock.notify_all()
            self._wake.wait(PACE)

    def _look(self) -> Doc:
        """One look at everything. Raises SourceError."""
        mark = secrets.token_hex(8)
        before = self._clock()
        code, out, err = self._runner.run(_SURVEY + self._gluster("status", "detail", "--xml") + " 2>&1", mark)
        parts = out.split(f"{mark}\n")
        self._check(code, parts[-1] if parts[-1].strip() else err)
        if len(parts) != 3:
            raise SourceError(f"{self._where}: sh answers with something else", code="protocol",
                              hint="does the login there print something?")  # fmt: skip
        now = float(parts[0])
        self._offset = now - before
        plain = parse_status(parts[2], now, {}, parts[1].strip())
        for session in plain["sessions"]:
            self._look_beside(session)
        document = parse_status(parts[2], now, self._beside, parts[1].strip())
        self._pairs = {
            word: (s["primary"], s["secondary"]) for s in document["sessions"] for word in (s["name"], s["id"])
        }
        return document

    def _look_beside(self, session: Doc) -> None:
        """The session's log, status files, its bricks' journals, and now and then its config."""
        volume, secondary = session["primary"], session["secondary"]
        marks = [
            word for b in session["bricks"] if b["local"] and b["last_synced"] is not None
            for word in (b["brick"], str(int(b["last_synced"])))
        ]  # fmt: skip
        name, mark = slug(volume, secondary), secrets.token_hex(8)
        known = self._beside.setdefault(name, Beside())
        inode, offset = self._places.get(name, ("0", 0))
        code, out, _ = self._runner.run(_BESIDE, mark, name, inode, str(offset), str(LOG_FIRST), *marks)
        parts = out.split(f"{mark}\n")
        known.journals = {}
        if code == 0 and len(parts) == 4:
            inode, size, begin = parts[0].split()
            text = parts[1][:-1]
            if int(begin) > offset or (int(begin) and not offset):
                text = text.partition("\n")[2]  # the middle of a line
            first = name not in self._places
            self._places[name] = inode, int(size)
            for event, record in known.log.feed(text):
                if not first:
                    self._tell(event, volume, record)
            known.files = parse_brick_files(parts[2])
            known.journals = parse_journals(parts[3])
        if time.monotonic() - self._configured.get(name, -CONFIG_PACE) >= CONFIG_PACE:
            self._configured[name] = time.monotonic()
            code, out, _ = self._runner.run(self._gluster(volume, secondary, "config"))
            if code == 0:
                known.options = option_values(parse_config(out))
            code, out, _ = self._runner.run("rsync --version")
            known.rsync = out.split()[2] if code == 0 and len(out.split()) > 2 else ""

    def _tell(self, event: str, session: str, record: Record) -> None:
        """An event for the console."""
        self._seq += 1
        fields: Doc = {k: v for k, v in record.fields.items() if k in ("status", "mode", "num_changelogs", "duration")}
        text = {"batch_done": f"batch done ({record.fields.get('mode', '')})"}.get(event, record.message)
        self._events.append({
            "event": "gsyncd_error" if event == "error" else event, "seq": self._seq,
            "time": record.time - (round(self._offset) if abs(self._offset) >= SKEW else 0), "session": session,
            "brick": self._brick_id(session, record.brick), "level": LEVELS.get(record.level, "info"), "text": text,
            **fields,
        })  # fmt: skip

    def _brick_id(self, session: str, path: str) -> str:
        for one in (self._document or {"sessions": []})["sessions"]:
            for brick in one["bricks"]:
                if one["primary"] == session and brick["brick"] == path:
                    return str(brick["id"])
        return ""

    # ---- gluster's words -------------------------------------------------------------------------------------------

    def _gluster(self, *parts: str) -> str:
        return f"{self._command} " + words("--mode=script", "volume", "geo-replication", *parts)

    def _check(self, code: int, said: str) -> None:
        """Raises SourceError with gluster's own words when it failed."""
        if not code:
            return
        program = self._command.split()[0]
        if code == 127:
            raise SourceError(f"there is no {program} {self._where}", hint="run this on a GlusterFS node", code="no-gluster")
        line = next((one.strip() for one in said.splitlines() if one.strip()), f"exit {code}")
        hint = "is glusterd running?"
        if "denied" in line or "root" in line.lower():
            hint = "gluster needs root: --ssh root@HOST"
        raise SourceError(f"gluster: {line}", hint=hint, code="gluster")

    def _do(self, *parts: str) -> str:
        """Run it. Raises SourceError."""
        code, out, err = self._runner.run(self._gluster(*parts))
        self._check(code, err.strip() or out)
        return out

    def _hurry(self, looks: int = 1) -> None:
        """Look again now, and wait for it. Raises SourceError when that look fails."""
        with self._lock:
            until = self._looks + looks + 1  # one may be under way
        self._wake.set()
        with self._lock:
            while self._looks < until and not self._closing.is_set():
                self._lock.wait(0.2)
                self._wake.set()
            if self._error is not None:
                raise self._error

    def _session(self, pair: tuple[str, str]) -> Doc:
        for session in (self._document or {"sessions": []})["sessions"]:
            if (session["primary"], session["secondary"]) == pair:
                return dict(session)
        raise SourceError(f"gsyncd has no session {pair[0]} to {pair[1]} any more", code="no-session")

    # ---- control ---------------------------------------------------------------------------------------------------

    def _switch(self, pair: tuple[str, str], method: str) -> Doc:
        """pause, resume, start or stop; done when gluster's own status says so. Raises SourceError."""
        before = self._session(pair)
        if method == "resume" and before["state"] in ("Stopped", "Created"):
            method = "start"
        self._do(*pair, method)
        is_so: Callable[[Doc], bool] = {
            "pause": lambda s: all(b["status"] == "Paused" for b in s["bricks"]),
            "stop": lambda s: all(b["status"] == "Stopped" for b in s["bricks"]),
        }.get(method, lambda s: all(b["status"] not in ("Paused", "Stopped", "Created") for b in s["bricks"]))
        self._until(pair, is_so, f"{method} of {pair[0]} was accepted, but gluster's status does not show it")
        done = {"pause": "paused", "resume": "resumed", "start": "started", "stop": "stopped"}[method]
        return {"bricks": [b["brick"] for b in before["bricks"]], "words": done, "stopped": method == "stop"}

    def _until(self, pair: tuple[str, str], is_so: Callable[[Doc], bool], words_: str) -> None:
        until = time.monotonic() + WITHIN
        while True:
            self._hurry()
            if is_so(self._session(pair)):
                return
            if time.monotonic() > until:
                raise SourceError(words_, hint="georep-tui status --gsyncd", code="silent")
            self._closing.wait(0.5)

    def _checkpoint(self, pair: tuple[str, str], params: Mapping[str, Any]) -> Doc:
        at = params.get("time")
        clear = at in (None, "clear")
        if isinstance(at, int | float):
            at = int(at + (round(self._offset) if abs(self._offset) >= SKEW else 0))
        self._do(*pair, "config", *(["!checkpoint"] if clear else ["checkpoint", str(at)]))
        self._configured.pop(slug(*pair), None)
        if clear:
            return {"time": None}
        value = next((o["value"] for o in parse_config(self._do(*pair, "config")) if o["name"] == "checkpoint"), "")
        self._hurry()
        return {"time": int(value) if value.isdigit() else at}

    def _config_get(self, pair: tuple[str, str], params: Mapping[str, Any]) -> Doc:
        name = str(params.get("name") or "").replace("-", "_")
        found = [o for o in parse_config(self._do(*pair, "config")) if name in ("", o["name"])]
        if name and not found:
            raise SourceError(f"gsyncd has no option {name}", hint="georep-tui config SESSION --gsyncd", code="usage")
        return {"options": found}

    def _config_set(self, pair: tuple[str, str], params: Mapping[str, Any]) -> Doc:
        name = str(params.get("name") or "").replace("_", "-")
        value = str(params.get("value") or "")
        setting = params["method"] == "config_set"
        self._do(*pair, "config", *([name, value] if setting else [f"!{name}"]))
        self._configured.pop(slug(*pair), None)
        if not setting:
            value = next((o["value"] for o in parse_config(self._do(*pair, "config"))
                          if o["name"] == name.replace("-", "_")), "")  # fmt: skip
        live = name in ("checkpoint", "log-rsync-performance", "sync-jobs", "log-level", "gfid-conflict-resolution")
        return {"name": name.replace("-", "_"), "value": value, "restarts": not live}

    def _failures(self, pair: tuple[str, str], _params: Mapping[str, Any]) -> Doc:
        """gsyncd counts failures and names some in its log; it keeps no ledger."""
        session = self._session(pair)
        beside = self._beside.get(slug(*pair)) or Beside()
        found = [
            {"id": f"log-{path.strip('/').replace('/', '-')}-{n}", "brick": path, "path": "", "operation": r.message[:40],
             "message": r.raw, "first_time": r.time, "last_time": r.time, "tries": 1, "errno": None,
             "hint": "gsyncd has moved on: it is not tried again by itself"}
            for path, log in beside.log.bricks.items() for n, r in enumerate(log.failed)
        ]  # fmt: skip
        count = session["failures"]
        note = "gsyncd keeps no ledger: it counts failures, and its log names some"
        return {"failures": found, "total": len(found) if count is None else max(count, len(found)), "counted": count,
                "note": f"{note}; it counts {'an unknown number' if count is None else count} now"}  # fmt: skip

    def _logs(self, pair: tuple[str, str], params: Mapping[str, Any]) -> Doc:
        since, limit = int(params.get("since") or 0), int(params.get("limit") or 1000)
        order = ("debug", "info", "warning", "error")
        lowest = order.index(str(params.get("level") or "debug"))
        brick = str(params.get("brick") or "")
        lines = [
            {"n": n, "time": r.time, "level": LEVELS.get(r.level, "info"), "brick": r.brick, "text": r.raw.partition("] ")[2]}
            for n, r in list((self._beside.get(slug(*pair)) or Beside()).log.lines)
            if n > since and order.index(LEVELS.get(r.level, "info")) >= lowest and brick in ("", r.brick)
        ]  # fmt: skip
        return {"lines": lines[-limit:] if not since else lines[:limit]}

    # ---- a forced crawl --------------------------------------------------------------------------------------------

    def _xsync(self, pair: tuple[str, str], params: Mapping[str, Any]) -> Doc:
        """change_detector = xsync, which restarts the workers; changelog again when every active brick has crawled.

        Where it is xsync already, a crawl was begun once and not ended (its console was closed): this ends it.
        """
        name = slug(*pair)
        session = self._session(pair)
        if not any(b["status"] in ("Active", "Initializing...", "Faulty") for b in session["bricks"]):
            raise SourceError(f"{session['name']} is {session['state']}: nothing would crawl", hint="start or resume it",
                              code="usage")  # fmt: skip
        if name in self._crawls:
            raise SourceError(f"a crawl of {session['name']} is under way", code="usage")
        before = option_values(parse_config(self._do(*pair, "config"))).get("change_detector", "changelog")
        began = self._clock() + self._offset
        if before == "xsync":
            before = "changelog"
        else:
            self._do(*pair, "config", "change-detector", "xsync")
        self._configured.pop(name, None)
        self._crawls[name] = {"since": began}
        bricks = [b["brick"] for b in session["bricks"] if b["status"] != "Passive"]
        if params.get("wait"):
            self._crawl(pair, began, before)
            return {"bricks": bricks, "words": "crawled; change_detector is back"}
        threading.Thread(target=self._crawl, args=(pair, began, before), name=f"xsync {pair[0]}", daemon=True).start()
        return {"bricks": bricks, "words": "the workers restart and crawl; change_detector goes back after that"}

    def _crawl(self, pair: tuple[str, str], began: float, before: str) -> None:
        """Wait for the crawls, then put the change detector back. Raises SourceError."""
        name = slug(*pair)
        try:
            until = time.monotonic() + CRAWL_WITHIN
            while time.monotonic() < until and not self._closing.wait(1.0):
                try:
                    self._hurry()
                    done = self._crawled(pair, began)
                except SourceError:
                    continue  # the node is away for a while; the picture says so
                if done:
                    break
            if not self._closing.is_set():
                back = ["!change-detector"] if before == "changelog" else ["change-detector", before]
                self._do(*pair, "config", *back)
                self._configured.pop(name, None)
                self._hurry()
        finally:
            self._crawls.pop(name, None)

    def _crawled(self, pair: tuple[str, str], began: float) -> bool:
        """Has every active brick finished a hybrid crawl since? Of another node's bricks only that they had begun."""
        logs = (self._beside.get(slug(*pair)) or Beside()).log.bricks
        for brick in self._session(pair)["bricks"]:
            if brick["status"] == "Passive":
                continue
            if not brick["local"]:
                if brick["crawl_status"] != "Hybrid Crawl":
                    return False
                continue
            finished = logs[brick["brick"]].hybrid_finished if brick["brick"] in logs else None
            if finished is None or finished < began:
                return False
        return True
