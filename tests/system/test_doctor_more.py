"""`doctor` for two addresses, and its look at names and host keys (SAFE-4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from georep_tui.probe import filesystem
from tests.system.places import Mounts
from tests.system.settings import LOCAL, SSH, Maker
from tests.system.sshd import HOST, Sshd
from tests.system.test_doctor import _examine, _file


def _pair(product: Any, *words: str, **env: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = product.command("doctor", *words, "--json")
    assert done.stderr == "", done.stderr
    found = json.loads(done.stdout)
    return done.returncode, {s["step"]: s for s in found["steps"]}


def test_two_addresses(make: Maker) -> None:
    setting = make(LOCAL)
    code, steps = _pair(setting.product, str(setting.primary), str(setting.secondary))
    assert code == 0 and "empty: everything will be sent" in steps["replica"]["text"], steps
    assert steps["hard links"]["result"] == "ok" and steps["hard links"]["text"].endswith("tmpfs")
    code, steps = _pair(setting.product, str(setting.primary), "no-such-host.invalid:/x")
    assert (code, steps["name"]["result"]) == (1, "failed")
    assert "/etc/hosts" in steps["name"]["hint"] and "ssh" not in steps
    code, steps = _pair(setting.product, "/no/such", str(setting.secondary))
    assert (code, steps["session"]["result"]) == (1, "failed")


def test_names_and_host_keys(make: Maker, sshd: Sshd) -> None:
    setting = make(SSH)
    code, steps = _examine(setting.product, _file(setting))
    assert code == 0 and f"127.0.0.1 port {sshd.port}" in steps["name"]["text"]
    assert steps["host key"]["text"].endswith("is known by ssh-ed25519")
    sshd.write_known_hosts("none_known", None)
    config = sshd.client(known_hosts="none_known", name="unknown")
    code, steps = _examine(setting.product, _file(setting, ssh_options=f"-F {config}"))
    assert (code, steps["host key"]["result"], steps["ssh"]["result"]) == (1, "warning", "failed")
    assert f"ssh {HOST} true" in steps["host key"]["hint"]
    code, steps = _examine(setting.product, _file(setting, f"{HOST}:{setting.base}/no/such/place"))
    assert code == 1 and f"ssh {HOST} 'mkdir -p " in steps["secondary"]["hint"]


def test_the_kind_of_a_filesystem(mounts: Mounts, tmp_path: Path) -> None:
    image = mounts.ext4("image", 16)
    assert filesystem(str(image)) == "ext4"
    assert filesystem("/proc") == "proc"
    assert filesystem(str(tmp_path))


@pytest.mark.parametrize("words", [[], ["no-such-session"]])
def test_wrong_words(make: Maker, words: list[str]) -> None:
    done = make(LOCAL).product.command("doctor", *words)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
