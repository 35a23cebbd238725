"""`doctor`: what would keep a session from running, found step by step, each with a remedy (SAFE-4). Changes nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import __version__
from engine.config import Config
from engine.journal.inotify import Inotify
from engine.journal.sources import Scan, open_source
from engine.link import LinkError, SshTarget, connect, explain
from engine.model import EngineError
from engine.options import Options
from engine.protocol import own_directory, socket_path
from engine.spec import SessionSpec, check_state, make_spec
from engine.volume.facts import NEEDED, Gluster, look
from georep_tui import output, probe
from georep_tui.places import known_session, session_file, state_base
from georep_tui.sources.base import SourceError
from georep_tui.ssh.known import KnownHosts
from georep_tui.ssh.place import Place, resolve
from georep_tui.view.text import escape
from georep_tui.view.units import duration, size

SKEW = 5.0
"""Seconds two clocks may differ unsaid."""

LINKLESS = frozenset(("vfat", "msdos", "exfat", "ntfs", "ntfs3", "hfs"))
LOW_SPACE = 1 << 30
LOW_INODES = 10_000
_SIGNS = {"ok": "✔", "warning": "▲", "failed": "✖", "skipped": "·"}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing looked at. `result`: ok, warning, failed, skipped."""

    step: str
    result: str
    text: str
    hint: str = ""


def examine(words: Sequence[str], state_dir: str = "", *, as_json: bool = False) -> int:
    """Look, and say what was found; exit code 1 when a step failed. `words` are a session, or PRIMARY… SECONDARY.

    Raises EngineError for words that are neither.
    """
    session = " ".join(words)
    found: list[Step] = []
    base = state_base(state_dir)
    for step in _steps(words[0], base) if len(words) == 1 else _pair(words, base):
        found.append(step)
        if not as_json:
            show(step)
    bad = failed(found)
    if as_json:
        output.say_json({"session": session, "ok": not bad, "steps": [asdict(s) for s in found]})
    return output.INCOMPLETE if bad else output.DONE


def failed(steps: Sequence[Step]) -> bool:
    """Did one of them fail?"""
    return any(s.result == "failed" for s in steps)


def show(step: Step) -> None:
    """A step as a line, and what mends it below."""
    output.say(f"{_SIGNS[step.result]} {escape(step.step)}: {escape(step.text)}")
    if step.hint and step.result != "ok":
        output.say(f"    {escape(step.hint)}")
    sys.stdout.flush()


def _pair(words: Sequence[str], base: str) -> Iterator[Step]:
    """Two addresses, as `run` takes them: a session that may be begun."""
    try:
        spec = make_spec(words[:-1], words[-1])
        state = os.path.join(base, spec.name)
        check_state(state, spec.bricks, spec.secondary)
        options = Config(state).options
    except EngineError as e:
        yield Step("session", "failed", e.text, e.hint)
        return
    yield from _look(spec, state, options, " ".join(words[:-1]))


def _steps(word: str, base: str) -> Iterator[Step]:
    described = session_file(word)
    known = None if described else known_session(base, word)
    if described is None and known is None:
        raise EngineError(f"{word} is no session's file, and no session of that name is known in {base}",
                          hint="give a session's TOML file, or a name: georep-tui list", code="usage")  # fmt: skip
    name = described.name if described else word
    state = os.path.join(base, name)
    try:
        primaries = described.primaries if described else known.primaries if known else ()
        secondary = described.secondary if described else known.secondary if known else ""
        spec = make_spec(primaries, secondary, name=name)
        check_state(state, spec.bricks, spec.secondary)
        options = Config(state, session_file=described).options
    except EngineError as e:
        yield Step("session", "failed", e.text, e.hint)
        return
    yield from _look(spec, state, options, " ".join(primaries))


def _look(spec: SessionSpec, state: str, options: Options, primaries: str) -> Iterator[Step]:
    """Everything about one session, from this side to the other."""
    yield Step("session", "ok", f"{spec.name}: {primaries} to {spec.secondary.text}")
    yield from _state(state)
    yield _socket(spec.name)
    if spec.volume is not None:
        yield from _volume(spec.volume.volume, options)
        yield from _secondary(spec, options, state)
        return
    for path, brick in spec.bricks:
        yield from _primary(path, options)
        if brick:
            yield Step("primary", "ok", f"{os.fsdecode(path)} goes to {brick} on the secondary")
    yield from _secondary(spec, options, state)


# ---- this side -------------------------------------------------------------------------------------------------


def _state(state: str) -> Iterator[Step]:
    place = state
    while not os.path.isdir(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK | os.X_OK):
        yield Step("state directory", "failed", f"{place}: permission denied", "choose another with --state-dir")
        return
    vfs = os.statvfs(place)
    free = vfs.f_bavail * vfs.f_frsize
    low = free < LOW_SPACE
    yield Step("state directory", "warning" if low else "ok", f"{state}: {size(free)} free",
               "what the secondary has not got yet is kept there: make room" if low else "")  # fmt: skip


def _socket(name: str) -> Step:
    try:
        return Step("control socket", "ok", socket_path(own_directory(), name))
    except EngineError as e:
        return Step("control socket", "failed", e.text, e.hint)


def _volume(name: str, options: Options) -> Iterator[Step]:
    """The primary volume on this node: what runs, what a start would switch on, whether names are known."""
    gluster = Gluster(options.gluster_command)
    try:
        here = look(gluster, name)
    except EngineError as e:
        yield Step("volume", "failed", e.text, e.hint)
        return
    facts = here.facts
    yield Step("volume", "ok", f"{name}: {facts.kind}, {len(facts.bricks)} bricks, {len(here.bricks)} on this node")
    down = [os.fsdecode(b.path) for b in here.bricks if (b.node, b.path) not in here.online]
    if down:
        yield Step("bricks", "warning", f"not running: {', '.join(down)}", f"gluster volume start {name} force")
    missing = [o for o in NEEDED if not facts.on(o)]
    yield Step("journal", "warning" if missing else "ok",
               f"{', '.join(missing)} off: a start switches them on, the first run is a full sync" if missing
               else f"on, a slice every {facts.options.get('changelog.rollover-time', '15')} s")  # fmt: skip
    if facts.options.get("storage.gfid2path", "on") in ("off", "no", "false", "disable", "0"):
        yield Step("names", "failed", "storage.gfid2path is off: bricks do not know their objects' names",
                   f"gluster volume set {name} storage.gfid2path on")  # fmt: skip


def _primary(path: bytes, options: Options) -> Iterator[Step]:
    shown = os.fsdecode(path)
    said: list[str] = []
    try:
        source = open_source(options.recorder, path, bytes(16), lambda _level, text: said.append(text))
        source.stop()
    except (EngineError, OSError) as e:
        hint = e.hint if isinstance(e, EngineError) else ""
        yield Step("recorder", "failed", f"{shown}: {e}", hint)
        return
    kind = type(source).__name__.lower()
    why = f" ({'; '.join(said)})" if said else ""
    if isinstance(source, Scan) and options.recorder != "scan":
        yield Step("recorder", "warning", f"{shown}: scan{why}", "changes are found by looking through the whole tree")
    elif isinstance(source, Inotify):
        yield _watches(path, f"{shown}: inotify{why}")
    else:
        yield Step("recorder", "ok", f"{shown}: {kind}")
    mounts = _mounts_below(shown)
    if mounts:
        yield Step("mounts", "warning", f"not replicated, other filesystems: {', '.join(mounts[:5])}",
                   "one brick for each filesystem: DIR=NAME")  # fmt: skip
    if os.geteuid() != 0:
        yield Step("permissions", "warning", "not root: files this user cannot read go to the failure ledger",
                   "run it as root, or as the owner of all files")  # fmt: skip

def _watches(path: bytes, text: str) -> Step:
    """Is inotify's limit enough for every directory? Counted only as far as that can be told."""
    limit = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text())
    count = 0
    for _ in os.walk(path):
        count += 1
        if count > limit:
            return Step("recorder", "failed", f"{text}: more directories than watches ({limit:,})",
                        f"sysctl fs.inotify.max_user_watches={limit * 4}, or recorder = scan")  # fmt: skip
    near = count > limit * 0.7
    return Step("recorder", "warning" if near else "ok", f"{text}: {count:,} of {limit:,} watches",
                f"sysctl fs.inotify.max_user_watches={limit * 4}" if near else "")  # fmt: skip


def _mounts_below(path: str) -> list[str]:
    real = os.path.realpath(path)
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
        points = [line.split()[1] for line in f]
    return [p for p in points if p.startswith(real.rstrip("/") + "/")]


# ---- the other side --------------------------------------------------------------------------------------------


def _secondary(spec: SessionSpec, options: Options, state: str) -> Iterator[Step]:
    where = spec.secondary
    target = SshTarget(
        where.host, where.user, where.port or (options.ssh_port or None), options.ssh_command,
        tuple(shlex.split(options.ssh_options)), int(options.connection_timeout),
    )  # fmt: skip
    if where.host is not None:
        client = shutil.which(shlex.split(options.ssh_command)[0])
        if client is None:
            yield Step("ssh", "failed", f"{options.ssh_command}: no such program", "apt-get install openssh-client")
            return
        named = list(_names(options, where.host, where.user, where.port or options.ssh_port or None))
        yield from named
        if any(step.result == "failed" for step in named):
            return
    began = time.monotonic()
    try:
        seen = _probe(target, where.path)
    except LinkError as e:
        yield Step("ssh" if where.host else "python", "failed", e.text, e.hint)
        return
    if where.host is not None:
        yield Step("ssh", "ok", f"{where.host} answers in {duration(time.monotonic() - began)}")
    if where.volume is None:
        yield from _host(seen, spec, options)
    yield from _agent(target, spec, options, state)


def _names(options: Options, host: str, user: str | None, port: int | None) -> Iterator[Step]:
    """Is the host's name known, and its key?"""
    words = shlex.split(options.ssh_options)
    file = words[words.index("-F") + 1] if "-F" in words[:-1] else ""
    try:
        settings = resolve(Place(host, user, port), file)
    except SourceError as e:
        yield Step("name", "failed", e.text, e.hint)
        return
    if settings.proxy or settings.jumps:
        way = settings.proxy or ", ".join(j.host for j in settings.jumps)
        yield Step("name", "ok", f"{host} is reached through {way}")
    else:
        try:
            found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as e:
            yield Step("name", "failed", f"{settings.host} does not resolve: {e}",
                       f"add it to /etc/hosts or DNS, or to ~/.ssh/config: Host {host}, HostName ADDRESS")  # fmt: skip
            return
        yield Step("name", "ok", f"{host} is {found[0][4][0]} port {settings.port}")
    known = KnownHosts((*settings.known_hosts, *settings.global_known_hosts))
    kinds = known.kinds(settings.known_as)
    for odd in known.odd_about(settings.known_as):
        yield Step("host key", "warning", f"{odd.where}: {odd.why}", f"correct it, or: ssh-keygen -R {settings.known_as}")
    if kinds:
        yield Step("host key", "ok", f"{settings.known_as} is known by {', '.join(kinds)}")
    elif settings.strict not in ("false", "no", "off"):
        yield Step("host key", "warning", f"{settings.known_as} is not in {', '.join(settings.known_hosts) or 'any file'}",
                   f"connect once by hand, as the user the engine runs as: ssh {host} true")  # fmt: skip


def _probe(target: SshTarget, root: bytes) -> dict[str, Any]:
    """What the other host allows. Raises LinkError."""
    code = Path(probe.__file__).read_text(encoding="utf-8")
    encoded = base64.b64encode(code.encode()).decode()
    loader = f"import base64,sys;sys.argv[0:1]=[];exec(base64.b64decode('{encoded}').decode())"
    if target.host is None:
        argv: list[str | bytes] = [sys.executable, "-c", loader, "-", root]
    else:
        argv = [*target.argv(f"exec python3 -c {shlex.quote(loader)} - {shlex.quote(os.fsdecode(root))}")]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=target.connect_timeout + 5, check=False,
            start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise LinkError(f"{target.host}: no answer within {e.timeout:.0f} s", code="ssh-timeout",
                        hint="check the network and the firewall") from e  # fmt: skip
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("georep-probe "):
            found: dict[str, Any] = json.loads(line.removeprefix("georep-probe "))
            return found
    words = done.stderr.decode("utf-8", "replace").splitlines()
    raise explain(target.host, done.returncode, words, "python3 gave no answer")


def _there(spec: SessionSpec, command: str) -> str:
    """A command as it is given there."""
    where = spec.secondary
    name = f"{where.user}@{where.host}" if where.user else where.host
    return command if where.host is None else f"ssh {name} {shlex.quote(command)}"


def _host(seen: dict[str, Any], spec: SessionSpec, options: Options) -> Iterator[Step]:
    place, shown = seen["place"], os.fsdecode(spec.secondary.path)
    version = tuple(int(v) for v in seen["python"].split("."))
    if version < (3, 9):
        yield Step("python", "failed", f"{seen['node']} has python {seen['python']}", "apt-get install python3 (3.9 or newer) there")
    else:
        who = f"uid {seen['uid']}" if seen["uid"] else "root"
        yield Step("python", "ok", f"{seen['python']} on {seen['node']}, as {who}")
    if not seen["exists"] and os.path.dirname(shown.rstrip("/")) != place:
        yield Step("secondary", "failed", f"{shown}: {os.path.dirname(shown)} does not exist",
                   f"mount it, or make it: {_there(spec, f'mkdir -p {shlex.quote(os.path.dirname(shown))}')}")  # fmt: skip
        return
    if not (seen["read"] and seen["write"] and seen["enter"]) or seen["unnamed"] in ("EACCES", "EROFS", "EPERM"):
        why = "read-only filesystem" if seen["unnamed"] == "EROFS" else "permission denied"
        yield Step("permissions", "failed", f"{place}: {why}", "the replica's directory must be writable there")
        return
    yield Step("permissions", "ok", f"{place} can be written")
    kind = str(seen.get("filesystem") or "")
    if kind in LINKLESS:
        yield Step("hard links", "failed", f"{place} is {kind}, which has no hard links", "a replica wants ext4, xfs or another of Unix")
    else:
        yield Step("hard links", "ok", f"{place} is {kind or 'of a kind not known'}")
    if seen["owners"]:
        yield Step("owners", "warning", f"owners cannot be kept: {seen['owners']}", "log in there as root")
    for what, on in (("xattrs", options.sync_xattrs), ("acls", options.sync_acls)):
        if on and seen[what]:
            yield Step(what, "warning", f"{what} cannot be kept: {seen[what]}", f"another filesystem, or sync_{what} = false")
    low = seen["free_bytes"] < LOW_SPACE or (seen["inodes"] and seen["free_inodes"] < LOW_INODES)
    words = f"{size(seen['free_bytes'])} and {seen['free_inodes']:,} inodes free"
    yield Step("space", "warning" if low else "ok", words, "make room there" if low else "")
    if options.sync_method != "stream":
        yield from _programs(seen, options)


def _programs(seen: dict[str, Any], options: Options) -> Iterator[Step]:
    program, command = ("rsync", options.rsync_command) if options.sync_method == "rsync" else ("tar", options.tar_command)
    missing = [w for w, there in (("here", shutil.which(shlex.split(command)[0])), (seen["node"], seen[program])) if not there]
    if missing:
        yield Step(program, "failed", f"{program} is missing: {' and '.join(missing)}",
                   f"apt-get install {program}, or sync_method = stream")  # fmt: skip
    else:
        yield Step(program, "ok", "on both sides")


def _agent(target: SshTarget, spec: SessionSpec, options: Options, state: str) -> Iterator[Step]:
    """What the agent itself says of each brick's place, or of the secondary volume."""
    volume = None
    places = spec.bricks
    if spec.secondary.volume is not None:
        volume = {"host": spec.secondary.host, "name": spec.secondary.volume, "params": options.secondary_gluster_params}
        places = ((os.fsencode(spec.secondary.text), ""),)
    for path, brick in places:
        try:
            link, hello = connect(target, spec.secondary.path, 60.0, {"root_name": brick, "volume": volume})
            try:
                before = time.time()
                there = float(link.call("keepalive", timeout=60)["time"])
                after = time.time()
            finally:
                link.close()
        except EngineError as e:
            yield Step("agent", "failed", e.text, e.hint)
            return
        yield Step("agent", "ok", f"version {hello['version']} speaks with {__version__}")
        skew = there - (before + after) / 2
        off = abs(skew) > SKEW + (after - before)
        yield Step("clock", "warning" if off else "ok", f"differs by {duration(abs(skew))}",
                   "on both: timedatectl set-ntp true; what is replicated does not depend on it" if off else "")  # fmt: skip
        yield _owner(hello, os.fsdecode(path), _own_id(state))


def _own_id(state: str) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError), open(os.path.join(state, "session.json"), encoding="utf-8") as f:
        return str(json.load(f)["id"])
    return None


def _owner(hello: dict[str, Any], brick: str, own: str | None) -> Step:
    def say(result: str, text: str, hint: str) -> Step:
        return Step("replica", result, f"{brick}: {text}", hint)

    if hello["session"] is not None:
        if hello["session"] == own:
            return say("ok", "is this session's", "")
        return say("failed", f"belongs to another session (primary {hello['primary']})",
                   "choose another secondary, or take it over: run --adopt")  # fmt: skip
    if hello["empty"]:
        return say("ok", "empty: everything will be sent", "")
    return say("warning", "holds files already: equal ones are adopted; what differs is held until you say so",
               "run --adopt lets the primary win")  # fmt: skip
