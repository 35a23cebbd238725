"""SYN-4, ERR-3: what the agent does with content: beside, or in place and marked; and what a crash leaves of both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.agent import wire
from engine.agent.content import Gaps
from engine.agent.frames import Kind
from engine.agent.intent import read
from engine.agent.types import ROOT, EntryOp
from tests.agent_side import T0, Agent, create, gfid, link, mkdir, regular, rename, unlink

A, B, C, D = (gfid(i) for i in range(1, 5))
MANY = [gfid(100 + i) for i in range(60)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replica"


def _marked(root: Path) -> set[bytes]:
    fd = os.open(root / ".georep", os.O_RDONLY)
    try:
        return read(fd)
    finally:
        os.close(fd)


def _put(g: bytes, data: bytes, mtime: int = T0) -> wire.Put:
    return wire.Put(g, regular(len(data), mtime=mtime), {}, data)


def _commit(agent: Agent, sec: int | None = None) -> None:
    agent.call("commit", purge=[], mark=None if sec is None else {"sec": sec, "nsec": 0})


def test_a_killed_agent_leaves_the_mark_of_what_it_wrote_over(root: Path) -> None:
    """Durable before the first byte: killed in between, the next agent knows; whole and committed, it is gone."""
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a", b"old" * 1000), link(A, ROOT, b"b", regular(3000)), create(B, ROOT, b"c", b"x"))
        _commit(agent)
        ident = agent.send(Kind.FILE_BEGIN, wire.encode_file_begin(wire.FileBegin(A, 3000, False)))
        agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(0) + b"new" * 500, ident=ident)
        agent.call("keepalive")
        assert _marked(root) == {A}
        assert (root / "a").read_bytes() == b"old" * 1000, "the last piece waits until the next word"
        agent.kill()
    with Agent(root) as agent:
        agent.begin()
        assert agent.call("torn")["torn"] == [A.hex()]
        assert agent.call("lookup", gfids=[A.hex(), B.hex()])["objects"][A.hex()]["torn"]
        agent.puts(_put(A, b"new"))
        assert _marked(root) == {A}, "what is not on the disk yet may still be lost"
        _commit(agent)
        assert _marked(root) == set()
        assert (root / "b").read_bytes() == b"new"


def test_given_up_it_keeps_the_blocks_it_has(root: Path) -> None:
    """Several names: pieces that were followed by another are there, the rest is as it was; nothing is cut."""
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a", b"o" * 3000), link(A, ROOT, b"b", regular(3000)))
        ident = agent.send(Kind.FILE_BEGIN, wire.encode_file_begin(wire.FileBegin(A, 2000, False)))
        agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(0) + b"n" * 1000, ident=ident)
        agent.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(1000) + bytes(1000), ident=ident)  # zeros for what could not be read
        agent.send(Kind.FILE_ABORT, b"", ident=ident)
        agent.call("keepalive")
        assert (root / "a").read_bytes() == b"n" * 1000 + b"o" * 2000
        _commit(agent)
        assert _marked(root) == {A}


def test_what_never_came_is_marked(root: Path) -> None:
    """A file made without its content: not before the commit, then until it comes, or the file is gone."""
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a", None), create(B, ROOT, b"b", None), create(C, ROOT, b"c", None))
        agent.puts(_put(A, b"came"))
        _commit(agent)
        assert _marked(root) == {B, C}
        agent.puts(_put(B, b""))
        agent.entries(unlink(C, ROOT, b"c"))
        agent.call("commit", purge=[C.hex()], mark=None)
        assert _marked(root) == set()


@pytest.mark.parametrize("committed", [True, False])
def test_a_crash_after_files_were_put_in_place(root: Path, committed: bool) -> None:
    """60 files put in place (twice, so that inode numbers could come round), and the agent killed: each is known for what it
    is, none is taken for another's, and what nobody repeats is not swept away."""
    with Agent(root) as agent:
        agent.begin()
        agent.entries(*(create(g, ROOT, b"f%02d" % i, b"old %d" % i) for i, g in enumerate(MANY)))
        if committed:
            _commit(agent)
        for turn in (b"one", b"two"):
            agent.puts(*(_put(g, b"%s %d" % (turn, i), T0 + 1) for i, g in enumerate(MANY)))
        agent.entries(rename(MANY[0], (ROOT, b"f00"), (ROOT, b"moved")), create(A, ROOT, b"f00", b"another"))
        agent.kill()
    with Agent(root) as agent:
        assert agent.begin()["recovering"]
        again: list[EntryOp] = [create(g, ROOT, b"f%02d" % i, b"old %d" % i) for i, g in enumerate(MANY)]
        # what is repeated: in order, and of the contents only a part: the disk of the primary may fail meanwhile
        agent.entries(*(() if committed else again), rename(MANY[0], (ROOT, b"f00"), (ROOT, b"moved"), regular(5, mtime=T0 + 1)),
                      create(A, ROOT, b"f00", b"another"))  # fmt: skip
        agent.puts(*(_put(g, b"two %d" % i, T0 + 1) for i, g in enumerate(MANY[:20])))
        _commit(agent, 4_000_000_000)
        found = agent.call("lookup", gfids=[g.hex() for g in MANY])["objects"]
        assert len(found) == len(MANY)
    assert (root / "moved").read_bytes() == b"two 0"
    assert (root / "f00").read_bytes() == b"another"
    for i in range(1, len(MANY)):
        expected = {b"two %d" % i} if committed or i < 20 else {b"two %d" % i, b"old %d" % i}
        assert (root / f"f{i:02}").read_bytes() in expected, i


def test_a_directory_keeps_its_times_and_files_what_is_ours_on_them(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        agent.entries(mkdir(D, ROOT, b"d"), create(A, D, b"a", b"old"))
        os.setxattr(root / "d" / "a", "user.k", b"v")
        if os.geteuid() == 0:
            os.setxattr(root / "d" / "a", "trusted.label", b"l")
        os.utime(root / "d", ns=(T0, T0))
        agent.puts(wire.Put(A, regular(3), None, b"new"))
        assert os.stat(root / "d").st_mtime_ns == T0
        assert os.getxattr(root / "d" / "a", "user.k") == b"v", "no xattrs were sent: they stay"
        if os.geteuid() == 0:
            assert os.getxattr(root / "d" / "a", "trusted.label") == b"l"
        assert (root / "d" / "a").read_bytes() == b"new"


def test_what_a_killed_agent_had_under_way_goes(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a", b"old"))
        agent.send(Kind.FILE_BEGIN, wire.encode_file_begin(wire.FileBegin(A, 100, False)))
        agent.call("keepalive")
        assert len(os.listdir(root / ".georep/new")) == 1
        assert _marked(root) == set()
        agent.kill()
    with Agent(root) as agent:
        agent.begin()
        assert os.listdir(root / ".georep/new") == []
        assert (root / "a").read_bytes() == b"old"


def test_gaps_are_holes_and_the_last_piece_waits() -> None:
    """Pure: of an old file of 100 bytes, what nothing was sent for is punched, up to its end only."""
    did: list[tuple[str, int, int]] = []
    gaps = Gaps(100, lambda at, data: did.append(("w", at, len(data))), lambda at, n: did.append(("p", at, n)))
    gaps.data(10, memoryview(b"x" * 20))
    assert did == []
    gaps.data(50, memoryview(b"x" * 100))
    assert did == [("p", 0, 10), ("w", 10, 20)]
    gaps.end(500)
    assert did[2:] == [("p", 30, 20), ("w", 50, 100)]
    other = Gaps(100, lambda *_: None, lambda at, n: did.append(("p", at, n)))
    other.end(60)
    assert did[-1] == ("p", 0, 60)
    backwards = Gaps(300, lambda at, data: did.append(("w", at, len(data))), lambda at, n: did.append(("p", at, n)))
    did.clear()
    for at in (200, 100, 0):
        backwards.data(at, memoryview(b"x" * 100))
    backwards.end(300)
    assert did == [("p", 0, 200), ("w", 200, 100), ("w", 100, 100), ("w", 0, 100)]
