"""Handles recognise objects for ever (CHG-2 rests on them), and a root is told from another (SAFE-1)."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from engine.volume import handles
from engine.volume.handles import (
    NO_HANDLE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RootError,
    RootIdentity,
    can_open_by_handle,
    filesystem_type,
    gfid_of,
    name_to_handle,
    open_by_handle,
    renameat2,
    statx_birth,
)

BRICK = bytes(range(16))


@pytest.fixture
def place(tmp_path: Path):
    """A directory with a file `f`, and a descriptor of it."""
    (tmp_path / "f").write_bytes(b"content")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield tmp_path, fd
    os.close(fd)


def test_a_handle_stays_over_renames_links_and_writes(place) -> None:
    path, fd = place
    handle = name_to_handle(fd, b"f")
    os.link(path / "f", path / "g")
    os.rename(path / "f", path / "h")
    (path / "h").write_bytes(b"other")
    assert name_to_handle(fd, b"g") == name_to_handle(fd, b"h") == handle
    with open(path / "h", "rb") as f:
        assert name_to_handle(f.fileno(), b"") == handle


def test_the_next_file_with_the_same_inode_has_another_handle(place) -> None:
    path, fd = place
    seen = {name_to_handle(fd, b"f")}
    inodes = []
    for _ in range(50):
        os.unlink(path / "f")
        (path / "f").touch()
        inodes.append(os.stat(path / "f").st_ino)
        seen.add(name_to_handle(fd, b"f"))
    assert len(seen) == 51, f"a handle came twice; inodes {inodes}"


def test_a_link_is_not_followed(place) -> None:
    path, fd = place
    os.symlink("f", path / "s")
    assert name_to_handle(fd, b"s") != name_to_handle(fd, b"f")
    link = os.open(path / "s", os.O_PATH | os.O_NOFOLLOW)
    try:
        assert name_to_handle(link, b"") == name_to_handle(fd, b"s")
    finally:
        os.close(link)


@pytest.mark.parametrize(
    "name, number", [(b"absent", errno.ENOENT), (b"f/below", errno.ENOTDIR), (b"n" * 256, errno.ENAMETOOLONG)]
)
def test_errors_carry_their_errno(place, name: bytes, number: int) -> None:
    _, fd = place
    with pytest.raises(OSError) as caught:
        name_to_handle(fd, name)
    assert caught.value.errno == number
    with pytest.raises(OSError) as caught:
        name_to_handle(999_999, b"")
    assert caught.value.errno == errno.EBADF


def test_threads_do_not_mix_their_handles(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    names = [b"file-%d" % i for i in range(8)]
    for name in names:
        (tmp_path / name.decode()).touch()
    right = {name: name_to_handle(fd, name) for name in names}
    wrong: list[bytes] = []

    def look(name: bytes) -> None:
        wrong.extend(name for _ in range(3000) if name_to_handle(fd, name) != right[name])

    threads = [threading.Thread(target=look, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert not wrong


def test_an_object_is_opened_by_its_handle_wherever_it_is(place) -> None:
    path, fd = place
    if not can_open_by_handle(fd):
        pytest.skip("needs CAP_DAC_READ_SEARCH")
    handle = name_to_handle(fd, b"f")
    (path / "d").mkdir()
    os.rename(path / "f", path / "d" / "g")
    opened = open_by_handle(fd, handle, os.O_RDONLY)
    assert os.read(opened, 100) == b"content"
    assert not os.get_inheritable(opened)
    os.close(opened)
    os.unlink(path / "d" / "g")
    with pytest.raises(OSError) as caught:
        open_by_handle(fd, handle, os.O_RDONLY)
    assert caught.value.errno == errno.ESTALE


def test_where_there_are_no_handles_inode_and_birth_time_stand_in(place, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fd = place
    monkeypatch.setattr(handles, "_FUSE", (filesystem_type(fd),))
    monkeypatch.setattr(handles, "_lasting", {})
    handle = name_to_handle(fd, b"f")
    st = os.stat(path / "f")
    assert handle[:4] == NO_HANDLE
    assert int.from_bytes(handle[4:12], "little") == st.st_ino
    os.rename(path / "f", path / "g")
    (path / "g").write_bytes(b"longer content")
    assert name_to_handle(fd, b"g") == handle
    assert not can_open_by_handle(fd)
    with pytest.raises(OSError) as caught:
        open_by_handle(fd, handle, os.O_RDONLY)
    assert caught.value.errno == errno.EOPNOTSUPP
    with open(path / "g", "rb") as f:
        assert name_to_handle(f.fileno(), b"") == handle


def test_birth_time_is_before_the_change_time_and_stays(place) -> None:
    path, fd = place
    inode, born = statx_birth(fd, b"f")
    st = os.stat(path / "f")
    assert inode == st.st_ino
    if born == 0:
        pytest.skip("no birth times here")
    assert born <= st.st_ctime_ns
    os.utime(path / "f", (1, 1))
    assert statx_birth(fd, b"f") == (inode, born)


def test_gfids_differ_by_brick_and_by_handle(place) -> None:
    _, fd = place
    file, directory = name_to_handle(fd, b"f"), name_to_handle(fd, b"")
    gfids = {gfid_of(brick, handle) for brick in (BRICK, bytes(16)) for handle in (file, directory)}
    assert len(gfids) == 4
    assert all(len(gfid) == 16 for gfid in gfids)
    # a change of this value makes every existing index and replica foreign
    assert gfid_of(BRICK, b"\x01\0\0\0handle").hex() == "e596b92e873025a2d8da8e1cbcd3c925"


def test_renameat2_exchanges_and_does_not_replace(place) -> None:
    path, fd = place
    (path / "g").write_bytes(b"other")
    renameat2(fd, b"f", fd, b"g", RENAME_EXCHANGE)
    assert (path / "f").read_bytes() == b"other"
    with pytest.raises(FileExistsError):
        renameat2(fd, b"f", fd, b"g", RENAME_NOREPLACE)


def test_a_root_that_is_the_same_passes_SAFE_1(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    identity = RootIdentity.of(str(root))
    (root / "f").touch()
    root.chmod(0o700)
    identity.check()
    assert RootIdentity.of(os.fsencode(root)).text == identity.text
    other = tmp_path / "by-link"
    other.symlink_to(root)
    assert RootIdentity.of(str(other)).text == identity.text


def test_a_root_that_is_gone_moved_or_replaced_does_not_SAFE_1(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    identity = RootIdentity.of(str(root))
    root.rename(tmp_path / "moved")
    with pytest.raises(RootError, match="gone"):
        identity.check()
    root.mkdir()
    with pytest.raises(RootError, match="another directory"):
        identity.check()
    assert RootIdentity.of(str(root)).text != identity.text
    root.rmdir()
    root.touch()
    with pytest.raises(RootError, match="gone"):
        identity.check()
    root.unlink()
    (tmp_path / "moved").rename(root)
    identity.check()


def test_a_root_that_is_not_there_has_no_identity_SAFE_1(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RootIdentity.of(str(tmp_path / "absent"))
