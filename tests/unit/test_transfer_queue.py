"""SYN-1: the staged queue, case by case."""

from __future__ import annotations

import threading

import pytest

from engine.transfer.queue import QueueClosed, StagedQueue

WAIT = 20


class Gate:
    """A run that says when it began and goes on when told; keeps what it was given."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.taken: list[list[str]] = []
        self._lock = threading.Lock()

    def run(self, items: list[str]) -> str:
        with self._lock:
            self.taken.append(items)
        self.began.release()
        assert self.go.acquire(timeout=WAIT)
        return "+".join(items)


def test_syn1_a_free_job_takes_all_that_waits_as_one_transfer() -> None:
    gate = Gate()
    queue = StagedQueue(gate.run, 1, "test")
    first = queue.add(["a"])
    assert gate.began.acquire(timeout=WAIT)
    others = [queue.add([x]) for x in ("b", "c", "d")]
    gate.go.release(2)
    assert first.wait(WAIT) == "a"
    assert [t.wait(WAIT) for t in others] == ["b+c+d"] * 3
    assert gate.taken == [["a"], ["b", "c", "d"]]
    assert queue.close(WAIT)


def test_syn1_jobs_run_side_by_side() -> None:
    gate = Gate()
    queue = StagedQueue(gate.run, 3, "test")
    tickets = []
    for x in ("a", "b", "c"):
        tickets.append(queue.add([x]))
        assert gate.began.acquire(timeout=WAIT), f"{x} waits for another job"
    gate.go.release(3)
    assert [t.wait(WAIT) for t in tickets] == ["a", "b", "c"]
    assert queue.close(WAIT)


def test_syn1_every_producer_of_a_failed_transfer_learns_why_and_the_job_goes_on() -> None:
    gate = Gate()

    def run(items: list[str]) -> str:
        gate.run(items)
        if "bad" in items:
            raise OSError(28, "No space left on device")
        return "good"

    queue = StagedQueue(run, 1, "test")
    first = queue.add(["good"])
    assert gate.began.acquire(timeout=WAIT)
    tickets = [queue.add([x]) for x in ("one", "bad", "two")]
    gate.go.release(3)
    assert first.wait(WAIT) == "good"
    for ticket in tickets:
        with pytest.raises(OSError, match="No space"):
            ticket.wait(WAIT)
    assert queue.add(["again"]).wait(WAIT) == "good"
    assert queue.close(WAIT)


def test_syn1_more_jobs_while_running() -> None:
    gate = Gate()
    queue = StagedQueue(gate.run, 1, "test")
    queue.add(["a"])
    assert gate.began.acquire(timeout=WAIT)
    second = queue.add(["b"])
    queue.set_jobs(2)
    assert gate.began.acquire(timeout=WAIT), "the new job did not take what waits"
    gate.go.release(2)
    second.wait(WAIT)
    assert queue.close(WAIT)


def test_syn1_fewer_jobs_while_running() -> None:
    gate = Gate()
    queue = StagedQueue(gate.run, 3, "test")
    tickets = []
    for x in ("a", "b", "c"):
        tickets.append(queue.add([x]))
        assert gate.began.acquire(timeout=WAIT)
    queue.set_jobs(1)
    waiting = [queue.add([x]) for x in ("d", "e")]
    gate.go.release(4)
    for ticket in tickets:
        ticket.wait(WAIT)
    assert [t.wait(WAIT) for t in waiting] == ["d+e"] * 2
    queue.set_jobs(1)  # joins those that ended
    assert queue.jobs == 1
    assert gate.taken[3:] == [["d", "e"]]
    with pytest.raises(ValueError, match="0 sync jobs"):
        queue.set_jobs(0)
    assert queue.close(WAIT)


def test_syn1_close_fails_what_waits_and_joins_what_runs() -> None:
    gate = Gate()
    queue = StagedQueue(gate.run, 1, "closing")
    running = queue.add(["a"])
    assert gate.began.acquire(timeout=WAIT)
    waiting = queue.add(["b"])
    assert not queue.close(0), "closed while a transfer runs"
    gate.go.release()
    assert queue.close(WAIT)
    assert running.wait(WAIT) == "a"
    with pytest.raises(QueueClosed, match="before 1 items"):
        waiting.wait(WAIT)
    with pytest.raises(QueueClosed):
        queue.add(["c"])
    assert not [t for t in threading.enumerate() if t.name.startswith("closing job")]


def test_syn1_nothing_is_no_transfer() -> None:
    queue = StagedQueue(lambda items: items, 1, "test")
    with pytest.raises(ValueError, match="nothing"):
        queue.add([])
    assert queue.close(WAIT)
