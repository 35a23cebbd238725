"""Whatever the clock does and however often the writer starts again: every slice once, in order, no hole (MRK-9)."""

from __future__ import annotations

import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

import engine.journal.writer as writer_module
from engine.journal.history import history
from engine.journal.reader import Journal
from engine.journal.writer import JournalWriter
from engine.model import NO_MARK, DataChange, Mark

T = 1700000000
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3)),
        st.tuples(st.just("idle"), st.integers(0, 3)),
        st.tuples(st.just("xsync"), st.integers(1, 3)),
        st.tuples(st.just("clock"), st.integers(-100_000, 200_000)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("work"), st.integers(1, 5)),
    ),
    max_size=40,
)


@given(steps, st.sampled_from([150, 400, 1 << 20]))
@settings(max_examples=120, deadline=None)
def test_mrk_9_every_slice_once_and_in_order(wanted: list[tuple[str, int]], rotate: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        before, writer_module.ROTATE = writer_module.ROTATE, rotate
        try:
            Machine(os.fsencode(scratch) + b"/journal").run(wanted)
        finally:
            writer_module.ROTATE = before


class Machine:
    """A writer and a worker side by side, with what they ought to see."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.now = T
        self.serial = 0
        self.mark = NO_MARK
        self.done: list[DataChange] = []
        self.given: list[DataChange] = []
        self.suffixes: list[int] = []
        self.writer = self.open()
        self.journal = Journal(root, clock=self.clock)

    def clock(self) -> float:
        return self.now

    def open(self) -> JournalWriter:
        return JournalWriter(self.root, clock=self.clock, floor=self.mark.sec + 1)

    def change(self) -> DataChange:
        self.serial += 1
        self.given.append(DataChange(self.serial.to_bytes(16, "big")))
        return self.given[-1]

    def run(self, wanted: list[tuple[str, int]]) -> None:
        for name, n in wanted:
            getattr(self, {"clock": "set_clock"}.get(name, name))(n)
            assert self.suffixes == sorted(set(self.suffixes))
        self.work(1 << 30)
        self.writer.close()
        assert self.done == self.given
        assert self.journal.stale(Mark(self.mark.sec + 1, 0)) == []

    def write(self, n: int) -> None:
        self.now += n
        self.suffixes.append(self.writer.write([self.change()]).suffix)

    def idle(self, n: int) -> None:
        self.now += n
        self.suffixes.append(self.writer.idle().suffix)

    def xsync(self, n: int) -> None:
        for part in range(1, n + 1):
            self.writer.write_xsync(self.writer.last, self.serial * 10 + part, [self.change()])
        self.idle(0)

    def set_clock(self, n: int) -> None:
        self.now = max(T, self.now + n)

    def restart(self, _: int) -> None:
        self.writer.close()
        self.writer = self.open()
        self.journal = Journal(self.root, clock=self.clock)

    def work(self, n: int) -> None:
        """One batch of the worker: read, apply, move the mark, archive."""
        batch = self.journal.pending(self.mark)[:n]
        assert self.journal.holes(self.mark) == []
        for log in batch:
            for record in self.journal.read(log).records:
                assert isinstance(record, DataChange)
                if record not in self.done:  # the slice of the mark itself may be repeated, never lost
                    self.done.append(record)
        if batch:
            self.mark = max(self.mark, Mark(batch[-1].suffix - 1, 0))
            self.journal.done_many(batch)
        assert not history(self.root, T, 0, ours=True).warnings
