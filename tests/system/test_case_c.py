"""Case c: SIGKILL of engine, agent and ssh at random moments under load; equal, ledger empty, no mark ahead."""

from __future__ import annotations

import contextlib
import os
import random
import time

import pytest

from tests.system import processes
from tests.system.runner import WITHIN, Product, converged, finish, let_pass, wait_until, working, workload
from tests.system.settings import CALM, LOCAL, SSH, Maker, Setting, Way
from tests.system.sshd import Sshd
from tests.system.trees import many_files


class Probes:
    """Files that are written once and never again: whatever the mark is past must be on the secondary."""

    def __init__(self, setting: Setting) -> None:
        self._primary = setting.primary / "probes"
        self._secondary = setting.secondary / "probes"
        self._primary.mkdir()
        self._written: list[tuple[float, str]] = []

    def write(self) -> None:
        """One more; its time is taken after it is there."""
        name = f"probe{len(self._written)}"
        (self._primary / name).write_text(f"content of {name}")
        self._written.append((time.time(), name))

    def missing(self, mark: float) -> list[str]:
        """What was written before `mark` (unix seconds) and is not on the secondary as it was written."""
        return [name for when, name in self._written if when < mark and not self._there(name)]

    def _there(self, name: str) -> bool:
        try:
            return (self._secondary / name).read_text() == f"content of {name}"
        except FileNotFoundError:
            return False


def _mark(product: Product) -> float:
    """The mark as the product reports it (it must be durable before that), 0 when it says nothing."""
    return float(product.brick().get("last_synced") or 0)


def _victims(product: Product, sshd: Sshd | None, what: str) -> list[int]:
    if what == "ssh":
        return product.children("ssh")
    return processes.named(sshd.pid, "python") if sshd else product.children("python")


def _crashes(setting: Setting, sshd: Sshd | None, times: int, seed: int) -> None:
    chance = random.Random(seed)
    product = setting.product
    work = setting.primary / "work"
    work.mkdir()
    if setting.user:
        setting.user.owns(work)
    probes = Probes(setting)
    kinds = ["engine", "engine", "agent", "ssh"] if sshd else ["engine", "agent"]
    with product:
        product.start()
        product.active()
        started = workload(
            work, seed, times * 150, rate=120, user=setting.user, outside=setting.base / "outside"
        )
        with working(started):
            for n in range(times):
                probes.write()
                let_pass(chance.uniform(0.1, 2.5))
                mark = _mark(product)
                what = chance.choice(kinds)
                if what == "engine":
                    product.crash()
                    assert probes.missing(mark) == [], f"kill {n}: the mark {mark} is ahead of the secondary"
                    product.start()
                else:
                    # there may be none just now: it is being started again
                    processes.kill(_victims(product, sshd, what))
                    assert probes.missing(mark) == [], f"kill {n} of {what}: the mark {mark} is ahead"
                    assert product.running(), product.tail()
            finish(started)
        since = time.monotonic()
        product.active(timeout=120)
        # the backoff of the last crash may still be running at the end of the work
        converged(product, setting.primary, setting.secondary, since=since, within=WITHIN + 60, patience=120)
        assert product.stop() == 0, product.tail()
    assert probes.missing(time.time()) == []


WAYS = [
    pytest.param(LOCAL, id="local"), pytest.param(SSH, id="ssh"),
    pytest.param(Way("rsync", "ssh", "me"), id="rsync", marks=pytest.mark.long),
    pytest.param(Way("tarssh", "ssh", "me"), id="tarssh", marks=pytest.mark.long),
]  # fmt: skip


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", WAYS)
def test_kills_at_random_moments(make: Maker, sshd: Sshd, way: Way, long: bool) -> None:
    setting = make(way, **CALM)
    _crashes(setting, sshd if way.over == "ssh" else None, times=50 if long else 8, seed=5)


def test_the_agent_leaves_when_the_engine_is_killed(make: Maker, sshd: Sshd) -> None:
    """SAFE-5: at end of input; no two agents write at once."""
    setting = make(SSH)
    with setting.product as product:
        product.start()
        product.active()
        agents = processes.named(sshd.pid, "python")
        assert agents
        product.crash()
        wait_until(lambda: not any(processes.command(p) for p in agents), 20, "the agent is gone")


def test_killed_in_the_first_crawl(make: Maker) -> None:
    """CRW-8: the hybrid crawl goes on from where it was, or again; nothing is lost or doubled."""
    setting = make(LOCAL)
    many_files(setting.primary, 60, 200)
    product = setting.product
    with product:
        for after in (0.8, 1.2, 1.6, 2.0):
            product.start()
            let_pass(after)
            product.crash()
        done = product.once()
        assert done.returncode == 0, done.stderr
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=30)


def test_no_files_of_a_broken_transfer_are_left(make: Maker) -> None:
    """What a killed transfer left behind in `.georep` is removed by the next one."""
    setting = make(LOCAL)
    product = setting.product
    for n in range(8):
        (setting.primary / f"big{n}").write_bytes(os.urandom(8 << 20))
    with product:
        product.start()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: product.children("python"), 10)
            wait_until(lambda: any(setting.secondary.glob("big*")), 10, pause=0.01)
        product.crash()
    assert product.once().returncode == 0
    left = [p for p in (setting.secondary / ".georep").rglob("*") if p.is_file() and p.stat().st_size > 4 << 20]
    assert [p for p in left if "index" not in p.name] == []
