"""Comparing both sides (SAFE-3): attributes of everything, content where asked; what differs can be repaired."""

from __future__ import annotations

import base64
import hashlib
import os
import stat as _stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.link import Link
from engine.model import ROOT, STATE_DIR, EngineError, Gfid, Mark, Slot, Stat, gfid_text
from engine.sides import listing
from engine.volume.base import Gone, Indirect, View

_HASH = 256


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not the same on both sides. `gfid` is None for what only the secondary has: `found` there."""

    path: bytes
    what: str
    gfid: Gfid | None
    slot: Slot
    found: Gfid | None = None


@dataclass(slots=True)
class Report:
    """What a comparison found. `checked` counts names of the primary; `content` files compared by checksum."""

    checked: int = 0
    content: int = 0
    differences: list[Difference] = field(default_factory=list)


def digest_file(fd: int) -> bytes:
    """The digest of an open file's content as the agent's call `digest` makes it (SHA-256)."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    at = 0
    while n := os.preadv(fd, [view], at):
        digest.update(view[:n])
        at += n
    return digest.digest()


def differing(view: View, link: Link, gfids: list[Gfid]) -> list[Gfid]:
    """Those files whose content is not the same on both sides; files unknown there count as different (CHG-7)."""
    out: list[Gfid] = []
    for i in range(0, len(gfids), _HASH):
        some = gfids[i : i + _HASH]
        later = link.call_later("digest", {"gfids": [g.hex() for g in some]})
        mine: dict[Gfid, str] = {}
        for gfid in some:
            try:
                fd = view.open_file(gfid)
            except (Gone, OSError):
                continue
            try:
                if _stat.S_ISREG(os.fstat(fd).st_mode):
                    mine[gfid] = digest_file(fd).hex()
            finally:
                os.close(fd)
        theirs = later(None).get("digests", {})
        for gfid, digest in mine.items():
            found = theirs.get(gfid.hex())
            if not isinstance(found, dict) or found.get("digest") != digest:
                out.append(gfid)
    return out


class Comparison:
    """One comparison of a brick with its replica, over the brick's own link; its view is its own.

    What changes while it runs can differ without fault: a difference counts only if `again` still finds it after the
    changes so far have been synced.
    """

    def __init__(self, view: View, link: Link, *, content: bool, xattrs: bool, stop: threading.Event,
                 progress: Callable[[int], None], excluded: Callable[[Gfid, bytes, bool], bool] | None = None) -> None:  # fmt: skip
        self.view = view
        self.link = link
        self.content = content
        self.xattrs = xattrs
        self.stop = stop
        self.progress = progress
        self.excluded = excluded

    def run(self) -> Report:
        """Walk both sides from the root. Raises LinkError, EngineError when stopped."""
        report = Report()
        todo: deque[tuple[Gfid, bytes]] = deque([(ROOT, b"")])
        while todo:
            gfid, path = todo.popleft()
            report.differences += self.directory(gfid, path, report, todo)
            self.progress(report.checked)
        return report

    def directory(
        self, gfid: Gfid, path: bytes, report: Report, todo: deque[tuple[Gfid, bytes]] | None = None
    ) -> list[Difference]:
        """What differs among the names of one directory."""
        if self.stop.is_set():
            raise EngineError("verify was stopped", code="stopping")
        out: list[Difference] = []
        theirs = {e["name"]: e for e in self._remote(gfid)}
        hash_later: list[tuple[Gfid, bytes, Slot]] = []
        try:
            names = sorted(self.view.list_dir(gfid))
        except Gone:
            return []
        for name in names:
            slot = Slot(gfid, name)
            try:
                seen = self.view.look(gfid, name)
            except Gone:
                return out
            if seen is None:
                continue
            is_dir = seen.stat.is_dir
            if self.excluded is not None and self.excluded(gfid, name, is_dir):
                theirs.pop(name, None)
                continue
            report.checked += 1
            below = path + b"/" + name if path else name
            other = theirs.pop(name, None)
            if other is None:
                out.append(Difference(below, "missing on the secondary", seen.gfid, slot))
                continue
            what = self._compare(seen.stat, seen.gfid, slot, other)
            if what:
                out.append(Difference(below, what, seen.gfid, slot))
            elif self.content and seen.stat.is_file:
                hash_later.append((seen.gfid, below, slot))
            if is_dir and todo is not None and other["kind"] == _stat.S_IFDIR:
                todo.append((seen.gfid, below))
        for name, other in theirs.items():
            if self.excluded is not None and self.excluded(gfid, name, other["kind"] == _stat.S_IFDIR):
                continue
            if self.view.elsewhere(Slot(gfid, name)):
                continue
            below = path + b"/" + name if path else name
            out.append(Difference(below, "only on the secondary", None, Slot(gfid, name), other["gfid"]))
        if hash_later:
            report.content += len(hash_later)
            bad = set(differing(self.view, self.link, [g for g, _, _ in hash_later]))
            out += [Difference(p, "content differs", g, s) for g, p, s in hash_later if g in bad]
        return out

    def _compare(self, st: Stat, gfid: Gfid, slot: Slot, other: dict[str, Any]) -> str:
        wrong: list[str] = []
        if other["gfid"] != gfid:
            wrong.append("another object" if other["gfid"] else "unknown object")
        if _stat.S_IFMT(st.mode) != other["kind"]:
            return "another type"
        kind = other["kind"]
        if kind == _stat.S_IFREG and st.size != other["size"]:
            wrong.append(f"size {other['size']} for {st.size}")
        if other["torn"]:
            wrong.append("half written")
        if st.mtime_ns != other["mtime_ns"]:
            wrong.append("mtime")
        if kind != _stat.S_IFLNK and _stat.S_IMODE(st.mode) != _stat.S_IMODE(other["mode"]):
            wrong.append(f"mode {_stat.S_IMODE(other['mode']):o} for {_stat.S_IMODE(st.mode):o}")
        if (st.uid, st.gid) != (other["uid"], other["gid"]):
            wrong.append("owner")
        if kind in (_stat.S_IFCHR, _stat.S_IFBLK) and st.rdev != other["rdev"]:
            wrong.append("device number")
        if kind == _stat.S_IFLNK:
            try:
                if self.view.link_text(slot, gfid) != other["link"]:
                    wrong.append("link text")
            except Gone:
                return ""
        elif self.xattrs and kind in (_stat.S_IFREG, _stat.S_IFDIR) and other["xattrs"] is not None:
            try:
                fd = self.view.dir_fd(gfid) if kind == _stat.S_IFDIR else self.view.open_slot(slot, gfid)
                try:
                    if self.view.xattrs_of(fd) != other["xattrs"]:
                        wrong.append("xattrs")
                finally:
                    if kind != _stat.S_IFDIR:
                        os.close(fd)
            except (Gone, OSError):
                return ", ".join(wrong)
        return ", ".join(wrong)

    def _remote(self, gfid: Gfid) -> Iterator[dict[str, Any]]:
        """The entries of a directory as they really are on the secondary."""
        for e in listing(self.link, gfid, xattrs=self.xattrs):
            name = base64.b64decode(e["name"])
            if gfid == ROOT and name == STATE_DIR:
                continue
            mode = int(e["mode"])
            xattrs = e.get("xattrs")
            yield {
                "name": name, "gfid": bytes.fromhex(e["gfid"]) if e.get("gfid") else None,
                "mode": mode, "kind": _stat.S_IFMT(mode), "uid": int(e["uid"]), "gid": int(e["gid"]),
                "size": int(e["size"]), "mtime_ns": int(e["mtime_ns"]), "rdev": int(e.get("rdev") or 0),
                "link": base64.b64decode(e["link"]) if e.get("link") is not None else None, "torn": bool(e.get("torn")),
                "xattrs": None if xattrs is None
                else {base64.b64decode(k): base64.b64decode(v) for k, v in xattrs.items()},
            }  # fmt: skip


def still_different(comparison: Comparison, differences: list[Difference], index_path: Callable[[Gfid], bytes | None]) -> list[Difference]:
    """Those differences that hold when looked at again, each directory once."""
    out: list[Difference] = []
    by_parent: dict[Gfid, list[Difference]] = {}
    for d in differences:
        by_parent.setdefault(d.slot.parent, []).append(d)
    for parent, some in by_parent.items():
        path = index_path(parent)
        if path is None:
            continue
        names = {d.slot.name for d in some}
        out += [d for d in comparison.directory(parent, path, Report()) if d.slot.name in names]
    return out


def settled(view: View, root: bytes, difference: Difference, mark: Mark, before: list[Difference]) -> bool:
    """Was the object last changed before the mark, so that both sides should agree on it (SAFE-3: up to stime)?

    What only the secondary has is, when that very object was there `before`, too: all changes until then have been
    applied since. `root` is the brick's path.
    """
    if difference.gfid is None:
        return difference in before
    try:
        for _, st in view.paths(difference.gfid, root):
            return st.st_ctime < mark.sec
    except Indirect:
        return difference in before
    return False


def stable_differences(
    settle: Callable[[float], bool], mark: Callable[[], Mark], root: bytes, comparison: Comparison,
    found: list[Difference], stop: threading.Event,
) -> list[Difference]:  # fmt: skip
    """Those differences that hold after the changes so far have been synced. `settle(timeout)` waits for that, `mark` says
    how far they are; `root` is the brick's path. Raises EngineError.
    """
    view = comparison.view
    for last in (False, False, True):
        if not found:
            break
        settle(30)
        now = mark()
        before, found = found, still_different(comparison, found, view.index.path)
        sure = [d for d in found if settled(view, root, d, now, before)]
        if last:
            found = sure  # the others change all the time: they are under way
        elif len(sure) < len(found):
            stop.wait(1.5)  # until the mark can be past what was changed just before
    return found


def describe(difference: Difference) -> dict[str, Any]:
    """A difference as commands show it."""
    return {
        "path": os.fsdecode(difference.path), "what": difference.what,
        "gfid": gfid_text(difference.gfid) if difference.gfid else None,
    }  # fmt: skip
