"""A brick's walk and its batches take turns at computing: one at a time, batches first, nobody while it only waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from engine.turn import Turn

SOON = 10.0


def _start(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


class Waiting:
    """A thread that wants the turn for a batch, and what it noted when it had it."""

    def __init__(self, turn: Turn, notes: list[str], word: str) -> None:
        def run() -> None:
            with turn.batch():
                notes.append(word)

        self.thread = _start(run)
        while not turn._batches:  # until it waits
            self.thread.join(0.001)

    def join(self) -> None:
        self.thread.join(SOON)
        assert not self.thread.is_alive()


def test_a_batch_waits_until_the_walk_offers_its_turn_and_the_walk_goes_on_after_it() -> None:
    turn = Turn()
    notes: list[str] = []
    with turn.walk():
        batch = Waiting(turn, notes, "batch")
        notes.append("walk")
        turn.offer()
        notes.append("walk again")
    batch.join()
    assert notes == ["walk", "batch", "walk again"]


def test_an_offer_nobody_waits_for_keeps_the_turn() -> None:
    turn = Turn()
    with turn.walk():
        turn.offer()
        assert turn._holder == threading.get_ident()


def test_who_rests_lets_the_other_in_and_has_the_turn_again_afterwards() -> None:
    turn = Turn()
    inside, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def walk() -> None:
        with turn.walk():
            inside.set()
            assert release.wait(SOON)
            ended.append("walk")

    with turn.batch():
        thread = _start(walk)
        assert not inside.wait(0.05)
        with turn.rest():
            assert inside.wait(SOON)
            release.set()
        assert ended == ["walk"]
    thread.join(SOON)


def test_rest_and_offer_are_nothing_for_a_thread_that_does_not_hold_the_turn() -> None:
    turn = Turn()
    with turn.rest():
        pass
    turn.offer()
    with turn.batch():
        _start(turn.offer).join(SOON)
        assert turn._holder == threading.get_ident()


def test_an_error_gives_the_turn_back() -> None:
    turn = Turn()
    with pytest.raises(ValueError, match="x"), turn.batch():
        raise ValueError("x")
    with turn.walk():
        pass
