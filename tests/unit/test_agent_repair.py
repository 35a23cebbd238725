"""Placing, removing and clearing: how the primary ends any conflict (CON-1 to CON-5), and crashes between commits."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent.handles import OpError
from engine.agent.repair import clear_slot, place, remove
from engine.agent.types import Slot
from tests.agent_side import (
    ROOT,
    T0,
    Local,
    create,
    directory,
    gfid,
    hexname,
    limbo,
    link,
    mkdir,
    regular,
    rename,
    rmdir,
    sym,
    symlink,
    tree_of,
    unlink,
)

A, B, C, D, E, F = (gfid(i) for i in range(1, 7))


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path / "replica")
    yield local
    local.close()


def put(
    side: Local,
    g: bytes,
    slots: list[tuple[bytes, bytes]],
    stat: object,
    text: bytes | None = None,
    replace: bool = True,
    drop: list[tuple[bytes, bytes]] | None = None,
):  # type: ignore[no-untyped-def]
    side.tree.dirs.settle()
    drop = [] if drop is None else [Slot(*s) for s in drop]
    return place(side.tree, g, [Slot(*s) for s in slots], drop, stat, text, {}, replace)  # type: ignore[arg-type]


def test_con_1_remove_takes_all_names_to_limbo(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), link(A, ROOT, b"b"), mkdir(D, ROOT, b"d"), link(A, D, b"c"))
    assert remove(side.tree, A) == (3, [], 0)
    assert set(tree_of(side.path)) == {"d"} and side.limbo() == {A.hex()}
    assert remove(side.tree, A) == (0, [], 0) and remove(side.tree, B) == (0, [], 0)


def test_remove_takes_only_the_names_it_is_told(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), link(A, ROOT, b"b"))
    assert remove(side.tree, A, [Slot(ROOT, b"a"), Slot(ROOT, b"never")]) == (1, [Slot(ROOT, b"b")], 1)
    assert set(tree_of(side.path)) == {"b"} and side.limbo() == set()


def test_con_3_a_directory_is_put_where_the_primary_has_it(side: Local) -> None:
    side.ok(mkdir(A, ROOT, b"a"), create(C, A, b"in"), mkdir(B, ROOT, b"b"))
    placed = put(side, A, [(B, b"deep")], directory(0o700))
    assert not placed.made and not placed.data
    assert set(tree_of(side.path)) == {"b", "b/deep", "b/deep/in"}
    assert os.stat(side.path / "b" / "deep").st_mode & 0o777 == 0o700


def test_con_4_a_file_gets_the_names_the_primary_has_and_loses_those_that_were_named(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), link(A, ROOT, b"b"), create(B, ROOT, b"c", b"other"))
    wanted = [(ROOT, b"b"), (ROOT, b"c"), (ROOT, b"d")]
    placed = put(side, A, wanted, regular(1))
    assert not placed.data and placed.beyond == [Slot(ROOT, b"a")] and placed.nlink == 4
    assert set(tree_of(side.path)) == {"a", "b", "c", "d"}, "a name that nobody spoke of went"
    assert put(side, A, wanted[:1], regular(1), drop=[(ROOT, b"a")]).beyond == [Slot(ROOT, b"c"), Slot(ROOT, b"d")]
    got = tree_of(side.path)
    assert set(got) == {"b", "c", "d"} and {v[2] for v in got.values()} == {b"x"}
    assert os.stat(side.path / "b").st_nlink == 3 and side.limbo() == {B.hex()}


def test_con_5_a_missing_parent_is_told_by_place(side: Local) -> None:
    with pytest.raises(OpError) as failed:
        put(side, A, [(D, b"a")], regular())
    assert failed.value.errno == errno.ENOENT and failed.value.text.startswith("parent") and failed.value.found == D


def test_place_makes_what_is_nowhere(side: Local) -> None:
    placed = put(side, A, [(ROOT, b"a"), (ROOT, b"b")], regular(10))
    assert placed.made and placed.data
    assert os.path.samefile(side.path / "a", side.path / "b")
    assert not put(side, D, [(ROOT, b"d")], directory()).data
    assert put(side, B, [(D, b"s")], symlink(), b"t").made
    assert os.readlink(side.path / "d" / "s") == "t"


def test_place_adopts_what_is_equal_and_moves_the_rest_to_limbo(side: Local) -> None:
    for name, content in (("equal", b"same"), ("other", b"different")):
        (side.path / name).write_bytes(content)
        os.utime(side.path / name, ns=(T0, T0))
    inode = (side.path / "equal").stat().st_ino
    with pytest.raises(OpError, match="foreign"):
        put(side, B, [(ROOT, b"other")], regular(4), replace=False)
    first = put(side, A, [(ROOT, b"equal")], regular(4), replace=False)
    assert not first.data and (side.path / "equal").stat().st_ino == inode
    second = put(side, B, [(ROOT, b"other")], regular(4))
    assert second.data and second.made and (side.path / "other").read_bytes() == b""
    (kept,) = side.limbo()
    assert kept.endswith(".other") and (side.path / ".georep/limbo" / kept).read_bytes() == b"different"


def test_place_takes_from_limbo(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), unlink(A, ROOT, b"a"))
    placed = put(side, A, [(ROOT, b"b")], regular(1))
    assert not placed.data and not placed.made and side.limbo() == set()


def test_place_of_another_type_starts_anew(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"))
    assert put(side, A, [(ROOT, b"a")], directory()).made
    assert (side.path / "a").is_dir()
    side.ok(sym(B, ROOT, b"s", b"one"))
    assert put(side, B, [(ROOT, b"s")], symlink(), b"two").made
    assert os.readlink(side.path / "s") == "two"


def test_place_from_the_root_down_untangles_nested_directories(side: Local) -> None:
    """a/b on the secondary, b/a on the primary."""
    side.ok(mkdir(A, ROOT, b"a"), mkdir(B, A, b"b"), create(C, B, b"f", b"1"))
    side.fails(rename(A, (ROOT, b"a"), (B, b"a")), errno.EINVAL)
    put(side, B, [(ROOT, b"b")], directory())
    put(side, A, [(B, b"a")], directory())
    put(side, C, [(A, b"f")], regular(1), drop=[(B, b"f")])
    assert set(tree_of(side.path)) == {"b", "b/a", "b/a/f"}


def test_clear_slot(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"))
    (side.path / "u").write_text("unknown")
    with pytest.raises(OpError, match="by now") as other:
        clear_slot(side.tree, Slot(ROOT, b"a"), B)
    assert (other.value.errno, other.value.found) == (errno.EEXIST, A) and (side.path / "a").exists()
    assert clear_slot(side.tree, Slot(ROOT, b"a"), A) == A
    assert clear_slot(side.tree, Slot(ROOT, b"u")) == b""
    assert clear_slot(side.tree, Slot(ROOT, b"u")) is None
    assert clear_slot(side.tree, Slot(D, b"u")) is None
    assert tree_of(side.path) == {} and len(side.limbo()) == 2


# --- crashes: the disk is ahead of the index


def test_after_a_crash_new_files_are_recognised_by_replay(side: Local) -> None:
    ops = [
        mkdir(D, ROOT, b"d"), create(A, D, b"a", b"one"), sym(B, D, b"s", b"t"), create(C, ROOT, b"c", None),
        link(A, ROOT, b"a2"),
    ]  # fmt: skip
    side.ok(*ops)
    before = tree_of(side.path, times=True)
    inode = (side.path / "d").stat().st_ino
    side.again()
    assert side.holding.recovering and side.tree.index.count() == 0
    done = side.ok(*ops)
    assert tree_of(side.path, times=True) == before and (side.path / "d").stat().st_ino == inode
    assert list(done.made) == [C] and side.limbo() == set()


def test_after_a_crash_a_directory_renamed_twice_is_found_by_its_inode(side: Local) -> None:
    side.ok(mkdir(D, ROOT, b"d"), *(create(gfid(100 + i), D, b"f%d" % i, b"x") for i in range(20)))
    side.commit()
    inode = (side.path / "d").stat().st_ino
    ops = [rename(D, (ROOT, b"d"), (ROOT, b"e"), directory()), rename(D, (ROOT, b"e"), (ROOT, b"f"), directory())]
    side.ok(*ops)
    side.again()
    done = side.ok(*ops)
    assert not done.made and (side.path / "f").stat().st_ino == inode
    assert len(tree_of(side.path)) == 21 and side.limbo() == set()


def test_after_a_crash_an_object_moved_into_a_new_directory_is_found(side: Local) -> None:
    side.ok(mkdir(D, ROOT, b"d"), create(A, D, b"f", b"x"))
    side.commit()
    ops = [
        mkdir(E, ROOT, b"new"), rename(D, (ROOT, b"d"), (E, b"d"), directory()),
        rename(E, (ROOT, b"new"), (ROOT, b"new2"), directory()),
    ]  # fmt: skip
    side.ok(*ops)
    inode = (side.path / "new2" / "d").stat().st_ino
    side.again()
    side.ok(*ops)
    assert set(tree_of(side.path)) == {"new2", "new2/d", "new2/d/f"}
    assert (side.path / "new2" / "d").stat().st_ino == inode


def test_after_a_crash_what_was_removed_is_found_in_limbo(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), mkdir(D, ROOT, b"d"), create(B, D, b"b", b"y"))
    side.commit()
    ops = [unlink(A, ROOT, b"a"), rmdir(D, ROOT, b"d"), create(C, ROOT, b"a", b"new")]
    side.ok(*ops)
    side.again()
    assert side.tree.limbo == {A, D}
    side.apply(*ops)
    assert set(tree_of(side.path)) == {"a"} and tree_of(side.path)["a"][2] == b"new"
    side.ok(rename(D, limbo(D), (ROOT, b"d")))
    assert (side.path / "d" / "b").read_bytes() == b"y"


def test_after_a_crash_what_left_a_dead_directory_stays_known_when_that_goes(side: Local) -> None:
    """The rows below a dead directory are of the last commit: what has been moved out of it since then is not dead."""
    side.ok(mkdir(D, ROOT, b"d"), mkdir(E, D, b"e"), create(A, E, b"a", b"x"), rmdir(D, ROOT, b"d"))
    side.commit()
    out = rename(E, (D, b"e"), (ROOT, b"e"), directory())
    side.ok(out)
    side.again()
    side.commit(D)
    side.ok(out)
    side.commit(mark=2_000_000_000)
    assert tree_of(side.path)["e/a"][2] == b"x"
    side.ok(unlink(A, E, b"a"))
    assert set(tree_of(side.path)) == {"e"}


def test_after_a_crash_what_was_set_aside_waits_until_all_has_been_repeated(side: Local) -> None:
    """It may hold something known that a later operation brings back."""
    side.ok(create(A, ROOT, b"a", b"x"))
    side.commit()
    ops = [mkdir(D, ROOT, b"d"), rename(A, (ROOT, b"a"), (D, b"a"), regular(1))]
    side.ok(*ops)
    side.again()
    remove(side.tree, D)
    clear_slot(side.tree, Slot(ROOT, b"d"))
    side.commit(foreign=True)
    done = side.ok(rename(A, (ROOT, b"a"), (ROOT, b"b"), regular(1)))
    assert not done.made and tree_of(side.path)["b"][2] == b"x"
    side.commit(mark=2_000_000_000)
    assert set(tree_of(side.path)) == {"b"} and side.limbo() == set()


def test_recovery_ends_with_a_commit_of_later_changes_and_not_before(side: Local) -> None:
    import time

    side.ok(create(A, ROOT, b"a", b"x"))
    side.again()
    side.commit(mark=5)
    assert side.holding.recovering
    side.commit(mark=int(time.time()) + 5)
    assert not side.holding.recovering and not (side.path / ".georep/applying").exists()
    assert tree_of(side.path) == {}  # nothing accounted for it, and it was made in the interrupted batch
    (side.path / "a").write_text("by a person")
    side.fails(create(A, ROOT, b"a", b"x"), errno.EEXIST, "unknown")


def test_what_was_foreign_before_a_crash_stays(side: Local) -> None:
    (side.path / "person").write_text("x")
    side.commit()
    side.ok(create(A, ROOT, b"a", b"x"))
    side.again()
    side.ok(create(A, ROOT, b"a", b"x"))
    side.commit(mark=2_000_000_000)
    assert not side.holding.recovering and set(tree_of(side.path)) == {"a", "person"}


def test_a_clean_end_needs_no_recovery(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"))
    side.close()
    side.open()
    assert not side.holding.recovering
    side.ok(unlink(A, ROOT, b"a"))


def test_incomplete_content_found_again_is_asked_for(side: Local) -> None:
    """A file whose creation reached limbo only: its content may be torn."""
    (side.path / ".georep/limbo" / hexname(A).decode()).write_bytes(b"torn")
    side.tree.read_limbo()
    done = side.ok(rename(A, (ROOT, b"x"), (ROOT, b"a"), regular(10)))
    assert list(done.made) == [A]
