"""How a worker and the volume it replicates to agree whose that is, and from where to go on (SAFE-5, MRK-7)."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from engine.approval import approval
from engine.continuity import Kind, Outcome, Theirs, continuity
from engine.guard import Hold, hold_id
from engine.inspection import told
from engine.journal.chain import History, Place
from engine.ledger import Failure
from engine.link import Link
from engine.model import NO_MARK, EngineError, Mark
from engine.old_replica import WHY
from engine.volume.primary import TreePrimary

if TYPE_CHECKING:
    from engine.batches import Batches
    from engine.worker import Worker

COMPARISON = ("adopting", "replace", "token", "why", "doubt", "proven")
"""What the marks remember of a comparison until it is through: that it adopts what is equal, that what differs may be
replaced unasked, its name on both sides, why it is made, that equal times prove nothing, and that the secondary's index
does."""


def register_tree(worker: Worker, link: Link, hello: dict[str, Any]) -> None:
    """Begin on a secondary tree: agree on whose it is, whether each side continues the other (`continuity`), and record
    with the crawl that this calls for. Raises EngineError when it is another session's, or of a mark of tomorrow.

    A comparison has a name that is in the marks first, and then, in the transactions that forget what they had, in the
    indexes of both sides. So a crash anywhere in between begins it again, and one after that goes on with it.
    """
    seat, primary = worker.seat, worker.primary
    assert isinstance(primary, TreePrimary)
    marks, options = primary.marks, worker.options()
    ours = worker.check_owner(hello)
    untouched = bool(hello.get("fresh")) and bool(hello.get("empty"))
    begun = link.call(
        "begin",
        {"root_name": seat.root_name, "session": seat.session, "brick": seat.brick, "primary": seat.primary_text,
         "take_over": not ours, "create": True, "timeout": options.secondary_timeout, "wait": 30},
        timeout=90,
    )  # fmt: skip
    if ours:
        outcome = _judge(worker, link, primary, begun)
        if outcome.kind is Kind.COMPARES:
            worker.log("warning", f"{link.where}: {outcome.why}: comparing both sides anew")
            worker.event("secondary restored", {"mark": str(_mark_of(begun)), "ours": str(marks.stime)})
            begin_comparison(worker, outcome.why, ask=outcome.ask, proven=outcome.proven)
    elif not untouched:
        worker.log("info", f"{link.where} is not empty: adopting what is equal")
        begin_comparison(worker, "", ask=True, doubt=False)
    elif marks.stime != NO_MARK or marks.at:
        worker.log("warning", f"{link.where} is empty though it was replicated to before: everything is sent again")
        begin_comparison(worker, "", ask=False, adopting=False)
    worker.compare_once = "token" not in marks.identity and primary.older()
    worker.adopting = "adopting" in marks.identity
    token = marks.identity.get("token", "")
    clear = bool(token) and not (ours and primary.token == token == begun.get("token"))
    if clear:
        primary.stop()
        link.call("begin_again", {"at": marks.at or None, "token": token, "proven": "proven" in marks.identity}, timeout=600)
    if worker.adopting:
        adopt(worker, link)
    _show_comparison(worker)
    worker.recovering = time.time() if begun.get("recovering") and not clear else None
    worker.status.connected(secondary_node=str(hello.get("node") or link.target.host or seat.node))
    worker.status.secondary_free(hello.get("statfs"))
    if primary.feed is None:
        primary.start(worker.options, adopt=seat.adopt, clear=clear, on_closed=worker.wake.set,
                      on_error=worker.feed_failed, token=token)  # fmt: skip


def _judge(worker: Worker, link: Link, primary: TreePrimary, begun: dict[str, Any]) -> Outcome:
    """What both sides are to each other. Raises EngineError for a mark of tomorrow (MRK-4), but with `--adopt`."""
    differs = ""
    if "token" not in primary.marks.identity:
        found = link.call("sample", {})
        differs = told(found)
    mine = primary.stored(primary.feed is not None)
    try:
        theirs = Theirs(
            index_at=Place.parse(begun.get("at")), index_lost=bool(begun.get("index_lost")), mark=_mark_of(begun),
            at=Place.parse(begun.get("mark_at")), intent=begun.get("intent") is not None, differs=differs,
        )  # fmt: skip
        outcome = continuity(mine, theirs)
        if mine.journal and not mine.running:
            where = primary.marks.path.rpartition("/")[0] + "/journal"
            worker.ledger.add_many([Failure.of_changelog(where.encode(), mine.journal, time.time())])
            worker.status.failures(worker.ledger.size, worker.ledger.oldest)
    finally:
        if isinstance(mine.chain, History):
            mine.chain.close()
    if outcome.kind is Kind.REFUSES:
        if not worker.seat.adopt:
            raise EngineError(
                f"{outcome.why}: nothing would be sent until then", code="mark-ahead",
                hint="put the clock or the state right; or compare both sides anew: run with --adopt",
            )  # fmt: skip
        return Outcome(Kind.COMPARES, outcome.why, proven=outcome.proven)
    return outcome


def _mark_of(begun: dict[str, Any]) -> Mark:
    mark = begun.get("mark")
    return Mark(int(mark["sec"]), int(mark["nsec"])) if isinstance(mark, dict) else NO_MARK


def begin_comparison(
    worker: Worker, why: str, *, ask: bool, adopting: bool = True, doubt: bool = True, proven: bool = False
) -> None:
    """Note, in one durable write, that both sides are to be compared from the last slice on; `why` in words."""
    primary = worker.primary
    assert isinstance(primary, TreePrimary)
    before = primary.marks.identity
    asked = ask or ("adopting" in before and "replace" not in before)
    noted = {k: v for k, v in before.items() if k not in COMPARISON}
    noted["token"] = uuid.uuid4().hex
    # of two reasons the one that asks is told
    noted["why"] = before.get("why", why) if asked and not ask else why
    if adopting:
        noted["adopting"] = "yes"
    if adopting and not asked:
        noted["replace"] = "yes"
    if doubt:
        noted["doubt"] = "yes"
    if proven:
        noted["proven"] = "yes"
    primary.marks.begin_again(primary.latest(), noted)


def adopt(worker: Worker, link: Link) -> None:
    """Have the agent take over what is equal; and replace what is not, where that is allowed."""
    identity = worker.primary.marks.identity
    link.call("adopt_begin", {"replace": worker.seat.adopt or "replace" in identity, "adopt": worker.options().adopt,
                              "clear": False, "doubt": "doubt" in identity})  # fmt: skip


def _show_comparison(worker: Worker) -> None:
    """Before anything is believed: a comparison is due, or none is any more."""
    if worker.adopting:
        worker.status.comparing(0, None, why_compared(worker))
    elif worker.compare_once:
        worker.status.comparing(0, None, WHY)
    else:
        worker.status.compared()


def why_compared(worker: Worker) -> str:
    """Why both sides are compared, for a person."""
    return worker.primary.marks.identity.get("why") or "the secondary was not empty"


def end_comparison(worker: Worker, link: Link, batches: Batches) -> bool:
    """The crawl of a comparison is through: remove what the primary does not have, then live as usual (CRW-8).

    False while that waits for a person.
    """
    extra = link.call("foreign", {"limit": 20})
    total = int(extra.get("total") or 0)
    if total:
        sample = [str(e) for e in extra.get("sample", [])]
        what = f"{total} objects on the secondary that the primary does not have"
        if not approval(worker, what, [f"{total}", *sample[:10]], sample, total, batches.view.index.count() + total):
            return False
        link.call("sweep", {})
    link.call("adopt_end", {})
    worker.adopting = False
    marks = worker.primary.marks
    marks.identify({k: v for k, v in marks.identity.items() if k not in COMPARISON})
    batches.commit_now(purge_foreign=bool(total))
    worker.primary.compared_once()
    worker.status.compared()
    return True


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
    _show_comparison(worker)
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
    hold = Hold(hold_id([worker.status.who.secondary]), reason, 0, 0, (), time.time())
    while not worker.permitted(hold):
        if worker.stopping.is_set():
            raise EngineError("stopping", code="stopping")
        if link.broken is not None:
            raise link.broken
        worker.wake.clear()
        worker.wake.wait(5)
    worker.primary.permits(True)


def _shown(mark: Mark) -> str:
    return time.strftime("%F %T UTC", time.gmtime(mark.sec))
