"""Case b: random operations from three processes while the product runs live; equal within 10 s, ledger empty."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.operations import HUGE
from tests.system.runner import SCAN, WITHIN, converged, finish, working, workload
from tests.system.settings import ALL_WAYS, CALM, LOCAL, SSH, Maker, Setting, Way
from tests.system.syscalls import punch

RECORDERS = ["auto", "inotify", "scan"]


def _random(
    setting: Setting, seed: int, operations: int, rate: float = 0, huge: bool = False, within: float = WITHIN
) -> None:
    """Run one seed on a live session, and wait until both sides are equal."""
    with setting.product as product:
        if product.process is None:
            product.start()
            product.active()
        started = workload(setting.primary, seed, operations, rate=rate, user=setting.user, huge=huge)
        with working(started):
            done = finish(started)
        since = time.monotonic()
        assert done > operations / 2
        try:
            converged(product, setting.primary, setting.secondary, since=since, within=within, patience=within + 60)
        except AssertionError as e:
            if keep := os.environ.get("GEOREP_TEST_KEEP"):  # trees, indexes and journals, for whoever looks for the cause
                product.kill()
                subprocess.run(["cp", "-a", setting.base, f"{keep}/{seed}-{setting.way}"], check=True)
            raise AssertionError(f"seed {seed}, {done} operations: {e}") from None
        assert product.stop() == 0, product.tail()


@pytest.mark.parametrize("way", ALL_WAYS)
def test_random_operations(make: Maker, way: Way) -> None:
    """One seed of 3,000 operations, paced so that they fall into many slices (case i: all engines and users)."""
    _random(make(way, **CALM), seed=11, operations=3000, rate=400)


@pytest.mark.parametrize("recorder", RECORDERS)
def test_random_operations_with_each_recorder(make: Maker, recorder: str) -> None:
    within = SCAN if recorder == "scan" else WITHIN
    _random(make(LOCAL, recorder=recorder, **CALM), seed=12, operations=1500, rate=300, within=within)


def test_random_operations_at_full_speed_with_large_files(make: Maker) -> None:
    """No pace: everything falls into a few slices; files above the threshold of deltas among them."""
    _random(make(SSH, delta_threshold=1 << 20, **CALM), seed=13, operations=3000, huge=True)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ALL_WAYS)
@pytest.mark.parametrize("seed", range(20))
def test_twenty_seeds_of_ten_thousand(make: Maker, way: Way, seed: int) -> None:
    _random(make(way, **CALM), seed=1000 + seed, operations=10_000, rate=(0, 500, 2000)[seed % 3], huge=seed % 4 == 0)


def _burst(tree: Path, files: int) -> None:
    """More events at once than a kernel queue of the default size holds."""
    for d in range(20):
        (tree / f"burst{d}").mkdir()
    for n in range(files):
        os.close(os.open(tree / f"burst{n % 20}" / f"f{n}", os.O_CREAT | os.O_WRONLY))


@pytest.mark.parametrize("recorder", ["auto", "inotify"])
def test_the_kernels_queue_overflows(make: Maker, recorder: str) -> None:
    """The engine is stopped while 20,000 files come and some go: inotify's queue of 16,384 events overflows.

    A hole in history is closed by a hybrid crawl, deletes and renames included (CRW-8).
    """
    setting = make(LOCAL, recorder=recorder)
    for n in range(300):
        (setting.primary / f"old{n}").write_text(str(n))
    with setting.product as product:
        product.start()
        product.active()
        os.kill(product.pid, signal.SIGSTOP)
        try:
            _burst(setting.primary, 20_000)
            for n in range(0, 300, 3):
                (setting.primary / f"old{n}").unlink()
            for n in range(1, 300, 3):
                (setting.primary / f"old{n}").rename(setting.primary / "burst0" / f"renamed{n}")
        finally:
            os.kill(product.pid, signal.SIGCONT)
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=30)


def test_the_clock_steps_back(make: Maker) -> None:
    """The engine's clock, and only that, goes 30 s back and later on: suffixes never run backwards (MRK-9)."""
    setting = make(LOCAL, **CALM)
    offset = setting.base / "offset"
    offset.write_text("0")
    setting.product.module = ("-m", "tests.system.stepped", str(offset))
    with setting.product as product:
        product.start()
        product.active()
        for step, seconds in enumerate((0, -30, -30, 5, -60)):
            offset.write_text(str(seconds))
            started = workload(setting.primary, 40 + step, 400, rate=200)
            with working(started):
                finish(started)
            converged(product, setting.primary, setting.secondary, since=time.monotonic())
        product.stop()
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_a_large_file_changed_in_place_goes_by_delta(make: Maker) -> None:
    """SYN-4: a file above the threshold that is there already; equal afterwards, holes kept."""
    setting = make(SSH, delta_threshold=1 << 20)
    big = setting.primary / "big"
    big.write_bytes(os.urandom(HUGE))
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        with open(big, "r+b") as f:
            f.seek(5 << 20)
            f.write(b"changed")
            f.truncate(HUGE + (3 << 20))
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_a_large_file_that_the_secondary_lost_is_made_again(make: Maker) -> None:
    """SYN-4, ERR-3: a delta to a file that is not there any more costs that file a retry, not the brick its life."""
    setting = make(LOCAL, delta_threshold=1 << 20)
    big = setting.primary / "big"
    big.write_bytes(os.urandom(HUGE))
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        (setting.secondary / "big").unlink()
        with open(big, "r+b") as f:
            f.seek(5 << 20)
            f.write(b"changed")
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert not product.brick()["last_error"], product.tail()


@pytest.mark.parametrize("engine", ["tarssh", "rsync"])
def test_a_file_that_may_not_be_written_is_rewritten_in_its_size(make: Maker, engine: str) -> None:
    """An ordinary user's file of mode 0444: the program on the secondary may not open it, and its time will be set."""
    setting = make(Way(engine, "local", "ordinary"))
    path = setting.primary / "f"
    path.write_text("old")
    path.chmod(0o444)
    (setting.primary / "g").write_text("old")
    setting.hand_over()
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        path.write_text("new")
        (setting.primary / "g").write_text("new")
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_holes_punched_where_zeros_were(make: Maker) -> None:
    """The bytes stay the same, the space is given back: on the secondary too, also where a delta finds them equal."""
    setting = make(LOCAL, delta_threshold=1 << 20)
    path = setting.primary / "zeros"
    path.write_bytes(bytes(4 << 20))
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        with open(path, "r+b") as f:
            punch(f.fileno(), 1 << 20, 2 << 20)
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_one_process_alone_is_repeatable(scratch: Path) -> None:
    """The seed of a failure can be replayed by hand, as the message of a failed test says."""
    (scratch / "t").mkdir()
    (scratch / "o").mkdir()
    words = [sys.executable, "-m", "tests.system.workload", str(scratch / "t"), "--outside", str(scratch / "o")]
    done = subprocess.run([*words, "--operations", "50"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
