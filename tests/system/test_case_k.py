"""Case k: the order of what reaches the disk (MRK-6), and power cuts on either side: a repetition, never a loss."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import processes, trace
from tests.system.places import Mounts, PowerCut
from tests.system.runner import Product, converged, finish, let_pass, wait_until, working, workload
from tests.system.settings import CALM, LOCAL, Maker, Setting, Way, write


@pytest.mark.parametrize("engine", ["stream", "rsync", "tarssh"])
def test_the_order_on_disk(make: Maker, tool: Callable[[str], str], engine: str) -> None:
    """Data, index commit, syncfs, copy of the mark, then the primary's mark; each done before the next begins."""
    tool("strace")
    setting = make(Way(engine, "local", "me"))
    product, there = setting.product, str(setting.secondary)
    output = setting.base / "trace"
    product.before = trace.strace(output)
    with product:
        product.start()
        product.before = ()
        product.active()
        for n in range(3):
            write(setting.primary / f"probe{n}", f"data of probe{n} " * 50)
            converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=20)
        written = time.time()
        wait_until(lambda: (product.brick()["last_synced"] or 0) >= written, 30, "the mark is past the probes")
        assert product.process is not None
        processes.kill(processes.below(product.pid)[:1], signal.SIGTERM)
        product.process.wait(30)
    events = trace.read(output)
    assert len(events) > 50, output.read_text()[:2000]
    assert trace.mark_order(events, there, str(product.base / "state")) >= 2


def test_power_cuts_on_the_secondary(make: Maker, mounts: Mounts, scratch: Path) -> None:
    """Whatever the mark was past at the moment of the cut is on the disk; the session goes on from there."""
    ground = PowerCut(mounts, scratch)
    setting = make(LOCAL, secondary=ground.disk, **CALM)
    product = setting.product
    (setting.primary / "work").mkdir()
    with product:
        product.start()
        product.active()
        for cut in range(4):
            started = workload(setting.primary / "work", 90 + cut, 900, rate=300, outside=setting.base / "outside")
            with working(started):
                written: dict[str, float] = {}
                for n in range(8):
                    write(setting.primary / f"probe{cut}-{n}", f"probe {cut} {n} " * 1000)
                    written[f"probe{cut}-{n}"] = time.time()
                    let_pass(0.3)
                mark = float(product.brick()["last_synced"] or 0)
                copy = _freeze(setting, ground)
                product.kill()
                finish(started)
            ground.put_back(copy)
            for name, when in written.items():
                if when < mark:
                    text = (ground.disk / name).read_text()
                    assert text == (setting.primary / name).read_text(), f"{name} is lost: written before the mark"
            product.start()
            product.active()
            converged(product, setting.primary, ground.disk, since=time.monotonic(), within=20)
        assert product.stop() == 0, product.tail()


def _freeze(setting: Setting, ground: PowerCut) -> Path:
    """All processes stop, the disk is copied, and they are not woken again."""
    pids = [setting.product.pid, *processes.below(setting.product.pid)]
    processes.kill(pids, signal.SIGSTOP)
    return ground.snapshot()


def _primary_on_a_disk(make: Maker, mounts: Mounts, scratch: Path) -> tuple[PowerCut, Setting]:
    """The tree and the product's state on a disk that falls back; the secondary is elsewhere."""
    ground = PowerCut(mounts, scratch)
    for name in ("tree", "product"):
        (ground.disk / name).mkdir()
    setting = make(LOCAL, primary=ground.disk / "tree", **CALM)
    setting.product.base = ground.disk / "product"
    setting.product.__post_init__()
    return ground, setting


def test_power_cuts_on_the_primary(make: Maker, mounts: Mounts, scratch: Path) -> None:
    """The primary's disk with tree and state falls back behind what the secondary has: the secondary follows."""
    ground, setting = _primary_on_a_disk(make, mounts, scratch)
    primary, product = setting.primary, setting.product
    with product:
        product.start()
        product.active()
        for cut in range(3):
            started = workload(primary, 95 + cut, 600, rate=300, outside=ground.disk / "outside")
            with working(started):
                let_pass(1.5)
                os.kill(product.pid, signal.SIGSTOP)
                finish(started)
                copy = ground.snapshot()
                product.kill()
            ground.put_back(copy)
            product.start()
            product.active()
            converged(product, primary, setting.secondary, since=time.monotonic(), within=20, content=False)
        # what was overwritten in place and not synced may have its new time and its old bytes now: only a look at
        # the content can tell
        verified = product.command("verify", product.name, "--content", "--repair")
        assert verified.returncode in (0, 1), verified.stderr
        converged(product, primary, setting.secondary, since=time.monotonic(), within=20)
        assert product.stop() == 0, product.tail()


def _approved(product: Product) -> None:
    """Approve what is held, each list under its own id, until nothing is."""
    asked: set[str] = set()

    def done() -> bool:
        for held in product.held():
            if held["id"] not in asked:
                asked.add(held["id"])
                assert product.command("held", product.name, "--approve", held["id"]).returncode == 0
        return bool(product.brick()["status"] == "Active")

    wait_until(done, 60, "what is held was approved", pause=0.3)


def test_what_the_primary_lost_after_it_was_sent(make: Maker, mounts: Mounts, scratch: Path) -> None:
    """Disk, index and journal fall back together: nothing there shows that the secondary has a later state of a file."""
    ground, setting = _primary_on_a_disk(make, mounts, scratch)
    primary, product = setting.primary, setting.product
    (primary / "d").mkdir()
    with product:
        product.start()
        product.active()
        for name in ("f", "d/g"):
            write(primary / name, f"{name} as it was kept")
        converged(product, primary, setting.secondary, since=time.monotonic())
        wait_until(lambda: product.brick()["backlog"]["changelogs"] == 0, 20, "all is done")
        os.sync()
        copy = ground.snapshot()
        write(primary / "f", "f as it was lost")
        write(primary / "d" / "passing", "")
        (primary / "d" / "passing").unlink()
        os.utime(primary / "d", ns=(10**18, 10**18))
        converged(product, primary, setting.secondary, since=time.monotonic())
        product.kill()
        ground.put_back(copy)
        assert (primary / "f").read_text() == "f as it was kept"
        product.start()
        # what the secondary has later is not replaced unasked, and until then nothing is certain
        wait_until(lambda: product.brick()["status"] == "Held", 60, "held")
        brick = product.brick()
        assert brick["held"]["reason"].startswith("this primary is of ") and brick["verdict"] != "ok"
        assert brick["comparing"] is not None and brick["as_of"] is None
        assert (setting.secondary / "f").read_text() == "f as it was lost"
        _approved(product)
        product.active()
        converged(product, primary, setting.secondary, since=time.monotonic(), within=20)
        wait_until(lambda: product.brick()["comparing"] is None, 20, "compared")
        assert product.stop() == 0, product.tail()
        product.start()
        product.active()
        assert "did not end in order" not in product.tail(8).rpartition("georep-tui 0")[2]
        assert product.stop() == 0, product.tail()
