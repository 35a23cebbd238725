"""SYN-1, SYN-2, SYN-3, SYN-7, ERR-3, ERR-6: the rsync and tarssh engines, with the real programs and a real agent."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.agent.index import Index
from engine.apply import BrickFault, Result
from engine.link import LinkError
from engine.model import EngineError, Gfid
from engine.options import Options
from engine.transfer.children import TransferError
from engine.transfer.choose import parallel
from engine.transfer.jobs import Engine, Parallel
from engine.transfer.limit import Bandwidth
from engine.transfer.staged import LONGEST_PATH
from engine.volume.handles import can_open_by_handle
from engine.volume.tree import TreeView
from tests.system.line import Line
from tests.system.ordinary import OrdinaryUser
from tests.system.places import Mounts
from tests.system.processes import below
from tests.system.sshd import Sshd
from tests.system.transfer_rig import ENGINES, LOCAL, Meddler, Rig, ssh_target, write
from tests.system.trees import acl

def ordinary_tree(root: Path) -> None:
    (root / "sub" / "deeper").mkdir(parents=True)
    write(root / "small", 100)
    write(root / "sub" / "large", 5_000_000)
    (root / "empty").write_bytes(b"")
    (root / os.fsdecode(b"odd\n%\r\xff -e 'q' [ab]")).write_bytes(b"odd")
    (root / "-rf").write_bytes(b"a dash")
    write(root / "sub" / "deeper" / "linked", 7000)
    os.link(root / "sub" / "deeper" / "linked", root / "second")
    (root / "private").write_bytes(b"secret")
    (root / "private").chmod(0o4600)
    os.utime(root / "private", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    os.setxattr(root / "small", "user.one", b"\x00\xff")
    os.setxattr(root / "small", "system.posix_acl_access", acl(1234, 6))


@pytest.mark.parametrize("name", ENGINES)
def test_syn2_syn3_new_files_arrive_whole(rig: Rig, name: str) -> None:
    ordinary_tree(rig.primary)
    files = list(dict.fromkeys(rig.make()))
    engine = rig.engine(name)
    result = rig.send(engine, files, files)
    assert not result.problems and not result.gone
    assert result.sent == set(files)
    assert result.files == len(files) == rig.watch.sent_files
    assert result.bytes == rig.watch.sent_bytes == 100 + 5_000_000 + 0 + 3 + 6 + 7000 + 6
    # what has several names can only be written in place, which the stream engine does without zeros for what it cannot read
    assert engine.fallback.fell_back == [rig.gfid("second")]  # type: ignore[attr-defined]
    assert ["several names" in line for line in rig.lines] == [True]
    rig.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn2_syn3_changed_files_are_put_in_place_whole(rig: Rig, name: str) -> None:
    """A file of one name is replaced by another; one of several names is written over, in each of them."""
    ordinary_tree(rig.primary)
    files = list(dict.fromkeys(rig.make()))
    engine = rig.engine(name)
    rig.send(engine, files, files)
    rig.assert_same()
    inodes = {p: os.stat(rig.there(p)).st_ino for p in ("small", "sub/large", "second")}
    with open(rig.primary / "sub" / "large", "r+b") as f:
        f.seek(2_000_000)
        f.write(b"changed")
    (rig.primary / "small").write_bytes(b"shorter")
    with open(rig.primary / "second", "ab") as f:
        f.write(b"longer")
    (rig.primary / "private").write_bytes(b"")
    changed = [rig.gfid(p) for p in ("small", "sub/large", "second", "private")]
    result = rig.send(engine, changed)
    assert result.sent == set(changed)
    rig.assert_same()
    assert [p for p, inode in inodes.items() if os.stat(rig.there(p)).st_ino == inode] == ["second"]


@pytest.mark.parametrize("name", ENGINES)
def test_syn2_same_size_and_time_is_sent_all_the_same(here: Rig, name: str) -> None:
    path = here.primary / "f"
    path.write_bytes(b"old content")
    os.utime(path, ns=(10**18, 10**18))
    files = here.make()
    engine = here.engine(name)
    here.send(engine, files, files)
    path.write_bytes(b"new content")
    os.utime(path, ns=(10**18, 10**18))
    assert here.send(engine, files).sent == set(files)
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn3_holes_stay_holes(rig: Rig, name: str) -> None:
    with open(rig.primary / "sparse", "wb") as f:
        f.truncate(200 << 20)
        f.seek(100 << 20)
        f.write(b"in the middle")
    files = rig.make()
    result = rig.send(rig.engine(name), files, files)
    assert result.sent == set(files)
    rig.assert_same()
    assert os.stat(rig.there("sparse")).st_blocks * 512 < 4 << 20


@pytest.mark.parametrize("name", ENGINES)
def test_syn2_syn3_a_secondary_with_a_terrible_name(scratch: Path, sshd: Sshd, name: str) -> None:
    terrible = b"a b'\"\n$(touch x)`y`;*[ab]?\\ \xff~!#&|<>:-%s{1,2}\t"
    for target in (LOCAL, ssh_target(sshd)):
        rig = Rig(scratch / ("ssh" if target.host else "local"), target, terrible)
        try:
            ordinary_tree(rig.primary)
            files = list(dict.fromkeys(rig.make()))
            assert rig.send(rig.engine(name), files, files).sent == set(files)
            assert rig.engine(name).fallback.fell_back == []  # type: ignore[attr-defined]
            rig.assert_same()
            assert len(rig.lines) == 1 and "several names" in rig.lines[0]
        finally:
            rig.close()


@pytest.mark.parametrize("name", ENGINES)
def test_syn2_a_path_that_is_too_long_goes_by_stream(here: Rig, name: str) -> None:
    os.makedirs(here.primary / "a")
    fd = os.open(here.primary / "a", os.O_RDONLY)
    for _ in range(17):
        os.mkdir(b"d" * 250, dir_fd=fd)
        below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd), "wb") as f:
        f.write(b"bottom")
    os.close(fd)
    (here.primary / "short").write_bytes(b"short")
    files = here.make()
    engine = here.engine(name)
    result = here.send(engine, files, files)
    assert result.sent == set(files)
    assert len(engine.fallback.fell_back) == 1  # type: ignore[attr-defined]
    assert str(LONGEST_PATH)[:1] == "4" and "its path has" in here.lines[0]


@pytest.mark.parametrize("name", ENGINES)
def test_err3_a_full_secondary_is_the_whole_bricks_fault(scratch: Path, mounts: Mounts, name: str) -> None:
    small = mounts.tmpfs("small", "6m")
    rig = Rig(scratch / "rig", LOCAL, os.fsencode(small / "secondary"))
    try:
        write(rig.primary / "large", 20_000_000)
        files = rig.make()
        with pytest.raises(BrickFault, match="No space left"):
            rig.engine(name).send(files, set(files), Result())
        rig.clean()
    finally:
        rig.close()


@pytest.mark.parametrize("name", ENGINES)
def test_syn2_syn3_attributes_on_the_secondary_do_not_hinder(here: Rig, name: str) -> None:
    """A file that nobody may write there is written all the same by root."""
    (here.primary / "f").write_bytes(b"1")
    files = here.make()
    engine = here.engine(name)
    here.send(engine, files, files)
    (here.primary / "f").write_bytes(b"22")
    (here.primary / "f").chmod(0o400)
    os.chmod(here.there("f"), 0)
    assert here.send(engine, files).sent == set(files)
    here.assert_same()


def test_syn2_no_such_program(here: Rig) -> None:
    (here.primary / "f").write_bytes(b"1")
    files = here.make()
    with pytest.raises(TransferError, match="No such file") as e:
        here.engine("rsync", command="no-such-rsync").send(files, set(), Result())
    assert "sync_method" in e.value.hint
    here.clean()


def test_syn2_a_refused_option_is_told_in_rsyncs_own_words(rig: Rig) -> None:
    (rig.primary / "f").write_bytes(b"1")
    files = rig.make()
    with pytest.raises(TransferError, match=r"exit 1: .*--no-such-option"):
        rig.engine("rsync", options=("--no-such-option",)).send(files, set(), Result())
    rig.clean()


def test_syn2_options_and_environment_do_not_undo_what_must_be(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSYNC_RSH", "false")
    monkeypatch.setenv("RSYNC_PARTIAL_DIR", "partial")
    monkeypatch.setenv("TAR_OPTIONS", "--no-such-option")
    ordinary_tree(rig.primary)
    files = list(dict.fromkeys(rig.make()))
    engine = rig.engine("rsync", options=("--compress", "--xattrs", "--perms", "--times", "--size-only"))
    assert rig.send(engine, files, files).sent == set(files)
    (rig.primary / "small").write_bytes(b"x" * 100)
    assert rig.send(engine, [rig.gfid("small")]).sent == {rig.gfid("small")}
    assert rig.send(rig.engine("tarssh"), files).sent == set(files)
    rig.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn7_the_limit_holds_for_all_jobs_together(here: Rig, name: str) -> None:
    for i in range(300):
        write(here.primary / f"f{i}", 20_000, i + 1)
    files = here.make()
    here.watch.bandwidth = Bandwidth(3_000_000)
    parallel = Parallel(lambda: _engine(here, name), lambda: 3, "limited")
    began = time.monotonic()
    result = here.send(parallel, files, files)
    took = time.monotonic() - began
    assert parallel.close(30)
    assert result.sent == set(files)
    assert 1.8 < took < 6
    here.assert_same()


def _engine(rig: Rig, name: str) -> Engine:
    view = rig.new_view()
    return Engine(rig.engine(name, view=view), view.close)


@pytest.mark.parametrize("name", ENGINES)
def test_syn1_several_jobs_send_side_by_side(rig: Rig, name: str) -> None:
    for d in range(10):
        (rig.primary / f"d{d}").mkdir()
        for i in range(40):
            write(rig.primary / f"d{d}" / f"f{i}", i * 97, i + 1)
    files = rig.make()
    made: list[Engine] = []

    def make() -> Engine:
        made.append(_engine(rig, name))
        return made[-1]

    parallel = Parallel(make, lambda: 3, "side by side")
    result = rig.send(parallel, files, files)
    assert parallel.close(30)
    assert result.sent == set(files) and result.files == len(files)
    assert len(made) > 1
    rig.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_err6_a_stop_ends_the_children(here: Rig, name: str) -> None:
    write(here.primary / "large", 3_000_000)
    files = here.make()
    here.watch.bandwidth = Bandwidth(50_000)
    failed: list[EngineError] = []

    def send() -> None:
        try:
            here.engine(name).send(files, set(), Result())
        except EngineError as e:
            failed.append(e)

    thread = threading.Thread(target=send)
    before = set(below(os.getpid()))
    thread.start()
    while here.watch.throttled < 100_000:
        thread.join(0.01)
        assert thread.is_alive()
    here.watch.stop.set()
    here.watch.bandwidth.wake()
    thread.join(20)
    assert not thread.is_alive()
    assert [e.code for e in failed] == ["stopping"]
    assert set(below(os.getpid())) <= before
    here.clean()


@pytest.mark.parametrize("name", ENGINES)
def test_err6_a_line_that_stalls_is_given_up(scratch: Path, sshd: Sshd, name: str) -> None:
    with Line(sshd.port) as line:
        rig = Rig(scratch, ssh_target(sshd))
        try:
            write(rig.primary / "large", 20_000_000)
            files = rig.make()
            engine = rig.engine(name, timeout=3)
            engine.target = ssh_target(sshd, line.port)
            before = set(below(os.getpid()))
            Meddler(engine, line.stall, None)
            with pytest.raises(TransferError) as e:
                engine.send(files, set(), Result())
            assert e.value.code == "transfer-stalled" or "timeout" in e.value.text, e.value.text
            assert set(below(os.getpid())) <= before
            rig.clean()
        finally:
            line.heal()
            rig.close()


@pytest.mark.parametrize("name", ENGINES)
def test_err6_a_line_that_breaks_says_so(scratch: Path, sshd: Sshd, name: str) -> None:
    with Line(sshd.port) as line:
        rig = Rig(scratch, ssh_target(sshd))
        try:
            write(rig.primary / "large", 20_000_000)
            files = rig.make()
            engine = rig.engine(name)
            engine.target = ssh_target(sshd, line.port)
            Meddler(engine, line.cut, None)
            with pytest.raises(TransferError, match=r"exit (255|12)"):
                engine.send(files, set(), Result())
            rig.clean()
        finally:
            rig.close()


@pytest.mark.parametrize("name", ENGINES)
def test_err6_a_link_that_is_gone_ends_the_transfer(here: Rig, name: str) -> None:
    (here.primary / "f").write_bytes(b"1")
    files: list[Gfid] = here.make()
    engine = here.engine(name)
    Meddler(engine, here.link.close, None)
    with pytest.raises(LinkError):
        engine.send(files, set(), Result())


def test_syn3_both_tars_count(here: Rig, tmp_path: Path) -> None:
    """A local tar that cannot even start its work is noticed, and so is the one that takes."""
    (here.primary / "f").write_bytes(b"1")
    files = here.make()
    for broken in ("--create", "--extract"):
        fake = tmp_path / broken / "tar"
        fake.parent.mkdir()
        real = subprocess.run(["which", "tar"], capture_output=True, text=True, check=True).stdout.strip()
        fake.write_text(f'#!/bin/sh\ncase "$*" in *{broken}*) echo broken >&2; exit 3;; esac\nexec {real} "$@"\n')
        fake.chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
            with pytest.raises(TransferError, match="exit 3: broken"):
                here.engine("tarssh").send(files, set(), Result())
        here.clean()


@pytest.mark.parametrize("name", ENGINES)
def test_syn1_as_configured(rig: Rig, name: str) -> None:
    """The engine, its jobs and rsync's words are those of the configuration; the number of jobs is that of now."""
    for i in range(400):
        write(rig.primary / f"f{i}", i, i + 1)
    leftover = rig.state / "stage" / "of an earlier process"
    leftover.mkdir(parents=True)
    files = rig.make()
    now = Options(sync_method=name, sync_jobs=1, rsync_options="--compress --no-such-option", rsync_ssh_options="-4")

    def new_view() -> TreeView:
        fd = os.open(rig.primary, os.O_RDONLY)
        return TreeView(fd, rig.brick, Index(str(rig.state / "index.db"), reader=True), can_open_by_handle(fd))

    def open_files() -> list[str]:
        """What is open but the index, whose descriptors SQLite keeps until its last connection closes."""
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return sorted(t for t in (os.readlink(x) for x in links if os.path.lexists(x)) if "/index.db" not in t)

    before = open_files()
    engine = parallel(
        lambda: now, new_view, rig.link, rig.watch, root=os.fsencode(rig.primary), state=str(rig.state),
        target=rig.target, log=lambda _level, text: rig.lines.append(text), name="configured",
    )  # fmt: skip
    try:
        assert not leftover.exists()
        if name == "rsync":
            with pytest.raises(TransferError, match="no-such-option"):
                engine.send(files, set(files), Result())
        else:
            engine.send(files[:1], set(files), Result())
        assert len([t for t in threading.enumerate() if t.name.startswith("configured job")]) == 1
    finally:
        assert engine.close(30)
    now = Options(sync_method=name, sync_jobs=4, rsync_options="--compress")
    engine = parallel(
        lambda: now, new_view, rig.link, rig.watch, root=os.fsencode(rig.primary), state=str(rig.state),
        target=rig.target, log=lambda _level, text: rig.lines.append(text), name="configured",
    )  # fmt: skip
    try:
        assert rig.send(engine, files, files).sent == set(files)
        assert len([t for t in threading.enumerate() if t.name.startswith("configured job")]) == 4
        now = Options(sync_method=name, sync_jobs=2)
        assert rig.send(engine, files[:10]).sent == set(files[:10])
        assert len([t for t in threading.enumerate() if t.name.startswith("configured job")]) == 2
    finally:
        assert engine.close(30)
    assert not [t for t in threading.enumerate() if t.name.startswith("configured job")]
    assert open_files() == before
    assert not rig.lines
    rig.assert_same()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ENGINES)
def test_syn2_syn3_an_ordinary_user_there(scratch: Path, sshd: Sshd, ordinary: OrdinaryUser, name: str) -> None:
    """What rsync and tar may not write there goes by stream, which may: the agent owns it."""
    who = (ordinary.uid, ordinary.gid)
    rig = Rig(scratch, ssh_target(sshd, uid=ordinary.uid), owner=who)
    try:
        for file, mode in (("plain", 0o644), ("read-only", 0o444)):
            write(rig.primary / file, 3000, mode + 1)
            (rig.primary / file).chmod(mode)
            os.chown(rig.primary / file, *who)
        files = rig.make()
        engine = rig.engine(name)
        assert rig.send(engine, files, files).sent == set(files)
        rig.assert_same()
        for file in ("plain", "read-only"):
            write(rig.primary / file, 5000, 7)
        result = rig.send(engine, files)
        assert not result.problems
        assert result.sent == set(files)
        assert rig.gfid("plain") not in engine.fallback.fell_back  # type: ignore[attr-defined]
        rig.assert_same()
    finally:
        rig.close()
