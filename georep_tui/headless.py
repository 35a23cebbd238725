"""`run --no-ui`: the engine without a screen. Plain lines in a pipe, progress on a terminal, signals, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Protocol, TextIO

from engine.dryrun import described
from engine.events import line_text
from engine.model import EngineError
from engine.session import Session
from georep_tui import output
from georep_tui.output import DONE, INCOMPLETE, INTERNAL, INTERRUPTED, USAGE
from georep_tui.view import units

KEPT_LINES = 10_000
"""Lines that wait for a slow reader of the output; what is beyond is left out, and said."""

TICK = 0.5
"""Seconds between two looks at the session, and between two pictures of a terminal's progress."""

IMPATIENT = 1.0
"""Seconds after the first signal from which a second one does not wait for a clean end."""

GIVE_UP, GIVE_UP_UNBEGUN = 5, 2
"""With --once: faults in a row after which the run ends, of a brick that was replicated and of one that never was."""


class Screen(Protocol):
    """Where progress is shown."""

    def update(self, document: dict[str, Any]) -> None:
        """Show this snapshot."""

    def line(self, text: str) -> None:
        """Put a line above the progress."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Plain:
    """Lines only: for a pipe, a file, a journal. A reader that went away ends the output, not the engine."""

    def __init__(self, out: TextIO) -> None:
        self._out: TextIO | None = out

    def update(self, document: dict[str, Any]) -> None:
        """Nothing: lines say what happens."""

    def line(self, text: str) -> None:
        """Print it at once."""
        if self._out is None:
            return
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except (OSError, ValueError):
            self._silence()

    def _silence(self) -> None:
        """What is buffered must not fail again when the interpreter ends."""
        out, self._out = self._out, None
        if out is not None:
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, out.fileno())
                os.close(null)

    def close(self) -> None:
        """Nothing to put back."""


class Signals:
    """SIGTERM and SIGINT ask to stop; SIGHUP does nothing: a lost terminal does not end a replication.

    `received` is the signal that asked first. Another one IMPATIENT seconds later ends the process at once; sooner it
    is the same wish (`timeout` tells the process and its group).
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.received = 0
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._told)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def _told(self, number: int, _frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._first = number, time.monotonic()
            self.asked.set()
        elif time.monotonic() - self._first >= IMPATIENT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def run_headless(
    session: Session, *, log_format: str = "text", metrics: str | None = None, out: TextIO | None = None,
    plan_json: bool = False,
) -> int:  # fmt: skip
    """Start a session and stay with it until a signal, `stop`, or with --once until it is done; returns the exit code.

    Its control socket is the caller's. Call it from the main thread. With --once a session that cannot begin (no such
    host, another's secondary, …) ends with that one line on stderr. Raises EngineError if `metrics` (HOST:PORT) cannot
    be listened at; the session is not started then.
    """
    out = sys.stdout if out is None else out
    with contextlib.ExitStack() as stack:
        if metrics:
            from georep_tui.metrics import MetricsServer

            stack.enter_context(MetricsServer(metrics, session.snapshot))
        # a plan as JSON is all of standard output
        printer = stack.enter_context(_Printer(session, sys.stderr if plan_json else out, log_format == "json"))
        signals = stack.enter_context(Signals())
        before = session.snapshot()
        try:
            session.start()
            code, error = _stay(session, signals, printer)
            printer.screen.close()
            if error is None and not signals.received:
                if session.spec.dry_run:
                    _tell_dry_run(session, plan_json)
                elif session.spec.once:
                    session.log.write("info", _summary(before, session.snapshot(), code))
        finally:
            session.stop()
    if error is not None:
        output.error(error.text, error.hint)
    return code


class _Printer:
    """Hands the log's lines from the engine's threads, which must not wait for a terminal, to this one."""

    def __init__(self, session: Session, out: TextIO, as_json: bool) -> None:
        self.screen = _screen(out, as_json)
        self._log = session.log
        self._text = _json_line if as_json else line_text
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue(KEPT_LINES)
        self._dropped = 0

    def __enter__(self) -> _Printer:
        self._log.listeners.append(self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        self._log.listeners.remove(self._heard)
        self.screen.close()
        self.print()

    def _heard(self, line: dict[str, Any]) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def print(self) -> None:
        """All that came since."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.screen.line(self._text(self._lines.get_nowait()))
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self._log.write("warning", f"{count} lines were not printed: the reader of the output is too slow")


def _json_line(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False)


def _screen(out: TextIO, as_json: bool) -> Screen:
    if as_json or not out.isatty():
        return Plain(out)
    from georep_tui.progress import Progress

    return Progress(out)


def _stay(session: Session, signals: Signals, printer: _Printer) -> tuple[int, EngineError | None]:
    """Until there is a reason to leave; the exit code, and the error that is it."""
    begun: set[str] = set()
    seq = 0
    while True:
        printer.print()
        document = session.snapshot()
        printer.screen.update(document)
        if signals.asked.is_set():
            return (INTERRUPTED if signals.received == signal.SIGINT else DONE), None
        bricks = [b for s in document["sessions"] for b in s["bricks"]]
        begun |= {b["id"] for b in bricks if b["status"] in ("Active", "Held", "Paused", "Passive")}
        if session.wait_finished(0):
            if session.fatal is not None:
                return session.exit_code, session.fatal
            return (session.exit_code if session.spec.once else DONE), None
        if session.spec.dry_run and all(b.worker.dry is not None for b in session.bricks):
            return DONE, None
        if session.spec.once:
            ended = _once(bricks, begun)
            if ended is not None:
                return ended
        if session.events.wait(seq, TICK):
            seq = session.events.seq
            signals.asked.wait(0.05)  # what happens in a burst is looked at once


def _once(bricks: list[dict[str, Any]], begun: set[str]) -> tuple[int, EngineError | None] | None:
    """Should a run with --once end though not all is synced? Its exit code then, and the error that says why."""
    for brick in bricks:
        fault = brick["last_error"]
        if brick["status"] != "Faulty" or not fault:
            continue
        error = EngineError(fault["text"], hint=fault["hint"] or "", code=fault["code"], errno=fault["errno"])
        if fault["code"] == "internal":
            return INTERNAL, error
        was = brick["id"] in begun
        if (fault["attempt"] or 0) >= (GIVE_UP if was else GIVE_UP_UNBEGUN):
            return (INCOMPLETE if was else USAGE), error
    if any(b["status"] == "Held" for b in bricks) and all(_settled(b) for b in bricks):
        return INCOMPLETE, None
    return None


def _settled(brick: dict[str, Any]) -> bool:
    """Held, or with nothing left to do."""
    idle = brick["batch"] is None and (brick["backlog"] or {}).get("changelogs") == 0
    return brick["status"] == "Held" or (brick["status"] == "Active" and idle and brick["crawl"]["kind"] == "live")


def _tell_dry_run(session: Session, as_json: bool) -> None:
    """What a start would do, brick by brick (SAFE-2)."""
    plans = {os.fsdecode(b.path): b.worker.dry or {} for b in session.bricks}
    if as_json:
        output.say_json({"session": session.name, "bricks": [{"brick": path, **plan} for path, plan in plans.items()]})
        return
    for path, plan in plans.items():
        for line in described(plan) if plan else ():
            session.log.write("info", line, path)


def _summary(before: dict[str, Any], after: dict[str, Any], code: int) -> str:
    """What a run with --once came to, in one line."""
    done = {k: _total(after, k) - _total(before, k) for k in ("entries", "files", "bytes")}
    seconds = after["time"] - before["time"]
    words = (
        f"{units.plural(done['entries'], 'entry', 'entries')}, {units.plural(done['files'], 'file')}, "
        f"{units.size(done['bytes'])} in {units.duration(seconds)}"
    )
    session = after["sessions"][0]
    if code == DONE:
        return f"{session['name']}: caught up: {words}"
    held = next((b["held"] for b in session["bricks"] if b["held"]), None)
    if held is not None:
        return f"{session['name']}: held: {held['reason']} (id {held['id']}); {words}"
    return f"{session['name']}: {units.plural(session['failures'], 'object')} could not be brought over; {words}"


def _total(document: dict[str, Any], key: str) -> int:
    return sum(b["totals"][key] for s in document["sessions"] for b in s["bricks"])
