"""The bytes of changelogs: published vectors, slices of a real brick, torn and foreign files (CHG-1)."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from engine.journal.format import (
    FOP_NUMBERS,
    FOPS,
    JournalError,
    decode,
    decode_header,
    decode_iter,
    encode,
    encode_header,
)
from engine.model import ROOT, DataChange, EntryChange, Fop, MetaChange, Record, Slot, gfid_text, parse_gfid

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gluster-10.3"
SLICES = FIXTURE / "changelogs" / "2026" / "11" / "22"
G_TEXT = b"11111111-2222-3333-4444-555555555555"
P_TEXT = b"aaaaaaaa-2222-3333-4444-555555555555"
R_TEXT = b"00000000-0000-0000-0000-000000000001"
G, P = parse_gfid(G_TEXT), parse_gfid(P_TEXT)

VECTORS: list[tuple[str, bytes, Record]] = [
    ("create", b"E%b\x0023\x0033188\x000\x000\0%b/f1\0" % (G_TEXT, R_TEXT),
     EntryChange(G, Fop.CREATE, Slot(ROOT, b"f1"), None, 33188)),
    ("mkdir", b"E%b\x004\x0016877\x000\x000\0%b/a b\0" % (G_TEXT, R_TEXT),
     EntryChange(G, Fop.MKDIR, Slot(ROOT, b"a b"), None, 16877)),
    ("rename", b"E%b\x008\0%b/f1\0%b/x\n%%\0" % (G_TEXT, R_TEXT, R_TEXT),
     EntryChange(G, Fop.RENAME, Slot(ROOT, b"f1"), Slot(ROOT, b"x\n%"))),
    ("symlink", b"E%b\x007\0%b/s\0" % (G_TEXT, R_TEXT), EntryChange(G, Fop.SYMLINK, Slot(ROOT, b"s"))),
    ("unlink without path", b"E%b\x005\0%b/f1\0\0\0" % (G_TEXT, R_TEXT), EntryChange(G, Fop.UNLINK, Slot(ROOT, b"f1"))),
    ("unlink with path", b"E%b\x005\0%b/f1\0d/f1\0" % (G_TEXT, P_TEXT),
     EntryChange(G, Fop.UNLINK, Slot(P, b"f1"), path=b"d/f1")),
    ("chmod", b"M%b\x0038\0" % G_TEXT, MetaChange(G, 38)),
    ("write", b"D%b\0" % G_TEXT, DataChange(G)),
]  # fmt: skip


def test_chg_1_header() -> None:
    assert encode_header() == b"GlusterFS Changelog | version: v1.2 | encoding : 2\n"
    assert len(encode_header()) == 51
    assert decode_header(encode_header((1, 1), 1) + b"x") == ((1, 1), 1, 51)


@pytest.mark.parametrize(("raw", "record"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS])
def test_chg_1_published_vectors(raw: bytes, record: Record) -> None:
    assert encode([record]) == encode_header() + raw
    found = decode(encode_header() + raw)
    assert (found.records, found.torn, found.warnings) == ([record], None, [])


def test_chg_1_version_1_1_has_deletes_without_path_slot() -> None:
    raw = b"E%b\x005\0%b/f1\0D%b\0" % (G_TEXT, R_TEXT, G_TEXT)
    found = decode(encode_header((1, 1)) + raw)
    assert found.records == [EntryChange(G, Fop.UNLINK, Slot(ROOT, b"f1")), DataChange(G)]
    assert found.torn is None
    assert found.version == (1, 1)


@pytest.mark.parametrize("slice_", [1795324987, 1795324994, 1795325011])
def test_chg_1_a_real_slice_is_written_back_byte_for_byte(slice_: int) -> None:
    raw = (SLICES / f"CHANGELOG.{slice_}").read_bytes()
    found = decode(raw)
    assert len(found.records) == 31
    assert found.torn is None
    assert not found.warnings
    assert encode(found.records) == raw


def shape(records: list[Record], top: bytes) -> list[tuple[object, ...]]:
    """Kinds, operations, modes and names, with the directory the script ran in called TOP."""

    def name(slot: Slot | None) -> bytes | None:
        return slot and slot.name.replace(top, b"TOP")

    out: list[tuple[object, ...]] = []
    for r in records:
        if isinstance(r, EntryChange):
            out.append(("E", r.fop, r.mode, r.uid, r.gid, name(r.slot), name(r.dest)))
        else:
            out.append(("M", r.fop) if isinstance(r, MetaChange) else ("D",))
    return out


def identities(records: list[Record]) -> list[int]:
    """Which records are about the same object, by the order in which objects first appear."""
    known: dict[bytes, int] = {}
    return [known.setdefault(r.gfid, len(known)) for r in records]


def test_chg_1_the_binary_slice_says_the_same_as_the_ascii_ones() -> None:
    binary = decode((SLICES / "CHANGELOG.1795325001").read_bytes())
    assert binary.encoding == 1
    assert binary.torn is None
    for slice_, top in ((1795324987, b"ascii"), (1795324994, b"ascii-delpath"), (1795325011, b"again")):
        text = decode((SLICES / f"CHANGELOG.{slice_}").read_bytes())
        assert text.encoding == 2
        assert shape(text.records, top) == shape(binary.records, b"binary")
        assert identities(text.records) == identities(binary.records)
    paths = [r.path for r in binary.records if isinstance(r, EntryChange) and r.path]
    assert paths == [b"binary/hardlink", b"binary/sub", b"d3-binary"]


def test_a_live_changelog_without_records_is_empty() -> None:
    found = decode((FIXTURE / "changelogs" / "CHANGELOG").read_bytes())
    assert (found.records, found.torn) == ([], None)


@pytest.mark.parametrize("slice_", [1795324994, 1795325001])
def test_chg_1_torn_at_any_byte_keeps_all_complete_records(slice_: int) -> None:
    raw = (SLICES / f"CHANGELOG.{slice_}").read_bytes()
    whole = decode(raw).records
    lengths = []
    for end in range(51, len(raw)):
        found = decode(raw[:end])
        assert found.records == whole[: len(found.records)]
        assert len(found.records) < len(whole)
        if found.torn is not None:
            assert found.torn.offset + found.torn.length == end
            assert found.torn.reason
            assert decode(raw[: found.torn.offset]).torn is None
        lengths.append(len(found.records))
    assert lengths == sorted(lengths)
    assert set(lengths) == set(range(len(whole)))


@pytest.mark.parametrize(
    ("data", "offset", "says"),
    [
        (b"", 0, "is empty"),
        (b"PK\x03\x04 some other file\nwith lines", 0, "not the header"),
        (b"\0" * 4096, 0, "not the header"),
        (b"GlusterFS Changelog | version: v1.2 | encoding : 2", 0, "not the header"),
        (b"GlusterFS Changelog | version: v2.0 | encoding : 2\n", 32, "version 2.0"),
        (b"GlusterFS Changelog | version: v1.2 | encoding : 7\n", 49, "encoding 7"),
    ],
)
def test_foreign_files_are_refused_with_path_and_offset(data: bytes, offset: int, says: str) -> None:
    with pytest.raises(JournalError, match=says) as caught:
        decode(data, b"/j/CHANGELOG.1700000000")
    assert caught.value.offset == offset
    assert caught.value.path == b"/j/CHANGELOG.1700000000"
    assert "/j/CHANGELOG.1700000000" in caught.value.text


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\0\0\0\0\0\0\0\0", "not a gfid"),
        (b"garbage\0more\0", "not a gfid"),
        (b"D11111111-2222-3333-4444-55555555555x\0", "not a gfid"),
        (b"D1111111-12222-3333-4444-555555555555\0", "not a gfid"),
        (b"M%b\0chmod\0" % G_TEXT, "not a number"),
        (b"E%b\x007\0%b/\0" % (G_TEXT, R_TEXT), "not a name"),
        (b"E%b\x007\0%b/..\0" % (G_TEXT, R_TEXT), "not a name"),
        (b"E%b\x007\0%b/a/b\0" % (G_TEXT, R_TEXT), "not a name"),
        (b"E%b\x007\0%b\0" % (G_TEXT, R_TEXT), "not a name"),
        (b"E%b\x008\0%b/a\0%b/.\0" % (G_TEXT, R_TEXT, R_TEXT), "not a name"),
        (b"E%b\x0023\x00-1\x000\x000\0%b/a\0" % (G_TEXT, R_TEXT), "not a number"),
        (b"E%b\x005\0%b/a\0\0D%b\0" % (G_TEXT, R_TEXT, G_TEXT), "terminator"),
    ],
)
def test_damage_stops_the_reading_where_it_is(raw: bytes, reason: str) -> None:
    good = b"D%b\0" % P_TEXT
    found = decode(encode_header() + good + raw + good)
    assert found.records == [DataChange(P)]
    assert found.torn is not None
    assert found.torn.offset == 51 + len(good)
    assert found.torn.length == len(raw) + len(good)
    assert reason in found.torn.reason


def test_chg_1_unknown_kinds_are_a_warning_and_skipped() -> None:
    raw = b"X%b\0whatever\x0099\0D%b\0E%b\x0055\0%b/new\0M%b\x0077\0" % (G_TEXT, P_TEXT, G_TEXT, R_TEXT, P_TEXT)
    found = decode(encode_header() + raw)
    assert found.torn is None
    assert found.records == [DataChange(P), MetaChange(P, 77)]
    assert [w.split(" at byte")[0] for w in found.warnings] == [
        "record of unknown kind 'X'",
        "E record with unknown operation 55",
        "M record with unknown operation 77",
    ]
    assert "at byte 51" in found.warnings[0]


def test_unknown_kinds_in_the_binary_encoding_cannot_be_skipped() -> None:
    raw = b"D" + P + b"\0" + b"E" + G + b"\0" + struct.pack("=I", 55) + b"\0"
    found = decode(encode_header(encoding=1) + raw)
    assert found.records == [DataChange(P)]
    assert found.torn is not None
    assert found.torn.offset == 51 + 18
    assert "unknown operation 55" in found.torn.reason


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_names_that_no_directory_can_hold_are_not_written(name: bytes) -> None:
    for record in (
        EntryChange(G, Fop.CREATE, Slot(P, name), None, 33188),
        EntryChange(G, Fop.RENAME, Slot(P, b"ok"), Slot(P, name)),
    ):
        with pytest.raises(JournalError):
            encode([record])


def test_gfids_of_wrong_length_are_not_written() -> None:
    with pytest.raises(JournalError, match="16"):
        encode([DataChange(b"short")])


def test_a_changelog_larger_than_a_chunk_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.journal.format.CHUNK", 64)
    for slice_ in (1795324987, 1795325001):
        raw = (SLICES / f"CHANGELOG.{slice_}").read_bytes()
        warnings: list[str] = []
        assert list(decode_iter(io.BytesIO(raw), warnings)) == decode(raw).records
        assert not warnings
        out: list[Record] = []
        with pytest.raises(JournalError, match="torn") as caught:
            for record in decode_iter(io.BytesIO(raw[:-2]), warnings):
                out.append(record)
        assert out == decode(raw).records[:-1]
        torn = decode(raw[:-2]).torn
        assert torn is not None
        assert caught.value.offset == torn.offset


def test_the_table_of_operations() -> None:
    known = {0: "NULL", 8: "RENAME", 17: "SETXATTR", 35: "FGETXATTR", 36: "FSETXATTR", 38: "SETATTR", 55: "PUT"}
    assert {n: FOPS[n] for n in known} == known
    assert len(FOPS) == 59
    assert all(FOP_NUMBERS[name] == n for n, name in FOPS.items())
    assert all(FOPS[fop] == fop.name for fop in Fop)
    assert gfid_text(G).encode() == G_TEXT
