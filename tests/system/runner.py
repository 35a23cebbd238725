"""Runs the product as a person does: real processes, from the command line; and waits for what must come true."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.system import processes
from tests.system.oracle import differences
from tests.system.ordinary import OrdinaryUser

PROJECT = Path(__file__).resolve().parents[2]
WITHIN = 10.0
"""Seconds after the last operation within which the replica must be equal."""
SCAN = 75.0
"""The same where there are no events at all: the tree is walked once a minute."""


def wait_until(condition: Callable[[], Any], timeout: float, what: str = "", pause: float = 0.05) -> Any:
    """Ask again and again until `condition` gives something true, and return that.

    Raises AssertionError with `what` after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {timeout:g} s: {what or condition}")
        time.sleep(pause)


def let_pass(seconds: float) -> None:
    """Let time pass where time itself is the test (a random moment, an outage); never to wait for something."""
    time.sleep(seconds)


@dataclass
class Product:
    """One session of the product: its primaries, its secondary, its options, and where it keeps its state.

    `base` is a private directory for state, sockets and logs. `options` go as `--set`. `user` runs everything as that
    user. `python` words replace the interpreter (a driver that injects a clock, strace before it, …).
    """

    base: Path
    primaries: Sequence[str]
    secondary: str
    options: dict[str, object] = field(default_factory=dict)
    name: str = "test"
    user: OrdinaryUser | None = None
    before: Sequence[str] = ()
    module: Sequence[str] = ("-m", "georep_tui")
    process: subprocess.Popen[bytes] | None = None
    runs: int = 0

    def __post_init__(self) -> None:
        self.base.mkdir(exist_ok=True)
        for name in ("state", "run", "config", "cache"):
            (self.base / name).mkdir(exist_ok=True)
            if self.user:
                self.user.owns(self.base / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # -- commands -----------------------------------------------------------------------------------------------

    def words(self, *words: str) -> list[str]:
        """The whole command line for these words of the product's own."""
        python = self.user.python if self.user else sys.executable
        prefix = self.user.prefix if self.user else []
        return [*self.before, *prefix, python, *self.module, *words]

    def environment(self) -> dict[str, str]:
        """What the product sees: nothing of the person's own configuration, no terminal."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GEOREP_", "XDG_", "SSH_")) and k != "TERM"}
        return kept | {
            "XDG_STATE_HOME": str(self.base / "state"), "XDG_RUNTIME_DIR": str(self.base / "run"),
            "XDG_CONFIG_HOME": str(self.base / "config"), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(self.user.project if self.user else PROJECT),
        }  # fmt: skip

    def run_words(self, *more: str) -> list[str]:
        """`run …` for this session."""
        sets = [word for key, value in self.options.items() for word in ("--set", f"{key}={_text(value)}")]
        state = ["--state-dir", str(self.base / "state"), "--name", self.name]
        return self.words("run", *self.primaries, self.secondary, "--no-ui", *state, *sets, *more)

    def command(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; the last word of the output is not judged here."""
        return subprocess.run(
            self.words(*words), env=self.environment(), cwd="/", stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=timeout, errors="backslashreplace",
        )  # fmt: skip

    def once(self, *more: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`run --once`, to its end. AssertionError with what it was at when it does not end."""
        words = self.run_words("--once", *more)
        with open(self.base / "once.out", "w+b") as out, open(self.base / "once.err", "w+b") as err:
            process = subprocess.Popen(
                words, env=self.environment(), cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"--once did not end within {timeout:g} s; {self.story()}") from None
            finally:
                processes.kill([*processes.below(process.pid), process.pid] if process.poll() is None else [])
                process.wait()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="backslashreplace"))
        return subprocess.CompletedProcess(words, process.returncode, *texts)

    # -- a live run ---------------------------------------------------------------------------------------------

    def start(self, *more: str) -> None:
        """`run`, live, in the background; its output goes to a log in `base`."""
        assert self.process is None, "already running"
        self.runs += 1
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                self.run_words(*more), env=self.environment(), cwd="/", stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> Path:
        """Where the output of the latest run is."""
        return self.base / f"run-{self.runs}.log"

    @property
    def pid(self) -> int:
        """The engine's process id."""
        assert self.process is not None, "not running"
        return self.process.pid

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and wait; returns the exit code (0 is asked for)."""
        assert self.process is not None, "not running"
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL of the engine and of all that runs below it."""
        if self.process is None:
            return
        children = processes.below(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        processes.kill(children)
        self.process = None

    def crash(self) -> None:
        """SIGKILL of the engine alone: what it started must leave by itself."""
        assert self.process is not None, "not running"
        self.process.kill()
        self.process.wait()
        self.process = None

    # -- what it says -------------------------------------------------------------------------------------------

    def session(self) -> dict[str, Any]:
        """This session's part of `status --json`; empty while there is no answer."""
        done = self.command("status", self.name, "--json")
        try:
            sessions = json.loads(done.stdout)["sessions"]
        except (ValueError, KeyError):
            return {}
        return sessions[0] if sessions else {}

    def brick(self, number: int = 0) -> dict[str, Any]:
        """One brick of `status --json`; empty while there is none."""
        bricks = self.session().get("bricks") or []
        return bricks[number] if number < len(bricks) else {}

    def failures(self) -> list[dict[str, Any]]:
        """The ledger, from `failures --json`. Raises AssertionError when there is no answer."""
        done = self.command("failures", self.name, "--json")
        assert done.returncode in (0, 1), f"failures: exit {done.returncode}: {done.stderr}"
        found = json.loads(done.stdout)
        return found if isinstance(found, list) else found["failures"]

    def held(self) -> list[dict[str, Any]]:
        """What the delete guard holds, from `held --json`."""
        done = self.command("held", self.name, "--json")
        assert done.returncode in (0, 1), f"held: exit {done.returncode}: {done.stderr}"
        found = json.loads(done.stdout)
        return found if isinstance(found, list) else found["held"]

    def asked(self, count: int = 1, timeout: float = 40) -> dict[str, dict[str, Any]]:
        """Wait until so many questions wait for a person; returns what `held` says of each, by its kind."""

        def look() -> list[dict[str, Any]]:
            found = self.held() if self.brick().get("status") == "Held" else []
            return found if len(found) >= count else []

        try:
            return {one["kind"]: one for one in wait_until(look, timeout, f"{count} questions", pause=0.2)}
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.story()}") from None

    def answer(self, ident: str, *, approve: bool) -> None:
        """Approve or reject what is held under this id."""
        done = self.command("held", self.name, "--approve" if approve else "--reject", ident)
        assert done.returncode == 0, done.stderr

    def active(self, timeout: float = 60) -> None:
        """Wait until every brick follows live changes."""

        def reached() -> bool:
            assert self.running(), f"the engine ended with {self.process and self.process.poll()}: {self.tail()}"
            bricks = self.session().get("bricks") or []
            return bool(bricks) and all(
                b["status"] == "Active" and b["crawl_status"] == "Changelog Crawl" for b in bricks
            )

        try:
            wait_until(reached, timeout, "Active, Changelog Crawl", pause=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.story()}") from None

    def faulty(self, timeout: float = 30, errno: int | None = None) -> dict[str, Any]:
        """Wait until a brick is Faulty with its reason (and that errno); returns its `last_error`."""

        def reached() -> dict[str, Any] | None:
            for brick in self.session().get("bricks") or []:
                error = brick["last_error"]
                if brick["status"] == "Faulty" and error and errno in (None, error["errno"]):
                    return dict(error)
            return None

        try:
            found: dict[str, Any] = wait_until(reached, timeout, f"Faulty with errno {errno}", pause=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.story()}") from None
        return found

    def tail(self, lines: int = 15) -> str:
        """The end of what the latest run said, and of its own log."""
        found = []
        for path in [self.log, *(self.base / "state").rglob("engine.log")]:
            with contextlib.suppress(OSError):
                found += path.read_text(errors="backslashreplace").splitlines()[-lines:]
        return "\n".join(found)

    def story(self) -> str:
        """What the product says of itself now, for messages of failed tests."""
        brick = self.brick()
        short = {k: brick.get(k) for k in ("status", "crawl_status", "failures", "entry", "data", "meta", "last_error")}
        ledger: object = "-"
        with contextlib.suppress(AssertionError, ValueError, subprocess.TimeoutExpired):
            ledger = self.failures()[:3]
        return f"brick {short}; ledger {ledger}; log:\n{self.tail()}"

    def children(self, prefix: str) -> list[int]:
        """Processes below the engine whose program's name begins so."""
        return processes.named(self.pid, prefix) if self.running() else []


def converged(
    product: Product,
    primary: Path,
    secondary: Path,
    *,
    since: float,
    within: float = WITHIN,
    patience: float = 60.0,
    owners: bool = True,
    content: bool = True,
) -> float:
    """Wait until both trees are equal and the ledger is empty; returns the seconds from `since` (monotonic) to then.

    Raises AssertionError with the differences when that took longer than `within`; looks on for `patience` seconds, so
    that the message can tell late from never.
    """
    last: list[str] = []
    while True:
        looked = time.monotonic()
        last = differences(os.fsencode(primary), os.fsencode(secondary), limit=25, owners=owners, content=content)
        if not last:
            break
        if looked - since > patience:
            raise AssertionError(f"not equal after {patience:g} s:\n" + "\n".join(last) + "\n" + product.story())
        time.sleep(0.1)
    took = max(0.0, looked - since)
    assert took <= within, f"equal only {took:.1f} s after the last operation\n{product.story()}"
    wait_until(
        lambda: product.failures() == [], max(2.0, within - took), f"an empty ledger; {product.story()}", pause=0.3
    )
    return took


def workload(
    tree: Path, seed: int, operations: int, *, processes_: int = 3, rate: float = 0, user: OrdinaryUser | None = None,
    objects: int = 2000, huge: bool = False,
    outside: Path | None = None,
) -> list[subprocess.Popen[str]]:  # fmt: skip
    """Start the processes of one seed; together they do `operations` at `rate` a second (0: unlimited).

    `outside` is where they move and link things to; by default a directory beside the tree.
    """
    outside = outside or tree.parent / f"{tree.name}-outside"
    outside.mkdir(exist_ok=True)
    if user:
        user.owns(outside)
    started = []
    for part in range(processes_):
        words = [
            *(user.prefix if user else []), user.python if user else sys.executable, "-m", "tests.system.workload",
            str(tree), "--outside", str(outside), "--seed", str(seed * 100 + part),
            "--operations", str(-(-operations // processes_)), "--rate", str(rate / processes_),
            "--objects", str(objects), *(["--huge"] if huge else []),
        ]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(user.project if user else PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
        cwd = user.project if user else PROJECT
        started.append(
            subprocess.Popen(
                words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(started: list[subprocess.Popen[str]], timeout: float = 200) -> int:
    """Wait for the workload's processes; returns how many operations they did. Their failure is the test's."""
    total = 0
    for process in started:
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, f"the workload failed: {err}"
        total += json.loads(out)["done"]
    return total


@contextlib.contextmanager
def working(started: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Kills what is left of a workload at the end of the block."""
    try:
        yield
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
