"""`doctor` (SAFE-4): each thing that would keep a session from running has its line and its remedy; nothing is changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.system.ordinary import OrdinaryUser
from tests.system.runner import Product
from tests.system.settings import LOCAL, SSH, Maker, Setting, write
from tests.system.sshd import HOST, Sshd
from tests.system.test_bad_input import _snapshot


def _file(setting: Setting, secondary: str = "", **options: object) -> Path:
    """A session's file for this setting."""
    path = setting.base / "web.toml"
    every = {k: v for k, v in (setting.product.options | options).items() if v is not None}
    lines = "".join(f"{k} = {json.dumps(v)}\n" for k, v in every.items())
    path.write_text(
        f'[primary]\npath = "{setting.primary}"\n[secondary]\naddress = "{secondary or setting.product.secondary}"\n'
        f"[options]\n{lines}"
    )
    return path


def _examine(product: Product, word: object, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the steps by name."""
    done = product.command("doctor", str(word), "--json", *more)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] == (done.returncode == 0)
    assert all(s["hint"] for s in found["steps"] if s["result"] in ("warning",))
    return done.returncode, {s["step"]: s for s in found["steps"]}


@pytest.mark.parametrize("way", [LOCAL, SSH], ids=str)
def test_all_well(make: Maker, way: Any) -> None:
    """SAFE-4: ssh, versions, xattrs, space, clock, permissions; both trees and the state stay as they are."""
    setting = make(way)
    write(setting.primary / "file", "x")
    word = _file(setting)
    before = _snapshot(setting.primary, setting.secondary, setting.product.base / "state")
    code, steps = _examine(setting.product, word)
    assert code == 0, steps
    assert ("ssh" in steps) == (way is SSH)
    assert {"session", "state directory", "control socket", "recorder", "python", "permissions", "space", "agent",
            "clock", "replica"} <= set(steps)  # fmt: skip
    assert steps["replica"]["text"].endswith("empty: everything will be sent")
    assert _snapshot(setting.primary, setting.secondary, setting.product.base / "state") == before
    done = setting.product.command("doctor", str(word))
    assert all(line[0] in "✔▲✖· " for line in done.stdout.splitlines())


def test_a_session_known_by_name(make: Maker) -> None:
    """SAFE-4: also of a session that ran before, and while it runs."""
    setting = make(LOCAL)
    write(setting.primary / "file", "x")
    with setting.product as product:
        product.start()
        product.active()
        code, steps = _examine(product, product.name, "--state-dir", str(product.base / "state"))
        assert code == 0, steps
        assert "is this session's" in steps["replica"]["text"]
        assert product.brick()["status"] == "Active"


def test_another_sessions_replica(make: Maker) -> None:
    """SAFE-5 in advance: whose it is, and how to take it over."""
    first = make(LOCAL)
    write(first.primary / "file", "x")
    assert first.product.once().returncode == 0
    second = make(LOCAL, secondary=first.secondary)
    code, steps = _examine(second.product, _file(second))
    assert code == 1
    assert str(first.primary) in steps["replica"]["text"]
    assert "--adopt" in steps["replica"]["hint"]


def test_foreign_files_on_the_secondary(make: Maker) -> None:
    """SAFE-1 in advance."""
    setting = make(LOCAL)
    write(setting.secondary / "foreign", "x")
    code, steps = _examine(setting.product, _file(setting))
    assert (code, steps["replica"]["result"]) == (0, "warning")


def test_no_such_place_over_ssh(make: Maker) -> None:
    setting = make(SSH)
    code, steps = _examine(setting.product, _file(setting, f"{HOST}:{setting.base}/no/such/place"))
    assert (code, steps["secondary"]["result"]) == (1, "failed")
    assert "no/such" in steps["secondary"]["text"]


def test_an_unknown_host_key(make: Maker, sshd: Sshd) -> None:
    setting = make(SSH)
    sshd.write_known_hosts("none_known", None)
    config = sshd.client(known_hosts="none_known", name="unknown")
    code, steps = _examine(setting.product, _file(setting, ssh_options=f"-F {config}"))
    assert (code, steps["ssh"]["result"]) == (1, "failed")
    assert "host key" in steps["ssh"]["text"]
    assert "ssh" in steps["ssh"]["hint"]


def test_no_ssh_at_all(make: Maker) -> None:
    setting = make(SSH)
    code, steps = _examine(setting.product, _file(setting, ssh_command="/no/such/ssh"))
    assert (code, steps["ssh"]["result"]) == (1, "failed")


@pytest.mark.usefixtures("root")
def test_a_secondary_that_may_not_be_written(make: Maker, ordinary: OrdinaryUser) -> None:
    setting = make(SSH._replace(who="ordinary"))
    os.chown(setting.secondary, 0, 0)
    setting.secondary.chmod(0o755)
    code, steps = _examine(setting.product, _file(setting))
    assert ordinary.made
    assert (code, steps["permissions"]["result"]) == (1, "failed"), steps


def test_a_wrong_option_is_the_first_step(make: Maker) -> None:
    setting = make(LOCAL)
    done = setting.product.command("doctor", str(_file(setting, sync_jobs=0)))
    assert done.returncode == 2
    assert "sync_jobs" in done.stderr
    setting.primary.rmdir()
    code, steps = _examine(setting.product, _file(setting))
    assert (code, steps["session"]["result"]) == (1, "failed")
    assert str(setting.primary) in steps["session"]["text"]


def test_missing_rsync(make: Maker) -> None:
    setting = make(LOCAL)
    code, steps = _examine(setting.product, _file(setting, sync_method="rsync", rsync_command="/no/rsync"))
    assert (code, steps["rsync"]["result"]) == (1, "failed")
    assert "sync_method = stream" in steps["rsync"]["hint"]


def test_no_session_at_all(make: Maker) -> None:
    setting = make(LOCAL)
    done = setting.product.command("doctor", "no-such-session")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
