"""Pictures of several nodes as one, and commands to all of them, with sources of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from georep_tui.sources.base import Doc, SourceError
from georep_tui.sources.merging import checkpoint, joined, merged, options
from georep_tui.sources.schema import shifted, wrong, wrong_changes
from georep_tui.sources.several import Several

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "engine" / "snapshot.schema.json").read_text())
EXAMPLE: Doc = {
    "id": "b", "node": "m1", "brick": "/srv", "secondary_user": None, "secondary": "/dst", "secondary_node": None,
    "status": "Active", "crawl_status": "Changelog Crawl", "verdict": "ok", "reasons": [], "last_synced": 100.0,
    "lag_seconds": 0.0, "entry": 0, "data": 0, "meta": 0, "failures": 0, "checkpoint_time": None,
    "checkpoint_completed": None, "checkpoint_completion_time": None, "crawl": None, "backlog": None, "batch": None,
    "rate": None, "totals": None, "paused": None, "held": None, "secondary_free": None, "last_verify": None,
    "last_error": None,
}  # fmt: skip
NONE: Doc = {"time": None, "completed": None, "completion_time": None, "failures_before": 0, "eta_seconds": None, "held_by": None}


def picture(node: str, *, name: str = "web", secondary: str = "/dst", **words: Any) -> Doc:
    brick = EXAMPLE | {"id": f"brick-{node}", "node": node, "brick": words.pop("brick", "/srv")}
    session = {
        "id": f"id-{node}", "name": name, "kind": "tree", "primary": "/srv", "secondary": secondary, "state": "Active",
        "verdict": "ok", "reasons": [], "lag_seconds": 1.0, "failures": 0, "checkpoint": NONE, "bricks": [brick],
    } | words  # fmt: skip
    source = {"node": node, "connected": True, "data_time": 100.0, "clock_offset_seconds": 0.0, "engine_version": "1",
              "boot_id": "b", "error": None}  # fmt: skip
    found: Doc = {"version": 1, "time": 100.0, "sources": [source], "sessions": [session]}
    jsonschema.validate(found, SCHEMA)
    return found


class One:
    """A node that answers as it is told."""

    def __init__(self, node: str, document: Doc, **answers: Any) -> None:
        self.node, self.document, self.answers = node, document, answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot(self) -> Doc:
        if isinstance(self.document, SourceError):
            raise self.document
        return self.document

    def events(self) -> list[Doc]:
        return []

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        self.asked.append((method, dict(params)))
        answer = self.answers.get(method, {"bricks": ["/srv"]})
        if isinstance(answer, SourceError):
            raise answer
        return answer

    def close(self) -> None:
        pass


def test_the_worst_counts_and_the_numbers_are_of_all() -> None:
    one, two = picture("m1", failures=2, lag_seconds=5.0), picture("m2", state="Faulty", verdict="critical", failures=3, lag_seconds=None)
    whole = merged([one, two])
    jsonschema.validate(whole, SCHEMA)
    session = whole["sessions"][0]
    assert (session["state"], session["verdict"], session["failures"], session["lag_seconds"]) == ("Faulty", "critical", 5, None)
    assert len(whole["sessions"]) == 1 and len(session["bricks"]) == 2
    assert merged([one, picture("m2")])["sessions"][0]["lag_seconds"] == 5.0
    assert len(merged([one, picture("m2", secondary="/other")])["sessions"]) == 2, "another secondary is another session"


def test_a_checkpoint_is_complete_when_all_are() -> None:
    done = NONE | {"time": 10.0, "completed": True, "completion_time": 20.0, "failures_before": 1}
    open_ = NONE | {"time": 11.0, "completed": False, "eta_seconds": 4.0, "held_by": "b2", "failures_before": 1}
    assert checkpoint([NONE, NONE]) == NONE
    found = checkpoint([done, open_])
    assert (found["time"], found["completed"], found["completion_time"]) == (11.0, False, None)
    assert (found["eta_seconds"], found["held_by"], found["failures_before"]) == (4.0, "b2", 2)
    assert checkpoint([done, done | {"time": 12.0, "completion_time": 25.0}])["completion_time"] == 25.0
    assert checkpoint([done, NONE])["completed"] is False, "a node that knows of none has not reached it"


def test_the_id_a_session_was_first_shown_by_stays() -> None:
    one, two = One("m1", picture("m1")), One("m2", picture("m2"))
    both = Several([one, two])
    two.document, kept = SourceError("not yet"), two.document  # type: ignore[assignment]
    assert both.snapshot()["sessions"][0]["id"] == "id-m1"
    one.document, two.document = SourceError("away"), kept  # type: ignore[assignment]
    document = both.snapshot()
    assert document["sessions"][0]["id"] == "id-m1"
    assert [(s["node"], s["connected"]) for s in document["sources"]] == [("m2", True), ("m1", False)]
    both.command("pause", {"session": "id-m1"})
    assert two.asked == [("pause", {"session": "web"})]


def test_orders_say_who_did_what_and_two_of_a_name_are_told_apart() -> None:
    broken = One("m2", picture("m2"), pause=SourceError("no luck", hint="try", code="x"))
    both = Several([One("m1", picture("m1")), broken])
    result = both.command("pause", {"session": "web"})
    assert [(n["node"], n["done"], n["error"]) for n in result["nodes"]] == [("m1", True, None), ("m2", False, "no luck")]
    with pytest.raises(SourceError, match="several nodes have a brick /srv") as e:
        both.command("pause", {"session": "web", "brick": "/srv"})
    assert "m1:/srv, m2:/srv" in e.value.hint
    both.command("resume", {"session": "web", "brick": "m2:/srv"})
    assert broken.asked[-1] == ("resume", {"session": "web", "brick": "brick-m2"})
    two = Several([One("m1", picture("m1")), One("m2", picture("m2", secondary="/other"))])
    with pytest.raises(SourceError, match="2 sessions are called web") as e:
        two.command("pause", {"session": "web"})
    assert "id-m1 to /dst" in e.value.hint
    two.command("pause", {"session": "id-m2"})
    failing = Several([One(n, picture(n), stop=SourceError(f"{n} fails")) for n in ("m1", "m2")])
    with pytest.raises(SourceError, match="m1: m1 fails; m2: m2 fails"):
        failing.command("stop", {"session": "web"})


def test_failures_go_to_the_node_that_has_them() -> None:
    nodes = [
        One(n, picture(n), failures={"failures": [{"id": f"{n}-1"}], "total": 1}, retry={"retrying": 1}) for n in ("m1", "m2")
    ]
    both = Several(nodes)
    assert both.command("failures", {"session": "web"})["total"] == 2
    assert both.command("retry", {"session": "web", "ids": ["m2-1"]}) == {"retrying": 1}
    assert ("retry", {"session": "web", "ids": ["m2-1"]}) in nodes[1].asked
    assert not any(m == "retry" for m, _ in nodes[0].asked)
    with pytest.raises(SourceError, match="no failure 'x'"):
        both.command("retry", {"session": "web", "ids": ["x"]})
    with pytest.raises(SourceError, match="no session 'other'"):
        both.command("pause", {"session": "other"})


def test_answers_together() -> None:
    assert joined([("a", {"x": 1, "l": [{"i": 1}, "/s"], "time": 3, "f": False}),
                   ("b", {"x": 2, "l": [{"i": 2}], "time": 2, "f": True})]) == {
        "x": 3, "l": [{"node": "a", "i": 1}, "a:/s", {"node": "b", "i": 2}], "time": 3, "f": True}  # fmt: skip
    found = options([(n, {"options": [{"name": "sync_jobs", "text": t, "origin": "default"}]}) for n, t in (("a", "3"), ("b", "5"))])
    assert found["options"] == [{"name": "sync_jobs", "text": "a: 3; b: 5", "origin": "differs between nodes"}]


def test_the_schema_is_held_against_what_others_say() -> None:
    assert wrong(picture("m1")) is None and wrong([]) and wrong({"version": 1})
    assert wrong_changes({"bricks": [EXAMPLE | {"session": "s"}], "sessions": [], "gone": [{"session": "s"}]}) is None
    assert wrong_changes({"bricks": [EXAMPLE]}) == "a brick without its session"
    assert wrong_changes({"gone": [3]}) and wrong_changes({"sources": 5})
    moved = shifted(picture("m1"), 50.0)
    assert moved["time"] == 150.0 and moved["sessions"][0]["bricks"][0]["last_synced"] == 150.0
    assert moved["sessions"][0]["lag_seconds"] == 1.0


def test_dismiss_without_ids_goes_to_every_node_and_pages_are_read_to_their_end() -> None:
    """A node with more entries than one answer holds; another that is away is told, not left out in silence."""

    class Paged(One):
        def command(self, method: str, params: dict[str, Any]) -> Any:
            if method == "failures" and params.get("after") == "m1-2":
                return {"failures": [{"id": "m1-3"}], "total": 3, "next": None}
            return super().command(method, params)

    first = {"failures": [{"id": "m1-1"}, {"id": "m1-2"}], "total": 3, "next": "m1-2"}
    one = Paged("m1", picture("m1"), failures=first, dismiss={"dismissed": 3})
    two = One("m2", picture("m2"), failures={"failures": [{"id": "m2-1"}], "total": 1, "next": None}, dismiss={"dismissed": 1})
    both = Several([one, two])
    found = both.command("failures", {"session": "web"})
    assert [f["id"] for f in found["failures"]] == ["m1-1", "m1-2", "m1-3", "m2-1"]
    assert (found["total"], found.get("next")) == (4, None)
    done = both.command("dismiss", {"session": "web", "ids": None, "reason": "x"})
    assert done["dismissed"] == 4
    away = Several([one, One("m2", picture("m2"), failures=SourceError("away", code="gone"))])
    found = away.command("failures", {"session": "web"})
    assert [(n["node"], n["done"]) for n in found["nodes"]] == [("m1", True), ("m2", False)]
