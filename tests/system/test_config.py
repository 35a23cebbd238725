"""`config` on a session that runs: live options at once, others by starting the workers again (section 11)."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.system.runner import Product, converged, wait_until
from tests.system.settings import LOCAL, Maker, write


def _option(product: Product, name: str) -> dict[str, Any]:
    done = product.command("config", product.name, name, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    options = found["options"] if isinstance(found, dict) and "options" in found else found
    one: dict[str, Any] = next(o for o in (options if isinstance(options, list) else [options]) if o["name"] == name)
    return one


def test_an_option_that_is_not_live_starts_the_workers_again(make: Maker) -> None:
    """What is excluded from now on stays out; nothing else is lost, and the session was never Faulty."""
    setting = make(LOCAL)
    write(setting.primary / "a", "x")
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        done = product.command("config", product.name, "exclude", "*.tmp")
        assert done.returncode == 0, done.stderr
        write(setting.primary / "one.tmp", "x")
        write(setting.primary / "two", "x")
        wait_until((setting.secondary / "two").exists, 20)
        product.active()
        write(setting.primary / "three.tmp", "x")
        write(setting.primary / "four", "x")
        wait_until((setting.secondary / "four").exists, 20)
        assert sorted(p.name for p in setting.secondary.glob("*")) == [".georep", "a", "four", "two"]
        brick = product.brick()
        assert brick["last_error"] is None
        assert brick["totals"]["restarts"] == 0
        assert product.command("config", product.name, "exclude", "--reset").returncode == 0
        wait_until((setting.secondary / "three.tmp").exists, 20, "no longer excluded")


def test_a_live_option_takes_effect_at_once_and_is_kept(make: Maker) -> None:
    """`config` shows where a value comes from; what a person set survives a restart; `--set` is above it."""
    setting = make(LOCAL)
    with setting.product as product:
        product.start()
        product.active()
        assert _option(product, "bandwidth_limit")["origin"] == "default"
        assert product.command("config", product.name, "bandwidth_limit", "2M").returncode == 0
        found = _option(product, "bandwidth_limit")
        assert (found["value"], found["origin"]) == (2 << 20, "config")
        assert product.stop() == 0
        product.options["bandwidth_limit"] = "3M"
        product.start()
        product.active()
        found = _option(product, "bandwidth_limit")
        assert (found["value"], found["origin"]) == (3 << 20, "--set")
        refused = product.command("config", product.name, "bandwidth_limit", "4M")
        assert refused.returncode == 2
        assert "--set" in refused.stderr
        assert product.stop() == 0
        del product.options["bandwidth_limit"]
        product.start()
        product.active()
        assert _option(product, "bandwidth_limit")["value"] == 2 << 20


def test_the_bandwidth_limit_holds(make: Maker) -> None:
    """SYN-7: set while it runs, it holds; lifted while it runs, the rest goes at once."""
    setting = make(LOCAL)
    with setting.product as product:
        product.start()
        product.active()
        assert product.command("config", product.name, "bandwidth_limit", "512K").returncode == 0
        began = time.monotonic()
        (setting.primary / "big").write_bytes(b"\xa5" * (4 << 20))
        wait_until(lambda: (product.brick()["batch"] or {}).get("phase") == "data", 15)
        brick = wait_until(lambda: (b := product.brick())["rate"]["bytes_per_s"] > 0 and b, 15)
        assert brick["rate"]["bytes_per_s"] < 2 << 20
        assert product.command("config", product.name, "bandwidth_limit", "0").returncode == 0
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert time.monotonic() - began > 1.5
