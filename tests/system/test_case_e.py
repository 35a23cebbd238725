"""Case e: the secondary is away under load, then back: Faulty with the reason, backoff, recovery by itself (ERR-4)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.line import Line
from tests.system.runner import converged, finish, let_pass, wait_until, working, workload
from tests.system.settings import CALM, SSH, Maker
from tests.system.sshd import Sshd

GROWTH = 48 << 20
"""Bytes the engine's memory may grow by while its secondary is away."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["cut", "stall"])
def test_the_line_breaks_under_load(make: Maker, sshd: Sshd, how: str, long: bool) -> None:
    outage = 60 if long else 12
    with Line(sshd.port) as line:
        # a stalled line shows only by silence: ask for short patience
        setting = make(SSH, secondary_timeout=6, connection_timeout=6, **CALM).through(line, sshd)
        with setting.product as product:
            product.start()
            product.active()
            started = workload(setting.primary, 21, 150 * (outage + 8), rate=150)
            with working(started):
                wait_until(lambda: (product.brick().get("last_synced") or 0) > time.time() - 5, 20, "it is at work")
                before = processes.memory(product.pid)
                line.cut() if how == "cut" else line.stall()
                gone = time.monotonic()
                error = product.faulty(30 if how == "stall" else 10)
                assert error["text"], error
                assert error["hint"], error
                assert error["attempt"] >= 1
                lag = product.brick()["lag_seconds"]
                assert lag is None or lag > 0
                let_pass(max(0.0, outage - (time.monotonic() - gone)))
                later = product.brick()
                if how == "cut":
                    assert later["last_error"]["attempt"] > error["attempt"], "no backoff to be seen"
                assert processes.memory(product.pid) - before < GROWTH
                line.heal()
                finish(started)
            since = time.monotonic()
            # the backoff may have up to its 60 s to go
            converged(product, setting.primary, setting.secondary, since=since, within=75, patience=120)
            assert processes.memory(product.pid) - before < 2 * GROWTH
            product.active()
            assert product.brick()["last_error"] is None or product.brick()["status"] == "Active"


def test_sshd_is_down_from_the_start(make: Maker, scratch: Path) -> None:
    """Nobody listens: Faulty with ssh's own words; when sshd comes up the session begins by itself."""
    (scratch / "own").mkdir()
    server = Sshd(scratch / "own")
    setting = make(SSH)
    setting.product.options["ssh_options"] = f"-F {server.client()}"
    (setting.primary / "file").write_text("x")
    try:
        with setting.product as product:
            product.start()
            error = product.faulty()
            assert "refused" in str(error["text"]).lower(), error
            server.start()
            converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=65, patience=90)
    finally:
        server.stop()


def test_a_week_away_costs_disk_not_memory(make: Maker) -> None:
    """SAFE-6: paused or away, the recorder goes on; the backlog is shown; then all of it is caught up."""
    setting = make(SSH, **CALM)
    with setting.product as product:
        product.start()
        product.active()
        assert product.command("pause", product.name).returncode == 0
        wait_until(lambda: product.brick().get("status") == "Paused", 10, "Paused")
        before = processes.memory(product.pid)
        started = workload(setting.primary, 22, 3000, rate=500)
        with working(started):
            finish(started)
        wait_until(lambda: product.brick()["backlog"]["changelogs"] >= 3, 10, "a backlog")
        assert processes.memory(product.pid) - before < GROWTH
        assert not any(p for p in setting.secondary.iterdir() if p.name != ".georep")
        # a paused session stays paused over a restart
        assert product.stop() == 0
        product.start()
        wait_until(lambda: product.brick().get("status") == "Paused", 20, "Paused after the restart")
        assert product.command("resume", product.name).returncode == 0
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=20)
