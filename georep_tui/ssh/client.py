"""A connection as a person's ssh would make it: through jumps and proxies, host key checked, logged in."""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import paramiko

from georep_tui.sources.base import SourceError
from georep_tui.ssh.asker import Asker
from georep_tui.ssh.keys import Agent, Keyring
from georep_tui.ssh.known import KnownHosts, fingerprint, remember
from georep_tui.ssh.place import Place, Settings, resolve

CONNECT = 15.0
"""Seconds a connection, a handshake and a login may take, each, where ssh's configuration says nothing."""

ALIVE = 15.0
"""Seconds between keep-alives, where ssh's configuration says nothing."""

_MOST_KEYS = 6
"""Keys offered in one login: servers hang up after so many by default."""

_MOST_JUMPS = 8


class Connection:
    """A logged-in connection with what it goes through; closing it closes all."""

    def __init__(self, transport: paramiko.Transport, settings: Settings, below: Sequence[Any]) -> None:
        self.transport = transport
        self.settings = settings
        self._below = list(below)

    def session(self) -> paramiko.Channel:
        """A channel for one command. Raises what paramiko raises."""
        return self.transport.open_session(timeout=self.settings.connect_timeout or CONNECT)

    def run(self, command: str, timeout: float) -> tuple[int, bytes, bytes]:
        """Run a command there to its end; exit code, output, errors. Raises TimeoutError, OSError, SSHException."""
        channel = self.session()
        out, err = bytearray(), bytearray()
        try:
            channel.settimeout(timeout)
            channel.exec_command(command)
            channel.shutdown_write()
            while data := channel.recv(1 << 16):
                out += data
                if channel.recv_stderr_ready():
                    err += channel.recv_stderr(1 << 16)
            while data := channel.recv_stderr(1 << 16):
                err += data
            return channel.recv_exit_status(), bytes(out), bytes(err)
        finally:
            channel.close()

    def close(self) -> None:
        """Hang up, all the way."""
        for one in (self.transport, *reversed(self._below)):
            with contextlib.suppress(OSError, EOFError):  # the other side was faster
                one.close()


class _Proxy:
    """A ProxyCommand: a child in a session of its own, so it never prompts under a screen."""

    def __init__(self, command: str) -> None:
        ours, theirs = socket.socketpair()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._child = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._words, start_new_session=True
            )
        finally:
            theirs.close()
        self.sock = ours

    def words(self) -> str:
        """What it said last on stderr."""
        self._words.seek(0)
        lines = self._words.read(20_000).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End it."""
        self.sock.close()
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._words.close()


def connect(place: Place, asker: Asker, keyring: Keyring, *, config: str = "") -> Connection:
    """Connect and log in. Raises SourceError with the reason and what to do."""
    logger = logging.getLogger("paramiko")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return _connect(place, asker, keyring, config, 0)


def _connect(place: Place, asker: Asker, keyring: Keyring, config: str, depth: int) -> Connection:
    if depth > _MOST_JUMPS:
        raise SourceError(f"{place.host}: more than {_MOST_JUMPS} jumps", hint="does ProxyJump go in circles?",
                          code="ssh-config")  # fmt: skip
    settings = resolve(place, config)
    below: list[Any] = []
    try:
        sock = _way(settings, asker, keyring, config, depth, below)
        transport = paramiko.Transport(sock)
        below.append(transport)
        _handshake(transport, settings, asker)
        _log_in(transport, settings, asker, keyring)
        transport.set_keepalive(int(settings.alive_interval or ALIVE))
        return Connection(transport, settings, below[:-1])
    except BaseException as e:
        said = next((one.words() for one in below if isinstance(one, _Proxy)), "")
        for one in reversed(below):
            with contextlib.suppress(OSError, EOFError):
                one.close()
        if isinstance(e, OSError | EOFError | paramiko.SSHException):
            raise explain(settings.name, e, said) from e
        raise


def _way(
    settings: Settings, asker: Asker, keyring: Keyring, config: str, depth: int, below: list[Any]
) -> socket.socket | paramiko.Channel:
    """What the connection goes through; what it needs is added to `below`."""
    limit = settings.connect_timeout or CONNECT
    if settings.proxy:
        proxy = _Proxy(settings.proxy)
        below.append(proxy)
        return proxy.sock
    last: Connection | None = None
    for jump in settings.jumps:
        if last is None:
            last = _connect(jump, asker, keyring, config, depth + 1)
        else:
            last = _through(last, jump, asker, keyring, config)
        below.append(last)
    if last is not None:
        return last.transport.open_channel(
            "direct-tcpip", (settings.host, settings.port), ("127.0.0.1", 0), timeout=limit
        )
    sock = socket.create_connection((settings.host, settings.port), limit)
    below.append(sock)
    return sock


def _through(last: Connection, jump: Place, asker: Asker, keyring: Keyring, config: str) -> Connection:
    """The next of several jumps, through the one before."""
    settings = resolve(jump, config)
    channel = last.transport.open_channel(
        "direct-tcpip", (settings.host, settings.port), ("127.0.0.1", 0), timeout=settings.connect_timeout or CONNECT
    )
    transport = paramiko.Transport(channel)
    try:
        _handshake(transport, settings, asker)
        _log_in(transport, settings, asker, keyring)
    except BaseException as e:
        transport.close()
        if isinstance(e, OSError | EOFError | paramiko.SSHException):
            raise explain(settings.name, e) from e
        raise
    return Connection(transport, settings, ())


# ---- who is there ----------------------------------------------------------------------------------------------


def _handshake(transport: paramiko.Transport, settings: Settings, asker: Asker) -> None:
    """Agree on keys, and see that the host is the one that is known. Raises SourceError."""
    limit = settings.connect_timeout or CONNECT
    known = KnownHosts((*settings.known_hosts, *settings.global_known_hosts))
    options = transport.get_security_options()
    able = list(options.key_types)
    first = [t for kind in known.kinds(settings.known_as) for t in _algorithms(kind) if t in able]
    options.key_types = list(dict.fromkeys([*first, *able]))
    transport.banner_timeout = transport.auth_timeout = limit
    transport.use_compression(True)
    transport.start_client(timeout=limit)
    key = transport.get_remote_server_key()
    for odd in known.odd_about(settings.known_as):
        asker.say(f"{odd.where} is not used for {settings.name}: {odd.why}")
    _judge(settings, key, known, asker)


def _algorithms(kind: str) -> Sequence[str]:
    return ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa") if kind == "ssh-rsa" else (kind,)


def _judge(settings: Settings, key: paramiko.PKey, known: KnownHosts, asker: Asker) -> None:
    name, blob = settings.name, key.asbytes()
    found = known.look(settings.known_as, blob)
    print_ = f"{key.get_name()} {fingerprint(blob)}"
    if found.verdict == "known":
        return
    if found.verdict == "revoked":
        raise SourceError(f"the host key of {name} is revoked ({found.where})", code="host-key-revoked",
                          hint="somebody may pretend to be that host; ask who runs it")  # fmt: skip
    if found.verdict == "changed":
        raise SourceError(
            f"the host key of {name} has changed: it is now {print_}, not the one of {found.where}",
            hint=f"if that is right: ssh-keygen -R {shlex.quote(settings.known_as)}, then connect again",
            code="host-key-changed",
        )  # fmt: skip
    unknown = SourceError(f"the host key of {name} is not known: {print_}", code="host-key-unknown",
                          hint=f"compare it, then connect once by hand: ssh {name}")  # fmt: skip
    if settings.strict == "true" or settings.strict == "yes" or not settings.known_hosts:
        raise unknown
    if settings.strict != "accept-new" and not asker.confirm(
        f"Is {name} ({settings.host} port {settings.port}) really that host?",
        (f"The host key of {name} is not known yet.", f"Its fingerprint is {print_}",
         f"yes keeps it in {settings.known_hosts[0]}"),
    ):  # fmt: skip
        raise unknown
    try:
        remember(settings.known_hosts[0], settings.known_as, key.get_name(), blob, hashed=settings.hash_names)
    except OSError as e:
        asker.say(f"{settings.known_hosts[0]}: {e.strerror}; the host key of {name} is not kept")


# ---- who we are ------------------------------------------------------------------------------------------------


def _log_in(transport: paramiko.Transport, settings: Settings, asker: Asker, keyring: Keyring) -> None:
    """With the first key that is accepted. Raises SourceError when none is."""
    tried: list[str] = []
    agent: Agent | None = None
    if settings.agent:
        try:
            agent = Agent(settings.agent)
        except (OSError, paramiko.SSHException) as e:
            tried.append(f"the agent at {settings.agent}: {e}")
    try:
        for count, offer in enumerate(keyring.offers(settings, asker, agent, tried)):
            if count >= _MOST_KEYS or not transport.is_active():
                tried.append("and no more, for the server hangs up")
                break
            try:
                left = transport.auth_publickey(settings.user, offer.key)
            except (paramiko.BadAuthenticationType, paramiko.AuthenticationException) as e:
                tried.append(offer.name)
                if isinstance(e, paramiko.BadAuthenticationType) and "publickey" not in e.allowed_types:
                    break
                continue
            if not left:
                return
            tried.append(f"{offer.name} was accepted, but {' or '.join(left)} is asked for as well")
            break
    finally:
        if agent is not None:
            agent.close()
    shown = "; ".join(tried) or "there is no key and no agent"
    raise SourceError(f"ssh to {settings.name}: permission denied for {settings.user} ({shown})", code="ssh-denied",
                      hint=f"make `ssh {settings.name} true` work without a password (a key, or an agent)")  # fmt: skip


def explain(host: str, error: BaseException, said: str = "") -> SourceError:
    """What went wrong with ssh in one line with its remedy; `said` is what a proxy said."""
    if said:
        return SourceError(f"ssh to {host}: {said}", hint="see its ProxyCommand", code="ssh-proxy")
    if isinstance(error, socket.gaierror):
        return SourceError(f"host {host} is not known to the resolver", hint="check the name", code="ssh-resolve")
    if isinstance(error, TimeoutError):
        return SourceError(f"ssh to {host}: timed out", hint="check the network and the firewall", code="ssh-timeout")
    if isinstance(error, ConnectionRefusedError | paramiko.ssh_exception.NoValidConnectionsError):
        return SourceError(f"ssh to {host}: connection refused", hint="is sshd running, is the port right?",
                           code="ssh-refused")  # fmt: skip
    if isinstance(error, paramiko.ChannelException):
        return SourceError(f"ssh to {host}: the jump host does not reach it: {error.text}", code="ssh-jump",
                           hint="is its name known there, and its port open?")  # fmt: skip
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return SourceError(f"ssh to {host}: no algorithm in common: {error}", code="ssh",
                           hint="is its OpenSSH very old?")  # fmt: skip
    if isinstance(error, EOFError) or not str(error):
        return SourceError(f"ssh to {host}: the connection was lost", hint="check the network", code="ssh")
    return SourceError(f"ssh to {host}: {error}", hint="check the network", code="ssh")
