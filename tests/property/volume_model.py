"""A session between two volumes of which GlusterFS says only what it really says, step by step and in any order.

Real are: the planner, the applier, the reconciler, the loop over batches, the ledger, the views of the bricks, the agents'
entry operations, repairs and listings, the frames between them. Stand-ins are: the volumes (`mounted`, and here the
primary's bricks: real directories with handles, link files and xattrs), the feed (slices come when the test says so), the
line (a call), and whatever keeps watch or time.

The primary has two subvolumes, A and B; a name's first letter says to which it hashes, and a file's data is where it was
made. What stands in their journals is what bricks of GlusterFS 10.3 were seen to write (2 bricks, and 2 × 2 replica):

| operation on a file whose data is on D, by a name that hashes to H | journal of D | journal of H ≠ D |
|---|---|---|
| CREATE, SYMLINK (then D = H) | CREATE and D, SYMLINK | |
| LINK | LINK | nothing: the making of link files is internal |
| RENAME, whatever it replaces | RENAME | nothing: so are renames and removals of link files by it |
| UNLINK | UNLINK | UNLINK, of the link file |
| RENAME to another name of the same file | nothing | nothing |

Of what a rename displaces, no journal says anything. Its name stays noted (`trusted.gfid2path`) where a brick's own rename
displaced it: on D of the moved file, and on the subvolume of the new name.
"""

from __future__ import annotations

import os
import stat as _stat
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from engine.agent import gluster
from engine.agent.calls import Calls
from engine.agent.frames import Frame
from engine.agent.gluster import GlusterTarget
from engine.agent.gluster_pool import Pool
from engine.agent.server import _Server
from engine.backlog import Backlog
from engine.batches import Batches
from engine.guard import Born
from engine.journal.format import ASCII, VERSION, Decoded
from engine.ledger import Ledger
from engine.link import Link, SshTarget
from engine.model import NO_MARK, ROOT, Changelog, DataChange, EntryChange, Fop, Gfid, Mark, Record, Slot
from engine.options import Options
from engine.transfer.limit import Bandwidth
from engine.turn import Turn
from engine.volume.base import Closed, Crawling, Found
from engine.volume.brickpath import GFID, LINKTO, NAME_PREFIX, handle
from engine.volume.facts import BrickFacts, VolumeFacts
from engine.volume.gluster import GlusterPrimary, GlusterVolume
from engine.volume.glusterview import GlusterView
from engine.worker import Seat, Worker
from tests.property.mounted import Mounts, Namespace, Node, text_of

SIDES = "AB"
ON_A = (b"a", b"c")
"""First letters of names that hash to A; those with others hash to B."""
NODE = "00000000-0000-4000-8000-00000000000a"
VOLUME = "00000000-0000-4000-8000-00000000000b"
XTIME = f"trusted.glusterfs.{VOLUME}.xtime"
T0 = 1_700_000_000
RECORD = 90
RETRIES = 8
"""Rounds of ledger retries after which what is still in it is a failure."""

Op = tuple[Any, ...]
"""("create", gfid, name), ("symlink", gfid, name), ("link", gfid, name), ("rename", name, name), ("unlink", name),
("write", gfid): names as bytes in the root, or slots."""


def slot_of(name: bytes | Slot) -> Slot:
    """A name in the root, or the slot itself."""
    return name if isinstance(name, Slot) else Slot(ROOT, name)


class Brick:
    """One brick as its posix translator keeps it, on a real filesystem (as root: xattrs in `trusted.`)."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._names: set[bytes] = set()
        self._handles: dict[Gfid, int] = {}
        os.mkdir(root)
        os.setxattr(root, GFID, ROOT)
        os.makedirs(os.path.dirname(handle(root, ROOT)))
        os.symlink(b"../../..", handle(root, ROOT))

    def clear(self) -> None:
        """As it was when it was made."""
        for path in sorted(self._names, key=len, reverse=True):
            if _stat.S_ISDIR(os.lstat(path).st_mode):
                os.rmdir(path)
            else:
                os.unlink(path)
        for gfid in self._handles:
            os.unlink(handle(self.root, gfid))
        self._names, self._handles = set(), {}

    def at(self, slot: Slot) -> bytes:
        """The path of a name."""
        above = self.root if slot.parent == ROOT else handle(self.root, slot.parent)
        return above + b"/" + slot.name

    def make(self, gfid: Gfid, slot: Slot, mode: int, text: bytes = b"", linkto: bytes = b"") -> None:
        """A new object with its handle; a link file where `linkto` says to what."""
        path, own = self.at(slot), handle(self.root, gfid)
        os.makedirs(os.path.dirname(own), exist_ok=True)
        if _stat.S_ISDIR(mode):
            os.mkdir(path)
            parent = text_of(slot.parent).encode()
            os.symlink(b"../../%b/%b/%b/%b" % (parent[:2], parent[2:4], parent, slot.name), own)
        elif _stat.S_ISLNK(mode):
            os.symlink(text, path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.chmod(path, _stat.S_IMODE(mode))
        os.setxattr(path, GFID, gfid, follow_symlinks=False)
        if linkto:
            os.setxattr(path, LINKTO, linkto + b"\0")
        if not _stat.S_ISDIR(mode):
            os.link(path, own, follow_symlinks=False)
            self._handles[gfid] = 1
        else:
            self._handles[gfid] = 0
        self._names.add(path)

    def has(self, gfid: Gfid) -> bool:
        return gfid in self._handles

    def link(self, gfid: Gfid, slot: Slot) -> None:
        """Another name."""
        path = self.at(slot)
        os.link(handle(self.root, gfid), path, follow_symlinks=False)
        self._names.add(path)
        self._handles[gfid] += 1

    def unlink(self, gfid: Gfid, slot: Slot) -> None:
        """Take a name, and with the last one the handle."""
        path = self.at(slot)
        os.unlink(path)
        self._names.remove(path)
        self._handles[gfid] -= 1
        if not self._handles[gfid]:
            os.unlink(handle(self.root, gfid))
            del self._handles[gfid]

    def note(self, gfid: Gfid, slot: Slot, there: bool) -> None:
        """Note a name of a file, or no longer."""
        own = handle(self.root, gfid)
        value = text_of(slot.parent).encode() + b"/" + slot.name
        key = NAME_PREFIX + f"{hash(value) & (1 << 64) - 1:016x}"
        if there:
            os.setxattr(own, key, value, follow_symlinks=False)
        elif key in os.listxattr(own, follow_symlinks=False):
            os.removexattr(own, key, follow_symlinks=False)

    def write(self, gfid: Gfid, data: bytes, mtime_ns: int) -> None:
        """Content and its time."""
        own = handle(self.root, gfid)
        with open(own, "wb") as f:
            f.write(data)
        os.utime(own, ns=(mtime_ns, mtime_ns))

    def touch(self, gfid: Gfid, mtime_ns: int) -> None:
        """The time of a symlink."""
        os.utime(handle(self.root, gfid), ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def hashed(slot: Slot) -> int:
    """The subvolume to which a name hashes."""
    return int(slot.name[:1] not in ON_A)


class PrimaryVolume(Namespace):
    """The primary: what clients see, what lies on its two bricks, and what these write into their journals."""

    def __init__(self, bricks: list[Brick], noted: int) -> None:
        super().__init__(noted)
        self.bricks = bricks
        self.journals: list[list[Record]] = [[], []]
        self._clock = 0

    def do(self, op: Op) -> None:
        """One operation of a client."""
        what, *words = op
        if what in ("create", "symlink"):
            self._create(words[0], slot_of(words[1]), what == "symlink")
        elif what == "mkdir":
            self._mkdir(words[0], slot_of(words[1]))
        elif what == "link":
            node, slot = self.nodes[words[0]], slot_of(words[1])
            self._on_bricks(node, slot)
            self.link(node, slot)
            self._says(node.home, EntryChange(node.gfid, int(Fop.LINK), slot))
        elif what == "unlink":
            slot = slot_of(words[0])
            node = self.unlink(slot)
            for side in self._off_bricks(node, slot):
                self._says(side, EntryChange(node.gfid, int(Fop.UNLINK), slot))
        elif what == "rename":
            self._moved(slot_of(words[0]), slot_of(words[1]))
        elif what == "write":
            self._write(self.nodes[words[0]])
        else:
            raise ValueError(what)

    def _says(self, side: int, *records: Record) -> None:
        self.journals[side] += records

    def _now(self) -> int:
        self._clock += 1
        return (T0 + self._clock) * 10**9

    def _create(self, gfid: Gfid, slot: Slot, symlink: bool) -> None:
        home = hashed(slot)
        node = Node(gfid, _stat.S_IFLNK | 0o777 if symlink else _stat.S_IFREG | 0o644, home=home)
        node.text = b"to-%d" % gfid[-1] if symlink else b""
        self.bricks[home].make(gfid, slot, node.mode, node.text)
        self.make(node, slot)
        if symlink:
            node.mtime_ns = node.atime_ns = self._now()
            self.bricks[home].touch(gfid, node.mtime_ns)
            self._says(home, EntryChange(gfid, int(Fop.SYMLINK), slot))
        else:
            self._says(home, EntryChange(gfid, int(Fop.CREATE), slot, None, node.mode))
            self._write(node)

    def _mkdir(self, gfid: Gfid, slot: Slot) -> None:
        node = Node(gfid, _stat.S_IFDIR | 0o755)
        self.make(node, slot)
        for side, brick in enumerate(self.bricks):
            brick.make(gfid, slot, node.mode)
            self._says(side, EntryChange(gfid, int(Fop.MKDIR), slot, None, node.mode))

    def _write(self, node: Node) -> None:
        node.mtime_ns = node.atime_ns = self._now()
        node.data[:] = b"%d at %d" % (node.gfid[-1], self._clock)
        self.bricks[node.home].write(node.gfid, bytes(node.data), node.mtime_ns)
        self._says(node.home, DataChange(node.gfid))

    def _moved(self, src: Slot, dest: Slot) -> None:
        node, there = self.nodes[ROOT if (one := self.find(src)) is None else one.gfid], self.find(dest)
        if node is there:
            return  # two names of one file: nothing happens, and nothing is recorded
        if there is not None:
            self._off_bricks(there, dest)
        self.rename(src, dest, stale=there is None or there.home in (node.home, hashed(dest)))
        self._off_bricks(node, src, moved=True)
        self._on_bricks(node, dest)
        self._says(node.home, EntryChange(node.gfid, int(Fop.RENAME), src, dest))

    def _on_bricks(self, node: Node, slot: Slot) -> None:
        """A name on the brick of the data, and a link file on the one it hashes to."""
        other = hashed(slot)
        if self.bricks[node.home].has(node.gfid):
            self.bricks[node.home].link(node.gfid, slot)
        if other == node.home:
            return
        if self.bricks[other].has(node.gfid):
            self.bricks[other].link(node.gfid, slot)
        else:
            to = f"{SIDES[node.home]}-client".encode()
            self.bricks[other].make(node.gfid, slot, _stat.S_IFREG | _stat.S_ISVTX, linkto=to)

    def _off_bricks(self, node: Node, slot: Slot, moved: bool = False) -> list[int]:
        """Take it from where it is; which bricks had it. What is `moved` keeps its handle meanwhile."""
        sides = list(dict.fromkeys((node.home, hashed(slot))))
        for side in sides:
            brick = self.bricks[side]
            if moved and side == node.home:
                brick._handles[node.gfid] += 1  # the new name comes at once
                brick.unlink(node.gfid, slot)
                brick._handles[node.gfid] -= 1
            else:
                brick.unlink(node.gfid, slot)
        return sides

    def _note(self, node: Node, slot: Slot) -> None:
        super()._note(node, slot)
        if not node.is_dir:
            self.bricks[node.home].note(node.gfid, slot, True)

    def _unnote(self, node: Node, slot: Slot) -> None:
        super()._unnote(node, slot)
        if node.names:
            self.bricks[node.home].note(node.gfid, slot, False)


# ---- the agents ----------------------------------------------------------------------------------------------


class InTurn(Pool):
    """Operations one after the other, in the order in which they may run."""

    def __init__(self) -> None:
        super().__init__(0)

    def submit(self, job: Callable[[], None]) -> None:
        job()


class Nothing:
    """Leases that are kept, and disks that are synced."""

    def __init__(self, *_: object) -> None:
        """Of whatever."""

    def check(self) -> None:
        """All is well."""

    sync = close = check


class Target(GlusterTarget):
    """The secondary volume as an agent's target, without leases, brick processes and disks to be synced."""

    def __init__(self, root_fd: int, scratch: str, brick: str) -> None:
        info = SimpleNamespace(id="secondary", node_id=NODE, name="s", all_local=False, local=[], subvolumes=2)
        secondary: Any = SimpleNamespace(mount=SimpleNamespace(fd=root_fd), info=info, several=True, params="")
        session = {"session": "model", "brick": brick, "primary": "model"}
        with mock.patch.multiple(gluster, Leases=Nothing, Barrier=Nothing, Pool=InTurn, clear_left=lambda _fd: None,
                                 state_directory=lambda: scratch):  # fmt: skip
            super().__init__(secondary, session, take_over=False, wait=0)

    def statfs(self) -> dict[str, int]:
        return {"free": 1 << 40, "size": 1 << 40, "inodes_free": 1 << 30, "inodes": 1 << 30}


class Agent(_Server):
    """An agent's frames to calls, without a process: replies go straight to the line."""

    def __init__(self, target: Target, reply: Callable[[Frame], None]) -> None:
        self.target = target
        self._reply = reply
        self._calls = Calls(b"", None)  # type: ignore[arg-type]  # nothing is hashed here
        self._calls.held = target

    def take(self, frame: Frame) -> None:
        """A frame of the engine."""
        self._take(frame)

    def _send(self, kind: int, ident: int, payload: Any) -> None:
        self._reply(Frame(kind, ident, bytes(payload)))


class Line(Link):
    """The line to an agent: a frame is taken at once. `before` is called with each, ahead of the agent."""

    def __init__(self, target: Target) -> None:
        self.target = SshTarget(None)
        self.root = b""
        self.where = "secondary"
        self.agent_uid = 0
        self.rest = nullcontext
        self.bytes_sent = self.bytes_received = 0
        self.before: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._pending = {}
        self._next = 1
        self._error = None
        self.agent = Agent(target, self._take)

    def post(self, kind: int, ident: int, *buffers: Any) -> None:
        self.before()
        self.agent.take(Frame(kind, ident, b"".join(buffers)))


# ---- the primary's side ---------------------------------------------------------------------------------------


class Mount:
    """The primary's mount, as `engine.volume.mount.AuxMount` shows it."""

    healthy = True

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.base = b"/proc/self/fd/%d/" % fd

    def path(self, gfid: Gfid) -> bytes:
        return self.base + b".gfid/" + text_of(gfid).encode()

    def complete(self) -> None:
        """All subvolumes are there."""


class Marks:
    """Marks in memory."""

    moved_by_other = False
    at = ""
    epoch = 0

    def __init__(self) -> None:
        self.stime = self.entry_stime = NO_MARK
        self.identity: dict[str, str] = {}

    def advance(self, stime: Mark | None = None, entry_stime: Mark | None = None, at: str = "") -> bool:
        self.stime, self.entry_stime = stime or self.stime, entry_stime or self.entry_stime
        return True

    def identify(self, identity: dict[str, str]) -> None:
        self.identity = identity

    def take(self) -> None:
        """Nobody else moves them."""


class Journal:
    """Closed slices of one brick."""

    def __init__(self) -> None:
        self.slices: dict[bytes, list[Record]] = {}

    def read(self, changelog: Changelog) -> Decoded:
        return Decoded(self.slices[changelog.path], VERSION, ASCII)


class Feed:
    """Slices as the test closes them; a crawl is the product's own, over the real brick."""

    crawls_done: deque[tuple[float, float, int]] = deque()

    def __init__(self, site: Site) -> None:
        self.turn = Turn()
        self.taken = 0
        """Records of the journal that are in closed slices."""
        self.crawls = 0
        self._site = site
        self._ready: deque[Closed] = deque()
        self._reason = ""
        self._suffix = T0

    @property
    def crawling(self) -> bool:
        return bool(self._reason)

    def close(self, count: int) -> None:
        """Close a slice with the next `count` records."""
        records = self._site.journal()[self.taken : self.taken + count]
        if not records:
            return
        self.taken += len(records)
        self._suffix += 10
        path = b"CHANGELOG.%d" % self._suffix
        self._site.primary.journal.slices[path] = records  # type: ignore[attr-defined]
        changelog = Changelog(self._suffix, 0, path, RECORD * len(records))
        self._ready.append(Closed(changelog, True, float(self._suffix), float(self._suffix)))

    def close_now(self, timeout: float | None = None) -> bool:
        self.close(len(self._site.journal()) - self.taken)
        return True

    def take(self, most: int, most_bytes: int) -> list[Closed]:
        if not self._ready and self._reason:
            self.crawls += 1
            self._suffix += 10
            crawl = self._site.primary._hybrid(self._suffix, True, True, False)
            for part, piece in enumerate(crawl.pieces(), 1):
                size = RECORD * len(piece.records)
                changelog = Changelog(self._suffix, part, b"", size)
                self._ready.append(Closed(changelog, False, None, 0.0, list(piece.records)))
            self._ready.append(Closed(Changelog(self._suffix, 0, b""), True, None, float(self._suffix)))
        return list(self._ready)[:most]

    def done(self, count: int) -> None:
        for _ in range(count):
            closed = self._ready.popleft()
            if closed.changelog.part == 0 and not closed.changelog.path:
                self._reason = ""

    def backlog(self) -> Backlog:
        return Backlog(len(self._ready), 0, None)

    def found(self) -> Found:
        return Found(0, 0, False)

    def crawl_now(self) -> Crawling:
        return Crawling("live")

    def crawl(self, reason: str, *, clear: bool = False) -> None:
        self._reason = self._reason or reason

    def unreadable(self) -> list[Gfid]:
        return []

    def rewalk(self, gfids: list[Gfid]) -> None:
        """All directories can be read."""

    def stop(self) -> None:
        """Nothing runs."""


class Primary(GlusterPrimary):
    """One brick that is replicated; who is elected, and what is known of the volume, is given."""

    def __init__(self, site: Site, volume: Any, brick: BrickFacts, mount: Mount) -> None:
        self.volume = volume
        self.brick = brick
        self.root = brick.path
        self.path = os.fsdecode(brick.path)
        self.state = ""
        self.log = site.log
        self.born = Born()
        self._marks: Any = Marks()
        self.journal: Any = Journal()
        self.feed: Any = Feed(site)
        self.link = site.link
        self._token = ""
        self._around = GlusterVolume.around(volume, brick)
        self._view = GlusterView(self.root, self._around, mount)  # type: ignore[arg-type]

    @property
    def marks(self) -> Any:
        return self._marks

    def elected(self) -> bool:
        return True

    def view(self) -> GlusterView:
        return self._view


class Wake:
    """Where a worker would wait for something, it stops."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def wait(self, timeout: float | None = None) -> bool:
        self._stopping.set()
        return False

    def set(self) -> None:
        """It is awake."""

    clear = set


class Quiet:
    """A status that nobody looks at."""

    checkpoint = SimpleNamespace(time=None, completed=False)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_words: None


class Site:
    """One brick's worker, its line and its agent."""

    def __init__(self, model: Model, side: int) -> None:
        self.model = model
        self.side = side
        self.log_lines: list[str] = []
        self.busy = False
        self.link = Line(Target(model.mounts.open(model.secondary), model.scratch, SIDES[side]))
        mount = Mount(model.mounts.open(model.primary))
        self.primary = Primary(self, model.volume, model.facts.members(side)[0], mount)
        seat = Seat("model", SIDES[side], SIDES[side], NODE, SshTarget(None), b"", "", False, False,
                    {"host": "", "name": "s", "params": "", "subvolumes": "2"})  # fmt: skip
        self.ledger = model.ledgers[side]
        self.worker = Worker(seat, self.primary, None, lambda: model.options, Quiet(), self.ledger,  # type: ignore[arg-type]
                             model.bandwidth, self.log, lambda _n, _f: None, lambda: None, lambda _e: None)  # fmt: skip
        self.worker.wake = Wake(self.worker.stopping)  # type: ignore[assignment]
        self.batches = Batches(self.worker, self.link, self.primary.view())

    def log(self, level: str, text: str) -> None:
        self.model.said.append(f"{SIDES[self.side]} {level}: {text}")

    def journal(self) -> list[Record]:
        return self.model.primary.journals[self.side]

    def pending(self) -> int:
        """Records that are in no slice yet."""
        return len(self.journal()) - self.primary.feed.taken

    def run(self) -> None:
        """The worker's loop, until it would wait."""
        self.busy = True
        try:
            self.worker.stopping.clear()
            self.batches.run()
        finally:
            self.busy = False

    def look(self, count: int | None = None) -> None:
        """A slice with the next records (None: all of them) is closed, and the worker takes it."""
        self.primary.feed.close(self.pending() if count is None else count)
        self.run()

    def retry(self) -> None:
        """What is in the ledger is due."""
        self.ledger.retry_now()
        self.run()


class Model:
    """Both volumes and the session. `begin` starts anew; used within `with`.

    `width` is the number of bricks of a subvolume: with 1 each worker sees the other brick, with 2 (a replica, whose
    other bricks are the same) only the mount knows of it. `noted` is GlusterFS's limit of 500 names, made small.
    """

    def __init__(self, scratch: Path, width: int = 1, noted: int = 500) -> None:
        self.noted = noted
        self.options = Options(delete_guard_minimum=1_000_000)
        self.bandwidth = Bandwidth()
        self.mounts = Mounts()
        top = os.fsencode(scratch)
        self.bricks = [Brick(top + b"/p%d" % side) for side in range(2)]
        facts: list[BrickFacts] = []
        for side, brick in enumerate(self.bricks):
            facts.append(BrickFacts(len(facts), "here", brick.root, NODE, False, side))
            for copy in range(1, width):
                path = brick.root + b"-%d" % copy
                os.symlink(brick.root, path)
                facts.append(BrickFacts(len(facts), "here", path, NODE, False, side))
        self.facts = VolumeFacts("p", VOLUME, True, "", width, False, tuple(facts), {})
        self.ledgers = [Ledger(os.path.join(scratch, f"ledger-{s}")) for s in SIDES]
        self.scratch = os.fspath(scratch)
        self.said: list[str] = []
        self.sites: list[Site] = []

    def begin(self, ops: Iterable[Op] = ()) -> None:
        """Both sides as these operations leave them, and nothing in the journals."""
        self._let_go()
        for brick in self.bricks:
            brick.clear()
        self.primary = PrimaryVolume(self.bricks, self.noted)
        for op in ops:
            self.primary.do(op)
        self.primary.journals = [[], []]
        self.secondary = Namespace(self.noted)
        for node in sorted(self.primary.nodes.values(), key=lambda n: not n.is_dir):
            if node.gfid == ROOT:
                continue
            copy = Node(node.gfid, node.mode, data=bytearray(node.data), text=node.text, mtime_ns=node.mtime_ns)
            first, *more = node.names
            self.secondary.make(copy, first)
            for slot in more:
                self.secondary.link(copy, slot)
        for ledger in self.ledgers:
            if ledger.size:
                ledger.cleared([f.id for f in ledger.all()])
            ledger.settled()
        self.said = []
        self.volume: Any = SimpleNamespace(
            facts=self.facts, bricks=list(self.facts.bricks), running=lambda _brick: True, known={}, born=Born(),
            secondary="secondary",
            options=lambda: self.options,
        )  # fmt: skip
        self.sites = [Site(self, side) for side in range(2)]

    def __enter__(self) -> Model:
        self.mounts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
        self.mounts.__exit__()

    def _let_go(self) -> None:
        for site in self.sites:
            site.link.agent.target.close(True)
        self.sites = []
        self.mounts.close_all()

    def close(self) -> None:
        """Let go of the files."""
        for ledger in self.ledgers:
            ledger.close()

    # --- what a test asks

    def failures(self) -> int:
        """How many are known."""
        return sum(ledger.size for ledger in self.ledgers)

    def pending(self) -> bool:
        """Is there a record that no worker has taken?"""
        return any(site.pending() for site in self.sites)

    def finish(self) -> None:
        """Both workers take what is left, then the ledgers are retried, by turns, until they are empty."""
        for _ in range(RETRIES):
            for site in self.sites:
                if site.pending() or site.primary.feed.crawling:
                    site.look()
            if not self.failures():
                break
            for site in self.sites:
                if site.ledger.size:
                    site.retry()

    def differences(self) -> list[str]:
        """What the secondary has otherwise than the primary: names, gfids, content."""
        here, there = contents(self.primary), contents(self.secondary)
        out = [f"missing: {where}" for where in sorted(here.keys() - there.keys())]
        out += [f"too many: {where} is {there[where][0]}" for where in sorted(there.keys() - here.keys())]
        out += [
            f"other: {where} is {there[where]}, should be {here[where]}"
            for where in sorted(here.keys() & there.keys())
            if here[where] != there[where]
        ]
        return out


def contents(volume: Namespace) -> dict[str, tuple[str, str]]:
    """Every name of a volume: the end of its gfid, and what it holds."""
    return {
        os.fsdecode(volume.path(slot)): (
            node.gfid.hex()[-4:],
            "" if node.is_dir else (node.text or bytes(node.data)).decode(),
        )
        for node in volume.nodes.values()
        for slot in node.names
    }
