"""gsyncd's sessions through a real session's own output (GlusterFS 10.3)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest

from georep_tui.sources.base import SourceError
from georep_tui.sources.gsyncd import GsyncdSource, parse_config, parse_status

HERE = Path(__file__).resolve().parents[1] / "fixtures" / "gluster-10.3" / "gsyncd"
SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "engine" / "snapshot.schema.json").read_text())
NOW = 1795325100.0  # 2026-11-22 05:25:00 UTC


@pytest.mark.parametrize("name", ["status-detail", "status-all", "status-detail-paused", "status-detail-stopped"])
def test_a_snapshot_like_any_other(name: str) -> None:
    document = parse_status((HERE / f"{name}.xml").read_text(), NOW)
    jsonschema.validate(document, SCHEMA)
    session = document["sessions"][0]
    assert (session["name"], session["kind"], session["secondary"]) == ("mvol", "gluster", "gnode1::svol")
    assert [b["brick"] for b in session["bricks"]] == ["/bricks/m1", "/bricks/m2"]


def test_times_are_utc_and_lag_is_the_age_of_last_synced() -> None:
    brick = parse_status((HERE / "status-detail.xml").read_text(), NOW)["sessions"][0]["bricks"][0]
    assert (brick["last_synced"], brick["lag_seconds"], brick["checkpoint_time"]) == (NOW - 13, 13.0, NOW - 12)
    assert (brick["checkpoint_completed"], brick["checkpoint_completion_time"]) == (False, None)
    assert (brick["verdict"], brick["crawl"]["kind"], brick["secondary_node"]) == ("ok", "live", None)
    late = parse_status((HERE / "status-detail.xml").read_text(), NOW + 3600)["sessions"][0]
    assert late["verdict"] == "critical"


@pytest.mark.parametrize(
    ("name", "state", "verdict"), [("paused", "Paused", "warning"), ("stopped", "Stopped", "critical")]
)
def test_what_is_not_active_has_unknown_numbers(name: str, state: str, verdict: str) -> None:
    session = parse_status((HERE / f"status-detail-{name}.xml").read_text(), NOW)["sessions"][0]
    assert (session["state"], session["verdict"], session["lag_seconds"]) == (state, verdict, None)
    assert session["bricks"][0]["entry"] is None


def test_old_words_and_odd_states() -> None:
    text = (HERE / "status-detail.xml").read_text()
    old = text.replace("primary_", "master_").replace("secondary_", "slave_").replace("secondary>", "slave>")
    found, same = (parse_status(t, NOW)["sessions"][0] for t in (old, text))
    assert found["secondary"] == same["secondary"]
    assert found["bricks"][0]["node"] == "gnode1"
    odd = parse_status(text.replace("<status>Active<", "<status>Config Corrupted<"), NOW)["sessions"][0]
    assert odd["state"] == "Faulty"
    assert "Config Corrupted" in odd["reasons"][0]["text"]


def test_faults_are_told() -> None:
    with pytest.raises(SourceError, match="XML"):
        parse_status("<cliOutput>", NOW)
    with pytest.raises(SourceError, match="no luck"):
        parse_status("<cliOutput><opRet>-1</opRet><opErrstr>no luck</opErrstr></cliOutput>", NOW)
    with pytest.raises(SourceError, match="no gluster-that-is-not-there here"):
        GsyncdSource("gluster-that-is-not-there").snapshot()
    with pytest.raises(SourceError, match="glusterd"):
        GsyncdSource("sh -c 'echo glusterd is down >&2; exit 1' x").snapshot()

    def hangs(words: Sequence[str]) -> tuple[int, str, str]:
        raise subprocess.TimeoutExpired(words, 60)

    with pytest.raises(SourceError, match="no answer"):
        GsyncdSource(run=hangs).snapshot()


def test_commands_are_gluster_s_own() -> None:
    asked: list[list[str]] = []

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        asked.append(list(words[4:]))
        if words[-1] == "--xml":
            return 0, (HERE / "status-all.xml").read_text(), ""
        return 0, (HERE / "config.txt").read_text(), ""

    source = GsyncdSource(run=run, clock=lambda: NOW)
    pair = ["mvol", "gnode1::svol"]
    assert source.command("pause", {"session": "mvol"})["bricks"] == ["/bricks/m1", "/bricks/m2"]
    assert [*pair, "pause"] in asked
    assert source.command("checkpoint", {"session": "mvol", "time": "now"}) == {"time": int(NOW)}
    source.command("checkpoint", {"session": "mvol", "time": None})
    assert asked[-2:] == [[*pair, "config", "checkpoint", "now"], [*pair, "config", "!checkpoint"]]
    source.command("config_set", {"session": "mvol", "name": "sync_jobs", "value": "5"})
    assert asked[-1] == [*pair, "config", "sync-jobs", "5"]
    found = source.command("config_get", {"session": "mvol", "name": "sync_method"})["options"]
    assert [o["name"] for o in found] == ["sync_method"]
    with pytest.raises(SourceError, match="no verify"):
        source.command("verify", {"session": "mvol"})
    with pytest.raises(SourceError, match="no session other"):
        source.command("pause", {"session": "other"})


def test_config_lines() -> None:
    found = {o["name"]: o["text"] for o in parse_config((HERE / "config.txt").read_text())}
    assert found["change_detector"] == "changelog"
    assert found["changelog_log_file"].startswith("/var/log/")
