"""One active brick for each subvolume (ACT-1, ACT-2, ACT-4)."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from pathlib import Path

from engine.election import DAMPING, Election, SubvolumeLock
from engine.volume.facts import BrickFacts, VolumeFacts

NODE = "b936bb3f-a3a8-4c39-a5fd-70b2c9997e9a"


def volume(count: int, width: int, arbiter: bool = False) -> VolumeFacts:
    bricks = tuple(
        BrickFacts(i, "h", b"/b%d" % i, NODE, arbiter and i % width == 0, i // width) for i in range(count)
    )
    return VolumeFacts("v", "id", True, "", width, False, bricks, {})


def online(facts: VolumeFacts, *down: int) -> frozenset[tuple[str, bytes]]:
    return frozenset((b.node, b.path) for b in facts.bricks if b.index not in down)


def test_act_1_exactly_one_per_subvolume_though_one_node_has_all_bricks() -> None:
    facts = volume(6, 3)
    assert Election(facts).choose(online(facts), 0.0) == {0: 0, 1: 3}


def test_act_1_of_a_distributed_volume_every_brick_is_active() -> None:
    facts = volume(4, 1)
    assert Election(facts).choose(online(facts), 0.0) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_act_1_an_arbiter_only_where_nothing_else_runs() -> None:
    facts = volume(3, 3, arbiter=True)
    assert Election(facts).choose(online(facts), 0.0) == {0: 1}
    assert Election(facts).choose(online(facts, 1, 2), 0.0) == {0: 0}
    assert Election(facts).choose(online(facts, 0, 1, 2), 0.0) == {0: None}


def test_act_2_another_takes_over_and_act_4_gives_back_only_to_a_steady_brick() -> None:
    facts = volume(2, 2)
    election = Election(facts)
    assert election.choose(online(facts), 100.0) == {0: 0}
    assert election.choose(online(facts, 0), 101.0) == {0: 1}
    assert election.choose(online(facts), 102.0) == {0: 1}
    assert election.choose(online(facts), 102.0 + DAMPING - 1) == {0: 1}
    assert election.choose(online(facts), 102.0 + DAMPING) == {0: 0}


def _hold(where: str, told: multiprocessing.connection.Connection) -> None:
    lock = SubvolumeLock(where, "p", "s", 0)
    told.send(lock.take())
    told.recv()


def test_act_1_the_lock_on_the_meta_volume_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_hold, args=(str(tmp_path), theirs))
    other.start()
    assert ours.recv() is True
    lock = SubvolumeLock(str(tmp_path), "p", "s", 0)
    assert lock.take() is False
    other.kill()
    other.join()
    assert lock.take() is True
    lock.close()
    assert lock.path.endswith("geo-rep/p_s_subvol_1.lock")


def test_act_1_the_lock_tells_two_bricks_of_one_process_apart(tmp_path: Path) -> None:
    one, two = (SubvolumeLock(str(tmp_path), "p", "s", 0) for _ in range(2))
    assert one.take() and one.take() and not two.take()
    two.close()
    assert not two.take()
    one.close()
    assert two.take() and not one.take()
    two.close()


def test_act_4_a_meta_volume_that_is_not_mounted_is_seen(tmp_path: Path) -> None:
    assert not SubvolumeLock(str(tmp_path), "p", "s", 0).there
