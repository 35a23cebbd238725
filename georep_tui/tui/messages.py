"""Messages from threads to the console. Floods collapse: a newer frame takes the place of one not yet looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textual.message import Message


@dataclass(frozen=True, slots=True)
class Order:
    """A command given to the engine: what, with which parameters, and how a person calls it (`pause m1:/srv`)."""

    method: str
    params: Mapping[str, Any]
    words: str
    quiet: bool = False


class FrameReady(Message):
    """There is something new at the feed: take it."""

    def can_replace(self, message: Message) -> bool:
        """One is enough."""
        return isinstance(message, FrameReady)


class OrderDone(Message):
    """A command ended: with a result, or with an error and what to do about it."""

    def __init__(self, order: Order, result: Any, error: str | None, hint: str = "") -> None:
        super().__init__()
        self.order, self.result, self.error, self.hint = order, result, error, hint


class Fetched(Message):
    """What a screen asked for: the answer to a reading command, under the name it was asked for."""

    def __init__(self, name: str, result: Any, error: str | None, hint: str = "") -> None:
        super().__init__()
        self.name, self.result, self.error, self.hint = name, result, error, hint
