"""A person's ssh, done by paramiko against a real sshd: configuration, known hosts, keys, agents, jumps, proxies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from georep_tui.sources.base import SourceError
from georep_tui.ssh.asker import Nobody
from georep_tui.ssh.client import connect
from georep_tui.ssh.keys import Keyring
from georep_tui.ssh.known import KnownHosts
from georep_tui.ssh.place import Place, parse_place, read_settings, resolve
from tests.system.line import Line
from tests.system.runner import wait_until
from tests.system.sshd import Sshd

PHRASE = "kuh-im-Nebel 17"


class Person(Nobody):
    """Answers as a test says, and remembers what was asked and said."""

    def __init__(self, *phrases: str, yes: bool = False) -> None:
        self.phrases = list(phrases)
        self.yes = yes
        self.asked: list[str] = []
        self.said: list[str] = []

    def confirm(self, title: str, lines: object) -> bool:
        self.asked.append(f"{title} {lines}")
        return self.yes

    def secret(self, title: str) -> str | None:
        self.asked.append(title)
        return self.phrases.pop(0) if self.phrases else None

    def say(self, text: str) -> None:
        self.said.append(text)


Config = Callable[..., str]


@pytest.fixture
def config(sshd: Sshd, tmp_path: Path) -> Config:
    """Writes a configuration with a host `node`; words replace or add to what it says."""

    def make(*more: str, **words: object) -> str:
        values: dict[str, object] = {
            "HostName": "127.0.0.1", "Port": sshd.port, "User": "root" if os.geteuid() == 0 else os.environ["USER"],
            "IdentityFile": sshd.base / "identity", "IdentitiesOnly": "yes", "IdentityAgent": "none",
            "UserKnownHostsFile": sshd.base / "known_hosts", "GlobalKnownHostsFile": "none",
        }  # fmt: skip
        lines = [f"  {k} {v}" for k, v in (values | words).items() if v is not None]
        path = tmp_path / f"config{len(os.listdir(tmp_path))}"
        path.write_text("\n".join(["Host node", *lines, *more]) + "\n")
        return str(path)

    return make


def log_in(config: str, person: Person | None = None, keyring: Keyring | None = None, place: str = "node") -> str:
    """Connect and run a command; what it printed."""
    connection = connect(parse_place(place), person or Person(), keyring or Keyring(), config=config)
    try:
        code, out, _ = connection.run("echo well", 20)
        assert code == 0
        return out.decode().strip()
    finally:
        connection.close()


def key(path: Path, phrase: str = "", kind: str = "ed25519", *more: str) -> Path:
    words = ["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-C", "georep-test", "-f", str(path), *more]
    subprocess.run(words, check=True)
    return path


def let_in(sshd: Sshd, public: Path) -> None:
    with open(sshd.base / "authorized_keys", "a") as f:
        f.write(public.with_name(public.name + ".pub").read_text())


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """An ssh-agent of our own; its socket."""
    sock = str(tmp_path / "agent.sock")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    wait_until(lambda: os.path.exists(sock), 10, "the agent")
    yield sock
    process.send_signal(signal.SIGTERM)
    process.wait()


def add(agent: str, path: Path, phrase: str = "") -> None:
    ask = path.parent / "askpass"
    ask.write_text(f"#!/bin/sh\necho '{phrase}'\n")
    ask.chmod(0o700)
    env = os.environ | {"SSH_AUTH_SOCK": agent, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", str(path)], env=env, check=True, capture_output=True, stdin=subprocess.DEVNULL)


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_file_and_what_ssh_makes_of_the_configuration(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    assert log_in(config()) == "well"
    # Include, Match and patterns are OpenSSH's own to read
    inner = config()
    outer = tmp_path / "outer"
    outer.write_text(f"Include {inner}\nMatch originalhost n*x\n  HostName 127.0.0.1\n")
    assert log_in(str(outer)) == "well"
    settings = resolve(Place("node", "other", 77), config(ProxyCommand="nc %h %p %r %n %%"))
    assert (settings.user, settings.port) == ("other", 77)
    assert settings.proxy == "nc 127.0.0.1 77 other node %"
    assert read_settings("x", "hostname h\nuser u\nport 22\nidentityfile none\n").identities == ()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_every_kind_of_key_with_a_passphrase(sshd: Sshd, config: Config, tmp_path: Path, kind: str) -> None:
    closed = key(tmp_path / "closed", PHRASE, kind)
    let_in(sshd, closed)
    person, keyring = Person("wrong", PHRASE), Keyring()
    assert log_in(config(IdentityFile=closed), person, keyring) == "well"
    assert [a.startswith("That was not it") for a in person.asked] == [False, True]
    assert log_in(config(IdentityFile=closed), person, keyring) == "well"
    assert len(person.asked) == 2, "it is asked for once in a process's life"


def test_a_passphrase_nobody_gives(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    closed = key(tmp_path / "closed", PHRASE)
    let_in(sshd, closed)
    with pytest.raises(SourceError, match="permission denied.*closed needs its passphrase") as e:
        log_in(config(IdentityFile=closed))
    assert e.value.code == "ssh-denied"
    with pytest.raises(SourceError, match="passphrase"):
        log_in(config(IdentityFile=closed), Person("a", "b", "c", "d"))


def test_an_old_pem_key(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    old = key(tmp_path / "old", PHRASE, "rsa", "-m", "PEM")
    let_in(sshd, old)
    assert log_in(config(IdentityFile=old), Person(PHRASE)) == "well"


def test_a_stranger_s_key_and_a_file_that_is_none(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    stranger = key(tmp_path / "stranger")
    with pytest.raises(SourceError, match="permission denied for .*stranger"):
        log_in(config(IdentityFile=stranger))
    (tmp_path / "nonsense").write_text("not a key\n")
    with pytest.raises(SourceError, match=r"nonsense: "):
        log_in(config(IdentityFile=tmp_path / "nonsense"))


def test_the_agent(sshd: Sshd, config: Config, tmp_path: Path, agent: str) -> None:
    """Its keys; with IdentitiesOnly those alone that the configuration names, opened in the agent and not asked for."""
    closed, other = key(tmp_path / "closed", PHRASE), key(tmp_path / "other")
    let_in(sshd, closed)
    add(agent, other)
    add(agent, closed, PHRASE)
    person = Person()
    assert log_in(config(IdentityAgent=agent, IdentitiesOnly="no", IdentityFile=tmp_path / "none"), person) == "well"
    assert log_in(config(IdentityAgent=agent, IdentityFile=closed), person) == "well"
    (tmp_path / "closed.pub").unlink()  # the container itself tells which key it is
    assert log_in(config(IdentityAgent=agent, IdentityFile=closed), person) == "well"
    assert person.asked == []
    with pytest.raises(SourceError, match="permission denied"):
        log_in(config(IdentityAgent=agent, IdentityFile=other), person)
    with pytest.raises(SourceError, match=r"the agent at .*gone"):
        log_in(config(IdentityAgent=tmp_path / "gone", IdentityFile=tmp_path / "none"), person)


# ---- who is there --------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_shown_and_asked_about(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    print_ = subprocess.run(["ssh-keygen", "-lf", str(sshd.base / "host_key.pub")], capture_output=True, text=True)
    known = tmp_path / "new" / "known_hosts"
    words = config(UserKnownHostsFile=known, HashKnownHosts="yes")
    person = Person()
    with pytest.raises(SourceError, match="host key of node is not known") as e:
        log_in(words, person)
    assert print_.stdout.split()[1] in e.value.text and print_.stdout.split()[1] in person.asked[0]
    assert not known.exists()
    assert log_in(words, Person(yes=True)) == "well"
    assert known.read_text().startswith("|1|") and known.stat().st_mode & 0o777 == 0o600
    assert log_in(words, person) == "well"
    found = subprocess.run(
        ["ssh-keygen", "-F", f"[127.0.0.1]:{sshd.port}", "-f", str(known)], capture_output=True, check=False
    )
    assert found.returncode == 0, "OpenSSH itself finds what we wrote"
    with pytest.raises(SourceError, match="not known"):
        log_in(config(UserKnownHostsFile=tmp_path / "empty", StrictHostKeyChecking="yes"), Person(yes=True))
    assert log_in(config(UserKnownHostsFile=tmp_path / "first", StrictHostKeyChecking="accept-new")) == "well"


def test_changed_and_revoked_keys_are_refused_with_the_line(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    name, true = f"[127.0.0.1]:{sshd.port}", (sshd.base / "host_key.pub").read_text()
    other = key(tmp_path / "other").with_name("other.pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{name} {other}")
    with pytest.raises(SourceError, match=rf"has changed: .*{known}:1") as e:
        log_in(config(UserKnownHostsFile=known), Person(yes=True))
    assert "ssh-keygen -R" in e.value.hint
    known.write_text(f"{name} {true}@revoked * {true}")
    with pytest.raises(SourceError, match=rf"is revoked .*{known}:2"):
        log_in(config(UserKnownHostsFile=known), Person(yes=True))


def test_hashed_names_wildcards_aliases_and_what_cannot_be_read(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    true = (sshd.base / "host_key.pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {true}")
    subprocess.run(["ssh-keygen", "-H", "-f", str(known)], check=True, capture_output=True)
    assert known.read_text().startswith("|1|")
    assert log_in(config(UserKnownHostsFile=known)) == "well"
    known.write_text(f"[127.0.*]:*,!*.example {true}")
    assert log_in(config(UserKnownHostsFile=known)) == "well"
    known.write_text(f"*,![127.0.0.1]:{sshd.port} {true}")
    with pytest.raises(SourceError, match="not known"):
        log_in(config(UserKnownHostsFile=known))
    known.write_text(f"another-name {true}")
    assert log_in(config(UserKnownHostsFile=known, HostKeyAlias="Another-Name")) == "well"
    person = Person()
    known.write_text(
        f"# mine\n@cert-authority * {true}node not-a-key\nnode ssh-rsa !!!\n@odd x {true}\n[127.0.0.1]:{sshd.port} {true}"
    )
    assert log_in(config(UserKnownHostsFile=known), person) == "well"
    assert any(f"{known}:2" in s and "@cert-authority" in s for s in person.said), person.said
    assert any(f"{known}:5" in s and "@odd" in s for s in person.said), "a line that may be about it is told"
    assert not any(":3" in s or ":4" in s for s in person.said), "a line about another host is not"
    assert len(KnownHosts([str(known)]).odd) == 4
    known.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(SourceError):
            log_in(config(UserKnownHostsFile=known))


def test_the_kind_of_key_that_is_known_is_asked_for(scratch: Path, tmp_path: Path) -> None:
    """A host known by its ecdsa key is not a changed one because it has another kind as well."""
    server = Sshd(scratch)
    second = key(server.base / "host_ecdsa", "", "ecdsa")
    with open(server.base / "sshd_config", "a") as f:
        f.write(f"HostKey {second}\n")
    server.write_known_hosts("known_hosts", "host_ecdsa.pub")
    server.start()
    try:
        assert log_in(str(server.client()), place="secondary") == "well"
    finally:
        server.stop()


# ---- the way there -------------------------------------------------------------------------------------------------


def test_jumps(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    """One and two jumps, each with a known host key and a login of its own; a passphrase is asked for on the way, too."""
    closed = key(tmp_path / "closed", PHRASE)
    let_in(sshd, closed)
    shared = f"  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityAgent none\n  UserKnownHostsFile {sshd.base}/known_hosts"
    jumps = [f"Host jump\n{shared}\n  IdentityFile {closed}", f"Host second\n{shared}\n  IdentityFile {sshd.base}/identity"]
    person = Person(PHRASE)
    assert log_in(config(*jumps, ProxyJump="jump"), person) == "well"
    assert len(person.asked) == 1
    assert log_in(config(*jumps, ProxyJump="jump,second"), Person(PHRASE)) == "well"
    with pytest.raises(SourceError, match="ssh to jump: permission denied"):
        log_in(config(*jumps, ProxyJump="jump"))
    with pytest.raises(SourceError, match="the jump host does not reach it"):
        log_in(config(*jumps, ProxyJump="jump", Port=1), Person(PHRASE))


def test_proxies(sshd: Sshd, config: Config) -> None:
    relay = (
        "python3 -c 'import socket,sys,os,threading as t;s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
        "t.Thread(target=lambda:[s.sendall(d) for d in iter(lambda:os.read(0,9999),b\"\")],daemon=True).start();"
        "[os.write(1,d) for d in iter(lambda:s.recv(9999),b\"\")]' %h %p"
    )  # fmt: skip
    assert log_in(config(ProxyCommand=relay)) == "well"
    with pytest.raises(SourceError, match="no way through here"):
        log_in(config(ProxyCommand="sh -c 'echo no way through here >&2; exit 1'"))


def test_nobody_answers(sshd: Sshd, config: Config) -> None:
    with pytest.raises(SourceError, match="resolver"):
        log_in(config(HostName="no-such-host.invalid"))
    with pytest.raises(SourceError, match="refused"):
        log_in(config(Port=1))
    with Line(sshd.port) as line:
        line.stall()
        began = time.monotonic()
        with pytest.raises(SourceError) as e:
            log_in(config(Port=line.port, HostKeyAlias=f"[127.0.0.1]:{sshd.port}", ConnectTimeout=1))
        assert time.monotonic() - began < 10 and "ssh to node" in e.value.text
    with pytest.raises(SourceError, match="configuration"):
        log_in(config("NoSuchOption yes"))
