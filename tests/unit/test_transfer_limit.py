"""SYN-7: the bandwidth limit holds for all together, and changes while it is waited for."""

from __future__ import annotations

import threading
import time

import pytest

from engine.transfer.limit import BURST, Bandwidth

KIB = 1024


def test_syn7_no_limit_never_waits() -> None:
    limit = Bandwidth()
    began = time.monotonic()
    for _ in range(10_000):
        assert limit.take(1 << 30)
    assert time.monotonic() - began < 1
    assert limit.limit == 0


def test_syn7_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        Bandwidth(-1)


def test_syn7_rate_of_one_job_within_ten_percent() -> None:
    rate = 4_000_000
    limit = Bandwidth(rate)
    began, sent = time.monotonic(), 0
    while sent < 2 * rate:
        assert limit.take(64 * KIB)
        sent += 64 * KIB
    assert sent / (time.monotonic() - began) == pytest.approx(rate, rel=0.1)


def test_syn7_rate_of_all_jobs_together_within_ten_percent() -> None:
    rate = 6_000_000
    limit = Bandwidth(rate)
    until = time.monotonic() + 2
    counts = [0] * 5

    def job(at: int, piece: int) -> None:
        while time.monotonic() < until:
            limit.take(piece)
            counts[at] += piece

    began = time.monotonic()
    jobs = [threading.Thread(target=job, args=(i, KIB << (i * 2))) for i in range(5)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert sum(counts) / (time.monotonic() - began) == pytest.approx(rate, rel=0.1)
    assert min(counts) > 0, "a job starved"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_syn7_silence_saves_up_no_more_than_a_moment() -> None:
    clock = Clock()
    limit = Bandwidth(1_000_000, clock)
    clock.now += 3600
    assert limit.take(int(1_000_000 * BURST))
    waiting = threading.Thread(target=limit.take, args=(1,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive(), "an hour of silence let more through than a moment's worth"
    limit.wake()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize("new", [0, 100_000_000])
def test_syn7_a_new_limit_holds_for_those_who_wait(new: int) -> None:
    limit = Bandwidth(10)
    waiting = threading.Thread(target=limit.take, args=(1_000_000,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    limit.set(new)
    waiting.join(10)
    assert not waiting.is_alive()
    assert limit.limit == new


def test_syn7_a_limit_set_later_is_kept_from_then_on() -> None:
    limit = Bandwidth()
    limit.take(1 << 40)
    limit.set(2_000_000)
    began, sent = time.monotonic(), 0
    while sent < 2_000_000:
        limit.take(10_000)
        sent += 10_000
    assert sent / (time.monotonic() - began) == pytest.approx(2_000_000, rel=0.1)


def test_syn7_waiting_ends_when_it_is_to_stop() -> None:
    limit, stop, got = Bandwidth(1), threading.Event(), []
    waiting = threading.Thread(target=lambda: got.append(limit.take(1 << 30, stop)))
    waiting.start()
    stop.set()
    limit.wake()
    waiting.join(10)
    assert got == [False]


def test_syn7_who_was_woken_has_still_to_pay() -> None:
    clock = Clock()
    limit = Bandwidth(1000, clock)
    stop = threading.Event()
    stop.set()
    assert not limit.take(5000, stop)
    clock.now += 4
    assert not limit.take(1, stop), "the bytes of who was woken were forgotten"
    clock.now += 2
    assert limit.take(1, stop)
