"""A GlusterFS volume as a primary: what all its bricks here share, and the primary side of one brick."""

from __future__ import annotations

import json
import os
import secrets
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from engine.apply import Problem
from engine.batch import Plan
from engine.brickplan import meant, tidied
from engine.crawl.hybrid import Hybrid
from engine.election import Election, SubvolumeLock
from engine.guard import Born
from engine.journal.format import Decoded
from engine.journal.reader import Journal
from engine.link import Link
from engine.model import NO_MARK, Changelog, EngineError, Fop, Gfid, Mark
from engine.options import Options
from engine.sides import listing
from engine.volume.base import View
from engine.volume.brickmarks import BrickMarks, read_mark, stime_names
from engine.volume.bricknames import Around
from engine.volume.brickpath import internal, learn_from, learn_internal
from engine.volume.facts import BrickFacts, Gluster, VolumeError, VolumeFacts, look
from engine.volume.glusterfeed import GlusterFeed, wait_for_journal
from engine.volume.glusterview import GlusterView
from engine.volume.mount import AuxMount

Log = Callable[[str, str], None]
ASKED = 10.0
"""Seconds after which glusterd is asked again which bricks run; those here are looked at each time."""


STAND_BY = 10.0
"""Seconds between two looks of a passive brick at the volume's mark."""


class GlusterVolume:
    """One primary volume on this node, shared by the workers of its bricks: facts, mount, election.

    Raises VolumeError with what is missing: unknown or stopped volume, no brick here, no glusterd.
    """

    def __init__(self, name: str, state: str, options: Callable[[], Options], log: Log) -> None:
        self.options = options
        self.log = log
        self.state = state
        self.gluster = Gluster(options().gluster_command)
        here = look(self.gluster, name)
        self.facts, self.node, self.bricks = here.facts, here.node, here.bricks
        self._lock = threading.RLock()
        self._mount: AuxMount | None = None
        self._election = Election(self.facts)
        self.born = Born()
        self._online: frozenset[tuple[str, bytes]] = frozenset()
        self._asked = 0.0
        self._elected = 0.0
        self._active: dict[int, int | None] = {}
        self._facts_file = os.path.join(state, "volume.json")
        self.known = self._load()
        self._online, self._asked = here.online, time.monotonic()

    # ---- what is known of the secondary ----------------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        try:
            with open(self._facts_file, encoding="utf-8") as f:
                found = json.load(f)
        except FileNotFoundError:
            return {}
        except ValueError as e:
            raise EngineError(f"{self._facts_file}: damaged ({e})", code="state-damaged",
                              hint="remove it: it is made anew") from e  # fmt: skip
        return found if isinstance(found, dict) else {}

    def learn(self, **facts: Any) -> None:
        """Keep something about the secondary for the next start."""
        with self._lock:
            if all(self.known.get(k) == v for k, v in facts.items()):
                return
            self.known.update(facts)
            temp = self._facts_file + ".new"
            with open(temp, "w", encoding="utf-8") as f:
                json.dump(self.known, f)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temp, self._facts_file)

    @property
    def secondary(self) -> str:
        """The id of the secondary volume, "" while it is not known."""
        return str(self.known.get("secondary") or "")

    # ---- the mount -------------------------------------------------------------------------------------------

    def mount(self) -> AuxMount:
        """The private mount of the volume, made anew when its daemon is gone. Raises VolumeError."""
        with self._lock:
            if self._mount is not None and not self._mount.healthy:
                self._mount.close()
                self._mount = None
            if self._mount is None:
                self._mount = AuxMount("localhost", self.facts.name, self.options().gluster_params,
                                       os.path.join(self.state, "mount.log"))  # fmt: skip
            return self._mount

    def cluster_stime(self) -> Mark:
        """The mark of the whole volume: the least of the subvolumes, of each the replica furthest ahead (ACT-2)."""
        if not self.secondary:
            return NO_MARK
        local = self._local_stime()
        if local is not None:
            return local
        mount = AuxMount("localhost", self.facts.name, "acl", os.path.join(self.state, "mount.log"), client_pid=-1)
        try:
            return read_mark(mount.base, stime_names(self.facts.id, self.secondary)[0])
        finally:
            mount.close()

    def indexed_since(self) -> Mark:
        """The volume mark: since when changes have left xtimes without a break (VOL-1, MRK-3). Raises VolumeError."""
        mount = AuxMount("localhost", self.facts.name, "acl", os.path.join(self.state, "mount.log"), client_pid=-1)
        try:
            value = os.getxattr(mount.base, "trusted.glusterfs.volume-mark")
        except OSError as e:
            raise VolumeError(f"volume {self.facts.name}: the volume mark cannot be read: {e.strerror}", errno=e.errno,
                              code="volume-mark", hint="gluster volume set … geo-replication.indexing on") from e  # fmt: skip
        finally:
            mount.close()
        return parse_volume_mark(value, self.facts)

    def _local_stime(self) -> Mark | None:
        """The same from the bricks here, where all of them are."""
        if len(self.bricks) != len(self.facts.bricks):
            return None
        name = stime_names(self.facts.id, self.secondary)[0]
        return min(max(read_mark(b.path, name) for b in self.facts.members(s)) for s in range(self.facts.subvolumes))

    # ---- election --------------------------------------------------------------------------------------------

    def active(self, brick: BrickFacts) -> bool:
        """Is this the one of its subvolume to be replicated now? Raises VolumeError."""
        with self._lock:
            now = time.monotonic()
            if now - self._elected >= self.options().replica_failover_interval or not self._active:
                self._elected = now
                self._active = dict(self._election.choose(self._running(now), now))
            return self._active.get(brick.subvolume) == brick.index

    def running(self, brick: BrickFacts) -> bool:
        """Does the brick's process run? Only of a brick here."""
        return brick_process(self.facts.name, brick) is not None

    def _running(self, now: float) -> frozenset[tuple[str, bytes]]:
        here = {(b.node, b.path) for b in self.bricks if self.running(b)}
        if len(self.bricks) != len(self.facts.bricks) and now - self._asked > ASKED:
            self._online, self._asked = self.gluster.online(self.facts.name), now
        return frozenset(here | {b for b in self._online if b[0] != self.node})

    def around(self, brick: BrickFacts) -> Around:
        """What a view of this brick knows of the others."""
        facts = self.facts
        peers = [b for b in facts.members(brick.subvolume) if b.index != brick.index]
        here = {b.index for b in self.bricks}
        direct = not facts.dispersed and not brick.arbiter and not facts.on("features.shard")
        direct = direct and all(p.index in here for p in peers)
        others: list[bytes] = []
        whole = True
        for subvolume in range(facts.subvolumes):
            if subvolume == brick.subvolume:
                continue
            one = next((b for b in facts.members(subvolume) if b.index in here and self.running(b)), None)
            if one is None or facts.width > 1:
                whole = False  # of a replica set only the mount knows which copy is right
            else:
                others.append(one.path)
        return Around(direct, [p.path for p in peers if p.index in here], others, whole, single=facts.width == 1,
                      sole=facts.subvolumes == 1)  # fmt: skip

    def close(self) -> None:
        """End the mount."""
        with self._lock:
            if self._mount is not None:
                self._mount.close()
                self._mount = None


_VOLUME_MARK = struct.Struct("!BB16sBII")


def parse_volume_mark(value: bytes, facts: VolumeFacts) -> Mark:
    """The time in a volume mark. Raises VolumeError when it is another volume's, or says that there is none."""
    if len(value) != _VOLUME_MARK.size:
        raise VolumeError(f"volume {facts.name}: the volume mark has {len(value)} bytes, not {_VOLUME_MARK.size}",
                          code="volume-mark")  # fmt: skip
    _, _, ident, unknown, sec, usec = _VOLUME_MARK.unpack(value)
    if uuid.UUID(bytes=ident) != uuid.UUID(facts.id) or unknown:
        why = "says that indexing is off" if unknown else f"is that of {uuid.UUID(bytes=ident)}"
        raise VolumeError(f"volume {facts.name}: the volume mark {why}", code="volume-mark",
                          hint=f"gluster volume set {facts.name} geo-replication.indexing on")  # fmt: skip
    return Mark(sec, usec)


def brick_process(volume: str, brick: BrickFacts) -> int | None:
    """The process id of a brick of this node, None when it does not run."""
    words = os.fsdecode(brick.path).strip("/").replace("/", "-")
    name = f"{brick.host}-{words}.pid"
    for directory in ("/var/run/gluster/vols", "/run/gluster/vols"):
        try:
            with open(os.path.join(directory, volume, name), encoding="ascii") as f:
                pid = int(f.read())
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                return pid if b"glusterfs" in f.read() else None
        except (OSError, ValueError):
            continue
    return None


class GlusterPrimary:
    """One brick of a volume that is replicated."""

    kind = "gluster"
    lasting = False
    """The brick keeps its journal itself."""

    def __init__(self, volume: GlusterVolume, brick: BrickFacts, state: str, log: Log) -> None:
        self.volume = volume
        self.brick = brick
        self.root = brick.path
        self.path = os.fsdecode(brick.path)
        self.state = state
        self.log = log
        os.makedirs(state, mode=0o700, exist_ok=True)
        self.brick_id = uuid.uuid5(uuid.UUID(volume.facts.id), f"{brick.node}:{self.path}").bytes
        self.born = volume.born
        self.feed: GlusterFeed | None = None
        self.link: Link | None = None
        self._marks: BrickMarks | None = None
        self._lock: SubvolumeLock | None = None
        self._around = Around(False)
        self._stop = threading.Event()
        self._stood_by = -STAND_BY
        self._token = ""
        """Of the hybrid crawl that runs: `Hybrid`."""
        self.journal = Journal(os.path.join(brick.path, b".glusterfs/changelogs"), owned=False,
                               xsync=os.path.join(state, "xsync"))  # fmt: skip

    @property
    def marks(self) -> BrickMarks:
        """The brick's marks for the secondary it is paired with."""
        if self._marks is None:
            if not self.volume.secondary:
                raise EngineError("the secondary volume is not known yet", code="not-paired")
            self._marks = BrickMarks(os.path.join(self.state, "marks.json"), self.root, self.volume.facts.id,
                                     self.volume.secondary)  # fmt: skip
        return self._marks

    def paired(self, hello: dict[str, Any], link: Link) -> None:
        """The agent's answer to hello: the id of the secondary volume names the marks. Raises EngineError."""
        self.link = link
        found = str(hello.get("volume_id") or "").lower()
        if self.volume.secondary not in ("", found):
            raise EngineError(f"the secondary volume is another than before (id {found}, was {self.volume.secondary})",
                              code="secondary-changed", hint="choose another --name for a new session")  # fmt: skip
        self.volume.learn(secondary=found)
        if "began_empty" not in self.volume.known:
            self.volume.learn(began_empty=bool(hello.get("empty")))
        self.marks.take()
        self._stood_by = -STAND_BY
        if self.marks.stime == NO_MARK and "crawl" not in self.marks.identity:
            self.stand_by()  # it takes over from a replica that was ahead

    # ---- election --------------------------------------------------------------------------------------------

    def elected(self) -> bool:
        """Is this brick the one of its replica set to be replicated (ACT-1)? Raises EngineError when it is down."""
        if not self.volume.running(self.brick):
            raise EngineError(f"brick {self.path} does not run", code="brick-down",
                              hint=f"gluster volume start {self.volume.facts.name} force")  # fmt: skip
        options = self.volume.options()
        if not options.use_meta_volume:
            return self.volume.active(self.brick)
        if not self.volume.secondary:
            return False
        if self._lock is None:
            self._lock = SubvolumeLock(options.meta_volume_mnt, self.volume.facts.id, self.volume.secondary,
                                       self.brick.subvolume)  # fmt: skip
        if not self._lock.there:
            raise EngineError(f"the meta volume is not mounted at {options.meta_volume_mnt}", code="no-meta-volume",
                              hint="mount it, or set use_meta_volume=false")  # fmt: skip
        return self._lock.take()

    def stand_by(self) -> None:
        """Passive: raise the brick's mark to the volume's, so that a takeover goes on from there (ACT-2)."""
        now = time.monotonic()
        if self.volume.secondary and now - self._stood_by > STAND_BY:
            self._stood_by = now
            self.marks.take()
            mark = self.volume.cluster_stime()
            if mark > self.marks.stime:
                self.marks.follow(mark)

    # ---- what the worker uses --------------------------------------------------------------------------------

    def view(self) -> GlusterView:
        """A view for one thread."""
        learn_internal(self.root)
        return GlusterView(self.root, self._around, self.volume.mount())

    @property
    def stranger(self) -> bool:
        """Marks are named after the secondary volume's id."""
        return not self.volume.secondary

    def permits(self, yes: bool) -> bool:
        """A secondary volume that was empty when we began is ours; what else was there needs a person's word."""
        if yes:
            self.volume.learn(permitted=True)
        return bool(self.volume.known.get("began_empty") or self.volume.known.get("permitted"))

    def suspects(self) -> set[Gfid]:
        """None: the brick's journal is on the brick's disk, and falls back with it."""
        return set()

    def rechecked(self) -> None:
        """Nothing was suspect."""

    def tidy(self, todo: Plan, dead: list[Gfid]) -> list[Problem]:
        """See `engine.brickplan`."""
        names = self._view.index
        for e in todo.entries:
            if e.fop in (Fop.MKDIR, Fop.RENAME):
                self._around.hint(e.gfid, e.dest or e.slot)
        view = self._view
        return tidied(todo, dead, lambda slot: names.get(slot.parent, slot.name) is not None, view.orders, view.holds)

    def read(self, changelog: Changelog) -> Decoded:
        """What the records of a slice mean. Raises JournalError."""
        decoded = self.journal.read(changelog)
        learn_from(decoded.records)
        return replace(decoded, records=meant(decoded.records, internal))

    def done(self, changelogs: Iterable[Changelog]) -> None:
        """A brick's journal is the brick's: nothing is removed."""
        del changelogs

    def excluded(self, view: View) -> Callable[[Gfid, bytes, bool], bool] | None:
        """Filters are for trees."""
        del view
        return None

    def index_lost(self) -> bool:
        """A brick is its own index."""
        return False

    def start(
        self, current: Callable[[], Options], *, adopt: bool, clear: bool, on_closed: Callable[[], None],
        on_error: Callable[[EngineError], None],
    ) -> GlusterFeed:  # fmt: skip
        """Switch on what is needed, and begin with history where there is one, else with a hybrid crawl (CRW-1)."""
        del current, adopt, on_error
        volume = self.volume
        volume.facts = volume.gluster.volume(volume.facts.name)
        if not volume.facts.started:
            raise VolumeError(f"volume {volume.facts.name} is not started", code="volume-stopped",
                              hint=f"gluster volume start {volume.facts.name}")  # fmt: skip
        volume.gluster.switch_on(volume.facts, self.log)
        register = int(time.time()) + 1
        wait_for_journal(self.journal.root, 30, self._stop)
        stime = NO_MARK if clear else self.marks.stime
        if clear:
            volume.learn(began_empty=False)  # from now on both sides are compared
        self._around = self.volume.around(self.brick)
        self._view = self.view()
        feed = GlusterFeed(self.journal, stime, register, self._hybrid, self._remember, life=self._life,
                           quiet=self._quiet, on_closed=on_closed, log=self.log)  # fmt: skip
        try:
            self._choose(feed, stime)
        except BaseException:
            feed.stop()
            raise
        self.feed = feed
        return feed

    def _life(self) -> tuple[int | None, str]:
        """Which process the brick is, and when that began (in the kernel's ticks)."""
        pid = brick_process(self.volume.facts.name, self.brick)
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                return pid, f.read().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError):
            return None, ""

    def _quiet(self, seconds: float) -> float:
        """The brick has closed no slice for that long: how long may it be quiet? Raises EngineError with what is wrong.

        A journal that was switched off says nothing: what changes meanwhile would look synced.
        """
        volume = self.volume
        volume.facts = volume.gluster.volume(volume.facts.name)
        if not volume.facts.on("changelog.changelog"):
            raise EngineError(f"volume {volume.facts.name}: changelog.changelog was switched off", code="journal-off",
                              hint="it is switched on again, and a hybrid crawl closes the hole")  # fmt: skip
        most = 4 * volume.facts.seconds("changelog.rollover-time", 15) + 30
        if seconds > most:
            raise EngineError(f"brick {self.path} has closed no slice of its journal for {seconds:.0f} s",
                              code="journal-stalled", hint="gluster volume status; see the brick's log")  # fmt: skip
        return most

    def _choose(self, feed: GlusterFeed, stime: Mark) -> None:
        """History, or a hybrid crawl, and why (CRW-1, CRW-4)."""
        marks = self.marks
        crawl = marks.identity.get("crawl")
        if stime <= Mark(0, 0):
            compare = marks.identity.get("compare", "no" if self.volume.known.get("began_empty") else "yes") == "yes"
            known = crawl and "token" in marks.identity and not compare
            resume = int(crawl) if crawl and known and self._covered(int(crawl)) else None
            if crawl and resume is None:
                compare = True
            feed.begin("first sync" if stime == NO_MARK else "a full sync was asked for", compare=compare, resume=resume)
        elif not self._covered(stime.sec):
            since = time.strftime("%F %T", time.gmtime(stime.sec))
            feed.begin(f"the journal does not reach back to {since} UTC", compare=True, whole=False)
        elif crawl:
            feed.begin("the crawl before was interrupted", compare=True)

    def _covered(self, since: int) -> bool:
        """Does the journal reach back to this second?"""
        self.journal.pending(Mark(since, 0))
        first = self.journal.first
        return first is not None and first <= since

    def _hybrid(self, cap: int, compare: bool, whole: bool, resumed: bool) -> Hybrid:
        marks = self.marks
        link = self.link
        assert link is not None
        floor = NO_MARK if whole or marks.stime == Mark(0, 0) else marks.stime
        if floor != NO_MARK and self.volume.indexed_since() >= floor:
            self.log("warning", "geo-replication.indexing was off: what changed meanwhile has no xtime, all is compared")
            floor = NO_MARK
        token = marks.identity.get("token") if resumed else None
        self._token = token or secrets.token_hex(16)

        def theirs(gfid: Gfid) -> list[dict[str, Any]]:
            return list(listing(link, gfid))

        return Hybrid(self._view, floor, f"trusted.glusterfs.{self.volume.facts.id}.xtime", theirs if compare else None,
                      self.log, cap, bytes.fromhex(self._token))  # fmt: skip

    def _remember(self, facts: dict[str, str] | None) -> None:
        """What a crawl must know after a restart; None: it is through."""
        kept = {k: v for k, v in self.marks.identity.items() if k not in ("crawl", "compare", "token")}
        self.marks.identify({**kept, **({**facts, "token": self._token} if facts else {})})

    def stop(self) -> None:
        """Stop feeding, and let go of the lock."""
        if self.feed is not None:
            self.feed.stop()
            self._view.end()
            self.feed = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def would_do(self, options: Options) -> dict[str, Any]:
        """What a start would do: slices that wait and their bytes; a crawl's work is not known before (SAFE-2)."""
        del options
        waiting = [c for c in self.journal.pending(self.marks.stime) if c.size] if self.marks.stime > Mark(0, 0) else []
        return {"slices": len(waiting), "slice_bytes": sum(c.size for c in waiting),
                "hybrid_crawl": int(self.marks.stime <= Mark(0, 0))}  # fmt: skip
