"""The gate (SAFE-1): lists, answers that are bound to them, and the planner that makes them (CRW-8)."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from engine.gate import REMOVE, REPLACE, Gate, Item, Question, by_directory, list_id
from engine.guard import Hold
from engine.inventory import Entry, Plan, Planner, here, paired
from engine.ledger import Failure, Ledger
from engine.model import EngineError

FILE, DIR = stat.S_IFREG, stat.S_IFDIR
A, B = Item(b"d/a", FILE, 10, 5, 1), Item(b"d/b", FILE, 20, 5, 2)


def _gate(path: Path) -> tuple[Gate, list[Hold | None], list[Hold]]:
    shown: list[Hold | None] = []
    told: list[Hold] = []
    return Gate(str(path), shown.append, told.append), shown, told


def _question(*items: Item, kind: str = REMOVE) -> Question:
    return Question(kind, f"{len(items)} would go", lambda: items, 100)


def test_the_list_is_on_disk_before_it_is_shown(tmp_path: Path) -> None:
    found: list[bool] = []
    gate = Gate(str(tmp_path), lambda hold: found.append(hold is not None and os.path.exists(hold.list)), lambda _: None)
    assert gate.ask(_question(A, B)) is None
    assert found == [True]
    held = gate.held()
    assert held is not None and (held.deletes, held.bytes, held.of) == (2, 30, 100)
    assert gate.list_of(held.id) == [A, B]
    assert held.by_directory == ({"directory": "d", "count": 2, "bytes": 30},)


def test_the_same_list_has_the_same_id_and_time_after_a_restart(tmp_path: Path) -> None:
    gate, _, told = _gate(tmp_path)
    gate.ask(_question(A, B))
    again, _, _ = _gate(tmp_path)
    again.ask(_question(B, A))
    one, two = gate.held(), again.held()
    assert one is not None and two is not None and (one.id, one.since) == (two.id, two.since)
    gate.ask(_question(A, B))
    assert len(told) == 1, "told once"


@pytest.mark.parametrize("approve", [True, False])
def test_an_answer_outlives_a_restart(tmp_path: Path, approve: bool) -> None:
    gate, shown, _ = _gate(tmp_path)
    gate.ask(_question(A))
    held = gate.held()
    assert held is not None
    gate.answer(held.id, approve, "anna")
    assert gate.held() is None and shown[-1] is None
    again, _, _ = _gate(tmp_path)
    answer = again.ask(_question(A))
    assert answer is not None and (answer.approved, answer.who) == (approve, "anna")
    assert again.held() is None, "the same id does not come back"


def test_an_answer_is_for_its_list_alone(tmp_path: Path) -> None:
    """Neither for the other kind, nor for another object, nor for one that changed."""
    gate, _, _ = _gate(tmp_path)
    gate.consent(_question(A, kind=REPLACE), "--adopt")
    changed = Item(A.path, A.kind, A.size, A.mtime_ns + 1, A.ino)
    anew = Item(A.path, A.kind, A.size, A.mtime_ns, A.ino + 1)
    assert gate.split(REPLACE, [A, B, changed, anew]).approved == [A]
    assert gate.split(REPLACE, [A, B, changed, anew]).rest == [B, changed, anew]
    assert gate.split(REMOVE, [A]).rest == [A]
    with pytest.raises(EngineError):
        gate.answer(list_id(REPLACE, [A]), True, "anna")


def test_a_directory_may_change_with_what_is_in_it(tmp_path: Path) -> None:
    gate, _, _ = _gate(tmp_path)
    gate.consent(_question(Item(b"d", DIR, 40, 1, 9)), "anna")
    assert gate.split(REMOVE, [Item(b"d", DIR, 60, 2, 9)]).approved
    assert gate.split(REMOVE, [Item(b"d", DIR, 40, 1, 8)]).rest


def test_what_was_approved_is_used_once(tmp_path: Path) -> None:
    gate, _, _ = _gate(tmp_path)
    gate.consent(_question(A), "anna")
    gate.used(REMOVE)
    for one in (gate, _gate(tmp_path)[0]):
        assert one.split(REMOVE, [A]).rest == [A]
        assert one.ask(_question(A)) is None


def test_rejected_stays_until_it_is_asked_about_again(tmp_path: Path) -> None:
    gate, _, _ = _gate(tmp_path)
    gate.ask(_question(A, kind=REPLACE))
    ident = list_id(REPLACE, [A])
    gate.answer(ident, False, "anna")
    gate.used(REPLACE)
    assert gate.stays(b"d/a") and gate.stays(b"d/a/below") and not gate.stays(b"d")
    gate.note(ident)
    assert _gate(tmp_path)[0].noted(ident)
    gate.forget(ident)
    assert not gate.stays(b"d/a") and not gate.noted(ident)


def test_a_changed_list_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    gate, _, _ = _gate(tmp_path)
    gate.ask(_question(A))
    gate.ask(_question(A, B))
    assert [h.deletes for h in gate.all_held()] == [2]
    gate.ask(_question(A, kind=REPLACE))
    assert len(gate.all_held()) == 2, "the kinds are asked about beside each other"
    gate.withdraw(REMOVE)
    assert [h.kind for h in gate.all_held()] == [REPLACE]


def test_names_that_are_no_text_come_back_as_they_were(tmp_path: Path) -> None:
    gate, _, _ = _gate(tmp_path)
    odd = Item(b"d/\xff\n", FILE, 1, 1, 1)
    gate.consent(_question(odd), "anna")
    assert _gate(tmp_path)[0].split(REMOVE, [odd]).approved == [odd]


def test_an_answer_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    gate, _, _ = _gate(tmp_path)
    gate.consent(_question(A), "anna")
    (tmp_path / "held" / f"{list_id(REMOVE, [A])}.answer").write_bytes(b'{"answer": "appr')
    assert _gate(tmp_path)[0].ask(_question(A)) is None


def test_by_directory() -> None:
    assert by_directory([A, B, Item(b"top", DIR)]) == [
        {"directory": "d", "count": 2, "bytes": 30}, {"directory": ".", "count": 1, "bytes": 0},
    ]  # fmt: skip


# ---- the planner ---------------------------------------------------------------------------------------------------


def _entry(path: bytes, kind: int = FILE, size: int = 1, mtime: int = 1, *, known: bool = False, closed: bool = False) -> Entry:
    return Entry(tuple(path.split(b"/")), 7, kind, size, mtime, None, 0, known, closed)


def _plan(mine: list[Entry], theirs: list[Entry], *, ignore: bool = False, excluded: set[bytes] = frozenset()) -> tuple[Plan, list[bytes]]:
    planner = Planner(ignore_deletes=ignore, same_content=None)
    for pair in paired(mine, theirs, lambda path, _: path in excluded):
        planner.take(pair)
    return planner.plan, planner.verdicts()


def test_plan_of_each_kind() -> None:
    plan, other = _plan(
        [_entry(b"a"), _entry(b"b"), _entry(b"d", DIR), _entry(b"d/new", size=9)],
        [_entry(b"a"), _entry(b"b", size=2), _entry(b"d", DIR), _entry(b"d/old"), _entry(b"x", DIR), _entry(b"x/y")],
    )
    assert (plan.equal.objects, plan.missing.objects, plan.missing.bytes, plan.sent) == (2, 1, 9, 10)
    assert [i.path for i in plan.replaced] == [b"b"]
    assert [i.path for i in plan.removed] == [b"d/old", b"x", b"x/y"]
    assert sorted(other) == [b"b", b"d/old", b"x", b"x/y"]


def test_plan_without_deletes_removes_nothing_and_no_directory_gives_way() -> None:
    plan, other = _plan([_entry(b"d"), _entry(b"f")], [_entry(b"d", DIR), _entry(b"d/x"), _entry(b"f", size=2), _entry(b"z")], ignore=True)
    assert plan.removed == [] and [i.path for i in plan.replaced] == [b"f"]
    assert plan.kept.objects == 3 and sorted(other) == [b"d", b"d/x", b"f", b"z"]


def test_plan_leaves_alone_what_is_excluded_or_cannot_be_seen_here() -> None:
    plan, other = _plan(
        [_entry(b"closed", DIR, closed=True)], [_entry(b"closed", DIR), _entry(b"closed/x"), _entry(b"closed.b"), _entry(b"tmp")],
        excluded={b"tmp"},
    )
    assert [i.path for i in plan.removed] == [b"closed.b"]
    assert b"closed/x" in other and b"tmp" in other and plan.kept.objects == 3


def test_plan_passes_over_what_this_session_has_put_there() -> None:
    plan, other = _plan([_entry(b"a", size=5)], [_entry(b"a", size=2, known=True), _entry(b"b", known=True)])
    assert plan.replaced == [] and plan.removed == [] and other == []


def test_the_walk_here_skips_our_own_directory_and_other_names(tmp_path: Path) -> None:
    for name in (".georep/x", "a/b", "a.b/c", "skip/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [e.path for e in here(os.fsencode(tmp_path), lambda path, _: path == b"skip")]
    assert found == [b"a", b"a/b", b"a.b", b"a.b/c"]


def test_what_would_destroy_is_retried_only_when_it_is_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "failures.db"))
    now = time.time()
    ledger.add_many([
        Failure.rejected_list(REMOVE, "/held/1.list", "5 objects", "anna", now),
        Failure.in_the_way(bytes(16), b"a", "CREATE", "foreign", now, "", ""), Failure.only_there(bytes(15) + b"1", b"b", now),
    ])  # fmt: skip
    ledger.retry_all()
    assert ledger.retry_now() == 0 and ledger.due(now + 9e9) == []
    assert ledger.retry_now([f.id for f in ledger.all()]) == 3
    assert "rejected by anna at" in ledger.all()[0].message
    ledger.close()
