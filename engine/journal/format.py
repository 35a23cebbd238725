"""The bytes of a changelog, both ways: ASCII of versions 1.1 and 1.2, and the binary encoding for reading (CHG-1)."""

from __future__ import annotations

import re
import struct
from binascii import hexlify, unhexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from engine.model import DataChange, EngineError, EntryChange, Fop, MetaChange, Record, Slot

VERSION = (1, 2)
VERSIONS = ((1, 1), (1, 2))
BINARY, ASCII = 1, 2
MAX_HEADER = 1023
CHUNK = 1 << 20
"""Bytes read at a time by `decode_iter`."""

_NAMES = """
NULL STAT READLINK MKNOD MKDIR UNLINK RMDIR SYMLINK RENAME LINK TRUNCATE OPEN READ WRITE STATFS FLUSH FSYNC
SETXATTR GETXATTR REMOVEXATTR OPENDIR FSYNCDIR ACCESS CREATE FTRUNCATE FSTAT LK LOOKUP READDIR INODELK FINODELK
ENTRYLK FENTRYLK XATTROP FXATTROP FGETXATTR FSETXATTR RCHECKSUM SETATTR FSETATTR READDIRP FORGET RELEASE
RELEASEDIR GETSPEC FREMOVEXATTR FALLOCATE DISCARD ZEROFILL IPC SEEK LEASE COMPOUND GETACTIVELK SETACTIVELK PUT
ICREATE NAMELINK COPY_FILE_RANGE"""

FOPS: dict[int, str] = dict(enumerate(_NAMES.split()))
"""File operation numbers of GlusterFS to their names."""

FOP_NUMBERS: dict[str, int] = {name: number for number, name in FOPS.items()}
"""Names to numbers."""

_MADE = frozenset((Fop.CREATE, Fop.MKNOD, Fop.MKDIR))
_DELETED = frozenset((Fop.UNLINK, Fop.RMDIR))
_ENTRY = {b"%d" % fop: int(fop) for fop in Fop}
_NOT_NAMES = frozenset((b"", b".", b".."))
_HEADER = re.compile(rb"GlusterFS Changelog \| version: v(\d{1,4})\.(\d{1,4}) \| encoding : (\d{1,4})\n")
_START = re.compile(rb"[EDM][0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_U32 = struct.Struct("=I")


class JournalError(EngineError):
    """A changelog or an index of changelogs that cannot be used; `offset` is the byte where it stops making sense."""

    def __init__(self, text: str, *, path: bytes = b"", offset: int = 0, hint: str = "", code: str = "journal") -> None:
        super().__init__(text, hint=hint, code=code)
        self.path = path
        self.offset = offset


@dataclass(frozen=True, slots=True)
class TornTail:
    """What is left of a changelog after its last complete record: `length` bytes at `offset` of the file, and why."""

    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A changelog as records, in order.

    `torn` is None when every byte was understood; else the records before it are complete and what follows is
    lost to us: the file belongs into the failure ledger whole. `warnings` name records of kinds we do not know,
    which were skipped (CHG-1).
    """

    records: list[Record]
    version: tuple[int, int]
    encoding: int
    torn: TornTail | None = None
    warnings: list[str] = field(default_factory=list)


def encode_header(version: tuple[int, int] = VERSION, encoding: int = ASCII) -> bytes:
    """The first line of a changelog."""
    return b"GlusterFS Changelog | version: v%d.%d | encoding : %d\n" % (*version, encoding)


def decode_header(data: bytes, path: bytes = b"") -> tuple[tuple[int, int], int, int]:
    """(version, encoding, length of the header in bytes). Raises JournalError on anything we cannot read."""
    match = _HEADER.match(data)
    if match is None:
        end = data.find(b"\n", 0, MAX_HEADER)
        line = data[: end if end >= 0 else 64]
        what = "is empty" if not data else f"begins with {line!r}, which is not the header of a changelog"
        raise JournalError(f"{_where(path)} {what}", path=path, hint="put the file aside, then run a hybrid crawl")
    version = (int(match[1]), int(match[2]))
    encoding = int(match[3])
    if version not in VERSIONS:
        text = f"{_where(path)} has version {version[0]}.{version[1]}; known are 1.1 and 1.2"
        raise JournalError(text, path=path, offset=match.start(1))
    if encoding not in (BINARY, ASCII):
        text = f"{_where(path)} has encoding {encoding}; known are 1 (binary) and 2 (ascii)"
        raise JournalError(text, path=path, offset=match.start(3))
    return version, encoding, match.end()


def _where(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") if path else "changelog"


# ---- writing ------------------------------------------------------------------------------------------------------


def _gfid(gfid: bytes) -> bytes:
    h = hexlify(gfid, "-", 2)
    if len(h) != 39:
        raise JournalError(f"gfid of {len(gfid)} bytes cannot be written (16 are needed): {gfid!r}")
    return h[:4] + h[5:29] + h[30:34] + h[35:]


def encode(records: Iterable[Record]) -> bytes:
    """A whole changelog, header and all: ASCII, version 1.2. UNLINK and RMDIR have their path where the record has one.

    Raises JournalError for a gfid that is not 16 bytes, or a name that is empty, `.`, `..`, or holds NUL or `/`.
    """
    out = [encode_header()]
    add = out.append
    heads: dict[tuple[int, int, int, int], bytes] = {}
    last = last_parent = text = parent_text = b""
    for record in records:
        gfid = record[0]
        if gfid != last:
            text = _gfid(gfid)
            last = gfid
        kind = type(record)
        if kind is DataChange:
            add(b"D%b\0" % text)
            continue
        if kind is MetaChange:
            add(b"M%b\0%d\0" % (text, record[1]))  # type: ignore[misc]
            continue
        _, fop, (parent, name), dest, mode, uid, owner, path, _ = record  # type: ignore[misc]
        if b"\0" in name or b"/" in name or name in _NOT_NAMES:
            raise JournalError(f"name that cannot be written: {name!r}")
        if parent != last_parent:
            parent_text = _gfid(parent)
            last_parent = parent
        if fop in _MADE:
            key = (fop, mode, uid, owner)
            head = heads.get(key)
            if head is None:
                head = heads[key] = b"\0%d\0%d\0%d\0%d\0" % key
            add(b"E%b%b%b/%b\0" % (text, head, parent_text, name))
        elif fop in _DELETED:
            add(b"E%b\0%d\0%b/%b\0%b\0" % (text, fop, parent_text, name, path or b"\0"))
            if path and b"\0" in path:
                raise JournalError(f"path that cannot be written: {path!r}")
        elif fop == Fop.RENAME:
            if dest is None or b"\0" in dest.name or b"/" in dest.name or dest.name in _NOT_NAMES:
                raise JournalError(f"RENAME of {name!r} to what cannot be written: {dest!r}")
            add(b"E%b\x008\0%b/%b\0%b/%b\0" % (text, parent_text, name, _gfid(dest.parent), dest.name))
        elif fop in (Fop.SYMLINK, Fop.LINK):
            add(b"E%b\0%d\0%b/%b\0" % (text, fop, parent_text, name))
        else:
            raise JournalError(f"fop {fop} cannot stand in an entry record")
    return b"".join(out)


# ---- reading ------------------------------------------------------------------------------------------------------


def decode(data: bytes, path: bytes = b"") -> Decoded:
    """A whole changelog to records. Raises JournalError when the header is not one of ours; see `Decoded` for the rest.

    `path` is only named in errors.
    """
    version, encoding, start = decode_header(data, path)
    warnings: list[str] = []
    parser = _parser(version, encoding, start, warnings)
    records = parser.feed(data[start:] if start < len(data) else b"")
    return Decoded(records, version, encoding, parser.finish(), warnings)


def decode_iter(stream: BinaryIO, warnings: list[str], path: bytes = b"") -> Iterator[Record]:
    """The records of a changelog that is too large for memory, read a chunk at a time.

    Raises JournalError at the start for a foreign header, and at the end for a torn tail, after all complete records.
    """
    head = stream.read(CHUNK)
    version, encoding, start = decode_header(head, path)
    parser = _parser(version, encoding, start, warnings)
    yield from parser.feed(head[start:])
    while not parser.reason and (chunk := stream.read(CHUNK)):
        yield from parser.feed(chunk)
    torn = parser.finish()
    if torn is not None:
        text = f"{_where(path)} is torn at byte {torn.offset}: {torn.reason}"
        raise JournalError(text, path=path, offset=torn.offset)


class _Parser:
    """Takes the body in pieces. `reason` is set where the journal stops making sense."""

    def __init__(self, version: tuple[int, int], start: int, warnings: list[str]) -> None:
        self.paths = version >= (1, 2)
        self.offset = start
        self.warnings = warnings
        self.rest = b""
        self.reason = ""

    def feed(self, data: bytes) -> list[Record]:
        raise NotImplementedError

    def finish(self) -> TornTail | None:
        if not self.rest:
            return None
        return TornTail(self.offset, len(self.rest), self.reason or "the last record is incomplete")


def _parser(version: tuple[int, int], encoding: int, start: int, warnings: list[str]) -> _Parser:
    return (_Ascii if encoding == ASCII else _Binary)(version, start, warnings)


class _Bad(ValueError):
    """A record that cannot be what it claims to be."""


class _Ascii(_Parser):
    """Everything is text between NULs and no field holds one, so the body is split once."""

    def __init__(self, version: tuple[int, int], start: int, warnings: list[str]) -> None:
        super().__init__(version, start, warnings)
        self.skipping = False

    def feed(self, data: bytes) -> list[Record]:
        self.rest += data
        out: list[Record] = []
        if self.reason:
            return out
        tokens = self.rest.split(b"\0")
        tokens.pop()  # what follows the last NUL
        at = self._take(tokens, out)
        used = sum(map(len, tokens[:at])) + at
        self.offset += used
        self.rest = self.rest[used:]
        return out

    def _take(self, tokens: list[bytes], out: list[Record]) -> int:
        """Append the complete records to `out`; the index of the first token that was not used."""
        i = 0
        if self.skipping:
            i = self._skip(tokens, 0)
        numbers: dict[bytes, int] = {}
        add, make, entries, no_names, paths = out.append, tuple.__new__, _ENTRY, _NOT_NAMES, self.paths
        text: bytes | None = None
        parent_text: bytes | None = None
        gfid = parent = b""
        try:
            while True:
                token = tokens[i]
                if token[1:] != text:
                    text = token[1:]
                    gfid = _read_gfid(text)
                kind = token[0]
                if kind == 68:  # D
                    add(make(DataChange, (gfid,)))
                    i += 1
                    continue
                if kind == 77:  # M
                    word = tokens[i + 1]
                    fop = numbers.get(word)
                    if fop is None:
                        fop = numbers[word] = _number(word)
                        if fop not in FOPS:
                            self.warnings.append(f"M record with unknown operation {fop}")
                    add(make(MetaChange, (gfid, fop)))
                    i += 2
                    continue
                if kind != 69:
                    self.warnings.append(f"record of unknown kind {chr(kind)!r} at byte {self._at(tokens, i)}")
                    i = self._skip(tokens, i + 1)
                    continue
                word = tokens[i + 1]
                fop = entries.get(word)
                mode = uid = owner = 0
                if fop is None:
                    number, at = _number(word), self._at(tokens, i)
                    self.warnings.append(f"E record with unknown operation {number} at byte {at}")
                    i = self._skip(tokens, i + 2)
                    continue
                if fop == 23 or fop == 4 or fop == 3:
                    entry = tokens[i + 5]
                    three: list[int] = []
                    for word in tokens[i + 2 : i + 5]:
                        n = numbers.get(word)
                        if n is None:
                            n = numbers[word] = _number(word)
                        three.append(n)
                    mode, uid, owner = three
                    used = 6
                else:
                    entry = tokens[i + 2]
                    used = 3
                if entry[:36] != parent_text:
                    parent_text = entry[:36]
                    parent = _read_gfid(parent_text)
                name = entry[37:]
                if entry.rfind(b"/") != 36 or name in no_names:
                    raise _Bad(f"not a name: {entry[36:100]!r}")
                slot = make(Slot, (parent, name))
                dest = path = None
                if fop == 8:
                    dest = _read_slot(tokens[i + 3])
                    used = 4
                elif paths and (fop == 5 or fop == 6):
                    path = tokens[i + 3]
                    used = 4
                    if not path:
                        path = None
                        if tokens[i + 4]:
                            raise _Bad("a deletion without path and without its terminator")
                        used = 5
                add(make(EntryChange, (gfid, fop, slot, dest, mode, uid, owner, path, 0)))
                i += used
        except IndexError:
            pass  # the rest is not there (yet)
        except _Bad as e:
            self.reason = str(e)
        return i

    def _skip(self, tokens: list[bytes], i: int) -> int:
        """The next token that begins a record of a known kind; all of them when there is none yet."""
        while i < len(tokens) and not _START.fullmatch(tokens[i]):
            i += 1
        self.skipping = i >= len(tokens)
        return i

    def _at(self, tokens: list[bytes], i: int) -> int:
        return self.offset + sum(map(len, tokens[:i])) + i


def _read_gfid(text: bytes) -> bytes:
    if len(text) == 36 and text[8:24:5] == b"----":
        try:
            gfid = unhexlify(text.replace(b"-", b""))
        except ValueError:
            gfid = b""
        if len(gfid) == 16:
            return gfid
    raise _Bad(f"not a gfid: {text[:40]!r}")


def _read_slot(entry: bytes) -> Slot:
    if entry.rfind(b"/") != 36 or entry[37:] in _NOT_NAMES:
        raise _Bad(f"not a name: {entry[36:100]!r}")
    return Slot(_read_gfid(entry[:36]), entry[37:])


def _number(word: bytes) -> int:
    if not word.isdigit() or len(word) > 10:
        raise _Bad(f"not a number: {word[:20]!r}")
    return int(word)


class _Binary(_Parser):
    """Raw gfids and native 32-bit numbers, which hold NULs: read by field widths (as the writer writes them)."""

    def feed(self, data: bytes) -> list[Record]:
        self.rest += data
        out: list[Record] = []
        at = 0
        try:
            while at < len(self.rest) and not self.reason:
                record, at = self._record(at)
                out.append(record)
        except IndexError:
            pass
        except _Bad as e:
            self.reason = str(e)
        self.offset += at
        self.rest = self.rest[at:]
        return out

    def _record(self, at: int) -> tuple[Record, int]:
        kind = self.rest[at : at + 1]
        if kind not in (b"D", b"M", b"E"):
            raise _Bad(f"record of unknown kind {kind!r}: its length cannot be known")
        gfid, at = self._fixed(at + 1, 16)
        if kind == b"D":
            return DataChange(gfid), at
        fop, at = self._u32(at)
        if kind == b"M":
            if fop not in FOPS:
                self.warnings.append(f"M record with unknown operation {fop}")
            return MetaChange(gfid, fop), at
        mode = uid = owner = 0
        if fop in _MADE:
            mode, at = self._u32(at)
            uid, at = self._u32(at)
            owner, at = self._u32(at)
        elif b"%d" % fop not in _ENTRY:
            raise _Bad(f"E record with unknown operation {fop}: its length cannot be known")
        slot, at = self._slot(at)
        dest = path = None
        if fop == Fop.RENAME:
            dest, at = self._slot(at)
        elif fop in _DELETED and self.paths:
            path, at = self._text(at)
            if not path:
                path = None
                if self.rest[at] != 0:
                    raise _Bad("a deletion without path and without its terminator")
                at += 1
        return EntryChange(gfid, fop, slot, dest, mode, uid, owner, path), at

    def _fixed(self, at: int, width: int) -> tuple[bytes, int]:
        if self.rest[at + width] != 0:
            raise _Bad(f"no NUL after a field of {width} bytes")
        return self.rest[at : at + width], at + width + 1

    def _u32(self, at: int) -> tuple[int, int]:
        raw, at = self._fixed(at, 4)
        return _U32.unpack(raw)[0], at

    def _text(self, at: int) -> tuple[bytes, int]:
        end = self.rest.find(b"\0", at)
        if end < 0:
            raise IndexError
        return self.rest[at:end], end + 1

    def _slot(self, at: int) -> tuple[Slot, int]:
        if self.rest[at + 16] != 0x2F:
            raise _Bad("no / after the parent's gfid")
        name, end = self._text(at + 17)
        if b"/" in name or name in _NOT_NAMES:
            raise _Bad(f"not a name: {name[:64]!r}")
        return Slot(self.rest[at : at + 16], name), end
