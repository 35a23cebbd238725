"""The staged queue: a free job takes all that waits, and each producer learns what became of its items (SYN-1)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from engine.model import EngineError

T = TypeVar("T")
R = TypeVar("R")


class QueueClosed(EngineError):
    """The queue was closed before these items were taken."""


class Ticket(Generic[R]):
    """What a producer holds for the transfer its items go with."""

    def __init__(self) -> None:
        self._taken = threading.Event()
        self._done = threading.Event()
        self._outcome: R | None = None
        self._error: BaseException | None = None

    def wait_taken(self, timeout: float | None = None) -> bool:
        """Wait until a job has taken the items, or the queue is closed; False after `timeout` seconds."""
        return self._taken.wait(timeout)

    def wait(self, timeout: float | None = None) -> R:
        """The outcome of the transfer, once it is over. Raises what the transfer raised; TimeoutError (seconds)."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"the transfer is not over after {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._outcome  # type: ignore[return-value]  # set with done, where there is no error

    def _resolve(self, outcome: R) -> None:
        self._outcome = outcome
        self._taken.set()
        self._done.set()

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._taken.set()
        self._done.set()


class StagedQueue(Generic[T, R]):
    """Runs `run` on all that waits whenever one of `jobs` threads is free (SYN-1).

    There is one box that is being filled. A job takes it whole, and the next item begins another; both happen under
    one lock, so nothing is added to a box that was taken. `run` gets the items in the order in which they came,
    never none, and is called from several threads at once; what it raises goes to the producers of that box. A
    producer must not be a job.
    """

    def __init__(self, run: Callable[[list[T]], R], jobs: int, name: str) -> None:
        self._run = run
        self._name = name
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._box: list[T] = []
        self._ticket: Ticket[R] = Ticket()
        self._closed = False
        self._wanted = 0
        self._jobs: dict[int, threading.Thread] = {}
        self._retired: list[threading.Thread] = []
        self.set_jobs(jobs)

    def add(self, items: Iterable[T]) -> Ticket[R]:
        """Put items in; they go together, with whatever else waits. Raises QueueClosed; ValueError for no items."""
        new = list(items)
        if not new:
            raise ValueError("nothing to transfer")
        with self._lock:
            if self._closed:
                raise QueueClosed(f"{self._name}: closed", code="queue-closed")
            self._box += new
            self._filled.notify()
            return self._ticket

    @property
    def jobs(self) -> int:
        """How many jobs run side by side, from now on."""
        return self._wanted

    def set_jobs(self, jobs: int) -> None:
        """Change the number of jobs while running; those too many end after what they do now. Raises ValueError."""
        if jobs < 1:
            raise ValueError(f"{jobs} sync jobs: at least 1 is needed")
        with self._lock:
            if self._closed:
                return
            self._wanted = jobs
            for number in range(1, jobs + 1):
                if number not in self._jobs:
                    self._start(number)
            self._filled.notify_all()
            over, self._retired = self._retired, []
        for thread in over:
            thread.join()

    def _start(self, number: int) -> None:
        thread = threading.Thread(target=self._job, args=(number,), name=f"{self._name} job {number}", daemon=True)
        self._jobs[number] = thread
        thread.start()

    def close(self, timeout: float | None = None) -> bool:
        """Refuse more, fail what no job has taken, and join the jobs; False if one runs on after `timeout` seconds."""
        with self._lock:
            self._closed = True
            waiting, self._box = self._box, []
            ticket = self._ticket
            self._filled.notify_all()
            threads = [*self._jobs.values(), *self._retired]
        if waiting:
            ticket._fail(QueueClosed(f"{self._name}: closed before {len(waiting)} items went", code="queue-closed"))
        for thread in threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in threads)

    # ---- the jobs --------------------------------------------------------------------------------------------

    def _job(self, number: int) -> None:
        while (taken := self._take(number)) is not None:
            items, ticket = taken
            try:
                outcome = self._run(items)
            except BaseException as e:  # noqa: BLE001 - it is the producers' to handle: `Ticket.wait` raises it
                ticket._fail(e)
            else:
                ticket._resolve(outcome)

    def _take(self, number: int) -> tuple[list[T], Ticket[R]] | None:
        """All that waits, as soon as something does; None when this job is to end."""
        with self._lock:
            while True:
                if self._closed or number > self._wanted:
                    self._retired.append(self._jobs.pop(number))
                    if self._box:
                        self._filled.notify()  # the call that woke this job was meant for one that stays
                    return None
                if self._box:
                    taken = self._box, self._ticket
                    self._box, self._ticket = [], Ticket()
                    taken[1]._taken.set()
                    return taken
                self._filled.wait()
