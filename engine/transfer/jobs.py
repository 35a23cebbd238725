"""Several transfers side by side (`sync_jobs`): a transfer engine made of others, each used by one job at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from engine.apply import Result
from engine.model import Gfid
from engine.transfer.base import Transfer
from engine.transfer.queue import StagedQueue, Ticket

SMALLEST, LARGEST = 64, 10_000
"""Files that go to one job at once."""


class Engine(NamedTuple):
    """A transfer engine with a view and an index connection of its own; `close` lets those go."""

    transfer: Transfer
    close: Callable[[], None]


class Jobs(Protocol):
    """How many jobs there are to be now."""

    def __call__(self) -> int: ...


class _Item(NamedTuple):
    gfid: Gfid
    made: bool


class Parallel:
    """A Transfer that spreads files over the jobs of a staged queue (SYN-1).

    `make` makes an engine for a job, as many as ever run at once; `jobs` tells their number at each `send`. May be
    used by several threads. To be closed by its owner.
    """

    def __init__(self, make: Callable[[], Engine], jobs: Jobs, name: str) -> None:
        self._make = make
        self._jobs = jobs
        self._lock = threading.Lock()
        self._free: list[Engine] = []
        self._queue: StagedQueue[_Item, Result] = StagedQueue(self._run, jobs(), name)

    def send(self, gfids: Iterable[Gfid], made: Collection[Gfid], result: Result) -> None:
        """See Transfer.send. What the first of several failed transfers raised is raised when all have ended."""
        items = [_Item(gfid, gfid in made) for gfid in dict.fromkeys(gfids)]
        jobs = self._jobs()
        self._queue.set_jobs(jobs)
        piece = max(SMALLEST, min(LARGEST, -(-len(items) // jobs)))
        tickets: list[Ticket[Result]] = []
        for at in range(0, len(items), piece):
            ticket = self._queue.add(items[at : at + piece])
            if ticket not in tickets:
                tickets.append(ticket)
            ticket.wait_taken()  # else the next piece would go with this one, and the other jobs had nothing to do
        mine = {item.gfid for item in items}
        error: BaseException | None = None
        for ticket in tickets:
            try:
                _merge(ticket.wait(), mine, result)
            except BaseException as e:  # noqa: BLE001 - raised when the others have ended too
                error = error or e
        if error is not None:
            raise error

    def _run(self, items: list[_Item]) -> Result:
        with self._lock:
            engine = self._free.pop() if self._free else None
        if engine is None:
            engine = self._make()
        try:
            result = Result()
            engine.transfer.send([i.gfid for i in items], {i.gfid for i in items if i.made}, result)
            return result
        finally:
            with self._lock:
                self._free.append(engine)

    def close(self, timeout: float | None = None) -> bool:
        """End the jobs and close their engines; False if a job still runs after `timeout` seconds."""
        ended = self._queue.close(timeout)
        with self._lock:
            engines, self._free = self._free, []
        for engine in engines:
            engine.close()
        return ended


def _merge(part: Result, mine: set[Gfid], result: Result) -> None:
    """Add what concerns our files; counts of a shared transfer are whole to each who shared it."""
    result.problems += [p for p in part.problems if p.gfid in mine]
    result.gone += [g for g in part.gone if g in mine]
    result.sent |= part.sent & mine
    result.files += part.files
    result.bytes += part.bytes
