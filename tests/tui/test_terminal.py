"""The console in a real terminal with the real engine: end to end, signals, a terminal that goes away, odd ones."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.tui.terminal import COMMAND, environment, order, there, tmux, wait

pytestmark = pytest.mark.skipif(not there(), reason="needs tmux")


def trees(place: Path) -> tuple[Path, Path]:
    """A primary with a file, and an empty secondary."""
    primary, secondary = place / "primary", place / "secondary"
    primary.mkdir()
    secondary.mkdir()
    (primary / "first").write_text("first")
    return primary, secondary


def arrives(path: Path, deadline: float = 30) -> None:
    """The file is on the secondary."""
    wait(path.exists, f"{path} arrives", deadline)


def test_end_to_end(tmp_path: Path) -> None:
    """Start, pause (changes stop arriving), resume (they arrive), xsync, a checkpoint until complete, a fault made and
    healed, leave, attach, stop."""
    primary, secondary = trees(tmp_path)
    with tmux(tmp_path) as window:
        window.start([*COMMAND, "run", str(primary), str(secondary), "--name", "web"])
        window.sees("● Active", "OK")
        arrives(secondary / "first")
        window.press("p")
        window.sees("‖ Paused")
        (primary / "while-paused").write_text("x")
        window.sees("Paused by")
        wait(lambda: (brick(tmp_path)["backlog"] or {}).get("changelogs"), "the change is recorded")
        assert not (secondary / "while-paused").exists()
        window.press("p")
        window.sees("● Active")
        arrives(secondary / "while-paused")
        window.press("x")
        window.sees("Force a hybrid crawl of 1 brick?", "web")
        window.press("Right", "Enter")
        window.sees("✔ xsync")
        wait(lambda: any(one["kind"] == "hybrid" for one in brick(tmp_path)["crawls"][1:]), "a forced crawl")
        window.press("c")
        window.sees("Set a checkpoint of web")
        window.press("Enter")
        window.sees("✔ done", "Checkpoint of web completed")
        (tmp_path / "secondary").rename(tmp_path / "away")
        for agent in children(window.console_pid()):
            os.kill(agent, signal.SIGKILL)
        (primary / "while-away").write_text("x")
        window.sees("✖ Faulty", "CRITICAL")
        (tmp_path / "away").rename(tmp_path / "secondary")
        window.sees("● Active", deadline=90)
        arrives(secondary / "while-away", 60)
        window.press("o")
        window.sees("pause", "resume", "xsync", "checkpoint")
        window.press("Escape")
        window.sees("events")
        window.press("q")
        window.sees("Leave the console?", "leave it running")
        window.press("Enter")
        window.sees("ended 0")
        window.restored()
        (primary / "while-headless").write_text("x")
        arrives(secondary / "while-headless")
        window.kill()
        window.start([*COMMAND, "attach", "web"])
        window.sees("● Active")
        window.press("S")
        window.sees("Stop web?")
        window.press("Right", "Enter")
        wait(lambda: not list((tmp_path / "run" / "georep-tui").glob("*.sock")), "the engine has stopped")
        window.press("q")
        window.sees("ended 0")
        window.restored()


def children(pid: int) -> list[int]:
    """The processes a process has begun, from all its threads: here the agents."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        found += [int(one) for one in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def brick(place: Path) -> dict:  # type: ignore[type-arg]
    """The brick's object in `status --json`."""
    done = subprocess.run([*COMMAND, "status", "web", "--json"], env=environment(place), capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    return json.loads(done.stdout)["sessions"][0]["bricks"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM stops cleanly with 0; SIGINT asks; SIGHUP ends the screen and the replication goes on."""
    primary, secondary = trees(tmp_path)
    with tmux(tmp_path) as window:
        window.start([*COMMAND, "run", str(primary), str(secondary), "--name", "web"])
        window.sees("● Active")
        pid = window.console_pid()
        os.kill(pid, number)
        if number == signal.SIGINT:
            window.sees("Leave the console?")
            window.press("Escape")
            window.sees("● Active")
            window.press("C-c")
            window.sees("Leave the console?")
            window.press("Right", "Enter")
            window.sees("ended 0")
        elif number == signal.SIGTERM:
            window.sees("ended 0")
        else:
            wait(lambda: window.asks("#{alternate_on}") == "0", "the screen ends")
            (primary / "after").write_text("x")
            arrives(secondary / "after")
            assert order(tmp_path, "list")
            quiet(pid)
        window.restored()


def quiet(pid: int) -> None:
    """A process does not spin: less than a fifth of a core over some seconds."""

    def used() -> float:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(3)
    assert used() - before < 0.6


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """The window is gone, as when SSH drops: the process neither dies nor spins, and can be attached to."""
    primary, secondary = trees(tmp_path)
    env = environment(tmp_path)
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(COMMAND[0], [*COMMAND, "run", str(primary), str(secondary), "--name", "web"], env)
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen = b""
    end = time.monotonic() + 60
    while b"Active" not in seen and time.monotonic() < end:
        seen += os.read(master, 65536)
    os.close(master)
    try:
        (primary / "after").write_text("x")
        arrives(secondary / "after")
        pids = [int(one) for one in os.listdir("/proc") if one.isdigit() and is_run(int(one), primary)]
        for one in pids:
            if one != pid:
                quiet(one)
        with tmux(tmp_path) as window:
            window.start([*COMMAND, "attach", "web"])
            window.sees("● Active")
    finally:
        order(tmp_path, "stop", "web", check=False)
        os.waitpid(pid, 0)


def is_run(pid: int, primary: Path) -> bool:
    """Is it the engine of that primary?"""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"run" in words and os.fsencode(primary) in words


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "xterm"}, {"TERM": "vt100"}])
def test_odd_terminals(tmp_path: Path, env: dict[str, str]) -> None:
    """NO_COLOR leaves shades of grey; TERM=xterm works as any; all states read by their signs."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(COMMAND[0], [*COMMAND, "demo"], {**environment(tmp_path), **env})
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen, end = b"", time.monotonic() + 60
    while seen.count(b"Active") < 3 and time.monotonic() < end:
        seen += os.read(master, 65536)
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "●".encode() in seen and b"\x1b[?1049l" in seen and b"\x1b[?25h" in seen
    if "NO_COLOR" in env:
        colours = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", seen)
        assert all(red == green == blue for red, green, blue in colours)
        assert not re.search(rb"\x1b\[(?:\d+;)*(?:3[1-7]|9[1-7])m", seen)


def test_sizes(tmp_path: Path) -> None:
    """Down to 20×5 and up to 200×60 while it runs."""
    with tmux(tmp_path) as window:
        window.start([*COMMAND, "demo"], 120, 40)
        window.sees("● Active", "documents")
        for columns, lines in ((20, 5), (200, 60), (80, 24), (20, 5), (120, 40)):
            window.resize(columns, lines)
            window.sees("●", deadline=15)
            wait(lambda: "quit" in window.screen().rstrip("\n").split("\n")[-1], f"the footer at {lines} lines", 15)
        window.press("q")
        window.sees("Leave the console?")
        window.press("Right", "Enter")
        window.sees("ended 0")
        window.restored()


def test_off_a_terminal_it_refuses(tmp_path: Path) -> None:
    """And names the alternatives, in one line, with exit code 2."""
    done = subprocess.run([*COMMAND, "demo"], env=environment(tmp_path), capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=60)  # fmt: skip
    assert done.returncode == 2 and "--no-ui" in done.stderr and done.stderr.count("\n") == 1


def test_the_title_says_the_worst_state(tmp_path: Path) -> None:
    """And is given back at the end."""
    primary, secondary = trees(tmp_path)
    with tmux(tmp_path) as window:
        window.start([*COMMAND, "run", str(primary), str(secondary), "--name", "web"])
        window.sees("● Active")
        wait(lambda: "OK" in window.asks("#{pane_title}"), "the title says OK")
        assert "web" in window.asks("#{pane_title}")
        window.press("p")
        wait(lambda: "Warning" in window.asks("#{pane_title}"), "the title says Warning")
