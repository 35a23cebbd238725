"""What is really on the secondary's disk, for lookups and for verify (SAFE-3)."""

from __future__ import annotations

import base64
import os
import stat as _stat
from collections.abc import Container
from typing import Any, Optional

from engine.agent.attributes import has_xattrs, read_xattrs
from engine.agent.handles import OpError, check_name, ident_of
from engine.agent.heal import NOWHERE
from engine.agent.index import Row
from engine.agent.tree import Tree
from engine.agent.types import LIMBO, ROOT, STATE_DIR, Gfid, Slot

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def b64(raw: bytes) -> str:
    """Bytes as text for JSON."""
    return base64.b64encode(raw).decode()


def stat_dict(st: os.stat_result) -> dict[str, int]:
    """The fields of a stat that are compared, as JSON; times in nanoseconds."""
    return {
        "mode": st.st_mode, "uid": st.st_uid, "gid": st.st_gid, "size": st.st_size, "mtime_ns": st.st_mtime_ns,
        "nlink": st.st_nlink, "rdev": st.st_rdev, "ino": st.st_ino, "blocks": getattr(st, "st_blocks", 0),
    }  # fmt: skip


def lookup(tree: Tree, gfid: Gfid, torn: Container[Gfid]) -> Optional[dict[str, Any]]:
    """Where an object is, names checked on disk; None when it is nowhere. `sure`: nothing has to confirm that yet;
    `torn`: its content is half written, or has not come yet."""
    sure = not (tree.mode is not None and tree.mode.recovering) and gfid not in tree.unsure
    if gfid == ROOT:
        return {"names": [], "limbo": False, "sure": sure, "stat": stat_dict(os.fstat(tree.root_fd))}
    where = tree.locate(gfid)
    if where is None:
        return None
    names = []
    for row in tree.index.rows(gfid):
        if row.parent not in (LIMBO, NOWHERE) and tree.at(row) is not None:
            names.append({"parent": row.parent.hex(), "name": b64(row.name)})
    return {"names": names, "limbo": gfid in tree.limbo, "sure": sure, "stat": stat_dict(where.st), "torn": gfid in torn}


class Listings:
    """Directories page by page; the names of the one being read are kept between pages."""

    def __init__(self, tree: Tree, torn: Container[Gfid]) -> None:
        self._tree = tree
        self._torn = torn
        self._names: tuple[Gfid, list[bytes]] = (b"", [])

    def page(self, gfid: Gfid, after: bytes, limit: int, xattrs: bool) -> list[dict[str, Any]]:
        """Entries by name, from the first after `after`. OpError ENOENT `parent`."""
        pfd = self._tree.dirfd(gfid)
        if not after or self._names[0] != gfid:
            fd = os.open(b".", _READ, dir_fd=pfd)
            try:
                names = sorted(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)
            if gfid == ROOT:
                names = [n for n in names if n != STATE_DIR]
            self._names = (gfid, names)
        names = self._names[1]
        lo, hi = 0, len(names)
        while lo < hi:
            mid = (lo + hi) // 2
            if names[mid] <= after:
                lo = mid + 1
            else:
                hi = mid
        rows = {r.name: r for r in self._tree.index.children(gfid)} if limit > 16 or len(names) < 1000 else None
        found: list[dict[str, Any]] = []
        for name in names[lo:]:
            if len(found) == limit:
                break
            row = rows.get(name) if rows is not None else self._tree.index.get(gfid, name)
            one = self._entry(pfd, name, row, xattrs)
            if one is not None:
                found.append(one)
        return found

    def _entry(self, pfd: int, name: bytes, row: Optional[Row], xattrs: bool) -> Optional[dict[str, Any]]:
        try:
            st = os.stat(name, dir_fd=pfd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        known = row is not None and row.ident == ident_of(st) and row.kind == _stat.S_IFMT(st.st_mode)
        one: dict[str, Any] = {
            "name": b64(name), "gfid": row.gfid.hex() if row is not None and known else None, **stat_dict(st),
            "link": b64(os.readlink(name, dir_fd=pfd)) if _stat.S_ISLNK(st.st_mode) else None,
        }  # fmt: skip
        if row is not None and known and row.gfid in self._torn:
            one["torn"] = True
        if xattrs:
            one["xattrs"] = self._xattrs(pfd, name, st)
        return one

    @staticmethod
    def _xattrs(pfd: int, name: bytes, st: os.stat_result) -> Optional[dict[str, str]]:
        if not has_xattrs(st.st_mode):
            return {}
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pfd)
        except OSError:
            return None
        try:
            return {b64(k): b64(v) for k, v in read_xattrs(f"/proc/self/fd/{fd}").items()}
        except PermissionError:
            return None
        finally:
            os.close(fd)


def whose(tree: Tree, slot: Slot) -> Gfid:
    """The gfid of what has this name, b"" when nothing has, or something unknown."""
    try:
        check_name(slot)
        row, _ = tree.probe(tree.dirfd(slot.parent), slot)
    except OpError:
        return b""
    return b"" if row is None else row.gfid
