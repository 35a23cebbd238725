"""`run --no-ui`: its lines, its signals, its exit codes; and the demonstration."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.system.runner import Product, let_pass, wait_until
from tests.system.settings import LOCAL, Maker, Setting, write

_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) +\S.*")


@pytest.fixture
def setting(make: Maker) -> Setting:
    made = make(LOCAL)
    for n in range(20):
        write(made.primary / f"d{n % 4}/f{n}", os.urandom(500))
    return made


def _there(setting: Setting) -> bool:
    return (setting.secondary / "d3/f19").exists()


def test_once_says_what_it_did(setting: Setting) -> None:
    """Plain lines with a time and a level on stdout, nothing on stderr, and what it came to."""
    done = setting.product.once()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(_LINE.fullmatch(line) for line in lines), lines
    assert any("caught up: " in line and "20 files" in line for line in lines), lines
    again = setting.product.once()
    assert "0 files, 0 B" in again.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_stops_cleanly(setting: Setting, number: signal.Signals, code: int) -> None:
    """Exit 0 after SIGTERM, 130 after an interrupt; nothing is left running, the socket is gone, nothing is to do."""
    product = setting.product
    with product:
        product.start()
        product.active()
        wait_until(lambda: _there(setting), 20)
        assert product.process is not None
        product.process.send_signal(number)
        product.process.send_signal(number)  # as `timeout` does: to the process, and to its group
        assert product.process.wait(20) == code
        assert list((product.base / "run").rglob("*.sock")) == []
        assert "Traceback" not in product.tail(100)
        assert product.tail(1).endswith("stopped")
        product.process = None
        assert "0 files, 0 B" in product.once().stdout


def test_a_lost_terminal_does_not_end_it(setting: Setting) -> None:
    """SIGHUP is for the screen: the replication goes on."""
    with setting.product as product:
        product.start()
        product.active()
        os.kill(product.pid, signal.SIGHUP)
        write(setting.primary / "after", "x")
        wait_until((setting.secondary / "after").exists, 20)
        assert product.running()
        assert product.stop() == 0


def test_a_reader_that_goes_away_does_not_end_it(setting: Setting) -> None:
    """`run … | head -1`: the output ends, the engine goes on, and stops with 0 when told."""
    product = setting.product
    with product:
        process = subprocess.Popen(
            product.run_words(), env=product.environment(), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        product.process = process
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        product.active()
        write(setting.primary / "after", "x")
        wait_until((setting.secondary / "after").exists, 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


def test_stop_by_command(setting: Setting) -> None:
    """`stop` ends it with exit 0."""
    with setting.product as product:
        product.start()
        product.active()
        assert product.command("stop", product.name).returncode == 0
        assert product.process is not None
        assert product.process.wait(20) == 0


def test_json_lines(setting: Setting) -> None:
    """`--log-format json`: objects with time, level, brick and text."""
    done = setting.product.once("--log-format", "json")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all({"time", "level", "brick", "text"} <= set(line) for line in lines)
    assert any("caught up" in line["text"] for line in lines)


def test_on_a_terminal_it_shows_progress_and_leaves_it_as_it_was(setting: Setting) -> None:
    """On a terminal the bricks are shown below the log; the cursor comes back."""
    product = setting.product
    for n in range(200):
        write(setting.primary / f"more/f{n}", os.urandom(2000))
    main, side = pty.openpty()
    env = product.environment() | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with product:
        product.process = subprocess.Popen(
            product.run_words(), env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=side, stderr=side,
            start_new_session=True,
        )  # fmt: skip
        os.close(side)
        seen = bytearray()
        deadline = time.monotonic() + 30
        while b"Active" not in seen:
            assert time.monotonic() < deadline, bytes(seen[-500:])
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 65536)
        product.process.send_signal(signal.SIGTERM)
        while True:
            try:
                if not (data := os.read(main, 65536)):
                    break
            except OSError:
                break  # the other end is closed
            seen += data
        assert product.process.wait(20) == 0
    os.close(main)
    text = seen.decode()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "Traceback" not in text
    assert str(setting.primary)[-20:] in text


def test_metrics(setting: Setting) -> None:
    """`--metrics HOST:PORT` answers while it runs; a port in use is one line and exit 2, before anything is begun."""
    with setting.product as product:
        port = _free_port()
        product.start("--metrics", f"127.0.0.1:{port}")
        product.active()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'status="Active"} 1.0' in text
        second = Product(setting.base / "second", [str(setting.primary)], str(setting.base / "other"), name="second")
        done = second.once("--metrics", f"127.0.0.1:{port}")
        assert done.returncode == 2, done.stdout
        assert len(done.stderr.strip().splitlines()) == 1
        assert str(port) in done.stderr
        assert not (setting.base / "other").exists()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _loaded(product: Product, scratch: Path, *words: str) -> set[str]:
    """The packages a command has loaded when it ends."""
    probe, told = scratch / "probe.py", scratch / "loaded"
    probe.write_text(
        "import sys, runpy, atexit\n"
        "sys.argv = ['georep-tui', *sys.argv[1:]]\n"
        f"atexit.register(lambda: open({str(told)!r}, 'w').write(' '.join(sys.modules)))\n"
        "runpy.run_module('georep_tui', run_name='__main__')\n"
    )
    product.module = (str(probe),)
    done = product.command(*words) if words else product.once()
    assert done.returncode == 0, done.stderr
    return {"rich.console" if m == "rich.console" else m.partition(".")[0] for m in told.read_text().split()}


def test_textual_is_not_loaded(setting: Setting, scratch: Path) -> None:
    """Headless commands never load the console's libraries, nor pay for them."""
    product = setting.product
    heavy = {"textual", "paramiko", "rich.console", "prometheus_client"}
    assert not _loaded(product, scratch) & heavy
    with product:
        product.start()
        product.active()
        for words in (["status"], ["status", "--json"], ["status", "--check"], ["list"], ["failures", product.name]):
            assert not _loaded(product, scratch, *words) & heavy, words


def test_a_demonstration_with_its_console(scratch: Path) -> None:
    """`demo` on a terminal: bricks are shown; told to end, it leaves terminal and disk as they were."""
    (scratch / "tmp").mkdir()
    product = Product(scratch / "product", [], "")
    main, side = pty.openpty()
    env = product.environment() | {"TMPDIR": str(scratch / "tmp"), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with product:
        product.process = subprocess.Popen(
            product.words("demo"), env=env, cwd="/", stdin=side, stdout=side, stderr=side, start_new_session=True
        )
        os.close(side)
        seen = bytearray()
        deadline = time.monotonic() + 40
        while b"photos" not in seen:
            assert time.monotonic() < deadline, bytes(seen[-800:])
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 65536)
        product.process.send_signal(signal.SIGTERM)
        while True:
            try:
                if not (data := os.read(main, 65536)):
                    break
            except OSError:
                break  # the other end is closed
            seen += data
        assert product.process.wait(30) == 0
        product.process = None
    os.close(main)
    text = seen.decode(errors="replace")
    assert text.rindex("\x1b[?1049l") > text.rindex("\x1b[?1049h"), "the alternate screen is left"
    assert "Traceback" not in text
    assert os.listdir(scratch / "tmp") == []


@pytest.mark.parametrize("how", ["alone", "attached", "seconds"])
def test_a_demonstration_ends_with_its_terminal_or_its_time(scratch: Path, how: str) -> None:
    """Its terminal lost it ends, as soon as nobody is attached; `--seconds` ends it under its console, too."""
    (scratch / "tmp").mkdir()
    product = Product(scratch / "product", [], "")
    main, side = pty.openpty()
    env = product.environment() | {"TMPDIR": str(scratch / "tmp"), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    more = ("--seconds", "6") if how == "seconds" else ()
    with product:
        product.process = subprocess.Popen(
            product.words("demo", *more), env=env, cwd="/", stdin=side, stdout=side, stderr=side, start_new_session=True
        )
        os.close(side)
        seen = bytearray()
        deadline = time.monotonic() + 40
        while b"photos" not in seen:
            assert time.monotonic() < deadline, bytes(seen[-800:])
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 65536)
        path = next((product.base / "run").rglob("demo-*.sock"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attached:
            if how == "attached":
                attached.connect(str(path))
                assert attached.recv(9999)
            if how == "seconds":
                while select.select([main], [], [], 20)[0]:
                    try:
                        os.read(main, 65536)
                    except OSError:
                        break  # the other end is closed
            os.close(main)
            if how == "attached":
                with pytest.raises(subprocess.TimeoutExpired):
                    product.process.wait(4)
        assert product.process.wait(30) == 0
        product.process = None
    assert os.listdir(scratch / "tmp") == []


def test_the_demonstration(scratch: Path) -> None:
    """`demo --no-ui --seconds N`: changes are made, both sides are equal at the end, and nothing is left behind."""
    (scratch / "tmp").mkdir()
    product = Product(scratch / "product", [], "")
    env = product.environment() | {"TMPDIR": str(scratch / "tmp")}
    done = subprocess.run(
        product.words("demo", "--no-ui", "--seconds", "4"), env=env, cwd="/", stdin=subprocess.DEVNULL,
        text=True, capture_output=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "both sides are equal" in done.stdout
    assert os.listdir(scratch / "tmp") == []
    assert list((product.base / "run").rglob("*.sock")) == []


def test_an_interrupted_demonstration_cleans_up(scratch: Path) -> None:
    (scratch / "tmp").mkdir()
    product = Product(scratch / "product", [], "")
    process = subprocess.Popen(
        product.words("demo", "--no-ui"), env=product.environment() | {"TMPDIR": str(scratch / "tmp")},
        cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    wait_until(lambda: "walked" in (process.stdout.readline() if process.stdout else ""), 30)
    let_pass(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert os.listdir(scratch / "tmp") == []
