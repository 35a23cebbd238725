"""Content and attributes through a real agent process (SYN-4, SYN-5, SYN-8, SEC-14)."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent import wire
from engine.agent.types import EntryOp, Fop, MetaOp, Slot, Stat
from tests.agent_side import (
    ROOT,
    T0,
    Agent,
    create,
    directory,
    gfid,
    link,
    mkdir,
    regular,
    sym,
)

A, B, C, D = (gfid(i) for i in range(1, 5))
MIB = 1 << 20


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(tmp_path / "replica") as one:
        one.begin()
        yield one


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replica"


def test_syn_4_put_replaces_content_and_tells_what_is_seen(agent: Agent, root: Path) -> None:
    agent.entries(create(A, ROOT, b"a", b"long content"), create(B, ROOT, b"b", b"x"))
    inode = (root / "a").stat().st_ino
    results = agent.puts(
        wire.Put(A, regular(5, 0o600, T0 + 1), None, b"short"),
        wire.Put(C, regular(1), None, b"x"),
        wire.Put(B, regular(0), {}, b""),
    )
    assert [(r.index, r.errno, r.size, r.mtime_ns) for r in results] == [
        (0, 0, 5, T0 + 1), (1, errno.ENOENT, 0, 0), (2, 0, 0, T0),
    ]  # fmt: skip
    assert results[1].text.startswith("absent")
    st = (root / "a").stat()
    assert ((root / "a").read_bytes(), st.st_ino != inode, st.st_mode & 0o777) == (b"short", True, 0o600)


def test_put_does_not_write_through_what_replaced_the_file(agent: Agent, root: Path, tmp_path: Path) -> None:
    agent.entries(create(A, ROOT, b"a", b"x"), create(B, ROOT, b"b", b"x"))
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    os.unlink(root / "a")
    os.symlink(outside, root / "a")
    os.unlink(root / "b")
    os.mkfifo(root / "b")
    results = agent.puts(wire.Put(A, regular(1), None, b"y"), wire.Put(B, regular(1), None, b"y"))
    assert [r.errno for r in results] == [errno.ENOENT, errno.ENOENT]
    assert outside.read_text() == "untouched"


def test_syn_4_a_file_in_pieces_keeps_its_holes(agent: Agent, root: Path) -> None:
    agent.entries(create(A, ROOT, b"a", None))
    size = 64 * MIB
    result = agent.file(A, [(0, b"head"), (size - 4, b"tail")], regular(size, mtime=T0 + 7))
    assert (result.errno, result.size, result.mtime_ns) == (0, size, T0 + 7)
    st = (root / "a").stat()
    assert st.st_blocks * 512 < MIB
    with open(root / "a", "rb") as f:
        assert f.read(4) == b"head" and f.seek(size - 4) and f.read() == b"tail"


def test_syn_4_delta_changes_blocks_punches_holes_and_sets_the_size(agent: Agent, root: Path) -> None:
    old = os.urandom(4 * MIB)
    agent.entries(create(A, ROOT, b"a", None))
    assert agent.file(A, [(i * MIB, old[i * MIB : (i + 1) * MIB]) for i in range(4)], regular(len(old))).errno == 0
    result = agent.file(A, [(MIB, b"new")], regular(3 * MIB), delta=True, holes=[(2 * MIB, MIB)])
    assert result.errno == 0
    want = old[:MIB] + b"new" + old[MIB + 3 : 2 * MIB] + bytes(MIB)
    assert (root / "a").read_bytes() == want


def test_several_files_in_flight(agent: Agent, root: Path) -> None:
    from engine.agent.frames import Kind

    agent.entries(create(A, ROOT, b"a", None), create(B, ROOT, b"b", None), create(C, ROOT, b"c", b"keep"))
    for ident, g in ((101, A), (102, B), (103, C)):
        agent.send(Kind.FILE_BEGIN, wire.encode_file_begin(wire.FileBegin(g, 6, g == C)), ident=ident)
    for ident, part in ((101, b"aaa"), (102, b"bbb"), (101, b"AAA"), (102, b"BBB")):
        offset = 0 if part.islower() else 3
        agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(offset), part, ident=ident)
    agent.send(Kind.FILE_ABORT, ident=103)
    for ident in (102, 101):
        agent.send(Kind.FILE_END, wire.encode_file_end(regular(6), None), ident=ident)
    assert [agent.read().id, agent.read().id] == [102, 101]
    assert ((root / "a").read_bytes(), (root / "b").read_bytes(), (root / "c").read_bytes()) == (
        b"aaaAAA", b"bbbBBB", b"keep",
    )  # fmt: skip


def test_a_file_that_failed_tells_it_at_its_end(agent: Agent) -> None:
    result = agent.file(A, [(0, b"x")], regular(1))
    assert result.errno == errno.ENOENT and result.text.startswith("absent")
    agent.entries(create(A, ROOT, b"a", None), mkdir(D, ROOT, b"d"))
    assert agent.file(A, [(5, b"x")], regular(3)).errno == errno.EFBIG
    assert agent.file(D, [(0, b"x")], regular(1)).errno == errno.EINVAL


def test_syn_5_a_file_replaced_while_it_is_written_is_no_success(agent: Agent, root: Path) -> None:
    from engine.agent.frames import Kind

    agent.entries(create(A, ROOT, b"a", None))
    agent.send(Kind.FILE_BEGIN, wire.encode_file_begin(wire.FileBegin(A, 1, False)), ident=7)
    agent.call("keepalive")
    os.rename(root / "a", root / "was")
    (root / "a").write_text("y")
    agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(0), b"x", ident=7)
    agent.send(Kind.FILE_END, wire.encode_file_end(regular(1), None), ident=7)
    (result,) = wire.decode_files_reply(agent.read().payload)
    assert result.errno == errno.ESTALE and (root / "a").read_text() == "y"


def test_sums_are_the_digests_of_the_blocks(agent: Agent) -> None:
    content = os.urandom(3 * 131072 + 100)
    agent.entries(create(A, ROOT, b"a", None), sym(B, ROOT, b"s", b"a"))
    agent.file(A, [(0, content)], regular(len(content)))
    replies = agent.sums(A, 131072)
    assert (replies[0].offset, replies[0].size, replies[0].mtime_ns) == (0, len(content), T0)
    digests = b"".join(r.digests for r in replies)
    assert digests == b"".join(wire.block_digest(content[i : i + 131072]) for i in range(0, len(content), 131072))
    (part,) = agent.sums(A, 65536, 65536, 65536)
    assert part.offset == 65536 and part.digests == wire.block_digest(content[65536:131072])
    big = agent.sums(A, 512)
    assert b"".join(r.digests for r in big)[:16] == wire.block_digest(content[:512])
    for g in (B, C):
        frame = agent.request(10, wire.encode_sums_request(wire.SumsRequest(g, 512, 0, 1)))
        assert frame.kind == 68


def test_many_block_digests_come_in_several_frames(agent: Agent) -> None:
    agent.entries(create(A, ROOT, b"a", None))
    size = 3 * MIB
    agent.file(A, [(0, b"x"), (size - 1, b"x")], regular(size))
    replies = agent.sums(A, 512)
    assert len(replies) > 1 and sum(len(r.digests) for r in replies) == size // 512 * 16
    at = 0
    for r in replies:
        assert r.offset == at
        at += len(r.digests) // 16 * 512


def test_digest_of_whole_files(agent: Agent) -> None:
    agent.entries(create(A, ROOT, b"a", b"content"), mkdir(D, ROOT, b"d"))
    found = agent.call("digest", gfids=[A.hex(), B.hex(), D.hex()])["digests"]
    assert found[A.hex()]["digest"] == hashlib.sha256(b"content").hexdigest() and found[A.hex()]["size"] == 7
    assert found[B.hex()]["digest"] is None and found[B.hex()]["errno"] == errno.ENOENT
    assert found[D.hex()]["digest"] is None
    assert agent.ask("digest", gfids=[A.hex()] * 257)["error"]["errno"] == errno.E2BIG
    assert agent.ask("digest", gfids=[A.hex()], algo="nonsense")["error"]["errno"] == errno.EINVAL


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_sec_14_meta(agent: Agent, root: Path) -> None:
    agent.entries(
        create(A, ROOT, b"a", b"x"), mkdir(D, ROOT, b"d"), sym(B, ROOT, b"s", b"nowhere"),
        EntryOp(Fop.MKNOD, C, Slot(ROOT, b"p"), None, Stat(stat.S_IFIFO | 0o600, 0, 0, 0, T0, T0), None, None, {}),
    )  # fmt: skip
    t1 = T0 + 1_000_000_001
    reply = agent.metas(
        MetaOp(A, Stat(stat.S_IFREG | 0o6751, 11, 12, 1, t1, t1 + 5), {b"user.a": b"1"}),
        MetaOp(D, Stat(stat.S_IFDIR | 0o1777, 21, 22, 0, t1, t1), {b"user.d": b"2"}),
        MetaOp(B, Stat(stat.S_IFLNK | 0o777, 31, 32, 7, t1, t1), {}),
        MetaOp(C, Stat(stat.S_IFIFO | 0o640, 41, 42, 0, t1, t1), {}),
        MetaOp(ROOT, Stat(stat.S_IFDIR | 0o750, 51, 52, 0, t1, t1), {b"user.r": b"3"}),
        MetaOp(gfid(99), directory(), None),
        MetaOp(A, directory(), None),
    )
    assert [(f.index, f.errno) for f in reply.failures] == [(5, errno.ENOENT), (6, errno.EINVAL)]
    want = [
        ("a", 0o6751, 11, 12),
        ("d", 0o1777, 21, 22),
        ("s", 0o777, 31, 32),
        ("p", 0o640, 41, 42),
        ("", 0o750, 51, 52),
    ]
    for name, mode, uid, gid in want:
        st = os.lstat(root / name)
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns) == (mode, uid, gid, t1), name
    assert os.stat(root / "a").st_atime_ns == t1 + 5
    assert [os.listxattr(root / n) for n in ("a", "d", "")] == [["user.a"], ["user.d"], ["user.r"]]


def test_sec_14_xattrs_are_replaced_as_a_set(agent: Agent, root: Path) -> None:
    agent.entries(create(A, ROOT, b"a", b"x"))
    os.setxattr(root / "a", "user.old", b"1")
    agent.metas(MetaOp(A, regular(1), None))
    assert os.listxattr(root / "a") == ["user.old"]
    agent.metas(MetaOp(A, regular(1), {b"user.new": b"2", b"user.empty": b""}))
    assert sorted(os.listxattr(root / "a")) == ["user.empty", "user.new"]
    agent.metas(MetaOp(A, regular(1), {}))
    assert os.listxattr(root / "a") == []


def test_sec_14_acls(agent: Agent, root: Path) -> None:
    acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff")
    agent.entries(create(A, ROOT, b"a", b"x"), mkdir(D, ROOT, b"d"))
    both = {b"system.posix_acl_access": acl, b"system.posix_acl_default": acl}
    assert not agent.metas(MetaOp(A, regular(1, 0o644), {b"system.posix_acl_access": acl})).failures
    assert not agent.metas(MetaOp(D, directory(0o644), both)).failures
    assert os.getxattr(root / "a", "system.posix_acl_access") == acl
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o644
    assert sorted(os.listxattr(root / "d")) == ["system.posix_acl_access", "system.posix_acl_default"]
    agent.metas(MetaOp(A, regular(1, 0o640), {}))
    assert os.listxattr(root / "a") == [] and stat.S_IMODE((root / "a").stat().st_mode) == 0o640


def test_syn_8_staged_files_are_checked_when_they_come_back(agent: Agent, root: Path) -> None:
    agent.entries(*(create(g, ROOT, b"f%d" % i, b"old") for i, g in enumerate((A, B, C))), mkdir(D, ROOT, b"d"))
    stage = agent.call("stage", gfids=[A.hex(), B.hex(), C.hex(), D.hex(), gfid(9).hex()])
    path = Path(stage["path"])
    assert sorted(os.listdir(path)) == sorted(g.hex() for g in (A, B, C))
    assert stage["absent"] == [D.hex(), gfid(9).hex()]
    for g, data in ((A, b"new content"), (B, b"half of i")):
        (path / "new").write_bytes(data)
        os.rename(path / "new", path / g.hex())
    assert agent.call("unwritten", token=stage["token"])["unwritten"] == [C.hex()]
    assert (root / "f0").read_bytes() == b"old", "not before it is whole"
    agent.call("arrived", token=stage["token"], gfids=[A.hex(), C.hex()])
    reply = agent.metas(MetaOp(A, regular(11, 0o640), {b"user.k": b"v"}), MetaOp(C, regular(3), {}))
    assert [(f.index, "another file" in f.text) for f in reply.failures] == [(1, True)]
    files = agent.call("unstage", token=stage["token"])["files"]
    assert (files[A.hex()]["same"], files[A.hex()]["size"], files[A.hex()]["mtime_ns"]) == (True, 11, T0)
    assert not files[B.hex()]["same"] and not files[C.hex()]["same"]
    assert [(root / f"f{i}").read_bytes() for i in range(3)] == [b"new content", b"old", b"old"]
    assert ((root / "f0").stat().st_mode & 0o777, os.getxattr(root / "f0", "user.k")) == (0o640, b"v")
    assert [(root / f"f{i}").stat().st_nlink for i in range(3)] == [1, 1, 1]
    assert not path.exists()
    assert agent.ask("unstage", token=stage["token"])["error"]["code"] == "no-stage"


def test_list_tells_what_is_really_there(agent: Agent, root: Path) -> None:
    agent.entries(
        mkdir(D, ROOT, b"d"), create(A, D, b"a", b"x"), link(A, D, b"b"), sym(B, D, b"s", b"\xff"),
        create(C, D, b"\xfe", b""),
    )  # fmt: skip
    (root / "d" / "u").write_text("unknown")
    os.setxattr(root / "d" / "a", "user.k", b"v")
    entries = []
    after = ""
    while page := agent.call("list", gfid=D.hex(), after=after, limit=2, xattrs=True)["entries"]:
        entries += page
        after = page[-1]["name"]
    by_name = {base64.b64decode(e["name"]): e for e in entries}
    assert list(by_name) == [b"a", b"b", b"s", b"u", b"\xfe"]
    assert by_name[b"a"]["gfid"] == by_name[b"b"]["gfid"] == A.hex() and by_name[b"u"]["gfid"] is None
    assert by_name[b"a"]["nlink"] == 2 and by_name[b"a"]["mtime_ns"] == T0
    assert base64.b64decode(by_name[b"s"]["link"]) == b"\xff" and by_name[b"s"]["xattrs"] == {}
    key = base64.b64encode(b"user.k").decode()
    assert by_name[b"a"]["xattrs"] == {key: base64.b64encode(b"v").decode()}
    assert [e["gfid"] for e in agent.call("list", gfid=ROOT.hex())["entries"]] == [D.hex()]
    assert agent.ask("list", gfid=gfid(77).hex())["error"]["errno"] == errno.ENOENT


def test_lookup(agent: Agent, root: Path) -> None:
    from tests.agent_side import slot_params

    agent.entries(create(A, ROOT, b"a", b"x"), link(A, ROOT, b"b"), sym(B, ROOT, b"s", b"t"))
    os.unlink(root / "b")
    found = agent.call("lookup", gfids=[A.hex(), C.hex(), ROOT.hex()])["objects"]
    assert found[A.hex()]["names"] == [slot_params(ROOT, b"a")] and found[A.hex()]["stat"]["size"] == 1
    assert C.hex() not in found and ROOT.hex() in found


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become someone else")
def test_an_agent_that_is_not_root_says_what_it_cannot_do(tmp_path: Path) -> None:
    """Owners cannot be given away: EPERM with a reason, the rest applied; files without write permission work."""
    for part in (tmp_path, *tmp_path.parents):
        os.chmod(part, 0o755)
        if part.name.startswith("pytest-of-"):
            break
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.agent_side import *
from engine.agent import wire
from engine.agent.types import *
from pathlib import Path
import stat, encodings.idna, encodings.ascii
os.setgroups([]); os.setgid(12345); os.setuid(12345)
side = Local(Path({str(tmp_path)!r}) / "mine" / "replica")
mine = Stat(stat.S_IFREG | 0o444, 12345, 12345, 1, T0, T0)
side.ok(EntryOp(23, gfid(1), Slot(ROOT, b"a"), None, mine, None, b"x", {{}}))
(r,) = side.contents.puts([wire.Put(gfid(1), mine._replace(size=2), {{}}, b"yy")])
assert r.errno == 0, r
assert os.stat(side.path / "a").st_mode & 0o777 == 0o444
other = mine._replace(uid=1)
done = side.apply(EntryOp(23, gfid(2), Slot(ROOT, b"b"), None, other, None, b"x", {{}}))
assert [f.errno for f in done.failures] == [1] and done.failures[0].text.startswith("owner: "), done.failures
assert done.sizes == [(0, 1, T0)] and (side.path / "b").read_bytes() == b"x"
side.close()
print("fine")
"""
    (tmp_path / "mine").mkdir()
    os.chown(tmp_path / "mine", 12345, 12345)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_sockets_are_made(agent: Agent, root: Path) -> None:
    st = Stat(stat.S_IFSOCK | 0o644, os.getuid(), os.getgid(), 0, T0, T0)
    assert not agent.entries(EntryOp(Fop.MKNOD, A, Slot(ROOT, b"x"), None, st, None, None, {})).failures
    assert stat.S_ISSOCK(os.lstat(root / "x").st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")
def test_err_3_a_full_disk_is_told_as_such_and_heals(tmp_path: Path) -> None:
    """ENOSPC comes back as it is, for inline data, PUT and pieces; with space again the same requests succeed."""
    root = tmp_path / "small"
    root.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", root], capture_output=True, check=False
    ).returncode:
        pytest.skip("cannot mount here")
    try:
        with Agent(root) as agent:
            agent.begin()
            big = os.urandom(1 << 20)
            agent.entries(create(C, ROOT, b"c", b"small"))
            (root / "ballast").write_bytes(bytes(2 << 20))
            reply = agent.entries(create(A, ROOT, b"a", big), create(B, ROOT, b"b", b""))
            assert [(f.index, f.errno) for f in reply.failures] == [(0, errno.ENOSPC)]
            (put,) = agent.puts(wire.Put(C, regular(len(big)), {}, big))
            assert put.errno == errno.ENOSPC
            assert agent.file(C, [(0, big)], regular(len(big))).errno == errno.ENOSPC
            os.unlink(root / "ballast")
            assert not agent.entries(create(A, ROOT, b"a", big)).failures
            assert (root / "a").read_bytes() == big
    finally:
        subprocess.run(["umount", "-l", root], check=True)
