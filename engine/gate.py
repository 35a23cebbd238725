"""The one place that asks a person before anything is destroyed that this session's own history does not prove (SAFE-1).

What is asked about is a list on disk. Its digest is the id of the question, so an answer is bound to exactly that list; list
and answer are durable before they are shown and before they are acted on, and both outlive a restart.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.guard import Hold
from engine.model import EngineError

DELETE, REPLACE, REMOVE, TAKE_OVER = "delete", "replace", "remove", "take-over"
"""Kinds of consent: deletes of this session's own history beyond the guard; replacing, and removing, what is unproven; a
volume that has something and is nobody's."""

VERBS = {DELETE: "deleted", REPLACE: "replaced", REMOVE: "removed", TAKE_OVER: "replaced or removed"}

SHOWN = 10
"""Names and directories in a snapshot; the list has all."""

KEPT = 90 * 86_400.0
"""Seconds for which lists that were answered are kept as a record."""


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """One object on the secondary that would go, as it was when it was listed. `kind` are the type bits of a mode."""

    path: bytes
    kind: int
    size: int = 0
    mtime_ns: int = 0
    ino: int = 0
    gfid: str = ""
    why: str = ""

    @property
    def facts(self) -> tuple[int, ...]:
        """What must still be so when it goes: a directory's size and time change with what is in it."""
        return (self.ino, self.kind) if self.kind == 0o040000 else (self.ino, self.kind, self.size, self.mtime_ns)

    def shown(self) -> dict[str, Any]:
        """For JSON: the path as text, its bytes beside it where they are not UTF-8."""
        path = _text(self.path)
        out = {"path": path, "kind": self.kind, "size": self.size, "mtime_ns": self.mtime_ns, "ino": self.ino,
               "gfid": self.gfid or None, "why": self.why}  # fmt: skip
        if path.encode("utf-8") != self.path:
            out["path_b64"] = base64.b64encode(self.path).decode()
        return out

    @classmethod
    def read(cls, line: dict[str, Any]) -> Item:
        """From what `shown` made. KeyError, ValueError."""
        path = base64.b64decode(line["path_b64"]) if "path_b64" in line else str(line["path"]).encode()
        return cls(path, int(line["kind"]), int(line["size"]), int(line["mtime_ns"]), int(line["ino"]),
                   str(line.get("gfid") or ""), str(line.get("why") or ""))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said to the list of that id, who and when (unix time)."""

    id: str
    kind: str
    approved: bool
    who: str
    time: float


@dataclass(slots=True)
class Question:
    """What is to be asked. `items` makes the list, only where it is not known yet; `of` counts the whole replica.

    Without an `id` it is the digest of the list.
    """

    kind: str
    reason: str
    items: Callable[[], Iterable[Item]]
    of: int = 0
    id: str = ""
    count: int | None = None
    """How many objects, where the list does not say."""


def list_id(kind: str, items: Iterable[Item]) -> str:
    """The id of a list: a digest of its sorted content."""
    digest = hashlib.blake2b(kind.encode(), digest_size=10)
    for one in sorted(items):
        digest.update(repr((one.path, one.facts, one.gfid)).encode())
    return digest.hexdigest()


@dataclass(slots=True)
class Split:
    """Objects by what was answered about them, and those of which nobody was asked yet."""

    approved: list[Item] = field(default_factory=list)
    rejected: list[Item] = field(default_factory=list)
    rest: list[Item] = field(default_factory=list)


class Gate:
    """The questions of one brick. The worker asks; any thread may answer and look.

    `show` is told what is held now (None: nothing), `told` of each new question.
    """

    def __init__(self, state: str, show: Callable[[Hold | None], None], told: Callable[[Hold], None]) -> None:
        self._dir = os.path.join(state, "held")
        self._show = show
        self._told = told
        self._lock = threading.Lock()
        self._open: dict[str, Hold] = {}
        self._answers: dict[str, Answer] = {}
        self._facts: dict[str, dict[bytes, tuple[tuple[int, ...], bool]]] | None = None
        """What was answered about each path, by kind; None until it is asked for."""
        self._load()

    # ---- asking ----------------------------------------------------------------------------------------------

    def ask(self, question: Question) -> Answer | None:
        """The answer to a question; None while nobody has answered: then it is shown as held."""
        items: list[Item] | None = None
        ident = question.id
        if not ident:
            items = sorted(question.items())
            ident = list_id(question.kind, items)
        with self._lock:
            answer = self._answers.get(ident)
            known = self._open.get(ident)
        if answer is None and known is None:
            hold = self._keep(question, ident, sorted(question.items()) if items is None else items)
        with self._lock:
            # one question of a kind at a time: what it was about before is another list
            for other in [h.id for h in self._open.values() if h.kind == question.kind and h.id != ident]:
                del self._open[other]
            answer = self._answers.get(ident)
            if answer is not None:
                self._open.pop(ident, None)
            elif known is None:
                self._open[ident] = hold
        if answer is None and known is None:
            self._told(hold)
        self._show(self.held())
        return answer

    def decide(self, question: Question, wait: Callable[[], None]) -> Answer:
        """The answer to a question, however long it takes; `wait` waits for news and raises what ends the waiting."""
        while (answer := self.ask(question)) is None:
            wait()
        return answer

    def consent(self, question: Question, who: str) -> Answer:
        """A person has said beforehand that this list may go (`--adopt`): kept as if it had been asked."""
        items = sorted(question.items())
        ident = question.id or list_id(question.kind, items)
        with self._lock:
            known = self._answers.get(ident)
        if known is not None and known.approved:
            return known
        self._keep(question, ident, items)
        return self._note(Answer(ident, question.kind, True, who, time.time()))

    def answer(self, ident: str, approve: bool, who: str) -> None:
        """Approve or reject a list by its id; durable when it returns. Raises EngineError when it is not held (any more)."""
        with self._lock:
            hold = self._open.get(ident)
        if hold is None:
            raise EngineError(f"nothing is held under {ident}", code="not-held",
                              hint="see: georep-tui held; a list that changed is asked about under another id")  # fmt: skip
        self._note(Answer(ident, hold.kind, approve, who, time.time()))

    def held(self) -> Hold | None:
        """What waits for a person first."""
        with self._lock:
            return next(iter(self._open.values()), None)

    def all_held(self) -> list[Hold]:
        """Everything that waits for a person."""
        with self._lock:
            return list(self._open.values())

    def withdraw(self, *kinds: str) -> None:
        """Questions of these kinds have no object any more."""
        with self._lock:
            gone = [h.id for h in self._open.values() if h.kind in kinds]
            for ident in gone:
                del self._open[ident]
        if gone:
            self._show(self.held())

    # ---- what was answered -----------------------------------------------------------------------------------

    def split(self, kind: str, items: Iterable[Item]) -> Split:
        """Which of these may go, which stay, and which must be asked about."""
        known = self._answered().get(kind, {})
        out = Split()
        for one in items:
            facts, approved = known.get(one.path, ((), False))
            if facts != one.facts:
                out.rest.append(one)
            elif approved:
                out.approved.append(one)
            else:
                out.rejected.append(one)
        return out

    def stays(self, path: bytes) -> bool:
        """Did a person reject that this path, or one above it, is replaced?"""
        known = self._answered().get(REPLACE, {})
        if not known:
            return False
        parts = path.split(b"/")
        paths = (b"/".join(parts[:n]) for n in range(1, len(parts) + 1))
        return any(not known[p][1] for p in paths if p in known)

    def used(self, *kinds: str) -> None:
        """What was approved is done with: it allows nothing more."""
        with self._lock:
            done = [a for a in self._answers.values() if a.approved and a.kind in kinds]
        for answer in done:
            self._forget(answer.id, ".used")

    def forget(self, ident: str) -> None:
        """A person wants to be asked again about a list that was rejected."""
        self._forget(ident, ".forgotten")

    def list_of(self, ident: str, offset: int = 0, limit: int = 1_000) -> list[Item]:
        """A part of a list. Raises EngineError for one that is not kept."""
        out: list[Item] = []
        for n, item in enumerate(self._read(ident)):
            if n >= offset + limit:
                break
            if n >= offset:
                out.append(item)
        return out

    def unnoted(self, *kinds: str) -> list[Answer]:
        """Answers of these kinds of which what follows was not written down yet."""
        with self._lock:
            answers = [a for a in self._answers.values() if a.kind in kinds]
        return [a for a in answers if not self.noted(a.id)]

    def reason(self, ident: str) -> str:
        """What a list is about, in the words it was asked in."""
        try:
            return str(self._head(ident)["reason"])
        except (OSError, ValueError, KeyError):
            return "a list that is gone"

    def noted(self, ident: str) -> bool:
        """Has what follows from an answer been written down elsewhere?"""
        return os.path.exists(os.path.join(self._dir, f"{ident}.noted"))

    def note(self, ident: str) -> None:
        """What follows from an answer is written down: not again after a restart, nor when it was dismissed there."""
        self._write(os.path.join(self._dir, f"{ident}.noted"), [])

    # ---- on disk ---------------------------------------------------------------------------------------------

    def path(self, ident: str) -> str:
        """Where a list is."""
        return os.path.join(self._dir, f"{ident}.list")

    def _keep(self, question: Question, ident: str, items: list[Item]) -> Hold:
        """Write a list down; what is shown of it. One that is there already stays, with the time it was first shown."""
        since = time.time()
        with contextlib.suppress(OSError, ValueError, KeyError):
            since = float(self._head(ident)["since"])
            for ending in (".used", ".forgotten"):  # it was answered since, and is asked again
                with contextlib.suppress(FileNotFoundError):
                    since = max(since, os.stat(self._answer_path(ident) + ending).st_mtime)
        nbytes = sum(i.size for i in items if i.kind == 0o100000)
        directories = by_directory(items)
        count = len(items) if question.count is None else question.count
        hold = Hold(
            ident, question.reason, count, question.of, tuple(_text(i.path) for i in items[:SHOWN]), since,
            nbytes if items else None, question.kind, self.path(ident), tuple(directories[:SHOWN]), len(directories),
        )  # fmt: skip
        head = {"id": ident, "kind": question.kind, "reason": question.reason, "since": since, "count": count,
                "bytes": nbytes, "by_directory": directories}  # fmt: skip
        if not os.path.exists(self.path(ident)):
            self._write(self.path(ident), [head, *(i.shown() for i in items)])
        return hold

    def _note(self, answer: Answer) -> Answer:
        said = {"answer": "approved" if answer.approved else "rejected", "kind": answer.kind, "who": answer.who,
                "time": answer.time}  # fmt: skip
        self._write(self._answer_path(answer.id), [said])
        with self._lock:
            self._answers[answer.id] = answer
            self._open.pop(answer.id, None)
            self._facts = None
        self._show(self.held())
        return answer

    def _answer_path(self, ident: str) -> str:
        return os.path.join(self._dir, f"{ident}.answer")

    def _forget(self, ident: str, ending: str) -> None:
        with self._lock:
            self._answers.pop(ident, None)
            self._facts = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._dir, f"{ident}.noted"))
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._answer_path(ident), self._answer_path(ident) + ending)
            _sync(self._dir)

    def _write(self, path: str, lines: list[dict[str, Any]]) -> None:
        os.makedirs(self._dir, mode=0o700, exist_ok=True)
        try:
            with open(path + ".new", "w", encoding="utf-8", opener=_private) as f:
                for line in lines:
                    f.write(json.dumps(line) + "\n")
                f.flush()
                os.fsync(f.fileno())
            os.replace(path + ".new", path)
            _sync(self._dir)
        except OSError as e:
            raise EngineError(f"{path}: cannot be written: {e.strerror}", errno=e.errno, code="state",
                              hint="is there room in the state directory, and may it be written?") from e  # fmt: skip

    def _head(self, ident: str) -> dict[str, Any]:
        with open(self.path(ident), encoding="utf-8") as f:
            head: dict[str, Any] = json.loads(f.readline())
        return head

    def _read(self, ident: str) -> Iterator[Item]:
        try:
            with open(self.path(ident), encoding="utf-8") as f:
                f.readline()
                for line in f:
                    yield Item.read(json.loads(line))
        except FileNotFoundError as e:
            raise EngineError(f"there is no list {ident}", code="not-held", hint="see: georep-tui held") from e
        except (ValueError, KeyError, TypeError) as e:
            raise EngineError(f"{self.path(ident)}: damaged ({e})", code="state-damaged",
                              hint="remove it: what it lists is asked about again") from e  # fmt: skip

    def _load(self) -> None:
        """The answers of earlier runs. One that cannot be read is none: it is asked again."""
        try:
            names = os.listdir(self._dir)
        except FileNotFoundError:
            return
        now = time.time()
        for name in names:
            path = os.path.join(self._dir, name)
            if not name.endswith(".answer"):
                ident = name.partition(".")[0]
                old = os.stat(path).st_mtime < now - KEPT
                if old and not os.path.exists(self._answer_path(ident)):
                    os.unlink(path)
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                with open(path, encoding="utf-8") as f:
                    said = json.load(f)
                ident = name.removesuffix(".answer")
                self._answers[ident] = Answer(ident, str(said["kind"]), said["answer"] == "approved", str(said["who"]),
                                              float(said["time"]))  # fmt: skip

    def _answered(self) -> dict[str, dict[bytes, tuple[tuple[int, ...], bool]]]:
        """What was answered about each path of which somebody was asked: the last word counts."""
        with self._lock:
            if self._facts is not None:
                return self._facts
            answers = sorted(self._answers.values(), key=lambda a: a.time)
        facts: dict[str, dict[bytes, tuple[tuple[int, ...], bool]]] = {}
        for answer in answers:
            if answer.kind in (REPLACE, REMOVE):
                known = facts.setdefault(answer.kind, {})
                with contextlib.suppress(EngineError):  # a list that is gone or damaged answers nothing
                    known.update((i.path, (i.facts, answer.approved)) for i in self._read(answer.id))
        with self._lock:
            self._facts = facts
        return facts


def by_directory(items: Iterable[Item]) -> list[dict[str, Any]]:
    """How many objects and bytes would go in each directory, those with the most first."""
    found: dict[bytes, list[int]] = {}
    for one in items:
        counts = found.setdefault(one.path.rpartition(b"/")[0], [0, 0])
        counts[0] += 1
        counts[1] += one.size if one.kind == 0o100000 else 0
    ordered = sorted(found.items(), key=lambda d: (-d[1][0], d[0]))
    return [{"directory": _text(path) or ".", "count": n, "bytes": size} for path, (n, size) in ordered]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
