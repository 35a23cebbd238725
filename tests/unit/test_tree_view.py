"""A view of a tree opens the object it was asked for and no other, whatever has become of the name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent.index import Index
from engine.journal.differ import Differ
from engine.model import EntryChange
from engine.volume.base import Gone
from engine.volume.handles import can_open_by_handle
from engine.volume.tree import TreeView


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def view(root: Path) -> Iterator[TreeView]:
    fd = os.open(root, os.O_RDONLY)
    view = TreeView(fd, b"b" * 16, Index(str(root.parent / "index.db")), can_open_by_handle(fd))
    yield view
    view.close()
    os.close(fd)


def _walked(view: TreeView, monkeypatch: pytest.MonkeyPatch) -> EntryChange:
    """The record of the one file there, as a walk finds it long after it was written."""
    monkeypatch.setattr("engine.journal.differ.time.time_ns", lambda: 2**62)
    differ = Differ(view, view.index)
    differ.begin_walk()
    (record,) = [r for r in differ.slice({}, {}, {}) if isinstance(r, EntryChange)]
    assert record.ctime_ns
    return record


def test_an_unchanged_file_is_opened_by_the_ctime_the_walk_saw(
    root: Path, view: TreeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_bytes(b"one")
    record = _walked(view, monkeypatch)
    monkeypatch.setattr("engine.volume.tree.gfid_of", lambda *_: pytest.fail("asked for its handle again"))
    fd = view.open_slot(record.slot, record.gfid, record.ctime_ns)
    assert os.read(fd, 10) == b"one"
    os.close(fd)


def test_another_file_of_that_name_is_not_taken_for_it(
    root: Path, view: TreeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_bytes(b"one")
    record = _walked(view, monkeypatch)
    (root / "new").write_bytes(b"two")
    before = os.stat(root / "f")
    while os.stat(root / "new").st_ctime_ns <= before.st_ctime_ns:  # the kernel's clock ticks every few milliseconds
        os.utime(root / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(root / "new", root / "f")
    with pytest.raises(Gone):
        view.open_slot(record.slot, record.gfid, record.ctime_ns)


def test_the_same_file_written_since_is_still_itself(
    root: Path, view: TreeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_bytes(b"one")
    record = _walked(view, monkeypatch)
    (root / "f").write_bytes(b"three")
    fd = view.open_slot(record.slot, record.gfid, record.ctime_ns)
    assert os.read(fd, 10) == b"three"
    os.close(fd)


def test_what_changed_just_before_it_was_looked_at_has_no_ctime_to_go_by(
    root: Path, view: TreeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_bytes(b"one")
    changed = os.stat(root / "f").st_ctime_ns
    monkeypatch.setattr("engine.journal.differ.time.time_ns", lambda: changed + 1_000_000)
    differ = Differ(view, view.index)
    differ.begin_walk()
    (record,) = [r for r in differ.slice({}, {}, {}) if isinstance(r, EntryChange)]
    assert record.ctime_ns == 0
