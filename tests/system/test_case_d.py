"""Case d: much happens while the engine is down; renamed data is not sent again (CRW-8)."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.system.line import Line
from tests.system.oracle import differences
from tests.system.runner import converged, finish, working, workload
from tests.system.settings import CALM, SSH, Maker, Way
from tests.system.sshd import Sshd


def _subtree(top: Path, total: int, seed: int) -> None:
    """`total` bytes of random files, some large, in nested directories."""
    chance, made, n = random.Random(seed), 0, 0
    while made < total:
        folder = top / f"d{n % 7}" / f"e{n % 31}"
        folder.mkdir(parents=True, exist_ok=True)
        size = min(total - made, chance.choice([20_000, 200_000, 3_000_000, 12_000_000]))
        (folder / f"f{n}").write_bytes(chance.randbytes(size))
        made, n = made + size, n + 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(SSH, id="stream"),
        pytest.param(Way("rsync", "ssh", "me"), id="rsync"),
        pytest.param(Way("tarssh", "ssh", "me"), id="tarssh", marks=pytest.mark.long),
    ],
)
def test_a_renamed_subtree_is_not_sent_again(make: Maker, sshd: Sshd, way: Way, long: bool) -> None:
    size = (2 << 30) if long else 150 << 20
    setting = make(way)
    tree = setting.primary
    with Line(sshd.port) as line:
        setting = setting.through(line, sshd)
        product = setting.product
        _subtree(tree / "large", size, 1)
        for name in ("doomed", "changing", "staying"):
            _subtree(tree / name, 4 << 20, len(name))
        (tree / "elsewhere").mkdir()
        with product:
            product.start()
            product.active(timeout=400)
            converged(product, tree, setting.secondary, since=time.monotonic(), within=60)
            assert line.sent > size * 0.9, "the data did not go through the line"
            assert product.stop() == 0, product.tail()
        (tree / "large").rename(tree / "elsewhere" / "moved")
        (tree / "elsewhere/moved/d3").rename(tree / "d3-moved")
        shutil.rmtree(tree / "doomed")
        for path in sorted((tree / "changing").rglob("f*"))[:3]:
            with open(path, "r+b") as f:
                f.write(b"changed")
        _subtree(tree / "created", 1 << 20, 9)
        new = (1 << 20) + sum(p.stat().st_size for p in sorted((tree / "changing").rglob("f*"))[:3])
        before = line.sent
        with product:
            product.start()
            product.active(timeout=400)
            converged(product, tree, setting.secondary, since=time.monotonic(), within=60)
            assert product.stop() == 0, product.tail()
        again = line.sent - before - new
        assert again < size * 0.01 + 700_000, f"{again} bytes beyond the {new} new ones were sent, {size} were renamed"


def test_changes_of_every_kind_while_it_is_down(make: Maker) -> None:
    """The scenes and a random seed, with the engine down; the hybrid crawl finds deletes and renames too."""
    setting = make(SSH, **CALM)
    product = setting.product
    with product:
        for turn in range(3):
            started = workload(setting.primary, 70 + turn, 1500)
            with working(started):
                finish(started)
            product.start()
            product.active()
            converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=20)
            assert product.stop() == 0, product.tail()


def test_once_after_live_and_live_after_once(make: Maker) -> None:
    """`--once` catches up from where the live run was, directory times included."""
    setting = make(SSH)
    product = setting.product
    for turn in range(3):
        for n in range(20):
            path = setting.primary / f"t{turn}" / f"f{n}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{turn}/{n}")
        os.utime(setting.primary / f"t{turn}", ns=(0, 1_234_567_890_123_456_789))
        if turn == 1:
            with product:
                product.start()
                product.active()
                converged(product, setting.primary, setting.secondary, since=time.monotonic())
                product.stop()
        else:
            done = product.once()
            assert done.returncode == 0, done.stderr
            assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []
