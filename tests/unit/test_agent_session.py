"""The agent's session: handshake, lock, owner, mark and the order of a commit (MRK-6, MRK-7, SAFE-5, SEC-16)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent import wire
from engine.agent.frames import PROTOCOL, Kind
from engine.agent.state import Holding
from engine.agent.types import LIMBO
from tests.agent_side import (
    ROOT,
    Agent,
    Local,
    create,
    gfid,
    link,
    mkdir,
    rename,
    rmdir,
    tree_of,
    unlink,
)

A, B, C, D = (gfid(i) for i in range(1, 5))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replica"


@pytest.fixture
def side(root: Path) -> Iterator[Local]:
    local = Local(root)
    yield local
    local.close()


def everything(root: Path) -> list[str]:
    return sorted(str(p) for p in root.rglob("*"))


def test_hello_changes_nothing(root: Path) -> None:
    with Agent(root) as agent:
        hello = agent.hello()
        assert (hello["exists"], hello["fresh"], hello["empty"], hello["session"], hello["mark"]) == (
            False, True, True, None, None,
        )  # fmt: skip
        assert not root.exists()
        root.mkdir()
        (root / "f").write_text("x")
        hello = agent.hello()
        assert (hello["exists"], hello["fresh"], hello["empty"]) == (True, True, False)
        assert everything(root) == [str(root / "f")]
        assert agent.ask("hello", protocol=99)["error"]["code"] == "other-protocol"
        assert {"bytes", "inodes"} <= set(hello["statfs"]) and hello["pid"] == agent.child.pid


def test_mrk_7_hello_tells_session_mark_and_limbo(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a"), create(B, ROOT, b"b"), unlink(B, ROOT, b"b"))
        agent.call("commit", purge=[], mark={"sec": 77, "nsec": 5}, keep_deleted=0)
        agent.call("commit", purge=[], mark=None)
    with Agent(root) as agent:
        hello = agent.hello()
        assert (hello["session"], hello["brick"], hello["mark"]) == ("5e55", "b1", {"sec": 77, "nsec": 5})
        assert hello["limbo"] == [B.hex()] and not hello["fresh"]


def test_begin_makes_the_root_but_not_its_parents(root: Path) -> None:
    with Agent(root) as agent:
        assert agent.ask("begin", session="s", brick="b", primary="p")["error"]["code"] == "missing"
        agent.begin()
        assert os.stat(root / ".georep").st_mode & 0o777 == 0o700
        assert agent.ask("begin", session="s", brick="b", primary="p")["error"]["code"] == "begun"
    with Agent(root / "x" / "y") as agent:
        error = agent.ask("begin", session="s", brick="b", primary="p", create=True)["error"]
        assert error["code"] == "missing" and "mount" in error["hint"]


def test_nothing_works_before_begin(root: Path) -> None:
    with Agent(root) as agent:
        assert agent.ask("statfs")["error"]["code"] == "not-begun"
        assert agent.request(Kind.ENTRIES, b"").kind == Kind.ERROR
        assert agent.ask("keepalive")["result"]
        assert agent.ask("no such call")["error"]["code"] == "unknown-call"
        assert agent.ask("lookup")["error"]["code"] == "not-begun"


def test_safe_5_another_session_is_refused_until_it_takes_over(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        agent.call("commit", purge=[], mark={"sec": 9, "nsec": 0})
    before = everything(root)
    with Agent(root) as agent:
        error = agent.ask("begin", session="other", brick="b2", primary="h:/x", create=True, wait=1)["error"]
        assert error["code"] == "other-session" and "host:/srv" in error["text"]
        assert everything(root) == before
        agent.begin(session="other", brick="b2", take_over=True)
        hello = agent.hello()
        assert hello["session"] == "other" and hello["mark"] is None


def test_safe_5_no_two_write_at_once_and_a_new_agent_waits(root: Path) -> None:
    first, second = Agent(root), Agent(root)
    try:
        first.begin()
        error = second.ask("begin", session="5e55", brick="b1", primary="p", wait=0.2)["error"]
        assert error["code"] == "locked" and str(first.child.pid) in error["text"]
        ident = second.send(
            Kind.CALL,
            json.dumps(
                {"method": "begin", "params": {"session": "5e55", "brick": "b1", "primary": "p", "wait": 20}}
            ).encode(),
        )
        assert first.close() == 0
        frame = second.read()
        assert frame.id == ident and "result" in json.loads(frame.payload)
    finally:
        second.close()


def test_safe_5_an_agent_leaves_when_nothing_comes(root: Path) -> None:
    agent = Agent(root)
    agent.begin(timeout=0.3)
    agent.entries(create(A, ROOT, b"a", b"x"))
    assert agent.child.wait(20) == 75
    agent._close()
    with Agent(root) as agent:
        assert agent.begin()["recovering"] is False


def test_sigterm_ends_it_with_what_was_done(root: Path) -> None:
    agent = Agent(root)
    agent.begin()
    agent.entries(create(A, ROOT, b"a", b"x"))
    agent.child.send_signal(signal.SIGTERM)
    assert agent.child.wait(20) == 143
    agent._close()
    with Agent(root) as agent:
        begun = agent.begin()
        assert begun["recovering"] is False


def test_garbage_is_answered_or_ends_the_agent_cleanly(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        assert agent.request(Kind.ENTRIES, b"garbage").kind == Kind.ERROR
        assert agent.request(Kind.CALL, b"{").kind == Kind.ERROR
        assert agent.ask("place", gfid="xx")["error"]["errno"] == errno.EINVAL
        assert agent.ask("lookup", gfids=["zz"])["error"]["errno"] == errno.EINVAL
        assert agent.request(200, b"").kind == Kind.ERROR
        agent.send(Kind.FILE_BEGIN, b"short")
        assert agent.ask("keepalive")["result"]
        os.write(agent.stdin, b"\xff" * 9)
        assert agent.child.wait(20) == 76


def test_mrk_6_rows_and_mark_are_on_disk_before_anything_is_purged(
    side: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop a commit at its last step: index and mark are durable, and what was to go is still there."""
    side.ok(create(A, ROOT, b"a", b"x"), create(B, ROOT, b"b", b"y"))
    side.commit(mark=1)
    side.ok(unlink(A, ROOT, b"a"))

    def stop(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Holding, "_purge", stop)
    with pytest.raises(KeyboardInterrupt):
        side.commit(A, mark=2)
    monkeypatch.undo()
    assert (side.path / ".georep/limbo" / A.hex()).read_bytes() == b"x"
    assert json.loads((side.path / ".georep/mark.json").read_text())["mark"] == {"sec": 2, "nsec": 0}
    side.again()
    assert not side.holding.recovering and side.tree.index.count() == 1
    side.ok(unlink(A, ROOT, b"a"))
    side.commit(A, mark=3)
    assert side.limbo() == set()


def test_mrk_6_a_commit_that_fails_acknowledges_nothing(side: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.agent import system

    side.ok(create(A, ROOT, b"a", b"x"))
    side.commit(mark=1)
    side.ok(unlink(A, ROOT, b"a"))

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "lost a write")

    monkeypatch.setattr(system, "syncfs", fails)
    with pytest.raises(OSError, match="lost a write"):
        side.commit(A, mark=2)
    monkeypatch.undo()
    assert json.loads((side.path / ".georep/mark.json").read_text())["mark"]["sec"] == 1
    assert side.limbo() == {A.hex()}


def test_sec_16_deleted_things_are_kept_as_long_as_wanted(side: Local) -> None:
    side.ok(mkdir(D, ROOT, b"d"), create(A, D, b"a", b"kept"), create(B, ROOT, b"b", b"kept too"), link(B, D, b"b2"))
    side.ok(unlink(A, D, b"a"), unlink(B, ROOT, b"b"), unlink(B, D, b"b2"), rmdir(D, ROOT, b"d"))
    side.commit(A, B, D, keep=3600)
    (day,) = (side.path / ".georep/deleted").iterdir()
    assert abs(int(day.name) - time.time()) < 100
    assert (day / A.hex()).read_bytes() == b"kept" and (day / B.hex()).read_bytes() == b"kept too"
    paths = dict(line.split(b" ", 1) for line in (day / "paths").read_bytes().split(b"\0") if line)
    assert paths == {A.hex().encode(): b"d/a", B.hex().encode(): b"d/b2", D.hex().encode(): b"d"}
    os.rename(day, day.parent / "1000000")
    side.commit(keep=3600, mark=2)
    assert list((side.path / ".georep/deleted").iterdir()) == []


def test_sec_16_a_link_in_limbo_beside_names_is_purged_alone(side: Local) -> None:
    from tests.agent_side import limbo

    side.ok(create(A, ROOT, b"a", b"x"), link(A, ROOT, b"b"), rename(A, (ROOT, b"a"), limbo(A)))
    side.commit(A)
    assert (side.path / "b").stat().st_nlink == 1 and side.limbo() == set()
    assert [r.name for r in side.tree.index.rows(A)] == [b"b"]


def test_purging_a_deep_and_wide_tree(side: Local) -> None:
    parent = ROOT
    for i in range(200):
        side.ok(mkdir(gfid(1000 + i), parent, b"d" * 100), create(gfid(3000 + i), parent, b"f"))
        parent = gfid(1000 + i)
    side.ok(rmdir(gfid(1000), ROOT, b"d" * 100))
    side.commit(gfid(1000))
    assert side.tree.index.count() == 1 and set(tree_of(side.path)) == {"f"}
    assert os.listdir(side.path / ".georep/trash") == []


def test_limbo_is_told_with_counts(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        agent.entries(
            mkdir(D, ROOT, b"d"), create(A, D, b"a", b"x"), create(B, ROOT, b"b", b"yy"),
            rmdir(D, ROOT, b"d"), unlink(B, ROOT, b"b"),
        )  # fmt: skip
        (root / "u").write_text("u")
        agent.call("clear_slot", parent=ROOT.hex(), name="dQ==", gfid="")
        told = agent.call("limbo")["objects"]
        assert {(o["gfid"], o["objects"]) for o in told} == {(D.hex(), 2), (B.hex(), 1), (None, 1)}
        agent.call("commit", purge=[D.hex()], purge_foreign=True, keep_deleted=0, mark=None)
        assert [o["gfid"] for o in agent.call("limbo")["objects"]] == [B.hex()]


def test_a_damaged_or_missing_index_is_told(root: Path) -> None:
    for damage in (lambda p: p.write_bytes(b"no database" * 1000), lambda p: p.unlink()):
        with Agent(root) as agent:
            agent.begin()
            agent.entries(create(A, ROOT, b"a", b"x"))
        for name in ("index.db-wal", "index.db-shm"):
            (root / ".georep" / name).unlink(missing_ok=True)
        damage(root / ".georep" / "index.db")
        with Agent(root) as agent:
            begun = agent.begin()
            assert begun["index_lost"] is True
        with Agent(root) as agent:
            assert agent.begin()["index_lost"] is True  # until the primary has taken note
            agent.call("adopt_begin", replace=False)
        with Agent(root) as agent:
            assert agent.begin()["index_lost"] is False
        shutil.rmtree(root)


def test_an_index_damaged_inside_is_noticed_and_lost_at_the_next_start(root: Path) -> None:
    with Agent(root) as agent:
        agent.begin()
        for n in range(20):
            agent.entries(*(create(gfid(1000 * n + i), ROOT, b"f%d-%d" % (n, i)) for i in range(200)))
        agent.call("commit", purge=[], mark={"sec": 1, "nsec": 0})
    path = root / ".georep" / "index.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(path, "r+b") as f:
        for page in range(3, path.stat().st_size // 8192):
            f.seek(page * 8192)
            f.write(os.urandom(2048))
    agent = Agent(root)
    begun = agent.ask("begin", session="5e55", brick="b1", primary="p", wait=1)
    if not begun["result"]["index_lost"]:
        kinds = set()
        for n in range(20):
            ops = wire.encode_entries([unlink(gfid(1000 * n), ROOT, b"f%d-0" % n)])
            kinds.add(agent.request(Kind.ENTRIES, ops).kind)
        assert Kind.ERROR in kinds
    agent.close()
    with Agent(root) as agent:
        assert agent.begin()["index_lost"] is True


def test_a_replica_copied_elsewhere_knows_that_its_index_means_nothing(root: Path, tmp_path: Path) -> None:
    """MRK-7: restored from a backup, inode numbers and all."""
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a", b"x"))
        agent.call("commit", purge=[], mark={"sec": 5, "nsec": 0})
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    with Agent(tmp_path / "copy") as agent:
        assert agent.hello()["mark"] == {"sec": 5, "nsec": 0}
        assert agent.begin()["index_lost"] is True


def test_bricks_under_names_have_their_own_state(root: Path) -> None:
    root.mkdir()
    first, second = Agent(root), Agent(root)
    try:
        first.begin(root_name="one", brick="b1")
        second.begin(root_name="two", brick="b2")
        first.entries(create(A, ROOT, b"a", b"1"))
        second.entries(create(A, ROOT, b"a", b"2"))
        assert (root / "one/a").read_bytes() == b"1" and (root / "two/a").read_bytes() == b"2"
        assert sorted(p.name for p in (root / ".georep/bricks").iterdir()) == ["one", "two"]
        assert first.hello(root_name="one")["brick"] == "b1"
        assert first.ask("hello", protocol=PROTOCOL, root_name="../x")["error"]["errno"] == errno.EINVAL
    finally:
        first.close()
        second.close()


def test_stages_left_by_a_killed_agent_go_at_the_next_start(root: Path) -> None:
    agent = Agent(root)
    agent.begin()
    agent.entries(create(A, ROOT, b"a", b"x"))
    stage = agent.call("stage", gfids=[A.hex()])
    agent.kill()
    with Agent(root) as agent:
        agent.begin()
        assert not Path(stage["path"]).exists()
        assert (root / "a").read_bytes() == b"x"


def test_the_agent_needs_no_file_but_its_modules(tmp_path: Path) -> None:
    """The package runs from memory on the oldest python it promises, wherever one is."""
    import subprocess
    import sys

    from engine.link import Link, SshTarget

    link = Link(SshTarget(None), os.fsencode(tmp_path / "replica"))
    try:
        assert link.call("hello", {"protocol": PROTOCOL})["python"] == sys.version.split()[0]
    finally:
        link.close()
    old = shutil.which("python3.9")
    if old is None or subprocess.run([old, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("no python3.9 here")
    with Agent(tmp_path / "replica39", python=old) as agent:
        assert agent.hello()["python"].startswith("3.9")
        agent.begin()
        assert not agent.entries(mkdir(D, ROOT, b"d"), create(A, D, b"a", b"x"), unlink(A, D, b"a")).failures
        agent.call("commit", purge=[A.hex()], mark={"sec": 1, "nsec": 0}, keep_deleted=0)


def test_sec_16_a_name_in_limbo_goes_when_its_file_has_another(root: Path) -> None:
    """What a crash may leave: a file with a name of its own and one in limbo. No link count may show it."""
    with Agent(root) as agent:
        agent.begin()
        agent.entries(create(A, ROOT, b"a"), link(A, ROOT, b"b"), rename(A, (ROOT, b"a"), (LIMBO, A.hex().encode())))
        assert os.stat(root / "b").st_nlink == 2
        agent.call("commit", purge=[], mark={"sec": 1, "nsec": 0}, keep_deleted=3600)
        assert os.stat(root / "b").st_nlink == 1 and not (root / "a").exists()
        assert os.listdir(root / ".georep/limbo") == [] and agent.call("limbo")["objects"] == []
