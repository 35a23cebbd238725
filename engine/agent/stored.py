"""What a session stored in `.georep` of a secondary: whose it is, how far it is, what was begun; read before any write."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any, NamedTuple, Optional

from engine.agent.handles import check_name
from engine.agent.index import Index, IndexError_
from engine.agent.tree import gfid_of_name
from engine.agent.types import ROOT, STATE_DIR, Slot

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
INTENT, OLD_INTENT = "intent", "applying"
"""The file that says that a batch was begun; `applying` is what older versions called it, without content."""


class Place:
    """Where one brick lives under the agent's root: its tree, its state directory."""

    def __init__(self, root: bytes, brick: bytes) -> None:
        if brick:
            check_name(Slot(ROOT, brick))
        self.root = root
        self.brick = brick

    @property
    def tree(self) -> bytes:
        return os.path.join(self.root, self.brick) if self.brick else self.root

    def open_root(self) -> Optional[int]:
        """The root given to the agent, None when it is missing. OSError."""
        try:
            return os.open(self.root, _ROOT)
        except FileNotFoundError:
            return None

    def open_tree(self, root_fd: int) -> Optional[int]:
        """The tree of the brick, None when it is missing. OSError (ELOOP for a symlink)."""
        try:
            return os.open(self.brick, _DIR, dir_fd=root_fd) if self.brick else os.dup(root_fd)
        except FileNotFoundError:
            return None

    def open_state(self, root_fd: int, create: bool) -> Optional[int]:
        """The state directory, None when it is missing and not to be made. OSError."""
        parts = [STATE_DIR, b"bricks", self.brick] if self.brick else [STATE_DIR]
        fd = os.dup(root_fd)
        for part in parts:
            if create:
                try:
                    os.mkdir(part, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
            try:
                new = os.open(part, _DIR, dir_fd=fd)
            except FileNotFoundError:
                return None
            finally:
                os.close(fd)
            fd = new
        return fd


def read_json(dir_fd: int, name: str) -> Optional[dict[str, Any]]:
    """A small JSON object, None when it is missing or no JSON."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as f:
        try:
            found = json.loads(f.read(1 << 20))
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


def write_json(dir_fd: int, name: str, value: dict[str, Any], mtime_ns: Optional[int] = None) -> None:
    """Replace a small JSON file atomically and durably; with `mtime_ns` it has that mtime. OSError."""
    new = name + ".new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    with open(fd, "wb") as f:
        f.write(json.dumps(value).encode())
        f.flush()
        if mtime_ns is not None:
            os.utime(f.fileno(), ns=(mtime_ns, mtime_ns))
        os.fsync(f.fileno())
    os.rename(new, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    os.fsync(dir_fd)


def free_space(fd: int) -> dict[str, int]:
    """Free and total bytes and inodes of a filesystem, as an ordinary user may use them."""
    s = os.fstatvfs(fd)
    return {
        "bytes": s.f_bavail * s.f_frsize,
        "inodes": s.f_favail,
        "total_bytes": s.f_blocks * s.f_frsize,
        "total_inodes": s.f_files,
    }


class Intent(NamedTuple):
    """A batch that was begun: `at` is the place it will bring the replica to, `in_place` has the gfids (hex) of files that
    are written where they are and hold neither the old nor the new content until the commit. `since_ns` is when the
    first batch that no commit ended was begun (mtime of the file)."""

    at: Optional[str]
    in_place: list[str]
    since_ns: int


def read_intent(state_fd: int) -> Optional[Intent]:
    """The batch that was begun and not ended; None when there is none. OSError."""
    for name in (INTENT, OLD_INTENT):
        try:
            st = os.stat(name, dir_fd=state_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        kept = read_json(state_fd, name) or {}
        at, written = kept.get("at"), kept.get("in_place")
        gfids = [g for g in written if isinstance(g, str)] if isinstance(written, list) else []
        return Intent(at if isinstance(at, str) else None, gfids, st.st_mtime_ns)
    return None


def stored(state_fd: int, session: object, index: Optional[Index]) -> dict[str, Any]:
    """How far the replica is, from its index and from beside it. `at` names a place in the primary's history: that of
    the index, and `mark_at` that of the copy of the mark; `token` is of the comparison that its index was begun for."""
    mark = read_json(state_fd, "mark.json") or {}
    if mark.get("session") != session:
        mark = {}
    intent = read_intent(state_fd)
    return {
        "mark": mark.get("mark"), "mark_at": mark.get("at"), "epoch": int(mark.get("epoch") or 0),
        "at": None if index is None else index.fact("at"), "token": None if index is None else index.fact("token"),
        "intent": None if intent is None else {"at": intent.at, "in_place": intent.in_place},
    }  # fmt: skip


def _glance(state_fd: int) -> Optional[Index]:
    """The index for reading, None where there is none that can be read."""
    try:
        os.stat("index.db", dir_fd=state_fd, follow_symlinks=False)
        index = Index(f"/proc/self/fd/{state_fd}/index.db", 1, reader=True)
        index.fact("at")
    except (OSError, IndexError_, sqlite3.Error):
        return None
    return index


def look(place: Place) -> dict[str, Any]:
    """What is there, for `hello`; changes nothing. How far it is, and `limbo`, only where a session left them. Another
    agent may still be at work there: what counts is what `begin` then says."""
    found: dict[str, Any] = {
        "exists": False, "fresh": True, "empty": True, "session": None, "brick": None, "primary": None,
        "mark": None, "mark_at": None, "at": None, "token": None, "epoch": 0, "intent": None, "limbo": [], "statfs": None,
    }  # fmt: skip
    root_fd = place.open_root()
    if root_fd is None:
        return found
    fds = [root_fd]
    try:
        found["statfs"] = free_space(root_fd)
        tree_fd = place.open_tree(root_fd)
        if tree_fd is not None:
            fds.append(tree_fd)
            found["exists"] = True
            with os.scandir(tree_fd) as entries:
                found["empty"] = all(os.fsencode(e.name) == STATE_DIR for e in entries)
        state_fd = place.open_state(root_fd, create=False)
        if state_fd is None:
            return found
        fds.append(state_fd)
        session = read_json(state_fd, "session.json")
        if session is None:
            return found
        found["fresh"] = False
        for key in ("session", "brick", "primary"):
            found[key] = session.get(key)
        index = _glance(state_fd)
        try:
            found.update(stored(state_fd, session.get("session"), index))
        finally:
            if index is not None:
                index.close()
        try:
            limbo_fd = os.open(b"limbo", _DIR, dir_fd=state_fd)
            fds.append(limbo_fd)
            found["limbo"] = [n for n in os.listdir(limbo_fd) if gfid_of_name(os.fsencode(n))]
        except FileNotFoundError:
            pass
        return found
    finally:
        for fd in fds:
            os.close(fd)
