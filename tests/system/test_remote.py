"""From afar: a console's source over a real sshd, its sessions, its losses, and what is said when it cannot connect."""

from __future__ import annotations

import os
import sys
import time

import pytest

from georep_tui.remote import NodeSource
from georep_tui.ssh.place import parse_place
from georep_tui.sources.base import SourceError
from tests.system.runner import Product, wait_until
from tests.system.settings import LOCAL, Maker, Setting, write
from tests.system.sshd import HOST, Sshd

@pytest.fixture
def config(sshd: Sshd) -> str:
    """A person's ssh configuration that knows the private sshd as `secondary`."""
    return str(sshd.client())


def remote_command(product: Product) -> str:
    """What ssh runs there: this project, with the product's own directories."""
    kept = {k: v for k, v in product.environment().items() if k.startswith(("XDG_", "PYTHON"))}
    words = " ".join(f"{k}={v}" for k, v in kept.items())
    return f"env {words} {sys.executable} -m georep_tui dial-stdio"


@pytest.fixture
def setting(make: Maker) -> Setting:
    made = make(LOCAL)
    write(made.primary / "file", "x")
    return made


def test_a_session_from_afar(setting: Setting, config: str) -> None:
    """Snapshot, events and commands through ssh; an engine that ends and comes back."""
    product = setting.product
    source = NodeSource(HOST, remote_command(product), config=config)
    try:
        with product:
            product.start()
            product.active()
            document = wait_until(lambda: (d := source.snapshot())["sessions"] and d, 20, "the session")
            assert document["sessions"][0]["name"] == product.name
            assert document["sources"][0]["connected"] is True
            assert abs(document["sources"][0]["clock_offset_seconds"]) < 5
            source.events()
            source.command("pause", {"session": product.name})
            wait_until(lambda: source.snapshot()["sessions"][0]["state"] == "Paused", 10, "Paused")
            wait_until(lambda: any("pause" in e["event"] for e in source.events()), 10, "an event")
            with pytest.raises(SourceError, match="nothing is held"):
                source.command("approve", {"session": product.name, "id": "x"})
            with pytest.raises(SourceError, match="not running on"):
                source.command("pause", {"session": "other"})
            product.stop()
            gone = wait_until(lambda: (d := source.snapshot())["sources"][0]["connected"] is False and d, 10, "gone")
            assert gone["sessions"][0]["name"] == product.name
            assert (gone["sessions"][0]["state"], gone["sessions"][0]["verdict"]) == ("Stopped", "critical"), "it said so"
            assert {b["status"] for b in gone["sessions"][0]["bricks"]} == {"Stopped"}
            product.start()
            wait_until(lambda: source.snapshot()["sources"][0]["connected"], 20, "back")
    finally:
        source.close()


def test_the_line_breaks_and_comes_back(setting: Setting, sshd: Sshd, config: str) -> None:
    product = setting.product
    source = NodeSource(HOST, remote_command(product), config=config)
    try:
        with product:
            product.start()
            product.active()
            wait_until(lambda: source.snapshot()["sessions"], 20, "the session")
            sshd.stop()
            lost = wait_until(lambda: (d := source.snapshot())["sources"][0]["connected"] is False and d, 20, "lost")
            assert lost["sessions"] and lost["sources"][0]["error"]
            sshd.start()
            wait_until(lambda: source.snapshot()["sources"][0]["connected"], 30, "back")
    finally:
        source.close()
        if sshd._process is None:
            sshd.start()


def test_commands_from_afar(setting: Setting, config: str) -> None:
    """`--ssh` with list, status, pause, failures, logs: as here."""
    product = setting.product
    far = Product(setting.base / "far", [], "", name=product.name)
    with product:
        product.start()
        product.active()
        import subprocess

        def ask(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                far.words(*words, "--ssh", HOST, "--ssh-config", config, "--ssh-command", remote_command(product)),
                env=far.environment(), cwd="/", stdin=subprocess.DEVNULL,
                text=True, capture_output=True, timeout=60,
            )  # fmt: skip

        done = ask("list")
        assert done.returncode == 0 and product.name in done.stdout, done.stderr
        assert '"name": "test"' in ask("status", product.name, "--json").stdout
        done = ask("status", product.name, "--check")
        assert (done.returncode, done.stdout[:9]) == (0, "GEOREP OK"), done.stdout + done.stderr
        assert ask("pause", product.name).returncode == 0
        assert ask("failures", product.name).returncode == 0
        assert "session test" in ask("logs", product.name).stdout
        done = ask("pause", "no-such")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_what_is_said_of_a_node_that_has_nothing_to_say(config: str) -> None:
    for place in ("", "a b", "-oX", "host:0", "host:99999", "@host"):
        with pytest.raises(SourceError, match="is no node"):
            parse_place(place)
    assert parse_place("root@[::1]:22").host == "::1"
    source = NodeSource(HOST, "no-such-command-there", config=config)
    began = time.monotonic()
    with pytest.raises(SourceError, match="has no `no-such-command-there`"):
        source.snapshot()
    source.close()
    assert time.monotonic() - began < 20
    source = NodeSource(HOST, "echo this is no line of ours", config=config)
    with pytest.raises(SourceError, match="not JSON"):
        source.snapshot()
    source.close()
