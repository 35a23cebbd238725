"""Commands as people type them: exit codes, one line of error, results on stdout, and what is never loaded."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from georep_tui.view.status import check, status_lines

PROJECT = Path(__file__).resolve().parents[2]
TEXTUAL_FREE = "import sys; from georep_tui.cli import main; code = main(sys.argv[1:]); " \
    "loaded = sorted(m for m in sys.modules if m.partition('.')[0] == 'textual' or m.startswith('georep_tui.tui')); " \
    "sys.stderr.write(f'loaded {loaded}\\n'); sys.exit(code)"  # fmt: skip


class Place:
    """A person's machine: trees, a home, directories of their own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("primary", "secondary", "state", "run", "config"):
            (base / name).mkdir(mode=0o700)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GEOREP_", "XDG_", "SSH_"))}
        self.env = kept | {
            "XDG_STATE_HOME": str(base / "state"), "XDG_RUNTIME_DIR": str(base / "run"), "HOME": str(base),
            "XDG_CONFIG_HOME": str(base / "config"), "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self.primary, self.secondary = base / "primary", base / "secondary"
        self.live: subprocess.Popen[str] | None = None

    def __call__(self, *words: str, code: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        head = ["-c", code] if code else ["-m", "georep_tui"]
        return subprocess.run(
            [sys.executable, *head, *words], env=self.env | more, cwd=self.base, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip

    def start(self, *more: str) -> None:
        """`run`, live, named `web`; returns when it answers."""
        self.live = subprocess.Popen(
            [sys.executable, "-m", "georep_tui", "run", str(self.primary), str(self.secondary), "--name", "web",
             "--no-ui", *more],
            env=self.env, cwd=self.base, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        until(lambda: self.state() == "Active")

    def state(self) -> str:
        done = self("status", "web", "--json")
        return str(json.loads(done.stdout)["sessions"][0]["state"]) if done.returncode == 0 else ""

    def end(self) -> None:
        if self.live is not None:
            self.live.kill()
            self.live.communicate()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.end()


def until(condition: Callable[[], Any], timeout: float = 60) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)
    return found


def refused(done: subprocess.CompletedProcess[str], *says: str, code: int = 2) -> None:
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines), done.stdout) == (code, 1, ""), (done.returncode, done.stderr, done.stdout)
    for word in says:
        assert word in lines[0], lines[0]


# ---- nothing runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "Missing argument"), (["run", "only-one", "--no-ui"], "only-one"), (["no-such"], "No such command"),
        (["run", "--no-such"], "No such option"), (["run", "a", "b"], "needs a terminal"), ([], "needs a terminal"),
        (["attach"], "needs a terminal"), (["demo"], "needs a terminal"), (["replay", "x"], "needs a terminal"),
        (["run", "--no-ui", "--set", "sync_jobs=0", ".", "/x/y"], "/x: no such directory"),
        (["status", "web"], "not running"), (["pause", "web"], "not running"), (["failures", "web"], "not running"),
        (["failures", "web", "--dismiss"], "--reason"), (["failures", "web", "--dismiss", "--retry"], "not both"),
        (["held", "web", "--approve", "a", "--reject", "b"], "not both"),
        (["checkpoint", "web", "soonish"], "soonish"), (["checkpoint", "web"], "Missing argument"),
        (["config", "web", "no_such"], "no_such"), (["config", "web", "--reset"], "--reset needs OPTION"),
        (["logs", "web", "--lines", "0"], "--lines"), (["dial-stdio", "web"], "not running"),
        (["run", "--no-ui", "--log-format", "xml", "a", "b"], "xml"), (["list", "--ssh", "a b"], "is no node"),
        (["run", "--no-ui", "a.toml"], "a.toml: no such file"), (["stop", "../x"], "not running"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)  # fmt: skip
def test_wrong_words_are_one_line_and_exit_2(place: Place, words: list[str], says: str) -> None:
    refused(place(*words), says)


def test_when_nothing_runs(place: Place) -> None:
    assert "begin one" in place("list").stdout
    assert json.loads(place("list", "--json").stdout) == {"sessions": []}
    done = place("status")
    assert (done.returncode, "no session is running" in done.stdout) == (0, True)
    assert json.loads(place("status", "--json").stdout)["sessions"] == []
    done = place("status", "--check")
    assert (done.returncode, done.stdout) == (3, "GEOREP UNKNOWN: no session is running here\n")
    assert place("status", "--check", "--no-such").returncode == 3
    assert place("--version").stdout.startswith("georep-tui 0.")
    assert "Commands:" in place("--help").stdout


def test_names_in_errors_cannot_do_anything_to_a_terminal(place: Place) -> None:
    refused(place("run", "\x1b]0;x\x07\nsecond line", "/tmp/x/y/z", "--no-ui"), "no such directory")
    assert "\x1b" not in place("status", "\x1b[31m").stderr


def test_an_internal_error_is_a_line_and_exit_70(place: Place) -> None:
    code = "import sys, georep_tui.places as p; p.known_sessions = lambda base: 1 / 0; " \
        "from georep_tui.cli import main; sys.exit(main(['list']))"  # fmt: skip
    done = place(code=code)
    refused(done, "internal error: ZeroDivisionError", "crash.log", code=70)
    assert "ZeroDivisionError" in (place.base / "state" / "georep-tui" / "crash.log").read_text()


@pytest.mark.parametrize("words", [["list"], ["status", "--json"], ["--version"], ["config", "web"], ["demo", "--help"]],
                         ids=" ".join)  # fmt: skip
def test_commands_never_load_textual(place: Place, words: list[str]) -> None:
    assert "loaded []" in place(*words, code=TEXTUAL_FREE).stderr


def test_headless_is_light(place: Place) -> None:
    """Headless runs never load textual."""
    done = place("run", str(place.primary), str(place.secondary), "--no-ui", "--once", code=TEXTUAL_FREE)
    assert (done.returncode, "loaded []" in done.stderr) == (0, True), done.stderr


# ---- a session -------------------------------------------------------------------------------------------------


def test_once_from_words_from_a_file_and_by_name(place: Place) -> None:
    (place.primary / "a").write_text("one")
    assert place("run", str(place.primary), str(place.secondary), "--no-ui", "--once", "--name", "web").returncode == 0
    assert (place.secondary / "a").read_text() == "one"
    (place.primary / "a").write_text("two!")
    done = place("run", "web", "--no-ui", "--once")
    assert (done.returncode, (place.secondary / "a").read_text()) == (0, "two!"), done.stderr
    file = place.base / "web.toml"
    file.write_text(f'[primary]\npath = "{place.primary}"\n[secondary]\npath = "{place.secondary}"\n'
                    '[options]\nsync_jobs = 7\n')  # fmt: skip
    (place.primary / "a").write_text("three")
    done = place("run", str(file), "--no-ui", "--once")
    assert (done.returncode, (place.secondary / "a").read_text()) == (0, "three"), done.stderr
    refused(place("run", str(place.base), "/tmp", "--no-ui", "--name", "web"), "is inside")
    found = json.loads(place("list", "--json").stdout)["sessions"]
    assert [(s["name"], s["state"], s["running"]) for s in found] == [("web", "Stopped", False)]
    done = place("status", "web", "--check")
    assert (done.returncode, done.stdout[:15]) == (2, "GEOREP CRITICAL")


def test_options_of_a_session_that_does_not_run(place: Place) -> None:
    place("run", str(place.primary), str(place.secondary), "--no-ui", "--once", "--name", "web")
    assert place("config", "web", "sync-jobs", "9").stdout == "sync_jobs = 9\n"
    assert "from     config" in place("config", "web", "sync_jobs").stdout
    assert "from     environment" in place("config", "web", "sync_jobs", GEOREP_SYNC_JOBS="4").stdout
    found = {o["name"]: o for o in json.loads(place("config", "web", "--json").stdout)["options"]}
    assert found["sync_jobs"]["value"] == 9
    refused(place("config", "web", "sync_jobs", "many"), "sync_jobs", "many", "1 to 100")
    assert place("config", "web", "ssh_options", "").returncode == 0
    assert place("config", "web", "sync_jobs", "--reset").stdout == "sync_jobs = 3\n"


def test_a_life(place: Place) -> None:
    """Every command against one live session."""
    (place.primary / "a").write_text("one")
    place.start()
    done = place("status", "web")
    assert "web: OK, Active" in done.stdout and str(place.primary) in done.stdout
    done = place("status", "--check")
    text, _, data = done.stdout.strip().partition(" | ")
    assert done.returncode == 0 and len(text) <= 80 and text.startswith("GEOREP OK: web: Active")
    assert "'lag'=" in data and "'failures'=0" in data
    refused(place("run", str(place.primary), str(place.secondary), "--name", "web", "--no-ui"), "already runs")
    assert place("pause", "web", "--brick", str(place.primary)).returncode == 0
    assert place.state() == "Paused"
    assert place("status", "--check").returncode == 1
    refused(place("pause", "web", "--brick", "/no/such"), "/no/such", str(place.primary))
    assert place("resume", "web").returncode == 0
    (place.primary / "b").write_text("two")
    done = place("checkpoint", "web", "now", "--wait")
    assert (done.returncode, "completed" in done.stdout) == (0, True), done.stdout + done.stderr
    assert (place.secondary / "b").read_text() == "two"
    assert "cleared" in place("checkpoint", "web", "clear").stdout
    assert json.loads(place("failures", "web", "--json").stdout)["failures"] == []
    assert place("failures", "web", "--retry").returncode == 0
    refused(place("failures", "web", "beef-1"), "beef-1")
    assert json.loads(place("held", "web", "--json").stdout) == {"held": []}
    refused(place("held", "web", "--approve", "x"), "nothing is held")
    done = place("verify", "web", "--content", "--json")
    assert (done.returncode, json.loads(done.stdout)["different"]) == (0, 0)
    assert place("xsync", "web").returncode == 0
    assert "session web" in place("logs", "web").stdout
    assert all(json.loads(line) for line in place("logs", "web", "--json", "-n", "3").stdout.splitlines())
    assert place("config", "web", "bandwidth_limit", "1M").stdout == "bandwidth_limit = 1048576\n"
    done = place("config", "web", "exclude", "*.tmp")
    assert "the workers start again" in done.stdout
    assert place("stop", "web").stdout == "web: stopped\n"
    assert place.live is not None
    assert place.live.wait(30) == 0
    assert os.listdir(place.base / "run" / "georep-tui") == []


def test_readers_are_refused(place: Place) -> None:
    place.start("--read-only")
    refused(place("pause", "web"), "read-only")
    assert place("status", "web").returncode == 0


def test_a_reader_of_output_that_goes_away(place: Place) -> None:
    place.start()
    watch = subprocess.Popen(
        [sys.executable, "-m", "georep_tui", "logs", "web", "--follow"], env=place.env, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watch.stdout is not None and watch.stderr is not None
    assert "session web" in watch.stdout.readline()
    watch.stdout.close()
    place("pause", "web")
    place("config", "web", "log_level", "DEBUG")
    (place.primary / "x").write_text("x")
    place("resume", "web")
    place("stop", "web")
    assert watch.wait(30) == 0
    assert watch.stderr.read() == ""


def _interruptible() -> None:
    """Take SIGINT again: a shell has its background jobs ignore it, and tests run in one now and then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_is_130(place: Place) -> None:
    place.start()
    watch = subprocess.Popen([sys.executable, "-m", "georep_tui", "status", "--watch"], env=place.env,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             preexec_fn=_interruptible)  # fmt: skip
    assert watch.stdout is not None
    watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    assert watch.wait(30) == 130


def test_a_console_that_leaves_gives_the_terminal_back(place: Place) -> None:
    """The work goes on in a process of its own; what waits in front says so and ends with 0; SIGTERM is handed on."""
    code = (
        "import os, signal, sys, time\n"
        "from georep_tui.foreground import detachable\n"
        "def work(leave):\n"
        "    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "    print('works', flush=True)\n"
        "    if sys.argv[1] == 'leave':\n"
        "        leave.now('goes on')\n"
        "        open(sys.argv[2], 'w').write(f'{os.getpid()} {os.getsid(0)} {os.isatty(1)}\\n')\n"
        "        return 0\n"
        "    if sys.argv[1] == 'wait':\n"
        "        time.sleep(60)\n"
        "    return 5\n"
        "sys.exit(detachable(work))\n"
    )

    def run(*words: str, term: bool = False) -> tuple[int, str]:
        pid, master = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [sys.executable, "-c", code, *words], place.env)
        out = b""
        while b"works" not in out:
            out += os.read(master, 1000)
        if term:
            os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        try:
            while part := os.read(master, 1000):
                out += part
        except OSError:
            pass  # the end of a terminal
        os.close(master)
        return os.waitstatus_to_exitcode(status), out.decode()

    mark = place.base / "mark"
    assert run("leave", str(mark))[0] == 0
    pid, session, terminal = until(lambda: mark.exists() and mark.read_text().split())
    assert pid == session and terminal == "False"
    assert run("end")[0] == 5
    assert run("wait", term=True)[0] == 7


# ---- what is printed -------------------------------------------------------------------------------------------


def document(*sessions: dict[str, Any], connected: bool = True) -> dict[str, Any]:
    return {"version": 1, "time": 1000.0, "sources": [{"node": "m1", "connected": connected, "error": "lost"}],
            "sessions": list(sessions)}  # fmt: skip


def session(
    name: str, verdict: str = "ok", lag: float | None = 1.2, *reasons: str, state: str = "Active"
) -> dict[str, Any]:
    return {
        "id": name, "name": name, "kind": "tree", "primary": "/p", "secondary": "dr:/s", "state": state,
        "verdict": verdict, "reasons": [{"code": "x", "text": r, "hint": "do this"} for r in reasons],
        "lag_seconds": lag, "failures": 0, "bricks": [],
        "checkpoint": {"time": None, "completed": None, "completion_time": None, "failures_before": 0},
    }  # fmt: skip


def test_the_check_line() -> None:
    assert check(document(session("web"))) == (
        0, "GEOREP OK: web: Active, 1.2 s behind | 'lag'=1.2s;;;0 'failures'=0;;;0 'pending'=0;;;0",
    )  # fmt: skip
    assert check(document(session("web", "warning", 70.0, "70 s behind")))[0] == 1
    code, line = check(document(session("a", "critical", None, "x|y" * 60), session("b")))
    text, _, data = line.partition(" | ")
    assert code == 2 and len(text) == 80 and "|" not in text
    assert "'a lag'=U;;;0" in data and "'b lag'=1.2s" in data
    assert check(document(session("a", "unknown", None, "why"), session("b", "warning")))[0] == 3
    assert check(document(session("a"), connected=False)) == (
        3, "GEOREP UNKNOWN: m1 is not connected | 'lag'=1.2s;;;0 'failures'=0;;;0 'pending'=0;;;0",
    )  # fmt: skip
    assert check(document())[0] == 3


def test_status_puts_the_worst_first_with_reasons() -> None:
    lines = status_lines(document(session("a"), session("b", "critical", None, "it broke\x1b[31m", state="Faulty"),
                                  connected=False))  # fmt: skip
    heads = [line for line in lines if ": " in line and not line.startswith(" ")]
    assert [h.split(":")[0][2:] for h in heads[:2]] == ["b", "a"]
    assert "  └ it broke\\x1b[31m (do this)" in lines
    assert lines[-1] == "! m1 is not connected: lost"
