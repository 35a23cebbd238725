"""Content on a real volume: small files whole, large ones in pieces, digests; rsync and tar through a stage."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent import wire
from engine.agent.frames import Kind
from engine.agent.types import MetaOp
from engine.agent.wire import Put, block_digest
from tests.agent_side import ROOT, T0, create, directory, gfid, mkdir, regular, sym
from tests.gluster.agent_volume import VolumeAgent, held, view
from tests.gluster.lab import Lab

MIB = 1 << 20


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[tuple[VolumeAgent, Path]]:
    volume = lab.volume(2)
    mount = view(lab, volume)
    with held(volume) as agent:
        yield agent, mount
    lab.remove(volume)


_gfids = iter(range(5_000_000, 6_000_000))


def new_file(agent: VolumeAgent, content: bytes = b"") -> tuple[bytes, str]:
    g = gfid(next(_gfids))
    name = f"c{g.hex()[-6:]}"
    assert agent.entries(create(g, ROOT, name.encode(), content)).failures == []
    return g, name


def test_put_replaces_content_and_attributes(served: tuple[VolumeAgent, Path]) -> None:
    """Shorter, longer, empty; SYN-5: the size and mtime that the volume then has."""
    agent, mount = served
    g, name = new_file(agent, b"a long first content")
    for i, content in enumerate((b"short", b"x" * 60_000, b"")):
        st = regular(len(content), 0o600, T0 + i, uid=5 + i)
        (result,) = agent.puts(Put(g, st, {b"user.n": b"%d" % i}, content))
        assert (result.errno, result.size, result.mtime_ns) == (0, len(content), T0 + i), result
        found = os.stat(mount / name)
        assert (mount / name).read_bytes() == content
        assert (found.st_mode & 0o7777, found.st_uid, found.st_mtime_ns) == (0o600, 5 + i, T0 + i)
        assert os.getxattr(mount / name, "user.n") == b"%d" % i


def test_put_of_what_is_not_there(served: tuple[VolumeAgent, Path]) -> None:
    """`absent`, and `kind` for a directory or symlink; the others of the frame are written."""
    agent, mount = served
    d, s = gfid(next(_gfids)), gfid(next(_gfids))
    g, name = new_file(agent)
    agent.entries(mkdir(d, ROOT, b"dir"), sym(s, ROOT, b"sym", b"x"))
    results = agent.puts(*(Put(x, regular(1), None, b"x") for x in (gfid(next(_gfids)), d, s, g)))
    assert [r.errno for r in results] == [errno.ENOENT, errno.EINVAL, errno.EINVAL, 0]
    assert (mount / name).read_bytes() == b"x"


def test_large_files_in_pieces(served: tuple[VolumeAgent, Path]) -> None:
    """SYN-4: pieces in any order, holes, two files at once, a file that shrinks."""
    agent, mount = served
    g, name = new_file(agent, b"old" * 5000)
    content = os.urandom(3 * MIB + 12345)
    parts = [(at, content[at : at + MIB]) for at in range(0, len(content), MIB)]
    result = agent.file(g, parts[::-1], regular(len(content), 0o640, T0 + 5), xattrs={b"user.x": b"y"})
    assert (result.errno, result.size, result.mtime_ns) == (0, len(content), T0 + 5)
    assert (mount / name).read_bytes() == content and os.getxattr(mount / name, "user.x") == b"y"
    sparse = agent.file(g, [(0, b"begin")], regular(8 * MIB), holes=[(5, 8 * MIB - 5)])
    assert (sparse.errno, sparse.size) == (0, 8 * MIB)
    assert (mount / name).read_bytes() == b"begin" + bytes(8 * MIB - 5)
    assert os.stat(mount / name).st_blocks * 512 < MIB


def test_delta_and_digests_of_blocks(served: tuple[VolumeAgent, Path]) -> None:
    """What changed only: SUMS of the old content, changed blocks and holes written into it."""
    agent, mount = served
    g, name = new_file(agent)
    old = os.urandom(2 * MIB)
    assert agent.file(g, [(0, old[:MIB]), (MIB, old[MIB:])], regular(len(old))).errno == 0
    block = 64 * 1024
    digests = b"".join(r.digests for r in agent.sums(g, block))
    assert digests == b"".join(block_digest(old[i : i + block]) for i in range(0, len(old), block))
    result = agent.file(g, [(block, b"N" * block)], regular(len(old) - 7, mtime=T0 + 9), delta=True,
                        holes=[(3 * block, block)])  # fmt: skip
    new = old[:block] + b"N" * block + old[2 * block : 3 * block] + bytes(block) + old[4 * block : -7]
    assert (result.errno, result.size) == (0, len(new)) and (mount / name).read_bytes() == new
    answer = agent.call("digest", gfids=[g.hex(), gfid(1).hex()])["digests"]
    assert answer[g.hex()]["digest"] == hashlib.sha256(new).hexdigest()
    assert answer[gfid(1).hex()]["errno"] == errno.ENOENT


def test_pieces_beyond_the_end_are_refused(served: tuple[VolumeAgent, Path]) -> None:
    """And a file that is not there is told at its end."""
    agent, _ = served
    g, _ = new_file(agent)
    assert agent.file(g, [(90, b"x" * 20)], regular(100)).errno == errno.EFBIG
    assert agent.file(gfid(next(_gfids)), [(0, b"x")], regular(1)).errno == errno.ENOENT


def test_acls_and_their_inheritance(served: tuple[VolumeAgent, Path]) -> None:
    """ACLs travel as attributes; what a directory's default ACL would add to a new file is taken away again."""
    agent, mount = served
    d, f, h = (gfid(next(_gfids)) for _ in range(3))
    assert agent.entries(mkdir(d, ROOT, b"acl")).failures == []
    source = mount / "source"
    source.mkdir()
    subprocess.run(["setfacl", "-m", "u:1234:rwx,d:u:1234:rwx,d:g::r", str(source)], check=True)
    acls = {n.encode(): os.getxattr(source, n) for n in ("system.posix_acl_access", "system.posix_acl_default")}
    mode = os.stat(source).st_mode & 0o7777
    source.rmdir()
    assert agent.metas(MetaOp(d, directory(mode), acls)).failures == []
    assert {n: os.getxattr(mount / "acl", n.decode()) for n in acls} == acls
    made = agent.entries(create(f, d, b"f", b"x"), mkdir(h, d, b"h"))
    assert made.failures == []
    for name in ("f", "h"):
        assert [x for x in os.listxattr(mount / "acl" / name) if "acl" in x] == []
    assert os.stat(mount / "acl/f").st_mode & 0o7777 == 0o644


# --- rsync and tar


def _stage(agent: VolumeAgent, gfids: list[bytes]) -> dict[str, object]:
    answer = agent.call("stage", gfids=[g.hex() for g in gfids])
    assert answer["names"] == "uuid"
    return answer


def text(g: bytes) -> str:
    h = g.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


@pytest.mark.parametrize("program", ["rsync", "tar"])
def test_syn_8_files_staged_for_programs(served: tuple[VolumeAgent, Path], program: str, tmp_path: Path) -> None:
    """SYN-8, SYN-5: files are reached by a real path, written in place, and looked at afterwards by their gfid."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    agent, mount = served
    g, name = new_file(agent, b"old content, longer than the new one")
    missing = gfid(next(_gfids))
    before = os.stat(mount / name).st_ino
    stage = _stage(agent, [g, missing])
    assert stage["absent"] == [missing.hex()]
    (tmp_path / text(g)).write_bytes(b"new content")
    os.utime(tmp_path / text(g), ns=(T0, T0 + 1000))
    if program == "rsync":
        subprocess.run(["rsync", "-t", "--inplace", "--existing", "--ignore-times", text(g), f"{stage['path']}/"],
                       cwd=tmp_path, check=True)  # fmt: skip
    else:
        packed = subprocess.run(["tar", "-cf", "-", text(g)], cwd=tmp_path, check=True, capture_output=True).stdout
        subprocess.run(["tar", "--overwrite", "-xf", "-"], input=packed, check=True, cwd=str(stage["path"]))
    seen = agent.call("unstage", token=stage["token"])["files"][g.hex()]
    assert (seen["same"], seen["size"]) == (True, 11), seen
    assert (mount / name).read_bytes() == b"new content" and os.stat(mount / name).st_ino == before
    assert agent.ask("unstage", token=stage["token"])["error"]["code"] == "no-stage"


def test_err_3_a_file_that_was_given_up_keeps_its_blocks_and_its_mark(served: tuple[VolumeAgent, Path]) -> None:
    """On a volume every update is in place: marked before the first byte, also for the next agent, until it is whole."""
    agent, mount = served
    torn, whole = gfid(901), gfid(902)
    agent.entries(create(torn, ROOT, b"torn", b"o" * 3000), create(whole, ROOT, b"whole", b"o" * 3000))
    begin = wire.encode_file_begin(wire.FileBegin(torn, 2000, False))
    ident = agent.send(Kind.FILE_BEGIN, begin)
    agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(0) + b"n" * 1000, ident=ident)
    agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(1000) + bytes(1000), ident=ident)  # zeros for what could not be read
    agent.send(Kind.FILE_ABORT, b"", ident=ident)
    agent.puts(Put(whole, regular(3), {}, b"new"))
    agent.call("commit", purge=[], mark=None)
    assert (mount / "torn").read_bytes() == b"n" * 1000 + b"o" * 2000
    assert agent.call("torn")["torn"] == [torn.hex()]
    found = agent.call("lookup", gfids=[torn.hex(), whole.hex()])["objects"]
    assert [found[g.hex()]["torn"] for g in (torn, whole)] == [True, False]
    kept = [n for n in os.listxattr(mount) if n.startswith("trusted.georep.torn.")]
    assert len(kept) == 1 and torn.hex().encode() in os.getxattr(mount, kept[0])
    agent.puts(Put(torn, regular(5), {}, b"whole"))
    agent.call("commit", purge=[], mark=None)
    assert agent.call("torn")["torn"] == []
    assert not [n for n in os.listxattr(mount) if n.startswith("trusted.georep.torn.")]
