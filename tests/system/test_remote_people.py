"""What a person meets from afar: events over a line that breaks, other clocks, sudo, questions at a terminal and in the
console."""

from __future__ import annotations

import asyncio
import gzip
import os
import pty
import select
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from georep_tui.remote import NodeSource
from georep_tui.settings import ConsoleConfig
from georep_tui.sources.base import SourceError
from georep_tui.ssh.asker import Nobody, Questions
from georep_tui.tui.app import Console
from georep_tui.tui.bundle import write_bundle
from georep_tui.tui.questions import SecretDialog
from georep_tui.tui.screens.dialogs import Choose
from tests.system.line import Line
from tests.system.runner import Product, wait_until
from tests.system.settings import LOCAL, Maker, Setting, write
from tests.system.sshd import HOST, Sshd
from tests.system.test_hostile_node import ALIVE, HELLO, UP, lines, node, snapshot
from tests.system.test_remote import remote_command
from tests.system.test_ssh_login import PHRASE, key, let_in

assert node


@pytest.fixture
def setting(make: Maker) -> Setting:
    made = make(LOCAL)
    write(made.primary / "file", "x")
    return made


def test_events_over_a_line_that_breaks_have_no_gap_and_no_double(setting: Setting, sshd: Sshd) -> None:
    """Resumed by their numbers, whatever was heard before the break; the picture says since when it is old."""
    product = setting.product
    with product, Line(sshd.port) as line:
        product.start()
        product.active()
        source = NodeSource(HOST, remote_command(product), config=str(sshd.client(port=line.port)))
        seen: list[int] = []

        def take() -> list[int]:
            seen.extend(e["seq"] for e in source.events() if "seq" in e)
            return seen

        try:
            wait_until(lambda: source.snapshot()["sessions"], 20, "the session")
            source.command("pause", {"session": product.name})
            source.command("resume", {"session": product.name})
            wait_until(take, 10, "events")
            for turn in range(3):
                before = source.snapshot()["sources"][0]["data_time"]
                source.command("pause", {"session": product.name})
                line.cut()
                lost = wait_until(lambda: not (d := source.snapshot())["sources"][0]["connected"] and d, 20, "lost")
                assert lost["sessions"][0]["lag_seconds"] is None and lost["sessions"][0]["verdict"] != "ok"
                assert before - 1 <= lost["sources"][0]["data_time"] <= time.time()
                assert product.command("resume", product.name).returncode == 0
                assert product.command("checkpoint", product.name, "now").returncode == 0
                if turn == 1:
                    take()
                line.heal()
                wait_until(lambda: source.snapshot()["sources"][0]["connected"], 40, "back")
            newest = product_seq(product)
            wait_until(lambda: take() and seen[-1] >= newest, 20, f"event {newest}")
            assert seen == list(range(seen[0], seen[-1] + 1)), seen
        finally:
            source.close()


def product_seq(product: Product) -> int:
    """The newest event's number, asked at the socket itself."""
    from georep_tui.sources.socket import dial

    path = next((product.base / "run" / "georep-tui").glob("*.sock"))
    line = dial(str(path), product.name)
    try:
        line.subscribe()
        wait_until(lambda: line.seq is not None, 10, "a number")
        return int(line.seq or 0)
    finally:
        line.close()


def test_another_clock_is_shown_and_bends_nothing(node: Any) -> None:
    """The node's clock is days behind: ages and checkpoints are by ours, the difference is told."""
    source = node([UP, ALIVE, *lines(HELLO, snapshot(), {"event": "x", "seq": 2, "time": 1795325087.2})])
    document = wait_until(lambda: (d := source.snapshot())["sessions"] and d, 20, "the picture")
    now, brick = time.time(), document["sessions"][0]["bricks"][0]
    offset = document["sources"][0]["clock_offset_seconds"]
    assert abs(now + offset - 1795325087.2) < 5
    assert abs(now - document["sources"][0]["data_time"]) < 5 and abs(now - brick["last_synced"]) < 6
    assert (brick["lag_seconds"], document["sessions"][0]["verdict"]) == (0.0, "ok")
    wait_until(lambda: any(abs(e["time"] - now) < 5 for e in source.events()), 10, "an event by our clock")


def test_a_command_of_one_s_own_and_what_sudo_says(setting: Setting, sshd: Sshd, tmp_path: Path) -> None:
    """`--ssh-command`: an engine of another user is reached; a sudo that wants a password is told as that."""
    fake = tmp_path / "sudo"
    fake.write_text("#!/bin/sh\n[ \"$2\" = bad ] && { echo 'sudo: a password is required' >&2; exit 1; }\nshift; exec \"$@\"\n")
    fake.chmod(0o755)
    product = setting.product
    with product:
        product.start()
        product.active()
        source = NodeSource(HOST, f"{fake} -n {remote_command(product)}", config=str(sshd.client()))
        try:
            assert wait_until(lambda: source.snapshot()["sessions"], 20, "the session")
        finally:
            source.close()
    source = NodeSource(HOST, f"{fake} -n bad", config=str(sshd.client()))
    with pytest.raises(SourceError, match="a password is required") as e:
        source.snapshot()
    assert "NOPASSWD" in e.value.hint
    source.close()


def closed_config(sshd: Sshd, tmp_path: Path, known: str = "known_hosts") -> str:
    closed = key(tmp_path / "closed", PHRASE)
    let_in(sshd, closed)
    config = tmp_path / "config"
    text = sshd.client().read_text().replace("StrictHostKeyChecking yes", "StrictHostKeyChecking ask")
    kept = [x for x in text.splitlines() if "IdentityFile" not in x and "UserKnownHostsFile" not in x]
    files = sshd.base / known if known == "known_hosts" else tmp_path / known
    config.write_text("\n".join([*kept, f"  IdentityFile {closed}", f"  UserKnownHostsFile {files}"]) + "\n")
    return str(config)


def test_the_console_asks_in_dialogs(sshd: Sshd, tmp_path: Path) -> None:
    """An unknown host's fingerprint, then the passphrase, while the console is on; then the session is there."""
    config = closed_config(sshd, tmp_path, "mine")
    said = tmp_path / "said"
    said.write_text("\n".join([UP, ALIVE, *lines(HELLO, snapshot())]) + "\n")
    questions = Questions()
    source = NodeSource(HOST, f"sh -c 'cat {said}; sleep 60'", config=config, asker=questions, patience=0.2)

    async def use() -> str:
        console = Console(source, config=ConsoleConfig(), questions=questions)
        async with console.run_test(size=(120, 40)) as pilot:

            async def until(condition: Any, what: str) -> None:
                for _ in range(200):
                    if condition():
                        return
                    await pilot.pause(0.05)
                raise AssertionError(what)

            await until(lambda: isinstance(console.screen, Choose), "the question about the host")
            await until(lambda: "SHA256" in console.export_screenshot(), "the fingerprint")
            await pilot.press("tab", "enter")
            await until(lambda: isinstance(console.screen, SecretDialog), "the question for the passphrase")
            for letter in PHRASE:
                await pilot.press("space" if letter == " " else {"-": "minus"}.get(letter, letter))
            secret = console.export_screenshot()
            await pilot.press("enter")
            await until(lambda: console.picture.snapshot is not None and console.picture.snapshot.sessions, "the session")
            assert (tmp_path / "mine").exists()
        return secret

    try:
        assert "Nebel" not in asyncio.run(use())
    finally:
        questions.stop()
        source.close()


def test_a_command_asks_at_its_terminal_and_never_without_one(sshd: Sshd, tmp_path: Path, scratch: Path) -> None:
    config = closed_config(sshd, tmp_path)
    far = Product(scratch / "far", [], "", name="web")
    words = far.words("list", "--ssh", HOST, "--ssh-config", config, "--ssh-command", remote_command(far))
    began = time.monotonic()
    done = far.command(*words[words.index("list") :])
    assert done.returncode == 2 and "needs its passphrase" in done.stderr and time.monotonic() - began < 30
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(words[0], words, far.environment() | {"TERM": "xterm"})
    shown = b""

    def read() -> bytes:
        nonlocal shown
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 9999)
            except OSError:  # Linux's end of a terminal
                return b"end"
        return b""

    wait_until(lambda: read() or b"Passphrase for" in shown, 20, "the prompt")
    os.write(terminal, PHRASE.encode() + b"\n")
    wait_until(lambda: read() == b"end", 20, "the end")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and b"no session is running" in shown, shown
    assert PHRASE.encode() not in shown


def test_no_secret_is_left_in_logs_recordings_and_bundles(setting: Setting, sshd: Sshd, tmp_path: Path) -> None:
    """A passphrase that was typed, and the private keys: in nothing that is written or that a person hands on."""

    class Knows(Nobody):
        def secret(self, title: str) -> str | None:
            return PHRASE

    config = closed_config(sshd, tmp_path)
    product = setting.product
    recording = setting.base / "recording"
    with product:
        product.start("--record", str(recording))
        product.active()
        source = NodeSource(HOST, remote_command(product), config=config, asker=Knows())
        try:
            wait_until(lambda: source.snapshot()["sessions"], 20, "the session")
            source.command("pause", {"session": product.name})
            source.command("resume", {"session": product.name})
            bundle = write_bundle(source, product.name, source.snapshot(), source.events(), time.time(), str(tmp_path))
        finally:
            source.close()
        assert product.stop() == 0
    written = [gzip.decompress(recording.read_bytes())]
    with tarfile.open(bundle) as archive:
        written += [file.read() for member in archive.getmembers() if (file := archive.extractfile(member))]
    written += [p.read_bytes() for p in product.base.rglob("*") if p.is_file()]
    assert any(b'"sessions"' in text for text in written) and any(b"operation" in text for text in written)
    keys = [(tmp_path / "closed").read_bytes().split(b"\n")[1], (sshd.base / "identity").read_bytes().split(b"\n")[2]]
    for secret in (PHRASE.encode(), *keys):
        assert not any(secret in text for text in written)


@pytest.mark.long
def test_everything_at_200_ms(setting: Setting, sshd: Sshd) -> None:
    product = setting.product
    with product, Line(sshd.port, delay=0.1) as line:
        product.start()
        product.active()
        began = time.monotonic()
        source = NodeSource(HOST, remote_command(product), config=str(sshd.client(port=line.port)))
        try:
            assert source.snapshot()["sessions"] and time.monotonic() - began < 10
            for method in ("pause", "resume", "xsync", "failures", "held", "logs", "operations", "config_get", "checkpoints"):
                began = time.monotonic()
                source.command(method, {"session": product.name})
                assert time.monotonic() - began < 3, method
        finally:
            source.close()

