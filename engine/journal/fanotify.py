"""Events through fanotify: one mark on the whole filesystem, with file handles and names (root, Linux 5.17)."""

from __future__ import annotations

import ctypes
import os
import struct

from engine.journal.dirty import DATA, ENTRY, META, Dirty, Fold
from engine.journal.reading import QueueSource
from engine.model import ROOT
from engine.volume.handles import gfid_of, name_to_handle

_libc = ctypes.CDLL(None, use_errno=True)
CLASS_NOTIF, CLOEXEC, NONBLOCK, UNLIMITED_QUEUE, UNLIMITED_MARKS = 0x0, 0x1, 0x2, 0x10, 0x20
REPORT_FID, REPORT_DIR_FID, REPORT_NAME, REPORT_TARGET_FID = 0x200, 0x400, 0x800, 0x1000
MODIFY, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, Q_OVERFLOW, RENAME, ONDIR = 0x400, 0x800, 0x4000, 0x10000000, 0x40000000
_MASK = MODIFY | ATTRIB | CREATE | DELETE | RENAME | ONDIR
_MARK_ADD, _MARK_FILESYSTEM = 0x1, 0x100
_META = struct.Struct("IBBHQii")
_INFO = struct.Struct("BBH")
_FID, _DFID_NAME, _DFID, _OLD, _NEW = 1, 2, 3, 10, 12
_ENTRIES = CREATE | DELETE | RENAME | MOVED_FROM | MOVED_TO


class FanotifyUnavailable(Exception):
    """This process may not use fanotify here, or the kernel can't; the reason in words."""


class Fanotify(QueueSource):
    """See Source. `unlimited` False keeps the kernel's own queue length (16,384), which overflows."""

    name = "fanotify"

    def __init__(self, root: bytes, brick_id: bytes, fold: Fold | None = None, *, unlimited: bool = True) -> None:
        flags = CLASS_NOTIF | CLOEXEC | NONBLOCK | UNLIMITED_MARKS
        flags |= REPORT_FID | REPORT_DIR_FID | REPORT_NAME | REPORT_TARGET_FID
        if unlimited:
            flags |= UNLIMITED_QUEUE
        fd = _libc.fanotify_init(flags, os.O_RDONLY | os.O_LARGEFILE)
        if fd < 0:
            raise FanotifyUnavailable(f"fanotify_init: {os.strerror(ctypes.get_errno())}")
        mark = _libc.fanotify_mark
        mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
        if mark(fd, _MARK_ADD | _MARK_FILESYSTEM, _MASK, -100, root) != 0:
            number = ctypes.get_errno()
            os.close(fd)
            raise FanotifyUnavailable(f"fanotify_mark: {os.strerror(number)}")
        super().__init__(fd, fold or Fold(), os.fsdecode(root))
        self._brick_id = brick_id
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._root = name_to_handle(top, b"")
        finally:
            os.close(top)
        self._known: dict[bytes, bytes] = {self._root: ROOT}

    def _gfid(self, handle: bytes, dirty: Dirty) -> bytes:
        gfid = self._known.get(handle)
        if gfid is None:
            gfid = gfid_of(self._brick_id, handle)
            if len(self._known) > 50_000:
                self._known = {self._root: ROOT}
            self._known[handle] = gfid
        dirty.handles[gfid] = handle
        return gfid

    def fold_events(self, events: memoryview, dirty: Dirty) -> None:
        """See QueueSource."""
        at, end = 0, len(events)
        slots, objects = dirty.slots, dirty.objects
        meta_size, unpack_meta, unpack_info = _META.size, _META.unpack_from, _INFO.unpack_from
        while at + meta_size <= end:
            length, _, _, meta_length, mask, _, _ = unpack_meta(events, at)
            if mask & Q_OVERFLOW:
                dirty.overflow = True
                at += length
                continue
            entry = mask & _ENTRIES
            flags = 0
            if mask & MODIFY:
                flags = DATA | META
            if mask & ATTRIB:
                flags |= META
            info, stop = at + meta_length, at + length
            while info < stop:
                kind, _, info_length = unpack_info(events, info)
                # header, 8 bytes of filesystem id, then the handle: bytes, type, the bytes themselves
                handle_size = int.from_bytes(events[info + 12 : info + 16], "little")
                name_at = info + 20 + handle_size
                handle = bytes(events[info + 16 : name_at])
                if kind == _FID:
                    gfid = self._gfid(handle, dirty)
                    change = flags | (META if entry else 0)
                    if flags:
                        objects[gfid] = objects.get(gfid, 0) | change
                elif entry and kind in (_DFID_NAME, _OLD, _NEW):
                    name = bytes(events[name_at : info + info_length]).partition(b"\0")[0]
                    if name != b".":
                        key = (self._gfid(handle, dirty), name)
                        slots[key] = slots.get(key, 0) | ENTRY
                info += info_length
            at += length
