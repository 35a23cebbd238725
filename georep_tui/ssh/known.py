"""known_hosts as OpenSSH has it: patterns, hashed names, revoked keys; what cannot be used is told, never passed over."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: whose, `marker` ("" or @revoked or @cert-authority), the key's type and bytes, and `where` it is."""

    names: str
    marker: str
    kind: str
    key: bytes
    where: str


@dataclass(frozen=True, slots=True)
class Odd:
    """A line that cannot be used: `where`, and why not. `names` is whom it is about, "" where that cannot be read."""

    where: str
    why: str
    names: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What known_hosts says of a key: known, unknown, changed, revoked; `where` is the line that says so."""

    verdict: str
    where: str = ""


def read_lines(path: str, text: str) -> tuple[list[Entry], list[Odd]]:
    """The lines of one file, and those that cannot be used."""
    entries: list[Entry] = []
    odd: list[Odd] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{path}:{number}"
        marker = words.pop(0) if words[0].startswith("@") else ""
        if marker not in ("", "@revoked", "@cert-authority"):
            odd.append(Odd(where, f"{marker} is no marker that is known"))
            continue
        if len(words) < 3:
            odd.append(Odd(where, "it has no name, type and key", words[0] if words else ""))
            continue
        names, kind, encoded = words[:3]
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            odd.append(Odd(where, "its key is no base64", names))
            continue
        if key[4 : 4 + len(kind)] != kind.encode():
            odd.append(Odd(where, f"its key is not of the type {kind}", names))
            continue
        if marker == "@cert-authority":
            odd.append(Odd(where, "@cert-authority: certificates of hosts are not understood here", names))
            continue
        entries.append(Entry(names, marker, kind, key, where))
    return entries, odd


class KnownHosts:
    """The known hosts of some files; a file that is not there is empty, one that cannot be read is odd."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.entries: list[Entry] = []
        self.odd: list[Odd] = []
        for path in paths:
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as f:
                    entries, odd = read_lines(path, f.read())
            except FileNotFoundError:
                continue
            except OSError as e:
                self.odd.append(Odd(path, f"it cannot be read: {e.strerror}"))
                continue
            self.entries += entries
            self.odd += odd

    def about(self, name: str) -> list[Entry]:
        """The lines about a host: `name`, or `[name]:port`, in small letters."""
        return [entry for entry in self.entries if matches(entry.names, name)]

    def odd_about(self, name: str) -> list[Odd]:
        """The lines that cannot be used and are, or may be, about a host."""
        return [one for one in self.odd if not one.names or matches(one.names, name)]

    def kinds(self, name: str) -> list[str]:
        """The types of key known of a host: those to ask it for first."""
        return list(dict.fromkeys(e.kind for e in self.about(name) if not e.marker))

    def look(self, name: str, key: bytes) -> Finding:
        """Is this the host's key? A revoked one is refused even where another line knows it."""
        mine = self.about(name)
        for entry in mine:
            if entry.marker == "@revoked" and entry.key == key:
                return Finding("revoked", entry.where)
        plain = [entry for entry in mine if not entry.marker]
        for entry in plain:
            if entry.key == key:
                return Finding("known", entry.where)
        return Finding("changed", plain[0].where) if plain else Finding("unknown")


def matches(names: str, name: str) -> bool:
    """Is `name` meant by the first field of a line: a hashed name, or patterns with *, ? and !"""
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    found = False
    for pattern in names.lower().split(","):
        denied = pattern.startswith("!")
        if _glob(pattern[1:] if denied else pattern, name):
            if denied:
                return False
            found = True
    return found


def _glob(pattern: str, name: str) -> bool:
    words = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(words, name, re.DOTALL) is not None


def fingerprint(key: bytes) -> str:
    """`SHA256:…`, as ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def remember(path: str, name: str, kind: str, key: bytes, *, hashed: bool) -> None:
    """Add a host to a person's file, durably. Raises OSError."""
    if hashed:
        salt = os.urandom(20)
        digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
        name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    with open(path, "a+b", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        end = f.seek(0, os.SEEK_END)
        f.seek(max(0, end - 1))
        torn = b"\n" if end and f.read(1) != b"\n" else b""
        f.write(torn + f"{name} {kind} {base64.b64encode(key).decode()}\n".encode())
        f.flush()
        os.fsync(f.fileno())
