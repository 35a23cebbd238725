"""Entry operations on real directories, row by row: SEC-1 to SEC-16."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent.types import EntryOp, Fop, Slot, Stat
from tests.agent_side import (
    LIMBO,
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


def test_a_new_file_is_whole_at_once(side: Local) -> None:
    done = side.ok(create(A, ROOT, b"a", b"hello"))
    st = os.stat(side.path / "a")
    assert (side.path / "a").read_bytes() == b"hello"
    assert st.st_mtime_ns == T0 and stat.S_IMODE(st.st_mode) == 0o644
    assert done.sizes == [(0, 5, T0)] and not done.made


def test_a_new_file_without_data_is_reported_as_made(side: Local) -> None:
    done = side.ok(create(A, ROOT, b"a", None))
    assert list(done.made) == [A] and not done.sizes


def test_mode_bits_that_open_drops_are_set(side: Local) -> None:
    side.ok(EntryOp(Fop.CREATE, A, Slot(ROOT, b"a"), None, regular(1, mode=0o4755), None, b"x", {}))
    assert stat.S_IMODE(os.stat(side.path / "a").st_mode) == 0o4755


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_sec_13_made_as_root_then_given_away(side: Local) -> None:
    st = Stat(stat.S_IFREG | 0o4640, 1234, 4321, 1, T0, T0)
    side.ok(EntryOp(Fop.CREATE, A, Slot(ROOT, b"a"), None, st, None, b"x", {}))
    side.ok(EntryOp(Fop.MKDIR, B, Slot(ROOT, b"d"), None, Stat(stat.S_IFDIR | 0o2750, 7, 8, 0, T0, T0), None, None, {}))
    side.ok(
        EntryOp(Fop.SYMLINK, C, Slot(ROOT, b"s"), None, Stat(stat.S_IFLNK | 0o777, 5, 6, 1, T0, T0), b"x", None, {})
    )
    for name, uid, gid, mode in (("a", 1234, 4321, 0o4640), ("d", 7, 8, 0o2750), ("s", 5, 6, 0o777)):
        got = os.lstat(side.path / name)
        assert (got.st_uid, got.st_gid, stat.S_IMODE(got.st_mode), got.st_mtime_ns) == (uid, gid, mode, T0), name


def test_specials_and_symlinks_are_made(side: Local) -> None:
    side.ok(
        EntryOp(
            Fop.MKNOD,
            A,
            Slot(ROOT, b"p"),
            None,
            Stat(stat.S_IFIFO | 0o600, os.getuid(), os.getgid(), 0, T0, T0),
            None,
            None,
            {},
        ),
        sym(B, ROOT, b"s", b"../over/there"),
    )
    assert stat.S_ISFIFO(os.lstat(side.path / "p").st_mode)
    assert os.readlink(side.path / "s") == "../over/there"
    assert os.lstat(side.path / "s").st_mtime_ns == T0


def test_sec_1_unlink_and_rmdir_of_what_is_absent_succeed(side: Local) -> None:
    side.ok(unlink(A, ROOT, b"a"), rmdir(B, ROOT, b"b"), unlink(A, C, b"parent is absent too"))


def test_sec_2_unlink_of_a_name_that_another_gfid_holds(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), mkdir(C, ROOT, b"c"))
    assert side.fails(unlink(B, ROOT, b"a"), errno.EEXIST, "occupied") == A
    assert side.fails(rmdir(B, ROOT, b"c"), errno.EEXIST, "occupied") == C
    assert set(tree_of(side.path)) == {"a", "c"}


def test_sec_2_unlink_of_a_name_that_something_unknown_holds(side: Local) -> None:
    (side.path / "a").write_text("made by a person")
    side.fails(unlink(A, ROOT, b"a"), errno.EEXIST, "unknown")
    assert (side.path / "a").exists()


def test_sec_3_rmdir_not_empty_goes_whole_and_is_removed_at_the_commit(side: Local) -> None:
    side.ok(mkdir(A, ROOT, b"d"), mkdir(B, A, b"e"), create(C, B, b"f", b"x"), create(D, A, b"g"))
    side.ok(rmdir(A, ROOT, b"d"))
    assert tree_of(side.path) == {}
    assert side.tree.index.path(C) == b".georep/limbo/" + hexname(A) + b"/e/f"
    side.commit(A)
    assert side.limbo() == set()
    assert side.tree.index.count() == 0


def test_sec_4_create_of_a_gfid_that_exists_makes_nothing_new(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"one"), create(B, ROOT, b"b", b"two"))
    done = side.ok(EntryOp(Fop.CREATE, A, Slot(ROOT, b"b"), None, regular(3)))
    assert tree_of(side.path)["b"][2] == b"two" and not done.made


def test_sec_4_a_repeated_create_gives_a_displaced_name_back(side: Local) -> None:
    """CREATE a, LINK a b, with an older RENAME onto a before it: repeated, the name must not get lost."""
    side.ok(create(A, ROOT, b"a", b"one"), link(A, ROOT, b"b"), create(B, ROOT, b"c", b"two"))
    done = side.ok(
        rename(B, (ROOT, b"c"), (ROOT, b"a")), rename(B, (ROOT, b"a"), (ROOT, b"c")),
        EntryOp(Fop.CREATE, A, Slot(ROOT, b"a"), None, regular(3)), link(A, ROOT, b"b"),
    )  # fmt: skip
    assert os.path.samefile(side.path / "a", side.path / "b") and not done.made


def test_sec_4_create_repeated_writes_its_data_again(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"one"))
    (side.path / "a").write_bytes(b"torn")
    done = side.ok(create(A, ROOT, b"a", b"one"))
    assert (side.path / "a").read_bytes() == b"one" and done.sizes == [(0, 3, T0)]


def test_sec_4_a_file_made_by_link_in_the_same_frame_is_known(side: Local) -> None:
    side.ok(link(A, ROOT, b"a", regular(0)), create(A, ROOT, b"b", b"x"))
    assert os.path.samefile(side.path / "a", side.path / "b") and len(side.tree.index.rows(A)) == 2


def test_sec_5_mknod_of_a_gfid_that_exists_links_it(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"))
    side.ok(EntryOp(Fop.MKNOD, A, Slot(ROOT, b"b"), None, regular(1)))
    assert os.path.samefile(side.path / "a", side.path / "b")
    assert len(side.tree.index.rows(A)) == 2


def test_sec_6_mkdir_of_a_gfid_elsewhere_renames_it(side: Local) -> None:
    side.ok(mkdir(A, ROOT, b"d"), create(C, A, b"f", b"x"), mkdir(B, ROOT, b"e"))
    done = side.ok(mkdir(A, B, b"d2"))
    assert set(tree_of(side.path)) == {"e", "e/d2", "e/d2/f"} and not done.made
    side.ok(mkdir(A, B, b"d2"))


def test_sec_7_link_of_an_absent_gfid_is_made_from_stat_or_text(side: Local) -> None:
    done = side.ok(link(A, ROOT, b"a", regular(7)), link(B, ROOT, b"s", symlink(), b"text"))
    assert set(done.made) == {A, B}
    assert os.readlink(side.path / "s") == "text" and (side.path / "a").stat().st_size == 0
    side.fails(link(C, ROOT, b"c"), errno.ENOENT, "absent")


def test_sec_8_symlink(side: Local) -> None:
    side.ok(sym(A, ROOT, b"s", b"t"), sym(A, ROOT, b"s", b"t"))
    assert side.fails(sym(B, ROOT, b"s", b"u"), errno.EEXIST, "occupied") == A
    assert os.readlink(side.path / "s") == "t"


def test_creating_on_a_name_that_another_gfid_holds_fails(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"))
    assert side.fails(create(B, ROOT, b"a", b"y"), errno.EEXIST, "occupied") == A
    assert side.fails(mkdir(B, ROOT, b"a"), errno.EEXIST, "occupied") == A
    assert side.fails(link(B, ROOT, b"a", regular()), errno.EEXIST, "occupied") == A
    assert (side.path / "a").read_bytes() == b"x"


def test_sec_9_rename(side: Local) -> None:
    side.ok(mkdir(D, ROOT, b"d"), create(A, ROOT, b"a", b"x"), rename(A, (ROOT, b"a"), (D, b"b")))
    assert set(tree_of(side.path)) == {"d", "d/b"}
    assert side.tree.index.path(A) == b"d/b"


def test_sec_10_rename_between_two_names_of_one_file_removes_the_source(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), link(A, ROOT, b"b"), rename(A, (ROOT, b"a"), (ROOT, b"b")))
    assert set(tree_of(side.path)) == {"b"} and (side.path / "b").stat().st_nlink == 1


def test_sec_11_rename_from_elsewhere_links_a_file(side: Local) -> None:
    side.ok(create(A, ROOT, b"x", b"x"), rename(A, (ROOT, b"gone"), (ROOT, b"b")))
    assert os.path.samefile(side.path / "x", side.path / "b")


def test_sec_11_rename_from_elsewhere_renames_a_directory(side: Local) -> None:
    side.ok(mkdir(A, ROOT, b"x"), create(B, A, b"f"), rename(A, (ROOT, b"gone"), (ROOT, b"y")))
    assert set(tree_of(side.path)) == {"y", "y/f"}


def test_sec_11_rename_of_what_is_nowhere_makes_it(side: Local) -> None:
    done = side.ok(
        rename(A, (ROOT, b"g1"), (ROOT, b"a"), regular(5)),
        rename(B, (ROOT, b"g2"), (ROOT, b"s"), symlink(), b"t"),
    )
    assert set(done.made) == {A, B}
    assert set(tree_of(side.path)) == {"a", "s"}


def test_sec_11_rename_of_a_directory_that_is_nowhere(side: Local) -> None:
    """Made, nothing would tell any more that what is in it is missing: that is for the primary to settle."""
    side.fails(rename(C, (ROOT, b"g3"), (ROOT, b"d"), directory()), errno.ENOENT, "absent")
    assert not tree_of(side.path)


def test_rename_of_what_is_gone_on_both_sides_tells_what_it_would_have_displaced(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), rename(D, (ROOT, b"g"), (ROOT, b"free")))
    assert side.fails(rename(D, (ROOT, b"g"), (ROOT, b"a")), errno.ENOENT, "absent") == A
    assert set(tree_of(side.path)) == {"a"}


def test_sec_12_rename_over_a_file(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"new"), create(B, ROOT, b"b", b"old"), rename(A, (ROOT, b"a"), (ROOT, b"b")))
    assert tree_of(side.path)["b"][2] == b"new" and set(tree_of(side.path)) == {"b"}
    assert side.limbo() == {B.hex()}
    side.ok(rename(B, limbo(B), (ROOT, b"back")))
    assert (side.path / "back").read_bytes() == b"old" and side.limbo() == set()


def test_sec_12_rename_over_one_of_several_names_needs_no_limbo(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"new"), create(B, ROOT, b"b", b"old"), link(B, ROOT, b"c"))
    side.ok(rename(A, (ROOT, b"a"), (ROOT, b"b")))
    assert side.limbo() == set() and (side.path / "c").read_bytes() == b"old"


@pytest.mark.parametrize("what", ["dir-over-file", "file-over-dir", "dir-over-full-dir"])
def test_sec_12_another_kind_or_a_full_directory_is_moved_aside(side: Local, what: str) -> None:
    side.ok(mkdir(A, ROOT, b"a"), create(B, A, b"inside", b"1"), mkdir(C, ROOT, b"c"), create(D, C, b"in", b"2"))
    side.ok(create(E, ROOT, b"e", b"3"))
    if what == "dir-over-file":
        side.ok(rename(A, (ROOT, b"a"), (ROOT, b"e")))
        assert set(tree_of(side.path)) == {"e", "e/inside", "c", "c/in"} and side.limbo() == {E.hex()}
    elif what == "file-over-dir":
        side.ok(rename(E, (ROOT, b"e"), (ROOT, b"a")))
        assert set(tree_of(side.path)) == {"a", "c", "c/in"} and side.limbo() == {A.hex()}
        side.ok(rename(B, (A, b"inside"), (ROOT, b"saved")))  # out of a directory that waits in limbo
        assert (side.path / "saved").read_bytes() == b"1"
    else:
        side.ok(rename(A, (ROOT, b"a"), (ROOT, b"c")))
        assert set(tree_of(side.path)) == {"c", "c/inside", "e"} and side.limbo() == {C.hex()}


def test_sec_15_names_that_lead_elsewhere_are_refused(side: Local, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in (b"", b".", b"..", b"a/b", b"a\0b", b"/etc/passwd"):
        side.fails(create(A, ROOT, name), errno.EINVAL, "refused")
        side.fails(mkdir(A, ROOT, name), errno.EINVAL, "refused")
    side.ok(mkdir(D, ROOT, b"d"))
    os.rmdir(side.path / "d")
    os.symlink(outside, side.path / "d")
    side.tree.dirs.clear()
    side.fails(create(A, D, b"x", b"escaped"), errno.ENOENT, "parent")
    assert list(outside.iterdir()) == []


def test_safe_7_georep_in_the_root_is_refused(side: Local) -> None:
    side.fails(create(A, ROOT, b".georep"), errno.EINVAL, "refused")
    side.fails(rename(A, (ROOT, b"x"), (ROOT, b".georep"), directory()), errno.EINVAL, "refused")
    side.ok(mkdir(B, ROOT, b"d"), mkdir(C, B, b".georep"))


def test_sec_16_what_was_removed_comes_back_by_its_gfid(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"1"), mkdir(B, ROOT, b"b"), create(C, B, b"c", b"2"), sym(D, ROOT, b"d", b"t"))
    inode = (side.path / "a").stat().st_ino
    side.ok(unlink(A, ROOT, b"a"), rmdir(B, ROOT, b"b"), unlink(D, ROOT, b"d"))
    assert tree_of(side.path) == {} and side.limbo() == {A.hex(), B.hex(), D.hex()}
    side.ok(link(A, ROOT, b"a2"), mkdir(B, ROOT, b"b2"), rename(D, (ROOT, b"d"), (B, b"d2")))
    assert set(tree_of(side.path)) == {"a2", "b2", "b2/c", "b2/d2"} and side.limbo() == set()
    assert (side.path / "a2").stat().st_ino == inode


@pytest.mark.parametrize("fop", [Fop.CREATE, Fop.MKNOD])
def test_sec_16_create_and_mknod_take_from_limbo(side: Local, fop: int) -> None:
    side.ok(create(A, ROOT, b"a", b"1"), unlink(A, ROOT, b"a"))
    side.ok(EntryOp(fop, A, Slot(ROOT, b"z"), None, regular(1)))
    assert (side.path / "z").read_bytes() == b"1" and side.limbo() == set()


def test_sec_16_unlink_of_one_of_several_names_only_unlinks(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"1"), link(A, ROOT, b"b"), unlink(A, ROOT, b"a"))
    assert set(tree_of(side.path)) == {"b"} and side.limbo() == set()


def test_sec_16_a_directory_that_comes_back_is_reported_as_made(side: Local) -> None:
    """It was away (moved out of the tree and in again): its attributes may be others, and no record says so."""
    side.ok(mkdir(A, ROOT, b"d"))
    side.ok(rmdir(A, ROOT, b"d"))
    assert side.limbo() == {A.hex()}
    assert list(side.ok(mkdir(A, ROOT, b"e")).made) == [A]
    assert not side.ok(mkdir(A, ROOT, b"e")).made


def test_sec_16_a_swap_through_limbo(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"A"), create(B, ROOT, b"b", b"B"))
    side.ok(rename(A, (ROOT, b"a"), limbo(A)), rename(B, (ROOT, b"b"), (ROOT, b"a")), rename(A, limbo(A), (ROOT, b"b")))
    assert {k: v[2] for k, v in tree_of(side.path).items()} == {"a": b"B", "b": b"A"}
    assert side.limbo() == set()


def test_sec_16_limbo_takes_names_by_gfid_only(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"A"))
    side.fails(rename(A, (ROOT, b"a"), (LIMBO, b"else")), errno.EINVAL, "refused")
    side.fails(create(B, LIMBO, hexname(B)), errno.EINVAL, "refused")


def test_unlink_then_create_of_a_name_is_one_replacement(side: Local) -> None:
    side.ok(create(A, ROOT, b"f", b"old"))
    watch = os.open(side.path, os.O_RDONLY)
    side.ok(unlink(A, ROOT, b"f"), create(B, ROOT, b"f", b"new"))
    os.close(watch)
    assert (side.path / "f").read_bytes() == b"new" and side.limbo() == {A.hex()}
    side.ok(unlink(B, ROOT, b"f"), sym(C, ROOT, b"f", b"t"))
    assert os.readlink(side.path / "f") == "t"
    side.ok(create(D, ROOT, b"g", b"d"), unlink(C, ROOT, b"f"), rename(D, (ROOT, b"g"), (ROOT, b"f")))
    assert (side.path / "f").read_bytes() == b"d" and set(tree_of(side.path)) == {"f"}
    assert side.limbo() == {A.hex(), B.hex(), C.hex()}


def test_a_replaced_file_is_never_missing(side: Local) -> None:
    """SEC-16, RENAME and replacement: a reader finds the old or the new content, never nothing."""
    import threading

    side.ok(create(A, ROOT, b"f", b"0"))
    stop, missing = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                (side.path / "f").read_bytes()
            except FileNotFoundError:
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        last = A
        for i in range(100, 400):
            g = gfid(i)
            if i % 2:
                side.ok(unlink(last, ROOT, b"f"), create(g, ROOT, b"f", b"x"))
            else:
                side.ok(create(g, ROOT, b"new", b"y"), rename(g, (ROOT, b"new"), (ROOT, b"f")))
            last = g
    finally:
        stop.set()
        reader.join()
    assert not missing


def test_unlink_then_a_create_that_fails_still_unlinks(side: Local) -> None:
    side.ok(create(A, ROOT, b"f", b"old"))
    done = side.apply(unlink(A, ROOT, b"f"), EntryOp(Fop.CREATE, B, Slot(ROOT, b"f")))
    assert [(f.index, f.errno) for f in done.failures] == [(1, errno.ENOENT)]
    assert tree_of(side.path) == {}


def test_unlink_then_create_of_a_gfid_that_lives_elsewhere(side: Local) -> None:
    side.ok(create(A, ROOT, b"f", b"old"), create(B, ROOT, b"g", b"b"))
    side.ok(unlink(A, ROOT, b"f"), EntryOp(Fop.CREATE, B, Slot(ROOT, b"f"), None, regular(1)))
    assert os.path.samefile(side.path / "f", side.path / "g") and side.limbo() == {A.hex()}


def test_con_5_a_missing_parent_is_told(side: Local) -> None:
    assert side.fails(create(A, D, b"a"), errno.ENOENT, "parent") == D
    assert side.fails(mkdir(A, D, b"a"), errno.ENOENT, "parent") == D
    side.ok(create(B, ROOT, b"b"))
    side.fails(create(A, B, b"a"), errno.ENOTDIR, "parent")


def test_one_failure_does_not_stop_the_rest(side: Local) -> None:
    done = side.apply(create(A, D, b"x"), create(B, ROOT, b"b", b"b"), create(C, ROOT, b"\xff\xfe", b"c"))
    assert [f.index for f in done.failures] == [0]
    assert (side.path / "b").exists() and os.path.exists(os.path.join(os.fsencode(side.path), b"\xff\xfe"))


def test_a_stale_row_is_noticed_at_use(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), mkdir(D, ROOT, b"d"))
    side.commit()
    os.rename(side.path / "a", side.path / "moved")
    (side.path / "a").write_text("another one")
    side.fails(unlink(A, ROOT, b"a"), errno.EEXIST, "unknown")
    assert (side.path / "a").read_text() == "another one"
    os.rename(side.path / "d", side.path / "d2")
    os.mkdir(side.path / "d")
    side.tree.dirs.clear()
    side.fails(create(B, D, b"x"), errno.ENOENT, "parent")
    assert not list((side.path / "d").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_err_3_an_immutable_file_fails_alone(side: Local) -> None:
    import subprocess

    side.ok(create(A, ROOT, b"a", b"x"), create(B, ROOT, b"b", b"y"))
    if subprocess.run(["chattr", "+i", side.path / "a"], capture_output=True, check=False).returncode:
        pytest.skip("no immutable files on this filesystem")
    try:
        done = side.apply(unlink(A, ROOT, b"a"), unlink(B, ROOT, b"b"))
        assert [(f.index, f.errno) for f in done.failures] == [(0, errno.EPERM)]
        assert set(tree_of(side.path)) == {"a"}
    finally:
        subprocess.run(["chattr", "-i", side.path / "a"], check=True)


def test_too_long_a_name_fails_alone(side: Local) -> None:
    done = side.apply(create(A, ROOT, b"n" * 256, b"x"), create(B, ROOT, b"n" * 255, b"y"))
    assert [(f.index, f.errno) for f in done.failures] == [(0, errno.ENAMETOOLONG)]


def test_deep_trees_work_component_by_component(side: Local) -> None:
    """300 levels of 255-byte names, made, moved and removed, with few open directories."""
    side.tree.dirs._limit = 40
    parent = ROOT
    for i in range(300):
        g = gfid(1000 + i)
        side.ok(mkdir(g, parent, bytes([97 + i % 26]) * 255))
        parent = g
    side.tree.dirs.clear()
    done = side.ok(create(A, parent, b"leaf", b"deep"))
    assert done.sizes == [(0, 4, T0)]
    side.ok(mkdir(B, ROOT, b"top"), rename(gfid(1150), (gfid(1149), bytes([97 + 150 % 26]) * 255), (B, b"half")))
    side.tree.dirs.clear()
    side.ok(rename(A, (parent, b"leaf"), (ROOT, b"leaf")))
    assert (side.path / "leaf").read_bytes() == b"deep"
    side.ok(rmdir(gfid(1000), ROOT, b"a" * 255), rmdir(B, ROOT, b"top"))
    side.commit(gfid(1000), B)
    assert side.limbo() == set() and os.listdir(side.path / ".georep" / "trash") == []
    assert side.tree.index.count() == 1


def test_default_acls_do_not_leak_into_files(side: Local) -> None:
    side.ok(mkdir(D, ROOT, b"d"))
    acl = bytes.fromhex("0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000500ffffffff")
    try:
        os.setxattr(side.path / "d", "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("no ACLs here")
    side.tree.dirs.clear()
    side.ok(create(A, D, b"f", b"x"))
    assert "system.posix_acl_access" not in os.listxattr(side.path / "d" / "f")
    assert stat.S_IMODE((side.path / "d" / "f").stat().st_mode) == 0o644


def test_xattrs_travel_with_a_new_file(side: Local) -> None:
    try:
        os.setxattr(side.path, "user.probe", b"1")
    except OSError:
        pytest.skip("no user xattrs here")
    side.ok(
        EntryOp(Fop.CREATE, A, Slot(ROOT, b"a"), None, regular(1), None, b"x", {b"user.k": b"\0v", b"trusted.no": b"1"})
    )
    assert os.getxattr(side.path / "a", "user.k") == b"\0v" and os.listxattr(side.path / "a") == ["user.k"]
