"""What `gluster --xml` says of a volume: bricks, subvolumes, nodes, options; and switching on what is needed (VOL-1)."""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.model import EngineError

TIMEOUT = 120
"""Seconds a `gluster` command may take."""

NEEDED = ("geo-replication.indexing", "geo-replication.ignore-pid-check", "changelog.changelog")
"""Options that are on while a volume is replicated."""

OLDEST = (7, 0)
"""The first version whose journals and marks are known to be as they are read here."""

FOREIGN = "trusted.glusterfs.volume-mark."
_FOREIGN_MARK = struct.Struct("!BB16sBIII")

_TIME = re.compile(r"(\d+)\s*(|s|sec|m|min|h|hr|d|days|w|wk)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class VolumeError(EngineError):
    """A volume that cannot be replicated as it is, with what to do about it."""


@dataclass(frozen=True, slots=True)
class BrickFacts:
    """One brick: `node` is the uuid of its server, `subvolume` and `index` count from 0."""

    index: int
    host: str
    path: bytes
    node: str
    arbiter: bool
    subvolume: int


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """One volume. `width` is the number of bricks of a subvolume; `options` those that were set."""

    name: str
    id: str
    started: bool
    kind: str
    width: int
    dispersed: bool
    bricks: tuple[BrickFacts, ...]
    options: Mapping[str, str]

    @property
    def subvolumes(self) -> int:
        """How many there are."""
        return max((b.subvolume for b in self.bricks), default=0) + 1

    def on(self, option: str) -> bool:
        """Is a switch on?"""
        return self.options.get(option, "off").lower() in ("on", "true", "yes", "enable", "1")

    def seconds(self, option: str, default: int) -> int:
        """An option that is a time as GlusterFS takes it ("90", "2min"), in seconds."""
        match = _TIME.fullmatch(self.options.get(option, ""))
        return int(match[1]) * _UNITS[match[2][:1]] if match else default

    def members(self, subvolume: int) -> tuple[BrickFacts, ...]:
        """The bricks of a subvolume."""
        return tuple(b for b in self.bricks if b.subvolume == subvolume)


class Gluster:
    """Calls `gluster` on this node. `command` is the option `gluster_command`."""

    def __init__(self, command: str = "gluster") -> None:
        self.words = shlex.split(command)

    def xml(self, *words: str) -> ET.Element:
        """The answer to a command. Raises VolumeError."""
        argv = [*self.words, "--mode=script", "--xml", *words]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False)
        except FileNotFoundError as e:
            raise VolumeError(f"{self.words[0]} is not installed here", code="no-gluster",
                              hint="run this on a node of the volume (package glusterfs-server)") from e  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as e:
            raise VolumeError(f"{shlex.join(argv)}: {e}", code="gluster",
                              hint="does glusterd answer here? see /var/log/glusterfs/glusterd.log") from e  # fmt: skip
        said = (done.stderr or done.stdout).decode("utf-8", "backslashreplace").strip()
        try:
            root = ET.fromstring(done.stdout)
        except ET.ParseError as e:
            if "Connection failed" in said or "gluster daemon" in said:
                raise VolumeError("glusterd does not run on this node", code="no-glusterd",
                                  hint="systemctl start glusterd") from e  # fmt: skip
            raise VolumeError(f"{shlex.join(argv)}: {said.splitlines()[0] if said else f'exit {done.returncode}'}",
                              code="gluster") from e  # fmt: skip
        if root.findtext("opRet") != "0":
            raise VolumeError((root.findtext("opErrstr") or said or "refused").strip(), code="gluster")
        return root

    def version(self) -> tuple[int, int]:
        """The version of the command line's package, as in (10, 3); (0, 0) where it does not say."""
        try:
            done = subprocess.run([*self.words, "--version"], capture_output=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return 0, 0
        word = done.stdout.decode("ascii", "replace").split("\n")[0].split()
        numbers = word[1].split(".") if len(word) > 1 else []
        try:
            return int(numbers[0]), int(numbers[1])
        except (IndexError, ValueError):
            return 0, 0

    def node(self) -> str:
        """The uuid of this node. Raises VolumeError."""
        for peer in self.xml("pool", "list").iter("peer"):
            if peer.findtext("hostname") == "localhost":
                return peer.findtext("uuid") or ""
        raise VolumeError("glusterd does not say who this node is", code="gluster")

    def volume(self, name: str) -> VolumeFacts:
        """One volume. Raises VolumeError: unknown, or what `xml` raises."""
        try:
            root = self.xml("volume", "info", name)
        except VolumeError as e:
            if "does not exist" in e.text or "doesn't exist" in e.text:
                raise self._unknown(name) from e
            raise
        found = root.find(".//volume")
        if found is None or found.findtext("name") != name:
            raise self._unknown(name)
        return parse_volume(found)

    def _unknown(self, name: str) -> VolumeError:
        try:
            names = sorted(v.text or "" for v in self.xml("volume", "list").iter("volume"))
        except VolumeError:
            names = []
        known = f"volumes here: {', '.join(names)}" if names else "this node has no volumes"
        return VolumeError(f"volume {name} does not exist", hint=known, code="volume-unknown")

    def online(self, name: str) -> frozenset[tuple[str, bytes]]:
        """The (node uuid, path) of the bricks that run. Raises VolumeError."""
        out = set()
        for node in self.xml("volume", "status", name).iter("node"):
            path = node.findtext("path") or ""
            if path.startswith("/") and node.findtext("status") == "1":
                out.add((node.findtext("peerid") or "", os.fsencode(path)))
        return frozenset(out)

    def switch_on(self, facts: VolumeFacts, log: Callable[[str, str], None]) -> bool:
        """Set what replication needs and is not set, and say so. Was anything? Raises VolumeError."""
        missing = [o for o in NEEDED if not facts.on(o)]
        for option in missing:
            self.xml("volume", "set", facts.name, option, "on")
            log("info", f"volume {facts.name}: {option} was off, switched on")
        return bool(missing)


@dataclass(frozen=True, slots=True)
class Here:
    """A volume as it is on this node: `bricks` are those of this node, `online` who runs, as `Gluster.online` says."""

    facts: VolumeFacts
    node: str
    bricks: tuple[BrickFacts, ...]
    online: frozenset[tuple[str, bytes]]


def look(gluster: Gluster, name: str) -> Here:
    """What can be replicated of a volume from this node. Raises VolumeError with what is missing; changes nothing."""
    if os.geteuid() != 0:
        raise VolumeError("a volume is replicated by root: bricks and their marks are root's", code="not-root",
                          hint="run it as root on a node of the volume")  # fmt: skip
    version = gluster.version()
    if (0, 0) < version < OLDEST:
        raise VolumeError(f"glusterfs {version[0]}.{version[1]} is too old", code="gluster-version",
                          hint=f"{OLDEST[0]} or newer is needed")  # fmt: skip
    facts = gluster.volume(name)
    if not facts.started:
        raise VolumeError(f"volume {name} is not started", hint=f"gluster volume start {name}", code="volume-stopped")
    node = gluster.node()
    bricks = tuple(b for b in facts.bricks if b.node == node)
    hosts = ", ".join(sorted({b.host for b in facts.bricks}))
    if not bricks:
        raise VolumeError(f"volume {name} has no brick on this node", hint=f"run it on: {hosts}", code="no-brick")
    if not os.path.exists("/dev/fuse"):
        raise VolumeError("there is no /dev/fuse here", code="no-fuse",
                          hint="load the fuse module; in a container, allow /dev/fuse")  # fmt: skip
    online = gluster.online(name)
    if not any((b.node, b.path) in online for b in bricks):
        raise VolumeError(f"no brick of volume {name} runs on this node", hint=f"gluster volume start {name} force",
                          code="no-live-brick")  # fmt: skip
    foreign = sorted({u for b in bricks if (b.node, b.path) in online for u in foreign_primaries(b.path, time.time())})
    if len(foreign) > 1:
        raise VolumeError(f"volume {name} is the secondary of more than one volume: {', '.join(foreign)}",
                          code="foreign-primaries",
                          hint="stop the replication to it from all but one; its mark expires by itself")  # fmt: skip
    return Here(facts, node, bricks, online)


def foreign_primaries(brick: bytes, now: float) -> frozenset[str]:
    """The volumes whose gsyncd says, in marks on a brick's root, that it replicates to this one (VOL-1): uuids as text.

    A mark counts until the time in it, which gsyncd moves on while it runs. Raises VolumeError.
    """
    found = set()
    try:
        for name in os.listxattr(brick):
            if not name.startswith(FOREIGN):
                continue
            value = os.getxattr(brick, name)
            if len(value) == _FOREIGN_MARK.size and _FOREIGN_MARK.unpack(value)[-1] >= now:
                found.add(name.removeprefix(FOREIGN))
    except OSError as e:
        raise VolumeError(f"brick {os.fsdecode(brick)} cannot be read: {e.strerror}", errno=e.errno) from e
    return frozenset(found)


def parse_volume(found: ET.Element) -> VolumeFacts:
    """A `<volume>` of `gluster --xml volume info`."""

    def number(tag: str) -> int:
        return int(found.findtext(tag) or 0)

    disperse, replica = number("disperseCount"), number("replicaCount")
    width = disperse or replica or 1
    bricks = []
    for i, brick in enumerate(found.iter("brick")):
        host, _, path = (brick.findtext("name") or "").partition(":")
        bricks.append(BrickFacts(i, host, os.fsencode(path), brick.findtext("hostUuid") or brick.get("uuid") or "",
                                 brick.findtext("isArbiter") == "1", i // width))  # fmt: skip
    options = {o.findtext("name") or "": o.findtext("value") or "" for o in found.iter("option")}
    return VolumeFacts(
        found.findtext("name") or "", (found.findtext("id") or "").lower(), found.findtext("statusStr") == "Started",
        found.findtext("typeStr") or "", width, bool(disperse), tuple(bricks), options,
    )  # fmt: skip
