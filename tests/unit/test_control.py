"""The control socket: its lines, who may do what, events and pictures, dead and living sockets."""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.control import ControlServer
from engine.events import EventLog
from engine.model import EngineError
from engine.protocol import (
    MAX_LINE,
    Lines,
    ProtocolError,
    apply,
    changes,
    directories,
    find_sockets,
    grown,
    kept_for,
    pieces,
    socket_path,
)
from georep_tui.sources.base import SourceError
from georep_tui.sources.socket import Local, SocketSource, dial

Doc = dict[str, Any]


class Counter:
    """A small engine: one brick, and numbers that change when told."""

    def __init__(self, name: str = "web", kept: int = 50) -> None:
        self.name, self.id = name, f"id-{name}"
        self.events = EventLog(kept)
        self.brick: Doc = {"id": "b1", "node": "m1", "brick": "/srv", "lag_seconds": 0.0, "failures": 0, "entry": 0}
        self.asked: list[tuple[str, Doc, str]] = []

    def snapshot(self) -> Doc:
        now = time.time()
        return {
            "version": 1, "time": now,
            "sources": [{"node": "m1", "connected": True, "data_time": now, "error": None}],
            "sessions": [{"id": self.id, "name": self.name, "kind": "tree", "primary": "/srv", "secondary": "/replica",
                          "state": "Active", "verdict": "ok", "reasons": [], "failures": 0,
                          "checkpoint": {"time": None, "completed": None, "completion_time": None,
                                         "failures_before": 0, "eta_seconds": None, "held_by": None},
                          "lag_seconds": self.brick["lag_seconds"],
                          "bricks": [dict(self.brick)]}],
        }  # fmt: skip

    def command(self, method: str, params: Doc, who: str) -> Doc:
        self.asked.append((method, params, who))
        if method == "fail":
            raise EngineError("it went wrong", hint="try again", code="wrong")
        if method == "break":
            raise ZeroDivisionError("unexpected")
        if method == "long":
            return {"text": "x" * (MAX_LINE + 1)}
        return {"method": method, **params}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "georep-tui"


@pytest.fixture
def serve(directory: Path) -> Iterator[Callable[..., ControlServer]]:
    servers: list[ControlServer] = []

    def start(engine: Counter, **more: Any) -> ControlServer:
        server = ControlServer(engine, **more)
        servers.append(server)
        server.start()
        return server

    assert directory
    yield start
    for server in servers:
        server.stop()


class Talk:
    """A raw conversation."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def next(self) -> Doc:
        found: Doc = json.loads(self.file.readline() or b"null")
        return found

    def say(self, **message: Any) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def until(self, kind: str) -> Doc:
        while True:
            found = self.next()
            assert found is not None, f"the line ended before {kind}"
            if found.get("event") == kind:
                return found


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)
    return found


# ---- requests --------------------------------------------------------------------------------------------------


def test_hello_requests_and_errors(serve: Callable[..., ControlServer]) -> None:
    engine = Counter()
    server = serve(engine)
    me = pwd.getpwuid(os.geteuid()).pw_name
    with Talk(server.path) as talk:
        hello = talk.next()["hello"]
        assert (hello["protocol"], hello["boot_id"]) == (1, engine.events.boot_id)
        assert (hello["session"], hello["access"], hello["user"]) == ("web", "control", me)
        talk.say(id=7, method="pause", params={"brick": "b1"})
        assert talk.next() == {"id": 7, "result": {"method": "pause", "brick": "b1"}}
        assert engine.asked == [("pause", {"brick": "b1"}, me)]
        talk.say(id=8, method="fail")
        assert talk.next() == {"id": 8, "error": {"code": "wrong", "text": "it went wrong", "hint": "try again"}}
        talk.say(id=9, method="break")
        assert talk.next()["error"]["code"] == "internal"
        talk.say(id=10, method="long")
        assert talk.next()["error"]["code"] == "too-long"
        talk.say(id=11, method="pause", params={"session": "other"})
        assert "not served here" in talk.next()["error"]["text"]
        for line in (
            b"rubbish\n",
            b"[1]\n",
            b'{"id": 1}\n',
            b"[" * 100_000 + b"\n",
            b'{"id":1,"method":"x","params":3}\n',
        ):
            talk.sock.sendall(line)
            assert talk.next()["error"]["code"] == "bad-request"
        talk.say(id=12, method="snapshot")
        assert talk.next()["result"]["sessions"][0]["name"] == "web"


def test_lines_in_pieces_and_too_long(serve: Callable[..., ControlServer]) -> None:
    server = serve(Counter())
    with Talk(server.path) as talk:
        talk.next()
        for byte in b'{"id":1,"method":"ping"}\n\n{"id":2,':
            talk.sock.sendall(bytes([byte]))
        assert talk.next()["id"] == 1
        talk.sock.sendall(b'"method":"ping"}\n')
        assert talk.next()["id"] == 2
        talk.sock.sendall(b"x" * (MAX_LINE + 10))
        assert talk.next()["error"]["code"] == "too-long"
        assert talk.next() is None


def test_names_that_are_not_text(serve: Callable[..., ControlServer]) -> None:
    engine = Counter()
    engine.brick["brick"] = os.fsdecode(b"/srv/\xff")
    with Talk(serve(engine).path) as talk:
        talk.next()
        talk.say(id=1, method="snapshot")
        brick = talk.next()["result"]["sessions"][0]["bricks"][0]
        assert brick["brick"] == "/srv/\\xff"
        assert brick["brick_b64"] == "L3Nydi//"


# ---- subscriptions ---------------------------------------------------------------------------------------------


def test_a_picture_then_changes_alone(serve: Callable[..., ControlServer]) -> None:
    engine = Counter()
    with Talk(serve(engine).path) as talk:
        talk.next()
        talk.say(id=1, method="subscribe", params={"boot_id": None, "since": None})
        assert talk.next()["result"] == {"boot_id": engine.events.boot_id, "seq": 0}
        first = talk.until("snapshot")
        assert first["snapshot"]["sessions"][0]["bricks"][0]["failures"] == 0
        engine.brick["failures"] = 3
        engine.events.publish("failure_added", session="web")
        event = talk.next()
        assert (event["event"], event["seq"]) == ("failure_added", 1)
        changed = talk.until("changed")
        assert [b["failures"] for b in changed["bricks"]] == [3]
        assert changed["sessions"] == changed["sources"] == changed["gone"] == []
        shown = apply(first["snapshot"], changed)
        assert shown["sessions"][0]["bricks"][0]["failures"] == 3
        # nothing changes: nothing but a sign of life
        assert talk.next()["event"] == "tick"


def test_kept_events_come_again_others_are_a_gap(serve: Callable[..., ControlServer]) -> None:
    engine = Counter(kept=10)
    server = serve(engine)
    for n in range(30):
        engine.events.publish("thing", n=n)

    def subscribed(boot_id: str | None, since: int | None, recent: int = 0) -> list[Doc]:
        with Talk(server.path) as talk:
            talk.next()
            talk.say(id=1, method="subscribe", params={"boot_id": boot_id, "since": since, "recent": recent})
            found = [talk.next()]
            while found[-1].get("event") != "snapshot":
                found.append(talk.next())
            return [f for f in found if "event" in f]

    boot = engine.events.boot_id
    assert [e["seq"] for e in subscribed(boot, 25)] == [26, 27, 28, 29, 30, 30]
    assert [e["event"] for e in subscribed(boot, 30)] == ["snapshot"]
    assert [e["event"] for e in subscribed(boot, 3)] == ["gap", "snapshot"]
    assert [e["event"] for e in subscribed("another life", 29)] == ["gap", "snapshot"]
    assert [e["event"] for e in subscribed(boot, 99)] == ["gap", "snapshot"]
    assert [e["event"] for e in subscribed(None, None)] == ["snapshot"]
    assert [e["seq"] for e in subscribed(None, None, recent=3)] == [28, 29, 30, 30]
    kept = subscribed(None, None, recent=1000)
    assert "gap" not in [e["event"] for e in kept] and kept[0]["seq"] > 1, "as many as are kept"
    assert [e["seq"] for e in subscribed(boot, 29, recent=1000)] == [30, 30], "who was here before goes on from there"


def test_a_slow_reader_gets_a_gap_and_a_picture_and_costs_no_memory(serve: Callable[..., ControlServer]) -> None:
    engine = Counter(kept=100)
    with Talk(serve(engine).path) as talk:
        talk.next()
        talk.say(id=1, method="subscribe", params={})
        talk.until("snapshot")
        for n in range(20_000):
            engine.events.publish("thing", n=n, text="x" * 200)
        gap = talk.until("gap")
        assert gap["seq"] <= 20_000
        assert talk.next()["event"] == "snapshot"
        last = talk.next()
        while last["event"] == "thing" and last["seq"] < 20_000:
            last = talk.next()
        assert last["event"] in ("thing", "gap", "tick")


def test_very_many_bricks_come_in_pieces() -> None:
    bricks = [{"id": f"b{n}", "brick": "/srv/" + "x" * 2000, "lag_seconds": 0.0} for n in range(900)]
    document = {"version": 1, "time": 1.0, "sources": [], "sessions": [{"id": "s", "name": "web", "bricks": bricks}]}
    found = list(pieces("snapshot", {"snapshot": document}))
    assert len(found) > 1
    assert all(len(json.dumps(p)) < MAX_LINE for p in found)
    shown = found[0]["snapshot"]
    for piece in found[1:]:
        shown = apply(shown, {**piece, "time": 1.0})
    assert shown == document


# ---- pictures --------------------------------------------------------------------------------------------------


def picture(at: float, **brick: Any) -> Doc:
    return {
        "version": 1, "time": at,
        "sources": [{"node": "m1", "connected": True, "data_time": at}],
        "sessions": [{"id": "s", "name": "web", "lag_seconds": 0.0, "bricks": [{"id": "b", "lag_seconds": 0.0} | brick]}],
    }  # fmt: skip


def test_a_lag_that_only_grows_is_not_sent() -> None:
    before = picture(100.0, lag_seconds=5.0)
    assert changes(before, picture(110.0, lag_seconds=15.2)) is None
    assert changes(before, picture(110.0, lag_seconds=5.0)) is not None
    assert changes(before, picture(110.0, lag_seconds=0.0)) is not None
    assert changes(before, picture(110.0, lag_seconds=None)) is not None
    assert changes(picture(100.0), picture(110.0)) is None
    assert changes(picture(100.0, lag_seconds=None), picture(110.0, lag_seconds=0.0)) is not None
    assert grown(before, 107.5)["sessions"][0]["bricks"][0]["lag_seconds"] == 12.5
    assert grown(picture(100.0), 107.5)["sessions"][0]["bricks"][0]["lag_seconds"] == 0.0


def test_a_viewer_that_applies_changes_sees_the_same() -> None:
    shown = picture(100.0)
    viewer = shown
    for after in (picture(101.0, entry=3), picture(102.0, entry=3), picture(103.0, lag_seconds=2.0),
                  picture(108.0, lag_seconds=7.1), picture(109.0, lag_seconds=1.0, entry=0)):  # fmt: skip
        sent = changes(shown, after)
        if sent is not None:
            viewer = apply(grown(viewer, after["time"]), {**sent, "time": after["time"]})
        shown = kept_for(shown, after, sent)
        brick, real = grown(viewer, after["time"])["sessions"][0]["bricks"][0], after["sessions"][0]["bricks"][0]
        assert abs(brick["lag_seconds"] - real["lag_seconds"]) <= 0.5
        assert brick | {"lag_seconds": 0} == real | {"lag_seconds": 0}


def test_what_is_gone_goes() -> None:
    one, none = picture(1.0), {**picture(2.0), "sessions": []}
    sent = changes(one, none)
    assert sent is not None and sent["gone"] == [{"session": "s"}]
    assert apply(one, {**sent, "time": 2.0})["sessions"] == []
    fewer = picture(2.0)
    fewer["sessions"][0]["bricks"] = []
    sent = changes(one, fewer)
    assert sent is not None and sent["gone"] == [{"session": "s", "brick": "b"}]
    assert apply(one, {**sent, "time": 2.0})["sessions"][0]["bricks"] == []


# ---- sockets and people ----------------------------------------------------------------------------------------


def test_mode_and_removal(serve: Callable[..., ControlServer], directory: Path) -> None:
    server = serve(Counter())
    assert server.path == str(directory / "web.sock")
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert os.listdir(directory) == ["web.sock"]
    assert find_sockets()["web"] == server.path
    server.stop()
    assert os.listdir(directory) == []
    server.stop()


def test_a_living_socket_is_refused_a_dead_one_replaced(serve: Callable[..., ControlServer], directory: Path) -> None:
    first = serve(Counter())
    with pytest.raises(ProtocolError, match="already runs") as caught:
        serve(Counter())
    assert caught.value.code == "running"
    with Talk(first.path) as talk:
        assert "hello" in talk.next()
    first.stop()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(directory / "web.sock"))
    dead.close()
    assert (directory / "web.sock").exists()
    with pytest.raises(SourceError, match="not running"):
        dial(str(directory / "web.sock"), "web")
    with Talk(serve(Counter()).path) as talk:
        assert "hello" in talk.next()


def test_a_socket_of_a_successor_is_left_alone(serve: Callable[..., ControlServer], directory: Path) -> None:
    first = serve(Counter())
    os.unlink(first.path)
    second = serve(Counter())
    first.stop()
    assert (directory / "web.sock").exists()
    with Talk(second.path) as talk:
        assert "hello" in talk.next()


def test_a_path_that_is_too_long_is_refused_with_the_reason(directory: Path) -> None:
    with pytest.raises(ProtocolError, match="too long for a socket") as caught:
        socket_path(str(directory / ("x" * 100)), "web")
    assert caught.value.hint
    with pytest.raises(ProtocolError):
        ControlServer(Counter("y" * 120))


def test_a_directory_others_can_write_to_is_not_used(serve: Callable[..., ControlServer], directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    assert find_sockets() == {}
    with pytest.raises(ProtocolError, match="only we can write"):
        serve(Counter())


def test_unknown_groups_are_refused() -> None:
    with pytest.raises(EngineError, match="no group 'nobody-has-this'"):
        ControlServer(Counter(), control_group="nobody-has-this")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("group", "access"), [("control", "control"), ("readonly", "read"), (None, "")])
def test_groups_let_people_in(serve: Callable[..., ControlServer], tmp_path: Path, group: str, access: str) -> None:
    """Another user, by the kernel's word: control, look, or nothing at all."""
    other = pwd.getpwnam("nobody")
    name = grp.getgrgid(other.pw_gid).gr_name
    own = grp.getgrgid(0).gr_name
    server = serve(Counter(), **({f"{group}_group": name} if group else {"control_group": own}))
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    code = (
        "import json, os, socket, sys\n"
        f"os.setgroups([]); os.setgid({other.pw_gid}); os.setuid({other.pw_uid})\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile('rb')\n"
        "print(f.readline().decode(), end='')\n"
        "for m in ('pause', 'failures'):\n"
        "    s.sendall(json.dumps({'id': m, 'method': m}).encode() + b'\\n')\n"
        "    print(f.readline().decode(), end='')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, server.path], capture_output=True, text=True, timeout=30)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if not access:
        assert answers[0]["error"]["code"] == "denied"
        return
    assert answers[0]["hello"]["access"] == access, done.stderr
    assert ("error" in answers[1]) == (access == "read")
    assert "result" in answers[2]


def test_read_only_engines_refuse_changes(serve: Callable[..., ControlServer]) -> None:
    engine = Counter()
    with Talk(serve(engine, read_only=True).path) as talk:
        assert talk.next()["hello"]["access"] == "read"
        talk.say(id=1, method="pause")
        assert talk.next()["error"]["code"] == "denied"
        talk.say(id=2, method="failures")
        assert "result" in talk.next()
        assert [a[0] for a in engine.asked] == ["failures"]


def test_stop_ends_connections_and_threads(serve: Callable[..., ControlServer]) -> None:
    server = serve(Counter())
    before = threading.active_count()
    with Talk(server.path) as one, Talk(server.path) as two:
        one.next(), two.next()
        two.say(id=1, method="subscribe", params={})
        two.until("snapshot")
        assert threading.active_count() == before + 3
        server.stop()
        assert one.next() is None
        until(lambda: threading.active_count() <= before - 1)


# ---- the other end ---------------------------------------------------------------------------------------------


def test_a_source_follows_an_engine_over_its_restart(serve: Callable[..., ControlServer], directory: Path) -> None:
    engine = Counter()
    server = serve(engine)
    source = SocketSource(server.path, "web")
    assert source.snapshot()["sources"][0]["connected"] is True
    engine.events.publish("thing")
    until(lambda: [e["event"] for e in source.events()] == ["thing"])
    engine.brick["failures"] = 5
    until(lambda: source.snapshot()["sessions"][0]["bricks"][0]["failures"] == 5)
    assert source.command("pause", {"session": "web", "brick": "b1"}) == {"method": "pause", "brick": "b1"}
    with pytest.raises(SourceError, match="it went wrong") as caught:
        source.command("fail", {})
    assert (caught.value.hint, caught.value.code) == ("try again", "wrong")
    server.stop()
    gone = until(lambda: (d := source.snapshot())["sources"][0]["connected"] is False and d)
    assert "not running" in gone["sources"][0]["error"] or "gone" in gone["sources"][0]["error"]
    assert gone["sessions"][0]["bricks"][0]["failures"] == 5
    assert directory.exists()
    again = Counter()
    again.brick["failures"] = 6
    serve(again)
    found = until(lambda: (d := source.snapshot())["sources"][0]["connected"] and d)
    assert found["sessions"][0]["bricks"][0]["failures"] == 6
    until(lambda: "gap" in [e["event"] for e in source.events()])
    source.close()


def test_all_sessions_of_a_machine_together(serve: Callable[..., ControlServer], monkeypatch: pytest.MonkeyPatch) -> None:
    # root's own directory may hold sessions that have nothing to do with the tests
    ours = [one for one in directories() if not one.startswith("/run/")]
    monkeypatch.setattr("engine.protocol.directories", lambda _environment=None: ours)
    source = Local()
    assert source.snapshot()["sessions"] == []
    engines = [Counter("web"), Counter("mail")]
    for engine in engines:
        serve(engine)
    source = Local()
    assert {s["name"] for s in source.snapshot()["sessions"]} == {"web", "mail"}
    source.command("pause", {"session": "mail"})
    assert [e.asked for e in engines] == [[], [("pause", {}, engines[1].asked[0][2])]]
    with pytest.raises(SourceError, match="no session 'ftp'"):
        source.command("pause", {"session": "ftp"})
    source.close()
    with pytest.raises(SourceError, match="not running here"):
        Local("ftp").snapshot()


def test_lines_by_any_cut() -> None:
    whole = b'{"a":1}\n\n  {"b":2}  \n{"c":3}'
    for cut in range(len(whole)):
        lines = Lines()
        found = [*lines.feed(whole[:cut]), *lines.feed(whole[cut:]), *lines.feed(b"\n")]
        assert found == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    with pytest.raises(ProtocolError):
        list(Lines().feed(b"x" * MAX_LINE))
