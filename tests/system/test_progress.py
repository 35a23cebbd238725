"""What a session says while it works: the batch by kinds, files on their way, past batches and crawls, failures' sides."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.runner import Product, wait_until
from tests.system.settings import LOCAL, Maker, Setting, write
from tests.system.test_status import SCHEMA, Ear


@pytest.fixture
def live(make: Maker) -> Iterator[Setting]:
    made = make(LOCAL, delete_guard_minimum=1_000_000)
    write(made.primary / "d/first", b"first")
    with made.product as product:
        product.start()
        product.active()
        yield made


def _brick(ear: Ear) -> dict[str, Any]:
    document = ear.ask("snapshot")
    SCHEMA.validate(document)
    found: dict[str, Any] = document["sessions"][0]["bricks"][0]
    return found


def _arrives(path: Path, size: int) -> None:
    wait_until(lambda: path.exists() and path.stat().st_size == size, 60, f"{path} arrives")


@pytest.mark.parametrize("old", [False, True], ids=["new", "changed"])
def test_sta_3_a_large_file_on_its_way(live: Setting, old: bool) -> None:
    """STA-3: a large file is named with its bytes and rate, sent whole or by difference; done never passes total."""
    product, size = live.product, 24 << 20
    target = live.secondary / "d/large"
    if old:
        write(live.primary / "d/large", bytes(size))
        _arrives(target, size)
    product.command("config", product.name, "bandwidth_limit", str(6 << 20))
    seen: list[dict[str, Any]] = []
    ear = Ear(product)
    before = _brick(ear)["totals"]["bytes"]
    if old:
        with open(live.primary / "d/large", "r+b") as f:
            f.write(os.urandom(size))
    else:
        write(live.base / "outside", os.urandom(size))
        os.rename(live.base / "outside", live.primary / "d/large")

    def through() -> bool:
        batch = _brick(ear)["batch"]
        if batch:
            seen.append(batch)
        return bool(seen) and batch is None

    wait_until(through, 90, "the batch is through")
    flights = [one for batch in seen for one in batch["in_flight"]]
    ear_totals = _brick(ear)
    ear.close()
    assert flights and {one["path"] for one in flights} == {"d/large"} and {one["bytes"][1] for one in flights} == {size}
    positions = [one["bytes"][0] for one in flights]
    assert positions == sorted(positions) and positions[0] < positions[-1] <= size
    assert any(one["bytes_per_s"] and one["bytes_per_s"] < 40 << 20 for one in flights)
    sending = [batch for batch in seen if batch["in_flight"]]
    assert all(batch["bytes"][1] == size and batch["bytes"][0] <= size for batch in sending)
    assert any(batch["eta_seconds"] for batch in sending)
    assert sending[0]["kinds"]["data"] == 1 and ("create" in sending[0]["kinds"]) is not old
    sent = [one for one in ear_totals["history"] if one["bytes"]][-1]
    assert (sent["files"], sent["bytes"], sent["failures"]) == (1, size, 0)
    # a slice that closes while a file is written brings a part of it twice
    assert ear_totals["totals"]["bytes"] - before == size or (old and ear_totals["totals"]["bytes"] - before > size)


def test_sta_3_small_files_that_change_count_their_bytes(live: Setting) -> None:
    """STA-3: also content that travels many to a frame is in the totals and the batch."""
    product = live.product
    ear = Ear(product)
    before = _brick(ear)["totals"]["bytes"]
    write(live.primary / "d/first", b"x" * 1000)
    _arrives(live.secondary / "d/first", 1000)
    wait_until(lambda: _brick(ear)["totals"]["bytes"] - before == 1000, 20, "the bytes are counted")
    wait_until(lambda: _brick(ear)["history"][-1]["bytes"] == 1000, 20, "the batch is in the history")
    ear.close()


def test_sta_3_every_crawl_is_kept_with_what_it_saw(live: Setting) -> None:
    """STA-3, CRW-7: a forced crawl that is over in an instant is in the list, with its whole number of objects."""
    ear = Ear(live.product)
    wait_until(lambda: any(c["kind"] == "hybrid" and c["until"] for c in _brick(ear)["crawls"]), 20, "the first crawl")
    for number in range(2, 4):
        assert live.product.command("xsync", live.product.name).returncode == 0

        def whole(wanted: int = number) -> bool:
            done = [c for c in _brick(ear)["crawls"] if c["kind"] == "hybrid" and c["until"]]
            return len(done) >= wanted

        wait_until(whole, 20, f"crawl {number}")
    crawls = _brick(ear)["crawls"]
    ear.close()
    hybrid = [c for c in crawls if c["kind"] == "hybrid"]
    assert len(hybrid) == 3 and {c["seen"] for c in hybrid} == {hybrid[0]["seen"]} and hybrid[0]["seen"] >= 2
    assert all(c["since"] <= c["until"] <= time.time() for c in hybrid)
    assert crawls == sorted(crawls, key=lambda c: c["since"])


def test_err_3_a_failure_says_what_both_sides_have(live: Setting, product_failure: str) -> None:
    """ERR-3: size, time, mode and owner of the object on each side, or that it is absent."""
    del product_failure
    (live.secondary / "d/first").chmod(0o640)
    path = live.primary / "d" / ("n" * 250)
    write(path, b"12345")
    failure = _failing(live.product)
    assert failure["primary_state"].startswith("a file, 5 bytes, ") and ", 0644, " in failure["primary_state"]
    assert failure["secondary_state"] == "absent"


@pytest.fixture
def product_failure(live: Setting) -> Iterator[str]:
    """A directory on the secondary in which nothing can be made."""
    directory = str(live.secondary / "d")
    wait_until(lambda: os.path.exists(directory), 20, "the directory is there")
    if os.system(f"chattr +i {directory}") != 0:
        pytest.skip("no immutable flag here")
    yield directory
    os.system(f"chattr -i {directory}")


def _failing(product: Product) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def reached() -> bool:
        found[:] = [one for one in product.failures() if "nnn" in one["path"]]
        return bool(found)

    wait_until(reached, 40, "a failure is in the ledger")
    return found[0]
