"""Texts for a terminal: escaped, measured and cut. Everything that came from outside passes `escape`."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

ELLIPSIS = "…"
UNKNOWN = "–"
"""What stands where a number is not known."""

# Marks of direction and invisible joiners let one name look like another.
_HIDDEN = frozenset("\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff")
_HIDDEN |= frozenset(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2061, 0x2070), *range(0xFFF9, 0xFFFC)))


class Cell(NamedTuple):
    """A piece of text and the role that colours it (see `signs.ROLES`); `text` is escaped already."""

    text: str
    role: str = ""


Line = tuple[Cell, ...]
"""Cells side by side, without a gap between them."""


def escape(text: str) -> str:
    """`text` so that it can do nothing to a terminal and cannot pass for another name.

    Control characters, surrogates, marks of direction and other invisible characters become `\\xNN` or `\\uNNNN`;
    a backslash stays, for names from snapshots are escaped once already.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    code = ord(char)
    if char in _HIDDEN or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Cn", "Co"):
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return char


def width(text: str) -> int:
    """Columns `text` takes on a terminal."""
    return len(text) if text.isascii() else cell_len(text)


def cut(text: str, columns: int) -> str:
    """`text`, its end cut with "…" where it is wider than `columns`."""
    if width(text) <= columns:
        return text
    if columns <= 1:
        return ELLIPSIS[:columns]
    return set_cell_size(text, columns - 1).rstrip(" ") + ELLIPSIS


def cut_middle(text: str, columns: int) -> str:
    """`text`, its middle cut with "…": of a path, both its root and its last name stay readable."""
    if width(text) <= columns:
        return text
    if columns <= 1:
        return ELLIPSIS[:columns]
    head = (columns - 1) // 3
    return set_cell_size(text, head).rstrip(" ") + ELLIPSIS + _tail(text, columns - 1 - head)


def _tail(text: str, columns: int) -> str:
    taken = 0
    for start in range(len(text) - 1, -1, -1):
        taken += width(text[start])
        if taken > columns:
            return text[start + 1 :]
    return text


def fit(text: str, columns: int, *, right: bool = False, middle: bool = False) -> str:
    """`text` in exactly `columns` columns: cut if too wide, else padded on the left (`right`) or the right."""
    shown = cut_middle(text, columns) if middle else cut(text, columns)
    gap = " " * (columns - width(shown))
    return gap + shown if right else shown + gap


def wrap(text: str, columns: int, lines: int) -> list[str]:
    """`text` broken at spaces into at most `lines` lines; what is left over is cut with "…"."""
    out: list[str] = []
    rest = text.strip()
    while rest:
        if len(out) == lines - 1 or width(rest) <= columns:
            out.append(cut(rest, columns))
            break
        head = set_cell_size(rest, columns + 1)
        at = head.rfind(" ")
        if at <= 0:
            at = max(1, len(set_cell_size(rest, columns).rstrip(" ")))
        out.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return out


def plain(line: Line) -> str:
    """The text of a line, without its roles."""
    return "".join(cell.text for cell in line)
