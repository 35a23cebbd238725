"""Choosing where events come from: fanotify where it may be, inotify where not, else the clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator

from engine.journal.dirty import Dirty, Source, WatchLimit
from engine.journal.fanotify import Fanotify, FanotifyUnavailable
from engine.journal.inotify import Inotify
from engine.model import EngineError, Gfid
from engine.volume.handles import filesystem_type, gfid_of, name_to_handle

_SHARED = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse", "9p", "ceph", "afs", "lustre", "gpfs", "gfs2", "ocfs2", "coda",
    "orangefs", "glusterfs", "beegfs", "vboxsf",
    "virtiofs",
}  # fmt: skip
"""Filesystems that others may change too: the kernel here reports only what is done here."""


class Scan:
    """A source without events: the recorder walks the tree from time to time."""

    name = "scan"
    periodic = True
    watches_objects = False

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.first_time: float | None = None
        self.last_event = 0.0

    @property
    def each_file(self) -> bool:
        """None is watched."""
        return False

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def settle(self) -> None:
        """Nothing is queued."""

    def take(self) -> Dirty:
        """Nothing is dirty."""
        self.wake.clear()
        return Dirty()

    def watch_directory(self, gfid: Gfid, fd: int) -> None:
        """Not needed."""

    def watch_object(self, gfid: Gfid, fd: int, sure: bool) -> None:
        """Not needed."""

    def forget_directory(self, gfid: Gfid) -> None:
        """Not needed."""

    def ignore(self, gfids: Iterable[Gfid]) -> None:
        """Not needed."""


def open_source(
    kind: str, root: bytes, brick_id: bytes, log: Callable[[str, str], None], beside: Iterable[bytes] = ()
) -> Source:
    """The best source there is (`auto`), or the one that is asked for; why it is a lesser one goes to `log`.

    `beside` are directories of our own on what may be the tree's filesystem: what happens there and below is not
    heard, or writing an idle brick's state would wake its recorder. Raises EngineError when the one that is asked for
    can't be had.
    """
    source = _open(kind, root, brick_id, log)
    if isinstance(source, Fanotify):
        for path in beside:
            source.ignore(list(_directories(path, root, brick_id)))
    return source


def _directories(path: bytes, root: bytes, brick_id: bytes) -> Iterator[Gfid]:
    """The gfids of a directory and all below it, if on the filesystem of `root`; never the root's or what is in it."""
    tree = os.stat(root)
    for _, below, _, fd in os.fwalk(path):
        st = os.fstat(fd)
        if st.st_dev != tree.st_dev or st.st_ino == tree.st_ino:
            below.clear()
            continue
        yield gfid_of(brick_id, name_to_handle(fd, b""))


def _open(kind: str, root: bytes, brick_id: bytes, log: Callable[[str, str], None]) -> Source:
    if kind == "scan":
        return Scan()
    if kind == "auto":
        shared = _shared_filesystem(root)
        if shared:
            log("warning", f"{shared}: others may change it without an event here; the tree is scanned")
            return Scan()
    if kind in ("auto", "fanotify"):
        try:
            return Fanotify(root, brick_id)
        except FanotifyUnavailable as e:
            if kind == "fanotify":
                raise EngineError(
                    f"recorder = fanotify: {e}", code="fanotify",
                    hint="run as root on Linux 5.17 or later, or set recorder to inotify",
                ) from e  # fmt: skip
            # for an ordinary user that is no news
            log("warning" if os.geteuid() == 0 else "info", f"{e}: recording with inotify")
    try:
        return Inotify(os.fsdecode(root))
    except (WatchLimit, OSError) as e:
        if kind == "auto":
            log("warning", f"{e}: the tree is scanned")
            return Scan()
        if isinstance(e, EngineError):
            raise
        raise EngineError(f"recorder = inotify: {e}", code="inotify", hint="set recorder to scan") from e


def _shared_filesystem(root: bytes) -> str:
    """The type of a filesystem that others may change as well, else ""."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kind = filesystem_type(fd)
    finally:
        os.close(fd)
    return kind if kind.partition(".")[0] in _SHARED else ""
