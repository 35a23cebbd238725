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
from tests.system.test_remote import remote_command


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


def test_the_doctor_of_another_node(make: Maker, sshd: Sshd) -> None:
    """`--ssh`: run there, with the same lines, the same JSON and the same exit code; what it cannot be is one line."""
    setting = make(LOCAL)
    config = str(sshd.client())
    way = ("--ssh", HOST, "--ssh-config", config)
    command = ("--ssh-command", remote_command(setting.product))
    pair = (str(setting.primary), str(setting.secondary))

    def ask(*words: str) -> Any:
        return setting.product.command("doctor", *words)

    here, there = json.loads(ask(*pair, "--json").stdout), json.loads(ask(*pair, "--json", *way, *command).stdout)
    assert there.pop("node") == HOST and there["ok"] is True
    assert [(s["step"], s["result"]) for s in there["steps"]] == [(s["step"], s["result"]) for s in here["steps"]]
    done = ask(*pair, *way, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:5] for line in done.stdout.splitlines()] == [line[:5] for line in ask(*pair).stdout.splitlines()]
    done = ask(str(setting.primary), "no-such-host.invalid:/x", *way, *command)
    assert done.returncode == 1 and "\n    add it to /etc/hosts" in done.stdout
    done = ask(*pair, "--json", *way, "--ssh", f"{HOST}:{sshd.port}", *command)
    assert [json.loads(line)["ok"] for line in done.stdout.splitlines()] == [True, True], done.stderr
    evil = setting.base / "evil"
    step = {"step": "a\x1b[2J", "result": "ok", "text": "b\nc", "hint": ""}
    evil.write_text(f"#!/bin/sh\nprintf '%s' '{json.dumps({'session': '', 'ok': True, 'steps': [step]})}'\n")
    evil.chmod(0o755)
    assert ask(*pair, *way, "--ssh-command", f"{evil} dial-stdio").stdout == "✔ a\\x1b[2J: b\\x0ac\n"
    for words, said in (
        (("no-such-session", *way, *command), f"{HOST}: no-such-session is no session"),
        ((*pair, *way, "--ssh-command", "no-such-command dial-stdio"), "has no georep-tui in the PATH"),
        ((*pair, *way, "--ssh-command", "echo hello dial-stdio"), "answers with something else"),
        ((*pair, *way, "--ssh-command", "sudo true"), "does not end with dial-stdio"),
        ((*pair, "--ssh-config", config), "need --ssh"),
    ):  # fmt: skip
        done = ask(*words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert said in done.stderr
