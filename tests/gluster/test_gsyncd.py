"""A real session of gsyncd: status as gluster's own, each control seen in gluster's own status, faults and their causes."""

from __future__ import annotations

import calendar
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from georep_tui.sources import gsyncd_status
from georep_tui.sources.base import SourceError
from georep_tui.sources.gluster import Far
from georep_tui.sources.gsyncd import GsyncdSource
from georep_tui.ssh.asker import Nobody
from georep_tui.ssh.keys import Keyring
from tests.gluster.base import run, wait_for
from tests.gluster.geosession import GsyncdSession
from tests.gluster.lab import Lab
from tests.system.runner import Product
from tests.system.sshd import HOST as SECONDARY
from tests.system.sshd import Sshd

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
"""With a real gsyncd, whose commands can hang a glusterd that starts a brick at the same moment."""

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "engine" / "snapshot.schema.json").read_text())


@pytest.fixture(scope="module")
def session(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GsyncdSession]:
    """A session that is created, not started."""
    primary, secondary = lab.pair(bricks=2, rollover=5)
    try:
        with GsyncdSession(lab, primary, secondary, tmp_path_factory.mktemp("gsyncd")) as made:
            yield made
    finally:
        lab.remove(primary)
        lab.remove(secondary)


@pytest.fixture
def source(session: GsyncdSession) -> Iterator[GsyncdSource]:
    made = GsyncdSource()
    yield made
    made.close()


def unix(text: str) -> float | None:
    if text in ("N/A", ""):
        return None
    found = float(calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")))
    return found or None


def number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def mine(session: GsyncdSession, source: GsyncdSource) -> dict[str, Any]:
    document = source.snapshot()
    jsonschema.validate(document, SCHEMA)
    return next(s for s in document["sessions"] if s["primary"] == session.primary.name)


def differing(session: GsyncdSession, source: GsyncdSource) -> list[str]:
    """What of gluster's own status is otherwise here; both looked at until they are of the same moment."""
    source._hurry()
    own, ours = session.pairs(), mine(session, source)["bricks"]
    found = [] if len(own) == len(ours) else ["number of bricks"]
    for theirs, brick in zip(sorted(own, key=lambda p: p["primary_brick"]), sorted(ours, key=lambda b: b["brick"]), strict=True):
        active = theirs["status"] == "Active"
        pairs = [
            (theirs["primary_node"], brick["node"]), (theirs["primary_brick"], brick["brick"]),
            (theirs["secondary_user"], brick["secondary_user"]), (theirs["secondary"], brick["secondary"]),
            (theirs["secondary_node"] or None, brick["secondary_node"]), (theirs["status"], brick["status"]),
            (theirs["crawl_status"] if active else "N/A", brick["crawl_status"]),
            (number(theirs["entry"]), brick["entry"]), (number(theirs["data"]), brick["data"]),
            (number(theirs["meta"]), brick["meta"]), (number(theirs["failures"]), brick["failures"]),
            (unix(theirs["checkpoint_time"]), brick["checkpoint_time"]),
            ({"Yes": True, "No": False}.get(theirs["checkpoint_completed"]), brick["checkpoint_completed"]),
            (unix(theirs["checkpoint_completion_time"]), brick["checkpoint_completion_time"]),
            (unix(theirs["last_synced"]) if active else None, brick["last_synced"]),
        ]  # fmt: skip
        found += [f"{brick['brick']}: {a!r} is shown as {b!r}" for a, b in pairs if a != b]
    return found


def equal(session: GsyncdSession, source: GsyncdSource) -> None:
    last: list[str] = []

    def same() -> bool:
        last[:] = differing(session, source)
        return not last

    try:
        wait_for("the same status", same, 60)
    except AssertionError:
        raise AssertionError(last) from None


def test_a_life_of_a_session(session: GsyncdSession, source: GsyncdSource, lab: Lab) -> None:
    """Every state field by field, every control in gluster's own status."""
    name = session.primary.name
    assert session.states() == {"Created"}
    equal(session, source)
    with pytest.raises(SourceError, match="nothing would crawl"):
        source.command("xsync", {"session": name})

    assert source.command("start", {"session": name})["words"] == "started"
    wait_for("Active", lambda: session.states() == {"Active"}, 90)
    equal(session, source)
    mount, there = lab.mount(session.primary), lab.mount(session.secondary)
    session.works(mount, there)
    for number_ in range(30):
        (mount / f"file-{number_}").write_bytes(b"x" * 5000)
    wait_for("the files", lambda: sum(f.stat().st_size for f in there.glob("file-*")) == 150_000, 120)
    equal(session, source)

    def idle() -> bool:
        source._hurry()
        return mine(session, source)["lag_seconds"] == 0.0

    wait_for("no lag", idle, 30)

    def told() -> bool:
        source._hurry()
        bricks = mine(session, source)["bricks"]
        return all(b["rate"] and b["rate"]["files_per_s"] is not None and b.get("last_batch") for b in bricks)

    wait_for("batches and rates from the log", told, 30)
    assert mine(session, source)["bricks"][0]["rate"]["bytes_per_s"] in (None, 0.0), "tar does not say how much"
    assert "batch_done" in {e["event"] for e in source.events()}

    source.command("pause", {"session": name})
    assert session.states() == {"Paused"}
    equal(session, source)
    assert mine(session, source)["lag_seconds"] is None
    source.command("resume", {"session": name})
    wait_for("Active", lambda: session.states() == {"Active"}, 60)
    session.works(mount, there)

    at = source.command("checkpoint", {"session": name, "time": "now"})["time"]
    assert {unix(p["checkpoint_time"]) for p in session.pairs()} == {float(at)}
    for number_ in range(10):  # gsyncd's mark moves with changes only, on every brick
        (mount / f"after-{number_}").write_bytes(b"x")
    wait_for("the checkpoint", lambda: {p["checkpoint_completed"] for p in session.pairs()} == {"Yes"}, 60)
    equal(session, source)
    assert mine(session, source)["checkpoint"]["completed"] is True
    source.command("checkpoint", {"session": name, "time": None})
    equal(session, source)

    assert source.command("stop", {"session": name})["stopped"] is True
    assert session.states() == {"Stopped"}
    equal(session, source)
    assert source.command("resume", {"session": name})["words"] == "started", "what is stopped is started"
    wait_for("Active", lambda: session.states() == {"Active"}, 90)


def test_options_and_a_forced_crawl(session: GsyncdSession, source: GsyncdSource) -> None:
    """The change detector goes to xsync and back, and every brick has crawled in between."""
    name = session.primary.name
    wait_for("Active", lambda: session.states() == {"Active"}, 90)
    assert source.command("config_set", {"session": name, "name": "sync_jobs", "value": "5"})["value"] == "5"
    assert "sync_jobs:5" in session.command("config").replace("-jobs", "_jobs")
    source.command("config_reset", {"session": name, "name": "sync_jobs"})
    assert source.command("config_get", {"session": name, "name": "sync_jobs"})["options"][0]["value"] == "3"
    began = time.time()
    result = source.command("xsync", {"session": name, "wait": True})
    assert "change_detector is back" in result["words"]
    assert source.command("config_get", {"session": name, "name": "change_detector"})["options"][0]["value"] == "changelog"
    logs = next(iter(b for n, b in source._beside.items() if n.startswith(name))).log.bricks
    assert all(log.hybrid_finished and log.hybrid_finished > began for log in logs.values())

    source.command("config_set", {"session": name, "name": "change_detector", "value": "xsync"})  # as one cut off leaves it

    def told() -> list[str]:
        source._hurry()
        return [r["hint"] for r in mine(session, source)["reasons"] if r["code"] == "change-detector"]

    assert "xsync SESSION --gsyncd" in wait_for("the reason", told, 30)[0]
    assert "change_detector is back" in source.command("xsync", {"session": name, "wait": True})["words"]
    assert not told()
    assert "change_detector:changelog" in session.command("config").replace("-detector", "_detector")
    wait_for("Active", lambda: session.states() == {"Active"}, 90)
    equal(session, source)


def test_a_fault_shows_its_cause(session: GsyncdSession, source: GsyncdSource) -> None:
    """The secondary's sshd has gone: every worker is Faulty, and says why."""
    wait_for("Active", lambda: session.states() == {"Active"}, 90)
    if not session.hang_up():
        pytest.skip("the sshd here is not ours to end")
    try:

        def faulty() -> dict[str, Any] | None:
            source._hurry()
            bricks = mine(session, source)["bricks"]
            return next((b for b in bricks if b["status"] == "Faulty" and b["last_error"]["code"] == "ssh-refused"), None)

        brick = wait_for("Faulty", faulty, 90)
        error = brick["last_error"]
        assert brick["verdict"] == "critical" and brick["reasons"][0]["code"] == "ssh-refused"
        assert "ssh_port" in error["hint"] and any("refused" in line for line in error["lines"])
    finally:
        session.serve()
    wait_for("Active", lambda: session.states() == {"Active"}, 120)


def test_a_monitor_that_ends_says_why(session: GsyncdSession, source: GsyncdSource) -> None:
    """gsyncd's monitor gives up where it cannot ask the secondary at its start: gluster says Stopped, and nothing else."""
    name = session.primary.name
    wait_for("Active", lambda: session.states() == {"Active"}, 90)
    source.command("config_set", {"session": name, "name": "ssh_port", "value": "1"})
    try:
        wait_for("Stopped", lambda: session.states() == {"Stopped"}, 60)

        def told() -> str:
            source._hurry()
            found = mine(session, source)
            return " ".join(f"{r['text']} ({r['hint']})" for r in found["reasons"] if r["code"] == "stopped")

        text = wait_for("the reason", lambda: "by itself" in (found := told()) and found, 20)
        assert "no sshd answers" in text and "ssh_port" in text and "start SESSION --gsyncd" in text
    finally:
        source.command("config_reset", {"session": name, "name": "ssh_port"})
    assert source.command("start", {"session": name})["words"] == "started"
    wait_for("Active", lambda: session.states() == {"Active"}, 120)
    source.command("stop", {"session": name})
    equal(session, source)
    assert "by itself" not in " ".join(r["text"] for r in mine(session, source)["reasons"]), "a person did"
    source.command("start", {"session": name})
    wait_for("Active", lambda: session.states() == {"Active"}, 120)


def test_a_worker_that_takes_nothing_is_an_alarm(
    session: GsyncdSession, source: GsyncdSource, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Active, no failures, and changelogs that wait: lag and backlog of the brick's own journal, then the alarm."""
    monkeypatch.setattr(gsyncd_status, "STALLED_AFTER", 8.0)
    mount = lab.mount(session.primary)
    session.works(mount, lab.mount(session.secondary))
    workers = session.workers().values()
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        for number_ in range(8):
            (mount / f"stalled-{number_}").write_bytes(b"x")

        def reasons() -> dict[str, Any]:
            source._hurry()
            return {r["code"]: r for r in mine(session, source)["reasons"]}

        wait_for("the alarm", lambda: (r := reasons()).get("stalled") and r, 60)
        assert session.states() == {"Active"}
        whole = mine(session, source)
        assert whole["verdict"] == "critical" and whole["lag_seconds"] >= 8
        assert all(b["backlog"]["changelogs"] >= 1 for b in whole["bricks"])
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    wait_for("no alarm", lambda: "stalled" not in reasons(), 90)


def test_files_that_arrive_empty_are_an_alarm_SYN_5(session: GsyncdSession, source: GsyncdSource, lab: Lab) -> None:
    """With an rsync that reads /proc/PID/cwd as text, gsyncd reports success and every file there is empty."""
    version = run("rsync", "--version").split()[2]
    if tuple(int(v) for v in version.split(".")[:2]) < (3, 5):
        pytest.skip(f"rsync {version} has not that fault")
    name = session.primary.name
    if not session.states() & {"Created", "Stopped"}:
        session.command("stop")
    for option, value in (("log_rsync_performance", "true"), ("sync_method", "rsync")):
        source.command("config_set", {"session": name, "name": option, "value": value})
    session.command("start")
    mount, there = lab.mount(session.primary), lab.mount(session.secondary)
    try:
        session.works(mount, there)
        for number_ in range(8):
            (mount / f"silent-{number_}").write_bytes(b"y" * 100)

        def alarmed() -> dict[str, Any] | None:
            source._hurry()
            found = mine(session, source)
            return found if any(r["code"] == "silent-transfers" for r in found["reasons"]) else None

        found = wait_for("the alarm", alarmed, 90)
        assert found["verdict"] in ("warning", "critical") and found["failures"] == 0
        names = [there / f"silent-{n}" for n in range(8)]  # an alarm may be of what was synced before them
        wait_for("the files there", lambda: all(f.exists() for f in names), 60)
        assert any(f.stat().st_size == 0 for f in names), [f.stat().st_size for f in names]
    finally:
        source.command("config_set", {"session": name, "name": "sync_method", "value": "tarssh"})


def test_from_afar_and_by_commands(session: GsyncdSession, sshd: Sshd, scratch: Path) -> None:
    """Over ssh with nothing installed there; the same JSON from the commands."""
    if session.states() & {"Created", "Stopped"}:  # when it is run alone
        session.command("start")
    wait_for("live", lambda: {p["crawl_status"] for p in session.pairs()} == {"Changelog Crawl"}, 180)
    config = str(sshd.client())
    far = GsyncdSource(Far(SECONDARY, asker=Nobody(), keyring=Keyring(), config=config), node=SECONDARY)
    try:
        equal(session, far)
        far.command("pause", {"session": session.primary.name})
        assert session.states() == {"Paused"}
    finally:
        far.close()
    product = Product(scratch / "product", [], "", name=session.primary.name)
    away = ("--gsyncd", "--ssh", SECONDARY, "--ssh-config", config)
    done = product.command("resume", product.name, *away)
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    wait_for("Active", lambda: session.states() == {"Active"}, 60)
    for where in (("--gsyncd",), away):
        done = product.command("status", product.name, "--json", *where)
        document = json.loads(done.stdout)
        jsonschema.validate(document, SCHEMA)
        assert document["sessions"][0]["name"] == product.name
        assert product.command("failures", product.name, *where).returncode == 0
        assert "worker" in product.command("logs", product.name, "-n", "5", *where).stdout
        assert product.command("config", product.name, "sync_method", *where).stdout.split()[:2] == ["value", "tarssh"]
    done = product.command("xsync", product.name, "--gsyncd")
    assert (done.returncode, "--yes" in done.stderr, "deletes and renames" in done.stdout) == (2, True, True)
    done = product.command("pause", product.name, "--gsyncd", "--brick", "/x")
    assert (done.returncode, "whole sessions only" in done.stderr) == (2, True)
