"""Taking over a tree that this session cannot prove to be its own: compared whole, asked about, then put right (CRW-8)."""

from __future__ import annotations

import base64
import errno
import os
import stat as _stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from engine.apply import Problem, Result
from engine.filters import Filters
from engine.gate import REMOVE, REPLACE, VERBS, Item, Question
from engine.inventory import Entry, Excluded, Plan, Planner, here, paired, there
from engine.ledger import TREE, Failure
from engine.link import Link
from engine.model import ROOT, EngineError, Gfid, Slot
from engine.options import Options
from engine.reconcile import Reconciler
from engine.verify import digest_file
from engine.volume.base import View

if TYPE_CHECKING:
    from engine.failing import Failing
    from engine.worker import Worker

PAGE = 2_000
"""Objects in one answer of the agent."""

SWEPT = 500
"""Objects that one call removes."""

ROUNDS = 5
"""Looks at what is left before the rest waits for the next time the brick is idle."""


def excluded_of(options: Options) -> Excluded | None:
    """Include and exclude patterns as a question about a path (CRW-10), None where there are none."""
    if not options.include and not options.exclude:
        return None
    return Filters(list(options.include), list(options.exclude)).excluded


def inventory(link: Link, begin: str, params: dict[str, Any] | None = None) -> Iterator[list[Entry]]:
    """Everything on the secondary in pages. Raises LinkError, RemoteError."""
    asked: dict[str, Any] = {"begin": begin, "limit": PAGE, **(params or {})}
    while True:
        answer = link.call("inventory", asked)
        page = list(there(answer["entries"]))
        if not page and not answer.get("more"):
            return
        yield page
        asked = {"limit": PAGE}


def compare(
    link: Link, root: bytes, options: Options, begin: str, *, params: dict[str, Any] | None = None, lacking: bool = False,
    page: Callable[[int, list[bytes]], None] | None = None,
) -> Plan:  # fmt: skip
    """Both trees by path. `page` is told after each page of the secondary how many objects were seen, and which must not be
    touched. Raises LinkError, OSError."""
    excluded = excluded_of(options)
    checksum = options.adopt == "checksum"

    def content(pairs: list[tuple[Entry, Entry]]) -> list[bool]:
        return same_content(link, root, pairs, params or {})

    planner = Planner(ignore_deletes=options.ignore_deletes, same_content=content if checksum else None, lacking=lacking)
    seen = 0

    def theirs() -> Iterator[Entry]:
        nonlocal seen
        for some in inventory(link, begin, params):
            yield from some
            seen += len(some)
            if page is not None:
                page(seen, planner.verdicts())

    for pair in paired(here(root, excluded), theirs(), excluded):
        planner.take(pair)
    rest = planner.verdicts()
    if page is not None:
        page(seen, rest)
    return planner.plan


def same_content(link: Link, root: bytes, pairs: list[tuple[Entry, Entry]], params: dict[str, Any]) -> list[bool]:
    """Which of these files have the same content on both sides? One that cannot be read on either counts as different."""
    paths = [base64.b64encode(theirs.path).decode() for _, theirs in pairs]
    later = link.call_later("digest", {**params, "paths": paths})
    mine: list[str | None] = []
    for entry, _ in pairs:
        try:
            fd = os.open(os.path.join(root, entry.path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            mine.append(None)
            continue
        try:
            mine.append(digest_file(fd).hex())
        except OSError:
            mine.append(None)
        finally:
            os.close(fd)
    found = later(None).get("digests", {})
    return [m is not None and (found.get(p) or {}).get("digest") == m for m, p in zip(mine, paths, strict=True)]


class Adoption:
    """The adoption of one brick on one connection. `ready` until it may write, `finish` until nothing is left over."""

    def __init__(self, worker: Worker, link: Link, view: View, failing: Failing) -> None:
        self.worker = worker
        self.link = link
        self.view = view
        self._failing = failing
        self._plan: Plan | None = None
        self._ready = False
        self._late: dict[Gfid, None] = {}
        """Objects that something unknown was in the way of: settled once that is answered."""

    # ---- before the first byte -------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Compare both sides, and ask about what would go. False while that waits for a person."""
        if self._ready:
            return True
        worker, gate = self.worker, self.worker.gate
        if self._plan is None:
            self._plan = self._compare()
        plan = self._plan
        of = plan.equal.objects + plan.kept.objects + len(plan.replaced) + len(plan.removed)
        waits = False
        for kind, items in ((REPLACE, plan.replaced), (REMOVE, plan.removed)):
            rest = gate.split(kind, items).rest
            if not rest:
                gate.withdraw(kind)
                continue
            question = _question(kind, rest, of)
            if worker.consents:
                gate.consent(question, worker.consents)
            elif gate.ask(question) is None:
                waits = True
        self._say()
        if waits:
            worker.on_idle()
            return False
        worker.consents = ""  # it was said of the list as it was at this start
        self._permit(REPLACE, plan.replaced)
        self._permit(REMOVE, plan.removed)
        self.link.call("judge", {"complete": True})
        self._ready = True
        return True

    def _compare(self) -> Plan:
        worker, options = self.worker, self.worker.options()
        why = "the secondary is not known to be this session's own"

        def page(seen: int, other: list[bytes]) -> None:
            if worker.stopping.is_set():
                raise EngineError("stopping", code="stopping")
            worker.status.comparing(seen, None, why)
            self._judge(other, "keep")

        worker.status.comparing(0, None, why)
        try:
            plan = compare(self.link, worker.primary.root, options, "plan", lacking=not worker.adopting_anew, page=page)
        finally:
            worker.status.compared()
        worker.log("info", f"compared both sides: {plan.equal.objects:,} equal, {plan.missing.objects:,} missing there, "
                           f"{len(plan.replaced):,} would be replaced, {len(plan.removed):,} removed, "
                           f"{plan.kept.objects:,} left alone")  # fmt: skip
        return plan

    def _permit(self, kind: str, items: Iterable[Item]) -> None:
        self._judge([i.path for i in self.worker.gate.split(kind, items).approved], kind)

    def _judge(self, paths: list[bytes], verdict: str) -> None:
        for at in range(0, len(paths), PAGE):
            some = [base64.b64encode(p).decode() for p in paths[at : at + PAGE]]
            self.link.call("judge", {"paths": some, "verdict": verdict})

    def _say(self) -> None:
        """Tell what was answered, once; rejected, it is one entry of the ledger with its list."""
        gate = self.worker.gate
        for answer in gate.unnoted(REPLACE, REMOVE):
            what, path = gate.reason(answer.id), gate.path(answer.id)
            if answer.approved:
                self.worker.log("warning", f"{what}: approved by {answer.who} (list {path})")
            else:
                self._failing.note([Failure.rejected_list(answer.kind, path, what, answer.who, answer.time)])
            gate.note(answer.id)

    # ---- while it is put right -------------------------------------------------------------------------------

    def late(self, problems: list[Problem]) -> list[Problem]:
        """Problems without those that something unknown in the way is the reason of: `finish` asks about that."""
        out: list[Problem] = []
        for one in problems:
            if is_foreign(one):
                self._late[one.gfid] = None
            else:
                out.append(one)
        return out

    # ---- when all has been brought over ----------------------------------------------------------------------

    def finish(self, reconciler: Reconciler, commit: Callable[[], None]) -> bool:
        """Remove what may go, replace what may be, ask about what came since. False while that waits, or goes on."""
        self._settle([*self._lacking(), *(Problem(g, None, TREE, 0, "it was in the way") for g in self._late)], reconciler)
        waits = False
        for _ in range(ROUNDS):
            left = [e for page in inventory(self.link, "left") for e in page]
            acted, waits = self._round(left, reconciler)
            if not acted:
                break
        if waits:
            self.worker.on_idle()
            return False
        # what was not rejected and could not be done either is a failure that waits for a person
        still = [Problem(g, None, "RETRY", errno.EEXIST, "foreign: something is in the way there") for g in self._late]
        self._failing.note(self._failing.of(still))
        self.link.call("adopt_end", {})
        commit()
        self.worker.ledger.settled()
        return True

    def _round(self, left: list[Entry], reconciler: Reconciler) -> tuple[bool, bool]:
        """Act on what may go; whether anything did, and whether something waits for a person."""
        worker, gate, options = self.worker, self.worker.gate, self.worker.options()
        excluded = excluded_of(options)
        found: dict[str, list[Item]] = {REPLACE: [], REMOVE: []}
        ended: list[Item] = []
        for entry in left:
            if excluded is not None and excluded(entry.path, entry.kind == _stat.S_IFDIR):
                continue
            on_primary = _on_primary(worker.primary.root, entry.path)
            if on_primary:
                found[REPLACE].append(entry.item("the primary has something else there"))
            elif on_primary is None or options.ignore_deletes:
                continue
            elif entry.verdict == "equal":
                ended.append(entry.item("deleted on the primary while it was compared"))
            else:
                found[REMOVE].append(entry.item("the primary does not have it"))
        if ended:
            now = time.time()
            if worker.guard.exceeded(now, len(ended), lambda: self.view.index.count() + len(ended)):
                found[REMOVE] += ended
            else:
                worker.guard.passed(now, [], len(ended))
                self._sweep(ended)
        acted = waits = False
        for kind, items in found.items():
            split = gate.split(kind, items)
            if split.rest:
                question = _question(kind, split.rest, self.view.index.count() + len(left))
                if gate.ask(question) is None:
                    waits = True
                else:
                    split = gate.split(kind, items)
            else:
                gate.withdraw(kind)
            if kind == REMOVE:
                acted |= self._sweep(split.approved) > 0
            elif split.approved:
                self._judge([i.path for i in split.approved], REPLACE)
                problems = [p for i in split.approved if (p := self._problem(i.path)) is not None]
                acted |= self._settle(problems, reconciler) > 0
        self._say()
        return acted, waits

    def _sweep(self, items: list[Item]) -> int:
        """Remove exactly these, what is in a directory before it; how many went."""
        moved = 0
        ordered = sorted(items, key=lambda i: i.path.split(b"/"), reverse=True)
        for at in range(0, len(ordered), SWEPT):
            some = [[base64.b64encode(i.path).decode(), i.ino, i.kind, i.size, i.mtime_ns] for i in ordered[at : at + SWEPT]]
            moved += int(self.link.call("sweep", {"items": some})["moved"])
        return moved

    def _lacking(self) -> Iterator[Problem]:
        """What was missing though an earlier connection may have thought it done."""
        paths, plan = [], self._plan
        if plan is not None:
            paths, plan.lacking = plan.lacking, []
        for path in paths:
            if (problem := self._problem(path)) is not None:
                yield problem

    def _problem(self, path: bytes) -> Problem | None:
        """What to settle so that a path is as the primary has it; None where its index does not have it."""
        parent, row = ROOT, None
        for name in path.split(b"/"):
            row = self.view.index.get(parent, name)
            if row is None:
                return None
            slot, parent = Slot(parent, name), row.gfid
        assert row is not None
        return Problem(row.gfid, slot, TREE if row.kind == _stat.S_IFDIR else "RETRY", 0, "it was missing or in the way")

    def _settle(self, problems: list[Problem], reconciler: Reconciler) -> int:
        """Settle these; how many are. What something unknown is still in the way of waits on."""
        todo = [p for p in problems if self.view.index.has(p.gfid)]
        self._late = {}
        if not todo:
            return 0
        result = Result()
        left = self.late(reconciler.settle(todo, result))
        self._failing.note(self._failing.of(left))
        return len(todo) - len(left) - len(self._late)


def is_foreign(problem: Problem) -> bool:
    """Is something that the secondary's index does not know in the way?"""
    return problem.text.startswith("foreign")


def _question(kind: str, items: list[Item], of: int) -> Question:
    those = "1 object on the secondary differs" if len(items) == 1 else f"{len(items):,} objects on the secondary differ"
    if kind == REMOVE:
        those = f"{len(items):,} object{'' if len(items) == 1 else 's'} that only the secondary has"
        reason = f"{those} would be {VERBS[kind]} (--adopt at a start allows it)"
    else:
        reason = f"{those} and would be {VERBS[kind]} (--adopt at a start allows it)"
    return Question(kind, reason, lambda: items, of)


def _on_primary(root: bytes, path: bytes) -> bool | None:
    """Does the primary have something at this path? None where that cannot be told, or is on another filesystem."""
    try:
        st = os.lstat(os.path.join(root, path))
        return True if st.st_dev == os.lstat(root).st_dev else None
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
