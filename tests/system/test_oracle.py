"""The judge sees every kind of difference, one at a time, and nothing where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.oracle import differences
from tests.system.trees import acl, deep, every_kind, many_files, open_deep

DEEP = 320


@pytest.fixture
def pair(scratch: Path) -> tuple[Path, Path]:
    """Two equal trees, the second copied by rsync."""
    one, two = scratch / "one", scratch / "two"
    every_kind(one)
    subprocess.run(["rsync", "-aHAX", "--modify-window=-1", "--sparse", f"{one}/", f"{two}/"], check=True)
    # the deep part does not fit into rsync's paths: it is built twice
    deep(one, DEEP)
    deep(two, DEEP)
    os.utime(two, ns=(one.stat().st_atime_ns, one.stat().st_mtime_ns))
    return one, two


def _all(pair: tuple[Path, Path], **options: bool) -> list[str]:
    return differences(os.fsencode(pair[0]), os.fsencode(pair[1]), **options)


def test_a_true_copy_has_no_differences(pair: tuple[Path, Path]) -> None:
    assert _all(pair) == []


def test_the_state_directory_is_allowed_in_the_root_only(pair: tuple[Path, Path]) -> None:
    (pair[1] / ".georep").mkdir()
    os.utime(pair[1], ns=(0, pair[0].stat().st_mtime_ns))
    assert _all(pair) == []
    (pair[1] / "sub" / ".georep").mkdir()
    assert any("extra" in d for d in _all(pair))


def _at_the_bottom(root: Path) -> None:
    fd = open_deep(root, DEEP)
    os.unlink("bottom", dir_fd=fd)
    os.close(fd)


def _keep_times(path: Path, change: Callable[[], object]) -> None:
    before = path.lstat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def _replace(path: Path, make: Callable[[], object]) -> None:
    folder, before = path.parent, path.parent.stat()
    path.unlink()
    make()
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _split_links(root: Path) -> None:
    shutil.copy2(root / "sub/second", root / "sub/tmp")
    os.replace(root / "sub/tmp", root / "sub/second")


MUTATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda r: (r / "sub/other").unlink(), "missing"),
    "extra": (lambda r: (r / "sub/new").touch(), "extra"),
    "extra odd name": (lambda r: (r / os.fsdecode(b"\xfe")).touch(), "extra"),
    "bottom of a deep tree": (_at_the_bottom, "missing"),
    "type": (lambda r: _replace(r / "fifo", (r / "fifo").touch), "type: fifo != file"),
    "content": (lambda r: _keep_times(r / "file", lambda: (r / "file").write_bytes(b"x" * 4999 + b"y")), "byte 4999"),
    "size": (lambda r: _keep_times(r / "file", lambda: (r / "file").write_bytes(b"x")), "size"),
    "mode": (lambda r: (r / "sub/other").chmod(0o4711), "mode"),
    "directory mode": (lambda r: (r / "sub/empty").chmod(0o700), "mode"),
    "mtime by a nanosecond": (lambda r: os.utime(r / "file", ns=(0, (r / "file").stat().st_mtime_ns + 1)), "mtime"),
    "mtime of a directory": (lambda r: os.utime(r / "sub/empty", ns=(0, 5)), "(directory)"),
    "mtime of the root": (lambda r: os.utime(r, ns=(0, 5)), "(directory)"),
    "mtime of a symlink": (lambda r: os.utime(r / "link", ns=(0, 5), follow_symlinks=False), "(symlink)"),
    "link text": (lambda r: _replace(r / "link", lambda: os.symlink("elsewhere", r / "link")), "link text"),
    "xattr value": (lambda r: os.setxattr(r / "file", "user.one", b"2"), "xattr user.one"),
    "xattr missing": (lambda r: os.removexattr(r / "file", "user.one"), "xattr user.one"),
    "xattr extra": (lambda r: os.setxattr(r / "sub", "user.two", b"2"), "xattr user.two"),
    "acl": (lambda r: os.setxattr(r / "file", "system.posix_acl_access", acl(1234, 4)), "posix_acl_access"),
    "default acl": (lambda r: os.setxattr(r / "sub", "system.posix_acl_default", acl(1234, 4)), "posix_acl_default"),
    "hard link broken": (_split_links, "hard links"),
    "hard link too many": (lambda r: os.link(r / "file", r.parent / "outside"), "link count"),
    "no longer sparse": (lambda r: (r / "sparse").write_bytes(b"head" + bytes((4 << 20) - 4)), "sparse"),
}
AS_ROOT: dict[str, tuple[Callable[[Path], object], str]] = {
    "owner": (lambda r: os.chown(r / "sub/other", 1, 0), "owner"),
    "group of a symlink": (lambda r: os.lchown(r / "link", 0, 1), "owner"),
    "device number": (
        lambda r: _replace(r / "node", lambda: os.mknod(r / "node", 0o20600, os.makedev(240, 8))), "device"),
}  # fmt: skip


@pytest.mark.parametrize("what", [*MUTATIONS, *AS_ROOT])
def test_it_sees(pair: tuple[Path, Path], what: str) -> None:
    if what in AS_ROOT and os.geteuid() != 0:
        pytest.skip("needs root")
    change, word = (MUTATIONS | AS_ROOT)[what]
    change(pair[1])
    found = _all(pair)
    assert any(word in line for line in found), found


def test_hard_links_joined_where_the_primary_has_two_files(scratch: Path) -> None:
    for name in ("one", "two"):
        (scratch / name).mkdir()
        (scratch / name / "a").write_bytes(b"same")
    shutil.copy2(scratch / "one/a", scratch / "one/b")
    os.utime(scratch / "two/a", ns=(0, (scratch / "one/a").stat().st_mtime_ns))
    os.link(scratch / "two/a", scratch / "two/b")
    os.utime(scratch / "two", ns=(0, (scratch / "one").stat().st_mtime_ns))
    assert any("same object" in d for d in _all((scratch / "one", scratch / "two")))


def test_a_link_from_outside_the_primary_is_not_a_difference(pair: tuple[Path, Path]) -> None:
    os.link(pair[0] / "sub/other", pair[0].parent / "outside")
    assert _all(pair) == []


def test_what_was_asked_to_be_left_out_is_left_out(pair: tuple[Path, Path]) -> None:
    os.utime(pair[1] / "sub", ns=(0, 5))
    _keep_times(pair[1] / "file", lambda: (pair[1] / "file").write_bytes(b"y" * 5000))
    assert _all(pair, directory_mtimes=False, content=False) == []
    assert len(_all(pair)) == 3  # the file has two names


def test_it_is_fast_enough_to_be_polled(scratch: Path) -> None:
    """20,000 files within 3 seconds of processor time; the same pace does 100,000 in a few."""
    for name in ("one", "two"):
        many_files(scratch / name, 100, 200)
    before = time.process_time()
    differences(os.fsencode(scratch / "one"), os.fsencode(scratch / "two"), limit=1 << 30)
    assert time.process_time() - before < 3
