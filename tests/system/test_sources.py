"""Event sources on real filesystems: nothing that happened before a slice closed is missed (MRK-9)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.journal.dirty import DATA, META
from engine.journal.inotify import Inotify
from tests.system import syscalls
from tests.system.places import Mounts
from tests.system.watched import Watched, changed, entries

CREATE_MANY = 'cd "$0"; i=0; while [ $i -lt $1 ]; do : > file-$i; i=$((i+1)); done'
STORM = 'cd "$0"; while :; do : > x; : > y; : > x; : > z; done'

KINDS = ["fanotify-tmpfs", "fanotify-ext4", "inotify-tmpfs", "inotify-ext4"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, scratch: Path) -> tuple[str, Path]:
    """A kind of source, and a directory of its own for a tree and what is beside it."""
    kind, _, filesystem = request.param.partition("-")
    if os.geteuid() != 0:
        if request.param != "inotify-tmpfs":
            pytest.skip("needs root")
        return kind, scratch
    mounts: Mounts = request.getfixturevalue("mounts")
    return kind, mounts.tmpfs("fs", "200m") if filesystem == "tmpfs" else mounts.ext4("fs", 200)


@pytest.fixture
def watch(place: tuple[str, Path]) -> Iterator[Callable[..., Watched]]:
    """Makes a source on `tree`; beside it is `outside`, on the same filesystem."""
    made: list[Watched] = []
    kind, base = place
    for name in ("tree", "outside"):
        (base / name).mkdir()

    def make(**options: object) -> Watched:
        made.append(Watched(kind, base / "tree", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for watched in made:
        watched.close()


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll until it holds or the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


# ---- what marks what ---------------------------------------------------------------------------------------------


def test_every_kind_of_creation_marks_its_slot_MRK_9(watch: Callable[..., Watched]) -> None:
    w = watch()
    root = w.root
    (root / "file").touch()
    (root / "dir").mkdir()
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    os.link(root / "file", root / "hard")
    names = ["file", "dir", "link", "fifo", "hard"]
    unnamed = os.open(root, os.O_TMPFILE | os.O_WRONLY)
    os.write(unnamed, b"x")
    syscalls.link_unnamed(unnamed, os.fsencode(root / "late"))
    os.close(unnamed)
    dirty = w.taken()
    assert entries(dirty) >= {w.slot(name) for name in [*names, "late"]}
    assert dirty.first_time is not None and not dirty.overflow and not dirty.root_lost


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.write_bytes(b"new"),
        lambda f: os.truncate(f, 2),
        lambda f: os.utime(f, ns=(0, 0)),
        lambda f: subprocess.run(["touch", "-m", "-d", "2001-01-01", f], check=True),
        lambda f: f.chmod(0o600),
        lambda f: os.setxattr(f, "user.test", b"1"),
        lambda f: f.open("r+b").truncate(1),
    ],
    ids=["write", "truncate", "utime", "touch-m", "chmod", "setxattr", "ftruncate"],
)
def test_a_change_marks_the_object_or_its_slot(watch: Callable[..., Watched], change: Callable[[Path], object]) -> None:
    w = watch(start=False)
    file = w.root / "f"
    file.write_bytes(b"content")
    w.taken()
    change(file)
    dirty = w.taken()
    assert changed(dirty, w.gfid("f"), [w.slot("f")], META)
    assert not entries(dirty)


def test_a_write_marks_content_and_chmod_does_not(watch: Callable[..., Watched]) -> None:
    w = watch()
    (w.root / "f").write_bytes(b"content")
    (w.root / "g").write_bytes(b"content")
    w.taken()
    with open(w.root / "f", "r+b") as f:
        f.write(b"new")
    (w.root / "g").chmod(0o600)
    dirty = w.taken()
    assert changed(dirty, w.gfid("f"), [w.slot("f")], DATA)
    assert not changed(dirty, w.gfid("g"), [w.slot("g")], DATA)


@pytest.mark.parametrize("path", ["", "d"])
def test_a_directory_s_own_change_marks_it(watch: Callable[..., Watched], path: str) -> None:
    w = watch()
    (w.root / "d").mkdir()
    w.watch("d")
    w.taken()
    (w.root / path).chmod(0o711)
    assert w.taken().objects[w.gfid(path)] & META


def test_deletes_mark_their_slots(watch: Callable[..., Watched]) -> None:
    w = watch()
    (w.root / "d").mkdir()
    (w.root / "f").touch()
    w.taken()
    (w.root / "d").rmdir()
    (w.root / "f").unlink()
    assert entries(w.taken()) == {w.slot("d"), w.slot("f")}


def test_renames_within_and_across_directories_mark_both_slots(watch: Callable[..., Watched]) -> None:
    w = watch()
    root = w.root
    for name in ("a", "b"):
        (root / name).mkdir()
        w.watch(name)
    for name in ("f", "g", "h", "a/over", "d"):
        (root / name).touch() if name != "d" else (root / name).mkdir()
    w.taken()
    (root / "f").rename(root / "f2")
    (root / "g").rename(root / "b" / "g2")
    (root / "h").rename(root / "a" / "over")
    (root / "d").rename(root / "a" / "d")
    names = ["f", "f2", "g", "b/g2", "h", "a/over", "d", "a/d"]
    assert entries(w.taken()) == {w.slot(name) for name in names}


def test_names_that_are_swapped_again_and_again_are_both_marked(watch: Callable[..., Watched]) -> None:
    w = watch()
    (w.root / "one").touch()
    (w.root / "two").mkdir()
    w.taken()
    for _ in range(3):
        syscalls.exchange(os.fsencode(w.root / "one"), os.fsencode(w.root / "two"))
    assert entries(w.taken()) == {w.slot("one"), w.slot("two")}


def test_a_directory_moved_out_and_in_marks_its_slot_and_stays_the_same(watch: Callable[..., Watched]) -> None:
    w = watch()
    outside = w.root.parent / "outside"
    (w.root / "d").mkdir()
    w.watch("d")
    gfid = w.gfid("d")
    w.taken()
    (w.root / "d").rename(outside / "d")
    assert w.slot("d") in entries(w.taken())
    w.source.forget_directory(gfid)
    w.taken()
    (outside / "d" / "unseen").touch()
    (outside / "d").rename(w.root / "again")
    assert w.slot("again") in entries(w.taken())
    w.watch("again")
    assert w.gfid("again") == gfid
    (w.root / "again" / "seen").touch()
    assert (gfid, b"seen") in entries(w.taken())


def test_a_write_through_a_hard_link_outside_the_tree_marks_the_object(watch: Callable[..., Watched]) -> None:
    w = watch()
    other = w.root.parent / "outside" / "other"
    (w.root / "f").touch()
    os.link(w.root / "f", other)
    w.watch_file("f")
    w.taken()
    other.write_bytes(b"through the outside")
    assert changed(w.taken(), w.gfid("f"), (), DATA)
    other.chmod(0o600)
    assert changed(w.taken(), w.gfid("f"), (), META)


def test_a_file_watched_for_itself_may_be_deleted_and_made_again(watch: Callable[..., Watched]) -> None:
    w = watch()
    other = w.root.parent / "outside" / "other"
    for content in (b"one", b"two", b"three"):
        (w.root / "f").touch()
        os.link(w.root / "f", other)
        w.watch_file("f")
        w.watch_file("f")
        w.taken()
        other.write_bytes(content)
        assert changed(w.taken(), w.gfid("f"), (), DATA)
        other.unlink()
        (w.root / "f").unlink()
        w.taken()


def test_a_write_to_a_deleted_open_file_is_the_object_s_and_no_new_name(watch: Callable[..., Watched]) -> None:
    w = watch()
    file = w.root / "f"
    with open(file, "wb", buffering=0) as f:
        old = w.gfid("f")
        file.unlink()
        file.touch()
        w.taken()
        f.write(b"nobody can read this")
        dirty = w.taken()
    assert not entries(dirty)
    if w.kind == "fanotify":
        assert set(dirty.objects) == {old}, "marked by the name it had, which is another file's now"


def test_a_write_to_a_renamed_open_file_marks_it(watch: Callable[..., Watched]) -> None:
    w = watch()
    with open(w.root / "f", "wb", buffering=0) as f:
        (w.root / "f").rename(w.root / "g")
        w.taken()
        f.write(b"x")
        assert changed(w.taken(), w.gfid("g"), [w.slot("g")], DATA)


def test_deleted_directories_leave_no_watch_behind(watch: Callable[..., Watched]) -> None:
    w = watch()
    for i in range(100):
        (w.root / "d").mkdir()
        w.watch("d")
        if i % 2:
            w.source.forget_directory(w.gfid("d"))
        (w.root / "d" / "f").touch()
        (w.root / "d" / "f").unlink()
        (w.root / "d").rmdir()
    assert w.slot("d") in entries(w.taken())
    if isinstance(w.source, Inotify):
        assert list(w.source._gfids.values()) == list(w.source._wds) == [w.gfid("")]
    with open(f"/proc/self/fdinfo/{w.source.fd}") as f:
        assert f.read().count("inotify wd:") == (1 if w.kind == "inotify" else 0)


def test_names_are_bytes_of_any_kind_and_length(watch: Callable[..., Watched]) -> None:
    w = watch()
    names = [b"n" * 255, b"\xff\xfe not text", b" ", b"new\nline", "ä€".encode(), b"...", b"x" * 15, b"y" * 16]
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=w.root_fd))
    assert entries(w.taken()) == {(w.gfid(""), name) for name in names}


# ---- closing a slice ---------------------------------------------------------------------------------------------


def random_operation(rng: random.Random, w: Watched, directories: list[str]) -> set[tuple[bytes, bytes]]:
    """Do something, somewhere; the slots it touched."""
    above = rng.choice(directories)
    path = f"{above}/{rng.randrange(6)}" if above else f"{rng.randrange(6)}"
    other = rng.choice(directories)
    target = f"{other}/{rng.randrange(6)}" if other else f"{rng.randrange(6)}"
    at, to = w.root / path, w.root / target
    try:
        match rng.randrange(8):
            case 0 | 1:
                os.close(os.open(at, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            case 2:
                at.unlink()
            case 3:
                if at.lstat().st_ino == to.lstat().st_ino:
                    return set()  # two names of one file: rename does nothing
                at.rename(to)
                return {w.slot(path), w.slot(target)}
            case 4:
                at.lstat()
                if os.path.lexists(to):
                    return set()
                at.rename(to)
                return {w.slot(path), w.slot(target)}
            case 5:
                os.link(at, to)
                return {w.slot(target)}
            case 6:
                if at.lstat().st_ino == to.lstat().st_ino:
                    return set()
                syscalls.exchange(os.fsencode(at), os.fsencode(to))
                return {w.slot(path), w.slot(target)}
            case _:
                at.symlink_to("x")
    except OSError:
        return set()
    return {w.slot(path)}


@pytest.mark.parametrize("running", [True, False], ids=["thread", "no-thread"])
def test_settle_sees_all_that_was_done_before_it_MRK_9(
    watch: Callable[..., Watched], running: bool, long: bool
) -> None:
    w = watch(start=running)
    directories = ["", "a", "a/b", "c"]
    for name in directories[1:]:
        (w.root / name).mkdir()
        w.watch(name)
    w.taken()
    for seed in range(200 if long else 25):
        rng = random.Random(seed)
        done = set().union(*(random_operation(rng, w, directories) for _ in range(200)))
        assert len(done) >= 12, "next to nothing was done"
        assert entries(w.taken()) == done, f"seed {seed}"


def test_settle_does_not_wait_for_a_storm_to_end_MRK_9(watch: Callable[..., Watched]) -> None:
    w = watch()
    storms = [subprocess.Popen(["sh", "-c", STORM, w.root]) for _ in range(2)]
    try:
        assert wait_for(lambda: w.slot("x") in w.taken().slots)
        for i in range(30):
            (w.root / f"mark-{i}").touch()
            began = time.monotonic()
            dirty = w.taken()
            assert dirty.overflow or w.slot(f"mark-{i}") in entries(dirty)
            assert time.monotonic() - began < 2
    finally:
        for storm in storms:
            storm.kill()
            storm.wait()


def test_fifty_thousand_creates_do_not_overflow(watch: Callable[..., Watched]) -> None:
    w = watch()
    subprocess.run(["sh", "-c", CREATE_MANY, w.root, "50000"], check=True)
    dirty = w.taken()
    assert not dirty.overflow
    root = w.gfid("")
    assert entries(dirty) == {(root, b"file-%d" % i) for i in range(50_000)}


def test_an_overflow_of_the_kernel_s_queue_is_told_and_what_comes_after_is_seen(watch: Callable[..., Watched]) -> None:
    w = watch(unlimited=False, start=False)
    w.source.reading.clear()
    w.source.start()
    subprocess.run(["sh", "-c", CREATE_MANY, w.root, "20000"], check=True)
    dirty = w.taken()
    assert dirty.overflow and not dirty.slots and not dirty.objects
    w.source.reading.set()
    (w.root / "after").touch()
    dirty = w.taken()
    assert not dirty.overflow and w.slot("after") in entries(dirty)


def test_more_than_may_be_held_is_an_overflow_and_is_dropped(watch: Callable[..., Watched]) -> None:
    w = watch(most=1000)
    for i in range(2000):
        (w.root / f"file-{i}").touch()
    dirty = w.taken()
    assert dirty.overflow and not dirty.slots and not dirty.handles
    (w.root / "after").touch()
    dirty = w.taken()
    assert not dirty.overflow and entries(dirty) == {w.slot("after")}


def test_the_first_event_after_a_take_wakes_and_only_it(watch: Callable[..., Watched]) -> None:
    w = watch()
    w.taken()
    assert not w.source.wake.is_set() and w.source.first_time is None
    before = time.time()
    (w.root / "f").touch()
    assert w.source.wake.wait(10)
    assert w.source.first_time is not None and before <= w.source.first_time <= time.time()
    w.taken()
    assert not w.source.wake.is_set() and w.source.first_time is None
    assert len(w.taken()) == 0


def test_stop_joins_the_thread_and_leaves_no_descriptor(place: tuple[str, Path]) -> None:
    kind, base = place
    before = set(os.listdir("/proc/self/fd"))
    for start in (True, False):
        w = Watched(kind, base, start=start)
        w.source.reading.clear()
        (base / f"f{start}").touch()
        w.close()
        w.source.stop()
    assert set(os.listdir("/proc/self/fd")) == before
    assert not [t.name for t in threading.enumerate() if t.name.startswith(kind)]


def test_a_directory_is_watched_while_events_flow_and_none_is_lost(watch: Callable[..., Watched]) -> None:
    w = watch()
    lost = []
    for i in range(300):
        (w.root / f"d{i}").mkdir()
        w.watch(f"d{i}")
        (w.root / f"d{i}" / "first").touch()
        if i % 50 == 0 and w.slot(f"d{i}/first") not in entries(w.taken()):
            lost.append(i)
    dirty = entries(w.taken())
    lost += [i for i in range(251, 300) if w.slot(f"d{i}/first") not in dirty]
    assert not lost


def test_both_halves_of_a_rename_come_in_one_slice_MRK_9(watch: Callable[..., Watched]) -> None:
    w = watch()
    for name in ("a", "b"):
        (w.root / name).mkdir()
        w.watch(name)
    (w.root / "a" / "x").touch()
    here, there = w.slot("a/x"), w.slot("b/x")
    w.taken()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(w.root)
            while True:
                os.rename("a/x", "b/x")
                os.rename("b/x", "a/x")
        finally:
            os._exit(1)
    halves = slices = 0
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            slots = w.taken().slots
            slices += here in slots
            halves += (here in slots) != (there in slots)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert slices > 100
    assert not halves, f"{halves} of {slices} slices had one half of a rename"


def test_a_move_out_of_the_tree_does_not_hold_up_a_slice(watch: Callable[..., Watched]) -> None:
    w = watch()
    for i in range(20):
        (w.root / f"f{i}").touch()
    w.taken()
    began = time.monotonic()
    for i in range(20):
        (w.root / f"f{i}").rename(w.root.parent / "outside" / f"f{i}")
        assert w.slot(f"f{i}") in entries(w.taken())
    assert time.monotonic() - began < 2
