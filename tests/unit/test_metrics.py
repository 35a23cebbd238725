"""--metrics: a real HTTP server, asked as Prometheus asks."""

from __future__ import annotations

import math
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.model import EngineError, Mark
from engine.status import BrickStatus, Who
from engine.verdict import Thresholds, session_verdict
from georep_tui.metrics import MetricsServer, parse_address


class Samples(dict[tuple[str, frozenset[str]], float]):
    """Values by metric and the values of its labels, in any order."""

    def of(self, name: str, *labels: str) -> float | None:
        return self.get((name, frozenset(labels)))


def _document(*bricks: BrickStatus) -> dict[str, Any]:
    seen = [b.snapshot(time.time(), Thresholds()) for b in bricks]
    verdict, reasons = session_verdict(seen)
    return {
        "version": 1, "time": time.time(),
        "sources": [{"node": "m1", "connected": True, "data_time": 1.0, "clock_offset_seconds": 0.0,
                     "engine_version": "0.1.0", "boot_id": "b", "error": None}],
        "sessions": [{"id": "s", "name": "web", "kind": "tree", "primary": "/srv", "secondary": "dr:/srv",
                      "state": "Active", "verdict": verdict, "reasons": reasons, "lag_seconds": None, "failures": 0,
                      "checkpoint": {}, "bricks": seen}],
    }  # fmt: skip


@pytest.fixture
def brick(tmp_path: Path) -> BrickStatus:
    return BrickStatus(Who("uuid", "m1", os.fsdecode(b"/srv/\xff"), "", "dr:/srv"), str(tmp_path / "status.json"))


Ask = Callable[[], Samples]


@pytest.fixture
def ask(brick: BrickStatus) -> Iterator[Ask]:
    with MetricsServer("127.0.0.1:0", lambda: _document(brick)) as server:

        def samples() -> Samples:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            return Samples(
                ((s.name, frozenset(s.labels.values())), s.value)
                for family in text_string_to_metric_families(text) for s in family.samples
            )  # fmt: skip

        yield samples


def test_what_is_unknown_has_no_sample_but_lag_and_pending_never_vanish(ask: Ask) -> None:
    found, brick = ask(), ("web", "m1", "/srv/\\xff")
    for name in ("lag_seconds", "pending"):
        value = found.of(f"georep_brick_{name}", *brick)
        assert value is not None and math.isnan(value), name
    assert math.isnan(found[("georep_session_lag_seconds", frozenset({"web"}))])
    assert found.of("georep_session_up", "web") == 0
    assert found.of("georep_brick_last_synced_timestamp_seconds", *brick) is None
    assert found.of("georep_brick_status", *brick, "Created") == 1
    assert found.of("georep_session_verdict", "web", "unknown") == 1
    assert found.of("georep_engine_info", "m1", "0.1.0") == 1


def test_each_answer_is_of_now(ask: Ask, brick: BrickStatus) -> None:
    labels = ("web", "m1", "/srv/\\xff")
    brick.synced(Mark(1_795_325_087, 0))
    brick.crawl("live", None, None, None)
    brick.backlog(3, 900, None, changes=500, exact=True)
    brick.active()
    brick.entries_done(5)
    brick.batch_begin(1, changelogs=1, entries=7, files=2, metas=1)
    found = ask()
    assert found.of("georep_brick_status", *labels, "Active") == 1
    assert found.of("georep_brick_status", *labels, "Created") == 0
    assert found.of("georep_brick_last_synced_timestamp_seconds", *labels) == 1_795_325_087
    assert found.of("georep_brick_backlog_changelogs", *labels) == 3
    assert found.of("georep_brick_entries_total", *labels) == 5
    assert [found.of("georep_brick_batch_operations", *labels, k) for k in ("entry", "data", "meta")] == [7, 2, 1]
    assert found.of("georep_brick_pending", *labels) == 500
    assert found.of("georep_session_up", "web") == 1
    brick.backlog(0, 0, None)
    assert ask().of("georep_brick_lag_seconds", *labels) == 0


@pytest.mark.parametrize("text", ["", "9560", ":9560", "host", "host:", "host:port", "host:70000", "host:-1", "h:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(EngineError, match="--metrics") as found:
        parse_address(text)
    assert found.value.code == "usage"


def test_addresses() -> None:
    assert parse_address("127.0.0.1:9560") == ("127.0.0.1", 9560)
    assert parse_address("[::1]:0") == ("::1", 0)


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=rf"--metrics 127\.0\.0\.1:{port}: .*in use"):
            MetricsServer(f"127.0.0.1:{port}", dict)
