"""Include and exclude patterns as rsync knows them: which names of a tree are replicated (CRW-10)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from engine.model import EngineError

_CACHE = 1 << 16
_WILD = re.compile(rb"[*?\[]")
_POSIX = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f", b"digit": rb"0-9",
    b"graph": rb"!-~", b"lower": rb"a-z", b"print": rb" -~", b"punct": rb"!-/:-@\[-`{-~", b"space": rb" \t-\r",
    b"upper": rb"A-Z", b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip
_NEVER = rb"(?!)"


class FilterError(EngineError):
    """A pattern that rsync would not take either."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="filter")


class _Rule(NamedTuple):
    include: bool
    pattern: re.Pattern[bytes]
    directories_only: bool
    whole_path: bool
    """Matched against the path, else against the last component alone."""
    prefix: bytes
    """Put before the path: a slash where the pattern begins with `**`, so that `**/` reaches names at the root."""
    with_slash: bool
    """A directory is matched with a slash at its end: the pattern ends in `***`."""


class Filters:
    """A list of rules; the first that matches decides, and what none matches is replicated.

    The includes are tested first, in their order, then the excludes: as `rsync --include=… --exclude=…`. A pattern
    that begins with `+ ` or `- ` is an include or an exclude wherever it stands, `!` alone forgets the rules before
    it. Patterns are text (surrogate escapes stand for bytes that are not UTF-8). Raises FilterError.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        rules: list[_Rule] = []
        for texts, including in ((include, True), (exclude, False)):
            for text in texts:
                if text == "!":
                    rules.clear()
                else:
                    rules.append(_rule(text, including))
        self._rules = rules
        self._directories: dict[bytes, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excluded(self, path: bytes, is_dir: bool) -> bool:
        """Is this path, relative to the brick's root, or a directory above it, excluded? The root (b"") never is."""
        if not self._rules or not path:
            return False
        cut = path.rfind(b"/")
        if cut > 0 and self._directory(path[:cut]):
            return True
        return self._directory(path) if is_dir else self._matches(path, False)

    def _directory(self, path: bytes) -> bool:
        known = self._directories.get(path)
        if known is None:
            cut = path.rfind(b"/")
            known = (cut > 0 and self._directory(path[:cut])) or self._matches(path, True)
            if len(self._directories) >= _CACHE:
                self._directories.clear()
            self._directories[path] = known
        return known

    def _matches(self, path: bytes, is_dir: bool) -> bool:
        """The verdict of the first rule that matches this name, whatever is above it."""
        name = path[path.rfind(b"/") + 1 :]
        for rule in self._rules:
            if rule.directories_only and not is_dir:
                continue
            text = rule.prefix + path if rule.whole_path else name
            if rule.with_slash and is_dir:
                text += b"/"
            if rule.pattern.fullmatch(text):
                return not rule.include
        return False


def _rule(text: str, include: bool) -> _Rule:
    """One pattern, with rsync's rules for where it must match."""
    pattern = os.fsencode(text)
    if pattern[:2] in (b"+ ", b"- "):
        include = pattern[:1] == b"+"
        pattern = pattern[2:]
    if not pattern or b"\0" in pattern:
        raise FilterError(f"not a pattern: {text!r}")
    wild = _WILD.search(pattern) is not None
    double = wild and b"**" in pattern
    leading = double and pattern.startswith(b"**")
    with_slash = wild and pattern.endswith(b"***")
    directories_only = len(pattern) > 1 and pattern.endswith(b"/")
    if directories_only:
        pattern = pattern[:-1]
    whole = double or b"/" in pattern
    anchored = pattern.startswith(b"/")
    body = _wild(pattern[anchored:]) if wild else re.escape(pattern[anchored:])
    if whole and not anchored and not leading:
        if not double and body.count(b"/") - body.count(b"[^/]") != pattern.count(b"/"):
            body = _NEVER  # a slash in brackets matches nothing, yet rsync wants as many components as slashes
        body = b"(?:.*/)?" + body
    compiled = re.compile(body, re.DOTALL)
    return _Rule(include, compiled, directories_only, whole, b"/" if leading else b"", with_slash)


def _wild(pattern: bytes) -> bytes:
    """rsync's wildcards as a regular expression: `*` and `?` stop at slashes, `**` does not, `\\` takes literally."""
    out: list[bytes] = []
    i = 0
    while i < len(pattern):
        c = pattern[i : i + 1]
        i += 1
        if c == b"*":
            end = i
            while pattern[end : end + 1] == b"*":
                end += 1
            out.append(b".*" if end > i else b"[^/]*")
            i = end
        elif c == b"?":
            out.append(b"[^/]")
        elif c == b"[":
            part, i = _class(pattern, i)
            out.append(part)
        elif c == b"\\":
            if i >= len(pattern):
                return _NEVER
            out.append(re.escape(pattern[i : i + 1]))
            i += 1
        else:
            out.append(re.escape(c))
    return b"".join(out)


def _class(pattern: bytes, i: int) -> tuple[bytes, int]:
    """A bracket expression that begins before `i`, and where it ends; never matches when it has no end."""
    negated = pattern[i : i + 1] in (b"!", b"^")
    i += negated
    members: set[int] = set()
    previous = -1
    first = True
    while True:
        c = pattern[i : i + 1]
        if not c:
            return _NEVER, len(pattern)
        if c == b"]" and not first:
            i += 1
            break
        first = False
        following = pattern[i + 1 : i + 2]
        if c == b"\\":
            if not following:
                return _NEVER, len(pattern)
            previous = following[0]
            members.add(previous)
            i += 2
        elif c == b"-" and previous >= 0 and following and following != b"]":
            i += 1
            if following == b"\\":
                i += 1
                if i >= len(pattern):
                    return _NEVER, len(pattern)
            members.update(range(previous, pattern[i] + 1))
            previous = -1
            i += 1
        elif c == b"[" and following == b":":
            end = pattern.find(b"]", i + 2)
            if end < 0:
                return _NEVER, len(pattern)
            name = pattern[i + 2 : end - 1]
            if pattern[end - 1 : end] == b":" and end - 1 >= i + 2:
                if name not in _POSIX:
                    return _NEVER, len(pattern)
                posix = re.compile(b"[" + _POSIX[name] + b"]")
                members.update(n for n in range(256) if posix.match(bytes((n,))))
                i = end + 1
            else:
                members.add(0x5B)
                i += 1
            previous = -1
        else:
            previous = c[0]
            members.add(previous)
            i += 1
    chosen = sorted((set(range(256)) - members if negated else members) - {0x2F})
    if not chosen:
        return _NEVER, i
    return b"[" + b"".join(b"\\x%02x" % n for n in chosen) + b"]", i
