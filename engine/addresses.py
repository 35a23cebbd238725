"""Where a replica is: the texts people give for primaries and secondaries, and what they mean."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from engine.model import EngineError

_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@\\-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?")
_VOLUME = re.compile(r"[A-Za-z0-9_-]+")

FORMS = "DIR, [USER@]HOST:DIR, ssh://[USER@]HOST[:PORT]/DIR, or [USER@]HOST::VOLUME"


class AddressError(EngineError):
    """A text that names no place."""

    def __init__(self, text: str, hint: str = f"a secondary is {FORMS}") -> None:
        super().__init__(text, hint=hint, code="usage")


@dataclass(frozen=True, slots=True)
class SecondaryAddress:
    """Where a replica is. `host` None is this machine; `path` is a directory, or else `volume` names a volume.

    A path on a host may be relative to the user's home there; a local one is absolute. `text` is how it is shown and
    told from others.
    """

    user: str | None
    host: str | None
    port: int | None
    path: bytes
    volume: str | None = None

    @property
    def text(self) -> str:
        """The address as a person would write it."""
        shown = os.fsdecode(self.path)
        if self.host is None:
            return shown
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.volume is not None:
            return f"{user}{host}::{self.volume}"
        if self.port is not None:
            return (
                f"ssh://{user}{host}:{self.port}{shown}"
                if shown.startswith("/")
                else f"ssh://{user}{host}:{self.port}/~/{shown}"
            )
        return f"{user}{host}:{shown}"

    @property
    def kind(self) -> str:
        """`tree` or `gluster`."""
        return "tree" if self.volume is None else "gluster"


@dataclass(frozen=True, slots=True)
class PrimaryVolume:
    """A GlusterFS volume to replicate: any of its hosts, and its name."""

    host: str
    volume: str

    @property
    def text(self) -> str:
        """`host::volume`."""
        return f"{self.host}::{self.volume}"


def parse_secondary(text: str) -> SecondaryAddress:
    """A secondary's text. Raises AddressError.

    A colon after a slash belongs to a path, as rsync has it: `./odd:name` and `/odd:name` are directories here.
    """
    _one_line(text)
    if text.startswith("ssh://"):
        return _url(text)
    head, colon, rest = _host_and_rest(text)
    if not colon:
        return SecondaryAddress(None, None, None, _local(text))
    user, host = _user_host(head, text)
    if rest.startswith(":"):
        if not _VOLUME.fullmatch(rest[1:]):
            raise AddressError(f"{text}: {rest[1:]!r} is no name of a volume")
        return SecondaryAddress(user, host, None, b"", rest[1:])
    if not rest:
        raise AddressError(f"{text}: the directory is missing")
    return SecondaryAddress(user, host, None, _tidy(os.fsencode(rest)))


def parse_primary(text: str) -> tuple[bytes, str] | PrimaryVolume:
    """A primary's text: a directory (absolute bytes) and the name it gets in the secondary ("": its root), or a volume.

    `dir=name` splits at the last `=`, unless a path of that very name exists. Raises AddressError.
    """
    _one_line(text)
    head, colon, rest = _host_and_rest(text)
    if colon and rest.startswith(":") and not os.path.lexists(text):
        if not _HOST.fullmatch(head) or not _VOLUME.fullmatch(rest[1:]):
            raise AddressError(f"{text}: not a HOST::VOLUME", "a primary is DIR, DIR=NAME, or HOST::VOLUME")
        return PrimaryVolume(head, rest[1:])
    directory, sign, name = text.rpartition("=")
    if not sign or os.path.lexists(text):
        return _local(text), ""
    if not directory:
        raise AddressError(f"{text}: the directory is missing before =", "a primary is DIR, DIR=NAME, or HOST::VOLUME")
    check_brick_name(name, text)
    return _local(directory), name


def is_host(text: str) -> bool:
    """Is this a host's name or address, and nothing else?"""
    return _HOST.fullmatch(text) is not None


def check_brick_name(name: str, where: str) -> None:
    """A brick's name is one name of a directory, not special. Raises AddressError."""
    if not name or name in (".", "..") or "/" in name or name == ".georep" or len(os.fsencode(name)) > 255:
        raise AddressError(f"{where}: {name!r} cannot be a brick's name", "DIR=NAME, the name without slashes")


def _one_line(text: str) -> None:
    if not text:
        raise AddressError("an empty address")
    if "\0" in text:
        raise AddressError("an address with a NUL")


def _host_and_rest(text: str) -> tuple[str, str, str]:
    """HOST, colon, REST; no colon where the text is a local path."""
    if text.startswith("[") or "@[" in text.partition("/")[0]:
        head, bracket, rest = text.partition("]")
        if bracket and rest.startswith(":"):
            return head.replace("[", "", 1), ":", rest[1:]
    slash, colon = text.find("/"), text.find(":")
    if colon < 0 or 0 <= slash < colon:
        return text, "", ""
    return text[:colon], ":", text[colon + 1 :]


def _user_host(head: str, text: str) -> tuple[str | None, str]:
    user, at, host = head.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise AddressError(f"{text}: {user!r} is no name of a user")
    if not _HOST.fullmatch(host):
        raise AddressError(f"{text}: {host!r} is no name of a host")
    return user or None, host


def _url(text: str) -> SecondaryAddress:
    place, slash, path = text.removeprefix("ssh://").partition("/")
    if not slash or not path:
        raise AddressError(f"{text}: the directory is missing")
    user_part, at, host_part = place.rpartition("@")
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?", host_part)
    if not found:
        raise AddressError(f"{text}: {host_part!r} is no HOST or HOST:PORT")
    user, host = _user_host(f"{user_part}{at}{found[1] or found[2]}", text)
    port = int(found[3]) if found[3] else None
    if port is not None and not 1 <= port <= 65535:
        raise AddressError(f"{text}: {port} is no port")
    whole = _tidy(unquote_to_bytes("/" + path))
    if whole.startswith(b"/~/"):
        whole = whole[3:]
    if b"\0" in whole:
        raise AddressError(f"{text}: a path with a NUL")
    return SecondaryAddress(user, host, port, whole)


def _tidy(path: bytes) -> bytes:
    """Without slashes at the end and doubled ones; `..` is left to the other side."""
    tidy = re.sub(rb"//+", b"/", path)
    return tidy.rstrip(b"/") or b"/"


def _local(text: str) -> bytes:
    return os.path.abspath(os.fsencode(os.path.expanduser(text)))
