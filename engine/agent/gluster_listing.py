"""What is really on a volume, for lookups, hybrid crawls and verify (CRW-8, SAFE-3)."""

from __future__ import annotations

import os
import stat as _stat
from collections.abc import Container
from typing import Any, Optional

from engine.agent.attributes import has_xattrs, read_xattrs
from engine.agent.gluster_objects import Objects
from engine.agent.gluster_paths import GONE, gfid_of, inode_of
from engine.agent.gluster_pool import Pool
from engine.agent.handles import OpError, check_name
from engine.agent.listing import b64, stat_dict
from engine.agent.types import ROOT, Gfid, Slot


def lookup(objects: Objects, gfid: Gfid) -> Optional[dict[str, Any]]:
    """Where an object is; None when it is nowhere."""
    st = objects.exists(gfid)
    if st is None:
        return None
    slots = [] if gfid == ROOT else objects.names(gfid, _stat.S_ISDIR(st.st_mode))
    names = [{"parent": s.parent.hex(), "name": b64(s.name)} for s in slots]
    return {"names": names, "limbo": False, "sure": True, "stat": stat_dict(st)}


def whose(objects: Objects, slot: Slot) -> Gfid:
    """The gfid of what has this name, b"" when nothing has, or can have."""
    try:
        check_name(slot)
        return objects.gfid_at(slot)
    except OpError:
        return b""


class Listings:
    """Directories page by page; the names of the one being read are kept between pages."""

    def __init__(self, objects: Objects, pool: Pool, internal: tuple[bytes, ...], torn: Container[Gfid]) -> None:
        self._torn = torn
        self._objects = objects
        self._pool = pool
        self._internal = internal
        self._names: tuple[Gfid, list[bytes]] = (b"", [])

    def page(self, gfid: Gfid, after: bytes, limit: int, xattrs: bool) -> list[dict[str, Any]]:
        """Entries by name, from the first after `after`. OpError ENOENT `parent`."""
        fd = self._objects.open_real(gfid)
        try:
            if not after or self._names[0] != gfid:
                names = sorted(map(os.fsencode, os.listdir(fd)))
                self._names = (gfid, [n for n in names if gfid != ROOT or not n.startswith(self._internal)])
            wanted = [n for n in self._names[1] if n > after][:limit]
            entries: list[Optional[dict[str, Any]]] = [None] * len(wanted)

            def work(i: int) -> None:
                entries[i] = self._entry(fd, wanted[i], xattrs)

            self._pool.each(work, len(wanted))
        finally:
            os.close(fd)
        return [e for e in entries if e is not None]

    def _entry(self, pfd: int, name: bytes, xattrs: bool) -> Optional[dict[str, Any]]:
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pfd)
        except OSError as e:
            if e.errno in GONE:
                return None
            raise
        try:
            st = os.fstat(fd)
            gfid = gfid_of(b"/proc/self/fd/%d/%s" % (pfd, name))
            if not gfid or inode_of(gfid) != st.st_ino:
                return None  # it was replaced just now
            one: dict[str, Any] = {
                "name": b64(name), "gfid": gfid.hex(), **stat_dict(st),
                "link": b64(os.readlink(b"", dir_fd=fd)) if _stat.S_ISLNK(st.st_mode) else None,
            }  # fmt: skip
            if gfid in self._torn:
                one["torn"] = True
            if xattrs:
                found = read_xattrs(f"/proc/self/fd/{fd}") if has_xattrs(st.st_mode) else {}
                one["xattrs"] = {b64(k): b64(v) for k, v in found.items()}
            return one
        except OSError as e:
            if e.errno in GONE:
                return None
            raise
        finally:
            os.close(fd)
