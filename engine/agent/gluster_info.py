"""What `gluster --xml` says of the secondary volume, and everything that must be there before it can be used."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from typing import NamedTuple, Optional
from xml.etree import ElementTree

from engine.agent.state import CallError

OLDEST = (7, 0)
"""The oldest GlusterFS this is known to work with."""

_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin"
_TIMEOUT = 60
_UNSET = ("off", "disable", "no", "0", "false")


class Volume(NamedTuple):
    """A volume as glusterd knows it. `bricks` are (host, path, node uuid); `own` is this node's uuid, "" without one."""

    name: str
    id: str
    bricks: list[tuple[str, bytes, str]]
    subvolumes: int
    replica: int
    options: dict[str, str]
    version: str
    own: str

    @property
    def nodes(self) -> list[tuple[str, str]]:
        """The nodes that have bricks: (host, uuid), each under the first name it has among the bricks."""
        named: dict[str, str] = {}
        for host, _, node in self.bricks:
            named.setdefault(node or host, host)
        return [(host, node) for node, host in named.items()]

    @property
    def node_id(self) -> str:
        """What tells this node from others."""
        return self.own or os.uname().nodename

    @property
    def local(self) -> list[bytes]:
        """Paths of the bricks on this node."""
        return [path for _, path, node in self.bricks if node == self.own]

    @property
    def all_local(self) -> bool:
        """Are all bricks on this node?"""
        return len(self.local) == len(self.bricks)


def program(name: str) -> Optional[str]:
    """Where a program is, also where a non-interactive shell does not look."""
    return shutil.which(name, path=_PATH)


def describe(name: str) -> Volume:
    """The volume, when it and all that is needed here are in order; changes nothing.

    Raises CallError `non-root`, `no-gluster`, `gluster-version`, `no-fuse`, `glusterd-down`, `volume-unknown`,
    `volume-stopped`, `volume-readonly`.
    """
    if os.geteuid() != 0:
        raise CallError(
            f"the agent runs as uid {os.geteuid()}, not as root", "non-root",
            "a GlusterFS volume as secondary needs root there: use root@host::volume", errno.EPERM,
        )  # fmt: skip
    for one in ("glusterfs", "gluster"):
        if program(one) is None:
            raise CallError(f"{one} is not installed on {os.uname().nodename}", "no-gluster",
                            "install glusterfs-server (or glusterfs-client and glusterfs-cli) there", errno.ENOENT)  # fmt: skip
    version = _version()
    _need_fuse()
    root = _ask()
    found = next((v for v in root.iter("volume") if v.findtext("name") == name), None)
    if found is None:
        raise CallError(f"volume {name} does not exist on {os.uname().nodename}", "volume-unknown",
                        "see: gluster volume list", errno.ENOENT)  # fmt: skip
    status = found.findtext("statusStr") or ""
    if status != "Started":
        raise CallError(f"volume {name} is {status.lower() or 'not started'}", "volume-stopped",
                        f"start it: gluster volume start {name}", errno.ENOTCONN)  # fmt: skip
    options = {o.findtext("name") or "": o.findtext("value") or "" for o in found.iter("option")}
    for option in ("features.read-only", "features.worm", "features.worm-file-level"):
        if options.get(option, "off").lower() not in _UNSET:
            raise CallError(f"volume {name} is read-only ({option} is on)", "volume-readonly",
                            f"gluster volume set {name} {option} off", errno.EROFS)  # fmt: skip
    return _volume(name, found, options, version)


def _need_fuse() -> None:
    try:
        if os.stat("/dev/fuse").st_rdev != os.makedev(10, 229):
            raise OSError(errno.ENODEV, "it is not the device")
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        raise CallError(f"/dev/fuse cannot be used ({e.strerror})", "no-fuse",
                        "load the module (modprobe fuse), or allow the device in this container", e.errno or 0) from e  # fmt: skip


def _volume(name: str, found: ElementTree.Element, options: dict[str, str], version: str) -> Volume:
    bricks: list[tuple[str, bytes, str]] = []
    for brick in found.iter("brick"):
        text = brick.findtext("name") or (brick.text or "")
        host, _, path = text.partition(":")
        bricks.append((host, os.fsencode(path), brick.findtext("hostUuid") or ""))
    replica = int(found.findtext("replicaCount") or 1)
    per = max(replica, int(found.findtext("disperseCount") or 0), 1)
    return Volume(name, (found.findtext("id") or "").lower(), bricks, max(1, len(bricks) // per), replica,
                  options, version, _own())  # fmt: skip


def _version() -> str:
    text = _run(["glusterfs", "--version"]).stdout
    found = re.search(r"(\d+)\.(\d+)\S*", text)
    if found is None:
        raise CallError(f"glusterfs --version says {text[:60]!r}", "gluster-version", "is it GlusterFS?", errno.ENOSYS)
    if (int(found[1]), int(found[2])) < OLDEST:
        raise CallError(f"GlusterFS {found[0]} is too old", "gluster-version",
                        f"{OLDEST[0]}.{OLDEST[1]} or newer is needed there", errno.ENOSYS)  # fmt: skip
    return found[0]


def _own() -> str:
    """This node's uuid, "" where no glusterd has one."""
    try:
        with open("/var/lib/glusterd/glusterd.info", encoding="ascii", errors="replace") as f:
            return next((line[5:].strip() for line in f if line.startswith("UUID=")), "")
    except OSError:
        return ""


def _ask() -> ElementTree.Element:
    done = _run(["gluster", "--mode=script", "volume", "info", "all", "--xml"])
    try:
        root = ElementTree.fromstring(done.stdout)
    except ElementTree.ParseError as e:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise CallError(f"glusterd on {os.uname().nodename} does not answer: {said[:200]}", "glusterd-down",
                        "start it: systemctl start glusterd", errno.ENOTCONN) from e  # fmt: skip
    return root


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([program(words[0]) or words[0], *words[1:]], capture_output=True, text=True,
                              timeout=_TIMEOUT, stdin=subprocess.DEVNULL, errors="backslashreplace")  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise CallError(f"{' '.join(words[:3])} said nothing for {_TIMEOUT} s", "glusterd-down",
                        "see glusterd's log there", errno.ETIMEDOUT) from e  # fmt: skip
