"""Entry operations on the secondary's tree: the rows SEC-1 to SEC-16, one by one and in order."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat as _stat
from typing import Optional

from engine.agent import make
from engine.agent.attributes import set_attributes
from engine.agent.content import Writer, write_whole
from engine.agent.handles import OpError, check_name, hex_name, kind_word, system_error
from engine.agent.index import Row
from engine.agent.make import Made
from engine.agent.tree import Tree, Where
from engine.agent.types import LIMBO, STATE_DIR, EntryOp, Fop, Gfid, Outcome, Slot

_MKNOD, _MKDIR, _UNLINK, _RMDIR, _SYMLINK, _RENAME, _LINK, _CREATE = (
    int(Fop.MKNOD), int(Fop.MKDIR), int(Fop.UNLINK), int(Fop.RMDIR), int(Fop.SYMLINK), int(Fop.RENAME),
    int(Fop.LINK), int(Fop.CREATE),
)  # fmt: skip
_FILES = (_CREATE, _MKNOD)
_REMOVING = (_UNLINK, _RMDIR)
_MAKING = (_CREATE, _MKNOD, _MKDIR, _SYMLINK, _LINK)
_REPLACING = (_CREATE, _MKNOD, _SYMLINK, _LINK)
_NO_NAMES = frozenset((b"", b".", b"..", STATE_DIR))
_open, _write, _utime, _fstat, _close = os.open, os.write, os.utime, os.fstat, os.close


class Applied:
    """What a list of operations came to; see wire.EntriesReply."""

    __slots__ = ("failures", "made", "sizes")

    def __init__(self) -> None:
        self.failures: list[Outcome] = []
        self.made: dict[Gfid, None] = {}
        self.sizes: list[tuple[int, int, int]] = []


class Entries:
    """Applies entry operations to one tree. Used by one thread."""

    def __init__(self, tree: Tree, writer: Writer) -> None:
        self._tree = tree
        self._writer = writer

    def apply(self, ops: list[EntryOp]) -> Applied:
        """Apply operations in order; one that fails does not stop the next. sqlite3.Error when the index fails."""
        out = Applied()
        tree = self._tree
        tree.heal()
        maybe = tree.index.maybe([op[1] for op in ops if op[0] in _FILES])
        limbo, settle = tree.limbo, tree.dirs.settle
        skip = -1
        for i, op in enumerate(ops):
            if i == skip:
                continue
            try:
                fop = op[0]
                if fop in _FILES and op[1] not in maybe and op[1] not in limbo:
                    maybe.add(op[1])
                    if self._new_file(i, op, out):
                        continue
                maybe.add(op[1])
                if fop == _UNLINK and i + 1 < len(ops) and self._replaced_by_next(i, op, ops[i + 1], out):
                    skip = i + 1
                    continue
                self._one(i, op, out)
            except OpError as e:
                out.failures.append(Outcome(i, e.errno, e.text, e.found))
            except OSError as e:
                e2 = system_error(e)
                out.failures.append(Outcome(i, e2.errno, e2.text))
            except sqlite3.Error:
                raise
            except Exception as e:  # noqa: BLE001 - one operation must not take the agent and its batch down
                out.failures.append(Outcome(i, errno.EINVAL, f"system: {type(e).__name__}: {e}"))
            settle()
        return out

    # --- the common case: a new file with its content

    def _new_file(self, i: int, op: EntryOp, out: Applied) -> bool:
        """Make a new regular file whole; False when this is not the case at hand. Kept flat: it is what is timed."""
        _, gfid, slot, _, stat, _, data, xattrs = op
        if stat is None or data is None or xattrs is None:
            return False
        mode, uid, gid, _, mtime_ns, atime_ns, _ = stat
        if mode & 0o170000 != 0o100000:
            return False
        parent, name = slot
        if name in _NO_NAMES or b"/" in name or b"\0" in name or parent == LIMBO:
            check_name(slot)
        tree = self._tree
        pfd = tree.dirs.get(parent)
        if pfd is None:
            pfd = tree.dirfd(parent)
        try:
            fd = _open(name, make.NEW_FILE, mode & 0o7777, dir_fd=pfd)
        except FileExistsError:
            return False
        try:
            try:
                if data and _write(fd, data) != len(data):
                    os.lseek(fd, 0, os.SEEK_SET)
                    write_whole(fd, data)
                _utime(fd, ns=(atime_ns, mtime_ns))
            finally:
                st = _fstat(fd)
                tree.index.put_row((parent, name, gfid, 0o100000, st.st_ino.to_bytes(8, "big"), 0, 0, 0))
            out.sizes.append((i, st.st_size, st.st_mtime_ns))
            if st.st_mode != mode or st.st_uid != uid or st.st_gid != gid or xattrs or pfd in tree.dirs.with_acl:
                set_attributes(fd, st, stat, xattrs)
        finally:
            _close(fd)
        return True

    # --- everything else

    def _one(self, i: int, op: EntryOp, out: Applied) -> None:
        fop = op.fop
        if fop in _REMOVING:
            self._remove(op)
        elif fop in _MAKING:
            self._place(i, op, op.slot, out)
        elif fop == _RENAME:
            self._rename(i, op, out)
        else:
            raise OpError(errno.EINVAL, f"refused: operation {fop} is not known")

    def _remove(self, op: EntryOp) -> None:
        """UNLINK, RMDIR (SEC-1, 2, 3, 16)."""
        if op.slot.parent == LIMBO:
            return  # what is in limbo stays until the commit says what becomes of it
        check_name(op.slot)
        tree = self._tree
        try:
            pfd = tree.dirfd(op.slot.parent)
        except OpError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        row, st = tree.probe(pfd, op.slot)
        if st is None:
            return
        if row is None:
            row = self._claim(op, op.slot, st)
            if row is None:
                if tree.mode is not None and tree.mode.recovering:
                    return  # the object is elsewhere already; a later operation speaks of what is here
                raise self._unknown(st)
        if row.gfid != op.gfid:
            raise OpError(errno.EEXIST, "occupied: another object has this name; not removed", row.gfid)
        tree.unname(pfd, op.slot, row, st)

    def _replaced_by_next(self, i: int, op: EntryOp, after: EntryOp, out: Applied) -> bool:
        """UNLINK whose name the next operation takes: both as one replacement. False: nothing was done."""
        if after.gfid == op.gfid or op.slot.parent == LIMBO:
            return False
        if after.fop in _REPLACING:
            if after.slot != op.slot:
                return False
        elif after.fop != _RENAME or after.dest != op.slot or after.slot == op.slot:
            return False
        check_name(op.slot)
        tree = self._tree
        try:
            pfd = tree.dirfd(op.slot.parent)
        except OpError:
            return False
        row, st = tree.probe(pfd, op.slot)
        if row is None or st is None or row.gfid != op.gfid or _stat.S_ISDIR(st.st_mode):
            return False
        try:
            if after.fop == _RENAME:
                self._rename(i + 1, after, out)
            else:
                self._place(i + 1, after, after.slot, out, over=True)
        except OpError as e:
            out.failures.append(Outcome(i + 1, e.errno, e.text, e.found))
        except OSError as e:
            e2 = system_error(e)
            out.failures.append(Outcome(i + 1, e2.errno, e2.text))
        tree.dirs.settle()
        now = tree.index.get(op.slot.parent, op.slot.name)
        if now is not None and now.gfid == op.gfid:  # the next one failed, or found its object elsewhere
            self._remove(op)
        return True

    def _place(self, i: int, op: EntryOp, slot: Slot, out: Applied, over: bool = False) -> None:
        """Make the object be at a slot, taken from where it is or made anew (SEC-4 to 8, 11).

        `over`: another known object there is displaced (SEC-12), else that is a failure.
        """
        check_name(slot)
        tree = self._tree
        pfd = tree.dirfd(slot.parent)
        row, st = tree.probe(pfd, slot)
        gfid = op.gfid
        if row is not None and st is not None and row.gfid == gfid:
            tree.unconfirmed.pop(slot, None)
            self._present(i, op, Where(pfd, slot.name, st, row), out)
            return
        where = tree.locate(gfid)
        if where is not None and op.fop == _CREATE and not where.in_limbo and st is not None and not over:
            self._present(i, op, where, out)  # a free name it gets: a repeated RENAME may have displaced it there
            return
        if row is not None and not over:
            raise OpError(errno.EEXIST, "occupied: another object has this name", row.gfid)
        if st is not None and row is None:
            self._take_over(i, op, slot, pfd, st, where, out)
        elif where is not None:
            self._bring(where, gfid, pfd, slot, row, st)
            if where.in_limbo and op.fop == _MKDIR:
                out.made[gfid] = None  # nobody told what became of it while it was away
            self._present(i, op, where._replace(pfd=pfd, name=slot.name), out)
        else:
            self._make(i, op, pfd, slot, row, st, out)

    def _bring(
        self, where: Where, gfid: Gfid, pfd: int, slot: Slot, row: Optional[Row], st: Optional[os.stat_result]
    ) -> None:
        if where.row is None or where.in_limbo or _stat.S_ISDIR(where.st.st_mode):
            self._tree.move(where, gfid, pfd, slot, row, st)
        else:
            self._tree.link(where, gfid, pfd, slot, row, st)

    def _make(
        self,
        i: int,
        op: EntryOp,
        pfd: int,
        slot: Slot,
        row: Optional[Row],
        st: Optional[os.stat_result],
        out: Applied,
    ) -> None:
        tree = self._tree
        if op.fop == _RENAME and op.stat is not None and _stat.S_ISDIR(op.stat.mode):
            # neither is what is in it, of which no record tells: for the primary to settle (SEC-11)
            raise OpError(errno.ENOENT, "absent: the directory is not here")
        if st is None:
            made = make.create(tree, pfd, slot, op.gfid, op.stat, op.link, op.data, op.xattrs)
        else:
            made = make.replace(tree, pfd, slot, op.gfid, op.stat, op.link, op.data, op.xattrs, row, st)
        self._report(i, op, made, out)

    def _report(self, i: int, op: EntryOp, made: Made, out: Applied) -> None:
        if not made.whole:
            out.made[op.gfid] = None
        if made.seen is not None:
            out.sizes.append((i, *made.seen))
        if made.failed is not None:
            raise made.failed

    def _present(self, i: int, op: EntryOp, where: Where, out: Applied) -> None:
        """The object is there: content that came along is written, so that a repeated operation ends the same."""
        tree = self._tree
        regular = _stat.S_ISREG(where.st.st_mode)
        if op.data is not None and regular:
            size, mtime, failed = self._writer.whole(op.gfid, op.data, op.stat, op.xattrs)
            self._report(i, op, Made(op.stat is not None and op.xattrs is not None, (size, mtime), failed), out)
        elif op.gfid in tree.unsure:
            if make.same_object(where.pfd, where.name, where.st, op.stat, op.link):
                tree.unsure.discard(op.gfid)
            else:
                out.made[op.gfid] = None

    def _unknown(self, st: os.stat_result) -> OpError:
        mode = self._tree.mode
        if mode is not None and not mode.replace:
            return make.foreign(st)
        return OpError(errno.EEXIST, f"unknown: {kind_word(st.st_mode)} is there that is not in the index")

    def _claim(self, op: EntryOp, slot: Slot, st: os.stat_result) -> Optional[Row]:
        """After a crash: something unknown where the operation has its object, which is nowhere else, is that object.

        It was made since the last commit, and its row is lost. Its content may be torn.
        """
        tree = self._tree
        if tree.mode is None or not tree.mode.recovering:
            return None
        directory = _stat.S_ISDIR(st.st_mode)
        if op.fop in _REMOVING:
            fits = directory == (op.fop == _RMDIR)
        else:
            fits = op.stat is None or _stat.S_IFMT(op.stat.mode) == _stat.S_IFMT(st.st_mode)
        if not fits or tree.locate(op.gfid) is not None:
            return None
        tree.unsure.add(op.gfid)
        return tree.register(slot, op.gfid, st)

    def _take_over(
        self, i: int, op: EntryOp, slot: Slot, pfd: int, st: os.stat_result, where: Optional[Where], out: Applied
    ) -> None:
        """The slot holds something the index does not know: adopt it, replace it, or leave it (CRW-8)."""
        tree = self._tree
        mode = tree.mode
        if mode is None:
            raise self._unknown(st)
        if where is not None:
            self._take_over_for_known(i, op, slot, pfd, st, where, out)
            return
        if op.stat is None and self._claim(op, slot, st) is not None:
            return
        equal = make.same_object(pfd, slot.name, st, op.stat, op.link, mode.checksum)
        if not equal and not mode.replace:
            raise make.foreign(st)
        owner: Optional[Row] = None
        if st.st_nlink > 1 and not _stat.S_ISDIR(st.st_mode):
            owner = tree.index.by_ident(st.st_ino.to_bytes(8, "big"), _stat.S_IFMT(st.st_mode))
        if owner is not None:
            # one file there, two on the primary: this name gets one of its own
            self._make(i, op, pfd, slot, None, st, out)
        elif equal and op.stat is not None:
            made = make.adopt(tree, pfd, slot, op.gfid, st, op.stat, op.xattrs)
            if mode.checksum and _stat.S_ISREG(st.st_mode):
                made.whole = False
            elif op.data is not None:
                made.seen = (st.st_size, st.st_mtime_ns)
            self._report(i, op, made, out)
        elif _stat.S_ISREG(st.st_mode) and op.stat is not None and _stat.S_ISREG(op.stat.mode):
            row = tree.register(slot, op.gfid, st)
            if op.data is None:
                out.made[op.gfid] = None
            else:
                self._present(i, op, Where(pfd, slot.name, st, row), out)
        else:
            self._make(i, op, pfd, slot, None, st, out)

    def _take_over_for_known(
        self, i: int, op: EntryOp, slot: Slot, pfd: int, st: os.stat_result, where: Where, out: Applied
    ) -> None:
        tree = self._tree
        mode = tree.mode
        assert mode is not None
        regular = _stat.S_ISREG(st.st_mode) and _stat.S_ISREG(where.st.st_mode)
        if st.st_ino == where.st.st_ino:
            tree.register(slot, op.gfid, st)
        else:
            equal = (
                st.st_size == where.st.st_size and (mode.checksum or st.st_mtime_ns == where.st.st_mtime_ns)
                if regular
                else not _stat.S_ISDIR(st.st_mode) and make.same_object(pfd, slot.name, st, op.stat, op.link)
            )
            if not equal and not mode.replace:
                raise make.foreign(st)
            self._bring(where, op.gfid, pfd, slot, None, st)
        self._present(i, op, where._replace(pfd=pfd, name=slot.name), out)

    def _rename(self, i: int, op: EntryOp, out: Applied) -> None:
        """RENAME (SEC-9 to 12, 16)."""
        src, dest = op.slot, op.dest
        if dest is None:
            raise OpError(errno.EINVAL, "refused: a RENAME without a destination")
        for slot in (src, dest):
            if slot.parent == LIMBO:
                if slot.name != hex_name(op.gfid):
                    raise OpError(errno.EINVAL, "refused: in limbo an object is named by its gfid")
            else:
                check_name(slot)
        tree = self._tree
        source = self._source(op)
        if dest.parent == LIMBO:
            if source is not None and source.row is not None and not source.in_limbo:
                self._displace(source, op.gfid)
            return
        pfd = tree.dirfd(dest.parent)
        row, st = tree.probe(pfd, dest)
        if row is not None and st is not None and row.gfid == op.gfid:
            tree.unconfirmed.pop(dest, None)
            if source is not None and source.row is not None and src != dest:
                os.unlink(source.name, dir_fd=source.pfd)  # SEC-10; directories have one name
                tree.index.remove_slot(src.parent, src.name)
                if src.parent == LIMBO:
                    tree.limbo.discard(op.gfid)
            return
        if source is None:
            if op.stat is None and st is None and tree.locate(op.gfid) is None:
                return  # it is gone on both sides by now, and has displaced nothing here
            if op.stat is None and row is not None and tree.locate(op.gfid) is None:
                # what it displaced may have come back to this name since: the primary decides
                raise OpError(errno.ENOENT, "absent: the object is not here; another one has the name", row.gfid)
            self._place(i, op, dest, out, over=True)  # SEC-11
            return
        if st is not None and row is None:
            mode = tree.mode
            if mode is None or not (
                mode.replace or make.same_object(pfd, dest.name, st, op.stat, op.link, mode.checksum)
            ):
                raise self._unknown(st)
        tree.move(source, op.gfid, pfd, dest, row, st)
        self._present(i, op._replace(data=None), source._replace(pfd=pfd, name=dest.name), out)

    def _source(self, op: EntryOp) -> Optional[Where]:
        """The source of a RENAME, when it holds the object."""
        tree = self._tree
        try:
            pfd = tree.dirfd(op.slot.parent)
        except OpError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        row, st = tree.probe(pfd, op.slot)
        if row is None and st is not None and op.slot.parent == LIMBO:
            return tree.locate(op.gfid)
        if row is None and st is not None:
            row = self._claim(op, op.slot, st)
        if row is None or st is None or row.gfid != op.gfid:
            return None
        return Where(pfd, op.slot.name, st, row)

    def _displace(self, source: Where, gfid: Gfid) -> None:
        """RENAME into limbo: this name goes there, whatever other names the object has."""
        tree = self._tree
        assert source.row is not None
        tree.into_limbo(source.pfd, source.name, gfid, source.st)
        tree.register(Slot(LIMBO, hex_name(gfid)), gfid, source.st)
        tree.index.remove_slot(source.row.parent, source.row.name)
