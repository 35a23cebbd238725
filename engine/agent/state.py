"""What the secondary keeps of a session in `.georep`: whose it is, the lock, the mark, the order of a commit."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import stat as _stat
import threading
import time
from typing import Any, Optional

from engine.agent import foreign, heal, repair, system
from engine.agent.beside import Beside
from engine.agent.content import Writer
from engine.agent.handles import check_name
from engine.agent.index import IndexError_
from engine.agent.intent import TreeIntent
from engine.agent.pending import PendingIndex
from engine.agent.trash import Trash
from engine.agent.tree import Mode, Tree, gfid_of_name
from engine.agent.types import LIMBO, ROOT, STATE_DIR, Gfid, Slot

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class CallError(Exception):
    """A call is refused or failed: text, a stable code, what to do, errno or 0; `node`: who would not refuse it."""

    def __init__(self, text: str, code: str, hint: str = "", number: int = 0, node: Optional[dict[str, str]] = None) -> None:
        """`node` is {"id", "host"}."""
        super().__init__(text)
        self.node = node
        self.text = text
        self.code = code
        self.hint = hint
        self.errno = number


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


def write_json(dir_fd: int, name: str, value: dict[str, Any]) -> None:
    """Replace a small JSON file atomically and durably. OSError."""
    new = name + ".new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    with open(fd, "wb") as f:
        f.write(json.dumps(value).encode())
        f.flush()
        os.fsync(f.fileno())
    os.rename(new, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    os.fsync(dir_fd)


def clear_stage(stage_fd: int, token: bytes) -> None:
    """Unlink what is in a stage: links of real files must not be counted as names of theirs for longer than needed."""
    try:
        fd = os.open(token, _DIR, dir_fd=stage_fd)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for name in os.listdir(fd):
            try:
                os.unlink(name, dir_fd=fd)
            except (FileNotFoundError, IsADirectoryError, PermissionError):
                pass  # what a program made there goes with the rest
    finally:
        os.close(fd)


def free_space(fd: int) -> dict[str, int]:
    """Free and total bytes and inodes of a filesystem, as an ordinary user may use them."""
    s = os.fstatvfs(fd)
    return {
        "bytes": s.f_bavail * s.f_frsize,
        "inodes": s.f_favail,
        "total_bytes": s.f_blocks * s.f_frsize,
        "total_inodes": s.f_files,
    }


def look(place: Place) -> dict[str, Any]:
    """What is there, for `hello`; changes nothing. `mark` and `limbo` only where a session left them."""
    found: dict[str, Any] = {
        "exists": False, "fresh": True, "empty": True, "session": None, "brick": None, "primary": None,
        "mark": None, "limbo": [], "statfs": None,
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
        mark = read_json(state_fd, "mark.json")
        if mark is not None and mark.get("session") == session.get("session"):
            found["mark"] = mark.get("mark")
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


class Holding:
    """A tree taken for a session: lock held, index open. One at a time on each root (SAFE-5)."""

    def __init__(self, place: Place, session: dict[str, str], *, take_over: bool, create: bool, wait: float) -> None:
        """Take it. `wait` in seconds for the lock. Raises CallError `missing`, `locked`, `other-session`,
        `other-filesystem`; OSError."""
        self.place = place
        self.session = session
        self.index_lost = False
        self._fds: list[int] = []
        self.trash: Optional[Trash] = None
        self.beside: Optional[Beside] = None
        try:
            self._open(take_over, create, wait)
        except BaseException:
            self._release()
            raise

    def _open(self, take_over: bool, create: bool, wait: float) -> None:
        root_fd = self.place.open_root()
        if root_fd is None:
            if not create:
                raise CallError(f"{os.fsdecode(self.place.root)} does not exist", "missing", "make it", errno.ENOENT)
            try:
                os.mkdir(self.place.root, 0o755)
            except FileNotFoundError as e:
                text = f"{os.fsdecode(self.place.root)} cannot be made: its parent directory does not exist"
                raise CallError(text, "missing", "make it, or mount what should be there", errno.ENOENT) from e
            root_fd = os.open(self.place.root, _ROOT)
        self._fds.append(root_fd)
        if self.place.brick:
            try:
                os.mkdir(self.place.brick, 0o755, dir_fd=root_fd)
            except FileExistsError:
                pass
        tree_fd = self.place.open_tree(root_fd)
        if tree_fd is None:
            raise CallError(f"{os.fsdecode(self.place.tree)} went away", "missing", "", errno.ENOENT)
        self._fds.append(tree_fd)
        before = self.place.open_state(root_fd, create=False)
        if before is not None:
            try:
                self._check_owner(before, take_over)  # before the first byte is written
            finally:
                os.close(before)
        state_fd = self.place.open_state(root_fd, create=True)
        assert state_fd is not None
        self._fds.append(state_fd)
        self.root_fd, self.tree_fd, self.state_fd = root_fd, tree_fd, state_fd
        if os.fstat(state_fd).st_dev != os.fstat(tree_fd).st_dev:
            text = f"{os.fsdecode(self.place.tree)} is another filesystem than its state directory"
            raise CallError(text, "other-filesystem", "give that filesystem as the root of the secondary", errno.EXDEV)
        self._lock(wait)
        fresh = self._check_owner(state_fd, take_over)
        for name in (b"limbo", b"stage", b"deleted"):
            try:
                os.mkdir(name, 0o700, dir_fd=state_fd)
            except FileExistsError:
                pass
        limbo_fd = os.open(b"limbo", _DIR, dir_fd=state_fd)
        self._fds.append(limbo_fd)
        self.limbo_fd = limbo_fd
        self._own(fresh, take_over)
        self.trash = Trash(state_fd)
        self._clear_stages()
        self.recovering = self._exists("applying")
        self._marked = self.recovering
        self._since = time.time()
        self.index = self._open_index(fresh)
        if not self.recovering:
            self.index.forget_idents()
        self.tree = Tree(tree_fd, limbo_fd, self.index)
        self.intent = TreeIntent(state_fd, self.tree.hollow)
        self.beside = Beside(self.tree, state_fd)
        self.writer = Writer(self.tree, self.beside, self.intent)
        self.set_mode(None)

    def _lock(self, wait: float) -> None:
        fd = os.open(b"lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.state_fd)
        self._fds.append(fd)
        until = time.monotonic() + wait
        pause = threading.Event()
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    holder = os.pread(fd, 100, 0).decode("ascii", "replace").strip()
                    raise CallError(
                        f"{os.fsdecode(self.place.tree)} is held by another agent ({holder or 'unknown'})", "locked",
                        "stop the other engine, or wait until its line has timed out", errno.EWOULDBLOCK,
                    ) from None  # fmt: skip
                pause.wait(0.05)  # there is no lock call with a deadline
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"pid %d\n" % os.getpid(), 0)

    def _check_owner(self, state_fd: int, take_over: bool) -> bool:
        """Is nobody's session here? CallError when it is another one's and not to be taken over."""
        found = read_json(state_fd, "session.json")
        if found is None:
            return True
        mine = (self.session.get("session"), self.session.get("brick"))
        if (found.get("session"), found.get("brick")) != mine and not take_over:
            raise CallError(
                f"{os.fsdecode(self.place.tree)} belongs to another session (primary {found.get('primary')})",
                "other-session", "choose another secondary, or take it over with --adopt",
            )  # fmt: skip
        return False

    def _own(self, fresh: bool, take_over: bool) -> None:
        """Write whose it is; notice a state directory that was copied here, whose inode numbers mean nothing."""
        found = read_json(self.state_fd, "session.json") or {}
        inode = os.fstat(self.limbo_fd).st_ino
        self.copied = not fresh and found.get("inode") not in (None, inode)
        ours = found.get("session") == self.session.get("session") and found.get("brick") == self.session.get("brick")
        if not ours:
            self._remove("mark.json")
        if fresh or take_over or self.copied or not ours:
            write_json(self.state_fd, "session.json", {**self.session, "inode": inode, "version": 1})

    def _open_index(self, fresh: bool) -> PendingIndex:
        path = f"/proc/self/fd/{self.state_fd}/index.db"
        there = self._exists("index.db")
        self.index_lost = not fresh and (not there or self.copied or self._exists("index.damaged"))
        if there and not self.index_lost:
            try:
                index = PendingIndex(path)
                index.count()  # reads a good part of it
                return index
            except (IndexError_, sqlite3.DatabaseError):
                self.index_lost = True
        for name in ("index.db", "index.db-wal", "index.db-shm"):
            if self._exists(name):
                os.rename(name, "lost." + name, src_dir_fd=self.state_fd, dst_dir_fd=self.state_fd)
        if self.index_lost:
            self.damaged()  # told again at every start until the primary begins to compare anew
        return PendingIndex(path)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.state_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.state_fd)
        except FileNotFoundError:
            pass

    def _touch(self, name: str) -> None:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.state_fd))

    def _clear_stages(self) -> None:
        assert self.trash is not None
        stage = os.open(b"stage", _DIR, dir_fd=self.state_fd)
        try:
            for name in map(os.fsencode, os.listdir(stage)):
                clear_stage(stage, name)
                self.trash.take(stage, name)
        finally:
            os.close(stage)

    # --- modes

    def set_mode(self, adoption: Optional[Mode]) -> None:
        """Adoption as given, else recovery while that lasts, else neither."""
        self.adoption = adoption
        if adoption is not None:
            self.tree.mode = adoption._replace(recovering=self.recovering)
        elif self.recovering:
            self.tree.mode = Mode(replace=True, checksum=False, recovering=True)
        else:
            self.tree.mode = None

    def applying(self) -> None:
        """Called before the tree is changed: notes on disk that it is ahead of the index until the next commit."""
        if not self._marked:
            self._touch("applying")
            self._marked = True

    def damaged(self) -> None:
        """The index turned out to be damaged: the next start begins a new one."""
        self._touch("index.damaged")

    def begin_adoption(self, mode: Mode, clear: bool) -> None:
        """Compare anew with the primary; `clear` forgets all rows, which also answers a lost index (MRK-7)."""
        if clear:
            self.index.clear()
            self.tree.dirs.clear()
            self.recovering = False
            self._remove("index.damaged")
        self.set_mode(mode)

    # --- commit

    def commit(
        self,
        purge: list[Gfid],
        *,
        purge_foreign: bool,
        keep_deleted: Optional[float],
        mark: Optional[dict[str, int]],
        extra: Optional[dict[str, Any]] = None,
    ) -> dict[str, Any]:
        """Index, syncfs, mark, and only then what may go for good (MRK-6, SEC-16). `keep_deleted` in seconds.

        With `mark` None the copy of the mark stays as it is. Raises OSError, sqlite3.Error: nothing is acknowledged.
        """
        self._check_place()
        tree, index = self.tree, self.index
        tree.dirs.clear()
        if self.recovering:
            tree.heal()  # or rows of the last commit would go with a directory that was left since
            purge_foreign = False  # what has been set aside may hold what a later operation brings back
            for gfid in purge:  # a name of something else may have been taken for this object's
                repair.remove(tree, gfid)
        if self.recovering and mark is not None and mark["sec"] >= self._since:
            # everything has been repeated: what is still unknown was made before the crash and is gone on the primary
            tree.drop_unconfirmed()
            foreign.sweep(tree, os.stat("applying", dir_fd=self.state_fd, follow_symlinks=False).st_mtime_ns)
            tree.dirs.clear()
            heal.tidy(self.tree_fd, self.limbo_fd, index)
            purge_foreign = True
        names = self._give_up(purge)
        spare = self._spare()
        self.intent.note_hollow(index.has)
        index.commit(durable=True)
        assert self.beside is not None
        self.beside.release()
        system.syncfs(self.root_fd)
        self.intent.settle()
        if mark is not None:
            value = {**self.session, "mark": mark, "time": time.time(), **(extra or {})}
            write_json(self.state_fd, "mark.json", value)
            if self.recovering and mark["sec"] >= self._since:
                self._recovered()
        if self._marked and not self.recovering:
            self._remove("applying")
            self._marked = False
        if tree.mode is None:
            index.forget_idents()
        for name in spare:
            try:
                os.unlink(name, dir_fd=self.limbo_fd)
            except FileNotFoundError:
                pass  # the row was all there was
        failed = self._purge(names, purge_foreign, keep_deleted)
        return {"statfs": free_space(self.root_fd), "purge_failed": failed}

    def _check_place(self) -> None:
        """Is what we hold still what is under its name? CallError when it was moved, unmounted, or mounted over."""
        try:
            now = os.stat(self.place.root)
        except OSError:
            now = None
        held = os.fstat(self.root_fd)
        if now is None or (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino):
            text = f"{os.fsdecode(self.place.root)} is not the directory it was: it was moved, unmounted or mounted over"
            raise CallError(text, "secondary-moved", "put it back, or mount what should be there", errno.ESTALE)

    def _recovered(self) -> None:
        """All that was done before a crash has been repeated and committed."""
        self.recovering = False
        self.index.forget_idents()
        self.tree.strays = {}
        self.set_mode(self.adoption)

    def _give_up(self, purge: list[Gfid]) -> list[tuple[bytes, Optional[bytes]]]:
        """Remove the rows of what is to go; names in limbo and, for directories and files, where they came from."""
        names: list[tuple[bytes, Optional[bytes]]] = []
        for gfid in purge:
            if gfid not in self.tree.limbo:
                continue
            name = gfid.hex().encode()
            row = self.index.get(LIMBO, name)
            if row is not None and row.kind == _stat.S_IFDIR:
                self.index.forget_tree(gfid)
            self.index.remove_slot(LIMBO, name)
            self.tree.limbo.discard(gfid)
            self.writer.arrived(gfid)  # nothing of it is expected any more
            names.append((name, self.tree.origin(gfid)))
        self.tree.came_from = {}
        return names

    def _spare(self) -> list[bytes]:
        """Names in limbo of files that have a name of their own as well: a crash may leave both. Their rows go."""
        spare: list[bytes] = []
        for gfid in list(self.tree.limbo):
            name = gfid.hex().encode()
            waiting = self.index.get(LIMBO, name)
            if waiting is None or waiting.kind == _stat.S_IFDIR:
                continue
            for row in self.index.rows(gfid):
                if row.parent in (LIMBO, heal.NOWHERE) or row.ident != waiting.ident or self.tree.at(row) is None:
                    continue
                self.index.remove_slot(LIMBO, name)
                self.tree.limbo.discard(gfid)
                spare.append(name)
                break
        return spare

    def _purge(
        self, names: list[tuple[bytes, Optional[bytes]]], unknown: bool, keep_deleted: Optional[float]
    ) -> list[str]:
        assert self.trash is not None
        if unknown:
            names = names + [(n, None) for n in map(os.fsencode, os.listdir(self.limbo_fd)) if not gfid_of_name(n)]
        failed: list[str] = []
        now = time.time()
        for name, path in names:
            try:
                if keep_deleted:
                    self.trash.keep(self.limbo_fd, name, path, now)
                else:
                    self.trash.take(self.limbo_fd, name)
            except FileNotFoundError:
                continue
            except OSError as e:
                failed.append(f"{os.fsdecode(name)}: {e.strerror}")
        if keep_deleted is not None:
            self.trash.prune(now - keep_deleted)
        return failed

    # --- end

    def close(self, clean: bool = True) -> None:
        """Let go. `clean`: what was applied is committed first, so that the next agent finds index and disk agree."""
        try:
            if clean:
                self.index.commit(durable=True)
                self.intent.note_hollow(self.index.has)
                if self._marked and not self.recovering:
                    self._remove("applying")
            self.index.close()
        finally:
            self.tree.dirs.clear()
            self._release()

    def _release(self) -> None:
        if self.trash is not None:
            self.trash.close()
            self.trash = None
        if self.beside is not None:
            self.beside.close()
            self.beside = None
        for fd in reversed(self._fds):
            os.close(fd)
        self._fds = []
