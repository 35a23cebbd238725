"""The commands, as people type them; what they do is elsewhere, imported when needed."""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Annotated

import typer

from engine import __version__
from engine.model import EngineError
from georep_tui import output
from georep_tui.away import GSYNCD, SSH, SSH_COMMAND, SSH_CONFIG, Away, look
from georep_tui.output import DONE, INTERNAL, INTERRUPTED, USAGE
from georep_tui.sources.base import SourceError

app = typer.Typer(
    name="georep-tui", rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Replicate directory trees and GlusterFS volumes to another site, continuously; show and control it.",
)  # fmt: skip

SESSION = Annotated[str, typer.Argument(metavar="SESSION", help="A session's name.")]
STATE = Annotated[str, typer.Option("--state-dir", metavar="DIR", help="Where sessions keep their state.")]
JSON = Annotated[bool, typer.Option("--json", help="As JSON.")]
_NONE = "\0"
"""No VALUE was given: an empty one sets a text to nothing."""

BRICK = Annotated[str, typer.Option("--brick", metavar="BRICK", help="One brick alone: its path, name or id.")]


class Failed(Exception):
    """A command that ends with this exit code; what there was to say has been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _done(code: int) -> None:
    if code:
        raise Failed(code)


def _version(wanted: bool) -> None:
    if wanted:
        output.say(f"georep-tui {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        _attach("", Away([]), False, mouse=True)


# ---- running ---------------------------------------------------------------------------------------------------


@app.command()
def run(
    words: Annotated[list[str], typer.Argument(metavar="SESSION | PRIMARY… SECONDARY")],
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Without a console.")] = False,
    log_format: Annotated[str, typer.Option("--log-format", metavar="text|json", help="With --no-ui.")] = "text",
    metrics: Annotated[str, typer.Option("--metrics", metavar="HOST:PORT", help="Serve Prometheus there.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Until caught up, then exit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take over a secondary that is not ours yet.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse commands that change something.")] = False,
    record: Annotated[str, typer.Option("--record", metavar="FILE", help="Keep what happens, for replay.")] = "",
    sets: Annotated[list[str], typer.Option("--set", metavar="OPTION=VALUE", help="An option; repeatable.")] = [],  # noqa: B006
    state_dir: STATE = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The session's name.")] = "",
    no_mouse: Annotated[bool, typer.Option("--no-mouse", help="Leave the mouse to the terminal.")] = False,
) -> None:
    """Replicate: start the engine, with a console or without."""
    if log_format not in ("text", "json"):
        raise EngineError(f"--log-format {log_format!r} is not allowed", hint="text or json", code="usage")
    if not no_ui and not output.terminal():
        raise EngineError("run: the console needs a terminal on stdin, stdout and stderr", code="usage",
                          hint="without one: run --no-ui")  # fmt: skip
    from georep_tui.places import begin
    from georep_tui.running import run_session

    begun = begin(
        words, sets=sets, name=name, state_dir=state_dir, adopt=adopt, dry_run=dry_run, once=once, read_only=read_only
    )
    if begun.config.note and not no_ui:
        output.error(begun.config.note)  # without a console the log says so
    _done(run_session(begun, console=not no_ui, log_format=log_format, metrics=metrics, record=record,
                      mouse=not no_mouse))  # fmt: skip


@app.command()
def demo(
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Without a console.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=0, help="End after so many; 0: never.")] = 0.0,
) -> None:
    """A complete session on temporary trees with live changes; removes them at its end."""
    if not no_ui and not output.terminal():
        raise EngineError("demo: the console needs a terminal on stdin, stdout and stderr", code="usage",
                          hint="without one: demo --no-ui")  # fmt: skip
    from georep_tui.demo import run_demo

    _done(run_demo(no_ui=no_ui, seconds=seconds or None))


@app.command()
def attach(
    session: Annotated[str, typer.Argument(metavar="[SESSION]")] = "",
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Look only.")] = False,
    no_mouse: Annotated[bool, typer.Option("--no-mouse", help="Leave the mouse to the terminal.")] = False,
) -> None:
    """A console on sessions that run here, or elsewhere."""
    _attach(session, Away(ssh, gsyncd, ssh_command, ssh_config), read_only, mouse=not no_mouse)


def _attach(session: str, away: Away, read_only: bool, *, mouse: bool) -> None:
    if not output.terminal():
        raise EngineError("the console needs a terminal on stdin, stdout and stderr", code="usage",
                          hint="without one: georep-tui list, status, run --no-ui")  # fmt: skip
    from georep_tui.running import watch

    if away.ssh:
        from georep_tui.ssh.asker import Questions

        questions = Questions()
        with look(session, away, questions) as source:
            watch(source, read_only=read_only, mouse=mouse, questions=questions)
        return
    with look(session, away) as source:
        found = source.snapshot()
        if not found["sessions"] and not away.gsyncd:
            output.say("no session is running here; begin one: georep-tui run PRIMARY… SECONDARY, or look at one: "
                       "georep-tui demo")  # fmt: skip
            return
        watch(source, read_only=read_only, mouse=mouse)


@app.command()
def replay(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    speed: Annotated[float, typer.Option("--speed", metavar="N", min=0.01, help="So many times as fast.")] = 1.0,
) -> None:
    """Show what `run --record FILE` kept."""
    if not output.terminal():
        raise EngineError("replay: the console needs a terminal on stdin, stdout and stderr", code="usage")
    from georep_tui.running import watch
    from georep_tui.sources.replay import ReplaySource

    watch(ReplaySource(file, speed), read_only=True, mouse=True)


# ---- asking ----------------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
    state_dir: STATE = "",
) -> None:
    """The sessions that run, and those known here that do not."""
    from georep_tui import asking
    from georep_tui.places import known_sessions, state_base

    with look("", Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        document = source.snapshot()
    running = {s["name"] for s in document["sessions"]}
    known = {} if ssh or gsyncd else known_sessions(state_base(state_dir))
    stopped = [(k.name, " ".join(k.primaries), k.secondary) for k in known.values() if k.name not in running]
    _done(asking.list_sessions(document, stopped, as_json=as_json))


@app.command()
def status(
    session: Annotated[str, typer.Argument(metavar="[SESSION]")] = "",
    as_json: JSON = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until interrupted.")] = False,
    check: Annotated[bool, typer.Option("--check", help="One line and exit code for a monitoring system.")] = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
    state_dir: STATE = "",
) -> None:
    """How sessions are."""
    from georep_tui import asking

    try:
        with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
            code = asking.status(source, session, as_json=as_json, watch=watch, check_=check)
    except SourceError as e:
        if not check:
            raise
        code = asking.not_running(session, e, state_dir)
    _done(code)


def _order(method: str, session: str, brick: str, away: Away, *, yes: bool = False) -> None:
    from georep_tui import asking

    with look(session, away) as source:
        _done(asking.order(source, method, session, brick, yes=yes))


@app.command()
def pause(
    session: SESSION,
    brick: BRICK = "",
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Stop applying changes; they are still recorded."""
    _order("pause", session, brick, Away(ssh, gsyncd, ssh_command, ssh_config))


@app.command()
def resume(
    session: SESSION,
    brick: BRICK = "",
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Apply changes again."""
    _order("resume", session, brick, Away(ssh, gsyncd, ssh_command, ssh_config))


@app.command()
def stop(
    session: SESSION,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """End the engine, cleanly."""
    _order("stop", session, "", Away(ssh, gsyncd, ssh_command, ssh_config))


@app.command()
def start(
    session: SESSION,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Start a stopped session of gsyncd (ours are started by `run`)."""
    if not gsyncd:
        raise EngineError("start is for gsyncd's sessions", hint="--gsyncd; ours: georep-tui run", code="usage")
    _order("start", session, "", Away(ssh, gsyncd, "", ssh_config))


@app.command()
def xsync(
    session: SESSION,
    brick: BRICK = "",
    yes: Annotated[bool, typer.Option("--yes", help="With --gsyncd: its workers may restart.")] = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Compare everything by a hybrid crawl, now."""
    _order("xsync", session, brick, Away(ssh, gsyncd, ssh_command, ssh_config), yes=yes)


@app.command()
def checkpoint(
    session: SESSION,
    at: Annotated[str, typer.Argument(metavar="now|TIME|clear", help="TIME: unix seconds or ISO 8601.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until it is complete.")] = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Set a checkpoint: complete when all changes up to it are on the secondary."""
    from engine.checkpoint import parse_time
    from georep_tui import asking

    parsed = parse_time(at, time.time())
    with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        _done(asking.checkpoint(source, session, parsed, at, wait=wait))


@app.command()
def failures(
    session: SESSION,
    ids: Annotated[list[str], typer.Argument(metavar="[ID]…")] = [],  # noqa: B006
    retry: Annotated[bool, typer.Option("--retry", help="Try them (without ID: all) again, now.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Forget them; needs --reason.")] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why they are dismissed.")] = "",
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """What could not be brought over."""
    if retry and dismiss:
        raise EngineError("failures: --retry or --dismiss, not both", code="usage")
    if dismiss and not reason.strip():
        raise EngineError("failures: --dismiss needs --reason TEXT", code="usage")
    from georep_tui import asking

    with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        _done(asking.failures(source, session, ids, retry=retry, dismiss=dismiss, reason=reason, as_json=as_json))


@app.command()
def held(
    session: SESSION,
    approve: Annotated[str, typer.Option("--approve", metavar="ID", help="Delete them there, too.")] = "",
    reject: Annotated[str, typer.Option("--reject", metavar="ID", help="Keep them on the secondary.")] = "",
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Deletes that wait for a person."""
    if approve and reject:
        raise EngineError("held: --approve or --reject, not both", code="usage")
    from georep_tui import asking

    with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        _done(asking.held(source, session, approve=approve, reject=reject, as_json=as_json))


@app.command()
def verify(
    session: SESSION,
    content: Annotated[bool, typer.Option("--content", help="Compare content, too, by checksum.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what differs.")] = False,
    brick: BRICK = "",
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """Compare both sides, and say what differs."""
    from georep_tui import asking

    with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        _done(asking.verify(source, session, content=content, repair=repair, brick=brick, as_json=as_json))


@app.command()
def logs(
    session: SESSION,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And what comes.")] = False,
    level: Annotated[str, typer.Option("--level", metavar="LEVEL", help="debug, info, warning, error.")] = "debug",
    brick: BRICK = "",
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, max=5000, help="So many.")] = 100,
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
) -> None:
    """The engine's log."""
    from georep_tui import asking

    with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        _done(asking.logs(source, session, follow=follow, level=level, brick=brick, lines=lines, as_json=as_json))


@app.command()
def config(
    session: SESSION,
    option: Annotated[str, typer.Argument(metavar="[OPTION]")] = "",
    value: Annotated[str, typer.Argument(metavar="[VALUE]", show_default=False)] = _NONE,
    reset: Annotated[bool, typer.Option("--reset", help="Forget the value kept for OPTION.")] = False,
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    gsyncd: GSYNCD = False,
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
    state_dir: STATE = "",
) -> None:
    """Options: all with their values and where these come from, one of them, or a new value for one."""
    from georep_tui.configuring import configure

    given = None if value == _NONE else value
    if reset and (not option or given is not None):
        raise EngineError("config: --reset needs OPTION alone", code="usage")
    with look(session, Away(ssh, gsyncd, ssh_command, ssh_config)) as source:
        code = configure(
            source, session, option, given, reset=reset, as_json=as_json, local=not (ssh or gsyncd), state_dir=state_dir,
            gsyncd=gsyncd,
        )
    _done(code)


@app.command()
def doctor(
    words: Annotated[list[str], typer.Argument(metavar="SESSION | PRIMARY… SECONDARY")],
    as_json: JSON = False,
    ssh: SSH = [],  # noqa: B006
    ssh_command: SSH_COMMAND = "",
    ssh_config: SSH_CONFIG = "",
    state_dir: STATE = "",
) -> None:
    """Look for what would keep a session (a file, or a name known here), or two addresses, from being replicated."""
    away = Away(ssh, False, ssh_command, ssh_config)
    if away.elsewhere:
        from georep_tui.doctor_afar import examine_afar

        _done(examine_afar(words, away, state_dir, as_json=as_json))
        return
    from georep_tui.doctor import examine

    _done(examine(words, state_dir, as_json=as_json))


# ---- for programs ----------------------------------------------------------------------------------------------


@app.command()
def agent(root: Annotated[str, typer.Argument(metavar="ROOT")]) -> None:
    """The secondary's side, on stdin and stdout: for a forced command of ssh."""
    from engine.agent.__main__ import main as serve

    _done(serve(["georep-tui agent", root]))


@app.command("dial-stdio")
def dial_stdio(session: Annotated[str, typer.Argument(metavar="[SESSION]")] = "") -> None:
    """Connect stdin and stdout with the sessions of this node: what `--ssh` runs there."""
    from georep_tui.dialing import dial

    _done(dial(session))


# ---- the way in and out ----------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code. What `georep-tui` calls."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = _invoke(words)
        sys.stdout.flush()
    except BrokenPipeError:
        output.silence()
        return DONE
    except Failed as e:
        return e.code
    return 3 if code in (USAGE, INTERNAL) and words[:1] == ["status"] and "--check" in words else code


def _invoke(words: list[str]) -> int:
    """The exit code of what was done or went wrong. Raises Failed with a command's own, BrokenPipeError."""
    try:
        result = typer.main.get_command(app).main(words, prog_name="georep-tui", standalone_mode=False)
        return result if isinstance(result, int) else DONE
    except (Failed, BrokenPipeError):
        raise
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # typer's own way with it is exit code 1
            raise e.__context__ from None
        raise
    except (EngineError, SourceError) as e:
        output.error(e.text, e.hint)
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        output.error("interrupted")
        return INTERRUPTED
    except Exception as e:  # noqa: BLE001 - the last resort: a line for the person, the traceback for the log
        usage = getattr(e, "format_message", None)
        if usage is not None:
            output.error(str(usage()), "--help says more")
            return USAGE
        output.error(f"internal error: {type(e).__name__}: {e}", _keep_traceback())
        return INTERNAL


def _keep_traceback() -> str:
    """Write the traceback where a person finds it; says where."""
    from georep_tui.places import state_base

    path = os.path.join(state_base(), "crash.log")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as f:
            f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} georep-tui {__version__} {sys.argv[1:]}\n")
            f.write(traceback.format_exc() + "\n")
    except OSError as e:
        return f"the traceback could not be kept: {e}"
    return f"see {path}"


if __name__ == "__main__":
    sys.exit(main())
