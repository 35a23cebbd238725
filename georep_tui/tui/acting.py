"""What a person does to the engine: asked in proportion to its danger, with feedback at once and the result when done."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from georep_tui.tui.messages import Fetched, Order, OrderDone
from georep_tui.tui.orders import result_words
from georep_tui.tui.screens.dialogs import Choose, Typed, confirm
from georep_tui.view.asks import CRAWL_BY_GSYNCD, checkpoint_wrong, crawl_cost, parse_checkpoint, where_lines
from georep_tui.view.operations import Operation
from georep_tui.view.snapshot import Brick, Session
from georep_tui.view.text import Cell, escape
from georep_tui.view.units import moment, plural

if TYPE_CHECKING:
    from georep_tui.tui.app import Console

KEPT = 500
VERIFY_LOOK = 1.0
"""Seconds between looks at a running verify."""


class Acting:
    """The acting half of the console."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given: deque[Operation] = deque(maxlen=KEPT)
        self.pending: list[str] = []
        self._verifies: dict[str, tuple[str, str]] = {}

    @property
    def _console(self) -> Console:
        return cast("Console", self)

    def _selected(self) -> tuple[Session | None, Brick | None]:
        context = self._console.context()
        return context.session, context.brick

    # -- giving orders ----------------------------------------------------------------------------------------------

    def order(self, session: Session, method: str, words: str, **params: Any) -> None:
        """Give a command, say so at once, and keep it in the list of operations."""
        console = self._console
        order = Order(method, {"session": session.name, **params}, words)
        if console.read_only:
            console.notify("the console is read-only", title=f"refused: {words}", severity="error", markup=False)
            return
        if not console.orders.give(order):
            console.notify("the engine does not answer; too many commands wait", title=f"refused: {words}",
                           severity="error", markup=False)  # fmt: skip
            return
        self.pending.append(words)
        console.tick()

    def ended(self, message: OrderDone) -> None:
        """A command ended."""
        console, order = self._console, message.order
        if order.words in self.pending:
            self.pending.remove(order.words)
        if message.error is not None:
            hint = f"\n→ {escape(message.hint)}" if message.hint else ""
            console.notify(f"{escape(message.error)}{hint}", title=f"✖ {order.words}", severity="error", timeout=12,
                           markup=False)  # fmt: skip
            result = message.error
        else:
            result = result_words(order, message.result)
            console.notify(result, title=f"✔ {order.words}", markup=False)
        console.given.append(Operation(console.now(), "this console", order.words, result, message.error is None))
        if order.method == "verify" and isinstance(message.result, Mapping) and message.result.get("job"):
            self._follow_verify(str(order.params.get("session") or ""), str(message.result["job"]), order.words)

    # -- pause, stop ------------------------------------------------------------------------------------------------

    def do_pause(self) -> None:
        """Pause the selected brick, or resume it."""
        session, brick = self._selected()
        if session and brick:
            verb = "resume" if brick.paused_by or brick.status == "Paused" else "pause"
            self.order(session, verb, f"{verb} {escape(brick.label)} of {escape(session.name)}", brick=brick.id)

    def do_pause_session(self) -> None:
        """Pause all bricks after asking, or resume them."""
        session, _ = self._selected()
        if not session:
            return
        name = escape(session.name)
        if all(brick.paused_by or brick.status in ("Paused", "Stopped") for brick in session.bricks):
            self.order(session, "resume", f"resume all of {name}")
            return
        lines = [*where_lines(session), (), (Cell("Changes are recorded meanwhile; nothing is lost."),)]
        ask = confirm(f"Pause all {plural(len(session.bricks), 'brick')} of {name}?", lines, "pause all")
        self._console.push_screen(
            ask, lambda yes: self.order(session, "pause", f"pause all of {name}") if yes else None
        )

    def do_stop(self) -> None:
        """Stop the session after asking."""
        session, _ = self._selected()
        if not session:
            return
        lines = [
            *where_lines(session), (),
            (Cell("Replication ends; the secondary stays as it is and falls behind.", "warning"),),
            (Cell("What changes meanwhile is found by a crawl at the next start.", "muted"),),
        ]  # fmt: skip
        ask = confirm(f"Stop {escape(session.name)}?", lines, "stop it", dangerous=True)
        self._console.push_screen(
            ask, lambda yes: self.order(session, "stop", f"stop {escape(session.name)}") if yes else None
        )

    # -- crawls -----------------------------------------------------------------------------------------------------

    def do_xsync(self) -> None:
        """Force a hybrid crawl of the selected brick."""
        session, brick = self._selected()
        if session and brick:
            self._xsync(session, [brick], f"xsync {escape(brick.label)} of {escape(session.name)}", {"brick": brick.id})

    def do_xsync_all(self) -> None:
        """Force a hybrid crawl of every brick."""
        session, _ = self._selected()
        if session:
            self._xsync(session, list(session.bricks), f"xsync all of {escape(session.name)}", {})

    def _xsync(self, session: Session, bricks: list[Brick], words: str, params: Mapping[str, Any]) -> None:
        lines = [
            *where_lines(session, bricks), (),
            (Cell("Both sides are walked and compared; what differs is sent."),),
            *crawl_cost(bricks),
            (Cell("Live changes wait for it; deletes stay under the guard.", "muted"),),
        ]  # fmt: skip
        if session.raw.get("engine") == "gsyncd":
            lines = [*where_lines(session), (), *((Cell(text, "warning"),) for text in CRAWL_BY_GSYNCD)]
            params = {}  # it crawls whole sessions only
        ask = confirm(f"Force a hybrid crawl of {plural(len(bricks), 'brick')}?", lines, "crawl")
        self._console.push_screen(ask, lambda yes: self.order(session, "xsync", words, **params) if yes else None)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def do_checkpoint(self) -> None:
        """Ask for a checkpoint's time and set it."""
        session, _ = self._selected()
        if not session:
            return
        console = self._console
        lines = where_lines(session, ())
        point = session.checkpoint
        if point.time is not None and not point.completed:
            when = moment(point.time, console.now(), console.picture.zone)
            lines.append((Cell(f"It takes the place of the one of {when}, which is pending.", "warning"),))
        lines.append((Cell("now, unix seconds, or a time such as 14:30 or 2026-11-22T14:30", "muted"),))
        ask = Typed(
            f"Set a checkpoint of {escape(session.name)}", lines, value="now", placeholder="now",
            check=lambda text: checkpoint_wrong(text, console.now(), console.picture.zone),
        )  # fmt: skip
        console.push_screen(ask, lambda text: self._checkpoint(session, text))

    def _checkpoint(self, session: Session, text: str | None) -> None:
        if text:
            self.order(session, "checkpoint", f"checkpoint {escape(session.name)} {escape(text)}",
                       time=self._checkpoint_time(text))  # fmt: skip

    def _checkpoint_time(self, text: str) -> str | int:
        # "now" is the engine's to tell: its clock counts, not ours.
        console = self._console
        return (
            "now" if text.strip().lower() == "now" else int(parse_checkpoint(text, console.now(), console.picture.zone))
        )

    def do_clear_checkpoint(self) -> None:
        """Clear the checkpoint after asking."""
        session, _ = self._selected()
        if session:
            name = escape(session.name)
            ask = confirm(f"Clear the checkpoint of {name}?", where_lines(session), "clear it")
            self._console.push_screen(
                ask,
                lambda yes: (
                    self.order(session, "checkpoint", f"checkpoint {name} clear", time="clear") if yes else None
                ),
            )

    # -- verify -----------------------------------------------------------------------------------------------------

    def do_verify(self) -> None:
        """Choose how to compare both sides, and begin."""
        session, brick = self._selected()
        if not session:
            return
        bricks = [brick] if brick else list(session.bricks)
        lines = [
            *where_lines(session, bricks), (),
            (Cell("metadata", "strong"), Cell(" compares names, sizes, times, owners and modes")),
            (Cell("content", "strong"), Cell(" reads every file on both sides: slow, and a load on the disks")),
            (Cell("repair", "strong"), Cell(" compares metadata and sends again what differs")),
        ]  # fmt: skip
        ask = Choose(
            "Verify the replica?", lines,
            [("", "cancel", ""), ("metadata", "metadata", "go"), ("content", "content", "go"), ("repair", "repair", "danger")],
        )  # fmt: skip
        self._console.push_screen(ask, lambda how: self._verify(session, brick, how))

    def _verify(self, session: Session, brick: Brick | None, how: str | None) -> None:
        if how:
            where = f"{escape(brick.label)} of {escape(session.name)}" if brick else escape(session.name)
            params: dict[str, Any] = {"brick": brick.id} if brick else {}
            self.order(
                session, "verify", f"verify {where} ({how})", content=how == "content", repair=how == "repair", **params
            )

    def _follow_verify(self, session: str, job: str, words: str) -> None:
        console = self._console
        self._verifies[f"verify:{job}"] = (session, words)
        console.set_timer(
            VERIFY_LOOK, lambda: console.orders.ask(f"verify:{job}", "verify_status", {"session": session, "job": job})
        )

    def answered(self, message: Fetched) -> None:
        """A verify says how far it is."""
        session, words = self._verifies.pop(message.name, ("", ""))
        if not words:
            return
        console = self._console
        result = message.result if isinstance(message.result, Mapping) else {}
        if message.error is not None:
            console.notify(escape(message.error), title=f"✖ {words}", severity="error", timeout=12, markup=False)
            return
        if result.get("running"):
            self._follow_verify(session, message.name.removeprefix("verify:"), words)
            return
        problem = result.get("error")
        different, checked = int(result.get("different") or 0), int(result.get("checked") or 0)
        text = f"{plural(checked, 'object')} checked, {plural(different, 'difference')}"
        if result.get("repaired"):
            text += f", {result['repaired']} repaired"
        if isinstance(problem, Mapping):
            text += f"\n{escape(str(problem.get('text') or 'it did not finish'))}"
        bad = bool(problem) or different > int(result.get("repaired") or 0)
        console.notify(text, title=f"{'▲' if bad else '✔'} {words}", severity="warning" if bad else "information",
                       timeout=15, markup=False)  # fmt: skip
        console.given.append(Operation(console.now(), "this console", words, text, not bad))

    # -- leaving ----------------------------------------------------------------------------------------------------

    def do_quit(self) -> None:
        """Leave; with an embedded engine ask whether it goes on."""
        from georep_tui.tui.app import ExitChoice
        from georep_tui.tui.screens.leaving import LeaveDialog

        console = self._console
        if not console.embedded:
            console.leave(ExitChoice.LEAVE)
        elif not any(isinstance(screen, LeaveDialog) for screen in console.screen_stack):
            console.push_screen(LeaveDialog(console.picture.snapshot, console.can_leave), self._left)

    def _left(self, answer: str | None) -> None:
        from georep_tui.tui.app import ExitChoice

        if answer in ("leave", "stop"):
            self._console.leave(ExitChoice(answer))
