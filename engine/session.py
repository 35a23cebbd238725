"""A session: all bricks of one replication on this node; the engine's public face."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import shlex
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine import __version__
from engine.config import Config
from engine.events import EventLog, Log
from engine.ledger import Ledger
from engine.link import SshTarget
from engine.model import EngineError
from engine.nodes import Nodes
from engine.protocol import READING
from engine.spec import SessionSpec
from engine.status import BrickStatus, SessionFacts, Who
from engine.transfer.limit import Bandwidth
from engine.verdict import Thresholds, session_state, session_verdict
from engine.volume.base import Primary
from engine.volume.facts import BrickFacts
from engine.volume.gluster import GlusterPrimary, GlusterVolume
from engine.volume.primary import TreePrimary
from engine.worker import Seat, Worker


@dataclass(slots=True)
class Brick:
    """One brick of the session with everything that belongs to it."""

    id: str
    name: str
    path: bytes
    state: str
    status: BrickStatus
    ledger: Ledger
    primary: Primary
    worker: Worker


class Session:
    """One replication. `start` begins; `stop` ends it cleanly; `command` is what consoles and commands call.

    `state` is the session's own directory. Raises EngineError when it is in use, damaged, or another's.
    """

    def __init__(self, spec: SessionSpec, config: Config, state: str, *, log_json: bool = False) -> None:
        self.spec = spec
        self.config = config
        self.state = state
        self.name = spec.name
        os.makedirs(state, mode=0o700, exist_ok=True)
        self._lock_fd = self._take_lock()
        self._created = False
        self.node = socket.gethostname()
        options = config.options
        self.events = EventLog()
        self.log = Log(os.path.join(state, "engine.log"), options.log_level, log_json)
        self.bandwidth = Bandwidth(options.bandwidth_limit)
        self.finished = threading.Event()
        self.fatal: EngineError | None = None
        """What ended the run before it began: wrong address, no access, another's secondary."""
        self._boot = self.events.boot_id
        self.volume: GlusterVolume | None = None
        try:
            if spec.volume is not None:
                self.volume = GlusterVolume(spec.volume.volume, state, lambda: config.options, self.log.write)
            self.id = str(self._identify()["id"])
            if not spec.dry_run:
                config.remember()
        except (EngineError, OSError):
            self.log.close()
            os.close(self._lock_fd)
            raise
        where = spec.secondary
        self.facts = SessionFacts(self.id, spec.name, spec.kind, self._primary_text(), where.text)
        self.nodes = Nodes(where.host, self._known_nodes(), self._keep_nodes, self.log.write)
        if self.volume is not None:
            self.bricks = [self._volume_brick(self.volume, brick) for brick in self.volume.bricks]
        else:
            self.bricks = [self._tree_brick(path, name) for path, name in spec.bricks]
        self._started = False

    # ---- identity and state ----------------------------------------------------------------------------------

    def _take_lock(self) -> int:
        fd = os.open(os.path.join(self.state, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(fd)
            raise EngineError(
                f"session {self.name} already runs here", code="running", hint=f"see it: georep-tui attach {self.name}"
            ) from e
        return fd

    def _identify(self) -> dict[str, Any]:
        """The session's id, made once; the same bricks and secondary every time."""
        path = os.path.join(self.state, "session.json")
        wanted = {
            "bricks": [[os.fsdecode(p), n] for p, n in self.spec.bricks]
            or ([[self.spec.volume.text, ""]] if self.spec.volume else []),
            "secondary": self.spec.secondary.text,
            "kind": self.spec.kind,
        }
        try:
            with open(path, encoding="utf-8") as f:
                known: dict[str, Any] = json.load(f)
        except FileNotFoundError:
            self._created = True
            known = {"id": self._new_id(), **wanted}
            temp = path + ".new"
            with open(temp, "w", encoding="utf-8") as f:
                json.dump(known, f)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temp, path)
            return known
        except ValueError as e:
            raise EngineError(f"{path}: damaged ({e})", code="state-damaged",
                              hint="remove it and run with --adopt") from e  # fmt: skip
        for key in ("bricks", "secondary"):
            if known.get(key) != wanted[key]:
                raise EngineError(
                    f"session {self.name} replicates {_pair(known)}, not {_pair(wanted)}", code="other-session",
                    hint="choose another --name",
                )  # fmt: skip
        return known

    def _new_id(self) -> str:
        """An id of its own; a volume's is the same on every node of the primary: their engines are one session."""
        if self.volume is None:
            return str(uuid.uuid4())
        return str(uuid.uuid5(uuid.UUID(self.volume.facts.id), f"{self.name}:{self.spec.secondary.volume}"))

    def _known_nodes(self) -> object:
        return None if self.volume is None else self.volume.known.get("nodes")

    def _keep_nodes(self, nodes: list[dict[str, Any]]) -> None:
        if self.volume is not None:
            self.volume.learn(nodes=nodes)

    def _primary_text(self) -> str:
        if self.spec.volume is not None:
            return self.spec.volume.text
        return " ".join(os.fsdecode(p) + (f"={n}" if n else "") for p, n in self.spec.bricks)

    def _state_of(self, word: str) -> str:
        """The state directory of a brick."""
        short = hashlib.blake2b(word.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        state = os.path.join(self.state, "bricks", f"{short}-{_safe(word)}")
        os.makedirs(state, mode=0o700, exist_ok=True)
        return state

    def _log_of(self, brick: str) -> Callable[[str, str], None]:
        def log(level: str, line: str) -> None:
            self.log.write(level, line, brick)

        return log

    def _tree_brick(self, path: bytes, name: str) -> Brick:
        primary = TreePrimary(path, self._state_of(name or "root"), self._log_of(os.fsdecode(path)))
        return self._brick(primary, uuid.UUID(bytes=primary.brick_id), name)

    def _volume_brick(self, volume: GlusterVolume, brick: BrickFacts) -> Brick:
        path = os.fsdecode(brick.path)
        primary = GlusterPrimary(volume, brick, self._state_of(path), self._log_of(path))
        return self._brick(primary, uuid.UUID(bytes=primary.brick_id), "")

    def _brick(self, primary: Primary, brick_id: uuid.UUID, name: str) -> Brick:
        path, state, text = primary.root, primary.state, primary.path
        where = self.spec.secondary
        log = self._log_of(text)
        ident = str(brick_id)
        below = os.fsdecode(where.path) + (f"/{name}" if name else "")
        there = f"{where.host}::{where.volume}" if where.volume else f"{where.host}:{below}" if where.host else below
        status = BrickStatus(Who(ident, self.node, text, where.user or "", there), os.path.join(state, "status.json"))
        ledger = Ledger(os.path.join(state, "failures.db"))
        ledger.retry_all()
        status.count_before = ledger.before
        status.failures(ledger.size, ledger.oldest)
        volume = None
        if where.volume is not None:
            volume = {"host": str(where.host), "name": where.volume, "params": self.config.options.secondary_gluster_params,
                      "subvolumes": str(self.volume.facts.subvolumes if self.volume else 1)}
        seat = Seat(self.id, ident, text, self.node, self.target(), where.path, name, self.spec.adopt, self.spec.dry_run,
                    volume)  # fmt: skip

        def event(what: str, fields: dict[str, Any]) -> None:
            self.events.publish(what, session=self.name, brick=ident, **fields)

        status.on_event = event
        worker = Worker(
            seat, primary, self.nodes, lambda: self.config.options, status, ledger, self.bandwidth, log, event, self._idle,
            self._fatal,
        )  # fmt: skip
        worker.pause(status.paused_by is not None)
        return Brick(ident, name, path, state, status, ledger, primary, worker)

    def target(self) -> SshTarget:
        """The secondary's host and how to reach it, by the options of now."""
        where, options = self.spec.secondary, self.config.options
        return SshTarget(
            where.host, where.user, where.port or (options.ssh_port or None), options.ssh_command,
            tuple(shlex.split(options.ssh_options)), options.connection_timeout,
        )  # fmt: skip

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every brick's worker."""
        # records and rows are many small tuples without cycles: looking for those often would cost a tenth of the time
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._started = True
        if self._created:
            self.events.publish("create", session=self.name)
        self.events.publish("start", session=self.name)
        self.log.write("info", f"georep-tui {__version__}: session {self.name}, {self.facts.primary} to {self.facts.secondary}")
        if self.config.note:
            self.log.write("warning", self.config.note)
        for brick in self.bricks:
            brick.worker.start()

    def _idle(self) -> None:
        """A worker has nothing left to do: with `once`, the session is finished when all have."""
        if not self.spec.once:
            return
        if all(b.worker.caught_up or b.worker.held() is not None for b in self.bricks):
            self.finished.set()

    def _fatal(self, error: EngineError) -> None:
        """A fault at the first try that only a person can mend: the run ends with it."""
        self.fatal = self.fatal or error
        self.finished.set()

    def wait_finished(self, timeout: float | None = None) -> bool:
        """Wait until `--once` is done or `stop` was called; False after `timeout` seconds."""
        return self.finished.wait(timeout)

    @property
    def exit_code(self) -> int:
        """0 done; 1 something did not sync or is held."""
        bad = any(b.ledger.size or b.worker.held() is not None for b in self.bricks)
        return 2 if self.fatal is not None else 1 if bad else 0

    def stop(self) -> None:
        """End all workers cleanly, join their threads, release the state directory. May be called twice."""
        if self._lock_fd < 0:
            return
        self.finished.set()
        for brick in self.bricks:
            brick.worker.stopping.set()
            brick.worker.wake.set()
        for brick in self.bricks:
            if self._started:
                brick.worker.stop()
            brick.ledger.close()
        if self.volume is not None:
            self.volume.close()
        self.events.publish("stop", session=self.name)
        self.log.write("info", "stopped")
        self.log.close()
        os.close(self._lock_fd)
        self._lock_fd = -1

    # ---- snapshot --------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole document, as `status --json` prints it."""
        now = time.time()
        o = self.config.options
        limits = Thresholds(o.lag_warning, o.lag_critical, o.failures_warning, o.failures_critical)
        bricks = [b.status.snapshot(now, limits) for b in self.bricks]
        verdict, reasons = session_verdict(bricks)
        lags = [b["lag_seconds"] for b in bricks if b["status"] != "Passive"]
        return {
            "version": 1, "time": now,
            "sources": [{"node": self.node, "connected": True, "data_time": now, "clock_offset_seconds": 0.0,
                         "engine_version": __version__, "boot_id": self._boot, "error": None}],
            "sessions": [{
                "id": self.id, "name": self.name, "kind": self.facts.kind, "primary": self.facts.primary,
                "secondary": self.facts.secondary, "state": session_state(bricks),
                "verdict": verdict, "reasons": reasons,
                "lag_seconds": None if not lags or None in lags else max(lags),
                "failures": sum(b["failures"] for b in bricks),
                "checkpoint": _session_checkpoint(bricks),
                "thresholds": {"lag_warning": limits.lag_warning, "lag_critical": limits.lag_critical,
                               "failures_warning": limits.failures_warning, "failures_critical": limits.failures_critical},
                "bricks": bricks,
            }],
        }  # fmt: skip

    # ---- commands --------------------------------------------------------------------------------------------

    def command(self, method: str, params: dict[str, Any], who: str) -> dict[str, Any]:
        """Do what a person asked. Raises EngineError with what is wrong and what to do."""
        from engine.commands import run

        changing = method not in READING
        try:
            result = run(self, method, params, who)
        except EngineError as e:
            if changing:
                self._operation(method, params, who, e.text)
            raise
        if changing:
            self._operation(method, params, who, "done")
        return result

    def _operation(self, method: str, params: dict[str, Any], who: str, result: str) -> None:
        """Who did what, when, with which result: kept for ever, one JSON line each."""
        line = {"time": time.time(), "who": who, "what": method, "params": params, "result": result}
        with open(os.path.join(self.state, "operations.log"), "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
            f.flush()
            os.fsync(f.fileno())
        self.events.publish("operation", session=self.name, who=who, what=method, result=result)

    def chosen(self, params: dict[str, Any]) -> list[Brick]:
        """The bricks a command is for: one by id, name or path, else all. Raises EngineError."""
        wanted = params.get("brick")
        if wanted is None:
            return self.bricks
        found = [b for b in self.bricks if wanted in (b.id, b.name, os.fsdecode(b.path))]
        if not found:
            known = ", ".join(os.fsdecode(b.path) for b in self.bricks)
            raise EngineError(f"session {self.name} has no brick {wanted!r}", hint=f"bricks: {known}", code="usage")
        return found


def _session_checkpoint(bricks: list[dict[str, Any]]) -> dict[str, Any]:
    """A session's checkpoint is complete when every active brick's is; the one furthest behind holds it."""
    active = [b for b in bricks if b["status"] != "Passive"]
    times = [b["checkpoint_time"] for b in active if b["checkpoint_time"] is not None]
    if not times:
        return {"time": None, "completed": None, "completion_time": None, "failures_before": 0, "eta_seconds": None,
                "held_by": None}  # fmt: skip
    open_ = [b for b in active if not b["checkpoint_completed"]]
    worst = min(open_, key=lambda b: b["last_synced"] or 0, default=None)
    return {
        "time": max(times), "completed": not open_,
        "completion_time": None if open_ else max(b["checkpoint_completion_time"] or 0 for b in active),
        "failures_before": sum(b["checkpoint_failures_before"] for b in active),
        "eta_seconds": (worst["backlog"] or {}).get("eta_seconds") if worst else None,
        "held_by": worst["brick"] if worst else None,
    }  # fmt: skip


def _safe(word: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in word)[:40]


def _pair(facts: dict[str, Any]) -> str:
    return f"{', '.join(b[0] for b in facts.get('bricks', []))} to {facts.get('secondary')}"
