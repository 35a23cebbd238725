"""A session in this process: with its control socket, with a console or without; and consoles on other sources."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.control import ControlServer
from engine.model import EngineError
from engine.session import Session
from georep_tui.foreground import Leave, detachable
from georep_tui.output import DONE, INTERRUPTED
from georep_tui.places import Begin
from georep_tui.sources.base import Embedded, Source, SourceError

if TYPE_CHECKING:
    from georep_tui.ssh.asker import Questions
    from georep_tui.tui.app import ExitChoice


def run_session(
    begun: Begin, *, console: bool, log_format: str = "text", metrics: str = "", record: str = "", mouse: bool = True,
    plan_json: bool = False,
) -> int:  # fmt: skip
    """`run`: begin the session and stay with it; returns the exit code. Raises EngineError before anything is begun."""
    if console:
        return detachable(lambda leave: _in_front(begun, leave, metrics, record, mouse))
    session = _open(begun, log_format)
    from georep_tui.headless import run_headless

    with _serving(session, begun.spec.read_only, record):
        return run_headless(session, log_format=log_format, metrics=metrics or None, plan_json=plan_json)


def _in_front(begun: Begin, leave: Leave, metrics: str, record: str, mouse: bool) -> int:
    """In a process of its own: errors are told here."""
    from georep_tui import output

    try:
        session = _open(begun, "text")
        return show(session, read_only=begun.spec.read_only, mouse=mouse, metrics=metrics, record=record, leave=leave)
    except (EngineError, SourceError) as e:
        output.error(e.text, e.hint)
        return output.USAGE


def _open(begun: Begin, log_format: str) -> Session:
    try:
        return Session(begun.spec, begun.config, begun.state, log_json=log_format == "json")
    except OSError as e:
        where = f"{os.fsdecode(e.filename)}: " if e.filename else ""
        raise EngineError(f"{where}{e.strerror or e}", code="os", errno=e.errno) from e


@contextlib.contextmanager
def _serving(session: Session, read_only: bool, record: str = "") -> Iterator[ControlServer]:
    """The control socket, and a recording where one is wanted, around a session; it is stopped at the end."""
    options = session.config.options
    with contextlib.ExitStack() as stack:
        stack.callback(session.stop)
        server = ControlServer(
            session, control_group=options.control_group, readonly_group=options.readonly_group, read_only=read_only,
            log=session.log.write,
        )  # fmt: skip
        server.start()
        stack.callback(server.stop)
        if record:
            from georep_tui.sources.recording import Recording

            stack.enter_context(Recording(session, record))
        yield server


def show(
    session: Session,
    *,
    read_only: bool = False,
    mouse: bool = True,
    metrics: str = "",
    record: str = "",
    leave: Leave | None = None,
    seconds: float | None = None,
) -> int:
    """Start a session and show its console; goes on without when a person leaves it so, or the terminal is lost.

    Without `leave` (a demonstration) it goes on only while somebody is attached. It ends after `seconds`. Returns the
    exit code; the session is stopped then. Raises EngineError, SourceError.
    """
    from georep_tui.headless import Signals

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_serving(session, read_only, record))
        if metrics:
            from georep_tui.metrics import MetricsServer

            stack.enter_context(MetricsServer(metrics, session.snapshot))
        signals = stack.enter_context(Signals())
        session.start()
        if seconds is not None:
            timer = threading.Timer(seconds, session.finished.set)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        left = threading.Event()
        threading.Thread(target=_end_screen, args=(session, left), name="session end", daemon=True).start()
        try:
            choice = _console(
                Embedded(session, _who()), embedded=True, read_only=read_only, mouse=mouse, can_leave=leave is not None
            )
        finally:
            left.set()
        goes_on = choice.name in ("LEAVE", "LOST") and not session.finished.is_set()
        if goes_on and leave is not None:
            if choice.name == "LOST":
                leave.lost()
            else:
                leave.now(f"session {session.name} goes on without a screen (pid {os.getpid()}); "
                          f"georep-tui attach {session.name} shows it, stop {session.name} ends it")  # fmt: skip
        elif goes_on:
            goes_on = choice.name == "LOST" and server.watched  # nowhere to go: a demonstration ends with its screen
        while goes_on and (leave is not None or server.watched) and not signals.asked.is_set() and not session.wait_finished(0.5):
            pass
        interrupted = signals.received == signal.SIGINT
        code = session.exit_code if session.spec.once and session.finished.is_set() else DONE
    return INTERRUPTED if interrupted else code


def _end_screen(session: Session, left: threading.Event) -> None:
    """Stopped from elsewhere, or `--once` is done: the screen leaves as if SIGTERM had come."""
    session.finished.wait()
    if not left.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _who() -> str:
    """The user's name, or number where there is none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def watch(source: Source, *, read_only: bool, mouse: bool, questions: Questions | None = None) -> None:
    """A console on sessions that run elsewhere; `questions` are asked in it. Raises SourceError."""
    try:
        _console(source, embedded=False, read_only=read_only, mouse=mouse, questions=questions)
    finally:
        source.close()


def _console(
    source: Source, *, embedded: bool, read_only: bool, mouse: bool, can_leave: bool = True,
    questions: Questions | None = None,
) -> ExitChoice:  # fmt: skip
    """Show it; what goes wrong with the console comes as SourceError."""
    try:
        from georep_tui.settings import ConsoleConfigError, load_config
        from georep_tui.tui.app import ConsoleError, run_console
    except ModuleNotFoundError as e:
        if not (e.name or "").startswith(("georep_tui", "textual")):
            raise
        raise SourceError(
            f"there is no console here: {e.name} is missing", hint="run --no-ui works", code="usage"
        ) from e
    from dataclasses import replace

    try:
        config = load_config()
        config = replace(config, mouse=config.mouse and mouse)
        return run_console(source, embedded=embedded, read_only=read_only, config=config, can_leave=can_leave,
                           questions=questions)  # fmt: skip
    except (ConsoleConfigError, ConsoleError) as e:
        raise SourceError(str(e), code="console") from e
