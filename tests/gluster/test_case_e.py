"""Case e: the history API's cases C-3…C-10 through the engine: the right crawl, shown, and nothing passed over."""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.journal.history import Htime
from tests.gluster import datasets
from tests.gluster.base import wait_for
from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.system.runner import wait_until
from tests.system.sshd import Sshd

JOURNAL = Path(".glusterfs/changelogs")


@pytest.fixture(scope="module")
def pair(lab: Lab, sshd: Sshd) -> Iterator[Replication]:
    """One brick to one brick, in sync, and stopped: every test leaves it so."""
    with Replication.make(lab, lab.directory, sshd, 1) as made:
        for prefix in OLD:
            datasets.basic(made.p, prefix)
        made.product.start()
        made.settled(1)
        made.equal()
        assert made.product.stop() == 0, made.product.tail()
        yield made


@pytest.fixture
def r(pair: Replication) -> Iterator[Replication]:
    """The same; what a test that failed left running is ended."""
    yield pair
    pair.product.kill()


OLD = [f"old{i}" for i in range(20)]
"""What was there from the beginning, for tests to remove."""


def changed(r: Replication) -> str:
    """Remove something that was synced, make something new; the new thing's prefix."""
    datasets.removed(r.p, OLD.pop())
    prefix = f"new{len(OLD)}"
    datasets.basic(r.p, prefix)
    return prefix


def indexes(r: Replication) -> list[str]:
    """The index files of the primary's brick."""
    return sorted(os.listdir(r.primary.bricks[0] / JOURNAL / "htime"))


def journalled(r: Replication) -> Htime:
    """The brick's index, read now."""
    found = Htime(os.fsencode(r.primary.bricks[0] / JOURNAL))
    found.poll()
    return found


def back(r: Replication) -> None:
    """Wait until the mount has found the brick again."""

    def there() -> bool:
        try:
            return bool(os.listdir(r.p))
        except OSError:
            return False

    wait_until(there, 30, "the volume is back")


def rolled(r: Replication, after: float) -> None:
    """Wait until the brick has closed a slice that ended after that moment."""
    wait_for("a rollover", lambda: journalled(r).last > after)


def mark(r: Replication, second: int) -> None:
    """Set the mark, as another that replicates could have left it."""
    for name in ("stime", "entry_stime"):
        key = f"trusted.glusterfs.{r.primary.id}.{r.secondary.id}.{name}"
        os.setxattr(r.primary.bricks[0], key, struct.pack("!II", second, 0))


def again(r: Replication) -> tuple[list[str], float]:
    """Start, wait until both volumes are equal; the crawls it took, as the status names them."""
    began = time.time()
    r.product.start()
    r.settled(1)
    r.equal()
    return crawls(r, began), began


def crawls(r: Replication, since: float) -> list[str]:
    """The kinds of the crawls that began since then, in order."""
    return [c["kind"] for c in r.bricks()[0]["crawls"] if c["since"] >= since - 0.01]


@pytest.mark.long
def test_c_5_history_within_one_index(r: Replication) -> None:
    """The mark lies in the only index: history, then live."""
    changed(r)
    assert again(r)[0] == ["history", "live"]
    assert r.bricks()[0]["crawl_status"] == "Changelog Crawl"
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.long
def test_c_3_and_c_4_a_mark_from_before_the_journal_began(r: Replication) -> None:
    """A mark older than any index: no history, a hybrid crawl that finds deletes too."""
    first = journalled(r).spans[0][0]
    changed(r)
    mark(r, first - 50)
    found, _ = again(r)
    assert found[0] == "hybrid" and found[-1] == "live", found
    assert "does not reach back" in r.product.tail(60)
    assert r.product.stop() == 0, r.product.tail()


def test_c_7_c_8_and_c_9_journalling_off_and_on(lab: Lab, r: Replication) -> None:
    """A mark in the first index, in the gap between two, and in the second."""
    lab.set(r.primary, "changelog.changelog", "off")
    gap = int(time.time()) + 1
    count = len(indexes(r))
    changed(r)
    wait_for("a second in the gap", lambda: time.time() > gap + 1)
    lab.set(r.primary, "changelog.changelog", "on")
    wait_for("the second index", lambda: len(indexes(r)) == count + 1)
    second = changed(r)
    rolled(r, time.time())
    # C-7: upstream serves the first index only, and calls that partial
    found, _ = again(r)
    assert "hybrid" in found and found[-1] == "live", found
    assert "journalling was off" in r.product.tail(80)
    assert r.product.stop() == 0, r.product.tail()
    # C-9: all in the second
    datasets.removed(r.p, second)
    assert again(r)[0] == ["history", "live"]
    assert r.product.stop() == 0, r.product.tail()
    # C-8: in the gap
    mark(r, gap)
    changed(r)
    found, _ = again(r)
    assert "hybrid" in found and found[-1] == "live", found
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.long
def test_c_10_journalling_is_off_at_the_start(lab: Lab, r: Replication) -> None:
    """What changed while it was off is found though nothing recorded it."""
    lab.set(r.primary, "changelog.changelog", "off")
    changed(r)
    found, _ = again(r)
    assert "hybrid" in found, found
    assert "changelog.changelog was off, switched on" in r.product.tail(80)
    assert r.product.stop() == 0, r.product.tail()


def test_mrk_3_indexing_was_off_too(lab: Lab, r: Replication) -> None:
    """Without indexing changes leave no xtime: a crawl by xtimes would pass over them."""
    for option in ("changelog.changelog", "geo-replication.indexing"):
        lab.set(r.primary, option, "off")
    count = len(indexes(r))
    (r.p / f"{OLD[-1]}_f1").write_text("changed while nothing was watching")
    (r.p / f"{OLD[-1]}_d1" / "new").write_text("new")
    for option in ("geo-replication.indexing", "changelog.changelog"):
        lab.set(r.primary, option, "on")
    wait_for("another index", lambda: len(indexes(r)) == count + 1)
    found, _ = again(r)
    assert "hybrid" in found, found
    assert r.product.stop() == 0, r.product.tail()


def test_journalling_switched_off_while_it_runs(lab: Lab, r: Replication) -> None:
    """It is Faulty with the reason, not idle; it switches it on again, and a crawl closes the hole."""
    r.product.start()
    r.settled(1)
    began = time.time()
    lab.set(r.primary, "changelog.changelog", "off")
    changed(r)

    def told() -> bool:
        return "changelog.changelog was switched off" in r.product.tail(80)

    wait_until(told, 30, "that the journal is off", pause=0.2)
    r.settled(1)
    r.equal()
    assert "hybrid" in crawls(r, began), r.bricks()[0]["crawls"]
    changed(r)
    r.equal()
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.parametrize("running", [False, pytest.param(True, marks=pytest.mark.long)], ids=["stopped", "running"])
def test_a_brick_that_begins_anew_forgets_the_slice_that_was_open(lab: Lab, r: Replication, running: bool) -> None:
    """GlusterFS gives that slice a name at the brick's next start, and indexes it nowhere: gsyncd loses it."""
    lab.set(r.primary, "changelog.rollover-time", "60")  # so that no slice is closed meanwhile
    began = time.time()
    if running:
        r.product.start()
        r.settled(1)
        changed(r)
        lab.kill_brick(r.primary, r.primary.bricks[0])
        lab.start(r.primary, force=True)
        back(r)
    else:
        changed(r)
        r.lab.stop(r.primary)
        lab.start(r.primary)
        back(r)
        r.product.start()
    names = {int(p.name[-10:]) for p in (r.primary.bricks[0] / JOURNAL).glob("*/*/*/CHANGELOG.*")}
    assert any(n not in {e.suffix for e in journalled(r).entries()} for n in names), "10.3 indexes it: rewrite this test"
    lab.set(r.primary, "changelog.rollover-time", "2")
    r.equal()
    r.settled(1)
    assert "hybrid" not in crawls(r, began)
    assert r.product.stop() == 0, r.product.tail()


def test_mrk_9_two_slices_of_one_second(lab: Lab, r: Replication) -> None:
    """Each change of an option ends a slice, and GlusterFS renames the second of a second over the first."""
    wait_until(lambda: time.time() % 1 < 0.1, 2, "a second's begin", pause=0.01)
    for i in range(6):  # more than fit in one second
        (r.p / f"at-{i}").write_text("x")
        lab.set(r.primary, "changelog.fsync-interval", str(3 + i))
        if any("overwritten" in h.reason for h in journalled(r).holes()):
            break
    else:
        pytest.skip("this machine is too slow for two slices in one second")
    found, _ = again(r)
    assert "hybrid" in found, found
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.long
def test_crw_1_missing_changelog_files(r: Replication) -> None:
    """Files that the index names are gone: the hole is told and crawled, before anything later is applied."""
    changed(r)
    rolled(r, time.time())
    gone = [e.suffix for e in journalled(r).entries() if not e.idle and e.suffix > (r.stime(r.primary.bricks[0]) or (0,))[0]]
    assert gone
    for year in (r.primary.bricks[0] / JOURNAL).glob("20*"):
        shutil.rmtree(year)
    changed(r)
    found, _ = again(r)
    assert "hybrid" in found, found
    assert "the changelog file is missing" in r.product.tail(80)
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.long
def test_c_6_and_rollover_changes_while_it_runs(lab: Lab, r: Replication) -> None:
    """No crawl but the live one, however long slices are, and also over a restart of the brick."""
    r.product.start()
    r.settled(1)
    began, count = time.time(), len(indexes(r))
    for seconds in ("1", "5", "2"):
        lab.set(r.primary, "changelog.rollover-time", seconds)
        datasets.basic(r.p, f"every{seconds}")
        r.equal()
    assert "hybrid" not in crawls(r, began)
    assert len(indexes(r)) == count
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.long
def test_several_indexes_are_served(lab: Lab, r: Replication) -> None:
    """Three of them: the holes between are what is crawled, and told; the oldest one removed is no history."""
    count = len(indexes(r))
    since = time.time()
    for i in range(2):
        lab.set(r.primary, "changelog.changelog", "off")
        (r.p / f"unheard-{i}").write_text("x")
        wait_for("another second", lambda: time.time() > journalled(r).last + 2)
        lab.set(r.primary, "changelog.changelog", "on")
        wait_for("another index", lambda n=i: len(indexes(r)) == count + n + 1)
        (r.p / f"heard-{i}").write_text("x")
        rolled(r, time.time())
    holes = [h for h in journalled(r).holes() if h.end >= since]
    assert len(holes) == 2, holes
    found, _ = again(r)
    assert "hybrid" in found and found[-1] == "live", found
    assert r.product.stop() == 0, r.product.tail()
    os.unlink(r.primary.bricks[0] / JOURNAL / "htime" / indexes(r)[0])
    mark(r, int(indexes(r)[0][-10:]) - 1)
    changed(r)
    found, _ = again(r)
    assert found[0] == "hybrid", found
    assert r.product.stop() == 0, r.product.tail()


@pytest.mark.long
def test_crw_5_marks_of_an_earlier_walk_do_not_count(lab: Lab, r: Replication) -> None:
    """The secondary was emptied and everything asked for again: directories' own marks are of the old one."""
    for name in os.listdir(r.s):
        path = r.s / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(r.product.base / "state")
    (r.product.base / "state").mkdir()
    for name in os.listxattr(r.secondary.bricks[0]):
        if name.startswith("trusted.georep."):
            os.removexattr(r.secondary.bricks[0], name)
    mark(r, 0)  # as gsyncd's delete with reset-sync-time
    found, _ = again(r)
    assert found[0] == "hybrid", found
    assert r.product.stop() == 0, r.product.tail()
