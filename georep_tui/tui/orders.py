"""Commands given to the engine: done in threads of their own, in order, each with its result."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from textual.message import Message

from georep_tui.tui.feed import Feedable
from georep_tui.tui.messages import Fetched, Order, OrderDone
from georep_tui.view.units import plural

WAITING = 64
"""Commands that may wait; more are refused, for the engine does not answer."""


class Orders:
    """Carries commands and questions to the source and posts what comes back. Two threads, so that a question about
    a log never waits behind a command."""

    def __init__(self, source: Feedable, post: Callable[[Message], object]) -> None:
        self._source = source
        self._post = post
        self._commands: queue.Queue[Order | None] = queue.Queue(WAITING)
        self._questions: queue.Queue[tuple[str, Order] | None] = queue.Queue(WAITING)
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._given = self._carried = 0
        self._threads = [
            threading.Thread(target=self._carry, name="console-orders", daemon=True),
            threading.Thread(target=self._ask, name="console-questions", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after what is under way; a source that hangs is left behind."""
        for waiting in (self._commands, self._questions):
            try:
                waiting.put_nowait(None)
            except queue.Full:
                pass
        for thread in self._threads:
            if thread.is_alive():
                thread.join(0.5)

    @property
    def busy(self) -> bool:
        """Is a command or a question under way?"""
        return bool(self._asked) or self._carried < self._given

    def give(self, order: Order) -> bool:
        """Give a command; False when too many wait."""
        try:
            self._commands.put_nowait(order)
        except queue.Full:
            return False
        self._given += 1
        return True

    def ask(self, name: str, method: str, params: Mapping[str, Any]) -> None:
        """Ask a question; the answer comes as Fetched under `name`. One of a name at a time."""
        with self._lock:
            if name in self._asked:
                return
            self._asked.add(name)
        try:
            self._questions.put_nowait((name, Order(method, params, name)))
        except queue.Full:
            with self._lock:
                self._asked.discard(name)

    def _carry(self) -> None:
        while (order := self._commands.get()) is not None:
            result, error, hint = self._do(order)
            self._post(OrderDone(order, result, error, hint))
            self._carried += 1

    def _ask(self) -> None:
        while (asked := self._questions.get()) is not None:
            name, order = asked
            result, error, hint = self._do(order)
            self._post(Fetched(name, result, error, hint))
            with self._lock:
                self._asked.discard(name)

    def _do(self, order: Order) -> tuple[Any, str | None, str]:
        try:
            return self._source.command(order.method, order.params), None, ""
        except Exception as e:  # noqa: BLE001 - whatever a source raises is shown to the person who asked
            return None, str(e) or type(e).__name__, str(getattr(e, "hint", "") or "")


def result_words(order: Order, result: Any) -> str:
    """What a command's result means, in a few words."""
    if not isinstance(result, Mapping):
        return "done"
    failed = [f"{one['node']}: {one['error']}" for one in result.get("nodes") or () if not one["done"]]
    if failed:
        return f"not everywhere: {'; '.join(failed)}"
    if result.get("words"):
        return str(result["words"])
    if order.method in ("pause", "resume", "xsync"):
        count = len(result.get("bricks") or ())
        done = {"pause": "paused", "resume": "resumed", "xsync": "will crawl after this batch"}[order.method]
        return f"{plural(count, 'brick')} {done}" if count else "done"
    if order.method == "checkpoint":
        return "set" if result.get("time") is not None else "cleared"
    if order.method == "retry":
        return f"{plural(int(result.get('retrying') or 0), 'failure')} tried again now"
    if order.method == "dismiss":
        return f"{plural(int(result.get('dismissed') or 0), 'failure')} dismissed"
    if order.method == "config_set":
        return "set; the workers restart" if result.get("restarts") else "set"
    if order.method == "verify":
        return "begun; its result comes here"
    return {"stop": "stopping", "approve": "approved", "reject": "rejected"}.get(order.method, "done")
