"""A GlusterFS volume as the agent's target: whose it is, the lock, the mark, the order of a commit (MRK-6, SAFE-5)."""

from __future__ import annotations

import errno
import os
import secrets
import time
import uuid
from collections.abc import Callable, Container, Sequence
from typing import Any, Optional, TypeVar

from engine.agent import gluster_repair, system
from engine.agent.gluster_barrier import PREFIX, Barrier, clear_left
from engine.agent.gluster_content import GlusterContents, open_regular
from engine.agent.gluster_entries import GlusterEntries
from engine.agent.gluster_info import describe
from engine.agent.gluster_lease import Leases, read_xattr, write_xattr
from engine.agent.gluster_listing import Listings, lookup, whose
from engine.agent.gluster_mount import Mount, state_directory
from engine.agent.gluster_objects import Objects
from engine.agent.gluster_paths import inode_of, text_of
from engine.agent.gluster_pool import Pool
from engine.agent.handles import OpError
from engine.agent.intent import VolumeIntent
from engine.agent.repair import Placed
from engine.agent.stage import Staged, as_now
from engine.agent.state import CallError, free_space
from engine.agent.types import EntryOp, Gfid, MetaOp, Outcome, Slot, Stat
from engine.agent.wire import FileBegin, FileResult, Put, Xattrs

Result = dict[str, Any]
S = TypeVar("S")
T = TypeVar("T")

OWNER = "trusted.georep.session"
"""On the volume's root: whose secondary it is. No user but root sees it, and no name in the volume is ours."""
VERSION = 2
"""Of a session on a volume: one of version 1 was begun by an engine that could lose names, and is compared once."""
MARK = "trusted.georep.mark."
"""Then the id of session and brick: that brick's copy of the mark (MRK-7)."""
TORN = "trusted.georep.torn."
"""Then the same id: the files that this brick's agent has half written."""

_INTERNAL = (b".trashcan", PREFIX)
"""How names in the root begin that are not replicated."""


class Secondary:
    """A volume that is mounted, but not begun: `hello`."""

    def __init__(self, volume: dict[str, Any]) -> None:
        """`volume` is {"name", "params"}. Raises CallError with what is missing here and what to do about it."""
        name = str(volume.get("name") or "")
        if not name or name.startswith("-") or "/" in name:
            raise CallError(f"{name!r} is no name of a volume", "volume-unknown", "see: gluster volume list", errno.EINVAL)
        self.params = str(volume.get("params") or "")
        self.several = int(volume.get("subvolumes") or 2) > 1
        self.info = describe(name)
        self.mount = Mount(name, self.params)
        try:
            self.mount.wait()
        except BaseException:
            self.mount.close()
            raise

    def look(self, session: str, brick: str) -> Result:
        """What is there, for `hello`; changes nothing."""
        info, fd = self.info, self.mount.fd
        owner = read_xattr(fd, OWNER)
        mine = read_xattr(fd, MARK + mark_id(str((owner or {}).get("session") or session), brick)) if brick else None
        with os.scandir(fd) as entries:
            empty = all(os.fsencode(e.name).startswith(_INTERNAL) for e in entries)
        return {
            "exists": True, "fresh": owner is None, "empty": empty, "session": (owner or {}).get("session"),
            "brick": None if mine is None else mine.get("brick"), "primary": (owner or {}).get("primary"),
            "mark": None if mine is None else mine.get("mark"), "limbo": [], "statfs": free_space(fd),
            "owner_version": (owner or {}).get("version"), "names": bool((mine or {}).get("names")),
            "volume_id": info.id, "node_id": info.node_id, "subvolumes": info.subvolumes,
            "nodes": [{"host": host, "id": node} for host, node in info.nodes],
            "volume": {"id": info.id, "name": info.name, "distribute": info.subvolumes,
                       "replica": info.replica, "version": info.version, "local": info.all_local},
        }  # fmt: skip

    def close(self) -> None:
        """Unmount."""
        self.mount.close()


class GlusterTarget:
    """A volume taken for one brick of a session. One agent for each brick at a time, all on one node (SAFE-5)."""

    def __init__(self, secondary: Secondary, session: dict[str, str], *, take_over: bool, wait: float) -> None:
        """`wait` in seconds for the leases. Raises CallError `other-node`, `locked`, `other-session`; OSError."""
        self._secondary = secondary
        self.session = session
        self.root_fd = secondary.mount.fd
        self._key = MARK + mark_id(session["session"], session["brick"])
        info = secondary.info
        self._leases = Leases(self.root_fd, info.id, session["session"], self._key[len(MARK) :], info.node_id, wait)
        self._gfids_fd = os.open(f"{state_directory()}/{secondary.info.id}.gfids", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._bricks: list[int] = []
        self._stage: Optional[Mount] = None
        self._stages: dict[str, dict[Gfid, Staged]] = {}
        try:
            self._own(take_over)
            self._names = bool((read_xattr(self.root_fd, self._key) or {}).get("names"))
            clear_left(self.root_fd)
            if secondary.info.all_local:
                self._bricks = [os.open(b, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for b in secondary.info.local]
        except BaseException:
            self._release()
            raise
        self.pool = Pool()
        self._barrier = Barrier(self.root_fd, self.pool, secondary.info.subvolumes)
        self.objects = Objects(self.root_fd, secondary.info.local if self._bricks else None, self._gfids_fd)
        self._entries = GlusterEntries(self.objects, self.pool, secondary.several, self._durable)
        self._intent = VolumeIntent(
            lambda: read_xattr(self.root_fd, TORN + self._key[len(MARK) :]), self._save_torn, self._sync_root
        )
        self._arrived: dict[str, list[Gfid]] = {}
        self._contents = contents = GlusterContents(self.objects, self.pool, self._durable, self._intent)
        self._listings = Listings(self.objects, self.pool, _INTERNAL, self._intent)
        self.file_data, self.file_hole, self.file_abort = contents.data, contents.hole, contents.abort

    def _own(self, take_over: bool) -> None:
        """Note whose it is, unless it is another session's (SAFE-5)."""
        owner = read_xattr(self.root_fd, OWNER)
        mine = self.session["session"]
        if owner is not None and owner.get("session") == mine:
            return
        if owner is not None and not take_over:
            raise CallError(
                f"volume {self._secondary.info.name} belongs to another session (primary {owner.get('primary')})",
                "other-session", "choose another secondary, or take it over with --adopt",
            )  # fmt: skip
        write_xattr(self.root_fd, OWNER, {"session": mine, "primary": self.session["primary"], "version": VERSION})

    # --- verbs

    def applying(self) -> None:
        """Is this still the agent of its brick? CallError."""
        self._leases.check()

    def settle(self) -> None:
        """Close directories that were pushed out."""
        self.objects.settle()

    def damaged(self) -> None:
        """There is no index."""

    def entries(self, ops: list[EntryOp]) -> tuple[list[Outcome], list[Gfid], list[tuple[int, int, int]]]:
        """Apply entry operations."""
        self.objects.settle()
        applied = self._entries.apply(ops)
        files = (op.gfid for op in ops if op.stat is not None and op.stat.mode & 0o170000 == 0o100000)
        self._intent.hollow.update(gfid for gfid in files if gfid in applied.made)
        return applied.failures, list(applied.made), applied.sizes

    def puts(self, puts: list[Put]) -> list[FileResult]:
        """Replace the content of small files."""
        with self.objects.together():
            return self._contents.puts(puts)

    def metas(self, ops: list[MetaOp]) -> list[Outcome]:
        """Set attributes; the failures."""
        with self.objects.together():
            return self._contents.metas(ops)

    def file_begin(self, ident: int, request: FileBegin) -> None:
        """Content in pieces follows."""
        with self.objects.together():
            self._contents.begin(ident, request)

    def file_end(self, ident: int, stat: Stat, xattrs: Xattrs) -> FileResult:
        """The end of it."""
        with self.objects.together():
            return self._contents.end(ident, stat, xattrs)

    def open_file(self, gfid: Gfid) -> int:
        """A descriptor for reading a regular file."""
        with self.objects.together():
            return open_regular(self.objects, gfid, os.O_RDONLY)[0]

    def lookup(self, gfid: Gfid) -> Optional[Result]:
        """Where an object is."""
        with self.objects.together():
            found = lookup(self.objects, gfid)
        if found is not None:
            found["torn"] = gfid in self._intent
        return found

    def taken(self, slots: list[Slot]) -> list[Gfid]:
        """Whose these names are."""
        with self.objects.together():
            return self._of_each(slots, lambda slot: whose(self.objects, slot))

    def page(self, gfid: Gfid, after: bytes, limit: int, xattrs: bool) -> list[Result]:
        """Entries of a directory by name."""
        with self.objects.together():
            return self._listings.page(gfid, after, limit, xattrs)

    def here(self, gfids: list[Gfid]) -> list[Gfid]:
        """Those of which there is something left, under whatever name."""
        with self.objects.together():
            absent = self._of_each(gfids, self.objects.absent)
        return [gfid for gfid, gone in zip(gfids, absent) if not gone]

    def _of_each(self, some: Sequence[S], look: Callable[[S], T]) -> list[T]:
        """What `look` says of each, in their order; several are asked at once. The first exception is raised."""
        found: dict[int, T] = {}

        def work(i: int) -> None:
            found[i] = look(some[i])

        self.pool.each(work, len(some))
        return [found[i] for i in range(len(some))]

    def place(self, gfid: Gfid, slots: list[Slot], drop: list[Slot], stat: Stat, link: Optional[bytes], xattrs: Xattrs,
              replace: bool) -> Placed:  # fmt: skip
        """Give exactly this object all these slots; what is in the way is not touched, whatever `replace`."""
        del replace
        self.objects.settle()
        with self.objects.alone():
            return gluster_repair.place(self.objects, self._entries, gfid, slots, drop, stat, link, xattrs)

    def remove(self, gfid: Gfid, slots: list[Slot], below: Container[Gfid]) -> tuple[int, list[Slot]]:
        """Take names from an object, a directory with those of `below` that are in it."""
        with self.objects.alone():
            return gluster_repair.remove(self.objects, self._entries, gfid, slots, below)

    def set_aside(self, gfid: Gfid, slots: list[Slot]) -> int:
        """Take names from an object that others are to have."""
        with self.objects.alone():
            return gluster_repair.set_aside(self.objects, gfid, slots)

    def clear_slot(self, slot: Slot, gfid: Gfid) -> bool:
        """Take a name from that object."""
        with self.objects.alone():
            return gluster_repair.clear_slot(self.objects, slot, gfid)

    def statfs(self) -> dict[str, int]:
        """Free space as a client sees it."""
        return free_space(self.root_fd)

    # --- rsync and tar

    def stage(self, gfids: list[Gfid], sizes: list[int], basis: bool) -> Result:
        """A path below which files are reached by their gfid, written as GlusterFS does (`names`: "uuid"), in place."""
        del sizes, basis
        if self._stage is None:
            self._stage = Mount(self._secondary.info.name, self._secondary.params, hidden=False)
            self._stage.wait()
        absent: list[str] = []
        staged: dict[Gfid, Staged] = {}
        for gfid, st in zip(gfids, self._of_each(gfids, self.objects.exists)):
            if st is None or st.st_mode & 0o170000 != 0o100000:
                absent.append(gfid.hex())
            else:
                staged[gfid] = as_now(st)
        self._intent.begin(staged)
        token = secrets.token_hex(8)
        self._stages[token] = staged
        assert self._stage.path is not None
        return {"token": token, "path": self._stage.path + "/.gfid", "absent": absent, "names": "uuid"}

    def unwritten(self, token: str) -> list[Gfid]:
        """Staged files to which nothing has been written yet. CallError."""
        staged = self._stages.get(token)
        if staged is None:
            raise CallError(f"no stage {token}", "no-stage")
        gfids = list(staged)
        now = zip(gfids, self._of_each(gfids, self.objects.exists))
        return [gfid for gfid, st in now if st is not None and as_now(st) == staged[gfid]]

    def unstage(self, token: str) -> Result:
        """End a stage: for each file, size and mtime of the real one, and is it the same as before? CallError."""
        staged = self._stages.pop(token, None)
        if staged is None:
            raise CallError(f"no stage {token}", "no-stage")
        gfids = list(staged)
        files = dict(zip(gfids, self._of_each(gfids, self._seen)))
        for gfid in self._arrived.pop(token, ()):
            if files.get(gfid, {}).get("same"):
                self._intent.done(gfid)
        return {"files": {gfid.hex(): said for gfid, said in files.items()}}

    def arrived(self, token: str, gfids: list[Gfid]) -> None:
        """The content of these is whole, as far as the primary can tell."""
        self._arrived[token] = gfids

    def torn(self) -> set[Gfid]:
        """Files whose content is half written, or has not come."""
        return self._intent.torn()

    def _seen(self, gfid: Gfid) -> Result:
        """What is seen of a file that was staged, made durable."""
        try:
            fd, _ = open_regular(self.objects, gfid, os.O_RDONLY)
        except (OpError, OSError) as e:
            return {"same": False, "size": None, "mtime_ns": None, "text": str(e)}
        try:
            st = os.fstat(fd)
            self._durable(fd)
        finally:
            os.close(fd)
        return {"same": st.st_ino == inode_of(gfid), "size": st.st_size, "mtime_ns": st.st_mtime_ns}

    # --- commit

    def _durable(self, fd: int) -> None:
        """Make one file durable, where the commit cannot sync the bricks themselves: a mount has no syncfs."""
        if not self._bricks:
            os.fsync(fd)

    def _sync(self) -> None:
        for fd in self._bricks:
            system.syncfs(fd)
        if not self._bricks:
            self._barrier.sync()

    def _save_torn(self, value: Optional[dict[str, Any]]) -> None:
        name = TORN + self._key[len(MARK) :]
        if value is not None:
            write_xattr(self.root_fd, name, value)
            return
        try:
            os.removexattr(f"/proc/self/fd/{self.root_fd}", name)
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise

    def _sync_root(self) -> None:
        """The xattrs of the volume's root are durable."""
        for fd in self._bricks:
            os.fsync(fd)
        if not self._bricks:
            self._barrier.sync()

    def commit(self, mark: Optional[dict[str, int]], extra: Optional[dict[str, Any]] = None) -> Result:
        """Everything durable, then the copy of the mark, durable (MRK-6). OSError: nothing is acknowledged."""
        self.objects.settle()
        self._leases.check()
        self._intent.note_hollow(lambda gfid: self.objects.exists(gfid) is not None)
        for gfid in self._intent.torn():
            if self.objects.exists(gfid) is None:
                self._intent.done(gfid)
        self._sync()
        self._intent.settle()
        if mark is not None:
            self._names |= bool((extra or {}).get("names"))
            kept = {"names": True} if self._names else {}  # both sides were compared since
            write_xattr(self.root_fd, self._key, {**self.session, "mark": mark, "time": time.time(), **kept, **(extra or {})})
            self._sync()
        return {"statfs": self.statfs(), "purge_failed": []}

    # --- end

    def close(self, clean: bool) -> None:
        """Let go; what was applied is kept either way."""
        del clean
        self._contents.close()
        self._barrier.close()
        self.pool.close()
        self.objects.close()
        self._release()

    def _release(self) -> None:
        if self._stage is not None:
            self._stage.close()
        for fd in (*self._bricks, self._gfids_fd):
            os.close(fd)
        self._bricks = []
        self._leases.close()


def mark_id(session: str, brick: str) -> str:
    """The id of a brick of a session in the names of xattrs."""
    return text_of(uuid.uuid5(uuid.NAMESPACE_URL, f"georep:{session}:{brick}").bytes)
