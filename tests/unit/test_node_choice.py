"""Which node the agents run on, and what speaks against one (pure)."""

from __future__ import annotations

import pytest

from engine.backoff import MOST, STEADY
from engine.node_choice import WELL, Health, Node, against, choose, kept, learned, restored

NOW = 1000.0
DOWN, DUE = Health(1, NOW + 5), Health(1, NOW - 5)


@pytest.mark.parametrize(
    ("current", "health", "chosen"),
    [
        ("a", {}, "a"),
        ("b", {}, "b"),  # it is not left for the named one while it is well
        ("b", {"a": DUE}, "b"),
        ("a", {"a": DOWN}, "b"),
        ("a", {"a": DUE}, "b"),  # another one before the same one again
        ("a", {"a": DOWN, "b": DOWN}, "c"),
        ("a", {"a": DOWN, "b": DUE}, "b"),
        ("b", {"b": DOWN}, "c"),
        ("c", {"c": DOWN}, "a"),
        ("c", {"c": DUE, "a": DOWN, "b": DOWN}, "c"),
        ("a", {"a": Health(2, NOW + 2), "b": Health(1, NOW + 1), "c": Health(1, NOW + 3)}, "b"),
        ("gone", {}, "gone"),  # a node that has no brick any more serves as long as it does
        ("gone", {"gone": DOWN}, "a"),
        ("gone", {"gone": DUE, "a": DOWN}, "b"),
    ],
)
def test_the_node(current: str, health: dict[str, Health], chosen: str) -> None:
    assert choose(["a", "b", "c"], current, health, NOW) == chosen


@pytest.mark.parametrize("health", [{}, {None: DOWN}, {None: DUE}])
def test_the_only_node_is_never_left(health: dict[None, Health]) -> None:
    assert choose([None], None, health, NOW) is None


def test_a_node_is_passed_over_for_longer_each_time() -> None:
    health, waits = WELL, []
    for _ in range(9):
        health = health.failed(NOW)
        waits.append(health.until - NOW)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0] and waits == sorted(waits) and waits[-1] == MOST
    for _ in range(5000):
        health = health.failed(NOW)
    assert health.until - NOW == MOST


@pytest.mark.parametrize(
    ("code", "lived", "speaks"),
    [
        ("ssh-refused", 0.0, True), ("ssh-timeout", 0.0, True), ("ssh-route", 0.0, True), ("ssh-resolve", 0.0, True),
        ("link-lost", 0.0, True), ("link-slow", 0.0, True), ("link-silent", STEADY - 1, True),
        ("link-lost", STEADY, False), ("link-silent", 10 * STEADY, False),
        ("glusterd-down", 0.0, True), ("volume-incomplete", 0.0, True), ("mount-failed", 0.0, True),
        ("ssh-denied", 0.0, True), ("host-key-changed", 0.0, True), ("volume-unknown", 0.0, True),
        ("volume-stopped", 0.0, False), ("other-session", 0.0, False), ("locked", 0.0, False), ("remote", 0.0, False),
        ("other-node", 0.0, False), ("stopping", 0.0, False), ("link-closed", 0.0, False), ("internal", 0.0, False),
    ],
)  # fmt: skip
def test_what_speaks_against_a_node(code: str, lived: float, speaks: bool) -> None:
    assert against(code, lived) is speaks


TOLD = [{"host": "n1", "id": "1"}, {"host": "n2", "id": "2"}, {"host": "n3", "id": "3"}]


@pytest.mark.parametrize(
    ("named", "told", "hosts"),
    [
        (Node("dr", "1"), TOLD, ["dr", "n2", "n3"]),  # an alias of a node with bricks
        (Node("n2", "2"), TOLD, ["n2", "n1", "n3"]),
        (Node("n2"), TOLD, ["n2", "n1", "n3"]),  # it was never reached: known by its name
        (Node("client", "9"), TOLD, ["client", "n1", "n2", "n3"]),
        (Node("dr", "1"), [*TOLD, {"host": "other", "id": "2"}, {"host": "n2", "id": "4"}], ["dr", "n2", "n3"]),
        (Node("dr"), [{"host": "-oProxyCommand=x", "id": "5"}, {"host": "a b", "id": "6"}, {"host": "", "id": "7"}], ["dr"]),
        (Node("dr"), [{"id": "5"}, "n1", 7, None], ["dr"]),
        (Node("dr"), None, ["dr"]),
        (Node("dr"), {"host": "n1"}, ["dr"]),
        (Node(None), [], [None]),
    ],
)
def test_the_nodes_of_a_volume(named: Node, told: object, hosts: list[str | None]) -> None:
    assert [n.host for n in learned(named, told)] == hosts


def test_the_nodes_are_kept_with_the_named_one_first() -> None:
    nodes = learned(Node("dr", "1"), TOLD)
    assert restored("dr", kept(nodes)) == nodes
    assert restored("n2", kept(nodes)) == [Node("n2", "2"), Node("dr", "1"), Node("n3", "3")]
    assert restored("new", None) == [Node("new")]


def test_a_node_is_known_by_its_id_and_else_by_its_name() -> None:
    assert Node("dr", "1").is_it("vm-17", "1") and not Node("dr", "1").is_it("dr", "2")
    assert Node("dr").is_it("dr", "2") and not Node("dr").is_it("vm", "2")
