"""How far a brick has got, in one small file that is replaced atomically: stime, entry_stime (MRK-6), and the place in
the journal's history that the secondary has reached."""

from __future__ import annotations

import json
import os
from typing import Any

from engine.model import NO_MARK, EngineError, Mark

FORMAT = 2
"""1 had no place; a version that knows only that one refuses this file instead of going on past it."""
_U32 = 1 << 32


class MarkError(EngineError):
    """The file of the marks is damaged, or cannot be read or written; the text names it."""

    def __init__(self, text: str, *, hint: str = "", errno: int | None = None) -> None:
        super().__init__(text, hint=hint, code="mark", errno=errno)


class MarkFile:
    """The marks of one brick for one secondary, in a JSON file. One object, one thread that changes it.

    A file that is not there yet means NO_MARK. Every change is durable when the call returns, and the values of this
    object change only then: what it says may be reported (MRK-6). Raises MarkError.
    """

    def __init__(self, path: bytes | str) -> None:
        self.path = os.fsdecode(path)
        self.stime: Mark = NO_MARK
        """How far the secondary has got."""
        self.entry_stime: Mark = NO_MARK
        """How far entry operations alone have got."""
        self.written_by_us: Mark | None = None
        """The stime that we wrote last; None when we never wrote one. Another value in `stime` (or in a brick's xattr)
        was put there by someone else (MRK-7)."""
        self.identity: dict[str, str] = {}
        """What the marks belong to: session, primary, secondary, as the session wants it."""
        self.at = ""
        """The place (`engine.journal.chain.Place.text`) of the last slice committed on the secondary; "" unknown."""
        self.epoch = 0
        """Counts who may write to the secondary; 0 until there is a fence."""
        self._load()

    @property
    def moved_by_other(self) -> bool:
        """Is the mark another than the one we wrote last (MRK-7)?"""
        return self.written_by_us is not None and self.written_by_us != self.stime

    def advance(self, stime: Mark | None = None, entry_stime: Mark | None = None, at: str = "") -> bool:
        """Move one mark or both forward, durably; an earlier mark is ignored. Whether anything moved (MRK-6).

        `at` is the place that goes with them, "" for the same as before.
        """
        new = max(self.stime, _checked(stime)) if stime is not None else self.stime
        new_entry = max(self.entry_stime, _checked(entry_stime)) if entry_stime is not None else self.entry_stime
        at = at or self.at
        if new == self.stime and new_entry == self.entry_stime and at == self.at:
            return False
        written = new if new != self.stime else self.written_by_us
        self._save(new, new_entry, written, self.identity, at)
        return True

    def reset(self, stime: Mark = NO_MARK, entry_stime: Mark | None = None) -> None:
        """Put the marks anywhere, back too: EVERYTHING for a full resync, NO_MARK for none (MRK-2).

        `entry_stime` is the same mark unless given.
        """
        both = _checked(stime), _checked(stime if entry_stime is None else entry_stime)
        self._save(both[0], both[1], both[0], self.identity)

    def begin_again(self, at: str, identity: dict[str, str]) -> None:
        """Both sides are to be compared from here on: no mark, this place, and what is to be remembered; in one write,
        so that no crash leaves the one without the other."""
        self._save(NO_MARK, NO_MARK, NO_MARK, dict(identity), at)

    def adopt(self, stime: Mark) -> None:
        """Someone else moved the mark (gsyncd took over for a while): take theirs as ours (MRK-7)."""
        stime = _checked(stime)
        self._save(stime, self.entry_stime, stime, self.identity)

    def identify(self, identity: dict[str, str]) -> None:
        """Keep what the marks belong to."""
        if identity != self.identity:
            self._save(self.stime, self.entry_stime, self.written_by_us, dict(identity))

    # ---- the file ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            with open(self.path, "rb") as f:
                raw = f.read()
        except FileNotFoundError:
            return
        except OSError as e:
            raise MarkError(f"{self.path}: {e.strerror}", errno=e.errno) from e
        try:
            known = json.loads(raw)
            if not isinstance(known, dict):
                raise ValueError("not an object")
            if known["format"] not in (1, FORMAT):
                raise ValueError(f"format {known['format']!r}, this version knows {FORMAT}")
            stime, entry_stime = _parse(known["stime"]), _parse(known["entry_stime"])
            written = None if known["written_by_us"] is None else _parse(known["written_by_us"])
            identity = {str(k): str(v) for k, v in known["identity"].items()}
            at, epoch = str(known.get("at") or ""), int(known.get("epoch") or 0)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            what = f"{e.args[0]!r} is missing" if isinstance(e, KeyError) else str(e)
            raise MarkError(
                f"{self.path}: the marks are damaged ({what})",
                hint="remove the file: the next run compares everything with a hybrid crawl",
            ) from e
        self.stime, self.entry_stime, self.written_by_us, self.identity = stime, entry_stime, written, identity
        self.at, self.epoch = at, epoch

    def _save(
        self, stime: Mark, entry_stime: Mark, written: Mark | None, identity: dict[str, str], at: str | None = None
    ) -> None:
        """Write beside, sync, rename, sync the directory; then the values are ours."""
        at = self.at if at is None else at
        facts: dict[str, Any] = {
            "format": FORMAT if at else 1,
            "stime": str(stime),
            "entry_stime": str(entry_stime),
            "written_by_us": None if written is None else str(written),
            "identity": identity,
            "at": at,
            "epoch": self.epoch,
        }
        temporary = self.path + ".new"
        directory = os.path.dirname(self.path) or "."
        try:
            with open(temporary, "w", encoding="utf-8", opener=_private) as f:
                json.dump(facts, f)
                f.write("\n")
                f.flush()
                os.fsync(f.fileno())
            os.rename(temporary, self.path)
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as e:
            raise MarkError(f"{self.path}: cannot be written: {e.strerror}", errno=e.errno) from e
        self.stime, self.entry_stime, self.written_by_us, self.identity = stime, entry_stime, written, identity
        self.at = at


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _parse(text: object) -> Mark:
    if not isinstance(text, str):
        raise ValueError(f"not a mark: {text!r}")
    return _checked(Mark.parse(text))


def _checked(mark: Mark) -> Mark:
    """Marks are pairs of u32, but for NO_MARK (MRK-1)."""
    if mark != NO_MARK and not (0 <= mark.sec < _U32 and 0 <= mark.nsec < 1_000_000_000):
        raise ValueError(f"not a mark: {mark}")
    return Mark(*mark)
