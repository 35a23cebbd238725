"""A real terminal for the console: tmux of a size, with an environment of its own; keys in, the screen out."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 60.0
COMMAND = [sys.executable, "-m", "georep_tui"]


def environment(place: Path, **more: str) -> dict[str, str]:
    """Directories of its own for state, sockets and settings."""
    for name in ("state", "run", "config", "home"):
        (place / name).mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"], "HOME": str(place / "home"), "LANG": "C.UTF-8", "TERM": "xterm-256color",
        "XDG_STATE_HOME": str(place / "state"), "XDG_RUNTIME_DIR": str(place / "run"),
        "XDG_CONFIG_HOME": str(place / "config"), "TMPDIR": str(place), **more,
    }  # fmt: skip


def wait(true: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Wait until it is so. Fails with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.1)


class Tmux:
    """One window of a tmux server of our own."""

    def __init__(self, place: Path, env: dict[str, str]) -> None:
        self.place = place
        self._env = env
        self._socket = str(place / "tmux")

    def _tmux(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, "-f", "/dev/null", *words], env=self._env, capture_output=True, text=True,
            timeout=30,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"tmux {words[0]}: {done.stderr.strip() or done.returncode}"
        return done.stdout

    def start(self, words: list[str], columns: int = 80, lines: int = 24) -> None:
        """Run a command; when it has ended its exit code stands on the screen."""
        script = self.place / "script.sh"
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in self._env.items() if name != "TMUX")
        script.write_text(f"env -i {given} {shlex.join(words)}\necho \"ended $?\"\nexec sleep 10000\n")
        for left in (2, 1, 0):  # a server that is just being made may end before its first session is there
            try:
                self._tmux("new-session", "-d", "-x", str(columns), "-y", str(lines), "-s", "console", f"sh {script}")
                break
            except AssertionError as e:
                if not left or "server exited" not in str(e):
                    raise
        self._tmux("set", "-g", "status", "off")

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._tmux("send-keys", "-t", "console", *keys)

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux("send-keys", "-t", "console", "-l", text)

    def screen(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p", "-t", "console")

    def sees(self, *texts: str, deadline: float = DEADLINE) -> str:
        """Wait until all these texts are on the screen; returns it."""
        try:
            wait(lambda: all(text in self.screen() for text in texts), "", deadline)
        except AssertionError as e:
            raise AssertionError(f"{texts} not on the screen within {deadline:.0f} s:\n{self.screen()}") from e
        return self.screen()

    def asks(self, format_: str) -> str:
        """What tmux says of the window."""
        return self._tmux("display", "-p", "-t", "console", format_).strip()

    def resize(self, columns: int, lines: int) -> None:
        """Another size."""
        self._tmux("resize-window", "-t", "console", "-x", str(columns), "-y", str(lines))

    def console_pid(self) -> int:
        """The process that draws: the youngest descendant that is a python."""
        found = int(self.asks("#{pane_pid}"))
        while True:
            text = Path(f"/proc/{found}/task/{found}/children").read_text()
            children = [int(one) for one in text.split()]
            python = [one for one in children if _is_console(one)]
            if not python:
                return found
            found = python[0]

    def restored(self) -> None:
        """The terminal is as it was: no alternate screen, no mouse, a visible cursor."""
        wait(lambda: self.asks("#{alternate_on} #{mouse_any_flag} #{cursor_flag}") == "0 0 1", "the terminal is restored", 15)

    def kill(self) -> None:
        """End the server and all in it."""
        self._tmux("kill-server", check=False)


def _is_console(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"georep_tui\0" in words and b"agent" not in words and b"workload" not in words


@contextmanager
def tmux(place: Path, **env: str) -> Iterator[Tmux]:
    """A tmux, ended at the end, and the engines it left running with it."""
    window = Tmux(place, environment(place, **env))
    try:
        yield window
    finally:
        window.kill()
        for socket in (place / "run" / "georep-tui").glob("*.sock"):
            order(place, "stop", socket.stem, check=False)


def order(place: Path, *words: str, check: bool = True) -> str:
    """A command of georep-tui in the same environment; returns what it says."""
    done = subprocess.run(
        [*COMMAND, *words], env=environment(place), capture_output=True, text=True, check=False, timeout=60
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout


def there() -> bool:
    """Is there a tmux at all?"""
    return shutil.which("tmux") is not None
