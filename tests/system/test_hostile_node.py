"""A node that lies: garbage, huge lines, other versions, escape sequences, silence. The source says what is wrong and
stays up; nothing raw reaches a screen; no secret is written anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from georep_tui import remote
from georep_tui.remote import NodeSource
from georep_tui.sources.base import SourceError
from georep_tui.sources.several import Several
from georep_tui.ssh.keys import Keyring
from georep_tui.tui.app import Console
from georep_tui.tui.bundle import write_bundle
from tests.system.runner import wait_until
from tests.system.sshd import HOST, Sshd
from tests.system.test_ssh_login import PHRASE, Person, key, let_in

ESCAPE = "\x1b]0;owned\x07\x1b[31mred\u202e"

PICTURE: dict[str, Any] = {
    "version": 1, "time": 1795325087.2,
    "sources": [{"node": "m1", "connected": True, "data_time": 1795325087.2, "clock_offset_seconds": 0.0,
                 "engine_version": "0.1.0", "boot_id": "b", "error": None}],
    "sessions": [{
        "id": "s", "name": "web", "kind": "tree", "primary": "/srv", "secondary": "/dst", "state": "Active",
        "verdict": "ok", "reasons": [], "lag_seconds": 0.0, "failures": 0,
        "checkpoint": {"time": None, "completed": None, "completion_time": None, "failures_before": 0,
                       "eta_seconds": None, "held_by": None},
        "bricks": [{
            "id": "b", "node": "m1", "brick": "/srv", "secondary_user": None, "secondary": "/dst", "secondary_node": None,
            "status": "Active", "crawl_status": "Changelog Crawl", "verdict": "ok", "reasons": [],
            "last_synced": 1795325086.0, "lag_seconds": 0.0, "entry": 0, "data": 0, "meta": 0, "failures": 0,
            "checkpoint_time": None, "checkpoint_completed": None, "checkpoint_completion_time": None,
            "crawl": None, "backlog": None, "batch": None, "rate": None, "totals": None, "paused": None, "held": None,
            "secondary_free": None, "last_verify": None, "last_error": None}]}],
}  # fmt: skip
HELLO = {"hello": {"protocol": 1, "boot_id": "b", "session_id": "s", "session": "web", "access": "control"}}


def lines(*messages: object) -> list[str]:
    return [json.dumps({"session": "web", "line": m}) for m in messages]


def snapshot(change: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    picture = json.loads(json.dumps(PICTURE))
    if change:
        change(picture)
    return {"event": "snapshot", "seq": 1, "time": 1795325087.2, "snapshot": picture}


def put(*path: object, value: object) -> Callable[[dict[str, Any]], None]:
    def change(picture: Any) -> None:
        for step in path[:-1]:
            picture = picture[step]
        picture[path[-1]] = value

    return change


UP, ALIVE = '{"session":"web","up":true}', '{"alive":1795325087.2}'
BRICK = ("sessions", 0, "bricks", 0)

LIES: dict[str, tuple[list[str], str]] = {
    "garbage": (["\x00\xff not a line of ours"], "not JSON"),
    "a list": (["[1,2]"], "not a JSON object"),
    "another thing": (['{"what":"ever"}'], "session|lost"),
    "nested": (["[" * 5000], "not JSON|not a JSON object"),
    "other protocol": ([UP, ALIVE, *lines({"hello": {**HELLO["hello"], "protocol": 99}})], "speaks protocol 99"),
    "no hello": ([UP, ALIVE, *lines({"hello": {"protocol": 1}})], "neither which life"),
    "hello of a list": ([UP, ALIVE, *lines({"hello": [1]})], "makes no sense"),
    "other version": ([UP, ALIVE, *lines(HELLO, snapshot(put("version", value=2)))], "version 2 of the snapshot"),
    "no sessions": ([UP, ALIVE, *lines(HELLO, snapshot(put("sessions", value="x")))], "sessions is str"),
    "a brick of text": ([UP, ALIVE, *lines(HELLO, snapshot(put("sessions", 0, "bricks", value=["x"])))], "bricks is str"),
    "a missing key": ([UP, ALIVE, *lines(HELLO, snapshot(put(*BRICK, value={})))], "has no id"),
    "a word for a number": ([UP, ALIVE, *lines(HELLO, snapshot(put(*BRICK, "entry", value="many")))], "entry is str"),
    "infinity": ([UP, ALIVE, *lines(HELLO, snapshot(put(*BRICK, "lag_seconds", value=float("inf"))))], "no number"),
    "a time of no clock": ([UP, ALIVE, *lines(HELLO, snapshot(put(*BRICK, "last_synced", value=1e300)))], "no time"),
    "less than nothing": ([UP, ALIVE, *lines(HELLO, snapshot(put(*BRICK, "failures", value=-3)))], "failures is -3"),
    "a torn change": ([UP, ALIVE, *lines(HELLO, snapshot(), {"event": "changed", "seq": 2, "time": 1795325088.0,
                                                             "bricks": [{"id": 7}]})], "brick"),
    "an odd number": ([UP, ALIVE, *lines(HELLO, snapshot(), {"event": "x", "seq": "two", "time": 1.0})], "numbers an event"),
}  # fmt: skip


@pytest.fixture
def node(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[..., NodeSource]]:
    """Connects to a `dial-stdio` that says these lines, then waits for the end of its input."""
    made: list[NodeSource] = []

    def connect(said: list[str], **words: Any) -> NodeSource:
        path = tmp_path / f"said{len(made)}"
        path.write_bytes("\n".join(said).encode("utf-8", "surrogatepass") + b"\n")
        command = f"cat {shlex.quote(str(path))}; exec {sys.executable} -c 'import sys; sys.stdin.read()'"
        made.append(NodeSource(HOST, f"sh -c {shlex.quote(command)}", config=str(sshd.client()), **words))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_told_as_what_it_is(node: Callable[..., NodeSource], lie: str) -> None:
    said, words = LIES[lie]
    source = node(said)

    def wrong() -> str:
        try:
            found = source.snapshot()
        except SourceError as e:
            return e.text
        return str(found["sources"][0]["error"] or "")

    text = wait_until(lambda: (t := wrong()) and re.search(words, t) and t, 20, f"{words}: {wrong()}")
    assert "Traceback" not in text and len(text) < 500


def test_a_line_without_an_end(sshd: Sshd) -> None:
    """It is not kept beyond its limit, and the node is tried again more and more seldom."""
    source = NodeSource(HOST, "exec tr '\\0' x < /dev/zero", config=str(sshd.client()))
    try:
        with pytest.raises(SourceError, match="a line longer than"):
            source.snapshot()
    finally:
        source.close()


def test_a_reply_that_never_comes(node: Callable[..., NodeSource], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the picture nor another node's waits for it longer than its time."""
    monkeypatch.setattr(remote, "SILENT", 2.0)
    good = node([UP, ALIVE, *lines(HELLO, snapshot())])
    mute = node([UP, ALIVE], patience=1.0)
    both = Several([good, mute])
    wait_until(lambda: good.snapshot()["sessions"], 20, "the good one")
    began = time.monotonic()
    document = both.snapshot()
    assert time.monotonic() - began < 3
    assert [s["connected"] for s in document["sources"]] == [True, False]
    began = time.monotonic()
    with pytest.raises(SourceError) as e:
        good.command("pause", {"session": "web"})
    assert e.value.code in ("silent", "gone", "closed") and time.monotonic() - began < 6
    silent = node([], patience=8.0)
    with pytest.raises(SourceError, match="no word for 2 s"):
        silent.snapshot()


def test_the_console_stays_up_and_shows_no_raw_byte(node: Callable[..., NodeSource]) -> None:
    """Escape sequences in every name, a huge event, then garbage: the screen says it and nothing raw is drawn."""

    def spoil(picture: dict[str, Any]) -> None:
        session, brick = picture["sessions"][0], picture["sessions"][0]["bricks"][0]
        session.update(name=ESCAPE, primary=ESCAPE, secondary=ESCAPE)
        session["reasons"] = [{"code": "x", "text": ESCAPE, "hint": ESCAPE}]
        brick.update(brick=ESCAPE, node=ESCAPE, secondary=ESCAPE, status="Faulty")
        brick["last_error"] = {"time": 1.0, "code": ESCAPE, "errno": None, "text": ESCAPE, "hint": ESCAPE,
                               "attempt": 1, "retry_at": None}  # fmt: skip
        picture["sources"][0].update(node=ESCAPE, error=ESCAPE)

    events = [{"event": ESCAPE, "seq": 2, "time": 1795325088.0, "text": ESCAPE, "session": ESCAPE, "brick": ESCAPE},
              {"event": "big", "seq": 3, "time": 1795325088.0, "text": "x" * 500_000}]  # fmt: skip
    source = node([UP, ALIVE, *lines(HELLO, snapshot(spoil), *events)])
    wait_until(lambda: source.snapshot()["sessions"], 20, "the picture")
    from georep_tui.settings import ConsoleConfig

    async def look() -> str:
        console = Console(source, config=ConsoleConfig())
        async with console.run_test(size=(120, 40)) as pilot:
            for _ in range(100):
                await pilot.pause(0.05)
                if console.picture.snapshot is not None:
                    break
            assert console.picture.snapshot is not None
            await pilot.press("enter", "enter")
            await pilot.pause(0.3)
            text = console.export_screenshot()
            assert console.is_running
        return text

    shown = asyncio.run(look())
    assert "\x1b" not in shown and "\x07" not in shown and "\u202e" not in shown


def test_no_secret_is_written_anywhere(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase is in no file of ours, no bundle, no error, no event."""
    monkeypatch.setattr(remote, "SILENT", 1.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    closed = key(tmp_path / "closed", PHRASE)
    let_in(sshd, closed)
    config = tmp_path / "config"
    config.write_text(sshd.client().read_text().replace(f"identity-{os.geteuid()}", "nothing-here") + f"  IdentityFile {closed}\n")
    said = tmp_path / "said"
    said.write_text("\n".join([UP, ALIVE, *lines(HELLO, snapshot())]) + "\n")
    person = Person("not it", PHRASE)
    source = NodeSource(HOST, f"sh -c 'cat {said}; sleep 20'", config=str(config), asker=person, keyring=Keyring())
    try:
        document = wait_until(lambda: (d := source.snapshot())["sessions"] and d, 20, "the picture")
        path = write_bundle(source, "web", document, source.events(), time.time(), str(tmp_path))
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member)
                assert file is not None and PHRASE.encode() not in file.read(), member.name
        assert PHRASE not in json.dumps(document) and PHRASE not in "".join(person.said)
    finally:
        source.close()
    for folder, _, files in os.walk(tmp_path):
        for name in files:
            assert PHRASE.encode() not in (Path(folder) / name).read_bytes(), name
