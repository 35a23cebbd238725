"""The parsed text form: equal to libgfchangelog's byte for byte, tolerant of its history (CHG-1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.journal import text
from engine.journal.format import JournalError, decode
from engine.model import ROOT, DataChange, EntryChange, Fop, MetaChange, Slot, parse_gfid

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gluster-10.3"
G_TEXT = b"11111111-2222-3333-4444-555555555555"
R_TEXT = b"00000000-0000-0000-0000-000000000001"
G = parse_gfid(G_TEXT)


@pytest.mark.parametrize("slice_", [1795324987, 1795324994])
def test_chg_1_equal_to_libgfchangelog_byte_for_byte(slice_: int) -> None:
    reference = (FIXTURE / "parsed" / f"CHANGELOG.{slice_}").read_bytes()
    records = decode((FIXTURE / f"changelogs/2026/11/22/CHANGELOG.{slice_}").read_bytes()).records
    assert text.write(records) == reference
    assert text.parse(reference) == records


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (b"E %b CREATE 33188 0 0 %b/f1", EntryChange(G, Fop.CREATE, Slot(ROOT, b"f1"), None, 33188)),
        (b"E %b MKDIR 16877 0 0 %b/a%%20b", EntryChange(G, Fop.MKDIR, Slot(ROOT, b"a b"), None, 16877)),
        (b"E %b RENAME %b/f1 00000000-0000-0000-0000-000000000001/x%%0A%%25",
         EntryChange(G, Fop.RENAME, Slot(ROOT, b"f1"), Slot(ROOT, b"x\n%"))),
        (b"E %b SYMLINK %b/s", EntryChange(G, Fop.SYMLINK, Slot(ROOT, b"s"))),
        (b"E %b UNLINK %b/f1", EntryChange(G, Fop.UNLINK, Slot(ROOT, b"f1"))),
        (b"E %b UNLINK %b/f1 d/f1", EntryChange(G, Fop.UNLINK, Slot(ROOT, b"f1"), path=b"d/f1")),
    ],
)  # fmt: skip
def test_chg_1_published_vectors(line: bytes, record: EntryChange) -> None:
    line = line % (G_TEXT, R_TEXT)
    assert text.line(record) == line
    assert text.parse(line + b"\n") == [record]


def test_chg_1_data_and_metadata_lines() -> None:
    lines = b"M %b SETATTR\nD %b\n" % (G_TEXT, G_TEXT)
    assert text.parse(lines) == [MetaChange(G, 38), DataChange(G)]
    assert text.write([MetaChange(G, 38), DataChange(G)]) == lines


def test_escaping_of_glusterfs_before_3_12_is_read() -> None:
    old = b"E %b RENAME %b%%2Fa%%20%%C3%%BC %b%%2Fb%%2B\n" % (G_TEXT, R_TEXT, R_TEXT)
    assert text.parse(old) == [
        EntryChange(G, Fop.RENAME, Slot(ROOT, "a ü".encode()), Slot(ROOT, b"b+")),
    ]


def test_a_literal_percent_2f_in_a_name_is_not_a_slash() -> None:
    record = EntryChange(G, Fop.LINK, Slot(ROOT, b"pct%2Fslash"))
    assert text.line(record).endswith(b"/pct%252Fslash")
    assert text.parse(text.write([record])) == [record]


@pytest.mark.parametrize(
    "name", [b"a\rb", b"tab\tx", "\u2028end\u00a0".encode(), b"\xff\xfe", b" lead", b"trail ", b"%"]
)
def test_chg_1_only_line_feeds_end_lines_and_only_blanks_fields(name: bytes) -> None:
    record = EntryChange(G, Fop.SYMLINK, Slot(ROOT, name))
    assert text.parse(text.write([record, record])) == [record, record]


def test_the_payload_of_upstreams_xsync_lines_is_read_over() -> None:
    assert text.parse(b"M %b SETATTR 0 0 16877 1.5 2.5\n" % G_TEXT) == [MetaChange(G, 38)]


@pytest.mark.parametrize(
    "bad",
    [
        b"Q %b\n", b"D %b extra\n", b"M %b NOSUCHOP\n", b"E %b CREATE 33188 0 %b\n", b"E %b SYMLINK nowhere\n",
        b"E %b SYMLINK 00000000-0000-0000-0000-000000000001%%2Fa%%2Fb\n", b"E %b WRITE x\n",
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_with_its_offset(bad: bytes) -> None:
    good = b"D %b\n" % G_TEXT
    with pytest.raises(JournalError) as caught:
        text.parse(good + bad.replace(b"%b", G_TEXT).replace(b"%%", b"%"))
    assert caught.value.offset == len(good)


def test_a_last_line_without_end_is_refused() -> None:
    with pytest.raises(JournalError, match="no end") as caught:
        text.parse(b"D %b\nD %b" % (G_TEXT, G_TEXT))
    assert caught.value.offset == 39
