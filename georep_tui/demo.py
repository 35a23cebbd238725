"""`demo`: three trees, people working in them, and a replica beside; all of it temporary."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from engine.config import Config
from engine.control import ControlServer
from engine.model import EngineError
from engine.session import Session
from engine.spec import make_spec

BRICKS = ("documents", "photos", "mail")
SETTLE = 30.0
"""Seconds the replica may take to be equal after the last change."""


def run_demo(*, no_ui: bool, seconds: float | None = None) -> int:
    """Show or run a whole session on temporary trees; after `seconds`, or when a person leaves, all is removed.

    Without a screen and with `seconds` it ends by comparing both sides: exit code 1 when they differ.
    """
    with _place() as place, _Work(place) as work:
        session = _session(place)
        if not no_ui:
            from georep_tui.running import show

            return show(session, seconds=seconds)
        return _headless(session, work, place, seconds)


@contextlib.contextmanager
def _place() -> Iterator[str]:
    """A directory for everything, removed at the end."""
    place = tempfile.mkdtemp(prefix="georep-demo-")
    try:
        for name in BRICKS:
            os.makedirs(os.path.join(place, "primary", name))
        os.mkdir(os.path.join(place, "secondary"))
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _session(place: str) -> Session:
    primaries = [f"{os.path.join(place, 'primary', name)}={name}" for name in BRICKS]
    state = os.path.join(place, "state")
    spec = make_spec(primaries, os.path.join(place, "secondary"), name=f"demo-{os.getpid()}")
    os.mkdir(state, 0o700)
    return Session(spec, Config(state, environment={}, system_file=os.path.join(place, "none")), state)


class _Work:
    """The people: a process of their own, so that they take no time from the engine's threads."""

    def __init__(self, place: str) -> None:
        self._trees = [os.path.join(place, "primary", name) for name in BRICKS]
        self._process: subprocess.Popen[str] | None = None
        self.done = 0

    def __enter__(self) -> _Work:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "georep_tui.workload", *self._trees], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.wait()
            raise EngineError("the demonstration could not begin", hint="is there room in the temporary directory?")
        return self

    def stop(self) -> None:
        """No more changes from here on. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            out, _ = process.communicate()
            self.done = int(out.strip() or 0)

    def __exit__(self, *_: object) -> None:
        self.stop()


def _headless(session: Session, work: _Work, place: str, seconds: float | None) -> int:
    from georep_tui.headless import run_headless

    differences: list[str] = []
    over = threading.Event()

    def end() -> None:
        """After the time: stop the work, wait for the replica, compare, and end the session."""
        if over.wait(seconds):
            return
        work.stop()
        deadline = time.monotonic() + SETTLE
        while True:
            differences[:] = _differences(place)
            if not differences or over.wait(0.2) or time.monotonic() > deadline:
                break
        count = sum(len(d) + len(f) for _, d, f in os.walk(os.path.join(place, "primary")))
        words = f"{len(differences)} differences, as {differences[0]}" if differences else "both sides are equal"
        session.log.write("info", f"{work.done:,} changes made; {count:,} objects; {words}")
        session.finished.set()

    server = ControlServer(session)
    server.start()
    timer = threading.Thread(target=end, name="demo", daemon=True)
    if seconds is not None:
        timer.start()
    try:
        code = run_headless(session)
    finally:
        over.set()
        if timer.ident is not None:
            timer.join()
        server.stop()
    return code or (1 if differences else 0)


def _differences(place: str) -> list[str]:
    """Names that are not the same on both sides."""
    found: list[str] = []
    primary, secondary = os.path.join(place, "primary"), os.path.join(place, "secondary")
    for folder, directories, files in os.walk(primary):
        other = secondary + folder[len(primary) :]
        names = set(directories) | set(files)
        try:
            there = set(os.listdir(other)) - {".georep"}
        except (FileNotFoundError, NotADirectoryError):
            continue  # its own name was found already
        found += [os.path.join(folder, name) for name in names ^ there]
        found += [os.path.join(folder, name) for name in names & there if not _equal(folder, other, name)]
    return found


def _equal(one: str, other: str, name: str) -> bool:
    a, b = os.path.join(one, name), os.path.join(other, name)
    try:
        st, st2 = os.lstat(a), os.lstat(b)
        if st.st_mode != st2.st_mode:
            return False
        if stat.S_ISLNK(st.st_mode):
            return os.readlink(a) == os.readlink(b)
        if not stat.S_ISREG(st.st_mode):
            return True
        return (st.st_size, st.st_mtime_ns) == (st2.st_size, st2.st_mtime_ns) and filecmp.cmp(a, b, shallow=False)
    except FileNotFoundError:
        return False
