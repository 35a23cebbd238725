"""What commands print: results on stdout, errors as one line on stderr; every text from outside escaped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from engine.names import escaped
from georep_tui.view.text import escape, fit, width

NAME = "georep-tui"
DONE, INCOMPLETE, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130


def say(text: str = "") -> None:
    """A line of a result."""
    sys.stdout.write(text + "\n")


def error(text: str, hint: str = "") -> None:
    """An error: one line, whatever is in it."""
    whole = f"{NAME}: {text}" + (f" ({hint})" if hint else "")
    sys.stderr.write(escape(" ".join(whole.split())) + "\n")
    sys.stderr.flush()


def say_json(document: Any) -> None:
    """A document as JSON, for programs."""
    out = json.dumps(escaped(document), indent=2, ensure_ascii=False)
    sys.stdout.write(out.encode("utf-8", "backslashreplace").decode() + "\n")
    sys.stdout.flush()


def say_json_line(document: Any) -> None:
    """A document on one line: one of many."""
    sys.stdout.write(json.dumps(escaped(document), separators=(",", ":")) + "\n")
    sys.stdout.flush()


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), *, right: Sequence[int] = ()) -> list[str]:
    """Rows as lines with columns below each other; those numbered in `right` are put to the right."""
    every = [tuple(head), *(tuple(r) for r in rows)] if head else [tuple(r) for r in rows]
    if not every:
        return []
    columns = [max(width(row[i]) if i < len(row) else 0 for row in every) for i in range(max(map(len, every)))]
    lines = []
    for row in every:
        cells = [fit(cell, columns[i], right=i in right) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines


def silence() -> None:
    """The reader of the output has gone: what is buffered must not fail when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def terminal() -> bool:
    """Are stdin, stdout and stderr all a terminal?"""
    return all(os.isatty(fd) for fd in (0, 1, 2))
