"""Which source is chosen, what it leaves alone, and how it ends: limits, lost roots, ordinary users (SAFE-1)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.journal.fanotify import Fanotify
from engine.journal.sources import Scan, open_source
from engine.model import EngineError
from engine.volume.handles import RootError, RootIdentity
from tests.system.ordinary import OrdinaryUser
from tests.system.places import Mounts
from tests.system.test_sources import wait_for
from tests.system.watched import BRICK, Watched, changed, entries

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def base(mounts: Mounts) -> Path:
    """A filesystem of its own (root only) with `tree` and `state` on it."""
    base = mounts.tmpfs("fs", "50m")
    (base / "tree").mkdir()
    (base / "state" / "journal").mkdir(parents=True)
    return base


@pytest.fixture
def fanotify(base: Path) -> Iterator[Watched]:
    watched = Watched("fanotify", base / "tree")
    yield watched
    watched.close()


# ---- what is not of the tree -------------------------------------------------------------------------------------


def ignore_state(w: Watched) -> None:
    w.source.ignore([w.gfid("../state"), w.gfid("../state/journal")])


def test_ignored_directories_mark_nothing_and_wake_nobody(fanotify: Watched, base: Path) -> None:
    w = fanotify
    ignore_state(w)
    w.taken()
    state = base / "state"
    for i in range(3):
        (state / "marks.new").write_bytes(b"%d" % i)
        (state / "marks.new").rename(state / "marks")
        (state / "journal" / "2026").mkdir(exist_ok=True)
        (state / "journal" / "2026" / f"CHANGELOG.{i}").write_bytes(b"x")
        (state / "journal" / "2026" / f"CHANGELOG.{i}").chmod(0o600)
        (state / "journal" / "2026" / f"CHANGELOG.{i}").unlink()
        (state / "journal").chmod(0o700)
    w.source.settle()
    assert not w.source.wake.is_set()
    dirty = w.taken()
    assert not dirty.slots and not dirty.objects


def test_what_leaves_an_ignored_directory_for_the_tree_is_seen(fanotify: Watched, base: Path) -> None:
    w = fanotify
    ignore_state(w)
    file = base / "state" / "file"
    file.write_bytes(b"x")
    (base / "state" / "dir" / "below").mkdir(parents=True)
    below = base / "state" / "dir" / "below"
    (below / "one").write_bytes(b"x")
    os.link(below / "one", below / "two")
    w.taken()
    file.rename(w.root / "file")
    (base / "state" / "dir").rename(w.root / "dir")
    assert entries(w.taken()) == {w.slot("file"), w.slot("dir")}
    # the recorder walks what is new in the tree
    w.watch("dir")
    w.watch("dir/below")
    (w.root / "file").chmod(0o600)
    (w.root / "dir" / "below" / "new").write_bytes(b"x")
    (w.root / "dir").chmod(0o700)
    dirty = w.taken()
    assert entries(dirty) == {w.slot("dir/below/new")}
    assert w.gfid("file") in dirty.objects and w.gfid("dir") in dirty.objects
    # of the replaced file's loss of a name, the kernel tells without a directory
    (w.root / "file").rename(w.root / "dir" / "below" / "two")
    assert w.gfid("dir/below/one") in w.taken().objects


def test_a_move_from_the_tree_to_an_ignored_directory_is_seen(fanotify: Watched, base: Path) -> None:
    w = fanotify
    ignore_state(w)
    (w.root / "file").touch()
    w.taken()
    (w.root / "file").rename(base / "state" / "file")
    assert entries(w.taken()) == {w.slot("file")}


def test_other_filesystems_are_not_heard(fanotify: Watched, mounts: Mounts) -> None:
    other = mounts.tmpfs("other", "5m")
    fanotify.taken()
    (other / "file").write_bytes(b"x")
    assert len(fanotify.taken()) == 0


# ---- how it ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["moved", "deleted"])
@pytest.mark.parametrize("kind", ["fanotify", "inotify"])
def test_a_root_that_goes_is_told_SAFE_1(base: Path, kind: str, end: str) -> None:
    root = base / "tree"
    identity = RootIdentity.of(str(root))
    w = Watched(kind, root)
    try:
        root.rename(base / "elsewhere") if end == "moved" else root.rmdir()
        if (kind, end) != ("inotify", "deleted"):  # of a directory that is still open it says nothing
            assert w.source.wake.wait(10)
            assert w.taken().root_lost
        with pytest.raises(RootError):
            identity.check()
    finally:
        w.close()


def test_a_root_that_is_unmounted_or_mounted_over_is_told_SAFE_1(mounts: Mounts) -> None:
    below = mounts.tmpfs("place", "5m")
    under = RootIdentity.of(str(below))
    over = mounts.tmpfs("place", "5m")
    with pytest.raises(RootError, match="another filesystem"):
        under.check()
    upper = RootIdentity.of(str(over))
    assert upper.text != under.text
    mounts.unmount(over)
    under.check()
    with pytest.raises(RootError, match="another filesystem"):
        upper.check()


def test_a_root_is_known_again_after_another_mount_of_it_SAFE_1(mounts: Mounts, tmp_path: Path) -> None:
    image = tmp_path / "image"
    first = mounts.ext4("first", 16)
    identity = RootIdentity.of(str(first))
    subprocess.run(["umount", str(first)], check=True)
    mounts._made.remove(first)
    image = first.parent / "first.img"
    again = mounts.ext4("first", 16, image=image)
    assert RootIdentity.of(str(again)) == identity
    identity.check()
    # every new ext4 has a root of the same inode and generation
    assert RootIdentity.of(str(mounts.ext4("second", 16))).text != identity.text


def test_a_read_only_mount_in_place_does_not_hide_changes_made_by_another_way(base: Path) -> None:
    w = Watched("fanotify", base / "tree")
    view = base.parent / "view"
    view.mkdir()
    subprocess.run(["mount", "--bind", str(base), str(view)], check=True)
    try:
        (view / "tree" / "f").write_bytes(b"x")
        dirty = w.taken()
        assert w.slot("f") in entries(dirty) and changed(dirty, w.gfid("f"), (), 1)
    finally:
        subprocess.run(["umount", str(view)], check=True)
        w.close()


LIMITED = """
import os, sys
from engine.journal.dirty import WatchLimit
from tests.system.watched import Watched
from pathlib import Path
with open("/proc/sys/user/max_inotify_watches", "w") as f:
    f.write("3")
root = Path(sys.argv[1])
for i in range(5):
    (root / str(i)).mkdir()
try:
    Watched("inotify", root)
except WatchLimit as e:
    print(e.code, "|", e, "|", e.hint)
"""


def test_the_limit_of_watches_is_named_with_its_value(scratch: Path) -> None:
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED, scratch],
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip("no user namespaces here")
    value = Path("/proc/sys/fs/inotify/max_user_watches").read_text().strip()
    assert done.stdout.startswith("watch-limit | "), done.stderr
    assert f"fs.inotify.max_user_watches is {value}" in done.stdout


# ---- the choice --------------------------------------------------------------------------------------------------


def test_root_gets_fanotify(base: Path) -> None:
    said: list[tuple[str, str]] = []
    source = open_source("auto", os.fsencode(base / "tree"), BRICK, lambda *a: said.append(a))
    source.stop()
    assert source.name == "fanotify" and not said


def test_the_engine_s_own_directories_are_not_heard_but_the_tree_in_them_is(base: Path) -> None:
    tree = base / "state" / "tree"
    (tree / "below").mkdir(parents=True)
    source = open_source("auto", os.fsencode(tree), BRICK, lambda *_: None, beside=[os.fsencode(base / "state")])
    try:
        (base / "state" / "marks").write_bytes(b"x")
        (base / "state" / "journal" / "CHANGELOG").write_bytes(b"x")
        source.settle()
        assert len(source.take()) == 0
        (tree / "f").touch()
        (tree / "below" / "g").touch()
        source.settle()
        assert {name for _, name in source.take().slots} == {b"f", b"g"}
    finally:
        source.stop()


def test_a_scan_never_wakes_and_has_nothing(scratch: Path) -> None:
    source = open_source("scan", os.fsencode(scratch), BRICK, lambda *_: None)
    assert isinstance(source, Scan) and source.periodic
    source.start()
    (scratch / "f").touch()
    source.settle()
    assert len(source.take()) == 0 and not source.wake.is_set()
    source.stop()


@pytest.mark.parametrize("kind", ["fanotify", "inotify"])
def test_what_is_asked_for_and_cannot_be_had_is_an_error(tmp_path: Path, kind: str) -> None:
    if kind == "fanotify":
        # no file handles, no id of its own
        root = b"/proc/self/fd"
        with pytest.raises(EngineError, match="recorder = fanotify"):
            open_source(kind, root, BRICK, lambda *_: None)
        return
    source = open_source(kind, os.fsencode(tmp_path), BRICK, lambda *_: None)
    assert source.name == "inotify"
    source.stop()


CHOOSE = """
import os, sys
from engine.journal.sources import open_source
from engine.model import EngineError
source = open_source("auto", os.fsencode(sys.argv[1]), b"b" * 16, print)
print(source.name)
source.stop()
try:
    open_source("fanotify", os.fsencode(sys.argv[1]), b"b" * 16, print)
except EngineError as e:
    print(e, "|", e.hint)
"""


def test_an_ordinary_user_gets_inotify_and_the_reason(ordinary: OrdinaryUser, scratch: Path) -> None:
    ordinary.owns(scratch)
    done = subprocess.run(
        [*ordinary.prefix, ordinary.python, "-c", CHOOSE, scratch],
        cwd=ordinary.project, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert "CAP_SYS_ADMIN" in lines[0] and lines[1] == "inotify"
    assert lines[2].startswith("recorder = fanotify: ") and "inotify" in lines[2]


def test_inotify_is_the_same_for_an_ordinary_user(ordinary: OrdinaryUser) -> None:
    if os.geteuid() != 0:
        pytest.skip("this user runs the tests themselves")
    done = subprocess.run(
        [*ordinary.prefix, ordinary.python, "-m", "pytest", "-p", "no:cacheprovider", "tests/system/test_sources.py",
         "-k", "inotify-tmpfs", "-n", "0"],
        cwd=ordinary.project, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and "failed" not in done.stdout


def test_the_reader_ends_when_its_queue_fails_and_settle_says_so(base: Path) -> None:
    source = Fanotify(os.fsencode(base / "tree"), BRICK)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, source.fd)  # an error that no kernel gives us on demand
    os.close(null)
    source.start()
    assert wait_for(lambda: not source._thread.is_alive())
    assert source.take().overflow
    with pytest.raises(OSError):
        source.settle()
    source.stop()
