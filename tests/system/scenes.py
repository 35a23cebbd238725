"""Scenes: one tricky thing each, done within a slice or two to a tree that a session follows.

    python -m tests.system.scenes ground|play TREE OUTSIDE      for all scenes, each in a directory of its own name
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.system.settings import write
from tests.system.syscalls import exchange, link_unnamed
from tests.system.trees import acl
from tests.system.workload import ODD_NAMES

Scene = Callable[[Path, Path], object]
"""What happens, given the tree and a directory outside it on the same filesystem."""


def _swap(a: Path, b: Path) -> None:
    aside = a.with_name(a.name + "-aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def three_swaps_in_a_row(t: Path, _: Path) -> None:
    """The kernel merges them: they arrive as six renames of which the third is folded into the first."""
    for _n in range(3):
        _swap(t / "a", t / "b")


def swap_of_directories(t: Path, _: Path) -> None:
    _swap(t / "d1", t / "d2")
    write(t / "d1/after", "after")


def exchange_of_files(t: Path, _: Path) -> None:
    exchange(os.fsencode(t / "a"), os.fsencode(t / "d1/f"))


def exchange_of_directories(t: Path, _: Path) -> None:
    exchange(os.fsencode(t / "d1"), os.fsencode(t / "d2/sub"))


def exchange_of_a_file_and_a_directory(t: Path, _: Path) -> None:
    exchange(os.fsencode(t / "a"), os.fsencode(t / "d1"))


def parent_and_child_trade_places(t: Path, _: Path) -> None:
    """d2/sub becomes d2, and the old d2 is in it."""
    (t / "d2/sub").rename(t / "aside")
    (t / "d2").rename(t / "aside/old")
    (t / "aside").rename(t / "d2")


def cycle_of_five(t: Path, _: Path) -> None:
    for n in range(5):
        write(t / f"c{n}", str(n))
    (t / "c0").rename(t / "c-aside")
    for n in range(1, 5):
        (t / f"c{n}").rename(t / f"c{n - 1}")
    (t / "c-aside").rename(t / "c4")


def directory_out_and_in_again(t: Path, outside: Path) -> None:
    (t / "d1").rename(outside / "d1")
    write(outside / "d1/f", "changed outside")
    write(outside / "d1/new", "new outside")
    (outside / "d1/only").unlink()
    (outside / "d1").rename(t / "d1")


def directory_out(t: Path, outside: Path) -> None:
    (t / "d2").rename(outside / "d2")


def directory_in(t: Path, outside: Path) -> None:
    for n in range(50):
        write(outside / f"in/x{n % 5}/f{n}", str(n))
    (outside / "in").rename(t / "in")
    write(t / "in/x0/after", "after")


def write_through_a_link_outside(_: Path, outside: Path) -> None:
    with open(outside / "link-a", "ab") as f:
        f.write(b"through the outside")


def times_of_a_symlink_through_a_link_outside(_: Path, outside: Path) -> None:
    os.utime(outside / "symlink", ns=(5, 925), follow_symlinks=False)


def write_to_an_open_file_whose_name_is_gone(t: Path, _: Path) -> None:
    """It has another name; then a new file takes the old name."""
    os.link(t / "a", t / "d1/second")
    with open(t / "a", "ab") as f:
        (t / "a").unlink()
        f.write(b"after the unlink")
    write(t / "a", "another file")


def write_to_an_open_file_that_was_renamed(t: Path, _: Path) -> None:
    with open(t / "a", "ab") as f:
        (t / "a").rename(t / "d2/renamed")
        f.write(b"after the rename")


def same_size_within_one_second(t: Path, _: Path) -> None:
    """As a quick check by size and second would not see it."""
    now = int(time.time())
    write(t / "a", b"1" * 6)
    os.utime(t / "a", (now, now))
    write(t / "a", b"2" * 6)
    os.utime(t / "a", (now, now))


def removed_and_made_again(t: Path, _: Path) -> None:
    shutil.rmtree(t / "d1")
    for name in ("f", "only"):
        write(t / "d1" / name, "again")
    (t / "b").unlink()
    (t / "b").mkdir()


def rename_over(t: Path, _: Path) -> None:
    (t / "a").rename(t / "d1/f")
    (t / "d1/empty").rename(t / "d2/empty")
    for n in range(5):
        write(t / f"set{n}", f"set {n}")
        (t / f"set{n}").rename(t / "set")


def renamed_onto_its_own_link(t: Path, _: Path) -> None:
    """rename(2) of two names of one file does nothing; mv removes one."""
    os.link(t / "a", t / "a2")
    os.rename(t / "a", t / "a2")
    os.link(t / "b", t / "b2")
    (t / "b").unlink()


def hard_links_come_and_go(t: Path, _: Path) -> None:
    os.link(t / "a", t / "d1/l1")
    os.link(t / "a", t / "d2/l2")
    (t / "d1/l1").rename(t / "d2/l3")
    (t / "a").unlink()
    os.symlink("nowhere", t / "s")
    os.link(t / "s", t / "s2", follow_symlinks=False)
    (t / "s").unlink()
    os.symlink("elsewhere", t / "s")


def log_rotation(t: Path, _: Path) -> None:
    for n in range(6):
        for i in (2, 1):
            if (t / f"log.{i}").exists():
                (t / f"log.{i}").rename(t / f"log.{i + 1}")
        if (t / "log").exists():
            (t / "log").rename(t / "log.1")
        write(t / "log", f"log {n}")
        (t / "log.3").unlink(missing_ok=True)


def rsnapshot(t: Path, _: Path) -> None:
    """Hard-linked symlinks, and one renamed over that has other names."""
    os.symlink("/does/not/exist", t / "d1/symlink")
    shutil.copytree(t / "d1", t / "d1.0", symlinks=True, copy_function=os.link)
    os.symlink("/does/not/exist2", t / "d1/.symlink.new")
    (t / "d1/.symlink.new").rename(t / "d1/symlink")


def file_becomes_directory_and_back(t: Path, _: Path) -> None:
    (t / "a").unlink()
    write(t / "a/in/it", "deep")
    shutil.rmtree(t / "d2")
    write(t / "d2", "a file now")
    (t / "b").unlink()
    os.symlink("a", t / "b")


def unnamed_file_gets_a_name(t: Path, _: Path) -> None:
    fd = os.open(t, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"was unnamed")
    link_unnamed(fd, os.fsencode(t / "named"))
    os.close(fd)


def attributes_only(t: Path, _: Path) -> None:
    (t / "a").chmod(0o640)
    os.setxattr(t / "a", "user.key", b"value")
    os.setxattr(t / "d1", "user.key", b"")
    os.utime(t / "b", ns=(1, 999_999_999))
    os.utime(t / "d1", ns=(1, 123_456_789_123_456_789))
    (t / "d2").chmod(0o2775)
    t.chmod(0o750)


def read_only_files(t: Path, _: Path) -> None:
    """Made, written and given attributes, then closed to writing: an ordinary user's replica follows all the same."""
    write(t / "new", "read-only from the start")
    os.setxattr(t / "new", "user.key", b"value")
    (t / "new").chmod(0o444)
    write(t / "a", "changed")
    os.setxattr(t / "a", "user.key", b"value")
    os.setxattr(t / "a", "system.posix_acl_access", acl(1234, 4))
    (t / "a").chmod(0o400)
    write(t / "d1/inside", "in a read-only directory")
    os.setxattr(t / "d1", "user.key", b"value")
    (t / "d1").chmod(0o555)
    (t / "b").chmod(0o200)


def read_only_files_change(t: Path, _: Path) -> None:
    """Opened, changed and closed again; a read-only directory renamed with what is in it, and emptied."""
    for name in ("a", "d1/f"):
        (t / name).chmod(0o444)
    (t / "d2/sub").chmod(0o555)
    (t / "a").chmod(0o644)
    write(t / "a", "changed while open")
    (t / "a").chmod(0o444)
    (t / "d1/f").unlink()
    (t / "d2/sub").chmod(0o755)
    (t / "d2/sub/deep/f").rename(t / "d2/sub/g")
    (t / "d2/sub").chmod(0o555)
    (t / "d2").rename(t / "d1/was-d2")


def thousand_temporary_files(t: Path, _: Path) -> None:
    """Written aside and renamed over, all within one slice: a thousand vanished objects."""
    for n in range(1000):
        write(t / f"file{n}", str(n))
        (t / f"file{n}").rename(t / "file")


def odd_names(t: Path, _: Path) -> None:
    for n, name in enumerate(ODD_NAMES):
        path = Path(os.fsdecode(os.fsencode(t) + b"/" + name))
        write(path, str(n))
        os.link(path, path.with_name(f"link{n}"))
        path.rename(path.with_name(f"was{n}"))
        write(path, "again")


SCENES: list[Scene] = [
    three_swaps_in_a_row, swap_of_directories, exchange_of_files, exchange_of_directories,
    exchange_of_a_file_and_a_directory, parent_and_child_trade_places, cycle_of_five, directory_out_and_in_again,
    directory_out, directory_in, write_through_a_link_outside, times_of_a_symlink_through_a_link_outside,
    write_to_an_open_file_whose_name_is_gone,
    write_to_an_open_file_that_was_renamed, same_size_within_one_second, removed_and_made_again, rename_over,
    renamed_onto_its_own_link, hard_links_come_and_go, log_rotation, rsnapshot, file_becomes_directory_and_back,
    unnamed_file_gets_a_name, attributes_only, read_only_files, read_only_files_change, thousand_temporary_files, odd_names,
]  # fmt: skip


def ground(tree: Path, outside: Path) -> None:
    """What every scene begins with, below one directory of its own."""
    for name in ("a", "b", "d1/f", "d1/only", "d2/f", "d2/sub/deep/f"):
        write(tree / name, f"content of {name}")
    (tree / "d1/empty").mkdir()
    (tree / "d2/empty").mkdir()
    outside.mkdir(parents=True)
    os.link(tree / "a", outside / "link-a")
    (tree / "symlink").symlink_to("nowhere")
    os.link(tree / "symlink", outside / "symlink", follow_symlinks=False)


def main(what: str, tree: Path, outside: Path) -> None:
    """Prepare the ground of all scenes, or play them all."""
    for scene in SCENES:
        if what == "ground":
            ground(tree / scene.__name__, outside / scene.__name__)
        else:
            scene(tree / scene.__name__, outside / scene.__name__)


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
