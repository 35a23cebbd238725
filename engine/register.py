"""How a worker and the volume it replicates to agree whose that is, and from where to go on (SAFE-5, MRK-7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engine.gate import TAKE_OVER, Question
from engine.guard import hold_id
from engine.link import Link
from engine.model import NO_MARK, EngineError, Mark

if TYPE_CHECKING:
    from engine.worker import Worker


def register_volume(worker: Worker, link: Link, hello: dict[str, Any]) -> None:
    """Begin on a secondary volume. Raises EngineError when it is another session's, or holds what a person must allow.

    The marks are on the primary's bricks: if they are not the ones we wrote, gsyncd went on from ours or we go on from
    its. A secondary whose copy of our mark is older, or that is empty, was restored or replaced: both sides are
    compared, and what is equal is not sent again.
    """
    seat, marks = worker.seat, worker.primary.marks
    theirs = hello.get("session")
    if theirs not in (None, seat.session) and not seat.adopt:
        raise EngineError(
            f"{link.where} belongs to another session (primary {hello.get('primary') or '?'}, id {theirs})",
            code="other-session", hint="choose another secondary, or take it over with --adopt",
        )  # fmt: skip
    marked = marks.stime > Mark(0, 0)
    if theirs is None and not marked and not worker.primary.permits(seat.adopt):
        _ask(worker, link)
    link.call(
        "begin",
        {"root_name": "", "session": seat.session, "brick": seat.brick, "primary": seat.primary_text,
         "take_over": theirs != seat.session, "create": True, "timeout": worker.options().secondary_timeout, "wait": 30,
         "volume": seat.volume},
        timeout=90,
    )  # fmt: skip
    mark = hello.get("mark")
    copy = Mark(int(mark["sec"]), int(mark["nsec"])) if isinstance(mark, dict) else NO_MARK
    clear = False
    if marked and hello.get("empty"):
        worker.log("warning", f"{link.where} is empty though it was replicated to before: everything is sent again")
        clear = True
    elif marked and marks.moved_by_other:
        worker.log("info", f"going on from {_shown(marks.stime)}, where another (gsyncd) has got to")
        marks.adopt(marks.stime)
    elif marked and copy < marks.stime:
        worker.log("warning", f"{link.where} was restored or replaced (its mark is {copy}, ours {marks.stime}): "
                              "comparing it anew")  # fmt: skip
        worker.event("secondary restored", {"mark": str(copy), "ours": str(marks.stime)})
        clear = True
    if clear:
        marks.identify({**marks.identity, "crawl": "0", "compare": "yes"})  # also if we die before it begins
        marks.reset()
    worker.compare_once = theirs == seat.session and int(hello.get("owner_version") or 1) < 2 and not hello.get("names")
    worker.status.connected(secondary_node=str(hello.get("node") or link.target.host or seat.node))
    worker.status.secondary_free(hello.get("statfs"))
    feed = worker.primary.feed
    if feed is None:
        worker.primary.start(worker.options, adopt=seat.adopt, clear=clear, on_closed=worker.wake.set,
                             on_error=worker.feed_failed)  # fmt: skip
    elif clear:
        feed.crawl("the secondary is compared anew", clear=True)


def _ask(worker: Worker, link: Link) -> None:
    """The secondary has something that is not ours: a person has to allow that the primary wins (SAFE-1)."""
    reason = f"{link.where} is not empty and belongs to no session: what differs there would be replaced or deleted (--adopt allows it)"
    ident = hold_id([worker.status.who.secondary])
    question = Question(TAKE_OVER, reason, lambda: (), 0, ident)
    if not worker.gate.decide(question, lambda: worker.await_answer(link)).approved:
        worker.gate.forget(ident)  # with the next start, or connection, it is asked again
        raise EngineError(f"{link.where}: taking it over was rejected", code="rejected",
                          hint="choose another secondary; --adopt takes this one over")  # fmt: skip
    worker.primary.permits(True)


def _shown(mark: Mark) -> str:
    return time.strftime("%F %T UTC", time.gmtime(mark.sec))
