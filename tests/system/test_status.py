"""What a running session says of itself: valid at every moment, through a restart, at checkpoints, in events."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import engine
from tests.system.runner import Product, converged, finish, let_pass, wait_until, working, workload
from tests.system.settings import LOCAL, Maker, Setting, write

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(engine.__file__).parent / "snapshot.schema.json").read_text())
)


class Ear:
    """A connection to a session's socket, in the words of the protocol alone."""

    def __init__(self, product: Product) -> None:
        (path,) = (product.base / "run").rglob("*.sock")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(30)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rb")
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **params: Any) -> Any:
        """One request's result; events that come meanwhile are kept."""
        ident = next(self._ids)
        self._sock.sendall(json.dumps({"id": ident, "method": method, "params": params}).encode() + b"\n")
        while True:
            found = self._next()
            if found.get("id") == ident:
                assert "error" not in found, found
                return found["result"]

    def _next(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._lines.readline())
        if "event" in found:
            self.events.append(found)
        return found

    def listen(self, until: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
        """The first event, old or new, for which `until` holds."""
        deadline = time.monotonic() + seconds
        at = 0
        while True:
            while at < len(self.events):
                if until(self.events[at]):
                    return self.events[at]
                at += 1
            assert time.monotonic() < deadline, [e["event"] for e in self.events]
            self._next()

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


@pytest.fixture
def setting(make: Maker) -> Setting:
    made = make(LOCAL, delete_guard_minimum=1_000_000)
    for n in range(30):
        write(made.primary / f"d{n % 5}/f{n}", os.urandom(800))
    return made


@pytest.fixture
def live(setting: Setting) -> Iterator[Setting]:
    with setting.product as product:
        product.start()
        product.active()
        yield setting


def _document(product: Product) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(product.command("status", product.name, "--json").stdout)
    SCHEMA.validate(document)
    return document


def test_sta_1_valid_at_every_moment_of_a_busy_life(live: Setting) -> None:
    """STA-1, STA-3: while it crawls, works, is paused, crawls again: the schema holds and no counter is below zero."""
    product = live.product
    ear = Ear(product)
    stop = threading.Event()
    seen: list[dict[str, Any]] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(ear.ask("snapshot"))

    looker = threading.Thread(target=look)
    looker.start()
    started = workload(live.primary, 11, 1500, rate=300)
    with working(started):
        try:
            for command in ("pause", "resume", "xsync"):
                let_pass(0.7)
                assert product.command(command, product.name).returncode == 0
            # a batch that takes a while, to be seen at work
            assert product.command("config", product.name, "bandwidth_limit", "2M").returncode == 0
            write(live.primary / "large", os.urandom(4 << 20))
            wait_until(lambda: any(b["batch"] for d in list(seen) for b in d["sessions"][0]["bricks"]), 30, "a batch")
            finish(started)
            converged(product, live.primary, live.secondary, since=time.monotonic())
        finally:
            stop.set()
            looker.join()
            ear.close()
    assert len(seen) > 50
    for document in seen:
        SCHEMA.validate(document)
        for brick in document["sessions"][0]["bricks"]:
            assert min(brick["entry"], brick["data"], brick["meta"], brick["failures"]) >= 0
            if brick["batch"]:
                for done, total in (brick["batch"]["entries"], brick["batch"]["files"]):
                    assert done <= total
    bricks = [document["sessions"][0]["bricks"][0] for document in seen]
    assert {b["status"] for b in bricks} >= {"Active", "Paused"}
    assert any(b["batch"] for b in bricks)
    assert any(b["lag_seconds"] for b in bricks)
    totals = [b["totals"]["entries"] for b in bricks]
    assert totals == sorted(totals)
    synced = [b["last_synced"] for b in bricks if b["last_synced"] is not None]
    assert synced == sorted(synced), "MRK-6: marks only move forward"


def test_sta_1_a_restart_keeps_totals_and_a_pause(live: Setting) -> None:
    """STA-1: totals and a person's pause survive even kill -9; counters of running work do not."""
    product = live.product
    wait_until(lambda: product.brick()["totals"]["files"] >= 30, 20)
    assert product.command("pause", product.name).returncode == 0
    before = wait_until(lambda: (b := product.brick())["status"] == "Paused" and b, 10)
    product.crash()
    product.start()
    after = wait_until(lambda: (b := product.brick()) and b["status"] == "Paused" and b, 30)
    assert after["totals"]["files"] >= 30
    assert after["paused"]["since"] == before["paused"]["since"]
    assert (after["entry"], after["data"], after["meta"], after["batch"]) == (0, 0, 0, None)
    write(live.primary / "while-paused", "x")
    wait_until(lambda: (product.brick()["backlog"] or {}).get("changelogs"), 20, "recording goes on (SAFE-6)")
    assert not (live.secondary / "while-paused").exists()
    assert product.brick()["lag_seconds"] > 0
    assert product.command("resume", product.name).returncode == 0
    wait_until((live.secondary / "while-paused").exists, 20)


def test_sta_2_a_checkpoint_of_now_completes(live: Setting) -> None:
    """STA-2, MRK-8: also on an idle brick; when it is complete, all that was there before is on the secondary."""
    product = live.product
    write(live.primary / "before", "x")
    for _ in range(2):
        began = time.monotonic()
        done = product.command("checkpoint", product.name, "now", "--wait")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 6, "an idle brick does not wait for its heartbeat"
    assert (live.secondary / "before").exists()
    session = _document(product)["sessions"][0]
    assert session["checkpoint"]["completed"] is True
    assert session["checkpoint"]["failures_before"] == 0
    assert session["bricks"][0]["last_synced"] >= session["checkpoint"]["time"]
    later = product.command("checkpoint", product.name, str(int(time.time()) + 3600))
    assert later.returncode == 0
    session = _document(product)["sessions"][0]
    assert (session["checkpoint"]["completed"], session["checkpoint"]["held_by"]) == (False, str(live.primary))
    assert product.command("checkpoint", product.name, "clear").returncode == 0
    assert _document(product)["sessions"][0]["checkpoint"]["time"] is None


def test_sta_2_a_checkpoint_survives_a_restart(live: Setting) -> None:
    """STA-2: one that is pending goes on; one that is complete stays so, with its time."""
    product = live.product
    assert product.command("checkpoint", product.name, "now", "--wait").returncode == 0
    before = _document(product)["sessions"][0]["checkpoint"]
    product.crash()
    product.start()
    product.active()
    assert _document(product)["sessions"][0]["checkpoint"] == before


def test_sta_4_events_of_a_life(live: Setting) -> None:
    """STA-4: numbered without a gap, and replayed to one who comes later."""
    product = live.product
    ear = Ear(product)
    hello = ear.ask("hello")
    ear.ask("subscribe", boot_id=hello["boot_id"], since=0)
    for name in ("start", "crawl_changed", "active"):
        ear.listen(lambda e, name=name: e["event"] == name)  # type: ignore[misc]
    write(live.primary / "new", "x")
    ear.listen(lambda e: e["event"] == "batch_done")
    product.command("checkpoint", product.name, "now")
    ear.listen(lambda e: e["event"] == "checkpoint_completed")
    product.command("pause", product.name)
    ear.listen(lambda e: e["event"] == "pause")
    product.command("resume", product.name)
    ear.listen(lambda e: e["event"] == "resume")
    product.command("config", product.name, "sync_jobs", "5")
    assert ear.listen(lambda e: e["event"] == "config_set")["option"] == "sync_jobs"
    product.command("xsync", product.name)
    ear.listen(lambda e: e["event"] == "crawl_changed" and e.get("kind") == "hybrid")
    numbers = [e["seq"] for e in ear.events if e.get("seq") is not None and e["event"] not in ("snapshot", "changed")]
    assert numbers == sorted(set(numbers))
    again = Ear(product)
    again.ask("subscribe", boot_id=hello["boot_id"], since=0)
    again.listen(lambda e: e["event"] == "config_set")
    ear.close()
    again.close()


def test_operations_are_kept_with_who_and_result(live: Setting) -> None:
    """Every command given: who, when, what, and what came of it; over a restart."""
    product = live.product
    product.command("pause", product.name)
    product.command("held", product.name, "--approve", "nonsense")
    product.crash()
    product.start()
    wait_until(lambda: product.brick().get("status") == "Paused", 30)
    ear = Ear(product)
    found = ear.ask("operations")["operations"]
    ear.close()
    assert [(o["what"], o["result"] == "done") for o in found] == [("pause", True), ("approve", False)]
    assert all(o["who"] and o["time"] for o in found)
