"""The console over ssh in a real terminal: its first screen behind a line of 50 ms, and what the line costs at rest."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from georep_tui.remote import NodeSource
from tests.system.line import Line
from tests.system.runner import Product, let_pass, wait_until
from tests.system.settings import write
from tests.system.sshd import HOST, Sshd
from tests.system.test_remote import remote_command
from tests.tui.terminal import there, tmux

BRICKS = 20


@pytest.fixture
def product(scratch: Path) -> Iterator[Product]:
    """An engine with 20 bricks, all live."""
    primaries = []
    for number in range(BRICKS):
        write(scratch / f"brick{number:02}" / "file", "x")
        primaries.append(f"{scratch}/brick{number:02}=b{number}")
    (scratch / "replica").mkdir()
    made = Product(scratch / "product", primaries, str(scratch / "replica"), {}, name="web")
    with made:
        made.start()
        wait_until(
            lambda: [b["status"] for b in made.session().get("bricks") or []] == ["Active"] * BRICKS, 60, "Active", pause=0.5
        )
        yield made


def test_a_line_at_rest_and_the_first_screen(product: Product, sshd: Sshd, tmp_path: Path) -> None:
    """Under 2 kB/s for 20 bricks at rest; the first screen within 3 s at 50 ms."""
    with Line(sshd.port, delay=0.025) as line:
        config = str(sshd.client(port=line.port))
        began = time.monotonic()
        source = NodeSource(HOST, remote_command(product), config=config)
        try:
            assert len(source.snapshot()["sessions"][0]["bricks"]) == BRICKS
            took = time.monotonic() - began
            assert took < 3, f"the first picture took {took:.2f} s"
            wait_until(lambda: source.snapshot()["sessions"][0]["verdict"] == "ok", 20, "ok")
            let_pass(4)
            before, began = line.sent + line.received, time.monotonic()
            let_pass(6)
            speed = (line.sent + line.received - before) / (time.monotonic() - began)
            assert speed < 2000, f"{speed:.0f} B/s at rest"
        finally:
            source.close()
        if not there():
            pytest.skip("tmux is not installed")
        with tmux(tmp_path) as terminal:
            words = product.words("attach", "--ssh", HOST, "--ssh-config", config, "--ssh-command", remote_command(product))
            env = {k: v for k, v in product.environment().items() if k.startswith(("XDG_", "PYTHON"))}
            began = time.monotonic()
            terminal.start(["sh", "-c", " ".join([*(f"{k}={v}" for k, v in env.items()), shlex.join(words)])], 120, 40)
            terminal.sees("brick00", "brick05", deadline=15)
            took = time.monotonic() - began
            assert took < 6, f"the first screen took {took:.2f} s"  # 3 s on a machine of its own
