"""Staging: files by gfid as paths, for tools that know nothing else; what they did is checked on both sides (SYN-8)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat as _stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.apply import BRICK_ERRNOS, Applier, Problem, Result, Watch, brick_fault
from engine.link import Link, RemoteError, SshTarget
from engine.model import EngineError, Gfid, gfid_text
from engine.transfer.base import Transfer
from engine.transfer.children import Child, TransferError
from engine.volume.base import Gone, Indirect, View

GROUP = 10_000
"""Files in one staging directory at most: its replies must fit into a frame."""

LONGEST_PATH = 4000
"""Bytes of a path that rsync and tar can still take (PATH_MAX is 4,096, they add to it)."""

ROUNDS = 3
"""Tries of one file that keeps changing, or that did not arrive whole; then the fallback takes it."""

LISTED = 1000
"""Files of one transfer that are told to be on their way."""

LOGGED = 20
"""Files named one by one in the log when they fall back."""

_WHOLE_BRICK = (
    ("No space left on device", errno.ENOSPC),
    ("Disk quota exceeded", errno.EDQUOT),
    ("Read-only file system", errno.EROFS),
)


class Source(NamedTuple):
    """A file as it was when it was staged: its slot's path, and what would tell that it is another or has changed."""

    path: bytes
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    shown_ns: int = 0
    """The mtime that travels: a volume keeps its own beside the disk's."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The two directories of one transfer: names in both are gfids in hex. `here` holds symlinks, `there` what is written to.

    `some` is a name that is in both.
    """

    here: bytes
    there: bytes
    some: str
    in_place: bool
    """What is written there is the real file: a volume's. Else it is put in place when it is whole."""


class Carried(NamedTuple):
    """What the programs came to: their last words, "" where all of them ended well, and the files that these speak of."""

    said: str = ""
    named: frozenset[Gfid] = frozenset()

    def doubtful(self, gfid: Gfid) -> bool:
        """May this file have failed? Any may, where none was named."""
        return bool(self.said) and (not self.named or gfid in self.named)


def carried(children: Iterable[Child]) -> Carried:
    """What these came to, all of them ended and none of them failed as a whole."""
    failed = [c for c in children if c.code]
    said = "; ".join(c.said or f"{c.label}: exit {c.code}" for c in failed)
    return Carried(said, frozenset().union(*(c.named for c in failed)))


class Staged(ABC):
    """A transfer engine that has content carried by a program (SYN-2, SYN-3). Used by one thread.

    Files of `delta_threshold` bytes that exist there go to the fallback: a second copy of them would be made.
    `root` is the absolute path of the tree `view` looks at; `state` the brick's state directory; `target` where the
    secondary is; `timeout` how many seconds nothing may move, 0 for any time. What the program cannot take goes to
    `fallback`, and `log(level, text)` says so.
    """

    name = ""
    basis = True
    """Does the program make use of the content that is there?"""

    def __init__(
        self,
        view: View,
        link: Link,
        watch: Watch,
        fallback: Transfer,
        *,
        root: bytes,
        state: str,
        target: SshTarget,
        log: Callable[[str, str], None],
        timeout: float = 120.0,
        xattrs: bool = True,
        delta_threshold: int | None = None,
    ) -> None:
        self.delta_threshold = delta_threshold
        self.view = view
        self.link = link
        self.watch = watch
        self.fallback = fallback
        self.root = os.path.abspath(root)
        self.target = target
        self.log = log
        self.timeout = timeout
        self._stages = os.path.join(os.fsencode(state), b"stage")
        self._applier = Applier(view, link, watch, inline=False, xattrs=xattrs)

    @abstractmethod
    def carry(self, stage: Stage, names: list[str], whole: bool) -> Carried:
        """Have the content of these staged files carried over.

        `whole`: none of them has content there yet. Raises TransferError when the transfer as a whole failed.
        """

    def send(self, gfids: Iterable[Gfid], made: Collection[Gfid], result: Result) -> None:
        """See Transfer.send. Every file is tried a few times in one call (ERR-1); the last word is the fallback's."""
        todo = list(dict.fromkeys(gfids))
        for at in range(0, len(todo), GROUP):
            self._group(todo[at : at + GROUP], made, result)

    def _group(self, gfids: list[Gfid], made: Collection[Gfid], result: Result) -> None:
        others: dict[Gfid, str] = {}
        why: dict[Gfid, str] = {}
        left = gfids
        for _ in range(ROUNDS):
            left = self._round(left, made, result, others, why)
            if not left:
                break
        others.update((gfid, why.get(gfid, "it keeps changing")) for gfid in left)
        if others:
            self._fall_back(others, made, result)

    def _fall_back(self, others: dict[Gfid, str], made: Collection[Gfid], result: Result) -> None:
        for gfid, reason in list(others.items())[:LOGGED]:
            path = os.fsdecode(self.view.index.path(gfid) or gfid.hex().encode())
            self.log("info", f"{self.name} leaves {path!r} to the stream engine: {reason}")
        if len(others) > LOGGED:
            self.log("info", f"{self.name} leaves {len(others)} files in all to the stream engine")
        self.fallback.send(list(others), made, result)

    # ---- one try ---------------------------------------------------------------------------------------------

    def _round(
        self, gfids: list[Gfid], made: Collection[Gfid], result: Result, others: dict[Gfid, str], why: dict[Gfid, str]
    ) -> list[Gfid]:
        """Try these once. Those to be tried again come back, with their reasons in `why`.

        What cannot go this way at all is added to `others`.
        """
        self.watch.throttle(0)
        sources = self._sources(gfids, result, others)
        self._leave_large(sources, made, others)
        attributes = Result()
        same: list[Gfid] = []
        with self._staged_here(sources, others) as here, self._staged_there(sources, others) as there:
            if not sources:
                return []
            names = [self._name(gfid) for gfid in sources]
            with self._told(sources):
                came = self.carry(Stage(here, there.path, names[0], self.view.dashed), names, all(g in made for g in sources))
            idle = there.unwritten()
            for gfid, source in sources.items():
                # its time is not put right before it is certain that its content is: nothing else would tell later
                if not self._unchanged(source):
                    continue
                if came.doubtful(gfid):
                    why[gfid] = came.said
                elif gfid in idle and source.size:
                    why[gfid] = f"nothing was written to it{': ' + came.said if came.said else ''}"
                else:
                    same.append(gfid)
            there.arrived(same)
            self._applier.metas(same, attributes)
            seen = there.end()
        arrived: set[Gfid] = set()
        for gfid in same:
            reason = _difference(sources[gfid], seen.get(gfid.hex()))
            if reason:
                why[gfid] = f"{reason}{': ' + came.said if came.said else ''}"
            else:
                arrived.add(gfid)
        result.problems += [p for p in attributes.problems if p.gfid in arrived]
        whole = arrived - {p.gfid for p in attributes.problems} - set(attributes.gone)
        nbytes = sum(sources[gfid].size for gfid in whole)
        result.sent |= whole
        result.files += len(whole)
        result.bytes += nbytes
        self.watch.files(len(whole), nbytes)
        done = whole | {p.gfid for p in attributes.problems if p.gfid in arrived}
        return [gfid for gfid in sources if gfid not in done]

    @contextlib.contextmanager
    def _told(self, sources: dict[Gfid, Source]) -> Iterator[None]:
        """These files are on their way; how far each is, rsync and tar do not say."""
        some = list(sources)[:LISTED]
        for gfid in some:
            self.watch.begins(gfid, os.path.relpath(sources[gfid].path, self.root), sources[gfid].size, followed=False)
        try:
            yield
        finally:
            for gfid in some:
                self.watch.ends(gfid)

    # ---- the primary's side ----------------------------------------------------------------------------------

    def _sources(self, gfids: Iterable[Gfid], result: Result, others: dict[Gfid, str]) -> dict[Gfid, Source]:
        """Where these files are now. Vanished ones are gone, or success where the index knows it (SYN-6)."""
        if self.view.moved(self.root):
            others.update((gfid, "the primary's directory is not where it was") for gfid in gfids)
            return {}
        found: dict[Gfid, Source] = {}
        for gfid in gfids:
            try:
                source = self._source(gfid, others)
            except Indirect as e:
                others[gfid] = str(e)
            except Gone:
                if self.view.index.has(gfid):
                    result.gone.append(gfid)
            except OSError as e:
                result.problems.append(Problem(gfid, None, "DATA", e.errno or 0, f"primary: {e.strerror}"))
            else:
                if source is not None:
                    found[gfid] = source
        return found

    def _leave_large(self, sources: dict[Gfid, Source], made: Collection[Gfid], others: dict[Gfid, str]) -> None:
        """Large files that a tree has go by difference: in place, what could not be read would become zeros there."""
        if self.view.dashed or not self.basis or self.delta_threshold is None:
            return
        for gfid in [g for g, s in sources.items() if s.size >= self.delta_threshold and g not in made]:
            del sources[gfid]
            others[gfid] = "it is large: only what differs in it is sent"

    def _source(self, gfid: Gfid, others: dict[Gfid, str]) -> Source | None:
        """The file in one of its slots, under a path that leads there; None: not this way, or no regular file."""
        long = 0
        for path, st in self.view.paths(gfid, self.root):
            if not _stat.S_ISREG(st.st_mode):
                return None
            if len(path) > LONGEST_PATH:
                long = len(path)
                continue
            source = _look(path)
            if source is not None and (source.device, source.inode) == (st.st_dev, st.st_ino):
                return source._replace(shown_ns=self.view.stat_of(st, path).mtime_ns)
        if not long:
            raise Gone(gfid)
        others[gfid] = f"its path has {long} bytes"
        return None

    @contextlib.contextmanager
    def _staged_here(self, sources: dict[Gfid, Source], others: dict[Gfid, str]) -> Iterator[bytes]:
        """A directory of symlinks to the sources. Those that cannot have one leave `sources` for `others`."""
        here = os.path.join(self._stages, secrets.token_hex(8).encode())
        os.makedirs(here, 0o700)
        try:
            for gfid in list(sources):
                try:
                    os.symlink(sources[gfid].path, os.path.join(here, self._name(gfid).encode()))
                except OSError as e:
                    if e.errno != errno.ENAMETOOLONG:
                        raise
                    others[gfid] = f"its path has {len(sources.pop(gfid).path)} bytes, too many for a symlink here"
            yield here
        finally:
            shutil.rmtree(here)

    def _name(self, gfid: Gfid) -> str:
        """A file's name in both stages: a volume has its own names for gfids, a tree's agent makes them of hex."""
        return gfid_text(gfid) if self.view.dashed else gfid.hex()

    def _unchanged(self, source: Source) -> bool:
        """Is this still the same object, with the same size and times? (SYN-8)"""
        return _look(source.path) == source._replace(shown_ns=0)

    # ---- the secondary's side --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _staged_there(self, sources: dict[Gfid, Source], others: dict[Gfid, str]) -> Iterator[_There]:
        """A directory of hard links on the secondary. Those that are not there leave `sources` for `others`."""
        if not sources:
            yield _There(self.link, "", b"")
            return
        try:
            answer = self.link.call("stage", {
                "gfids": [gfid.hex() for gfid in sources], "sizes": [s.size for s in sources.values()],
                "basis": self.basis,
            })  # fmt: skip
        except RemoteError as e:
            if e.errno in BRICK_ERRNOS:
                raise brick_fault(self.link.where, e.errno or 0, e.text) from e
            others.update((gfid, f"the secondary cannot stage it: {e.text}") for gfid in sources)
            sources.clear()
            yield _There(self.link, "", b"")
            return
        there = _There(self.link, str(answer["token"]), os.fsencode(str(answer["path"])))
        try:
            for text in answer["absent"]:
                gfid = bytes.fromhex(text)
                if sources.pop(gfid, None) is not None:
                    others[gfid] = "the secondary does not have it, or cannot stage it"
            for text in answer.get("in_place", ()):
                gfid = bytes.fromhex(text)
                if sources.pop(gfid, None) is not None:
                    others[gfid] = "it has several names there, or no room beside it: it can only be written over"
            yield there
        finally:
            there.abandon()

    def whole_brick(self, child: Child) -> None:
        """Raises BrickFault where the words of a child that writes there are about the whole brick (ERR-3)."""
        for words, number in _WHOLE_BRICK:
            if any(words in said for said in child.words):
                raise brick_fault(self.link.where, number, child.said)

    def failed(self, child: Child, hint: str = "") -> EngineError:
        """The error of a transfer whose `child` failed. Raises BrickFault as `whole_brick` does."""
        self.whole_brick(child)
        how = f"signal {-child.code}" if child.code is not None and child.code < 0 else f"exit {child.code}"
        return TransferError(f"{child.label}: {how}{': ' + child.said if child.words else ''}",
                             code="transfer", hint=hint)  # fmt: skip

    def in_vain(self, stage: Stage, names: list[str]) -> str:
        """Has something that is no file taken the place of one of these, so that whoever opens it may wait for ever?"""
        for name in names:
            path = os.path.join(stage.here, name.encode())
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue
            if not _stat.S_ISREG(mode):
                now = os.fsdecode(os.path.relpath(os.readlink(path), self.root))
                return f"{now!r} is no file any more: opening it may take for ever"
        return ""

    def tick(self) -> None:
        """Called while children run: stops the transfer when the worker stops or the link is gone."""
        self.watch.throttle(0)
        if self.link.broken is not None:
            raise self.link.broken


@dataclass
class _There:
    """The stage on the secondary, until it is ended."""

    link: Link
    token: str
    path: bytes

    def unwritten(self) -> set[Gfid]:
        """Files to which nothing has been written: a program may pass one over, and say nothing of it (SYN-5)."""
        found = self.link.call("unwritten", {"token": self.token})["unwritten"]
        return {bytes.fromhex(text) for text in found}

    def arrived(self, gfids: list[Gfid]) -> None:
        """The content of these has come whole: a tree's agent puts each in place with the attributes that follow."""
        self.link.call("arrived", {"token": self.token, "gfids": [gfid.hex() for gfid in gfids]})

    def end(self) -> dict[str, Any]:
        """End it: what the secondary then sees of the real files, by gfid in hex."""
        token, self.token = self.token, ""
        files = self.link.call("unstage", {"token": token})["files"]
        assert isinstance(files, dict)
        return files

    def abandon(self) -> None:
        """End it if that was not done, whatever it says: what happened before is raised already."""
        if self.token:
            with contextlib.suppress(EngineError):
                self.end()


def _look(path: bytes) -> Source | None:
    try:
        st = os.lstat(path)
    except OSError:
        return None
    if not _stat.S_ISREG(st.st_mode):
        return None
    return Source(path, st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def _difference(source: Source, seen: dict[str, Any] | None) -> str:
    """What is wrong with a file as the secondary sees it, "" when nothing is (SYN-5)."""
    if seen is None or not seen["same"]:
        return "what was written there is another file"
    if seen["size"] != source.size:
        return f"{source.size} bytes were sent, the secondary has {seen['size']}"
    if seen["mtime_ns"] != source.shown_ns:
        return "the secondary has another time"
    return ""


def clear_stages(state: str) -> None:
    """Remove what an earlier process left of its staging directories. None may be in use."""
    shutil.rmtree(os.path.join(state, "stage"), ignore_errors=True)
