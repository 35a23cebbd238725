"""The keys a person has: in an agent, and in files with or without a passphrase."""

from __future__ import annotations

import base64
import binascii
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import paramiko
from paramiko.agent import AgentSSH

from georep_tui.ssh.asker import Asker
from georep_tui.ssh.known import fingerprint
from georep_tui.ssh.place import Settings

TRIES = 3
"""Times a passphrase is asked for."""

_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_MAGIC = b"openssh-key-v1\0"


class Agent(AgentSSH):
    """The agent at a socket. Raises OSError, paramiko.SSHException."""

    def __init__(self, path: str) -> None:
        super().__init__()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(10.0)
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        self._connect(sock)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Hang up."""
        self._close()  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Offer:
    """A key to log in with, and what to call it."""

    key: paramiko.PKey
    name: str


class Keyring:
    """Keys as they were opened, so that a passphrase is asked for once in the life of this process. Never written."""

    def __init__(self) -> None:
        self._open: dict[str, paramiko.PKey] = {}
        self._lock = threading.RLock()

    def offers(self, settings: Settings, asker: Asker, agent: Agent | None, tried: list[str]) -> Iterator[Offer]:
        """The keys in the order in which ssh tries them; passphrases are asked for last. Adds to `tried` why not."""
        wanted = {path: public_part(path) for path in settings.identities}
        blobs = {blob for blob in wanted.values() if blob}
        held = list(agent.get_keys()) if agent is not None else []
        held.sort(key=lambda k: k.asbytes() not in blobs)
        offered: set[bytes] = set()
        for key in held:
            if key.asbytes() in blobs or not settings.identities_only:
                offered.add(key.asbytes())
                yield Offer(key, f"the agent's {key.get_name()} {fingerprint(key.asbytes())}")
        closed = []
        for path, blob in wanted.items():
            if blob in offered:
                continue
            key_or_none, why = self._plain(path)
            if key_or_none is not None:
                yield Offer(key_or_none, path)
            elif why == "passphrase":
                closed.append(path)
            elif why:
                tried.append(f"{path}: {why}")
        for path in closed:
            opened = self._ask(path, asker)
            if opened is not None:
                yield Offer(opened, path)
            else:
                tried.append(f"{path} needs its passphrase")

    def _plain(self, path: str) -> tuple[paramiko.PKey | None, str]:
        """A key that is open, or why not: "passphrase", a reason, or "" where there is no file."""
        with self._lock:
            if path in self._open:
                return self._open[path], ""
        if not os.path.exists(path):
            return None, ""
        try:
            key = load(path, None)
        except paramiko.PasswordRequiredException:
            return None, "passphrase"
        except (OSError, ValueError, paramiko.SSHException) as e:
            return None, str(e) or type(e).__name__
        return key, ""

    def _ask(self, path: str, asker: Asker) -> paramiko.PKey | None:
        with self._lock:  # two nodes that want the same key ask once
            if path in self._open:
                return self._open[path]
            for attempt in range(TRIES):
                again = "That was not it. " if attempt else ""
                phrase = asker.secret(f"{again}Passphrase for {path}")
                if not phrase:
                    return None
                try:
                    self._open[path] = load(path, phrase)
                except (ValueError, paramiko.SSHException):
                    continue
                return self._open[path]
        return None


def load(path: str, phrase: str | None) -> paramiko.PKey:
    """A private key. Raises PasswordRequiredException, SSHException, ValueError, OSError."""
    last: Exception = paramiko.SSHException("not a private key that can be used here")
    for kind in _CLASSES:
        try:
            return kind.from_private_key_file(path, phrase)
        except paramiko.PasswordRequiredException:
            raise
        except (ValueError, paramiko.SSHException, IndexError, TypeError) as e:
            last = e
    raise paramiko.SSHException(str(last).splitlines()[0] if str(last) else "cannot be read") from last


def public_part(path: str) -> bytes | None:
    """The public half of a key file without opening it: from `.pub` beside it, or from an OpenSSH container."""
    try:
        with open(path + ".pub", encoding="ascii", errors="replace") as f:
            words = f.read().split()
        return base64.b64decode(words[1], validate=True)
    except (OSError, IndexError, ValueError, binascii.Error):
        pass  # no such file, or not one of these: the container tells
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            found = re.search("-----BEGIN OPENSSH PRIVATE KEY-----(.*)-----END", f.read(1 << 16), re.DOTALL)
        data = base64.b64decode("".join(found[1].split())) if found else b""
    except (OSError, ValueError, binascii.Error):
        return None
    if not data.startswith(_MAGIC):
        return None
    data = data[len(_MAGIC) :]
    for _ in range(3):  # cipher, kdf, kdf options
        data = data[4 + int.from_bytes(data[:4], "big") :]
    data = data[4:]
    size = int.from_bytes(data[:4], "big")
    return data[4 : 4 + size] or None
