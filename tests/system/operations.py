"""What the workload does, operation by operation; each is done on whatever the workload's random walk meets."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.system.syscalls import exchange, link_unnamed, punch

if TYPE_CHECKING:
    from tests.system.workload import Workload

Operation = Callable[["Workload"], None]

XATTR_NAMES = ["user.one", "user.two", "user.long-" + "x" * 100, "user.d\u00f6t"]
HUGE = 9 << 20
"""Bytes: above the default threshold for deltas."""


# -- content --------------------------------------------------------------------------------------------------------


def _create(w: Workload) -> None:
    w.put(w.free(), w.content())


def _create_many(w: Workload) -> None:
    where = w.directory()
    for _ in range(w.random.randrange(5, 30)):
        w.put(os.path.join(where, w.name()), w.content(2000))


def _create_big(w: Workload) -> None:
    w.put(w.free(), w.random.randbytes(w.random.choice([300_000, 1 << 20, 70_000])))


def create_huge(w: Workload) -> None:
    w.put(w.free(), w.random.randbytes(1 << 16) * (HUGE >> 16))


def _create_unnamed(w: Workload) -> None:
    fd = os.open(w.directory(), os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, w.content())
        link_unnamed(fd, w.free())
    finally:
        os.close(fd)


def _write(w: Workload) -> None:
    w.write(w.any("f"), w.content(), offset=w.random.randrange(20000))


def _append(w: Workload) -> None:
    w.write(w.any("f"), w.content(4000), os.O_APPEND)


def _overwrite(w: Workload) -> None:
    w.write(w.any("f"), w.content(), os.O_TRUNC)


def _truncate(w: Workload) -> None:
    fd = w.regular(w.any("f"), os.O_WRONLY)
    try:
        size = os.fstat(fd).st_size
        os.ftruncate(fd, w.random.choice([0, size // 2, size + 100, size + (1 << 20)]))
    finally:
        os.close(fd)


def _same_size(w: Workload) -> None:
    path = w.any("f")
    size = min(os.lstat(path).st_size, 20000)
    for _ in range(2):
        w.write(path, w.random.randbytes(size), offset=0)


def _hole(w: Workload) -> None:
    path = w.free()
    w.put(path, b"")
    w.write(path, w.content(), offset=w.random.randrange(1, 3) << 20)


def _punch(w: Workload) -> None:
    fd = w.regular(w.any("f"), os.O_RDWR)
    try:
        punch(fd, 4096 * w.random.randrange(3), 4096 * w.random.randrange(1, 4))
    finally:
        os.close(fd)


def _keep_open(w: Workload) -> None:
    if len(w.open_files) > 4:
        os.close(w.open_files.pop(0))
    w.open_files.append(w.regular(w.any("f"), os.O_RDWR))


def _write_open(w: Workload) -> None:
    if w.open_files:
        os.pwrite(w.random.choice(w.open_files), w.content(3000), w.random.randrange(9000))


def _write_after_rename(w: Workload) -> None:
    path = w.any("f")
    fd = w.regular(path, os.O_WRONLY)
    try:
        os.rename(path, w.free())
        os.write(fd, w.content(3000))
    finally:
        os.close(fd)


def _write_after_unlink(w: Workload) -> None:
    path = w.any("f")
    fd = w.regular(path, os.O_WRONLY)
    try:
        os.unlink(path)
        os.write(fd, w.content(3000))
        w.put(path, w.content(3000))
        os.write(fd, w.content(3000))
    finally:
        os.close(fd)


# -- names ----------------------------------------------------------------------------------------------------------


def _rename_within(w: Workload) -> None:
    path = w.any()
    os.rename(path, os.path.join(os.path.dirname(path), w.fresh()))


def _rename_across(w: Workload) -> None:
    os.rename(w.any(), w.free())


def _rename_directory(w: Workload) -> None:
    os.rename(w.any("d"), w.free())


def _rename_over(w: Workload) -> None:
    os.rename(w.any("flo"), w.any("flo"))


def _rename_over_directory(w: Workload) -> None:
    """A directory over an empty one."""
    empty = w.free()
    os.mkdir(empty)
    os.rename(w.any("d"), empty)


def _swap(w: Workload, times: int = 1) -> None:
    a, b = w.any(), w.any()
    aside = os.path.join(os.path.dirname(a), w.fresh())
    for _ in range(times):
        os.rename(a, aside)
        os.rename(b, a)
        os.rename(aside, b)


def _three_swaps(w: Workload) -> None:
    _swap(w, 3)


def _exchange(w: Workload) -> None:
    exchange(w.any(), w.any())


def _chain(w: Workload) -> None:
    path = w.any()
    for _ in range(w.random.randrange(2, 6)):
        to = os.path.join(w.directory(), w.fresh())
        os.rename(path, to)
        path = to


def _rotate(w: Workload) -> None:
    """As logrotate: log.2 to log.3, log.1 to log.2, log to log.1, a new log, log.3 gone."""
    base = os.path.join(w.directory(), b"log")
    for i in (2, 1):
        if os.path.lexists(base + b".%d" % i):
            os.rename(base + b".%d" % i, base + b".%d" % (i + 1))
    if os.path.lexists(base):
        os.rename(base, base + b".1")
    w.put(base, w.content(2000))
    if os.path.lexists(base + b".3"):
        os.unlink(base + b".3")


def _save(w: Workload) -> None:
    """As an editor saves: written aside, renamed over."""
    path = w.any("f")
    aside = path[: len(path) - 3] + w.fresh()
    w.new(aside, w.content())
    os.rename(aside, path)


def _link(w: Workload) -> None:
    os.link(w.any("flo"), w.free(), follow_symlinks=False)


def _link_and_drop(w: Workload) -> None:
    path, other = w.any("f"), w.free()
    os.link(path, other, follow_symlinks=False)
    os.unlink(path)


def _symlink(w: Workload) -> None:
    text = w.random.choice([w.name(), b"../" + w.name(), b"/nowhere/" + w.name(), b"x" * 900, w.tree])
    os.symlink(text, w.free())


def _symlink_replaced(w: Workload) -> None:
    path = w.any("l")
    aside = os.path.join(os.path.dirname(path), w.fresh())
    os.symlink(w.name(), aside)
    os.rename(aside, path)


def _unlink(w: Workload) -> None:
    os.unlink(w.any("flo"))


def _unlink_many(w: Workload) -> None:
    where = w.directory()
    for entry in sorted(w.entries(where), key=lambda e: e.name)[::2]:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)


def _file_again(w: Workload) -> None:
    """The same name as another object, perhaps of another kind."""
    path = w.any("flo")
    os.unlink(path)
    if w.random.random() < 0.5:
        w.put(path, w.content())
    else:
        os.mkdir(path)


def _mkdir(w: Workload) -> None:
    os.mkdir(w.free(), w.random.choice([0o755, 0o700, 0o775]))


def _mkdir_deep(w: Workload) -> None:
    path = w.directory(0.4)
    for _ in range(w.random.randrange(2, 5)):
        path = os.path.join(path, w.name())
        if not os.path.isdir(path):
            os.mkdir(path)
    w.put(os.path.join(path, w.name()), w.content())


def _remove(path: bytes) -> None:
    with os.scandir(path) as found:
        for entry in list(found):
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)


def _low(w: Workload) -> bytes:
    """A directory rather far down, so that what goes with it is not half of the tree each time."""
    return max((w.any("d") for _ in range(3)), key=lambda path: path.count(b"/"))


def _rmtree(w: Workload) -> None:
    _remove(_low(w))


def _rmtree_again(w: Workload) -> None:
    """A directory removed with all in it, and its name made again with the same names in it."""
    path = _low(w)
    names = sorted(e.name for e in w.entries(path))[:10]
    _remove(path)
    os.mkdir(path)
    for name in names:
        w.put(os.path.join(path, name), w.content(1000))


# -- attributes -----------------------------------------------------------------------------------------------------


def _chmod(w: Workload) -> None:
    path = w.any("fdo")
    modes = [0o644, 0o600, 0o755, 0o444, 0o666]
    if os.path.isdir(path):
        modes = [0o755, 0o700, 0o1777, 0o2775]
    elif w.root:
        modes += [0o4755, 0o2711, 0o1644, 0o000]
    os.chmod(path, w.random.choice(modes))


def _chown(w: Workload) -> None:
    if w.root:
        uid, gid = w.random.choice([0, 1, 1000, 54321]), w.random.choice([0, 1, 1000, 54321])
        os.chown(w.any(), uid, gid, follow_symlinks=False)


def _utimes(w: Workload) -> None:
    when = w.random.choice([0, 1, 999_999_999, 1_600_000_000_123_456_789, 4_300_000_000_000_000_001])
    os.utime(w.any(), ns=(when, when + w.random.randrange(1000)), follow_symlinks=False)


def _set_xattr(w: Workload) -> None:
    value = w.random.choice([b"", b"value", w.random.randbytes(300), b"\x00\xff"])
    os.setxattr(w.any("fd"), w.random.choice(XATTR_NAMES), value, follow_symlinks=False)


def _remove_xattr(w: Workload) -> None:
    path = w.any("fd")
    names = [n for n in sorted(os.listxattr(path, follow_symlinks=False)) if n.startswith("user.")]
    if names:
        os.removexattr(path, w.random.choice(names), follow_symlinks=False)


def _acl(w: Workload) -> None:
    path = w.any("fd")
    kind = "default" if os.path.isdir(path) and w.random.random() < 0.5 else "access"
    entries = [(0x01, 6, -1), (0x02, w.random.choice([4, 5, 6, 7]), 1234), (0x04, 4, -1), (0x10, 7, -1), (0x20, 0, -1)]
    if os.path.isdir(path):
        entries[0] = (0x01, 7, -1)
    text = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + permission.to_bytes(2, "little") + who.to_bytes(4, "little", signed=True)
        for tag, permission, who in entries
    )
    os.setxattr(path, f"system.posix_acl_{kind}", text, follow_symlinks=False)


def _fifo(w: Workload) -> None:
    os.mkfifo(w.free(), 0o640)


def _device(w: Workload) -> None:
    if w.root:
        kind = w.random.choice([stat.S_IFCHR, stat.S_IFBLK])
        os.mknod(w.free(), kind | 0o600, os.makedev(w.random.randrange(240, 254), w.random.randrange(300)))


# -- over the border ------------------------------------------------------------------------------------------------


def _move_out(w: Workload) -> None:
    os.rename(_low(w), os.path.join(w.outside, w.name()))


def _move_in(w: Workload) -> None:
    held = sorted(e.name for e in w.entries(w.outside) if e.is_dir(follow_symlinks=False))
    if held:
        path = os.path.join(w.outside, w.random.choice(held))
        if w.random.random() < 0.5:
            w.put(os.path.join(path, w.name()), w.content())
        os.rename(path, w.free())


def _out_and_in(w: Workload) -> None:
    path = w.any("d")
    aside = os.path.join(w.outside, w.fresh())
    os.rename(path, aside)
    w.put(os.path.join(aside, w.name()), w.content())
    os.rename(aside, path if w.random.random() < 0.5 else w.free())


def _link_outside(w: Workload) -> None:
    os.link(w.any("f"), os.path.join(w.outside, b"link-" + w.name()), follow_symlinks=False)


def _write_outside(w: Workload) -> None:
    held = sorted(e.name for e in w.entries(w.outside) if e.name.startswith(b"link-"))
    if held:
        w.write(os.path.join(w.outside, w.random.choice(held)), w.content(), w.random.choice([0, os.O_TRUNC]))


def _link_inside(w: Workload) -> None:
    held = sorted(e.name for e in w.entries(w.outside) if e.name.startswith(b"link-"))
    if held:
        path = os.path.join(w.outside, w.random.choice(held))
        w.random.choice([os.link, os.rename])(path, w.free())


OPERATIONS: dict[str, tuple[Operation, int]] = {
    "create": (_create, 90), "create_many": (_create_many, 14), "create_big": (_create_big, 3),
    "create_huge": (create_huge, 0), "create_unnamed": (_create_unnamed, 6), "write": (_write, 40),
    "append": (_append, 30), "overwrite": (_overwrite, 20), "truncate": (_truncate, 15), "same_size": (_same_size, 20),
    "hole": (_hole, 8), "punch": (_punch, 4), "keep_open": (_keep_open, 10), "write_open": (_write_open, 20),
    "write_after_rename": (_write_after_rename, 10), "write_after_unlink": (_write_after_unlink, 8),
    "rename_within": (_rename_within, 30), "rename_across": (_rename_across, 30),
    "rename_directory": (_rename_directory, 20), "rename_over": (_rename_over, 20),
    "rename_over_directory": (_rename_over_directory, 6), "swap": (_swap, 12), "three_swaps": (_three_swaps, 6),
    "exchange": (_exchange, 12), "chain": (_chain, 10), "rotate": (_rotate, 12), "save": (_save, 20),
    "link": (_link, 25), "link_and_drop": (_link_and_drop, 8), "symlink": (_symlink, 15),
    "symlink_replaced": (_symlink_replaced, 6), "unlink": (_unlink, 30), "unlink_many": (_unlink_many, 1),
    "file_again": (_file_again, 12), "mkdir": (_mkdir, 40), "mkdir_deep": (_mkdir_deep, 12), "rmtree": (_rmtree, 4),
    "rmtree_again": (_rmtree_again, 5), "chmod": (_chmod, 20), "chown": (_chown, 15), "utimes": (_utimes, 20),
    "set_xattr": (_set_xattr, 20), "remove_xattr": (_remove_xattr, 10), "acl": (_acl, 8), "fifo": (_fifo, 5),
    "device": (_device, 4), "move_out": (_move_out, 3), "move_in": (_move_in, 8), "out_and_in": (_out_and_in, 8),
    "link_outside": (_link_outside, 8), "write_outside": (_write_outside, 12), "link_inside": (_link_inside, 5),
}  # fmt: skip
"""Each operation with its weight; `create_huge` only where it is asked for."""
GROWING = frozenset({"create", "create_many", "create_big", "mkdir", "mkdir_deep", "link", "symlink", "hole", "fifo"})
SHRINKING = ["unlink", "rmtree", "unlink", "unlink_many"]
