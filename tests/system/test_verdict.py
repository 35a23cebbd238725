"""The verdict says no more than is proven: with the real product, the real engine's death, and the trees as judges."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.line import Line
from tests.system.oracle import differences
from tests.system.runner import Product, finish, let_pass, wait_until, working, workload
from tests.system.settings import LOCAL, SSH, Maker, Setting, write
from tests.system.sshd import Sshd
from tests.system.test_status import SCHEMA, Ear

MANY = 30_000


def _ear(product: Product) -> Ear:
    """A connection to the engine, as soon as it serves one."""

    def connect() -> Ear | None:
        try:
            return Ear(product)
        except (ValueError, OSError):
            return None

    ear: Ear = wait_until(connect, 20, "a control socket", pause=0.01)
    return ear


def _session(ear: Ear) -> dict[str, Any]:
    document = ear.ask("snapshot")
    SCHEMA.validate(document)
    found: dict[str, Any] = document["sessions"][0]
    return found


def _codes(session: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in session["reasons"]]


def _names(tree: Path) -> int:
    """Regular files in a replica."""
    return sum(len(files) for path, _, files in os.walk(tree) if ".georep" not in path)


def _tree(root: Path, files: int, size: int = 200) -> None:
    content = os.urandom(size)
    for number in range(files):
        directory = root / f"d{number % 100}"
        if number < 100:
            directory.mkdir()
        (directory / f"f{number}").write_bytes(content)


# ---- the first copy ---------------------------------------------------------------------------------------------


def test_ok_is_never_said_while_files_of_the_first_copy_are_missing(make: Maker) -> None:
    """30,000 small files, looked at all the time: warning and first-copy until the last one is there; killed between."""
    setting = make(LOCAL)
    _tree(setting.primary, MANY)
    product = setting.product
    texts: list[str] = []

    def watch(ear: Ear, until: float) -> dict[str, Any]:
        """Look on until it is ok, or has so many files."""

        def look() -> dict[str, Any] | None:
            session = _session(ear)
            brick = session["bricks"][0]
            there = _names(setting.secondary)
            if session["verdict"] == "ok":
                assert there == MANY, f"OK with {there} files"
                return session
            if brick["status"] == "Active":
                why = (["recovering"] if brick["recovering"] else []) + (["first-copy"] if brick["first_copy"] else [])
                assert why and _codes(session) == why, "not certain, or not whole"
                assert session["verdict"] == ("unknown" if brick["recovering"] else "warning")
                if brick["first_copy"]:
                    assert brick["lag_seconds"] is None and brick["as_of"] is None
                    texts.append(session["reasons"][-1]["text"])
                    done, total = brick["first_pass"]["files"]
                    assert total in (None, MANY) and done <= there
            return session if there >= until else None

        found: dict[str, Any] = wait_until(look, 120, "ok", pause=0.1)
        return found

    with product:
        product.start()
        ear = _ear(product)
        watch(ear, MANY / 4)
        ear.close()
        product.crash()
        died = product.command("status", "--check")
        assert died.returncode == 2 and "died" in died.stdout
        product.start()
        ear = _ear(product)
        last = watch(ear, math.inf)
        ear.close()
        assert last["bricks"][0]["first_pass"] is None and last["bricks"][0]["as_of"] is not None
    assert any(re.match(rf"first copy: [\d,]+ of {MANY:,} files, \d+ %, [\d.]+ of [\d.]+ MiB, .*/s", t) for t in texts), texts[-3:]
    assert any("(at the rate of the last minute)" in t for t in texts)
    assert not differences(os.fsencode(setting.primary), os.fsencode(setting.secondary), directory_mtimes=False)


# ---- sessions that do not run -----------------------------------------------------------------------------------


@pytest.fixture
def two(make: Maker) -> Iterator[tuple[Product, Product]]:
    """Two sessions of one machine, live, their state where commands look for it."""
    settings = [make(LOCAL), make(LOCAL)]
    products = []
    for number, one in enumerate(settings):
        write(one.primary / "a", "a")
        product = Product(settings[0].base / "both", [str(one.primary)], str(one.secondary), name=f"s{number}")
        products.append(product)
    with products[0], products[1]:
        for product in products:
            product.start()
            product.active()
            wait_until(lambda p=product: p.session().get("verdict") == "ok", 30, "ok")  # type: ignore[misc]
        yield products[0], products[1]


def test_an_engine_that_was_killed_is_listed_as_died(two: tuple[Product, Product]) -> None:
    """Of two one is killed: list, status and --check show both, it is critical, and what they say starts it again."""
    one, other = two
    assert one.command("status", "--check").returncode == 0
    killed = time.time()
    one.crash()
    checked = one.command("status", "--check")
    assert checked.returncode == 2 and checked.stdout.startswith("GEOREP CRITICAL: s0: died, last seen "), checked.stdout
    assert "'s0 pending'=U" in checked.stdout and "'s1 pending'=0" in checked.stdout
    listed = {s["name"]: s for s in json.loads(one.command("list", "--json").stdout)["sessions"]}
    assert set(listed) == {"s0", "s1"} and (listed["s0"]["running"], listed["s1"]["running"]) == (False, True)
    document = json.loads(one.command("status", "--json").stdout)
    SCHEMA.validate(document)
    died = next(s for s in document["sessions"] if s["name"] == "s0")
    assert (died["state"], died["verdict"], _codes(died), died["lag_seconds"]) == ("Stopped", "critical", ["died"], None)
    assert abs(died["last_seen"] - killed) < 8
    assert [b["brick"] for b in died["bricks"]] == [one.primaries[0]]
    assert one.command("status", "s0", "--check").returncode == 2
    assert "died" in one.command("status").stdout and "died" in one.command("list").stdout
    again = shlex.split(died["reasons"][0]["hint"].partition(": ")[2])
    assert again[:3] == ["georep-tui", "run", "s0"] and "--no-ui" in again
    started = subprocess.Popen(one.words(*again[1:]), env=one.environment(), cwd="/", stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        wait_until(lambda: one.session().get("verdict") == "ok", 40, "it goes on")
        assert other.command("status", "--check").returncode == 0
        assert one.command("stop", "s0").returncode == 0
        assert started.wait(20) == 0
    finally:
        started.kill()
        started.wait()


def test_one_that_was_stopped_is_stopped(make: Maker) -> None:
    """A clean stop is no death; neither is the end of --once."""
    setting = make(LOCAL)
    write(setting.primary / "a", "a")
    product = setting.product
    home = product.base / "state"
    words = ["--name", "kept", "--no-ui"]
    env = product.environment()
    run = product.words("run", str(setting.primary), str(setting.secondary), *words)
    done = subprocess.run([*run, "--once"], env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0 and (home / "georep-tui" / "kept").is_dir()
    (session,) = json.loads(product.command("status", "--json").stdout)["sessions"]
    assert (session["state"], _codes(session), session["bricks"][0]["status"]) == ("Stopped", ["stopped"], "Stopped")
    assert "ran once and caught up" in session["reasons"][0]["text"]
    process = subprocess.Popen(run, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        wait_until(lambda: product.command("status", "kept", "--check").returncode == 0, 40, "ok", pause=0.2)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    checked = product.command("status", "--check")
    assert checked.returncode == 2 and "kept: Stopped since" in checked.stdout and "died" not in checked.stdout
    refused = product.command("pause", "kept")
    assert refused.returncode == 2 and "not running" in refused.stderr


def test_an_engine_without_a_socket_here_is_not_called_dead(make: Maker) -> None:
    """It runs with another XDG_RUNTIME_DIR: nobody can tell how it is, and it is not said to have died."""
    setting = make(LOCAL)
    write(setting.primary / "a", "a")
    product = setting.product
    with product:
        product.start()
        product.active()
        elsewhere = product.base / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        asked = subprocess.run(
            product.words("status", "--check", "--state-dir", str(product.base / "state")), stdin=subprocess.DEVNULL,
            env=product.environment() | {"XDG_RUNTIME_DIR": str(elsewhere)}, cwd="/", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert asked.returncode == 3 and f"its engine runs (process {product.pid})" in asked.stdout, asked.stdout


# ---- what waits --------------------------------------------------------------------------------------------------


@pytest.fixture
def live(make: Maker) -> Iterator[Setting]:
    made = make(LOCAL, delete_guard_minimum=100, lag_warning=2, lag_critical=3600)
    _tree(made.primary, 500)
    with made.product as product:
        product.start("--metrics", f"127.0.0.1:{_port()}")
        product.active()
        wait_until(lambda: product.session().get("verdict") == "ok", 30, "ok")
        yield made


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _metrics(product: Product) -> dict[str, float]:
    """Samples without labels that say which one, by name."""
    assert product.process is not None
    words = Path(f"/proc/{product.pid}/cmdline").read_bytes().split(b"\0")
    address = os.fsdecode(words[words.index(b"--metrics") + 1])
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples if len(s.labels) in (1, 3)}


def _pending(product: Product) -> int:
    found = re.search(r"'pending'=(\d+);", product.command("status", "--check").stdout)
    return int(found[1]) if found else -1


def test_paused_with_500_waiting_says_500(live: Setting) -> None:
    """In perfdata, metrics and JSON; also after a restart, where only the disk has them."""
    product = live.product
    assert product.command("pause", product.name).returncode == 0
    for number in range(500):
        write(live.primary / f"d{number % 100}" / f"new{number}", "x")
    wait_until(lambda: _pending(product) == 500, 15, "500 wait", pause=0.2)
    found = _metrics(product)
    assert found["georep_brick_pending"] == 500 and found["georep_brick_lag_seconds"] > 0
    wait_until(lambda: "lag" in _codes(product.session()), 10, "a lag")
    reason = next(r for r in product.session()["reasons"] if r["code"] == "lag")
    assert "paused; 500 changes wait" in reason["text"] and "too slow" not in reason["hint"]
    product.crash()
    product.start()
    wait_until(lambda: product.brick().get("status") == "Paused", 30)
    wait_until(lambda: product.brick()["crawl"]["kind"] == "live", 20, "the crawl is through")
    assert _pending(product) == 500 and product.brick()["lag_seconds"] > 0
    assert product.command("resume", product.name).returncode == 0
    wait_until(lambda: product.session().get("verdict") == "ok", 30, "ok")
    assert _pending(product) == 0 and _names(live.secondary) == 1000


def test_held_deletes_wait(live: Setting) -> None:
    """What is held is pending, and is the reason."""
    product = live.product
    for number in range(500):
        if number >= 50:
            (live.primary / f"d{number % 100}" / f"f{number}").unlink()
    wait_until(lambda: product.brick().get("status") == "Held", 20, "held")
    wait_until(lambda: _pending(product) == 450, 15, "450 wait", pause=0.2)
    wait_until(lambda: "lag" in _codes(product.session()), 10, "a lag")
    session = product.session()
    assert session["verdict"] == "critical" and _codes(session)[0] == "held"
    reason = next(r for r in session["reasons"] if r["code"] == "lag")
    assert "held, nothing is applied; 450 changes wait" in reason["text"] and "too slow" not in reason["hint"]


def test_a_line_that_is_down_does_not_hide_what_waits(make: Maker, sshd: Sshd) -> None:
    """Line down: lag, number and bytes are known from the journal, and no metric vanishes."""
    with Line(sshd.port) as line:
        setting = make(SSH, lag_warning=2, lag_critical=3600).through(line, sshd)
        _tree(setting.primary, 100)
        with setting.product as product:
            product.start("--metrics", f"127.0.0.1:{_port()}")
            product.active()
            wait_until(lambda: product.session().get("verdict") == "ok", 30, "ok")
            line.cut()
            product.faulty(40)
            began = time.time()
            for number in range(50):
                write(setting.primary / "d0" / f"new{number}", "x")
            wait_until(lambda: _pending(product) == 50, 15, "50 wait", pause=0.2)
            let_pass(2)
            for _ in range(5):  # Faulty and Initializing take turns
                found, metrics = product.brick(), _metrics(product)
                assert found["status"] in ("Faulty", "Initializing...")
                assert 2 <= found["lag_seconds"] <= time.time() - began + 1
                assert found["backlog"]["changes"] == 50 and found["backlog"]["bytes"] > 0
                assert metrics["georep_brick_pending"] == 50 and metrics["georep_session_up"] == 0
                assert metrics["georep_brick_lag_seconds"] >= 2 and metrics["georep_session_lag_seconds"] >= 2
                let_pass(0.3)
            wait_until(lambda: any("nothing gets through for" in r["text"] and "50 changes wait" in r["text"]
                                   for r in product.session()["reasons"]), 20, "the cause")  # fmt: skip
            assert not any("too slow" in r["hint"] for r in product.session()["reasons"])


def test_the_cause_of_one_immutable_file_is_named(live: Setting) -> None:
    """A failure is old, and nothing is slow."""
    product = live.product
    there = live.secondary / "d0" / "f0"
    if subprocess.run(["chattr", "+i", str(there)], capture_output=True, check=False).returncode != 0:
        pytest.skip("no immutable flag here")
    try:
        write(live.primary / "d0" / "f0", "other")
        wait_until(lambda: "lag" in _codes(product.session()), 30, "a lag")
        reason = next(r for r in product.session()["reasons"] if r["code"] == "lag")
        assert "so old is the oldest failure" in reason["text"] and "too slow" not in reason["hint"]
        assert _pending(product) == 0
    finally:
        subprocess.run(["chattr", "-i", str(there)], check=False)
    wait_until(lambda: product.session().get("verdict") == "ok", 60, "ok again")


def test_our_own_limit_is_named(live: Setting) -> None:
    """bandwidth_limit holds up: neither line nor secondary is slow."""
    product = live.product
    assert product.command("config", product.name, "bandwidth_limit", "200K").returncode == 0
    write(live.primary / "large", os.urandom(2 << 20))
    wait_until(lambda: "lag" in _codes(product.session()), 30, "a lag")
    reason = next(r for r in product.session()["reasons"] if r["code"] == "lag")
    assert reason["text"].partition(": ")[2].startswith("bandwidth_limit of 200 KiB/s is reached"), reason
    assert product.command("config", product.name, "bandwidth_limit", "0").returncode == 0
    wait_until(lambda: product.session().get("verdict") == "ok", 30, "ok")


# ---- recovery ----------------------------------------------------------------------------------------------------


def test_ok_is_not_said_while_what_a_crash_left_is_repeated(live: Setting) -> None:
    """Agent and engine are killed at work: OK with no lag only once both sides are equal, and as of a time that holds."""
    product = live.product
    assert product.command("config", product.name, "delete_guard_share", "100%").returncode == 0
    started = workload(live.primary, 5, 3000, rate=1000)
    with working(started):
        for _ in range(2):
            let_pass(0.7)
            for pid in product.children("python"):
                os.kill(pid, 9)
        product.crash()
        product.start()
        let_pass(0.7)
        finish(started)
    product.crash()
    ended = time.time()
    product.start()
    ear = _ear(product)
    recovered = False

    def equal() -> list[str]:
        return differences(os.fsencode(live.primary), os.fsencode(live.secondary), directory_mtimes=False, limit=3)

    def done() -> bool:
        nonlocal recovered
        session = _session(ear)
        brick = session["bricks"][0]
        recovered |= brick["recovering"]
        if session["verdict"] == "ok" and not session["lag_seconds"]:
            assert not (left := equal()), (left, brick["as_of"], ended)
            return bool(brick["as_of"] and brick["as_of"] > ended)
        assert session["verdict"] == "ok" or session["reasons"]
        return False

    wait_until(done, 60, "ok")
    ear.close()
    assert recovered and math.isfinite(_session_lag(product))


def _session_lag(product: Product) -> float:
    return float(product.session()["lag_seconds"])
