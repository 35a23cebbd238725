"""What a brick's own records mean, and what no longer holds of them (CHG-4, CHG-6, CHG-9)."""

from __future__ import annotations

from engine.batch import Source, plan
from engine.brickplan import changed_since, meant, tidied
from engine.model import NO_MARK, ROOT, Changelog, DataChange, EntryChange, Fop, MetaChange, Slot
from engine.volume.brickpath import INTERNAL_GFIDS, internal

A, B, D = (bytes(15) + bytes([n]) for n in (0x51, 0x52, 0x53))


def made(*records):
    return plan([Source(Changelog(1_795_000_000, 0, b"x", 100), list(records))], NO_MARK)


def test_chg_4_a_sticky_mknod_is_a_link_with_content() -> None:
    heal = EntryChange(A, int(Fop.MKNOD), Slot(ROOT, b"f"), None, 0o101644, 3, 4)
    first, *rest = meant([heal], internal)
    assert (first.fop, first.slot) == (Fop.LINK, Slot(ROOT, b"f"))
    assert DataChange(A) in rest


def test_chg_4_an_ordinary_mknod_stays() -> None:
    fifo = EntryChange(A, int(Fop.MKNOD), Slot(ROOT, b"f"), None, 0o010644, 0, 0)
    assert meant([fifo], internal) == [fifo]


def test_chg_9_renames_and_links_bring_content_and_attributes() -> None:
    rename = EntryChange(A, int(Fop.RENAME), Slot(ROOT, b"f"), Slot(D, b"g"))
    todo = made(*meant([rename], internal))
    assert list(todo.data) == [A] and list(todo.meta) == [A]


def test_chg_7_every_kind_of_attribute_change_counts() -> None:
    for fop in (38, 39, 17, 36, 19, 45):
        assert A in made(*meant([MetaChange(A, fop)], internal)).meta
    for fop in (33, 34):
        assert A in made(*meant([MetaChange(A, fop)], internal)).check


def test_what_is_the_volumes_own_is_left_out() -> None:
    shard = next(iter(INTERNAL_GFIDS))
    own = [
        EntryChange(A, int(Fop.MKNOD), Slot(shard, b"x.1")), EntryChange(D, int(Fop.MKDIR), Slot(ROOT, b".shard")),
        EntryChange(D, int(Fop.MKDIR), Slot(ROOT, b".glusterfs-anonymous-inode-1")),
        MetaChange(shard, 38),
    ]  # fmt: skip
    assert meant(own, internal) == []


def test_a_rename_into_the_volumes_own_directories_is_a_removal() -> None:
    """What is unlinked while it is open goes to the anonymous inode; what comes out of it is made."""
    aside = next(iter(INTERNAL_GFIDS))
    (gone,) = meant([EntryChange(A, int(Fop.RENAME), Slot(ROOT, b"f"), Slot(aside, b"f"))], internal)
    assert (gone.fop, gone.slot, gone.dest) == (Fop.UNLINK, Slot(ROOT, b"f"), None)
    back, data = meant([EntryChange(A, int(Fop.RENAME), Slot(aside, b"f"), Slot(ROOT, b"g"))], internal)
    assert (back.fop, back.slot, data) == (Fop.LINK, Slot(ROOT, b"g"), DataChange(A))


def free(_: Slot) -> bool:
    return False


def every(_: bytes) -> bool:
    """The brick's journal has all changes of the object."""
    return True


def no(_: bytes) -> bool:
    """Another brick has the object's data, and later changes may be in its journal."""
    return False


def nothing(_slot: Slot, _gfid: bytes) -> bool:
    return False


def test_con_2_a_name_that_another_brick_gave_back_is_not_removed() -> None:
    """The other half of UNLINK a, LINK a is in the journal of the brick that has the file's data, and was applied before."""
    a, b = Slot(ROOT, b"a"), Slot(ROOT, b"b")
    records = [EntryChange(A, int(Fop.UNLINK), a), EntryChange(A, int(Fop.UNLINK), b)]
    todo = made(*records)
    assert tidied(todo, [], free, no, lambda slot, _: slot == a) == []
    assert [e.slot for e in todo.entries] == [b] and todo.doubtful == {(A, b): False}
    todo = made(*records)
    assert tidied(todo, [], free, every, lambda slot, _: slot == a) == []
    assert [e.slot for e in todo.entries] == [a, b] and todo.doubtful == {}, "its own journal has the LINK, in order"
    todo = made(EntryChange(A, int(Fop.LINK), a), EntryChange(A, int(Fop.RENAME), a, b))
    tidied(todo, [], free, every, nothing)
    assert todo.doubtful == {(A, b): True}, "what a rename of another object displaces stands in no journal"
    todo = made(*records)
    assert tidied(todo, [], free, no, lambda slot, _: slot == a, sole=True) == [] and todo.doubtful == {}


def test_names_that_are_otherwise_after_the_batch_are_looked_at_again() -> None:
    a, b, c = (Slot(ROOT, n) for n in (b"a", b"b", b"c"))
    todo = made(EntryChange(A, int(Fop.RENAME), a, b), EntryChange(A, int(Fop.LINK), c), EntryChange(A, int(Fop.UNLINK), c))
    tidied(todo, [], free, no, nothing)
    assert todo.doubtful == {(A, a): False, (A, b): True, (A, c): False}
    assert changed_since(todo, nothing, lambda slot, _: slot == b) == []
    assert changed_since(todo, lambda slot, _: slot == b, nothing) == [], "this brick has it: nobody else is asked"
    (problem,) = changed_since(todo, nothing, nothing)
    assert (problem.gfid, problem.slot) == (A, b)


def test_chg_6_rmdir_of_a_directory_that_is_there_counts_for_nothing() -> None:
    todo = made(EntryChange(D, int(Fop.RMDIR), Slot(ROOT, b"d")), EntryChange(B, int(Fop.RMDIR), Slot(ROOT, b"e")))
    assert tidied(todo, [B], free, every, nothing) == []
    assert [e.gfid for e in todo.entries] == [B]


def test_what_a_vanished_object_displaced_on_its_way_is_cleared() -> None:
    """CREATE a, RENAME a → b (over something else), RENAME b → c, UNLINK c: b is free now, and must be so there."""
    a, b, c = Slot(ROOT, b"a"), Slot(ROOT, b"b"), Slot(ROOT, b"c")
    records = [
        EntryChange(A, int(Fop.CREATE), a), EntryChange(A, int(Fop.RENAME), a, b), EntryChange(A, int(Fop.RENAME), b, c),
        EntryChange(A, int(Fop.UNLINK), c),
    ]  # fmt: skip
    todo = made(*meant(records, internal))
    (problem,) = tidied(todo, [A], free, every, nothing)
    assert (problem.gfid, problem.slot) == (A, b)
    assert tidied(made(*records), [A], lambda slot: slot == b, every, nothing) == []
