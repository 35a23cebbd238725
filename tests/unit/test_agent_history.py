"""What the secondary stores of its history: the batch that was begun, what was committed, and what is otherwise since."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent import sampling
from engine.agent.types import ROOT, MetaOp, Slot
from tests.agent_side import Local, create, gfid, link, mkdir, regular, rename

A, B, D = gfid(1), gfid(2), gfid(3)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Local]:
    root = tmp_path / "root"
    root.mkdir()
    local = Local(root)
    yield local
    local.close()


def test_a_batch_is_noted_until_its_commit_with_the_files_written_in_place(side: Local) -> None:
    side.holding.intend("aa.7.0.ff", [A])
    side.holding.intend("aa.7.0.ff", [B])
    kept = json.loads((side.path / ".georep/intent").read_text())
    assert (kept["at"], kept["in_place"]) == ("aa.7.0.ff", [A.hex(), B.hex()])
    assert side.holding.stored()["intent"] == {"at": "aa.7.0.ff", "in_place": [A.hex(), B.hex()]}
    side.holding.commit([], purge_foreign=False, keep_deleted=None, mark=None, at="aa.7.0.ff")
    found = side.holding.stored()
    assert (found["at"], found["mark_at"], found["intent"], found["mark"]) == ("aa.7.0.ff", "aa.7.0.ff", None, None)
    assert not (side.path / ".georep/intent").exists()


def test_the_note_of_an_older_version_is_read(side: Local) -> None:
    (side.path / ".georep/applying").touch()
    side.again()
    assert side.holding.recovering
    assert side.holding.stored()["intent"] == {"at": None, "in_place": []}


def test_what_was_committed_is_known_whatever_was_done_to_it(side: Local) -> None:
    """No operation of ours leaves a row that a sample would take for someone else's doing."""
    side.ok(mkdir(D, ROOT, b"d"), create(A, ROOT, b"a", b"x"), create(B, D, b"b", b"yy"))
    side.commit(mark=1)
    side.ok(rename(A, (ROOT, b"a"), (D, b"a2")), link(B, ROOT, b"b2"))
    side.contents.metas([MetaOp(A, regular(1, mode=0o600), None)])
    side.commit(mark=2)
    looked = sampling.sample(side.tree)
    assert looked.rows >= 3 and looked.differ == 0, looked
    assert all(r.ctime_ns for g in (A, B) for r in side.tree.index.rows(g))


@pytest.mark.parametrize("how", ["written", "made anew", "removed", "times set back"])
def test_what_someone_else_did_is_seen(side: Local, how: str) -> None:
    side.ok(mkdir(D, ROOT, b"d"), *(create(gfid(10 + n), D, b"f%d" % n, b"x") for n in range(30)))
    side.commit(mark=1)
    path = side.path / "d/f7"
    st = path.stat()
    if how == "written":
        path.write_bytes(b"other")
    elif how == "made anew":
        other = side.path / "d/new"
        other.write_bytes(b"x")
        os.utime(other, ns=(st.st_atime_ns, st.st_mtime_ns))
        other.rename(path)
    elif how == "removed":
        path.unlink()
    else:
        path.write_bytes(b"y")
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    found = sampling.sample(side.tree)
    assert found.differ == 1 and "d/f7" in found.words[0], found
    seen = rows = 0
    over = False
    while not over:
        looked, over = sampling.step(side.tree, 4)
        seen, rows = seen + looked.differ, rows + looked.rows
    assert (seen, rows) == (1, 31)


def test_only_what_is_as_it_was_committed_is_proven(side: Local) -> None:
    side.ok(create(A, ROOT, b"a", b"x"), create(B, ROOT, b"b", b"y"))
    side.commit(mark=1)
    (side.path / "b").write_bytes(b"z")
    side.holding.begin_again("aa.1.0.00", "token", True)
    proves = side.tree.index.proves

    def of(name: str) -> bool:
        st = (side.path / name).stat()
        return proves(st.st_ino.to_bytes(8, "big"), st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    assert of("a") and not of("b")
    assert side.tree.index.get(*Slot(ROOT, b"a")) is None
    assert (side.holding.stored()["at"], side.holding.stored()["token"]) == ("aa.1.0.00", "token")
    side.holding.begin_again(None, "other", False)
    assert not of("a")
