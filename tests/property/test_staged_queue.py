"""SYN-1, at random: producers, jobs that come and go, failures; nothing is lost, doubled, stuck or out of order."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.transfer.queue import StagedQueue, Ticket

DEADLINE = 60
"""Seconds after which a wait that is not over means: stuck."""

Item = tuple[int, int]


class Refused(Exception):
    """A transfer that is made to fail."""


@dataclass
class Jobs:
    """What the jobs did, and their `run`."""

    fail_every: int
    pause: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    transfers: list[list[Item]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    def run(self, items: list[Item]) -> frozenset[Item]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.transfers.append(items)
            number = len(self.transfers)
        if self.pause:
            threading.Event().wait(random.random() * self.pause)
        with self.lock:
            self.running -= 1
        if self.fail_every and number % self.fail_every == 0:
            raise Refused(frozenset(items))
        return frozenset(items)


def outcome(ticket: Ticket[frozenset[Item]]) -> frozenset[Item]:
    """The items of the transfer a ticket is for, failed or not."""
    try:
        return ticket.wait(DEADLINE)
    except Refused as e:
        return frozenset(e.args[0])


def produce(queue: StagedQueue[Item, frozenset[Item]], who: int, sizes: list[int], wait: bool) -> list[str]:
    """Add pieces of these sizes, waiting for each or for all in the end; what was wrong."""
    wrong: list[str] = []
    tickets: list[tuple[Ticket[frozenset[Item]], list[Item]]] = []
    count = 0
    for size in sizes:
        items = [(who, count + i) for i in range(size)]
        count += size
        tickets.append((queue.add(items), items))
        if wait:
            outcome(tickets[-1][0])
    for ticket, items in tickets:
        missing = set(items) - outcome(ticket)
        if missing:
            wrong.append(f"producer {who} was answered for another transfer: {missing} not in it")
    return wrong


def drive(producers: list[list[int]], jobs: list[int], fail_every: int, pause: float) -> Jobs:
    """Run producers against a queue whose number of jobs changes; check all that SYN-1 promises."""
    done = Jobs(fail_every, pause)
    queue = StagedQueue(done.run, jobs[0], "property")
    wrong: list[str] = []

    def producer(who: int, sizes: list[int]) -> None:
        try:
            wrong.extend(produce(queue, who, sizes, wait=who % 2 == 0))
        except TimeoutError as e:
            wrong.append(f"producer {who}: {e}")

    threads = [threading.Thread(target=producer, args=p, daemon=True) for p in enumerate(producers)]
    for thread in threads:
        thread.start()
    for number in jobs[1:]:
        queue.set_jobs(number)
    until = time.monotonic() + DEADLINE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), "a producer is stuck"
    assert queue.close(DEADLINE), "a job is stuck"
    assert not wrong, wrong
    sent = [item for transfer in done.transfers for item in transfer]
    assert sorted(sent) == [(p, i) for p, sizes in enumerate(producers) for i in range(sum(sizes))]
    assert all(done.transfers), "an empty transfer"
    assert done.most <= max(jobs)
    for transfer in done.transfers:
        for who in {p for p, _ in transfer}:
            mine = [i for p, i in transfer if p == who]
            assert mine == sorted(mine), "a producer's items went out of order"
    assert not [t for t in threading.enumerate() if t.name.startswith("property job")]
    return done


@settings(max_examples=60, deadline=None)
@given(
    producers=st.lists(st.lists(st.integers(1, 20), max_size=20), min_size=1, max_size=6),
    jobs=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    fail_every=st.sampled_from([0, 0, 1, 3]),
    pause=st.sampled_from([0.0, 0.0, 0.002]),
)
def test_syn1_any_producers_any_jobs(
    producers: list[list[int]], jobs: list[int], fail_every: int, pause: float
) -> None:
    drive(producers, jobs, fail_every, pause)


@pytest.mark.parametrize("seed", range(3))
def test_syn1_under_load(seed: int, long: bool) -> None:
    rng = random.Random(seed)
    pieces = 20_000 if long else 2_000
    producers = [[rng.randint(1, 3) for _ in range(pieces)] for _ in range(8)]
    done = drive(producers, [rng.randint(1, 6) for _ in range(50)], fail_every=7, pause=0.0)
    assert len(done.transfers) < 8 * pieces, "nothing ever went together"


def test_syn1_a_lone_item_does_not_wait() -> None:
    """No polling: a thousand items one after the other take no noticeable time."""
    queue = StagedQueue(len, 3, "property")
    began = time.monotonic()
    for _ in range(1000):
        assert queue.add(["x"]).wait(DEADLINE) == 1
    assert time.monotonic() - began < 5
    assert queue.close(DEADLINE)
