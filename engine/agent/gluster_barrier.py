"""Making entry operations durable on bricks of other nodes: one open file on each subvolume, written and synced (MRK-6).

A mount has no syncfs, and fsync of a directory does nothing on a brick. But a file system with a journal keeps it in
order: what was done before a file's change is durable when that change is. The files have no name: they are removed
as soon as they are open.
"""

from __future__ import annotations

import errno
import os
import re
import secrets

from engine.agent.gluster_pool import Pool
from engine.agent.state import CallError

PREFIX = b".georep-barrier-"
"""Names in the volume's root, for the moment between making and removing."""

_PLACE = "trusted.glusterfs.pathinfo"
_LOST = (errno.EBADF, errno.EBADFD, errno.ENOENT, errno.ESTALE)
_BRICK = re.compile(rb"<POSIX\(([^)]*)\):([^:>]*):")


class Barrier:
    """The open files of one agent. Used by one thread."""

    def __init__(self, root_fd: int, pool: Pool, subvolumes: int) -> None:
        self._root_fd = root_fd
        self._pool = pool
        self._subvolumes = subvolumes
        self._fds: list[int] = []
        self._count = 0

    def sync(self) -> None:
        """Return when all that was done through any mount before is durable on all bricks. OSError, CallError."""
        try:
            self._sync()
        except OSError as e:
            if e.errno not in _LOST:
                raise
            self.close()  # a brick was restarted, and a file without a name is not found again
            self._sync()

    def _sync(self) -> None:
        if not self._fds:
            self._open()
        self._count += 1
        mark = b"%d\n" % self._count

        def work(i: int) -> None:
            os.pwrite(self._fds[i], mark, 0)
            os.fsync(self._fds[i])

        self._pool.each(work, len(self._fds))

    def _open(self) -> None:
        root = os.fstat(self._root_fd)
        held: dict[bytes, tuple[int, bytes]] = {}
        try:
            for _ in range(40 * self._subvolumes):
                if len(held) == self._subvolumes:
                    break
                name = PREFIX + secrets.token_hex(8).encode()
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                             dir_fd=self._root_fd)  # fmt: skip
                try:
                    place = b" ".join(b":".join(m) for m in sorted(_BRICK.findall(os.getxattr(fd, _PLACE))))
                except OSError:
                    place = b""
                if place and place not in held:
                    held[place] = (fd, name)
                else:
                    os.close(fd)
                    os.unlink(name, dir_fd=self._root_fd)
        finally:
            for _, name in held.values():
                os.unlink(name, dir_fd=self._root_fd)
            os.utime(f"/proc/self/fd/{self._root_fd}", ns=(root.st_atime_ns, root.st_mtime_ns))
            self._fds = [fd for fd, _ in held.values()]
        if len(self._fds) < self._subvolumes:
            self.close()
            raise CallError(f"{len(held)} of {self._subvolumes} subvolumes take new files", "volume-incomplete",
                            "see: gluster volume status, gluster volume rebalance", errno.ENOTCONN)  # fmt: skip

    def close(self) -> None:
        """Let the files go."""
        fds, self._fds = self._fds, []
        for fd in fds:
            try:
                os.close(fd)
            except OSError as e:
                if e.errno not in _LOST:
                    raise  # the flush of a file that its brick has lost says so; the descriptor is closed


def clear_left(root_fd: int) -> None:
    """Remove what an agent left that was killed before it had removed its files' names."""
    for name in map(os.fsencode, os.listdir(root_fd)):
        if name.startswith(PREFIX):
            try:
                os.unlink(name, dir_fd=root_fd)
            except FileNotFoundError:
                pass  # its owner was faster
