"""Any records survive being written and read; no bytes at all make the reader fail otherwise than it says (CHG-1)."""

from __future__ import annotations

import io
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

import engine.journal.format as module
from engine.journal import text
from engine.journal.format import FOPS, JournalError, decode, decode_iter, encode, encode_header
from engine.model import DataChange, EntryChange, Fop, MetaChange, Record, Slot

gfids = st.binary(min_size=16, max_size=16)
names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda b: b.replace(b"\0", b"n").replace(b"/", b"s"))
    .filter(lambda b: b not in (b".", b".."))
)
slots = st.builds(Slot, gfids, names)
u32 = st.integers(0, 2**32 - 1)
paths = st.none() | st.lists(names, min_size=1, max_size=4).map(b"/".join)


@st.composite
def records(draw: st.DrawFn) -> Record:
    gfid = draw(gfids)
    kind = draw(st.sampled_from("DMEEE"))
    if kind == "D":
        return DataChange(gfid)
    if kind == "M":
        return MetaChange(gfid, draw(st.sampled_from(sorted(FOPS))))
    fop = int(draw(st.sampled_from(list(Fop))))
    slot = draw(slots)
    if fop in (Fop.CREATE, Fop.MKNOD, Fop.MKDIR):
        return EntryChange(gfid, fop, slot, None, draw(u32), draw(u32), draw(u32))
    if fop == Fop.RENAME:
        return EntryChange(gfid, fop, slot, draw(slots))
    if fop in (Fop.UNLINK, Fop.RMDIR):
        return EntryChange(gfid, fop, slot, path=draw(paths))
    return EntryChange(gfid, fop, slot)


changes = st.lists(records(), max_size=12)


def binary(wanted: list[Record]) -> bytes:
    """The binary encoding as GlusterFS's writer lays it out."""

    def number(n: int) -> bytes:
        return b"\0" + n.to_bytes(4, sys.byteorder)

    out = [encode_header(encoding=1)]
    for r in wanted:
        if isinstance(r, DataChange):
            out.append(b"D" + r.gfid + b"\0")
        elif isinstance(r, MetaChange):
            out.append(b"M" + r.gfid + number(r.fop) + b"\0")
        else:
            body = b"E" + r.gfid + number(r.fop)
            if r.fop in (Fop.CREATE, Fop.MKNOD, Fop.MKDIR):
                body += number(r.mode) + number(r.uid) + number(r.gid)
            body += b"\0" + r.slot.parent + b"/" + r.slot.name + b"\0"
            if r.dest is not None:
                body += r.dest.parent + b"/" + r.dest.name + b"\0"
            if r.fop in (Fop.UNLINK, Fop.RMDIR):
                body += (r.path or b"\0") + b"\0"
            out.append(body)
    return b"".join(out)


@given(changes)
def test_chg_1_what_is_written_is_read(wanted: list[Record]) -> None:
    found = decode(encode(wanted))
    assert (found.records, found.torn, found.warnings) == (wanted, None, [])


@given(changes)
def test_chg_1_the_text_form_loses_nothing(wanted: list[Record]) -> None:
    assert text.parse(text.write(wanted)) == wanted


@given(changes)
def test_chg_1_the_binary_encoding_is_read_as_it_is_written(wanted: list[Record]) -> None:
    found = decode(binary(wanted))
    assert (found.records, found.torn) == (wanted, None)


@given(changes, st.data())
def test_chg_1_any_prefix_gives_a_prefix(wanted: list[Record], data: st.DataObject) -> None:
    for raw in (encode(wanted), binary(wanted)):
        end = data.draw(st.integers(51, len(raw)))
        found = decode(raw[:end])
        assert found.records == wanted[: len(found.records)]
        if found.torn is None:
            assert decode(raw[:end] + raw[end:]).records == wanted
        else:
            assert found.torn.offset + found.torn.length == end


@given(changes, st.integers(1, 200))
def test_reading_in_pieces_is_the_same(wanted: list[Record], chunk: int) -> None:
    for raw in (encode(wanted), binary(wanted)):
        whole, module.CHUNK = module.CHUNK, max(chunk, 51)
        try:
            assert list(decode_iter(io.BytesIO(raw), [])) == wanted
        finally:
            module.CHUNK = whole


@given(changes, st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), max_size=4), st.booleans())
@settings(max_examples=300)
def test_damage_is_reported_never_a_crash(
    wanted: list[Record], damage: list[tuple[int, bytes]], in_binary: bool
) -> None:
    raw = bytearray(binary(wanted) if in_binary else encode(wanted))
    for where, what in damage:
        at = where % (len(raw) + 1)
        raw[at : at + len(what)] = what
    try:
        found = decode(bytes(raw))
    except JournalError as e:
        assert 0 <= e.offset <= 51
        return
    if found.torn is not None:
        assert found.torn.offset + found.torn.length == len(raw)
        assert found.torn.length > 0
    for record in found.records:
        assert len(record.gfid) == 16
        if isinstance(record, EntryChange):
            assert record.slot.name not in (b"", b".", b"..")
            assert b"/" not in record.slot.name


@given(st.binary(max_size=300))
def test_any_bytes_after_a_header(body: bytes) -> None:
    for encoding in (1, 2):
        found = decode(encode_header(encoding=encoding) + body)
        assert found.torn is not None or found.records or found.warnings or not body
