"""The delete guard (SAFE-1): what counts, and by what it is measured."""

from __future__ import annotations

from engine.guard import Born, DeleteGuard


def _gfid(n: int) -> bytes:
    return n.to_bytes(16, "big")


def test_share_of_the_replica_as_it_was() -> None:
    """Half of what was there when the window began may go unasked, and at least the minimum."""
    guard = DeleteGuard(0.5, 3600.0, 10)
    assert not guard.exceeded(0.0, 10, lambda: 0)
    assert guard.exceeded(0.0, 11, lambda: 0)
    assert not guard.exceeded(0.0, 50, lambda: 100)
    guard.passed(0.0, [], 50)
    assert guard.exceeded(1.0, 1, lambda: 50)
    assert not guard.exceeded(3602.0, 10, lambda: 50)


def test_counted_only_when_it_matters() -> None:
    """Not for a few deletes, once while the same ones are held, and anew when they are others."""
    guard, counts = DeleteGuard(0.5, 3600.0, 10), []

    def objects() -> int:
        counts.append(100)
        return 100

    assert not guard.exceeded(0.0, 10, objects)
    assert counts == []
    for _ in range(3):
        assert guard.exceeded(0.0, 60, objects)
    assert len(counts) == 1
    assert guard.base == 100
    assert not guard.exceeded(0.0, 40, objects)  # counted: the window begins here
    guard.passed(0.0, [], 40)
    assert guard.exceeded(1.0, 59, objects)
    assert (guard.base, len(counts)) == (140, 3), "what went within the window was there when it began"


def test_made_on_one_brick_deleted_on_another() -> None:
    """The bricks of a volume know of one another what was made of late."""
    born = Born()
    one, two = (DeleteGuard(0.5, 3600.0, 0, born=born) for _ in range(2))
    one.made([_gfid(1), _gfid(2)], 100.0)
    assert two.weighed([_gfid(1), _gfid(2), _gfid(3)], set()) == [_gfid(3)]
    two.made([_gfid(4)], 3701.0)
    assert two.weighed([_gfid(1), _gfid(4)], set()) == [_gfid(1)]


def test_made_again_is_young_again() -> None:
    """What is made anew counts from then on."""
    guard = DeleteGuard(0.5, 10.0, 0)
    guard.made([_gfid(1), _gfid(2)], 0.0)
    guard.made([_gfid(1)], 8.0)
    guard.made([], 12.0)
    assert guard.weighed([_gfid(1), _gfid(2)], set()) == [_gfid(2)]


def test_an_object_dies_once() -> None:
    """Its names may go one after the other; what came back dies anew; when nothing is left to do it is forgotten."""
    guard = DeleteGuard(0.5, 10.0, 0)
    assert guard.lost([_gfid(1), _gfid(2)], []) == [_gfid(1), _gfid(2)]
    guard.passed(0.0, [_gfid(1), _gfid(2)], 2)
    assert guard.lost([_gfid(1), _gfid(3)], []) == [_gfid(3)]
    assert guard.lost([_gfid(1), _gfid(2)], [_gfid(1)]) == [_gfid(1)]
    guard.idle()
    assert guard.lost([_gfid(2)], []) == [_gfid(2)]
