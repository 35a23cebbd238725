"""The parsed text form of a changelog, as libgfchangelog writes it for gsyncd: one record per line, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from engine.journal.format import FOP_NUMBERS, FOPS, JournalError
from engine.model import DataChange, EntryChange, Fop, Gfid, MetaChange, Record, Slot, gfid_text, parse_gfid

_MADE = frozenset((Fop.CREATE, Fop.MKNOD, Fop.MKDIR))
_DELETED = frozenset((Fop.UNLINK, Fop.RMDIR))


def escape(name: bytes) -> bytes:
    """A name or path as one field: blank, line feed and percent sign become `%20`, `%0A`, `%25`; all else is raw."""
    return name.replace(b"%", b"%25").replace(b" ", b"%20").replace(b"\n", b"%0A")


def unescape(field: bytes) -> bytes:
    """The bytes of a field, whether escaped as `escape` does or in full, as GlusterFS before 3.12 did (`%2F` too)."""
    return unquote_to_bytes(field) if b"%" in field else field


def line(record: Record) -> bytes:
    """One record without its line feed."""
    gfid = gfid_text(record.gfid).encode()
    if isinstance(record, DataChange):
        return b"D " + gfid
    name = FOPS.get(record.fop, str(int(record.fop))).encode()
    if isinstance(record, MetaChange):
        return b"M %b %b" % (gfid, name)
    fields = [b"E", gfid, name]
    if record.fop in _MADE:
        fields += [b"%d" % record.mode, b"%d" % record.uid, b"%d" % record.gid]
    fields.append(_slot_field(record.slot))
    if record.dest is not None:
        fields.append(_slot_field(record.dest))
    elif record.fop in _DELETED and record.path:
        fields.append(escape(record.path))
    return b" ".join(fields)


def write(records: Iterable[Record]) -> bytes:
    """Records as text, one line each."""
    return b"".join([line(record) + b"\n" for record in records])


def parse(data: bytes) -> list[Record]:
    """Text to records. Raises JournalError with the offset of the line that is not one.

    Lines end at a line feed and at nothing else, fields at one blank: every other byte may be part of a name (CHG-1).
    Fields that gsyncd's XSYNC changelogs put after the operation of an M record are read over.
    """
    records: list[Record] = []
    offset = 0
    for text in data.split(b"\n"):
        if text:
            try:
                records.append(_parse_line(text.split(b" ")))
            except (ValueError, IndexError, KeyError) as e:
                raise JournalError(f"line at byte {offset} is not a record: {text[:120]!r}", offset=offset) from e
        offset += len(text) + 1
    if data and not data.endswith(b"\n"):
        raise JournalError("the last line has no end", offset=data.rfind(b"\n") + 1)
    return records


def _slot_field(slot: Slot) -> bytes:
    return gfid_text(slot.parent).encode() + b"/" + escape(slot.name)


def _parse_line(fields: list[bytes]) -> Record:
    kind, gfid = fields[0], parse_gfid(fields[1])
    if kind == b"D" and len(fields) == 2:
        return DataChange(gfid)
    if kind == b"M":
        return MetaChange(gfid, _fop(fields[2]))
    if kind != b"E":
        raise ValueError(f"unknown kind {kind!r}")
    return _parse_entry(gfid, int(Fop(_fop(fields[2]))), fields[3:])


def _parse_entry(gfid: Gfid, fop: int, fields: list[bytes]) -> EntryChange:
    mode = uid = owner = 0
    if fop in _MADE:
        mode, uid, owner = (int(word) for word in fields[:3])
        fields = fields[3:]
    slot = _parse_slot(fields[0])
    dest = path = None
    if fop == Fop.RENAME:
        dest = _parse_slot(fields[1])
        fields = fields[2:]
    else:
        fields = fields[1:]
        if fop in _DELETED and fields:
            path = unescape(fields[0])
            fields = fields[1:]
    if fields:
        raise ValueError("fields left over")
    return EntryChange(gfid, fop, slot, dest, mode, uid, owner, path)


def _parse_slot(field: bytes) -> Slot:
    text = unescape(field)
    name = text[37:]
    if text[36:37] != b"/" or not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise ValueError(f"not a name: {field!r}")
    return Slot(parse_gfid(text[:36]), name)


def _fop(word: bytes) -> int:
    text = word.decode("ascii")
    return int(text) if text.isdigit() else FOP_NUMBERS[text]
