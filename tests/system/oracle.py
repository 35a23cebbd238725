"""The judge: what differs between a primary tree and its replica. Knows nothing of the product.

Equal means: same names (bytes), types, content, permission bits, owner, mtime to the nanosecond, link targets,
hard-link groups, link counts, `user.*` xattrs, POSIX ACLs, device numbers; sparse files stay sparse; nothing extra on
the secondary but `.georep/` in its root. A `.georep` in the primary's root is a former secondary's and is not compared.

    python -m tests.system.oracle PRIMARY SECONDARY       prints the differences; exit 0 when there are none
"""

from __future__ import annotations

import os
import resource
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

STATE_DIR = b".georep"
_ACLS = frozenset({"system.posix_acl_access", "system.posix_acl_default"})
_CHUNK = 1 << 20
_SPARSE_SLACK = 64 * 1024
"""Bytes a sparse file may take more on the secondary than on the primary: block sizes differ."""

_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip


class Found(Exception):
    """As many differences as were asked for."""


@dataclass
class _Comparison:
    """One comparison under way: what to look at, and what was found."""

    directory_mtimes: bool
    owners: bool
    content: bool
    limit: int
    differences: list[str] = field(default_factory=list)
    primary_groups: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    secondary_groups: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    secondary_links: dict[tuple[int, int], int] = field(default_factory=dict)

    def differ(self, path: bytes, what: str) -> None:
        shown = path if len(path) <= 300 else path[:140] + b"..." + path[-140:]
        self.differences.append(f"{shown!r}: {what}")
        if len(self.differences) >= self.limit:
            raise Found


def differences(
    primary: bytes,
    secondary: bytes,
    *,
    directory_mtimes: bool = True,
    owners: bool = True,
    content: bool = True,
    limit: int = 100,
) -> list[str]:
    """What differs, one line each, at most `limit`; an empty list means equal.

    `directory_mtimes=False` leaves out the mtimes of directories; `owners=False` uid and gid; `content=False` the
    bytes of files (sizes are compared). An object that vanishes meanwhile counts as a difference. Works to any
    depth and for paths longer than PATH_MAX. Raises OSError where one of the roots cannot be opened.
    """
    _many_descriptors()
    c = _Comparison(directory_mtimes, owners, content, limit)
    p = os.open(primary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        s = os.open(secondary, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                _attributes(c, b".", p, b".", s, b".", os.fstat(p), os.fstat(s))
                _walk(c, p, s)
                _groups(c)
            except Found:
                pass
        finally:
            os.close(s)
    finally:
        os.close(p)
    return c.differences


def _many_descriptors() -> None:
    """Descriptors are held open along the way down: allow for a thousand levels."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _names(fd: int, top: bool) -> set[bytes]:
    # os.listdir of a descriptor gives str: fsencode gives the bytes back
    names = {os.fsencode(n) for n in os.listdir(fd)}
    if top:
        names.discard(STATE_DIR)
    return names


def _walk(c: _Comparison, p: int, s: int) -> None:
    """Compare two directories and all below, depth first, with an explicit stack."""
    stack: list[tuple[bytes, int, int, Iterator[bytes]]] = []
    stack.append((b"", p, s, iter(_common(c, b"", p, s))))
    try:
        while stack:
            path, pfd, sfd, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                if stack:
                    os.close(pfd)
                    os.close(sfd)
                continue
            below = path + b"/" + name if path else name
            pair = _compare(c, below, pfd, sfd, name)
            if pair is not None:
                stack.append((below, *pair, iter(_common(c, below, *pair))))
    finally:
        for _, pfd, sfd, _names_left in stack[1:]:
            os.close(pfd)
            os.close(sfd)


def _common(c: _Comparison, path: bytes, pfd: int, sfd: int) -> list[bytes]:
    """The names both directories have; what only one has is a difference."""
    mine, theirs = _names(pfd, not path), _names(sfd, not path)
    prefix = path + b"/" if path else b""
    if mine != theirs:
        for name in sorted(mine - theirs):
            c.differ(prefix + name, "missing on the secondary")
        for name in sorted(theirs - mine):
            c.differ(prefix + name, "extra on the secondary")
    return sorted(mine & theirs)


def _compare(c: _Comparison, path: bytes, pfd: int, sfd: int, name: bytes) -> tuple[int, int] | None:
    """Compare one name; for a pair of directories returns their descriptors, which the caller closes."""
    try:
        a = os.stat(name, dir_fd=pfd, follow_symlinks=False)
    except OSError as e:
        c.differ(path, f"vanished on the primary while looking ({e.strerror})")
        return None
    try:
        b = os.stat(name, dir_fd=sfd, follow_symlinks=False)
    except OSError as e:
        c.differ(path, f"vanished on the secondary while looking ({e.strerror})")
        return None
    kind = stat.S_IFMT(a.st_mode)
    if kind != stat.S_IFMT(b.st_mode):
        c.differ(path, f"type: {_KINDS[kind]} != {_KINDS[stat.S_IFMT(b.st_mode)]}")
        return None
    try:
        _attributes(c, path, pfd, name, sfd, name, a, b)
        if kind == stat.S_IFDIR:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            one = os.open(name, flags, dir_fd=pfd)
            try:
                return one, os.open(name, flags, dir_fd=sfd)
            except OSError:
                os.close(one)
                raise
        c.primary_groups.setdefault((a.st_dev, a.st_ino), []).append(path)
        c.secondary_groups.setdefault((b.st_dev, b.st_ino), []).append(path)
        c.secondary_links[b.st_dev, b.st_ino] = b.st_nlink
        if kind == stat.S_IFREG:
            _file(c, path, pfd, sfd, name, a, b)
    except OSError as e:
        c.differ(path, f"could not be compared: {e.strerror} (errno {e.errno})")
    return None


def _attributes(
    c: _Comparison, path: bytes, pfd: int, pname: bytes, sfd: int, sname: bytes, a: os.stat_result, b: os.stat_result
) -> None:
    """Mode, owner, mtime, link text, device number, xattrs and ACLs."""
    kind = stat.S_IFMT(a.st_mode)
    if kind != stat.S_IFLNK and stat.S_IMODE(a.st_mode) != stat.S_IMODE(b.st_mode):
        c.differ(path, f"mode: {stat.S_IMODE(a.st_mode):04o} != {stat.S_IMODE(b.st_mode):04o}")
    if c.owners and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        c.differ(path, f"owner: {a.st_uid}:{a.st_gid} != {b.st_uid}:{b.st_gid}")
    if a.st_mtime_ns != b.st_mtime_ns and (c.directory_mtimes or kind != stat.S_IFDIR):
        c.differ(path, f"mtime: {a.st_mtime_ns} != {b.st_mtime_ns} ns ({_KINDS[kind]})")
    if kind == stat.S_IFLNK:
        one, two = os.readlink(pname, dir_fd=pfd), os.readlink(sname, dir_fd=sfd)
        if one != two:
            c.differ(path, f"link text: {one!r} != {two!r}")
        return
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and a.st_rdev != b.st_rdev:
        c.differ(
            path,
            f"device: {os.major(a.st_rdev)}:{os.minor(a.st_rdev)} != {os.major(b.st_rdev)}:{os.minor(b.st_rdev)}",
        )
    mine, theirs = _xattrs(pfd, pname), _xattrs(sfd, sname)
    if mine != theirs:
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                c.differ(path, f"xattr {key}: {mine.get(key)!r} != {theirs.get(key)!r}")


def _xattrs(fd: int, name: bytes) -> dict[str, bytes]:
    path = b"/proc/self/fd/%d/%s" % (fd, name)
    return {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
        if key.startswith("user.") or key in _ACLS
    }


def _file(
    c: _Comparison, path: bytes, pfd: int, sfd: int, name: bytes, a: os.stat_result, b: os.stat_result
) -> None:
    """Size, content, and holes of a regular file."""
    if a.st_size != b.st_size:
        c.differ(path, f"size: {a.st_size} != {b.st_size}")
        return
    if a.st_blocks * 512 < a.st_size:
        allowed = a.st_blocks * 512 * 11 // 10 + _SPARSE_SLACK
        if b.st_blocks * 512 > allowed:
            c.differ(path, f"no longer sparse: {a.st_blocks * 512} != {b.st_blocks * 512} bytes on disk")
    if not c.content or a.st_size == 0:
        return
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    one = os.open(name, flags, dir_fd=pfd)
    try:
        two = os.open(name, flags, dir_fd=sfd)
        try:
            at = _first_difference(one, two)
        finally:
            os.close(two)
    finally:
        os.close(one)
    if at is not None:
        c.differ(path, f"content differs at byte {at}")


def _first_difference(one: int, two: int) -> int | None:
    """Offset in bytes of the first differing byte, None when both read the same to their ends."""
    offset = 0
    while True:
        x, y = os.read(one, _CHUNK), os.read(two, _CHUNK)
        if x != y:
            both = min(len(x), len(y))
            return offset + next((i for i in range(both) if x[i] != y[i]), both)
        if not x:
            return None
        offset += len(x)


def _groups(c: _Comparison) -> None:
    """Names that are one object on the primary are one on the secondary, and it has no other name there."""
    theirs = {path: group for group, paths in c.secondary_groups.items() for path in paths}
    together: dict[tuple[int, int], tuple[int, int]] = {}
    for group, paths in c.primary_groups.items():
        held = {theirs[p] for p in paths}
        if len(held) > 1:
            c.differ(paths[0], f"hard links: {len(paths)} names of one object are {len(held)} objects on the secondary")
            continue
        (one,) = held
        if one in together:
            other = c.primary_groups[together[one]][0]
            c.differ(paths[0], f"hard links: the same object on the secondary as {other!r}")
            continue
        together[one] = group
        if c.secondary_links[one] != len(paths):
            c.differ(paths[0], f"link count: {len(paths)} names, {c.secondary_links[one]} links on the secondary")


if __name__ == "__main__":
    lines = differences(os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]))
    print("\n".join(lines) or "equal")
    sys.exit(1 if lines else 0)
