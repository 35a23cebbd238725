"""A primary tree with its index, an agent on a secondary, and transfer engines between them; no recorder, no worker."""

from __future__ import annotations

import os
import random
import stat as _stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engine.agent.index import Index, Row
from engine.apply import Applier, Result
from engine.batch import Plan
from engine.link import SshTarget, connect
from engine.model import ROOT, EngineError, EntryChange, Fop, Gfid, Slot
from engine.transfer.base import Transfer
from engine.transfer.limit import Bandwidth
from engine.transfer.rsync import RsyncTransfer
from engine.transfer.staged import Carried, Stage, Staged
from engine.transfer.stream import Stream
from engine.transfer.tarssh import TarTransfer
from engine.volume.handles import can_open_by_handle
from engine.volume.tree import TreeView
from tests.system.sshd import HOST, Sshd

LOCAL = SshTarget(None)
ENGINES = ("rsync", "tarssh")


def ssh_target(sshd: Sshd, port: int | None = None, uid: int | None = None) -> SshTarget:
    """The private sshd as a target, its configuration given as a person gives it; `uid` is who to be there."""
    return SshTarget(HOST, options=("-F", str(sshd.client(port=port, uid=uid))), connect_timeout=20)


class Watcher:
    """Counts what it is told, holds a limit, and can stop a transfer."""

    def __init__(self, bandwidth: Bandwidth | None = None) -> None:
        self.bandwidth = bandwidth or Bandwidth()
        self.sent_files = 0
        self.sent_bytes = 0
        self.throttled = 0
        self.flight: dict[Gfid, tuple[bytes | None, int, bool]] = {}
        """Files on their way."""
        self.flown: dict[Gfid, int] = {}
        """How far each file that set out got."""
        self.stop = threading.Event()

    def entries(self, done: int) -> None:
        """See engine.apply.Watch."""

    def files(self, done: int, nbytes: int) -> None:
        """See engine.apply.Watch."""
        self.sent_files += done
        self.sent_bytes += nbytes

    def begins(self, gfid: Gfid, path: bytes | None, size: int, *, followed: bool) -> None:
        """See engine.apply.Watch."""
        self.flight[gfid] = (path, size, followed)
        self.flown[gfid] = 0

    def at(self, gfid: Gfid, nbytes: int) -> None:
        """See engine.apply.Watch."""
        assert gfid in self.flight and nbytes >= self.flown[gfid]
        self.flown[gfid] = nbytes

    def ends(self, gfid: Gfid) -> None:
        """See engine.apply.Watch."""
        self.flight.pop(gfid, None)

    def throttle(self, nbytes: int) -> None:
        """See engine.apply.Watch."""
        self.throttled += nbytes
        self.bandwidth.take(nbytes, self.stop)
        if self.stop.is_set():
            raise EngineError("stopping", code="stopping")


class Recorded:
    """A Transfer that only keeps what fell back to it, and hands it on."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.fell_back: list[Gfid] = []

    def send(self, gfids: Iterable[Gfid], made: Any, result: Result) -> None:
        """See engine.transfer.base.Transfer."""
        some = list(gfids)
        self.fell_back += some
        self.transfer.send(some, made, result)


class Rig:
    """Primary and secondary below `base`. `close` ends the agent."""

    def __init__(
        self, base: Path, target: SshTarget = LOCAL, secondary: bytes = b"secondary",
        owner: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.primary = base / "primary"
        self.primary.mkdir(parents=True)
        self.state = base / "state"
        self.state.mkdir()
        self.secondary = os.path.join(os.fsencode(base), secondary)
        os.makedirs(self.secondary)
        if owner is not None:
            os.chown(self.secondary, *owner)
        self.target = target
        self.watch = Watcher()
        self.lines: list[str] = []
        self.brick = uuid.uuid4().bytes
        self.link, _ = connect(target, self.secondary, 60, {})
        session = {"session": str(uuid.uuid4()), "brick": "b", "primary": "p", "create": True}
        self.link.call("begin", session, 30)
        self.root_fd = os.open(self.primary, os.O_RDONLY | os.O_DIRECTORY)
        self.index = Index(str(self.state / "index.db"))
        self.views: list[TreeView] = []
        self.view = self.new_view()

    def new_view(self) -> TreeView:
        """A view for one more thread."""
        index = Index(str(self.state / "index.db"), reader=True)
        view = TreeView(self.root_fd, self.brick, index, can_open_by_handle(self.root_fd))
        self.views.append(view)
        return view

    def close(self) -> None:
        """End the agent, close everything."""
        self.link.close()
        for view in self.views:
            view.close()
            view.index.close()
        self.index.close()
        os.close(self.root_fd)

    # ---- the primary -----------------------------------------------------------------------------------------

    def scan(self) -> list[EntryChange]:
        """Put the tree into the index as it is; what makes its new objects."""
        before = {(r[0], r[1]) for r in self.index._db.execute("SELECT parent, name FROM entry")}
        changes: list[EntryChange] = []
        rows: list[Row] = []
        known: set[Gfid] = set()
        todo = [ROOT]
        while todo:
            parent = todo.pop()
            self.index.put(rows)
            self.index.commit(durable=False)
            rows = []
            for name in self.view.list_dir(parent):
                seen = self.view.look(parent, name)
                assert seen is not None
                st = seen.st
                kind = _stat.S_IFMT(st.st_mode)
                rows.append(Row(parent, name, seen.gfid, kind, seen.handle, st.st_size, st.st_mtime_ns, st.st_ctime_ns))
                fop = Fop.MKDIR if kind == _stat.S_IFDIR else Fop.SYMLINK if kind == _stat.S_IFLNK else Fop.CREATE
                if fop == Fop.CREATE and (seen.gfid in known or self.index.has(seen.gfid)):
                    fop = Fop.LINK
                known.add(seen.gfid)
                if (parent, name) not in before:
                    changes.append(EntryChange(seen.gfid, int(fop), Slot(parent, name)))
                before.discard((parent, name))
                if kind == _stat.S_IFDIR:
                    todo.append(seen.gfid)
        self.index.put(rows)
        self.index.remove([Slot(*slot) for slot in before])
        self.index.commit(durable=False)
        return changes

    def make(self) -> list[Gfid]:
        """Scan, and have everything made on the secondary without content; the gfids of all new regular files."""
        changes = self.scan()
        result = Result()
        Applier(self.view, self.link, self.watch, inline=False).entries(Plan(entries=changes), result)
        assert not result.problems, result.problems
        return [c.gfid for c in changes if c.fop == Fop.CREATE]

    def gfid(self, path: str) -> Gfid:
        """The gfid of a path of the primary, by the index."""
        at = ROOT
        for name in os.fsencode(path).split(b"/"):
            row = self.index.get(at, name)
            assert row is not None, path
            at = row.gfid
        return at

    # ---- engines ---------------------------------------------------------------------------------------------

    def stream(self, view: TreeView | None = None) -> Recorded:
        """The stream engine, as others' fallback."""
        return Recorded(Stream(view or self.view, self.link, self.watch, delta_threshold=1 << 20))

    def engine(self, name: str, *, view: TreeView | None = None, timeout: float = 60, **more: Any) -> Staged:
        """The rsync or tarssh engine."""
        view = view or self.view
        kind = {"rsync": RsyncTransfer, "tarssh": TarTransfer}[name]
        return kind(
            view, self.link, self.watch, self.stream(view), root=os.fsencode(self.primary), state=str(self.state),
            target=self.target, log=lambda level, text: self.lines.append(f"{level}: {text}"), timeout=timeout, **more,
        )  # fmt: skip

    def send(self, engine: Transfer, gfids: Iterable[Gfid], made: Iterable[Gfid] = ()) -> Result:
        """Send, and look that nothing is left of the staging directories."""
        result = Result()
        engine.send(list(gfids), set(made), result)
        self.clean()
        return result

    def clean(self) -> None:
        """No stage is left on either side."""
        here = self.state / "stage"
        assert not here.exists() or not list(here.iterdir())
        assert os.listdir(os.path.join(self.secondary, b".georep/stage")) == []

    def there(self, path: str) -> bytes:
        """A path of the primary on the secondary."""
        return os.path.join(self.secondary, os.fsencode(path))

    def assert_same(self, *paths: str) -> None:
        """These regular files (none given: all) are the same on both sides: content, attributes, xattrs, links."""
        if not paths:
            paths = tuple(
                os.path.relpath(os.path.join(d, f), self.primary)
                for d, _, files in os.walk(self.primary)
                for f in files
                if _stat.S_ISREG(os.lstat(os.path.join(d, f)).st_mode)
            )
        assert paths
        for path in paths:
            ours, theirs = os.path.join(os.fsencode(self.primary), os.fsencode(path)), self.there(path)
            with open(ours, "rb") as a, open(theirs, "rb") as b:
                while True:
                    x, y = a.read(1 << 20), b.read(1 << 20)
                    assert x == y, f"{path!r}: the content differs"
                    if not x:
                        break
            s, t = os.lstat(ours), os.lstat(theirs)
            assert (s.st_mode, s.st_uid, s.st_gid) == (t.st_mode, t.st_uid, t.st_gid), path
            assert s.st_mtime_ns == t.st_mtime_ns, path
            until = time.monotonic() + 20
            while os.lstat(theirs).st_nlink != s.st_nlink:  # the agent removes stages in a thread
                assert time.monotonic() < until, f"{path!r}: links are left"
                self.link.call("keepalive")
            names = sorted(os.listxattr(ours))
            assert names == sorted(os.listxattr(theirs)), path
            assert all(os.getxattr(ours, n) == os.getxattr(theirs, n) for n in names), path


def write(path: Path, size: int, seed: int = 0) -> None:
    """A file of random bytes, the same for the same seed."""
    path.write_bytes(random.Random(seed or size).randbytes(size))


class Meddler:
    """Wraps an engine's `carry`: does something before or after what the program does, as often as told."""

    def __init__(self, engine: object, before: Callable[[], None] | None, after: Callable[[], None] | None) -> None:
        self.calls = 0
        carry = engine.carry  # type: ignore[attr-defined]

        def meddle(stage: Stage, names: list[str], whole: bool) -> Carried:
            self.calls += 1
            if before is not None:
                before()
            came: Carried = carry(stage, names, whole)
            if after is not None:
                after()
            return came

        engine.carry = meddle  # type: ignore[attr-defined]
