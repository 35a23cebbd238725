"""What the secondary keeps of a session in `.georep`: whose it is, the lock, the mark, the order of a commit."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat as _stat
import threading
import time
from typing import Any, Optional

from engine.agent import committed, foreign, heal, repair, system
from engine.agent.index import IndexError_
from engine.agent.pending import PendingIndex
from engine.agent.stored import (
    INTENT,
    OLD_INTENT,
    Place,
    free_space,
    read_intent,
    read_json,
    stored,
    write_json,
)
from engine.agent.trash import Trash
from engine.agent.tree import Mode, Tree, gfid_of_name
from engine.agent.types import LIMBO, Gfid

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
        self.intent = read_intent(state_fd)
        """The batch that was begun: by this agent, or by one that did not end it."""
        self.recovering = self.intent is not None
        self._marked = self.recovering
        self._since = time.time()
        self.index = self._open_index(fresh)
        if not self.recovering:
            self.index.forget_idents()
        self.tree = Tree(tree_fd, limbo_fd, self.index)
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
            for name in os.listdir(stage):
                self.trash.take(stage, os.fsencode(name))
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

    def stored(self) -> dict[str, Any]:
        """How far the replica is; see `stored.stored`."""
        return stored(self.state_fd, self.session.get("session"), self.index)

    def applying(self) -> None:
        """Called before the tree is changed: notes on disk that it is ahead of the index until the next commit."""
        if not self._marked:
            self.intend(None, [])

    def intend(self, at: Optional[str], in_place: list[Gfid]) -> None:
        """Note, durably, that a batch is begun which brings the replica to that place, and which files it will write
        where they are (added to those noted before). What an earlier agent left begun stays noted with it."""
        before = self.intent
        kept = before.in_place if before is not None else []
        gfids = list(dict.fromkeys([*kept, *(g.hex() for g in in_place)]))
        at = at if at is not None or before is None else before.at
        if before is not None and (before.at, before.in_place) == (at, gfids):
            return
        since = None if before is None else before.since_ns
        write_json(self.state_fd, INTENT, {**self.session, "at": at, "in_place": gfids}, since)
        self._remove(OLD_INTENT)
        self.intent = read_intent(self.state_fd)
        self._marked = True

    def _ended(self) -> None:
        """Disk and index agree again."""
        self._remove(INTENT)
        self._remove(OLD_INTENT)
        self.intent = None
        self._marked = False

    def damaged(self) -> None:
        """The index turned out to be damaged: the next start begins a new one."""
        self._touch("index.damaged")

    def begin_adoption(self, mode: Mode, clear: bool) -> None:
        """Compare anew with the primary; `clear` forgets all rows, which also answers a lost index (MRK-7)."""
        if clear:
            self._forget()
        self.set_mode(mode)

    def begin_again(self, at: Optional[str], token: str, proven: bool) -> None:
        """Forget all rows, durably, for a comparison: `token` names it, `at` is the place that it begins from.

        `proven`: what the rows say was committed in the primary's history; of files that are still so it is remembered
        until the comparison ends, so that their content need not be read.
        """
        self.index.remember(proven)
        self._forget()
        self.index.set_fact("at", at)
        self.index.set_fact("token", token)
        self.index.commit(durable=True)
        write_json(self.state_fd, "mark.json", {**self.session, "mark": None, "at": at, "epoch": 0, "time": time.time()})

    def _forget(self) -> None:
        self.index.clear()
        self.tree.dirs.clear()
        self.recovering = False
        self._remove("index.damaged")

    def end_adoption(self) -> None:
        """The comparison is through."""
        self.index.forget_remembered()
        self.index.set_fact("token", None)
        self.set_mode(None)

    # --- commit

    def commit(
        self,
        purge: list[Gfid],
        *,
        purge_foreign: bool,
        keep_deleted: Optional[float],
        mark: Optional[dict[str, int]],
        extra: Optional[dict[str, Any]] = None,
        at: Optional[str] = None,
        epoch: int = 0,
    ) -> dict[str, Any]:
        """Index, syncfs, mark, and only then what may go for good (MRK-6, SEC-16). `keep_deleted` in seconds.

        `at` is the place in the primary's history that the replica then is at: a fact of the index in the transaction of
        its rows, and beside the copy of the mark. With neither it nor `mark` that stays as it is. Raises OSError,
        sqlite3.Error: nothing is acknowledged.
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
            foreign.sweep(tree, self.intent.since_ns if self.intent is not None else 1)
            tree.dirs.clear()
            heal.tidy(self.tree_fd, self.limbo_fd, index)
            purge_foreign = True
        names = self._give_up(purge)
        committed.renew(tree)
        spare = self._spare()
        if at is not None:
            index.set_fact("at", at)
        index.commit(durable=True)
        system.syncfs(self.root_fd)
        if mark is not None or at is not None:
            self._write_mark(mark, at, epoch, extra)
        if mark is not None and self.recovering and mark["sec"] >= self._since:
            self._recovered()
        if self._marked and not self.recovering:
            self._ended()
        if tree.mode is None:
            index.forget_idents()
        for name in spare:
            try:
                os.unlink(name, dir_fd=self.limbo_fd)
            except FileNotFoundError:
                pass  # the row was all there was
        failed = self._purge(names, purge_foreign, keep_deleted)
        return {"statfs": free_space(self.root_fd), "purge_failed": failed, "recovering": self.recovering}

    def _write_mark(self, mark: Optional[dict[str, int]], at: Optional[str], epoch: int, extra: Optional[dict[str, Any]]) -> None:
        """The copy of the mark with the place; what is not given stays."""
        before = read_json(self.state_fd, "mark.json") or {}
        value = {**self.session, "mark": before.get("mark") if mark is None else mark,
                 "at": before.get("at") if at is None else at, "epoch": epoch, "time": time.time(), **(extra or {})}  # fmt: skip
        write_json(self.state_fd, "mark.json", value)

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
            self.tree.unsure.discard(gfid)
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
                self.index.put_row(row._replace(ctime_ns=0))  # it changes when the spare name goes
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
                committed.renew(self.tree)
                self.index.commit(durable=True)
                if self._marked and not self.recovering:
                    system.syncfs(self.root_fd)
                    self._ended()
            self.index.close()
        finally:
            self.tree.dirs.clear()
            self._release()

    def _release(self) -> None:
        if self.trash is not None:
            self.trash.close()
            self.trash = None
        for fd in reversed(self._fds):
            os.close(fd)
        self._fds = []
