"""Trees for tests: every kind of object, odd names, very deep directories."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from tests.system.oracle import _many_descriptors

LONG_NAME = b"n" * 255
WHEN = 1_700_000_000_123_456_789
"""A fixed time for what is built twice, in nanoseconds."""


def acl(uid: int, permissions: int, *, directory: bool = False) -> bytes:
    """An ACL in the kernel's form: owner rw(x), one user, group r, mask rw, others nothing."""
    nobody = 0xFFFFFFFF
    owner = 7 if directory else 6
    entries = [(0x01, owner, nobody), (0x02, permissions, uid), (0x04, 4, nobody), (0x10, 6, nobody), (0x20, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def every_kind(root: Path) -> None:
    """One object of every kind in a new directory `root`, with xattrs, ACLs, holes and hard links."""
    sub = root / "sub"
    (sub / "empty").mkdir(parents=True)
    (root / "file").write_bytes(b"x" * 5000)
    (sub / "other").write_bytes(b"other")
    os.link(root / "file", sub / "second")
    os.symlink("file", root / "link")
    os.mkfifo(root / "fifo")
    here = os.open(root, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(f"/proc/self/fd/{here}/socket")
    finally:
        os.close(here)
    if os.geteuid() == 0:
        os.mknod(root / "node", 0o20600, os.makedev(240, 7))
        os.mknod(root / "block", 0o60640, os.makedev(241, 300))
    with open(root / "sparse", "wb") as f:
        f.write(b"head")
        f.truncate(4 << 20)
    os.setxattr(root / "file", "user.one", b"1")
    os.setxattr(root / "sub", "user.directory", b"\x00\xff")
    os.setxattr(root / "file", "system.posix_acl_access", acl(1234, 6))
    os.setxattr(sub / "empty", "system.posix_acl_default", acl(1234, 5, directory=True))
    (root / os.fsdecode(b"odd\n%\r\xff")).write_bytes(b"odd")


def deep(root: Path, levels: int, name: bytes = LONG_NAME) -> None:
    """`levels` directories one in the other below `root`, with a file `bottom`; all times are WHEN but root's."""
    _many_descriptors()
    descriptors = [os.open(root, os.O_RDONLY)]
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptors[-1])
        descriptors.append(os.open(name, os.O_RDONLY, dir_fd=descriptors[-1]))
    fd = os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptors[-1])
    os.write(fd, b"bottom")
    os.close(fd)
    os.utime("bottom", ns=(WHEN, WHEN), dir_fd=descriptors[-1])
    for fd in reversed(descriptors):
        if fd != descriptors[0]:
            os.utime(fd, ns=(WHEN, WHEN))
        os.close(fd)


def open_deep(root: Path, levels: int, name: bytes = LONG_NAME) -> int:
    """A descriptor of the deepest directory that `deep` made; the caller closes it."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        lower = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = lower
    return fd


def many_files(root: Path, directories: int, each: int, size: int = 100) -> None:
    """`directories` × `each` files of `size` bytes, every one with content of its own."""
    for d in range(directories):
        folder = root / f"d{d:05}"
        folder.mkdir(parents=True)
        here = os.open(folder, os.O_RDONLY)
        try:
            for f in range(each):
                fd = os.open(b"f%05d" % f, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here)
                try:
                    os.write(fd, (b"%d/%d " % (d, f)).ljust(size, b".")[:size])
                finally:
                    os.close(fd)
        finally:
            os.close(here)
