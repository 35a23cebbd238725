"""Operations on a volume side by side: each call through the mount costs near a millisecond, most of it waiting.

What touches the same name or the same object keeps its order; what is in a directory comes after the directory was
made and before it goes; what needs to be alone (a directory's rename) waits for all before it, and all after wait for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Hashable, Iterable, Sequence
from typing import Callable, NamedTuple, Optional

THREADS = 12


class Needs(NamedTuple):
    """What an operation touches: `own` alone, `shared` beside others that share it; `alone`: nothing else runs."""

    own: Sequence[Hashable]
    shared: Sequence[Hashable]
    alone: bool


class Wait(Exception):
    """Raised by an operation that has found out that all before it have to be done first; it is called once more."""


class _Job:
    __slots__ = ("after", "index", "left")

    def __init__(self, index: int) -> None:
        self.index = index
        self.left = 1
        self.after: list[_Job] = []


class Pool:
    """A few threads; `run` gives them one list of operations and returns when all are done."""

    def __init__(self, threads: int = THREADS) -> None:
        self._ready: queue.SimpleQueue[Optional[Callable[[], None]]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"agent-volume-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while True:
            job = self._ready.get()
            if job is None:
                return
            job()

    def submit(self, job: Callable[[], None]) -> None:
        """Run something that raises nothing."""
        self._ready.put(job)

    def each(self, work: Callable[[int], None], count: int) -> None:
        """Call work(0) … work(count - 1), in no order, and wait. The first exception is raised."""
        self.run(work, [Needs((), (), False)] * count)

    def run(self, work: Callable[[int], None], needs: Sequence[Needs]) -> None:
        """Call work(i) for each, as their needs allow, and wait for all. The first exception is raised at the end."""
        start = 0
        while start < len(needs):
            end = start
            if needs[start].alone:
                work(start)
                start += 1
                continue
            while end < len(needs) and not needs[end].alone:
                end += 1
            _Round(self, work, needs, range(start, end)).run()
            start = end

    def close(self) -> None:
        """Join the threads."""
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join()


class _Round:
    """One list of operations without one that is alone."""

    def __init__(self, pool: Pool, work: Callable[[int], None], needs: Sequence[Needs], span: range) -> None:
        self._pool = pool
        self._work = work
        self._jobs = [_Job(i) for i in span]
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._open = len(self._jobs)
        self._error: Optional[BaseException] = None
        self._deferred: list[_Job] = []
        last: dict[Hashable, _Job] = {}
        readers: dict[Hashable, list[_Job]] = {}
        for job in self._jobs:
            need = needs[job.index]
            for key in need.own:
                self._after(job, [last[key]] if key in last else ())
                self._after(job, readers.pop(key, ()))
                last[key] = job
            for key in need.shared:
                self._after(job, [last[key]] if key in last else ())
                readers.setdefault(key, []).append(job)

    @staticmethod
    def _after(job: _Job, before: Iterable[_Job]) -> None:
        for one in before:
            if one is not job:
                one.after.append(job)
                job.left += 1

    def run(self) -> None:
        if not self._jobs:
            return
        for job in self._jobs:
            self._release(job)
        self._done.wait()
        if self._error is not None:
            raise self._error

    def _release(self, job: _Job) -> None:
        with self._lock:
            job.left -= 1
            free = job.left == 0
        if free:
            self._pool.submit(lambda: self._one(job))

    def _one(self, job: _Job) -> None:
        try:
            self._work(job.index)
        except Wait:
            with self._lock:
                self._deferred.append(job)
            self._idle()
            return
        except BaseException as e:  # noqa: BLE001 - handed to the caller of run
            with self._lock:
                self._error = self._error or e
        self._finish(job)

    def _finish(self, job: _Job) -> None:
        for one in job.after:
            self._release(one)
        with self._lock:
            self._open -= 1
        self._idle()

    def _idle(self) -> None:
        """All done, or nothing left but operations that wait for all others: then the first of those runs, alone."""
        with self._lock:
            if self._open == 0:
                self._done.set()
                return
            if not self._deferred or self._open > len(self._deferred) + self._blocked():
                return
            job = min(self._deferred, key=lambda j: j.index)
            self._deferred.remove(job)
        try:
            self._work(job.index)
        except BaseException as e:  # noqa: BLE001 - handed to the caller of run
            with self._lock:
                self._error = self._error or e
        self._finish(job)

    def _blocked(self) -> int:
        """How many operations wait for others: those cannot run while only deferred ones are left."""
        return sum(1 for job in self._jobs if job.left > 0)
