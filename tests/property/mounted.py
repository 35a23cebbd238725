"""Volumes as clients see them, in memory, behind the calls of `os`: what a mount with access by gfid answers.

    mounts = Mounts()
    with mounts:
        fd = mounts.open(Namespace())
        os.stat(b".gfid/…", dir_fd=fd)

Descriptors of a mount are numbers no file of this process has; every call of `os` with one of them, or with a path below
one (`/proc/self/fd/…`), is answered here, all others by the system. What is answered is what GlusterFS 10.3 was seen to:

- inode numbers are the last 8 bytes of gfids; a directory reached below `.gfid` has another one;
- `glusterfs.gfid2path` gives one path, `glusterfs.gfidtopath` all that the brick has noted, joined by ":", each last name
  written over the one before it (of a longer one, the end stays);
- a file's names are noted up to a number of links; the name of what a rename displaced stays noted.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
import struct
import uuid
from contextlib import nullcontext
from types import SimpleNamespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.agent.types import ROOT, Gfid, Slot

FIRST = 900_000_000
_BELOW, _BELOW_TEXT = b"/proc/self/fd/900000", "/proc/self/fd/900000"
_HEAD = struct.Struct("!II37sI")
BLOCK = 512


def fault(number: int, what: object = "") -> OSError:
    """The error of a call."""
    return OSError(number, os.strerror(number), what)


def text_of(gfid: Gfid) -> str:
    """A gfid as GlusterFS writes it."""
    return str(uuid.UUID(bytes=gfid))


@dataclass(eq=False, slots=True)
class Node:
    """An object. `names` is where it is; `notes` what the brick of its data has noted of that; `home` that brick's
    subvolume."""

    gfid: Gfid
    mode: int
    uid: int = 0
    gid: int = 0
    data: bytearray = field(default_factory=bytearray)
    text: bytes = b""
    mtime_ns: int = 0
    atime_ns: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    names: dict[Slot, None] = field(default_factory=dict)
    notes: dict[Slot, None] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)
    home: int = 0

    @property
    def is_dir(self) -> bool:
        return _stat.S_ISDIR(self.mode)

    def stat(self, odd: bool = False) -> os.stat_result:
        """As a mount shows it; `odd`: below `.gfid`, where a directory has another number."""
        size = len(self.data) or len(self.text)
        ino = int.from_bytes(self.gfid[8:], "big")
        if self.is_dir:
            ino = 1 if self.gfid == ROOT else ino ^ (1 << 62) if odd else ino
        links = 2 if self.is_dir else len(self.names)
        seconds = (self.atime_ns // 10**9, self.mtime_ns // 10**9, self.mtime_ns // 10**9)
        return os.stat_result(
            (self.mode, ino, FIRST, links, self.uid, self.gid, size, *seconds),
            {"st_atime_ns": self.atime_ns, "st_mtime_ns": self.mtime_ns, "st_ctime_ns": self.mtime_ns,
             "st_blocks": -(-size // BLOCK), "st_blksize": 4096, "st_rdev": 0},
        )  # fmt: skip


class Namespace:
    """One volume's objects and names. `noted`: links up to which a new name is noted."""

    def __init__(self, noted: int = 500) -> None:
        self.noted = noted
        self.root = Node(ROOT, _stat.S_IFDIR | 0o755)
        self.nodes: dict[Gfid, Node] = {ROOT: self.root}

    # --- what clients do

    def find(self, slot: Slot) -> Node | None:
        """What has this name."""
        parent = self.nodes.get(slot.parent)
        return None if parent is None else parent.children.get(slot.name)

    def parent(self, slot: Slot) -> Node:
        """The directory of a name. OSError."""
        parent = self.nodes.get(slot.parent)
        if parent is None:
            raise fault(errno.ENOENT)
        if not parent.is_dir:
            raise fault(errno.ENOTDIR)
        return parent

    def make(self, node: Node, slot: Slot) -> None:
        """A new object at a free name. OSError."""
        if self.find(slot) is not None:
            raise fault(errno.EEXIST)
        self.parent(slot)
        self.nodes[node.gfid] = node
        self._give(node, slot)
        self._note(node, slot)

    def link(self, node: Node, slot: Slot) -> None:
        """Another name. OSError."""
        if node.is_dir:
            raise fault(errno.EPERM)
        if not node.names:
            raise fault(errno.ENOENT)
        if self.find(slot) is not None:
            raise fault(errno.EEXIST)
        self._give(node, slot)
        if len(node.names) <= self.noted:
            self._note(node, slot)

    def unlink(self, slot: Slot) -> Node:
        """Take a name; a directory only when it is empty. OSError."""
        node = self.find(slot)
        if node is None:
            raise fault(errno.ENOENT)
        if node.children:
            raise fault(errno.ENOTEMPTY)
        self._take(node, slot)
        self._unnote(node, slot)
        return node

    def rename(self, src: Slot, dest: Slot, *, stale: bool = True) -> Node | None:
        """Rename; what was displaced, whose name stays noted where it is `stale`. OSError."""
        node, there = self.find(src), self.find(dest)
        if node is None:
            raise fault(errno.ENOENT)
        self.parent(dest)
        if there is node:
            return None
        if there is not None:
            if there.is_dir != node.is_dir:
                raise fault(errno.EISDIR if there.is_dir else errno.ENOTDIR)
            if there.children:
                raise fault(errno.ENOTEMPTY)
            self._take(there, dest)
            if not stale:
                self._unnote(there, dest)
        self._take(node, src, keep=True)
        self._unnote(node, src)
        self._give(node, dest)
        self._note(node, dest)
        return there

    def _give(self, node: Node, slot: Slot) -> None:
        self.parent(slot).children[slot.name] = node
        node.names[slot] = None

    def _take(self, node: Node, slot: Slot, keep: bool = False) -> None:
        del self.nodes[slot.parent].children[slot.name]
        del node.names[slot]
        if not node.names and not keep:
            del self.nodes[node.gfid]

    def _note(self, node: Node, slot: Slot) -> None:
        node.notes[slot] = None

    def _unnote(self, node: Node, slot: Slot) -> None:
        node.notes.pop(slot, None)

    # --- what is known of names

    def path(self, slot: Slot) -> bytes:
        """The path of a name below the root."""
        parts = [slot.name]
        while slot.parent != ROOT:
            slot = next(iter(self.nodes[slot.parent].names))
            parts.append(slot.name)
        return b"/" + b"/".join(reversed(parts))

    def one_path(self, node: Node) -> bytes:
        """`glusterfs.gfid2path`: the brick remembers the name by which it was last reached."""
        if node is self.root:
            return b"/"
        return self.path(next(reversed(node.names))) + b"\0"

    def all_paths(self, node: Node) -> bytes:
        """`glusterfs.gfidtopath`: all that are noted, with GlusterFS 10's defect. OSError ENODATA for none."""
        if node.is_dir or not node.notes:
            raise fault(errno.ENODATA)
        out: list[bytes] = []
        last = b""
        for slot in reversed(node.notes):
            above, _, name = self.path(slot).rpartition(b"/")
            last = name + last[len(name) :]
            out.append(above + b"/" + last)
        return b":".join(out)


@dataclass(slots=True)
class _Open:
    volume: Namespace
    node: Node
    flags: int
    at: int = 0
    odd: bool = False


@dataclass(slots=True)
class _Place:
    """Where a path leads: to `node` (None: to nothing), by a name in `parent` or directly."""

    volume: Namespace
    node: Node | None
    parent: Node | None = None
    name: bytes = b""
    odd: bool = False

    def need(self) -> Node:
        if self.node is None:
            raise fault(errno.ENOENT, self.name)
        return self.node

    def slot(self) -> Slot:
        if self.parent is None:
            raise fault(errno.EINVAL, self.name)
        return Slot(self.parent.gfid, self.name)


class Mounts:
    """The mounts of this process; within `with`, calls of `os` reach them."""

    def __init__(self) -> None:
        self._table: dict[int, _Open] = {}
        self._real: dict[str, Callable[..., Any]] = {}

    def open(self, volume: Namespace) -> int:
        """Mount a volume; the descriptor of its root."""
        return self._new(_Open(volume, volume.root, os.O_RDONLY | os.O_DIRECTORY))

    def close_all(self) -> None:
        """Unmount all."""
        self._table.clear()

    def opened(self) -> int:
        """How many descriptors are open."""
        return len(self._table)

    def __enter__(self) -> Mounts:
        for name in _CALLS:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._either(name, self._real[name], getattr(self, "_" + name)))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        self._real = {}

    @staticmethod
    def _either(name: str, real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **words: Any) -> Any:
            if isinstance(path, int):
                mine = path >= FIRST
            elif words and (words.get("dir_fd") or words.get("src_dir_fd") or 0) >= FIRST:
                mine = True
            else:
                path = path if isinstance(path, bytes | str) else os.fspath(path)
                mine = path.startswith(_BELOW if isinstance(path, bytes) else _BELOW_TEXT) if path else False
            return (ours if mine else real)(path, *args, **words)

        call.__name__ = name
        return call

    def _new(self, one: _Open) -> int:
        fd = FIRST
        while fd in self._table:
            fd += 1
        self._table[fd] = one
        return fd

    def _at(self, path: Any, dir_fd: int | None = None) -> _Place:
        if isinstance(path, int):
            one = self._table[path]
            return _Place(one.volume, one.node, odd=one.odd)
        rest = os.fsencode(path)
        if rest.startswith(_BELOW):
            number, _, rest = rest[len(b"/proc/self/fd/") :].partition(b"/")
            one = self._table[int(number)]
        elif dir_fd is not None:
            one = self._table[dir_fd]
        else:
            raise fault(errno.EXDEV, path)
        volume = one.volume
        place = _Place(volume, one.node, odd=one.odd)
        parts = [p for p in rest.split(b"/") if p not in (b"", b".")]
        while parts:
            node = place.need()
            if not node.is_dir:
                raise fault(errno.ENOTDIR, path)
            name = parts.pop(0)
            if name == b".gfid" and node is volume.root and parts:
                place = _Place(volume, volume.nodes.get(uuid.UUID(parts.pop(0).decode("ascii")).bytes), odd=True)
            else:
                place = _Place(volume, node.children.get(name), node, name)
        return place

    # --- looking

    def _stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        place = self._at(path, dir_fd)
        return place.need().stat(place.odd)

    def _lstat(self, path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        return self._stat(path, dir_fd=dir_fd)

    def _fstat(self, fd: int) -> os.stat_result:
        return self._stat(fd)

    def _listdir(self, path: Any) -> list[Any]:
        names = sorted(self._at(path).need().children)
        return names if isinstance(path, bytes) else [os.fsdecode(n) for n in names]

    def _scandir(self, path: Any) -> Any:
        node = self._at(path).need()
        above = path if isinstance(path, bytes) else b"/proc/self/fd/%d" % path
        return nullcontext([
            SimpleNamespace(name=name, path=above + b"/" + name, inode=lambda one=one: one.stat(False).st_ino,
                            is_dir=lambda one=one, **_: one.is_dir)
            for name, one in sorted(node.children.items())
        ])  # fmt: skip

    def _readlink(self, path: Any, *, dir_fd: int | None = None) -> Any:
        node = self._at(path, dir_fd).need()
        if not _stat.S_ISLNK(node.mode):
            raise fault(errno.EINVAL, path)
        return node.text if isinstance(path, bytes) else os.fsdecode(node.text)

    def _getxattr(self, path: Any, attribute: Any, *, follow_symlinks: bool = True) -> bytes:
        place = self._at(path)
        node, volume, name = place.need(), place.volume, os.fsdecode(attribute)
        if name == "glusterfs.gfid.string":
            return text_of(node.gfid).encode()
        if name == "glusterfs.gfid2path":
            return volume.one_path(node)
        if name == "glusterfs.gfidtopath":
            return volume.all_paths(node)
        if name == "dht.subvol.status":
            return b"1\0"
        if name not in node.xattrs:
            raise fault(errno.ENODATA, path)
        return node.xattrs[name]

    def _listxattr(self, path: Any, *, follow_symlinks: bool = True) -> list[str]:
        return list(self._at(path).need().xattrs)

    # --- files

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = self._at(path, dir_fd)
        node = place.need()
        if flags & os.O_CREAT:
            raise fault(errno.EOPNOTSUPP, path)
        if flags & os.O_DIRECTORY and not node.is_dir:
            raise fault(errno.ENOTDIR, path)
        if _stat.S_ISLNK(node.mode) and not flags & os.O_PATH:
            raise fault(errno.ELOOP, path)
        return self._new(_Open(place.volume, node, flags, odd=place.odd))

    def _close(self, fd: int) -> None:
        if self._table.pop(fd, None) is None:
            raise fault(errno.EBADF)

    def _read(self, fd: int, length: int) -> bytes:
        one = self._table[fd]
        data = bytes(one.node.data[one.at : one.at + length])
        one.at += len(data)
        return data

    def _pread(self, fd: int, length: int, offset: int) -> bytes:
        return bytes(self._table[fd].node.data[offset : offset + length])

    def _write(self, fd: int, data: Any) -> int:
        one = self._table[fd]
        done = self._pwrite(fd, data, one.at)
        one.at += done
        return done

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        content = self._table[fd].node.data
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = bytes(data)
        return len(data)

    def _ftruncate(self, fd: int, length: int) -> None:
        content = self._table[fd].node.data
        del content[length:]
        content.extend(bytes(length - len(content)))

    def _lseek(self, fd: int, position: int, whence: int) -> int:
        one = self._table[fd]
        size = len(one.node.data)
        if whence in (os.SEEK_DATA, os.SEEK_HOLE) and position >= size:
            raise fault(errno.ENXIO)
        one.at = {os.SEEK_SET: position, os.SEEK_CUR: one.at + position, os.SEEK_END: size + position,
                  os.SEEK_DATA: position, os.SEEK_HOLE: size}[whence]  # fmt: skip
        return one.at

    def _fsync(self, fd: int) -> None:
        del fd

    # --- attributes

    def _utime(self, path: Any, times: Any = None, *, ns: tuple[int, int], dir_fd: int | None = None,
               follow_symlinks: bool = True) -> None:  # fmt: skip
        node = self._at(path, dir_fd).need()
        node.atime_ns, node.mtime_ns = ns

    def _chown(self, path: Any, uid: int, gid: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        node = self._at(path, dir_fd).need()
        node.uid, node.gid = uid, gid

    def _fchown(self, fd: int, uid: int, gid: int) -> None:
        self._chown(fd, uid, gid)

    def _chmod(self, path: Any, mode: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        node = self._at(path, dir_fd).need()
        node.mode = _stat.S_IFMT(node.mode) | mode

    def _fchmod(self, fd: int, mode: int) -> None:
        self._chmod(fd, mode)

    def _setxattr(
        self, path: Any, attribute: Any, value: bytes, flags: int = 0, *, follow_symlinks: bool = True
    ) -> None:
        place = self._at(path)
        node, name = place.need(), os.fsdecode(attribute)
        if name == "glusterfs.gfid.newfile":
            self._newfile(place.volume, node, bytes(value))
        else:
            node.xattrs[name] = bytes(value)

    def _removexattr(self, path: Any, attribute: Any, *, follow_symlinks: bool = True) -> None:
        if self._at(path).need().xattrs.pop(os.fsdecode(attribute), None) is None:
            raise fault(errno.ENODATA, path)

    @staticmethod
    def _newfile(volume: Namespace, parent: Node, blob: bytes) -> None:
        _, _, text, mode = _HEAD.unpack_from(blob)
        name, _, rest = blob[_HEAD.size :].partition(b"\0")
        gfid = uuid.UUID(text.rstrip(b"\0").decode("ascii")).bytes
        if not parent.names and parent is not volume.root:
            raise fault(errno.ESTALE)
        if name in parent.children:
            raise fault(errno.EEXIST, name)
        if gfid in volume.nodes:
            raise fault(errno.ENODATA, name)
        one = Node(gfid, mode)
        if _stat.S_ISLNK(mode):
            one.text = rest.rstrip(b"\0")
        volume.make(one, Slot(parent.gfid, name))

    # --- names

    def _link(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None,
              follow_symlinks: bool = True) -> None:  # fmt: skip
        place = self._at(dst, dst_dir_fd)
        place.volume.link(self._at(src, src_dir_fd).need(), place.slot())

    def _rename(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        place = self._at(src, src_dir_fd)
        place.volume.rename(place.slot(), self._at(dst, dst_dir_fd).slot())

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        place = self._at(path, dir_fd)
        if place.need().is_dir:
            raise fault(errno.EISDIR, path)
        place.volume.unlink(place.slot())

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        place = self._at(path, dir_fd)
        if not place.need().is_dir:
            raise fault(errno.ENOTDIR, path)
        place.volume.unlink(place.slot())


_CALLS = (
    "stat", "lstat", "fstat", "listdir", "scandir", "readlink", "getxattr", "listxattr", "open", "close", "read", "pread", "write",
    "pwrite", "ftruncate", "lseek", "fsync", "utime", "chown", "fchown", "chmod", "fchmod", "setxattr", "removexattr",
    "link", "rename", "unlink", "rmdir",
)  # fmt: skip
"""The calls that are answered here."""
