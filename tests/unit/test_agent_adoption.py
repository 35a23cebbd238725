"""Adoption of what is equal already on the secondary, and what is foreign there (CRW-8, SAFE-1)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent import foreign
from engine.agent.inventory import KEEP, Inventory
from engine.agent.tree import Mode
from engine.agent.types import EntryOp, Fop, Slot
from tests.agent_side import ROOT, T0, Local, create, directory, gfid, link, mkdir, regular, sym, tree_of

A, B, C, D, E, F = (gfid(i) for i in range(1, 7))


def plan(g: bytes, parent: bytes, name: bytes, size: int, mode: int = 0o644, mtime: int = T0) -> EntryOp:
    """A file as a crawl announces it: without its content."""
    return EntryOp(Fop.MKNOD, g, Slot(parent, name), None, regular(size, mode, mtime))


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Local]:
    root = tmp_path / "replica"
    root.mkdir()
    (root / "d").mkdir()
    for name, content in (("d/equal", b"same"), ("older", b"old!"), ("extra", b"foreign"), ("d/extra", b"foreign")):
        (root / name).write_bytes(content)
        os.utime(root / name, ns=(T0, T0))
    os.utime(root / "older", ns=(5, 5))
    os.symlink("text", root / "s")
    os.link(root / "d/equal", root / "d/equal2")
    local = Local(root)
    yield local
    local.close()


def adopt(side: Local, replace: bool, checksum: bool = False) -> None:
    side.holding.index.clear()
    side.holding.set_mode(Mode(replace, checksum, False))


def test_crw_8_equal_things_are_adopted_and_not_sent_again(side: Local) -> None:
    adopt(side, replace=False)
    inode = (side.path / "d/equal").stat().st_ino
    done = side.ok(
        mkdir(D, ROOT, b"d"), plan(A, D, b"equal", 4, mode=0o600), link(A, D, b"equal2"), sym(B, ROOT, b"s", b"text")
    )
    assert not done.made
    assert (side.path / "d/equal").stat().st_ino == inode == (side.path / "d/equal2").stat().st_ino
    assert (side.path / "d/equal").stat().st_mode & 0o777 == 0o600
    assert (side.path / "d/equal").stat().st_mtime_ns == T0


def test_safe_1_what_differs_is_not_touched_without_leave(side: Local) -> None:
    adopt(side, replace=False)
    before = tree_of(side.path, times=True)
    side.fails(plan(C, ROOT, b"older", 4), errno.EEXIST, "foreign")
    side.fails(sym(B, ROOT, b"s", b"other text"), errno.EEXIST, "foreign")
    side.fails(mkdir(F, ROOT, b"older"), errno.EEXIST, "foreign")
    assert tree_of(side.path, times=True) == before and side.limbo() == set()


def test_crw_8_with_leave_files_are_taken_over_in_place_and_others_replaced(side: Local) -> None:
    adopt(side, replace=True)
    inode = (side.path / "older").stat().st_ino
    done = side.ok(plan(C, ROOT, b"older", 4), sym(B, ROOT, b"s", b"other text"), mkdir(F, ROOT, b"extra"))
    assert list(done.made) == [C]
    assert (side.path / "older").stat().st_ino == inode
    assert os.readlink(side.path / "s") == "other text" and (side.path / "extra").is_dir()
    assert len(side.limbo()) == 2


def test_crw_8_checksum_mode_asks_for_content_of_equal_size(side: Local) -> None:
    adopt(side, replace=False, checksum=True)
    side.fails(plan(C, ROOT, b"older", 4), errno.EEXIST, "foreign")  # of which nobody has compared the content
    seen = Inventory(side.tree)
    side.tree.permitted = seen.permits
    seen.begin(note=True)
    assert len(seen.page(100)) == 7
    side.fails(plan(C, ROOT, b"older", 4), errno.EEXIST, "foreign")  # not judged yet
    seen.judged()
    done = side.ok(plan(C, ROOT, b"older", 4))
    assert list(done.made) == [C] and (side.path / "older").read_bytes() == b"old!"
    seen.judge([b"extra"], KEEP)
    side.fails(plan(A, ROOT, b"extra", 7), errno.EEXIST, "foreign")


def test_crw_8_hard_links_are_put_right(side: Local) -> None:
    """Equal files that are one on the primary become one; one file that is two there becomes two."""
    (side.path / "twin").write_bytes(b"same")
    os.utime(side.path / "twin", ns=(T0, T0))
    adopt(side, replace=False)
    done = side.ok(mkdir(D, ROOT, b"d"), plan(A, D, b"equal", 4), link(A, ROOT, b"twin"), plan(B, D, b"equal2", 4))
    assert os.path.samefile(side.path / "d/equal", side.path / "twin")
    assert not os.path.samefile(side.path / "d/equal", side.path / "d/equal2")
    assert list(done.made) == [B]


def test_crw_8_what_is_foreign_is_shown_and_swept(side: Local) -> None:
    adopt(side, replace=False)
    (side.path / "alien").mkdir()
    (side.path / "alien" / "child").write_text("x")
    side.ok(mkdir(D, ROOT, b"d"), plan(A, D, b"equal", 4), link(A, D, b"equal2"), sym(B, ROOT, b"s", b"text"))
    found = {b"/".join(f.path): f.top for f in foreign.walk(side.tree)}
    assert found == {b"alien": True, b"alien/child": False, b"extra": True, b"older": True, b"d/extra": True}
    st = foreign.stat_of(side.tree, (b"d", b"extra"))
    assert st is not None and st.st_size == 7
    assert foreign.sweep(side.tree) == 5
    assert set(tree_of(side.path)) == {"d", "d/equal", "d/equal2", "s"}
    side.commit(foreign=True)
    assert side.limbo() == set()


def test_crw_8_nothing_foreign_after_everything_was_adopted(side: Local) -> None:
    adopt(side, replace=True)
    side.ok(
        mkdir(D, ROOT, b"d"), plan(A, D, b"equal", 4), link(A, D, b"equal2"), sym(B, ROOT, b"s", b"text"),
        plan(C, ROOT, b"older", 4, mtime=5), plan(E, ROOT, b"extra", 7), plan(F, D, b"extra", 7),
    )  # fmt: skip
    assert list(foreign.walk(side.tree)) == []
    side.holding.set_mode(None)
    assert side.tree.mode is None
    side.commit()
    assert side.tree.index.count() == 7


def test_crw_8_adopting_a_directory_sets_its_attributes(side: Local) -> None:
    adopt(side, replace=False)
    side.ok(EntryOp(Fop.MKDIR, D, Slot(ROOT, b"d"), None, directory(0o711)))
    assert (side.path / "d").stat().st_mode & 0o777 == 0o711


def test_new_files_are_made_beside_adopted_ones(side: Local) -> None:
    adopt(side, replace=False)
    side.ok(mkdir(D, ROOT, b"d"), create(E, D, b"new", b"n"))
    assert (side.path / "d/new").read_bytes() == b"n"
