"""gsyncd's sessions through a real session's own output (GlusterFS 10.3), and what its log says."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from georep_tui.sources import gluster, gsyncd
from georep_tui.sources.base import SourceError
from georep_tui.sources.gsyncd import GsyncdSource
from georep_tui.sources.gsyncd_log import BrickLog, LogFacts, Record, Transfer, cause, parse
from georep_tui.sources.gsyncd_status import (
    Beside,
    Journal,
    option_values,
    parse_brick_files,
    parse_config,
    parse_journals,
    parse_status,
    slug,
)
from georep_tui.view.head import session_head
from georep_tui.view.snapshot import parse as parse_snapshot
from georep_tui.view.status import session_lines
from georep_tui.view.verdict import FRESH, Thresholds

HERE = Path(__file__).resolve().parents[1] / "fixtures" / "gluster-10.3" / "gsyncd"
SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "engine" / "snapshot.schema.json").read_text())
NOW = 1795325100.0  # 2026-11-22 05:25:00 UTC
LOG = (HERE / "gsyncd.log").read_text()
UUID = "1ab208f9-ffe3-4aa7-82fc-fadddda11a1b"


def status(name: str = "status-detail", beside: Beside | None = None, now: float = NOW, **words: str) -> dict[str, Any]:
    text = (HERE / f"{name}.xml").read_text()
    for old, new in words.items():
        text = text.replace(f"<status>{old}<", f"<status>{new}<")
    found = parse_status(text, now, {"mvol_gnode1_svol": beside} if beside else None, UUID)
    jsonschema.validate(found, SCHEMA)
    return dict(found["sessions"][0])


# ---- status --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["status-detail", "status-all", "status-detail-paused", "status-detail-stopped"])
def test_a_snapshot_like_any_other(name: str) -> None:
    session = status(name)
    assert (session["name"], session["kind"], session["secondary"]) == ("mvol", "gluster", "gnode1::svol")
    assert [b["brick"] for b in session["bricks"]] == ["/bricks/m1", "/bricks/m2"]


def quiet(**known: Any) -> Beside:
    """A node where nothing waits in either brick's journal."""
    idle = Journal(int(NOW) - 900, 0, 0, int(NOW) - 2, False)
    return Beside(journals={"/bricks/m1": idle, "/bricks/m2": idle}, **known)


def test_times_are_utc_and_lag_is_told_by_the_journal() -> None:
    """last_synced stands still on an idle volume: it tells no lag."""
    brick = status()["bricks"][0]
    assert (brick["last_synced"], brick["lag_seconds"], brick["checkpoint_time"]) == (NOW - 13, None, NOW - 12)
    assert (brick["checkpoint_completed"], brick["checkpoint_completion_time"]) == (False, None)
    assert (brick["verdict"], brick["crawl"]["kind"], brick["secondary_node"]) == ("unknown", "live", None)
    later = status(beside=quiet(), now=NOW + 3600)
    assert (later["verdict"], later["lag_seconds"]) == ("ok", 0.0)
    mark = NOW - 13
    for journal, lag in (
        (Journal(int(mark) - 900, 0, 0, int(NOW) - 4, True), 4.0), (Journal(int(mark) - 900, int(NOW) - 9, 2, int(NOW), False), 9.0),
        (Journal(int(mark) + 5, int(NOW) - 1, 2, int(NOW), False), 13.0), (Journal(0, 0, 0, 0, True), 0.0),
    ):  # fmt: skip
        brick = status(beside=Beside(journals={"/bricks/m1": journal}))["bricks"][0]
        assert (brick["lag_seconds"], brick["backlog"]) == (lag, {"changelogs": journal.waiting, "bytes": None})
    far = parse_status((HERE / "status-detail.xml").read_text(), NOW, {}, "another-node")["sessions"][0]["bricks"][0]
    assert far["lag_seconds"] is None and far["reasons"][0]["hint"] == "--ssh gnode1 as well"
    assert parse_journals("1 2 3 4 5 /b r\nx\n1 2 3 4 -51 /c\n") == {
        "/b r": Journal(1, 2, 3, 4, True), "/c": Journal(1, 2, 3, 4, False),
    }  # fmt: skip


def test_a_worker_that_takes_nothing_is_an_alarm() -> None:
    """Active, live, idle, and changelogs that wait: libgfchangelog can wait for ever for a notice that it has missed."""
    waits = Journal(0, int(NOW) - 100, 7, int(NOW), False)
    batch = (HERE / "gsyncd.log").read_text().splitlines()[-1]

    def alarms(**fields: Any) -> list[str]:
        beside = Beside(journals={"/bricks/m1": fields.pop("journal", waits)})
        list(beside.log.feed(f"{batch}\n"))
        beside.log.bricks["/bricks/m1"] = BrickLog(**fields)
        session = status(beside=beside)
        assert "lag" not in (codes := [r["code"] for r in session["reasons"]]) or "stalled" not in codes
        return [session["verdict"] for c in codes if c == "stalled"]

    assert alarms() == ["critical"]
    assert alarms(journal=Journal(0, int(NOW) - 20, 7, int(NOW), False)) == [], "it may still take them"
    assert alarms(journal=Journal(0, 0, 0, int(NOW) - 100, True)) == [], "nothing waits"
    assert alarms(transfers=deque([Transfer(NOW - 5, 3, 0, 1.0)])) == [], "it works"


@pytest.mark.parametrize(
    ("name", "state", "verdict"), [("paused", "Paused", "warning"), ("stopped", "Stopped", "critical")]
)
def test_what_is_not_active_has_unknown_numbers(name: str, state: str, verdict: str) -> None:
    session = status(f"status-detail-{name}")
    assert (session["state"], session["verdict"], session["lag_seconds"]) == (state, verdict, None)
    brick = session["bricks"][0]
    assert (brick["entry"], brick["failures"], session["failures"], brick["rate"]) == (None, None, None, None)


def test_old_words_and_odd_states() -> None:
    text = (HERE / "status-detail.xml").read_text()
    old = text.replace("primary_", "master_").replace("secondary_", "slave_").replace("secondary>", "slave>")
    found, same = (parse_status(t, NOW)["sessions"][0] for t in (old, text))
    assert (found["secondary"], found["id"]) == (same["secondary"], same["id"])
    assert found["bricks"][0]["node"] == "gnode1"
    odd = status(Active="Config Corrupted")
    assert odd["state"] == "Faulty"
    assert "Config Corrupted" in odd["reasons"][0]["text"]


def test_a_session_has_the_same_id_seen_from_any_node() -> None:
    """The first word of what glusterd calls it is the uuid of the node that is asked."""
    text = (HERE / "status-detail.xml").read_text()
    other = parse_status(text.replace(f"{UUID}:ssh", "another-node:ssh"), NOW)["sessions"][0]
    here = parse_status(text, NOW)["sessions"][0]
    assert (other["id"], other["bricks"][0]["id"]) == (here["id"], here["bricks"][0]["id"])


def test_the_small_files() -> None:
    options = parse_config((HERE / "config.txt").read_text())
    assert len(options) == len((HERE / "config.txt").read_text().splitlines())
    values = option_values(options)
    assert values["change_detector"] == "changelog" and values["changelog_log_file"].startswith("/var/log/")
    assert values["ssh_options"].endswith("secret.pem"), "a value may hold colons and blanks"
    lines = "\n".join(f"{f.name} {f.read_text()}" for f in sorted(HERE.glob("brick_*.status")))
    files = parse_brick_files(lines)
    assert files["/bricks/m1"]["last_synced_entry"] == 1795324485
    assert parse_brick_files("brick_%2Fx.status {torn") == {}
    assert slug("mvol", "geo@gnode1::svol") == "mvol_gnode1_svol"


# ---- its log -------------------------------------------------------------------------------------------------------


def test_the_recorded_log_is_read_without_a_loss() -> None:
    records = list(parse(LOG))
    assert "\n".join(r.raw for r in records) == LOG.rstrip("\n")
    assert len(records) == 341 and all(r.time > 0 for r in records)
    assert all(a.time <= b.time + 1 for a, b in zip(records, records[1:], strict=False)), "times are read right"
    facts = LogFacts()
    facts.take(records)
    bricks = facts.bricks
    assert set(bricks) == {"/bricks/m1", "/bricks/m2"}
    assert sum(len(b.batches) for b in bricks.values()) == LOG.count("Batch Completed") == 29
    assert sum(len(b.transfers) for b in bricks.values()) == LOG.count("Sync Time Taken") == 79
    assert sum(b.starts for b in bricks.values()) == LOG.count("starting gsyncd worker") == 8
    modes = {b.mode for log in bricks.values() for b in log.batches}
    assert modes == {"xsync", "history_changelog", "live_changelog"}
    first = bricks["/bricks/m2"].batches[0]
    assert (first.entries, first.files, first.stime) == (13, 11, None)
    assert bricks["/bricks/m1"].crawl == "live" and bricks["/bricks/m1"].status == "Active"


def test_it_is_the_same_read_in_pieces() -> None:
    whole, pieces = LogFacts(), LogFacts()
    whole.feed(LOG)
    for at in range(0, len(LOG), 777):
        pieces.feed(LOG[at : at + 777])
    for path, one in whole.bricks.items():
        assert (pieces.bricks[path].batches, pieces.bricks[path].starts) == (one.batches, one.starts)
    assert [r.raw for _, r in pieces.lines] == [r.raw for _, r in whole.lines]


def test_rates_are_of_the_last_minute_and_unknown_where_the_log_does_not_tell() -> None:
    facts = LogFacts()
    facts.feed(LOG)
    log = facts.bricks["/bricks/m2"]
    last = log.transfers[-1].time
    rates = log.rates(last + 1, last - 1000)
    assert rates["files_per_s"] and rates["bytes_per_s"] is None, "tar does not say how much it moved"
    assert log.rates(last + 500, last - 1000) == {"entries_per_s": 0, "files_per_s": 0, "bytes_per_s": 0}
    assert log.rates(last, last)["files_per_s"] is None


def _rsync(moved: int, *, start: bool = True) -> str:
    """The recorded line of a transfer that moved nothing, as often as it is wanted, and one that moved something."""
    line = next(x for x in LOG.splitlines() if "rsync performance" in x)
    begin = next(x for x in LOG.splitlines() if "starting gsyncd worker" in x and "/bricks/m2" in x)
    good = line.replace("transferred: 0", "transferred: 1").replace("transferred file size: 0", "transferred file size: 6")
    return "\n".join([*([begin] if start else []), *([line] * 3), *([good] * moved)]) + "\n"


def test_transfers_that_moved_nothing_are_an_alarm_SYN_5() -> None:
    """The recorded session itself had it: rsync 3.5, exit code 0, no failure, every file empty."""
    beside = quiet()
    beside.log.feed(_rsync(0))
    session = status(beside=beside)
    brick = session["bricks"][1]
    assert (session["verdict"], brick["verdict"], brick["failures"]) == ("critical", "critical", 0)
    assert "3 transfers of 3 files reported success and moved 0 bytes" in session["reasons"][0]["text"]
    assert "tarssh" in session["reasons"][0]["hint"]
    assert session["bricks"][0]["verdict"] == "ok"
    beside.log.feed(_rsync(1, start=False))
    assert status(beside=beside)["verdict"] == "ok", "some that are the same already are no alarm"


def test_where_the_log_cannot_tell_that_is_said_SYN_5() -> None:
    beside = quiet(options={"sync_method": "rsync", "log_rsync_performance": "false"}, rsync="3.5.0")
    session = status(beside=beside)
    assert (session["verdict"], session["reasons"][-1]["code"]) == ("warning", "unwatched-transfers")
    assert session["arrival"] == "not checked: log_rsync_performance is off"
    assert status()["arrival"] == "not checked: its options are not known"
    for change in ({"sync_method": "tarssh"}, {"log_rsync_performance": "true"}):
        told = status(beside=quiet(options=beside.options | change))
        assert told["arrival"].startswith("not checked: tar" if "sync_method" in change else "checked by rsync")
        assert f"  arrival {told['arrival']}" in session_lines(told, NOW)
        picture = parse_snapshot({"version": 1, "time": NOW, "sources": [], "sessions": [told]})
        page = session_head(picture.sessions[0], FRESH, NOW, Thresholds())
        assert any("".join(cell.text for cell in line).split() == ["arrival", *told["arrival"].split()] for line in page)
        assert status(beside=quiet(options=beside.options | change, rsync="3.5.0"))["verdict"] == "ok"
    assert status(beside=quiet(options=beside.options, rsync="3.2.7"))["verdict"] == "ok"


def test_a_faulty_row_shows_the_last_errors_of_its_brick_and_what_to_do() -> None:
    beside = Beside()
    beside.log.feed(LOG)
    session = status(beside=beside, Active="Faulty")
    error = session["bricks"][0]["last_error"]
    assert (error["code"], session["verdict"]) == ("no-gsyncd", "critical")
    assert "remote-gsyncd" in error["hint"] and len(error["lines"]) == 3
    assert all("worker /bricks/m1" in line for line in error["lines"])
    assert "gsyncd is not found" in session["reasons"][0]["text"]
    other = parse_status((HERE / "status-detail.xml").read_text().replace(">Active<", ">Faulty<"), NOW,
                         {"mvol_gnode1_svol": beside}, "another-node")["sessions"][0]  # fmt: skip
    assert "not seen from here" in other["bricks"][0]["last_error"]["text"]
    assert other["bricks"][0]["rate"] is None and not other["bricks"][0]["local"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ssh> root@gnode1: Permission denied (publickey,password).", "ssh-denied"),
        ("ssh> Host key verification failed.", "host-key"),
        ("ssh: connect to host gnode1 port 22: Connection refused", "ssh-refused"),
        ("ssh: connect to host gnode1 port 22: No route to host", "unreachable"),
        ("OSError: [Errno 28] No space left on device", "no-space"),
        ("OSError: [Errno 30] Read-only file system", "read-only"),
        ("OSError: [Errno 107] Transport endpoint is not connected", "not-connected"),
        ("Changelog register failed [{error=[Errno 2] No such file}]", "no-changelog"),
        ("something new", "gsyncd"),
    ],
)
def test_well_known_causes(text: str, code: str) -> None:
    found = cause([Record(1.0, "E", "worker /b", "f", text, {}, text)])
    assert found[0] == code and found[1] and found[2]


def test_a_traceback_belongs_to_its_error() -> None:
    error = "[2026-11-22 04:53:04.1] E [syncdutils(worker /b):1:f] <top>: FAIL: "
    text = f"{error}\nTraceback (most recent call last):\n  File x\nOSError: [Errno 28] No space left on device\n{error}"
    records = list(parse("cut off\n" + text))
    assert len(records) == 3 and "Errno 28" in records[1].raw and records[0].time == 0
    assert records[1].time == pytest.approx(1795323184.000001)
    log = BrickLog()
    assert log.take(records[1]) == "error" and cause(log.recent_errors())[0] == "no-space"


def test_a_session_that_ended_by_itself_says_why() -> None:
    """The monitor's errors after a start; what a person stopped is just Stopped, what never ran is Created."""
    beside = quiet()
    error = ("[2026-11-25 19:01:50.474716] E [syncdutils(monitor):851:logerr] Popen: ssh> ssh: connect to host georep-test "
             "port 1: Connection refused\n")  # fmt: skip
    began = "[2026-11-25 18:55:17.740701] I [monitor(monitor):158:monitor] Monitor: starting gsyncd worker [{brick=/bricks/m1}]\n"
    beside.log.feed(began + error)
    reason = status(beside=beside, Active="Stopped")["reasons"][0]
    assert reason["text"] == "Stopped by itself: no sshd answers there" and "georep-tui start SESSION --gsyncd" in reason["hint"]
    beside.log.feed("[2026-11-25 19:02:00.1] I [subcmds(monitor-status):29:subcmd_monitor_status] <top>: Monitor Status "
                    "Change [{status=Stopped}]\n")  # fmt: skip
    assert status(beside=beside, Active="Stopped")["reasons"][0]["text"] == "Stopped: nothing is replicated"
    assert status(Active="Created")["reasons"][0]["text"] == "Created: it was never started"


# ---- the source ----------------------------------------------------------------------------------------------------


class Node:
    """A GlusterFS node that answers from the recorded files: a runner without a shell."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.journals: list[tuple[str, ...]] = []
        """Bricks, each with its mark, whose journals were asked for."""
        self.name = "status-all"
        self.fails = ""
        self.log = LOG

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        mark = arguments[0] if arguments else ""
        if self.fails:
            return 1, "", self.fails
        if "status detail" in script:
            text = (HERE / f"{self.name}.xml").read_text()
            return 0, f"{NOW}\n{mark}\n{UUID}\n{mark}\n{text}", ""
        if "gsyncd.log" in script:
            files = "\n".join(f"{f.name} {f.read_text()}" for f in sorted(HERE.glob("brick_*.status")))
            begin = int(arguments[3])
            self.journals.append(arguments[5:])
            journals = f"{int(NOW) - 900} 0 0 {int(NOW) - 2} 0 /bricks/m1\n"
            return 0, f"7 {len(self.log)} {begin}\n{mark}\n{self.log[begin:]}\n{mark}\n{files}\n{mark}\n{journals}", ""
        if script.startswith("rsync"):
            return 0, "rsync  version 3.2.7  protocol version 31\n", ""
        words = script.split()
        self.asked.append(" ".join(words[words.index("geo-replication") + 1 :]))
        for word, name in (("pause", "status-detail-paused"), ("stop", "status-detail-stopped"), ("resume", "status-all")):
            self.name = name if words[-1] == word else self.name
        return 0, (HERE / "config.txt").read_text(), ""

    def close(self) -> None:
        pass


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Node, GsyncdSource]]:
    monkeypatch.setattr(gsyncd, "PACE", 0.02)
    one = Node()
    source = GsyncdSource(one, node="gnode1", clock=lambda: NOW)
    yield one, source
    source.close()


def test_commands_are_gluster_s_own_and_done_when_its_status_says_so(node: tuple[Node, GsyncdSource]) -> None:
    one, source = node
    assert source.command("pause", {"session": "mvol"})["bricks"] == ["/bricks/m1", "/bricks/m2"]
    assert source.snapshot()["sessions"][0]["state"] == "Paused"
    assert source.command("resume", {"session": "mvol"})["words"] == "resumed"
    assert source.command("stop", {"session": "mvol"})["stopped"] is True
    assert source.command("checkpoint", {"session": "mvol", "time": "now"}) == {"time": 1795325088}
    assert source.command("checkpoint", {"session": "mvol", "time": None}) == {"time": None}
    source.command("config_set", {"session": "mvol", "name": "sync_jobs", "value": "5"})
    pair = "mvol gnode1::svol"
    for words in ("pause", "resume", "stop", "config checkpoint now", "config '!checkpoint'", "config sync-jobs 5"):
        assert f"{pair} {words}" in one.asked, one.asked
    found = source.command("config_get", {"session": "mvol", "name": "sync_method"})["options"]
    assert [o["name"] for o in found] == ["sync_method"]
    with pytest.raises(SourceError, match="no verify"):
        source.command("verify", {"session": "mvol"})
    with pytest.raises(SourceError, match="no session other"):
        source.command("pause", {"session": "other"})
    with pytest.raises(SourceError, match="whole sessions only"):
        source.command("pause", {"session": "mvol", "brick": "/bricks/m1"})


def test_what_the_node_keeps_is_in_the_picture(node: tuple[Node, GsyncdSource]) -> None:
    one, source = node
    brick = source.snapshot()["sessions"][0]["bricks"][0]
    assert brick["last_synced_entry"] == 1795324485.0 and brick["local"] and brick["last_batch"]["mode"]
    assert one.journals[-1] == ("/bricks/m1", "1795325087", "/bricks/m2", "1795325087")
    lines = source.command("logs", {"session": "mvol", "limit": 5})["lines"]
    assert len(lines) == 5 and lines[-1]["n"] == 341
    assert all(x["level"] == "error" for x in source.command("logs", {"session": "mvol", "level": "error"})["lines"])
    failures = source.command("failures", {"session": "mvol"})
    assert failures["total"] == 0 and "no ledger" in failures["note"]
    assert source.events() == [], "what was in the log before is no news"
    one.log += next(x for x in LOG.splitlines(True) if "Batch Completed" in x)
    source._hurry()
    assert [e["event"] for e in source.events()] == ["batch_done"]


def test_a_node_that_is_lost_keeps_its_last_picture(node: tuple[Node, GsyncdSource]) -> None:
    one, source = node
    assert source.snapshot()["sources"][0]["connected"]
    one.fails = "Connection failed. Please check if gluster daemon is operational."
    with pytest.raises(SourceError, match="gluster daemon"):
        source._hurry()
    document = source.snapshot()
    assert not document["sources"][0]["connected"] and not source.reachable
    assert document["sessions"][0]["lag_seconds"] is None and document["sessions"][0]["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("command", "words"),
    [("gluster-that-is-not-there", "no gluster-that-is-not-there"), ("sh -c 'echo glusterd is down >&2; exit 1'", "is down"),
     ("sh -c 'echo \"<cliOutput>\"'", "XML"), ("sh -c 'exit 3'", "exit 3"),
     ("sh -c 'echo \"<cliOutput><opRet>-1</opRet><opErrstr>no luck</opErrstr></cliOutput>\"'", "no luck")],
)  # fmt: skip
def test_faults_are_told(command: str, words: str) -> None:
    source = GsyncdSource(command=command)
    with pytest.raises(SourceError, match=words):
        source.snapshot()
    source.close()


def test_a_gluster_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gluster, "TIMEOUT", 0.2)
    source = GsyncdSource(command="sleep 5;")
    with pytest.raises(SourceError, match="no answer within"):
        source.snapshot()
    source.close()


