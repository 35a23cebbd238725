"""A conversation with a control socket over any pair of streams: requests and answers, events, the picture."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from engine.protocol import PROTOCOL, Lines, ProtocolError, apply, decode, encode, grown
from georep_tui.sources.base import Doc, SourceError
from georep_tui.sources.schema import wrong, wrong_changes

KEPT = 20_000
"""Events kept for somebody who does not ask."""

MOST_EVENT = 1 << 16
"""Bytes of an event that is kept; of a longer one only its kind."""

SILENT = 15.0
"""A line that says nothing for so many seconds hangs: an engine says something every 2 s to a subscriber."""


class LineSource:
    """An engine at the end of a line. `send` writes, `receive` waits for bytes (b"" at the end), `hang_up` wakes it.

    `checked`: from another machine, so its pictures are held against the schema before they are believed.

    The line is read by a thread of its own until `close` or its end; then every method raises SourceError.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        receive: Callable[[], bytes],
        hang_up: Callable[[], object],
        where: str,
        *,
        timeout: float = 30.0,
        checked: bool = False,
    ) -> None:
        self.where = where
        self.timeout = timeout
        self._checked = checked
        self._send, self._receive, self._hang_up = send, receive, hang_up
        self._sending = threading.Lock()
        self._more = threading.Condition()
        self._answers: dict[int, Doc] = {}
        self._asked: set[int] = set()
        self._events: deque[Doc] = deque(maxlen=KEPT)
        self._number = 0
        self._hello: Doc | None = None
        self._document: Doc | None = None
        self._heard = time.monotonic()
        self._seq: int | None = None
        self._ended: SourceError | None = None
        self._subscribed = False
        self._following: int | None = None
        self._thread = threading.Thread(target=self._read, name=f"line {where}", daemon=True)
        self._thread.start()

    # ---- for everyone ----------------------------------------------------------------------------------------

    @property
    def hello(self) -> Doc:
        """What the engine said of itself. Raises SourceError."""
        with self._more:
            self._wait(lambda: self._hello is not None)
            assert self._hello is not None
            return self._hello

    @property
    def known(self) -> Doc | None:
        """What the engine said of itself, if it has said it yet."""
        return self._hello

    @property
    def seq(self) -> int | None:
        """The newest event heard of."""
        return self._seq

    @property
    def ended(self) -> SourceError | None:
        """Why there is no line any more; None while there is."""
        return self._ended

    def request(self, method: str, params: Mapping[str, Any], timeout: float | None = None) -> Any:
        """Ask and wait for the answer. Raises SourceError with the engine's words, or why there is no answer."""
        _ = self.hello
        with self._more:
            self._number += 1
            number = self._number
            self._asked.add(number)
        try:
            self._write({"id": number, "method": method, "params": dict(params)})
            with self._more:
                self._wait(lambda: number in self._answers, timeout)
                answer = self._answers.pop(number)
        finally:
            with self._more:
                self._asked.discard(number)
                self._answers.pop(number, None)
        if "error" in answer:
            raise _told(answer["error"])
        return answer.get("result")

    def subscribe(self, boot_id: str | None = None, since: int | None = None, recent: int = 0) -> None:
        """Have the picture and events come by themselves, first those after `since` of the same life, else the last
        `recent` ones that are kept."""
        with self._more:
            if self._subscribed:
                return
            self._subscribed = True
        self.request("subscribe", {"boot_id": boot_id, "since": since, "recent": recent})

    def follow(self, boot_id: str | None = None, since: int | None = None) -> None:
        """`subscribe` without waiting: what the engine says against it ends the line. Raises SourceError."""
        with self._more:
            self._subscribed = True
            self._number += 1
            self._following = self._number
        self._write(
            {"id": self._following, "method": "subscribe", "params": {"boot_id": boot_id, "since": since}}
        )

    def wait_picture(self, seconds: float) -> bool:
        """Wait for the first picture; False when it has not come in time, or the line has ended before."""
        with self._more:
            self._more.wait_for(lambda: self._document is not None or self._ended is not None, max(0.0, seconds))
            return self._document is not None

    def drained(self) -> tuple[list[Doc], int | None]:
        """The events nobody has taken yet, and the newest one's number: for whoever goes on where a line has ended."""
        with self._more:
            found = list(self._events)
            self._events.clear()
            return found, self._seq

    def snapshot(self) -> Doc:
        """The picture as it is now by the engine's clock; waits for the first. Raises SourceError."""
        if not self._subscribed:
            found: Doc = self.request("snapshot", {})
            return found
        with self._more:
            self._wait(lambda: self._document is not None)
            assert self._document is not None
            silent = time.monotonic() - self._heard
            if silent > SILENT:
                raise SourceError(
                    f"{self.where}: no word for {silent:.0f} s", hint="does the engine hang?", code="silent"
                )
            return grown(self._document, float(self._document["time"]) + silent)

    def last(self) -> Doc | None:
        """The last picture that was heard, also after the line's end; None where there was none."""
        with self._more:
            found = self._document
            return None if found is None else {**found, "sources": [dict(s) for s in found["sources"]]}

    def events(self) -> list[Doc]:
        """The events since the last call. Raises SourceError when the line has ended and none are left."""
        with self._more:
            found = list(self._events)
            self._events.clear()
            if not found and self._ended is not None:
                raise self._ended
            return found

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """A request."""
        return self.request(method, params)

    def close(self) -> None:
        """Hang up; the reader ends."""
        with self._more:
            if self._ended is None:
                self._ended = SourceError(f"{self.where}: closed", code="closed")
            self._more.notify_all()
        self._hang_up()
        if self._thread is not threading.current_thread():
            self._thread.join(2)

    # ---- the line --------------------------------------------------------------------------------------------

    def _wait(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        """Under the lock: wait until it is so. Raises SourceError."""
        limit = self.timeout if timeout is None else timeout
        if not self._more.wait_for(lambda: condition() or self._ended is not None, limit):
            raise SourceError(
                f"{self.where}: no answer within {limit:g} s", hint="does the engine hang?", code="silent"
            )
        if not condition():
            assert self._ended is not None
            raise SourceError(self._ended.text, hint=self._ended.hint, code=self._ended.code)

    def _write(self, message: Doc) -> None:
        try:
            line = encode(message)
            with self._sending:
                self._send(line)
        except ProtocolError as e:
            raise SourceError(e.text, hint=e.hint, code=e.code) from e
        except (OSError, EOFError) as e:
            raise self._ended or SourceError(f"{self.where}: the engine has gone", code="gone") from e

    def _read(self) -> None:
        lines = Lines()
        ended = SourceError(f"{self.where}: the engine has gone", hint="georep-tui list", code="gone")
        try:
            while data := self._receive():
                for line in lines.feed(data):
                    self._heard_line(decode(line), len(line))
        except ProtocolError as e:
            ended = SourceError(f"{self.where}: {e.text}", hint="is it of another version?", code="protocol")
        except SourceError as e:
            ended = e
        except (OSError, EOFError) as e:
            ended = SourceError(f"{self.where}: {e}", code="gone")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            ended = SourceError(f"{self.where}: what it says makes no sense: {type(e).__name__}: {e}"[:300],
                                hint="is it of another version?", code="protocol")  # fmt: skip
        with self._more:
            if self._ended is None:
                self._ended = ended
            self._more.notify_all()

    def _heard_line(self, message: Doc, size: int) -> None:
        with self._more:
            self._heard = time.monotonic()
            if "event" in message:
                self._event(message, size)
            elif "hello" in message:
                hello = message["hello"]
                if hello.get("protocol") != PROTOCOL:
                    raise ProtocolError(f"speaks protocol {hello.get('protocol')}, this is {PROTOCOL}")
                if not isinstance(hello.get("boot_id"), str) or not isinstance(hello.get("session_id"), str):
                    raise ProtocolError("says neither which life nor which session it is")
                self._hello = hello
            elif message.get("id") is not None and message.get("id") == self._following:
                if "error" in message:
                    raise _told(message["error"])
            elif message.get("id") in self._asked:
                self._answers[message["id"]] = message
            elif "error" in message:
                raise _told(message["error"])
            self._more.notify_all()

    def _event(self, event: Doc, size: int) -> None:
        """Under the lock: the picture is kept up, events are kept for who asks. Raises ProtocolError."""
        kind = str(event["event"])
        seq = event.get("seq", self._seq)
        if seq is not None and not isinstance(seq, int):
            raise ProtocolError(f"numbers an event {seq!r}"[:100])
        if kind == "snapshot":
            if self._checked and (found := wrong(event.get("snapshot"))):
                raise ProtocolError(found)
            self._document = event["snapshot"]
        elif self._document is not None and kind in ("changed", "tick"):
            now = float(event["time"])
            shown = grown(self._document, now)
            if self._checked and kind == "changed" and (found := wrong_changes(event)):
                raise ProtocolError(found)
            self._document = apply(shown, event) if kind == "changed" else shown
        self._seq = seq
        if kind not in ("snapshot", "changed", "tick"):
            self._events.append(event if size <= MOST_EVENT else _cut(event))


def _cut(event: Doc) -> Doc:
    return {"event": str(event["event"])[:100], "seq": event.get("seq"), "time": event.get("time"),
            "text": "an event too long to be kept"}  # fmt: skip


def _told(error: Any) -> SourceError:
    found = error if isinstance(error, dict) else {}
    return SourceError(str(found.get("text") or "refused"), hint=str(found.get("hint") or ""),
                       code=str(found.get("code") or "error"))  # fmt: skip
