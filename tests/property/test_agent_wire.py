"""Payloads and frames: everything encoded comes back, and nothing that is cut or made up passes or hangs."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.agent import wire
from engine.agent.frames import MAX_PAYLOAD, FrameError, FrameReader, FrameTimeout, header, write_frame
from engine.agent.types import EntryOp, Fop, MetaOp, Outcome, Slot, Stat

gfids = st.binary(min_size=16, max_size=16)
names = st.binary(max_size=300)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
stats = st.builds(Stat, u32, u32, u32, u64, i64, i64, u64)
slots = st.builds(Slot, gfids, names)
xattrs = st.none() | st.dictionaries(st.binary(min_size=1, max_size=30), st.binary(max_size=100), max_size=4)
blobs = st.binary(max_size=2000)
ops = st.builds(
    EntryOp, st.integers(0, 255), gfids, slots, st.none() | slots, st.none() | stats, st.none() | blobs,
    st.none() | blobs, xattrs,
)  # fmt: skip


@given(st.lists(ops, max_size=8))
def test_entries_come_back(some: list[EntryOp]) -> None:
    raw = wire.encode_entries(some)
    assert wire.decode_entries(raw) == some
    assert wire.decode_entries(bytearray(raw)) == some


@given(gfids, slots, stats, st.dictionaries(st.binary(min_size=1, max_size=30), st.binary(max_size=100)), blobs)
def test_a_new_file_is_packed_as_any_other_operation(
    gfid: bytes, slot: Slot, stat: Stat, some: dict[bytes, bytes], data: bytes
) -> None:
    op = EntryOp(int(Fop.CREATE), gfid, slot, None, stat, None, data, some)
    assert wire.encode_new_file(gfid, slot, stat, some, data) == wire.encode_entry(op)


@given(st.lists(st.builds(wire.Put, gfids, stats, xattrs, blobs), max_size=5))
def test_puts_come_back(some: list[wire.Put]) -> None:
    assert wire.decode_puts(wire.encode_puts(some)) == some


@given(st.lists(st.builds(MetaOp, gfids, stats, xattrs), max_size=5), stats, xattrs)
def test_metadata_comes_back(some: list[MetaOp], stat: Stat, more: wire.Xattrs) -> None:
    assert wire.decode_metas(wire.encode_metas(some)) == some
    assert wire.decode_file_end(wire.encode_file_end(stat, more)) == (stat, more)


@given(
    st.lists(st.builds(Outcome, u32, st.integers(0, 200), st.text(max_size=50), st.just(b"") | gfids), max_size=5),
    st.lists(gfids, max_size=5),
    st.lists(st.builds(wire.Seen, u32, u64, i64), max_size=5),
)
def test_replies_come_back(failures: list[Outcome], made: list[bytes], sizes: list[wire.Seen]) -> None:
    failures = [f._replace(text=f.text.encode("utf-8", "backslashreplace").decode()) for f in failures]
    assert wire.decode_entries_reply(wire.encode_entries_reply(failures, made, sizes)) == (failures, made, sizes)
    results = [wire.FileResult(f.index, f.errno, 7, -7, f.text) for f in failures]
    assert wire.decode_files_reply(wire.encode_files_reply(results)) == results


@settings(max_examples=300)
@given(st.binary(max_size=400), st.sampled_from([
    wire.decode_entries, wire.decode_puts, wire.decode_metas, wire.decode_file_begin, wire.decode_file_end,
    wire.decode_sums_request, wire.decode_sums_reply, wire.decode_entries_reply, wire.decode_files_reply,
    wire.decode_error, wire.decode_xattrs,
]))  # fmt: skip
def test_garbage_is_refused_with_a_wire_error(raw: bytes, decode: object) -> None:
    try:
        decode(raw)  # type: ignore[operator]
    except wire.WireError:
        pass


@given(st.lists(ops, min_size=1, max_size=4), st.data())
def test_cut_entries_are_refused(some: list[EntryOp], data: st.DataObject) -> None:
    raw = wire.encode_entries(some)
    cut = data.draw(st.integers(1, len(raw) - 1))
    ends = {len(wire.encode_entries(some[:i])) for i in range(len(some))}
    if cut not in ends:
        with pytest.raises(wire.WireError):
            wire.decode_entries(raw[:cut])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), u32, st.sampled_from([0, 1, 1000, 70_000, 1 << 20, 3 << 20])), max_size=12)
)
def test_frames_come_back_over_a_pipe(frames: list[tuple[int, int, int]]) -> None:
    r, w = os.pipe()

    def write() -> None:
        for kind, ident, size in frames:
            write_frame(w, kind, ident, b"a" * (size // 3), memoryview(b"b" * (size - size // 3)))
        os.close(w)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reader = FrameReader(r)
        for kind, ident, size in frames:
            frame = reader.read(20)
            assert frame is not None and (frame.kind, frame.id) == (kind, ident)
            assert bytes(frame.payload) == b"a" * (size // 3) + b"b" * (size - size // 3)
        assert reader.read(20) is None
    finally:
        os.close(r)
        writer.join()


def test_bad_frames_are_refused() -> None:
    with pytest.raises(FrameError):
        header(1, 1, MAX_PAYLOAD + 1)
    for raw in (b"\xff" * 9, b"\0\0", header(1, 1, 10) + b"12345"):
        r, w = os.pipe()
        os.write(w, raw)
        os.close(w)
        with pytest.raises(FrameError):
            FrameReader(r).read(5)
        os.close(r)
    r, w = os.pipe()
    with pytest.raises(FrameTimeout):
        FrameReader(r).read(0.01)
    os.close(r)
    os.close(w)
