"""Writes one index file of a journal, `htime/HTIME.<ts>`, as GlusterFS does; `engine.journal.history` reads them."""

from __future__ import annotations

import os

from engine.journal.format import JournalError
from engine.journal.history import COUNT_XATTR, INDEX_RECORD, place, read_from

CURRENT_XATTR = "trusted.glusterfs.current_htime"


class HtimeWriter:
    """Appends records to `htime/HTIME.<start>` of the journal at `root`, made when it is new.

    `counted` says whether the xattrs that GlusterFS keeps ("last suffix:count", the current index) are kept here
    too: they need the right to set `trusted.*` and a filesystem that has them. Nothing of ours reads them back.
    """

    def __init__(self, root: bytes, start: int) -> None:
        self.root = root
        self.start = start
        directory = os.path.join(root, b"htime")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.path = os.path.join(directory, b"HTIME.%010d" % start)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._recover()
            self.counted = self._set_xattrs(directory)
        except BaseException:
            os.close(self._fd)
            raise

    def _recover(self) -> None:
        """Learn the last suffix and the number of records; cut off what a crash left behind the last whole record."""
        data = read_from(self._fd, 0)
        self.size = data.rfind(b"\0") + 1
        self.last = -1
        self.last_idle = False
        while self.size:
            begin = data.rfind(b"\0", 0, self.size - 1) + 1
            match = INDEX_RECORD.fullmatch(data[begin : self.size - 1])
            if match is not None:
                self.last, self.last_idle = int(match[3]), match[2] == b"changelog"
                break
            self.size = begin
        if data.strip(b"\0") and not self.size and b"\0" in data:
            text = f"{os.fsdecode(self.path)} holds no record of an index"
            raise JournalError(text, path=self.path, hint="remove the file; a hybrid crawl closes the hole")
        if self.size != len(data):
            os.ftruncate(self._fd, self.size)
        self.count = data.count(b"\0", 0, self.size)

    def _set_xattrs(self, directory: bytes) -> bool:
        try:
            os.setxattr(directory, CURRENT_XATTR, os.path.basename(self.path))
            os.setxattr(self._fd, COUNT_XATTR, b"%d:%d" % (max(self.last, 0), self.count))
        except OSError:
            return False
        return True

    def append(self, suffix: int, idle: bool = False) -> None:
        """One record, not durable before `sync`. The suffix must be later than the last. Raises OSError, ValueError."""
        if suffix <= self.last:
            raise ValueError(f"suffix {suffix} is not later than {self.last}")
        self._put(suffix, idle)

    def repeat(self, suffix: int, idle: bool) -> None:
        """The last record of the previous file as the first of this one: it says that nothing is missing between."""
        if self.count == 0:
            self._put(suffix, idle)

    def _put(self, suffix: int, idle: bool) -> None:
        head, _, name = place(self.root, suffix).rpartition(b"/")
        record = head + b"/" + (name.lower() if idle else name) + b"\0"
        written = os.write(self._fd, record)
        if written != len(record):
            os.ftruncate(self._fd, self.size)
            raise JournalError(
                f"{os.fsdecode(self.path)}: only {written} bytes of a record were written", path=self.path
            )
        self.size += written
        self.last, self.last_idle = suffix, idle
        self.count += 1
        if self.counted:
            os.setxattr(self._fd, COUNT_XATTR, b"%d:%d" % (suffix, self.count))

    def sync(self) -> None:
        """Make all records durable."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
